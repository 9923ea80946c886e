"""Runs that a person starts and ends, by systemd or by the engine."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sdcron.engine_socket import ask
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.place import connect
from sdcron.queries import catch_up, find_job, history, logs
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.backends import Backend
    from sdcron.place import Place
    from sdcron.runs import Run

_START_SECONDS = 15.0
_POLL_SECONDS = 0.02
_SLACK = timedelta(milliseconds=50)


def start(place: Place, job: str) -> str:
    """Start an applied job now; its run id. Raises UsageError, BackendError, SdcronError if it runs already."""
    find_job(place, job)
    runs_already = SdcronError(f"{job} runs already", f"see it: sdcron status {job}; end it: sdcron stop {job}")
    if place.local:
        run_id = _asked(place, {"do": "run", "job": job})["run_id"]
        if run_id is None:
            raise runs_already
        return str(run_id)
    with connect(place) as backend:
        if backend is None:
            raise BackendError("no systemd runs below --root", "leave --root away")
        service = service_name(job)
        if backend.run_in_progress(service) is not None:
            raise runs_already
        last = backend.last_run(service)
        asked = datetime.now(UTC)
        backend.start([service], wait=False)
        return _started(place, backend, job, last.run_id if last is not None else "", asked)


def _started(place: Place, backend: Backend, job: str, before: str, asked: datetime) -> str:
    """The id of the run that was asked for then: systemd has it as long as the unit is in memory, then the record."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        running = backend.run_in_progress(service_name(job))
        last = backend.last_run(service_name(job))
        run_id = running[0] if running is not None else last.run_id if last is not None else ""
        if run_id and run_id != before:
            return run_id
        if last is None or not last.run_id:
            # It is over, and forgotten.
            catch_up(place)
            for found in history(place, job, since=asked - _SLACK, limit=1):
                return found.run_id
        time.sleep(_POLL_SECONDS)
    raise BackendError(f"{job} was started, and nothing tells of its run", f"see: sdcron status {job}")


def follow(place: Place, job: str, run_id: str, show: Callable[[str, str], object] | None) -> Run:
    """Wait for the end of a run, and give its record; `show` gets stream and text of what it prints meanwhile.

    Raises SdcronError.
    """
    over = next(history(place, job, run_id=run_id, limit=1), None) is not None
    # A start that a condition kept back is no invocation: there is nothing in the journal under its id.
    with suppress(UsageError):
        for line in logs(place, job, run=run_id, follow=not over):
            if line.event is None and line.stream in ("stdout", "stderr") and show is not None:
                show(line.stream, line.text)
    if place.local:
        _asked(place, {"do": "wait", "run_id": run_id}, None)
    notes = catch_up(place)
    for found in history(place, job, run_id=run_id, limit=1, output=True):
        return found
    raise SdcronError(f"the run {run_id} is not on record", notes[0] if notes else f"see: sdcron history {job}")


def stop(place: Place, job: str, *, kill: bool = False) -> tuple[str, ...]:
    """End the runs of a job, and wait until they are over; their ids. Raises UsageError, BackendError."""
    if not place.local:
        find_job(place, job)
    else:
        try:
            find_job(place, job)
        except UsageError:
            # It may have been removed while it runs.
            if job not in _asked(place, {"do": "state"}).get("running", {}):
                raise
        ids = tuple(_asked(place, {"do": "stop", "job": job, "kill": kill})["run_ids"])
        for run_id in ids:
            _asked(place, {"do": "wait", "run_id": run_id}, None)
        return ids
    with connect(place) as backend:
        running = backend.run_in_progress(service_name(job)) if backend is not None else None
        if backend is None or running is None:
            return ()
        backend.stop([service_name(job)], kill=kill)
        return (running[0],)


def _asked(place: Place, request: dict[str, Any], seconds: float | None = 15.0) -> dict[str, Any]:
    answer = ask(place.paths.engine_dir, request, seconds)
    if answer is None:
        raise BackendError("no engine runs here", f"start it: sdcron engine{' --user' * place.user}")
    return answer
