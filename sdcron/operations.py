"""What the commands do, without arguments to parse or anything to print: read, compile, plan, apply, remove.

Each takes a Place, which says where: the scope, its directories and the service manager there.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdcron.errors import BackendError, JobFileError, Problem, SdcronError
from sdcron.place import Place, connect, make_place, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdcron.apply import Applier
    from sdcron.backends import Backend, UnitState
    from sdcron.installed import Installed
    from sdcron.job import Job
    from sdcron.jobfile import Context
    from sdcron.jobset import JobPaths, JobSet
    from sdcron.local_operations import LocalApplier
    from sdcron.paths import Paths
    from sdcron.plan import Applied, Plan
    from sdcron.record import Look, Record
    from sdcron.units import CompiledJob

__all__ = ["Place", "connect", "make_place", "observe"]

LOCK_WAIT_SECONDS = 30.0


def file_context(place: Place) -> Context:
    """What reading job files needs to know of the machine and the caller."""
    from sdcron.jobfile import Context
    from sdcron.machine import host_name, local_timezone, machine_id

    root = place.paths.root
    return Context(local_timezone(root), machine_id(root), os.geteuid() == 0, host_name(root))


def read_jobs(place: Place, paths: Sequence[Path], *, host: str | None = None) -> JobSet:
    """All jobs in these files and directories, for the machine `host` or this one.

    Raises JobFileError with every problem, UsageError for no such path.
    """
    from sdcron.jobset import read_paths

    context = file_context(place)
    return read_paths(paths, context if host is None else replace(context, host=host))


def compile_jobs(place: Place, jobs: JobSet, note: Callable[[str], object] = lambda _: None) -> tuple[CompiledJob, ...]:
    """Compile all; what is not supported yet, or not by systemd's verifier, is refused with JobFileError.

    `note` hears of what could not be checked.
    """
    from sdcron.jobset import check_hosts, check_supported
    from sdcron.links import unnameable
    from sdcron.units import compile_job
    from sdcron.verify import verify_units

    problems = check_hosts(jobs)
    if place.local and not problems:
        from sdcron import local_operations

        return local_operations.compile_all(jobs.jobs, user=place.user)
    problems += check_supported(jobs.jobs, user=place.user)
    if problems:
        raise JobFileError(problems)
    state_dir = place.paths.on_machine(place.paths.state_dir)
    compiled = tuple(
        compile_job(
            job,
            directory=os.path.dirname(job.source.path),
            scope=place.paths.scope,
            state_dir=state_dir,
            pausable=not place.transient,
        )
        for job in (_for_this_boot(jobs.jobs) if place.transient else jobs.jobs)
    )
    passed = {job.name: job for job in jobs.jobs if job.systemd}
    problems = verify_units(passed, [job for job in compiled if job.name in passed], user=place.user, note=note)
    problems += unnameable(compiled)
    if place.transient:
        from sdcron.backends.transient import refusals

        problems += refusals(compiled)
    if problems:
        raise JobFileError(problems)
    return compiled


def _for_this_boot(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The jobs without `missed: run`, which is for times when the machine is off, and whose stamps outlive the boot."""
    from sdcron.job import Missed

    return tuple(replace(job, missed=Missed.SKIP) for job in jobs)


def installed_jobs(place: Place) -> Installed:
    """The jobs whose units are installed in this place."""
    from sdcron.installed import read_installed

    return read_installed(place.paths)


def known_jobs(place: Place) -> Applied:
    """The jobs that are applied in this place, whoever runs them."""
    if place.local:
        from sdcron import local_operations

        return local_operations.known_jobs(place.paths)
    return installed_jobs(place)


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
    paths: Sequence[Path],
    timers: Mapping[str, UnitState] | None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Desired:
    """Read and compile what has changed since the last apply; `timers` are the active ones.

    `note` hears of what could not be checked. Raises JobFileError, UsageError.
    """
    from sdcron import __version__, record
    from sdcron.jobset import find_files, read_files
    from sdcron.pauses import read_pauses
    from sdcron.python_command import RUNNER
    from sdcron.units import FORMAT

    found = find_files(paths)
    context = file_context(place)
    if place.local:
        jobs = read_files(found, context, progress=progress)
        compiled = compile_jobs(place, jobs, note)
        looks = dict.fromkeys(found.chosen)
        return Desired(
            compiled, frozenset(), frozenset(), found, record.Record(""), looks, jobs.elsewhere, context.host
        )
    parts = (context.local_timezone, context.machine_id, context.host, str(context.root_owned_only), RUNNER)
    key = record.record_key(place.paths, __version__, str(FORMAT), *parts)
    known = record.load(place.paths, key)
    pauses = read_pauses(place.paths)
    skip = record.unchanged(place.paths, known, found.chosen, timers, pauses) if _trusted(found, context) else {}
    looks = {path: record.look(path) for path in found.chosen if path not in skip}
    jobs = read_files(found, context, skip=skip, progress=progress)
    compiled = compile_jobs(place, jobs, note)
    same = frozenset(name for names in skip.values() for name in names)
    units = frozenset(file for name in same for file in known.jobs[name].files)
    compiled = tuple(job.while_paused() if pauses.of(job.name) else job for job in compiled)
    return Desired(compiled, same, units, found, known, looks, jobs.elsewhere, context.host)


def _trusted(found: JobPaths, context: Context) -> bool:
    """Whether nobody else may write to the directories; if not, every file is read, and refused with the reason."""
    from sdcron.jobfile import others_may_write

    directories = {os.path.dirname(path) for path in found.chosen}
    return not context.root_owned_only or not any(others_may_write(directory) for directory in directories)


def plan_jobs(place: Place, desired: Desired, timers: Mapping[str, UnitState] | None, *, prune: bool) -> Plan:
    """What applying these jobs would change now; `timers` are the active ones, None where no systemd runs."""
    from sdcron.installed import read_installed
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
    if place.other is None or not place.other.unit_dir.is_dir():
        return ()
    names = frozenset(os.listdir(place.other.unit_dir))
    how, option = ("without --transient", "") if place.transient else ("with --transient", " --transient")
    hint = f"rename one of the two, or first: sdcron remove{option}"
    return tuple(
        Problem(job.source, 0, 0, f"job {job.name} is there already {how}", "name", f"{hint} {job.name}")
        for job in jobs
        if service_name(job.name) in names
    )


def remember(place: Place, desired: Desired) -> None:
    """Write down what is applied, so that the next apply reads only what has changed."""
    from sdcron import record
    from sdcron.elsewhere import write_elsewhere
    from sdcron.files import Files

    write_elsewhere(place.paths, Files(), desired.elsewhere, read=desired.looks.keys())
    if place.local:
        return
    record.save(place.paths, Files(), desired.record, desired.looks, desired.compiled)


@contextmanager
def changing(
    place: Place, backend: Backend | None, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Iterator[Applier | LocalApplier]:
    """Hold the apply lock, finish what a killed apply left, and hand out the Applier. Raises LockHeldError."""
    from sdcron.apply import Applier, apply_lock
    from sdcron.local_operations import LocalApplier

    applier_class = Applier
    if place.transient:
        from sdcron.apply_transient import TransientApplier

        applier_class = TransientApplier
    try:
        with apply_lock(place.paths, LOCK_WAIT_SECONDS):
            applier = (
                LocalApplier(place.paths) if place.local else applier_class(place.paths, backend, progress=progress)
            )
            applier.recover()
            yield applier
    except PermissionError as error:
        if os.geteuid() and not place.user and str(place.paths.root) == "/":
            hint = "run it as root (sudo), or manage your own jobs with --user"
            raise BackendError("no permission to change the machine's jobs", hint) from error
        raise BackendError(
            f"no permission to write {error.filename or place.paths.unit_dir}", writing_hint(error)
        ) from error
    except OSError as error:
        raise SdcronError(f"{error.filename or place.paths.unit_dir}: {error.strerror}", writing_hint(error)) from error


def keep_recording(place: Place, backend: Backend | None, note: Callable[[str], object], *, jobs: bool) -> None:
    """Have the collector there if, and as long as, a job of the scope is; call with the lock held.

    `jobs` says that some are known to be applied in this place. `note` hears in one line of what is wrong: the jobs are
    as they shall be, with or without a record of their runs.
    """
    from sdcron import own_units

    if place.local:
        from sdcron import local_operations

        local_operations.remove_nothing_else(place.paths)
        local_operations.tell_engine(place.paths, note)
        return
    persistent, others = (place.other or place.paths, place.paths) if place.transient else (place.paths, place.other)
    try:
        here = jobs or bool(installed_jobs(place).jobs)
        if own_units.is_installed(persistent) if place.transient else here:
            own_units.ensure(persistent, backend, transient=False)
        elif here or (others is not None and _any_jobs(others)):
            if own_units.is_installed(persistent):
                own_units.withdraw(persistent, backend)
            own_units.ensure(persistent, backend, transient=True)
        else:
            own_units.withdraw(persistent, backend)
    except (SdcronError, OSError) as error:
        what = error.message if isinstance(error, SdcronError) else f"{error.filename}: {error.strerror}"
        advice = error.hint if isinstance(error, SdcronError) else writing_hint(error)
        note(f"sdcron: runs are not recorded: {what}; {advice}")


def _any_jobs(paths: Paths) -> bool:
    from sdcron.installed import read_installed

    return bool(read_installed(paths).jobs)


def writing_hint(error: OSError) -> str:
    """What to do when a file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space there, and try again"
    if error.errno == errno.EROFS:
        return "that file system is read-only: see findmnt, or choose another directory"
    return "check that path: it must lie in a directory in which files can be made"


def write_units(compiled: Sequence[CompiledJob], directory: Path) -> tuple[Path, ...]:
    """Write the units, and the texts of scripts, into a directory; returns the files. Raises SdcronError."""
    from sdcron.files import Files

    files = Files()
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for job in compiled:
            texts = {unit.name: unit.text for unit in job.units}
            if job.script is not None:
                texts[f"sdcron-{job.name}.script"] = job.script
            for name, text in texts.items():
                files.write(directory / name, text)
                written.append(directory / name)
    except OSError as error:
        raise SdcronError(f"{error.filename}: {error.strerror}", writing_hint(error)) from error
    return tuple(written)


def verify_passed_through(place: Place, jobs: JobSet, note: Callable[[str], object] = lambda _: None) -> None:
    """Have systemd check the directives under `systemd:`. Other jobs need no systemd to validate.

    `note` hears of what could not be checked. Raises JobFileError.
    """
    from sdcron.jobset import check_supported
    from sdcron.units import compile_job
    from sdcron.verify import verify_units

    if place.local:
        from sdcron import local_operations

        local_operations.check_possible(jobs.jobs, user=place.user)
        return
    later = {problem.path for problem in check_supported(jobs.jobs)}
    passed = {job.name: job for job in jobs.jobs if job.systemd and job.source.shown not in later}
    compiled = [compile_job(job, directory="", scope=place.paths.scope, state_dir="/") for job in passed.values()]
    problems = verify_units(passed, compiled, user=place.user, note=note)
    if problems:
        raise JobFileError(problems)
