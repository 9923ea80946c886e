"""Paused jobs on real systemd: what somebody does to their timers, and their retries. The rest is in the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.machine import until
from tests.system.jobs import JOBS, apply, start
from tests.system.records import shell

if TYPE_CHECKING:
    from tests.machine import Machine


def active(machine: Machine, *units: str) -> list[str]:
    """Those of these units that are."""
    return [
        unit for unit in units if machine.run(["systemctl", "is-active", "--quiet", unit], status=None).returncode == 0
    ]


def test_a_timer_of_a_paused_job_that_somebody_starts_is_stopped_by_the_next_apply_or_pause(machine: Machine) -> None:
    apply(machine, {"kept": {"schedule": "@yearly", "command": ["/bin/true"]}, "other": {"command": ["/bin/true"]}})
    machine.sdcron("pause", "kept")
    machine.sdcron("apply", JOBS)
    for again in (["apply", JOBS], ["pause", "kept"]):
        machine.run(["systemctl", "start", "sdcron-kept.timer"])
        assert "~ change kept" in machine.sdcron("plan", JOBS).stdout
        machine.sdcron(*again)
        assert active(machine, "sdcron-kept.timer") == []
    assert "nothing to do" in machine.sdcron("plan", JOBS).stdout
    machine.sdcron("resume", "kept")
    assert active(machine, "sdcron-kept.timer") == ["sdcron-kept.timer"]


def test_a_start_that_waits_does_not_begin_once_its_job_is_paused_or_removed(machine: Machine) -> None:
    gate = "until [ -e /tmp/gate-open ]; do sleep 0.1; done"
    text = f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '{gate}'\n"
    machine.write("/etc/systemd/system/gate.service", text)
    machine.run(["rm", "-f", "/tmp/gate-open"])
    waits = {"when": {"units": "gate.service", "else": "wait"}, "command": shell("touch /tmp/ran-$0")}
    jobs = {name: {**waits, "command": [*waits["command"], name]} for name in ("rests", "gone", "goes-on", "asked")}
    apply(machine, {**jobs, "asked": {**jobs["asked"], "after": "goes-on"}})
    machine.run(["sh", "-c", "rm -f /tmp/ran-*"])
    start(machine, *jobs, wait=False)
    machine.run(["sh", "-c", "echo >/var/lib/sdcron/graph/asked/due"])

    def waiting() -> set[str]:
        lines = machine.run(["systemctl", "list-jobs", "--no-legend", "sdcron-*"]).stdout.splitlines()
        return {line.split()[1].removeprefix("sdcron-").removesuffix(".service") for line in lines}

    until(lambda: waiting() >= jobs.keys(), 20, "all of them wait")
    machine.sdcron("pause", "rests", "asked")
    machine.sdcron("remove", "--yes", "gone")
    assert waiting().isdisjoint({"rests", "asked", "gone"})
    assert not machine.exists("/var/lib/sdcron/graph/asked/due")
    machine.run(["touch", "/tmp/gate-open"])
    until(lambda: machine.exists("/tmp/ran-goes-on"), 20, "the other begins")
    until(lambda: waiting() == set(), 20, "nothing waits")
    assert machine.run(["sh", "-c", "ls /tmp/ran-*"]).stdout.split() == ["/tmp/ran-goes-on"]
    assert machine.run(["systemctl", "list-units", "--all", "--no-legend", "sdcron-gone*"]).stdout == ""
    machine.run(["systemctl", "stop", "gate.service"])


def test_what_was_to_take_the_place_of_a_run_is_given_up_by_a_pause(machine: Machine) -> None:
    stubborn = "trap : TERM; echo run >>/tmp/replaced; until [ -e /tmp/let-go ]; do sleep 0.1; done"
    apply(machine, {"replaced": {"command": shell(stubborn), "overlap": "replace", "schedule": "@yearly"}})
    machine.run(["rm", "-f", "/tmp/replaced", "/tmp/let-go"])
    start(machine, "replaced", wait=False)
    until(lambda: machine.exists("/tmp/replaced"), 20, "it runs")
    machine.run(["systemctl", "start", "sdcron-replaced@tick.service"])

    def state() -> str:
        return machine.show("sdcron-replaced.service", "ActiveState")["ActiveState"]

    until(lambda: state() == "deactivating", 20, "it is being ended")
    machine.sdcron("pause", "replaced")
    machine.run(["touch", "/tmp/let-go"])
    until(lambda: state() in ("inactive", "failed"), 20, "it is over")
    assert machine.run(["systemctl", "list-jobs", "--no-legend", "sdcron-*"]).stdout == ""
    assert machine.read("/tmp/replaced") == "run\n"


def test_a_pause_ends_the_series_of_retries_so_that_the_next_failure_has_all_of_its_own(machine: Machine) -> None:
    jobs = {"fails": {"command": shell("exit 1"), "retry": {"delay": "1h", "attempts": 2}}}
    apply(machine, jobs)
    start(machine, "fails")
    until(lambda: active(machine, "sdcron-fails@retry-1.timer"), 20, "a retry waits")
    machine.sdcron("pause", "fails")
    assert active(machine, "sdcron-fails@retry-1.timer") == []
    start(machine, "fails")
    machine.sdcron("resume", "fails")
    assert json.loads(machine.sdcron("status", "fails", "--json").stdout)["state"] == "failed"
    start(machine, "fails")
    until(lambda: active(machine, "sdcron-fails@retry-1.timer"), 20, "the first retry waits again")
    assert active(machine, "sdcron-fails@retry-2.timer") == []
