"""status, history and logs as commands, without systemd, below --root: options, exit codes, JSON, notes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron import queries, render
from sdcron.cli import run
from sdcron.ledger import database
from sdcron.runs import Outcome, Trigger
from tests.compiled import compiled, install, paths_below
from tests.recorded import HOUR, MINUTE, NOW, NOW_US, keep, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sdcron = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parent.parent
RUNS = (
    recorded("backup", ago_us=50 * HOUR),
    recorded("backup", ago_us=26 * HOUR, outcome=Outcome.FAILURE, stderr=b"no space\n"),
    recorded("backup", ago_us=25 * HOUR, trigger=Trigger.RETRY, attempt=2, stdout=b"done\n"),
    recorded("gone", ago_us=3 * HOUR, outcome=Outcome.TIMEOUT),
    recorded("mail", ago_us=MINUTE, outcome=Outcome.KILLED, trigger=Trigger.MANUAL),
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW."""
    monkeypatch.setattr(render, "now_utc", lambda: NOW)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's file system with two jobs and five runs on record, one of a job that is gone."""
    paths = paths_below(tmp_path)
    install(paths, [compiled("backup"), compiled("mail", "@hourly")])
    keep(paths, RUNS)
    return tmp_path


@pytest.fixture
def sdcron(root: Path, capsys: pytest.CaptureFixture[str]) -> Sdcron:
    """Run one command line on it; returns exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments, "--root", str(root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def ids(sdcron: Sdcron, *arguments: str) -> list[int]:
    """Which of RUNS a history shows."""
    code, out, err = sdcron("history", "--json", *arguments)
    assert (code, err) == (0, "")
    return [[run.run_id for run in RUNS].index(record["run_id"]) for record in json.loads(out)]


def test_status_is_a_line_a_job(sdcron: Sdcron) -> None:
    code, out, err = sdcron("status")
    assert (code, err) == (0, "")
    assert [line.split("\t")[:3] for line in out.splitlines()] == [
        ["backup", "waiting", "success"], ["mail", "waiting", "killed"],
    ]  # fmt: skip


def test_status_shows_removed_jobs_when_asked(sdcron: Sdcron) -> None:
    assert "gone\tremoved\ttimeout" in sdcron("status", "--all")[1]


def test_status_as_json_is_what_the_api_says(sdcron: Sdcron) -> None:
    rows = json.loads(sdcron("status", "--json")[1])
    assert [(row["job"], row["failures"]) for row in rows] == [("backup", 0), ("mail", 1)]
    one = json.loads(sdcron("status", "backup", "--json")[1])
    assert one["last_run"]["stdout"] == "done\n"
    assert [record["outcome"] for record in one["recent"]] == ["success", "failure", "success"]


def test_the_status_of_one_job_shows_its_last_output(sdcron: Sdcron) -> None:
    code, out, _ = sdcron("status", "backup")
    assert code == 0
    assert "stdout | done" in out


def test_status_of_nothing_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--root", str(tmp_path)]) == 0
    assert "no jobs are applied here" in capsys.readouterr().err
    assert run(["status", "--root", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert run(["history", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "no runs on record\n"


@pytest.mark.parametrize("command", ["status", "history"])
def test_an_unknown_job_is_a_usage_error(sdcron: Sdcron, command: str) -> None:
    code, out, err = sdcron(command, "bakup")
    assert (code, out) == (2, "")
    assert "did you mean backup?" in err


def test_history_is_the_newest_first_and_twenty(sdcron: Sdcron, root: Path) -> None:
    assert ids(sdcron) == [4, 3, 2, 1, 0]
    keep(paths_below(root), [recorded("many", ago_us=number) for number in range(30)])
    assert len(sdcron("history", "many")[1].splitlines()) == 20
    assert len(sdcron("history", "many", "-n", "0")[1].splitlines()) == 30
    assert len(sdcron("history", "many", "--since", "1d")[1].splitlines()) == 30
    assert len(sdcron("history", "many", "-n", "3")[1].splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["backup"], [2, 1, 0]),
        (["gone"], [3]),
        (["--failed"], [4, 3, 1]),
        (["--outcome", "success"], [2, 0]),
        (["--outcome", "failure,timeout"], [3, 1]),
        (["--outcome", "failure", "--outcome", "killed"], [4, 1]),
        (["--failed", "--outcome", "success"], [4, 3, 2, 1, 0]),
        (["--trigger", "retry, manual"], [4, 2]),
        (["--since", "1d"], [4, 3]),
        (["--since", "yesterday"], [4, 3, 2, 1]),
        (["--until", "2026-11-20"], [0]),
        (["--since", "2026-11-20T10:30:00+00:00", "--until", "today"], [2]),
        (["--run", RUNS[1].run_id[:9]], [1]),
    ],
)
def test_history_is_filtered_as_asked(sdcron: Sdcron, options: list[str], expected: list[int]) -> None:
    assert ids(sdcron, *options) == expected


def test_history_in_json_is_records_with_their_output(sdcron: Sdcron) -> None:
    [record] = json.loads(sdcron("history", "--run", RUNS[1].run_id, "--json")[1])
    assert record == RUNS[1].as_json()


def test_history_shows_output_when_asked(sdcron: Sdcron) -> None:
    assert "stderr | no space" in sdcron("history", "backup", "--output")[1]
    assert "no space" not in sdcron("history", "backup")[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--outcome", "succes"], "succes is no outcome"),
        (["--trigger", "cron"], "cron is no trigger"),
        (["--since", "soon"], "soon is not a time"),
        (["--run", "zzz"], "not the beginning of a run id"),
        (["--prune", "--failed"], "--prune forgets all runs that are old"),
        (["backup", "--prune"], "--prune forgets all runs that are old"),
        (["--before", "2h"], "--before belongs to --prune"),
        (["-n", "-1"], "'-n'"),
    ],
)
def test_options_that_mean_nothing_are_usage_errors(sdcron: Sdcron, options: list[str], told: str) -> None:
    code, out, err = sdcron("history", *options)
    assert (code, out) == (2, "")
    assert told in err


def test_pruning_forgets_what_is_older_than_the_settings_keep(sdcron: Sdcron, root: Path) -> None:
    assert sdcron("history", "--prune")[:2] == (0, "0 runs forgotten\n")
    settings = paths_below(root).config_file
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('[log]\nkeep = "30h"\n')
    assert sdcron("history", "--prune")[:2] == (0, "1 run forgotten\n")
    assert ids(sdcron) == [4, 3, 2, 1]


def test_pruning_before_a_time_keeps_each_jobs_last_status(sdcron: Sdcron) -> None:
    assert json.loads(sdcron("history", "--prune", "--before", "2h", "--json")[1]) == {"forgotten": 4}
    assert ids(sdcron) == [4]
    assert "backup\twaiting\tsuccess" in sdcron("status")[1]


def test_the_future_cannot_be_forgotten(sdcron: Sdcron) -> None:
    code, _, err = sdcron("history", "--prune", "--before", "2027-01-01")
    assert code == 1
    assert "is in the future" in err


def test_a_damaged_record_is_one_line_and_what_to_do(sdcron: Sdcron, root: Path) -> None:
    database(paths_below(root)).write_bytes(b"no database at all " * 500)
    for command in ("status", "history"):
        code, out, err = sdcron(command)
        assert (code, out, err.count("\n")) == (1, "", 2)
        assert "is damaged" in err
        assert "hint: have it made anew from the logs and the journal: sudo systemctl restart sdcron-collector\n" in err


@pytest.mark.parametrize("command", ["status", "history"])
def test_what_kept_the_record_from_being_up_to_date_is_a_note(
    sdcron: Sdcron, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "catch_up", lambda _place: ("the latest runs may be missing: \x1b[31m",))
    code, out, err = sdcron(command)
    assert code == 0
    assert out
    assert err == "the latest runs may be missing: \\x1b[31m\n"


def test_logs_need_a_running_machine(sdcron: Sdcron) -> None:
    code, _, err = sdcron("logs", "backup")
    assert code == 2
    assert "leave --root away" in err


LINES = (
    queries.LogLine(NOW, "sdcron", "", "ab" * 16, "start"),
    queries.LogLine(NOW, "stdout", "one", "ab" * 16),
    queries.LogLine(NOW, "stderr", "two\n", None),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Logs are LINES; what was asked for is kept here."""
    kept: dict[str, Any] = {}

    def logs(place: object, job: str, **options: Any) -> Iterator[queries.LogLine]:
        kept.update(options, job=job)
        yield from LINES

    monkeypatch.setattr(queries, "logs", logs, raising=False)
    return kept


def test_logs_ask_for_what_the_options_say(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["logs", "backup", "-n", "7", "--since", "2h", "-f"]) == 0
    assert asked == {"job": "backup", "lines": 7, "since": NOW - timedelta(hours=2), "run": "", "follow": True}
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == ["stdout", "stderr"]


def test_logs_as_json_are_an_object_a_line(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "backup", "--json", "--run", "ab"]) == 0
    assert asked["run"] == "ab"
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects == [line.as_json() for line in LINES]
    assert objects[0]["event"] == "start"


def test_a_run_goes_with_no_other_choice_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "backup", "--run", "ab", "-n", "3"]) == 2
    assert "--run goes with neither" in capsys.readouterr().err


@pytest.mark.parametrize("runs", [3, 3000])
def test_a_reader_that_has_gone_is_no_reason_to_complain(tmp_path: Path, runs: int) -> None:
    keep(paths_below(tmp_path), [recorded(ago_us=number) for number in range(runs)])
    script = (
        f"{sys.executable} -m sdcron history -n 0 --root {tmp_path} 2>{tmp_path}/err | true; echo ${{PIPESTATUS[0]}}"
    )
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout == "1\n"
    assert (tmp_path / "err").read_text() == ""


def test_the_clock_of_the_tests_is_the_one_of_the_records() -> None:
    assert datetime.fromtimestamp(NOW_US / 1e6, tz=UTC) == NOW
