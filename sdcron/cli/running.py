"""Commands that run jobs, end runs, or keep jobs from their times: run, stop, pause, suspend, resume, engine."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from sdcron.cli.options import BACKEND, JSON, ROOT, SOME_JOBS, USER, EndedAsError, app, complete_job, place_of
from sdcron.errors import ExitCode, SdcronError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.backfill import Wanted
    from sdcron.operations import Place
    from sdcron.runs import Run

_RUNS_ALREADY = "{} runs already: waiting for the end of that run"


@app.command()
def run(
    job: Optional[str] = typer.Argument(None, help="An applied job.", metavar="JOB", autocompletion=complete_job),
    values: list[str] = typer.Argument(None, help="Values of the job's parameters.", metavar="[NAME=VALUE]..."),
    wait: bool = typer.Option(
        False, "--wait", help="Show what it prints, and exit with 0 for a success, else with its exit code."
    ),
    for_: Optional[str] = typer.Option(
        None,
        "--for",
        help="The instant it is run for, in its SDCRON_FOR; A..B: one run for each due time from A to B, in order.",
        metavar="TIME|A..B",
    ),
    go_on: bool = typer.Option(False, "--continue", help="With A..B: leave out what has succeeded already."),
    file: Optional[Path] = typer.Option(
        None,
        "--file",
        help="Run what it lists, one after another: on a line JOB [TIME] [NAME=VALUE]...; -: stdin.",
        metavar="FILE",
    ),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Run a job now, whatever its schedule: once, for an instant, or for every due time of a range.

    Example: sdcron run backup --wait; sdcron run report region=eu --for 2026-01-01..2026-01-31
    """
    from sdcron import backfill, render, running
    from sdcron.machine import caller

    if (job is None) == (file is None):
        raise UsageError("name a job, or give --file", "for example: sdcron run backup --wait")
    if file is not None and (values or for_ or go_on):
        raise UsageError("--file says itself what runs for when", "write it in the file: JOB [TIME] [NAME=VALUE]...")
    place = place_of(user, root, backend)
    now = render.now_utc()
    if file is not None:
        wanted = backfill.read_list(place, _text_of(file), str(file), now, caller())
        _run_all(place, wanted, wait=wait, json=json, again=None)
        return
    name = str(job)
    limits = backfill.read_range(place, name, for_, now) if for_ is not None else None
    if limits is not None:
        every = backfill.wanted_in(place, name, running.read_asked(place, name, values or (), None, caller()), *limits)
        left = _left(place, every) if go_on else every
        # Later the same words may be another range, as `3d..1d`.
        same = backfill.read_range(place, name, str(for_), now + timedelta(days=1)) == limits
        span = str(for_) if same else "..".join(limit.isoformat() for limit in limits)
        again = shlex.join([*_command(user, root, backend), name, *(values or ()), "--for", span, "--continue"])
        _run_all(place, left, wait=wait, json=json, again=again, done=len(every) - len(left))
        return
    if go_on:
        raise UsageError("--continue goes with a range", "for example: --for 2026-01-01..2026-01-31 --continue")
    moment = backfill.read_instant(place, name, for_, now) if for_ is not None else None
    run_id = running.start(place, name, running.read_asked(place, name, values or (), moment, caller()), begun=wait)
    if wait:
        _follow(place, name, run_id, json=json)
    else:
        _tell(name, run_id, _command(user, root, backend), json=json)


def _tell(job: str, run_id: str, command: Sequence[str], *, json: bool) -> None:
    """Which run has begun, or that it waits."""
    from sdcron import render
    from sdcron.beginnings import PENDING, UNSEEN, WAITS, WAITS_ALREADY

    if run_id in (WAITS, WAITS_ALREADY, PENDING, UNSEEN):
        words = f"a run of {job} {run_id} for the end of the one that is on"
        if run_id == PENDING:
            words = f"a run of {job} begins once what it waits for is there: systemctl list-jobs"
        if run_id == UNSEEN:
            words = f"{job} was started, and is over; how it ended is for root and the journal's readers to see"
        render.as_json({"run_id": None}) if json else render.line(words)
    elif json:
        render.as_json({"run_id": run_id})
    else:
        render.line(run_id)
        render.note(f"see what it prints: {shlex.join(['sdcron', 'logs', job, '-f', *command[2:]])}")


def _left(place: Place, every: Sequence[Wanted]) -> Sequence[Wanted]:
    """What of a range has not succeeded yet, once a run that is on is over."""
    from sdcron import backfill, render

    if every:
        backfill.wait_for_run(place, every[0].job, lambda job: render.note(_RUNS_ALREADY.format(job)))
    return backfill.not_done(place, every)


def _command(user: bool, root: Path | None, backend: str) -> list[str]:
    """What to write for the same in the same place."""
    others = ["--backend", backend] * (backend != "auto")
    return ["sdcron", "run", *["--user"] * user, *(["--root", str(root)] if root else []), *others]


def _follow(place: Place, job: str, run_id: str, *, json: bool) -> None:
    from sdcron import render, running

    record = running.follow(place, job, run_id, None if json else _print_stream)
    if json:
        render.as_json(record.as_json())
    elif record.outcome != "success":
        render.note(f"sdcron: {job}: {_how(record)}")
    if record.outcome != "success":
        raise EndedAsError(record.exit_code or ExitCode.FAILED)


def _text_of(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text", "write it in UTF-8") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", "give a file that can be read, or - for stdin") from error


def _run_all(
    place: Place, wanted: Sequence[Wanted], *, wait: bool, json: bool, again: str | None, done: int = 0
) -> None:
    """One run after another, a line for each that is over; to a failure only, with `again`, which goes on with it."""
    from sdcron import backfill, render

    total, progress = len(wanted) + done, render.Progress()
    failed = None

    def note(text: str) -> None:
        progress.end()
        render.note(text)

    def waits(job: str) -> None:
        note(_RUNS_ALREADY.format(job))

    def show(stream: str, text: str) -> None:
        progress.end()
        _print_stream(stream, text)

    runs = backfill.run_all(place, wanted, show if wait and not json else None, waits)
    try:
        with closing(runs):
            for each, record in zip(wanted, runs, strict=False):
                progress.end()
                if json:
                    render.json_line(record.as_json())
                else:
                    words = (each.job, backfill.shown(each.asked), _how(record))
                    render.line("  ".join(filter(None, words)))
                render.flush()
                if record.outcome != "success":
                    failed = record
                    if again is not None:
                        break
                done += 1
                progress("running", done, total)
    except KeyboardInterrupt:
        note(f"{done} of {total} are done; a run that is on goes on" + (f"; go on later: {again}" if again else ""))
        raise
    except SdcronError:
        note(f"{done} of {total} are done" + (f"; go on later: {again}" if again else ""))
        raise
    progress.end()
    if again is not None and failed is not None:
        note(f"sdcron: {failed.job} failed, {done} of {total} are done; once that is mended: {again}")
    elif not wanted:
        note("all of it has succeeded already" if total else "no due time lies in that range")
    if failed is not None:
        raise EndedAsError(failed.exit_code or ExitCode.FAILED)


def _how(record: Run) -> str:
    return f"{record.outcome}: {record.reason}" if record.reason else str(record.outcome)


def _print_stream(stream: str, text: str) -> None:
    to = sys.stderr if stream == "stderr" else sys.stdout
    to.write(text + "\n")
    to.flush()


@app.command()
def stop(
    jobs: list[str] = typer.Argument(
        None, help="Jobs, run ids, or numbers of processes.", metavar="[JOB|RUN|PID]...", autocompletion=complete_job
    ),
    everything: bool = typer.Option(False, "--all", help="Everything that runs."),
    kill: bool = typer.Option(False, "--kill", help="SIGKILL right after the job's own signal."),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """End runs: each job's signal first, SIGKILL after its stop timeout, the whole process tree.

    They are recorded as stopped by an administrator, and not retried. What waits for the end of a job is given up too.

    Example: sudo sdcron stop backup
    """
    from sdcron import render, stopping

    if bool(jobs) == everything:
        raise UsageError("name what to stop, or say --all", "for example: sdcron stop backup")
    place = place_of(user, root, backend)
    named = {text: stopping.target_of(place, text) for text in jobs or ()}
    targets = [stopping.Target(job) for job in stopping.under_way(place)] if everything else named.values()
    ended = stopping.stop(place, targets, kill=kill)
    for text, target in named.items():
        if target.job not in ended and not json:
            render.note(f"{text} does not run")
    if json:
        render.as_json({"run_ids": [run_id for run_ids in ended.values() for run_id in run_ids]})
        return
    for job in ended:
        render.line(f"{job} is killed" if kill else f"{job} is stopped")
    if everything and not ended:
        render.note("nothing runs")


@app.command()
def pause(
    jobs: list[str] = SOME_JOBS,
    everything: bool = typer.Option(
        False, "--all", help="All jobs, those too that are applied later; not transient ones."
    ),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Keep jobs from their times until they are resumed, also across reboots. What runs goes on.

    A retry or a run that waits is given up. By hand a paused job still runs: sdcron run JOB.

    Example: sudo sdcron pause backup
    """
    from sdcron import pausing, render
    from sdcron.machine import caller

    _named(jobs, everything)
    place = place_of(user, root, backend)
    if everything:
        fresh = pausing.pause_all(place, caller(), render.note)
        words = "all jobs are paused" if fresh is not None else "all jobs were paused already"
    else:
        fresh = pausing.pause(place, jobs, caller(), render.note)
        words = f"paused: {', '.join(fresh)}" if fresh else "paused already"
    render.as_json({"paused": list(fresh or ())}) if json else render.line(words)


@app.command()
def suspend(
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """For maintenance: pause all jobs, end what runs, and remember it. `sdcron resume --all` brings the times back.

    It also starts anew what was ended, of jobs that say `resumable: true`.

    Example: sudo sdcron suspend
    """
    from sdcron import pausing, render
    from sdcron.machine import caller

    ended = pausing.suspend(place_of(user, root, backend), caller(), render.note)
    if json:
        render.as_json({"ended": list(ended)})
        return
    for job in ended:
        render.line(f"{job} is stopped")
    render.line("all jobs are paused; bring them back with: sdcron resume --all")


@app.command()
def resume(
    jobs: list[str] = SOME_JOBS,
    everything: bool = typer.Option(
        False, "--all", help="End what pause --all or suspend began, and start again what is resumable."
    ),
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
    json: bool = JSON,
) -> None:
    """Give paused jobs back to their times. What fell due meanwhile does not run.

    Example: sudo sdcron resume backup
    """
    from sdcron import pausing, render

    _named(jobs, everything)
    place = place_of(user, root, backend)
    back = pausing.resume_all(place, render.note) if everything else pausing.resume(place, jobs, render.note)
    if json:
        render.as_json({"resumed": list(back.jobs), "started": list(back.started), "paused": list(back.still)})
        return
    count = len(back.jobs)
    if not back.anything:
        render.line("not paused as a whole" if everything else "not paused")
    else:
        named = f"resumed: {', '.join(back.jobs)}"
        render.line(f"{count} job{'' if count == 1 else 's'} resumed" if everything else named)
    for job in back.started:
        render.line(f"{job} is started again")
    if back.still:
        render.note(f"still paused by name: {', '.join(back.still)}")


def _named(jobs: Sequence[str], everything: bool) -> None:
    if bool(jobs) == everything:
        raise UsageError("name jobs, or say --all", "see the applied ones: sdcron list")


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
