"""The engine as a process of its own: what `sdcron engine` becomes, without the libraries of the command line.

They would be a fifth of the memory of a process that runs for ever.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sdcron.collect_service import MALLOC
from sdcron.errors import ExitCode, SdcronError, words_for_bug

if TYPE_CHECKING:
    from collections.abc import Sequence


def become(paths: Sequence[Path], folders: Path | None, root: Path | None, *, user: bool) -> NoReturn:
    """Replace this process by the engine of a scope."""
    arguments = ["--user"] * user
    for option, value in (("--root", root), ("--folders", folders)):
        arguments += [option, str(value)] if value is not None else []
    found_alike = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *found_alike, "-m", __name__, *arguments, "--", *map(str, paths)]
    os.execve(sys.executable, command, {**MALLOC, **os.environ})  # noqa: S606 - our own interpreter, without a shell


def main(arguments: Sequence[str]) -> int:
    """Run jobs until told to end; returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--user", action="store_true")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--folders", type=Path)
    parser.add_argument("paths", nargs="*", type=Path)
    chosen = parser.parse_args(arguments)
    for name in MALLOC:
        # For this process, and not for its jobs.
        os.environ.pop(name, None)
    from sdcron.engine_service import serve, tell
    from sdcron.place import make_place

    try:
        place = make_place(user=chosen.user, root=chosen.root, backend="local")
        serve(place, chosen.paths, chosen.folders, tell)
    except SdcronError as error:
        tell(f"{error.message}\n  hint: {error.hint}" if error.hint else error.message)
        return error.exit_code
    except Exception as failure:  # noqa: BLE001 - as in the command line: anything unforeseen becomes one line
        tell(words_for_bug(failure).removeprefix("sdcron: ").rstrip())
        return ExitCode.BUG
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
