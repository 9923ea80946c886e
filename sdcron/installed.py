"""What is installed: the units that carry [X-Sdcron], grouped into jobs again.

Reads the unit directory and nothing else; a unit without that section belongs to somebody else and is never ours.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, repeat, takewhile
from typing import TYPE_CHECKING

from sdcron.chain_units import after_handler_name, drop_ins_of, skipped_handler_names
from sdcron.drop_ins import is_drop_in, job_of
from sdcron.drop_ins import names as drop_in_names
from sdcron.job import Output, Overlap
from sdcron.overlap import queued_name, slot_name, slot_of, tick_name
from sdcron.parameters import read_parameter
from sdcron.paths import Scope
from sdcron.retry import retry_handler_name, retry_timer_name
from sdcron.span import parse_span
from sdcron.unit_locks import lock_unit_name
from sdcron.units import PREFIX, CompiledJob, Unit, boot_timer_name, is_sealed, service_name, timer_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from sdcron.job import Parameter
    from sdcron.paths import Paths

_SECTION = "\n[X-Sdcron]\n"
_LONGEST_COUNT = 20  # digits


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

    def as_compiled(self) -> CompiledJob:
        """What would install it as it is, with its timers."""
        boot = tuple(sorted(name for name, text in self.units.items() if _is_boot_timer(text)))
        return CompiledJob(
            self.name,
            self.directory,
            self.source,
            tuple(Unit(name, text) for name, text in sorted(self.units.items())),
            tuple(sorted(self.calendar_timers)) if self.active else (),
            boot if self.active else (),
            self.script,
            after=self.after,
            needs=self.needs,
        )

    def same_files(self, compiled: CompiledJob) -> bool:
        """True when every file and link is exactly what `compiled` would install."""
        return (
            self.script == compiled.script
            and self.enabled == frozenset(compiled.enable)
            and self.units == {unit.name: unit.text for unit in compiled.units}
        )

    # What the collector asks about one job at a time. A value that was edited to something else is the default.

    @property
    def output_keep(self) -> int:
        """How many bytes of each stream go on record."""
        written = self._of_service("OutputKeep")
        return int(written[0]) if written and _is_count(written[0]) else Output().keep

    @property
    def redact(self) -> tuple[str, ...]:
        """Regular expressions of what does not go on record."""
        return tuple(_unescape(text) for text in self._of_service("Redact"))

    @property
    def retry_on_exit(self) -> tuple[int, ...]:
        """The exit statuses that are retried; empty: every failure is."""
        written = self._of_service("RetryOnExit") or [""]
        return tuple(int(code) for code in written[0].split() if _is_count(code))

    @property
    def locks(self) -> tuple[str, ...]:
        """The names of the locks that a run holds."""
        return tuple(self._of_service("Locks")[0].split()) if self._of_service("Locks") else ()

    @property
    def resumable(self) -> bool:
        """Whether a run that a suspend has ended is started again."""
        return self._of_service("Resumable")[:1] == ["yes"]

    @property
    def after(self) -> tuple[str, ...]:
        """The jobs whose ends start it."""
        return tuple(" ".join(self._of_service("After")).split())

    @property
    def needs(self) -> tuple[str, ...]:
        """The jobs that must have succeeded since it did."""
        return tuple(" ".join(self._of_service("Needs")).split())

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What may differ from run to run."""
        found = (read_parameter(_unescape(text)) for text in self._of_service("Parameter"))
        return tuple(each for each in found if each is not None)

    @property
    def overlap(self) -> Overlap:
        """What becomes of a run that is due while another is on."""
        written = self._of_service("Overlap")[:1]
        return Overlap(written[0]) if written and written[0] in Overlap.__members__.values() else Overlap.SKIP

    @property
    def max_parallel(self) -> int:
        """How many runs may be on at the same time."""
        written = self._of_service("MaxParallel")[:1] if self.overlap is Overlap.ALLOW else []
        return int(written[0]) if written and _is_count(written[0]) else 1

    @property
    def digest(self) -> str | None:
        """The service's own SHA-256, None for one that is not as sdcron wrote it."""
        text = self.units.get(service_name(self.name), "")
        try:
            return self._of_service("Digest")[-1] if is_sealed(text) else None
        except UnicodeEncodeError:  # bytes that are not UTF-8: see _read
            return None

    @property
    def retry_delays(self) -> tuple[timedelta, ...]:
        """The wait before each retry, in order."""
        names = takewhile(self.units.__contains__, map(retry_timer_name, repeat(self.name), count(1)))
        return tuple(_length(_directive(self.units[name], "OnActiveSec")) for name in names)

    @property
    def accuracy(self) -> timedelta:
        """How late its timers may be."""
        names = (timer_name(self.name), boot_timer_name(self.name), retry_timer_name(self.name, 1))
        written = [_directive(self.units[name], "AccuracySec") for name in names if name in self.units]
        return (_length(written[0]) if written else timedelta(0)) or timedelta(seconds=1)

    @property
    def user(self) -> str | None:
        """Whose identity its runs have; None: the service manager's."""
        return self.directive("User") or None

    @property
    def time_limit(self) -> str | None:
        """How long a run may take, as systemd.time(7) writes it; None: as long as it likes."""
        return self.directive("TimeoutStartSec") or None

    @property
    def description(self) -> str:
        """What its file says of it, on one line."""
        text = self.directive("Description")
        return "" if text == f"sdcron job {self.name}" else text.removeprefix(f"{self.name}: ")

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Its units, sorted; what it adds to those of others is none."""
        return tuple(sorted(name for name in self.units if not is_drop_in(name)))

    @property
    def calendar_timers(self) -> tuple[str, ...]:
        """Those of its timers that wait for times of its schedule."""
        return tuple(name for name, text in self.units.items() if "\nOnCalendar=" in text)

    @property
    def persistent(self) -> bool:
        """Whether a time that fell into downtime is made good."""
        return _directive(self.units.get(timer_name(self.name), ""), "Persistent") == "yes"

    @property
    def boot(self) -> bool:
        """Whether it runs at boot."""
        return any(map(_is_boot_timer, self.units.values()))

    def directive(self, key: str) -> str:
        """What the service says, as the value of a directive that takes no list; empty if it does not say it."""
        return _unescape(_directive(self.units.get(service_name(self.name), ""), key))

    def _of_service(self, key: str) -> list[str]:
        """The values of a key in the [X-Sdcron] section of its service."""
        return _ownership(self.units.get(service_name(self.name), "")).get(key, [])


@dataclass(frozen=True, slots=True)
class Installed:
    """All jobs in one unit directory, and the `sdcron-` names, there or elsewhere, that are somebody else's."""

    jobs: Mapping[str, InstalledJob] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def read_installed(paths: Paths, skip: Collection[str] = (), *, retries: bool = True) -> Installed:
    """Read the unit directory of one scope but for the files in `skip`; an absent directory holds no jobs.

    Without `retries` the units of retries and of runs beside others, which are most, are left out. Other directories
    that the manager reads are looked through for names only.
    """
    texts: dict[str, dict[str, str]] = {}
    sections: dict[str, dict[str, list[str]]] = {}
    foreign = {name for directory in _other_directories(paths) for name in _names(directory)}
    added = (name for name in drop_in_names(paths.unit_dir) if name not in skip)
    for name in (*_names(paths.unit_dir, skip), *added):
        if not retries and "@" in name and ("@retry" in name or slot_of(name)[1] > 1):
            continue
        text = _read(f"{paths.unit_dir}/{name}")
        section = _ownership(text) if text is not None else {}
        job = section.get("Job", [""])[0]
        if text is None or not job or not _belongs(name, job):
            foreign.add(name)
            continue
        texts.setdefault(job, {})[name] = text
        _learn(sections.setdefault(job, {}), section, from_service=name == service_name(job))
    links = set(_names(paths.wants_dir))
    scripts = set(os.listdir(paths.script_dir)) if paths.script_dir.is_dir() else set()
    jobs = {
        job: _job(
            job,
            sections[job],
            units,
            frozenset(name for name in units if name in links),
            _read(paths.script_dir / job) if job in scripts else None,
        )
        for job, units in texts.items()
    }
    return Installed(jobs, frozenset(foreign))


def read_one(paths: Paths, name: str) -> InstalledJob | None:
    """One job by the names that its files would have, without a look at the directory; None if it has none."""
    units: dict[str, str] = {}
    known: dict[str, list[str]] = {}
    own = (service_name(name), timer_name(name), boot_timer_name(name), retry_handler_name(name), lock_unit_name(name))
    for unit in own:
        _learn(known, _read_own(paths, name, unit, units), from_service=unit == service_name(name))
    for unit in (tick_name(name), queued_name(name)):
        _read_own(paths, name, unit, units)
    for names in (map(retry_timer_name, repeat(name), count(1)), map(slot_name, repeat(name), count(2))):
        for unit in names:
            if not _read_own(paths, name, unit, units):
                break
    after, needs = (" ".join(known.get(key, ())).split() for key in ("After", "Needs"))
    if after or needs:
        handlers = (after_handler_name(name), *skipped_handler_names(name, len(after)))
        for unit in (*handlers, *drop_ins_of(name, after, needs)):
            _read_own(paths, name, unit, units)
    if not units:
        return None
    enabled = frozenset(unit for unit in units if os.path.lexists(paths.wants_dir / unit))
    return _job(name, known, units, enabled, _read(paths.script_dir / name))


def _read_own(paths: Paths, job: str, unit: str, units: dict[str, str]) -> dict[str, list[str]]:
    """Add a unit that is the job's own to `units`; returns its [X-Sdcron] section, empty for any other or none."""
    text = _read(paths.unit_dir / unit)
    section = _ownership(text) if text is not None else {}
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
) -> InstalledJob:
    return InstalledJob(
        name=name,
        directory=_unescape(section.get("Directory", [""])[0]),
        source=_unescape(section.get("Source", [""])[0]),
        units=units,
        enabled=enabled,
        script=script,
        active=section.get("Enabled", ["yes"])[0] == "yes",
        schedule=tuple(_unescape(text) for text in section.get("Schedule", [])),
        timezone=section["Timezone"][0] if "Timezone" in section else None,
        spread=_length(section.get("Spread", ["0s"])[0]),
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
    if is_drop_in(unit):
        return job_of(unit) == job
    stem = PREFIX + job
    fits = unit.startswith(stem) and unit[len(stem) : len(stem) + 1] in (".", "@")
    return fits and "/" not in job and job.isprintable()


def _directive(text: str, key: str) -> str:
    """The value of a directive that stands there once; the section for sdcron's own notes is not looked at."""
    return text.partition(_SECTION)[0].partition(f"\n{key}=")[2].partition("\n")[0]


def _is_boot_timer(text: str) -> bool:
    return bool(_directive(text, "OnBootSec") or _directive(text, "OnStartupSec"))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _LONGEST_COUNT


def _length(text: str) -> timedelta:
    try:
        return parse_span(text)
    except (OverflowError, ValueError):  # edited by hand: no length that sdcron writes
        return timedelta(0)


def _unescape(value: str) -> str:
    """The inverse of escape(..., Place.VALUE)."""
    return value.rstrip(" ").replace("%%", "%")
