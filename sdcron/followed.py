"""Directories of job files that an engine runs and follows: what changed is applied, and one bad file stops no other.

Files are looked at, not waited for: that works in a container on every file system. The more there are, the less often.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sdcron.apply import apply_lock
from sdcron.errors import JobFileError, SdcronError
from sdcron.folders import read_folders
from sdcron.jobfile import read_file
from sdcron.jobset import find_files
from sdcron.local_jobs import LocalJob, carried_out, compile_local, read_local, write_local
from sdcron.local_operations import applied_to_systemd, problems_of
from sdcron.operations import file_context
from sdcron.plan import Known, make_plan
from sdcron.record import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from sdcron.errors import Problem
    from sdcron.job import Job
    from sdcron.place import Place
    from sdcron.record import Look

_LOCK_SECONDS = 30.0
_SHORTEST_SECONDS = 1.0
_SHARE = 1000
"""Looking takes at most this part of the time."""


class Followed:
    """Job files and directories, and folders in PyCron's manner. `tell` hears of every problem, once."""

    def __init__(
        self, place: Place, paths: Sequence[Path], folders: Path | None, tell: Callable[[str], object]
    ) -> None:
        self._place = place
        self._paths = paths
        self._folders = folders
        self._tell = tell
        self._seen: dict[str, Look | None] | None = None
        self._told: set[str] = set()
        self._look_at = 0.0

    def __bool__(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._paths or self._folders)

    def changed(self) -> bool:
        """Whether files have changed since they were taken up; looks only now and then."""
        began = time.monotonic()
        if began < self._look_at:
            return False
        try:
            seen = self._look()
        except SdcronError as error:
            self._tell_once(f"{error.message}; {error.hint}")
            return False
        finally:
            ended = time.monotonic()
            self._look_at = ended + max(_SHORTEST_SECONDS, (ended - began) * _SHARE)
        return seen != self._seen

    def take_up(self) -> None:
        """Apply what the files say now. Raises SdcronError for paths that are not there, OSError."""
        self._seen = self._look()
        context = file_context(self._place)
        jobs: list[Job] = []
        problems: list[Problem] = []
        bad: set[str] = set()
        found = find_files(self._paths) if self._paths else None
        for source, file in found.chosen.items() if found is not None else ():
            read, wrong = read_file(file, context)
            jobs += read
            problems += wrong
            if wrong:
                bad.add(source)
        directories = list(found.directories) if found is not None else []
        if self._folders is not None:
            of_folders = read_folders(self._folders, context)
            jobs += of_folders.jobs
            problems += of_folders.problems
            directories += {os.path.dirname(job.source.path) for job in of_folders.jobs}  # noqa: PTH120 - as in Job
        self._apply(jobs, problems, bad, directories, found.files if found is not None else ())

    def _apply(
        self,
        jobs: list[Job],
        problems: list[Problem],
        bad: set[str],
        directories: Sequence[str],
        files: Iterable[str],
    ) -> None:
        paths = self._place.paths
        chosen: dict[str, Job] = {}
        impossible = problems_of(jobs, user=self._place.user)
        problems += impossible
        refused = {problem.path for problem in impossible}
        for job in jobs:
            if job.source.shown in refused:
                bad.add(job.source.path)
            elif job.name in chosen:
                other = chosen[job.name].source.shown
                self._tell_once(f"{job.source.shown}: the job name '{job.name}' is taken already, by {other}")
            else:
                chosen[job.name] = job
        for problem in problems:
            self._tell_once(f"{problem}; {problem.hint}" if problem.hint else str(problem))
        with apply_lock(paths, _LOCK_SECONDS):
            before = read_local(paths)
            compiled = [compile_local(job, os.path.dirname(job.source.path)) for job in chosen.values()]  # noqa: PTH120
            for clash in applied_to_systemd(paths, compiled):
                self._tell_once(f"{clash.message}; {clash.hint}")
                compiled = [job for job in compiled if job.source != clash.path]
            # What a bad file said before goes on.
            kept = {name for name, job in before.items() if job.source in bad and name not in chosen}
            others = {name: job for name, job in before.items() if name not in kept}
            try:
                plan = make_plan(compiled, Known(others), None, directories=directories, files=frozenset(files))
            except JobFileError as error:
                for problem in error.problems:
                    self._tell_once(f"{problem}; {problem.hint}")
                taken = {problem.path for problem in error.problems}
                compiled = [job for job in compiled if job.source not in taken]
                plan = make_plan(compiled, Known(others), None, directories=directories, files=frozenset(files))
            after: dict[str, LocalJob] = carried_out(plan, before, time.time_ns() // 1000)
            if plan or not before:
                write_local(paths, after.values())

    def _look(self) -> dict[str, Look | None]:
        seen: dict[str, Look | None] = {}
        if self._paths:
            seen |= {path: look(path) for path in find_files(self._paths).chosen}
        if self._folders is not None:
            for directory, names, files in os.walk(self._folders):
                names.sort()
                seen |= {f"{directory}/{name}": look(f"{directory}/{name}") for name in (*names, *files)}
        return seen

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)
