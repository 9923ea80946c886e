"""Commands that run jobs, or end runs: run, stop, engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import typer

from sdcron.cli.options import BACKEND, JSON, ROOT, USER, app, complete_job, place_of
from sdcron.errors import ExitCode

JOB = typer.Argument(..., help="An applied job.", metavar="JOB", autocompletion=complete_job)


@app.command()
def run(
    job: str = JOB,
    wait: bool = typer.Option(False, "--wait", help="Show what it prints, and exit with its exit code."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Run a job now, whatever its schedule.

    Example: sdcron run backup --wait
    """
    from sdcron import render, running

    place = place_of(user, root, backend)
    run_id = running.start(place, job)
    if not wait:
        if json:
            render.as_json({"run_id": run_id})
        else:
            render.line(run_id)
            render.note(f"see what it prints: sdcron logs {job} -f")
        return
    record = running.follow(place, job, run_id, None if json else _print_stream)
    if json:
        render.as_json(record.as_json())
    elif record.outcome != "success":
        render.note(f"sdcron: {job}: {record.outcome}" + (f": {record.reason}" if record.reason else ""))
    if record.outcome != "success":
        raise typer.Exit(record.exit_code or ExitCode.FAILED)


def _print_stream(stream: str, text: str) -> None:
    to = sys.stderr if stream == "stderr" else sys.stdout
    to.write(text + "\n")
    to.flush()


@app.command()
def stop(
    job: str = JOB,
    kill: bool = typer.Option(False, "--kill", help="SIGKILL at once, without the job's own signal before it."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """End the run of a job: its signal first, SIGKILL after its stop timeout, its whole process tree.

    It is recorded as stopped by an administrator, and not retried.

    Example: sudo sdcron stop backup
    """
    from sdcron import render, running

    stopped = running.stop(place_of(user, root, backend), job, kill=kill)
    if json:
        render.as_json({"run_ids": list(stopped)})
    elif stopped:
        render.line(f"{job} is stopped" if not kill else f"{job} is killed")
    else:
        render.note(f"{job} does not run")


@app.command()
def engine(
    paths: list[Path] = typer.Argument(None, help="Job files or directories to run and follow.", metavar="[PATH...]"),
    folders: Optional[Path] = typer.Option(
        None, "--folders", help="Also every executable in folders such as 5min and 1day/at0730.", metavar="DIR"
    ),
    user: bool = USER,
    root: Optional[Path] = ROOT,
) -> None:
    """Run jobs without systemd: those applied with --backend local, and those of PATH, whose changes it follows.

    Stays in the foreground, as a container's or a snap's first process does. SIGTERM ends what runs, within each job's
    stop_timeout; SIGHUP reads everything again.

    Example: sdcron engine /etc/sdcron/jobs
    """
    from sdcron.engine_process import EngineOptions, run_engine

    raise typer.Exit(run_engine(EngineOptions(tuple(paths or ()), folders, root, user)))
