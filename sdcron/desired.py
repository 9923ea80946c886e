"""What job files ask for, beside what is applied: read and compiled as far as anything changed, and planned."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import JobFileError, Problem, SdcronError
from sdcron.operations import compile_jobs, file_context, known_jobs, read_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sdcron.backends import UnitState
    from sdcron.job import Job
    from sdcron.jobfile import Context
    from sdcron.jobset import JobPaths
    from sdcron.place import Place
    from sdcron.plan import Plan
    from sdcron.record import Look, Record
    from sdcron.units import CompiledJob


@dataclass(frozen=True, slots=True)
class Desired:
    """What job files ask for: compiled, but for the jobs in `same`, which are known to be as they were applied."""

    compiled: tuple[CompiledJob, ...]
    same: frozenset[str]
    same_units: frozenset[str]
    found: JobPaths
    record: Record
    looks: Mapping[str, Look | None]
    elsewhere: tuple[Job, ...] = ()
    host: str = ""

    def notes(self, place: Place, todo: Plan) -> Iterator[str]:
        """What a person might not expect of this plan: jobs that are for other machines, or paused."""
        from sdcron.elsewhere import read_elsewhere
        from sdcron.pauses import described, read_pauses

        others = {(job.name, job.source.path) for job in self.elsewhere}
        others |= {(job.name, job.source) for job in read_elsewhere(place.paths) if job.source not in self.looks}
        count = sum(source in self.found.chosen for _, source in others)
        if count:
            one = count == 1
            yield (
                f"sdcron: {count} job{'' if one else 's'} {'is' if one else 'are'} for other machines than {self.host}:"
                " see them with sdcron list --all-hosts"
            )
        names = {name for name, _ in others}
        gone = sorted(change.name for change in todo.changes if change.after is None and change.name in names)
        if gone:
            yield f"sdcron: not for {self.host} any more, by their hosts: {', '.join(gone)}"
        pauses = read_pauses(place.paths)
        if place.transient and place.other is not None and read_pauses(place.other).everything is not None:
            yield "sdcron: all jobs are paused, but transient ones cannot be: these run"
        told = described(pauses, {*self.same, *(job.name for job in self.compiled)})
        if told is not None:
            yield f"sdcron: {told[0]}; bring back: {told[1]}{' --user' * place.user}"


def read_desired(
    place: Place,
    paths: Sequence[Path] | JobPaths,
    timers: Mapping[str, UnitState] | None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Desired:
    """Read and compile what has changed since the last apply; `timers` are the active ones.

    `note` hears of what could not be checked. Raises JobFileError, UsageError.
    """
    from sdcron import __version__, record
    from sdcron.jobset import JobPaths, find_files, read_files
    from sdcron.pauses import read_pauses
    from sdcron.python_command import RUNNER
    from sdcron.units import FORMAT

    found = paths if isinstance(paths, JobPaths) else find_files(paths)
    context = file_context(place)
    if place.local:
        jobs = read_files(found, context, progress=progress)
        compiled = compile_jobs(place, jobs, note)
        looks = dict.fromkeys(found.chosen)
        return Desired(
            compiled, frozenset(), frozenset(), found, record.Record(""), looks, jobs.elsewhere, context.host
        )
    # Of two builds of one version, as where only the Debian revision differs, the files do.
    build = str(record.look(__file__))
    parts = (context.local_timezone, context.machine_id, context.host, str(context.root_owned_only), RUNNER, build)
    key = record.record_key(place.paths, __version__, str(FORMAT), *parts)
    known = record.load(place.paths, key)
    pauses = read_pauses(place.paths)
    trusted = _trusted(found, context)
    skip = record.unchanged(place.paths, known, found, timers, pauses) if trusted else {}
    looks = {path: record.look(path) for path in found.chosen if path not in skip}
    jobs = read_files(found, context, skip=skip, progress=progress)
    compiled = compile_jobs(place, jobs, note)
    if found.generated:
        compiled = tuple(replace(job, generated=True) for job in compiled)
    same = frozenset(name for names in skip.values() for name in names)
    units = frozenset(file for name in same for file in known.jobs[name].files)
    compiled = tuple(job.while_paused() if pauses.of(job.name) else job for job in compiled)
    return Desired(compiled, same, units, found, known, looks, jobs.elsewhere, context.host)


def _trusted(found: JobPaths, context: Context) -> bool:
    """Whether nobody else may write to the directories; if not, every file is read, and refused with the reason."""
    from sdcron.jobfile import others_may_write

    directories = {os.path.dirname(path) for path in found.chosen}
    return not context.root_owned_only or not any(others_may_write(directory) for directory in directories)


def plan_jobs(
    place: Place,
    desired: Desired,
    timers: Mapping[str, UnitState] | None,
    *,
    prune: bool,
    without: Collection[str] = (),
    kept: Collection[str] = (),
) -> Plan:
    """What applying these jobs would change now; `timers` are the active ones, None where no systemd runs.

    A job that may be in one of the drop-in files `without` which they were read stays as it is applied; so do those
    that are `kept`.
    """
    from sdcron.installed import read_installed
    from sdcron.jobs_d import may_be_in
    from sdcron.plan import make_plan

    problems = _applied_the_other_way(place, desired.compiled)
    if problems:
        raise JobFileError(problems)
    applied = known_jobs(place) if place.local else read_installed(place.paths, skip=desired.same_units)
    todo = make_plan(
        desired.compiled,
        applied,
        timers,
        directories=frozenset(desired.found.directories),
        files=frozenset(desired.found.files),
        same=desired.same,
        prune=prune,
        generated=desired.found.generated,
        is_kept=lambda job: job.name in kept or may_be_in(job.source, without),
    )
    check_links(place, todo, desired.compiled, {*applied.jobs, *desired.same}, elsewhere=desired.elsewhere)
    return todo


def check_links(
    place: Place,
    todo: Plan,
    compiled: Sequence[CompiledJob],
    names: Collection[str],
    *,
    elsewhere: Sequence[Job] = (),
) -> None:
    """Raises JobFileError if jobs are left that run after, or need, one that is not applied, or each other.

    `names` are those of all that is applied before the plan; `elsewhere` are jobs for other machines.
    """
    from sdcron.links import link_problems, links_applied

    problems = link_problems(todo, compiled, names, lambda: links_applied(place.paths), {job.name for job in elsewhere})
    if problems:
        raise JobFileError(problems)


def _applied_the_other_way(place: Place, jobs: Sequence[CompiledJob]) -> tuple[Problem, ...]:
    """A problem for each job whose units the same manager has, transient beside persistent or the reverse."""
    from sdcron.units import service_name

    if place.local:
        from sdcron import local_operations

        return local_operations.applied_to_systemd(place.paths, jobs)
    others = place.other.unit_dirs if place.other is not None else ()
    names = frozenset(name for directory in others if directory.is_dir() for name in os.listdir(directory))
    how, option = ("without --transient", "") if place.transient else ("with --transient", " --transient")
    hint = f"rename one of the two, or first: sdcron remove{option}"
    return tuple(
        Problem(job.source, 0, 0, f"job {job.name} is there already {how}", "name", f"{hint} {job.name}")
        for job in jobs
        if service_name(job.name) in names
    )


def told_by(place: Place, error: JobFileError, paths: Sequence[Path] = ()) -> str:
    """The command that tells of these mistakes: what is in a file by itself, or what is between those to be applied.

    `paths` are these, none of them the drop-in directories.
    """
    wrong = sorted({problem.path for problem in error.problems})
    found: set[str] = set()
    try:
        # Of a job that there is not any more, no file is known.
        read_jobs(place, [Path(path) for path in wrong if path])
    except JobFileError as alone:
        found = set(map(str, alone.problems))
    except SdcronError:
        pass  # it is gone, or is no job file
    if found.issuperset(map(str, error.problems)):
        return shlex.join(["sdcron", "validate", *wrong])
    return shlex.join(["sdcron", "plan", *map(str, paths)])


def remember(place: Place, desired: Desired) -> None:
    """Write down what is applied, so that the next apply reads only what has changed."""
    from sdcron import record
    from sdcron.elsewhere import write_elsewhere
    from sdcron.files import Files

    write_elsewhere(place.paths, Files(), desired.elsewhere, read=desired.looks.keys())
    if place.local:
        return
    record.save(place.paths, Files(), desired.record, desired.looks, desired.compiled)
