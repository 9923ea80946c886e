"""When the engine starts what: due times, runs that were missed, retries, boots, and clocks that are set. Pure.

A due time is used up once, by the run that takes it or by the run that was on when it came; `overlap` may have one run
wait for that, or have several on. What was used up is part of a job's memory, which is kept in one step with the run
it started: a killed engine neither loses a due time nor takes one twice. Several due times that passed meanwhile are
one run, as with Persistent= (systemd.timer(5)).

A clock that is set back by up to three hours does not make fixed times come twice, and what runs every so often goes
on; by more than that, the clock was wrong before, and the new time counts. This is cron(8)'s rule.
"""

from __future__ import annotations

import heapq
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from sdcron.agenda_memory import Memory, Waiting
from sdcron.agenda_slot import Due, Entry, Slot, next_after, timing_key
from sdcron.job import Missed, Overlap
from sdcron.runs import NOT_ASKED, Asked, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sdcron.schedule import Schedule

CORRECTION_US = 3 * 3600 * 1_000_000
"""A clock that is set back by more than this was wrong."""
_VOID = 1000
"""How much of the heap may be void before it is made anew."""
_BOOT_DELAY_US = 1_000_000
_OWED = "owed:"
"""Before the boot in a job's memory: it is still to run at that."""
_MICROSECOND = timedelta(microseconds=1)


class Agenda:
    """All jobs of one engine, or rather their times."""

    def __init__(self, schedule_of: Callable[[Entry], Schedule | None], boot: str, now_us: int) -> None:
        """`schedule_of` reads a job's schedule; `boot` names the time since the machine's start."""
        self._schedule_of = schedule_of
        self._boot = boot
        self.seen_boot = False
        """Whether an engine has been started before since the machine was."""
        self._awake_us = now_us
        """Since when no time has passed unseen."""
        self._slots: dict[str, Slot] = {}
        self._busy: dict[str, int] = {}
        """How many runs of a job are on, or about to be; also of one that is not there any more."""
        self.held: set[str] = set()
        """Those of them whose run is for an instant or has values of its own."""
        self._replaced: set[str] = set()
        """Jobs whose runs are to make room for one that waits."""
        self._heap: list[tuple[int, str]] = []
        """Times and jobs; what is not in the job's `times` any more is void."""
        self._memories: dict[str, Memory] = {}
        """Of jobs that are not there now."""
        self._ran_us: Mapping[str, int] = {}
        self._changed: set[str] = set()

    # The jobs

    def restore(self, memories: Mapping[str, str], ran_us: Mapping[str, int] | None = None) -> None:
        """Take up what `changes` gave; before the first `put`.

        `ran_us` is when jobs ran last: where the memories are lost, nothing before that is owed.
        """
        self._memories |= {job: Memory.of(text) for job, text in memories.items()}
        self._ran_us = ran_us or {}

    def changes(self) -> dict[str, str]:
        """What is to be remembered anew since the last call, as texts by job."""
        texts = {job: self._memory(job).text() for job in self._changed}
        self._changed.clear()
        return texts

    def remember_all(self) -> None:
        """Have everything among the next `changes`: what was kept is lost."""
        self._changed |= self._slots.keys() | self._memories.keys()

    def put(self, entries: Iterable[Entry], now_us: int, *, starting: bool = False) -> None:
        """Have exactly these jobs from now on. `starting`: the engine has just begun, and may have missed something."""
        before, self._slots = self._slots, {}
        for entry in entries:
            old = before.pop(entry.name, None)
            if old is not None and old.entry == entry:
                self._slots[entry.name] = old
                if Overlap.QUEUE in {old.entry.timing.overlap} - {entry.timing.overlap}:
                    self._give_up(old)
                old.entry = entry
                continue
            memory = old.memory if old is not None else self._memory(entry.name)
            self._memories.pop(entry.name, None)
            slot = self._slots[entry.name] = Slot(entry, memory)
            self._begin(slot, now_us, starting=starting)
        self._memories |= {name: slot.memory for name, slot in before.items()}
        self._heap_anew()

    def forget(self, job: str) -> None:
        """The job is gone for good."""
        self._memories.pop(job, None)
        self._changed.discard(job)

    def __contains__(self, job: object) -> bool:
        """Whether there is such a job."""
        return job in self._slots

    def __len__(self) -> int:
        """How many jobs there are."""
        return len(self._slots)

    def retries(self) -> dict[str, tuple[int, int]]:
        """Attempt and time, microseconds since 1970, of the retries that wait, by job."""
        slots = self._slots.items()
        return {job: (slot.memory.retry, slot.memory.retry_us) for job, slot in slots if slot.memory.retry}

    def queued(self) -> list[str]:
        """The jobs of which a run waits for the end of another."""
        return [job for job, slot in self._slots.items() if slot.memory.waiting is not None]

    def memory(self, job: str) -> Memory:
        """What is remembered of a job, to be changed."""
        self._changed.add(job)
        return self._memory(job)

    def is_retried(self, job: str) -> bool:
        """Whether a retry of it waits."""
        slot = self._slots.get(job)
        return slot is not None and bool(slot.memory.retry)

    def chained(self) -> list[str]:
        """The jobs that remember something of others."""
        memories = {**self._memories, **{name: slot.memory for name, slot in self._slots.items()}}
        return [name for name, memory in memories.items() if memory.chain]

    def start_after(self, job: str, failed: tuple[str, ...]) -> None:
        """All that it runs after have ended: start it, unless it skips and runs, is disabled, or is not there."""
        slot = self._slots.get(job)
        if slot is None or not slot.entry.timing.enabled:
            return
        waits = job in self.held or slot.entry.timing.overlap in (Overlap.QUEUE, Overlap.REPLACE)
        if waits or self._busy.get(job, 0) < slot.most:
            slot.memory.chain.due = failed
            self._changed.add(job)
            self._push(slot)

    def _memory(self, job: str) -> Memory:
        slot = self._slots.get(job)
        return slot.memory if slot is not None else self._memories.setdefault(job, Memory())

    def _begin(self, slot: Slot, now_us: int, *, starting: bool) -> None:
        entry, memory = slot.entry, slot.memory
        key = timing_key(entry)
        if memory.timing != key:
            # Other times are another job: nothing of the old ones is owed, and what passed before them is no run.
            since_us = max(entry.since_us, self._ran_us.get(entry.name, 0) if not memory.timing else 0)
            memory.timing, memory.due_us, memory.used_us, memory.retry = key, min(since_us, now_us), 0, 0
            memory.waiting = None
            self._changed.add(entry.name)
        if memory.retry and memory.retry_from_us > now_us:
            # The clock was set back since then: the wait keeps its length.
            memory.retry_us += now_us - memory.retry_from_us
            memory.retry_from_us = now_us
            self._changed.add(entry.name)
        waits = starting or entry.timing.overlap in (Overlap.QUEUE, Overlap.REPLACE)
        if not (entry.timing.enabled and waits):
            self._give_up(slot)
        if memory.waiting is not None and entry.name not in self._busy:
            slot.ready_us = now_us
        if not entry.timing.enabled:
            memory.chain.due = None
            return
        schedule = self._schedule_of(entry)
        if starting and entry.timing.missed is Missed.SKIP:
            memory.due_us = max(memory.due_us or 0, now_us)
        slot.next_us = next_after(schedule, self._base_us(slot, schedule, now_us))
        if schedule is not None and schedule.on_boot and memory.boot != self._boot:
            self._changed.add(entry.name)
            # Of an engine that was killed before it ran them, those are left that were there at its first start.
            if starting and (not self.seen_boot or memory.boot == f"{_OWED}{self._boot}"):
                memory.boot = f"{_OWED}{self._boot}"
                slot.boot_us = now_us + _BOOT_DELAY_US + schedule.offset // _MICROSECOND
            else:
                # It waits for the next boot, as with systemd.
                memory.boot = self._boot

    def _base_us(self, slot: Slot, schedule: Schedule | None, now_us: int, back_us: int | None = None) -> int:
        """From when on due times count; `back_us` is by how much the clock was set back, if that is known."""
        memory = slot.memory
        base_us = memory.due_us if memory.due_us is not None else now_us
        if base_us <= now_us:
            return base_us
        # The clock was set back since then.
        stepping = schedule is not None and all(entry.steps for entry in schedule.entries)
        if stepping or (base_us - now_us if back_us is None else back_us) > CORRECTION_US:
            near = 0 < memory.used_us - base_us <= CORRECTION_US
            memory.used_us, memory.due_us = memory.used_us if near else base_us, now_us
            self._changed.add(slot.entry.name)
            return now_us
        return base_us

    # Time

    def next_us(self) -> int | None:
        """When there is something to do, microseconds since 1970; None for never."""
        while self._heap:
            when_us, job = self._heap[0]
            slot = self._slots.get(job)
            if slot is not None and when_us in slot.times():
                return when_us
            heapq.heappop(self._heap)
        return None

    def due_at(self, when_us: int, most: int) -> list[str]:
        """At most so many of the jobs that have something to do at this time."""
        found = (job for at_us, job in self._heap if at_us == when_us)
        return list(islice(found, most))

    def take_due(self, now_us: int, most: int) -> list[Due]:
        """At most so many of the runs that are to be started now; each is busy until `over` is told."""
        found: list[Due] = []
        while len(found) < most:
            when_us = self.next_us()
            if when_us is None or when_us > now_us:
                break
            slot = self._slots[heapq.heappop(self._heap)[1]]
            due = self._due(slot, now_us)
            if due is not None:
                self._busy[due.job] = self._busy.get(due.job, 0) + 1
                found.append(due)
            self._push(slot)
        return found

    def take(self, job: str, asked: Asked = NOT_ASKED) -> Due | None:
        """A run by hand, busy from now on; None if no more may begin, or there is no such job.

        It may wait then: see `waiting`. One that is another than all others of the job never does.
        """
        slot = self._slots.get(job)
        due = self._admitted(slot, Due(job, Trigger.MANUAL, asked=asked)) if slot is not None else None
        if slot is None or due is None:
            return None
        self._busy[job] = self._busy.get(job, 0) + 1
        if due.asked.is_special:
            # It stands for no other run: a retry still comes, and what falls due meanwhile waits.
            self.held |= {job} if slot.most == 1 else set()
            return due
        slot.memory.retry = 0
        self._changed.add(job)
        return due

    def waiting(self, job: str) -> Waiting | None:
        """The run of it that begins when the one that is on is over."""
        return self._memory(job).waiting

    def give_up_waiting(self, job: str) -> None:
        """Nothing waits for the end of a run of it any more."""
        slot = self._slots.get(job)
        if slot is not None:
            self._give_up(slot)

    def take_replaced(self) -> list[str]:
        """The jobs whose runs are to be ended, as the next one waits for that; told once."""
        found, self._replaced = sorted(self._replaced), set()
        return found

    def _give_up(self, slot: Slot) -> None:
        if slot.memory.waiting is not None:
            slot.memory.waiting = slot.ready_us = None
            self._changed.add(slot.entry.name)

    def over(self, job: str, now_us: int, *, retry: int = 0, delay_us: int = 0) -> bool:
        """The run is over, or came to nothing; the attempt `retry`, if not 0, is to follow after so long.

        Returns whether that is waited for: not of a job that is gone or disabled. A run of an earlier engine is over
        before any begins here, and what fell due since that one ended is owed.
        """
        was_on = self._busy.pop(job, 0)
        if was_on > 1:
            self._busy[job] = was_on - 1
        slot = self._slots.get(job)
        if slot is None:
            self.held.discard(job)
            return False
        skips = slot.entry.timing.overlap is Overlap.SKIP
        held = job in self.held
        self.held.discard(job)
        if was_on and skips and not held and slot.next_us is not None and slot.next_us <= now_us:
            # What fell due while it ran is dropped, as a timer's elapse is while its service is active.
            self._use_up(slot, now_us)
        waits = bool(retry) and slot.entry.timing.enabled and slot.memory.waiting is None
        if waits:
            slot.memory.retry, slot.memory.retry_us, slot.memory.retry_from_us = retry, now_us + delay_us, now_us
            self._changed.add(job)
        if slot.memory.waiting is not None and job not in self._busy:
            slot.ready_us = now_us
        self._push(slot)
        return waits

    def clock_was_set(self, by_us: int, now_us: int) -> None:
        """The clock jumped by so much, to `now_us`; a machine that slept is the same. Waits keep their length."""
        # Also when it was set back: what comes then is not missed, though the engine began at a later time.
        self._awake_us = now_us
        for slot in self._slots.values():
            memory = slot.memory
            if memory.retry:
                memory.retry_us += by_us
                memory.retry_from_us += by_us
                self._changed.add(slot.entry.name)
            if slot.boot_us is not None:
                slot.boot_us += by_us
            if slot.ready_us is not None:
                slot.ready_us += by_us
            if not slot.entry.timing.enabled:
                continue
            if by_us < 0:
                schedule = self._schedule_of(slot.entry)
                slot.next_us = next_after(schedule, self._base_us(slot, schedule, now_us, -by_us))
            elif (memory.due_us or 0) < memory.used_us <= now_us + CORRECTION_US:
                # It was right before, and wrong in between: what was used up then does not come again.
                memory.due_us = min(memory.used_us, now_us)
                self._changed.add(slot.entry.name)
                slot.next_us = next_after(self._schedule_of(slot.entry), memory.due_us)
        self._heap_anew()

    def zone_was_set(self, now_us: int) -> None:
        """The machine's time zone is another now: times in it count from here on, and nothing runs at once for it."""
        for slot in self._slots.values():
            if slot.next_us is not None and slot.next_us > now_us and slot.entry.timing.timezone is None:
                base_us = max(now_us, slot.memory.due_us or 0)
                slot.next_us = next_after(self._schedule_of(slot.entry), base_us)
        self._heap_anew()

    def _due(self, slot: Slot, now_us: int) -> Due | None:
        """What is due of a job now, and used up with that; None where it may not begin."""
        memory, job = slot.memory, slot.entry.name
        waiting, slot.ready_us = memory.waiting, None
        due: Due | None = None
        self._changed.add(job)
        if waiting is not None and job not in self._busy:
            if slot.next_us is not None and slot.next_us <= now_us:
                # There is one run for all that fell due before it begins.
                self._use_up(slot, now_us)
            memory.waiting, due = (
                None,
                Due(job, waiting.trigger, waiting.attempt, waiting.scheduled_us, waiting.failed, Asked(waiting.by)),
            )
        elif memory.chain.due is not None:
            due = Due(job, Trigger.AFTER, failed=memory.chain.due)
            memory.chain.due = None
        elif slot.next_us is not None and slot.next_us <= now_us:
            # It makes up for what was missed also where one more time has come since, as while the engine loads.
            missed = slot.next_us < self._awake_us
            due = Due(job, Trigger.MISSED if missed else Trigger.SCHEDULE, 1, self._use_up(slot, now_us))
        elif slot.boot_us is not None and slot.boot_us <= now_us:
            slot.boot_us, memory.boot = None, self._boot
            due = Due(job, Trigger.BOOT)
        elif memory.retry and memory.retry_us <= now_us:
            due = Due(job, Trigger.RETRY, memory.retry, memory.retry_us)
        if due is None:
            return None
        # Any run ends the wait for a retry.
        memory.retry = 0
        return self._admitted(slot, due)

    def _admitted(self, slot: Slot, due: Due) -> Due | None:
        """The same if it may begin; else it waits, the first or the last of several, or is dropped."""
        job, overlap = due.job, slot.entry.timing.overlap
        if self._busy.get(job, 0) < slot.most:
            return due
        if due.asked.is_special:
            return None
        held = job in self.held and (due.trigger is not Trigger.MANUAL or overlap is not Overlap.SKIP)
        if held or overlap in (Overlap.QUEUE, Overlap.REPLACE):
            slot.have_wait(due, first=overlap is not Overlap.REPLACE)
            self._changed.add(job)
        if overlap is Overlap.REPLACE and not held:
            self._replaced.add(job)
        return None

    def _use_up(self, slot: Slot, now_us: int) -> int:
        """Take all due times up to now; returns the last of them."""
        self._changed.add(slot.entry.name)
        return slot.use_up(self._schedule_of(slot.entry), now_us)

    def _push(self, slot: Slot) -> None:
        times = [when_us for when_us in slot.times() if when_us is not None]
        if times:
            heapq.heappush(self._heap, (min(times), slot.entry.name))
        if len(self._heap) > 4 * len(self._slots) + _VOID:
            self._heap_anew()

    def _heap_anew(self) -> None:
        self._heap = []
        for slot in self._slots.values():
            self._push(slot)
