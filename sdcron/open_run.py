"""A run that is on, or whose record is not closed yet: what the journal has told of it so far. Pure."""

from __future__ import annotations

import json
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sdcron.output import Capture, Patterns
from sdcron.overlap import slot_name
from sdcron.runs import NOT_ASKED, Alarm, Asked, Outcome, Run, Trigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.definition import Definition
    from sdcron.job_memory import Cause

# systemd.exec(5), "Process Exit Codes", and what $SERVICE_RESULT may be.
_RESULTS = {
    "success": Outcome.SUCCESS,
    "exit-code": Outcome.FAILURE,
    "signal": Outcome.KILLED,
    "core-dump": Outcome.KILLED,
    "oom-kill": Outcome.KILLED,
    "watchdog": Outcome.KILLED,
    "timeout": Outcome.TIMEOUT,
    "exec-condition": Outcome.SKIPPED,
    "lock": Outcome.SKIPPED,  # sdcron's own word
}
_REASONS = {
    "timeout": "took longer than its timeout",
    "oom-kill": "out of memory",
    "watchdog": "did not answer the watchdog",
    "exec-condition": "a condition of `when` did not hold",
    "resources": "systemd could not start it",
    "start-limit-hit": "started too often",
    "dependency": "something it needs could not be started",
    "canceled": "its start was cancelled before it began",
    "timeout-start": "systemd waited too long to start it",
}
CUT_OFF = "cut off: the machine went down without a shutdown"
MANAGER_GONE = "cut off: its service manager was killed"
SHUT_DOWN = "cut off by a shutdown"
STOPPED = "stopped by an administrator"
REPLACED = "replaced by the next run"
END_UNKNOWN = "its end is in no journal"
START_UNKNOWN = "its start is in no journal"
NEEDS = "needs "
"""How the detail of a run begins that its gate has kept from its start; the names of the jobs follow."""
GONE = -1
"""The beginning of a process that was over before somebody asked."""


@dataclass(slots=True)
class OpenRun:
    """One of them. Times are microseconds since 1970; `manager` names the systemd that runs it."""

    job: str
    run_id: str
    manager: str
    host: str = ""
    started_us: int | None = None
    trigger: Trigger | None = None
    attempt: int = 1
    scheduled_us: int | None = None
    digest: str | None = None
    stdout: Capture = field(default_factory=Capture)
    stderr: Capture = field(default_factory=Capture)
    streams: dict[str, str] = field(default_factory=dict)
    """Which of the two a stream of journald's is, by its id."""
    exit_kind: str = ""
    """`exited`, `killed` or `dumped`, as systemd says of the main process."""
    exit_status: int | None = None
    result: str = ""
    """systemd's word for how the unit ended."""
    detail: str = ""
    """What systemd said of why it could not start."""
    ended_us: int | None = None
    done: bool = False
    """Whether systemd has finished with it: only output may still come."""
    stopped: str = ""
    """Why it was stopped, if it was."""
    cpu_us: int | None = None
    memory_peak_bytes: int | None = None
    dropped_lines: int = 0
    dropped_before: int = 0
    """The same of lines that may have been those of the run before."""
    doubtful: bool = False
    """Whether some of its output may be that of a run of which journald knows nothing else."""
    lock: str = ""
    """The lock that it says it did not get."""
    pid: int = 0
    """The main process, where the engine runs it."""
    pid_started: int = 0
    """When that began, in the kernel's clock ticks since the boot; GONE if it was over before that was asked."""
    progress: tuple[float, float | None, int] | None = None
    """What it has told last of what is done, of how much, and when."""
    alarms: list[tuple[int, str]] = field(default_factory=list)
    asked: Asked = NOT_ASKED
    slot: int = 1
    """Which of several services runs it that may run beside each other: see overlap.py."""
    complete: bool = True
    """Whether journald was heard to have stored all of its output."""

    @property
    def service(self) -> str:
        """The unit that runs it."""
        return slot_name(self.job, self.slot)

    def begin(self, started_us: int, cause: Cause, definition: Definition | None) -> None:
        """systemd says that it starts."""
        self.started_us = started_us
        self.trigger, self.attempt, self.scheduled_us = cause.trigger, cause.attempt, cause.scheduled_us
        self.digest = definition.digest if definition is not None else None

    def capture(self, which: str) -> Capture:
        """The stream of that name."""
        return self.stdout if which == "stdout" else self.stderr

    def close(self, next_run_us: int | None, success_status: int | None = 0, *, backend: str = "systemd") -> Run:
        """The record, by what is known now; `success_status` is that of a success of which nothing else tells."""
        outcome, reason = self._outcome()
        exited = self.exit_kind == "exited"
        cut_off = outcome is Outcome.ABANDONED and self.ended_us is None
        return Run(
            job=self.job,
            run_id=self.run_id,
            outcome=outcome,
            host=self.host,
            backend=backend,
            trigger=self.trigger,
            attempt=self.attempt,
            scheduled_us=self.scheduled_us,
            started_us=self.started_us,
            finished_us=None if cut_off else self.ended_us,
            reason="; ".join(filter(None, (reason, *self._unknown()))),
            # In the journal systemd does not say the status of a success.
            exit_code=self.exit_status if exited else success_status if outcome is Outcome.SUCCESS else None,
            signal=_signal_name(self.exit_status) if self.exit_kind in ("killed", "dumped") else None,
            stdout=self.stdout.output(),
            stderr=self.stderr.output(),
            dropped_lines=self.dropped_lines,
            cpu_us=self.cpu_us,
            memory_peak_bytes=self.memory_peak_bytes,
            next_run_us=next_run_us,
            job_digest=self.digest,
            alarms=tuple(Alarm(at_us, text) for at_us, text in self.alarms),
            asked=self.asked,
        )

    def retry_owed(self, definition: Definition | None) -> int:
        """The number of the retry that a run gets which the machine cut off: systemd saw no failure, or no more."""
        if definition is None or not (self.result in (CUT_OFF, MANAGER_GONE) or self.stopped == SHUT_DOWN):
            return 0
        # With `retry.on_exit` only these exit statuses are retried, and this run has none.
        return self.attempt if self.attempt <= len(definition.retry_delays_us) and not definition.retry_on_exit else 0

    def _outcome(self) -> tuple[Outcome, str]:
        if self.stopped:
            return (Outcome.ABANDONED if self.stopped == SHUT_DOWN else Outcome.KILLED), self.stopped
        if not self.result:
            return Outcome.ABANDONED, END_UNKNOWN
        if self.result in (CUT_OFF, MANAGER_GONE, END_UNKNOWN):
            return Outcome.ABANDONED, self.result
        outcome = _RESULTS.get(self.result, Outcome.FAILURE)
        reason = _REASONS.get(self.result, "" if self.result in _RESULTS else self.result)
        # Others than the gate may say it.
        gated = self.detail.startswith(NEEDS)
        if gated and outcome is Outcome.SKIPPED:
            reason = self.detail
        elif self.detail and not gated:
            reason = f"{reason}: {self.detail}" if reason else self.detail
        elif self.result == "exit-code":
            reason = f"exit status {self.exit_status}"
        elif self.result in ("signal", "core-dump"):
            reason = f"died of {_signal_name(self.exit_status)}" + (", core dumped" * (self.result == "core-dump"))
        return outcome, reason

    def _unknown(self) -> list[str]:
        unknown = [START_UNKNOWN] * (self.started_us is None)
        if self.dropped_before:
            unknown.append(f"journald dropped {self.dropped_before} lines of this run or the one before")
        if self.doubtful:
            unknown.append("some of its output may be another run's: journald was restarted")
        return unknown + ["its output may be incomplete: journald did not answer"] * (not self.complete)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("stdout", "stderr", "asked")}
        return {**plain, "asked": self.asked.as_json(), "stdout": self.stdout.state(), "stderr": self.stderr.state()}

    @classmethod
    def from_json(cls, state: dict[str, Any], patterns: Patterns) -> Self:
        """The inverse; `patterns` are what is redacted. Raises KeyError, ValueError or TypeError for anything else."""
        captures = {name: Capture.restored(state[name], patterns) for name in ("stdout", "stderr")}
        trigger = Trigger(state["trigger"]) if state["trigger"] is not None else None
        asked = Asked.from_json(state.get("asked", {}))
        return cls(**{**state, **captures, "trigger": trigger, "asked": asked})


class States(Mapping[str, tuple[str, str]]):
    """Job and state of open runs by id, each made when it is asked for: at once they may be many megabytes."""

    def __init__(self, runs: dict[str, OpenRun]) -> None:
        self._runs = runs

    def __getitem__(self, run_id: str) -> tuple[str, str]:
        run = self._runs[run_id]
        return run.job, json.dumps(run.as_json())

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signals.SIGRTMIN}" if number > signals.SIGRTMIN else str(number)
