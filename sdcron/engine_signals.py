"""What the engine process has from its surroundings: signals, and how many files it may open."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

_OWN_FILES = 240
"""What is open beside pipes, at most: output, those who ask, the database."""


def raise_open_files(concurrency: int) -> None:
    """Have files for two pipes a run, beside the engine's own; no more, as jobs inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A quarter is not for pipes: see engine_run.py.
    wanted = (2 * concurrency + _OWN_FILES) * 4 // 3
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Signals:
    """What was asked for by signals; `descriptor` is readable once one has come."""

    def __init__(self) -> None:
        self.descriptor, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.endings = 0
        self.reload = False

    def __enter__(self) -> Signals:
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._again)
        # Only to be woken: without a handler the kernel tells nobody of children that are over.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self.descriptor)
        os.close(self._writer)

    def _end(self, *_: object) -> None:
        self.endings += 1

    def _again(self, *_: object) -> None:
        self.reload = True

    def forget(self) -> None:
        """What has come is seen to."""
        with suppress(BlockingIOError):
            while len(os.read(self.descriptor, 4096)) == 4096:
                pass
