"""What the engine's agenda remembers of a job over restarts, as the store keeps it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sdcron.runs import Trigger

_LAST_US = 1 << 53
"""No time of a job's is later: in the year 2255, and schedules end in 2199."""
_MOST_RETRIES = 100


class Waiting(NamedTuple):
    """A run that begins when the one that is on is over: what asked for it, and when it was due."""

    trigger: Trigger
    scheduled_us: int | None = None
    by: str = ""
    """Who asked, of one by hand."""
    attempt: int = 1
    failed: tuple[str, ...] = ()
    """Those of the jobs that it runs after whose end was no success."""


@dataclass(slots=True)
class Chain:
    """What a job knows of those that it runs after, and of those that it needs."""

    after: tuple[str, ...] = ()
    """Those it runs after, for which `ended` is kept."""
    ended: dict[str, bool] = field(default_factory=dict)
    """Which of them have ended since it was started by them last, and whether that was a success."""
    succeeded: set[str] = field(default_factory=set)
    """Which of those that it needs have succeeded since its own last success."""
    due: tuple[str, ...] | None = None
    """It is to be started, as all have ended: those whose end was no success. None while it is not."""

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return self != Chain()

    def as_json(self) -> list[Any]:
        """As JSON can hold it."""
        return [self.after, self.ended, sorted(self.succeeded), self.due]

    @classmethod
    def from_json(cls, state: Any) -> Chain:  # noqa: ANN401 - whatever JSON can hold
        """The inverse. Raises ValueError or TypeError for anything else."""
        after, ended, succeeded, due = state
        if not isinstance(ended, dict) or not all(type(good) is bool for good in ended.values()):
            raise TypeError("not what has ended")
        if not all(isinstance(name, str) for name in (*after, *succeeded, *(due or ()))):
            raise TypeError("not names of jobs")
        return cls(tuple(after), ended, {*succeeded}, tuple(due) if due is not None else None)


@dataclass(slots=True)
class Memory:
    """What is remembered of a job over restarts. Times are microseconds since 1970."""

    due_us: int | None = None
    """The last due time that is used up."""
    timing: str = ""
    """What the job's times were then."""
    retry: int = 0
    """The attempt that waits, 2 for the first retry; 0 for none."""
    retry_us: int = 0
    """When its wait ends."""
    retry_from_us: int = 0
    """When it began."""
    boot: str = ""
    """The boot in which it ran at boot, or in which it came too late for that."""
    used_us: int = 0
    """The last due time that was used up before the clock was set back so far that times come again; 0 for none."""
    waiting: Waiting | None = None
    chain: Chain = field(default_factory=Chain)

    def text(self) -> str:
        """As the store keeps it."""
        times = (self.due_us, self.used_us, self.retry_us, self.retry_from_us)
        state: dict[str, Any] = {"engine": [*times, self.retry, self.timing, self.boot]}
        state |= {"waiting": self.waiting} if self.waiting is not None else {}
        return json.dumps({**state, "chain": self.chain.as_json()} if self.chain else state)

    @classmethod
    def of(cls, text: str) -> Memory:
        """The inverse; what cannot be read, as the collector's, is a job that nothing is known of."""
        try:
            whole: Any = json.loads(text)
            due_us, used_us, retry_us, retry_from_us, retry, timing, boot = whole["engine"]
            chain = Chain.from_json(whole["chain"]) if "chain" in whole else Chain()
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()
        times = (used_us, retry_us, retry_from_us, *((due_us,) if due_us is not None else ()))
        if not all(type(number) is int and 0 <= number <= _LAST_US for number in times):
            return cls()
        if (
            type(retry) is not int
            or not 0 <= retry <= _MOST_RETRIES
            or type(timing) is not str
            or type(boot) is not str
        ):
            return cls()
        return cls(due_us, timing, retry, retry_us, retry_from_us, boot, used_us, _waiting(whole.get("waiting")), chain)


def _waiting(state: Any) -> Waiting | None:  # noqa: ANN401 - whatever JSON can hold
    """What is kept of a run that waits; none for what cannot be read."""
    try:
        trigger, scheduled_us, by, attempt, failed = state
        known = Trigger(trigger)
    except (TypeError, ValueError):
        return None
    if scheduled_us is not None and not (type(scheduled_us) is int and 0 <= scheduled_us <= _LAST_US):
        return None
    if type(by) is not str or type(attempt) is not int or not 1 <= attempt <= _MOST_RETRIES:
        return None
    if not isinstance(failed, list) or not all(type(name) is str for name in failed):
        return None
    return Waiting(known, scheduled_us, by, attempt, tuple(failed))
