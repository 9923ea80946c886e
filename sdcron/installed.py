"""What is installed: the units that carry [X-Sdcron], grouped into jobs again.

Reads the unit directory and nothing else; a unit without that section belongs to somebody else and is never ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.paths import Scope
from sdcron.span import parse_span
from sdcron.units import PREFIX, CompiledJob, service_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from sdcron.paths import Paths

_SECTION = "\n[X-Sdcron]\n"


@dataclass(frozen=True, slots=True)
class InstalledJob:
    """One job as its unit files have it.

    `units` maps file names to texts, `enabled` are the names that timers.target.wants links to, `script` is the text
    kept for a `script:` job.
    """

    name: str
    directory: str
    source: str
    units: Mapping[str, str]
    enabled: frozenset[str] = frozenset()
    script: str | None = None
    active: bool = True
    schedule: tuple[str, ...] = ()
    timezone: str | None = None
    spread: timedelta = timedelta(0)

    def same_files(self, compiled: CompiledJob) -> bool:
        """True when every file and link is exactly what `compiled` would install."""
        return (
            self.script == compiled.script
            and self.enabled == frozenset(compiled.enable)
            and self.units == {unit.name: unit.text for unit in compiled.units}
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """All jobs in one unit directory, and the `sdcron-` names, there or elsewhere, that are somebody else's."""

    jobs: Mapping[str, InstalledJob] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def read_installed(paths: Paths, skip: Collection[str] = ()) -> Installed:
    """Read the unit directory of one scope but for the files in `skip`; an absent directory holds no jobs.

    Other directories that the manager reads are looked through for names only.
    """
    texts: dict[str, dict[str, str]] = {}
    sections: dict[str, dict[str, list[str]]] = {}
    foreign = {name for directory in _other_directories(paths) for name in _names(directory)}
    for name in _names(paths.unit_dir, skip):
        text = _read(paths.unit_dir / name)
        section = _ownership(text) if text is not None else {}
        job = section.get("Job", [""])[0]
        if text is None or not job or not _belongs(name, job):
            foreign.add(name)
            continue
        texts.setdefault(job, {})[name] = text
        known = sections.setdefault(job, {})
        # The service says whose it is; the schedule as it was written stands in a timer.
        for key, values in section.items():
            if key not in known or name == service_name(job):
                known[key] = values
    links = set(_names(paths.wants_dir))
    scripts = set(os.listdir(paths.script_dir)) if paths.script_dir.is_dir() else set()
    jobs = {}
    for job, units in texts.items():
        section = sections[job]
        jobs[job] = InstalledJob(
            name=job,
            directory=_unescape(section.get("Directory", [""])[0]),
            source=_unescape(section.get("Source", [""])[0]),
            units=units,
            enabled=frozenset(name for name in units if name in links),
            script=_read(paths.script_dir / job) if job in scripts else None,
            active=section.get("Enabled", ["yes"])[0] == "yes",
            schedule=tuple(_unescape(text) for text in section.get("Schedule", [])),
            timezone=section.get("Timezone", [None])[0],
            spread=_spread(section.get("Spread", ["0s"])[0]),
        )
    return Installed(jobs, frozenset(foreign))


def _other_directories(paths: Paths) -> list[Path]:
    """Where else the manager finds units: systemd.unit(5), "Unit File Load Path"."""
    runtime, root = paths.runtime_dir.parent, paths.root
    if paths.scope is Scope.USER:
        own = [runtime / "systemd/user", paths.stamp_dir.parent / "user"]
    else:
        own = [root / "etc/systemd/system.control", runtime / "systemd/system.control"]
    shared = [root / parent / f"systemd/{paths.scope}" for parent in ("etc", "run", "usr/local/lib", "usr/lib", "lib")]
    # A transient job's units are among those of everybody's transient units.
    transient = [] if paths.unit_dir.is_relative_to(paths.runtime_dir) else [runtime / "systemd/transient"]
    return [directory for directory in (*own, *shared, *transient) if directory != paths.unit_dir]


def _names(directory: Path, skip: Collection[str] = ()) -> list[str]:
    if not directory.is_dir():
        return []
    names = [name for name in os.listdir(directory) if name not in skip and name.startswith(PREFIX)]
    return sorted(
        name
        for name in names
        if name.endswith((".service", ".timer"))
        and (os.path.islink(directory / name) or os.path.isfile(directory / name))
    )


def _read(path: Path) -> str | None:
    """The text, or None for what apply cannot have written: a dangling or any other link.

    A byte that is not UTF-8, as an edit or a damaged disk leaves it, is kept as a lone surrogate (PEP 383).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except OSError:
        return None


def _ownership(text: str) -> dict[str, list[str]]:
    _, found, section = text.rpartition(_SECTION)
    keys: dict[str, list[str]] = {}
    if found:
        # Not splitlines(), to which U+2028 and others end a line too.
        for line in section.split("\n"):
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def _belongs(unit: str, job: str) -> bool:
    stem = PREFIX + job
    fits = unit.startswith(stem) and unit[len(stem) : len(stem) + 1] in (".", "@")
    return fits and "/" not in job and job.isprintable()


def _spread(text: str) -> timedelta:
    try:
        return parse_span(text)
    except (OverflowError, ValueError):  # edited by hand: no length that sdcron writes
        return timedelta(0)


def _unescape(value: str) -> str:
    """The inverse of escape(..., Place.VALUE)."""
    return value.rstrip(" ").replace("%%", "%")
