"""Runs that a person starts of a job that does not skip: one more, the next one, or one in the place of what is on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sdcron.beginnings import POLL_SECONDS, SLACK, WAITS, WAITS_ALREADY, id_of
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

_TICK_SECONDS = 15.0
_RECORDED_SECONDS = 0.3
"""After how long, and how often, it is looked whether the run is over already, which takes longer."""


@dataclass(frozen=True, slots=True)
class _Runs:
    """Ids of a job's runs: those that are on, and those that are known to have been."""

    on: frozenset[str]
    been: frozenset[str] = frozenset()
    held: bool = False
    """Whether one of those that are on is for an instant, or has values of its own."""


def start_by_systemd(
    place: Place, backend: Backend, job: AppliedJob, announce: Callable[[], object], *, begun: bool
) -> str | None:
    """Ask for a run; its id, or one of the words in beginnings.py, or None if no more may be on.

    With `begun` it is waited for, however long what is on takes; `announce` says who asks, right before. Raises
    BackendError.
    """
    services = [slot_name(job.name, number) for number in range(1, job.max_parallel + 1)]

    def look() -> _Runs:
        # Runs for an instant come before all others.
        own = [unit for unit in backend.in_use() if is_by_hand(unit) and slot_of(unit)[0] == job.name]
        runs = {unit: backend.run_in_progress(unit) for unit in filter(backend.is_loaded, (*services, *own))}
        on = {unit: run[0] for unit, run in runs.items() if run is not None}
        last = backend.last_run(services[0])
        been = frozenset({last.run_id} if last is not None else ())
        return _Runs(frozenset(on.values()), been, held=any(map(is_by_hand, on)))

    tick, waiting = tick_name(job.name), queued_name(job.name) if job.overlap is Overlap.QUEUE else services[0]
    deadline = time.monotonic() + _TICK_SECONDS
    while backend.run_in_progress(tick) is not None and time.monotonic() < deadline:
        # It is at work, for a timer or for somebody else: two that ask at once would get one run.
        time.sleep(POLL_SECONDS)
    before, waited = look(), waiting in backend.starting()
    if job.overlap is Overlap.ALLOW and len(before.on) >= job.max_parallel:
        return None
    asked_at = datetime.now(UTC)
    announce()
    backend.start([tick], wait=False)
    while tick in backend.starting() and time.monotonic() < deadline + _TICK_SECONDS:
        # Until it has asked: then what waits is on disk.
        time.sleep(POLL_SECONDS)
    # What is on for an instant is not replaced; where several may be on it keeps nobody.
    held = before.held and job.overlap is not Overlap.ALLOW
    if (held or (job.overlap is Overlap.QUEUE and before.on)) and not begun:
        return WAITS_ALREADY if waited else WAITS
    pending = {tick, waiting, *services}

    def is_pending() -> bool:
        return not pending.isdisjoint(backend.starting())

    return _begun(place, job, look, before, asked_at, is_pending, begun=begun)


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
    return _begun(place, job, look, before, asked_at, lambda: False, begun=True)


def _begun(
    place: Place,
    job: AppliedJob,
    look: Callable[[], _Runs],
    before: _Runs,
    asked_at: datetime,
    is_pending: Callable[[], bool],
    *,
    begun: bool,
) -> str:
    """The id of the run that was asked for then, once it has begun; it may be over by now."""
    known = before.on | before.been | {""}
    behind, record_at = False, time.monotonic() + _RECORDED_SECONDS

    def find() -> str | None:
        nonlocal behind, record_at
        now = look()
        # It comes after those, however long they take.
        behind = bool(before.on & now.on) and job.overlap is not Overlap.ALLOW
        for run_id in sorted((now.on | now.been) - known):
            return run_id
        if not behind and time.monotonic() > record_at:
            record_at = time.monotonic() + _RECORDED_SECONDS
            catch_up(place)
            for found in history(place, job.name, since=asked_at - SLACK):
                if found.run_id not in known:
                    return found.run_id
        return None

    return id_of(job.name, find, lambda: behind or is_pending(), begun=begun)
