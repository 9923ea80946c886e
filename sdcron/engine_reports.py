"""Where runs of the engine tell it of themselves, as sdk.py does: progress and alarms, by datagrams.

The kernel says which process has sent one (SCM_CREDENTIALS, unix(7)): it is heard only of the run that it is part of.
Who is over at once keeps a pipe's end with the message, and waits until it is closed here: then he was looked at.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from sdcron import process_tree
from sdcron.engine_socket import near
from sdcron.files import make_directory
from sdcron.output import compile_patterns
from sdcron.reports import note_alarm, note_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from sdcron.engine_run import ActiveRun
    from sdcron.process_tree import Process
    from sdcron.run_book import RunBook

_NAME = "reports"
_LONGEST = 8192
_AT_ONCE = 64
"""Messages that are taken before the engine sees to other things: nobody can keep it busy with them."""
_KNOWN = 1000
"""Senders that are known again, those too that are of no run."""
_STRANGE_SECONDS = 1.0
"""How long who was of no run is not looked for again: somebody may be overlooked who loses his parents just then."""
_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("i")


class RunReports:
    """The engine's end of it, open while it is entered."""

    def __init__(
        self,
        directory: Path,
        active: Mapping[str, ActiveRun],
        book: RunBook,
        members: Callable[[int, str], Collection[Process]],
        wall_us: Callable[[], int],
    ) -> None:
        """`active` are the runs that are on, by id; `members` gives the processes of one."""
        self._path = directory / _NAME
        self._active = active
        self._book = book
        self._members = members
        self._wall_us = wall_us
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._known: dict[tuple[Process, str], float] = {}
        """Until when a process counts as one of a run that it has named, or, negative, as none of it."""

    def __enter__(self) -> Self:
        """Listen. Raises OSError."""
        make_directory(self._path.parent)
        # Whoever was there before is gone: the engine holds the lock.
        self._path.unlink(missing_ok=True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with near(self._path.parent, _NAME) as name:
            self._socket.bind(name)
        # Jobs may have users of their own.
        self._path.chmod(0o666)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def fileno(self) -> int:
        """What becomes readable when a run has something to say."""
        return self._socket.fileno()

    def about(self, run_id: str) -> dict[str, str]:
        """The variables that tell a run of itself, and where to say what."""
        active = self._active.get(run_id)
        told = {"SDCRON_RUN_ID": run_id, "SDCRON_SOCKET": str(self._path)}
        if active is not None:
            run = active.run
            told |= {
                "SDCRON_JOB": run.job,
                "SDCRON_ATTEMPT": str(run.attempt),
                "SDCRON_TRIGGER": str(run.trigger or ""),
            }
        return told

    def take(self) -> None:
        """Take what is there, at most some."""
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_DESCRIPTOR.size)
        for _ in range(_AT_ONCE):
            try:
                message, ancillary, _, _ = self._socket.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
            except OSError:  # BlockingIOError: that was all
                return
            pid = 0
            held: list[int] = []
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    whole = len(data) - len(data) % _DESCRIPTOR.size
                    held += [number for (number,) in _DESCRIPTOR.iter_unpack(data[:whole])]
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            try:
                self._hear(message, pid)
            finally:
                for number in held:
                    os.close(number)

    def _hear(self, message: bytes, pid: int) -> None:
        fields = dict(line.split(b"=", 1) for line in message.split(b"\n") if b"=" in line)
        active = self._active.get(fields.get(b"SDCRON_RUN_ID", b"").decode("ascii", "replace"))
        if active is None or not self._is_of(pid, active):
            return
        run, now_us = active.run, self._wall_us()
        progress, alarm = fields.get(b"SDCRON_PROGRESS"), fields.get(b"SDCRON_ALARM")
        if progress is not None and note_progress(run, progress, now_us):
            self._book.told(run)
        if alarm is not None:
            text = note_alarm(run, alarm, compile_patterns(active.job.output.redact), now_us)
            if text:
                self._book.told(run, text)

    def _is_of(self, pid: int, active: ActiveRun) -> bool:
        """Whether a process is one of the run's. Asked once of each: to look for all of them takes a while."""
        process = process_tree.process_of(pid) if pid > 0 and active.pid else None
        if process is None:
            return False
        run_id, now = active.run.run_id, time.monotonic()
        if abs(self._known.get((process, run_id), 0.0)) <= now:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = process in self._members(active.pid, run_id)
            self._known[process, run_id] = math.inf if found else -(now + _STRANGE_SECONDS)
        return self._known[process, run_id] > 0
