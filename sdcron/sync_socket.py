"""How `status` and `history` have the collector that runs come up to date before they read: ask, and wait for a word.

Nothing is said but "done", so whoever may ask for a status may connect.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sdcron.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.paths import Paths
    from sdcron.recorder import Recorder

ANSWER_SECONDS = 15.0
"""How long `status` waits for a collector that is behind."""
_SOCKET = "sync"
_AT_ONCE = 32


def answer(recorder: Recorder, listener: socket.socket) -> None:
    """Catch up for those who wait for it."""
    waiting = _waiting(listener)
    done = False
    try:
        done = recorder.catch_up(seconds=ANSWER_SECONDS)
    finally:
        for connection in waiting:
            with suppress(OSError):
                if done:
                    connection.send(b"done\n")
            connection.close()


def turn_away(listener: socket.socket) -> None:
    """Let nobody wait while nothing can be recorded."""
    for connection in _waiting(listener):
        connection.close()


def _waiting(listener: socket.socket) -> list[socket.socket]:
    """Some of those who have connected: whoever asks again and again takes his turns, and no more."""
    found: list[socket.socket] = []
    with suppress(OSError):  # nobody else waits
        while len(found) < _AT_ONCE:
            connection, _ = listener.accept()
            found.append(connection)
    return found


def ask(paths: Paths, seconds: float = ANSWER_SECONDS) -> bool | None:
    """Ask the collector to catch up: whether it did in time; None if none runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(paths.collector_dir / _SOCKET))
            return connection.recv(16) == b"done\n"
        except TimeoutError:
            return False
        except OSError:
            return None


@contextmanager
def listening(paths: Paths) -> Iterator[socket.socket]:
    """The collector's end, as long as it runs. Raises OSError."""
    path = paths.collector_dir / _SOCKET
    make_directory(path.parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        # Whoever may ask for the status may have it up to date.
        path.chmod(0o666)
        listener.listen(64)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
