"""Runs that a person starts, by systemd or by the engine; stopping.py ends them."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sdcron import by_hand_starting, overlapping
from sdcron.beginnings import POLL_SECONDS, SLACK, id_of
from sdcron.engine_socket import ask
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.job import Overlap
from sdcron.job_values import RefusedValueError, check_argument, check_text
from sdcron.overlap import slot_of
from sdcron.parameters import defaults_of, read_values, variable
from sdcron.place import connect
from sdcron.queries import catch_up, find_job, history, logs
from sdcron.runs import NOT_ASKED, Asked, microseconds_of
from sdcron.unit_locks import lock_names
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdcron.applied import AppliedJob
    from sdcron.backends import Backend
    from sdcron.place import Place
    from sdcron.runs import Run


class RunsAlreadyError(SdcronError):
    """A run of the job is on."""


def read_asked(place: Place, job: str, given: Sequence[str], moment: datetime | None, by: str) -> Asked:
    """What somebody asks for with a run: `name=value` texts, and the instant it is for. Raises UsageError."""

    def check(name: str, value: str) -> None:
        try:
            check_text(value)
            check_argument(f"{variable(name)}={value}")
        except RefusedValueError as error:
            raise UsageError(f"the value of '{name}' {error.message}", error.hint) from error

    found = find_job(place, job)
    try:
        values = read_values(found.parameters, given, check)
        list(lock_names(found.locks, {**defaults_of(found.parameters), **values}))
    except UsageError as error:
        raise UsageError(f"{job}: {error.message}", error.hint) from error
    return Asked(by, microseconds_of(moment) if moment is not None else None, tuple(values.items()))


def start(place: Place, job: str, asked_for: Asked = NOT_ASKED, *, begun: bool = False) -> str:
    """Start an applied job now; its run id, or one of the words in beginnings.py where it has to wait.

    With `begun` that is waited for. Raises UsageError, BackendError, RunsAlreadyError.
    """
    applied = find_job(place, job)
    beside = applied.overlap is not Overlap.SKIP and not asked_for.is_special
    run_id: str | None
    if place.local:
        request = {"do": "run", "job": job, **(asked_for.as_json() if asked_for != NOT_ASKED else {})}
        if beside:
            run_id = overlapping.start_by_engine(place, applied, partial(asked, place, request), begun=begun)
        else:
            run_id = asked(place, request)["run_id"]
    else:
        with connect(place) as backend:
            if backend is None:
                raise BackendError("no systemd runs below --root", "leave --root away")
            run_id = _start_by_systemd(place, backend, applied, asked_for, begun=begun)
    if run_id is None:
        raise _runs_already(place, job)
    return run_id


def _start_by_systemd(place: Place, backend: Backend, job: AppliedJob, asked_for: Asked, *, begun: bool) -> str | None:
    """Its run id, or one of those words; None if no other run may be on now."""
    if asked_for.is_special:
        return by_hand_starting.start(place, backend, job, asked_for)
    if job.overlap is not Overlap.SKIP:
        return overlapping.start_by_systemd(place, backend, job, lambda: _announce(job.name, asked_for), begun=begun)
    last = backend.last_run(service_name(job.name))
    asked_at = datetime.now(UTC)
    _start_service(place, backend, job.name, asked_for)
    return _started(place, backend, job.name, last.run_id if last is not None else "", asked_at, begun=begun)


def start_in_time(place: Place, job: str) -> None:
    """Start an applied job, and do not wait for a run of it, as it may have to wait, for a network or the like.

    Raises as `start`.
    """
    if place.local:
        if asked(place, {"do": "run", "job": job})["run_id"] is None:
            raise _runs_already(place, job)
        return
    with connect(place) as backend:
        if backend is None:
            raise BackendError("no systemd runs below --root", "leave --root away")
        _start_service(place, backend, job)


def _announce(job: str, asked_for: Asked) -> None:
    if asked_for.by:
        by_hand_starting.announce(job, "", asked_for)


def _start_service(place: Place, backend: Backend, job: str, asked_for: Asked = NOT_ASKED) -> None:
    if any(slot_of(unit)[0] == job for unit, state in backend.in_use().items() if state.active != "failed"):
        raise _runs_already(place, job)
    _announce(job, asked_for)
    backend.start([service_name(job)], wait=False)


def _runs_already(place: Place, job: str) -> RunsAlreadyError:
    name = f"{'--user ' * place.user}{job}"
    return RunsAlreadyError(f"{job} runs already", f"see it: sdcron status {name}; end it: sdcron stop {name}")


def _started(place: Place, backend: Backend, job: str, before: str, asked_at: datetime, *, begun: bool) -> str:
    """The id of the run that was asked for then: systemd has it as long as the unit is in memory, then the record."""
    service = service_name(job)

    def find() -> str | None:
        running = backend.run_in_progress(service)
        last = backend.last_run(service)
        run_id = running[0] if running is not None else last.run_id if last is not None else ""
        if run_id and run_id != before:
            return run_id
        if last is None or not last.run_id:
            # It is over, and forgotten.
            catch_up(place)
            for found in history(place, job, since=asked_at - SLACK, limit=1):
                return found.run_id
        return None

    return id_of(job, find, lambda: service in backend.starting(), begun=begun)


def follow(place: Place, job: str, run_id: str, show: Callable[[str, str], object] | None) -> Run:
    """Wait for the end of a run, and give its record; `show` gets stream and text of what it prints meanwhile.

    Raises SdcronError.
    """
    if show is None and not place.local:
        _wait_by_systemd(place, job, run_id)
        return _recorded(place, job, run_id)
    over = next(history(place, job, run_id=run_id, limit=1), None) is not None
    # A start that a condition kept back is no invocation: there is nothing in the journal under its id.
    for _ in range(2):
        with suppress(UsageError):
            for line in logs(place, job, run=run_id, follow=not over):
                if line.event is None and line.stream in ("stdout", "stderr") and show is not None:
                    show(line.stream, line.text)
            break
        # Or journald has not stored its beginning yet.
        catch_up(place)
        over = next(history(place, job, run_id=run_id, limit=1), None) is not None
        if over:
            break
    if place.local:
        asked(place, {"do": "wait", "run_id": run_id}, None)
    return _recorded(place, job, run_id)


def _wait_by_systemd(place: Place, job: str, run_id: str) -> None:
    """Until it is over; nobody wants to see what it prints."""
    with connect(place) as backend:
        units = [unit for unit in backend.in_use() if slot_of(unit)[0] == job] if backend is not None else []
        while backend is not None and any(
            run is not None and run[0] == run_id for run in map(backend.run_in_progress, units)
        ):
            time.sleep(POLL_SECONDS)


def _recorded(place: Place, job: str, run_id: str) -> Run:
    """The record of a run that is over. Raises SdcronError."""
    notes = catch_up(place)
    for found in history(place, job, run_id=run_id, limit=1, output=True):
        return found
    raise SdcronError(f"the run {run_id} is not on record", notes[0] if notes else f"see: sdcron history {job}")


def asked(place: Place, request: dict[str, Any], seconds: float | None = 15.0) -> dict[str, Any]:
    """The engine's answer. Raises BackendError, also where none runs."""
    answer = ask(place.paths.engine_dir, request, seconds)
    if answer is None:
        raise BackendError("no engine runs here", f"start it: sdcron engine{' --user' * place.user}")
    return answer
