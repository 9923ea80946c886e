"""What started a run: worked out from when it started, the job's schedule, and what its timers did. Pure.

systemd says it to the run alone ($TRIGGER_UNIT), and 252 wrongly; nothing of sdcron runs there to pass it on. But a
timer's start has a time that was known before: a due time of the schedule that no earlier run has used up, the end of
a retry timer's wait, the moment after a boot. What starts at none of these was started by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from sdcron.runs import Trigger, microseconds_of, moment_of

if TYPE_CHECKING:
    from sdcron.definition import Definition
    from sdcron.schedule import Schedule

_EARLY_US = 50_000
"""How much before its time a start may be logged, the clock being adjusted."""
_LATE_US = 10_000_000
"""How much later than AccuracySec= allows a busy machine may start what is due."""
_BOOT_US = 300_000_000
"""How long the first run after a boot may wait for what it needs, such as a network."""
_ONCE_OVER_US = 500_000
"""How long after the end of a run the one may start that fell due meanwhile."""
_CATCH_UP_US = 2_000_000
"""How much later than that a persistent timer that was started may run what it has missed."""


@dataclass(slots=True)
class Memory:
    """What one job's timers and runs did so far. Times are microseconds since 1970; a manager is one boot's systemd."""

    retry: int = 0
    """The number of the retry that waits; 0 for none."""
    retry_armed_us: int = 0
    retry_manager: str = ""
    retry_stopped: bool = False
    """Whether its timer was stopped: by the start of the run it waited for, or by somebody."""
    started_us: int | None = None
    """When the last run started."""
    finished_us: int | None = None
    due_us: int | None = None
    """The last time of the schedule that a run has used up."""
    timer_us: int | None = None
    """When the timer of the schedule was started last."""
    timer_manager: str = ""
    timer_digest: str | None = None
    timer_of_boot: bool = False
    """Whether it had been started by an earlier manager before: what it missed it runs first, however late."""
    timer_again: bool = False
    """Whether the same timer had been started before: only then it may have missed something."""
    boot_timer_us: int | None = None
    digest: str | None = None
    """Of the job as its last run was."""
    keep: int = 0
    redact: tuple[str, ...] = ()
    """What `output:` said then: for output that is read when the job is not applied any more."""
    owed: int = 0
    """The number of the retry that a run needs which the machine cut off; 0 for none."""

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """The inverse. Raises TypeError for a member that there is not."""
        memory = cls(**state)
        memory.redact = tuple(memory.redact)
        return memory

    def timer_started(self, moment_us: int, manager: str, digest: str | None) -> None:
        """The timer of the schedule was started: by an apply, at a boot, or by hand."""
        self.timer_again = self.timer_us is not None and digest == self.timer_digest
        self.timer_of_boot = self.timer_again and manager != self.timer_manager
        if digest != self.timer_digest:
            # Another schedule is another job: what the old one was owed is not asked for any more.
            self.owed = 0
            self.retry = self.retry if self.retry_manager == manager else 0
        self.timer_us, self.timer_manager, self.timer_digest = moment_us, manager, digest

    def seen(self, definition: Definition) -> None:
        """How the job is applied when something of it is taken from the journal."""
        self.digest, self.keep = definition.digest, definition.keep
        self.redact = tuple(pattern.pattern for pattern in definition.patterns)

    def run_started(self, started_us: int, cause: Cause) -> None:
        """A run has begun, and with it every wait for one is over."""
        self.started_us, self.finished_us = started_us, None
        self.retry, self.owed = 0, 0
        if cause.trigger in (Trigger.SCHEDULE, Trigger.MISSED):
            self.due_us = cause.scheduled_us

    def run_ended(self, finished_us: int | None, owed: int) -> None:
        """It is over; `owed` is the number of the retry that nobody else will start."""
        self.finished_us, self.owed = finished_us or self.started_us, owed

    def retry_started(self, number: int, moment_us: int, manager: str) -> None:
        """A retry timer begins to wait."""
        self.retry, self.retry_armed_us, self.retry_manager, self.retry_stopped = number, moment_us, manager, False
        self.owed = 0


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run started; `scheduled_us` is when it should have."""

    trigger: Trigger | None
    attempt: int = 1
    scheduled_us: int | None = None


def cause_of(started_us: int, definition: Definition | None, memory: Memory, manager: str, manager_us: int) -> Cause:
    """Why a run that started then did. `manager_us` is when this systemd was first heard of."""
    if definition is None:
        return Cause(None)
    slack = definition.accuracy_us + _LATE_US
    retry = memory.retry
    if 0 < retry <= len(definition.retry_delays_us) and memory.retry_manager == manager:
        due = memory.retry_armed_us + definition.retry_delays_us[retry - 1]
        if due - _EARLY_US <= started_us <= due + slack:
            return Cause(Trigger.RETRY, retry + 1, due)
        if started_us < memory.retry_armed_us:  # the clock was set back, and how far nobody tells
            return Cause(Trigger.RETRY, retry + 1)
    if definition.boot and memory.boot_timer_us is not None:
        due = max(memory.boot_timer_us, manager_us + definition.boot_delay_us)
        first = memory.started_us is None or memory.started_us < memory.boot_timer_us
        if first and memory.boot_timer_us - _EARLY_US <= started_us <= due + slack + _BOOT_US:
            return Cause(Trigger.BOOT, 1, None)
    due_us = _due(started_us, definition.schedule, memory)
    if due_us is None:
        return Cause(Trigger.MANUAL)
    # A timer that was started later than now was started before the clock was set back.
    if memory.timer_us is not None and due_us < memory.timer_us <= started_us:
        caught_up = definition.persistent and memory.timer_again
        first = memory.timer_of_boot and (memory.started_us is None or memory.started_us < memory.timer_us)
        late_us = _BOOT_US if first else _CATCH_UP_US
        if caught_up and started_us <= memory.timer_us + definition.accuracy_us + late_us:
            return Cause(Trigger.MISSED, 1, due_us)
        return Cause(Trigger.MANUAL)
    late = started_us > due_us + slack and not _was_on(memory, due_us)
    return Cause(Trigger.MISSED if late else Trigger.SCHEDULE, 1, due_us)


def _was_on(memory: Memory, due_us: int) -> bool:
    """Whether the last run was on then."""
    return memory.started_us is not None and memory.started_us < due_us <= (memory.finished_us or due_us)


def _due(started_us: int, schedule: Schedule | None, memory: Memory) -> int | None:
    """The last time of the schedule before a start, if a timer can have started it then."""
    due = last_due(schedule, started_us + _EARLY_US) if schedule is not None else None
    # Times that are used up come again when the clock is set back.
    if due is None or (memory.due_us is not None and due <= memory.due_us <= started_us + _EARLY_US):
        return None
    # The run before was still on when it fell due. If its timer had started that, systemd starts it once that is over
    # (timer_enter_waiting in its timer.c counts from the last elapse), and else drops it.
    if _was_on(memory, due) and started_us > (memory.finished_us or 0) + _ONCE_OVER_US:
        return None
    # No timer of ours waited for it then, and no record says that one ever did.
    return due if memory.timer_us is not None or started_us <= due + _LATE_US * 6 else None


def last_due(schedule: Schedule, moment_us: int) -> int | None:
    """The latest time of the schedule not after a moment; None if there is none in the ten years before."""
    moment = moment_of(moment_us)

    def before(back: timedelta) -> bool:
        following = schedule.next_after(moment - back)
        return following is not None and following <= moment

    back = timedelta(seconds=1)
    while not before(back):
        back *= 4
        if back > timedelta(days=3660):
            return None
    # A time is in the last `back`, and none in the last quarter of it.
    near, far = (back / 4 if back > timedelta(seconds=1) else timedelta(0)), back
    while far - near > timedelta(microseconds=500_000):
        middle = (near + far) / 2
        near, far = (near, middle) if before(middle) else (middle, far)
    due = schedule.next_after(moment - far)
    while due is not None:
        following = schedule.next_after(due)
        if following is None or following > moment:
            break
        due = following
    return microseconds_of(due) if due is not None else None
