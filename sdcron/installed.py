"""What is installed: the units that carry [X-Sdcron], grouped into jobs again.

Reads the unit directories and nothing else; a unit without that section belongs to somebody else and is never ours.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import TYPE_CHECKING

from sdcron.chain_units import after_handler_name, drop_ins_of, skipped_handler_names
from sdcron.drop_ins import is_drop_in, job_of
from sdcron.drop_ins import names as drop_in_names
from sdcron.installed_job import InstalledJob, length_of, ownership, unescaped
from sdcron.overlap import queued_name, slot_name, slot_of, tick_name
from sdcron.paths import Scope, wants_dir
from sdcron.retry import retry_handler_name, retry_timer_name
from sdcron.unit_locks import lock_unit_name
from sdcron.units import PREFIX, boot_timer_name, service_name, timer_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from sdcron.paths import Paths


@dataclass(frozen=True, slots=True)
class Installed:
    """All jobs of one scope, and the `sdcron-` names, there or elsewhere, that are somebody else's."""

    jobs: Mapping[str, InstalledJob] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()
    """Those of them that only keep a unit from being there (systemctl(1), mask)."""

    def waited_for(self, names: Iterable[str]) -> frozenset[str]:
        """These, what they run after, or need, and so on."""
        found: set[str] = set()
        more = set(names)
        while more:
            found |= more
            before = {up for name in more for up in (*self.jobs[name].after, *self.jobs[name].needs)}
            more = before.intersection(self.jobs) - found
        return frozenset(found)

    def of_last_boot(self, paths: Paths, files: Collection[str]) -> frozenset[str]:
        """Drop-in jobs that were for an earlier boot alone, by the job files that there are now."""
        of_boot = f"{paths.drop_in_dirs[1]}/"
        return frozenset(
            name
            for name, job in self.jobs.items()
            if job.generated and job.source.startswith(of_boot) and job.source not in files
        )


def read_installed(paths: Paths, skip: Collection[str] = (), *, retries: bool = True) -> Installed:
    """Read the unit directories of one scope but for the files in `skip`; an absent directory holds no jobs.

    Without `retries` the units of retries and of runs beside others, which are most, are left out. Other directories
    that the manager reads are looked through for names only.
    """
    foreign = {name for directory in _other_directories(paths) for name in _names(directory)}
    scripts = set(os.listdir(paths.script_dir)) if paths.script_dir.is_dir() else set()
    jobs: dict[str, InstalledJob] = {}
    for unit_dir in reversed(paths.unit_dirs):
        texts: dict[str, dict[str, str]] = {}
        sections: dict[str, dict[str, list[str]]] = {}
        added = (name for name in drop_in_names(unit_dir) if name not in skip)
        for name in (*_names(unit_dir, skip), *added):
            if not retries and "@" in name and ("@retry" in name or slot_of(name)[1] > 1):
                continue
            text = _read(f"{unit_dir}/{name}")
            section = ownership(text) if text is not None else {}
            job = section.get("Job", [""])[0]
            if text is None or not job or not _belongs(name, job):
                foreign.add(name)
                continue
            texts.setdefault(job, {})[name] = text
            _learn(sections.setdefault(job, {}), section, from_service=name == service_name(job))
        links = frozenset(_names(wants_dir(unit_dir)))
        for job, units in texts.items():
            script = _read(paths.script_dir / job) if job in scripts else None
            generated = unit_dir == paths.generated_dir
            jobs[job] = _job(job, sections[job], units, links.intersection(units), script, generated=generated)
    directories = (paths.unit_dir, *_other_directories(paths))
    masked = (name for name in foreign if any(os.path.realpath(each / name) == os.devnull for each in directories))
    return Installed(jobs, frozenset(foreign), frozenset(masked))


def read_one(paths: Paths, name: str) -> InstalledJob | None:
    """One job by the names that its files would have, without a look at the directory; None if it has none."""
    found = (_read_one(paths, unit_dir, name) for unit_dir in paths.unit_dirs)
    return next((job for job in found if job is not None), None)


def _read_one(paths: Paths, unit_dir: Path, name: str) -> InstalledJob | None:
    units: dict[str, str] = {}
    known: dict[str, list[str]] = {}
    own = (service_name(name), timer_name(name), boot_timer_name(name), retry_handler_name(name), lock_unit_name(name))
    for unit in own:
        _learn(known, _read_own(unit_dir, name, unit, units), from_service=unit == service_name(name))
    for unit in (tick_name(name), queued_name(name)):
        _read_own(unit_dir, name, unit, units)
    for names in (map(retry_timer_name, repeat(name), count(1)), map(slot_name, repeat(name), count(2))):
        for unit in names:
            if not _read_own(unit_dir, name, unit, units):
                break
    after, needs = (" ".join(known.get(key, ())).split() for key in ("After", "Needs"))
    if after or needs:
        handlers = (after_handler_name(name), *skipped_handler_names(name, len(after)))
        for unit in (*handlers, *drop_ins_of(name, after, needs)):
            _read_own(unit_dir, name, unit, units)
    if not units:
        return None
    enabled = frozenset(unit for unit in units if os.path.lexists(wants_dir(unit_dir) / unit))
    script = _read(paths.script_dir / name)
    return _job(name, known, units, enabled, script, generated=unit_dir == paths.generated_dir)


def _read_own(unit_dir: Path, job: str, unit: str, units: dict[str, str]) -> dict[str, list[str]]:
    """Add a unit that is the job's own to `units`; returns its [X-Sdcron] section, empty for any other or none."""
    text = _read(unit_dir / unit)
    section = ownership(text) if text is not None else {}
    if text is None or section.get("Job", [""])[0] != job:
        return {}
    units[unit] = text
    return section


def _learn(known: dict[str, list[str]], section: Mapping[str, list[str]], *, from_service: bool) -> None:
    """What one unit of a job adds: the service says whose it is; the schedule as it was written stands in a timer."""
    for key, values in section.items():
        if key not in known or from_service:
            known[key] = values


def _job(
    name: str,
    section: Mapping[str, list[str]],
    units: Mapping[str, str],
    enabled: frozenset[str],
    script: str | None,
    *,
    generated: bool,
) -> InstalledJob:
    return InstalledJob(
        name=name,
        directory=unescaped(section.get("Directory", [""])[0]),
        source=unescaped(section.get("Source", [""])[0]),
        units=units,
        enabled=enabled,
        script=script,
        active=section.get("Enabled", ["yes"])[0] == "yes",
        schedule=tuple(unescaped(text) for text in section.get("Schedule", [])),
        timezone=section["Timezone"][0] if "Timezone" in section else None,
        spread=length_of(section.get("Spread", ["0s"])[0]),
        generated=generated,
    )


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
    # The kind of an entry comes with its name: thousands of units are looked at without a call for each.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.startswith(PREFIX)
            and entry.name.endswith((".service", ".timer"))
            and entry.name not in skip
            and (entry.is_symlink() or entry.is_file())
        )
    return []


def _read(path: Path | str) -> str | None:
    """The text, or None for what apply cannot have written: a dangling or any other link.

    A byte that is not UTF-8, as an edit or a damaged disk leaves it, is kept as a lone surrogate (PEP 383).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except OSError:
        return None


def _belongs(unit: str, job: str) -> bool:
    if is_drop_in(unit):
        return job_of(unit) == job
    stem = PREFIX + job
    fits = unit.startswith(stem) and unit[len(stem) : len(stem) + 1] in (".", "@")
    return fits and "/" not in job and job.isprintable()
