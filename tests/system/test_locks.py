"""Locks on booted systemd: what tests/test_contract.py cannot ask of every backend alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import apply, fresh_journal, service, start
from tests.system.records import Record, by_job, collect, records
from tests.system.records import prepare as prepare_records

if TYPE_CHECKING:
    from tests.machine import Machine

LOCKS = "/run/sdcron/locks"


def sh(text: str) -> list[str]:
    """A command that the shell runs."""
    return ["/bin/sh", "-c", text]


def ran(machine: Machine, *names: str, user: str | None = None) -> dict[str, list[Record]]:
    """Start jobs and wait for their ends; their records."""
    start(machine, *names, user=user)
    collect(machine, user)
    return {name: runs for name, runs in by_job(records(machine, user)).items() if name in names}


def holding(machine: Machine, name: str, user: str | None = None) -> None:
    """Start a job that goes on, and wait until it does."""
    start(machine, name, wait=False, user=user)

    def at_work() -> bool:
        pid = machine.show(service(name), "MainPID", user=user)["MainPID"]
        return machine.run(["cat", f"/proc/{pid}/comm"], status=None).stdout == "sleep\n"

    until(at_work, 20, f"{name} is at work")


#: Jobs, each of which is there with a lock and without.
PLAIN: dict[str, dict[str, Any]] = {
    "silent": {"command": ["/bin/true"]},
    "both-streams": {"command": sh("echo out; echo '<3>err' >&2; exit 5")},
    "environment": {
        "command": sh("env | grep -v -e INVOCATION -e ^JOURNAL -e _PID= | sort"),
        "environment": {"name": "a", "n": "b c"},
    },
    "descriptors": {"command": sh("ls /proc/$$/fd | grep -v -e '^10$' -e '^9$' | head -3; cat; umask")},
    "processes": {
        "command": sh(
            'own=$(grep -m 1 sdcron- /proc/$$/cgroup); grep -lxsF "$own" /proc/[0-9]*/cgroup >/tmp/all; wc -l </tmp/all'
        )
    },
    "main": {
        "command": sh(
            "systemctl show -P MainPID sdcron-$0.service | grep -qx $$ && echo is main",
        )
    },
    "arguments": {"command": ["/bin/echo", "a  b", "*", "$HOME", "%n", "'", "--", ""]},
    "user": {"command": sh("id -un; echo $HOME"), "user": "daemon"},
    "no-user": {"command": ["/bin/true"], "user": "no-such-user"},
    "no-program": {"command": ["/no/such/program"]},
    "no-directory": {"command": ["/bin/true"], "directory": "/no/such"},
    "fine": {"command": sh("exit 3"), "success_exit": 3},
    "kills-itself": {"command": sh("kill -KILL $$")},
    "timeout": {"command": sh("sleep 100"), "timeout": "500ms"},
    "strict": {"command": sh("echo in a sandbox; touch /run/sdcron/locks/x || exit 7"), "sandbox": "strict"},
    "strict-user": {"command": sh("cat /run/sdcron/locks/x"), "sandbox": "strict", "user": "daemon"},
    "script": {"script": "#!/bin/sh\necho $# $0 | tr -d '\\n'\n", "interpreter": None},
    "directory": {"command": sh("pwd; echo ${PWD-none} ${OLDPWD-none}"), "directory": "/usr"},
}
OWN = {
    "job", "run_id", "started_at", "finished_at", "duration_s", "cpu_s", "memory_peak_bytes", "job_digest", "exit_code",
}  # fmt: skip


@pytest.mark.timeout(180)
def test_a_lock_changes_nothing_of_a_run_that_gets_it(machine: Machine) -> None:
    prepare_records(machine)
    jobs: dict[str, dict[str, Any]] = {}
    for name, job in PLAIN.items():
        plain = {key: value for key, value in job.items() if value is not None}
        if name == "main":
            plain["command"] = [*plain["command"], name]
        jobs[name] = plain
        locked = {**plain, "command": [*plain["command"][:-1], "main-locked"]} if name == "main" else plain
        jobs[f"{name}-locked"] = {**locked, "lock": [f"of-{name}", "x"], "lock_wait": "1m"}
    apply(machine, jobs)
    found = ran(machine, *jobs)
    assert {len(runs) for runs in found.values()} == {1}
    differences = []
    for name in PLAIN:
        one, other = ({**found[each][0]} for each in (name, f"{name}-locked"))
        other["reason"] = other["reason"].replace("-locked", "")
        for key in ("stdout", "stderr"):
            other[key] = other[key].replace("-locked", "")
            other[f"{key}_bytes"] = one[f"{key}_bytes"] if other[key] == one[key] else other[f"{key}_bytes"]
        differences += [(name, key, one[key], other[key]) for key in one if key not in OWN and one[key] != other[key]]
        assert other["exit_code"] == one["exit_code"], (one, other)
    assert differences == []
    assert found["main"][0]["stdout"] == "is main\n"
    assert found["processes"][0]["stdout"].strip() == "1"
    assert found["fine-locked"][0]["outcome"] == "success"


def test_only_root_may_open_the_lock_of_jobs_that_only_root_runs(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "of-root": {"command": ["/bin/true"], "lock": ["for-root", "for-all"]},
        "of-daemon": {"command": ["/bin/true"], "user": "daemon", "lock": "for-all"},
        "of-root-by-name": {"command": ["/bin/true"], "user": "root", "lock": ["for-root", "for-all"]},
    }
    apply(machine, jobs)
    assert start(machine, *jobs) == 0
    assert start(machine, *jobs) == 0
    modes = machine.run(["stat", "-c", "%a %U %n", LOCKS, f"{LOCKS}/for-root", f"{LOCKS}/for-all"]).stdout
    assert modes.splitlines() == [
        f"755 root {LOCKS}",
        f"600 root {LOCKS}/for-root",
        f"644 root {LOCKS}/for-all",
    ]
    tried = machine.run(["flock", "--nonblock", f"{LOCKS}/for-root", "true"], user="tester", status=None)
    assert "Permission denied" in tried.stderr
    assert tried.returncode != 0


def test_a_file_of_variables_that_is_somebody_elses_does_not_reach_root(machine: Machine) -> None:
    prepare_records(machine)
    machine.write("/home/tester/variables", "LD_DEBUG=files\nLD_DEBUG_OUTPUT=/var/tmp/reached\nA=b\n", owner="tester")
    job: dict[str, Any] = {"user": "tester", "environment_file": "/home/tester/variables", "lock": ["for-tester", "x"]}
    jobs: dict[str, dict[str, Any]] = {
        "with-variables": {**job, "command": sh("echo $A"), "schedule": "@yearly"},
        "with-variables-too": {**job, "command": ["/bin/sleep", "1000"], "when": {"path_missing": "/no/such"}},
    }
    for options in ([], ["--transient"]):
        apply(machine, jobs if not options else {"transient": jobs["with-variables"]}, *options)
        name = "transient" if options else "with-variables"
        assert start(machine, name) == 0
        if not options:
            holding(machine, "with-variables-too")
            assert start(machine, name) == 0
            machine.sdcron("stop", "with-variables-too")
        collect(machine)
        found = by_job(records(machine))[name]
        assert [(run["outcome"], run["stdout"]) for run in found] == [("success", "b\n")] + [("skipped", "")] * (
            not options
        ), found
        owners = set(machine.run(["sh", "-c", "stat -c %U /var/tmp/reached*; rm /var/tmp/reached*"]).stdout.split())
        assert owners == {"tester"}
        machine.sdcron("remove", "--yes", *options, *(jobs if not options else ["transient"]))
    assert machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*@*"]).stdout == ""


def test_a_skipped_run_leaves_no_failed_unit_and_a_lock_can_be_held_by_hand(machine: Machine) -> None:
    prepare_records(machine)
    apply(machine, {"waits": {"command": ["/bin/true"], "lock": "by-hand", "retry": "1s"}})
    start(machine, "waits")
    # Whoever replaces the file takes no lock from anybody: it stays what it is.
    before = machine.run(["stat", "-c", "%i", f"{LOCKS}/by-hand"]).stdout
    code = machine.run(
        ["flock", f"{LOCKS}/by-hand", "systemctl", "start", "sdcron-waits.service"], status=None
    ).returncode
    assert code == 0
    shown = machine.show("sdcron-waits.service", "ActiveState", "SubState", "Result", "ExecMainStatus")
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    collect(machine)
    found = by_job(records(machine))["waits"]
    assert [(run["outcome"], run["reason"]) for run in found] == [("success", ""), ("skipped", "lock by-hand is held")]
    assert machine.run(["stat", "-c", "%i", f"{LOCKS}/by-hand"]).stdout == before
    code = machine.sdcron("run", "waits", "--wait").returncode
    assert code == 0


@pytest.mark.parametrize("sandbox", ["none", "strict"])
def test_a_users_own_jobs_have_locks_of_their_own(machine: Machine, sandbox: str) -> None:
    user = "tester"
    machine.start_user_manager(user)
    prepare_records(machine)
    fresh_journal(machine)
    job = {"sandbox": sandbox, "lock": [f"own-{sandbox}"]}
    jobs = {
        f"holds-{sandbox}": {**job, "command": ["/bin/sleep", "1000"]},
        f"skips-{sandbox}": {**job, "command": ["/bin/true"]},
        f"late-{sandbox}": {**job, "command": ["/bin/true"], "lock_wait": "400ms", "retry": "1s"},
        f"gets-{sandbox}": {**job, "command": sh("echo got it"), "lock_wait": "1m"},
    }
    apply(machine, jobs, user=user)
    holding(machine, f"holds-{sandbox}", user)
    assert start(machine, f"skips-{sandbox}", f"late-{sandbox}", user=user) == 0
    start(machine, f"gets-{sandbox}", wait=False, user=user)
    machine.sdcron("stop", "--user", f"holds-{sandbox}", user=user)
    assert start(machine, f"gets-{sandbox}", user=user) == 0
    collect(machine, user)
    found = by_job(records(machine, user))
    for name in (f"skips-{sandbox}", f"late-{sandbox}"):
        assert [(run["outcome"], run["reason"]) for run in found[name]] == [("skipped", f"lock own-{sandbox} is held")]
    assert found[f"gets-{sandbox}"][0]["stdout"] == "got it\n"
    machine.sdcron("remove", "--user", *jobs, "--yes", user=user, status=None)


def test_a_transient_job_has_its_locks(machine: Machine) -> None:
    prepare_records(machine)
    job = {"lock": ["a", "b"], "lock_wait": "30s"}
    apply(machine, {"watched": {**job, "command": ["/bin/echo", "watched"], "schedule": "@yearly"}}, "--transient")
    assert machine.run(["systemctl", "start", "sdcron-watched.service"], status=None).returncode == 0
    machine.run(["flock", f"{LOCKS}/a", "true"])
    code = machine.run(
        ["flock", f"{LOCKS}/b", "timeout", "2", "systemctl", "start", "sdcron-watched.service"], status=None
    ).returncode
    assert code == 124
    until(lambda: machine.show("sdcron-watched.service", "ActiveState")["ActiveState"] == "inactive", 20, "it is over")
    collect(machine)
    assert [run["stdout"] for run in by_job(records(machine))["watched"]] == ["watched\n"] * 2
