"""A thousand runs of every kind on real systemd: a thousand records, and every field of each is true."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import apply, service, start
from tests.system.records import TRUTH, by_job, prepare, records, shell, stored, told, truth, when

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.system.records import Record

TOTAL = 1000
ROUNDS = 25
SLOW_ROUNDS = 6


@dataclass(frozen=True)
class Kind:
    """A job, and what each of its records says beside what all say; None as a pattern stands for null."""

    job: dict[str, Any]
    outcome: str = "success"
    reason: str = ""
    """A regular expression for all of it."""
    exit_code: int | tuple[int | None, ...] | None = None
    """Of several, one: systemd tells the status of a success only as long as the unit is loaded."""
    signal: str | None = None
    stdout: str = ""
    """`ID` in it stands for the run's id."""
    stderr: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def ok(text: str = "", **more: Any) -> Kind:
    """A job that does something and is content."""
    return Kind({"command": shell(text or ":")}, exit_code=0, **more)


def exits(code: int) -> Kind:
    return Kind(
        {"command": shell(f"echo $INVOCATION_ID; echo no >&2; exit {code}")},
        "failure",
        f"exit status {code}",
        code,
        stdout="ID\n",
        stderr="no\n",
    )


def dies(signal: str, name: str = "") -> Kind:
    name = name or f"SIG{signal}"
    return Kind(
        {"command": shell(f"echo $INVOCATION_ID; kill -{signal} $$; sleep 9")},
        "killed",
        rf"died of {re.escape(name)}(, core dumped)?",
        signal=name,
        stdout="ID\n",
    )


def not_started(job: dict[str, Any], reason: str, code: int | None, **more: Any) -> Kind:
    return Kind({"command": ["/bin/true"], **job}, "failure", reason, code, **more)


def skipped(when: dict[str, Any], reason: str) -> Kind:
    return Kind({"command": shell("echo no >&2"), "when": when}, "skipped", reason)


#: Jobs that are started again and again, all at the same time.
QUICK: dict[str, Kind] = {
    "silent": ok(),
    "plain": ok("echo $INVOCATION_ID; echo err >&2", stdout="ID\n", stderr="err\n"),
    "long-lines": ok("seq -s ' ' 300; echo $INVOCATION_ID", stdout=" ".join(map(str, range(1, 301))) + "\nID\n"),
    "unicode": ok("printf 'grüße\\t☃\\n'; printf 'ohne Ende' >&2", stdout="grüße\t☃\n", stderr="ohne Ende"),
    "looks-like-json": ok("echo '{\"schema\":1}'", stdout='{"schema":1}\n'),
    "levels": ok("echo '<3>no level'", stdout="<3>no level\n"),
    "as-daemon": Kind({"user": "daemon", "command": shell("id -un")}, exit_code=0, stdout="daemon\n"),
    "script": Kind({"script": "#!/bin/sh -e\necho $INVOCATION_ID\n"}, exit_code=0, stdout="ID\n"),
    "sandboxed": Kind({"sandbox": "strict", "command": shell("echo in")}, exit_code=0, stdout="in\n"),
    "yearly": Kind(
        {"schedule": "@yearly", "command": ["/bin/echo", "y"]}, exit_code=0, stdout="y\n", more={"next_run_at": "NEXT"}
    ),
    "child-goes-on": ok("(sleep 0.05; echo late) & echo now; wait", stdout="now\nlate\n"),
    "exit-1": exits(1),
    "exit-2": exits(2),
    "exit-75": exits(75),
    "exit-199": exits(199),
    "exit-255": exits(255),
    "fine-3": Kind(
        {"success_exit": [3, 4], "command": shell("echo $INVOCATION_ID; exit 3")}, exit_code=(3, None), stdout="ID\n"
    ),
    "fine-3-timer": Kind(
        {"success_exit": [3], "schedule": "@yearly", "command": shell("exit 3")},
        exit_code=(3, None),
        more={"next_run_at": "NEXT"},
    ),
    "not-fine-5": Kind({"success_exit": [3, 4], "command": shell("exit 5")}, "failure", "exit status 5", 5),
    "kill": dies("KILL"),
    "term": dies("TERM"),
    "usr1": dies("USR1"),
    "hup": dies("HUP"),
    "rtmin-3": dies("37", "SIGRTMIN+3"),
    "no-env-file": not_started(
        {"environment_file": ["/no/such"]}, "systemd could not start it: .*: No such file.*", None
    ),
    "no-user": not_started({"user": "no-such-user"}, "could not be started, at step USER: .*", 217),
    "no-directory": not_started({"directory": "/no/such"}, "could not be started, at step CHDIR: .*", 200),
    "no-binary": not_started({"command": ["/no/such/program"]}, "exit status 1", 1),
    "no-credential": not_started(
        {"credentials": {"key": "/no/such"}}, "could not be started, at step CREDENTIALS: .*", 243
    ),
    "no-path": skipped({"path_exists": "/no/such"}, ".*ConditionPathExists=/no/such.*"),
    "path-there": skipped({"path_missing": "/etc"}, ".*ConditionPathExists=!/etc.*"),
    "no-mount": skipped({"mounts": ["/etc"]}, ".*ConditionPathIsMountPoint=/etc.*"),
    "no-unit": skipped({"units": ["no-such.service"]}, "a condition of `when` did not hold.*"),
    "not-now": skipped({"command": ["/bin/false"]}, "a condition of `when` did not hold.*"),
    "now": Kind({"when": {"command": ["/bin/true"]}, "command": ["/bin/echo", "now"]}, exit_code=0, stdout="now\n"),
}

PIDS = f"{TRUTH}/pids"
WAITS = f"echo $INVOCATION_ID; echo $$ >{PIDS}/$1"
CATCHES = "trap 'echo bye; exit 0' TERM; sleep 100 & wait"

#: Jobs that go on until somebody ends them.
SLOW: dict[str, Kind] = {
    "out-of-memory": Kind(
        {"command": [*shell(f"{WAITS}; exec sleep 100"), "-", "out-of-memory"]},
        "killed",
        "died of SIGKILL",
        signal="SIGKILL",
        stdout="ID\n",
    ),
    "stopped": Kind(
        {"command": [*shell(f"{WAITS}; exec sleep 100"), "-", "stopped"]},
        "killed",
        "stopped by an administrator",
        signal="SIGTERM",
        stdout="ID\n",
    ),
    "stopped-politely": Kind(
        {"command": [*shell(f"{WAITS}; {CATCHES}"), "-", "stopped-politely"]},
        "killed",
        "stopped by an administrator",
        (0, None),
        stdout="ID\nbye\n",
    ),
    "too-long": Kind(
        {"timeout": "300ms", "command": shell("echo $INVOCATION_ID; exec sleep 100")},
        "timeout",
        "took longer than its timeout",
        signal="SIGTERM",
        stdout="ID\n",
    ),
    "too-long-politely": Kind(
        {"timeout": "300ms", "command": shell(f"echo $INVOCATION_ID; {CATCHES}")},
        "timeout",
        "took longer than its timeout",
        exit_code=(0, None),
        stdout="ID\nbye\n",
    ),
    "too-long-stubborn": Kind(
        {
            "timeout": "300ms",
            "stop_timeout": "200ms",
            "command": shell("trap '' TERM; echo $INVOCATION_ID; while :; do sleep 1; done"),
        },
        "timeout",
        "took longer than its timeout",
        signal="SIGKILL",
        stdout="ID\n",
    ),
}

#: Jobs that the end of the machine catches, in this order: everything killed but PID 1, and a shutdown.
LONG: dict[str, Kind] = {
    "all-killed": Kind(
        {"command": told("all-killed", "echo $INVOCATION_ID; exec sleep 100")},
        "killed",
        "died of SIGKILL",
        signal="SIGKILL",
        stdout="ID\n",
    ),
    "shut-down": Kind(
        {"command": told("shut-down", "exec sleep 100")}, "abandoned", "cut off by a shutdown", signal="SIGTERM"
    ),
    "shut-down-politely": Kind(
        {"command": told("shut-down-politely", CATCHES)},
        "abandoned",
        "cut off by a shutdown",
        exit_code=(0, None),
        stdout="bye\n",
    ),
}

TRIGGERED: dict[str, dict[str, Any]] = {
    "every-second": {"schedule": "* * * * * *", "missed": "skip", "command": told("every-second", "echo tick")},
    "again": {"retry": {"delay": "500ms", "attempts": 2}, "accuracy": "10ms", "command": told("again", "exit 1")},
    "at-boot": {"schedule": "@reboot", "command": told("at-boot")},
    "missed": {"schedule": "@yearly", "command": told("missed")},
}

#: Starts each of the quick jobs in every round, and ends the slow ones as their names say.
DRIVER = f"""
mkdir -p {PIDS}
for round in $(seq {ROUNDS}); do systemctl start $1 || :; done &
waits() {{ until [ -s {PIDS}/$1 ]; do sleep 0.02; done; }}
for round in $(seq {SLOW_ROUNDS}); do
    rm -f {PIDS}/*
    systemctl start --no-block $2
    waits out-of-memory; waits stopped; waits stopped-politely; sleep 0.1
    kill -9 $(cat {PIDS}/out-of-memory)
    systemctl stop sdcron-stopped.service sdcron-stopped-politely.service
    while [ -n "$(systemctl list-units --plain --no-legend --state=activating,deactivating $2)" ]; do sleep 0.05; done
    systemctl start sdcron-again.service || :
    until [ $(wc -l <{TRUTH}/again) = $((3 * round)) ]; do sleep 0.05; done
done
wait
"""


def _journald_age(machine: Machine) -> float:
    """For how many seconds journald has run."""
    started = machine.show("systemd-journald", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]
    return time.monotonic() - int(started) / 1e6


@pytest.mark.timeout(300)
def test_a_thousand_runs_are_a_thousand_true_records(fresh_machine: Machine) -> None:
    machine = fresh_machine
    prepare(machine)
    kinds = QUICK | SLOW | LONG
    apply(machine, {name: kind.job for name, kind in kinds.items()} | TRIGGERED)
    machine.run(
        ["sh", "-c", DRIVER, "driver", " ".join(map(service, QUICK)), " ".join(map(service, SLOW))], timeout=120
    )
    expected = dict.fromkeys(QUICK, ROUNDS) | dict.fromkeys(SLOW, SLOW_ROUNDS) | dict.fromkeys(LONG, 1)

    # What has run before its unit was forgotten, and asked of soon after, is known all about.
    for name in ("yearly", "fine-3-timer"):
        start(machine, name)
        known = by_job(records(machine))[name][-1]
        assert known["cpu_s"] > 0
        assert known["exit_code"] == QUICK[name].job.get("success_exit", [0])[0]
        expected[name] += 1

    machine.run(["systemctl", "stop", "sdcron-every-second.timer"])
    start(machine, "all-killed", wait=False)
    until(lambda: "all-killed" in truth(machine), 10, "it runs")
    machine.run(["sh", "-c", "kill -9 -1"], status=None)
    # While journald is away, systemd does not write to the journal: only it knows how that run ended.
    until(lambda: by_job(stored(machine)).get("all-killed"), 30, "the collector is back, and has asked")
    # And lines that come soon after may be those of a run that nothing else tells of: records say so for ten seconds.
    until(lambda: _journald_age(machine) > 11, 20, "nobody doubts whose a line is")
    start(machine, "shut-down", "shut-down-politely", wait=False)
    until(lambda: truth(machine).keys() >= {"shut-down", "shut-down-politely"}, 10, "they run")
    time.sleep(0.2)
    machine.poweroff()
    stamp = machine.disk / "var/lib/systemd/timers/stamp-sdcron-missed.timer"
    long_ago = time.time() - 400 * 86400
    os.utime(stamp, (long_ago, long_ago))
    machine.boot()
    until(lambda: {"at-boot", "missed"} <= truth(machine).keys(), 20, "the boot's own runs")
    machine.run(["systemctl", "stop", "sdcron-every-second.timer"])
    until(lambda: machine.show(service("every-second"), "ActiveState")["ActiveState"] == "inactive", 10, "it stands")

    ids = truth(machine)
    expected |= {name: len(ids[name]) for name in TRIGGERED}
    left = TOTAL - sum(expected.values())
    assert left > 0
    machine.run(["sh", "-c", f"for round in $(seq {left}); do systemctl start {service('plain')}; done"])
    expected["plain"] += left

    found = by_job(records(machine))
    assert {name: len(runs) for name, runs in found.items()} == expected
    digests = _digests(machine)
    following = json.loads(machine.sdcron("next", "yearly", "-n", "1", "--json").stdout)
    problems = [
        problem
        for name, runs in found.items()
        for record in runs
        for problem in _differences(record, kinds.get(name), digests[name], following[0])
    ]
    assert not problems, "\n".join(sorted(set(problems)))
    for name in (*TRIGGERED, *(name for name in LONG)):
        assert [record["run_id"] for record in found[name]] == ids[name]
    _check_triggers(found)


def _digests(machine: Machine) -> dict[str, str]:
    """What each job's service says its digest is."""
    lines = machine.run(["sh", "-c", "grep -H ^Digest= /etc/systemd/system/sdcron-*.service"]).stdout.splitlines()
    found = {}
    for line in lines:
        path, _, digest = line.partition(":Digest=")
        found[path.rpartition("/sdcron-")[2].removesuffix(".service")] = digest
    return found


def _differences(record: Record, kind: Kind | None, digest: str, following: str) -> list[str]:
    """What of a record is not as it should be."""
    expected: dict[str, Any] = {"host": "sdcron-test", "job_digest": digest, "dropped_lines": 0, "truncated": False}
    if kind is not None:
        output = {name: getattr(kind, name).replace("ID", record["run_id"]) for name in ("stdout", "stderr")}
        expected |= output | {f"{name}_bytes": len(text.encode()) for name, text in output.items()}
        expected |= {"trigger": "manual", "attempt": 1, "scheduled_at": None, "next_run_at": None}
        expected |= {"outcome": kind.outcome, "exit_code": kind.exit_code, "signal": kind.signal}
        expected |= {name: following if value == "NEXT" else value for name, value in kind.more.items()}
        if record["next_run_at"]:
            record = {**record, "next_run_at": when(record["next_run_at"]).isoformat()}
    different = [
        f"{record['job']}: {name} is {record[name]!r}, not {value!r}"
        for name, value in expected.items()
        if record[name] not in (value if isinstance(value, tuple) else (value,))
    ]
    if kind is not None and not re.fullmatch(kind.reason, record["reason"]):
        different.append(f"{record['job']}: reason is {record['reason']!r}, not {kind.reason!r}")
    if record["started_at"] is None or record["finished_at"] is None:
        different.append(f"{record['job']}: from {record['started_at']} to {record['finished_at']}")
    return different


def _check_triggers(found: dict[str, list[Record]]) -> None:
    """Why each run was started, the how manieth attempt it was, and how late."""
    assert [(run["trigger"], run["attempt"], run["outcome"]) for run in found["at-boot"]] == [("boot", 1, "success")]
    [missed] = found["missed"]
    assert (missed["trigger"], when(missed["scheduled_at"]).month, missed["lateness_s"] > 0) == ("missed", 1, True)
    ticks = found["every-second"]
    seen = [(run["trigger"], run["attempt"], run["stdout"]) for run in ticks]
    other = [index for index, what in enumerate(seen) if what != ("schedule", 1, "tick\n")]
    assert not other, "\n".join(
        str({name: run[name] for name in ("trigger", "scheduled_at", "started_at", "finished_at", "outcome", "stdout")})
        for index in other
        for run in ticks[max(index - 1, 0) : index + 2]
    )
    due = [when(run["scheduled_at"]) for run in ticks]
    assert due == sorted(set(due))
    assert all(moment.microsecond == 0 for moment in due)
    assert all((when(run["next_run_at"]) - when(run["finished_at"])).total_seconds() <= 1 for run in ticks)
    again = found["again"]
    assert [(run["trigger"], run["attempt"]) for run in again] == SLOW_ROUNDS * [
        ("manual", 1),
        ("retry", 2),
        ("retry", 3),
    ]
    for before, run in itertools.pairwise(again):
        if run["trigger"] == "retry":
            waited = (when(run["scheduled_at"]) - when(before["finished_at"])).total_seconds()
            assert 0.4 < waited < 2.5, again
