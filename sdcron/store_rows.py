"""Runs as rows of the database: a Run to a row and back. Opens nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdcron.runs import NOT_ASKED, Asked, Outcome, Output, Run, Trigger, alarms_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = (
    "run_id", "job", "outcome", "host", "backend", "trigger", "attempt", "scheduled_us", "started_us", "finished_us",
    "reason", "exit_code", "signal", "stdout_size", "stdout_truncated", "stderr_size", "stderr_truncated",
    "dropped_lines", "cpu_us", "memory_peak_bytes", "next_run_us", "job_digest",
    "rare",
)  # fmt: skip
SELECTED = ", ".join(f'runs."{name}"' for name in COLUMNS)
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
INSERT = f"INSERT OR IGNORE INTO runs ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"


def values_of(run: Run) -> Sequence[object]:
    """A run in the order of COLUMNS; its output is kept elsewhere."""
    return (
        run.run_id, run.job, str(run.outcome), run.host, run.backend, str(run.trigger) if run.trigger else None,
        run.attempt, run.scheduled_us, run.started_us, run.finished_us, run.reason, run.exit_code, run.signal,
        run.stdout.size, run.stdout.truncated, run.stderr.size, run.stderr.truncated, run.dropped_lines, run.cpu_us,
        run.memory_peak_bytes, run.next_run_us, run.job_digest, _rare(run),
    )  # fmt: skip


def _rare(run: Run) -> str | None:
    """What few runs have, as JSON."""
    rare = run.asked.as_json() if run.asked != NOT_ASKED else {}
    if run.alarms:
        rare["alarms"] = [alarm.as_json() for alarm in run.alarms]
    return json.dumps(rare) if rare else None


def run_of(row: Sequence[object], stdout: bytes | None = None, stderr: bytes | None = None) -> Run:
    """The run of a row of COLUMNS, or of the first of them, with what is kept of its output."""
    known: Mapping[str, object] = dict(zip(COLUMNS, row, strict=False))
    plain = {name: value for name, value in known.items() if not name.startswith(("stdout", "stderr", "rare"))}
    plain["outcome"] = Outcome(str(known["outcome"]))
    plain["trigger"] = Trigger(str(known["trigger"])) if known["trigger"] is not None else None
    outputs = {
        name: Output(kept or b"", int(str(known[f"{name}_size"])), bool(known[f"{name}_truncated"]))
        for name, kept in (("stdout", stdout), ("stderr", stderr))
    }
    rare = json.loads(str(known.get("rare") or "{}"))
    return Run(asked=Asked.from_json(rare), alarms=alarms_of(rare), **plain, **outputs)  # type: ignore[arg-type]  # the columns are the fields


def packed(run: Run) -> str:
    """A run as a text for one column."""
    return json.dumps(values_of(run))


def unpacked(text: str | None, stdout: bytes | None, stderr: bytes | None) -> Run | None:
    """The inverse of `packed`."""
    return run_of(json.loads(text), stdout, stderr) if text is not None else None
