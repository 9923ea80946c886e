"""The command line without systemd, all below --root: exit codes, one-line errors, JSON, plain lines for pipes."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sdcron import __version__
from sdcron.cli import app, run
from sdcron.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = [
    "validate",
    "plan",
    "apply",
    "compile",
    "remove",
    "list",
    "next",
    "graph",
    "schema",
    "new",
    "edit",
    "doctor",
    "collect",
    "run",
    "stop",
    "pause",
    "suspend",
    "resume",
    "engine",
    "status",
    "history",
    "logs",
]

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


def root_with_sdcron(parent: Path) -> Path:
    """The file system of another machine, which has the package."""
    (parent / "root/usr/bin").mkdir(parents=True)
    (parent / "root/usr/bin/sdcron").touch()
    return parent / "root"


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
    named = {
        info.name or (info.callback.__name__ if info.callback else "")
        for info in app.registered_commands
        if not info.hidden
    }
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
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the record takes in job files as new as these by and by.
    monkeypatch.setattr("sdcron.record._SETTLED_NANOSECONDS", -(10**9))
    root = root_with_sdcron(tmp_path)
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
        f"signal.signal(signal.{signal}, signal.{'SIG_DFL' if heeded else 'SIG_IGN'})\n"
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
    keys = {"job", "state", "next_run_at", "schedule", "source", "units", "transient", "hosts", "paused"}
    keys |= {"after", "needs"}
    assert set(rows[0]) == keys


def test_jobs_for_other_machines_are_not_applied_and_listed_only_when_asked_for(
    tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, jobs = tmp_path / "root", tmp_path / "jobs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("# the first of many\nweb1\n")
    jobs.mkdir(mode=0o755)
    for name, hosts in (("mine", "web*"), ("theirs", "db*"), ("ours", "'*'")):
        (jobs / f"{name}.yaml").write_text(f"command: /bin/true\nschedule: '@daily'\nhosts: {hosts}\n")
        (jobs / f"{name}.yaml").chmod(0o644)

    def names(*options: str) -> list[str]:
        return [line.split("\t")[0] for line in sdcron("list", "--root", root, *options)[1].splitlines()]

    assert sdcron("validate", jobs, "--root", root)[1] == "3 jobs, no problems\n"
    assert sdcron("apply", jobs, "--root", root)[0] == 0
    assert names() == ["mine", "ours"]
    assert names("--all-hosts") == ["mine", "ours", "theirs"]
    row = json.loads(sdcron("list", "--root", root, "--all-hosts", "--json")[1])[2]
    assert (row["state"], row["hosts"], row["units"], row["next_run_at"]) == ("elsewhere", ["db*"], [], None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    told = sdcron("list", "--root", root, "--all-hosts")[1].splitlines()
    assert "\x1b[2m" in told[3] and "elsewhere: db*" in told[3]
    assert not any("\x1b[2m" in line for line in told[:3])
    monkeypatch.delenv("FORCE_COLOR")
    # A second apply, for which no file has changed, forgets nobody.
    assert "2 unchanged" in sdcron("apply", jobs, "--root", root)[1]
    assert names("--all-hosts") == ["mine", "ours", "theirs"]
    # The machine gets another name: other jobs are its own, though no file has changed.
    (root / "etc/hostname").write_text("db1\n")
    assert "1 added, 1 removed, 1 unchanged" in sdcron("apply", jobs, "--root", root, "--yes")[1]
    assert (names(), names("--all-hosts")) == (["ours", "theirs"], ["mine", "ours", "theirs"])
    (jobs / "mine.yaml").unlink()
    assert names("--all-hosts") == ["ours", "theirs"]
    # Units are made for any of them where they are not applied.
    assert sdcron("compile", jobs, "-o", tmp_path / "units", "--host", "elsewhere")[0] == 0
    assert sorted(path.stem for path in (tmp_path / "units").glob("*.timer")) == ["sdcron-ours"]


def test_an_empty_list_says_how_to_start(tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = sdcron("list", "--root", tmp_path / "root")
    assert (code, out) == (0, "")
    assert "sdcron new" in err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"\nSchedule=@daily", b"\nSchedule=99 * * * *"),
        lambda text: text.replace(b"\nSchedule=@daily", b"\nSchedule=\xff"),
        lambda text: text.replace(b"\nSchedule=@daily", b"\nSchedule=@daily\nTimezone=../etc"),
    ],
)
def test_one_damaged_unit_does_not_hide_the_other_jobs_and_is_named(
    damage: Callable[[bytes], bytes], jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    timer = root / "etc/systemd/system/sdcron-hello.timer"
    timer.write_bytes(damage(timer.read_bytes()))
    code, out, err = sdcron("list", "--root", root)
    assert (code, err) == (0, "")
    assert [line.split("\t")[:2] for line in out.splitlines()] == [["backup", "waiting"], ["hello", "damaged"]]
    row = json.loads(sdcron("list", "--root", root, "--json")[1])[1]
    assert (row["state"], row["next_run_at"]) == ("damaged", None)
    code, out, err = sdcron("next", "hello", "--root", root)
    assert (code, out) == (1, "")
    assert err.startswith("sdcron: the unit sdcron-hello.timer is damaged: ")
    assert "hint: apply the job's file again" in err
    assert "sdcron-hello.timer was edited by hand" in sdcron("doctor", "--root", root)[1]
    assert "~ change hello" in sdcron("apply", jobs, "--root", root)[1]
    assert sdcron("next", "hello", "--root", root)[0] == 0


@pytest.mark.parametrize("command", ["apply", "remove"])
def test_a_unit_with_bytes_that_are_not_utf_8_is_replaced_and_removed(
    command: str, jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    service = root / "etc/systemd/system/sdcron-hello.service"
    before = service.read_bytes()
    service.write_bytes(before.replace(b"[Service]", b"# \xff\n[Service]"))
    code, out, _ = sdcron("plan", jobs, "--root", root)
    assert code == 0
    assert "  -# \\udcff\n" in out
    assert sdcron("plan", jobs, "--root", root, "--json")[0] == 0
    if command == "apply":
        assert sdcron("apply", jobs, "--root", root)[1] == "~ change hello\n1 changed, 1 unchanged\n"
        assert service.read_bytes() == before
    else:
        assert sdcron("remove", "hello", "--root", root)[:2] == (0, "- remove hello\n")
        assert not list(root.rglob("sdcron-hello*"))


def test_a_unit_with_bytes_that_are_not_utf_8_is_brought_back_byte_by_byte_after_a_fault(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    units = root / "etc/systemd/system"
    for name in ("sdcron-hello.service", "sdcron-hello.timer"):
        (units / name).write_bytes(b"# \xff\n" + (units / name).read_bytes())
    before = {path: path.read_bytes() for path in units.iterdir() if path.is_file()}
    delete = Files.delete

    def fail_at_the_timer(files: Files, path: Path) -> None:
        if path.name == "sdcron-hello.timer":
            monkeypatch.undo()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        delete(files, path)

    monkeypatch.setattr(Files, "delete", fail_at_the_timer)
    code, _, err = sdcron("remove", "hello", "--root", root)
    assert (code, err.partition("\n")[0]) == (1, f"sdcron: {units}/sdcron-hello.timer: Input/output error")
    assert {path: path.read_bytes() for path in units.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("sources", []), ("sources", {"x": 1}), ("sources", {"x": ["look", ["a"]]}), ("sources", {"x": [[1, 2], []]}),
        ("sources", {"x": [[1, 2, 3, 4], "a"]}), ("sources", {"x": [[1, 2, 3, 4], [["a"]]]}), ("jobs", 1),
        ("jobs", {"a": ["x", [], [], []]}), ("jobs", {"a": ["x", {"a.timer": 1}, [], []]}), ("jobs", {"a": "four"}),
        ("jobs", {"a": ["x", {}, 1, []]}), ("jobs", {"a": ["x", {}, [], {}]}), ("jobs", {"a": [1, {}, [], []]}),
        ("sources", {"\0": [[1, 2, 3, 4], ["a"]]}), ("key", 1), ("key", None),
    ],
)  # fmt: skip
def test_a_record_of_the_last_apply_with_odd_members_is_no_obstacle(
    member: str, value: object, jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = root_with_sdcron(tmp_path)
    sdcron("apply", jobs, "--root", root)
    kept = root / "var/lib/sdcron/applied.json"
    record = json.loads(kept.read_text())
    record[member] = {**record[member], **value} if isinstance(value, dict) else value
    kept.write_text(json.dumps(record))
    write(jobs / "new.yaml", "command: /usr/bin/true\n")
    assert sdcron("apply", jobs, "--root", root) == (0, "+ add new\n1 added, 2 unchanged\n", "")
    for text in ("[" * 100_000, "1", "[]", '{"key"', "\udcff"):
        kept.write_text(text, errors="surrogateescape")
        assert sdcron("apply", jobs, "--root", root) == (0, "nothing to do: 3 unchanged\n", "")


def test_a_path_that_cannot_hold_units_is_told_as_such(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = sdcron("apply", jobs, "--root", tmp_path / "file")
    assert code == 1
    assert err.endswith(
        "Not a directory\n  hint: check that path: it must lie in a directory in which files can be made\n"
    )
    code, _, err = sdcron("compile", jobs, "-o", tmp_path / "file/units")
    assert code == 1
    assert "hint: check that path" in err


@pytest.mark.parametrize(
    ("number", "status", "hint"),
    [
        (errno.ENOSPC, 1, "free space there"), (errno.EDQUOT, 1, "free space there"), (errno.EROFS, 1, "read-only"),
        (errno.EIO, 1, "check that path"), (errno.ENAMETOOLONG, 1, "check that path"), (errno.EACCES, 4, ""),
    ],
)  # fmt: skip
def test_what_to_do_when_a_file_cannot_be_written_depends_on_why(
    number: int,
    status: int,
    hint: str,
    jobs: Path,
    tmp_path: Path,
    sdcron: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/the/file")

    monkeypatch.setattr("sdcron.files.Files.stage", fail)
    code, _, err = sdcron("apply", jobs, "--root", tmp_path / "root")
    assert code == status
    assert "/the/file" in err
    assert hint in err.partition("hint:")[2]


def test_a_dangling_link_and_a_directory_among_job_files_have_a_hint(
    jobs: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    (jobs / "gone.yaml").symlink_to(jobs / "nowhere")
    (jobs / "folder.yaml").mkdir()
    os.mkfifo(jobs / "pipe.yaml")
    code, _, err = sdcron("validate", jobs)
    assert code == 3
    plain_file = (
        "  hint: give the path of a YAML file; in a directory of job files, only such may be called *.yaml or *.yml"
    )
    assert f"{jobs}/folder.yaml: cannot be read: Is a directory\n{plain_file}\n" in err
    assert f"{jobs}/pipe.yaml: cannot be read: not a regular file\n{plain_file}\n" in err
    assert (
        f"{jobs}/gone.yaml: cannot be read: No such file or directory\n  hint: it is a link to what is not there" in err
    )


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


def test_all_jobs_can_be_removed_at_once(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    sdcron("apply", jobs, "--root", root)
    assert sdcron("remove", "--root", root)[0] == 2
    assert sdcron("remove", "backup", "--all", "--root", root)[0] == 2
    code, out, _ = sdcron("remove", "--all", "--root", root)
    assert (code, sorted(out.splitlines())) == (0, ["- remove backup", "- remove hello"])
    assert not list((root / "etc/systemd/system").rglob("sdcron-*"))
    assert sdcron("remove", "--all", "--root", root) == (0, "", "no jobs are applied\n")


def test_next_shows_times_of_a_schedule_from_a_moment_on(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ["next", "--schedule", "30 2 * * *", "--timezone", "Europe/Berlin", "-n", "2"]
    code, out, _ = sdcron(*arguments, "--from", "2027-03-27T12:00:00+01:00")
    assert (code, out) == (0, "2027-03-28T03:00:00+02:00\n2027-03-29T02:30:00+02:00\n")


def test_a_disabled_job_has_no_next_run(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(jobs / "hello.yaml", "schedule: '@daily'\ncommand: /usr/bin/true\nenabled: false\n")
    sdcron("apply", jobs, "--root", root)
    said = "hello is disabled (enabled: false): it does not run\n"
    assert sdcron("next", "hello", "--root", root) == (0, "", said)
    assert sdcron("next", "hello", "--root", root, "--json") == (0, "[]\n", said)


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
    write(jobs / "hello.yaml", "command: /usr/bin/true\nping: https://example.org/x\n")
    assert sdcron("validate", jobs)[0] == 0
    code, _, err = sdcron("compile", jobs, "-o", tmp_path / "units")
    assert code == 3
    assert f"{jobs}/hello.yaml:2:1: key 'ping' is not supported yet" in err
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
    code, _, err = sdcron(command, "--user", "--backend", "systemd", *([jobs] if command != "list" else []))
    assert code == 4
    assert "hint:" in err


def test_a_user_without_a_manager_is_told_why_in_one_line(
    sdcron: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    _, _, err = sdcron("list", "--user", "--backend", "systemd")
    assert err.splitlines()[0] == "sdcron: no systemd user manager answers: No medium found"
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"collect", "edit", "engine", "new", "schema"}))
def test_every_command_about_a_machine_has_the_options_that_say_which(
    command: str, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    out = sdcron(command, "--help")[1]
    assert all(option in out for option in ("--user", "--root", "--backend", "--json"))


def test_an_answer_in_json_asks_nothing(
    jobs: Path, tmp_path: Path, sdcron: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    shape = {"changes", "unchanged", "kept"}
    assert set(json.loads(sdcron("apply", jobs, "--root", root, "--json")[1])) == shape
    (jobs / "hello.yaml").unlink()
    assert set(json.loads(sdcron("apply", jobs, "--root", root, "--json")[1])) == shape
    code, out, err = sdcron("remove", "backup", "--root", root, "--json")
    assert (code, err) == (0, "")
    assert set(json.loads(out)) == shape


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
