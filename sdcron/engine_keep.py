"""What the engine keeps of its runs, also while a disk is full, a log cannot be written, or a database is damaged.

Jobs run whatever is wrong with the record: a backup is worth more than a line about it. What cannot be written waits in
memory, in bounds, and is tried again.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING

from sdcron.errors import SdcronError
from sdcron.ledger import opened, set_store_aside
from sdcron.runs import Output
from sdcron.store import Batch, DamagedStoreError, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sdcron.ledger import Ledger
    from sdcron.paths import Paths
    from sdcron.runs import Run
    from sdcron.settings import Settings

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_WAITING_BYTES = 32 * 1024 * 1024
"""Output of records that wait to be written; the oldest lose theirs beyond it."""
_WAITING_RECORDS = 20_000
"""Records that wait to be written: beyond it those in the middle are lost. The oldest may be known to the database as
open, and would be taken for cut off; the newest are what everybody asks for."""
LOST_OUTPUT = "its output could not be kept: the record could not be written for a long time"


class Keeper:
    """The ledger of one engine. Holds the lock of the scope's records as long as it is entered."""

    def __init__(self, paths: Paths, settings: Settings, tell: Callable[[str], object]) -> None:
        """`tell` hears in one line of what is wrong, once, and of its end."""
        self._paths = paths
        self._settings = settings
        self._tell = tell
        self._stack = ExitStack()
        self._ledger: Ledger | None = None
        self._waiting = Batch()
        self._waiting_bytes = 0
        self._without_output = 0
        """Of so many of the oldest the output is not kept."""
        self._lost = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._try_again_at = 0.0
        self._told = _Trouble.NONE
        self.begins_anew = False
        """Whether the database was made anew: everything that is known must be kept again. The caller clears it."""

    def __enter__(self) -> Keeper:
        """Raises LockHeldError if somebody else writes the records, SdcronError, OSError."""
        self._ledger = self._stack.enter_context(opened(self._paths, self._settings, self._tell))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_complete or self.is_behind:
            # There may be room by now.
            self._write(log=True)
        lost = len(self._waiting.closed)
        if lost:
            self._tell(f"{lost} record{'' if lost == 1 else 's'} could not be written, and cannot be any more")
        self._stack.close()

    @property
    def ledger(self) -> Ledger:
        """The ledger. Raises RuntimeError when it is not open."""
        if self._ledger is None:
            raise RuntimeError("the records are not open")
        return self._ledger

    @property
    def is_behind(self) -> bool:
        """Whether the log or the database cannot be written."""
        return self._told is not _Trouble.NONE

    @property
    def is_complete(self) -> bool:
        """Whether the database has everything."""
        waiting = self._waiting
        return not (waiting.closed or waiting.open_runs or waiting.memories or waiting.meta)

    def keep(self, batch: Batch) -> list[Run]:
        """Keep a step of the engine with all that waits; returns the records that are new. Raises nothing."""
        waiting = self._waiting
        waiting.closed += batch.closed
        self._waiting_bytes += sum(map(_output_bytes, batch.closed))
        gone = {run.run_id for run in batch.closed}
        opened_runs = {**waiting.open_runs, **batch.open_runs}
        waiting.open_runs = {run_id: state for run_id, state in opened_runs.items() if run_id not in gone}
        waiting.memories |= batch.memories
        waiting.meta |= batch.meta
        too_early = self.is_behind and time.monotonic() < self._try_again_at
        if too_early and (self._told is _Trouble.DATABASE or self.is_complete):
            self._bound()
            return []
        if self.is_complete and not (self._ledger is not None and self._ledger.is_unsaved):
            return []
        return self._write(log=not too_early)

    def find(self, run_id: str) -> Run | None:
        """The record of a run, also one that waits to be written; None for none that can be read."""
        for run in self._waiting.closed:
            if run.run_id == run_id:
                return run
        if self._ledger is None:
            return None
        with suppress(SdcronError):
            return next(self._ledger.store.history(run_id=run_id, limit=1), None)
        return None

    def maintain(self, is_applied: Callable[[str], bool]) -> list[str]:
        """Rotate, and forget what is old, now and then; returns the jobs of which nothing is known any more."""
        if self.is_behind or self._ledger is None:
            return []
        try:
            return self._ledger.maintain_if_due(is_applied)
        except (SdcronError, OSError) as error:
            self._failed(error, _Trouble.DATABASE if isinstance(error, StoreWriteError) else _Trouble.LOG)
            return []

    def use(self, settings: Settings) -> None:
        """Keep records by these settings from now on."""
        self._settings = settings
        if self._ledger is not None:
            self._ledger.use(settings)

    def take_notes(self) -> None:
        """Tell what somebody else did to the log."""
        for note in self._ledger.take_notes() if self._ledger is not None else ():
            self._tell(note)

    def _write(self, *, log: bool) -> list[Run]:
        try:
            if self._ledger is None:
                self._ledger = self._stack.enter_context(opened(self._paths, self._settings, self._tell))
            recorded = self._ledger.commit(self._waiting, log=log)
        except (SdcronError, OSError) as error:
            recorded = []
            if self._ledger is None or self._ledger.committed is None or isinstance(error, DamagedStoreError):
                self._failed(error, _Trouble.DATABASE)
                self._bound()
            else:
                # The database has it; only the log lacks lines, and gets them with a later commit.
                recorded = self._ledger.committed
                self._nothing_waits()
                self._failed(error, _Trouble.LOG)
            return recorded
        self._nothing_waits()
        if self.is_behind and log:
            lost = f"; {self._lost} that had to wait too long are lost" if self._lost else ""
            self._tell(f"records are written again{lost}")
            self._told, self._pause, self._lost = _Trouble.NONE, _FIRST_PAUSE_SECONDS, 0
        return recorded

    def _nothing_waits(self) -> None:
        self._waiting, self._waiting_bytes, self._without_output = Batch(), 0, 0

    def _failed(self, error: SdcronError | OSError, trouble: _Trouble) -> None:
        if isinstance(error, DamagedStoreError):
            self._begin_anew(error)
            return
        self._tell_once(error, trouble)
        self._try_again_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def _tell_once(self, error: SdcronError | OSError, trouble: _Trouble) -> None:
        """Tell what is wrong, unless the same or worse is told already."""
        if self._told < trouble:
            message = error.message if isinstance(error, SdcronError) else _words(error)
            what = "runs cannot be recorded" if trouble is _Trouble.DATABASE else "status logs cannot be written"
            self._tell(f"{what}: {message}; jobs run all the same, and it is tried again until it works")
        self._told = trouble

    def _begin_anew(self, error: DamagedStoreError) -> None:
        self._stack.close()
        self._ledger = None
        try:
            aside = set_store_aside(self._paths)
            self._tell(f"{error.message}; it is set aside as {aside}, and made anew from what the logs have")
            self._ledger = self._stack.enter_context(opened(self._paths, self._settings, self._tell))
        except (SdcronError, OSError) as second:
            self._tell_once(second, _Trouble.DATABASE)
            self._try_again_at = time.monotonic() + self._pause
        self.begins_anew = True

    def _bound(self) -> None:
        """Let go of what is too much to hold: first the output of the oldest records that wait, then records."""
        closed = self._waiting.closed
        while self._waiting_bytes > _WAITING_BYTES and self._without_output < len(closed):
            run = closed[self._without_output]
            if _output_bytes(run):
                self._waiting_bytes -= _output_bytes(run)
                closed[self._without_output] = _without_output(run)
            self._without_output += 1
        surplus = len(closed) - _WAITING_RECORDS
        if surplus > 0:
            middle = slice(_WAITING_RECORDS // 2, _WAITING_RECORDS // 2 + surplus)
            self._waiting_bytes -= sum(map(_output_bytes, closed[middle]))
            self._without_output = min(self._without_output, middle.start)
            del closed[middle]
            self._lost += surplus


class _Trouble(IntEnum):
    """What cannot be written."""

    NONE = 0
    LOG = 1
    DATABASE = 2


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def _output_bytes(run: Run) -> int:
    return len(run.stdout.kept) + len(run.stderr.kept)


def _without_output(run: Run) -> Run:
    reason = f"{run.reason}; {LOST_OUTPUT}" if run.reason else LOST_OUTPUT
    return replace(
        run, stdout=Output(b"", run.stdout.size, True), stderr=Output(b"", run.stderr.size, True), reason=reason
    )
