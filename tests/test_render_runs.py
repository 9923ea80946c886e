"""What people and pipes see of runs: tables, blocks, logs; relative times and colours only for people."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron import render, render_runs
from sdcron.job_answers import JobDetail, JobStatusRow, RetryWait
from sdcron.log_lines import LogLine
from sdcron.render_log import LogPrinter
from sdcron.runs import Outcome, Output, Trigger
from tests.recorded import HOUR, MINUTE, NOW, SECOND, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "a\x1b]0;owned\x07b\x9bc\u202ed\re\tf"
ROWS = (
    JobStatusRow("backup", "waiting", recorded(ago_us=3 * MINUTE), next_run=NOW + timedelta(hours=2)),
    JobStatusRow("fetch", "failed", recorded("fetch", outcome=Outcome.FAILURE), failures=3),
    JobStatusRow("index", "running", running_since=NOW - timedelta(minutes=5), running_id="ab" * 16),
    JobStatusRow(
        "mail",
        "retry waiting",
        recorded("mail", outcome=Outcome.TIMEOUT),
        failures=1,
        next_run=NOW + timedelta(hours=9),
        retry=RetryWait(2, NOW + timedelta(minutes=4)),
    ),
    JobStatusRow("off", "disabled"),
    JobStatusRow("young", "waiting", next_run=NOW + timedelta(days=1), transient=True),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person looks, at a terminal of 60 columns without colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")


@pytest.fixture
def coloured(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with colours."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")


def shown(capsys: pytest.CaptureFixture[str], show: Callable[[], object]) -> str:
    show()
    return capsys.readouterr().out


def test_the_status_of_jobs_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, lambda: render_runs.status_table(ROWS, NOW)).splitlines() == [
        "backup\twaiting\tsuccess\t2026-11-21T11:57:02+00:00\t2.000\t2026-11-21T14:00:00+00:00\t0",
        "fetch\tfailed\tfailure\t2026-11-21T11:00:02+00:00\t2.000\t-\t3",
        "index\trunning\t-\t-\t-\t-\t0",
        "mail\tretry waiting\ttimeout\t2026-11-21T11:00:02+00:00\t2.000\t2026-11-21T12:04:00+00:00\t1",
        "off\tdisabled\t-\t-\t-\t-\t0",
        "young\twaiting, transient\t-\t-\t-\t2026-11-22T12:00:00+00:00\t0",
    ]


@pytest.mark.usefixtures("terminal")
def test_the_status_of_jobs_on_a_terminal_is_a_table_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, lambda: render_runs.status_table(ROWS, NOW)).splitlines() == [
        "JOB     STATE               LAST     WHEN       TOOK  NEXT              FAILURES",
        "backup  waiting             success  2min ago   2.0s  in 2h",
        "fetch   failed              failure  59min ago  2.0s  -                 3 in a row",
        "index   running 5min        -        -          -     -",
        "mail    retry waiting       timeout  59min ago  2.0s  in 4min, retry 1  1",
        "off     disabled            -        -          -     -",
        "young   waiting, transient  -        -          -     in 1d",
        "",
        "6 jobs: 1 ok, 2 failing (fetch, mail), 1 running, 1 not run yet, 1 disabled or removed",
    ]


@pytest.mark.usefixtures("coloured")
def test_failing_jobs_stand_out(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, lambda: render_runs.status_table(ROWS, NOW)).splitlines()
    assert lines[1].startswith("backup  ")
    assert "\x1b[32msuccess\x1b[0m" in lines[1]
    assert lines[2].startswith("\x1b[31mfetch\x1b[0m")
    assert "\x1b[36mrunning 5min\x1b[0m" in lines[3]
    assert "\x1b[33mretry waiting\x1b[0m" in lines[4]


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 job: 1 failing (j0)"), (7, "7 jobs: 7 failing (j0, j1, j2, j3, j4, …)")]
)
def test_a_summary_names_the_first_of_those_that_fail(count: int, text: str) -> None:
    assert render_runs.summary([JobStatusRow(f"j{number}", "failed") for number in range(count)]) == text


DETAIL = JobDetail(
    row=JobStatusRow(
        "backup",
        "retry waiting",
        recorded(
            outcome=Outcome.FAILURE,
            stdout=b"one\ntwo\n",
            stderr=b"oh\n",
            trigger=Trigger.RETRY,
            attempt=2,
            cpu_us=1_200_000,
            memory_peak_bytes=13_000_000,
            scheduled_us=recorded().started_us,
        ),
        last_success_at=NOW - timedelta(days=2),
        failures=2,
        next_run=NOW + timedelta(hours=2),
        retry=RetryWait(3, NOW + timedelta(minutes=4)),
    ),
    description="Dump it",
    schedule=("30 2 * * *", "@reboot"),
    timezone="Europe/Berlin",
    source="/etc/jobs/backup.yaml",
    user="tester",
    timeout="2h",
    retry_delays=(timedelta(minutes=5), timedelta(minutes=10)),
    retry_on_exit=(75, 111),
    units=(("sdcron-backup.service", "failed"), ("sdcron-backup@retry-1.timer", "inactive")),
    recent=(recorded(outcome=Outcome.FAILURE), recorded(ago_us=2 * HOUR)),
    next_runs=(NOW + timedelta(hours=2), NOW + timedelta(hours=26)),
)


@pytest.mark.usefixtures("terminal")
def test_one_job_is_a_block_with_all_that_matters(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, lambda: render_runs.job_block(DETAIL, NOW))
    for expected in (
        "backup  Dump it\n",
        "  State:       retry waiting\n",
        "  Retry:       retry 2 of 2, 2026-11-21 12:04:00+00:00 (in 4min)\n",
        "  Schedule:    30 2 * * *, @reboot (Europe/Berlin)\n",
        "  Next:        2026-11-21 14:00:00+00:00 (in 2h), then 2026-11-22 14:00:00+00:00\n",
        "  Last run:    failure: exit status 3\n",
        "  Ended:       2026-11-21 11:00:02+00:00 (59min 58s ago), took 2.0s\n",
        "  Started by:  retry, attempt 2\n",
        "  Used:        1.2s of CPU time, 12.4M of memory\n",
        "  Failures:    2 in a row\n",
        "  Succeeded:   2026-11-19 12:00:00+00:00 (2d ago)\n",
        "  Runs as:     tester\n",
        "  Timeout:     2h\n",
        "  Retries:     2, after 5min, 10min, on exit status 75, 111\n",
        "  Source:      /etc/jobs/backup.yaml\n",
        "  Units:       sdcron-backup.service (failed)\n",
        "  stdout | one\n  stdout | two\n  stderr | oh\n",
        "more: sdcron logs backup, sdcron history backup\n",
    ):
        assert expected in text
    assert "@retry-1" not in text
    assert text.count("failure") == 2


def test_one_job_in_a_pipe_has_exact_times_and_no_hints(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, lambda: render_runs.job_block(DETAIL, NOW))
    assert "  Ended:       2026-11-21T11:00:02+00:00, took 2.0s\n" in text
    assert "more:" not in text
    assert "ago" not in text


@pytest.mark.usefixtures("terminal")
def test_a_job_that_never_ran_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, lambda: render_runs.job_block(JobDetail(JobStatusRow("new", "by hand")), NOW))
    assert "  Last run:    none on record\n" in text


def test_history_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        recorded(outcome=Outcome.FAILURE, run_id="c0ffee12" + "0" * 24, attempt=2, trigger=Trigger.RETRY),
        recorded(took_us=0, trigger=None),
    ]
    text = shown(capsys, lambda: render_runs.history_table(iter(runs), NOW, output=False))
    assert text.splitlines() == [
        "2026-11-21T11:00:00+00:00\tbackup\tfailure\t2.000\tretry\t2\tc0ffee12\texit status 3",
        f"2026-11-21T11:00:00+00:00\tbackup\tsuccess\t0.000\t-\t1\t{runs[1].run_id[:8]}\t-",
    ]


@pytest.mark.usefixtures("terminal")
def test_history_shows_the_output_below_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [recorded(stdout=b"one\n\xff\n", stderr=b"oh", dropped_lines=7), recorded("mail", ago_us=MINUTE)]
    lines = shown(capsys, lambda: render_runs.history_table(runs, NOW, output=True)).splitlines()
    assert lines[1:5] == ["  stdout | one", "  stdout | \\xff", "  stderr | oh", "  7 lines were dropped by journald"]
    assert lines[5].startswith("1min ago  mail  success")


def test_output_of_which_nothing_is_kept_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    run = replace(recorded(), stdout=Output(b"", 12_345, truncated=True))
    assert shown(capsys, lambda: render_runs.output_block(run)) == "  stdout | (12345 bytes, none kept)\n"


LINES = (
    LogLine(NOW, "sdcron", "", "ab" * 16, "start"),
    LogLine(NOW, "stdout", "one"),
    LogLine(NOW + timedelta(seconds=1), "stderr", "two\tparts"),
    LogLine(NOW, "systemd", "no such file"),
    LogLine(NOW, "sdcron", "retry 1 of 3 is waiting"),
    LogLine(NOW, "syslog", "prog: x\ny\n"),
    LogLine(
        NOW, "sdcron", "failure: exit status 3", "ab" * 16, "end", recorded(outcome=Outcome.FAILURE, took_us=SECOND)
    ),
)


def test_a_log_in_a_pipe_is_time_stream_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    def show() -> None:
        printer = LogPrinter()
        for line in LINES:
            printer(line)

    assert shown(capsys, show).splitlines() == [
        "2026-11-21T12:00:00.000+00:00\tstdout\tone",
        "2026-11-21T12:00:01.000+00:00\tstderr\ttwo\\tparts",
        "2026-11-21T12:00:00.000+00:00\tsystemd\tno such file",
        "2026-11-21T12:00:00.000+00:00\tsdcron\tretry 1 of 3 is waiting",
        "2026-11-21T12:00:00.000+00:00\tsyslog\tprog: x\\ny\\n",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_log_on_a_terminal_has_rules_between_runs_and_marks(capsys: pytest.CaptureFixture[str]) -> None:
    def show() -> None:
        printer = LogPrinter()
        for line in LINES:
            printer(line)

    lines = shown(capsys, show).splitlines()
    assert lines[0].startswith("── run abababab, Sat 2026-11-21 12:00:00 ──")
    assert lines[1:7] == [
        "12:00:00   one", "12:00:01 ! two\tparts", "12:00:00 ! systemd: no such file",
        "12:00:00 · retry 1 of 3 is waiting", "12:00:00 · prog: x", "           y",
    ]  # fmt: skip
    assert lines[7].startswith("── failure: exit status 3, took 1.0s, by schedule ──")
    assert {len(lines[0]), len(lines[7])} == {60}


@pytest.mark.parametrize(
    "show",
    [
        lambda: render_runs.status_table([JobStatusRow(HOSTILE, "waiting")], NOW),
        lambda: render_runs.history_table([recorded(HOSTILE, reason=HOSTILE)], NOW, output=False),
        lambda: render_runs.history_table([recorded(HOSTILE, stdout=HOSTILE.encode())], NOW, output=True),
        lambda: render_runs.job_block(JobDetail(JobStatusRow(HOSTILE, "waiting"), description=HOSTILE), NOW),
        lambda: LogPrinter()(LogLine(NOW, "stdout", HOSTILE)),
        lambda: LogPrinter()(LogLine(NOW, "sdcron", HOSTILE, None, "end", recorded(reason=HOSTILE))),
    ],
)
@pytest.mark.parametrize("terminal_or_pipe", ["1", ""])
def test_nothing_that_a_job_prints_reaches_the_terminal_as_an_order(
    show: Callable[[], None], terminal_or_pipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", terminal_or_pipe)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not set("\x1b\x07\x9b\u202e\r") & set(shown(capsys, show))


@pytest.mark.parametrize(
    ("length_us", "text"),
    [
        (None, "-"), (0, "0ms"), (27_400, "27ms"), (999_400, "999ms"), (1_300_000, "1.3s"), (9_940_000, "9.9s"),
        (9_960_000, "10s"), (42_000_000, "42s"), (200_000_000, "3min 20s"), (7_500_000_000, "2h 5min"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_short(length_us: int | None, text: str) -> None:
    assert render_runs.length(length_us) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (12_900_000, "12.3M"), (5 << 40, "5.0T"), (300 << 30, "300G")],
)
def test_a_size_is_short(count: int, text: str) -> None:
    assert render_runs.size(count) == text


def test_a_json_array_is_written_as_its_elements_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, lambda: render.json_array(iter([]))) == "[]\n"
    assert shown(capsys, lambda: render.json_array(iter([1, {"a": "\u2028"}]))) == '[\n  1,\n  {"a": "\\u2028"}\n]\n'
    assert shown(capsys, lambda: render.json_line({"a": "ä\n"})) == '{"a":"\\u00e4\\n"}\n'
