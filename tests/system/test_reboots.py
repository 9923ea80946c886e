"""The machine goes down under jobs and comes back: each run on record once, and every retry that is owed comes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import apply, start
from tests.system.records import Record, by_job, prepare, records, shell, told, truth, when
from tests.system.test_retry import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Machine

CUT_OFF = "cut off: the machine went down without a shutdown"
SHUT_DOWN = "cut off by a shutdown"

#: As long as the machine has not gone down, the jobs run on or fail, each as its name says; then they succeed.
UP = "/var/tmp/up"
STAMP = "var/lib/systemd/timers/stamp-sdcron-caught-up.timer"


def job(name: str, before: str, retry: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A job that does something else before the machine has gone down than after it."""
    command = told(name, f"echo begun; [ -e {UP} ] && exit 0; {before}")
    return {"command": command, **({"retry": retry} if retry else {}), **more}


def second(text: str) -> str:
    """The first run fails, the second does something else."""
    return f"[ $(wc -l <$TRUTH) -gt 1 ] || exit 1; {text}"


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
    "caught-up": job("caught-up", "exit 1", {"delay": "30s", "attempts": 1}, schedule="@yearly"),
    # In their second runs when the machine goes down, and waiting for their third.
    "cut-again": job("cut-again", second(RUNS_ON), {"delay": "500ms", "attempts": 2}, accuracy="10ms"),
    "used-up": job("used-up", second(RUNS_ON), {"delay": "500ms", "attempts": 1}, accuracy="10ms"),
    "waits-again": job("waits-again", "exit 1", {"delay": "500ms", "attempts": 2, "backoff": 8, "max_delay": "4s"}, accuracy="10ms"),
}
for _name in ("cut-again", "used-up"):
    JOBS[_name]["command"][2] = JOBS[_name]["command"][2].replace("$TRUTH", f"/root/truth/{_name}")

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
    machine.run(["sh", "-c", f"rm -f {UP} /root/truth/*"])
    first = ["given-up", "cut-again", "used-up", "waits-again"]
    start(machine, *first, wait=False)
    until(lambda: all(len(truth(machine).get(name, ())) == 2 for name in first), 20, "the second runs")
    start(machine, *(JOBS.keys() - set(first)), wait=False)
    edge = {"waits@retry-1", "wait-ended@retry-1", "waits-again@retry-2", "caught-up@retry-1"}
    names = {f"sdcron-{name}.timer" for name in edge}
    until(lambda: set(waiting(machine)) == names and truth(machine).keys() == JOBS.keys(), 20, "all are there")
    machine.run(["systemctl", "stop", "sdcron-wait-ended@retry-1.timer"])


def come_back(machine: Machine) -> None:
    """Boot; a time of `caught-up` fell into the downtime."""
    (machine.disk / UP.lstrip("/")).touch()
    long_ago = time.time() - 400 * 86400
    os.utime(machine.disk / STAMP, (long_ago, long_ago))
    machine.boot()


def history(machine: Machine, since: float) -> dict[str, list[Record]]:
    """The records of runs that began since then, by job."""
    found = [run for run in records(machine) if run["started_at"] and when(run["started_at"]).timestamp() > since]
    return by_job(found)


def brief(runs: list[Record]) -> list[Told]:
    return [(run["trigger"], run["attempt"], run["outcome"]) for run in runs]


@pytest.mark.timeout(240)
def test_what_the_machine_cut_off_is_abandoned_and_every_retry_that_is_owed_comes(fresh_machine: Machine) -> None:
    machine = fresh_machine
    prepare(machine)
    apply(machine, JOBS)
    problems = []
    downs: list[tuple[str, Callable[[], None]]] = [(CUT_OFF, machine.kill), (SHUT_DOWN, machine.poweroff)]
    for reason, down in downs:
        since = time.time()
        bring_to_the_edge(machine)
        down()
        come_back(machine)
        # A second time arms nothing again.
        machine.sdcron("boot")
        counts = {name: len(runs) for name, runs in EXPECTED.items()}
        try:
            until(lambda: {name: len(runs) for name, runs in truth(machine).items()} == counts, 30, "all retries")
        except Exception as error: problems.append(str(error)[:200])
        machine.sdcron("boot")
        found = history(machine, since)
        for name, runs in EXPECTED.items():
            if brief(found.get(name, [])) != runs:
                problems.append(f"{reason}: {name}: {brief(found.get(name, []))} != {runs}")
            for run in found.get(name, []):
                if run["outcome"] == "abandoned":
                    problems.append(f"{name}: {run['reason']} {run['finished_at']} {run['exit_code']} {run['signal']}")
        problems.append(str(waiting(machine)))
        problems += [e["MESSAGE"] for e in machine.journal("-b") if "went down" in str(e["MESSAGE"])]
    raise AssertionError("\n".join(problems))
