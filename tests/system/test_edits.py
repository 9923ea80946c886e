"""Edits on a booted machine run no job, end no run, lose no retry, and cost a reload only where one is needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.machine import until
from tests.system.watch import JOBS, MANAGER, RAN, calls_to_systemd, forget_runs, has_run, write_jobs

if TYPE_CHECKING:
    from tests.machine import Machine

SKIP = "missed: skip\n"
BUSY = ("sdcron-running.service", "sdcron-running-time.service")
WAITING = ("sdcron-retry@retry-1.timer", "sdcron-retry-delay@retry-1.timer")
SHORT_DELAY = 4
#: What makes timers.target hold its timers in memory.
RELOADED, BOOTED = "held by a reload", "held by a boot"


def now() -> datetime:
    """The machine's clock is this one's, and its zone UTC."""
    return datetime.now(UTC)


def daily(moment: datetime) -> str:
    """A schedule that is due at the second of a moment, and a day later."""
    return f"{moment:%S %M %H} * * *"


def touch(name: str, *arguments: str) -> str:
    """A command that shows that it ran."""
    return f"command: touch {RAN}/{name} {' '.join(arguments)}\n"


def fails(name: str, *arguments: str) -> str:
    """A command that shows that it ran, and fails."""
    return f"command: sh -c 'touch {RAN}/{name}; exit 1' {' '.join(arguments)}\n"


def runs_on(name: str, *arguments: str) -> str:
    """A command that shows that it ran, and does not end."""
    return f"command: sh -c 'touch {RAN}/{name}; exec sleep 600' {' '.join(arguments)}\n"


def state(number: int, first: datetime, due: datetime) -> dict[str, str]:
    """The job files of the n-th state: each job differs from the state before as its name says.

    All times have been: those of `first` by a run, those of `due` in no state before.
    """
    odd, text = number % 2 == 1, f"{RAN}/../x{number}"
    old, new = f"schedule: '{daily(first)}'\n", f"schedule: '{daily(due)}'\n"
    # systemd counts as starting until what has begun has ended: these are started by hand after that.
    past = f"schedule: '{daily(first - timedelta(hours=2))}'\n"
    boot, both = "schedule: '@reboot'\n", f"schedule: ['@reboot', '{daily(due)}']\n"
    jobs = {
        "same": old + touch("same"),
        "time-plain": new + SKIP + touch("time-plain"),
        "time-persistent": new + touch("time-persistent"),
        "old-stamp": new + touch("old-stamp"),
        "command-plain": old + SKIP + touch("command-plain", text),
        "command-persistent": old + touch("command-persistent", text),
        "command-of-stopped": old + touch("command-of-stopped", text),
        "only-stopped": old + touch("only-stopped"),
        "description": old + touch("description") + f"description: state {number}\n",
        "missed": old + touch("missed") + SKIP * odd,
        "missed-back": old + touch("missed-back") + SKIP * (not odd),
        "enabled": new + touch("enabled") + f"enabled: {'true' if odd else 'false'}\n",
        "disabled": new + touch("disabled") + f"enabled: {'false' if odd else 'true'}\n",
        "zone": new + touch("zone") + f"timezone: {'Etc/GMT' if odd else 'UTC'}\n",
        "kind": (boot if odd else new) + touch("kind"),
        "kind-back": (new if odd else boot) + touch("kind-back"),
        "at-boot": boot + touch("at-boot", text),
        "at-boot-too": both + touch("at-boot-too"),
        "script": f"{new}script: touch {RAN}/script {text}\n",
        "failed": new + fails("failed", text),
        "running": past + runs_on("running", text),
        "running-time": (new if number else past) + runs_on("running-time"),
        "retry": new + fails("retry", text) + "retry: {delay: 1h, attempts: 2}\n",
        "retry-delay": old + fails("retry-delay") + f"retry: {SHORT_DELAY if odd else 3600}s\n",
        "retry-removed": new + fails("retry-removed") + "retry: 1h\n" * (not odd),
        "moved-there" if odd else "moved-here": f"name: moved\n{new}" + touch("moved"),
    }
    if odd:
        jobs["brand-new"] = new + touch("brand-new")
        jobs["new-with-a-stamp"] = new + touch("new-with-a-stamp")
    return jobs


RUN_AT_FIRST = (
    *("same", "time-plain", "time-persistent", "old-stamp", "command-plain", "command-persistent", "description"),
    *("missed", "missed-back", "disabled", "zone", "kind", "at-boot-too", "script", "failed"),
    *("retry", "retry-delay", "retry-removed", "moved", "command-of-stopped", "only-stopped"),
)


def make_old(machine: Machine) -> None:
    """What time or an administrator may have done: old stamps, timers stopped by hand."""
    machine.run(["systemctl", "stop", "sdcron-command-of-stopped.timer", "sdcron-only-stopped.timer"])
    names = ("old-stamp", "command-of-stopped", "only-stopped", "new-with-a-stamp")
    stamps = [f"/var/lib/systemd/timers/stamp-sdcron-{name}.timer" for name in names]
    machine.run(["touch", "-d", "2 days ago", *stamps])


def main_pids(machine: Machine) -> list[str]:
    return [machine.show(unit, "MainPID", "ActiveState")["MainPID"] for unit in BUSY]


def apply_and_look(machine: Machine, jobs: dict[str, str]) -> None:
    """Apply a state, and see that nothing ran, ended or was lost, and that every timer has the time that it should."""
    write_jobs(machine, jobs)
    forget_runs(machine)
    before = main_pids(machine)
    assert "0" not in before
    with calls_to_systemd(machine) as calls:
        began = uptime(machine)
        machine.sdcron("apply", JOBS)
        retry_at = monotonic_elapse(machine, WAITING[1])
    assert calls.count("Reload") == 1
    assert not [call for call in calls if call.startswith(("StartUnit", "StopUnit")) and ".service" in call]
    machine.run(["systemctl", "stop", WAITING[1]])
    assert has_run(machine) == []
    assert main_pids(machine) == before
    assert machine.show(WAITING[0], "ActiveState")["ActiveState"] == "active"
    # A new delay is waited for from the edit on: the failure may be longer ago.
    assert retry_at >= began + SHORT_DELAY
    assert_next_times(machine, jobs)
    assert "nothing to do" in machine.sdcron("apply", JOBS).stdout


def uptime(machine: Machine) -> float:
    """Seconds since the boot, as monotonic timers count."""
    return float(machine.read("/proc/uptime").split()[0])


def monotonic_elapse(machine: Machine, timer: str) -> float:
    """When a timer elapses, in seconds since the boot; 0 if it does not wait."""
    path = machine.run(["busctl", "call", *MANAGER, "LoadUnit", "s", timer]).stdout.split('"')[1]
    interface = "org.freedesktop.systemd1.Timer"
    shown = machine.run(
        ["busctl", "get-property", MANAGER[0], path, interface, "NextElapseUSecMonotonic"]
    ).stdout.split()[1]
    return int(shown) / 1e6 if int(shown) < 2**63 else 0


def assert_next_times(machine: Machine, jobs: dict[str, str]) -> None:
    rows = json.loads(machine.sdcron("list", "--json").stdout)
    for row in rows:
        timer = f"sdcron-{row['job']}.timer"
        elapse = machine.show(timer, "NextElapseUSecRealtime", "ActiveState") if row["next_run_at"] else {}
        if elapse:
            moment = datetime.fromisoformat(row["next_run_at"]).astimezone(UTC)
            # 252 leaves microseconds away where there are none.
            shown = elapse["NextElapseUSecRealtime"].replace(".000000", "")
            assert shown == f"{moment:%a %Y-%m-%d %H:%M:%S} UTC", (timer, elapse)
            assert elapse["ActiveState"] == "active", timer
    assert {row["job"] for row in rows} == {name.removesuffix("-there").removesuffix("-here") for name in jobs}


def apply_ahead_of(machine: Machine, held: str) -> datetime:
    """Apply the first state, and have timers.target hold its timers or not; returns when the jobs will run."""
    for lead in (6, 12, 24, 48) if held == BOOTED else (4, 8, 16, 32):
        # Not longer than this machine is slow.
        first = now().replace(microsecond=0) + timedelta(seconds=lead)
        write_jobs(machine, state(0, first, first))
        machine.sdcron("apply", JOBS)
        if held == RELOADED:
            machine.run(["systemctl", "daemon-reload"])
        elif held == BOOTED:
            machine.poweroff()
            machine.boot()
        if now() < first:
            return first
    raise AssertionError("the machine is too slow")


@pytest.mark.timeout(170)
@pytest.mark.parametrize("held", ["not held", RELOADED, BOOTED])
def test_no_edit_runs_a_job_whether_idle_running_failed_or_waiting(fresh_machine: Machine, held: str) -> None:
    machine = fresh_machine
    first = apply_ahead_of(machine, held)
    until(lambda: set(RUN_AT_FIRST) <= set(machine.run(["ls", RAN]).stdout.split()), 20, "all have run at first")
    until(lambda: now() > first + timedelta(seconds=2), 10, "some time has passed since")
    machine.run(["systemctl", "start", "--no-block", *BUSY])
    until(lambda: "0" not in main_pids(machine), 10, "jobs run")
    make_old(machine)
    # Edited to a time between the last run and now: where a plain restart or reload runs the job.
    apply_and_look(machine, state(1, first, first + timedelta(seconds=1)))
    # And back, to one since the edit.
    make_old(machine)
    machine.run(["systemctl", "start", WAITING[1]])
    apply_and_look(machine, state(2, first, now() - timedelta(seconds=1)))
