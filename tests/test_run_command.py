"""`sdcron run` as people meet it: what it shows while a run is on, in a pipe and in a terminal; with a real engine."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.cli import run
from sdcron.engine_socket import ask
from sdcron.place import make_place
from tests.machine import CHECKOUT, until
from tests.test_cli_engine import engine
from tests.test_editing import in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOBS = """\
jobs:
  held: {command: [/bin/sh, -c, "echo begun; read line <$0", "@GATE@"]}
  queued: {command: [/bin/sh, -c, "read line <$0", "@GATE@"], overlap: queue}
  daily: {command: [/bin/sh, -c, "sleep 0.7; echo hello; sleep 0.7"], schedule: "@daily"}
  told: {command: [/bin/echo, "{what}"], parameters: {what: nothing}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[list[str]]:
    """Options of a place whose engine runs these jobs; `gate` lets `held` go."""
    (tmp_path / "jobs").mkdir(mode=0o755)
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "jobs/all.yaml").write_text(JOBS.replace("@GATE@", str(tmp_path / "gate")))
    (tmp_path / "jobs/all.yaml").chmod(0o644)
    options = ["--backend", "local", "--root", str(tmp_path / "root")]
    assert run(["apply", str(tmp_path / "jobs"), *options]) == 0
    with engine(tmp_path / "root"):
        yield options


def test_what_a_run_prints_is_shown_while_it_is_on(place: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdcron", "run", "held", "--wait", *place]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        # Only now may it end.
        assert process.poll() is None
        (tmp_path / "gate").write_text("go\n")
        assert (process.wait(30), process.stdout.read()) == (0, "")


def test_of_a_hundred_asks_while_a_run_is_on_exactly_one_waits(place: list[str], tmp_path: Path) -> None:
    paths = make_place(user=False, root=tmp_path / "root", backend="local").paths
    first = ask(paths.engine_dir, {"do": "run", "job": "queued"})
    answers = [ask(paths.engine_dir, {"do": "run", "job": "queued"}) for _ in range(100)]
    assert first is not None
    assert first["run_id"]
    assert [(each or {})["waits"] for each in answers] == [True] * 100
    assert [(each or {})["waited"] for each in answers] == [False, *[True] * 99]
    for count in (1, 2):
        (tmp_path / "gate").write_text("go\n")
        until(lambda count=count: len(_records("queued", place)) == count, 20, "it is on record")  # type: ignore[misc]  # as it is now
    assert [run["outcome"] for run in _records("queued", place)] == ["success"] * 2
    state = ask(paths.engine_dir, {"do": "state"})
    assert state is not None
    assert (state["running"], state["waiting"]) == ({}, [])


def _records(job: str, place: list[str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "sdcron", "history", job, "--json", *place]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def test_the_bar_of_a_range_and_what_its_runs_print_do_not_run_into_each_other(place: list[str]) -> None:
    span = "2026-01-01..2026-01-03"
    code, screen = in_terminal("run", "daily", "--for", span, "--wait", *place, answers="")
    assert code == 0, screen
    assert "] 1/3" in screen
    # What stands on a line when the bar is taken away: the escape sequence goes back to its beginning.
    shown = [line.rpartition("\x1b[K")[2] for line in screen.splitlines()]
    assert [line for line in shown if "hello" in line] == ["hello"] * 3, screen
    assert sum(line.startswith("daily  2026-01-0") for line in shown) == 3, screen


def test_a_list_may_come_from_a_pipe(place: list[str]) -> None:
    command = [sys.executable, "-m", "sdcron", "run", "--file", "-", "--json", *place]
    ended = subprocess.run(
        command, cwd=CHECKOUT, input="told what=one\ntold\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [json.loads(line)["stdout"] for line in ended.stdout.splitlines()] == ["one\n", "nothing\n"]


def test_a_value_may_be_as_long_as_an_argument_may(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    longest = "x" * ((128 << 10) - len("SDCRON_PARAM_WHAT=") - 1)
    capsys.readouterr()
    code = run(["run", "told", f"what={longest}", "--wait", *place])
    told = capsys.readouterr()
    assert (code, len(told.out), told.err) == (0, len(longest) + 1, "")
    assert run(["run", "told", f"what={longest}x", *place]) == 2
    words = capsys.readouterr().err.splitlines()
    assert len(words) == 2
    assert words[0].startswith("sdcron: told: the value of 'what' ") or words[0].startswith(
        "sdcron: the value of 'what' "
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: sudo makes one root")
def test_behind_sudo_the_one_who_called_has_asked(
    place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked_by() -> str:
        capsys.readouterr()
        run(["run", "told", "--wait", "--json", *place])
        found: str = json.loads(capsys.readouterr().out)["asked_by"]
        return found

    monkeypatch.setenv("SUDO_USER", "anna")
    assert asked_by() == "anna"
    monkeypatch.delenv("SUDO_USER")
    assert asked_by() == pwd.getpwuid(os.getuid()).pw_name
