"""Commands that answer or help to begin, and change no unit: list, next, schema, new, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from sdcron.cli.options import BACKEND, JSON, ROOT, TRANSIENT, USER, app, complete_job, place_of
from sdcron.errors import ExitCode, UsageError


@app.command(name="list")
def list_(
    transient: bool = TRANSIENT,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """List the applied jobs, their state, next run and source.

    Example: sdcron list --json
    """
    from sdcron import operations, queries, render

    place = place_of(user, root, backend, transient)
    with operations.observe(place) as manager:
        rows = queries.list_jobs(place, manager, render.now_utc())
    if json:
        render.as_json([row.as_json() for row in rows])
        return
    now = render.now_utc()
    if not rows:
        render.note("no jobs are applied here; start with: sdcron new hello && sdcron apply .")
        return
    render.table(
        ("JOB", "STATE", "NEXT", "SCHEDULE", "SOURCE"),
        [
            (
                row.name,
                f"{row.state}, transient" if row.transient else row.state,
                render.moment(row.next_run, now),
                ", ".join(row.schedule) or "-",
                row.source,
            )
            for row in rows
        ],
    )


@app.command(name="next")
def next_(
    job: Optional[str] = typer.Argument(None, help="An applied job.", metavar="[JOB]", autocompletion=complete_job),
    schedule: Optional[str] = typer.Option(
        None, "--schedule", help="A schedule to try instead of a job.", metavar="EXPR"
    ),
    count: int = typer.Option(5, "-n", help="How many times to show.", metavar="N", min=1, max=1_000_000),
    start: Optional[str] = typer.Option(
        None, "--from", help="Count from this time on (RFC 3339), not now.", metavar="TIME"
    ),
    timezone: Optional[str] = typer.Option(None, "--timezone", help="Time zone of --schedule.", metavar="ZONE"),
    transient: bool = TRANSIENT,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Show when a job, or any schedule, runs next.

    Example: sdcron next --schedule '*/15 9-17 * * mon-fri' -n 3
    """
    from sdcron import queries, render

    place = place_of(user, root, backend, transient)
    if (job is None) == (schedule is None):
        raise UsageError("next wants a job or --schedule, one of the two", "sdcron next backup")
    parsed = queries.try_schedule(place.paths, schedule, timezone) if schedule is not None else None
    if job is not None:
        applied = queries.find_job(place, job)
        if not applied.active:
            render.note(f"{job} is disabled (enabled: false): it does not run")
            if json:
                render.as_json([])
            return
        parsed = queries.job_schedule(place.paths, applied)
    if parsed is None:
        raise UsageError(f"{job} has no schedule: it runs only by hand", f"sdcron list, systemctl start sdcron-{job}")
    now = render.now_utc()
    moments = queries.next_moments(parsed, queries.parse_moment(place.paths, start, now), count)
    if json:
        render.as_json([moment.isoformat() for moment in moments])
        return
    if parsed.on_boot:
        render.line("at every boot")
    for moment in moments:
        render.line(render.moment(moment, now))
    if not moments and not parsed.on_boot:
        render.note("never again")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file, for editors.

    Example: sdcron schema > job.schema.json
    """
    from sdcron import jobfile, render

    render.text_block(jobfile.schema_text())


@app.command()
def new(
    name: str = typer.Argument(..., help="Name of the job and of its file.", metavar="NAME"),
    directory: Path = typer.Option(Path(), "--directory", "-d", help="Where the file goes.", metavar="DIR"),
) -> None:
    """Write a commented job file to start from.

    Example: sdcron new backup
    """
    from sdcron import operations, render

    path = operations.new_job_file(name, directory)
    render.line(str(path))
    render.note(f"edit it, then: sdcron validate {path}, sdcron apply {path}")


@app.command()
def doctor(user: bool = USER, root: Optional[Path] = ROOT, backend: str = BACKEND, json: bool = JSON) -> None:
    """Check the machine, and say what to do.

    Looks at systemd, the journal, the clock, permissions, and units that differ from what was applied.

    Example: sudo sdcron doctor
    """
    from sdcron import render
    from sdcron.doctor import examine

    found = examine(place_of(user, root, backend))
    if json:
        render.as_json([finding.as_json() for finding in found])
    else:
        render.findings(found)
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(ExitCode.FAILED)
