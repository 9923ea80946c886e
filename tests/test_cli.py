"""The command line without systemd, all below --root: exit codes, one-line errors, JSON, plain lines for pipes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sdcron import __version__
from sdcron.cli import app, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = ["validate", "plan", "apply", "compile", "remove", "list", "next", "schema", "new", "doctor"]

Sdcron = "Callable[..., tuple[int, str, str]]"


@pytest.fixture
def sdcron(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line; returns exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A directory with two jobs that nobody else may write to."""
    directory = tmp_path / "jobs"
    directory.mkdir(mode=0o755)
    write(directory / "backup.yaml", "schedule: '30 2 * * *'\ncommand: /usr/bin/true\nretry: 5m\n")
    write(directory / "hello.yaml", "schedule: '@daily'\nscript: echo hello\n")
    return directory


def write(path: Path, text: str) -> None:
    """A job file as an administrator's umask leaves it."""
    path.write_text(text)
    path.chmod(0o644)


def test_the_version_is_one_line(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    assert sdcron("--version") == (0, f"sdcron {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = sdcron(command, "--help")
    assert code == 0
    assert re.search(rf"Example: (sudo )?sdcron {command}", out)


def test_every_command_is_tested_here() -> None:
    named = {info.name or (info.callback.__name__ if info.callback else "") for info in app.registered_commands}
    assert named == set(COMMANDS)


def test_an_unknown_command_is_a_usage_error(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = sdcron("aply")
    assert code == 2
    assert "aply" in err


def test_a_missing_path_is_a_usage_error_that_says_what_to_give(
    tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = sdcron("validate", tmp_path / "absent")
    assert (code, out) == (2, "")
    assert err == f"sdcron: {tmp_path}/absent does not exist\n  hint: give a job file, or a directory of job files\n"


def test_good_files_validate_with_one_line(jobs: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    assert sdcron("validate", jobs) == (0, "2 jobs, no problems\n", "")


def test_a_bad_file_is_exit_3_with_place_caret_and_hint(
    jobs: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    write(jobs / "bad.yaml", "command: /usr/bin/true\nschedul: '@daily'\n")
    code, out, err = sdcron("validate", jobs)
    assert (code, out) == (3, "")
    assert f"{jobs}/bad.yaml:2:1: unknown key 'schedul'" in err
    assert "    2 | schedul: '@daily'\n      | ^\n  hint: did you mean 'schedule'?" in err


def test_problems_as_json_have_the_documented_shape(jobs: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    write(jobs / "bad.yaml", "command: /usr/bin/true\nschedul: '@daily'\n")
    code, out, _ = sdcron("validate", jobs, "--json")
    assert code == 3
    [problem] = json.loads(out)["problems"]
    assert set(problem) == {"path", "line", "column", "key", "message", "hint"}
    assert (problem["line"], problem["column"]) == (2, 1)


def test_apply_below_a_root_writes_units_and_links_and_a_second_one_nothing(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code, out, err = sdcron("apply", jobs, "--root", root)
    assert (code, out, err) == (0, "+ add backup\n+ add hello\n2 added, 0 unchanged\n", "")
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    assert root / "etc/systemd/system/sdcron-backup.timer" in before
    assert (root / "etc/systemd/system/timers.target.wants/sdcron-hello.timer").is_symlink()
    assert (root / "var/lib/sdcron/scripts/hello").read_text() == "echo hello\n"
    assert sdcron("apply", jobs, "--root", root) == (0, "nothing to do: 2 unchanged\n", "")
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


def test_plan_shows_a_diff_and_check_tells_of_drift(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    assert sdcron("plan", jobs, "--root", root, "--check")[0] == 0
    write(jobs / "backup.yaml", "schedule: '30 3 * * *'\ncommand: /usr/bin/true\nretry: 5m\n")
    code, out, _ = sdcron("plan", jobs, "--root", root, "--check")
    assert code == 5
    assert "  -OnCalendar=*-*-* 02:30:00\n  +OnCalendar=*-*-* 03:30:00\n" in out
    assert "1 to change, 1 unchanged" in out


def test_a_dry_run_changes_nothing(jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code, out, _ = sdcron("apply", jobs, "--root", root, "--dry-run")
    assert code == 0
    assert "2 to add" in out
    assert not list(root.iterdir())


def test_a_removed_file_removes_the_job_unless_told_to_keep_it(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    (jobs / "hello.yaml").unlink()
    code, out, _ = sdcron("apply", jobs, "--root", root, "--no-prune")
    assert code == 0
    assert "keep hello" in out
    assert (root / "etc/systemd/system/sdcron-hello.timer").exists()
    assert "- remove hello" in sdcron("apply", jobs, "--root", root)[1]
    assert not list(root.rglob("*sdcron-hello*"))
    assert not list(root.rglob("scripts/hello"))


@pytest.mark.parametrize(("signal", "heeded"), [("SIGHUP", True), ("SIGTERM", True), ("SIGHUP", False)])
def test_a_lost_connection_and_a_kill_end_a_command_like_ctrl_c_but_not_below_nohup(signal: str, heeded: bool) -> None:
    script = (
        "import os, signal, sys\n"
        "from sdcron import cli, operations\n"
        f"{'' if heeded else f'signal.signal(signal.{signal}, signal.SIG_IGN)'}\n"
        f"operations.make_place = lambda **_: os.kill(os.getpid(), signal.{signal}) or sys.exit(7)\n"
        "sys.argv = ['sdcron', 'list']\n"
        "cli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == (130 if heeded else 7)
    assert ended.stderr.endswith("sdcron: interrupted\n") is heeded


def test_list_is_tab_separated_in_a_pipe_and_has_a_documented_json_shape(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    _, out, _ = sdcron("list", "--root", root)
    assert [line.split("\t")[0] for line in out.splitlines()] == ["backup", "hello"]
    assert "\x1b" not in out
    rows = json.loads(sdcron("list", "--root", root, "--json")[1])
    assert set(rows[0]) == {"job", "state", "next_run_at", "schedule", "source", "units", "transient"}


def test_an_empty_list_says_how_to_start(tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = sdcron("list", "--root", tmp_path / "root")
    assert (code, out) == (0, "")
    assert "sdcron new" in err


def test_remove_names_the_nearest_job(jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    code, _, err = sdcron("remove", "bakup", "--root", root)
    assert code == 2
    assert "no job called bakup" in err
    assert "did you mean backup?" in err
    assert sdcron("remove", "backup", "hello", "--root", root)[0] == 0
    assert not list((root / "etc/systemd/system").rglob("sdcron-*"))


def test_next_shows_times_of_a_schedule_from_a_moment_on(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ["next", "--schedule", "30 2 * * *", "--timezone", "Europe/Berlin", "-n", "2"]
    code, out, _ = sdcron(*arguments, "--from", "2027-03-27T12:00:00+01:00")
    assert (code, out) == (0, "2027-03-28T03:00:00+02:00\n2027-03-29T02:30:00+02:00\n")


def test_next_puts_the_caret_below_the_mistake(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = sdcron("next", "--schedule", "0 99 * * *")
    assert code == 3
    assert "    1 | 0 99 * * *\n      |   ^\n" in err


def test_next_wants_a_job_or_a_schedule(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    assert sdcron("next")[0] == 2


def test_a_time_that_is_none_is_a_usage_error(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = sdcron("next", "--schedule", "@daily", "--from", "tomorrow")
    assert code == 2
    assert "tomorrow is not a time" in err


def test_a_new_job_file_validates_and_is_never_overwritten(
    tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    directory = tmp_path / "fresh"
    directory.mkdir(mode=0o755)
    code, out, _ = sdcron("new", "hello", "--directory", directory)
    assert (code, out) == (0, f"{directory}/hello.yaml\n")
    (directory / "hello.yaml").chmod(0o644)
    assert sdcron("validate", directory)[0] == 0
    code, _, err = sdcron("new", "hello", "--directory", directory)
    assert code == 2
    assert "exists" in err


def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    assert sdcron("new", "../hello", "--directory", tmp_path)[0] == 2
    assert "sdcron's own" in sdcron("new", "boot", "--directory", tmp_path)[2]


def test_schema_prints_json(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = sdcron("schema")
    assert code == 0
    assert json.loads(out)["$schema"].endswith("2020-12/schema")


def test_compile_writes_units_and_touches_nothing_else(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    output = tmp_path / "units"
    code, out, _ = sdcron("compile", jobs, "-o", output)
    assert code == 0
    assert sorted(out.split()) == sorted(str(path) for path in output.iterdir())


def test_a_key_of_a_later_version_validates_and_is_refused_by_compile(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    write(jobs / "hello.yaml", "command: /usr/bin/true\nlock: database\n")
    assert sdcron("validate", jobs)[0] == 0
    code, _, err = sdcron("compile", jobs, "-o", tmp_path / "units")
    assert code == 3
    assert f"{jobs}/hello.yaml:2:1: key 'lock' is not supported yet" in err
    assert not (tmp_path / "units").exists()


def test_keys_that_need_root_are_refused_for_a_user(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    write(jobs / "hello.yaml", "command: /usr/bin/true\nuser: nobody\n")
    code, _, err = sdcron("compile", jobs, "-o", tmp_path / "units", "--user")
    assert code == 3
    assert "'user' needs the machine's service manager" in err


@pytest.mark.parametrize("command", ["apply", "plan", "list"])
def test_without_systemd_it_is_exit_4_with_what_to_do(
    command: str, jobs: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = sdcron(command, "--user", *([jobs] if command != "list" else []))
    assert code == 4
    assert "hint:" in err


def test_an_unknown_backend_is_a_usage_error(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    assert sdcron("list", "--backend", "cron")[0] == 2


def test_a_bug_is_one_line_and_exit_70(
    monkeypatch: pytest.MonkeyPatch, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    def fail() -> str:
        raise RuntimeError("boom")

    monkeypatch.setattr("sdcron.jobfile.schema_text", fail)
    code, _, err = sdcron("schema")
    assert code == 70
    assert err.startswith("sdcron: a bug of ours: RuntimeError: boom")
    assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_it_quietly(jobs: Path) -> None:
    program = f"{sys.executable} -m sdcron schema | true"
    result = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in result.stderr
