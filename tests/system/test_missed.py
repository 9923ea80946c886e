"""A machine that was off while jobs were due: what runs at the next boot, how often, and what does not."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sdcron.schedule import parse_schedule
from tests.machine import until
from tests.system.jobs import apply, starts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.machine import Machine

DAY = 86400


def backdate(machine: Machine, ages: Mapping[str, float]) -> None:
    """Make timers, of a machine that is off, have elapsed last so many seconds ago; those without a stamp get one."""
    for name, age in ages.items():
        stamp = machine.disk / f"var/lib/systemd/timers/stamp-sdcron-{name}.timer"
        stamp.touch()
        os.utime(stamp, (time.time() - age,) * 2)


def settled(machine: Machine) -> dict[str, list[float]]:
    """The runs since the boot, once the job `at-boot`, due a second after it, has run and nothing runs any more."""

    def quiet() -> bool:
        jobs = machine.run(["systemctl", "list-jobs", "--no-legend"]).stdout
        return "sdcron-" not in jobs and "at-boot" in starts_of_this_boot(machine)

    until(quiet, 30, "the job of the boot has run, and no other is left to run")
    return starts_of_this_boot(machine)


def starts_of_this_boot(machine: Machine) -> dict[str, list[float]]:
    """When each job began its runs since the boot."""
    return starts(machine, 0, "--boot")


def test_what_was_missed_while_the_machine_was_off_runs_once_at_boot_if_it_shall(fresh_machine: Machine) -> None:
    due = datetime.now(UTC) + timedelta(seconds=10)
    passed = datetime.now(UTC) - timedelta(hours=2)
    schedules: dict[str, dict[str, Any]] = {
        # Due while the machine is really off.
        "once": {"schedule": f"at {due:%Y-%m-%d %H:%M:%S}"},
        "once-skip": {"schedule": f"at {due:%Y-%m-%d %H:%M:%S}", "missed": "skip"},
        "daily": {"schedule": f"at {due:%H:%M:%S}"},
        "daily-skip": {"schedule": f"at {due:%H:%M:%S}", "missed": "skip"},
        "zone": {"schedule": f"at {due + timedelta(hours=5, minutes=30):%H:%M:%S}", "timezone": "Asia/Kolkata"},
        "spread": {"schedule": "@yearly", "spread": "1h"},
        # As if the machine had been off for ten days.
        "several": {"schedule": f"at {passed:%H:%M}"},
        "several-lines": {"schedule": [f"at {passed:%H:%M}", "@hourly", "at 12:00 , 18:00"]},
        "several-skip": {"schedule": f"at {passed:%H:%M}", "missed": "skip"},
        "often": {"schedule": "every 10m"},
        "disabled": {"schedule": f"at {passed:%H:%M}", "enabled": False},
        # Nothing was missed: it ran on time.
        "in-time": {"schedule": f"at {passed:%H:%M}"},
        "at-boot": {"schedule": "@reboot"},
        "boot-too": {"schedule": ["@reboot", "@yearly"]},
        "boot-late": {"schedule": "@reboot", "spread": "4h"},
        "by-hand": {},
    }
    apply(fresh_machine, {name: {**job, "command": "/bin/true"} for name, job in schedules.items()})
    assert time.time() < due.timestamp() - 2
    fresh_machine.poweroff()
    assert time.time() < due.timestamp(), "the machine was still on when the jobs were due"
    ten_days = dict.fromkeys(("several", "several-lines", "several-skip", "often", "disabled"), 10 * DAY)
    backdate(fresh_machine, {**ten_days, "in-time": 7000})
    until(lambda: time.time() > due.timestamp() + 1, 20, "the jobs have been due")
    fresh_machine.boot()
    began = settled(fresh_machine)
    regular = {name: regular_runs(began[name], schedules[name]["schedule"]) for name in ("often", "several-lines")}
    ran = {name: len(times) - regular.get(name, 0) for name, times in began.items()}
    caught_up = ("once", "daily", "zone", "several", "several-lines", "often", "at-boot", "boot-too")
    assert ran == dict.fromkeys(caught_up, 1)
    assert_waits_for_its_spread(fresh_machine, "boot-late", timedelta(hours=4))

    # What has been caught up is not caught up again.
    fresh_machine.poweroff()
    fresh_machine.boot()
    began = settled(fresh_machine)
    assert began.keys() - {"often", "several-lines"} == {"at-boot", "boot-too"}
    assert len(began["at-boot"]) == len(began["boot-too"]) == 1


def assert_waits_for_its_spread(machine: Machine, name: str, spread: timedelta) -> None:
    """The timer of an `@reboot` job elapses a second and its own part of `spread` after the boot."""
    seed = f"{name}@{machine.read('/etc/machine-id').strip()}"
    offset = parse_schedule("@reboot", seed=seed, spread=spread).offset
    timer = machine.show(f"sdcron-{name}.timer", "SubState", "NextElapseUSecMonotonic")
    assert timer["SubState"] == "waiting"
    # In a container, OnBootSec= counts from the start of its own first process (systemd.timer(5)).
    booted = int(machine.run(["systemctl", "show", "--value", "--property=UserspaceTimestampMonotonic"]).stdout) / 1e6
    lengths = re.findall(r"([0-9.]+)(d|h|min|s|ms|us)\b", timer["NextElapseUSecMonotonic"])
    units = {"d": DAY, "h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6}
    elapse = sum(float(number) * units[unit] for number, unit in lengths)
    assert abs(elapse - booted - offset.total_seconds() - 1) < 0.01, (timer, booted, offset)


def regular_runs(began: list[float], texts: str | list[str]) -> int:
    """How many instants came after the first run, up to the last: the seconds of a test can hold one."""
    schedule = parse_schedule(texts)
    count, moment = 0, schedule.next_after(datetime.fromtimestamp(began[0], UTC))
    while moment and moment.timestamp() <= began[-1]:
        count, moment = count + 1, schedule.next_after(moment)
    return count


def test_a_power_cut_makes_no_difference_to_what_was_missed(fresh_machine: Machine) -> None:
    passed = datetime.now(UTC) - timedelta(hours=2)
    schedules: dict[str, dict[str, Any]] = {
        "run": {"schedule": f"at {passed:%H:%M}"},
        "skip": {"schedule": f"at {passed:%H:%M}", "missed": "skip"},
        "at-boot": {"schedule": "@reboot"},
    }
    apply(fresh_machine, {name: {**job, "command": "/bin/true"} for name, job in schedules.items()})
    fresh_machine.kill()
    backdate(fresh_machine, {"run": 3 * DAY})
    fresh_machine.boot()
    assert {name: len(times) for name, times in settled(fresh_machine).items()} == {"run": 1, "at-boot": 1}
