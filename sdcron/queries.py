"""What can be asked of sdcron, for its own commands and for programs: the jobs, their runs, and what they print.

    from sdcron import operations, queries

    place = operations.make_place(user=False, root=None, backend="auto")
    with operations.connect(place) as backend:
        queries.catch_up(place)
        for row in queries.status(place, backend, datetime.now(UTC)):
            print(row.job, row.state, row.last.outcome if row.last else "never ran")

Nothing here changes anything but `catch_up`, which brings the record of runs up to date, and `prune`, which shortens
it. Times are aware datetimes, but in a Run microseconds since 1970; every answer has `as_json`, the shape that the
README documents. All functions raise SdcronError, which says what is wrong and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job_answers import JobDetail, JobStatusRow, Progress, RetryWait
from sdcron.job_queries import (
    DamagedUnitError,
    JobRow,
    find_job,
    job_schedule,
    list_jobs,
    next_moments,
    parse_moment,
    pause_of,
    schedule_seed,
    try_schedule,
    unknown_job,
)
from sdcron.run_queries import catch_up, history, job_status, parse_past, prune, status
from sdcron.runs import FAILED, Alarm, Outcome, Output, Run, Trigger

if TYPE_CHECKING:
    from sdcron.all_logs import logs
    from sdcron.log_lines import LogLine

__all__ = [
    "FAILED",
    "Alarm",
    "DamagedUnitError",
    "JobDetail",
    "JobRow",
    "JobStatusRow",
    "LogLine",
    "Outcome",
    "Output",
    "Progress",
    "RetryWait",
    "Run",
    "Trigger",
    "catch_up",
    "find_job",
    "history",
    "job_schedule",
    "job_status",
    "list_jobs",
    "logs",
    "next_moments",
    "parse_moment",
    "parse_past",
    "pause_of",
    "prune",
    "schedule_seed",
    "status",
    "try_schedule",
    "unknown_job",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What reads the journal is loaded when it is asked for: the other answers shall be there at once (PEP 562)."""
        if name not in ("logs", "LogLine"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sdcron import all_logs, log_lines

        return all_logs.logs if name == "logs" else log_lines.LogLine
