"""The keys of one job: valid data -> a Job, and what no schema can say is a finding.

One reader a key, found in a table. A key the schema refused is left out, so that every mistake is said once and all
are said together. Pure: the file system and the clock are not consulted.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sdcron.entries import ScheduleMistakes
from sdcron.job import (
    Credential,
    Directive,
    Interpreter,
    Job,
    Limits,
    Missed,
    Otherwise,
    Output,
    Overlap,
    Passthrough,
    Priority,
    Retry,
    Sandbox,
    Source,
    When,
)
from sdcron.job_draft import Draft, is_refused, sound_values
from sdcron.job_locks import read_locks
from sdcron.job_parameters import read_parameters
from sdcron.job_schema import label
from sdcron.job_together import check_together
from sdcron.job_values import (
    check_argument,
    check_expression,
    check_optional_path,
    check_path,
    check_plain_path,
    check_script,
    check_secret_path,
    check_text,
    parse_duration,
    parse_size,
    parse_spread,
    split_command,
    split_condition,
)
from sdcron.passthrough import ADDITIVE, refusal
from sdcron.python_command import is_function, mistake_in
from sdcron.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdcron.schedule import Schedule
    from sdcron.yaml_nodes import Data, Path

UNSUPPORTED = frozenset({"notify", "ping"})
"""Keys that validate and that this version cannot carry out."""

_FIELDS = frozenset(field.name for field in dataclasses.fields(Job))
_LARGEST_ID = 4294967294
_RESERVED_IDS = frozenset({65535, 4294967295})  # "no such id" of setresuid(2), in 16 and in 32 bits
T = TypeVar("T")


def read_job(draft: Draft, source: Source, *, seed: str, local_timezone: str) -> Job | None:
    """The Job of a draft; None when anything is wrong, with everything that is in `draft.findings`.

    `seed` chooses the job's spots in the schedule. A draft with values the schema refused gives no Job.
    """
    sound = sound_values(draft)
    fields = _read_keys(draft, sound)
    fields["schedule"] = _schedule(draft, sound, fields.get("spread", timedelta(0)), seed, local_timezone)
    check_together(draft, sound, fields)
    if draft.findings or is_refused(draft):
        return None
    unsupported = tuple(key for key in sound if key in UNSUPPORTED)
    return Job(name=draft.name, source=source, unsupported=unsupported, **fields)


def read_defaults(draft: Draft, *, local_timezone: str) -> None:
    """Find what is wrong in `defaults`, also when no job inherits it; the findings are in the draft."""
    sound = sound_values(draft)
    _read_keys(draft, sound)
    _schedule(draft, sound, timedelta(0), "", local_timezone)


def _read_keys(draft: Draft, sound: Mapping[str, Data]) -> dict[str, Data]:
    """The fields of a Job, from all keys but `schedule`."""
    fields = {}
    for key, value in sound.items():
        reader = _READERS.get(key)
        if reader is not None:
            result = reader(draft, (key,), value)
            if key in _FIELDS and result is not None:
                fields[key] = result
    return fields


def _schedule(
    draft: Draft, sound: Mapping[str, Data], spread: timedelta, seed: str, local_timezone: str
) -> Schedule | None:
    """The schedule in its time zone; a zone without a schedule is checked too."""
    written = sound.get("schedule")
    timezone = sound.get("timezone")
    if written is None and timezone is None:
        return None
    items = [(index, text) for index, text in enumerate(_listed(written)) if text is not None]
    texts = tuple(text for _, text in items) or ("@daily",)
    try:
        schedule = parse_schedule(texts, timezone=timezone, local_timezone=local_timezone, seed=seed, spread=spread)
    except ScheduleMistakes as error:
        for mistake in error.mistakes:
            if mistake.index >= 0:
                path: Path = ("schedule",) if isinstance(written, str) else ("schedule", items[mistake.index][0])
                draft.refuse(path, mistake.message, mistake.hint, offset=mistake.column)
            else:
                draft.refuse(("timezone",) if timezone is not None else (), mistake.message, mistake.hint)
        return None
    return None if written is None else schedule


def _listed(value: Data) -> list[Data]:
    """One or a list, as a list."""
    return value if isinstance(value, list) else [value]


def _item_paths(path: Path, value: object) -> list[Path]:
    return [(*path, index) for index in range(len(value))] if isinstance(value, list) else [path]


def _each(draft: Draft, path: Path, value: Data, parse: Callable[[Data], T]) -> tuple[T, ...]:
    """What `parse` makes of one value or of every item of a list."""
    places = _item_paths(path, value)
    wanted = [(place, item) for place, item in zip(places, _listed(value), strict=True) if item is not None]
    results = [draft.read(place, parse, item) for place, item in wanted]
    return tuple(result for result in results if result is not None)


def _text(_draft: Draft, _path: Path, value: str) -> str:
    return value


def _description(_draft: Draft, _path: Path, value: str) -> str:
    return " ".join(value.split())


def _command(draft: Draft, path: Path, value: Data) -> tuple[str, ...] | None:
    if isinstance(value, list):
        words: tuple[str, ...] | None = tuple(draft.written((*path, index), item) for index, item in enumerate(value))
        for index, word in enumerate(words or ()):
            draft.read((*path, index), check_argument, word)
    else:
        words = draft.read(path, split_command if path == ("command",) else split_condition, value)
        if words is not None and any(
            draft.read(path, check, word) is None for word in words for check in (check_text, check_argument)
        ):
            return None
    if words is not None and not (words and words[0]):
        draft.refuse(path, f"{label(path)} names no program", "for example: command: /usr/local/bin/backup --all")
        return None
    mistake = mistake_in(words) if words is not None and path == ("command",) and is_function(words) else None
    if mistake is not None:
        draft.refuse(path, f"{label(path)} {mistake[0]}", mistake[1])
        return None
    return words


def _account(draft: Draft, path: Path, value: Data) -> str | None:
    name = str(int(value)) if not isinstance(value, str) else value
    if name.isdigit() and (int(name) > _LARGEST_ID or int(name) in _RESERVED_IDS):
        draft.refuse(path, f"{label(path)} {name} is an id the system reserves", "use the name, or another id")
        return None
    return name


def _duration(draft: Draft, path: Path, value: Data) -> timedelta | None:
    return None if value is None else draft.read(path, parse_duration, value)


def _path(draft: Draft, path: Path, value: str | None) -> str | None:
    return None if value is None else draft.read(path, check_path, value)


def _environment(draft: Draft, path: Path, value: dict[str, Data]) -> tuple[tuple[str, str], ...]:
    written = tuple((name, draft.written((*path, name), inner)) for name, inner in value.items())
    for name, text in written:
        draft.read((*path, name), check_argument, f"{name}={text}")
    return written


def _environment_file(draft: Draft, path: Path, value: Data) -> tuple[str, ...]:
    return _each(draft, path, value, check_optional_path)


def _credentials(draft: Draft, path: Path, value: dict[str, Data]) -> tuple[Credential, ...]:
    found = []
    for name, inner in value.items():
        encrypted = isinstance(inner, dict)
        place = (*path, name, "encrypted") if encrypted else (*path, name)
        path_value = inner.get("encrypted") if isinstance(inner, dict) else inner
        file = None if path_value is None else draft.read(place, check_secret_path, path_value)
        found += [Credential(name, file, encrypted)] if file is not None else []
    return tuple(found)


def _interpreter(draft: Draft, path: Path, value: Data) -> Interpreter | None:
    if isinstance(value, dict):
        venv = _path(draft, (*path, "venv"), value.get("venv"))
        return Interpreter(venv=venv) if venv is not None else None
    if not value.startswith("/") and len(value.split()) != 1:
        draft.refuse(path, "'interpreter' is one program, without arguments", "put the arguments into 'command'")
        return None
    return Interpreter(program=value)


def _retry(draft: Draft, path: Path, value: Data) -> Retry | None:
    if not isinstance(value, dict):
        delay = _duration(draft, path, value)
        return Retry(delay) if delay is not None else None
    delay = _duration(draft, (*path, "delay"), value.get("delay"))
    longest = _duration(draft, (*path, "max_delay"), value.get("max_delay"))
    if delay is None:
        return None
    if longest is not None and longest < delay:
        draft.refuse(
            (*path, "max_delay"), "'retry.max_delay' is shorter than 'retry.delay'", "make it at least as long"
        )
    codes = tuple(dict.fromkeys(int(code) for code in _listed(value.get("on_exit", [])) if code is not None))
    return Retry(delay, int(value.get("attempts", 3)), float(value.get("backoff", 1)), longest, codes)


def _success_exit(_draft: Draft, _path: Path, value: Data) -> tuple[int | str, ...]:
    codes = (code if isinstance(code, str) else int(code) for code in _listed(value) if code is not None)
    return tuple(dict.fromkeys(codes))


def _when(draft: Draft, path: Path, value: dict[str, Data]) -> When:
    def paths(key: str, check: Callable[[str], str]) -> tuple[str, ...]:
        return _each(draft, (*path, key), value.get(key, []), check)

    return When(
        network=value.get("network", False),
        units=tuple(_listed(value.get("units", []))),
        mounts=paths("mounts", check_plain_path),
        path_exists=paths("path_exists", check_plain_path),
        path_missing=paths("path_missing", check_plain_path),
        ac_power=value.get("ac_power", False),
        command=(_command(draft, (*path, "command"), value["command"]) or ()) if "command" in value else (),
        otherwise=Otherwise(value.get("else", "skip")),
        wake=value.get("wake", False),
    )


def _priority(_draft: Draft, _path: Path, value: dict[str, Data]) -> Priority:
    return Priority(nice=_whole(value.get("nice")), io=value.get("io"), cpu_weight=_whole(value.get("cpu_weight")))


def _limits(draft: Draft, path: Path, value: dict[str, Data]) -> Limits:
    cpu = value.get("cpu")
    return Limits(
        memory=draft.read((*path, "memory"), parse_size, value["memory"]) if "memory" in value else None,
        cpu=int(cpu.rstrip("%")) if cpu is not None else None,
        tasks=_whole(value.get("tasks")),
        open_files=_whole(value.get("open_files")),
    )


def _whole(value: Data) -> int | None:
    """By JSON Schema 4.0 is an integer too."""
    return None if value is None else int(value)


def _output(draft: Draft, path: Path, value: dict[str, Data]) -> Output:
    keep = draft.read((*path, "keep"), parse_size, value["keep"]) if "keep" in value else None
    redact = _each(draft, (*path, "redact"), value.get("redact", []), check_expression)
    return Output(keep or Output().keep, tuple(dict.fromkeys(redact)))


def _systemd(draft: Draft, path: Path, value: dict[str, Data]) -> Passthrough:
    return Passthrough(**{section: _directives(draft, (*path, section), value[section]) for section in value})


def _directives(draft: Draft, path: Path, value: dict[str, Data]) -> tuple[Directive, ...]:
    found = []
    for name, inner in value.items():
        place = (*path, name)
        owned = refusal(str(path[-1]), name)
        if owned:
            draft.refuse(place, f"{label(place)} {owned[0]}", owned[1], at_key=True)
            continue
        for item_place, item in zip(_item_paths(place, inner), _listed(inner), strict=True):
            text = draft.written(item_place, item)
            if not text and name in ADDITIVE:
                draft.refuse(item_place, f"an empty '{name}' would take away what sdcron writes there", "remove it")
            elif text != text.strip() or text.endswith("\\"):
                draft.refuse(
                    item_place,
                    f"{label(item_place)} ends with a blank or a backslash, which a unit file cannot express",
                    "remove it",
                )
            found.append(Directive(name, text, *draft.locate(item_place)))
    return tuple(found)


_READERS: dict[str, Callable[[Draft, Path, Data], Data]] = {
    "accuracy": _duration,
    "after": lambda _draft, _path, value: tuple(dict.fromkeys(_listed(value))),
    "command": _command,
    "credentials": _credentials,
    "description": _description,
    "directory": _path,
    "enabled": lambda _draft, _path, value: value,
    "environment": _environment,
    "environment_file": _environment_file,
    "group": _account,
    "hosts": lambda _draft, _path, value: tuple(dict.fromkeys(_listed(value))),
    "interpreter": _interpreter,
    "kill_signal": _text,
    "limits": _limits,
    "lock": read_locks,
    "lock_wait": _duration,
    "max_parallel": lambda _draft, _path, value: int(value),
    "missed": lambda _draft, _path, value: Missed(value),
    "needs": lambda _draft, _path, value: tuple(dict.fromkeys(_listed(value))),
    "output": _output,
    "overlap": lambda _draft, _path, value: Overlap(value),
    "parameters": read_parameters,
    "priority": _priority,
    "resumable": lambda _draft, _path, value: value,
    "retry": _retry,
    "sandbox": lambda _draft, _path, value: Sandbox(value),
    "script": lambda draft, path, value: draft.read(path, check_script, value),
    "spread": lambda draft, path, value: draft.read(path, parse_spread, value),
    "stop_timeout": _duration,
    "success_exit": _success_exit,
    "systemd": _systemd,
    "timeout": _duration,
    "timezone": _text,
    "umask": _text,
    "user": _account,
    "when": _when,
}
