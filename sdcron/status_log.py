"""job_status.log: every record is appended exactly once, whatever crashes and whoever else moves the file.

The database is the truth. Rows are committed there first, then their lines are appended here, and then the Position
that `append` gave is saved: at the latest with the next commit, and before the next append. So what is in the log
beyond the saved Position is cut off after a crash and appended again. One process at a time; the caller sees to that.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sdcron.files import STAGE_PREFIX, Files
from sdcron.log_files import (
    DAMAGED,
    LOG_NAME,
    ROTATED,
    create_log,
    expired,
    free_name,
    make_log_directory,
    open_log,
    read_back,
    scan,
    with_inode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sdcron.log_files import Records
    from sdcron.settings import Settings

_FOR_EVER = 1 << 63  # no row gets this id


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log has come: `offset` bytes in the file `inode`, begun at `began_us` (0 while it is empty).

    The file holds the rows `first_id` to `last_id`; none while `first_id` is `last_id` + 1.
    """

    inode: int
    offset: int
    began_us: int
    first_id: int
    last_id: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery found: all rows above `append_after` must be appended again before anything else is done.

    No Position is saved until that is through; after a crash or an error in it, `recover` gets the same one again.
    `notes` are lines to tell the user.
    """

    append_after: int
    notes: tuple[str, ...] = ()


class StatusLog:
    """The status log in one directory. `group` owns what is made; None leaves that to the directory.

    `recover` comes first. Every method raises OSError for what a disk may do, and SdcronError for what is in the way.
    """

    def __init__(self, directory: Path, settings: Settings, *, group: int | None = None) -> None:
        self.path = directory / LOG_NAME
        self._directory = directory
        self.settings = settings
        self._group = group
        self._descriptor = -1
        self._position = Position(0, 0, 0, 1, 0)
        self._present: set[str] = set()
        """Run ids of records that are in the file: if their rows are to be appended again, that is not done."""
        self._present_up_to = 0
        """The row after which those are of no use."""
        self._notes: list[str] = []

    @property
    def position(self) -> Position:
        """Where the log stands now."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def take_notes(self) -> tuple[str, ...]:
        """What happened to the file since the last call that a user should know, one line each."""
        notes = tuple(self._notes)
        self._notes.clear()
        return notes

    def recover(self, position: Position | None, newest_id: int, now_us: int) -> Recovery:
        """Bring the log to what `position` says, and say what must be appended again.

        `newest_id` is the highest row of the database, 0 if there is none. `position` None is for a new database and
        one that was rebuilt with `read_back`: what the log has by now is left alone, in a file of its own.
        """
        self._present.clear()
        self._present_up_to = newest_id
        make_log_directory(self._directory, self._group)
        self._staged().unlink(missing_ok=True)
        self._open()
        try:
            append_after = self._bring_to(position, newest_id, now_us)
        except BaseException:
            self.close()
            raise
        return Recovery(append_after, self.take_notes())

    def append(self, lines: Sequence[tuple[int, bytes]], now_us: int) -> Position:
        """Append the lines of these rows, whose ids ascend, and give the Position to save once they are on the disk.

        Raises OSError with the file as it was before, as far as the disk lets it; call again with the same lines.
        """
        self._look_again(now_us)
        before = self._position
        ids = [before.last_id, *(row_id for row_id, _ in lines)]
        if any(later <= earlier for earlier, later in pairwise(ids)):
            raise ValueError(f"rows {ids[1:]} were to be appended after row {ids[0]}")
        present = self._already_there(lines)
        new = [(row_id, line) for row_id, line in lines if row_id not in present]
        content = b"".join([line for _, line in new])
        try:
            _write_all(self._descriptor, content)
            os.fdatasync(self._descriptor)
        except OSError as error:
            error.filename = str(self.path)
            with suppress(OSError):
                os.ftruncate(self._descriptor, before.offset)
            raise
        if ids[-1] >= self._present_up_to:
            self._present.clear()
        began_us, first_id = before.began_us, before.first_id
        if before.offset == 0:
            began_us, first_id = (now_us, new[0][0]) if new else (0, ids[-1] + 1)
        self._position = Position(before.inode, before.offset + len(content), began_us, first_id, ids[-1])
        return self._position

    def rotate_if_due(self, now_us: int) -> bool:
        """Rotate a log that is old or large enough; call it before the commit of the rows that are appended next."""
        self._look_again(now_us)
        position = self._position
        if position.offset == 0:
            return False
        if position.began_us > now_us:  # the clock was set back: its age counts from now on
            self._position = position = replace(position, began_us=now_us)
        age_us = now_us - position.began_us
        if age_us < self.settings.rotate.total_seconds() * 1_000_000 and position.offset < self.settings.max_size:
            return False
        self._rotate(now_us)
        return True

    def prune(self, now_us: int) -> list[Path]:
        """Remove rotated and set aside logs that are older than `keep` or too much together; gives those removed."""
        gone = expired(self._directory, self.settings, now_us)
        for path in gone:
            path.unlink(missing_ok=True)
        if gone:
            Files().sync_directory(self._directory)
        return gone

    def read_back(self) -> Iterator[Records]:
        """Every record in the rotated logs and the current one, oldest first, for a database that is rebuilt."""
        return read_back(self._directory)

    def _bring_to(self, position: Position | None, newest_id: int, now_us: int) -> int:
        """Bring the open file to `position`; gives after which row to append again."""
        if position is None:
            self._set_position(newest_id)
            self._take_over(newest_id, now_us)
            if self._position.offset:
                self._rotate(now_us)
            self._present.clear()
            return newest_id
        self._position = position
        if not self._stands_at(position, newest_id):
            append_after = self._finish_moved(position, newest_id, now_us)
            self._take_over(append_after, now_us)
            return append_after
        if not _holds_records(self._descriptor, position.offset):
            self._rewrite(position.first_id - 1, now_us, damaged=True)
            return position.first_id - 1
        if self._size() > position.offset:
            self._cut(position.offset)
        return position.last_id

    def _open(self) -> None:
        """Open the log, made if missing."""
        descriptor = open_log(self.path, self._group)
        self.close()
        self._descriptor = descriptor

    def _staged(self) -> Path:
        return self._directory / f"{STAGE_PREFIX}{LOG_NAME}"

    def _inode(self) -> int:
        return os.fstat(self._descriptor).st_ino

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _cut(self, offset: int) -> None:
        os.ftruncate(self._descriptor, offset)
        os.fsync(self._descriptor)

    def _set_position(self, last_id: int) -> None:
        """The Position of an empty log that goes on after row `last_id`."""
        self._position = Position(self._inode(), 0, 0, last_id + 1, last_id)

    def _stands_at(self, position: Position, newest_id: int) -> bool:
        """Whether this is the file of `position`, and the database can give again what would be cut off."""
        if self._inode() != position.inode or self._size() < position.offset:
            return False
        return self._can_be_cut(self._descriptor, position, newest_id)

    def _can_be_cut(self, descriptor: int, position: Position, newest_id: int) -> bool:
        """Whether what is beyond `position` can all be in the database.

        It is not if the database is older than the log, as after a restored backup. Runs that it then gets from the
        journal once more are in the log already.
        """
        beyond = _run_ids(descriptor, position.offset, os.fstat(descriptor).st_size)
        if len(beyond) <= max(newest_id - position.last_id, 0):
            return True
        self._present_up_to = _FOR_EVER
        return False

    def _finish_moved(self, position: Position, newest_id: int, now_us: int) -> int:
        """Cut the file of `position`, which has another name now, back to it; gives after which row to append again."""
        moved = with_inode(self._directory, position.inode)
        if moved is None or moved == self.path:
            if not self._size():
                self._notes.append(f"{self.path} was moved or deleted, or emptied, by somebody else: begun anew")
            return position.last_id
        if moved.name.startswith(DAMAGED):  # by us, but it was not saved
            return position.first_id - 1
        descriptor = open_log(moved, None)
        try:
            size = os.fstat(descriptor).st_size
            if not _holds_records(descriptor, min(size, position.offset)):
                kept = free_name(self._directory, DAMAGED, now_us)
                moved.rename(kept)
                self._note_damage(moved, kept)
                return position.first_id - 1
            if size > position.offset:
                if self._can_be_cut(descriptor, position, newest_id):
                    os.ftruncate(descriptor, position.offset)
                    os.fsync(descriptor)
                else:
                    self._present |= _run_ids(descriptor, position.offset, size)
        finally:
            os.close(descriptor)
        return position.last_id

    def _take_over(self, last_id: int, now_us: int) -> None:
        """Go on at the end of a file of which is not known who wrote what; what it has is not appended again."""
        size, end, damaged = self._size(), 0, False
        found: set[str] = set()
        for piece, run_id in scan(self._descriptor, 0, size):
            if run_id is not None:
                found.add(run_id)
            elif end + len(piece) == size and not piece.endswith(b"\n") and piece.startswith(b"{"):
                break  # half a line, as a crash leaves it
            else:
                damaged = True
            end += len(piece)
        shorter = size < self._position.offset and self._inode() == self._position.inode
        if damaged or shorter:
            # In a new file: when this one grew again, it would be taken for what the saved Position speaks of.
            self._rewrite(last_id, now_us, damaged=damaged)
            return
        if end < size:
            self._cut(end)
        self._go_on(self._descriptor, found, last_id, now_us)

    def _look_again(self, now_us: int) -> None:
        """See whether somebody else moved, deleted or changed the file since it was written."""
        if self._descriptor < 0:
            raise RuntimeError("the status log was not recovered")
        try:
            there = self.path.lstat().st_ino
        except FileNotFoundError:
            there = -1
        position = self._position
        if there != position.inode:
            self._open()
            self._notes.append(f"{self.path} was moved or deleted by somebody else: a new one is begun")
            self._take_over(position.last_id, now_us)
        elif self._size() > position.offset:
            self._cut(position.offset)
        elif self._size() < position.offset:
            self._notes.append(f"{self.path} was emptied or shortened by somebody else")
            self._take_over(position.last_id, now_us)

    def _rotate(self, now_us: int) -> None:
        self.path.rename(free_name(self._directory, ROTATED, now_us))
        last_id = self._position.last_id
        self._open()
        self._set_position(last_id)

    def _rewrite(self, last_id: int, now_us: int, *, damaged: bool) -> None:
        """Begin a new file with the records of this one, which is kept under another name if it is damaged."""
        staged = self._staged()
        descriptor = create_log(staged, self._group)
        found: set[str] = set()
        try:
            for piece, run_id in scan(self._descriptor, 0, self._size()):
                if run_id is not None:
                    _write_all(descriptor, piece)
                    found.add(run_id)
            os.fsync(descriptor)
            kept = free_name(self._directory, DAMAGED, now_us)
            if damaged:
                self.path.rename(kept)
            staged.rename(self.path)
            Files().sync_directory(self._directory)
        except BaseException:
            os.close(descriptor)
            staged.unlink(missing_ok=True)
            raise
        self._go_on(descriptor, found, last_id, now_us)
        if damaged:
            self._note_damage(self.path, kept)

    def _go_on(self, descriptor: int, present: set[str], last_id: int, now_us: int) -> None:
        """Take the open file as the log, which has these run ids and goes on after row `last_id`."""
        same = self._inode() == self._position.inode
        began_us = min(self._position.began_us, now_us) if same else now_us
        if descriptor != self._descriptor:
            self.close()
            self._descriptor = descriptor
        self._present |= present
        self._set_position(last_id)
        if present:
            self._position = replace(self._position, offset=self._size(), began_us=began_us)

    def _note_damage(self, path: Path, kept: Path) -> None:
        message = f"{path} had lines that are no records: it is kept as {kept.name}, and what was good is in the log"
        self._notes.append(message)

    def _already_there(self, lines: Sequence[tuple[int, bytes]]) -> set[int]:
        """Of these rows, those whose records are in the file already."""
        if not self._present:
            return set()
        return {row_id for row_id, line in lines if json.loads(line)["run_id"] in self._present}


def _holds_records(descriptor: int, end: int) -> bool:
    return all(run_id is not None for _, run_id in scan(descriptor, 0, end))


def _run_ids(descriptor: int, start: int, end: int) -> set[str]:
    return {run_id for _, run_id in scan(descriptor, start, end) if run_id is not None}


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a write may take a part only, as on a disk that fills up."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
