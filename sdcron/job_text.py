"""The canonical text of a job, as the local engine keeps what was applied: JSON that is the same for the same job.

Two texts are compared line by line (`sdcron plan`), and a text's digest is on the record of every run. Pure: what is
read here was written here, and anything else is refused, since the file may have been damaged or edited.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sdcron.entries import ScheduleMistakes
from sdcron.job import (
    MAX_PARALLEL,
    Credential,
    Directive,
    Interpreter,
    Job,
    Limits,
    Missed,
    Otherwise,
    Output,
    Overlap,
    Parameter,
    ParameterKind,
    Passthrough,
    Priority,
    Retry,
    Sandbox,
    Source,
    When,
)
from sdcron.job_forms import (
    Form,
    as_is,
    choice,
    default_of,
    matching,
    one_or_several,
    read_exit,
    read_expression,
    read_length,
    read_map,
    read_number,
    read_optional_path,
    read_path,
    read_signal,
    read_text,
    read_truth,
    record,
    several,
    whole,
)
from sdcron.schedule import parse_schedule
from sdcron.span import span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.schedule import Schedule

FORMAT = 1
"""Version of the text; raised when a text of before means something else, such as by a new default."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What decides when a job runs. `schedule` holds the texts as written, none for a job without times."""

    enabled: bool
    schedule: tuple[str, ...]
    timezone: str | None
    spread: timedelta
    missed: Missed
    # What is due at the same times is the same, whatever becomes of it.
    overlap: Overlap = field(default=Overlap.SKIP, compare=False)
    max_parallel: int = field(default=MAX_PARALLEL, compare=False)


def text_of(job: Job, directory: str) -> str:
    """The text of a job whose file belongs to `directory`: only what differs from the defaults, in the file's order.

    The line the job starts on is not in it, as it is not in units: a comment above it changes nothing. Raises
    ValueError for a job that no job file can say, such as one with an infinite `backoff`.
    """
    plain = {key: form.write(value) for key, form in _KEYS.items() if (value := getattr(job, key)) != _DEFAULTS[key]}
    plain |= {"source": job.source.path, "source_directory": directory, "format": FORMAT}
    return _plain_lines(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def job_of(text: str, *, local_timezone: str, seed: str) -> Job:
    """The job that `text_of` wrote, its source on line 1; `local_timezone` and `seed` are those of parse_schedule.

    Raises ValueError for any other text, and for a schedule that this machine cannot read, such as one in a time zone
    that it does not know.
    """
    try:
        plain = _loaded(text)
        source, directory, _ = (plain.pop(key) for key in ("source", "source_directory", "format"))
        read = {key: _KEYS[key].read(value) for key, value in plain.items()}
        if "schedule" in read:
            read["schedule"] = parse_schedule(
                read["schedule"],
                timezone=read.get("timezone"),
                local_timezone=local_timezone,
                seed=seed,
                spread=read.get("spread", timedelta(0)),
            )
        job = Job(source=Source(read_path(source)), **read)
        written = text_of(job, read_path(directory))
    except (KeyError, TypeError, OverflowError, RecursionError, ScheduleMistakes, re.error) as error:
        message = f"not the text of a job: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    if written != text or bool(job.command) == (job.script is not None):
        message = "not the text of a job: it is not as sdcron writes it"
        raise ValueError(message)
    return job


def timing_of(text: str) -> Timing:
    """When the job of a text runs, without making all of the job: an engine starts with many. Raises ValueError."""
    try:
        plain = _loaded(text)
        read = [_KEYS[key].read(plain[key]) if key in plain else _DEFAULTS[key] for key in Timing.__slots__]
    except (TypeError, OverflowError, RecursionError) as error:
        message = f"not the text of a job: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    enabled, schedule, *rest = read
    return Timing(enabled, schedule or (), *rest)


def parameters_of(text: str) -> tuple[Parameter, ...]:
    """What may differ from run to run of the job of a text. Raises ValueError."""
    plain = _loaded(text)
    return _read_parameters(plain["parameters"]) if "parameters" in plain else ()


def digest_of(text: str) -> str:
    """The SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _loaded(text: str) -> dict[str, object]:
    plain = json.loads(text)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        message = f"not the text of a job in format {FORMAT}"
        raise ValueError(message)
    return plain


def _plain_lines(text: str) -> str:
    """JSON text whose lines are lines to everybody, and which no character can make look like another text."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        character if character == "\n" or character.isprintable() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    """As JSON escapes it: each of its one or two units of UTF-16 (RFC 8259, section 7)."""
    return re.sub("....", r"\\u\g<0>", character.encode("utf-16-be", "surrogatepass").hex())


def _write_script(script: str) -> list[str]:
    # One line a line, so that a difference shows the lines that differ.
    return script.split("\n")


def _read_script(value: object) -> str:
    return "\n".join(several(read_text).read(value))


def _read_environment(value: object) -> tuple[tuple[str, str], ...]:
    return tuple((_VARIABLE.read(name), read_text(text)) for name, text in read_map(value).items())


def _write_credentials(credentials: tuple[Credential, ...]) -> dict[str, object]:
    return {each.name: {"encrypted": each.path} if each.encrypted else each.path for each in credentials}


def _read_credentials(value: object) -> tuple[Credential, ...]:
    found = []
    for name, file in read_map(value).items():
        encrypted = isinstance(file, dict)
        path = read_map(file)["encrypted"] if encrypted else file
        found.append(Credential(_CREDENTIAL.read(name), read_path(path), encrypted))
    return tuple(found)


def _write_parameters(parameters: tuple[Parameter, ...]) -> dict[str, object]:
    plain = Parameter("")
    return {
        each.name: {
            key: form.write(value)
            for key, form in _PARAMETER.items()
            if (value := getattr(each, key)) != getattr(plain, key)
        }
        for each in parameters
    }


def _read_parameters(value: object) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(_VARIABLE.read(name), **{key: _PARAMETER[key].read(item) for key, item in read_map(inner).items()})
        for name, inner in read_map(value).items()
    )


def _write_interpreter(interpreter: Interpreter) -> object:
    return {"venv": interpreter.venv} if interpreter.venv is not None else interpreter.program


def _read_interpreter(value: object) -> Interpreter:
    return Interpreter(venv=read_path(value["venv"])) if isinstance(value, dict) else Interpreter(read_text(value))


def _write_directives(directives: tuple[Directive, ...]) -> list[str]:
    return [f"{each.key}={each.value}" for each in directives]


def _read_directive(value: object) -> Directive:
    key, _, rest = read_text(value).partition("=")
    return Directive(matching("[A-Za-z][A-Za-z0-9]*").read(key), rest)


def _write_schedule(schedule: Schedule) -> object:
    return _SCHEDULES.write(schedule.texts)


_VARIABLE = matching("[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = matching("[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_TEXT = Form(as_is, read_text)
_PATH = Form(as_is, read_path)
_LENGTH = Form(span, read_length)
_TRUTH = Form(as_is, read_truth)
_PATHS, _SCHEDULES = one_or_several(read_path), one_or_several(read_text)
_BACKOFF: Form[float] = Form(lambda value: int(value) if float(value).is_integer() else value, read_number)
_DIRECTIVES: Form[tuple[Directive, ...]] = Form(_write_directives, several(_read_directive).read)

_RETRY: Mapping[str, Form[Any]] = {
    "delay": _LENGTH,
    "attempts": whole(1, 20),
    "backoff": _BACKOFF,
    "max_delay": _LENGTH,
    "on_exit": one_or_several(whole(1, 255).read),
}
_WHEN: Mapping[str, Form[Any]] = {
    "network": _TRUTH,
    "units": one_or_several(read_text),
    "mounts": _PATHS,
    "path_exists": _PATHS,
    "path_missing": _PATHS,
    "ac_power": _TRUTH,
    "command": several(read_text),
    "otherwise": choice(Otherwise),
    "wake": _TRUTH,
}
_PRIORITY: Mapping[str, Form[Any]] = {
    "nice": whole(-20, 19),
    "io": matching("idle|(best-effort|realtime)(:[0-7])?"),
    "cpu_weight": whole(1, 10_000),
}
_PARAMETER: Mapping[str, Form[Any]] = {"default": _TEXT, "kind": choice(ParameterKind), "description": _TEXT}
_COUNT = whole(1, 1 << 62)
_LIMITS: Mapping[str, Form[Any]] = {"memory": _COUNT, "cpu": _COUNT, "tasks": _COUNT, "open_files": _COUNT}

_KEYS: Mapping[str, Form[Any]] = {
    "name": matching("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"),
    "description": _TEXT,
    "schedule": Form(_write_schedule, _SCHEDULES.read),  # read as texts, which job_of parses
    "timezone": _TEXT,
    "command": several(read_text),
    "script": Form(_write_script, _read_script),
    "user": _TEXT,
    "group": _TEXT,
    "directory": _PATH,
    "umask": matching("0?[0-7]{3}"),
    "environment": Form(dict, _read_environment),
    "environment_file": one_or_several(read_optional_path),
    "credentials": Form(_write_credentials, _read_credentials),
    "interpreter": Form(_write_interpreter, _read_interpreter),
    "timeout": _LENGTH,
    "stop_timeout": _LENGTH,
    "kill_signal": Form(as_is, read_signal),
    "missed": choice(Missed),
    "overlap": choice(Overlap),
    "max_parallel": whole(1, 64),
    "retry": record(Retry, _RETRY),
    "lock": one_or_several(matching("[A-Za-z0-9_{][A-Za-z0-9_.{}-]*").read),
    "lock_wait": _LENGTH,
    "after": one_or_several(read_text),
    "needs": one_or_several(read_text),
    "when": record(When, _WHEN),
    "spread": _LENGTH,
    "accuracy": _LENGTH,
    "success_exit": one_or_several(read_exit),
    "priority": record(Priority, _PRIORITY),
    "limits": record(Limits, _LIMITS),
    "sandbox": choice(Sandbox),
    "output": record(Output, {"keep": _COUNT, "redact": one_or_several(read_expression)}),
    "hosts": one_or_several(read_text),
    "parameters": Form(_write_parameters, _read_parameters),
    "enabled": _TRUTH,
    "resumable": _TRUTH,
    "systemd": record(Passthrough, dict.fromkeys(("unit", "service", "timer"), _DIRECTIVES)),
    "unsupported": several(read_text),
}
"""Every field of a job but its source, in the order of the job file's keys."""

_DEFAULTS: Mapping[str, Any] = {field.name: default_of(field) for field in fields(Job)}
