"""Commands that answer or help to begin, and change no unit: list, next, schema, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from sdcron.cli.options import BACKEND, JSON, PATHS, ROOT, TRANSIENT, USER, app, complete_job, place_of
from sdcron.errors import ExitCode, UsageError


@app.command(name="list")
def list_(
    all_hosts: bool = typer.Option(False, "--all-hosts", help="Also the jobs that are for other hosts, greyed."),
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
        rows = queries.list_jobs(place, manager, render.now_utc(), all_hosts=all_hosts)
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
                row.described,
                render.moment(row.next_run, now),
                ", ".join(row.schedule) or "-",
                row.source,
            )
            for row in rows
        ],
        [dict.fromkeys(range(5), "dim") if row.hosts else {} for row in rows],
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
    if timezone is not None and schedule is None:
        raise UsageError("--timezone goes with --schedule: a job has its own", "leave it away")
    parsed = queries.try_schedule(place.paths, schedule, timezone) if schedule is not None else None
    if job is not None:
        applied = queries.find_job(place, job)
        if not applied.active:
            render.note(f"{job} is disabled (enabled: false): it does not run")
            if json:
                render.as_json([])
            return
        pause = queries.pause_of(place, job)
        if pause is not None:
            render.note(f"{job} is paused {pause.described}".rstrip() + ": it waits until it is resumed")
            if json:
                render.as_json([])
            return
        parsed = queries.job_schedule(place.paths, applied)
        if parsed is None and applied.after:
            render.note(f"{job} has no times of its own: it runs after {', '.join(applied.after)}")
            if json:
                render.as_json([])
            return
    if parsed is None:
        raise UsageError(f"{job} has no schedule: it runs only by hand", f"run it now: sdcron run {job}")
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
def graph(
    paths: list[Path] = PATHS,
    dot: bool = typer.Option(False, "--dot", help="In Graphviz's language."),
    svg: bool = typer.Option(False, "--svg", help="As a picture, which Graphviz draws."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Draw what jobs start (`after`) and what they wait for (`needs`).

    Example: sdcron graph jobs/ --svg > jobs.svg
    """
    from sdcron import drawing, operations, render
    from sdcron import graph as graphs

    if dot + svg + json > 1:
        raise UsageError("--dot, --svg and --json are three ways to say the same", "give it one of them")
    place = place_of(user, root, backend, checking=True)
    found = graphs.graph_of(operations.read_jobs(place, paths).jobs)
    if json:
        render.as_json(found.as_json())
    elif svg:
        render.text_block(drawing.svg_of(graphs.as_dot(found)))
    else:
        render.text_block(graphs.as_dot(found) if dot else graphs.as_text(found))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file, for editors.

    Example: sdcron schema > job.schema.json
    """
    from sdcron import jobfile, render

    render.text_block(jobfile.schema_text())


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
