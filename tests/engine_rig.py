"""Real engines in a directory of their own, to be killed, starved and stopped: for tests of faults.

Jobs note their starts in a file that the engine does not know of, so that its records can be held against what was.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.engine_socket import ask
from sdcron.ledger import database
from sdcron.paths import system_paths
from sdcron.runs import from_json
from sdcron.store import Store
from tests.machine import until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sdcron.runs import Run

CHECKOUT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
#: Another name than sdcron's own variables: what an engine starts has it too, whatever becomes of its parents.
MARK = "SDCRON_TEST_RIG"
#: What an engine says once it runs jobs.
READY = "the engine runs"
LONG = os.environ.get("SDCRON_TEST_PROFILE") == "long"


@dataclass(frozen=True, slots=True)
class Note:
    """A job's process began: of which run, and when, seconds since 1970, up to a hundredth too early."""

    run_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Alive:
    """A process that an engine has started, or one that comes from such; `started` in ticks since the boot."""

    pid: int
    started: int
    run_id: str


class Rig:
    """One root directory, its jobs, and the engines that run them one after the other."""

    def __init__(self, root: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix` goes before every command, as nsenter(1) does."""
        self.root = root
        self.prefix = tuple(prefix)
        self.paths = system_paths(root).of_engine()
        self.said_file = root / "said"
        self.notes_file = root / "notes"
        self.engine: subprocess.Popen[bytes] | None = None
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), MARK: str(root)}
        root.mkdir(parents=True, exist_ok=True)

    # Jobs

    def noting(self, then: str = "") -> list[str]:
        """A job's command: notes its start, then goes on with a script."""
        # Without another process, which would be most of what a job costs.
        note = f'read up _ </proc/uptime; echo "$INVOCATION_ID $up" >>{self.notes_file}'
        return ["/bin/sh", "-c", f"{note}; {then}" if then else note]

    def apply(self, jobs: Mapping[str, Mapping[str, Any]]) -> None:
        """Apply exactly these jobs."""
        directory = self.root / "jobs"
        directory.mkdir(exist_ok=True)
        lines = [f"  {json.dumps(name)}: {json.dumps(job)}\n" for name, job in jobs.items()]
        (directory / "jobs.yaml").write_text("jobs:\n" + "".join(lines))
        self.sdcron("apply", str(directory), "--yes")

    def settings(self, **keys: str | int) -> None:
        """The settings of the engine."""
        self.paths.config_file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items()]
        self.paths.config_file.write_text("[engine]\n" + "".join(lines))

    # Commands

    def argv(self, *arguments: str) -> list[str]:
        """A command of sdcron's on this root."""
        more = [] if arguments[0] == "engine" else ["--backend", "local"]
        return [*self.prefix, PYTHON, "-m", "sdcron", *arguments, *more, "--root", str(self.root)]

    def sdcron(self, *arguments: str, status: int | None = 0, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run one, which must end with the status, if one is given."""
        ended = subprocess.run(
            self.argv(*arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        said = (ended.stdout + ended.stderr)[-2000:]
        assert status is None or ended.returncode == status, (arguments, ended.returncode, said)
        return ended

    # Engines

    def start(self, *prefix: str, ready: bool = True) -> int:
        """Start an engine, `prefix` before its command; its process id. With `ready`, wait until it runs jobs."""
        before = self.said().count(READY)
        with self.said_file.open("ab") as said:
            self.engine = subprocess.Popen(
                [*prefix, *self.argv("engine")],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        if ready:
            until(lambda: self.said().count(READY) > before or self._is_over(), 30, "the engine runs")
            assert self.engine.poll() is None, self.said()
        return self.engine.pid

    def _is_over(self) -> bool:
        return self.engine is None or self.engine.poll() is not None

    def signal(self, number: int) -> None:
        """Send the engine a signal."""
        assert self.engine is not None
        self.engine.send_signal(number)

    def ended(self, timeout: float = 30) -> int:
        """Wait for the engine's end; its status, or the signal's number, negative."""
        assert self.engine is not None
        return self.engine.wait(timeout)

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        self.ended()

    def end(self, timeout: float = 30) -> None:
        """SIGTERM; it must end by itself, without fault, and leave nobody."""
        self.signal(signal.SIGTERM)
        assert self.ended(timeout) == 0, self.said()
        assert self.alive() == set()

    def said(self) -> str:
        """All that engines have said so far."""
        return self.said_file.read_text() if self.said_file.exists() else ""

    def alive(self) -> set[Alive]:
        """Whom the engines of this root have started, and who has not ended."""
        found = set()
        for directory in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(directory.name)
                variables = (directory / "environ").read_bytes().split(b"\0")
                fields = (directory / "stat").read_text().rpartition(") ")[2].split()
                if f"{MARK}={self.root}".encode() in variables and fields[0] not in "ZX":
                    ids = [text[14:].decode() for text in variables if text.startswith(b"INVOCATION_ID=")]
                    if ids:
                        found.add(Alive(pid, int(fields[19]), ids[0]))
        return found

    def close(self) -> None:
        """Leave nothing."""
        if self.engine is not None and self.engine.poll() is None:
            self.kill()
        for _ in range(100):
            left = self.alive()
            if not left:
                return
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        raise AssertionError(f"cannot be killed: {left}")

    # What there is of its runs

    def records(self) -> list[Run]:
        """All records, the oldest first, as the database has them."""
        if self.prefix:
            told = self.sdcron("history", "--json", "-n", "1000000").stdout
            return [from_json(record) for record in json.loads(told)][::-1]
        store = Store.read(database(self.paths))
        if store is None:
            return []
        try:
            return list(store.history(output=True))[::-1]
        finally:
            store.close()

    def logged(self) -> list[dict[str, Any]]:
        """The lines of job_status.log, each of which must be a whole record."""
        log = self.paths.log_dir / "job_status.log"
        lines = subprocess.run([*self.prefix, "cat", log], capture_output=True, check=True).stdout.split(b"\n")
        assert lines.pop() == b""
        return [json.loads(line) for line in lines]

    def count(self) -> int:
        """How many records there are."""
        store = Store.read(database(self.paths))
        if store is None:
            return 0
        try:
            return store.newest_id()
        finally:
            store.close()

    def running(self) -> set[str]:
        """Jobs that run, by the engine's word."""
        state = ask(self.paths.engine_dir, {"do": "state"})
        return set(state["running"]) if state is not None else set()

    def notes(self) -> list[Note]:
        """What jobs have noted."""
        offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        text = self.notes_file.read_text() if self.notes_file.exists() else ""
        return [Note(run_id, float(up) + offset) for run_id, up in map(str.split, text.splitlines())]

    def assert_all_on_record(self) -> list[Run]:
        """Every start is on record exactly once, in the database and in the log, and was one; returns the records."""
        records = self.records()
        ids = [record.run_id for record in records]
        assert len(ids) == len(set(ids))
        logged = [line["run_id"] for line in self.logged()]
        assert len(logged) == len(set(logged))
        assert set(logged) == set(ids)
        noted = [note.run_id for note in self.notes()]
        assert len(noted) == len(set(noted))
        assert set(noted) <= set(ids)
        return records


@contextmanager
def rig(root: Path, prefix: Sequence[str] = ()) -> Iterator[Rig]:
    """A root directory that leaves no process behind."""
    made = Rig(root, prefix)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def mounted(setup: str) -> Iterator[tuple[str, ...]]:
    """A mount namespace in which a script has mounted what it likes; what goes before a command that is to see it.

    It goes with the process that holds it: no mount is ever left behind.
    """
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f"{setup}\necho ready\nexec sleep 1000"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.fail("nothing can be mounted")
        yield ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--")
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def fields_of(pid: int, *names: str) -> dict[str, int]:
    """Numbers of /proc/PID/status; sizes in KiB."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in names:
            found[name] = int(value.split()[0])
    return found


def children(pid: int) -> list[int]:
    """The children of a process, those that have ended and were not reaped included."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombies(pid: int) -> int:
    """How many of them have ended."""
    count = 0
    for child in children(pid):
        with suppress(OSError):
            count += Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] == "Z"
    return count


def processor_seconds(pid: int) -> float:
    """What a process itself has used of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_at_once(records: Collection[Run]) -> int:
    """How many runs were on at the same time, at most."""
    ends = [((record.finished_us or 0), -1) for record in records]
    changes = sorted([((record.started_us or 0), 1) for record in records] + ends)
    return max(itertools.accumulate(change for _, change in changes))


def by_job(records: Collection[Run]) -> dict[str, list[Run]]:
    """Records in the order of their starts, by job."""
    found: dict[str, list[Run]] = {}
    for record in sorted(records, key=lambda record: record.started_us or 0):
        found.setdefault(record.job, []).append(record)
    return found


def wait(condition: Callable[[], Any], what: str, timeout: float = 30) -> None:
    """Wait until it holds."""
    until(condition, timeout, what)
