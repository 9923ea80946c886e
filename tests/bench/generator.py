"""The generator of the drop-in directories, against an empty shell script and systemd-cron's."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.bench.figures import Figure, sdcron, times
from tests.machine import Machine
from tests.rootfs import DEBS, PEER

if TYPE_CHECKING:
    from tests.rootfs import Release

OWN = "/usr/lib/systemd/system-generators/sdcron-generator"
THEIRS = "/usr/lib/systemd/system-generators/systemd-crontab-generator"
SOME = 1_000
_ROUNDS = 20


def generator(release: Release) -> list[Figure]:
    """At boot without any job file; and with 1,000 that have not changed, beside as many lines of a crontab."""
    with Machine(release, kind=PEER) as machine:
        machine.run(["sh", "-c", f"for deb in {DEBS}/systemd-cron_*.deb; do dpkg-deb --extract $deb /; done"])
        machine.run(["install", "-D", "/opt/sdcron/packaging/generator/sdcron-generator", OWN])
        machine.write("/root/empty", "#!/bin/sh\n", mode=0o755)
        machine.run(["mkdir", "-p", "/run/out"])
        machine.run(["rm", "-rf", "/etc/crontab", "/etc/anacrontab", "/etc/cron.d", "/etc/sdcron"])
        empty, without = _in_turns(machine, ["/root/empty", *_OUT], [OWN, *_OUT])
        schedules = [f"{number % 60} {2 + number % 4} * * *" for number in range(SOME)]
        machine.write_files(
            {
                f"/etc/sdcron/jobs.d/job-{number:04}.yaml": f"schedule: '{schedule}'\ncommand: /usr/bin/true {number}\n"
                for number, schedule in enumerate(schedules)
            }
        )
        lines = [f"{schedule} root /usr/bin/true {number}\n" for number, schedule in enumerate(schedules)]
        machine.write("/etc/cron.d/peer", "".join(lines))
        sdcron(machine, "apply", "--yes")
        units = f"ls {_OUT[0]} | grep -c '[0-9].timer$'"
        for program in (OWN, THEIRS):
            assert machine.run(["sh", "-c", f"{_anew(program)}; {units}"]).stdout == f"{SOME}\n", program
        own, theirs = _in_turns(machine, ["sh", "-c", _anew(OWN)], ["sh", "-c", _anew(THEIRS)])
    return [
        Figure("generator without a job file: beyond an empty shell script", (without - empty) * 1000, 2, "ms"),
        Figure(f"generator of {SOME} unchanged jobs / systemd-cron's of the same schedules", own / theirs, 1, "x"),
    ]


_OUT = ("/run/out", "/run/out.early", "/run/out.late")


def _anew(program: str) -> str:
    """A command line that generates into directories that are empty, as systemd has it."""
    directories = " ".join(_OUT)
    return f"rm -rf {directories}; mkdir -p {directories}; {program} {directories}"


def _in_turns(machine: Machine, first: list[str], second: list[str]) -> tuple[float, float]:
    """The medians of how long two commands take, in seconds."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for command, every in zip((first, second), taken, strict=True):
            every.extend(times(machine, *command, count=3))
    return median(taken[0]), median(taken[1])
