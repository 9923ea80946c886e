"""Retries on real systemd: how many, after how long, of what, and what ends them.

Every job writes nothing but its exit; the runs are read from what PID 1 says in the journal.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.machine import until
from tests.system.jobs import apply, entries, moment, service, start, starts, states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.machine import Machine

#: Seconds that a busy machine may need to start a job whose time has come.
LATE = 0.4

#: Seconds by which the entry that a timer has started may come after its start, from which its delay counts.
TOLD_LATE = 0.1

#: MESSAGE_ID of the manager's entry about a unit that has started (sd-messages.h).
STARTED = "39f53479d3a045ac8e11786248231fbf"

STATE = "/run/sdcron/retry"


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def fail_first(count: int, name: str, status: int = 1) -> list[str]:
    """A command that fails in its first `count` runs and succeeds from then on."""
    return shell(f'echo >>/tmp/runs-{name}; [ "$(wc -l </tmp/runs-{name})" -gt {count} ] || exit {status}')


def said(machine: Machine, name: str, since: float) -> list[str]:
    """What the handler of failures wrote, without the job's name."""
    found = entries(machine, since, f"_SYSTEMD_UNIT=sdcron-{name}@retry.service")
    return [entry["MESSAGE"].removeprefix(f"sdcron-{name}: ") for entry in found]


def waiting(machine: Machine, name: str = "*", user: str | None = None) -> list[str]:
    """The retry timers that run."""
    command = ["systemctl", *(["--user"] if user else []), "list-units", "--plain", "--no-legend", "--state=active"]
    listed = machine.run([*command, f"sdcron-{name}@retry-*.timer"], user=user).stdout
    return [line.split()[0] for line in listed.splitlines()]


def over(machine: Machine, since: float, runs: Mapping[str, int], timeout: float = 30) -> dict[str, list[float]]:
    """Wait until each job has begun at least so many runs and nothing runs or waits; returns the starts by job."""

    def done() -> bool:
        began = starts(machine, since)
        if any(len(began[name]) < count for name, count in runs.items()) or waiting(machine):
            return False
        return "sdcron-" not in machine.run(["systemctl", "list-jobs", "--no-legend"]).stdout

    until(done, timeout, f"there were these runs: {runs}")
    return starts(machine, since)


def delays(machine: Machine, name: str, since: float) -> list[float]:
    """The seconds between the start of each retry timer of a job and the run that it began."""
    began = starts(machine, since)[name]
    armed = [
        moment(entry)
        for entry in entries(machine, since, f"MESSAGE_ID={STARTED}")
        if (entry.get("UNIT") or entry.get("USER_UNIT", "")).startswith(f"sdcron-{name}@retry-")
    ]
    assert len(armed) == len(began) - 1
    return [after - before for before, after in zip(armed, began[1:], strict=True)]


def assert_waited(machine: Machine, name: str, since: float, expected: list[float], accuracy: float = 1) -> None:
    """Every retry comes after its delay and within its accuracy."""
    waited = delays(machine, name, since)
    assert len(waited) == len(expected), waited
    for seen, delay in zip(waited, expected, strict=True):
        assert delay - TOLD_LATE <= seen <= delay + accuracy + LATE, (waited, expected)


ONCE = {"delay": "1s", "attempts": 1}

#: How many runs there are, and of what job, all begun by hand at the same time.
RUNS_OF: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (3, {"retry": {"delay": "1s", "attempts": 2}, "command": ["/bin/false"]}),
    "backoff": (
        5,
        {
            "retry": {"delay": "500ms", "attempts": 4, "backoff": 3, "max_delay": "3s"},
            "accuracy": "10ms",
            "command": ["/bin/false"],
        },
    ),
    "third-works": (3, {"retry": {"delay": "1s", "attempts": 5}, "command": fail_first(2, "third-works")}),
    "codes": (3, {"retry": {"delay": "1s", "on_exit": [75, 7]}, "command": fail_first(2, "codes", 75)}),
    "other-code": (1, {"retry": {"delay": "1s", "on_exit": [75, 7]}, "command": shell("exit 74")}),
    "code-then-other": (
        2,
        {
            "retry": {"delay": "1s", "on_exit": 75},
            "command": shell("[ -e /tmp/second ] || { >/tmp/second; exit 75; }; exit 1"),
        },
    ),
    # What a shell would call 137 is a signal, and no exit code.
    "killed-with-codes": (1, {"retry": {"delay": "1s", "on_exit": [75, 137]}, "command": shell("kill -KILL $$")}),
    "killed": (2, {"retry": ONCE, "command": shell("kill -KILL $$")}),
    "crashed": (2, {"retry": ONCE, "command": shell("kill -SEGV $$")}),
    "timeout": (2, {"retry": ONCE, "timeout": "1s", "command": ["/bin/sleep", "100"]}),
    "no-program": (2, {"retry": ONCE, "command": ["/no/such/program"]}),
    "no-user": (2, {"retry": ONCE, "user": "no-such-user", "command": ["/bin/true"]}),
    "no-directory": (2, {"retry": ONCE, "directory": "/no/such", "command": ["/bin/true"]}),
    "strict": (2, {"retry": ONCE, "sandbox": "strict", "user": "daemon", "command": ["/bin/false"]}),
    "no-retry": (1, {"command": ["/bin/false"]}),
    "works": (1, {"retry": "1s", "command": ["/bin/true"]}),
    "fine-code": (1, {"retry": "1s", "success_exit": [3], "command": shell("exit 3")}),
}
#: A condition that does not hold is no failure.
NOT_RUN: dict[str, dict[str, Any]] = {
    "skipped": {"retry": "1s", "when": {"path_exists": "/no/such"}, "command": ["/bin/false"]},
    "not-now": {"retry": "1s", "when": {"command": ["/bin/false"]}, "command": ["/bin/false"]},
}
FINE = {"third-works", "codes", "works", "fine-code"}


def test_failed_jobs_are_retried_as_their_files_say(machine: Machine) -> None:
    machine.run(["sh", "-c", "rm -f /tmp/runs-* /tmp/second"])
    jobs = {name: job for name, (_, job) in RUNS_OF.items()} | NOT_RUN
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs, wait=False)
    expected = {name: runs for name, (runs, _) in RUNS_OF.items()}
    began = over(machine, since, expected)
    # What ExecCondition= refuses has begun for systemd.
    assert {name: len(times) for name, times in began.items() if name != "not-now"} == expected
    assert len(began["not-now"]) == 1
    assert_waited(machine, "plain", since, [1, 1])
    assert_waited(machine, "backoff", since, [0.5, 1.5, 3, 3], accuracy=0.01)
    assert_waited(machine, "timeout", since, [1])
    # systemd counts the timeout from before it starts the process, and says "Starting" after that (job.c).
    assert began["timeout"][1] - began["timeout"][0] >= 2 - LATE

    seen = states(machine, *jobs)
    assert {name for name, state in seen.items() if state.startswith("inactive ")} == FINE | NOT_RUN.keys()
    assert {name for name, state in seen.items() if state.startswith("failed ")} == expected.keys() - FINE
    assert (seen["timeout"], seen["killed"]) == ("failed timeout", "failed signal")
    rows = json.loads(machine.sdcron("list", "--json").stdout)
    assert {row["job"] for row in rows if row["state"] == "failed"} == expected.keys() - FINE

    two_retries = ["retry 1 of 2 is waiting", "retry 2 of 2 is waiting", "gave up after 2 retries"]
    assert said(machine, "plain", since) == two_retries
    assert said(machine, "third-works", since) == ["retry 1 of 5 is waiting", "retry 2 of 5 is waiting"]
    assert said(machine, "other-code", since) == ["not one of the exit statuses to retry: exit-code 74"]
    assert [said(machine, name, since) for name in ("works", "fine-code", *NOT_RUN)] == [[]] * 4
    [gave_up] = entries(machine, since, "PRIORITY=3", "SYSLOG_IDENTIFIER=sdcron-plain")
    assert gave_up["MESSAGE"] == "sdcron-plain: gave up after 2 retries"
    assert machine.run(["ls", STATE]).stdout == "", "a series that is over leaves its number behind"
    failed = machine.run(["systemctl", "list-units", "--plain", "--no-legend", "--state=failed", "sdcron-*"]).stdout
    assert "@" not in failed, "a handler or a timer has failed"


def test_a_series_ends_with_a_success_and_begins_anew_after_giving_up(machine: Machine) -> None:
    flag = "/tmp/broken"
    job = {"retry": {"delay": "1s", "attempts": 2}, "accuracy": "10ms", "command": shell(f"[ ! -e {flag} ]")}
    apply(machine, {"flag": job})
    since = time.time()
    machine.run(["touch", flag])
    start(machine, "flag")
    until(lambda: len(starts(machine, since)["flag"]) == 2, 10, "the first retry")
    # A daemon-reload in the middle forgets nothing.
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["rm", flag])
    until(lambda: len(starts(machine, since)["flag"]) == 3, 10, "the second retry")
    until(lambda: states(machine, "flag") == {"flag": "inactive success"}, 5, "it works")
    assert not machine.exists(f"{STATE}/flag")
    for _ in range(2):
        machine.run(["touch", flag])
        since = time.time()
        start(machine, "flag")
        assert len(over(machine, since, {"flag": 3})["flag"]) == 3
        assert said(machine, "flag", since)[-1] == "gave up after 2 retries"
        assert states(machine, "flag") == {"flag": "failed exit-code"}
        assert not machine.exists(f"{STATE}/flag")


def test_a_regular_run_takes_the_place_of_a_retry_that_waits(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "by-hand": {"retry": "1h", "command": shell("[ ! -e /tmp/broken ]")},
        "by-timer": {"retry": {"delay": "1h", "attempts": 2}, "schedule": "*/2 * * * * *", "command": ["/bin/false"]},
    }
    machine.run(["touch", "/tmp/broken"])
    since = time.time()
    apply(machine, jobs)
    start(machine, "by-hand")
    until(lambda: waiting(machine, "by-hand") == ["sdcron-by-hand@retry-1.timer"], 5, "the retry waits")
    start(machine, "by-hand")
    until(lambda: len(said(machine, "by-hand", since)) == 2, 5, "the second failure is noticed")
    # The second failure is the first of a series of its own.
    assert said(machine, "by-hand", since) == ["retry 1 of 3 is waiting"] * 2
    assert waiting(machine, "by-hand") == ["sdcron-by-hand@retry-1.timer"]
    machine.run(["rm", "/tmp/broken"])
    start(machine, "by-hand")
    assert waiting(machine, "by-hand") == []
    assert not machine.exists(f"{STATE}/by-hand")
    until(lambda: len(said(machine, "by-timer", since)) >= 3, 15, "three regular runs failed")
    assert set(said(machine, "by-timer", since)) == {"retry 1 of 2 is waiting"}


def test_a_job_that_is_stopped_on_purpose_is_not_retried(machine: Machine) -> None:
    retry = {"delay": "1s", "attempts": 3}
    jobs: dict[str, dict[str, Any]] = {
        "stopped": {"retry": retry, "command": ["/bin/sleep", "100"]},
        "stubborn": {
            "retry": retry,
            "stop_timeout": "1s",
            "command": shell("trap '' TERM; while :; do sleep 1; done"),
        },
        "died": {"retry": {"delay": "1h"}, "command": ["/bin/sleep", "100"]},
    }
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs, wait=False)
    until(lambda: starts(machine, since).keys() == jobs.keys(), 10, "all run")
    time.sleep(0.3)
    machine.run(["systemctl", "stop", service("stopped"), service("stubborn")])
    # The same signal, from somebody else than systemd, is a failure.
    machine.run(["systemctl", "kill", "--signal=TERM", service("died")])
    until(lambda: waiting(machine) == ["sdcron-died@retry-1.timer"], 5, "the job that died is retried")
    assert {name: len(times) for name, times in starts(machine, since).items()} == dict.fromkeys(jobs, 1)
    assert set(said(machine, "stopped", since) + said(machine, "stubborn", since)) <= {"was stopped, no retry"}
    assert machine.run(["ls", STATE]).stdout == "died\n"


def test_retries_come_soon_after_many_failures_at_once(machine: Machine) -> None:
    jobs = {
        f"many-{number}": {"retry": {"delay": "1s", "attempts": 1}, "command": ["/bin/false"]} for number in range(30)
    }
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs, wait=False)
    began = over(machine, since, dict.fromkeys(jobs, 2))
    assert {name: len(times) for name, times in began.items()} == dict.fromkeys(jobs, 2)


def test_a_users_own_jobs_are_retried_too(fresh_machine: Machine) -> None:
    fresh_machine.start_user_manager()
    retry = {"retry": {"delay": "1s", "attempts": 2}, "command": ["/bin/false"]}
    jobs: dict[str, dict[str, Any]] = {name: {**retry, "sandbox": name} for name in ("none", "standard", "strict")}
    again = shell("[ -e ~/second ] || { >~/second; exit 1; }")
    jobs["works"] = {"retry": "1s", "sandbox": "standard", "command": again}
    apply(fresh_machine, jobs, user="tester")
    since = time.time()
    start(fresh_machine, *jobs, user="tester")
    runs = {"none": 3, "standard": 3, "strict": 3, "works": 2}
    until(lambda: {name: len(times) for name, times in starts(fresh_machine, since).items()} == runs, 20, f"{runs}")
    until(lambda: waiting(fresh_machine, user="tester") == [], 5, "the end of the series")
    assert_waited(fresh_machine, "none", since, [1, 1])
    seen = states(fresh_machine, *jobs, user="tester")
    assert seen == {**dict.fromkeys(("none", "standard", "strict"), "failed exit-code"), "works": "inactive success"}
    state = ["sh", "-c", "ls $XDG_RUNTIME_DIR/sdcron/retry"]
    until(lambda: fresh_machine.run(state, user="tester").stdout == "", 5, "no number of a series is left")
