"""What the journal tells of `after` and `needs`: that a chain asks for a start, and why a gate refused one. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdcron.job import Overlap
from sdcron.messages import text_of
from sdcron.overlap import slot_of
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.definition import Definition
    from sdcron.memories import Memories
    from sdcron.messages import Get
    from sdcron.open_run import OpenRun
    from sdcron.open_runs import OpenRuns

_NEEDS = re.compile(r"needs [A-Za-z0-9_.-]+(?:, [A-Za-z0-9_.-]+)*")
_NOTICE = b"5"
"""The priority of what the gate says; what a job prints has another."""
_AFTER = "@after"


def hear_chain(
    name: str,
    when_us: int,
    manager: str,
    runs: OpenRuns,
    memories: Memories,
    define: Callable[[str], Definition | None],
) -> None:
    """A service of a job beside its own begins; the one that starts it after others asks for a run.

    The start of a job that runs is dropped if it skips; `define` tells how it is applied.
    """
    job = name.removesuffix(_AFTER)
    if job == name:
        return
    definition = define(job)
    skips = definition is None or definition.overlap is Overlap.SKIP
    if not (skips and runs.going_on(job, 1, "")):
        memories.of(job).chain_asked(when_us, manager)


def hear_gate(
    get: Get,
    identifier: bytes,
    unit_field: str,
    uid: bytes,
    runs: OpenRuns,
    unknown_run: Callable[[str, str, int], OpenRun | None],
) -> None:
    """A line that says it is of a job: it may be the gate's word of why it does not run (chain_units.py).

    The gate may be gone before journald looks whose it is: then it is that of the run that began last.
    """
    if get("PRIORITY") != _NOTICE or get("_STREAM_ID") is None:
        return
    found = _NEEDS.fullmatch(text_of(get, "MESSAGE"))
    if not found:
        return
    job = identifier.decode("ascii", "replace").removeprefix(PREFIX)
    unit, run_id = text_of(get, f"_SYSTEMD_{unit_field}"), text_of(get, "_SYSTEMD_INVOCATION_ID")
    of_job, slot = slot_of(unit)
    run, ours = None, of_job == job
    if ours and run_id:
        run = runs.by_id.get(run_id) or unknown_run(job, run_id, slot)
    elif ours or (not unit and get("_UID") == uid):
        run = next((run for run in reversed(runs.by_id.values()) if run.job == job and not run.detail), None)
    if run is not None and not run.detail:
        run.detail = found[0]
        runs.touched.add(run.run_id)
