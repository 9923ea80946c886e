"""What `stop` ends on real systemd, and what it leaves alone."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from tests.machine import until
from tests.system.jobs import apply, service, start

if TYPE_CHECKING:
    from tests.machine import Machine

FOREIGN = "/etc/systemd/system/sdcron-foreign.service"
SLOW = "/etc/systemd/system/slow.service"


def state(machine: Machine, unit: str) -> str:
    return machine.run(["systemctl", "show", "-P", "ActiveState", unit]).stdout.strip()


def runs(machine: Machine, name: str) -> bool:
    return state(machine, service(name)) == "activating"


def jobs_of(machine: Machine) -> str:
    """What systemd has yet to do."""
    return machine.run(["systemctl", "list-jobs", "--no-legend"]).stdout


def test_a_start_that_waits_is_suspended_and_waits_again_once_all_is_resumed(machine: Machine) -> None:
    machine.write(SLOW, "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 600\n")
    machine.run(["systemctl", "daemon-reload"])
    behind = {"systemd": {"unit": {"Wants": "slow.service", "After": "slow.service"}}}
    apply(machine, {"waits": {"command": ["/usr/bin/sleep", "600"], "resumable": True, **behind}})
    start(machine, "waits", wait=False)
    try:
        assert "waits is stopped" in machine.sdcron("suspend").stdout
        assert service("waits") not in jobs_of(machine)
        # It is started, and nobody waits for what it waits for.
        assert json.loads(machine.sdcron("resume", "--all", "--json").stdout)["started"] == ["waits"]
        assert service("waits") in jobs_of(machine)
        assert json.loads(machine.sdcron("resume", "--all", "--json").stdout)["started"] == []
    finally:
        machine.sdcron("stop", "--all")
        machine.run(["systemctl", "stop", "slow.service"])
        machine.run(["rm", "-f", SLOW])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "reset-failed"], status=None)


def test_all_that_is_stopped_are_sdcrons_jobs_and_starts_that_wait(machine: Machine) -> None:
    lasting = "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 600\n"
    for path in (FOREIGN, SLOW):
        machine.write(path, lasting)
    machine.run(["systemctl", "daemon-reload"])
    sleeps = {"command": ["/usr/bin/sleep", "600"]}
    behind = {"systemd": {"unit": {"Wants": "slow.service", "After": "slow.service"}}}
    apply(machine, {"runs": sleeps, "waits": {**sleeps, **behind}, "gone": sleeps, "idle": sleeps})
    start(machine, "foreign", "runs", "waits", "gone", wait=False)
    machine.sdcron("remove", "--yes", "gone")
    try:
        for name in ("foreign", "runs", "gone"):
            until(partial(runs, machine, name), 30, f"{name} runs")
        assert service("waits") in jobs_of(machine)
        pid = machine.run(["systemctl", "show", "-P", "MainPID", "sdcron-collector.service"]).stdout.strip()
        refused = machine.sdcron("stop", pid, status=2).stderr
        assert refused.startswith(f"sdcron: process {pid} is of no run of sdcron's\n  hint: ")
        told = machine.sdcron("stop", "--all").stdout
        assert told.splitlines() == ["gone is stopped", "runs is stopped", "waits is stopped"]
        # What has no file any more is forgotten as it ends.
        states = [state(machine, service(name)) for name in ("runs", "gone", "waits")]
        assert states == ["failed", "inactive", "inactive"]
        assert service("waits") not in jobs_of(machine)
        assert state(machine, service("foreign")) == "activating"
        assert state(machine, "sdcron-collector.service") == "active"
        assert machine.sdcron("stop", "--all").stderr == "nothing runs\n"
    finally:
        machine.run(["systemctl", "stop", "slow.service", service("foreign")])
        machine.run(["rm", "-f", FOREIGN, SLOW])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "reset-failed"], status=None)
