"""Runs that a person starts of a job that does not skip: one more, the next one, or one in the place of what is on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sdcron.engine_socket import ask
from sdcron.errors import BackendError
from sdcron.job import Overlap
from sdcron.overlap import is_by_hand, queued_name, slot_name, slot_of, tick_name
from sdcron.queries import catch_up, history

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.applied import AppliedJob
    from sdcron.backends import Backend
    from sdcron.place import Place

WAITS, WAITS_ALREADY = "waits", "waits already"
"""What there is in place of a run id: one begins when the run that is on is over, and one did so before."""
_START_SECONDS = 15.0
_POLL_SECONDS = 0.02
_RECORDED_SECONDS = 0.3
"""After how long, and how often, it is looked whether the run is over already, which takes longer."""
_SLACK = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Ids of a job's runs: those that are on, and those that are known to have been."""

    on: frozenset[str]
    been: frozenset[str] = frozenset()


def start_by_systemd(place: Place, backend: Backend, job: AppliedJob, *, begun: bool) -> str | None:
    """Ask for a run; its id, or WAITS or WAITS_ALREADY, or None if no more may be on.

    With `begun` it is waited for, however long what is on takes. Raises BackendError.
    """
    services = [slot_name(job.name, number) for number in range(1, job.max_parallel + 1)]
    # Runs for an instant come before all others.
    services += [unit for unit in backend.in_use() if is_by_hand(unit) and slot_of(unit)[0] == job.name]

    def look() -> _Runs:
        loaded = filter(backend.is_loaded, services)
        runs = [backend.run_in_progress(unit) for unit in loaded]
        last = backend.last_run(services[0])
        return _Runs(frozenset(run[0] for run in runs if run), frozenset({last.run_id} if last is not None else ()))

    before, tick = look(), tick_name(job.name)
    # What is on for an instant is not replaced.
    held = any(backend.run_in_progress(unit) for unit in services if is_by_hand(unit))
    if job.overlap is Overlap.ALLOW and len(before.on) >= job.max_parallel:
        return None
    waiting = queued_name(job.name) if job.overlap is Overlap.QUEUE else services[0]
    waited = waiting in backend.starting()
    deadline = time.monotonic() + _START_SECONDS
    while backend.run_in_progress(tick) is not None and time.monotonic() < deadline:
        # It is at work, for a timer or for somebody else: two that ask at once would get one run.
        time.sleep(_POLL_SECONDS)
    asked_at = datetime.now(UTC)
    backend.start([tick], wait=False)
    if (held or (job.overlap is Overlap.QUEUE and before.on)) and not begun:
        return WAITS_ALREADY if waited else WAITS
    return _begun(place, job, look, before, asked_at)


def start_by_engine(
    place: Place, job: AppliedJob, request: Callable[[], dict[str, object]], *, begun: bool
) -> str | None:
    """The same of the local engine; `request` asks it for a run."""

    def look() -> _Runs:
        state = ask(place.paths.engine_dir, {"do": "state"})
        if state is None:
            raise BackendError("no engine runs here", f"start it: sdcron engine{' --user' * place.user}")
        return _Runs(frozenset(str(run[0]) for run in state["running"].get(job.name, ())))

    before, asked_at = look(), datetime.now(UTC)
    answer = request()
    if answer["run_id"] is not None or not answer.get("waits"):
        return str(answer["run_id"]) if answer["run_id"] is not None else None
    if (job.overlap is Overlap.QUEUE or answer.get("held")) and not begun:
        return WAITS_ALREADY if answer.get("waited") else WAITS
    return _begun(place, job, look, before, asked_at)


def _begun(place: Place, job: AppliedJob, look: Callable[[], _Runs], before: _Runs, asked_at: datetime) -> str:
    """The id of the run that was asked for then, once it has begun; it may be over by now."""
    known = before.on | before.been | {""}
    deadline, record_at = time.monotonic() + _START_SECONDS, time.monotonic() + _RECORDED_SECONDS
    while time.monotonic() < deadline:
        now = look()
        for run_id in sorted((now.on | now.been) - known):
            return run_id
        if before.on & now.on and job.overlap is not Overlap.ALLOW:
            # It comes after those, however long they take.
            deadline = time.monotonic() + _START_SECONDS
        elif time.monotonic() > record_at:
            record_at = time.monotonic() + _RECORDED_SECONDS
            catch_up(place)
            for found in history(place, job.name, since=asked_at - _SLACK):
                if found.run_id not in known:
                    return found.run_id
        time.sleep(_POLL_SECONDS)
    raise BackendError(f"{job.name} was started, and nothing tells of its run", f"see: sdcron status {job.name}")
