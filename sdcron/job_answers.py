"""How a job is doing: what status answers, of all jobs or of one, and its documented JSON shape."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcron.runs import microseconds_of, moment_of, rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sdcron.pauses import Pause
    from sdcron.runs import Alarm, Run


@dataclass(frozen=True, slots=True)
class RetryWait:
    """A retry that waits for its time: `attempt` is that of the run to come, 2 for the first retry."""

    attempt: int
    at: datetime | None
    """None in the moment in which it begins."""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {"attempt": self.attempt, "at": _text(self.at)}


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run that is on has told of itself last; `total` None: it does not know how much there is."""

    done: float
    total: float | None
    at: datetime
    ends_at: datetime | None = None
    """When it ends if it goes on as it did so far; None where that cannot be said."""

    @property
    def percent(self) -> float | None:
        """Of all that there is, at most 100."""
        return min(self.done * 100 / self.total, 100.0) if self.total else None

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        percent = self.percent
        return {
            "done": _plain(self.done),
            "total": _plain(self.total),
            "percent": round(percent, 1) if percent is not None else None,
            "at": _text(self.at),
            "ends_at": _text(self.ends_at),
        }


def progress_of(told: Sequence[float | None], since: datetime | None) -> Progress | None:
    """That of a run which began then, as OpenRun keeps it; None for anything else."""
    try:
        done, total, at_us = told
        if done is None or at_us is None:
            return None
        at = moment_of(int(at_us))
    except (TypeError, ValueError, OverflowError):
        return None
    ends_at = None
    if since is not None and total and 0 < done < total and at > since:
        with suppress(OverflowError):
            ends_at = at + (at - since) * ((total - done) / done)
    return Progress(done, total, at, ends_at)


@dataclass(frozen=True, slots=True)
class JobStatusRow:
    """How one job is doing.

    `state` is one of those of JobRow, or `retry waiting`, or `removed` for a job that is not applied any more.
    `last` is the last run on record, known also when its record is too old to be kept; without its output.
    `failures` counts the runs without success since the last one with it; skipped ones do not count.
    """

    job: str
    state: str
    last: Run | None = None
    last_success_at: datetime | None = None
    failures: int = 0
    running_since: datetime | None = None
    running_id: str | None = None
    """The run id of what runs now, the longest if several do."""
    running_ids: tuple[str, ...] = ()
    """Those of all that run now, the longest first."""
    waits: bool = False
    """Whether a run waits for the end of the one that is on."""
    next_run: datetime | None = None
    retry: RetryWait | None = None
    transient: bool = False
    pause: Pause | None = None
    """What keeps it from its times."""
    progress: Progress | None = None
    """Of what runs now."""
    alarms: tuple[Alarm, ...] = ()
    """The same's; those of the last run are in its record."""

    @property
    def several(self) -> str:
        """How many runs are on, or that one waits, for people, behind other words; empty for one alone."""
        return ", one waits" if self.waits else f", {len(self.running_ids)} runs" if len(self.running_ids) > 1 else ""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape: `last_run` is a record as in job_status.log, but without stdout and stderr."""
        return {
            "job": self.job,
            "state": self.state,
            "last_run": without_output(self.last) if self.last else None,
            "last_success_at": _text(self.last_success_at),
            "failures": self.failures,
            "running_since": _text(self.running_since),
            "running_id": self.running_id,
            "running_ids": list(self.running_ids),
            "waits": self.waits,
            "next_run_at": _text(self.next_run),
            "retry": self.retry.as_json() if self.retry else None,
            "transient": self.transient,
            "paused": self.pause.as_json() if self.pause else None,
            "progress": self.progress.as_json() if self.progress else None,
            "alarms": [alarm.as_json() for alarm in self.alarms],
        }


@dataclass(frozen=True, slots=True)
class JobDetail:
    """All about one job. What its units say is empty for a `removed` one; `row.last` is with its output."""

    row: JobStatusRow
    description: str = ""
    schedule: tuple[str, ...] = ()
    timezone: str | None = None
    """None: the machine's."""
    source: str = ""
    directory: str = ""
    user: str | None = None
    """None: whom the service manager runs as."""
    timeout: str | None = None
    """How long a run may take, as systemd.time(7) writes it; None: as long as it likes."""
    retry_delays: tuple[timedelta, ...] = ()
    retry_on_exit: tuple[int, ...] = ()
    """The exit statuses that are retried; empty: every failure is."""
    units: tuple[tuple[str, str], ...] = ()
    """Name and ActiveState (systemctl(1)) of each of its units; `unknown` where no systemd runs."""
    recent: tuple[Run, ...] = ()
    """The last runs on record, the newest first, without their output."""
    next_runs: tuple[datetime, ...] = ()
    after: tuple[str, ...] = ()
    """The jobs whose ends start it."""
    needs: tuple[str, ...] = ()
    """The jobs that must have succeeded since it did."""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape: that of the row, `last_run` with its output, and what follows here."""
        delays = [delay.total_seconds() for delay in self.retry_delays]
        return {
            **self.row.as_json(),
            "last_run": self.row.last.as_json() if self.row.last else None,
            "description": self.description,
            "schedule": list(self.schedule),
            "timezone": self.timezone,
            "source": self.source,
            "directory": self.directory,
            "user": self.user,
            "timeout": self.timeout,
            "retries": {"delays_s": delays, "on_exit": list(self.retry_on_exit)} if delays else None,
            "units": dict(self.units),
            "recent": [without_output(run) for run in self.recent],
            "next_runs_at": [_text(moment) for moment in self.next_runs],
            "after": list(self.after),
            "needs": list(self.needs),
        }


def without_output(run: Run) -> dict[str, Any]:
    """A record without what the run printed."""
    return {key: value for key, value in run.as_json().items() if key not in ("stdout", "stderr")}


def _plain(number: float | None) -> float | None:
    """A whole number without a decimal point."""
    return int(number) if number is not None and number == int(number) else number


def _text(moment: datetime | None) -> str | None:
    return rfc3339(microseconds_of(moment) if moment is not None else None)
