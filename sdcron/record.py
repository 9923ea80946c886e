"""What the last apply saw and left, by the look of the files: so that the next one reads only what has changed.

A file is the same if its inode, size, modification and change time are (the change time cannot be set by a program, as
git's index relies on too). The record is a shortcut and never the truth: without it, or with one that does not fit the
machine, everything is read again.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcron.paths import wants_dir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdcron.backends import UnitState
    from sdcron.files import Files
    from sdcron.jobset import JobPaths
    from sdcron.paths import Paths
    from sdcron.pauses import Pauses
    from sdcron.units import CompiledJob

Look = list[int]
"""Inode, size, modification and change time in ns: JSON's form of a file's look."""

_SCRIPT = "script"
"""Stands for the job's script among the names of its units, which all have a dot."""

_SETTLED_NANOSECONDS = 100_000_000
"""A source written less than this before it was read may change again unseen within one tick of the file system."""


@dataclass(slots=True)
class Source:
    """One job file: its look when it was read, and the jobs in it."""

    look: Look
    jobs: list[str]


@dataclass(slots=True)
class Applied:
    """One job: the looks of its files by unit name (or `script`), and its timers: those wanted, those that must run."""

    source: str
    files: dict[str, Look]
    enable: list[str]
    start: list[str]
    paused: bool
    generated: bool


@dataclass(slots=True)
class Record:
    """All of one scope. `key` names all else that what is compiled depends on: version, zone, machine."""

    key: str
    text: str = ""
    """The file as it was read."""
    sources: dict[str, Source] = field(default_factory=dict)
    jobs: dict[str, Applied] = field(default_factory=dict)


def record_key(paths: Paths, *parts: str) -> str:
    """The key of this scope: `parts` and the time zone data of the machine."""
    zones = paths.root / "usr/share/zoneinfo/tzdata.zi"
    return "|".join((paths.scope, *parts, str(look(zones))))


def look(path: Path | str) -> Look | None:
    """How a file looks, following links; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: not a name of a file, in a damaged record
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def load(paths: Paths, key: str) -> Record:
    """The record of the last apply, empty if there is none that fits, or anything about it is odd."""
    try:
        text = _path(paths).read_text(encoding="utf-8")
        data = json.loads(text)
        if data["key"] != key or not _is_whole(data):
            return Record(key)
        return Record(
            key,
            text,
            {path: Source(*entry) for path, entry in data["sources"].items()},
            {name: Applied(*entry) for name, entry in data["jobs"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Record(key)


def _is_whole(data: dict[str, Any]) -> bool:
    """Whether all members are of the types that `save` writes. Raises ValueError, KeyError or AttributeError if not.

    But for the looks, which are only compared.
    """
    sources = all(_are_names(jobs) for _look, jobs in data["sources"].values())
    return sources and all(
        isinstance(source, str)
        and isinstance(files, dict)
        and _are_names(enable)
        and _are_names(start)
        and isinstance(paused, bool)
        and isinstance(generated, bool)
        for source, files, enable, start, paused, generated in data["jobs"].values()
    )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def unchanged(
    paths: Paths, record: Record, files: JobPaths, loaded: Mapping[str, UnitState] | None, pauses: Pauses
) -> dict[str, tuple[str, ...]]:
    """Of these job files, those that are as they were applied, and whose units are too: path -> names of their jobs."""
    same = {}
    enabled = [wants_dir(unit_dir) for unit_dir in paths.unit_dirs]
    links = frozenset(name for directory in enabled if directory.is_dir() for name in os.listdir(directory))
    for path in files.chosen:
        source = record.sources.get(path)
        if source is None or look(path) != source.look:
            continue
        jobs = [(name, record.jobs.get(name)) for name in source.jobs]
        if all(
            job is not None
            and job.generated == files.generated
            and job.paused == (pauses.of(name) is not None)
            and _as_applied(paths, name, job, path, links, loaded)
            for name, job in jobs
        ):
            same[path] = tuple(source.jobs)
    return same


def save(
    paths: Paths, files: Files, record: Record, looks: Mapping[str, Look | None], compiled: Sequence[CompiledJob]
) -> None:
    """Write down what is applied now. `looks` are the looks of the job files taken before they were read.

    Nothing is written if nothing differs.
    """
    now = time.time_ns()
    by_source: dict[str, list[CompiledJob]] = {}
    for job in compiled:
        by_source.setdefault(job.source, []).append(job)
    for path, seen in looks.items():
        jobs = by_source.get(path, [])
        record.sources.pop(path, None)
        for job in jobs:
            record.jobs[job.name] = _applied(paths, job)
        if seen is not None and now - seen[3] > _SETTLED_NANOSECONDS:
            record.sources[path] = Source(seen, [job.name for job in jobs])
    record.sources = {path: source for path, source in record.sources.items() if os.path.exists(path)}
    kept = {name for source in record.sources.values() for name in source.jobs}
    record.jobs = {name: job for name, job in record.jobs.items() if name in kept}
    after = _as_json(record)
    if after != record.text:
        # What is applied is applied; without the record the next apply is only slower.
        with suppress(OSError):
            files.write(_path(paths), after, 0o600)


def forget(paths: Paths) -> None:
    """Have the next apply read every file."""
    with suppress(OSError):
        _path(paths).unlink(missing_ok=True)


def _path(paths: Paths) -> Path:
    return paths.state_dir / "applied.json"


def _as_json(record: Record) -> str:
    sources = {path: [entry.look, entry.jobs] for path, entry in record.sources.items()}
    jobs = {
        name: [entry.source, entry.files, entry.enable, entry.start, entry.paused, entry.generated]
        for name, entry in record.jobs.items()
    }
    return json.dumps({"key": record.key, "sources": sources, "jobs": jobs})


def _applied(paths: Paths, job: CompiledJob) -> Applied:
    names = [unit.name for unit in job.units] + ([_SCRIPT] if job.script is not None else [])
    unit_dir = paths.unit_dir_of(job.generated)
    looks = {name: look(_file(paths, unit_dir, job.name, name)) or [] for name in names}
    return Applied(job.source, looks, list(job.enable), list(job.start), job.paused, job.generated)


def _file(paths: Paths, unit_dir: Path, job: str, name: str) -> str:
    return f"{paths.script_dir}/{job}" if name == _SCRIPT else f"{unit_dir}/{name}"


def _as_applied(
    paths: Paths, name: str, job: Applied, source: str, links: frozenset[str], loaded: Mapping[str, UnitState] | None
) -> bool:
    unit_dir = paths.unit_dir_of(job.generated)
    return (
        job.source == source
        and all(look(_file(paths, unit_dir, name, file)) == seen for file, seen in job.files.items())
        and all((file in links) == (file in job.enable) for file in job.files)
        and (loaded is None or all(_runs(loaded.get(timer)) for timer in job.start))
        and (loaded is None or not job.paused or loaded.keys().isdisjoint(job.files))
    )


def _runs(state: UnitState | None) -> bool:
    return state is not None and state.active == "active"
