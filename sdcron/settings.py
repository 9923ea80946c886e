"""What an administrator may set for sdcron itself, in sdcron.toml: how long records are kept, and in which pieces.

Lengths of time and sizes are written, and checked, as in job files. Nothing slow is loaded where there is no such file.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sdcron.errors import SdcronError
from sdcron.job_values import RefusedValueError, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHORTEST_TIME = timedelta(minutes=1)
MOST_RUNS = 10_000
SMALLEST_SIZE = 1 << 16  # bytes: what one record with a long output may need


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one scope, each with its default."""

    rotate: timedelta = timedelta(hours=24)
    """How old a status log gets before a new one is begun."""
    keep: timedelta = timedelta(days=30)
    """How long rotated status logs, and records in the database, are kept."""
    max_size: int = 64 << 20
    """Bytes; a status log that has grown beyond it is rotated early."""
    total_size: int = 1 << 30
    """Bytes; the oldest rotated status logs go while all together are larger."""
    concurrency: int = 256
    """How many runs of the local engine may be on at the same time."""
    job_output: int = 8 << 20
    """Bytes of each job's output that the local engine keeps for `logs`."""


_READERS: dict[str, tuple[str, Callable[[Any], int | timedelta]]] = {
    "log.rotate": ("duration", parse_duration),
    "log.keep": ("duration", parse_duration),
    "log.max_size": ("size", parse_size),
    "log.total_size": ("size", parse_size),
    "engine.output": ("size", parse_size),
}
"""The keys: their definition in the schema of job files, and what reads it."""
_CONCURRENCY = "engine.concurrency"
_TABLES = ("log", "engine")
_FIELDS: dict[str, str] = {"engine.output": "job_output"}
"""Keys whose field in Settings has another name."""


def read_settings(path: Path) -> Settings:
    """The settings in a file, the defaults where there is none. Raises SdcronError for the first mistake in it."""
    data = _load(path)
    found: dict[str, Any] = {}
    for table, content in data.items():
        if table not in _TABLES:
            raise _unknown(path, table, _TABLES, "table" if isinstance(content, dict) else "key")
        if not isinstance(content, dict):
            hint = f"write [{table}] on a line of its own, and its keys below it"
            raise SdcronError(f"{path}: '{table}' must be a table", hint)
        for key, value in content.items():
            name = f"{table}.{key}"
            found[str(_FIELDS.get(name, key))] = _value(path, name, value)
    if "max_size" not in found and "total_size" in found:
        found["max_size"] = min(Settings().max_size, found["total_size"])
    settings = Settings(**found)
    if settings.max_size > settings.total_size:
        message = f"{path}: 'log.max_size' is more than 'log.total_size', the size of all status logs together"
        raise SdcronError(message, "lower max_size, or raise total_size")
    return settings


def _load(path: Path) -> dict[str, Any]:
    """The file as plain data, empty where there is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait for its other end
            raise SdcronError(f"{path} is not a file", "remove it: without the file, defaults hold")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SdcronError(
            f"{path} cannot be read: {error.strerror}", "it must be readable for the collector"
        ) from error
    except UnicodeDecodeError as error:
        raise SdcronError(f"{path} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SdcronError(f"{path} is not TOML: {reason}", 'a setting is written as: keep = "30d"') from error


def _value(path: Path, key: str, value: Any) -> Any:  # noqa: ANN401 - as in TOML, and as the key asks
    """What one key says. Raises SdcronError."""
    if key == _CONCURRENCY:
        if type(value) is not int or not 1 <= value <= MOST_RUNS:
            raise SdcronError(f"{path}: '{key}' must be a number from 1 to {MOST_RUNS}", "write concurrency = 256")
        return value
    if key not in _READERS:
        table = key.partition(".")[0]
        known = tuple(name for name in (*_READERS, _CONCURRENCY) if name.startswith(f"{table}."))
        raise _unknown(path, key, known, "key")
    kind, read = _READERS[key]
    _refuse_form(path, key, value, kind)
    try:
        meaning = read(value)
    except RefusedValueError as error:
        raise SdcronError(f"{path}: '{key}' {error.message}", error.hint) from error
    last = key.rpartition(".")[2]
    if isinstance(meaning, timedelta) and meaning < SHORTEST_TIME:
        raise SdcronError(f"{path}: '{key}' must be at least 1 minute", f'write for example {last} = "24h"')
    if isinstance(meaning, int) and meaning < SMALLEST_SIZE:
        raise SdcronError(f"{path}: '{key}' must be at least 64KiB", f'write for example {last} = "64MiB"')
    return meaning


def _refuse_form(path: Path, key: str, value: object, kind: str) -> None:
    """Raise SdcronError for a value that has not the form that the schema of job files defines as `kind`."""
    import json
    from importlib import resources

    from sdcron.schema_check import compile_check

    # Not by job_schema, which loads the YAML reader.
    schema = json.loads(resources.files("sdcron").joinpath("schema", "job.schema.json").read_text("utf-8"))
    definitions = schema["$defs"]
    if compile_check({"$ref": f"#/$defs/{kind}", "$defs": definitions})(value):
        return
    example = "24h" if kind == "duration" else "64MiB"
    raise SdcronError(
        f"{path}: '{key}' must be {definitions[kind]['title']}",
        f'write for example {key.rpartition(".")[2]} = "{example}"',
    )


def _unknown(path: Path, name: str, known: tuple[str, ...], what: str) -> SdcronError:
    """The error for a table or key that does not exist, with the nearest that does."""
    from difflib import get_close_matches

    near = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "known are " + ", ".join(f"'{one}'" for one in known)
    return SdcronError(f"{path}: unknown {what} {name!a}", hint)
