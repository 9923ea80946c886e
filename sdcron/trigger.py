"""What started a run: worked out from when it started, the job's schedule, and what its timers did. Pure.

systemd says it to the run alone ($TRIGGER_UNIT), and 252 wrongly; nothing of sdcron runs there to pass it on. But a
timer's start has a time that was known before: a due time of the schedule that no earlier run has used up, the end of
a retry timer's wait, the moment after a boot. What starts at none of these was started by hand.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.job import Overlap
from sdcron.job_memory import BOOT_US, LATE_US, Cause, Memory
from sdcron.runs import Trigger, microseconds_of, moment_of

if TYPE_CHECKING:
    from sdcron.definition import Definition
    from sdcron.schedule import Schedule

_EARLY_US = 50_000
"""How much before its time a start may be logged, the clock being adjusted."""
_TOLD_US = 50_000
"""How much later than it begins to wait a timer may be logged as started, on a busy machine."""
_ONCE_OVER_US = 500_000
"""How long after the end of a run the one may start that fell due meanwhile."""
_CHAIN_US = 300_000_000
"""How long after its chain has asked for it a run may begin: it may have to wait for a network."""
_CATCH_UP_US = 2_000_000
"""How much later than that a persistent timer that was started may run what it has missed."""


def tick_cause(when_us: int, definition: Definition, memory: Memory, manager: str, manager_us: int) -> Cause:
    """Why a run was asked for then, be another on or not. The arguments are those of `cause_of`."""
    none_on = replace(memory, retry=0, tick_us=None, tick_over=[], finished_us=memory.started_us)
    return cause_of(when_us, definition, none_on, manager, manager_us)


def _of_tick(started_us: int, definition: Definition, memory: Memory, manager: str, manager_us: int) -> Cause | None:
    """The cause of what asked for a run, if that is what begins: at once, or when another is over, or the next boot."""
    if memory.tick_us is None or not memory.tick_trigger:
        return None
    slack = definition.accuracy_us + LATE_US
    if memory.tick_manager != manager:
        since_us = manager_us + BOOT_US
    elif memory.tick_us < (memory.finished_us or 0):
        # Behind a run: soon after its end, or it was given up.
        since_us = max(memory.finished_us or 0, memory.held_us)
    else:
        # Nothing was on: it may have to wait for a network.
        since_us = max(memory.tick_us, memory.held_us) + BOOT_US
    if started_us > since_us + slack:
        return None
    return Cause(Trigger(memory.tick_trigger), 1, memory.tick_due_us)


def _of_tick_over(started_us: int, memory: Memory, manager: str) -> Cause | None:
    """The cause of what seemed to ask for a run in vain, and looked a moment later whether it does."""
    if memory.tick_us is not None or not memory.tick_over:
        return None
    asked_us, asked_manager, trigger, due_us = memory.tick_over
    is_its = trigger and asked_manager == manager and started_us <= asked_us + LATE_US
    return Cause(Trigger(trigger), 1, due_us) if is_its else None


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
    slack = definition.accuracy_us + LATE_US
    retry = memory.retry
    if 0 < retry <= len(definition.retry_delays_us) and memory.retry_manager == manager:
        due = memory.retry_armed_us + definition.retry_delays_us[retry - 1]
        if due - _EARLY_US <= started_us <= max(due, memory.held_us) + slack:
            return Cause(Trigger.RETRY, retry + 1, due)
        if started_us < memory.retry_armed_us:  # the clock was set back, and how far nobody tells
            return Cause(Trigger.RETRY, retry + 1)
    cause = _of_tick_over(started_us, memory, manager)
    if cause is not None:
        return cause
    if definition.boot and memory.boot_timer_us is not None:
        due = max(memory.boot_timer_us, manager_us + definition.boot_delay_us)
        if memory.boot_timer_us - _EARLY_US <= started_us <= due + slack + BOOT_US:
            return Cause(Trigger.BOOT, 1, None)
    due_us = _due(started_us, definition, memory, slack)
    by_hand = Cause(Trigger.MANUAL)
    if due_us is None:
        return by_hand
    # A timer that was started later than now was started before the clock was set back.
    if memory.timer_us is not None and due_us < memory.timer_us - _TOLD_US <= started_us:
        if not _makes_good(started_us, definition, memory):
            return Cause(Trigger.SCHEDULE, 1, due_us) if _at_once(started_us, due_us, definition, memory) else by_hand
        later_us = last_due(definition.schedule, started_us - slack) if definition.schedule is not None else None
        return Cause(Trigger.MISSED, 1, due_us, later_us if later_us is not None and later_us > due_us else 0)
    late = started_us > max(due_us, memory.held_us) + slack and not _was_on(memory, due_us)
    return Cause(Trigger.MISSED if late else Trigger.SCHEDULE, 1, due_us)


def passed_over(started_us: int, definition: Definition, memory: Memory) -> int | None:
    """The time before the last one, if the last run was for that, and this start, with no time left, is for the last.

    A timer elapses next at the first time after it has elapsed last, and at once if that is over by then
    (timer_enter_waiting in systemd's timer.c). What a systemd that stood still begins after the next time is taken for
    that one's, and what is that one's comes right after it.
    """
    schedule, due_us = definition.schedule, memory.due_us
    if schedule is None or due_us is None or memory.timer_us is None or memory.timer_stopped_us is not None:
        return None
    if last_due(schedule, started_us + _EARLY_US) != due_us:
        return None
    before_us = last_due(schedule, due_us - 1)
    since_us = max(memory.timer_us - _TOLD_US, (memory.due_before_us or 0) + 1, started_us - LATE_US)
    if before_us is None or before_us < since_us:
        return None
    on_us, over_us = memory.before_us
    # A service that was on at either is not started by its timer for the first.
    skips = definition.overlap is Overlap.SKIP and (over_us >= due_us or on_us < before_us <= over_us)
    return None if skips else before_us


def _makes_good(started_us: int, definition: Definition, memory: Memory) -> bool:
    """Whether the timer of the schedule was started shortly before, and runs then what it has missed."""
    if memory.timer_us is None or not (definition.persistent and memory.timer_again):
        return False
    first = memory.timer_of_boot and (memory.started_us is None or memory.started_us < memory.timer_us)
    # What waited at the shutdown may begin before it.
    first = first or (memory.timer_of_boot and definition.overlap is Overlap.QUEUE and memory.due_us is not None)
    late_us = BOOT_US if first else _CATCH_UP_US
    return started_us <= memory.timer_us + definition.accuracy_us + late_us


def _at_once(started_us: int, due_us: int, definition: Definition, memory: Memory) -> bool:
    """Whether a time fell due while an apply was at work, or the like, which sets a stamp and then starts the timer."""
    timer_us = memory.timer_us or 0
    return definition.persistent and due_us >= timer_us - LATE_US and started_us <= timer_us + _CATCH_UP_US


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
    return due if memory.timer_us is not None or started_us <= due + LATE_US * 6 else None


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
