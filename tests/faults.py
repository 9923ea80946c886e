"""Faults at chosen steps: counts everything that changes files, and what a backend is told, and acts at the N-th.

Counts by Python's audit events (PEP 578), so that no write can go around it, whoever makes it.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATHS_OF = {
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
"""How many of an event's first arguments are paths."""


class Trap:
    """Counts the changes below `roots`; the one numbered `at` (from 1) calls `action`, before it happens.

    What `action` raises comes out of the call that would have made the change.
    """

    def __init__(self, roots: list[Path], at: int = 0, action: Callable[[], None] | None = None) -> None:
        self.steps: list[str] = []
        self.on_step: Callable[[str], object] = lambda _what: None
        self._roots = [str(root) for root in roots]
        self._at = at
        self._action = action

    def step(self, what: str) -> None:
        """Count one change that is about to happen."""
        self.steps.append(what)
        self.on_step(what)
        if len(self.steps) == self._at and self._action is not None:
            self._action()

    def sees(self, path: str) -> bool:
        """Whether a path is below one of the roots."""
        return any(path == root or path.startswith(f"{root}/") for root in self._roots)


class Power:
    """A machine that dies at one step, simulated inside one process: from then on no step can be made."""

    def __init__(self, roots: list[Path], at: int) -> None:
        self.trap = Trap(roots, at, self._die)
        self._dead = False
        self._count = self.trap.step
        self.trap.step = self._step  # type: ignore[method-assign]  # watched

    def _die(self) -> None:
        self._dead = True

    def _step(self, what: str) -> None:
        if not self._dead:
            self._count(what)
        if self._dead:
            raise Killed(what)


class Killed(BaseException):
    """Stands for SIGKILL where a test has one process only."""


_armed: list[Trap] = []
_hooked: list[bool] = []


@contextmanager
def armed(trap: Trap) -> Iterator[Trap]:
    """Count while the block runs. Audit hooks cannot be taken out again: one is put in and looks at what is armed."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _armed.append(trap)
    try:
        yield trap
    finally:
        _armed.remove(trap)


def told(what: str) -> None:
    """Count a change that is no file's: a call to a service manager."""
    for trap in tuple(_armed):
        trap.step(what)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _armed:
        return
    if event == "open":
        path, _, flags = arguments
        if not flags & _WRITING:
            return
        paths = [path]
    elif event in _PATHS_OF:
        paths = list(arguments[: _PATHS_OF[event]])
    else:
        return
    names = [_name(path) for path in paths]
    for trap in tuple(_armed):
        if any(trap.sees(name) for name in names):
            trap.step(f"{event} {' '.join(names)}")


def _name(path: int | str | bytes) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    return os.fsdecode(path)
