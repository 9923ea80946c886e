"""Starts by hand on systemd: who asks is said in the journal, and a run for an instant gets a unit of its own."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sdcron import by_hand
from sdcron.asking import ASKED_FIELD, IDENTIFIER, JOB_FIELD, MESSAGE_ID, UNIT_FIELD
from sdcron.beginnings import SLACK, id_of
from sdcron.errors import BackendError, SdcronError
from sdcron.escape import UnitTextError
from sdcron.files import make_directory
from sdcron.installed import read_one
from sdcron.job import Overlap
from sdcron.overlap import slot_of
from sdcron.queries import catch_up, history
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.applied import AppliedJob
    from sdcron.backends import Backend
    from sdcron.place import Place
    from sdcron.runs import Asked


def announce(job: str, unit: str, asked: Asked) -> None:
    """Say in the journal who asks for what; `unit` is empty for the job's own service. Raises BackendError."""
    by_hand.announce(
        {
            "MESSAGE": f"{asked.by} asks for a run of {job}",
            "MESSAGE_ID": MESSAGE_ID,
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            JOB_FIELD: job,
            UNIT_FIELD: unit,
            ASKED_FIELD: json.dumps(asked.as_json()),
        }
    )


def start(place: Place, backend: Backend, job: AppliedJob, asked: Asked) -> str | None:
    """Start a run for an instant, or with values of its own; its run id, or None if the job runs already.

    Raises BackendError, SdcronError.
    """
    with _one_at_a_time(place):
        used = (unit for unit, state in backend.in_use().items() if state.active != "failed")
        if len({unit for unit in (*used, *backend.starting()) if slot_of(unit)[0] == job.name}) >= job.max_parallel:
            return None
        unit, asked_at = _start(place, backend, job, asked)
    return _begun(place, backend, job.name, unit, asked, asked_at)


@contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    """Two that ask at the same moment must not both find that nothing runs."""
    path = place.paths.runtime_dir / "by-hand.lock"
    try:
        make_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise BackendError("no permission to make a unit for one run", "run it as root (sudo)") from error
    except OSError as error:
        raise SdcronError(f"{path}: {error.strerror}", "check that path, and that there is room") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start(place: Place, backend: Backend, job: AppliedJob, asked: Asked) -> tuple[str, datetime]:
    """Make the unit and ask for its start; its name, and when that was."""
    found = (read_one(paths, job.name) for paths in (place.paths, place.other) if paths is not None)
    installed = next((each for each in found if each is not None), None)
    if installed is None:
        raise BackendError(f"{job.name} is not applied any more", "see the applied ones: sdcron list")
    paths = place.paths
    try:
        by_hand.remove_leftovers(paths, backend.is_loaded)
        added = backend.drop_ins(service_name(job.name))
        unit = by_hand.write_unit(paths, installed, asked, added, alone=job.overlap is not Overlap.ALLOW)
    except UnitTextError as error:
        raise SdcronError(f"a value cannot be handed over: {error.message}", error.hint) from error
    except OSError as error:
        raise SdcronError(f"{error.filename}: {error.strerror}", "check that path, and that there is room") from error
    asked_at = datetime.now(UTC)
    try:
        announce(job.name, unit, asked)
        backend.start([unit], wait=False)
    except SdcronError:
        (by_hand.unit_directory(paths) / unit).unlink(missing_ok=True)
        raise
    return unit, asked_at


def _begun(place: Place, backend: Backend, job: str, unit: str, asked: Asked, asked_at: datetime) -> str:
    """The id of the run: systemd has it as long as it goes on, and then the record."""

    def find() -> str | None:
        running = backend.run_in_progress(unit)
        if running is None and not backend.is_loaded(unit):
            catch_up(place)
            found = history(place, job, since=asked_at - SLACK)
            return next((run.run_id for run in found if run.asked == asked), None)
        return running[0] if running is not None else None

    return id_of(job, find, lambda: backend.is_loaded(unit), begun=True)
