"""The drop-in directories on machines that have the package: applied, booted, brought and taken by other packages."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import RELEASES, MachineError, until
from tests.packaged import installed
from tests.system.test_package import PLAIN, package_of, sdcron

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.rootfs import Release

ETC, RUN, USR = "/etc/sdcron/jobs.d", "/run/sdcron/jobs.d", "/usr/lib/sdcron/jobs.d"
DAILY = "schedule: '@daily'\ncommand: /bin/true\n"
#: A package that brings a job file, and one for administrators to edit.
OTHER = """
set -e
cd "$(mktemp -d)"
mkdir -p other/DEBIAN other/usr/lib/sdcron/jobs.d other/etc/sdcron/jobs.d
printf 'Package: other\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\n' \
    >other/DEBIAN/control
echo /etc/sdcron/jobs.d/own.yaml >other/DEBIAN/conffiles
printf "schedule: '* * * * * *'\\ncommand: echo from the package\\n" >other/usr/lib/sdcron/jobs.d/brought.yaml
printf "schedule: '@daily'\\ncommand: /bin/true\\n" >other/etc/sdcron/jobs.d/own.yaml
dpkg-deb --build --root-owner-group other /var/tmp/other.deb
"""


def timers(machine: Machine) -> list[str]:
    """Those of sdcron's jobs that wait."""
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--type=timer", "--state=active", "sdcron-*"]
    return sorted(line.split()[0] for line in machine.run(command).stdout.splitlines())


def fragment(machine: Machine, unit: str) -> str:
    """Where a unit comes from."""
    return machine.show(unit, "FragmentPath")["FragmentPath"]


def began(machine: Machine, unit: str) -> int:
    """When it was active first, in microseconds since the machine was switched on."""
    return int(machine.show(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])


def applied_at_boot(machine: Machine) -> str:
    """What sdcron.service has said in this boot."""
    return machine.run(["journalctl", "-b", "-q", "-u", "sdcron.service", "-o", "cat"]).stdout


@pytest.mark.timeout(600)
def test_what_is_dropped_in_is_applied_and_comes_back_with_every_boot(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        machine.write(f"{USR}/hidden.yaml", DAILY)
        machine.write(f"{ETC}/hidden.yaml", "")
        machine.write(f"{ETC}/often.yaml", "schedule: '*/2 * * * * *'\ncommand: echo hello\n")
        machine.write(f"{ETC}/script.yaml", "schedule: '@daily'\nscript: echo a script\n")
        assert "+ add often" in sdcron(machine, "apply")
        assert "nothing to do: 2 unchanged" in sdcron(machine, "apply")
        assert fragment(machine, "sdcron-often.timer") == "/run/systemd/generator/sdcron-often.timer"
        until(lambda: "hello" in sdcron(machine, "logs", "often"), 30, "it has run")
        assert json.loads(sdcron(machine, "history", "--json"))[0]["trigger"] == "schedule"
        listed = sdcron(machine, "list")
        assert f"{ETC}/often.yaml" in listed
        assert "hidden" not in listed
        waiting = ["sdcron-often.timer", "sdcron-script.timer"]
        assert timers(machine) == waiting
        # Nothing is read anew at a boot at which nothing has changed, and no Python started by the generator.
        noting = "import sys; sys.orig_argv[3:4] == ['sdcron.generate'] and open('/run/generated', 'a').write('x')"
        machine.run(["sh", "-c", f'echo "{noting}" >/usr/lib/python3/dist-packages/noting.pth'])
        machine.poweroff()
        machine.boot()
        until(lambda: timers(machine) == waiting, 30, "they wait again")
        assert not machine.exists("/run/generated")
        assert applied_at_boot(machine) == ""
        assert fragment(machine, "sdcron-often.timer") == "/run/systemd/generator/sdcron-often.timer"
        # They are among what the boot itself starts.
        assert began(machine, "sdcron-often.timer") <= began(machine, "timers.target")
        assert "a script" in sdcron(machine, "run", "script", "--wait")
        # A pause outlives it too.
        sdcron(machine, "pause", "script")
        machine.run(["systemctl", "daemon-reload"])
        machine.poweroff()
        machine.boot()
        until(lambda: timers(machine) == waiting[:1], 30, "one waits again")
        assert not machine.exists("/run/generated")
        # What would have told of it does.
        machine.write(f"{ETC}/edited.yaml", DAILY)
        machine.run(["systemctl", "daemon-reload"])
        assert machine.exists("/run/generated")
        machine.run(["rm", f"{ETC}/edited.yaml"])
        sdcron(machine, "resume", "script")
        assert timers(machine) == waiting
        assert "all as the job files say" in sdcron(machine, "doctor", status=None)
        sdcron(machine, "remove", "often", status=2)
        machine.run(["rm", f"{ETC}/often.yaml"])
        machine.run(["systemctl", "daemon-reload"])
        assert timers(machine) == waiting
        assert "- remove often" in sdcron(machine, "apply", "--yes")
        assert timers(machine) == waiting[1:]
        assert not machine.exists("/run/systemd/generator/sdcron-often.timer")


@pytest.mark.timeout(600)
def test_an_edit_runs_nothing_until_it_is_applied_or_the_machine_boots(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        job = "missed: skip\ncommand: touch /root/has-run\n"
        machine.write(f"{ETC}/edited.yaml", f"schedule: '0 0 1 1 *'\n{job}")
        sdcron(machine, "apply")
        # At a time that has just passed: a reload of an edited timer would run the job at once.
        minute = machine.run(["date", "+%M"]).stdout.strip()
        machine.write(f"{ETC}/edited.yaml", f"schedule: '{int(minute)} * * * *'\n{job}")
        machine.write(f"{ETC}/bad.yaml", "schedule: '@dayly'\ncommand: /bin/true\n")
        machine.write(f"{ETC}/new.yaml", DAILY)
        machine.run(["systemctl", "daemon-reload"])
        assert timers(machine) == ["sdcron-edited.timer"]
        told = sdcron(machine, "doctor", status=None)
        assert f"the generator: {ETC}/bad.yaml:1:12: " in told
        assert machine.show("sdcron-new.timer", "LoadState")["LoadState"] == "loaded"
        assert not machine.exists("/root/has-run")
        sdcron(machine, "apply", status=3)
        assert timers(machine) == ["sdcron-edited.timer"]
        # Nobody is there to mend it at a boot: one bad file stops no other.
        machine.poweroff()
        machine.boot()
        until(lambda: timers(machine) == ["sdcron-edited.timer", "sdcron-new.timer"], 60, "both wait")
        until(lambda: "all else is applied" in applied_at_boot(machine), 30, "it has been applied")
        said = applied_at_boot(machine)
        assert machine.show("sdcron.service", "Result")["Result"] == "exit-code"
        assert f"{ETC}/bad.yaml:1:12: " in said
        assert "all else is applied" in said
        shown = machine.show("sdcron-edited.timer", "TimersCalendar")["TimersCalendar"]
        assert f"OnCalendar=*-*-* *:{minute}:00" in shown
        assert not machine.exists("/root/has-run")
        # Once that is mended no unit is failed any more.
        machine.run(["rm", f"{ETC}/bad.yaml"])
        sdcron(machine, "apply")
        assert machine.show("sdcron.service", "Result")["Result"] == "success"


@pytest.mark.timeout(600)
def test_a_file_hides_those_of_the_same_name_and_that_of_one_boot_goes_with_it(release: Release) -> None:
    with installed(release, package_of(release)) as machine:

        def prints() -> str:
            sdcron(machine, "apply")
            [job] = json.loads(sdcron(machine, "list", "--json"))
            return f"{job['source']}: {sdcron(machine, 'run', 'one', '--wait')}"

        for directory in (RUN, ETC, USR):
            machine.write(f"{directory}/one.yaml", f"schedule: '@daily'\ncommand: echo of {directory}\n")
        assert prints() == f"{ETC}/one.yaml: of {ETC}\n"
        machine.run(["rm", f"{ETC}/one.yaml"])
        assert prints() == f"{RUN}/one.yaml: of {RUN}\n"
        machine.poweroff()
        machine.boot()
        until(lambda: "change one" in applied_at_boot(machine), 60, "the boot has applied what there is now")
        until(lambda: timers(machine) == ["sdcron-one.timer"], 30, "it waits")
        assert prints() == f"{USR}/one.yaml: of {USR}\n"


@pytest.mark.timeout(600)
def test_a_boot_through_a_rescue_shell_is_one_boot(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        for name in ("bad", "good"):
            text = f"schedule: ['@daily', '@reboot']\nmissed: skip\ncommand: touch /root/{name}-has-run\n"
            machine.write(f"{ETC}/{name}.yaml", text)
        sdcron(machine, "apply")
        # As rescue.target, but that it is no maintenance.
        shell = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\nAllowIsolate=yes\n"
        machine.write("/etc/systemd/system/shell.target", shell)
        machine.run(["systemctl", "set-default", "shell.target"])
        machine.poweroff()
        machine.boot()
        machine.run(["rm", f"{ETC}/bad.yaml"])
        # What such a shell is left with: systemd-sulogin-shell(8).
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "isolate", "--no-block", "multi-user.target"])
        until(lambda: machine.exists("/root/good-has-run"), 60, "the boot goes on")
        until(lambda: "remove bad" in applied_at_boot(machine), 60, "what has gone is removed")
        assert timers(machine) == ["sdcron-good.timer", "sdcron-good@boot.timer"]
        assert not machine.exists("/root/bad-has-run")


#: As where /var has a file system of its own: generators run before it is mounted (systemd.generator(7)).
LATE = """[Unit]
Before=local-fs.target
[Mount]
What=/srv/state
Where=/var/lib/sdcron
Type=none
Options=bind
"""


@pytest.mark.timeout(600)
def test_what_is_applied_may_be_in_a_file_system_that_is_mounted_after_the_generators_ran(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        machine.write("/etc/systemd/system/var-lib-sdcron.mount", LATE)
        machine.run(["mkdir", "-p", "/srv/state", "/etc/systemd/system/local-fs.target.wants"])
        machine.run(["ln", "-s", "../var-lib-sdcron.mount", "/etc/systemd/system/local-fs.target.wants/"])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "start", "var-lib-sdcron.mount"])
        machine.write(f"{ETC}/missed.yaml", "schedule: '@daily'\ncommand: echo hello\n")
        machine.write(f"{ETC}/paused.yaml", "schedule: '@daily'\ncommand: echo paused\n")
        sdcron(machine, "apply")
        sdcron(machine, "pause", "paused")
        machine.poweroff()
        for stamp in (machine.disk / "var/lib/systemd/timers").glob("stamp-sdcron-*"):
            os.utime(stamp, (time.time() - 2 * 86400,) * 2)
        machine.boot()
        until(lambda: timers(machine) == ["sdcron-missed.timer"], 60, "it waits again")
        until(lambda: "hello" in sdcron(machine, "logs", "missed"), 30, "what it missed is made good")
        [run] = json.loads(sdcron(machine, "history", "--json"))
        assert (run["job"], run["trigger"], run["outcome"]) == ("missed", "missed", "success")


@pytest.mark.timeout(600)
def test_a_package_brings_its_jobs_and_takes_them_with_it(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        machine.run(["sh", "-c", OTHER])
        # Somebody's mistake keeps no package from bringing its jobs, and dpkg tells of it.
        machine.write(f"{ETC}/bad.yaml", "schedule: x\ncommand: y\n")
        said = machine.run(["dpkg", "--install", "/var/tmp/other.deb"], env=PLAIN, timeout=120)
        assert f"{ETC}/bad.yaml:1:11: " in said.stderr
        machine.run(["rm", f"{ETC}/bad.yaml"])
        assert timers(machine) == ["sdcron-brought.timer", "sdcron-own.timer"]
        until(lambda: "from the package" in sdcron(machine, "logs", "brought"), 30, "it has run")
        machine.run(["dpkg", "--remove", "other"], env=PLAIN, timeout=120)
        assert timers(machine) == ["sdcron-own.timer"]
        machine.run(["dpkg", "--purge", "other"], env=PLAIN, timeout=120)
        assert timers(machine) == []
        assert "sdcron-" not in machine.run(["sh", "-c", "ls /run/systemd/generator"]).stdout
        # What comes in one go with sdcron itself is applied too: dpkg triggers nothing then.
        both = "/var/tmp/sdcron_*.deb /var/tmp/other.deb"
        machine.run(["sh", "-c", f"dpkg --install {both}"], env=PLAIN, timeout=120)
        assert timers(machine) == ["sdcron-brought.timer", "sdcron-own.timer"]
        machine.run(["dpkg", "--purge", "other"], env=PLAIN, timeout=120)
        assert timers(machine) == []
        # With sdcron its jobs go, and are there again with it.
        machine.write(f"{ETC}/mine.yaml", DAILY)
        sdcron(machine, "apply")
        machine.run(["dpkg", "--remove", "sdcron"], env=PLAIN, timeout=120)
        assert timers(machine) == []
        machine.run(["sh", "-c", "dpkg --install /var/tmp/sdcron_*.deb"], env=PLAIN, timeout=120)
        assert timers(machine) == ["sdcron-mine.timer"]
        machine.run(["dpkg", "--purge", "sdcron"], env=PLAIN, timeout=120)
        assert timers(machine) == []
        assert machine.exists(f"{ETC}/mine.yaml")
        assert "sdcron" not in machine.run(["sh", "-c", "ls /run/systemd/generator /var/lib"]).stdout


@pytest.mark.timeout(600)
def test_what_a_package_brings_while_somebody_else_applies_is_applied_after_that() -> None:
    # The oldest: Restart= is younger than oneshot services are.
    release = RELEASES[0]
    with installed(release, package_of(release)) as machine:
        machine.run(["sh", "-c", OTHER])
        lock = "/run/sdcron/apply.lock"
        machine.run(["mkdir", "-p", "/run/sdcron"])
        machine.run(["systemd-run", "--unit=held", "flock", lock, "sleep", "infinity"])
        until(lambda: machine.run(["flock", "-n", lock, "true"], status=None).returncode != 0, 30, "it is held")
        machine.run(["dpkg", "--install", "/var/tmp/other.deb"], env=PLAIN, timeout=120)
        assert timers(machine) == []
        until(lambda: machine.show("sdcron.service", "NRestarts")["NRestarts"] != "0", 90, "it is tried again")
        machine.run(["systemctl", "stop", "held.service"])
        until(lambda: timers(machine) == ["sdcron-brought.timer", "sdcron-own.timer"], 60, "they wait")


@pytest.mark.timeout(600)
def test_a_soft_reboot_goes_on_with_what_was_applied() -> None:
    release = RELEASES[-1]
    with installed(release, package_of(release)) as machine:
        machine.write(f"{ETC}/a.yaml", f"missed: skip\n{DAILY}")
        sdcron(machine, "apply")
        machine.write(f"{ETC}/new.yaml", DAILY)
        machine.run(["systemctl", "soft-reboot", "--no-block"])

        def is_over() -> bool:
            with suppress(MachineError):
                return any("Soft-reboot finished" in str(entry["MESSAGE"]) for entry in machine.journal("_PID=1"))
            return False

        until(is_over, 60, "it has booted softly")
        assert timers(machine) == ["sdcron-a.timer"]
        sdcron(machine, "apply")
        assert timers(machine) == ["sdcron-a.timer", "sdcron-new.timer"]
