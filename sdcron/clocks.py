"""The machine's two clocks, and the name of the time since its start. What needs them takes a Clock, for tests."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Both clocks of the machine."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds of the clock that cannot be set."""


class SystemClock:
    """The machine's."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


def boot_of(directory: Path = Path("/proc")) -> str:
    """Names the time since the machine's start; a container's begins with its first process."""
    boot_id, started = "", "0"
    with suppress(OSError):
        boot_id = (directory / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
    with suppress(OSError, IndexError):
        # proc(5): the name in parentheses may hold anything; `starttime` is the 20th field after it.
        started = (directory / "1/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{boot_id}.{started}"
