"""What is remembered of one job between two of its runs: what its timers did, and what waits. Pure.

Kept by the collector with each commit; trigger.py judges by it what started a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sdcron.job import Overlap
from sdcron.runs import Trigger

if TYPE_CHECKING:
    from sdcron.definition import Definition

LATE_US = 10_000_000
"""How much later than AccuracySec= allows a busy machine may start what is due."""
_TICKS_US = 2_000_000
"""How long a tick may be at work until what it asks for is asked of systemd."""
BOOT_US = 300_000_000
"""How long the first run after a boot may wait for what it needs, such as a network."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run started; `scheduled_us` is when it should have."""

    trigger: Trigger | None
    attempt: int = 1
    scheduled_us: int | None = None
    used_us: int = 0
    """A later time of the schedule that is used up with it, or before: it came while the start waited."""


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
    before_us: tuple[int, int] = (0, 0)
    """From when to when the run before it was on."""
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
    """When the timer that runs it at boot was started, until it has."""
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
    """What was asked for last that comes to nothing, and may for a moment come to a run of its own: while as many were
    on as may be, one of which may be over before that is decided; or beside what waits, which may begin before that is
    seen. As those of `tick_after`."""
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
        # Of before there was such a member: nothing shows that a time was passed over.
        memory = cls(**{"due_before_us": state.get("due_us"), **state})
        memory.redact, (began_us, over_us) = tuple(memory.redact), memory.before_us
        memory.before_us = (began_us, over_us)
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
        self.before_us = (self.started_us, self.finished_us or started_us) if self.started_us is not None else (0, 0)
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
        # What waited for a run begins soon after its end, but for what was given up with it.
        ended_us = max(self.finished_us or 0, self.held_us)
        is_over = cause.trigger is not Trigger.MANUAL and moment_us <= ended_us + _TICKS_US
        waits = is_on or is_over or (self.tick_manager != manager and moment_us <= manager_us + BOOT_US)
        new: list[Any] = [moment_us, manager, cause.trigger or "", cause.scheduled_us]
        self.tick_over = []
        if overlap is Overlap.ALLOW and room <= 0:
            self.tick_over = new
        elif self.tick_us is None:
            self._tick(*new)
        elif overlap is Overlap.REPLACE:
            # Either is a run of its own, or, while one is being stopped for them, they are one.
            if not is_on and moment_us <= self.tick_us + _TICKS_US:
                self.tick_over = new
            else:
                self._tick(*new)
        elif overlap is Overlap.ALLOW and moment_us <= self.tick_us + BOOT_US:
            # systemd is slower to begin them than to ask.
            if len(self.tick_after) + 1 < room:
                self.tick_after.append(new)
            else:
                self.tick_over = new
        elif moment_us <= self.tick_called_us + LATE_US:
            self.tick_after = self.tick_after or [new]
        elif overlap is Overlap.QUEUE and waits:
            self.tick_over = new
        else:
            self._tick(*new)

    def is_replaced(self, started_us: int, when_us: int) -> bool:
        """Whether the end then of the run that began is for another, which was asked for since, or right before."""
        if self.tick_us is not None:
            return self.tick_us >= started_us
        return bool(self.tick_over) and when_us <= self.tick_over[0] + LATE_US

    def _use_up(self, cause: Cause) -> None:
        due_us = max(cause.used_us, cause.scheduled_us or 0) or None
        if cause.trigger in (Trigger.SCHEDULE, Trigger.MISSED) and due_us != self.due_us:
            self.due_before_us, self.due_us = self.due_us, due_us
        elif cause.trigger is Trigger.BOOT:
            self.boot_timer_us = None

    def put_back(self, due_us: int, before_us: int) -> bool:
        """What was asked for as at a due time was due at the one before; False if no run of it is still to begin."""
        if self.tick_us is not None and self.tick_due_us == due_us:
            self.tick_due_us = before_us
            return True
        for after in (*self.tick_after, self.tick_over):
            if after and after[3] == due_us:
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
        if self.tick_over and self.tick_over[0] < moment_us - _TICKS_US:
            # It was one with what waits.
            self.tick_over = []

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
