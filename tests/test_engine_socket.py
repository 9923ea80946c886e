"""How commands speak with the engine: one line each way, who asks by the kernel's word, and nobody can hold it up."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from sdcron import engine_socket
from sdcron.engine_socket import Connection, Requests, ask, listening
from sdcron.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534


class Loop:
    """The engine's loop as far as its socket needs it: answers what `reply` gives, None for not yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reply: Callable[[dict[str, Any], Connection], dict[str, Any] | None] = lambda request, connection: {
            "asked": request,
            "uid": connection.uid,
        }
        self.asked: list[dict[str, Any]] = []
        self.waiting: list[Connection] = []
        self.longest = 0.0
        self.steps = 0
        self.requests: Requests | None = None
        self._poll = select.epoll()
        self._over = threading.Event()

    def _watch(self, descriptor: int, to_write: bool) -> None:
        self._poll.register(descriptor, select.EPOLLOUT if to_write else select.EPOLLIN)

    def _unwatch(self, descriptor: int) -> None:
        with suppress(OSError, ValueError):
            self._poll.unregister(descriptor)

    def step(self, seconds: float = 0.05) -> None:
        """Wait for something, and see to it."""
        assert self.requests is not None
        for descriptor, _ in self._poll.poll(seconds):
            began = time.thread_time()
            found = self.requests.take(descriptor)
            if found is not None:
                request, connection = found
                self.asked.append(request)
                reply = self.reply(request, connection)
                if reply is not None:
                    connection.answer(reply)
                else:
                    self.waiting.append(connection)
            self.longest = max(self.longest, time.thread_time() - began)
            self.steps += 1

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Listen; the caller makes the steps."""
        with listening(self.directory) as listener:
            self.requests = Requests(listener, self._watch, self._unwatch)
            try:
                yield
            finally:
                self.requests.close()
                self._poll.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen, and go on by itself."""

        def run() -> None:
            while not self._over.is_set():
                self.step()

        with self.opened():
            thread = threading.Thread(target=run)
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                thread.join(10)
                assert not thread.is_alive()

    def client(self) -> socket.socket:
        """Somebody who connects, and does as he likes."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found.connect(f"/proc/self/fd/{here}/control")
        finally:
            os.close(here)
        found.settimeout(10)
        return found


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    found = Loop(tmp_path / "engine")
    with found.running():
        yield found


def still_answers(loop: Loop) -> None:
    assert ask(loop.directory, {"do": "state"}, 10) == {"asked": {"do": "state"}, "uid": os.geteuid()}


def heard(client: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            found += piece
    return found


# Asking


def test_a_question_has_an_answer(loop: Loop) -> None:
    assert ask(loop.directory, {"do": "run", "job": "nächtlich"}) == {
        "asked": {"do": "run", "job": "nächtlich"},
        "uid": os.geteuid(),
    }


def test_without_an_engine_there_is_no_answer(tmp_path: Path) -> None:
    assert ask(tmp_path / "none", {"do": "state"}) is None
    (tmp_path / "control").write_text("")
    assert ask(tmp_path, {"do": "state"}) is None


def test_a_socket_that_a_killed_engine_left_is_no_engine_and_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(tmp_path / "control"))
    left.close()
    assert ask(tmp_path, {"do": "state"}) is None
    with (loop := Loop(tmp_path)).running():
        still_answers(loop)
    assert not (tmp_path / "control").exists()


def test_an_error_is_raised_with_its_hint(loop: Loop) -> None:
    loop.reply = lambda *_: {"error": "no such job", "hint": "sdcron list"}
    with pytest.raises(BackendError, match="no such job") as caught:
        ask(loop.directory, {"do": "run"})
    assert caught.value.hint == "sdcron list"


@pytest.mark.parametrize("reply", [b"", b"\n", b"{", b"[" * 100_000 + b"\n", b"\xff\n"])
def test_an_engine_that_hangs_up_is_an_error(tmp_path: Path, reply: bytes) -> None:
    with listening(tmp_path) as listener:
        listener.setblocking(True)

        def answer() -> None:
            connection = listener.accept()[0]
            connection.recv(1000)
            connection.sendall(reply)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(BackendError, match="hung up"):
            ask(tmp_path, {"do": "state"}, 10)
        thread.join()


def test_an_engine_of_another_version_is_an_error(loop: Loop) -> None:
    loop.reply = lambda *_: cast("dict[str, Any]", ["a list"])
    with pytest.raises(BackendError, match="another version"):
        ask(loop.directory, {"do": "state"})


def test_an_engine_that_does_not_answer_is_not_waited_for_for_ever(loop: Loop) -> None:
    loop.reply = lambda *_: None
    with pytest.raises(BackendError, match="did not answer within 0 s"):
        ask(loop.directory, {"do": "state"}, 0.2)
    still_waits = loop.waiting[0]
    still_waits.answer({"too": "late"})
    loop.reply = lambda *_: {"fine": True}
    assert ask(loop.directory, {"do": "state"}) == {"fine": True}


def test_more_may_ask_at_once_than_a_socket_holds(tmp_path: Path) -> None:
    """A full queue is no missing engine: connect(2) says EAGAIN then."""
    loop = Loop(tmp_path / "engine")
    found: list[dict[str, Any] | None] = []
    with loop.opened():
        crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(300)]
        for each in crowd:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(str(loop.directory / "control"))
        thread = threading.Thread(target=lambda: found.append(ask(loop.directory, {"do": "state"}, 20)))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        for each in crowd:
            each.close()
        while thread.is_alive():
            loop.step()
        thread.join()
    assert found[0] is not None


def test_a_queue_that_stays_full_is_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "engine")
    with loop.opened():
        crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(300)]
        for each in crowd:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(str(loop.directory / "control"))
        with pytest.raises(BackendError, match="did not answer"):
            ask(loop.directory, {"do": "state"}, 0.3)
        for each in crowd:
            each.close()


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """An address has room for 107 characters: unix(7)."""
    directory = tmp_path / ("d" * 100) / ("e" * 100) / "engine"
    with (loop := Loop(directory)).running():
        still_answers(loop)


def test_whoever_may_not_look_into_the_directory_is_told_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        tmp_path.chmod(0)
        with pytest.raises(BackendError, match="no permission"):
            ask(tmp_path / "engine", {"do": "state"})
        tmp_path.chmod(0o700)
        return
    loop = Loop(tmp_path / "engine")
    with loop.running():
        loop.directory.chmod(0o700)
        assert "no permission to ask the engine" in as_nobody(lambda: str(ask(loop.directory, {"do": "state"})))


# Who asks


def as_nobody(do: Callable[[], str]) -> str:
    """What somebody else gets to hear, as far as we can be that: another process of ours, unless we are root."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                words = do()
            except BackendError as error:
                words = f"{error.message}; {error.hint}"
            os.write(writer, words.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        words = stream.read().decode()
    os.waitpid(pid, 0)
    return words


def open_to_all(directory: Path) -> None:
    """Everybody may go there, as to /run."""
    for parent in (directory, *directory.parents):
        if parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o555)


def test_the_kernel_says_who_asks(loop: Loop) -> None:
    open_to_all(loop.directory)
    answer = as_nobody(lambda: json.dumps(ask(loop.directory, {"do": "state", "uid": 0})))
    assert json.loads(answer) == {"asked": {"do": "state", "uid": 0}, "uid": os.geteuid() or NOBODY}


# Those who do not behave


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\0\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b'"state"\n',
        b"{\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b"9" * 60_000 + b"\n",
        b'{"do": "state"}',
        b"x" * 65_536,
        b"x" * 1_000_000,
        b"",
    ],
)
def test_garbage_is_hung_up_on(loop: Loop, garbage: bytes) -> None:
    with loop.client() as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(garbage)
        if garbage != b'{"do": "state"}':
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            assert heard(client) == b""
        else:  # whole, but for its end
            client.shutdown(socket.SHUT_WR)
            assert json.loads(heard(client))["asked"] == {"do": "state"}
    still_answers(loop)


def test_a_request_that_comes_byte_by_byte_is_a_request(loop: Loop) -> None:
    with loop.client() as client:
        for byte in b'{"do": "state"}\n':
            client.send(bytes([byte]))
            time.sleep(0.001)
        assert json.loads(heard(client))["asked"] == {"do": "state"}


def test_what_follows_a_request_is_left_alone(loop: Loop) -> None:
    with loop.client() as client:
        client.sendall(b'{"do": "one"}\n{"do": "two"}\n')
        assert json.loads(heard(client))["asked"] == {"do": "one"}
    still_answers(loop)
    assert [request["do"] for request in loop.asked] == ["one", "state"]


def test_whoever_goes_before_the_answer_is_missed_by_nobody(loop: Loop) -> None:
    loop.reply = lambda *_: None
    for _ in range(20):
        with loop.client() as client:
            client.sendall(b'{"do": "wait"}\n')
    while len(loop.waiting) < 20:
        time.sleep(0.01)
    for connection in loop.waiting:
        connection.answer({"run": "over"})
        connection.answer({"run": "over"})
    loop.reply = lambda *_: {"fine": True}
    assert ask(loop.directory, {}) == {"fine": True}


def test_silent_ones_make_room_for_others(loop: Loop) -> None:
    crowd = [loop.client() for _ in range(engine_socket._CONNECTIONS + 50)]
    crowd[-1].sendall(b"half a requ")
    still_answers(loop)
    assert loop.requests is not None
    assert len(loop.requests._connections) <= engine_socket._CONNECTIONS
    for each in crowd:
        each.close()


def test_thousands_of_connections_leave_nothing(loop: Loop) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3000):
        with loop.client() as client:
            if number % 3:
                client.sendall(b'{"do": "state"}\n' if number % 3 == 1 else b"gar\nbage")
            if number % 5 == 0:
                heard_of = client.recv(1000) if number % 3 == 1 else b""
                assert heard_of.endswith(b"\n") or number % 3 != 1
    still_answers(loop)
    deadline = time.monotonic() + 20
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_who_does_not_read_a_long_answer_holds_up_nobody(loop: Loop) -> None:
    loop.reply = lambda request, _: {"long": "x" * 3_000_000} if request.get("long") else {"fine": True}
    crowd = [loop.client() for _ in range(30)]
    for each in crowd:
        each.sendall(b'{"long": 1}\n')
    began = time.monotonic()
    assert ask(loop.directory, {}) == {"fine": True}
    while len(loop.asked) < 31:
        time.sleep(0.01)
    assert ask(loop.directory, {}) == {"fine": True}
    assert time.monotonic() - began < 20
    assert loop.requests is not None
    assert len(loop.requests._sending) <= engine_socket._SENDING
    # Those who are still there get all of it when they read at last.
    assert [len(heard(each)) for each in crowd[-5:]] == [3_000_013] * 5
    for each in crowd:
        each.close()


def test_a_long_answer_is_read_whole(loop: Loop) -> None:
    loop.reply = lambda *_: {"jobs": [f"job-{number}" for number in range(200_000)]}
    answer = ask(loop.directory, {})
    assert answer is not None
    assert len(answer["jobs"]) == 200_000


def test_without_open_files_left_who_asks_is_sent_away_and_the_engine_does_not_spin(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "engine")
    with loop.opened():
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(5)]
        for each in clients:
            each.connect(str(loop.directory / "control"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        held: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            for _ in range(5):
                loop.step()
            before = loop.steps
            for _ in range(5):
                loop.step(0.01)
            assert loop.steps == before
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [heard(each) for each in clients] == [b""] * 5
        thread = threading.Thread(target=still_answers, args=(loop,))
        thread.start()
        while thread.is_alive():
            loop.step()
        for each in clients:
            each.close()
