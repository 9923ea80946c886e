"""sdcron's settings from what `snap set` was given: for the snap's configure hook.

Reads on standard input what `snapctl get -d log engine` prints, and writes it to the file that is named, as TOML. What
is a good value is for sdcron to say, which reads the file as it will when it is in place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sdcron.errors import SdcronError
from sdcron.settings import read_settings


def main() -> int:
    """Exit status 0, or 1 and one line on standard error."""
    path = Path(sys.argv[1])
    given = json.loads(sys.stdin.read() or "{}")
    path.write_text(as_toml(given), encoding="utf-8")
    try:
        read_settings(path)
    except SdcronError as error:
        # The administrator has written no file, and the keys of snapd have no underscores.
        hint = "" if error.hint.startswith("write ") else error.hint
        said = f"{error.message}; {hint}" if hint else error.message
        said = said.replace(f"{path}: ", "").replace("_size", "-size")
        sys.stderr.write(f"sdcron: {' '.join(said.split())}\n")
        return 1
    return 0


def as_toml(given: dict[str, object]) -> str:
    """A table for each part of the settings; a value that TOML writes otherwise becomes a text, which is refused."""
    lines = ["# Written by: snap set sdcron KEY=VALUE. The next writes it anew."]
    for table, keys in given.items():
        if not isinstance(keys, dict):
            lines.append(f"{table} = {_literal(str(keys))}")
            continue
        lines += ["", f"[{table}]"]
        for key, value in keys.items():
            plain = isinstance(value, str | int | float)
            name = _literal(key.replace("-", "_"))
            lines.append(f"{name} = {_literal(value if plain else json.dumps(value))}")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    """JSON is TOML but for two things: pairs of surrogates as escapes, and DEL as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


if __name__ == "__main__":
    sys.exit(main())
