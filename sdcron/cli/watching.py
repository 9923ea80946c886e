"""Commands that show what ran: status, logs, history."""

from __future__ import annotations

import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TypeVar

import typer

from sdcron.cli.options import BACKEND, JSON, ROOT, USER, app, complete_job, place_of
from sdcron.errors import SdcronError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sdcron.operations import Place
    from sdcron.queries import JobStatusRow

JOB = typer.Argument(
    None, help="An applied job, or one with runs on record.", metavar="[JOB]", autocompletion=complete_job
)
SINCE = typer.Option(
    None, "--since", help="From this time on: RFC 3339, a date, today, yesterday, or 2h, 3d ago.", metavar="TIME"
)
RUN = typer.Option("", "--run", help="The run whose id begins so.", metavar="ID")
COUNT = typer.Option(
    None, "-n", help="How many; 0: all. Default 20, or all if --since, --until or --run is given.", metavar="N", min=0
)
OUTCOMES = typer.Option(
    [],
    "--outcome",
    help="Only success, failure, timeout, killed, skipped, abandoned; several with commas.",
    metavar="OUTCOME",
)
TRIGGERS = typer.Option(
    [],
    "--trigger",
    help="Only schedule, missed, retry, manual, after, boot; several with commas.",
    metavar="TRIGGER",
)
BEFORE = typer.Option(
    None,
    "--before",
    help="With --prune: runs that ended before; default as long ago as sdcron.toml keeps them.",
    metavar="TIME",
)
_SHOWN = 20
_LOOK_SECONDS = 0.5
"""How often the progress of a run is looked at that is followed."""
_RECORDED_SECONDS = 5.0
"""How long after its end a run may not be on record yet."""
_Word = TypeVar("_Word", bound=StrEnum)


@app.command()
def status(
    job: Optional[str] = JOB,
    all_: bool = typer.Option(False, "--all", help="Also jobs that are not applied any more, but on record."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Of a job that runs: show its progress until it ends."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Show how the jobs are doing, or all about one of them.

    A line a job: its state, how the last run ended, when and how long it took, when it runs next, and how many runs
    have failed since the last success. Of a run that tells of its progress also how far it is.

    Example: sdcron status backup
    """
    from sdcron import operations, queries, render

    if follow and (job is None or json):
        raise UsageError("--follow is for one job, and for people", "for example: sdcron status backup -f")
    place = place_of(user, root, backend)
    with operations.observe(place) as manager:
        _catch_up(place)
        now = render.now_utc()
        if job is not None:
            detail = queries.job_status(place, manager, job, now)
        else:
            rows = queries.status(place, manager, now, removed=all_)
    if json:
        render.as_json(detail.as_json() if job is not None else [row.as_json() for row in rows])
        return
    from sdcron import render_runs

    if job is not None:
        render_runs.job_block(detail, now)
        if follow:
            _follow(place, detail.row)
    elif rows:
        render_runs.status_table(rows, now)
    else:
        render.note("no jobs are applied here; start with: sdcron new hello && sdcron apply .")


@app.command()
def history(
    job: Optional[str] = JOB,
    count: Optional[int] = COUNT,
    outcome: list[str] = OUTCOMES,
    failed: bool = typer.Option(False, "--failed", help="Only failure, timeout, killed and abandoned."),
    trigger: list[str] = TRIGGERS,
    since: Optional[str] = SINCE,
    until: Optional[str] = typer.Option(None, "--until", help="Up to this time.", metavar="TIME"),
    run: str = RUN,
    output: bool = typer.Option(False, "--output", help="Show what each run printed."),
    prune: bool = typer.Option(False, "--prune", help="Forget old runs instead; what status knows stays."),
    before: Optional[str] = BEFORE,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Show the runs on record, the newest first.

    TIME is RFC 3339, a date such as 2026-11-20, today, yesterday, or a length of time ago such as 2h or 3d. With --json
    each run is a record as in job_status.log, with its output.

    Example: sdcron history backup --failed --since 7d
    """
    from sdcron import queries, render, render_runs

    place = place_of(user, root, backend)
    now = render.now_utc()
    chosen = bool(outcome or failed or trigger or since or until or run)
    if prune:
        if job is not None or chosen or output:
            raise UsageError("--prune forgets all runs that are old", "give it --before TIME only")
        _prune(place, before, now, json=json)
        return
    if before is not None:
        raise UsageError("--before belongs to --prune", "to see older runs: --until TIME")
    runs = queries.history(
        place,
        job,
        limit=(count if count is not None else None if since or until or run else _SHOWN) or None,
        outcomes=_choices(outcome, queries.Outcome, "outcome") | (queries.FAILED if failed else set()),
        triggers=_choices(trigger, queries.Trigger, "trigger"),
        since=queries.parse_past(place.paths, since, now) if since else None,
        until=queries.parse_past(place.paths, until, now) if until else None,
        run_id=run,
        output=output or json,
    )
    _catch_up(place)
    with closing(runs):
        if json:
            render.json_array(record.as_json() for record in runs)
        elif not render_runs.history_table(runs, now, output=output):
            render.note("no runs on record" + " that are so" * chosen)


@app.command()
def logs(
    job: str = typer.Argument(..., help="A job.", metavar="JOB", autocompletion=complete_job),
    follow: bool = typer.Option(False, "-f", "--follow", help="Go on with what comes, until Ctrl-C."),
    count: Optional[int] = typer.Option(None, "-n", help="The last N lines.", metavar="N", min=0),
    run: str = RUN,
    since: Optional[str] = SINCE,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = typer.Option(False, "--json", help="Print one JSON object a line."),
) -> None:
    """Show what a job printed: its last run, unless -n, --run or --since say otherwise.

    On a terminal lines of stderr are marked with !, and what sdcron and systemd say of the run with a dot or a line. A
    pipe gets time, stream (stdout, stderr, sdcron, systemd or syslog) and text, with tabs between.

    Example: sdcron logs backup -f
    """
    from sdcron import queries, render
    from sdcron.render_log import LogPrinter

    place = place_of(user, root, backend)
    if run and (since or count is not None):
        raise UsageError("--run goes with neither --since nor -n", f"sdcron logs {job} --run {run}")
    moment = queries.parse_past(place.paths, since, render.now_utc()) if since else None
    lines = queries.logs(place, job, since=moment, lines=count, run=run, follow=follow)
    printer = LogPrinter()
    empty = True
    with closing(lines):
        for line in lines:
            empty = False
            if json:
                render.json_line(line.as_json())
            else:
                printer(line)
            if follow:
                render.flush()
    if empty and not json:
        render.note("nothing in the journal")


def _follow(place: Place, row: JobStatusRow) -> None:
    """Show the progress of what runs now, until it ends."""
    from sdcron import operations, queries, render
    from sdcron.render_progress import ProgressLine

    line, run_id, last = ProgressLine(), row.running_id, None
    try:
        while row.state == "running" and row.running_id in (None, run_id):
            line.show(row, render.now_utc())
            time.sleep(_LOOK_SECONDS)
            with operations.observe(place) as manager:
                queries.catch_up(place)
                row = queries.job_status(place, manager, row.job, render.now_utc(), runs=0, times=0).row
        deadline = time.monotonic() + _RECORDED_SECONDS
        while run_id and last is None and time.monotonic() < deadline:
            # It is over before journald has stored its last words.
            queries.catch_up(place)
            last = next(queries.history(place, row.job, run_id=run_id, limit=1), None)
            time.sleep(_LOOK_SECONDS if last is None else 0)
    finally:
        line.end(last)


def _catch_up(place: Place) -> None:
    """Bring the record up to date; what stands in the way is a note."""
    from sdcron import queries, render

    for note in queries.catch_up(place):
        render.note(render.plain(note))


def _choices(texts: Iterable[str], kind: type[_Word], name: str) -> set[_Word]:
    """The members of an enumeration that a repeatable option with comma lists names. Raises UsageError."""
    words = [word.strip() for text in texts for word in text.split(",")]
    for word in words:
        if word not in list(kind):
            raise UsageError(f"{word or 'nothing'} is no {name}", f"known are {', '.join(kind)}")
    return {kind(word) for word in words}


def _prune(place: Place, before: str | None, now: datetime, *, json: bool) -> None:
    from sdcron import queries, render
    from sdcron.settings import read_settings

    if before is not None:
        moment = queries.parse_past(place.paths, before, now)
    else:
        moment = now - read_settings(place.paths.config_file).keep
    if moment > now:
        raise SdcronError(f"{before} is in the future", "runs to come cannot be forgotten")
    count = queries.prune(place, moment)
    if json:
        render.as_json({"forgotten": count})
    else:
        render.line(f"{count} run{'' if count == 1 else 's'} forgotten")
