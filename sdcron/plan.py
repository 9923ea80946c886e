"""Desired x installed -> Plan: what apply would change, and why. Pure; apply.py carries it out."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from sdcron.errors import JobFileError, Problem
from sdcron.overlap import slot_name, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sdcron.backends import UnitState
    from sdcron.units import CompiledJob


class Before(Protocol):
    """One job as it is applied: installed.InstalledJob, or local_jobs.LocalJob."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def directory(self) -> str:
        """The directory it was applied from."""

    @property
    def source(self) -> str:
        """Its file."""

    @property
    def generated(self) -> bool:
        """Whether it comes from a drop-in directory."""

    @property
    def units(self) -> Mapping[str, str]:
        """Its texts by name."""

    @property
    def script(self) -> str | None:
        """The text of a `script:` job, if that is kept apart."""

    @property
    def enabled(self) -> frozenset[str]:
        """Those of its units that timers.target wants."""

    def same_files(self, compiled: CompiledJob) -> bool:
        """Whether it is exactly what `compiled` would be."""


class Applied(Protocol):
    """All that is applied, and the names there that are somebody else's: installed.Installed, or Known."""

    @property
    def jobs(self) -> Mapping[str, Before]:
        """By name."""

    @property
    def foreign(self) -> frozenset[str]:
        """Names of units that are not sdcron's."""

    @property
    def masked(self) -> frozenset[str]:
        """Those of them that an administrator has masked."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is applied where nothing is anybody else's."""

    jobs: Mapping[str, Before]
    foreign: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()


class Action(StrEnum):
    """What happens to one job."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    START = "start"
    """Files are right, but a timer of it does not run."""


@dataclass(frozen=True, slots=True)
class Change:
    """One job that differs: `before` is None for a new one, `after` None for one to be removed."""

    action: Action
    name: str
    before: Before | None
    after: CompiledJob | None

    @property
    def source(self) -> str:
        """Its file, as it will be, or was."""
        job = self.after or self.before
        return job.source if job is not None else ""

    def texts_before(self) -> Mapping[str, str]:
        """Unit files as installed, and the script under `script`."""
        if self.before is None:
            return {}
        return {**self.before.units, **({"script": self.before.script} if self.before.script is not None else {})}

    def texts_after(self) -> Mapping[str, str]:
        """Unit files as they will be, and the script under `script`."""
        if self.after is None:
            return {}
        units = {unit.name: unit.text for unit in self.after.units}
        return {**units, **({"script": self.after.script} if self.after.script is not None else {})}

    def diff(self) -> str:
        """What differs in every unit, in the unified format; `/dev/null` stands for a unit that is not there.

        Of services that are alike, for runs beside each other, that of the first is shown.
        """
        before, after = self.texts_before(), self.texts_after()
        lines: list[str] = []
        for name in sorted({*before, *after}):
            alike = slot_name(self.name, 2) if slot_of(name)[1] > 2 else ""
            pairs = [(texts.get(name, ""), texts.get(alike, "")) for texts in (before, after)] if alike else []
            same = alike and all(_is_alike(text, name, other, alike) for text, other in pairs)
            if same or before.get(name) == after.get(name):
                continue
            lines += difflib.unified_diff(
                _without_digest(before.get(name, "")),
                _without_digest(after.get(name, "")),
                fromfile=f"installed/{name}" if name in before else "/dev/null",
                tofile=f"desired/{name}" if name in after else "/dev/null",
            )
        return "".join(lines)


def _is_alike(text: str, name: str, other_text: str, other: str) -> bool:
    """Whether two units are the same but for their names, which they may have in them."""
    return [line.replace(name, other) for line in _without_digest(text)] == _without_digest(other_text)


def _without_digest(text: str) -> list[str]:
    """The lines of a unit but for its digest, which differs whenever anything else does."""
    # Not splitlines(), to which U+2028 and others end a line too.
    return [line for line in re.findall("[^\n]*\n|[^\n]+", text) if not line.startswith("Digest=")]


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes, by job name, and how many jobs need none."""

    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    kept: tuple[str, ...] = field(default_factory=tuple)
    """Jobs that left their directory and stay because of --no-prune."""

    def __bool__(self) -> bool:
        """True when there is something to do."""
        return bool(self.changes)


def make_plan(
    desired: Sequence[CompiledJob],
    installed: Applied,
    loaded: Mapping[str, UnitState] | None,
    *,
    directories: Collection[str],
    files: Collection[str] = (),
    same: Collection[str] = (),
    prune: bool = True,
    generated: bool = False,
    is_kept: Callable[[Before], bool] = lambda _: False,
) -> Plan:
    """Compare what should be with what is.

    `directories` and `files` are what was applied: a job that came from there and is gone is removed; of the drop-in
    directories all that is `generated` is from there. `same` are jobs known to be as they were applied, which are in
    neither `desired` nor `installed`; one that is kept is not removed. `loaded` None means that no systemd runs there
    (`--root`).

    Raises JobFileError when a job's name belongs to another directory or to a foreign unit.
    """

    def is_from_there(job: Before) -> bool:
        return (generated and job.generated) or job.directory in directories or job.source in files

    problems = [problem for job in desired for problem in _clashes(job, installed, is_from_there)]
    if problems:
        raise JobFileError(tuple(problems))
    changes = []
    unchanged = len(same)
    for job in desired:
        before = installed.jobs.get(job.name)
        if before is None:
            changes.append(Change(Action.ADD, job.name, None, job))
        elif not before.same_files(job):
            changes.append(Change(Action.CHANGE, job.name, before, job))
        elif loaded is not None and any(not _runs(loaded.get(timer)) for timer in job.start):
            changes.append(Change(Action.START, job.name, before, job))
        elif loaded is not None and job.paused and any(unit.name in loaded for unit in job.units):
            # Somebody has started a timer of it.
            changes.append(Change(Action.CHANGE, job.name, before, job))
        else:
            unchanged += 1
    wanted = {*same, *(job.name for job in desired)}
    gone = [
        job for name, job in installed.jobs.items() if name not in wanted and is_from_there(job) and not is_kept(job)
    ]
    if prune:
        changes += [Change(Action.REMOVE, job.name, job, None) for job in gone]
    changes.sort(key=lambda change: change.name)
    return Plan(tuple(changes), unchanged, () if prune else tuple(sorted(job.name for job in gone)))


def removal_plan(names: Sequence[str], installed: Applied) -> Plan:
    """The plan that removes these installed jobs."""
    return Plan(tuple(Change(Action.REMOVE, name, installed.jobs[name], None) for name in sorted(set(names))))


def _runs(state: UnitState | None) -> bool:
    return state is not None and state.active in ("active", "activating", "reloading")


def _clashes(job: CompiledJob, installed: Applied, is_from_there: Callable[[Before], bool]) -> list[Problem]:
    problems = [
        Problem(job.source, 0, 0, f"unit {unit.name} exists and is not sdcron's", "name", "rename the job or that unit")
        for unit in job.units
        if unit.name in installed.foreign - installed.masked
    ]
    problems += [
        Problem(
            *(job.source, 0, 0, f"unit {unit.name} is masked", "name"),
            f"systemctl unmask {unit.name}; to have the job wait: sdcron pause {job.name}",
        )
        for unit in job.units
        if unit.name in installed.masked
    ]
    before = installed.jobs.get(job.name)
    if before and before.source != job.source and not is_from_there(before):
        how = "remove that file" if before.generated else f"first: sdcron remove {job.name}"
        problems.append(
            Problem(
                job.source,
                0,
                0,
                f"job {job.name} is applied already from {before.source}",
                "name",
                f"rename one of the two, or {how}",
            )
        )
    return problems
