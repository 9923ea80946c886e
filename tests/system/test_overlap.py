"""`overlap` on booted systemd: many ticks at once, edits between its kinds, and nothing that stays behind."""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.overlap import slot_of
from tests.machine import until
from tests.system.jobs import apply
from tests.system.watch import JOBS, RAN, forget_runs, has_run, write_jobs

if TYPE_CHECKING:
    from tests.machine import Machine

KINDS = {
    "skip": "",
    "queue": "overlap: queue\n",
    "allow": "overlap: allow\nmax_parallel: 3\n",
    "replace": "overlap: replace\n",
}
SINCE = "/root/since"
#: As fast as systemd takes them.
HUNDRED = "for i in $(seq 100); do systemctl start sdcron-job@tick.service || exit 1; done"


def job(seconds: float, more: str = "") -> dict[str, str]:
    """A job that leaves a line for each of its runs, and lasts."""
    return {"job": f"command: sh -c 'echo run >>{RAN}/job; sleep {seconds}'\nschedule: '@yearly'\n{more}"}


def count(machine: Machine) -> int:
    """How many runs have begun."""
    return len(machine.read(f"{RAN}/job").splitlines()) if machine.exists(f"{RAN}/job") else 0


def records(machine: Machine) -> list[dict[str, Any]]:
    """Those since the last `begin`, the oldest first."""
    since = machine.read(SINCE).strip()
    told = machine.sdcron("history", "job", "--json", "-n", "0", "--since", since).stdout
    found: list[dict[str, Any]] = json.loads(told)
    return found[::-1]


def begin(machine: Machine) -> None:
    """Forget what has run before."""
    forget_runs(machine)
    machine.write(SINCE, machine.run(["date", "+%Y-%m-%dT%H:%M:%S.%6N+00:00"]).stdout)


def in_memory(machine: Machine) -> list[str]:
    """The units of the job that systemd has."""
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-job*"]).stdout
    return sorted(line.split()[0] for line in listed.splitlines())


def is_active(machine: Machine, unit: str) -> bool:
    return machine.show(unit, "ActiveState")["ActiveState"] in ("activating", "active", "deactivating")


def applied(machine: Machine, seconds: float, more: str) -> None:
    write_jobs(machine, job(seconds, more))
    machine.sdcron("apply", JOBS)


def test_a_hundred_ticks_while_a_run_is_on_are_one_that_waits(machine: Machine) -> None:
    applied(machine, 12, KINDS["queue"])
    begin(machine)
    machine.run(["systemctl", "start", "--no-block", "sdcron-job.service"])
    until(lambda: count(machine) == 1, 20, "the first runs")
    machine.run(["sh", "-c", HUNDRED])
    assert count(machine) == 1, "the machine is too slow for this test"
    jobs = machine.run(["systemctl", "list-jobs", "--no-legend", "sdcron-job*"]).stdout.splitlines()
    assert len(jobs) == 2, jobs
    until(lambda: count(machine) == 2, 30, "the second runs")
    machine.run(["systemctl", "stop", "sdcron-job.service"])
    until(lambda: len(records(machine)) == 2, 20, "both are on record")
    assert count(machine) == 2
    assert not machine.exists("/var/lib/sdcron/queued/job")


def test_a_tick_that_comes_while_the_waiting_run_begins_is_not_lost(machine: Machine) -> None:
    applied(machine, 0.3, KINDS["queue"])
    begin(machine)
    machine.run(["sh", "-c", HUNDRED])
    machine.run(["systemctl", "start", "--no-block", "sdcron-job@tick.service"])

    def is_over() -> bool:
        waiting = machine.run(["systemctl", "list-jobs", "--no-legend", "sdcron-job*"]).stdout
        return not waiting and not machine.exists("/var/lib/sdcron/queued/job")

    until(is_over, 20, "all is over")
    told = machine.journal("_PID=1", "UNIT=sdcron-job@tick.service")
    ticks = [int(str(entry["_SOURCE_REALTIME_TIMESTAMP"])) for entry in told if "Starting" in str(entry["MESSAGE"])]

    def began_after_the_last() -> bool:
        return datetime.fromisoformat(records(machine)[-1]["started_at"]).timestamp() > max(ticks) / 1e6

    # It may be over and not yet on record.
    until(began_after_the_last, 20, "a run has begun after the last tick")


def test_as_many_run_as_may_and_idle_services_are_not_in_memory(machine: Machine) -> None:
    applied(machine, 8, "overlap: allow\nmax_parallel: 4\n")
    begin(machine)
    idle = ["sdcron-job.service", "sdcron-job.timer", "sdcron-job@tick.service"]
    assert in_memory(machine) == idle
    machine.run(["sh", "-c", HUNDRED.replace("100", "20")])
    until(lambda: count(machine) == 4, 20, "four run")
    until(lambda: len(records(machine)) >= 4, 40, "they are on record")
    first = records(machine)[:4]
    assert max(run["started_at"] for run in first) < min(run["finished_at"] for run in first)
    machine.sdcron("stop", "job", status=None)
    until(lambda: in_memory(machine) == idle, 20, "what is idle leaves memory")


def test_a_run_for_an_instant_counts_and_has_what_systemctl_edit_added(machine: Machine) -> None:
    applied(machine, 600, "overlap: allow\nmax_parallel: 2\n")
    begin(machine)
    override = "[Service]\nEnvironment=ADDED=by-hand\nNice=7\n"
    machine.write("/etc/systemd/system/sdcron-job.service.d/override.conf", override)
    machine.run(["systemctl", "daemon-reload"])
    run_id = machine.sdcron("run", "job", "--for", "2026-01-01").stdout.strip()
    until(lambda: count(machine) == 1, 20, "it runs")
    [unit] = [name for name in in_memory(machine) if slot_of(name)[1] > 1]
    assert machine.show(unit, "Nice", "Environment")["Nice"] == "7"
    assert "ADDED=by-hand" in machine.show(unit, "Environment")["Environment"]
    for _ in range(3):
        machine.run(["systemctl", "start", "sdcron-job@tick.service"])
    until(lambda: count(machine) == 2, 20, "another runs beside it, and no third")
    services = ("sdcron-job.service", "sdcron-job@2.service")
    assert list(map(partial(is_active, machine), services)) == [True, False]
    machine.run(["rm", "-r", "/etc/systemd/system/sdcron-job.service.d"])
    machine.sdcron("stop", run_id)
    machine.sdcron("stop", "job")


@pytest.mark.timeout(300)
def test_edits_between_the_kinds_run_nothing_end_nothing_and_leave_nothing(machine: Machine) -> None:
    kinds = ["skip", "queue", "allow", "replace", "queue", "skip", "allow", "skip", "replace", "allow", "queue"]
    for busy in (False, True):
        applied(machine, 600, KINDS["queue"])
        begin(machine)
        if busy:
            machine.run(["systemctl", "start", "--no-block", "sdcron-job.service"])
            until(lambda: count(machine) == 1, 20, "it runs")
            # This one waits, and is given up by the first edit.
            machine.run(["systemctl", "start", "sdcron-job@tick.service"])
            assert machine.exists("/var/lib/sdcron/queued/job")
        for kind in kinds:
            applied(machine, 600, KINDS[kind])
            assert count(machine) == busy, kind
            assert is_active(machine, "sdcron-job.service") == busy, kind
            assert not machine.exists("/var/lib/sdcron/queued")
            assert "nothing to do" in machine.sdcron("apply", JOBS).stdout
            shown = machine.show("sdcron-job.timer", "Unit", "NeedDaemonReload", "ActiveState")
            target = "sdcron-job.service" if kind == "skip" else "sdcron-job@tick.service"
            assert shown == {"Unit": target, "NeedDaemonReload": "no", "ActiveState": "active"}, kind
        # The last one queues.
        if busy:
            machine.run(["systemctl", "start", "sdcron-job@tick.service"])
        machine.sdcron("remove", "job", "--yes", status=None)
        assert is_active(machine, "sdcron-job.service") == busy
        machine.run(["systemctl", "stop", "sdcron-job.service"], status=None)
        until(lambda: in_memory(machine) == [], 20, "nothing is in memory")
        left = machine.run(["find", "/etc/systemd/system", "/var/lib/sdcron", "-name", "*job*"]).stdout.split()
        assert [path for path in left if "/runs/" not in path] == []
        assert not machine.exists("/var/lib/sdcron/queued")
        assert len(has_run(machine)) == busy


def test_an_edit_that_leaves_the_times_leaves_what_waits_and_it_runs_as_edited(machine: Machine) -> None:
    applied(machine, 600, KINDS["queue"])
    begin(machine)
    machine.run(["systemctl", "start", "--no-block", "sdcron-job.service"])
    until(lambda: count(machine) == 1, 20, "it runs")
    machine.run(["systemctl", "start", "sdcron-job@tick.service"])
    applied(machine, 0, KINDS["queue"] + "description: edited\n")
    assert machine.exists("/var/lib/sdcron/queued/job")
    assert count(machine) == 1
    machine.run(["systemctl", "stop", "sdcron-job.service"])
    until(lambda: len(records(machine)) == 2, 20, "what waited has run, and at once was over")
    assert [run["outcome"] for run in records(machine)] == ["killed", "success"]


def test_runs_of_a_job_that_allows_fewer_now_go_on_and_can_be_stopped(machine: Machine) -> None:
    applied(machine, 600, KINDS["allow"])
    begin(machine)
    machine.run(["sh", "-c", HUNDRED.replace("100", "3")])
    until(lambda: count(machine) == 3, 20, "three run")
    applied(machine, 600, KINDS["skip"])
    assert len(json.loads(machine.sdcron("status", "job", "--json").stdout)["running_ids"]) == 3
    machine.sdcron("stop", "job")
    until(lambda: len(records(machine)) == 3, 20, "they are on record")
    assert {run["outcome"] for run in records(machine)} == {"killed"}
    until(lambda: in_memory(machine) == ["sdcron-job.service", "sdcron-job.timer"], 20, "what is gone leaves memory")


def test_jobs_of_a_user_queue_and_run_beside_each_other_too(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.start_user_manager()
    lasts = {"command": ["/bin/sh", "-c", "echo on; sleep 600"]}
    apply(
        machine,
        {
            "queues": {"overlap": "queue", **lasts},
            "beside": {"overlap": "allow", "max_parallel": 2, **lasts},
            "replaces": {"overlap": "replace", **lasts},
        },
        user="tester",
    )

    def ask(*words: str, status: int | None = 0) -> str:
        return machine.sdcron(words[0], "--user", *words[1:], user="tester", status=status).stdout.strip()

    first = ask("run", "queues")
    assert ask("run", "queues") == "a run of queues waits for the end of the one that is on"
    assert machine.exists("/home/tester/.local/state/sdcron/queued/queues")
    beside = {ask("run", "beside"), ask("run", "beside")}
    assert len(beside) == 2
    old, new = ask("run", "replaces"), ask("run", "replaces")
    assert old != new
    ask("stop", first)
    until(lambda: json.loads(ask("status", "queues", "--json"))["running_id"] not in (None, first), 20, "the next runs")
    assert {*json.loads(ask("status", "beside", "--json"))["running_ids"]} == beside
    ask("stop", "--all")
    found = {run["run_id"]: run["reason"] for run in json.loads(ask("history", "--json"))}
    assert found.pop(old) == "replaced by the next run"
    assert len(found) == 5
    assert set(found.values()) == {"stopped by an administrator"}
    assert not machine.exists("/home/tester/.local/state/sdcron/queued/queues")
    ask("remove", "--yes", "queues", "beside", "replaces")
    listed = machine.run(["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend"], user="tester").stdout
    assert "sdcron-" not in listed
