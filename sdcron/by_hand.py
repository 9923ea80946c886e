"""Runs for an instant or with values of their own, on systemd: a unit for each, made of the job's service as applied.

systemd starts a service as it is, whoever asks: what one run alone shall have needs a unit of its own. It lives below
/run and removes its file when it is over. It comes before the job's service: a due run waits for its end, and is not
lost. It starts no retry and no job after it: whoever asked sees how it ended.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.drop_ins import is_own
from sdcron.errors import BackendError
from sdcron.escape import Place as Spot
from sdcron.escape import escape
from sdcron.files import Files
from sdcron.handlers import home, systemctl_of_a_run
from sdcron.job import Overlap
from sdcron.machine import local_timezone
from sdcron.overlap import is_by_hand, queued_name, slot_name, slot_of
from sdcron.parameters import asked_variables, variable
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdcron.installed_job import InstalledJob
    from sdcron.paths import Paths, Scope
    from sdcron.runs import Asked

# What makes a service's failures retry (retry.py), what it is to other jobs (chain_units.py), and what keeps
# systemctl(1) from starting it without values.
_NOT_OF_ONE_RUN = re.compile(
    r"OnFailure=sdcron-[^@]+@retry\.service|Conflicts=sdcron-[^@]+@retry-.*|RefuseManualStart=yes"
    r"|ExecStopPost=-\+/bin/sh .* sdcron-(?:retry|succeeded) .*|ExecCondition=\+/bin/sh .* sdcron-needs .*"
    r"|RuntimeDirectory=sdcron/retry"
)
# A regular run that has begun since it was looked: it is waited for. One that is still to begin waits for this one.
_ALONE = (
    'until case "$(SYSTEMCTL show --property=ActiveState --value "$1")" in inactive|failed) ;; *) false;; esac;',
    "do /bin/sleep 0.2; done",
)
_SETTLED_US = 60_000_000
_JOURNAL = "/run/systemd/journal/socket"


def unit_directory(paths: Paths) -> Path:
    """Where units live until the next boot (systemd.unit(5), "Unit File Load Path")."""
    return paths.runtime_dir.parent / "systemd" / str(paths.scope)


def write_unit(paths: Paths, job: InstalledJob, asked: Asked, drop_ins: Sequence[str] = (), *, alone: bool) -> str:
    """Make the unit of one run, and return its name; `alone`: it does not begin while another run is on.

    `drop_ins` are the files that add to the job's service, in the order in which systemd reads them.
    Raises OSError, UnitTextError for a value that no unit can carry, and SdcronError for an instant, where neither the
    job nor the machine has a time zone that is known.
    """
    directory = unit_directory(paths)
    number = time.time_ns() // 1000
    while (path := directory / slot_name(job.name, number)).exists():
        number += 1
    zone = job.timezone or (local_timezone(paths.root) if asked.for_us is not None else "UTC")
    # systemctl edit, and set-property: what an administrator wants of the job holds for each of its runs. What is for
    # all services, or all jobs, holds for this one too.
    own = f"{service_name(job.name)}.d"
    added = []
    for each in map(Path, drop_ins):
        with suppress(FileNotFoundError):  # systemd has not been told that it is gone
            if each.parent.name == own and not is_own(each.name):
                added.append(each.read_text(encoding="utf-8", errors="replace"))
    Files().write(path, unit_text(job, asked, zone, paths.scope, paths.on_machine(path), added, alone=alone))
    return path.name


def remove_leftovers(paths: Paths, is_loaded: Callable[[str], bool]) -> None:
    """Remove the files of runs that are over, and could not do so themselves: in a sandbox, or at a crash."""
    directory, since = unit_directory(paths), time.time_ns() // 1000 - _SETTLED_US
    for path in directory.glob("sdcron-*@*.service") if directory.is_dir() else ():
        # What is new may be about to be started.
        if is_by_hand(path.name) and slot_of(path.name)[1] < since and not is_loaded(path.name):
            path.unlink(missing_ok=True)


def unit_text(
    job: InstalledJob, asked: Asked, zone: str, scope: Scope, path: str, added: Sequence[str] = (), *, alone: bool
) -> str:
    """The text of the unit of one run, whose file is `path`; an instant is in `zone`.

    What is `added` to the job's service comes before what is this run's own, which nothing may take away.
    """
    service = service_name(job.name)
    unit, _, rest = job.units[service].partition("\n[Service]\n")
    own, _, _ = rest.partition("\n[X-Sdcron]\n")
    values = [(variable(name), value) for name, value in asked.values]
    lines = [line for line in own.split("\n") if not _NOT_OF_ONE_RUN.fullmatch(line)]
    if not any(line.startswith("Slice=") for line in lines):
        lines.append(home(scope))
    head = [line for line in unit.split("\n") if not _NOT_OF_ONE_RUN.fullmatch(line)]
    # Of a job that queues, what waits is the unit that is ordered after its runs (overlap.py).
    before = [service, *[queued_name(job.name)] * (job.overlap is Overlap.QUEUE)]
    head += [f"Before={' '.join(before)}"] * alone + ["CollectMode=inactive-or-failed"]
    base = "\n".join([*head, "", "[Service]", *lines]) + "\n"
    lines = [
        f"Environment={escape(f'{name}={value}', Spot.WORD)}"
        for name, value in (*values, *asked_variables(asked, zone))
    ]
    if alone:
        script = " ".join(_ALONE).replace("SYSTEMCTL", systemctl_of_a_run(scope))
        lines.append(f"ExecCondition=+/bin/sh -c {escape(script, Spot.ARGUMENT)} sdcron-run {service}")
    lines.append(f"ExecStopPost=-+/bin/rm -f {escape(path, Spot.ARGUMENT)}")
    return "\n".join([base, *added, "\n".join(["[Service]", *lines]) + "\n"])


def announce(fields: Mapping[str, str]) -> None:
    """Write an entry into the journal: journald adds who says so (systemd.journal-fields(7), "Trusted Fields").

    Raises BackendError where no journald is.
    """
    # https://systemd.io/JOURNAL_NATIVE_PROTOCOL: a value with a line break in it has its length before it.
    entry = b"".join(
        name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        for name, data in ((name, value.encode()) for name, value in fields.items())
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        try:
            journal.sendto(entry, _JOURNAL)
        except OSError as error:
            raise BackendError(f"the journal takes no entry: {error.strerror}", "see: journalctl -n 20") from error
