"""The rig itself: what the other tests on machines rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT, CHECKOUT_INSIDE, Machine, MachineError, until

if TYPE_CHECKING:
    from tests.rootfs import Release

HOSTILE = "a b\t'\"\\ $HOME %n \u00e9\U0001f600\n"


def processes_of(name: str) -> list[str]:
    """Command lines on this machine that mention a test machine's name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if name in line:
            found.append(line)
    return found


def test_the_machine_runs_the_systemd_of_its_release_without_failed_units(machine: Machine) -> None:
    version = machine.run(["systemctl", "--version"]).stdout
    assert version.startswith(f"systemd {machine.release.systemd} ")
    assert machine.run(["systemctl", "is-system-running"]).stdout == "running\n"


def test_a_command_gets_its_arguments_input_and_environment_unchanged(machine: Machine) -> None:
    script = "import os, sys; sys.stdout.write(sys.argv[1] + sys.stdin.read() + os.environ['X'])"
    ended = machine.run(["python3", "-c", script, HOSTILE], input=HOSTILE, env={"X": HOSTILE})
    assert ended.stdout == HOSTILE * 3


def test_a_command_that_takes_too_long_is_ended_with_its_children(machine: Machine) -> None:
    with pytest.raises(MachineError, match=r"did not end within 0.2 s"):
        machine.run(["sh", "-c", "sleep 4242 & wait"], timeout=0.2)
    assert "sleep 4242" not in machine.run(["ps", "-e", "-o", "args="]).stdout


def test_an_unexpected_exit_status_is_an_error_that_shows_the_output(machine: Machine) -> None:
    with pytest.raises(MachineError, match=r"exited 3, not 0(.|\n)*went wrong"):
        machine.run(["sh", "-c", "echo went wrong >&2; exit 3"])
    assert machine.run(["sh", "-c", "exit 3"], status=3).returncode == 3


def test_files_arrive_with_their_text_mode_and_owner(machine: Machine) -> None:
    machine.write_files({"/tmp/rig/a b": HOSTILE, "/tmp/rig/sub/c": ""}, mode=0o640, owner="tester")
    assert machine.read("/tmp/rig/a b") == HOSTILE
    assert machine.run(["stat", "-c", "%U %a %s", "/tmp/rig/sub/c"]).stdout == "tester 640 0\n"
    assert machine.exists("/tmp/rig/sub/c")
    assert not machine.exists("/tmp/rig/sub/d")


def test_the_checkout_is_there_and_cannot_be_changed(machine: Machine) -> None:
    assert machine.read(f"{CHECKOUT_INSIDE}/pyproject.toml") == (CHECKOUT / "pyproject.toml").read_text()
    machine.run(["touch", f"{CHECKOUT_INSIDE}/pyproject.toml"], status=1)


def test_the_journal_and_properties_of_a_unit_can_be_read(machine: Machine) -> None:
    machine.run(["systemd-run", "--wait", "--unit=rig-hello", "echo", "hello"])
    assert "hello" in [entry["MESSAGE"] for entry in machine.journal("--unit=rig-hello")]
    assert machine.show("init.scope", "ActiveState", "Id") == {"ActiveState": "active", "Id": "init.scope"}


def test_reset_leaves_nothing_of_sdcron(machine: Machine) -> None:
    units = {
        "/etc/systemd/system/sdcron-a.timer": "[Timer]\nOnCalendar=*-*-* *:*:*\nPersistent=true\n",
        "/etc/systemd/system/sdcron-a.service": "[Service]\nExecStart=/bin/false\n",
        "/etc/systemd/system/other.service": "[Service]\nExecStart=/bin/true\n",
    }
    machine.write_files(units)
    machine.run(["systemctl", "start", "sdcron-a.timer"])
    until(lambda: machine.show("sdcron-a.service", "ActiveState")["ActiveState"] == "failed", 10, "a failed run")
    machine.reset()
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    stamps = machine.run(["find", "/var/lib/systemd/timers", "-name", "stamp-sdcron-*"]).stdout
    assert (listed, stamps) == ("", "")
    assert not machine.exists("/etc/systemd/system/sdcron-a.timer")
    assert machine.exists("/etc/systemd/system/other.service")
    machine.run(["rm", "/etc/systemd/system/other.service"])


def test_the_disk_survives_a_shutdown_and_a_power_cut_and_nothing_else_does(fresh_machine: Machine) -> None:
    fresh_machine.write_files({"/root/kept": "1", "/run/lost": "1"})
    fresh_machine.poweroff()
    fresh_machine.boot()
    assert fresh_machine.exists("/root/kept")
    assert not fresh_machine.exists("/run/lost")
    fresh_machine.write("/root/too", "2")
    fresh_machine.kill()
    with pytest.raises(MachineError, match=r"is off"):
        fresh_machine.run(["true"])
    fresh_machine.boot()
    assert fresh_machine.read("/root/kept") + fresh_machine.read("/root/too") == "12"


def test_a_user_has_a_service_manager_of_their_own(fresh_machine: Machine) -> None:
    fresh_machine.start_user_manager()
    assert fresh_machine.run(["id", "-un"], user="tester").stdout == "tester\n"
    assert fresh_machine.show("default.target", "ActiveState", user="tester") == {"ActiveState": "active"}


def test_systemd_follows_a_change_of_time_zone(fresh_machine: Machine) -> None:
    fresh_machine.set_zone("Asia/Kolkata")
    assert "+0530" in fresh_machine.run(["date", "+%z"]).stdout
    until(
        lambda: "Asia/Kolkata" in fresh_machine.run(["timedatectl", "show", "--property=Timezone"]).stdout,
        10,
        "timedated knows the zone",
    )


def test_a_machine_that_does_not_boot_shows_its_console(release: Release) -> None:
    with Machine(release, boot=False) as machine:
        init = machine.disk / "usr/lib/systemd/systemd"
        init.unlink()
        init.write_text("#!/bin/sh\necho no init today\nexit 1\n")
        init.chmod(0o755)
        with pytest.raises(MachineError, match=r"went off while booting(.|\n)*no init today"):
            machine.boot()


def test_two_machines_of_one_release_do_not_touch_each_other(release: Release) -> None:
    with Machine(release) as one, Machine(release) as other:
        one.write("/root/mine", "")
        one.run(["systemd-run", "--unit=rig-mine", "sleep", "600"])
        assert not other.exists("/root/mine")
        assert other.show("rig-mine.service", "LoadState")["LoadState"] == "not-found"
        other.poweroff()
        assert one.show("rig-mine.service", "ActiveState")["ActiveState"] == "active"


def test_a_closed_machine_leaves_no_process_mount_or_file(release: Release) -> None:
    with Machine(release) as machine:
        name = machine.name
        assert processes_of(name)
    assert processes_of(name) == []
    assert name not in Path("/proc/self/mountinfo").read_text()


def test_a_killed_test_run_leaves_no_process_behind(release: Release) -> None:
    script = (
        "import sys\nfrom tests.machine import *\n"
        f"machine = Machine([r for r in RELEASES if r.suite == {release.suite!r}][0])\n"
        "machine.__enter__()\nprint(machine.name, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout
        name = run.stdout.readline().strip()
        assert name
        assert processes_of(name)
        run.kill()
    until(lambda: not processes_of(name), 10, f"every process of {name} is gone")
