"""Which runs did not get a lock: by what they say in the journal, since systemd tells of no success with what status.

Only the job's own user could say so falsely, and only of runs of that job. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job import NOT_RUN
from sdcron.messages import text_of
from sdcron.overlap import slot_of
from sdcron.unit_locks import HELD_MESSAGE, LOCK_NAME
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sdcron.definition import Definition
    from sdcron.messages import Get
    from sdcron.open_run import OpenRun
    from sdcron.open_runs import OpenRuns

HELD = "lock"
"""The word for how such a run ended, beside those that systemd has."""
_HELD_MESSAGE = HELD_MESSAGE.encode()


def told_lock(get: Get, uids: Collection[bytes]) -> tuple[str, str] | None:
    """The run that an entry of the job is of, and the lock that it did not get; None for any other entry.

    `uids` are whose processes run the job.
    """
    if get("MESSAGE_ID") != _HELD_MESSAGE:
        return None
    run_id, name = text_of(get, "INVOCATION_ID"), text_of(get, "SDCRON_LOCK")
    # The process may have been gone before journald looked.
    of_run = text_of(get, "_SYSTEMD_INVOCATION_ID") == run_id
    may_say = of_run or get("_UID") in uids
    return (run_id, name) if run_id and may_say and LOCK_NAME.fullmatch(name) else None


def hear_lock(
    get: Get,
    identifier: bytes,
    unit_field: str,
    define: Callable[[str], Definition | None],
    runs: OpenRuns,
    unknown_run: Callable[[str, str, int], OpenRun | None],
) -> None:
    """A line that says it is of a job: a run that does not get a lock may say so, maybe before systemd says a word."""
    job = identifier.decode("ascii", "replace").removeprefix(PREFIX)
    definition = define(job)
    told = told_lock(get, (str(definition.uid).encode(),)) if definition is not None else None
    if told is None:
        return
    run = runs.by_id.get(told[0])
    run = run or unknown_run(job, told[0], slot_of(text_of(get, f"_SYSTEMD_{unit_field}"))[1] or 1)
    if run is not None and run.job == job:
        run.lock = told[1]
        runs.touched.add(run.run_id)


def note_held_lock(run: OpenRun) -> None:
    """Have a run that is over and did not get a lock be one that was skipped."""
    if run.lock and run.result == "success" and not run.stopped and run.exit_status in (None, NOT_RUN):
        skip(run, run.lock)
        run.exit_kind, run.exit_status = "", None


def skip(run: OpenRun, name: str) -> None:
    """It could not have the lock."""
    run.result, run.detail = HELD, f"lock {name} is held"
