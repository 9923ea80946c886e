"""Answers about what is applied: the list of jobs and when they run next. Changes nothing.

Offered to others by queries.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sdcron.applied import applied_jobs, applied_one
from sdcron.elsewhere import read_elsewhere
from sdcron.entries import FIRST_YEAR, LAST_YEAR
from sdcron.errors import JobFileError, Problem, ScheduleError, SdcronError, UsageError
from sdcron.machine import local_timezone, machine_id
from sdcron.overlap import slot_of
from sdcron.pauses import read_pauses
from sdcron.schedule import parse_schedule
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdcron.applied import AppliedJob
    from sdcron.backends import Observer, UnitState
    from sdcron.operations import Place
    from sdcron.paths import Paths
    from sdcron.pauses import Pause
    from sdcron.schedule import Schedule


AFTER_OTHERS = "after others"
"""The state of a job without times of its own that runs after other jobs."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One applied job.

    `state` is `waiting`, `running`, `failed`, `disabled`, `by hand`, `after others`, `at boot`, `paused`, `stopped` or,
    when its units do not say a schedule that can be read, `damaged`. `transient` jobs are gone at the next boot. A job
    for other machines, which `hosts` names, is not applied: `elsewhere`.
    """

    name: str
    state: str
    next_run: datetime | None
    schedule: tuple[str, ...]
    source: str
    units: tuple[str, ...]
    transient: bool = False
    hosts: tuple[str, ...] = ()
    pause: Pause | None = None
    """What keeps it from its times."""
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """The state, and what else is to be said of it."""
        if self.hosts:
            return f"{self.state}: {', '.join(self.hosts)}"
        if self.state == AFTER_OTHERS:
            return f"after {', '.join(self.after)}"
        return f"{self.state}, transient" if self.transient else self.state

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {
            "job": self.name,
            "state": self.state,
            "next_run_at": self.next_run.isoformat() if self.next_run else None,
            "schedule": list(self.schedule),
            "source": self.source,
            "units": list(self.units),
            "transient": self.transient,
            "hosts": list(self.hosts),
            "paused": self.pause.as_json() if self.pause else None,
            "after": list(self.after),
            "needs": list(self.needs),
        }


class DamagedUnitError(SdcronError):
    """A unit whose [X-Sdcron] section was changed to something that cannot be read."""


def list_jobs(place: Place, backend: Observer | None, now: datetime, *, all_hosts: bool = False) -> tuple[JobRow, ...]:
    """All applied jobs by name, those of the other kind too unless only the transient ones are asked for.

    Without a backend (`--root`) the times are computed from the schedules. With `all_hosts` also the jobs for other
    machines that are in the same job files.
    """
    loaded = backend.in_use() if backend else {}
    rows = job_rows(place.paths, backend, loaded, now, transient=place.transient)
    if place.other is not None and not place.transient and place.other.unit_dir.is_dir():
        rows += job_rows(place.other, backend, loaded, now, transient=True)
    if all_hosts:
        rows += [
            JobRow(job.name, "elsewhere", None, job.schedule, job.source, (), place.transient, job.hosts)
            for job in read_elsewhere(place.paths)
        ]
    return tuple(sorted(rows, key=lambda row: (row.name, row.hosts)))


def job_rows(
    paths: Paths,
    backend: Observer | None,
    loaded: Mapping[str, UnitState],
    now: datetime,
    *,
    transient: bool,
    jobs: Iterable[AppliedJob] | None = None,
) -> list[JobRow]:
    """Rows of `jobs`, by default the applied ones of one kind; `loaded` are the units that are not inactive."""
    rows = []
    pauses, on = read_pauses(paths), running_units(loaded)
    for job in applied_jobs(paths).values() if jobs is None else jobs:
        name = job.name
        following = None
        pause = pauses.of(name)
        try:
            schedule = job_schedule(paths, job)
        except DamagedUnitError:
            state = "damaged"
        else:
            paused, online = pause is not None, backend is not None
            state = "running" if name in on else _state(job, schedule, loaded, online=online, paused=paused)
            waits = job.active and pause is None and state != "stopped"
            following = schedule.next_after(now) if schedule and waits else None
        row = JobRow(name, state, following, job.schedule, job.source, job.unit_names, transient, pause=pause)
        rows.append(replace(row, after=job.after, needs=job.needs))
    return rows


def running_units(loaded: Mapping[str, UnitState]) -> dict[str, list[str]]:
    """The units that are at work, by the job whose runs they are."""
    found: dict[str, list[str]] = {}
    for unit, state in loaded.items():
        job = slot_of(unit)[0] if state.active in ("activating", "active", "deactivating") else ""
        if job:
            found.setdefault(job, []).append(unit)
    return found


def find_job(place: Place, name: str) -> AppliedJob:
    """One applied job, of either kind. Raises UsageError that names the nearest one."""
    for paths in (place.paths, place.other):
        job = applied_one(paths, name) if paths is not None and "/" not in name else None
        if job is not None:
            return job
    raise unknown_job(place, name, applied_jobs(place.paths))


def pause_of(place: Place, name: str) -> Pause | None:
    """What keeps a job from its times; None if nothing does. A transient job cannot be paused. Raises SdcronError."""
    return read_pauses(place.paths).of(name) if name in applied_jobs(place.paths) else None


def unknown_job(place: Place, name: str, jobs: Iterable[str]) -> UsageError:
    """The error for a job that is not applied, with the nearest name, or where else it is, as hint."""
    import difflib

    if place.other is not None and name in applied_jobs(place.other):
        option = "without --transient" if place.transient else "with --transient"
        return UsageError(f"job {name} is applied {option}", f"ask for it {option}")
    near = difflib.get_close_matches(name, list(jobs), n=1)
    hint = f"did you mean {near[0]}?" if near else "see the applied ones: sdcron list"
    return UsageError(f"no job called {name} is applied here", hint)


def job_schedule(paths: Paths, job: AppliedJob) -> Schedule | None:
    """The schedule as it was applied, from the job's unit. Raises DamagedUnitError that names the unit."""
    if not job.schedule:
        return None
    try:
        return parse_schedule(
            job.schedule,
            timezone=job.timezone,
            local_timezone=local_timezone(paths.root),
            seed=schedule_seed(job.name, paths),
            spread=job.spread,
        )
    except ScheduleError as error:
        what = min((f"the unit {name}" for name, text in job.units.items() if "\nSchedule=" in text), default="the job")
        raise DamagedUnitError(
            f"{what} is damaged: {error.message}", "apply the job's file again: it writes it anew"
        ) from error


def schedule_seed(name: str, paths: Paths) -> str:
    """What makes `H` and `spread` stable: the job and the machine."""
    return f"{name}@{machine_id(paths.root)}"


def try_schedule(paths: Paths, text: str, timezone: str | None) -> Schedule:
    """A schedule from the command line. Raises JobFileError with a caret below what is wrong."""
    try:
        return parse_schedule(text, timezone=timezone, local_timezone=local_timezone(paths.root), seed="")
    except ScheduleError as error:
        mistakes = getattr(error, "mistakes", ())
        problems = [
            Problem("--schedule", 1, mistake.column + 1, mistake.message, "schedule", mistake.hint, text)
            for mistake in mistakes
        ]
        raise JobFileError(
            tuple(problems) or (Problem("--schedule", 1, 1, error.message, "schedule", error.hint, text),)
        ) from error


def next_moments(schedule: Schedule, start: datetime, count: int) -> tuple[datetime, ...]:
    """The next `count` times strictly after `start`, fewer if it ends."""
    moments: list[datetime] = []
    moment: datetime | None = start
    while len(moments) < count and moment is not None:
        moment = schedule.next_after(moment)
        if moment is not None:
            moments.append(moment)
    return tuple(moments)


def parse_moment(paths: Paths, text: str | None, now: datetime, timezone: str | None = None) -> datetime:
    """An RFC 3339 time, in `timezone` or the machine's if it names none; None is `now`.

    Raises UsageError for anything else, and for a year without schedules.
    """
    if text is None:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text} is not a time", "write it as 2027-03-01T08:00:00+01:00 or 2027-03-01 08:00"
        ) from error
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise UsageError(f"{text} is not between {FIRST_YEAR} and {LAST_YEAR}", "systemd knows no other years")
    return (
        moment
        if moment.tzinfo
        else moment.replace(tzinfo=ZoneInfo(timezone or local_timezone(paths.root))).astimezone(UTC)
    )


def _state(
    job: AppliedJob, schedule: Schedule | None, loaded: Mapping[str, UnitState], *, online: bool, paused: bool
) -> str:
    service = loaded.get(service_name(job.name))
    if paused:
        return "paused"
    if service and service.active == "failed":
        return "failed"
    if not job.active:
        return "disabled"
    if schedule is None:
        return AFTER_OTHERS if job.after else "by hand"
    calendar = job.calendar_timers
    if not calendar:
        return "at boot"
    timers: Sequence[UnitState | None] = [loaded.get(name) for name in calendar]
    if online and not all(state and state.active == "active" for state in timers):
        return "stopped"
    return "waiting"
