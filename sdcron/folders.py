"""A directory whose folders say when the scripts in them run, as PyCron has them: `1day/at0730/backup.sh`.

The names of the folders are read by folder_times.py. The rules for scripts are PyCron's, as far as they make sense:

- Every executable file is a job, and runs without arguments. One without a `#!` line is given to /bin/sh, as by the
  shell that PyCron starts. What PyCron was started in is no job's directory, so a job has the default one.
- A run that was missed is made up for, and no job runs twice at a time. A failure is retried every 5 minutes: 20 times
  or until the next regular run, where PyCron retries without end. Where that run comes first, there is no retry.
- What begins with a dot is passed over without a word, and so are files that editors and package managers leave behind,
  as run-parts(8) does. Whatever else is no job is a warning; nothing lies deeper than in an `at` folder.

A job is called after its path, `1day-at0730-backup.sh`: always with its folders, so that no other script changes its
name. A character that has no place in a name becomes `_`, and then eight digits of the path's hash tell it from others;
they also tell `1day/at0730-x` from `1day/at0730/x`.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from sdcron.entries import ScheduleMistakes
from sdcron.errors import Problem, UsageError
from sdcron.folder_times import FolderTimes, folder_times
from sdcron.job import Job, Retry, Source
from sdcron.job_values import RefusedValueError, check_file_path
from sdcron.jobfile import Context, is_job_name, others_may_write
from sdcron.schedule import Schedule, parse_schedule
from sdcron.yaml_nodes import printable

RETRY = Retry(timedelta(minutes=5), attempts=20)
"""PyCron's delay after a failure, as often as a job file may ask for."""

_LIKE_AT = re.compile(r"at[0-9]{4}-")
_UNLIKE_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
# Of emacs and others (~, #x#), vi (.swp), dpkg, ucf and rpm: a copy of a script is not one more job.
_LEFTOVER = re.compile(r".*(~|\.(swp|dpkg-[a-z]+|ucf-[a-z]+|rpm(save|new|orig)))|#.*#", re.DOTALL)

_HASH_DIGITS = 8
_LONGEST_NAME = 128
_HEAD = 512  # bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory of folders holds: its jobs by name, and a warning for all in it that is none."""

    jobs: tuple[Job, ...]
    problems: tuple[Problem, ...]


def read_folders(directory: Path, context: Context, retry: Retry | None = RETRY) -> Found:
    """All jobs in the folders of `directory`, retried after a failure by `retry`.

    What is wrong in it is a problem, and the others go on. Raises UsageError for no such directory, or one that cannot
    be read.
    """
    try:
        base = Path(os.path.realpath(directory, strict=True))
        names = _names(base)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "is not a directory"
        hint = "give a directory of folders such as 5min and 1day"
        raise UsageError(f"{printable(str(directory))} {what}", hint) from error
    except OSError as error:
        message = f"{printable(str(directory))} cannot be read: {error.strerror}"
        raise UsageError(message, "check its permissions") from error
    reading = _Reading(base, directory, context, retry)
    reading.read(names)
    return Found(tuple(sorted(reading.jobs.values(), key=lambda job: job.name)), tuple(reading.problems))


def _job_name(parts: tuple[str, ...]) -> str:
    """The name of a script's job: the same for the same path, and another one for every other path."""
    plain = "-".join(parts)
    # `1day/at0730-x` shall not be taken for `1day/at0730/x`.
    if is_job_name(plain) and not (len(parts) == 2 and _LIKE_AT.match(parts[1])):
        return plain
    digits = sha256("/".join(parts).encode()).hexdigest()[:_HASH_DIGITS]
    return f"{_UNLIKE_A_NAME.sub('_', plain)[: _LONGEST_NAME - _HASH_DIGITS - 1]}-{digits}"


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted, without hidden ones. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _is_link(path: Path) -> bool:
    """Whether a link is there. Path.is_symlink() raises PermissionError up to Python 3.13."""
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def _command(path: Path) -> tuple[str, ...]:
    """The command that runs a script: itself, or /bin/sh where execve(2) would fail with ENOEXEC, as shells do it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            head = stream.read(_HEAD)
    except OSError:  # a program that may be run, but not read
        return (str(path),)
    return (str(path),) if head.startswith(b"#!") or b"\0" in head else ("/bin/sh", str(path))


@dataclass(slots=True)
class _Reading:
    """One pass over a directory; what is found on the way is in `jobs` (by name) and `problems`."""

    base: Path
    shown: Path
    context: Context
    retry: Retry | None
    jobs: dict[str, Job] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def read(self, names: list[str]) -> None:
        """Read what is in the directory itself: folders."""
        if not self._is_sound((), self.base, "directory"):
            return
        for name in names:
            mode = self._mode((name,))
            if stat.S_ISDIR(mode):
                self._read_folder((name,))
            elif mode and not _LEFTOVER.fullmatch(name):
                hint = "put scripts into a folder such as 1day, and keep other files elsewhere"
                self._warn((name,), "is in no folder that says how often it runs", hint)

    def _read_folder(self, folder: tuple[str, ...]) -> None:
        """Read the scripts in a folder and, unless it is one itself, in its `at` folders."""
        path = self.base.joinpath(*folder)
        try:
            times = folder_times(*folder)
        except RefusedValueError as error:
            self._warn(folder, error.message, error.hint)
            return
        if not self._is_sound(folder, path, "folder"):
            return
        try:
            names = _names(path)
        except OSError as error:
            self._warn(folder, f"cannot be read: {error.strerror}", "check its permissions")
            return
        scripts: list[tuple[str, ...]] = []
        for name in names:
            mode = self._mode((*folder, name))
            if stat.S_ISDIR(mode):
                if len(folder) == 1:
                    self._read_folder((*folder, name))
                else:
                    hint = f"move its scripts to {'/'.join(folder)}, and other files elsewhere"
                    self._warn((*folder, name), "is too deep: nothing in it runs", hint)
            elif mode and not _LEFTOVER.fullmatch(name) and self._is_script((*folder, name), mode):
                scripts.append((*folder, name))
        if scripts:
            self._add_jobs(folder, scripts, times)

    def _add_jobs(self, folder: tuple[str, ...], scripts: list[tuple[str, ...]], times: FolderTimes) -> None:
        for warning in times.warnings:
            self._warn(folder, warning, "rename the folder")
        try:
            schedule = parse_schedule(times.texts, timezone=times.timezone, local_timezone=self.context.local_timezone)
        except ScheduleMistakes as error:
            self._warn(folder, f"has no schedule: {error.message}", error.hint)
            return
        retry = self.retry if self.retry is not None and self.retry.delay < times.interval else None
        for script in scripts:
            name = _job_name(script)
            if name in self.jobs:
                self._warn(script, f"has the job name '{name}', which is taken already", "rename it")
                continue
            self.jobs[name] = self._job(name, script, schedule, retry)

    def _job(self, name: str, script: tuple[str, ...], schedule: Schedule, retry: Retry | None) -> Job:
        path = self.base.joinpath(*script)
        return Job(
            name=name,
            source=Source(str(path), shown=self._shown(script)),
            command=_command(path),
            description=" ".join("/".join(script).split()),
            schedule=schedule,
            timezone=schedule.timezone,
            retry=retry,
        )

    def _mode(self, parts: tuple[str, ...]) -> int:
        """The mode of what is there, through links; 0 for nothing, with a warning unless it has just gone."""
        path = self.base.joinpath(*parts)
        try:
            return path.stat().st_mode
        except OSError as error:
            is_link = _is_link(path)
            if error.errno == errno.ENOENT and not is_link:
                return 0
            reason = "leads nowhere" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
            hint = "it is a link: mend it, or delete it" if is_link else "check its permissions, and its folder's"
            self._warn(parts, reason, hint)
            return 0

    def _is_script(self, parts: tuple[str, ...], mode: int) -> bool:
        """Whether the file can be a job; warns unless it can."""
        path = self.base.joinpath(*parts)
        if not stat.S_ISREG(mode):
            self._warn(parts, "is not a file", "only files and links to files can be run")
        elif not os.access(path, os.X_OK):
            hint = f"run chmod +x {shlex.quote(self._shown(parts))}, or keep it elsewhere"
            self._warn(parts, "is not executable, so it is no job", hint)
        else:
            return self._is_sound(parts, path, "file")
        return False

    def _is_sound(self, parts: tuple[str, ...], path: Path, what: str) -> bool:
        """Whether units can name the path and nobody else may write there; warns unless it is so."""
        try:
            check_file_path(str(path))
        except RefusedValueError as error:
            self._warn(parts, error.message, f"rename the {what}")
            return False
        if not self.context.root_owned_only:
            return True
        places = [path]
        if _is_link(path):
            places.append(Path(os.path.realpath(path)).parent)
        for place in places:
            try:
                if not others_may_write(str(place)):
                    continue
                status = place.stat()
            except OSError as error:
                self._warn(parts, f"cannot be read: {error.strerror}", "check its permissions")
                return False
            which = "" if place is path else f"is in {printable(str(place))}, which "
            shown = self._shown(parts) if place is path else printable(str(place))
            message = (
                f"{which}belongs to uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}: "
                "others may write to it, so they decide what runs"
            )
            typed = shlex.quote(shown)
            self._warn(parts, message, f"run: chown root: {typed} && chmod go-w {typed}")
            return False
        return True

    def _shown(self, parts: tuple[str, ...]) -> str:
        return printable(str(self.shown.joinpath(*parts)))

    def _warn(self, parts: tuple[str, ...], message: str, hint: str) -> None:
        self.problems.append(Problem(self._shown(parts), 0, 0, message, hint=hint))
