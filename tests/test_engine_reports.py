"""Runs of the engine that tell of themselves: over its socket, by the kernel's word of who they are."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from sdcron import engine_reports, process_tree
from sdcron.engine_reports import RunReports
from sdcron.job import Job, Output, Source
from sdcron.open_run import OpenRun
from sdcron.runs import Trigger
from tests.contract import play, runs
from tests.contract_jobs import PLACE, sh
from tests.contract_told import has_told, sdk, status_of, write
from tests.contract_worlds import Host, LocalWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.process_tree import Process
    from tests.contract import Steps, World

A, B = "a" * 32, "b" * 32
JOB = Job("job", Source("/jobs/job.yaml"), ("true",), output=Output(redact=("secret",)))


class Active:
    """As much of an ActiveRun as is asked."""

    def __init__(self, run_id: str) -> None:
        self.run = OpenRun("job", run_id, "engine:", trigger=Trigger.RETRY, attempt=2)
        self.job = JOB
        self.pid = 1


class Book:
    """Who hears of what runs tell."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def told(self, run: OpenRun, alarm: str = "") -> None:
        """A run has told something."""
        self.heard.append((run.run_id[0], alarm))


class Place:
    """Two runs, A and B; this process is one of A's unless told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.book = Book()
        self.active = {A: Active(A), B: Active(B)}
        self.of_a: set[Process] = {cast("Process", process_tree.process_of(os.getpid()))}
        self.asked = 0
        self.path = directory / "reports"
        self.reports = RunReports(directory, cast("Any", self.active), cast("Any", self.book), self._members, lambda: 5)

    def _members(self, pid: int, run_id: str) -> set[Process]:
        self.asked += 1
        return self.of_a if run_id == A else set()

    def send(self, message: str | bytes, descriptors: tuple[int, ...] = ()) -> None:
        """From this process; taken at once."""
        data = message if isinstance(message, bytes) else message.encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self.path))
            socket.send_fds(sender, [data], descriptors) if descriptors else sender.send(data)
        self.reports.take()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    with place.reports:
        yield place


def test_a_run_is_told_of_itself_and_where_it_is_heard(place: Place) -> None:
    assert place.reports.about(A) == {
        "SDCRON_RUN_ID": A, "SDCRON_SOCKET": str(place.path), "SDCRON_JOB": "job", "SDCRON_ATTEMPT": "2",
        "SDCRON_TRIGGER": "retry",
    }  # fmt: skip


def test_a_process_speaks_of_its_own_run_alone(place: Place) -> None:
    for run_id in (A, B, "c" * 32, ""):
        place.send(f"SDCRON_RUN_ID={run_id}\nSDCRON_PROGRESS=1/2\nSDCRON_ALARM=a secret\n")
    assert place.book.heard == [("a", ""), ("a", "a [redacted]")]
    assert place.active[A].run.progress == (1, 2, 5)
    assert place.active[B].run.progress is None


def test_who_is_known_is_not_looked_for_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_reports, "_STRANGE_SECONDS", 1000.0)
    for number in range(100):
        place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS={number}/\n")
    assert (place.asked, len(place.book.heard)) == (1, 100)
    for _ in range(100):
        place.send(f"SDCRON_RUN_ID={B}\nSDCRON_PROGRESS=1/\n")
    assert (place.asked, len(place.book.heard)) == (2, 100)
    place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS=1/\n")
    assert (place.asked, len(place.book.heard)) == (2, 101)


def test_a_stranger_is_looked_for_again_a_little_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_reports, "_STRANGE_SECONDS", 0.0)
    mine, place.of_a = place.of_a, set()
    place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS=1/\n")
    place.of_a = mine
    place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS=1/\n")
    assert (place.asked, len(place.book.heard)) == (2, 1)


@pytest.mark.parametrize("message", [b"", b"\xff\0=\n==\n", b"SDCRON_RUN_ID=\xff", b"x" * 20_000, b"SDCRON_RUN_ID\n"])
def test_nonsense_is_passed_over(place: Place, message: bytes) -> None:
    place.send(message)
    place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS=\nSDCRON_ALARM=\n")
    assert place.book.heard == []


def test_whoever_waits_is_let_go_and_no_descriptor_stays(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for count in (1, 2, 30):
        ours, its = os.pipe()
        place.send(f"SDCRON_RUN_ID={A}\nSDCRON_PROGRESS=1/2\n", (its,) * count)
        os.close(its)
        assert os.read(ours, 1) == b""
        os.close(ours)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(place.book.heard) == 3


def test_what_an_engine_that_was_killed_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    with Place(tmp_path).reports:
        assert (tmp_path / "reports").stat().st_mode & 0o777 == 0o666
    assert not (tmp_path / "reports").exists()


@pytest.fixture
def world() -> Iterator[LocalWorld]:
    """An engine in a directory that is open to all."""
    directory = Path(tempfile.mkdtemp(prefix="sdcron-told-"))
    try:
        directory.chmod(0o755)
        world = LocalWorld(Host(directory), str(directory))
        world.switch_on()
        try:
            yield world
        finally:
            world.switch_off()
    finally:
        shutil.rmtree(directory)


def test_a_run_is_followed_until_it_ends(world: LocalWorld) -> None:
    text = f"{sdk(world)} progress 1 4; sleep 1; {sdk(world)} progress 3 4; sleep 4"
    world.apply({"followed": {"command": sh(text)}})
    world.start("followed")
    code, out, words = world.sdcron("status", "followed", "-f")
    assert (code, words) == (0, "")
    told = [line.split("\t")[1:] for line in out.splitlines() if "\t" in line]
    assert ["3", "4", "75.0"] in told
    assert out.splitlines()[-1].startswith("success, took ")
    # Nothing runs, nothing is waited for.
    assert world.sdcron("status", "followed", "-f")[0] == 0
    for wrong in (["status", "-f"], ["status", "followed", "-f", "--json"]):
        assert world.sdcron(*wrong)[0] == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run a job as another user")
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python that everybody may run")
def test_a_job_of_another_user_is_heard(world: LocalWorld) -> None:
    checkout = Path(__file__).resolve().parent.parent
    write(world, **{"sdk.py": (checkout / "sdcron/sdk.py").read_text(encoding="utf-8")})
    job = f"/usr/bin/python3 {PLACE}/sdk.py"

    def steps(world: World) -> Steps:
        text = f"{job} alarm theirs; {job} progress 1 4; {job} current trigger; exec sleep 100"
        world.apply({"theirs": {"user": "daemon", "command": sh(text)}})
        world.start("theirs")
        yield has_told(world, "theirs")
        told = status_of(world, "theirs")
        assert (told["progress"]["percent"], [alarm["text"] for alarm in told["alarms"]]) == (25, ["theirs"])
        world.stop("theirs")
        yield runs(world, "theirs", 1)
        assert world.seen["theirs"][0]["stdout"] == "manual\n"

    assert play(world, {"theirs": steps}) == {}
