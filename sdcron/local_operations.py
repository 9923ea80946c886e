"""What validate, plan, apply and remove do where the local engine runs the jobs: one file is replaced, and it is told.

operations.py calls these for a place of the engine; the plan, its words and its rules are the same as with units.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sdcron.engine_socket import ask
from sdcron.engine_support import powers_here, refusals
from sdcron.errors import BackendError, JobFileError, Problem, SdcronError
from sdcron.files import Files, leftovers
from sdcron.jobset import check_supported
from sdcron.local_jobs import carried_out, compile_local, read_local, write_local
from sdcron.paths import Scope
from sdcron.pauses import NO_MARKS, owed_without
from sdcron.plan import Known
from sdcron.units import PREFIX, service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sdcron.job import Job
    from sdcron.paths import Paths
    from sdcron.plan import Plan
    from sdcron.units import CompiledJob


def compile_all(jobs: Sequence[Job], *, user: bool) -> tuple[CompiledJob, ...]:
    """The jobs as they are stored. Raises JobFileError for what is not supported yet, or not by this engine."""
    problems = problems_of(jobs, user=user)
    if problems:
        raise JobFileError(problems)
    return tuple(compile_local(job, os.path.dirname(job.source.path)) for job in jobs)  # noqa: PTH120 - of 10,000 jobs


def check_possible(jobs: Sequence[Job], *, user: bool) -> None:
    """Raises JobFileError for what an engine, as it would be started here and now, cannot do."""
    problems = _impossible(jobs, user=user)
    if problems:
        raise JobFileError(problems)


def problems_of(jobs: Sequence[Job], *, user: bool) -> tuple[Problem, ...]:
    """A problem for each key that is not supported yet, or not by this engine, here and now."""
    return (*check_supported(jobs, user=user), *_impossible(jobs, user=user))


def _impossible(jobs: Sequence[Job], *, user: bool) -> tuple[Problem, ...]:
    return refusals(jobs, powers_here(), user_scope=user)


def known_jobs(paths: Paths) -> Known:
    """What is applied to the engine, for a plan."""
    return Known(read_local(paths))


def applied_to_systemd(paths: Paths, jobs: Sequence[CompiledJob]) -> tuple[Problem, ...]:
    """A problem for each job that systemd runs already in this scope: it would run twice."""
    names = systemd_names(paths)
    option = " --user" if paths.scope is Scope.USER else ""
    return tuple(
        Problem(
            job.source, 0, 0, f"job {job.name} is applied already to systemd, and would run twice", "name",
            f"rename one of the two, or first: sdcron remove{option} --backend systemd {job.name}",
        )
        for job in jobs
        if service_name(job.name) in names
    )  # fmt: skip


def systemd_names(paths: Paths) -> frozenset[str]:
    """What sdcron's units in this scope are called."""
    directories = [directory for directory in paths.unit_dirs if directory.is_dir()]
    entries = (entry for directory in directories for entry in os.listdir(directory))  # noqa: PTH208 - 60,000
    return frozenset(entry for entry in entries if entry.startswith(PREFIX))


class LocalApplier:
    """Changes what is applied to the engine of one scope; call with the lock held."""

    recovered = False
    """Nothing can be left half done: the file is replaced in one step."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def recover(self) -> None:
        """Remove what a killed apply left."""
        for directory in (self._paths.local_jobs_file.parent, self._paths.paused_dir):
            for path in leftovers(directory):
                path.unlink(missing_ok=True)

    def carry_out(self, plan: Plan, marks: Mapping[str, str | None] = NO_MARKS, resumed: Collection[str] = ()) -> None:
        """Apply every change and mark, as Applier.carry_out, or no change. Raises OSError.

        The times of jobs that are `resumed` count from now on: what fell due meanwhile is not owed.
        """
        files, paused_dir = Files(), self._paths.paused_dir
        before, now_us = read_local(self._paths), time.time_ns() // 1000
        after = carried_out(plan, before, now_us)
        after |= {name: replace(after[name], since_us=now_us) for name in resumed}
        marks = {**owed_without(self._paths, before.keys() - after.keys()), **marks}
        for name, text in marks.items():
            if text is not None:
                files.write(paused_dir / name, text)
        if after != before:
            write_local(self._paths, after.values())
        # Only now: an engine that is started in between still finds them paused.
        gone = [*(name for name, text in marks.items() if text is None), *(before.keys() - after.keys())]
        for name in gone:
            files.delete(paused_dir / name)
        if gone:
            files.sync_directory(paused_dir)
            with suppress(OSError):
                # Not while a mark is in it.
                paused_dir.rmdir()


def tell_engine(paths: Paths, note: Callable[[str], object]) -> None:
    """Have the engine take up what is applied now; `note` hears in one line if none runs."""
    try:
        answer = ask(paths.engine_dir, {"do": "reload"})
    except BackendError as error:
        note(f"sdcron: the engine was not told: {error.message}; {error.hint}")
        return
    option = " --user" if paths.scope is Scope.USER else ""
    if answer is None:
        note(f"sdcron: stored; no engine runs here that would run these jobs: start it with: sdcron engine{option}")


def remove_nothing_else(paths: Paths) -> None:
    """Once no job is applied, the file that says so goes too."""
    with suppress(SdcronError, OSError):
        if not read_local(paths):
            paths.local_jobs_file.unlink(missing_ok=True)
