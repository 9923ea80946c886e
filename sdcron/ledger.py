"""The record of runs of one scope: the database and job_status.log together, and the one process that may write them.

Order, and why: a step is committed to the database first; then the lines of its new records are appended to the log. A
crash in between is made good by the next start, which appends what the log lacks. The collector writes what the
journal tells, the engine what it has run itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sdcron.errors import LockHeldError, SdcronError
from sdcron.files import make_directory
from sdcron.status_log import Position, StatusLog
from sdcron.store import Batch, DamagedStoreError, Store, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sdcron.paths import Paths
    from sdcron.runs import Run
    from sdcron.settings import Settings

DATABASE = "runs.db"
_LOCK = "collect.lock"
_MAINTENANCE_SECONDS = 600.0
_LINES_AT_ONCE = 200
_CHECKED_BYTES = 256 * 1024 * 1024
"""Larger databases are not looked through at the start; SQLite finds damage when it comes upon it."""


def database(paths: Paths) -> Path:
    """Where the runs of a scope are kept."""
    return paths.runs_dir / DATABASE


class Ledger:
    """The caller holds the lock, and has brought the log to the store's position: see `opened`."""

    def __init__(
        self,
        store: Store,
        log: StatusLog,
        settings: Settings,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.store = store
        self._log = log
        self._settings = settings
        self._now_us = now_us
        self._log_is_behind = False
        self._saved: Position | None = None
        """The log's position that the store has."""
        self.committed: list[Run] | None = None
        """The new records that the last commit has kept, whatever became of the log; None if it kept nothing."""
        self._maintained_at: float | None = None

    @property
    def is_unsaved(self) -> bool:
        """Whether a commit, even of nothing, is owed: the log lacks lines, or the store does not know how far it is."""
        return self._log_is_behind or self._log.position != self._saved

    @property
    def is_behind(self) -> bool:
        """Whether the log lacks lines."""
        return self._log_is_behind

    def commit(self, batch: Batch, *, log: bool = True) -> list[Run]:
        """Keep a step, and log it; returns the new records. Without `log` that is left for a later commit.

        Raises StoreWriteError when nothing of it was kept; OSError, or SdcronError for what is in the way of the log,
        when it was and the log could not be written: a later commit makes that good. `committed` tells them apart.
        """
        now_us = self._now_us()
        self.committed = None
        if batch.closed and log:
            try:
                self._log.rotate_if_due(now_us)
            except (OSError, SdcronError):
                self._log_is_behind = True  # the append below says so, if it is still true
        position = self._log.position
        batch.meta["log"] = json.dumps(asdict(position))
        fresh = self.store.commit(batch)
        self.committed = [run for _, run in fresh]
        self._saved = position
        if not log:
            self._log_is_behind = self._log_is_behind or bool(fresh)
        elif self._log_is_behind:
            self.log_again(self._log.position.last_id)
        elif fresh:
            # Until it is done: an error leaves a log that is behind, and the next commit or start makes it good.
            self._log_is_behind = True
            self._log.append([(row_id, run.line()) for row_id, run in fresh], now_us)
            self._log_is_behind = False
        return self.committed

    def log_again(self, after_id: int) -> None:
        """Append to the log all that is in the store after a row. Raises OSError."""
        self._log_is_behind = True
        lines: list[tuple[int, bytes]] = []
        for row_id, run in self.store.after(after_id):
            lines.append((row_id, run.line()))
            if len(lines) >= _LINES_AT_ONCE:
                self._log.append(lines, self._now_us())
                lines = []
        if lines:
            self._log.append(lines, self._now_us())
        self._log_is_behind = False

    def use(self, settings: Settings) -> None:
        """Keep what it keeps by these settings from now on."""
        self._settings = settings
        self._log.settings = settings
        self._maintained_at = None

    def take_notes(self) -> tuple[str, ...]:
        """What somebody else did to the log since the last call, one line each."""
        return self._log.take_notes()

    def maintain_if_due(self, is_applied: Callable[[str], bool]) -> list[str]:
        """Rotate, and forget what is old, now and then; returns the jobs of which nothing is known any more.

        Raises DamagedStoreError if what is recorded goes nowhere, StoreWriteError, OSError.
        """
        now = time.monotonic()
        if self._maintained_at is not None and now - self._maintained_at < _MAINTENANCE_SECONDS:
            return []
        self._maintained_at = now
        self.store.see_that_it_is_there()
        now_us = self._now_us()
        self._log.rotate_if_due(now_us)
        self._log.prune(now_us)
        before_us = now_us - int(self._settings.keep.total_seconds()) * 1_000_000
        self.store.prune(before_us)
        return self.store.forget_jobs(before_us, is_applied)


@contextmanager
def opened(paths: Paths, settings: Settings, tell: Callable[[str], object]) -> Iterator[Ledger]:
    """Hold the lock of a scope's records and give its ledger, brought to one state; `tell` hears in one line.

    Raises LockHeldError if another process writes them, SdcronError and OSError for what cannot be opened or written.
    """
    with ExitStack() as stack:
        _make_private(paths.runs_dir)
        stack.enter_context(_lock(paths))
        log = StatusLog(paths.log_dir, settings)
        stack.callback(log.close)
        store = _open_store(paths, log, tell)
        stack.callback(store.close)
        ledger = Ledger(store, log, settings)
        recovery = log.recover(position_of(store.meta().get("log")), store.newest_id(), time.time_ns() // 1000)
        for note in recovery.notes:
            tell(note)
        ledger.log_again(recovery.append_after)
        yield ledger


def set_store_aside(paths: Paths) -> Path:
    """Rename a damaged database, so that the next `opened` makes it anew; returns the new name."""
    return set_aside(database(paths), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))


def position_of(text: str | None) -> Position | None:
    """The log's position as `commit` keeps it; None for none, or one that cannot be read."""
    try:
        return Position(**json.loads(text)) if text is not None else None
    except (ValueError, TypeError):
        return None


@contextmanager
def _lock(paths: Paths) -> Iterator[None]:
    # Not for its readers: who can open it can hold it.
    descriptor = os.open(paths.runs_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockHeldError(f"another sdcron writes the records in {paths.runs_dir}", "wait for it") from error
        yield
    finally:
        os.close(descriptor)


def _open_store(paths: Paths, log: StatusLog, tell: Callable[[str], object]) -> Store:
    """The database, whole: a damaged one is set aside and made anew from the logs. Raises SdcronError."""
    path = database(paths)
    try:
        store = Store.create(path)
        try:
            if store.size() <= _CHECKED_BYTES:
                store.check()
        except BaseException:
            store.close()
            raise
    except DamagedStoreError as error:
        aside = set_store_aside(paths)
        tell(f"{error.message}; it is set aside as {aside}, and made anew from what the logs have")
        store = Store.create(path)
    if "log" not in store.meta():
        # New, or killed while this was done.
        for records in log.read_back():
            store.commit(Batch(closed=list(records.runs)))
    return store


def _make_private(directory: Path) -> None:
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode=0o750, exist_ok=True)
