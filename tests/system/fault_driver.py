"""Runs inside a machine: applies a directory that changes between two states, with one fault at each step of it.

    python3 -m tests.system.fault_driver kill|fail|interrupt FIRST SECOND RAN

A fault is a SIGKILL, an error, or Ctrl-C, before the N-th change of a file or the N-th call to systemd that changes
something; N goes from 1 to the end. FIRST and SECOND hold the job files of the two states; RAN is a directory that
stays empty unless a job runs. Prints one JSON object: `problems`, and how many `steps` were tried.

One process that forks: starting Python for each of hundreds of applies would take minutes.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcron import cli
from sdcron.backends.systemd import SystemdBackend
from sdcron.errors import BackendError
from sdcron.paths import system_paths
from tests.faults import Trap, armed, told

if TYPE_CHECKING:
    from collections.abc import Callable

MUTATING = {"StartUnit", "StopUnit", "ResetFailedUnit", "Reload", "StartTransientUnit"}
PATHS = system_paths()
ROOTS = [PATHS.unit_dir, PATHS.state_dir, PATHS.runtime_dir, PATHS.stamp_dir]
RECORD = "applied.json"
JOBS = Path("/etc/sdcron/jobs")


def watch_systemd() -> None:
    """Count each D-Bus call that changes something as a step."""
    call = SystemdBackend._call

    def counted(self: SystemdBackend, path: bytes, interface: bytes, method: str, arguments: list[Any]) -> object:
        if method in MUTATING:
            try:
                told(f"{method} {[value for _, value in arguments[:1]]}")
            except OSError as error:
                raise BackendError(f"systemd refused {method}: injected") from error
        return call(self, path, interface, method, arguments)

    SystemdBackend._call = counted  # type: ignore[method-assign]  # to fail at a call


def put(directory: str) -> None:
    """Make the job files those of one state, all of one age: a newer SourcePath= counts as an old text in memory."""
    shutil.rmtree(JOBS, ignore_errors=True)
    shutil.copytree(directory, JOBS)
    for path in JOBS.iterdir():
        os.utime(path, (1e9, 1e9))


def apply(directory: str, at: int, action: Callable[[], None]) -> tuple[int, list[str], str]:
    """Apply one state in a child with a fault at step `at`; returns exit status (-9 killed), steps and output."""
    put(directory)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.close(reading)
            trap = Trap(ROOTS, at, action)
            # Steps are told as they come: a killed child has no time to tell.
            trap.on_step = lambda what: os.write(writing, f"{what}\n".encode())
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(out), armed(trap):
                status = cli.run(["apply", "--yes", str(JOBS)])
            os.write(writing, f"\0{out.getvalue()}".encode())
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(writing, f"\0{traceback.format_exc()}".encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        steps, _, output = stream.read().partition("\0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps.splitlines(), output


def state(ran: Path) -> dict[str, Any]:
    """Everything of sdcron in files and in systemd's memory."""
    files = {}
    for root in ROOTS:
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            if "sdcron" not in str(path) or path.is_dir() or path.is_relative_to(PATHS.runs_dir):
                continue
            if path.is_relative_to(PATHS.collector_dir):
                # The collector's own, like the record of runs: it writes at any time.
                continue
            if path.is_symlink():
                files[str(path)] = f"-> {path.readlink()}"
            else:
                # The record tells the times of files: it is there or not.
                files[str(path)] = "" if path.name == RECORD else path.read_text()
    backend = SystemdBackend()
    try:
        # The properties that say "an old text is in memory", and when it will run.
        timers = {}
        for name, unit in sorted(backend.loaded().items()):
            path = backend._encode_path(b"/org/freedesktop/systemd1/unit", name.encode())
            stale = backend._property(path, b"org.freedesktop.systemd1.Unit", "NeedDaemonReload")
            elapse = str(backend.next_elapse(name)) if name.endswith(".timer") else ""
            if unit.active != "inactive" or unit.load != "loaded" or stale:
                timers[name] = [unit.load, unit.active, bool(stale), elapse]
    finally:
        backend.close()
    return {"files": files, "loaded": timers, "ran": sorted(path.name for path in ran.iterdir())}


def units(files: dict[str, str]) -> set[tuple[str, str]]:
    """The visible units among files, with their texts."""
    return {
        (name, text)
        for name, text in files.items()
        if Path(name).parent == PATHS.unit_dir and Path(name).name.startswith("sdcron-")
    }


def difference(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """What differs, in few words."""
    told_differences = []
    for part, values in wanted.items():
        others = found[part]
        if isinstance(values, dict):
            told_differences += [
                f"{key}: {str(others.get(key))[:80]!r}, not {str(values.get(key))[:80]!r}"
                for key in sorted({*values, *others})
                if values.get(key) != others.get(key)
            ]
        elif values != others:
            told_differences.append(f"{part}: {others}, not {values}")
    return "; ".join(told_differences)


def reload() -> None:
    """From then on timers.target holds its timers in memory."""
    backend = SystemdBackend()
    try:
        backend.reload()
    finally:
        backend.close()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt() -> None:
    raise KeyboardInterrupt


def nothing() -> None:
    """No fault."""


@dataclass
class Tour:
    """Goes from one state to the other and back, with a fault one step later each time."""

    how: str
    ran: Path
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    steps: int = 0
    now: str = ""

    def go(self, directories: tuple[str, str]) -> None:
        """All of it, until there are too many problems to be worth reading."""
        # Once around first: the wanted states are those of a machine that has been through all this.
        for directory in (*directories, *directories):
            self.apply_without_fault(directory)
            self.wanted[directory] = state(self.ran)
        after, before = directories
        at = dict.fromkeys(directories, 1)
        while at and len(self.problems) < 5:
            if after not in at:
                self.apply_without_fault(after)
            elif not self.step(before, after, at[after]):
                del at[after]
            else:
                at[after] += STRIDE[self.how]
            if self.now == after:
                before, after = after, before

    def apply_without_fault(self, directory: str) -> None:
        """Which must work."""
        status, _, output = apply(directory, 0, nothing)
        if status != 0:
            self.problems.append(f"apply of {directory}: {status} {output}")
        self.now = directory

    def step(self, before: str, after: str, at: int) -> bool:
        """Apply with a fault at one step; False if there is no such step any more."""
        if self.how in HELD:
            reload()
        status, steps, output = apply(after, at, {"kill": kill, "fail": fail, "interrupt": interrupt}[self.how])
        # The record comes last, when all is done.
        self.now = after if status == 0 or RECORD in steps[-1] else before
        if len(steps) < at:
            self.problems += [f"{after}: {status} {output}"] if status != 0 else []
            return False
        self.steps += 1
        place = f"{self.how} in {after} at {at}, {steps[at - 1]}"
        broken = units(state(self.ran)["files"]) - self.whole_units()
        self.problems += [f"{place}: half-written {name}" for name, _ in sorted(broken)]
        if status not in EXPECTED[self.how]:
            self.problems.append(f"{place}: {status} {output}")
        if self.how == "kill":
            self.apply_without_fault(after)
        put(self.now)
        differs = difference(self.wanted[self.now], state(self.ran))
        if differs:
            self.problems.append(f"{place}: {differs}")
        return True

    def whole_units(self) -> set[tuple[str, str]]:
        """Those of both states."""
        return set().union(*(units(wanted["files"]) for wanted in self.wanted.values()))


#: With this, timers.target holds its timers, as after a boot; with the others they are read when they start.
HELD = {"interrupt"}
#: How many steps further the next fault is: a reload each time is slow.
STRIDE = {"kill": 1, "fail": 1, "interrupt": 7}
#: Exit statuses; a failure that does not matter, such as that of the record, is none.
EXPECTED = {"kill": {-signal.SIGKILL}, "fail": {0, 1, 4}, "interrupt": {130}}


if __name__ == "__main__":
    watch_systemd()
    how, first, second, ran_directory = sys.argv[1:]
    # What a command imports is imported once, and not by every child anew.
    with redirect_stdout(io.StringIO()):
        cli.run(["plan", first])
    tour = Tour(how, Path(ran_directory))
    tour.go((first, second))
    sys.stdout.write(json.dumps({"problems": tour.problems, "steps": tour.steps}) + "\n")
