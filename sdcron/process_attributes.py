"""What a process sets of itself before it becomes a command, and the nearest to it that is allowed, as systemd does."""

from __future__ import annotations

import errno
import os
import resource

_IO_CLASSES = {"realtime": "1", "best-effort": "2", "idle": "3", "none": "2"}
"""By the number that ionice(1) has for each; what systemd calls `none` it sets as `best-effort`."""
_IO_LEVEL = "4"
"""systemd's default."""


def renice(nice: int) -> None:
    """Set it, or as systemd does, what comes nearest to it of what is allowed."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        soft = resource.getrlimit(resource.RLIMIT_NICE)[0]
        allowed = -20 if soft == resource.RLIM_INFINITY else 20 - soft
        if allowed < os.getpriority(os.PRIO_PROCESS, 0):
            os.setpriority(os.PRIO_PROCESS, 0, allowed)


def set_io(io: str) -> None:
    """Set the class and level of the process itself.

    By ionice(1): the C library does not have ioprio_set(2), and its number differs from one processor to the next.
    """
    name, _, level = io.partition(":")
    number = _IO_CLASSES[name]
    levels = [] if name == "idle" else ["-n", level or _IO_LEVEL]
    quiet = [(os.POSIX_SPAWN_OPEN, target, "/dev/null", os.O_RDWR, 0) for target in (1, 2)]
    argv = ["ionice", "-c", number, *levels, "-p", str(os.getpid())]
    pid = os.posix_spawnp("ionice", argv, os.environ, file_actions=quiet)
    if os.waitpid(pid, 0)[1]:
        # With arguments such as these, there is nothing else it could fail of.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def limit(kind: int, value: int) -> None:
    """Set both limits, or as systemd does, what comes nearest to it of what is allowed."""
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError:
        # This is how Python says EPERM.
        hard = resource.getrlimit(kind)[1]
        nearest = hard if value == resource.RLIM_INFINITY else value
        nearest = nearest if hard == resource.RLIM_INFINITY else min(nearest, hard)
        resource.setrlimit(kind, (nearest, nearest))
