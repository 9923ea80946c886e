"""Commands that read job files and make the machine what they say: validate, plan, apply, compile, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from sdcron.cli.options import (
    BACKEND,
    JSON,
    PATHS,
    PRUNE,
    ROOT,
    SOME_JOBS,
    SOME_PATHS,
    TRANSIENT,
    USER,
    YES,
    app,
    place_of,
)
from sdcron.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdcron.errors import Problem
    from sdcron.place import Place
    from sdcron.plan import Plan


@app.command()
def validate(
    paths: Optional[list[Path]] = SOME_PATHS,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Check job files and report every problem at once.

    Example: sdcron validate jobs/
    """
    from sdcron import dropped, operations, render

    place = place_of(user, root, backend, checking=True)
    jobs = (operations.read_jobs(place, paths) if paths else dropped.read_drop_ins(place)).of_all_hosts()
    operations.verify_passed_through(place, jobs, render.note)
    if json:
        render.as_json({"jobs": [job.name for job in jobs.jobs], "problems": []})
        return
    count = len(jobs.jobs)
    render.line(f"{count} job{'' if count == 1 else 's'}, no problems")


@app.command()
def plan(
    paths: Optional[list[Path]] = SOME_PATHS,
    check: bool = typer.Option(False, "--check", help="Exit 5 if there is anything to do."),
    prune: bool = PRUNE,
    transient: bool = TRANSIENT,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Show what apply would do, as a diff; change nothing.

    Example: sdcron plan jobs/ --check
    """
    from sdcron import dropped, operations, render

    place = place_of(user, root, backend, transient)
    progress = render.Progress()
    with operations.connect(place) as manager:
        timers = manager.active_timers() if manager else None
        wanted = dropped.plan_paths(place, paths or (), timers, progress, render.note, prune=prune)
        todo = wanted.plan
        notes = [*wanted.desired.notes(place, todo)]
    progress.end()
    _show(todo, notes, json=json, done=False)
    if check and todo:
        raise typer.Exit(ExitCode.DRIFT)


def _show(todo: Plan, notes: Iterable[str], *, json: bool, done: bool, left_out: Sequence[Problem] = ()) -> None:
    """What was done, or is to be done, and with what differences; and what was left out for these mistakes."""
    from sdcron import render

    if json:
        told = {"problems": [render.problem_json(problem) for problem in left_out]} if left_out else {}
        render.as_json({**render.plan_json(todo), **told})
    else:
        render.plan(todo, diffs=not done)
        render.line(render.plan_summary(todo, done=done) if todo else f"nothing to do: {todo.unchanged} unchanged")
    render.flush()
    for note in notes:
        render.note(note)
    if left_out and not json:
        render.problems(left_out, "what has them is left as it was, all else is applied")


@app.command()
def apply(
    paths: Optional[list[Path]] = SOME_PATHS,
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the changes and make none."),
    prune: bool = PRUNE,
    transient: bool = TRANSIENT,
    lenient: bool = typer.Option(False, "--lenient", help="Leave out drop-in files with mistakes, and say so."),
    yes: bool = YES,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Make the timers, or what the engine runs, what the job files say: all or nothing.

    Runs no job by itself, whatever was edited, and touches no unit that it did not make. A job that left the
    directory is removed; removing more than you may expect is asked about on a terminal.

    Example: sudo sdcron apply /etc/sdcron/jobs
    """
    from sdcron import desired, dropped, operations, render

    place = place_of(user, root, backend, transient)
    if lenient and paths:
        raise UsageError("--lenient is for the drop-in directories", "leave the paths away, or --lenient")
    if lenient and dry_run:
        raise UsageError("--dry-run shows what a strict apply would do", "leave --lenient away")
    if dry_run:
        plan(paths, False, prune, transient, user, root, backend, json)
        return
    progress = render.Progress()
    notes: list[str] = []
    with operations.connect(place) as manager, operations.changing(place, manager, progress) as applier:
        if applier.recovered:
            render.note("sdcron: an earlier apply was cut off half way; what it had begun is undone")
        if not paths:
            dropped.begin_late(place, manager)
        timers = manager.active_timers() if manager else None
        wanted = dropped.plan_paths(place, paths or (), timers, progress, render.note, prune=prune, lenient=lenient)
        todo = wanted.plan
        notes += wanted.desired.notes(place, todo)
        removed = [change.name for change in todo.changes if change.action == "remove"]
        if removed and not yes and not json and sys.stdin.isatty():
            progress.end()
            render.plan(todo, diffs=False)
            if not typer.confirm(f"Remove {', '.join(removed)}?"):
                raise typer.Exit(ExitCode.FAILED)
        problems = dropped.carry_out(place, applier, wanted, manager)
        desired.remember(place, wanted.desired)
        there = bool(wanted.desired.same or wanted.desired.compiled)
        operations.keep_recording(place, manager, notes.append, jobs=there)
    progress.end()
    if not wanted.desired.found.chosen and not todo:
        where = ", ".join(map(str, paths or place.paths.drop_in_dirs))
        render.note(f"sdcron: no job files (*.yaml, *.yml) in {where}")
    _show(todo, notes, json=json, done=True, left_out=problems)
    if problems:
        raise typer.Exit(ExitCode.JOB_FILE)


@app.command(name="compile")
def compile_(
    paths: list[Path] = PATHS,
    output: Path = typer.Option(..., "-o", "--output", help="Directory for the units.", metavar="DIR"),
    host: Optional[str] = typer.Option(None, "--host", help="For this machine's jobs (`hosts`), not this one's."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Write the units into a directory and touch nothing else.

    Example: sdcron compile jobs/ -o /tmp/units
    """
    from sdcron import operations, render

    if backend == "local":
        raise UsageError("compile writes systemd's units, and the engine has none", "leave --backend away")
    place = place_of(user, root, "systemd" if backend == "auto" else backend)
    compiled = operations.compile_jobs(place, operations.read_jobs(place, paths, host=host), render.note)
    written = operations.write_units(compiled, output)
    if json:
        render.as_json({"files": [str(path) for path in written]})
        return
    for path in written:
        render.line(str(path))


def _files_to_go(place: Place, jobs: Sequence[str], *, files: bool, ask: bool) -> list[Path]:
    """Those of the jobs' files that are to be removed with them."""
    from sdcron import editing, render

    if not files and (not ask or place.offline):
        return []
    sources = editing.removable(place, jobs, render.note)
    words = f"Remove {', '.join(map(str, sources))} too? Else the next apply brings them back"
    return sources if files or not sources or typer.confirm(words, default=True) else []


@app.command()
def remove(
    jobs: list[str] = SOME_JOBS,
    everything: bool = typer.Option(False, "--all", help="All applied jobs; with --transient all transient ones."),
    files: bool = typer.Option(False, "--files", help="Their job files too, without asking for them."),
    yes: bool = YES,
    transient: bool = TRANSIENT,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Remove applied jobs: timers, services, stamps. On a terminal it asks, also whether their files shall go.

    Example: sudo sdcron remove backup
    """
    from sdcron import desired, dropped, editing, operations, queries, record, render
    from sdcron.elsewhere import forget_elsewhere
    from sdcron.plan import removal_plan

    if bool(jobs) == everything:
        raise UsageError("name what to remove, or say --all", "for example: sdcron remove backup")
    place = place_of(user, root, backend, transient)
    with operations.connect(place) as manager, operations.changing(place, manager) as applier:
        installed = operations.known_jobs(place)
        jobs = sorted(installed.jobs) if everything else jobs
        if not jobs:
            dropped.forget(place.paths, manager)
            render.as_json(render.plan_json(removal_plan((), installed))) if json else render.note(
                "no jobs are applied"
            )
            return
        unknown = [name for name in jobs if name not in installed.jobs]
        if unknown:
            raise queries.unknown_job(place, unknown[0], installed.jobs)
        if not yes and not json and sys.stdin.isatty() and not typer.confirm(f"Remove {', '.join(jobs)}?"):
            raise typer.Exit(ExitCode.FAILED)
        ask = not yes and not json and sys.stdin.isatty()
        sources = _files_to_go(place, jobs, files=files, ask=ask)
        if not everything:
            dropped.check_removal(place, [installed.jobs[name] for name in jobs], sources)
        todo = removal_plan(jobs, installed)
        desired.check_links(place, todo, (), installed.jobs)
        applier.carry_out(todo)
        sources = editing.remove_files(sources, render.note)
        left = installed.jobs.keys() - jobs
        if not left:
            # What was noted of job files goes with the last of their jobs.
            forget_elsewhere(place.paths)
            record.forget(place.paths)
            dropped.forget(place.paths, manager)
        operations.keep_recording(place, manager, render.note, jobs=bool(left))
    if json:
        render.as_json(render.plan_json(todo))
        return
    render.plan(todo, diffs=False)
    for source in sources:
        render.line(f"- {source}")
    if not sources:
        boot = " or a boot" if any(installed.jobs[name].generated for name in jobs) else ""
        render.note(f"the job files stay: the next apply of their directory{boot} brings these jobs back")
