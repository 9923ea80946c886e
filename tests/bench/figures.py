"""What every benchmark needs: figures with their limits, ordinary jobs, and wall times measured inside a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.machine import Machine

JOBS = "/etc/jobs"

#: Runs a command some times with its output thrown away, and prints what each took.
_TIMED = """
import subprocess, sys, time
for _ in range(int(sys.argv[1])):
    began = time.monotonic()
    subprocess.run(sys.argv[2:], check=True, stdout=subprocess.DEVNULL)
    print(time.monotonic() - began)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number and the most it may be."""

    what: str
    value: float
    limit: float
    unit: str = "s"

    @property
    def good(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit

    def __str__(self) -> str:
        """A line of the report."""
        verdict = "ok  " if self.good else "MISS"
        return f"{verdict} {self.what}: {self.value:.3f} {self.unit} (at most {self.limit:g} {self.unit})"


def job_files(count: int, directory: str = JOBS, schedule: str = "") -> dict[str, str]:
    """`count` ordinary job files: a nightly command with a retry and an environment."""
    return {
        f"{directory}/job-{number:05}.yaml": (
            f"description: Nightly work {number}\n"
            f"schedule: '{schedule or f'{number % 60} {2 + number % 4} * * *'}'\n"
            f"command: /usr/bin/true --number {number}\n"
            "retry: 5m\n"
            "environment:\n"
            f"  NUMBER: '{number}'\n"
            "  LANG: C.UTF-8\n"
        )
        for number in range(count)
    }


def times(machine: Machine, *argv: str, count: int, timeout: float = 900) -> list[float]:
    """Wall times of a command in the machine, the shortest first, measured inside so that entering does not count."""
    output = machine.run(["python3", "-c", _TIMED, str(count), *argv], timeout=timeout).stdout
    return sorted(map(float, output.split()))


def seconds(machine: Machine, *argv: str, timeout: float = 900) -> float:
    """Wall time of one command in the machine."""
    return times(machine, *argv, count=1, timeout=timeout)[0]


def sdcron(machine: Machine, *arguments: str) -> float:
    """Wall time of one sdcron command."""
    return seconds(machine, "python3", "-m", "sdcron", *arguments)
