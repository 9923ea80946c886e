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
