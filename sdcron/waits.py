"""What the manager says of timers, and of what asks for runs in their name -> what is remembered of their job. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job import Overlap
from sdcron.job_memory import Cause
from sdcron.messages import RETRY_TIMER
from sdcron.runs import Trigger
from sdcron.trigger import cause_of, passed_over, tick_cause
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.definition import Definition
    from sdcron.memories import Memories

_BOOT, _TICK, _QUEUED = "@boot", "@tick", "@queued"


class Waits:
    """Those of all jobs of one scope."""

    def __init__(
        self,
        define: Callable[[str], Definition | None],
        memories: Memories,
        is_answered: Callable[[str, int], bool],
        count_on: Callable[[str], int],
        put_back: Callable[[str, int, int], bool],
    ) -> None:
        """`is_answered` tells whether somebody has just asked for a run of a job, `count_on` how many of it are on.

        `put_back` has the run of a job that is not on record yet, and began as for a due time, be for an earlier one.
        """
        self._define = define
        self._put_back = put_back
        self._count_on = count_on
        self._is_answered = is_answered
        self._memories = memories

    def cause(self, job: str, when_us: int, manager: str, manager_us: int) -> Cause:
        """Why a run of the job begins then. It may show that the one before was for another due time."""
        definition = self._define(job)
        if definition is not None and definition.overlap is Overlap.SKIP and self._is_answered(job, when_us):
            # A time that falls due next to it is still to come.
            return Cause(Trigger.MANUAL)
        cause = cause_of(when_us, definition, self._memories.of(job), manager, manager_us)
        return self._in_turn(cause, job, when_us, definition)

    def _in_turn(self, cause: Cause, job: str, when_us: int, definition: Definition | None) -> Cause:
        """The same; but what seems to be by hand may show that the run before was for the time before its own.

        Then that has this, in what is remembered or its open run, and this one has what that had.
        """
        memory = self._memories.of(job)
        if definition is None or cause.trigger is not Trigger.MANUAL:
            return cause
        due_us, before_us = memory.due_us, passed_over(when_us, definition, memory)
        if due_us is None or before_us is None:
            return cause
        memory.due_before_us = before_us
        is_put_back = memory.put_back(due_us, before_us) or self._put_back(job, due_us, before_us)
        # What is on record stays as it is.
        return Cause(Trigger.SCHEDULE, 1, due_us if is_put_back else before_us, due_us)

    def asked(self, name: str, when_us: int, manager: str, manager_us: int) -> bool:
        """A service of a job beside its own begins; whether it is one that overlap.py makes, for what does not skip."""
        job, at, kind = name.rpartition("@")
        kind = at + kind
        if kind == _TICK:
            self._ticked(job, when_us, manager, manager_us)
        elif kind == _QUEUED and self._define(job) is not None:
            self._memories.of(job).tick_called(when_us)
        return kind in (_TICK, _QUEUED)

    def _ticked(self, job: str, when_us: int, manager: str, manager_us: int) -> None:
        """A timer, or somebody, asks for a run."""
        definition = self._define(job)
        if definition is None:
            return
        memory = self._memories.of(job)
        if self._is_answered(job, when_us):
            cause = Cause(Trigger.MANUAL)
        else:
            cause = tick_cause(when_us, definition, memory, manager, manager_us)
            cause = self._in_turn(cause, job, when_us, definition)
        room = definition.max_parallel - self._count_on(job)
        memory.ticked(when_us, manager, manager_us, cause, definition.overlap, room)

    def timer_started(self, unit: str, when_us: int, manager: str) -> None:
        """A timer begins to wait."""
        retry = RETRY_TIMER.fullmatch(unit)
        if retry:
            self._memories.of(retry[1]).retry_started(int(retry[2]), when_us, manager)
            return
        name = unit.removeprefix(PREFIX).removesuffix(".timer")
        job = name.removesuffix(_BOOT)
        definition, memory = self._define(job), self._memories.of(job)
        if name != job or (definition is not None and definition.boot and not definition.has_times):
            memory.boot_timer_us = when_us
        else:
            memory.timer_started(when_us, manager, definition.timer_digest if definition else None)

    def timer_stopped(self, unit: str, when_us: int) -> None:
        """It does not wait any more, and not because everything is stopped."""
        retry = RETRY_TIMER.fullmatch(unit)
        name = unit.removeprefix(PREFIX).removesuffix(".timer")
        if retry:
            memory = self._memories.of(retry[1])
            memory.retry_stopped = memory.retry_stopped or memory.retry == int(retry[2])
        elif not name.endswith(_BOOT):
            self._memories.of(name).timer_was_stopped(when_us)
