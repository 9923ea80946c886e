"""Apply on a booted machine, killed and failing at every step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.system.watch import RAN, write_jobs

if TYPE_CHECKING:
    from tests.machine import Machine

# Two states of one directory.
FIRST = {
    "same": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/same\n",
    "schedule": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/schedule\n",
    "command": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/command\nretry: {delay: 5m, attempts: 1}\n",
    "script": "schedule: 0 3 1 1 *\nscript: touch /root/ran/script\nmissed: skip\n",
    "gone": "schedule: 0 3 1 1 *\nscript: touch /root/ran/gone\nretry: {delay: 5m, attempts: 1}\n",
    "at-boot": "schedule: '@reboot'\ncommand: touch /root/ran/at-boot\n",
    "kind": "schedule: '@reboot'\ncommand: touch /root/ran/kind\n",
}
SECOND = {
    "same": FIRST["same"],
    "schedule": "schedule: 0 4 1 1 *\ncommand: touch /root/ran/schedule\n",
    "command": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/command x\nretry: {delay: 6m, attempts: 2}\n",
    "script": "schedule: 0 3 1 1 *\nscript: touch /root/ran/script x\nmissed: skip\n",
    "at-boot": "schedule: ['@reboot', 0 9 1 1 *]\ncommand: touch /root/ran/at-boot\n",
    "kind": "schedule: 0 0 1 1 *\ncommand: touch /root/ran/kind\n",
    "new": "command: touch /root/ran/new\nenabled: false\n",
}


def as_one_file(jobs: dict[str, str]) -> dict[str, str]:
    """One job file: systemd takes a unit for out of date while the file of its SourcePath= is away."""
    texts = (f"  {name}:\n" + "".join(f"    {line}\n" for line in text.splitlines()) for name, text in jobs.items())
    return {"jobs": "jobs:\n" + "".join(texts)}


def go_through_all_steps(machine: Machine, how: str, steps: int) -> None:
    write_jobs(machine, as_one_file(FIRST), "/root/first")
    write_jobs(machine, as_one_file(SECOND), "/root/second")
    command = ["python3", "-m", "tests.system.fault_driver", how, "/root/first", "/root/second", RAN]
    told = json.loads(machine.run(command, timeout=150).stdout)
    assert told["problems"] == []
    # A step is a change of a file or a call to systemd; if far fewer are seen, the watch is broken.
    assert told["steps"] > steps


@pytest.mark.timeout(200)
def test_after_a_kill_at_any_step_the_next_apply_reaches_the_same_end_and_no_unit_is_half_written(
    machine: Machine,
) -> None:
    go_through_all_steps(machine, "kill", 120)


@pytest.mark.timeout(200)
def test_after_a_failure_at_any_step_everything_is_as_it_was(machine: Machine) -> None:
    go_through_all_steps(machine, "fail", 120)


@pytest.mark.timeout(200)
def test_after_ctrl_c_everything_is_as_it_was(machine: Machine) -> None:
    go_through_all_steps(machine, "interrupt", 20)
