"""Retries: the waits, and what the handler that systemd starts after a failure decides, under a make-believe systemctl.

The scripts are taken from the compiled units as systemd would read them. tests/system/test_retry.py has the real thing.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.job import Job, Retry, Sandbox, Source
from sdcron.paths import Scope
from sdcron.units import compile_job
from tests.test_escape import words

if TYPE_CHECKING:
    from pathlib import Path

SECOND = timedelta(seconds=1)

#: Answers as the environment of the test says, and writes down what it was asked to start.
SYSTEMCTL = """#!/bin/sh
case "$*" in
*LastTriggerUSec*) echo "$LAST_TRIGGER";;
*list-jobs*) echo "$JOBS";;
*start*) echo "$*" >>"$STARTED"; exit "$START_STATUS";;
esac
"""


def job_with(retry: Retry, *, sandbox: Sandbox = Sandbox.NONE) -> Job:
    return Job("backup", Source("/etc/sdcron/jobs/backup.yaml"), ("/bin/false",), retry=retry, sandbox=sandbox)


def unit_text(job: Job, name: str, scope: Scope = Scope.SYSTEM) -> str:
    units = compile_job(job, directory="/etc/sdcron/jobs", scope=scope, state_dir="/state").units
    [text] = [unit.text for unit in units if unit.name == name]
    return text


def setting(text: str, key: str) -> str:
    """The value of a setting that stands in a unit once, its lines joined."""
    [value] = [line.partition("=")[2] for line in text.replace("\\\n", " ").splitlines() if line.startswith(f"{key}=")]
    return value


@dataclass
class Handled:
    """What one call of a script did: its output, the timers it asked for, and the state it left (None: no file)."""

    said: str
    started: list[str]
    state: str | None


class Machine:
    """A directory in which the scripts of one job's units run."""

    def __init__(self, directory: Path, retry: Retry) -> None:
        self.job = job_with(retry)
        self.state = directory / "run/sdcron/retry/backup"
        self._started = directory / "started"
        self._bin = directory / "bin"
        self._bin.mkdir()
        (self._bin / "systemctl").write_text(SYSTEMCTL)
        (self._bin / "systemctl").chmod(0o755)
        self._run_dir = directory / "run"

    def fails(self, result: str = "exit-code", status: str = "1", **environment: str) -> Handled:
        """A run has failed: systemd starts the handler."""
        monitor = {"MONITOR_SERVICE_RESULT": result, "MONITOR_EXIT_STATUS": status, "MONITOR_INVOCATION_ID": "run"}
        command = setting(unit_text(self.job, "sdcron-backup@retry.service"), "ExecStart")
        return self._run(command, monitor | environment)

    def ends(self, result: str, **environment: str) -> Handled:
        """A run is over, however: systemd starts its ExecStopPost=."""
        command = setting(unit_text(self.job, "sdcron-backup.service"), "ExecStopPost")
        assert command.startswith("-+")
        return self._run(command[2:], {"SERVICE_RESULT": result, "INVOCATION_ID": "run"} | environment)

    def _run(self, command: str, environment: dict[str, str]) -> Handled:
        argv = [
            word.replace("$$", "$").replace("PATH=/usr/bin:/bin", "true").replace("/usr/bin/env -i /usr/bin/", "")
            for word in words(command.replace("%t", str(self._run_dir)).replace("%%", "%"))
        ]
        self._started.write_text("")
        defaults = {"LAST_TRIGGER": "Sat 2026-11-21 15:34:45 UTC", "JOBS": "", "START_STATUS": "0"}
        path = f"{self._bin}:{os.environ['PATH']}"
        ended = subprocess.run(
            argv,
            env={"PATH": path, "STARTED": str(self._started), **defaults, **environment},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert ended.stderr == ""
        started = [line.split()[-1] for line in self._started.read_text().splitlines()]
        return Handled(ended.stdout.strip(), started, self.state.read_text().strip() if self.state.exists() else None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, Retry(SECOND, attempts=2))


def timer(attempt: int) -> str:
    return f"sdcron-backup@retry-{attempt}.timer"


# The waits


def test_every_retry_waits_the_delay() -> None:
    assert Retry(SECOND, attempts=3).delays() == (SECOND, SECOND, SECOND)


def test_backoff_multiplies_each_wait_up_to_the_longest() -> None:
    retry = Retry(SECOND, attempts=5, backoff=2.5, max_delay=10 * SECOND)
    assert [delay / SECOND for delay in retry.delays()] == [1, 2.5, 6.25, 10, 10]


def test_waits_grow_at_most_to_a_year() -> None:
    assert Retry(timedelta(days=30), attempts=20, backoff=100).delays()[-1] == timedelta(days=365)


MILLISECONDS = st.integers(1, 3650 * 86_400_000).map(lambda count: timedelta(milliseconds=count))


@given(MILLISECONDS, st.integers(1, 20), st.floats(1, 100), st.none() | MILLISECONDS)
def test_waits_never_shrink_and_never_exceed_the_longest(
    delay: timedelta, attempts: int, backoff: float, longest: timedelta | None
) -> None:
    delays = Retry(delay, attempts, backoff, longest).delays()
    assert len(delays) == attempts
    assert list(delays) == sorted(delays)
    assert delays[-1] <= (longest or timedelta(days=365))


def test_each_attempt_has_a_timer_of_its_own_wait() -> None:
    job = job_with(Retry(SECOND, attempts=3, backoff=2))
    waits = [setting(unit_text(job, timer(attempt)), "OnActiveSec") for attempt in (1, 2, 3)]
    assert waits == ["1s", "2s", "4s"]
    assert setting(unit_text(job, "sdcron-backup.service"), "Conflicts").split() == [timer(n) for n in (1, 2, 3)]
    assert setting(unit_text(job, "sdcron-backup.service"), "OnFailure") == "sdcron-backup@retry.service"


# The handler


def test_the_first_failure_arms_the_first_retry(machine: Machine) -> None:
    handled = machine.fails()
    assert handled.started == [timer(1)]
    assert handled.state == "1"
    assert "retry 1 of 2 is waiting" in handled.said


def test_the_failure_of_a_retry_arms_the_next(machine: Machine) -> None:
    machine.fails()
    assert machine.fails().started == [timer(2)]


def test_after_the_last_retry_the_handler_gives_up_and_a_later_failure_starts_anew(machine: Machine) -> None:
    machine.fails()
    machine.fails()
    handled = machine.fails()
    assert handled == Handled("<3>sdcron-backup: gave up after 2 retries", [], None)
    assert machine.fails().started == [timer(1)]


def test_a_success_forgets_the_series(machine: Machine) -> None:
    machine.fails()
    assert machine.ends("success").state is None
    assert machine.fails().started == [timer(1)]


@pytest.mark.parametrize("result", ["exit-code", "signal", "timeout", "core-dump", "oom-kill", "resources"])
def test_a_failed_run_keeps_the_series(machine: Machine, result: str) -> None:
    machine.fails()
    assert machine.ends(result).state == "1"


@pytest.mark.parametrize("result", ["signal", "timeout", "core-dump", "oom-kill", "resources", "watchdog", "protocol"])
def test_any_failure_is_retried_without_a_list_of_exit_codes(machine: Machine, result: str) -> None:
    assert machine.fails(result, "TERM").started == [timer(1)]


def test_a_retry_that_was_superseded_while_it_waited_starts_a_new_series(machine: Machine) -> None:
    machine.fails()
    assert machine.fails(LAST_TRIGGER="").started == [timer(1)]


def test_a_run_that_began_before_the_retry_could_be_armed_needs_none(machine: Machine) -> None:
    handled = machine.fails(START_STATUS="1")
    assert handled.state is None
    assert "runs again already" in handled.said


@pytest.mark.parametrize("job", ["12 sdcron-backup.service stop running", "12 sdcron-backup.service restart waiting"])
def test_a_run_that_was_stopped_on_purpose_is_not_retried(machine: Machine, job: str) -> None:
    machine.fails()
    machine.ends("signal", JOBS=job)
    handled = machine.fails("signal", "TERM")
    assert handled == Handled("<5>sdcron-backup: was stopped, no retry", [], None)
    assert machine.fails().started == [timer(1)]


def test_a_stop_long_ago_does_not_keep_a_later_run_from_being_retried(machine: Machine) -> None:
    machine.ends("exit-code", JOBS="12 sdcron-backup.service stop running", INVOCATION_ID="earlier")
    assert machine.fails().started == [timer(1)]


@pytest.mark.parametrize("unit", ["sdcron-backup.service", "sdcron-restart-backup.service"])
def test_a_run_that_died_by_itself_while_a_start_job_is_there_is_retried(machine: Machine, unit: str) -> None:
    machine.ends("signal", JOBS=f"12 {unit} start running")
    assert machine.fails("signal", "TERM").started == [timer(1)]


@pytest.mark.parametrize(
    ("result", "status", "retried"),
    [
        ("exit-code", "75", True),
        ("exit-code", "111", True),
        ("exit-code", "7", False),
        ("exit-code", "1", False),
        ("exit-code", "217", False),
        ("signal", "75", False),
        ("signal", "KILL", False),
        ("timeout", "TERM", False),
        ("timeout", "75", False),
        ("resources", "", False),
    ],
)
def test_a_list_of_exit_codes_decides_what_is_retried(tmp_path: Path, result: str, status: str, retried: bool) -> None:
    machine = Machine(tmp_path, Retry(SECOND, on_exit=(75, 111)))
    handled = machine.fails(result, status)
    assert handled.started == ([timer(1)] if retried else [])
    assert ("not one of the exit statuses to retry" in handled.said) is not retried


def test_a_failure_that_is_not_retried_ends_the_series(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Retry(SECOND, on_exit=(75,)))
    machine.fails("exit-code", "75")
    assert machine.fails("exit-code", "1").state is None
    assert machine.fails("exit-code", "75").started == [timer(1)]


def test_only_a_sandboxed_job_of_a_user_gets_a_directory_for_its_last_word() -> None:
    for sandbox in Sandbox:
        job = job_with(Retry(SECOND), sandbox=sandbox)
        system = unit_text(job, "sdcron-backup.service")
        user = unit_text(job, "sdcron-backup.service", Scope.USER)
        assert "RuntimeDirectory" not in system
        assert ("\nRuntimeDirectory=sdcron/retry\n" in user) is (sandbox is not Sandbox.NONE)
        assert "systemctl --user list-jobs" in user
