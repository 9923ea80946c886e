"""What a test on a machine looks at from outside: the calls that systemd gets, the look of files, what has run."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.machine import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

JOBS = "/etc/sdcron/jobs"

#: Where jobs leave a file of their name.
RAN = "/root/ran"

#: What busctl calls the manager.
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")

#: sdcron's own units, which come with the first job and go with the last: test_own_units.py. What other tests ask is
#: about the units of jobs, and the collector works and writes whenever it has something to do.
OWN_UNITS = ("sdcron-boot.service", "sdcron-collector.service")
_COLLECTORS = ("/var/lib/sdcron/runs", "/run/sdcron/collector")

_BUS_LOG = "/root/bus.log"
_MATCH = "type='method_call',interface='org.freedesktop.systemd1.Manager'"
_READING = {"GetUnit", "ListUnitsByPatterns"}
_BEGIN, _END = "begin-of-watch.service", "end-of-watch.service"

#: Everything that an apply may write to. Stamps of other timers change by themselves.
_LOOK = r"""
find /etc/systemd /var/lib/sdcron /run/sdcron -printf '%p %i %s %m %T@ %C@ %l\n' 2>/dev/null
find /var/lib/systemd/timers -name '*sdcron*' -printf '%p %i %s %m %T@ %C@\n' 2>/dev/null
exit 0
"""
_FIND_ALL = r"""
find /etc/systemd /var/lib/systemd /run/systemd -name '*sdcron-*'
find /var/lib/sdcron /run/sdcron -mindepth 1 2>/dev/null
exit 0
"""


@contextmanager
def calls_to_systemd(machine: Machine) -> Iterator[list[str]]:
    """A list that holds, after the block, the calls that changed something, such as `StopUnit sdcron-a.timer`."""
    start = 'busctl monitor --json=short --match="$1" >"$2" 2>/dev/null </dev/null & echo $!'
    pid = machine.run(["sh", "-c", start, "watch", _MATCH, _BUS_LOG]).stdout.strip()
    calls: list[str] = []
    try:
        until(lambda: _heard(machine, _BEGIN), 10, "busctl monitor listens")
        yield calls
        until(lambda: _heard(machine, _END), 10, "busctl monitor has heard everything")
    finally:
        machine.run(["kill", pid], status=None)
    for line in machine.read(_BUS_LOG).splitlines():
        message = json.loads(line)
        data = message["payload"].get("data") or [""]
        if data[0] in OWN_UNITS:
            continue
        if message["member"] not in _READING and (message["member"] == "Reload" or "sdcron-" in str(data[0])):
            calls.append(f"{message['member']} {data[0]}".strip())


def _heard(machine: Machine, marker: str) -> bool:
    """Ask systemd for a unit of this name, and tell whether the log has it."""
    machine.run(["busctl", "call", *MANAGER, "GetUnit", "s", marker], status=None)
    return marker in machine.read(_BUS_LOG)


def looks(machine: Machine) -> dict[str, str]:
    """Inode, size, mode and times of every file and directory that an apply may write to, by path."""
    lines = machine.run(["sh", "-c", _LOOK]).stdout.splitlines()
    found = dict(line.split(" ", 1) for line in lines)
    return {path: look for path, look in found.items() if not path.startswith(_COLLECTORS)}


def write_jobs(machine: Machine, jobs: dict[str, str], directory: str = JOBS) -> None:
    """Make a directory hold exactly these job files, each named after its job."""
    machine.run(["sh", "-c", 'rm -rf "$1"; mkdir -p "$1" "$2"', "write", directory, RAN])
    machine.write_files({f"{directory}/{name}.yaml": text for name, text in jobs.items()})


def has_run(machine: Machine) -> list[str]:
    """Names of the jobs that have run, after everything that is due has had its time."""
    # What elapses within AccuracySec= may take that long; a timer that starts later ends later.
    command = ["systemd-run", "--quiet", "--on-active=1.1s", "--timer-property=AccuracySec=1us", "touch"]
    machine.run(["sh", "-c", 'rm -f /root/canary; exec "$@"', "canary", *command, "/root/canary"])
    until(lambda: machine.exists("/root/canary"), 15, "the canary has run")
    return sorted(machine.run(["ls", RAN]).stdout.split())


def forget_runs(machine: Machine) -> None:
    """Begin anew with what has run."""
    machine.run(["sh", "-c", f"rm -rf {RAN}; mkdir {RAN}"])


def units_in_memory(machine: Machine) -> dict[str, list[str]]:
    """All units of jobs that systemd knows: LOAD, ACTIVE and SUB by name."""
    listing = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {fields[0]: fields[1:4] for fields in rows if fields[0] not in OWN_UNITS}


def anything_of(machine: Machine, *names: str) -> list[str]:
    """Files of jobs anywhere in systemd's and sdcron's directories: units, links, stamps, scripts, marks, retries."""
    found = machine.run(["sh", "-c", _FIND_ALL]).stdout.splitlines()
    # systemd leaves there what LogExtraFields= said, of any unit, until the next boot.
    paths = [path for path in found if not path.startswith("/run/systemd/units/")]
    stems = [path.rpartition("/")[2].removeprefix("stamp-").removeprefix("sdcron-") for path in paths]
    return [path for path, stem in zip(paths, stems, strict=True) if re.split("[.:]", stem)[0] in names]
