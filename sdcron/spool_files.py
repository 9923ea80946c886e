"""The two files of one job's output as one sequence of lines, forwards and backwards, also while they are rotated.

What a line says is spool_lines.py's matter; here it is bytes that end in a newline.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import BackendError
from sdcron.spool_lines import LONGEST_FIRST, LONGEST_STORED, SDCRON, file_number, spool_file, stored_line

if TYPE_CHECKING:
    from collections.abc import Iterator

Position = tuple[int, int]
"""Which file, and an offset in bytes in it, where a line begins."""
_BLOCK = 4 * (LONGEST_STORED // 4096 + 1) * 4096
"""Bytes that are read at once; more than a line has."""
_TRIES = 10
_GAP = "[… lines left out: they were gone before they could be read]"


@dataclass(slots=True)
class _File:
    descriptor: int
    inode: int
    end: int
    """Bytes it had when it was opened."""
    number: int
    """0 if it does not tell."""


class SpoolFiles:
    """Both files as they were when this was made, and then what comes. Every method raises BackendError."""

    def __init__(self, directory: Path, job: str) -> None:
        # The name may be anything that was typed; those of jobs begin with neither.
        safe = "/" not in job and "\0" not in job and not job.startswith((".", "-"))
        self._current = Path(spool_file(directory, job)) if safe else None
        self._older = Path(f"{self._current}~") if safe else None
        self._files: list[_File] = []
        """The oldest first."""
        self.position: Position = (0, 0)
        """What is read next."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing."""
        return not self._files

    @property
    def begin(self) -> Position:
        """Before the first line."""
        return (0, 0)

    @property
    def end(self) -> Position:
        """Behind the last line."""
        if not self._files:
            return (0, 0)
        last = len(self._files) - 1
        for position, line in self._backwards_in(last):
            return (last, position[1] + len(line) + 1)
        return (last, 0)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file.descriptor)
        self._files.clear()

    def rest(self) -> Iterator[bytes]:
        """The lines from `position` on that were there when the files were opened."""
        for _, lines in self.blocks():
            yield from lines

    def blocks(self) -> Iterator[tuple[Position, list[bytes]]]:
        """The same, many at once, with where the first of them begins."""
        while self._files:
            before = self.position
            lines = self._read(bounded=True)
            if lines:
                yield before, lines
            elif self.position == before:
                if before[0] + 1 >= len(self._files):
                    return
                self.position = (before[0] + 1, 0)

    def backwards(self) -> Iterator[tuple[Position, bytes]]:
        """All lines that were there when the files were opened, the last one first, with where each begins."""
        for index in reversed(range(len(self._files))):
            yield from self._backwards_in(index)

    def more(self) -> list[bytes]:
        """The next lines, also such as came after the files were opened; none if there are none now."""
        while True:
            if not self._files:
                self._open()
            if not self._files:
                return []
            if lines := self._read_on():
                return lines
            if self.position[0] + 1 < len(self._files):
                self.position = (self.position[0] + 1, 0)
                continue
            if not self._was_renamed():
                return []
            # It was written to up to then.
            if lines := self._read_on():
                return lines
            before = self._files[-1].number
            if not self._go_to_next():
                return []
            if 0 < before != self._files[0].number - 1:
                gap = stored_line(b"%d - " % (time.time_ns() // 1000), SDCRON, _GAP.encode())
                return [gap.removesuffix(b"\n")]

    def _open(self) -> None:
        """Open what is there, both files as of one moment."""
        if self._current is None or self._older is None:
            return
        for _ in range(_TRIES):
            self.close()
            older = _open(self._older)
            self._files = [older] if older is not None else []
            current = _open(self._current)
            self._files += [current] if current is not None else []
            if _inode(self._older) == (older.inode if older is not None else None):
                return
        # They are rotated all the time; between the two that were got there may have been others.
        for file in self._files[:-1]:
            os.close(file.descriptor)
        self._files = self._files[-1:]

    def _was_renamed(self) -> bool:
        """Whether what is read has become the older file, or is gone."""
        index, offset = self.position
        there = _status(self._current)
        if there is None or there.st_ino != self._files[-1].inode:
            return True
        if there.st_size < offset:  # emptied by somebody else
            self.position = (index, 0)
        return False

    def _go_to_next(self) -> bool:
        """Go on with the file that was begun after this one; False if there is none yet."""
        held = self._files[-1]
        # In this order: the older one is then not older than what was between the two.
        found = [_open(self._current), _open(self._older)]
        files = [file for file in found if file is not None]
        # Where none has a higher number the files were deleted, and the current one, if any, begins anew.
        later = [file for file in files if file.number > held.number and file.inode != held.inode]
        following = min(later, key=lambda file: file.number) if later else found[0]
        for file in files:
            if file is not following:
                os.close(file.descriptor)
        if following is None:
            return False
        if following.inode == held.inode or not following.end:
            os.close(following.descriptor)
            return False
        self.close()
        self._files = [following]
        self.position = (0, 0)
        return True

    def _read_on(self) -> list[bytes]:
        while True:
            before = self.position
            lines = self._read(bounded=False)
            if lines or self.position == before:
                return lines

    def _read(self, *, bounded: bool) -> list[bytes]:
        """Whole lines at `position`, which moves behind them."""
        index, offset = self.position
        file = self._files[index]
        size = max(min(_BLOCK, file.end - offset), 0) if bounded else _BLOCK
        block = _bytes_at(file, size, offset)
        end = block.rfind(b"\n")
        if end < 0:
            if len(block) == _BLOCK:  # no line is so long
                self.position = (index, offset + len(block))
            return []
        self.position = (index, offset + end + 1)
        return block[:end].split(b"\n")

    def _backwards_in(self, index: int) -> Iterator[tuple[Position, bytes]]:
        file = self._files[index]
        end = file.end
        rest: bytes | None = None
        """Of a line whose beginning is in the block before; None behind the last newline."""
        while end:
            begin = max(end - _BLOCK, 0)
            first, *pieces = _bytes_at(file, end - begin, begin).split(b"\n")
            if pieces:
                offset = end - len(pieces[-1])
                if rest is not None:
                    yield (index, offset), pieces[-1] + rest
                for piece in reversed(pieces[:-1]):
                    offset -= len(piece) + 1
                    yield (index, offset), piece
                rest = first
            elif rest is not None:
                rest = (first + rest)[: LONGEST_STORED + 1]  # too long to be a line
            end = begin
        if rest is not None:
            yield (index, 0), rest


def _open(path: Path | None) -> _File | None:
    """A file as it is now; None if there is none."""
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise BackendError(f"no permission to read {path}", "run it as root (sudo)") from error
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            file = _File(descriptor, status.st_ino, status.st_size, 0)
            file.number = file_number(_bytes_at(file, LONGEST_FIRST, 0))
            return file
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _bytes_at(file: _File, size: int, offset: int) -> bytes:
    try:
        return os.pread(file.descriptor, size, offset)
    except OSError as error:
        raise BackendError(f"what jobs printed cannot be read: {error.strerror}") from error


def _status(path: Path | None) -> os.stat_result | None:
    if path is not None:
        with suppress(OSError):
            return path.stat()
    return None


def _inode(path: Path) -> int | None:
    status = _status(path)
    return status.st_ino if status is not None else None
