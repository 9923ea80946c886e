"""Runs as rows of the database: its tables, and a Run to a row and back. Opens nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdcron.runs import Outcome, Output, Run, Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, outcome TEXT NOT NULL, host TEXT NOT NULL,
    backend TEXT NOT NULL, "trigger" TEXT, attempt INTEGER NOT NULL, scheduled_us INTEGER, started_us INTEGER,
    finished_us INTEGER, reason TEXT NOT NULL, exit_code INTEGER, signal TEXT, stdout_size INTEGER NOT NULL,
    stdout_truncated INTEGER NOT NULL, stderr_size INTEGER NOT NULL, stderr_truncated INTEGER NOT NULL,
    dropped_lines INTEGER NOT NULL, cpu_us INTEGER, memory_peak_bytes INTEGER, next_run_us INTEGER, job_digest TEXT
);
CREATE INDEX runs_of_job ON runs (job, id);
CREATE TABLE outputs (run INTEGER PRIMARY KEY, stdout BLOB NOT NULL, stderr BLOB NOT NULL);
CREATE TABLE jobs (
    job TEXT PRIMARY KEY, last_run TEXT, stdout BLOB, stderr BLOB, last_success_us INTEGER,
    failures INTEGER NOT NULL DEFAULT 0, memory TEXT
) WITHOUT ROWID;
CREATE TABLE open_runs (run_id TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
"""
COLUMNS = (
    "run_id", "job", "outcome", "host", "backend", "trigger", "attempt", "scheduled_us", "started_us", "finished_us",
    "reason", "exit_code", "signal", "stdout_size", "stdout_truncated", "stderr_size", "stderr_truncated",
    "dropped_lines", "cpu_us", "memory_peak_bytes", "next_run_us", "job_digest",
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
        run.memory_peak_bytes, run.next_run_us, run.job_digest,
    )  # fmt: skip


def run_of(row: Sequence[object], stdout: bytes | None = None, stderr: bytes | None = None) -> Run:
    """The run of a row of COLUMNS, with what is kept of its output."""
    known: Mapping[str, object] = dict(zip(COLUMNS, row, strict=True))
    plain = {name: value for name, value in known.items() if not name.startswith(("stdout", "stderr"))}
    plain["outcome"] = Outcome(str(known["outcome"]))
    plain["trigger"] = Trigger(str(known["trigger"])) if known["trigger"] is not None else None
    outputs = {
        name: Output(kept or b"", int(str(known[f"{name}_size"])), bool(known[f"{name}_truncated"]))
        for name, kept in (("stdout", stdout), ("stderr", stderr))
    }
    return Run(**plain, **outputs)  # type: ignore[arg-type]  # the columns are the fields


def packed(run: Run) -> str:
    """A run as a text for one column."""
    return json.dumps(values_of(run))


def unpacked(text: str | None, stdout: bytes | None, stderr: bytes | None) -> Run | None:
    """The inverse of `packed`."""
    return run_of(json.loads(text), stdout, stderr) if text is not None else None
