"""The files of a status log: the current one, those rotated away and those set aside, and what is a record in them.

Owns how they are named, opened and read; status_log.py says when, and writes them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sdcron.errors import SdcronError
from sdcron.files import Files, make_directory
from sdcron.runs import Run, from_json, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.settings import Settings

LOG_NAME = "job_status.log"
ROTATED = f"{LOG_NAME}-"
DAMAGED = f"{LOG_NAME}.damaged-"
_STAMPED = re.compile(rf"(?:{re.escape(ROTATED)}|{re.escape(DAMAGED)})([0-9]{{8}}T[0-9]{{6}}Z)(?:\.([0-9]{{1,9}}))?\Z")
_MICROSECOND = timedelta(microseconds=1)
_STAMP = "%Y%m%dT%H%M%SZ"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_OURS = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
_CHUNK = 1 << 16  # bytes that are read at once of what is no record
_LONGEST_LINE = 1 << 28  # bytes; a line beyond it is no record, and not held in memory to find out
_BATCH = 1 << 20  # bytes of lines in one Records


@dataclass(frozen=True, slots=True)
class OldLog:
    """A log that was rotated away or set aside, at `time_us` by its name; `size` in bytes."""

    path: Path
    time_us: int
    turn: int
    """Counts those of the same second from 1."""
    size: int

    @property
    def damaged(self) -> bool:
        """Whether it was set aside because of lines in it that are no records."""
        return self.path.name.startswith(DAMAGED)


@dataclass(frozen=True, slots=True)
class Records:
    """Some records of one file, in their order, and how many damaged pieces (or the file itself) were left out."""

    path: Path
    runs: tuple[Run, ...]
    damaged: int = 0


def make_log_directory(directory: Path, group: int | None) -> None:
    """Make the directory of a log, for its owner and `group` only. Raises SdcronError or OSError."""
    try:
        if directory.is_dir():
            return
        make_directory(directory.parent)
        directory.mkdir(mode=0o750, exist_ok=True)
        directory.chmod(0o750)  # whatever the umask
        if group is not None:
            os.chown(directory, -1, group)
    except OSError as error:
        raise _refusal(directory, error) from error


def open_log(path: Path, group: int | None) -> int:
    """A descriptor of a log, made if missing. Raises SdcronError for what is no regular file, or not ours to write."""
    try:
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError:
            descriptor = create_log(path, group)
            Files().sync_directory(path.parent)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.ENXIO, "not a regular file")
    except OSError as error:
        raise _refusal(path, error) from error
    return descriptor


def create_log(path: Path, group: int | None) -> int:
    """A descriptor of a new log, for its owner and `group` only. Raises OSError."""
    descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        os.fchmod(descriptor, 0o640)  # whatever the umask
        if group is not None:
            os.fchown(descriptor, -1, group)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _refusal(path: Path, error: OSError) -> Exception:
    """The error for what is in the way; `error` itself where the disk is to blame."""
    if error.errno in _NOT_OURS:
        return SdcronError(
            f"{path} is not a regular file", "move away what is there: sdcron writes its log under this name"
        )
    if error.errno in _NOT_ALLOWED:
        hint = f"see who owns it: {shlex.join(['ls', '-ld', str(path.parent), str(path)])}"
        return SdcronError(f"{path} cannot be written: {error.strerror}", hint)
    return error


def old_logs(directory: Path) -> list[OldLog]:
    """What was rotated away and set aside, oldest first by the time in the name; links and the like are not ours."""
    found = []
    for path in directory.iterdir():
        match = _STAMPED.match(path.name)
        if match is None:
            continue
        try:
            moment = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
            status = path.lstat()
        except (ValueError, FileNotFoundError):  # ValueError: no date, such as the 31st of February
            continue
        if stat.S_ISREG(status.st_mode):
            time_us = int(moment.timestamp()) * 1_000_000
            found.append(OldLog(path, time_us, int(match[2] or 1), status.st_size))
    return sorted(found, key=lambda log: (log.time_us, log.turn))


def free_name(directory: Path, prefix: str, now_us: int) -> Path:
    """`prefix` with the time, in UTC, and a number from 2 on where that is taken."""
    stem = prefix + moment_of(now_us).strftime(_STAMP)
    path, turn = directory / stem, 1
    while os.path.lexists(path):
        turn += 1
        path = directory / f"{stem}.{turn}"
    return path


def with_inode(directory: Path, inode: int) -> Path | None:
    """The regular file whose name begins as the log's does and that has this inode, whoever named it."""
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            if path.name.startswith(LOG_NAME) and path.lstat().st_ino == inode and stat.S_ISREG(path.lstat().st_mode):
                return path
    return None


def expired(directory: Path, settings: Settings, now_us: int) -> list[Path]:
    """The old logs that are older than `keep`, and the oldest ones while all together are larger than `total_size`."""
    found = old_logs(directory)
    oldest_us = now_us - settings.keep // _MICROSECOND
    gone = [log.path for log in found if log.time_us <= oldest_us]
    left = found[len(gone) :]
    total = sum(log.size for log in left) + _size(directory / LOG_NAME)
    for log in left:
        if total <= settings.total_size:
            break
        total -= log.size
        gone.append(log.path)
    return gone


def scan(descriptor: int, start: int, end: int) -> Iterator[tuple[bytes, str | None]]:
    """The bytes from `start` up to `end` in pieces: each the line of one record with its run id, or no record and None.

    Needs no more memory than the longest line that looks like a record. Raises OSError.
    """
    with open(descriptor, "rb", buffering=1 << 18, closefd=False) as stream:
        stream.seek(start)
        left = end - start
        while left > 0:
            piece = stream.readline(min(left, _CHUNK))
            if piece.startswith(b"{") and len(piece) == _CHUNK and not piece.endswith(b"\n"):
                piece += stream.readline(min(left, _LONGEST_LINE) - len(piece))
            if not piece:
                return
            left -= len(piece)
            record = as_record(piece)
            yield piece, None if record is None else record["run_id"]


def as_record(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, if it can be one of ours: whole, and with `schema`, `job` and `run_id`."""
    if not line.startswith(b"{") or not line.endswith(b"\n"):
        return None
    try:
        record: dict[str, Any] = json.loads(str(line, "utf-8"))
    except (ValueError, RecursionError):
        return None
    names = isinstance(record.get("job"), str) and isinstance(record.get("run_id"), str)
    return record if names and isinstance(record.get("schema"), int) else None


def read_back(directory: Path) -> Iterator[Records]:
    """Every record in the rotated logs and the current one, oldest first. What was set aside is not among them."""
    paths = [log.path for log in old_logs(directory) if not log.damaged] if directory.is_dir() else []
    for path in [*paths, directory / LOG_NAME]:
        if os.path.lexists(path):
            yield from _read_back_one(path)


def _read_back_one(path: Path) -> Iterator[Records]:
    runs: list[Run] = []
    damaged = size = 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IsADirectoryError(path)
            for line, run_id in scan(descriptor, 0, status.st_size):
                run = None if run_id is None else _as_run(line)
                if run is None:
                    damaged += 1
                else:
                    runs.append(run)
                size += len(line)
                if size > _BATCH:
                    yield Records(path, tuple(runs), damaged)
                    runs, damaged, size = [], 0, 0
        finally:
            os.close(descriptor)
    except OSError:
        # One file that cannot be read must not cost the records in all others.
        damaged += 1
    if runs or damaged:
        yield Records(path, tuple(runs), damaged)


def _as_run(line: bytes) -> Run | None:
    try:
        return from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
