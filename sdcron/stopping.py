"""Runs that a person ends, by systemd or by the engine: what is meant is found first, and all of it ends together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdcron.applied import applied_jobs
from sdcron.chain_units import DUE
from sdcron.engine_socket import ask
from sdcron.errors import BackendError, UsageError
from sdcron.job import RESERVED_NAMES
from sdcron.overlap import queued_jobs, queued_marks, queued_name, slot_of
from sdcron.place import connect
from sdcron.queries import Outcome, find_job, history
from sdcron.running import asked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sdcron.backends import Backend
    from sdcron.place import Place

_RUN_ID = re.compile("[0-9a-f]{32}")
_LAST_PID = 1 << 22
"""No process has a higher number (proc_sys_kernel(5), pid_max)."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be ended: whatever runs of a job, or one run of it."""

    job: str
    run_id: str = ""


def target_of(place: Place, text: str) -> Target:
    """What a job's name, a run id or the number of a process means, in this order.

    Raises UsageError for what is none of them, BackendError.
    """
    try:
        return Target(find_job(place, text).name)
    except UsageError as unknown:
        running = under_way(place)
        if text in running:
            return Target(text)  # it was removed while it ran
        if _RUN_ID.fullmatch(text):
            found = [job for job, run_ids in running.items() if text in run_ids]
            if not found:
                raise UsageError(f"no run {text} is on", "see what runs: sdcron status") from None
            return Target(found[0], text)
        if text.isascii() and text.isdecimal():
            # 0 is whoever asks, to systemd.
            is_number = len(text) <= len(str(_LAST_PID)) and 0 < int(text) <= _LAST_PID
            target = _of_process(place, int(text), running) if is_number else None
            if target is None:
                hint = "see the processes: systemd-cgls, or sdcron status"
                raise UsageError(f"process {text} is of no run of sdcron's", hint) from None
            return target
        raise unknown


def under_way(place: Place) -> dict[str, tuple[str, ...]]:
    """Run ids of what runs now, by job; none of a start that waits, as for a network."""
    if place.local:
        state = ask(place.paths.engine_dir, {"do": "state"}) or {}
        return {job: tuple(str(run[0]) for run in runs) for job, runs in sorted(state.get("running", {}).items())}
    with connect(place) as backend:
        running = _under_way(place, backend) if backend is not None else {}
        return {job: tuple(filter(None, runs.values())) for job, runs in running.items()}


def _under_way(place: Place, backend: Backend) -> dict[str, dict[str, str]]:
    """By job the units that run it, or are to start, and the ids of their runs; empty for those that wait."""
    names = applied_jobs(place.paths).keys() | (applied_jobs(place.other).keys() if place.other is not None else ())
    found: dict[str, dict[str, str]] = {}
    for unit, state in backend.in_use().items():
        job = _job_of(unit)
        # The run of a job that was removed meanwhile has no file; whoever else has one is not ours.
        if job in names or (job and state.load == "not-found"):
            run = backend.run_in_progress(unit)
            if run is not None:
                found.setdefault(job, {})[unit] = run[0]
    for unit in backend.starting():
        if _job_of(unit) in names:
            found.setdefault(_job_of(unit), {}).setdefault(unit, "")
    return dict(sorted(found.items()))


def being_ended(place: Place, job: str) -> bool:
    """Whether a run of it is, and was not over when that was asked."""
    if place.local:
        state = ask(place.paths.engine_dir, {"do": "state"}) or {}
        return job in state.get("ending", ())
    with connect(place) as backend:
        in_use = backend.in_use() if backend is not None else {}
        return any(_job_of(unit) == job and state.active == "deactivating" for unit, state in in_use.items())


def stop(place: Place, targets: Iterable[Target], *, kill: bool = False) -> dict[str, tuple[str, ...]]:
    """End these at the same time, and wait until all are over; run ids by job, of those that were on."""
    targets = tuple(dict.fromkeys(targets))
    if place.local:
        ended: dict[str, tuple[str, ...]] = {}
        for target in targets:
            request = {"do": "stop", "job": target.job, "run_id": target.run_id, "kill": kill}
            run_ids = asked(place, request)["run_ids"]
            if run_ids:
                ended[target.job] = tuple(dict.fromkeys((*ended.get(target.job, ()), *run_ids)))
        for run_id in (run_id for run_ids in ended.values() for run_id in run_ids):
            asked(place, {"do": "wait", "run_id": run_id}, None)
        return ended
    with connect(place) as backend:
        if backend is None:
            return {}
        # First what waits for the end of these.
        _give_up_waiting(place, backend, [target.job for target in targets if not target.run_id])
        running = _under_way(place, backend)
        meant: dict[str, dict[str, str]] = {}
        for target in targets:
            for unit, run_id in running.get(target.job, {}).items():
                if target.run_id in ("", run_id):
                    meant.setdefault(target.job, {})[unit] = run_id
        if meant:
            backend.stop([unit for runs in meant.values() for unit in runs], kill=kill)
        return {job: tuple(filter(None, runs.values())) for job, runs in meant.items()}


def _give_up_waiting(place: Place, backend: Backend, jobs: Iterable[str]) -> None:
    """Have no run of these jobs begin when the one that is on is over."""
    starting = backend.starting()
    marked = queued_jobs(place.paths.queued_dir)
    waiting = [job for job in jobs if queued_name(job) in starting or job in marked]
    if waiting:
        backend.stop([queued_name(job) for job in waiting])
    try:
        for job in waiting:
            for mark in queued_marks(place.paths.queued_dir, job):
                mark.unlink(missing_ok=True)
            # Nor is what its chain has asked for.
            (place.paths.graph_dir / job / DUE).unlink(missing_ok=True)
    except PermissionError as error:
        hint = "have root do it: else it begins after the next boot"
        raise BackendError(f"no permission to give up the run that waits: {error.filename}", hint) from error


def are_not_owed(place: Place, job: str, run_ids: Collection[str]) -> bool:
    """Whether none of these runs is to come again, as far as is on record: each came to a good end by itself.

    Nor does one for an instant, or with values of its own: whoever asked for it does so again.
    """
    records = [record for run_id in run_ids for record in history(place, job, run_id=run_id, limit=1)]
    return bool(records) and all(record.outcome is Outcome.SUCCESS or record.asked.is_special for record in records)


def _of_process(place: Place, pid: int, running: Collection[str]) -> Target | None:
    if place.local:
        found = asked(place, {"do": "whose", "pid": pid})
        return Target(str(found["job"]), str(found["run_id"])) if found["job"] is not None else None
    with connect(place) as backend:
        unit = backend.unit_of(pid) if backend is not None else None
        job = _job_of(unit) if unit else ""
        run = backend.run_in_progress(unit) if backend is not None and unit and job in running else None
        return Target(job, run[0]) if run is not None else None


def _job_of(unit: str) -> str:
    """The job whose runs are of this name; empty for any other unit, also sdcron's own."""
    job = slot_of(unit)[0]
    return job if job not in RESERVED_NAMES else ""
