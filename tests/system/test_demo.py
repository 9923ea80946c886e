"""`make run` on machines that run systemd, as root and as a user, and without: it shows jobs firing, and cleans up."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT, CHECKOUT_INSIDE, RELEASES

if TYPE_CHECKING:
    from tests.machine import Machine

DEMO = ["python3", "-m", "tests.demo"]


def files_below(machine: Machine, *directories: str) -> str:
    """Every file and link of sdcron's with its target, to compare before and after; a directory may be absent."""
    found = machine.run(["find", *directories, "-name", "*sdcron-*", "-printf", "%p %y %l\\n"], status=None)
    return "".join(sorted(found.stdout.splitlines(keepends=True)))


def test_the_demonstration_uses_the_machines_systemd_and_removes_what_it_applied(machine: Machine) -> None:
    before = files_below(machine, "/etc/systemd", "/var/lib/systemd/timers")
    output = machine.run(DEMO, cwd=CHECKOUT_INSIDE, timeout=100).stdout
    assert output.count("hello from sdcron\n") >= 2
    assert "sdcron-database-dump.timer" in output
    assert files_below(machine, "/etc/systemd", "/var/lib/systemd/timers") == before


def test_the_demonstration_uses_a_users_own_service_manager(fresh_machine: Machine) -> None:
    fresh_machine.start_user_manager()
    output = fresh_machine.run(DEMO, cwd=CHECKOUT_INSIDE, user="tester", timeout=100).stdout
    assert output.count("hello from sdcron\n") >= 2
    assert ".timer" not in files_below(fresh_machine, "/home/tester")


@pytest.mark.parametrize("release", RELEASES[:1], indirect=True, ids=["any"])
@pytest.mark.usefixtures("release")
def test_the_demonstration_boots_a_machine_where_no_systemd_runs() -> None:
    command = [sys.executable, "-m", "tests.demo", "machine"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("hello from sdcron\n") >= 2
