"""Runs as tables and blocks: what status and history show. Prints by render.

On a terminal times are relative and outcomes coloured; a pipe gets RFC 3339, seconds, and tabs between.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron import render
from sdcron.runs import FAILED, Outcome, Trigger, moment_of
from sdcron.span import span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sdcron.job_answers import JobDetail, JobStatusRow, Progress
    from sdcron.runs import Alarm, Output, Run

_STATE_COLOURS = {
    "failed": "red",
    "damaged": "red",
    "running": "cyan",
    "retry waiting": "yellow",
    "stopped": "yellow",
    "paused": "yellow",
    "disabled": "dim",
    "by hand": "dim",
    "after others": "dim",
    "at boot": "dim",
    "removed": "dim",
}
OUTCOME_COLOURS = {Outcome.SUCCESS: "green", Outcome.SKIPPED: "dim", **dict.fromkeys(FAILED, "red")}
_CAUSES = {
    Trigger.SCHEDULE: "schedule",
    Trigger.MISSED: "schedule, made good",
    Trigger.RETRY: "retry",
    Trigger.MANUAL: "hand",
    Trigger.AFTER: "another job",
    Trigger.BOOT: "boot",
}
_NAMED = 5
"""So many jobs are named in a summary."""
_BAR = 24
"""Characters of a full bar."""


def status_table(rows: Sequence[JobStatusRow], now: datetime) -> None:
    """A line a job: JOB STATE LAST WHEN TOOK NEXT FAILURES; on a terminal with a summary below."""
    terminal = render.is_terminal(sys.stdout)
    cells = []
    colours: list[Mapping[int, str]] = []
    for row in rows:
        cells.append(_status_cells(row, now, terminal=terminal))
        colours.append(_status_colours(row))
    render.table(("JOB", "STATE", "LAST", "WHEN", "TOOK", "NEXT", "FAILURES"), cells, colours)
    if terminal:
        render.line()
        render.line(summary(rows))


def _status_cells(row: JobStatusRow, now: datetime, *, terminal: bool) -> tuple[str, ...]:
    last = row.last
    state = f"{row.state}, transient" if row.transient else row.state
    if terminal and row.running_since is not None:
        state = f"{row.state} {_so_far(row.running_since, now)}{row.several}"
        percent = row.progress.percent if row.progress is not None else None
        state += f", {percent:.0f} %" if percent is not None else ""
    failures = f"{row.failures} in a row" if row.failures > 1 else "1" if row.failures else ""
    return (
        row.job,
        state,
        str(last.outcome) if last else "-",
        when(_ended_us(last), now),
        _took(last) if last else "-",
        _next(row, now, terminal=terminal),
        failures if terminal else str(row.failures),
    )


def _next(row: JobStatusRow, now: datetime, *, terminal: bool) -> str:
    retry = row.retry
    if retry is None or retry.at is None:
        return _moment(row.next_run, now)
    return f"{_moment(retry.at, now)}, retry {retry.attempt - 1}" if terminal else _moment(retry.at, now)


def _status_colours(row: JobStatusRow) -> dict[int, str]:
    colours = {1: _STATE_COLOURS[row.state]} if row.state in _STATE_COLOURS else {}
    if row.last is not None:
        colours[2] = OUTCOME_COLOURS[row.last.outcome]
    if _is_failing(row):
        colours.update({0: "red", 6: "red"})
    elif row.state in ("disabled", "removed"):
        colours[0] = "dim"
    return colours


def _is_failing(row: JobStatusRow) -> bool:
    return row.failures > 0 or row.state in ("failed", "damaged")


def summary(rows: Sequence[JobStatusRow]) -> str:
    """Such as `12 jobs: 9 ok, 2 failing (backup, mail), 1 running`."""
    kinds: dict[str, list[JobStatusRow]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    failing = [row for row in rows if _is_failing(row) and row.state not in ("disabled", "removed")]
    words = []
    for kind, colour in (("ok", "green"), ("failing", "red"), ("running", "cyan"), ("new", ""), ("idle", "dim")):
        members = failing if kind == "failing" else kinds.get(kind, [])
        if members:
            names = ", ".join(row.job for row in members[:_NAMED]) + ", …" * (len(members) > _NAMED)
            text = f"{len(members)} {_KINDS[kind]}" + (f" ({render.plain(names)})" if kind == "failing" else "")
            words.append(render.paint(text, colour, sys.stdout) if colour else text)
    count = len(rows)
    return f"{count} job{'' if count == 1 else 's'}: {', '.join(words)}"


_KINDS = {"ok": "ok", "failing": "failing", "running": "running", "new": "not run yet", "idle": "disabled or removed"}


def _kind(row: JobStatusRow) -> str:
    if row.state == "running":
        return "running"
    if row.state in ("disabled", "removed"):
        return "idle"
    if _is_failing(row):
        return "failing"
    return "ok" if row.last is not None else "new"


def job_block(detail: JobDetail, now: datetime) -> None:
    """All about one job, a labelled line each, and below it what it printed last."""
    row, last = detail.row, detail.row.last
    title = render.paint(render.plain(row.job), "bold", sys.stdout)
    render.line(f"{title}  {render.plain(detail.description)}".rstrip())
    for label, text, colour in _facts(detail, now):
        shown = render.plain(text)
        render.line(
            f"  {label + ':' if label else '':<12} {render.paint(shown, colour, sys.stdout) if colour else shown}"
        )
    if len(detail.recent) > 1:
        render.line()
        render.line("Last runs:")
        for run in detail.recent:
            _recent(run, now)
    if last is not None and (last.stdout.kept or last.stderr.kept):
        render.line()
        render.line("What the last run printed:")
        output_block(last)
    if render.is_terminal(sys.stdout):
        render.line()
        name, follow = render.plain(row.job), " -f" if row.state == "running" else ""
        render.line(render.paint(f"more: sdcron logs {name}{follow}, sdcron history {name}", "dim", sys.stdout))


def _facts(detail: JobDetail, now: datetime) -> list[tuple[str, str, str]]:
    row, last = detail.row, detail.row.last
    facts = [("State", _state(row, now), _STATE_COLOURS.get(row.state, ""))]
    if row.progress is not None:
        facts.append(("Progress", progress_words(row.progress, now), "cyan"))
    facts += [("Alarm", _alarm(alarm, now), "red") for alarm in row.alarms]
    if row.pause is not None:
        facts.append(("Paused", row.pause.described, "yellow"))
    if row.retry is not None:
        wait = f"retry {row.retry.attempt - 1} of {len(detail.retry_delays)}, {_full(row.retry.at, now)}"
        facts.append(("Retry", wait, "yellow"))
    schedule = ", ".join(detail.schedule)
    facts.append(("Schedule", f"{schedule} ({detail.timezone})" if detail.timezone else schedule, ""))
    facts += [("After", ", ".join(detail.after), ""), ("Needs", ", ".join(detail.needs), "")]
    if detail.next_runs:
        more = [moment.astimezone().isoformat(sep=" ", timespec="seconds") for moment in detail.next_runs[1:]]
        facts.append(("Next", ", ".join([_full(detail.next_runs[0], now), *(f"then {text}" for text in more[:1])]), ""))
    if last is not None:
        facts += _last_run(last, now)
    elif row.state != "running":
        facts.append(("Last run", "none on record", ""))
    if row.failures:
        facts.append(("Failures", f"{row.failures} in a row", "red"))
    if row.failures or row.state == "removed":
        facts.append(("Succeeded", _full(row.last_success_at, now) if row.last_success_at else "never", ""))
    facts += [("Runs as", detail.user or "", ""), ("Timeout", detail.timeout or "", "")]
    facts.append(("Retries", _retries(detail), ""))
    facts.append(("Source", detail.source, ""))
    facts += [("Units" if index == 0 else "", f"{unit} ({active})", "") for index, (unit, active) in _units(detail)]
    return [fact for fact in facts if fact[1]]


def _last_run(last: Run, now: datetime) -> list[tuple[str, str, str]]:
    why = f": {last.reason}" if last.reason else ""
    facts = [("Last run", f"{last.outcome}{why}", OUTCOME_COLOURS[last.outcome])]
    started, ended = _date(last.started_us, now), _date(last.finished_us, now)
    lateness = last.lateness_us or 0
    late = f", {length(lateness)} late" if lateness >= 1_000_000 else ""
    facts.append(("Started", f"{started}{late}" if last.started_us else "", ""))
    took = f", took {length(last.duration_us)}" if last.duration_us is not None else ""
    facts.append(("Ended", f"{ended}{took}" if last.finished_us else "", ""))
    facts.append(("Started by", cause(last), ""))
    facts += [("Alarm", _alarm(alarm, now), "red") for alarm in last.alarms]
    used = [f"{length(last.cpu_us)} of CPU time"] if last.cpu_us is not None else []
    used += [f"{size(last.memory_peak_bytes)} of memory"] if last.memory_peak_bytes is not None else []
    facts.append(("Used", ", ".join(used), ""))
    facts.append(("Run", last.run_id, ""))
    return facts


def cause(run: Run) -> str:
    """What started it, in words."""
    words = _CAUSES[run.trigger] if run.trigger else "not known"
    words += f" of {run.asked.by}" if run.asked.by else ""
    if run.asked.for_us is not None:
        words += f", for {moment_of(run.asked.for_us).astimezone().isoformat(sep=' ', timespec='seconds')}"
    words += "".join(f", {name}={value}" for name, value in run.asked.values)
    return f"{words}, attempt {run.attempt}" if run.attempt > 1 else words


def _state(row: JobStatusRow, now: datetime) -> str:
    words = f"{row.state}, transient" if row.transient else row.state
    if row.running_since is None:
        return words
    return f"{words} for {_so_far(row.running_since, now)}, run {(row.running_id or '')[:8]}{row.several}"


def progress_words(progress: Progress, now: datetime) -> str:
    """`[####----] 13/77 17 %, ends in 5min`; without a total what is done alone."""
    if progress.percent is None or progress.total is None:
        return f"{progress.done:.15g}, {render.distance(progress.at - now)}"
    filled = int(progress.percent * _BAR / 100)
    bar = f"[{'#' * filled}{'-' * (_BAR - filled)}] {progress.done:.15g}/{progress.total:.15g} {progress.percent:.0f} %"
    if progress.ends_at is None:
        return bar
    late = progress.ends_at <= now
    return f"{bar}, {'should have ended' if late else 'ends'} {render.distance(progress.ends_at - now)}"


def _alarm(alarm: Alarm, now: datetime) -> str:
    return f"{alarm.text} ({when(alarm.at_us, now)})"


def _retries(detail: JobDetail) -> str:
    if not detail.retry_delays:
        return ""
    codes = f", on exit status {', '.join(map(str, detail.retry_on_exit))}" if detail.retry_on_exit else ""
    return f"{len(detail.retry_delays)}, after {', '.join(map(span, detail.retry_delays))}{codes}"


def _units(detail: JobDetail) -> Iterable[tuple[int, tuple[str, str]]]:
    # Those of retries and chains are many, and tell nothing while none is at work.
    idle = ("inactive", "unknown")
    return enumerate(unit for unit in detail.units if unit[1] not in idle or "@" not in unit[0] or "@boot" in unit[0])


def _recent(run: Run, now: datetime) -> None:
    outcome = render.paint(f"{run.outcome:<9}", OUTCOME_COLOURS[run.outcome], sys.stdout)
    cells = (run.run_id[:8], outcome, f"{when(_ended_us(run), now):<10}", f"{length(run.duration_us):<10}")
    render.line(f"  {'  '.join(cells)}  {render.plain(run.reason)}".rstrip())


def history_table(runs: Iterable[Run], now: datetime, *, output: bool) -> int:
    """A line a run: WHEN JOB OUTCOME TOOK TRIGGER ATTEMPT RUN WHY, with `output` what it printed below; their count."""
    if not output:
        runs = list(runs)
        cells = [_history_cells(run, now) for run in runs]
        colours = [{2: OUTCOME_COLOURS[run.outcome], 6: "dim"} for run in runs]
        render.table(("WHEN", "JOB", "OUTCOME", "TOOK", "TRIGGER", "ATTEMPT", "RUN", "WHY"), cells, colours)
        return len(runs)
    count = 0
    for run in runs:
        count += 1
        cells_of_it = [render.plain(cell) for cell in _history_cells(run, now)]
        if render.is_terminal(sys.stdout):
            cells_of_it[2] = render.paint(cells_of_it[2], OUTCOME_COLOURS[run.outcome], sys.stdout)
            render.line("  ".join(cells_of_it).rstrip())
        else:
            render.line("\t".join(cells_of_it))
        output_block(run)
    return count


def _history_cells(run: Run, now: datetime) -> tuple[str, ...]:
    moment_us = run.started_us if run.started_us is not None else run.finished_us
    return (
        when(moment_us, now),
        run.job,
        str(run.outcome),
        _took(run),
        str(run.trigger) if run.trigger else "-",
        str(run.attempt),
        run.run_id[:8],
        run.reason or ("-" if not render.is_terminal(sys.stdout) else ""),
    )


def output_block(run: Run) -> None:
    """What is kept of both streams, each line marked with its stream."""
    for name, stream in (("stdout", run.stdout), ("stderr", run.stderr)):
        if stream.size or stream.kept:
            _stream_block(name, stream)
    if run.dropped_lines:
        render.line(render.paint(f"  {run.dropped_lines} lines were dropped by journald", "yellow", sys.stdout))


def _stream_block(name: str, stream: Output) -> None:
    colour = "red" if name == "stderr" else "dim"
    mark = render.paint(f"{name} |", colour, sys.stdout)
    text = stream.text() if stream.kept else f"({stream.size} bytes, none kept)"
    for line in text.removesuffix("\n").split("\n"):
        render.line(f"  {mark} {render.plain(line)}")


def _took(run: Run) -> str:
    """For a cell: as `length` for a person, seconds with three decimals in a pipe."""
    if run.duration_us is None or render.is_terminal(sys.stdout):
        return length(run.duration_us)
    return f"{run.duration_us / 1_000_000:.3f}"


def length(length_us: float | None) -> str:
    """`27ms`, `4.2s`, `42s`, `3min 20s`, `2h 5min`; `-` if not known."""
    if length_us is None:
        return "-"
    seconds = length_us / 1_000_000
    if length_us < 1_000_000:
        return f"{length_us / 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    return render.distance(timedelta(seconds=-seconds)).removesuffix(" ago")


def size(count: int) -> str:
    """Bytes in the largest unit of which there is one, such as `12.3M`; K is 1024, as in systemd."""
    amount, unit = float(count), "B"
    for larger in "KMGT":
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f}{unit}" if unit == "B" or amount >= 100 else f"{amount:.1f}{unit}"


def when(moment_us: int | None, now: datetime) -> str:
    """`3min ago` for a person, RFC 3339 in a pipe, `-` if not known."""
    return _moment(moment_of(moment_us) if moment_us is not None else None, now)


def _moment(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "-"
    if not render.is_terminal(sys.stdout):
        return moment.astimezone().isoformat(timespec="seconds")
    return render.distance(moment - now, 1)


def _full(moment: datetime | None, now: datetime) -> str:
    return render.moment(moment.astimezone() if moment else None, now)


def _date(moment_us: int | None, now: datetime) -> str:
    return _full(moment_of(moment_us) if moment_us is not None else None, now)


def _ended_us(run: Run | None) -> int | None:
    if run is None:
        return None
    return run.finished_us if run.finished_us is not None else run.started_us


def _so_far(since: datetime, now: datetime) -> str:
    return render.distance(timedelta(seconds=-max((now - since).total_seconds(), 1))).removesuffix(" ago")
