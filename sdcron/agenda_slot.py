"""One job in the engine's agenda: when it is due, and how many of its runs may be on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.agenda_memory import Waiting
from sdcron.job import Overlap
from sdcron.runs import NOT_ASKED, Trigger, microseconds_of, moment_of
from sdcron.trigger import last_due

if TYPE_CHECKING:
    from sdcron.agenda_memory import Memory
    from sdcron.job_text import Timing
    from sdcron.runs import Asked
    from sdcron.schedule import Schedule

_MICROSECOND = timedelta(microseconds=1)
_LONG_AGO_US = 1
"""When something is due that waits for no time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One job as the agenda takes it: its times, and since when they count (microseconds since 1970)."""

    name: str
    timing: Timing
    since_us: int


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is to be started now; `scheduled_us` is when it should have been, None where nothing says."""

    job: str
    trigger: Trigger
    attempt: int = 1
    scheduled_us: int | None = None
    failed: tuple[str, ...] = ()
    """Those of the jobs that it runs after whose end was no success."""
    asked: Asked = NOT_ASKED


@dataclass(slots=True)
class Slot:
    """One job in the agenda."""

    entry: Entry
    memory: Memory
    next_us: int | None = None
    """The first due time that is not used up."""
    boot_us: int | None = None
    """When it runs at this boot."""
    ready_us: int | None = None
    """Since when the run that waits may begin; None while another is on."""

    def times(self) -> tuple[int | None, ...]:
        """When there may be something to do."""
        ready_us = self.ready_us if self.memory.waiting is not None else None
        chain_us = _LONG_AGO_US if self.memory.chain.due is not None else None
        return self.next_us, self.boot_us, self.memory.retry_us if self.memory.retry else None, ready_us, chain_us

    @property
    def most(self) -> int:
        """How many runs may be on at the same time."""
        return self.entry.timing.max_parallel if self.entry.timing.overlap is Overlap.ALLOW else 1

    def have_wait(self, due: Due, *, first: bool) -> None:
        """It begins when the run that is on is over; with `first` one that waits already goes on, but for its chain."""
        waiting = self.memory.waiting
        if waiting is None or not first:
            self.memory.waiting = Waiting(due.trigger, due.scheduled_us, due.asked.by, due.attempt, due.failed)
        elif due.trigger is Trigger.AFTER:
            self.memory.waiting = waiting._replace(failed=due.failed)

    def use_up(self, schedule: Schedule | None, now_us: int) -> int:
        """Take all due times up to now; returns the last of them."""
        due_us = self.next_us or now_us
        following_us = next_after(schedule, due_us)
        if schedule is not None and following_us is not None and following_us <= now_us:
            due_us = last_due(schedule, now_us) or due_us
            following_us = next_after(schedule, due_us)
        self.memory.due_us, self.next_us = due_us, following_us
        return due_us


def next_after(schedule: Schedule | None, moment_us: int) -> int | None:
    """The first due time behind a moment, microseconds since 1970; None for none."""
    following = schedule.next_after(moment_of(moment_us)) if schedule is not None else None
    return microseconds_of(following) if following is not None else None


def timing_key(entry: Entry) -> str:
    """What makes the times of a job the same: written alike, and applied at once; one that was gone is another."""
    timing = entry.timing
    words = (*timing.schedule, "", timing.timezone or "", timing.spread // _MICROSECOND, timing.enabled, entry.since_us)
    return "\n".join(map(str, words))
