"""The machine goes down under jobs and comes back: each run on record once, and every retry that is owed comes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import apply, start
from tests.system.records import TRUTH, Record, by_job, collect, prepare, records, told, truth, when
from tests.system.test_retry import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Machine

CUT_OFF = "cut off: the machine went down without a shutdown"
SHUT_DOWN = "cut off by a shutdown"

#: As long as the machine has not gone down, the jobs run on or fail, each as its name says; then they succeed.
UP = "/var/tmp/up"


def some_time_ago(days: int) -> str:
    """A schedule of once a year, the last time so many days ago."""
    day = time.gmtime(time.time() - days * 86400)
    return f"0 0 {min(day.tm_mday, 28)} {day.tm_mon} *"


STAMP = "var/lib/systemd/timers/stamp-sdcron-caught-up.timer"


def job(name: str, before: str, retry: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A job that does something else before the machine has gone down than after it."""
    command = told(name, f"echo begun; [ -e {UP} ] && exit 0; {before}")
    return {"command": command, **({"retry": retry} if retry else {}), **more}


def second(name: str, text: str) -> str:
    """The first run fails, the second does something else."""
    return f"[ $(wc -l <{TRUTH}/{name}) -gt 1 ] || exit 1; {text}"


SOON = {"delay": "1s", "attempts": 2}
LATER = {"delay": "4s", "attempts": 3}
RUNS_ON = "exec sleep 1000"

JOBS: dict[str, dict[str, Any]] = {
    "cut": job("cut", RUNS_ON, SOON),
    "cut-once": job("cut-once", RUNS_ON),
    "cut-codes": job("cut-codes", RUNS_ON, {**SOON, "on_exit": [75]}),
    "cut-polite": job("cut-polite", "trap 'exit 0' TERM; sleep 1000 & wait", SOON),
    "waits": job("waits", "exit 1", LATER),
    "given-up": job("given-up", "exit 1", {"delay": "500ms", "attempts": 1}, accuracy="10ms"),
    "wait-ended": job("wait-ended", "exit 1", LATER),
    "caught-up": job("caught-up", "exit 1", {"delay": "30s", "attempts": 1}, schedule=some_time_ago(180)),
    # In their second runs when the machine goes down, and waiting for their third.
    "cut-again": job("cut-again", second("cut-again", RUNS_ON), {"delay": "500ms", "attempts": 2}, accuracy="10ms"),
    "used-up": job("used-up", second("used-up", RUNS_ON), {"delay": "500ms", "attempts": 1}, accuracy="10ms"),
    "waits-again": job(
        "waits-again", "exit 1", {"delay": "500ms", "attempts": 2, "backoff": 8, "max_delay": "4s"}, accuracy="10ms"
    ),
}
Told = tuple[str | None, int, str]

#: Trigger, attempt and outcome of each run, before and after.
FAILED, RETRIED = ("manual", 1, "failure"), ("retry", 2, "success")
CUT = ("manual", 1, "abandoned")
EXPECTED: dict[str, list[Told]] = {
    "cut": [CUT, RETRIED],
    "cut-once": [CUT],
    "cut-codes": [CUT],
    "cut-polite": [CUT, RETRIED],
    "waits": [FAILED, RETRIED],
    "given-up": [FAILED, ("retry", 2, "failure")],
    "wait-ended": [FAILED],
    "caught-up": [FAILED, ("missed", 1, "success")],
    "cut-again": [FAILED, ("retry", 2, "abandoned"), ("retry", 3, "success")],
    "used-up": [FAILED, ("retry", 2, "abandoned")],
    "waits-again": [FAILED, ("retry", 2, "failure"), ("retry", 3, "success")],
}


def bring_to_the_edge(machine: Machine) -> None:
    """Start all jobs, and wait until each is where the machine shall leave it."""
    machine.run(["sh", "-c", f"rm -f {UP} {TRUTH}/*"])
    first = ["given-up", "cut-again", "used-up", "waits-again"]
    start(machine, *first, wait=False)
    until(lambda: all(len(truth(machine).get(name, ())) == 2 for name in first), 20, "the second runs")
    start(machine, *(JOBS.keys() - set(first)), wait=False)
    edge = {"waits@retry-1", "wait-ended@retry-1", "waits-again@retry-2", "caught-up@retry-1"}
    names = {f"sdcron-{name}.timer" for name in edge}
    until(lambda: set(waiting(machine)) == names and truth(machine).keys() == JOBS.keys(), 20, "all are there")
    machine.run(["systemctl", "stop", "sdcron-wait-ended@retry-1.timer"])
    # What the collector has not read when a machine is cut off is lost with a journal that is only in memory.
    collect(machine)


def come_back(machine: Machine) -> None:
    """Boot; a time of `caught-up` fell into the downtime."""
    (machine.disk / UP.lstrip("/")).touch()
    long_ago = time.time() - 400 * 86400
    os.utime(machine.disk / STAMP, (long_ago, long_ago))
    machine.boot()


def history(machine: Machine, since: float, user: str | None = None) -> dict[str, list[Record]]:
    """The records of runs that began since then, by job."""
    found = [run for run in records(machine, user) if run["started_at"] and when(run["started_at"]).timestamp() > since]
    return by_job(found)


def brief(runs: list[Record]) -> list[Told]:
    return [(run["trigger"], run["attempt"], run["outcome"]) for run in runs]


def go_down(machine: Machine, down: Callable[[], None]) -> dict[str, list[Record]]:
    """Take the machine down under the jobs and up again; returns the records of that by job."""
    since = time.time()
    bring_to_the_edge(machine)
    down()
    come_back(machine)
    # A second time arms nothing again.
    machine.sdcron("boot")
    counts = {name: len(runs) for name, runs in EXPECTED.items()}
    until(lambda: {name: len(runs) for name, runs in truth(machine).items()} == counts, 30, "all retries have run")
    machine.sdcron("boot")
    assert waiting(machine) == []
    found = history(machine, since)
    assert {name: brief(runs) for name, runs in found.items()} == EXPECTED
    for runs in found.values():
        for run in runs:
            if run["trigger"] == "retry":
                assert run["lateness_s"] < 5, run
            if run["outcome"] != "abandoned":
                assert run["finished_at"]
    return found


@pytest.mark.timeout(240)
def test_what_the_machine_cut_off_is_abandoned_and_every_retry_that_is_owed_comes(fresh_machine: Machine) -> None:
    machine = fresh_machine
    prepare(machine)
    apply(machine, JOBS)
    for runs in go_down(machine, machine.kill).values():
        for run in runs:
            if run["outcome"] == "abandoned":
                assert (run["reason"], run["finished_at"]) == (CUT_OFF, None)
                assert (run["exit_code"], run["signal"], run["next_run_at"]) == (None, None, None)
                assert run["stdout"] == "begun\n"
    # Another time of its schedule than the one that was made good.
    apply(machine, {**JOBS, "caught-up": {**JOBS["caught-up"], "schedule": some_time_ago(90)}})
    for name, runs in go_down(machine, machine.poweroff).items():
        for run in runs:
            if run["outcome"] == "abandoned":
                assert run["reason"] == SHUT_DOWN
                assert run["finished_at"]
                assert (run["exit_code"], run["signal"]) == (None, None if name == "cut-polite" else "SIGTERM")


@pytest.mark.timeout(240)
def test_a_journal_that_does_not_outlive_a_boot_makes_no_difference_to_retries(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.write("/etc/systemd/journald.conf.d/volatile.conf", "[Journal]\nStorage=volatile\n")
    machine.run(["sh", "-c", "systemctl restart systemd-journald; rm -rf /var/log/journal/*"])
    prepare(machine)
    apply(machine, JOBS)
    for runs in go_down(machine, machine.kill).values():
        assert {run["reason"] for run in runs if run["outcome"] == "abandoned"} <= {CUT_OFF}
    apply(machine, {**JOBS, "caught-up": {**JOBS["caught-up"], "schedule": some_time_ago(90)}})
    # What nobody had read when the machine went down, nobody will.
    for runs in go_down(machine, machine.poweroff).values():
        assert {run["reason"] for run in runs if run["outcome"] == "abandoned"} <= {CUT_OFF, SHUT_DOWN}


OF_A_USER = ("cut", "cut-once", "waits", "waits-again")


def kill_the_manager(machine: Machine) -> None:
    """As the OOM killer may: the machine goes on, the user's manager and all that it runs is gone, and comes back."""
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "user@1000.service"])
    until(lambda: machine.show("user@1000.service", "ActiveState")["ActiveState"] == "failed", 20, "it is gone")
    machine.run(["touch", UP])
    machine.run(["systemctl", "start", "user@1000.service"])


@pytest.mark.timeout(240)
def test_the_same_for_a_users_own_jobs(fresh_machine: Machine) -> None:
    machine = fresh_machine
    prepare(machine)
    machine.start_user_manager()
    apply(machine, {name: JOBS[name] for name in OF_A_USER}, user="tester")

    def down_and_up(down: Callable[[], None]) -> None:
        down()
        (machine.disk / UP.lstrip("/")).touch()
        machine.boot()

    ways: dict[str, Callable[[], None]] = {
        SHUT_DOWN: lambda: down_and_up(machine.poweroff),
        CUT_OFF: lambda: down_and_up(machine.kill),
        "cut off: its service manager was killed": lambda: kill_the_manager(machine),
    }
    edge = {"sdcron-waits@retry-1.timer", "sdcron-waits-again@retry-2.timer"}
    counts = {name: len(EXPECTED[name]) for name in OF_A_USER}
    for reason, down in ways.items():
        since = time.time()
        machine.run(["sh", "-c", f"rm -f {UP} {TRUTH}/*"])
        start(machine, "waits-again", wait=False, user="tester")
        until(lambda: len(truth(machine).get("waits-again", ())) == 2, 20, "the second run")
        start(machine, *(set(OF_A_USER) - {"waits-again"}), wait=False, user="tester")
        until(lambda: set(waiting(machine, user="tester")) == edge, 20, "they wait")
        until(lambda: truth(machine).keys() == set(OF_A_USER), 20, "they run")
        down()
        until(lambda: machine.exists("/run/user/1000/systemd/private"), 20, "the user's manager is back")
        # A second time arms nothing again.
        machine.sdcron("boot", "--user", user="tester")
        until(lambda: {name: len(runs) for name, runs in truth(machine).items()} == counts, 30, "all retries have run")
        machine.sdcron("boot", "--user", user="tester")
        assert waiting(machine, user="tester") == []
        found = history(machine, since, "tester")
        assert {name: brief(runs) for name, runs in found.items()} == {name: EXPECTED[name] for name in OF_A_USER}
        cut = [run for runs in found.values() for run in runs if run["outcome"] == "abandoned"]
        assert [run["reason"] for run in cut] == [reason, reason]
        assert all((run["finished_at"] is None) == (reason != SHUT_DOWN) for run in cut)
