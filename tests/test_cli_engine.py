"""Every command against a real engine, as a person and a script use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.cli import run
from tests.backfilled import INTERRUPT, YEAR, check_year, year_job
from tests.machine import CHECKOUT, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOBS = """\
jobs:
  tick: {schedule: "* * * * * *", command: echo tick}
  yearly: {schedule: "@yearly", description: Once a year, command: "echo happy"}
  both: {command: [/bin/sh, -c, "echo out; echo err >&2; exit 3"]}
  long: {command: [/bin/sh, -c, "echo begun; exec sleep 100"]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    (jobs / "all.yaml").write_text(JOBS)
    (jobs / "all.yaml").chmod(0o644)
    return tmp_path / "root"


@pytest.fixture
def sdcron(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line for the engine below the root; returns exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([*map(str, arguments), "--backend", "local", "--root", str(root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@contextmanager
def engine(root: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """An engine, from when it says that it runs until it has ended in order."""
    command = [sys.executable, "-m", "sdcron", "engine", "--root", str(root), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "the engine runs" in line:
                break
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait(10)
            process.stderr.close()
    assert process.returncode == 0


def answer(told: tuple[int, str, str]) -> Any:
    assert told[0] == 0, told
    return json.loads(told[1])


def test_without_an_engine_apply_stores_the_set_and_says_so(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = sdcron("apply", root.parent / "jobs")
    assert (code, out.splitlines()[-1]) == (0, "4 added, 0 unchanged")
    assert err == ("sdcron: stored; no engine runs here that would run these jobs: start it with: sdcron engine\n")
    assert [(row["job"], row["state"]) for row in answer(sdcron("list", "--json"))] == [
        ("both", "by hand"), ("long", "by hand"), ("tick", "stopped"), ("yearly", "stopped"),
    ]  # fmt: skip
    code, _, err = sdcron("run", "both")
    assert (code, err) == (4, "sdcron: no engine runs here\n  hint: start it: sdcron engine\n")
    assert sdcron("doctor")[0] == 1
    assert sdcron("plan", root.parent / "jobs", "--check")[0] == 0


@pytest.mark.timeout(90)
def test_every_command_works_against_the_engine(root: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    sdcron("apply", root.parent / "jobs")
    with engine(root):
        states = {row["job"]: row["state"] for row in answer(sdcron("list", "--json"))}
        # It may be asked for in the moment in which it ticks.
        assert states.pop("tick") in ("waiting", "running")
        assert states == {"both": "by hand", "long": "by hand", "yearly": "waiting"}
        assert sdcron("run", "both", "--wait") == (3, "out\n", "err\nsdcron: both: failure: exit status 3\n")
        record = json.loads(sdcron("run", "both", "--wait", "--json")[1])
        assert (record["backend"], record["trigger"], record["exit_code"]) == ("local", "manual", 3)
        assert (record["stdout"], record["stderr"]) == ("out\n", "err\n")
        _, run_id, hint = sdcron("run", "long")
        assert hint == f"see what it prints: sdcron logs long -f --root {root} --backend local\n"
        until(lambda: "begun" in sdcron("logs", "long")[1], 20, "it runs")
        assert answer(sdcron("status", "long", "--json"))["running_id"] == run_id.strip()
        assert sdcron("run", "long")[0] == 1
        assert sdcron("stop", "long") == (0, "long is stopped\n", "")
        assert sdcron("stop", "long") == (0, "", "long does not run\n")
        [stopped] = answer(sdcron("history", "long", "--json"))
        assert (stopped["outcome"], stopped["reason"]) == ("killed", "stopped by an administrator")
        until(lambda: len(answer(sdcron("history", "tick", "--json"))) >= 2, 20, "it ticks")
        assert "tick\n" in sdcron("logs", "tick")[1]
        detail = answer(sdcron("status", "yearly", "--json"))
        assert (detail["description"], detail["state"], detail["units"]) == ("Once a year", "waiting", {})
        assert len(detail["next_runs_at"]) == 3
        [following] = answer(sdcron("next", "yearly", "-n", "1", "--json"))
        assert following[:19] == detail["next_runs_at"][0][:19]
        assert sdcron("doctor")[0] == 0
        assert sdcron("remove", "tick", "--yes")[0] == 0
        assert "tick" not in {row["job"] for row in answer(sdcron("list", "--json"))}
    lines = (root / "var/log/sdcron/job_status.log").read_text().splitlines()
    assert {json.loads(line)["job"] for line in lines} == {"both", "long", "tick"}


@pytest.mark.timeout(90)
def test_an_engine_follows_a_directory_and_one_bad_file_stops_no_other(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    jobs = root.parent / "jobs"

    def names() -> set[str]:
        return {row["job"] for row in answer(sdcron("list", "--json"))}

    with engine(root, jobs):
        assert names() == {"both", "long", "tick", "yearly"}
        (jobs / "bad.yaml").write_text("comand: x\n")
        (jobs / "new.yaml").write_text("command: /bin/true\n")
        for name in ("bad", "new"):
            (jobs / f"{name}.yaml").chmod(0o644)
        until(lambda: "new" in names(), 20, "it is taken up")
        assert names() == {"both", "long", "new", "tick", "yearly"}
        (jobs / "all.yaml").unlink()
        until(lambda: names() == {"new"}, 20, "the others are gone")


@pytest.mark.timeout(90)
def test_sigterm_ends_what_runs_and_puts_it_on_record(root: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    sdcron("apply", root.parent / "jobs")
    with engine(root) as process:
        sdcron("run", "long")
        until(lambda: "begun" in sdcron("logs", "long")[1], 20, "it runs")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 20
    [record] = answer(sdcron("history", "long", "--json"))
    assert (record["outcome"], record["reason"], record["signal"]) == ("abandoned", "cut off by a shutdown", "SIGTERM")


def test_two_engines_of_one_place_are_refused(root: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    sdcron("apply", root.parent / "jobs")
    with engine(root):
        command = [sys.executable, "-m", "sdcron", "engine", "--root", str(root)]
        second = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode == 6
    assert second.stderr.startswith("sdcron: an engine runs here already\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_who_is_neither_root_nor_the_engines_user_may_look_and_change_nothing(root: Path) -> None:
    run(["apply", str(root.parent / "jobs"), "--backend", "local", "--root", str(root)])
    for directory in (root, *root.parents):
        if directory.stat().st_uid == os.getuid() and directory != directory.parent:
            directory.chmod(directory.stat().st_mode | 0o055)
    asking = (
        "import os, sys\nfrom pathlib import Path\n"
        "from sdcron.engine_socket import ask\nfrom sdcron.errors import BackendError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "at = Path(sys.argv[1])\nassert ask(at, {'do': 'state'})['jobs'] == 4\n"
        "try:\n    ask(at, {'do': 'run', 'job': 'both'})\nexcept BackendError as error:\n    print(error.message)\n"
    )
    with engine(root):
        command = [sys.executable, "-c", asking, str(root / "run/sdcron/engine")]
        ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.stdout, ended.stderr) == ("no permission to change what the engine runs\n", "")


def test_a_boot_is_the_first_start_of_an_engine_and_no_edit_makes_another(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    jobs = root.parent / "jobs"
    (jobs / "at-boot.yaml").write_text("{schedule: '@reboot', command: echo booted}\n")
    (jobs / "later.yaml").write_text("{schedule: '@yearly', command: echo edited}\n")
    for name in ("at-boot", "later"):
        (jobs / f"{name}.yaml").chmod(0o644)
    sdcron("apply", jobs)
    with engine(root):
        until(lambda: len(answer(sdcron("history", "at-boot", "--json"))) == 1, 20, "it ran at the boot")
    (jobs / "later.yaml").write_text("{schedule: '@reboot', command: echo edited}\n")
    (jobs / "new.yaml").write_text("{schedule: '@reboot', command: echo new}\n")
    (jobs / "new.yaml").chmod(0o644)
    sdcron("apply", jobs)
    with engine(root):
        ticks = len(answer(sdcron("history", "tick", "--json")))
        until(lambda: len(answer(sdcron("history", "tick", "--json"))) >= ticks + 3, 20, "it had the time")
        runs = {name: len(answer(sdcron("history", name, "--json"))) for name in ("at-boot", "later", "new")}
    assert runs == {"at-boot": 1, "later": 0, "new": 0}


def test_runs_that_wait_for_a_condition_take_nobodys_place(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    jobs = root.parent / "jobs"
    (root / "etc/sdcron").mkdir(parents=True)
    (root / "etc/sdcron/sdcron.toml").write_text("[engine]\nconcurrency = 1\n")
    (jobs / "waits.yaml").write_text("{command: echo x, when: {path_exists: /no/such, else: wait}}\n")
    (jobs / "waits.yaml").chmod(0o644)
    sdcron("apply", jobs)
    with engine(root):
        sdcron("run", "waits")
        ticks = len(answer(sdcron("history", "tick", "--json")))
        until(lambda: len(answer(sdcron("history", "tick", "--json"))) >= ticks + 2, 20, "others run")
        assert answer(sdcron("status", "waits", "--json"))["state"] == "running"
        assert sdcron("stop", "waits")[0] == 0


def test_a_mistake_in_the_settings_is_told_once_and_job_files_are_followed_all_the_same(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    jobs = root.parent / "jobs"
    with engine(root, jobs) as process:
        (root / "etc/sdcron").mkdir(parents=True)
        (root / "etc/sdcron/sdcron.toml").write_text("[engine]\nconcurrency = 0\n")
        (jobs / "new.yaml").write_text("command: /bin/true\n")
        (jobs / "new.yaml").chmod(0o644)
        until(lambda: any(row["job"] == "new" for row in answer(sdcron("list", "--json"))), 20, "it is taken up")
        (jobs / "new.yaml").unlink()
        until(lambda: all(row["job"] != "new" for row in answer(sdcron("list", "--json"))), 20, "it is gone")
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count("'engine.concurrency' must be a number from 1 to") == 1


@pytest.mark.timeout(90)
def test_runs_that_systemd_has_open_in_the_same_records_are_not_the_engines_to_end(root: Path) -> None:
    from sdcron.ledger import opened
    from sdcron.open_run import OpenRun
    from sdcron.paths import system_paths
    from sdcron.settings import Settings
    from sdcron.store import Batch

    run_id = "5" * 32
    theirs = OpenRun("theirs", run_id, "b" * 32 + ":1")
    with opened(system_paths(root), Settings(), lambda _: None) as ledger:
        ledger.commit(Batch(open_runs={run_id: ("theirs", json.dumps(theirs.as_json()))}))
    other = subprocess.Popen(["/bin/sleep", "100"], env={"INVOCATION_ID": run_id}, start_new_session=True)
    try:
        with engine(root):
            assert other.poll() is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(10)


@pytest.mark.timeout(200)
def test_a_year_is_made_up_for_in_order_also_when_that_is_interrupted(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    log = root.parent / "nights"
    (root.parent / "jobs/all.yaml").write_text("jobs: " + json.dumps({"yearly": year_job(str(log))}))
    sdcron("apply", root.parent / "jobs")
    command = [
        sys.executable,
        "-m",
        "sdcron",
        "run",
        "yearly",
        "--for",
        YEAR,
        "--backend",
        "local",
        "--root",
        str(root),
    ]
    with engine(root):
        told = subprocess.run(
            [sys.executable, "-c", INTERRUPT, str(log), "100", *command],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        interrupted, _, words = told.partition("\n")
        assert sdcron("run", "yearly", "--for", YEAR, "--continue")[0] == 0
        records = answer(sdcron("history", "yearly", "--json", "-n", "0"))
        check_year(log.read_text().splitlines(), records, interrupted, words)
        assert sdcron("run", "yearly", "--for", YEAR, "--continue") == (0, "", "all of it has succeeded already\n")


@pytest.mark.timeout(60)
def test_a_run_that_is_skipped_at_once_is_over_at_once(root: Path, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    (root.parent / "jobs/all.yaml").write_text(
        "jobs:\n  gated: {command: echo x, needs: other}\n  other: {command: echo y}\n"
        "  unmet: {command: echo z, when: {path_exists: /no/such}}\n"
    )
    sdcron("apply", root.parent / "jobs")
    with engine(root):
        # Nothing else wakes the engine: it would be a minute.
        began = time.monotonic()
        assert sdcron("run", "gated", "--wait") == (1, "", "sdcron: gated: skipped: needs other\n")
        code, _, words = sdcron("run", "unmet", "--wait")
        assert (code, words.startswith("sdcron: unmet: skipped: ")) == (1, True)
        assert time.monotonic() - began < 30
