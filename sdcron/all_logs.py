"""What a job prints, wherever it runs: from the journal, or from what the engine keeps. Offered by queries.py."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from sdcron import spool_log
from sdcron.applied import applied_jobs
from sdcron.errors import SdcronError
from sdcron.run_queries import open_store

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime

    from sdcron.log_lines import LogLine
    from sdcron.place import Place
    from sdcron.runs import Run


def logs(
    place: Place,
    job: str,
    *,
    since: datetime | None = None,
    lines: int | None = None,
    run: str = "",
    follow: bool = False,
) -> Generator[LogLine, None, None]:
    """What the job printed, the oldest first: of its last run (at most 1000 lines), unless one of these is given.

    `since` a time; the last `lines`; of the run whose id begins with `run`. With `follow` it goes on with what comes,
    until the run that was asked for ends, or else for ever. Raises UsageError for an unknown job or run, BackendError
    where the journal, or what the engine keeps, cannot be read.
    """
    if not place.local:
        from sdcron import job_log

        yield from job_log.logs(place, job, since=since, lines=lines, run=run, follow=follow)
        return
    yield from spool_log.logs(
        place.paths.spool_dir,
        job,
        since=since,
        lines=lines,
        run=run,
        follow=follow,
        known=job in applied_jobs(place.paths),
        record_of=partial(_record_of, place, job),
    )


def _record_of(place: Place, job: str, run_id: str) -> Run | None:
    with suppress(SdcronError), open_store(place) as store:
        return next(store.history(job, run_id=run_id, limit=1), None) if store else None
    return None
