"""Runs for tests, and a database of them where the collector would keep it."""

from __future__ import annotations

import hashlib
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sdcron.ledger import database
from sdcron.runs import Outcome, Output, Run, Trigger
from sdcron.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.paths import Paths

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000


def recorded(
    job: str = "backup",
    ago_us: int = HOUR,
    outcome: Outcome = Outcome.SUCCESS,
    *,
    stdout: bytes = b"",
    stderr: bytes = b"",
    took_us: int = 2 * SECOND,
    **fields: Any,
) -> Run:
    """One run that began `ago_us` before NOW; its id is made of the job and that time."""
    began = NOW_US - ago_us
    fields.setdefault("run_id", hashlib.sha256(f"{job} {began}".encode()).hexdigest()[:32])
    fields.setdefault("trigger", Trigger.SCHEDULE)
    if outcome is Outcome.FAILURE:
        fields.setdefault("reason", "exit status 3")
        fields.setdefault("exit_code", 3)
    return Run(
        job=job,
        outcome=outcome,
        host="machine",
        started_us=began,
        finished_us=began + took_us,
        stdout=Output(stdout, len(stdout)),
        stderr=Output(stderr, len(stderr)),
        **fields,
    )


def keep(paths: Paths, runs: Sequence[Run]) -> None:
    """Put runs on record, in this order."""
    path = database(paths)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Store.create(path)) as store:
        store.commit(Batch(closed=list(runs)))
