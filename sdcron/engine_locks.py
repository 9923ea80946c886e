"""The locks of the engine's runs: flock(2) on the files that flock(1) in the units locks too, all of a run's or none.

First come, first served among the engine's own. What others hold is looked at again and again by who is first in line.
A descriptor is open as long as its run is on, here and in the run's processes: a command that closes what it inherits
keeps its locks, and an engine that is killed leaves them to what is left of its runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple

from sdcron.files import make_directory
from sdcron.unit_locks import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdcron.job import Job

_LOOK_AGAIN_SECONDS = 0.2
"""How often it is looked whether somebody else has given back a lock."""


class Held(NamedTuple):
    """A lock that another has, and when to try again at the latest; None for not at all."""

    name: str
    again_at: float | None


class Locks:
    """Those of one engine, by run id. Moments are those of a clock that cannot be set, in seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._taken: dict[str, dict[str, int]] = {}
        """Names and descriptors."""
        self._lines: dict[str, dict[str, None]] = {}
        """Who has a lock or waits for it, in the order of arrival, by name."""
        self._until: dict[str, float] = {}
        """How long at most who waits does."""
        self._woken: list[str] = []

    def take(self, run_id: str, job: Job, now: float) -> Held | None:
        """Take the locks of a job for a run of it, now or in its turn; None when it has them.

        Raises OSError for a file that cannot be opened, and ValueError for what is no name.
        """
        if run_id in self._taken or not job.lock:
            return None
        for name in job.lock:
            self._lines.setdefault(name, {})[run_id] = None
        behind = next((name for name in job.lock if not self._is_first(run_id, name)), "")
        held = behind or self._lock_all(run_id, job.lock)
        if not held:
            self._until.pop(run_id, None)
            return None
        # A process that is being started has a copy of every descriptor until it executes its program: what others hold
        # is looked at twice at least.
        wait = max(job.lock_wait.total_seconds(), 0 if behind else _LOOK_AGAIN_SECONDS)
        until = self._until.setdefault(run_id, now + wait)
        if now >= until:
            return Held(held, None)
        return Held(held, until if behind else min(now + _LOOK_AGAIN_SECONDS, until))

    def is_waiting(self, run_id: str) -> bool:
        """Whether the run is in line."""
        return run_id in self._until

    def descriptors(self, run_id: str) -> tuple[int, ...]:
        """What a process of the run is to inherit."""
        return tuple(self._taken.get(run_id, {}).values())

    def leave(self, run_id: str, job: Job) -> None:
        """Give back what the run has, and its places in line."""
        _close(self._taken.pop(run_id, {}))
        self._until.pop(run_id, None)
        for name in job.lock:
            line = self._lines.get(name, {})
            if run_id not in line:
                continue
            was_first = self._is_first(run_id, name)
            del line[run_id]
            if not line:
                del self._lines[name]
            elif was_first:
                self._woken.append(next(iter(line)))

    def woken(self) -> list[str]:
        """Who has come to the front of a line since this was asked last."""
        woken, self._woken = self._woken, []
        return woken

    def _is_first(self, run_id: str, name: str) -> bool:
        return next(iter(self._lines[name])) == run_id

    def _lock_all(self, run_id: str, names: Sequence[str]) -> str:
        """Lock all files; the name of the first that another has."""
        taken: dict[str, int] = {}
        try:
            for name in names:
                taken[name] = self._opened(name)
                if not _lock(taken[name]):
                    return name
            self._taken[run_id], taken = taken, {}
            return ""
        finally:
            _close(taken)

    def _opened(self, name: str) -> int:
        if not LOCK_NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no lock name")
        make_directory(self._directory)
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._directory / name, flags, 0o600)
        if descriptor > 2:
            return descriptor
        # The numbers of the standard streams are the command's.
        try:
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
