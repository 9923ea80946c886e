"""What the commands do, without arguments to parse or anything to print: read, compile, plan, apply, remove.

Each takes a Place, which says where: the scope, its directories and the service manager there.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sdcron.errors import BackendError, JobFileError, SdcronError
from sdcron.place import Place, connect, make_place, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sdcron.apply import Applier
    from sdcron.backends import Backend
    from sdcron.installed import Installed
    from sdcron.job import Job
    from sdcron.jobfile import Context
    from sdcron.jobset import JobSet
    from sdcron.local_operations import LocalApplier
    from sdcron.paths import Paths
    from sdcron.plan import Applied
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


def compile_jobs(
    place: Place, jobs: JobSet, note: Callable[[str], object] = lambda _: None, *, verify: bool = True
) -> tuple[CompiledJob, ...]:
    """Compile all; what is not supported yet, or not by systemd's verifier, is refused with JobFileError.

    `note` hears of what could not be checked. Without `verify` the verifier is not asked.
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
    passed = {job.name: job for job in jobs.jobs if job.systemd and verify}
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
