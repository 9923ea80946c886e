"""Many job files as one set: which files, names unique over all of them, what this version cannot carry out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdcron.errors import JobFileError, Problem, UsageError
from sdcron.graph import circle_found, circles_of, edges_of, endless
from sdcron.hosts import belongs, may_meet
from sdcron.job import Overlap, Source
from sdcron.jobfile import locate_key, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sdcron.job import Job
    from sdcron.jobfile import Context

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class JobSet:
    """Jobs sorted by name; those that are for other machines by `hosts` apart, in `elsewhere`.

    `directories` and `files` are the real paths of the directories, and the single files, they were asked for from. A
    file's path is that of `Job.source`: its directory's real path and its own name, which may be a link.
    """

    jobs: tuple[Job, ...]
    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    elsewhere: tuple[Job, ...] = ()
    host: str = ""
    """The machine's name; empty where it has none."""

    def of_all_hosts(self) -> JobSet:
        """The same with those of other hosts among the others."""
        jobs = sorted((*self.jobs, *self.elsewhere), key=lambda job: job.name)
        return JobSet(tuple(jobs), self.directories, self.files)


@dataclass(frozen=True, slots=True)
class JobPaths:
    """The job files that some paths stand for, as in JobSet: `chosen` maps a file's path to the path to show for it.

    They are `generated` from where they are the drop-in directories. `owners` are the files of jobs by name, which keep
    the name where another has it too.
    """

    chosen: Mapping[str, Path]
    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    generated: bool = False
    owners: Mapping[str, str] = field(default_factory=dict)


def find_files(paths: Sequence[Path]) -> JobPaths:
    """A directory is its `*.yaml` and `*.yml`, not hidden, not deeper ones.

    Raises UsageError for no such path, and for a single file that its directory would not read.
    """
    directories: dict[str, None] = {}
    files: dict[str, None] = {}
    chosen: dict[str, Path] = {}
    for path in paths:
        found, is_directory = _files(path)
        parent = os.path.realpath(path if is_directory else path.parent)
        if is_directory:
            directories[parent] = None
        for file in found:
            absolute = f"{parent.rstrip('/')}/{file.name}"
            chosen.setdefault(absolute, file)
            if not is_directory:
                files[absolute] = None
    return JobPaths(chosen, tuple(directories), tuple(files))


def read_paths(paths: Sequence[Path], context: Context) -> JobSet:
    """Read files and directories.

    Raises UsageError when a path does not exist, and JobFileError with every problem of every file.
    """
    return read_files(find_files(paths), context)


def read_files(
    found: JobPaths,
    context: Context,
    *,
    skip: Mapping[str, Sequence[str]] = MappingProxyType({}),
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> JobSet:
    """Read all but the files in `skip`, real path -> names of its jobs, known from before. Raises JobFileError."""
    jobs: list[Job] = []
    problems: dict[Problem, None] = {}
    for count, (absolute, file) in enumerate(found.chosen.items()):
        progress("reading", count, len(found.chosen))
        if absolute not in skip:
            read, wrong = read_file(file, context)
            jobs += read
            problems.update(dict.fromkeys(wrong))
    taken = {name: Source(path, shown=str(found.chosen[path])) for path, names in skip.items() for name in names}
    jobs.sort(key=lambda job: job.name)
    here = tuple(job for job in jobs if belongs(job, context.host))
    elsewhere = tuple(job for job in jobs if not belongs(job, context.host))
    repeated = _repeated_names(here, elsewhere, taken, found.owners)
    problems.update(dict.fromkeys((*repeated, *check_together(here))))
    if problems:
        raise JobFileError(tuple(problems))
    return JobSet(here, found.directories, found.files, elsewhere, context.host)


def check_together(jobs: Sequence[Job]) -> list[Problem]:
    """A problem for jobs of one machine that wait for each other, or for what nothing can wait for."""
    return [*_circles(jobs), *_parallel(jobs)]


def check_hosts(jobs: JobSet) -> tuple[Problem, ...]:
    """A problem for each job of which it cannot be told whether it is for this machine."""
    hint = "give it one: hostnamectl set-hostname NAME, or in etc/hostname below --root"
    return tuple(
        Problem(
            job.source.shown, job.source.line, 1, "this machine has no name, and the job is for some", "hosts", hint
        )
        for job in (jobs.elsewhere if not jobs.host else ())
    )


def check_supported(jobs: Sequence[Job], *, user: bool = False) -> tuple[Problem, ...]:
    """A problem for each key that this version, or a `user` service manager, cannot carry out, at its place."""
    problems: dict[Problem, None] = {}
    for job in jobs:
        for key in job.unsupported:
            hint = f"remove '{key}', or wait for a version that has it"
            problems[_problem_at(job, key, f"key '{key}' is not supported yet", hint)] = None
        if user:
            for key in _root_keys(job):
                message = f"'{key}' needs the machine's service manager: yours can run jobs only as you"
                problems[_problem_at(job, key, message, f"remove '{key}', or apply as root without --user")] = None
    return tuple(problems)


def _root_keys(job: Job) -> list[str]:
    """The keys of a job that systemd honours for root alone (systemd.exec(5), User=; systemd.timer(5), WakeSystem=)."""
    asked = {"user": job.user is not None, "group": job.group is not None, "when": job.when.wake}
    return [key for key, present in asked.items() if present]


def _problem_at(job: Job, key: str, message: str, hint: str) -> Problem:
    line, column, source_line = locate_key(job.source.path, job.name, key)
    return Problem(job.source.shown, line or job.source.line, column or 1, message, key, hint, source_line)


def _files(path: Path) -> tuple[list[Path], bool]:
    """The job files a path stands for, sorted, and whether it is a directory."""
    try:
        if not path.is_dir():
            path.stat()
            if is_job_file(path.name):
                return [path], False
            # An apply of its directory would not see it, and remove its jobs.
            name = PurePath(path.name.lstrip(".")).stem or "NAME"
            raise UsageError(f"{path} is not called *.yaml or *.yml, or is hidden", f"rename it to {name}.yaml")
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if is_job_file(entry.name))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", "give a job file, or a directory of job files") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    return [path / name for name in names], True


def is_job_file(name: str) -> bool:
    """Whether a file of this name is a job file when its directory is read."""
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def _circles(jobs: Sequence[Job]) -> list[Problem]:
    """A problem for each circle of jobs that wait for each other."""
    edges = edges_of(jobs)
    circles = circles_of(edges)
    if not circles:
        return []
    keys = {(edge.upstream, edge.downstream): edge.key for edge in reversed(edges)}
    named = {job.name: job for job in jobs}
    closed = ((circle, keys[circle[-1], circle[0]]) for circle in circles)
    return [_problem_at(named[circle[0]], key, *circle_found(circle, key)) for circle, key in closed]


def _parallel(jobs: Sequence[Job]) -> list[Problem]:
    """A problem for each job that waits for one of which several runs may be on: none of these is the one that counts.

    By systemd what is added to such a job's service would not be heard by the others of its services.
    """
    several = {job.name for job in jobs if job.overlap is Overlap.ALLOW}
    by_name = {job.name: job for job in jobs} if several else {}
    return (
        [
            _problem_at(by_name[edge.downstream], edge.key, *endless(edge))
            for edge in edges_of(jobs)
            if edge.upstream in several
        ]
        if several
        else []
    )


def _repeated_names(
    here: Sequence[Job], elsewhere: Sequence[Job], taken: Mapping[str, Source], owners: Mapping[str, str]
) -> list[Problem]:
    """A problem for every job whose name its owner, or else an earlier one, has that is for the same machine."""
    problems = []
    of_name: dict[str, list[Job]] = {}
    ours = {id(job) for job in here}

    def rank(job: Job) -> tuple[str, bool, str, int]:
        return (job.name, job.source.path != owners.get(job.name), job.source.path, job.source.line)

    for job in sorted((*here, *elsewhere), key=rank):
        others = of_name.setdefault(job.name, [])
        is_here = id(job) in ours
        first = taken.get(job.name) if is_here else None
        for other in others:
            if first is None and ((is_here and id(other) in ours) or may_meet(job, other)):
                first = other.source
        others.append(job)
        if first is not None:
            where = f"{first.shown}:{first.line}"
            message = f"the job name '{job.name}' is taken already, by {where}"
            hint = "rename one of the two; names are unique over everything that is applied together"
            problems.append(Problem(job.source.shown, job.source.line, 1, message, "name", hint))
    return problems
