"""One process that runs jobs, under measurement: when it is ready, what it takes of processor and memory, its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: A process that has used less than this many seconds of a processor in so many is quiet.
QUIET_USE = 0.002
QUIET_SECONDS = 0.5
LOOK_EVERY = 0.005
END_SECONDS = 10
#: The harness dies, the process dies: prctl(2), PR_SET_PDEATHSIG.
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class DaemonError(Exception):
    """It did not start, did not load its jobs in time, or ended by itself; the message has the end of its output."""


class Daemon:
    """A started process, in a session of its own; leaving the `with` ends it and what it started."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self.began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*WITH_US, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id: what starts it leads by exec alone."""
        return self._process.pid

    def ready(self, line: str | None, timeout: float) -> float:
        """Seconds from its start until it was ready: it had written `line`, if any, and its use of a processor ended.

        The end is when it last had used QUIET_USE seconds before it used less than that for QUIET_SECONDS. Waiting for
        a processor counts as using it, so that a busy machine makes nobody look ready. Raises DaemonError.
        """
        used, since = 0.0, self.began
        while True:
            time.sleep(LOOK_EVERY)
            self._check()
            now, use = time.monotonic(), self._used_or_waited()
            if abs(use - used) >= QUIET_USE:
                used, since = use, now
            elif now - since > QUIET_SECONDS and (line is None or line in self._log.read_text(errors="replace")):
                return since - self.began
            if now - self.began > timeout:
                raise DaemonError(f"was not ready after {timeout:g} s")

    def processor_seconds(self) -> float:
        """What it and the children it has reaped used of a processor so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        # proc(5): cutime and cstime are the fields 16 and 17, and the text after the name starts with the third.
        reaped = (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")
        return reaped + self._schedule(0)

    def memory(self) -> tuple[float, float]:
        """Resident and proportional MB, of it and of its children."""
        resident = proportional = 0.0
        for pid in (self.pid, *_descendants(self.pid)):
            with suppress(OSError):
                sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
                resident += int(sizes["Rss"]) * 1024 / 1e6
                proportional += int(sizes["Pss"]) * 1024 / 1e6
        return resident, proportional

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to all that is left of its group; jobs in groups of their own end within a moment."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _check(self) -> None:
        if self._process.poll() is not None:
            end = self._log.read_text(errors="replace")[-500:].strip()
            raise DaemonError(f"ended by itself with {self._process.returncode}: {end}")

    def _used_or_waited(self) -> float:
        return self._schedule(0) + self._schedule(1)

    def _schedule(self, field: int) -> float:
        """Seconds of all threads: on a processor (0), waiting for one (1); proc(5), schedstat."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(task.read_text().split()[field])
        return total / 1e9


def _descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *_descendants(child)]
    return found
