"""The command line: arguments -> one call -> exit code, and the only error boundary.

Imports only typer at the top; each command imports what it uses.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from sdcron import __version__
from sdcron.errors import ExitCode, JobFileError, SdcronError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.operations import Place

app = typer.Typer(
    name="sdcron",
    help="Jobs for systemd machines: YAML files become timers.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def _complete_job(incomplete: str) -> list[str]:
    from sdcron.operations import installed_jobs, make_place

    names: set[str] = set()
    for user in (False, True):
        names.update(installed_jobs(make_place(user=user, root=None, backend="auto")).jobs)
    return sorted(name for name in names if name.startswith(incomplete))


_USER = typer.Option(False, "--user/--system", help="Your own service manager, or the machine's (default).")
_ROOT = typer.Option(None, "--root", help="Work on the file system below DIR; no systemd is asked.", metavar="DIR")
_BACKEND = typer.Option("auto", "--backend", help="auto, systemd or local.", metavar="NAME")
_JSON = typer.Option(False, "--json", help="Print one JSON document.")
_PATHS = typer.Argument(..., help="Job files, or directories of them.", metavar="PATH...")
_PRUNE = typer.Option(True, "--prune/--no-prune", help="Remove jobs whose file left the directory (default).")
_TRANSIENT = typer.Option(False, "--transient", help="Units that live until the next boot; nothing in /etc.")
_YES = typer.Option(False, "--yes", "-y", help="Do not ask.")
_JOBS = typer.Argument(..., help="Names of applied jobs.", metavar="JOB...", autocompletion=_complete_job)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"sdcron {__version__}\n")
        raise typer.Exit()


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Jobs for systemd machines: YAML files become timers.

    Start with `sdcron new hello`, then `sdcron apply .` and `systemctl list-timers`.
    """


def _place(user: bool, root: Path | None, backend: str, transient: bool = False) -> Place:
    from sdcron.operations import make_place

    if backend not in ("auto", "systemd", "local"):
        raise UsageError(f"no backend is called {backend}", "auto, systemd or local")
    return make_place(user=user, root=root, backend=backend, transient=transient)


@app.command()
def validate(
    paths: list[Path] = _PATHS,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    backend: str = _BACKEND,
    json: bool = _JSON,
) -> None:
    """Check job files and report every problem at once.

    Example: sdcron validate jobs/
    """
    from sdcron import operations, render

    place = _place(user, root, backend)
    jobs = operations.read_jobs(place, paths)
    operations.verify_passed_through(place, jobs)
    if json:
        render.as_json({"jobs": [job.name for job in jobs.jobs], "problems": []})
        return
    count = len(jobs.jobs)
    render.line(f"{count} job{'' if count == 1 else 's'}, no problems")


@app.command()
def plan(
    paths: list[Path] = _PATHS,
    check: bool = typer.Option(False, "--check", help="Exit 5 if there is anything to do."),
    prune: bool = _PRUNE,
    transient: bool = _TRANSIENT,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    backend: str = _BACKEND,
    json: bool = _JSON,
) -> None:
    """Show what apply would do, as a diff of units; change nothing.

    Example: sdcron plan jobs/ --check
    """
    from sdcron import operations, render

    place = _place(user, root, backend, transient)
    progress = render.Progress()
    with operations.connect(place) as manager:
        timers = manager.active_timers() if manager else None
        desired = operations.read_desired(place, paths, timers, progress)
        todo = operations.plan_jobs(place, desired, timers, prune=prune)
    progress.end()
    if json:
        render.as_json(render.plan_json(todo))
    else:
        render.plan(todo, diffs=True)
        render.line(render.plan_summary(todo, done=False) if todo else f"nothing to do: {todo.unchanged} unchanged")
    if check and todo:
        raise typer.Exit(ExitCode.DRIFT)


@app.command()
def apply(
    paths: list[Path] = _PATHS,
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the changes and make none."),
    prune: bool = _PRUNE,
    transient: bool = _TRANSIENT,
    yes: bool = _YES,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    backend: str = _BACKEND,
    json: bool = _JSON,
) -> None:
    """Make the machine's timers what the job files say: all of it, or nothing.

    Runs no job by itself, whatever was edited, and touches no unit that it did not make. A job that left the
    directory is removed; removing more than you may expect is asked about on a terminal.

    Example: sudo sdcron apply /etc/sdcron/jobs
    """
    from sdcron import operations, render

    place = _place(user, root, backend, transient)
    if dry_run:
        plan(paths, False, prune, transient, user, root, backend, json)
        return
    progress = render.Progress()
    with operations.connect(place) as manager, operations.changing(place, manager, progress) as applier:
        if applier.recovered:
            render.note("sdcron: an earlier apply was cut off half way; what it had begun is undone")
        timers = manager.active_timers() if manager else None
        desired = operations.read_desired(place, paths, timers, progress)
        todo = operations.plan_jobs(place, desired, timers, prune=prune)
        removed = [change.name for change in todo.changes if change.action == "remove"]
        if removed and not yes and not json and sys.stdin.isatty():
            progress.end()
            render.plan(todo, diffs=False)
            if not typer.confirm(f"Remove {', '.join(removed)}?"):
                raise typer.Exit(ExitCode.FAILED)
        applier.carry_out(todo)
        operations.remember(place, desired)
    progress.end()
    if not desired.found.chosen:
        render.note(f"sdcron: no job files (*.yaml, *.yml) in {', '.join(str(path) for path in paths)}")
    if json:
        render.as_json({**render.plan_json(todo), "applied": True})
        return
    render.plan(todo, diffs=False)
    render.line(render.plan_summary(todo, done=True) if todo else f"nothing to do: {todo.unchanged} unchanged")


@app.command(name="compile")
def compile_(
    paths: list[Path] = _PATHS,
    output: Path = typer.Option(..., "-o", "--output", help="Directory for the units.", metavar="DIR"),
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    json: bool = _JSON,
) -> None:
    """Write the units into a directory and touch nothing else.

    Example: sdcron compile jobs/ -o /tmp/units
    """
    from sdcron import operations, render

    place = _place(user, root, "auto")
    compiled = operations.compile_jobs(place, operations.read_jobs(place, paths))
    written = operations.write_units(compiled, output)
    if json:
        render.as_json({"files": [str(path) for path in written]})
        return
    for path in written:
        render.line(str(path))


@app.command()
def remove(
    jobs: list[str] = _JOBS,
    yes: bool = _YES,
    transient: bool = _TRANSIENT,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    backend: str = _BACKEND,
    json: bool = _JSON,
) -> None:
    """Remove applied jobs: timers, services, stamps. Job files stay.

    Example: sudo sdcron remove backup
    """
    from sdcron import operations, queries, render
    from sdcron.plan import removal_plan

    place = _place(user, root, backend, transient)
    with operations.connect(place) as manager, operations.changing(place, manager) as applier:
        installed = operations.installed_jobs(place)
        unknown = [name for name in jobs if name not in installed.jobs]
        if unknown:
            raise queries.unknown_job(unknown[0], installed)
        if not yes and sys.stdin.isatty() and not typer.confirm(f"Remove {', '.join(jobs)}?"):
            raise typer.Exit(ExitCode.FAILED)
        todo = removal_plan(jobs, installed)
        applier.carry_out(todo)
    if json:
        render.as_json(render.plan_json(todo))
        return
    render.plan(todo, diffs=False)
    render.note("the job files stay: the next apply of their directory brings these jobs back")


@app.command(name="list")
def list_(
    transient: bool = _TRANSIENT,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    backend: str = _BACKEND,
    json: bool = _JSON,
) -> None:
    """List the applied jobs, their state, next run and source.

    Example: sdcron list --json
    """
    from sdcron import operations, queries, render

    place = _place(user, root, backend, transient)
    with operations.connect(place) as manager:
        rows = queries.list_jobs(place.paths, manager, render.now_utc())
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
            (row.name, row.state, render.moment(row.next_run, now), ", ".join(row.schedule) or "-", row.source)
            for row in rows
        ],
    )


@app.command(name="next")
def next_(
    job: Optional[str] = typer.Argument(None, help="An applied job.", metavar="[JOB]", autocompletion=_complete_job),
    schedule: Optional[str] = typer.Option(
        None, "--schedule", help="A schedule to try instead of a job.", metavar="EXPR"
    ),
    count: int = typer.Option(5, "-n", help="How many times to show.", metavar="N", min=1, max=1_000_000),
    start: Optional[str] = typer.Option(
        None, "--from", help="Count from this time on (RFC 3339), not now.", metavar="TIME"
    ),
    timezone: Optional[str] = typer.Option(None, "--timezone", help="Time zone of --schedule.", metavar="ZONE"),
    transient: bool = _TRANSIENT,
    user: bool = _USER,
    root: Optional[Path] = _ROOT,
    json: bool = _JSON,
) -> None:
    """Show when a job, or any schedule, runs next.

    Example: sdcron next --schedule '*/15 9-17 * * mon-fri' -n 3
    """
    from sdcron import queries, render

    place = _place(user, root, "auto", transient)
    if (job is None) == (schedule is None):
        raise UsageError("next wants a job or --schedule, one of the two", "sdcron next backup")
    parsed = queries.try_schedule(place.paths, schedule, timezone) if schedule is not None else None
    if job is not None:
        parsed = queries.job_schedule(place.paths, queries.find_job(place.paths, job))
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
def doctor(user: bool = _USER, root: Optional[Path] = _ROOT, json: bool = _JSON) -> None:
    """Check the machine, and say what to do: systemd, journal, clock, permissions, drift.

    Example: sudo sdcron doctor
    """
    from sdcron import render
    from sdcron.doctor import examine

    found = examine(_place(user, root, "auto"))
    if json:
        render.as_json([finding.as_json() for finding in found])
    else:
        render.findings(found)
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(ExitCode.FAILED)


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; every error ends here."""
    command: Any = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name="sdcron", standalone_mode=False)
        return int(result) if isinstance(result, int) else ExitCode.DONE
    except JobFileError as failure:
        return _report_problems(failure, arguments)
    except SdcronError as failure:
        return _report(failure, arguments)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("sdcron: interrupted\n")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `sdcron list | head` does; nobody is left to tell.
        sys.stderr.close()
        return ExitCode.FAILED
    except Exception as failure:  # noqa: BLE001 - the one place where anything unforeseen becomes one line
        show = getattr(failure, "show", None)
        if callable(show):
            show()
            return int(getattr(failure, "exit_code", ExitCode.USAGE))
        return _bug(failure)


def _report(failure: SdcronError, arguments: Sequence[str]) -> int:
    from sdcron import render

    if "--json" in arguments:
        render.as_json({"error": failure.message, "hint": failure.hint})
    render.error(failure)
    return failure.exit_code


def _report_problems(failure: JobFileError, arguments: Sequence[str]) -> int:
    from sdcron import render

    if "--json" in arguments:
        render.as_json({"problems": [render.problem_json(problem) for problem in failure.problems]})
    else:
        render.problems(failure.problems)
    return failure.exit_code


def _bug(failure: Exception) -> int:
    import os
    import traceback

    if os.environ.get("SDCRON_DEBUG"):
        traceback.print_exception(failure)
    place = traceback.extract_tb(failure.__traceback__)[-1]
    sys.stderr.write(
        f"sdcron: a bug of ours: {type(failure).__name__}: {failure} ({Path(place.filename).name}:{place.lineno})\n"
        "  hint: please report it with the output of SDCRON_DEBUG=1 and the same command\n"
    )
    return ExitCode.BUG


def main() -> None:
    """The `sdcron` program."""
    # One command allocates and ends; looking for garbage among 10,000 jobs is a fifth of its time.
    gc.disable()
    sys.exit(run(sys.argv[1:]))
