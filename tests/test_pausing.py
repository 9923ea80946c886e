"""Keeping jobs from their times: marks, what apply makes of them, and what comes back.

Below a --root; with engines and systemd in the contract and in tests/system.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from sdcron.apply import Applier
from sdcron.cli import run
from sdcron.files import STAGE_PREFIX
from sdcron.local_operations import LocalApplier
from sdcron.operations import make_place
from sdcron.paths import system_paths
from sdcron.pauses import ALL, Pause, owed_mark, read_pauses
from sdcron.plan import Plan
from sdcron.running import RunsAlreadyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdcron.paths import Paths

Sdcron = "Callable[..., tuple[int, str, str]]"
JOBS = {
    "often": "schedule: every 15m\nretry: 5m\nresumable: true\n",
    "nightly": "schedule: ['@daily', '@reboot']\n",
    "by-hand": "",
    "off": "schedule: '@daily'\nenabled: false\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of files only, and job files for it."""
    (tmp_path / "jobs").mkdir(mode=0o755)
    for name, text in JOBS.items():
        (tmp_path / f"jobs/{name}.yaml").write_text(f"command: /bin/true\n{text}")
        (tmp_path / f"jobs/{name}.yaml").chmod(0o644)
    return tmp_path / "root"


@pytest.fixture
def paths(root: Path) -> Paths:
    return system_paths(root)


@pytest.fixture
def sdcron(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command with these jobs applied; exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments, "--root", str(root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert call("apply", str(root.parent / "jobs"))[0] == 0
    return call


def links(paths: Paths) -> set[str]:
    return {path.name for path in paths.wants_dir.iterdir()} if paths.wants_dir.is_dir() else set()


def states(sdcron: Callable[..., tuple[int, str, str]]) -> dict[str, str]:
    return {row["job"]: row["state"] for row in json.loads(sdcron("list", "--json")[1])}


def test_a_paused_job_is_not_started_at_boot_and_an_apply_leaves_it_paused(
    root: Path, paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    before = links(paths)
    units = {path.name: path.read_text() for path in paths.unit_dir.glob("sdcron-*")}
    assert sdcron("pause", "nightly", "by-hand", "nightly") == (0, "paused: nightly, by-hand\n", "")
    assert links(paths) == {"sdcron-often.timer"}
    assert states(sdcron) == {"often": "waiting", "nightly": "paused", "by-hand": "paused", "off": "disabled"}
    assert sdcron("apply", str(root.parent / "jobs"))[1] == "nothing to do: 4 unchanged\n"
    # Neither does one that changes it.
    (root.parent / "jobs/nightly.yaml").write_text("command: /bin/false\nschedule: '@daily'\n")
    assert "1 changed" in sdcron("apply", str(root.parent / "jobs"))[1]
    assert links(paths) == {"sdcron-often.timer"}
    (root.parent / "jobs/nightly.yaml").write_text(f"command: /bin/true\n{JOBS['nightly']}")
    sdcron("apply", str(root.parent / "jobs"))
    assert sdcron("resume", "nightly") == (0, "resumed: nightly\n", "")
    assert sdcron("resume", "nightly") == (0, "not paused\n", "")
    assert links(paths) == before
    assert units == {path.name: path.read_text() for path in paths.unit_dir.glob("sdcron-*")}


def test_all_are_paused_those_too_that_are_applied_later_and_each_by_name_stays_so(
    root: Path, paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    before = links(paths)
    sdcron("pause", "often")
    assert sdcron("pause", "--all") == (0, "all jobs are paused\n", "")
    assert sdcron("pause", "--all") == (0, "all jobs were paused already\n", "")
    (root.parent / "jobs/late.yaml").write_text("command: /bin/true\nschedule: '@hourly'\n")
    assert "1 added" in sdcron("apply", str(root.parent / "jobs"))[1]
    assert links(paths) == set()
    assert set(states(sdcron).values()) == {"paused"}
    code, _, words = sdcron("resume", "often")
    assert (code, words) == (2, "sdcron: all jobs are paused\n  hint: bring all back: sdcron resume --all\n")
    code, out, words = sdcron("resume", "--all")
    assert (code, out, words) == (0, "4 jobs resumed\n", "still paused by name: often\n")
    assert links(paths) == (before | {"sdcron-late.timer"}) - {"sdcron-often.timer"}
    code, out, words = sdcron("resume", "--all")
    assert (code, out, words) == (0, "not paused as a whole\n", "still paused by name: often\n")
    assert links(paths) == (before | {"sdcron-late.timer"}) - {"sdcron-often.timer"}
    sdcron("resume", "often")
    assert links(paths) == before | {"sdcron-late.timer"}
    assert not paths.paused_dir.exists()


def test_a_job_that_is_removed_is_not_paused_when_it_comes_back(
    root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    jobs = root.parent / "jobs"
    sdcron("pause", "often", "nightly")
    sdcron("remove", "often", "--yes")
    text = (jobs / "nightly.yaml").read_text()
    (jobs / "nightly.yaml").unlink()
    sdcron("apply", str(jobs), "--yes")
    (jobs / "nightly.yaml").write_text(text)
    sdcron("apply", str(jobs))
    assert states(sdcron) == {"often": "waiting", "nightly": "waiting", "by-hand": "by hand", "off": "disabled"}


@pytest.mark.parametrize("backend", ["systemd", "local"])
def test_a_job_that_is_removed_is_not_started_again_when_it_comes_back(
    backend: str, root: Path, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    if backend == "local":
        sdcron("remove", *JOBS, "--yes")
        sdcron("apply", str(root.parent / "jobs"), "--backend", "local")
    paths = make_place(user=False, root=root, backend=backend).paths
    applier = Applier(paths, None) if backend == "systemd" else LocalApplier(paths)
    applier.carry_out(Plan(), owed_mark(["often", "nightly"]))
    sdcron("remove", "often", "--yes", "--backend", backend)
    assert read_pauses(paths).owed == ("nightly",)
    sdcron("remove", "nightly", "--yes", "--backend", backend)
    assert read_pauses(paths).owed == ()
    assert not paths.paused_dir.exists()


@pytest.mark.parametrize(("ends", "owed"), [(True, ("often",)), (False, ())])
def test_what_is_being_ended_still_stays_owed_and_what_somebody_has_started_does_not(
    ends: bool,
    owed: tuple[str, ...],
    paths: Paths,
    sdcron: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def runs(*_: object) -> None:
        raise RunsAlreadyError("often runs already", "see it")

    monkeypatch.setattr("sdcron.pausing.start_in_time", runs)
    monkeypatch.setattr("sdcron.pausing.being_ended", lambda *_: ends)
    Applier(paths, None).carry_out(Plan(), owed_mark(["often"]) | {ALL: Pause("", "x").text()})
    code, _, words = sdcron("resume", "--all")
    assert (code, read_pauses(paths).owed, read_pauses(paths).everything) == (0, owed, None)
    assert words.splitlines()[0].startswith(
        "sdcron: often " + ("is not started again yet: " if ends else "runs already")
    )


def test_a_paused_job_has_no_next_time(sdcron: Callable[..., tuple[int, str, str]]) -> None:
    sdcron("pause", "often")
    assert sdcron("next", "often", "--json")[:2] == (0, "[]\n")
    code, out, words = sdcron("next", "often")
    assert (code, out, words.startswith("often is paused since 2")) == (0, "", True)
    sdcron("resume", "often")
    assert len(json.loads(sdcron("next", "often", "--json")[1])) == 5


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_who_names_nothing_or_too_much_or_nobody_changes_nothing(
    command: str, paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    for arguments in ([], ["often", "--all"], ["often", "oftne"]):
        code, _, words = sdcron(command, *arguments)
        assert code == 2, arguments
        assert words.startswith("sdcron: ")
    assert "did you mean often?" in sdcron(command, "oftne")[2]
    assert not paths.paused_dir.exists()


def test_a_mark_says_who_set_it_and_when_and_what_is_owed_is_a_mark_too(paths: Paths) -> None:
    mine, all_ = Pause("2027-01-01T00:00:00+01:00", "alice"), Pause("2027-01-02T00:00:00+01:00", "bob")
    applier = Applier(paths, None)
    applier.carry_out(Plan(), {"a": mine.text(), ALL: all_.text(), **owed_mark(["y", "x", "y"])})
    found = read_pauses(paths)
    assert (found.of("a"), found.of("c"), found.jobs, found.owed) == (all_, all_, {"a": mine}, ("x", "y"))
    assert mine.described == "since 2027-01-01T00:00:00+01:00 by alice"
    applier.carry_out(Plan(), {ALL: None, **owed_mark([])})
    found = read_pauses(paths)
    assert (found.of("a"), found.of("c"), found.owed) == (mine, None, ())


def test_where_marks_cannot_be_read_nothing_is_taken_for_not_paused(
    paths: Paths, sdcron: Callable[..., tuple[int, str, str]], root: Path
) -> None:
    paths.paused_dir.write_text("not a directory")
    code, _, words = sdcron("apply", str(root.parent / "jobs"))
    assert (code, words.splitlines()[1][:7]) == (1, "  hint:")
    assert words.startswith(f"sdcron: which jobs are paused cannot be read: {paths.paused_dir}: ")


def test_a_mark_that_is_gone_though_the_timers_are_stopped_is_made_good_by_the_next_apply(
    root: Path, paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    before = links(paths)
    for name in ("nightly", "often"):
        sdcron("pause", name)
    # Both are in the record of what is applied as they are now.
    sdcron("apply", str(root.parent / "jobs"))
    (paths.paused_dir / "nightly").unlink()
    assert "1 changed" in sdcron("apply", str(root.parent / "jobs"))[1]
    assert links(paths) == before - {"sdcron-often.timer"}


def test_a_persistent_timer_that_is_resumed_where_no_systemd_runs_does_not_catch_up_at_boot(
    paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    stamp = paths.stamp_dir / "stamp-sdcron-nightly.timer"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    os.utime(stamp, (1, 1))
    sdcron("pause", "nightly")
    assert stamp.stat().st_mtime == 1
    sdcron("resume", "nightly")
    assert time.time() - stamp.stat().st_mtime < 60


def test_what_a_killed_command_has_left_among_the_marks_is_removed(
    paths: Paths, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    paths.paused_dir.mkdir()
    (paths.paused_dir / f"{STAGE_PREFIX}nightly").write_text("half")
    sdcron("pause", "often")
    assert [path.name for path in paths.paused_dir.iterdir()] == ["often"]


@pytest.mark.parametrize("text", ["", "[]", '{"since": 1}', "\x00", "[" * 100_000])
def test_a_damaged_mark_keeps_its_job_from_its_times_all_the_same(text: str, paths: Paths) -> None:
    paths.paused_dir.mkdir(parents=True)
    (paths.paused_dir / "a").write_text(text)
    (paths.paused_dir / ".a.new").write_text("what a killed command has left")
    found = read_pauses(paths)
    assert (found.of("a"), found.of("b"), list(found.jobs)) == (Pause(), None, ["a"])


def test_whoever_may_not_write_is_told_so(paths: Paths, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    if os.geteuid() == 0:
        # The package's build, which is no root's, runs it (tests/system/test_package.py).
        pytest.skip("root may write everywhere")
    paths.state_dir.chmod(0o555)
    try:
        code, _, words = sdcron("pause", "often")
    finally:
        paths.state_dir.chmod(0o755)
    assert code == 4
    assert "no permission" in words
