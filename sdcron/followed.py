"""Directories of job files that an engine runs and follows: what changed is applied, and one bad file stops no other.

Files are looked at, not waited for: that works in a container on every file system. The more there are, the less often.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sdcron.apply import apply_lock
from sdcron.elsewhere import write_elsewhere
from sdcron.errors import JobFileError, LockHeldError, SdcronError
from sdcron.files import Files
from sdcron.folders import read_folders
from sdcron.hosts import belongs
from sdcron.jobfile import read_file
from sdcron.jobset import JobPaths, JobSet, check_hosts, find_files
from sdcron.local_jobs import compile_local, read_local, write_local
from sdcron.local_operations import LocalApplier, applied_to_systemd, problems_of, systemd_names
from sdcron.operations import file_context
from sdcron.plan import Known, make_plan
from sdcron.record import look
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from sdcron.errors import Problem
    from sdcron.job import Job
    from sdcron.place import Place
    from sdcron.record import Look
    from sdcron.units import CompiledJob

_LOCK_SECONDS = 30.0
"""How long an engine that begins waits for an apply; one that runs waits for nobody, and looks again."""
_AGAIN_SECONDS = 30.0
"""When it is tried again to apply what could not be."""
_SHORTEST_SECONDS = 1.0
_SHARE = 1000
"""Looking takes at most this part of the time."""
_DEPTH = 3
"""Folders, `at` folders in them, scripts."""


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
        """What was wrong when the files were taken up last; what is wrong again after it was mended is told again."""
        self._found: set[str] = set()
        """What is wrong now."""
        self._gone = ""
        self._look_at = 0.0
        self._clean: frozenset[str] = frozenset()
        """Files of which nothing was to be told when they were taken up last."""
        self._wrong: set[str] = set()
        """The others, now."""
        self._has_changed = False

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
            if self._gone != error.message:
                self._gone = error.message
                self._tell(f"{error.message}; {error.hint}")
            return False
        finally:
            ended = time.monotonic()
            self._look_at = ended + max(_SHORTEST_SECONDS, (ended - began) * _SHARE)
        self._gone = ""
        self._has_changed = seen != self._seen
        return self._has_changed

    def take_up(self) -> None:
        """Apply what the files say now: all of them, or if `changed` has said so, those that have.

        The first time it raises SdcronError, as for paths that are not there, and OSError. Later what cannot be
        applied is told, all stays as it was, and `changed` has it tried again.
        """
        if self._seen is None:
            self._seen = self._taken_up(_LOCK_SECONDS, frozenset())
            return
        self._found = set()
        clean, self._has_changed = self._clean if self._has_changed else frozenset(), False
        try:
            self._seen = self._taken_up(0.0, clean)
        except LockHeldError:
            # Who holds it may wait for the engine: nobody is kept waiting here.
            return
        except SdcronError as error:
            self._tell_once(f"{error.message}; {error.hint}")
            self._look_at = time.monotonic() + _AGAIN_SECONDS
        except OSError as error:
            self._tell_once(f"{error.filename}: {error.strerror}")
            self._look_at = time.monotonic() + _AGAIN_SECONDS
        self._told = self._found

    def _taken_up(self, lock_seconds: float, clean: frozenset[str]) -> dict[str, Look | None]:
        """Apply; how the files looked. Those that are `clean` and look as before are not read. Raises as take_up."""
        seen = self._look()
        before = self._seen or {}
        context = file_context(self._place)
        jobs: list[Job] = []
        problems: list[Problem] = []
        bad: set[str] = set()
        self._wrong = set()
        found = find_files(self._paths) if self._paths else JobPaths({})
        same = frozenset(path for path in found.chosen if path in clean and seen.get(path) == before.get(path))
        for source, file in found.chosen.items():
            if source in same:
                continue
            read, wrong = read_file(file, context)
            jobs += read
            problems += wrong
            if wrong:
                bad.add(source)
        others = [job for job in jobs if not belongs(job, context.host)]
        for problem in check_hosts(JobSet((), elsewhere=tuple(others), host=context.host)):
            self._tell_once(f"{problem}; {problem.hint}")
        jobs = [job for job in jobs if belongs(job, context.host)]
        directories = [*found.directories]
        base = ""
        if self._folders is not None:
            of_folders = read_folders(self._folders, context)
            jobs += of_folders.jobs
            problems += of_folders.problems
            # All of them belong to it, so that the last script of a folder takes its job with it.
            base = os.path.realpath(self._folders)
            directories.append(base)
        compiled = self._compiled(jobs, problems, bad, base)
        with apply_lock(self._place.paths, lock_seconds):
            whole = self._apply(compiled, bad, same, directories, found.files)
            write_elsewhere(self._place.paths, Files(), others, read=found.chosen.keys() - same)
        if not whole:
            return self._taken_up(lock_seconds, frozenset())
        self._clean = frozenset(found.chosen) - self._wrong - bad
        return seen

    def _compiled(self, jobs: list[Job], problems: list[Problem], bad: set[str], base: str) -> list[CompiledJob]:
        """The jobs that can be applied, each name once; the files of others are added to `bad`."""
        chosen: dict[str, Job] = {}
        impossible = problems_of(jobs, user=self._place.user)
        refused = {problem.path for problem in impossible}
        for problem in (*problems, *impossible):
            self._tell_once(f"{problem}; {problem.hint}" if problem.hint else str(problem))
        for job in jobs:
            if job.source.shown in refused:
                bad.add(job.source.path)
            elif job.name in chosen:
                self._wrong.add(job.source.path)
                other = chosen[job.name].source.shown
                self._tell_once(f"{job.source.shown}: the job name '{job.name}' is taken already, by {other}")
            else:
                chosen[job.name] = job
        compiled = []
        for job in chosen.values():
            directory = os.path.dirname(job.source.path)  # noqa: PTH120 - as in Job
            is_script = base and job.source.path.startswith(f"{base.rstrip('/')}/") and directory != base
            compiled.append(compile_local(job, base if is_script else directory))
        return compiled

    def _apply(
        self,
        compiled: list[CompiledJob],
        bad: set[str],
        unread: frozenset[str],
        directories: Collection[str],
        files: Collection[str],
    ) -> bool:
        """Make these jobs, and those of files that were not read, what is applied; False if those must be read."""
        paths = self._place.paths
        before = read_local(paths)
        same = {name for name, job in before.items() if job.source in unread}
        of_systemd = systemd_names(paths)
        if any(job.name in same for job in compiled) or any(service_name(name) in of_systemd for name in same):
            return False
        for clash in applied_to_systemd(paths, compiled):
            self._wrong.add(clash.path)
            self._tell_once(f"{clash.message}; {clash.hint}")
        compiled = [job for job in compiled if service_name(job.name) not in of_systemd]
        names = {job.name for job in compiled}
        # What a bad file said before goes on.
        kept = {
            name
            for name, job in before.items()
            if job.source in bad and name not in names and service_name(name) not in of_systemd
        }
        known = Known({name: job for name, job in before.items() if name not in kept and name not in same})
        try:
            plan = make_plan(compiled, known, None, directories=directories, files=files)
        except JobFileError as error:
            for problem in error.problems:
                self._wrong.add(problem.path)
                self._tell_once(f"{problem.message}; {problem.hint}")
            compiled = [job for job in compiled if not _is_anothers(job, known, directories, files)]
            plan = make_plan(compiled, known, None, directories=directories, files=files)
        LocalApplier(paths).carry_out(plan)
        if not before and not plan:
            # What says that an engine is in use here.
            write_local(paths, ())
        return True

    def _look(self) -> dict[str, Look | None]:
        seen: dict[str, Look | None] = {}
        if self._paths:
            seen |= {path: look(path) for path in find_files(self._paths).chosen}
        if self._folders is not None:
            _look_into(str(self._folders), seen, _DEPTH)
        return seen

    def _tell_once(self, text: str) -> None:
        self._found.add(text)
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def _is_anothers(job: CompiledJob, known: Known, directories: Collection[str], files: Collection[str]) -> bool:
    try:
        make_plan(
            [job],
            Known({name: known.jobs[name] for name in (job.name,) if name in known.jobs}),
            None,
            directories=directories,
            files=files,
        )
    except JobFileError:
        return True
    return False


def _look_into(directory: str, seen: dict[str, Look | None], depth: int) -> None:
    """How all looks that lies in a directory, also behind links; what begins with a dot is nothing of its."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))  # noqa: PTH208 - names alone
    except OSError:
        return
    for name in names:
        path = f"{directory}/{name}"
        seen[path] = look(path)
        if depth > 1:
            _look_into(path, seen, depth - 1)
