"""What started a run: worked out from when it started, the job's schedule, and what its timers did. Pure.

systemd says it to the run alone ($TRIGGER_UNIT), and 252 wrongly; nothing of sdcron runs there to pass it on. But a
timer's start has a time that was known before: a due time of the schedule that no earlier run has used up, the end of
a retry timer's wait, the moment after a boot. What starts at none of these was started by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from sdcron.job import Overlap
from sdcron.runs import Trigger, microseconds_of, moment_of

if TYPE_CHECKING:
    from sdcron.definition import Definition
    from sdcron.schedule import Schedule

_EARLY_US = 50_000
"""How much before its time a start may be logged, the clock being adjusted."""
_TOLD_US = 50_000
"""How much later than it begins to wait a timer may be logged as started, on a busy machine."""
_LATE_US = 10_000_000
"""How much later than AccuracySec= allows a busy machine may start what is due."""
_BOOT_US = 300_000_000
"""How long the first run after a boot may wait for what it needs, such as a network."""
_ONCE_OVER_US = 500_000
"""How long after the end of a run the one may start that fell due meanwhile."""
_CHAIN_US = 300_000_000
"""How long after its chain has asked for it a run may begin: it may have to wait for a network."""
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
    due_before_us: int | None = None
    """The one that was used up before it."""
    timer_us: int | None = None
    """When the timer of the schedule was started last."""
    timer_manager: str = ""
    timer_digest: str | None = None
    timer_of_boot: bool = False
    """Whether it had been started by an earlier manager before: what it missed it runs first, however late."""
    timer_again: bool = False
    """Whether the same timer had been started before: only then it may have missed something."""
    timer_stopped_us: int | None = None
    """When it was stopped, as by a pause; None while it runs, and after a shutdown, which stops all."""
    boot_timer_us: int | None = None
    digest: str | None = None
    """Of the job as its last run was."""
    keep: int = 0
    redact: tuple[str, ...] = ()
    """What `output:` said then: for output that is read when the job is not applied any more."""
    owed: int = 0
    """The number of the retry that a run needs which the machine cut off; 0 for none."""
    tick_us: int | None = None
    """When something asked for the run that is to begin next, where `overlap` says what becomes of it."""
    tick_manager: str = ""
    tick_trigger: str = ""
    tick_due_us: int | None = None
    tick_called_us: int = 0
    """When the unit that waited began to start that run: what asks from then on asks for the one after it."""
    tick_after: list[list[Any]] = field(default_factory=list)
    """When and why those after it were asked for, as `tick_us`, `tick_manager`, `tick_trigger` and `tick_due_us`."""
    tick_over: list[Any] = field(default_factory=list)
    """What was asked for last that may come to nothing, or to a run of its own: while as many were on as may be, one of
    which may be over before that is decided; or beside what waits, which may begin before that is seen."""
    is_held: bool = False
    """Whether a run for an instant is on, which all others wait for (by_hand.py)."""
    held_us: int = 0
    """When the last of them ended."""
    asked: list[list[Any]] = field(default_factory=list)
    """What was asked for with runs that have not begun yet: see asking.py."""
    answered_us: int = 0
    """When that of it was asked which a run that has begun, or is to begin next, was for."""
    chain_us: int = 0
    """When the jobs that it runs after asked for a start that has not come yet; 0 for never."""
    chain_manager: str = ""

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
            self.tick_us = None
        if self.timer_stopped_us is not None:
            # What fell due since it was stopped is not made good: its stamp was set before it started.
            self.timer_again = self.timer_of_boot = False
        self.timer_us, self.timer_manager, self.timer_digest = moment_us, manager, digest
        self.timer_stopped_us = None

    def seen(self, definition: Definition) -> None:
        """How the job is applied when something of it is taken from the journal."""
        self.digest, self.keep = definition.digest, definition.keep
        self.redact = tuple(pattern.pattern for pattern in definition.patterns)

    def run_started(self, started_us: int, cause: Cause) -> None:
        """A run has begun, and with it every wait for one is over."""
        self.started_us, self.finished_us = started_us, None
        self.retry, self.owed, self.chain_us = 0, 0, 0
        if self.tick_us is None:
            self._use_up(cause)
            self.tick_over = []
        # What has ticked has used up its time, and maybe others since.
        following, *others = self.tick_after or [[None, "", "", None]]
        self._tick(*following)
        self.tick_after = others

    def run_ended(self, finished_us: int | None, owed: int) -> None:
        """It is over; `owed` is the number of the retry that nobody else will start."""
        self.finished_us, self.owed = finished_us or self.started_us, owed

    def ticked(self, moment_us: int, manager: str, manager_us: int, cause: Cause, overlap: Overlap, room: int) -> None:
        """Something asked for a run.

        Where runs queue, only the first waits of those that come while one is on; where several may be on there is
        `room` for so many more. `manager_us` is when this systemd was first heard of: what waited before a boot begins
        soon after it.
        """
        self._use_up(cause)
        if cause.trigger is Trigger.AFTER:
            self.chain_us = 0
        is_on = self.is_held or (self.started_us is not None and self.finished_us is None)
        # What waited for a run begins soon after its end.
        is_on = is_on or moment_us <= max(self.finished_us or 0, self.held_us) + _LATE_US
        waits = is_on or (self.tick_manager != manager and moment_us <= manager_us + _BOOT_US)
        new: list[Any] = [moment_us, manager, cause.trigger or "", cause.scheduled_us]
        self.tick_over = []
        if overlap is Overlap.ALLOW and room <= 0:
            self.tick_over = new
        elif self.tick_us is None:
            self._tick(*new)
        elif overlap is Overlap.REPLACE:
            if moment_us <= self.tick_us + _LATE_US:
                self.tick_over = new
            else:
                self._tick(*new)
        elif overlap is Overlap.ALLOW and moment_us <= self.tick_us + _BOOT_US:
            # systemd is slower to begin them than to ask.
            if len(self.tick_after) + 1 < room:
                self.tick_after.append(new)
            else:
                self.tick_over = new
        elif moment_us <= self.tick_called_us + _LATE_US:
            self.tick_after = self.tick_after or [new]
        elif overlap is Overlap.QUEUE and waits:
            self.tick_over = new
        else:
            self._tick(*new)

    def _use_up(self, cause: Cause) -> None:
        due_us = max(cause.used_us, cause.scheduled_us or 0) or None
        if cause.trigger in (Trigger.SCHEDULE, Trigger.MISSED) and due_us != self.due_us:
            self.due_before_us, self.due_us = self.due_us, due_us

    def put_back(self, due_us: int, before_us: int) -> bool:
        """What was asked for at a time was due at the one before; whether a run of it is still to begin."""
        if self.tick_us is not None and self.tick_due_us == due_us:
            self.tick_due_us = before_us
            return True
        for after in self.tick_after:
            if after[3] == due_us:
                after[3] = before_us
                return True
        return False

    def timer_was_stopped(self, moment_us: int) -> None:
        """The timer of the schedule was, and not by a shutdown: what waits is given up with it."""
        self.timer_stopped_us, self.tick_over = moment_us, []
        self._tick(None, "", "", None)

    def tick_called(self, moment_us: int) -> None:
        """What waited, where runs queue, begins to start the run that was asked for."""
        self.tick_called_us = moment_us if self.tick_us is not None else 0

    def _tick(self, moment_us: int | None, manager: str, trigger: str, due_us: int | None) -> None:
        self.tick_us, self.tick_manager, self.tick_trigger, self.tick_due_us = moment_us, manager, trigger, due_us
        self.tick_called_us, self.tick_after = 0, []

    def chain_asked(self, moment_us: int, manager: str) -> None:
        """All jobs that it runs after have ended, and its start is asked for."""
        self.chain_us, self.chain_manager = moment_us, manager

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
    used_us: int = 0
    """A later time of the schedule that is used up with it: it came while the start waited."""


def tick_cause(when_us: int, definition: Definition, memory: Memory, manager: str, manager_us: int) -> Cause:
    """Why a run was asked for then, be another on or not. The arguments are those of `cause_of`."""
    none_on = replace(memory, retry=0, tick_us=None, tick_over=[], finished_us=memory.started_us)
    return cause_of(when_us, definition, none_on, manager, manager_us)


def _of_tick(started_us: int, definition: Definition, memory: Memory, manager: str, manager_us: int) -> Cause | None:
    """The cause of what asked for a run, if that is what begins: at once, or when another is over, or the next boot."""
    if memory.tick_us is None and memory.tick_over:
        # It asked what was on some time after it had begun itself.
        asked_us, _, trigger, due_us = memory.tick_over
        return Cause(Trigger(trigger), 1, due_us) if trigger and started_us <= asked_us + _LATE_US else None
    if memory.tick_us is None or not memory.tick_trigger:
        return None
    slack = definition.accuracy_us + _LATE_US
    if memory.tick_manager != manager:
        since_us = manager_us + _BOOT_US
    elif memory.tick_us < (memory.finished_us or 0):
        # Behind a run: soon after its end, or it was given up.
        since_us = max(memory.finished_us or 0, memory.held_us)
    else:
        # Nothing was on: it may have to wait for a network.
        since_us = max(memory.tick_us, memory.held_us) + _BOOT_US
    if started_us > since_us + slack:
        return None
    return Cause(Trigger(memory.tick_trigger), 1, memory.tick_due_us)


def cause_of(started_us: int, definition: Definition | None, memory: Memory, manager: str, manager_us: int) -> Cause:
    """Why a run that started then did. `manager_us` is when this systemd was first heard of."""
    if definition is None:
        return Cause(None)
    if definition.overlap is not Overlap.SKIP:
        cause = _of_tick(started_us, definition, memory, manager, manager_us)
        if cause is not None:
            return cause
    chained_us = max(memory.chain_us, memory.held_us) + _CHAIN_US
    if memory.chain_manager == manager and 0 < memory.chain_us <= started_us <= chained_us:
        return Cause(Trigger.AFTER)
    slack = definition.accuracy_us + _LATE_US
    retry = memory.retry
    if 0 < retry <= len(definition.retry_delays_us) and memory.retry_manager == manager:
        due = memory.retry_armed_us + definition.retry_delays_us[retry - 1]
        if due - _EARLY_US <= started_us <= max(due, memory.held_us) + slack:
            return Cause(Trigger.RETRY, retry + 1, due)
        if started_us < memory.retry_armed_us:  # the clock was set back, and how far nobody tells
            return Cause(Trigger.RETRY, retry + 1)
    if definition.boot and memory.boot_timer_us is not None:
        due = max(memory.boot_timer_us, manager_us + definition.boot_delay_us)
        first = memory.started_us is None or memory.started_us < memory.boot_timer_us
        if first and memory.boot_timer_us - _EARLY_US <= started_us <= due + slack + _BOOT_US:
            return Cause(Trigger.BOOT, 1, None)
    due_us = _due(started_us, definition, memory, slack)
    if due_us is None:
        return Cause(Trigger.MANUAL)
    # A timer that was started later than now was started before the clock was set back.
    if memory.timer_us is not None and due_us < memory.timer_us - _TOLD_US <= started_us:
        if not _makes_good(started_us, definition, memory):
            return Cause(Trigger.MANUAL)
        later_us = last_due(definition.schedule, started_us - slack) if definition.schedule is not None else None
        return Cause(Trigger.MISSED, 1, due_us, later_us if later_us is not None and later_us > due_us else 0)
    late = started_us > max(due_us, memory.held_us) + slack and not _was_on(memory, due_us)
    return Cause(Trigger.MISSED if late else Trigger.SCHEDULE, 1, due_us)


def passed_over(started_us: int, definition: Definition, memory: Memory) -> int | None:
    """The time before the last one that was used up, where a start that seems to be for neither shows that one was.

    A timer elapses next at the first time after it has elapsed last, however late what it has started then began
    (timer_enter_waiting in systemd's timer.c). A busy systemd begins that after the next time, as if for this, and then
    what is for this.
    """
    schedule, due_us = definition.schedule, memory.due_us
    if schedule is None or due_us is None or memory.timer_us is None or memory.timer_stopped_us is not None:
        return None
    if last_due(schedule, started_us + _EARLY_US) != due_us:
        return None
    before_us = last_due(schedule, due_us - 1)
    since_us = max(memory.timer_us, (memory.due_before_us or 0) + 1, started_us - definition.accuracy_us - _LATE_US)
    return before_us if before_us is not None and before_us >= since_us else None


def _makes_good(started_us: int, definition: Definition, memory: Memory) -> bool:
    """Whether the timer of the schedule was started shortly before, and runs then what it has missed."""
    if memory.timer_us is None or not (definition.persistent and memory.timer_again):
        return False
    first = memory.timer_of_boot and (memory.started_us is None or memory.started_us < memory.timer_us)
    # What waited at the shutdown may begin before it.
    first = first or (memory.timer_of_boot and definition.overlap is not Overlap.SKIP)
    late_us = _BOOT_US if first else _CATCH_UP_US
    return started_us <= memory.timer_us + definition.accuracy_us + late_us


def _was_on(memory: Memory, due_us: int) -> bool:
    """Whether the last run was on then."""
    return memory.started_us is not None and memory.started_us < due_us <= (memory.finished_us or due_us)


def _is_unused(due_us: int, memory: Memory) -> bool:
    return (memory.due_us or 0) < due_us and not _was_on(memory, due_us)


def _due(started_us: int, definition: Definition, memory: Memory, slack_us: int) -> int | None:
    """The last time of the schedule before a start, if a timer can have started it then."""
    schedule = definition.schedule
    due = last_due(schedule, started_us + _EARLY_US) if schedule is not None else None
    if due is not None and due > started_us and schedule is not None:
        # A little early for that time; or late for the one before, of a job that runs often on a busy machine.
        before = last_due(schedule, started_us) or 0
        waited = (memory.timer_us or 0) <= before and started_us - before <= slack_us
        due = before if waited and _is_unused(before, memory) else due
    if due is not None and memory.timer_us is not None and memory.timer_us <= due and schedule is not None:
        # A timer that has just started makes good first what it has missed.
        missed = last_due(schedule, memory.timer_us) if _makes_good(started_us, definition, memory) else None
        due = missed if missed is not None and memory.due_us is not None and _is_unused(missed, memory) else due
    # Times that are used up come again when the clock is set back.
    if due is None or (memory.due_us is not None and due <= memory.due_us <= started_us + _EARLY_US):
        return None
    if memory.timer_stopped_us is not None and memory.timer_stopped_us < due:
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
