"""The shell in the units of chains, and what a boot makes of the tokens that it has left."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.boot_chains import _is_due
from sdcron.job import Directive, Job, Otherwise, Passthrough, Source, When
from sdcron.paths import Scope
from sdcron.units import compile_job
from tests.machine import until
from tests.test_escape import words
from tests.test_retry import setting

if TYPE_CHECKING:
    from collections.abc import Mapping


def job(**fields: object) -> Job:
    return Job("d", Source("/d.yaml"), ("/bin/true",), after=("x", "y"), **fields)  # type: ignore[arg-type]  # a job's


def commanded(job: Job, unit: str, key: str, state: Path) -> list[str]:
    """A command of a job's unit, as systemd would have it run."""
    units = compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir=str(state)).units
    [text] = [each.text for each in units if each.name == unit]
    return [word.replace("$$", "$").replace("%%", "%") for word in words(setting(text, key).lstrip("-+"))]


def step(job: Job, unit: str, key: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(commanded(job, unit, key, state), capture_output=True, text=True, check=False, timeout=20)


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


def test_a_start_is_asked_for_only_as_long_as_the_gate_has_not_seen_to_it(tokens: Path, tmp_path: Path) -> None:
    handler = commanded(job(), "sdcron-d@after.service", "ExecStart", tmp_path)
    handler = [word.replace("/usr/bin/env -i /usr/bin/systemctl", "echo") for word in handler]
    asked(tokens, "", 0)
    ended = subprocess.run(handler, capture_output=True, text=True, check=True, timeout=20)
    assert ended.stdout == "start --quiet --no-block sdcron-d.service\n"
    # A second one that comes while the gate is at work finds nothing left to ask for.
    with (tokens / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(handler, stdout=subprocess.PIPE, text=True) as second:
            children = Path(f"/proc/{second.pid}/task/{second.pid}/children")
            until(lambda: children.read_text() != "", 20, "it waits for the lock")
            (tokens / "due").unlink()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.communicate(timeout=20)[0] == ""
    asked(tokens, "", 0)
    with (tokens / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(commanded(job(), "sdcron-d.service", "ExecCondition", tmp_path)) as gate:
            children = Path(f"/proc/{gate.pid}/task/{gate.pid}/children")
            until(lambda: children.read_text() != "", 20, "it waits for the lock")
            assert (tokens / "due").exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert gate.wait(20) == 0
    assert not (tokens / "due").exists()


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


#: Answers for systemctl: the next of the looks in $LOOKS, again and again the last one; jobs and beginnings by name.
SYSTEMCTL = """#!/bin/sh
case "$*" in
*--property=ActiveState,*) [ -s looks ] || echo 0 >looks
    read -r n <looks; n=$((n+1)); [ -e "look-$n" ] || n=$((n-1)); echo "$n" >looks; cat "look-$n";;
*"--value --property=InactiveExitTimestampMonotonic"*) for unit; do :; done; cat "began-$unit" 2>/dev/null || echo 0;;
*"--value --property=ActiveState"*) echo inactive;;
list-jobs*) for unit; do :; done; cat "jobs-$unit" 2>/dev/null;;
start*) echo "$*" >>started;;
esac
"""
OWN, RETRY = "sdcron-d@skipped.service", "sdcron-x@retry.service"
#: A run of x that succeeded, as systemd has it: its conditions were looked at, then it began.
RAN = {
    "ActiveState": "inactive",
    "ConditionResult": "yes",
    "ConditionTimestampMonotonic": "1000",
    "InactiveExitTimestampMonotonic": "1001",
    "InvocationID": "run-1",
    "OnFailure": "mail.service",
}
FAILED = {**RAN, "ActiveState": "failed"}
RETRIED = {**FAILED, "OnFailure": f"mail.service {RETRY}"}
AGAIN = 75


def looked(
    directory: Path, tokens: Path, *looks: dict[str, str], files: Mapping[str, str], before: str = "", told: str = ""
) -> tuple[int, str, str, str]:
    """Have the handler look at x: its exit status, and what the tokens for x are then: end, told and start."""
    (directory / "systemctl").write_text(SYSTEMCTL)
    (directory / "systemctl").chmod(0o755)
    for number, look in enumerate(looks, 1):
        (directory / f"look-{number}").write_text("".join(f"{key}={value}\n" for key, value in look.items()))
    for name, text in {"x.start": before, "x.told": told}.items():
        if text:
            (tokens / name).write_text(f"{text}\n")
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    units = compile_job(job(), directory="/", scope=Scope.SYSTEM, state_dir=str(directory)).units
    [text] = [each.text for each in units if each.name == OWN]
    argv = [word.replace("$$", "$").replace("%%", "%") for word in words(setting(text, "ExecStart"))]
    argv = [word.replace("/usr/bin/env -i /usr/bin/systemctl", "./systemctl").replace("%t", "run") for word in argv]
    ended = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=20)
    assert ended.stdout + ended.stderr == ""

    def token(name: str) -> str:
        return (tokens / name).read_text().strip() if (tokens / name).exists() else ""

    return ended.returncode, token("x.end"), token("x.told"), token("x.start")


@pytest.mark.parametrize(
    ("look", "how", "end", "told"),
    [
        # What has told is left alone.
        (RAN, {"told": "run-1"}, "", "run-1"),
        (FAILED, {"told": "run-1", "before": "900"}, "", "run-1"),
        # What could not tell is told for: it had no time to, or was not set up.
        (FAILED, {"told": "run-0"}, "bad", "run-1"),
        (FAILED, {}, "bad", "run-1"),
        # The same start as before: the one that was asked for came to nothing.
        (RAN, {"told": "run-1", "before": "1000"}, "bad", "run-1"),
        ({**RAN, "ConditionTimestampMonotonic": "0", "InvocationID": ""}, {}, "bad", ""),
        # A condition that did not hold; an ExecCondition= that did not has been a run, which has told.
        ({**RAN, "ConditionResult": "no", "ConditionTimestampMonotonic": "2000"}, {"told": "run-1"}, "bad", "2000"),
        ({**RAN, "ConditionResult": "no"}, {"told": "run-1"}, "", "run-1"),
        # What is retried is no end, also where it could not be started.
        (RETRIED, {"told": "run-0"}, "", "run-0"),
        (RETRIED, {"before": "1000", "files": {"run/sdcron/retry/x": "1"}}, "", ""),
        (RETRIED, {"before": "1000", "files": {f"jobs-{RETRY}": "7 start waiting"}}, "", ""),
        (RETRIED, {"before": "1000", "files": {f"began-{OWN}": "90000000", f"began-{RETRY}": "89000000"}}, "", ""),
        # But for one that somebody has given up: no handler sees to it.
        (RETRIED, {"before": "1000", "files": {f"began-{OWN}": "90000000", f"began-{RETRY}": "70000000"}}, "bad", ""),
        # What a pause has given up is no end. What is paused is not retried.
        (RAN, {"told": "run-1", "before": "1000", "files": {"paused/x": ""}}, "", "run-1"),
        (RAN, {"told": "run-1", "before": "1000", "files": {"paused/.all": ""}}, "", "run-1"),
        (RETRIED, {"told": "run-0", "files": {"paused/x": ""}}, "bad", "run-1"),
    ],
)
def test_an_end_that_nobody_told_is_told_once_and_no_other(
    look: dict[str, str], how: dict[str, Any], end: str, told: str, tokens: Path, tmp_path: Path
) -> None:
    found = looked(tmp_path, tokens, look, **{"files": {}, **how})
    assert found == (0, end, told, look["ConditionTimestampMonotonic"])


def test_a_start_that_is_not_over_is_looked_at_again(tokens: Path, tmp_path: Path) -> None:
    on = {**RAN, "ActiveState": "activating", "ConditionTimestampMonotonic": "2000"}
    assert looked(tmp_path, tokens, on, files={}) == (AGAIN, "", "", "")


def test_a_start_that_begins_before_the_lock_is_had_is_looked_at_again(tokens: Path, tmp_path: Path) -> None:
    on = {**RAN, "ActiveState": "activating", "ConditionTimestampMonotonic": "2000"}
    assert looked(tmp_path, tokens, RAN, on, files={}) == (AGAIN, "", "", "")


def test_a_start_that_is_over_before_the_handler_is_is_looked_at_again(tokens: Path, tmp_path: Path) -> None:
    later = {**RAN, "ConditionTimestampMonotonic": "2000", "InvocationID": "run-2"}
    assert looked(tmp_path, tokens, RAN, RAN, later, files={}, told="run-1") == (AGAIN, "", "run-1", "1000")


def test_what_is_about_to_be_over_is_waited_for(tokens: Path, tmp_path: Path) -> None:
    ending = {**RAN, "ActiveState": "deactivating"}
    assert looked(tmp_path, tokens, ending, ending, FAILED, files={}) == (0, "bad", "run-1", "1000")


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
