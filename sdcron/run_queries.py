"""Answers about runs: how each job is doing, all about one of them, and the runs on record.

Offered to others by queries.py. Reads the collector's database and asks systemd what runs now.
"""

from __future__ import annotations

import json
import re
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sdcron.applied import applied_jobs, applied_one
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.job_answers import JobDetail, JobStatusRow, RetryWait, progress_of
from sdcron.job_queries import (
    DamagedUnitError,
    job_rows,
    job_schedule,
    next_moments,
    parse_moment,
    running_units,
    unknown_job,
)
from sdcron.machine import local_timezone
from sdcron.messages import RETRY_TIMER
from sdcron.overlap import queued_name
from sdcron.runs import Alarm, moment_of, rfc3339
from sdcron.store import DamagedStoreError, JobStatus, Store

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Mapping

    from sdcron.applied import AppliedJob
    from sdcron.backends import Observer, UnitState
    from sdcron.job_queries import JobRow
    from sdcron.operations import Place
    from sdcron.paths import Paths
    from sdcron.runs import Outcome, Run, Trigger

BECOME_READER = "run it as root (sudo), or join its readers: sudo usermod -aG systemd-journal $USER, and log in again"
_NEVER = JobStatus(None, None, 0)
_Told = tuple[str | None, str | None]
"""As Store.told has it."""
_AGO = re.compile(r"(?:\d+(?:ms|[wdhms]))+")


class NotAReaderError(BackendError):
    """Records of runs that whoever asks may not read."""


def catch_up(place: Place) -> tuple[str, ...]:
    """Have everything that has ended until now put on record; returns what kept it from that, a line each."""
    if place.local:
        from sdcron.local_queries import catch_up

        return catch_up(place)
    from sdcron import collector

    return collector.catch_up(place)


def status(place: Place, backend: Observer | None, now: datetime, *, removed: bool = False) -> tuple[JobStatusRow, ...]:
    """How every applied job is doing, by name; with `removed` those too that are only on record.

    What ended since the last `catch_up` is not in it. Raises SdcronError.
    """
    loaded = backend.in_use() if backend else {}
    rows: list[JobRow] = []
    for paths, transient in ((place.paths, place.transient), (place.other, not place.transient)):
        if paths is not None and (paths.local or paths.unit_dir.is_dir()):
            jobs = applied_jobs(paths, retries=False).values()
            rows += job_rows(paths, backend, loaded, now, transient=transient, jobs=jobs)
    with open_store(place) as store:
        past = store.statuses() if store else {}
        told = store.told() if store else {}
    waits = _waits(backend, loaded)
    on, starting = running_units(loaded), frozenset(backend.starting() if backend else ())
    found = [
        _row(row, past.get(row.name, _NEVER), waits.get(row.name), backend, on.get(row.name, ()), starting, told)
        for row in rows
    ]
    if removed:
        applied = {row.name for row in rows}
        found += [_removed(job, known) for job, known in past.items() if job not in applied and known.last]
    return tuple(sorted(found, key=lambda row: row.job))


def job_status(
    place: Place, backend: Observer | None, name: str, now: datetime, *, runs: int = 5, times: int = 3
) -> JobDetail:
    """All about one job, applied or only on record, with its last `runs` runs and its next `times` times.

    Raises UsageError for a job that is neither, SdcronError.
    """
    with open_store(place) as store:
        past = store.statuses(name).get(name, _NEVER) if store else _NEVER
        recent = tuple(store.history(name, limit=runs)) if store else ()
        told = store.told() if store else {}
    paths, job = applied_job(place, name)
    if job is None:
        if past.last is None:
            raise _unknown(place, name)
        return JobDetail(_removed(name, past), recent=recent)
    loaded = backend.in_use() if backend else {}
    [row] = job_rows(paths, backend, loaded, now, transient=paths != place.paths, jobs=[job])
    return JobDetail(
        row=_row(
            row,
            past,
            _waits(backend, loaded).get(name),
            backend,
            running_units(loaded).get(name, ()),
            frozenset(backend.starting() if backend else ()),
            told,
        ),
        description=job.description,
        schedule=job.schedule,
        timezone=job.timezone,
        source=job.source,
        directory=job.directory,
        user=job.user,
        timeout=job.time_limit,
        retry_delays=job.retry_delays,
        retry_on_exit=job.retry_on_exit,
        units=tuple((unit, _active(unit, loaded, backend)) for unit in job.unit_names),
        recent=recent,
        next_runs=_next_runs(paths, job, row, now, times),
        after=job.after,
        needs=job.needs,
    )


def history(
    place: Place,
    job: str | None = None,
    *,
    limit: int | None = None,
    outcomes: Collection[Outcome] = (),
    triggers: Collection[Trigger] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    run_id: str = "",
    output: bool = False,
) -> Generator[Run, None, None]:
    """The runs on record, the newest first; with their output if asked.

    `since` and `until` bound when they started. `run_id` may be the beginning of one. Raises UsageError for a job that
    is neither applied nor on record, and for a beginning that several runs share; SdcronError.
    """
    with open_store(place) as store:
        if run_id and store is not None:
            run_id = _one_run(store, job, run_id)
        known = job is None or applied_job(place, job)[1] is not None
        if job is not None and not known and (store is None or job not in store.statuses(job)):
            raise _unknown(place, job)
        if store is None:
            return
        yield from store.history(
            job,
            limit=limit,
            outcomes=outcomes,
            triggers=triggers,
            since_us=_microseconds(since),
            until_us=_microseconds(until),
            run_id=run_id,
            output=output,
        )


def prune(place: Place, before: datetime) -> int:
    """Forget the runs that ended before; what is known of each job's last run stays. Returns how many.

    Raises SdcronError, as without permission to write.
    """
    from sdcron.ledger import database

    path = database(place.paths)
    with open_store(place) as store:
        if store is None:
            return 0
    with _explained(place), closing(Store.create(path)) as writable:
        return writable.prune(_microseconds(before) or 0, thorough=True)


def parse_past(paths: Paths, text: str, now: datetime, timezone: str | None = None) -> datetime:
    """A time in the past: RFC 3339, a date, `today`, `yesterday`, or a length of time ago such as `2h` or `1d12h`.

    Without an offset it is in the time zone that is given, or else the machine's. Raises UsageError.
    """
    if _AGO.fullmatch(text):
        from sdcron.job_values import RefusedValueError, parse_duration

        try:
            return now - parse_duration(text)
        except (RefusedValueError, OverflowError) as error:
            raise UsageError(f"{text} is not a time", "write it as 2h, 3d, yesterday or 2027-03-01 08:00") from error
    days = {"today": 0, "yesterday": 1}.get(text)
    if days is None:
        return parse_moment(paths, text, now, timezone)
    zone = ZoneInfo(timezone or local_timezone(paths.root))
    day = now.astimezone(zone).date() - timedelta(days=days)
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


@contextmanager
def open_store(place: Place) -> Iterator[Store | None]:
    """The database of runs, None where there is none yet. Raises SdcronError with what to do."""
    from sdcron.ledger import database

    path = database(place.paths)
    with _explained(place):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        except PermissionError as error:
            raise NotAReaderError(f"no permission to read {path}", BECOME_READER) from error
        store = Store.read(path)
        try:
            yield store
        finally:
            if store is not None:
                store.close()


def applied_job(place: Place, name: str) -> tuple[Paths, AppliedJob | None]:
    """One applied job, of either kind, and where; None if there is none of that name."""
    for paths in (place.paths, place.other):
        job = applied_one(paths, name) if paths is not None and _may_be_a_name(name) else None
        if paths is not None and job is not None:
            return paths, job
    return place.paths, None


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    try:
        yield
    except DamagedStoreError as error:
        systemctl = "systemctl --user" if place.user else "sudo systemctl"
        hint = f"have it made anew from the logs and the journal: {systemctl} restart sdcron-collector"
        raise SdcronError(error.message, hint) from error


def _may_be_a_name(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and name not in (".", "..")


def _unknown(place: Place, name: str) -> UsageError:
    return unknown_job(place, name, applied_jobs(place.paths))


def _one_run(store: Store, job: str | None, beginning: str) -> str:
    """The only run id that begins so. Raises UsageError for several, and for what is none."""
    text = beginning.lower().replace("-", "")
    if not re.fullmatch("[0-9a-f]{1,32}", text):
        raise UsageError(f"{beginning} is not the beginning of a run id", "see them: sdcron history")
    runs = list(store.history(job, run_id=text, limit=9))
    if len(runs) > 1:
        told = "; ".join(f"{run.run_id[:12]} ({run.job}, {rfc3339(run.started_us)})" for run in runs[:8])
        more = ", and more" if len(runs) > 8 else ""
        raise UsageError(f"several runs begin with {text}: {told}{more}", "write more of it")
    return runs[0].run_id if runs else text


def _row(
    row: JobRow,
    past: JobStatus,
    wait: RetryWait | None,
    backend: Observer | None,
    units: Collection[str],
    starting: Collection[str],
    told: Mapping[str, _Told],
) -> JobStatusRow:
    state, found = row.state, []
    if state == "running" and backend is not None:
        for unit in units:
            with suppress(BackendError):  # it ended in this moment, and its unit left memory
                found.append(backend.run_in_progress(unit))
    elif wait is not None:
        state = "retry waiting"
    running = sorted(filter(None, found), key=lambda run: run[1])
    progress, alarms = told.get(running[0][0], (None, None)) if running else (None, None)
    return JobStatusRow(
        job=row.name,
        state=state,
        last=past.last,
        last_success_at=moment_of(past.last_success_us) if past.last_success_us is not None else None,
        failures=past.failures,
        running_since=running[0][1] if running else None,
        running_id=running[0][0] if running else None,
        running_ids=tuple(run_id for run_id, _ in running),
        waits=bool(running) and queued_name(row.name) in starting,
        next_run=row.next_run,
        retry=wait if state == "retry waiting" else None,
        transient=row.transient,
        pause=row.pause,
        progress=progress_of(json.loads(progress), running[0][1]) if progress and running else None,
        alarms=tuple(Alarm(at_us, text) for at_us, text in json.loads(alarms)) if alarms else (),
    )


def _removed(job: str, past: JobStatus) -> JobStatusRow:
    success = moment_of(past.last_success_us) if past.last_success_us is not None else None
    return JobStatusRow(job, "removed", past.last, success, past.failures)


def _waits(backend: Observer | None, loaded: Mapping[str, UnitState]) -> dict[str, RetryWait]:
    waits = {}
    for name, state in loaded.items():
        timer = RETRY_TIMER.fullmatch(name) if state.active == "active" and "@retry-" in name else None
        if timer and backend is not None:
            at = None
            with suppress(BackendError):
                at = backend.wait_ends(name)
            waits[timer[1]] = RetryWait(int(timer[2]) + 1, at)
    return waits


def _active(unit: str, loaded: Mapping[str, UnitState], backend: Observer | None) -> str:
    state = loaded.get(unit)
    return state.active if state else "inactive" if backend else "unknown"


def _next_runs(paths: Paths, job: AppliedJob, row: JobRow, now: datetime, times: int) -> tuple[datetime, ...]:
    if row.next_run is None:
        return ()
    try:
        schedule = job_schedule(paths, job)
    except DamagedUnitError:
        return ()
    return next_moments(schedule, now, times) if schedule else ()


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
