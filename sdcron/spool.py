"""What jobs print, on disk with bounded space: the engine writes it here, spool_log.py reads it.

Two files a job, JOB.log and the one before it, JOB.log~; spool_lines.py says how a line is stored in them.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdcron.files import make_directory
from sdcron.output import redact
from sdcron.spool_lines import (
    FILE,
    LONGEST_FIRST,
    PIECE,
    SDCRON,
    file_number,
    parse_stored,
    spool_file,
    stored_line,
    stored_pieces,
)
from sdcron.spool_runs import SpooledRun, new_run, rest_of, take_piece

if TYPE_CHECKING:
    from pathlib import Path

    from sdcron.output import Patterns

_OPEN_FILES = 64
_ONLY_BEGUN = 100
"""Bytes: a file that is no larger has no line of a job's yet."""
_TOLD_AGAIN_US = 3_600_000_000


@dataclass(slots=True)
class _File:
    descriptor: int
    inode: int
    size: int
    whole: bool
    """Whether its last byte ends a line."""


class Spool:
    """The output of all jobs below one directory. One process writes, and no method raises OSError.

    What cannot be written is left out, and counted; the job's next line that can be is preceded by one that says so.
    """

    def __init__(self, directory: Path, keep_bytes: int) -> None:
        """`keep_bytes` is what one job may take on disk, beside a single line that is larger than half of it."""
        self._directory = directory
        self.keep_bytes = keep_bytes
        self._most_open = min(_OPEN_FILES, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8, 1))
        self._files: OrderedDict[str, _File] = OrderedDict()
        """Those that are open, the one that was used last at the end."""
        self._runs: dict[str, SpooledRun] = {}
        self._untold: dict[str, SpooledRun] = {}
        """Runs whose start is not written yet."""
        self._left_out: dict[str, tuple[int, str]] = {}
        """By job: bytes of output, 0 if only words of sdcron's are missing, and why."""
        self._told: dict[int | None, int] = {}
        """When there was a note about an error."""
        self._notes: list[str] = []

    def _half(self) -> int:
        return max(self.keep_bytes // 2, 1)

    def begin(self, job: str, run_id: str, when_us: int, patterns: Patterns = (), *, later: bool = False) -> None:
        """A run starts; `patterns` are blacked out in each of its lines before it is written.

        `run_id` is made of letters, digits and `-`, at most 64. With `later` its start is written with what follows
        first, or by `tell_starts`: many runs are over at once, and one write does for all.
        """
        run = self._runs[run_id] = new_run(job, run_id, patterns, when_us)
        run.start = b"%d %b start 0 \n" % (max(when_us, 0), run.run_id)
        self._untold[run_id] = run
        if not later:
            self._append(job, self._started(run), when_us)

    def tell_starts(self, before_us: int) -> bool:
        """Write the starts that are not written yet, of runs that began before; whether all are written now."""
        for run in [run for run in self._untold.values() if run.when_us <= before_us]:
            self._append(run.job, self._started(run), run.when_us)
        return not self._untold

    def _started(self, run: SpooledRun) -> bytes:
        """The line that tells of a run's start, once."""
        start, run.start = run.start, b""
        if start:
            del self._untold[run.run_id.decode()]
            self._look_again(run.job)
        return start

    def write(self, job: str, run_id: str, which: str, piece: bytes, when_us: int) -> None:
        """The run printed `piece` to `which`, `stdout` or `stderr`. Whole lines are on disk on return."""
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = new_run(job, run_id, (), when_us)
        run.when_us = when_us
        lines = take_piece(run, run.streams[which], piece)
        if lines:
            self._append(job, self._started(run) + lines if run.start else lines, when_us)

    def say(self, job: str, text: str, when_us: int, run_id: str | None = None) -> None:
        """Words of sdcron's own, about a run or about none."""
        run = self._runs.get(run_id or "")
        said = text.encode("utf-8", "backslashreplace")
        if run is not None and run.patterns:
            said = redact(said, run.patterns)
        prefix = b"%d %b " % (max(when_us, 0), (run_id or "-").encode("ascii", "replace"))
        pieces = [piece for line in said.split(b"\n") for piece in stored_pieces(prefix, SDCRON, line)]
        start = self._started(run) if run is not None and run.start else b""
        self._append(job, start + b"".join(pieces), when_us)

    def end(self, job: str, run_id: str, when_us: int, outcome_text: str) -> None:
        """A run is over: its last lines, also those without an end, and `outcome` or `outcome: reason`."""
        run = self._runs.pop(run_id, None) or new_run(job, run_id, (), when_us)
        run.when_us = when_us
        said = outcome_text.replace("\n", " ").encode("utf-8", "backslashreplace")[:PIECE]
        end = b"%d %b end %d %b\n" % (max(when_us, 0), run.run_id, len(said), said)
        self._append(job, self._started(run) + rest_of(run) + end, when_us)

    def forget(self, job: str) -> None:
        """Remove all that is stored of a job."""
        self._close(job)
        self._left_out.pop(job, None)
        current = spool_file(self._directory, job)
        for path in (current, current + "~"):
            try:
                os.unlink(path)  # noqa: PTH108 - as all paths here
            except FileNotFoundError:
                pass
            except OSError as error:
                self._note(path, error, self._told.get(error.errno, 0))

    def take_notes(self) -> tuple[str, ...]:
        """What a user should know, since the last call, one line each; the same error once an hour at most."""
        notes = tuple(self._notes)
        self._notes.clear()
        return notes

    def close(self) -> None:
        """Write the beginnings of lines whose ends did not come, and close all files."""
        for run in self._runs.values():
            if lines := rest_of(run):
                self._append(run.job, lines, run.when_us)
        self._runs.clear()
        self.let_go()

    def let_go(self) -> None:
        """Close all files: others need the descriptors more. They are opened again when there is something to write."""
        for job in list(self._files):
            self._close(job)

    def _append(self, job: str, lines: bytes, when_us: int) -> None:
        """Write whole lines, in as many files as they need."""
        at = 0
        told = b""
        if job in self._left_out:
            told = _left_out_line(*self._left_out[job], when_us)
            lines = told + lines
        try:
            file = self._opened(job)
            if not file.whole:
                lines = b"\n" + lines
            while at < len(lines):
                if not file.size:
                    lines = lines[:at] + self._first_line(job, when_us) + lines[at:]
                end = len(lines)
                if file.size + end - at > self._half():
                    end = lines.rfind(b"\n", at, max(at + self._half() - file.size, at)) + 1
                    if not end and file.size > _ONLY_BEGUN:
                        file = self._rotate(job)
                        continue
                    end = end or lines.index(b"\n", at) + 1
                while at < end:
                    written = os.write(file.descriptor, lines if end - at == len(lines) else lines[at:end])
                    at += written
                    file.size += written
            file.whole = True
        except OSError as error:
            rest = lines[lines.rfind(b"\n", 0, at) + 1 :]
            if told and told not in rest:
                del self._left_out[job]
            self._leave_out(job, rest, error, when_us)
            return
        if told:
            del self._left_out[job]

    def _leave_out(self, job: str, lines: bytes, error: OSError, when_us: int) -> None:
        """Lines are not written. The file is closed: what is wrong with it may be over when it is opened again."""
        self._close(job)
        stored = [parse_stored(line) for line in lines.split(b"\n")]
        lost = sum(
            len(line.text) + (not line.goes_on) for line in stored if line and line.kind in (b"stdout", b"stderr")
        )
        self._left_out[job] = (self._left_out.get(job, (0, ""))[0] + lost, error.strerror or str(error))
        for run in self._runs.values():
            if run.job == job:
                for stream in run.streams.values():
                    stream.continues = False
        self._note(spool_file(self._directory, job), error, when_us)

    def _note(self, path: str, error: OSError, when_us: int) -> None:
        before = self._told.get(error.errno)
        if before is None or abs(when_us - before) >= _TOLD_AGAIN_US:
            self._told[error.errno] = when_us
            self._notes.append(
                f"{path}: {error.strerror or error}: what jobs print is left out while it cannot be written"
            )

    def _opened(self, job: str) -> _File:
        """The current file of a job, made if missing. Raises OSError."""
        file = self._files.get(job)
        if file is not None:
            self._files.move_to_end(job)
            return file
        path = spool_file(self._directory, job)
        try:
            file = _open(path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                self._make_directory()
            elif error.errno in (errno.EMFILE, errno.ENFILE) and self._files:
                self.let_go()
            else:
                raise
            file = _open(path)
        while len(self._files) >= self._most_open:
            self._close(next(iter(self._files)))
        self._files[job] = file
        return file

    def _make_directory(self) -> None:
        make_directory(self._directory.parent)
        self._directory.mkdir(exist_ok=True)
        self._directory.chmod(0o750)  # whatever the umask

    def _look_again(self, job: str) -> None:
        """Let go of a file that somebody else moved, deleted or changed."""
        file = self._files.get(job)
        if file is None:
            return
        try:
            there = os.stat(spool_file(self._directory, job))  # noqa: PTH116 - for each run: a Path takes longer
        except OSError:
            self._close(job)
            return
        if there.st_ino != file.inode or there.st_size != file.size:
            self._close(job)

    def _first_line(self, job: str, when_us: int) -> bytes:
        before = 0
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError):
            descriptor = os.open(spool_file(self._directory, job) + "~", flags)
            try:
                before = file_number(os.pread(descriptor, LONGEST_FIRST, 0))
            finally:
                os.close(descriptor)
        # Also where the older file is gone, or cannot be read, it is higher than any before.
        number = before + 1 if before else max(when_us, 1)
        return stored_line(b"%d - " % max(when_us, 0), FILE, b"%d" % number)

    def _rotate(self, job: str) -> _File:
        """Make the current file the older one, whose space becomes free, and begin a new one. Raises OSError."""
        path = spool_file(self._directory, job)
        os.replace(path, path + "~")  # noqa: PTH105 - as above
        self._close(job)
        return self._opened(job)

    def _close(self, job: str) -> None:
        file = self._files.pop(job, None)
        if file is not None:
            with suppress(OSError):
                os.close(file.descriptor)


def _open(path: str) -> _File:
    """Open a job's file to append to it. Raises OSError."""
    # O_NONBLOCK: a FIFO in the way makes nobody wait.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if not status.st_size and stat.S_IMODE(status.st_mode) != 0o640:
            os.fchmod(descriptor, 0o640)  # whatever the umask
        whole = not status.st_size or os.pread(descriptor, 1, status.st_size - 1) == b"\n"
    except BaseException:
        os.close(descriptor)
        raise
    return _File(descriptor, status.st_ino, status.st_size, whole)


def _left_out_line(count: int, cause: str, when_us: int) -> bytes:
    what = f"{count} bytes" if count else "lines of sdcron's"
    text = f"[… {what} left out, which could not be written: {cause}]"
    return stored_line(b"%d - " % max(when_us, 0), SDCRON, text.encode("utf-8", "backslashreplace"))
