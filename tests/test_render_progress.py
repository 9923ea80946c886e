"""Progress and alarms as people and pipes see them: in the table, in the block of a job, and until a run ends."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron import render_runs
from sdcron.job_answers import JobDetail, JobStatusRow, Progress
from sdcron.log_lines import LogLine
from sdcron.render_log import LogPrinter
from sdcron.render_progress import ProgressLine
from sdcron.runs import Alarm, Outcome
from tests.recorded import MINUTE, NOW, NOW_US, SECOND, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "a\x1b]0;owned\x07b"
SINCE = NOW - timedelta(minutes=1)
HALF = Progress(13, 77, NOW - timedelta(seconds=2), NOW + timedelta(minutes=5))


def row(progress: Progress | None, **fields: object) -> JobStatusRow:
    return JobStatusRow("index", "running", running_since=SINCE, running_id="ab" * 16, progress=progress, **fields)  # type: ignore[arg-type]  # the fields of a row


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person looks, at a terminal of 40 columns without colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")


def shown(capsys: pytest.CaptureFixture[str], show: Callable[[], object]) -> str:
    show()
    return capsys.readouterr().out


def fact(capsys: pytest.CaptureFixture[str], progress: Progress) -> str:
    """What the block of a job says of it."""
    lines = shown(capsys, lambda: render_runs.job_block(JobDetail(row(progress)), NOW)).splitlines()
    return next(line for line in lines if line.startswith("  Progress:")).removeprefix("  Progress:").strip()


@pytest.mark.usefixtures("terminal")
def test_the_table_says_how_much_of_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, lambda: render_runs.status_table([row(HALF), row(Progress(5, None, NOW))], NOW)).splitlines()
    assert [line.split("  ")[1] for line in lines[1:3]] == ["running 1min, 17 %", "running 1min"]


def test_in_a_pipe_the_table_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, lambda: render_runs.status_table([row(HALF)], NOW)) == "index\trunning\t-\t-\t-\t-\t0\n"


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (HALF, "[####--------------------] 13/77 17 %, ends in 5min"),
        (Progress(77, 77, NOW), f"[{'#' * 24}] 77/77 100 %"),
        (Progress(0, 77, NOW), f"[{'-' * 24}] 0/77 0 %"),
        (Progress(99, 77, NOW), f"[{'#' * 24}] 99/77 100 %"),
        (
            Progress(2.5, 5, NOW, NOW - timedelta(hours=1)),
            "[############------------] 2.5/5 50 %, should have ended 1h ago",
        ),
        (Progress(1e12, None, NOW - timedelta(seconds=9)), "1000000000000, 9s ago"),
    ],
)
def test_the_block_of_a_job_has_a_bar(progress: Progress, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fact(capsys, progress) == words


@pytest.mark.usefixtures("terminal")
def test_alarms_of_what_runs_and_of_the_last_run_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    last = recorded("index", alarms=(Alarm(NOW_US - 5 * MINUTE, f"last {HOSTILE}"),))
    alarms = (Alarm(NOW_US - 3 * SECOND, "now"),)
    text = shown(capsys, lambda: render_runs.job_block(JobDetail(row(None, last=last, alarms=alarms)), NOW))
    assert "  Alarm:       now (3s ago)\n" in text
    assert "  Alarm:       last a\\x1b]0;owned\\x07b (5min ago)\n" in text


def test_in_a_pipe_a_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()

    def show() -> None:
        for progress in (None, HALF, HALF, Progress(2.5, None, NOW)):
            line.show(row(progress), NOW)
        line.end(recorded(outcome=Outcome.FAILURE))

    assert shown(capsys, show).splitlines() == [
        "2026-11-21T11:59:58.000000+00:00\t13\t77\t16.9", "2026-11-21T12:00:00.000000+00:00\t2.5\tNone\tNone",
        "failure: exit status 3, took 2.0s",
    ]  # fmt: skip


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_one_line_changes_and_is_gone_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()

    def show() -> None:
        line.show(row(None), NOW)
        line.show(row(HALF), NOW)
        line.end(recorded(reason=HOSTILE))

    assert shown(capsys, show).split("\r\x1b[K") == [
        "", "running for 1min", "[####--------------------] 13/77 17 %, ",
        "success: a\\x1b]0;owned\\x07b, took 2.0s\n",
    ]  # fmt: skip
    assert shown(capsys, line.end) == ""


@pytest.mark.usefixtures("terminal")
def test_a_log_marks_what_is_bad_and_not_what_is_only_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    printer = LogPrinter()
    for stream, text in (("stderr", "info: fine"), ("stderr", "warning: not"), ("sdcron", "alarm: full")):
        printer(LogLine(NOW, stream, text))
    assert capsys.readouterr().out == "12:00:00   info: fine\n12:00:00 ! warning: not\n12:00:00 · alarm: full\n"
