"""The shell in the units of chains, and what a boot makes of the tokens that it has left."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from sdcron.boot_chains import _is_due
from sdcron.job import Directive, Job, Otherwise, Passthrough, Source, When
from sdcron.paths import Scope
from sdcron.units import compile_job
from tests.test_escape import words
from tests.test_retry import setting

if TYPE_CHECKING:
    from pathlib import Path


def job(**fields: object) -> Job:
    return Job("d", Source("/d.yaml"), ("/bin/true",), after=("x", "y"), **fields)  # type: ignore[arg-type]  # a job's


def step(job: Job, unit: str, key: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a job's unit, as systemd would have it run."""
    units = compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir=str(state)).units
    [text] = [each.text for each in units if each.name == unit]
    argv = [word.replace("$$", "$").replace("%%", "%") for word in words(setting(text, key).lstrip("-+"))]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Where those of `d` are."""
    directory = tmp_path / "graph/d"
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    return directory


def asked(tokens: Path, failed: str, seconds_ago: float) -> None:
    """Its chain has asked for a start then."""
    (tokens / "due").write_text(f"{failed}\n")
    moment = time.time() - seconds_ago
    os.utime(tokens / "due", (moment, moment))


CONDITIONAL = [
    {"when": When(path_exists=("/x",))},
    {"when": When(mounts=("/x",), otherwise=Otherwise.WAIT)},
    {"systemd": Passthrough(unit=(Directive("AssertPathExists", "/x"),))},
]


@pytest.mark.parametrize("fields", [{}, {"when": When(network=True, path_exists=("/x",), otherwise=Otherwise.WAIT)}])
def test_a_failure_before_it_is_not_forgotten_however_long_its_start_waits(
    fields: dict[str, object], tokens: Path, tmp_path: Path
) -> None:
    asked(tokens, " x", 4000)
    ended = step(job(**fields), "sdcron-d.service", "ExecCondition", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "<5>needs x\n")
    # It was for that start.
    assert not (tokens / "due").exists()
    assert step(job(**fields), "sdcron-d.service", "ExecCondition", tmp_path).returncode == 0


@pytest.mark.parametrize("fields", CONDITIONAL)
@pytest.mark.parametrize(("seconds", "status"), [(10, 1), (4000, 0)])
def test_what_a_start_that_came_to_nothing_was_told_is_not_told_to_a_later_one(
    fields: dict[str, object], seconds: float, status: int, tokens: Path, tmp_path: Path
) -> None:
    asked(tokens, " x", seconds)
    ended = step(job(**fields), "sdcron-d.service", "ExecCondition", tmp_path)
    assert (ended.returncode, (tokens / "due").exists()) == (status, False)


def test_without_its_tokens_a_handler_does_nothing(tokens: Path, tmp_path: Path) -> None:
    (tokens / "lock").unlink()
    ended = step(job(), "sdcron-d@skipped.service", "ExecStart", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert [*tokens.iterdir()] == []


def test_a_power_cut_between_the_asking_and_the_forgetting_of_what_was_asked_for_puts_nothing_out_of_step(
    tokens: Path,
) -> None:
    for name in ("x", "y"):
        (tokens / f"{name}.end").write_text("ok\n")
        os.utime(tokens / f"{name}.end", (1000, 1000))
    asked(tokens, "", 10)
    assert _is_due(tokens, ("x", "y"))
    assert {path.name for path in tokens.iterdir()} == {"lock", "due"}
    # What has ended since then is for the next start.
    (tokens / "y.end").write_text("bad\n")
    assert _is_due(tokens, ("x", "y"))
    assert (tokens / "y.end").exists()
    (tokens / "due").unlink()
    assert not _is_due(tokens, ("x", "y"))
    (tokens / "x.end").write_text("ok\n")
    assert _is_due(tokens, ("x", "y"))
    assert (tokens / "due").read_text() == "y\n"
    assert not list(tokens.glob("*.end"))
