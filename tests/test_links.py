"""Jobs that name others: what plan and apply refuse, over everything that is applied and wherever it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron.cli import run

if TYPE_CHECKING:
    from pathlib import Path


class Fleet:
    """A root directory of machine web1, and directories of job files beside it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
        self._directory = directory
        self._capsys = capsys
        self.local = bool(options)
        self._options = ("--root", str(directory / "root"), *options)
        (directory / "root/etc").mkdir(parents=True)
        (directory / "root/etc/hostname").write_text("web1\n")

    def sdcron(self, *words: str) -> tuple[int, str]:
        """Exit status, and what it says."""
        code = run([*words, *self._options])
        told = self._capsys.readouterr()
        return code, (told.out + told.err).replace(str(self._directory), "")

    def apply(self, directory: str, *options: str, **files: str) -> tuple[int, str]:
        """Apply a directory that has just these files, NAME=keys; one that stays the same is not written anew."""
        place = self._directory / directory
        place.mkdir(mode=0o755, exist_ok=True)
        for path in place.iterdir():
            if path.stem not in files:
                path.unlink()
        for name, keys in files.items():
            path, text = place / f"{name}.yaml", f"command: /bin/true\n{keys}\n"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
                path.chmod(0o644)
        return self.sdcron("apply", str(place), *options)


@pytest.fixture(params=[(), ("--backend", "local")], ids=["units", "engine"])
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Fleet:
    """One for each who may run the jobs."""
    return Fleet(tmp_path, capsys, request.param)


def test_a_name_that_is_no_job_is_refused_at_its_place(fleet: Fleet) -> None:
    code, told = fleet.apply("one", a="", b="after: [a, tpyo]", c="needs: nothing")
    assert code == 3
    assert "/one/b.yaml:2:1: 'after' of job b: there is no job 'tpyo'" in told
    assert "/one/c.yaml:2:1: 'needs' of job c: there is no job 'nothing'" in told
    assert "'a'" not in told
    assert fleet.apply("one", a="", b="after: [a]", c="needs: b")[0] == 0


def test_a_job_may_name_one_that_is_applied_from_elsewhere(fleet: Fleet) -> None:
    assert fleet.apply("two", b="after: a")[0] == 3
    assert fleet.apply("one", a="")[0] == 0
    assert fleet.apply("two", b="after: a")[0] == 0


def test_a_job_that_another_names_does_not_go_alone(fleet: Fleet) -> None:
    all_of_one = {"a": "", "c": "", "d": "after: c"}
    assert fleet.apply("one", **all_of_one)[0] == 0
    assert fleet.apply("two", b="needs: a")[0] == 0
    assert fleet.apply("one", **all_of_one)[0] == 0
    code, told = fleet.apply("one", c="", d="after: c")
    assert code == 3
    assert "/two/b.yaml:2:1: 'needs' of job b: the job 'a' goes with this" in told
    # Of the same directory, whose file is not read again.
    code, told = fleet.apply("one", a="", d="after: c")
    assert code == 3
    assert "/one/d.yaml:2:1: 'after' of job d: the job 'c' goes with this" in told
    assert fleet.apply("one", "--no-prune", c="", d="after: c")[0] == 0
    assert fleet.sdcron("remove", "--yes", "a")[0] == 3
    assert fleet.sdcron("remove", "--yes", "a", "b")[0] == 0


def test_a_job_that_only_a_disabled_one_comes_after_may_go(fleet: Fleet) -> None:
    assert fleet.apply("one", a="", b="")[0] == 0
    assert fleet.apply("two", c="after: a\nenabled: false", d="needs: b\nenabled: false")[0] == 0
    assert fleet.sdcron("remove", "--yes", "a")[0] == 0
    # What it needs still counts, for a start by hand.
    assert fleet.sdcron("remove", "--yes", "b")[0] == 3


def test_a_name_that_systemd_would_take_for_many_is_refused_there(fleet: Fleet) -> None:
    code, told = fleet.apply("one", **{"a-": "", "a-b": "", "c": "needs: a-"})
    assert (code == 0) == fleet.local
    assert fleet.local or "/one/c.yaml:2:1: 'needs' of job c: 'a-' ends with a dash" in told


def test_circles_are_seen_over_directories(fleet: Fleet) -> None:
    assert fleet.apply("one", a="")[0] == 0
    assert fleet.apply("two", b="after: a")[0] == 0
    code, told = fleet.apply("one", a="needs: b")
    assert code == 3
    assert "jobs wait for each other: a -> b -> a" in told


def test_a_job_for_other_machines_is_none_here(fleet: Fleet) -> None:
    code, told = fleet.apply("one", a="hosts: db*", b="after: a")
    assert code == 3
    assert "the job 'a' is for other machines" in told
    assert fleet.apply("one", a="hosts: db*", b="after: a\nhosts: db*", c="")[0] == 0


def test_a_job_that_others_wait_for_cannot_come_to_allow_several_runs(fleet: Fleet) -> None:
    assert fleet.apply("one", a="", c="after: a")[0] == 0
    assert fleet.apply("two", b="needs: a")[0] == 0
    # Their files are not read again.
    code, told = fleet.apply("one", a="overlap: allow", c="after: a")
    assert code == 3
    assert "'a' has 'overlap: allow', so nothing can wait for its end" in told
    assert fleet.apply("one", a="overlap: queue", c="after: a")[0] == 0
    assert fleet.apply("three", many="overlap: allow")[0] == 0
    code, told = fleet.apply("two", b="needs: a", d="after: many")
    assert code == 3
    assert "/two/d.yaml:2:1: 'after' of job d: 'many' has 'overlap: allow'" in told
