"""Reads the journal from a cursor on and keeps one record a run: what ties fold.py and ledger.py.

What was read is committed with the cursor, in one step. A record closes only when its output is complete: when systemd
is done with the run and journald has, twice, gone round all its streams and nothing more came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdcron.open_run import END_UNKNOWN, OpenRun
from sdcron.resident import give_back_heap

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.backends import LastRun
    from sdcron.fold import Fold
    from sdcron.ledger import Ledger
    from sdcron.runs import Run

_READ_SECONDS = 0.5
"""How long entries are taken until what they told is committed."""
_READ_ENTRIES = 50_000
_OUTPUT_SECONDS = 10.0
"""How long the output of open runs may grow without a commit."""
_CURSOR_ENTRIES = 200_000
_CURSOR_SECONDS = 300.0
"""How far, and how long, the cursor may go on without a commit while there is nothing else to commit."""
_ROUND_SECONDS = 2.0
_REFUSED_SECONDS = 0.05
_QUIET_ROUNDS = 2
_GIVE_UP_SECONDS = 60.0
"""How long journald may fail to answer until a record is closed with a word about it."""
_PAST_US = 60_000_000
"""A run that ended so long before the entry being read has all its output."""
_LARGE_PAST_US = 10_000_000
"""The same once what such runs printed takes much memory."""
_PENDING = 4000
_PENDING_BYTES = 8 * 1024 * 1024
"""Ended runs that may wait for their output: an old journal is to take no more memory than a new one."""
_MUCH_BYTES = 1024 * 1024
"""Output recorded since memory was given back, after which that is worth it."""
_RECONCILE_SECONDS = 60.0
_MAINTENANCE_SECONDS = 600.0


class Entries(Protocol):
    """The journal, as the collector uses it: see journal.Journal."""

    def next(self) -> bool:
        """Go to the next entry; False if there is none yet. Raises SdcronError."""

    def get(self, field: str) -> bytes | None:
        """A field of the entry."""

    def realtime_us(self) -> int:
        """When journald got it. Raises SdcronError."""

    def cursor(self) -> str:
        """What brings a reader back to it, also after `next` has found no other. Raises SdcronError."""


@dataclass(slots=True)
class _Waiting:
    """An ended run whose output is watched."""

    since: float
    size: int
    quiet: int = 0


class Recorder:
    """One scope's."""

    def __init__(
        self,
        entries: Entries,
        fold: Fold,
        ledger: Ledger,
        *,
        boot_id: str,
        all_stored: Callable[[float], bool],
        last_run: Callable[[str], LastRun | None] = lambda _: None,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """`boot_id` is the machine's now, `all_stored` journal.all_stored; `last_run` asks the manager of a service."""
        self._entries = entries
        self._fold = fold
        self._ledger = ledger
        self._boot_id = boot_id
        self._all_stored = all_stored
        self._last_run = last_run
        self._ending = ending
        self._cursor: str | None = None
        self._read_us = 0
        self._recorded_bytes = 0
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        self._waiting: dict[str, _Waiting] = {}
        self._reconciled_at: float | None = None

    # Reading

    def read(self) -> bool:
        """Take entries for a moment; True when there are no more now.

        Raises SdcronError where what was taken has no cursor: with an older one it would be taken again.
        """
        entries, feed = self._entries, self._fold.feed
        deadline = time.monotonic() + _READ_SECONDS
        count, at_end = 0, False
        # First what was too much to be closed at once.
        self._close_past(self._read_us)
        while count < _READ_ENTRIES and not self._fold.is_full:
            if not entries.next():
                at_end = True
                break
            feed(entries.get, entries.realtime_us())
            count += 1
            if not count % 512:
                self._read_us = entries.realtime_us()
                self._close_past(self._read_us)
                if time.monotonic() > deadline:
                    break
        if count:
            self._cursor = entries.cursor()
            self._uncommitted += count
        return at_end

    def _close_past(self, at_us: int) -> None:
        """Close what ended long before the entry being read: an old journal is read without waiting for anybody."""
        ended = self._fold.ended()
        surplus = len(ended) - _PENDING
        large = sum(run.stdout.held + run.stderr.held for run in ended) > _PENDING_BYTES
        before_us = at_us - (_LARGE_PAST_US if large else _PAST_US)
        for number, run in enumerate(ended):
            if self._fold.is_full:
                break
            if number < surplus or (run.ended_us or 0) < before_us:
                self._close(run)

    # Closing

    def settle(self) -> bool:
        """Close the ended runs whose output is complete; True if none is left. Call at the end of the journal."""
        # Nothing is to come of another boot; where the journal is lost at each, this is how its runs are noticed.
        if self._boot_id:
            self._fold.abandon_other_boots(self._boot_id)
        ended = self._fold.ended()
        if not ended:
            return True
        now = time.monotonic()
        for run in ended:
            self._waiting.setdefault(run.run_id, _Waiting(now, _size(run)))
        answered = self._answered()
        if answered and not self.read():
            return False  # there is more than can be read at once
        for run in self._fold.ended():
            if self._fold.is_full:
                return False
            waiting = self._waiting.setdefault(run.run_id, _Waiting(now, _size(run)))
            size = _size(run)
            waiting.quiet = waiting.quiet + 1 if answered and size == waiting.size else 0
            waiting.size = size
            if waiting.quiet >= _QUIET_ROUNDS:
                self._close(run)
            elif not answered and now - waiting.since > _GIVE_UP_SECONDS:
                run.complete = False
                self._close(run)
        return not self._fold.ended()

    def _answered(self) -> bool:
        """Whether journald has gone round its streams; where it refuses at once, not asked at once again."""
        answered = self._all_stored(_ROUND_SECONDS)
        if not answered:
            time.sleep(_REFUSED_SECONDS)
        return answered

    def _close(self, run: OpenRun) -> None:
        waiting = self._waiting.pop(run.run_id, None)
        if waiting is not None:
            last = self._last_run(run.service)
            if last is not None and last.run_id == run.run_id:
                run.cpu_us = last.cpu_us if last.cpu_us is not None else run.cpu_us
                run.memory_peak_bytes = last.memory_peak_bytes or run.memory_peak_bytes
                if not run.exit_kind:
                    run.exit_kind, run.exit_status = last.exit_kind, last.exit_status
        self._fold.close(run)

    def reconcile(self) -> None:
        """Ask the manager for runs whose end the journal does not have: it was vacuumed, or its disk was full."""
        lost: dict[str, LastRun] = {}
        for run in self._fold.runs.values():
            last = self._last_run(run.service) if not run.done else None
            if last is not None and not (last.active and last.run_id == run.run_id):
                lost[run.run_id] = last
        # What it says of their ends may be on its way: the journal is believed first.
        for _ in range(_QUIET_ROUNDS if lost else 0):
            if not self._answered() or not self.read():
                return
        for run_id, last in lost.items():
            open_run = self._fold.runs.get(run_id)
            if open_run is None or open_run.done:
                continue
            if last.run_id == run_id:
                open_run.result, open_run.ended_us = last.result, last.finished_us
                open_run.exit_kind, open_run.exit_status = last.exit_kind, last.exit_status
            else:
                open_run.result = open_run.result or END_UNKNOWN
            open_run.done = True
            self._fold.touch(open_run)

    def reconcile_if_due(self) -> None:
        """The same now and then, as long as something runs; and once at the start."""
        now = time.monotonic()
        if self._reconciled_at is None or (self._fold.runs and now - self._reconciled_at > _RECONCILE_SECONDS):
            self._reconciled_at = now
            self.reconcile()

    # Keeping

    def commit(self, *, cursor_too: bool = False) -> list[Run]:
        """Keep what is new, and log it; returns the new records.

        Raises StoreWriteError or OSError when it cannot be kept: then all of this is to be opened anew.
        """
        # The state of a run that prints a line now and then is not written anew for each: what was read since then is
        # read again after a crash.
        soon = time.monotonic() - self._committed_at < _OUTPUT_SECONDS
        if soon and not cursor_too and self._fold.only_output_grew and not self._ledger.is_behind:
            return []
        batch = self._fold.changes()
        idle = not (batch.closed or batch.open_runs or batch.memories or batch.dropped)
        old = time.monotonic() - self._committed_at > _CURSOR_SECONDS or self._uncommitted > _CURSOR_ENTRIES
        if idle and not (self._uncommitted and (old or cursor_too)) and not self._ledger.is_unsaved:
            return []
        if self._cursor is not None:
            batch.meta["cursor"] = self._cursor
        recorded = self._ledger.commit(batch)
        self._uncommitted, self._committed_at = 0, time.monotonic()
        return recorded

    def see_that_it_is_kept(self) -> None:
        """Raises DamagedStoreError if what is recorded goes nowhere."""
        self._ledger.store.see_that_it_is_there()

    def take_notes(self) -> tuple[str, ...]:
        """What somebody else did to the log since the last call, one line each."""
        return self._ledger.take_notes()

    def maintain_if_due(self) -> None:
        """Rotate, and forget what is old, now and then."""
        for job in self._ledger.maintain_if_due(self._fold.is_applied):
            self._fold.memories.forget(job)

    # All of it

    def catch_up(self, seconds: float = float("inf")) -> bool:
        """Read to the end, close what has ended, and keep it; False if the time was not enough."""
        deadline = time.monotonic() + seconds
        rounds = 0
        while True:
            at_end = self.read()
            # What a manager has said and journald has not stored yet takes such a round, too.
            if at_end and rounds >= _QUIET_ROUNDS and self.settle():
                self.reconcile_if_due()
                if self.settle():
                    self.commit(cursor_too=True)
                    # And how far the log has come with that.
                    self.commit()
                    return True
            if at_end and rounds < _QUIET_ROUNDS:
                self._answered()
                rounds += 1
            self.commit()
            if time.monotonic() > deadline or self._ending():
                return False

    def step(self) -> float:
        """Do what there is to do; returns how many seconds may pass until the next, if nothing new comes before."""
        at_end = self.read()
        settled = at_end and self.settle()
        if settled:
            self.reconcile_if_due()
            self.maintain_if_due()
        self._recorded_bytes += sum(len(run.stdout.kept) + len(run.stderr.kept) for run in self.commit())
        if settled and self._recorded_bytes > _MUCH_BYTES:
            self._recorded_bytes = 0
            give_back_heap()
        if not at_end or self._ledger.is_unsaved:
            return 0.0
        if not settled:
            return 0.05
        return _RECONCILE_SECONDS if self._fold.runs else _MAINTENANCE_SECONDS


def _size(run: OpenRun) -> int:
    return run.stdout.size + run.stderr.size
