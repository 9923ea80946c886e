"""The machine's two clocks, when one of them is set, and the name of the time since the machine's start.

What needs a clock takes a Clock, for tests.
"""

from __future__ import annotations

import os
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


_TFD_CLOEXEC, _TFD_NONBLOCK = 0o2000000, 0o4000
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_NEVER = 1 << 33  # seconds since 1970: in the year 2242


class SetClock:
    """Tells when somebody sets the clock, or the machine wakes from sleep: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.

    `descriptor` becomes readable then; None where the kernel, or a sandbox, does not offer it.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None
        with suppress(OSError, AttributeError):
            import ctypes

            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.timerfd_create(time.CLOCK_REALTIME, _TFD_CLOEXEC | _TFD_NONBLOCK)
            if descriptor >= 0:
                self.descriptor = descriptor
                # An interval, and the moment, each in seconds and nanoseconds (itimerspec).
                self._moment = (ctypes.c_long * 4)(0, 0, _NEVER, 0)
                if not self._wait_anew():
                    self.close()

    def _wait_anew(self) -> bool:
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        return bool(self._libc.timerfd_settime(self.descriptor, flags, self._moment, None) == 0)

    def forget(self) -> None:
        """What has happened is seen to."""
        if self.descriptor is not None:
            with suppress(OSError):  # ECANCELED: the clock was set
                os.read(self.descriptor, 8)
            self._wait_anew()

    def close(self) -> None:
        """Give it back."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def boot_of(directory: Path = Path("/proc")) -> str:
    """Names the time since the machine's start; a container's begins with its first process."""
    boot_id, started = "", "0"
    with suppress(OSError):
        boot_id = (directory / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
    with suppress(OSError, IndexError):
        # proc(5): the name in parentheses may hold anything; `starttime` is the 20th field after it.
        started = (directory / "1/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{boot_id}.{started}"
