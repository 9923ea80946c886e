"""How commands speak with the engine of their scope: one line of JSON each way, on a socket of its own.

Who may only look may connect, and asks for the state. To change something takes the engine's own user, or root: the
kernel says who asks (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcron.errors import BackendError
from sdcron.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANSWER_SECONDS = 15.0
"""How long a command waits for an engine that is busy."""
_NAME = "control"
_LONGEST_REQUEST = 65536
_LONGEST_ORDER = 8 << 20
"""Of those who may give orders: a run may have several values, each as long as an argument may be."""
_CONNECTIONS = 200
_SENDING = 20
"""Replies that are larger than what a socket takes at once, and not read yet."""
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Connection:
    """Somebody who asks; `uid` is who, by the kernel's word."""

    socket: socket.socket
    uid: int
    send_later: Callable[[Connection], object]
    heard: bytearray = field(default_factory=bytearray)
    rest: bytes = b""
    """What of the reply is still to be sent."""

    def answer(self, reply: dict[str, Any]) -> None:
        """Send the reply, and hang up; nobody is waited for who does not read it."""
        self.rest = json.dumps(reply).encode() + b"\n"
        if self.send():
            self.socket.close()
        else:
            self.send_later(self)

    def send(self) -> bool:
        """Send what the socket takes; whether that was all, or nobody is there any more."""
        try:
            self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            return False
        except OSError:
            self.rest = b""
        return not self.rest


class Requests:
    """The engine's end. `watch` and `unwatch` have its loop look at a descriptor, to read there or to write."""

    def __init__(
        self, listener: socket.socket, watch: Callable[[int, bool], object], unwatch: Callable[[int], object]
    ) -> None:
        self._listener = listener
        self._watch = watch
        self._unwatch = unwatch
        self._connections: dict[int, Connection] = {}
        self._sending: dict[int, Connection] = {}
        # Where no more files can be opened it is closed for whoever asks: else he would be heard of again and again.
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        watch(listener.fileno(), False)

    def take(self, descriptor: int) -> tuple[dict[str, Any], Connection] | None:
        """What has come at a descriptor: a whole request, or nothing yet."""
        if descriptor == self._listener.fileno():
            self._accept()
            return None
        if descriptor in self._sending:
            if self._sending[descriptor].send():
                self._let_go_of_reader(descriptor)
            return None
        connection = self._connections.get(descriptor)
        if connection is None:
            return None
        try:
            piece = connection.socket.recv(_LONGEST_REQUEST)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""
        connection.heard += piece
        longest = _LONGEST_ORDER if connection.uid in (0, os.geteuid()) else _LONGEST_REQUEST
        if piece and b"\n" not in piece and len(connection.heard) < longest:
            return None
        self._let_go(descriptor)
        try:
            request = json.loads(connection.heard.partition(b"\n")[0])
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            connection.socket.close()
            return None
        return request, connection

    def _accept(self) -> None:
        try:
            accepted = self._accepted()
        except OSError:  # whoever it was has gone
            return
        if accepted is None:
            return
        if len(self._connections) >= min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8):
            # Whoever has said nothing for longest.
            oldest = next(iter(self._connections))
            silent = self._connections[oldest]
            self._let_go(oldest)
            silent.socket.close()
        accepted.setblocking(False)
        _, uid, _ = _CREDENTIALS.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        self._connections[accepted.fileno()] = Connection(accepted, uid, self._send_later)
        self._watch(accepted.fileno(), False)

    def _accepted(self) -> socket.socket | None:
        """Who asks; None if no more files can be opened, and he was sent away. Raises OSError."""
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare < 0:
                raise
        os.close(self._spare)
        self._spare = -1
        with suppress(OSError):
            self._listener.accept()[0].close()
        with suppress(OSError):
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return None

    def _send_later(self, connection: Connection) -> None:
        """Send the rest of a reply when it is read."""
        if len(self._sending) >= _SENDING:
            self._let_go_of_reader(next(iter(self._sending)))
        self._sending[connection.socket.fileno()] = connection
        self._watch(connection.socket.fileno(), True)

    def _let_go_of_reader(self, descriptor: int) -> None:
        self._unwatch(descriptor)
        self._sending.pop(descriptor).socket.close()

    def _let_go(self, descriptor: int) -> None:
        self._unwatch(descriptor)
        del self._connections[descriptor]

    def close(self) -> None:
        """Hang up."""
        for descriptor, connection in list(self._connections.items()):
            self._let_go(descriptor)
            connection.socket.close()
        for descriptor in list(self._sending):
            self._let_go_of_reader(descriptor)
        self._unwatch(self._listener.fileno())
        if self._spare >= 0:
            os.close(self._spare)


@contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """The engine's end, as long as it runs. Raises OSError."""
    make_directory(directory)
    with near(directory, _NAME) as address, _socket() as listener:
        # Whoever was there before is gone: the caller holds the lock.
        (directory / _NAME).unlink(missing_ok=True)
        listener.bind(address)
        (directory / _NAME).chmod(0o666)
        listener.listen(128)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            (directory / _NAME).unlink(missing_ok=True)


def ask(directory: Path, request: dict[str, Any], seconds: float | None = ANSWER_SECONDS) -> dict[str, Any] | None:
    """The engine's answer; None if none runs.

    Raises BackendError for an engine that is too busy to answer within so many `seconds`, or hangs up.
    """
    with _socket() as connection:
        connection.settimeout(seconds)
        try:
            with near(directory, _NAME) as address:
                _connect(connection, address, seconds)
        except PermissionError as error:
            raise BackendError(f"no permission to ask the engine in {directory}", "run it as root (sudo)") from error
        except TimeoutError as error:
            raise _busy(seconds) from error
        except OSError:
            return None
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = _line(connection)
        except TimeoutError as error:
            raise _busy(seconds) from error
        except OSError as error:
            raise BackendError("the engine hung up", "see what it says where it was started") from error
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise BackendError("the engine hung up", "see what it says where it was started") from error
    if not isinstance(found, dict):
        raise BackendError("the engine is of another version", "start it again")
    if "error" in found:
        raise BackendError(str(found["error"]), str(found.get("hint", "")))
    return found


def _busy(seconds: float | None) -> BackendError:
    return BackendError(
        f"the engine did not answer within {seconds or 0:.0f} s", "see what it says where it was started"
    )


def _connect(connection: socket.socket, address: str, seconds: float | None) -> None:
    """Connect, as soon as the engine has room for one more who asks. Raises OSError."""
    deadline = time.monotonic() + seconds if seconds is not None else None
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.02)
        else:
            return


def _line(connection: socket.socket) -> bytes:
    heard = bytearray()
    while not heard.endswith(b"\n"):
        piece = connection.recv(1 << 16)
        if not piece:
            break
        heard += piece
    return bytes(heard)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


@contextmanager
def near(directory: Path, name: str) -> Iterator[str]:
    """A socket's path in few characters: an address has room for 107 (unix(7))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
