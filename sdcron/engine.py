"""The engine: starts what the agenda says is due, and sees each run to its end. One thread, one loop.

What is to be on record is run_book.py's; what a run's processes need, engine_run.py's.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import select
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from sdcron.clocks import SetClock
from sdcron.engine_run import ActiveRun, Phase
from sdcron.open_run import GONE, REPLACED, SHUT_DOWN, STOPPED
from sdcron.run_book import SETTLED_SECONDS
from sdcron.runs import NOT_ASKED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.agenda_slot import Due
    from sdcron.clocks import Clock
    from sdcron.engine_run import Processes
    from sdcron.job import Job
    from sdcron.open_run import OpenRun
    from sdcron.run_book import RunBook
    from sdcron.runs import Asked

_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What passes: too many processes or open files, no memory."""
_NO_ROOM_SECONDS = 1.0
"""How often it is tried again to start what the machine had no room for."""
_STEP_US = 500_000
"""A clock that is off by more than this from the time that has passed was set, or the machine slept."""
_READY_US = (300_000, 3_000_000)
"""How long before they are due jobs are read, in microseconds: not so late that something else would have to wait."""
_READY = 2_000
"""How many jobs that are due at one time are read before: their reading takes less than half a second."""
_LONGEST_SLEEP_SECONDS = 60.0
_UNTOLD_SLEEP_SECONDS = 1.0
"""How long a clock that was set may go unnoticed where nobody tells."""
_BUSY_SLEEP_SECONDS = 1.0
"""The longest sleep while something runs, or waits to be written."""
_BEFORE_SECONDS = 1.5
"""How long before it is due a job is read: see _READY_US."""


class Engine:
    """All jobs of one scope, and their runs. The caller opened everything, and calls `step` for ever."""

    def __init__(
        self,
        book: RunBook,
        processes: Processes,
        clock: Clock,
        *,
        concurrency: int,
        unmet: Callable[[Job], str | None],
        tell: Callable[[str], object],
    ) -> None:
        """`concurrency` is how many runs may be on at the same time; `unmet` says what of `when` is not there."""
        self.book = book
        self.agenda = book.agenda
        self._processes = processes
        self._clock = clock
        self.concurrency = concurrency
        self._unmet = unmet
        self._tell = tell
        self.active: dict[str, ActiveRun] = {}
        """By run id."""
        self._by_pid: dict[int, ActiveRun] = {}
        self._by_pipe: dict[int, ActiveRun] = {}
        self._patient: set[str] = set()
        """Runs that wait for what `when` asks for, or for a lock."""
        self._waiting_for_room: list[ActiveRun] = []
        self._try_again_at = 0.0
        self._told_no_room = False
        self._made_room = False
        """Whether a run has ended since it was tried again."""
        self._bounds: list[tuple[float, int, str]] = []
        self._tie = itertools.count()
        self._poll = select.epoll()
        self._offset_us = clock.wall_us() - round(clock.monotonic() * 1_000_000)
        self._ready_for = 0
        book.begun_at = self._begun_at
        self._set_clock = SetClock()
        if self._set_clock.descriptor is not None:
            self._poll.register(self._set_clock.descriptor, select.EPOLLIN)
        self.ending = False
        """Whether nothing more is to be started."""

    # Asked by others

    def start_by_hand(self, name: str, asked: Asked = NOT_ASKED) -> str | None:
        """Start a job now; its run id, None if it runs already, or waits for that. Raises KeyError for no such job."""
        if name not in self.agenda:
            raise KeyError(name)
        due = self.agenda.take(name, asked)
        self._make_room()
        if due is None:
            return None
        run_id = next(iter(self._start([due])), None)
        # Whoever asked looks for it at once.
        self.book.spool.tell_starts(self._clock.wall_us())
        return run_id

    def stop(self, name: str, run_id: str = "", *, kill: bool = False) -> list[str]:
        """End the runs of a job, and the one that waits for their end, or one of them; the ids of those that are on."""
        if not run_id:
            self.agenda.give_up_waiting(name)
        return self._end_runs(name, run_id, STOPPED, kill=kill)

    def _make_room(self) -> None:
        """End what the next runs of their jobs replace."""
        for name in self.agenda.take_replaced():
            self._end_runs(name, "", REPLACED)

    def _end_runs(self, name: str, run_id: str, why: str, *, kill: bool = False) -> list[str]:
        now = self._clock.monotonic()
        running = (active for active in self.active.values() if active.run.job == name)
        stopped = [active for active in running if run_id in ("", active.run.run_id)]
        for active in stopped:
            active.kill(why, now) if kill else active.stop(why, now)
            self._bound(active)
        return [active.run.run_id for active in stopped]

    def run_of(self, pid: int) -> OpenRun | None:
        """The run that a process is of; None if it is of none."""
        for active in self.active.values():
            if active.pid and any(each.pid == pid for each in self._processes.members(active.pid, active.run.run_id)):
                return active.run
        return None

    def end(self, *, kill: bool = False) -> None:
        """End all runs, in the order in which they began, and start nothing more."""
        self.ending = True
        now = self._clock.monotonic()
        for active in list(self.active.values()):
            active.kill(SHUT_DOWN, now) if kill else active.stop(SHUT_DOWN, now)
            self._bound(active)

    def running(self) -> dict[str, list[tuple[str, int]]]:
        """Run ids and starts, microseconds since 1970, of what runs now, by job."""
        found: dict[str, list[tuple[str, int]]] = {}
        for active in self.active.values():
            found.setdefault(active.run.job, []).append((active.run.run_id, active.run.started_us or 0))
        return found

    # The loop

    def watch(self, descriptor: int, to_write: bool = False) -> None:
        """Have `step` return when a descriptor that is not the engine's can be read from, or written to."""
        self._poll.register(descriptor, select.EPOLLOUT if to_write else select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """The inverse."""
        with suppress(OSError, ValueError):
            self._poll.unregister(descriptor)

    def _get_ready(self) -> None:
        """Read the jobs that are due next, while there is time: what is due at the same second then starts at once."""
        due_us = self.agenda.next_us()
        if due_us is None or due_us == self._ready_for:
            return
        if _READY_US[0] <= due_us - self._clock.wall_us() <= _READY_US[1]:
            self._ready_for = due_us
            self.book.get_ready(self.agenda.due_at(due_us, _READY))

    def step(self, most_seconds: float = _LONGEST_SLEEP_SECONDS) -> set[int]:
        """Start what is due, then wait for something to happen and see to it; the descriptors that others watch."""
        self._look_at_clock()
        self._start_due()
        self._get_ready()
        self._wake()
        others = self._wait(min(self._seconds_left(), most_seconds))
        self.reap()
        self._mind_bounds()
        if not self._starts_next():
            self.book.keep()
        return others

    def _starts_next(self) -> bool:
        """Whether runs are started in a moment, which are kept together with what is new by now."""
        due_us = self.agenda.next_us() if not self.ending and self._room() > 0 else None
        return due_us is not None and due_us <= self._clock.wall_us()

    def _seconds_left(self) -> float:
        """How long nothing is to be done, as far as is known."""
        now = self._clock.monotonic()
        if self.book.has_ends:
            return 0.0
        left = _LONGEST_SLEEP_SECONDS if self._set_clock.descriptor is not None else _UNTOLD_SLEEP_SECONDS
        if self.active or self.book.is_behind:
            left = min(left, _BUSY_SLEEP_SECONDS)
        if not self.book.is_settled:
            left = min(left, SETTLED_SECONDS)
        if self._bounds:
            left = min(left, self._bounds[0][0] - now)
        if self._waiting_for_room:
            left = min(left, self._try_again_at - now)
        if not self.ending and self._room() and (due_us := self.agenda.next_us()) is not None:
            due = (due_us - self._clock.wall_us()) / 1_000_000
            left = min(left, due if due < 2 * _BEFORE_SECONDS else due - _BEFORE_SECONDS)
        return max(left, 0.0)

    def _room(self) -> int:
        # Who waits for a condition or for room has no process; of the latter not too many are to be tried for ever.
        without = len(self._patient) + min(len(self._waiting_for_room), self.concurrency)
        return self.concurrency - len(self.active) + without

    def _look_at_clock(self) -> None:
        now_us = self._clock.wall_us()
        offset_us = now_us - round(self._clock.monotonic() * 1_000_000)
        by_us, self._offset_us = offset_us - self._offset_us, offset_us
        if abs(by_us) > _STEP_US:
            self.agenda.clock_was_set(by_us, now_us)

    def _start_due(self) -> None:
        self._try_again()
        room = self._room()
        if self.ending or room <= 0:
            return
        dues = self.agenda.take_due(self._clock.wall_us(), room)
        self._make_room()
        if not dues:
            return
        self._start(dues)

    def _try_again(self) -> None:
        """Start what the machine had no room for. Others are not kept waiting: it may be the room of one user."""
        now = self._clock.monotonic()
        thorough = now >= self._try_again_at
        if not self._waiting_for_room or not (thorough or self._made_room):
            return
        self._made_room = False
        waiting, self._waiting_for_room = deque(self._waiting_for_room), []
        while waiting and (thorough or not self._waiting_for_room):
            self._begin(waiting.popleft(), again=True)
        self._waiting_for_room = [*waiting, *self._waiting_for_room]
        self._told_no_room = bool(self._waiting_for_room)
        if thorough:
            self._try_again_at = now + _NO_ROOM_SECONDS

    def _start(self, dues: list[Due]) -> list[str]:
        """Start what is due; the run ids."""
        prepared = [self._added(run, job) for run, job in self.book.prepare(dues)]
        self.book.keep(hurried=True)
        for active in prepared:
            self._begin(active)
        return [active.run.run_id for active in prepared]

    def _added(self, run: OpenRun, job: Job) -> ActiveRun:
        active = self.active[run.run_id] = ActiveRun(run, job, self._processes, self._clock.monotonic())
        return active

    def _begin(self, active: ActiveRun, *, again: bool = False) -> None:
        missing = self.book.gated.pop(active.run.run_id, "")
        if active.phase is Phase.OVER or active.was_asked_to_stop:
            self._over(active)
            return
        active.began = self._clock.monotonic()
        self.book.begins(active.run, active.job, again=again)
        if missing:
            active.skip(missing)
            self._attach(active)
            return
        self._attempt(active, lambda: active.begin(active.began, lambda: self._unmet(active.job)))

    def _attempt(self, active: ActiveRun, do: Callable[[], object]) -> None:
        """Have a run go on; where there is no room for its process, a little later."""
        try:
            do()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._wait_for_room(active, error)
                return
            active.fail(error.strerror or str(error))
        except ValueError as error:
            active.fail(str(error))
        self._attach(active)

    def _wait_for_room(self, active: ActiveRun, error: OSError) -> None:
        if not self._told_no_room:
            self._told_no_room = True
            self._tell(f"{active.run.job} cannot be started now: {error.strerror}; it is tried again until it works")
        self.book.spool.let_go()
        if not self._waiting_for_room:
            self._try_again_at = self._clock.monotonic() + _NO_ROOM_SECONDS
        active.look_at = None
        self._waiting_for_room.append(active)

    def _attach(self, active: ActiveRun) -> None:
        if active.phase is Phase.OVER:
            self._over(active)
            return
        if active.phase is Phase.WAITING:
            self._patient.add(active.run.run_id)
        else:
            self._patient.discard(active.run.run_id)
        if active.pid and not active.main_over and self._by_pid.get(active.pid) is not active:
            self._by_pid[active.pid] = active
            active.run.pid = active.pid
            self.book.has_process(active.run)
        for descriptor in active.pipes:
            if descriptor not in self._by_pipe:
                self._by_pipe[descriptor] = active
                self._poll.register(descriptor, select.EPOLLIN)
        self._bound(active)

    def _bound(self, active: ActiveRun) -> None:
        if active.phase is Phase.OVER:
            self._over(active)
        elif active.look_at is not None:
            heapq.heappush(self._bounds, (active.look_at, next(self._tie), active.run.run_id))
            if len(self._bounds) > 4 * len(self.active) + 1000:
                self._bounds = [
                    (active.look_at, next(self._tie), active.run.run_id)
                    for active in self.active.values()
                    if active.look_at is not None
                ]
                heapq.heapify(self._bounds)

    def _wait(self, seconds: float) -> set[int]:
        others = set()
        for descriptor, _ in self._poll.poll(seconds):
            active = self._by_pipe.get(descriptor)
            if descriptor == self._set_clock.descriptor:
                self._set_clock.forget()
            elif active is None:
                others.add(descriptor)
            elif not active.read(descriptor, partial(self.book.printed, active.run, active.job)):
                self._by_pipe.pop(descriptor, None)
        return others

    def reap(self) -> None:
        """See to processes that are over."""
        now = self._clock.monotonic()
        for ended in self._processes.reap():
            active = self._by_pid.pop(ended.pid, None)
            if active is None or active.main_over:
                continue
            active.ended(ended, now)
            self._look(active)

    def _look(self, active: ActiveRun) -> None:
        self._attempt(active, lambda: active.look(self._clock.monotonic(), lambda: self._unmet(active.job)))

    def _mind_bounds(self) -> None:
        now = self._clock.monotonic()
        while self._bounds and self._bounds[0][0] <= now:
            when, _, run_id = heapq.heappop(self._bounds)
            active = self.active.get(run_id)
            if active is not None and active.look_at is not None and active.look_at <= when:
                self._look(active)

    def _wake(self) -> None:
        """Have those try again that are next for a lock."""
        for run_id in self._processes.locks.woken():
            active = self.active.get(run_id)
            if active is not None and active.phase is Phase.WAITING:
                active.look_at = self._clock.monotonic()
                self._bound(active)

    def _begun_at(self, run: OpenRun) -> int:
        """When the main process began. Not asked of one that is reaped: its number may be another's."""
        return (self._processes.begun_at(run.pid) if run.pid in self._by_pid else 0) or GONE

    # The end of a run

    def _over(self, active: ActiveRun) -> None:
        run = active.run
        if self.active.pop(run.run_id, None) is None:
            return
        self._made_room = True
        self._patient.discard(run.run_id)
        if self._by_pid.get(active.pid) is active:
            del self._by_pid[active.pid]
        for descriptor in list(active.pipes):
            self._by_pipe.pop(descriptor, None)
            self._poll.unregister(descriptor)
        active.close(partial(self.book.printed, run, active.job))
        if active.said:
            self.book.say(run, active.said)
        run.ended_us = max(self._clock.wall_us(), run.started_us or 0)
        self.book.close(run, active.job)
        if not self.active:
            self._processes.end_strays()

    def close(self) -> None:
        """Give back what it holds; nothing runs any more."""
        self._poll.close()
        self._set_clock.close()
        self.book.spool.close()
