"""Jobs on a machine: written, applied and started, and what the service manager says of their runs in the journal."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.system.watch import OWN_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.machine import Machine

JOBS = "/etc/sdcron/jobs"

#: MESSAGE_ID of the service manager's own entries (sd-messages.h).
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"


def yaml(value: object) -> str:
    """A value as YAML that leaves nothing to interpretation: JSON with every odd character escaped YAML's way."""
    if isinstance(value, str):
        return '"' + "".join(_yaml_character(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml(key)}: {yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml, value)) + "]"
    return json.dumps(value)


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if " " <= character <= "~" else f"\\U{ord(character):08x}"


def apply(machine: Machine, jobs: Mapping[str, Mapping[str, Any]], *arguments: str, user: str | None = None) -> None:
    """Write the jobs, in one file, and apply their directory: the system's, or the one of `user`."""
    home = f"/home/{user}/jobs" if user else JOBS
    text = "jobs:\n" + "".join(f"  {name}: {yaml(dict(job))}\n" for name, job in jobs.items())
    machine.write(f"{home}/jobs.yaml", text, owner=user or "root")
    machine.sdcron("apply", *(["--user"] if user else []), *arguments, home, user=user)


def service(name: str) -> str:
    """The unit that runs a job."""
    return f"sdcron-{name}.service"


def start(machine: Machine, *names: str, wait: bool = True, user: str | None = None) -> int:
    """Start jobs by hand, wait for their ends unless told otherwise, and return systemctl's exit status."""
    options = [*(["--user"] if user else []), *([] if wait else ["--no-block"])]
    return machine.run(["systemctl", *options, "start", *map(service, names)], user=user, status=None).returncode


def fresh_journal(machine: Machine) -> None:
    """Have journald begin a file: where it does so in a flood, it may write one line twice (systemd issue 29016)."""
    machine.run(["journalctl", "--rotate"])


def entries(machine: Machine, since: float, *matches: str) -> list[dict[str, Any]]:
    """The journal's entries since a time, in seconds since 1970 (a machine has the clock of the one it runs on).

    Not by cursor: with matches, journalctl 252 leaves out the first entry after it.
    """
    found = machine.journal(f"--since=@{int(since)}", *matches)
    return [entry for entry in found if moment(entry) >= since]


def moment(entry: Mapping[str, Any]) -> float:
    """When an entry was written, in seconds since 1970."""
    return int(entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])) / 1e6


def starts(machine: Machine, since: float = 0, *matches: str) -> dict[str, list[float]]:
    """When the manager began each run since a time, in seconds since 1970, by job name."""
    found: dict[str, list[float]] = defaultdict(list)
    for entry in entries(machine, since, f"MESSAGE_ID={STARTING}", *matches):
        unit = entry.get("UNIT") or entry.get("USER_UNIT") or ""
        if unit.startswith("sdcron-") and "@" not in unit and unit not in OWN_UNITS:
            found[unit.removeprefix("sdcron-").removesuffix(".service")].append(moment(entry))
    return found


def states(machine: Machine, *names: str, user: str | None = None) -> dict[str, str]:
    """ActiveState and Result of jobs' services, as `failed exit-code`, by job name."""
    command = ["systemctl", *(["--user"] if user else []), "show", "--property=Id,ActiveState,Result"]
    found = {}
    for block in machine.run([*command, *map(service, names)], user=user).stdout.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if line)
        found[fields["Id"].removeprefix("sdcron-").removesuffix(".service")] = (
            f"{fields['ActiveState']} {fields['Result']}"
        )
    return found


def output(machine: Machine, name: str, since: float = 0) -> list[str]:
    """The lines that a job itself wrote since a time, oldest first.

    By the identifier alone: the unit is missing where a process was gone before journald had read its first line.
    """
    found = entries(machine, since, f"SYSLOG_IDENTIFIER=sdcron-{name}", "_TRANSPORT=stdout")
    return [entry["MESSAGE"] for entry in found]
