"""Runs inside a machine: applies a directory that changes between two states, with one fault at each step of it.

    python3 -m tests.system.fault_driver kill|raise FIRST SECOND RAN

A fault is a SIGKILL, or an exception, before the N-th change of a file or the N-th call to systemd that changes
something; N goes from 1 to the end. FIRST and SECOND hold the job files of the two states; RAN is a directory that stays empty
unless a job runs. Prints one JSON object: `problems`, and how many steps were tried.

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

    def counted(self: SystemdBackend, path: bytes, interface: bytes, method: str, arguments: list[Any]) -> Any:
        if method in MUTATING:
            try:
                told(f"{method} {[value for _, value in arguments[:1]]}")
            except OSError as error:
                raise BackendError(f"systemd refused {method}: injected") from error
        return call(self, path, interface, method, arguments)

    SystemdBackend._call = counted  # type: ignore[method-assign]


def apply(directory: str, at: int, action: Callable[[], None]) -> tuple[int, list[str], str]:
    """Apply one state in a child with a fault at step `at`; returns exit status (-9 killed), steps and output."""
    shutil.rmtree(JOBS, ignore_errors=True)
    shutil.copytree(directory, JOBS)
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
    with open(reading, encoding="utf-8") as stream:
        steps, _, output = stream.read().partition("\0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps.splitlines(), output


def state(ran: Path) -> dict[str, Any]:
    """Everything of sdcron in files and in systemd's memory."""
    files = {}
    for root in ROOTS:
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            if "sdcron" not in str(path) or path.is_dir():
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
            for key in sorted({*values, *others}):
                if values.get(key) != others.get(key):
                    told_differences.append(f"{key}: {str(others.get(key))[:80]!r}, not {str(values.get(key))[:80]!r}")
        elif values != others:
            told_differences.append(f"{part}: {others}, not {values}")
    return "; ".join(told_differences)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def nothing() -> None:
    """No fault."""


def try_all(how: str, directories: tuple[str, str], ran: Path) -> dict[str, Any]:
    """Go through all steps in both directions."""
    problems: list[str] = []
    wanted = {}
    # Once around first, so that the wanted states are those of a machine that has been through all this.
    for directory in (*directories, *directories):
        status, _, output = apply(directory, 0, nothing)
        wanted[directory] = state(ran)
        if status != 0:
            return {"problems": [f"apply {directory}: {status} {output}"], "steps": 0}
    whole = units(wanted[directories[0]]["files"]) | units(wanted[directories[1]]["files"])
    before, after = directories[1], directories[0]
    at = {before: 1, after: 1}
    done: set[str] = set()
    tried = 0
    while len(done) < 2 and len(problems) < 5:
        if after in done:
            apply(after, 0, nothing)
            before, after = after, before
            continue
        status, steps, output = apply(after, at[after], kill if how == "kill" else refuse)
        place = f"{how} in {after} at {at[after]} ({steps[at[after] - 1] if len(steps) >= at[after] else 'end'})"
        if len(steps) < at[after]:
            done.add(after)
            if status != 0:
                problems.append(f"{place}: {status} {output}")
        else:
            tried += 1
            found = state(ran)
            broken = units(found["files"]) - whole
            if broken:
                problems.append(f"{place}: half-written {sorted(name for name, _ in broken)}")
            if how == "kill":
                problems += [f"{place}: not killed: {status} {output}"] if status != -signal.SIGKILL else []
                status, _, output = apply(after, 0, nothing)
                if status != 0:
                    problems.append(f"{place}, next apply: {status} {output}")
                found = state(ran)
            elif status == 0:
                # What failed did not matter: then it is done.
                before, after = after, before
            elif status not in (1, 4) or "bug" in output or not output.strip():
                problems.append(f"{place}: {status} {output}")
            differs = difference(wanted[after if how == "kill" else before], found)
            if differs:
                problems.append(f"{place}: {differs}")
        at[after] += 1
        if how == "kill":
            before, after = after, before
    return {"problems": problems, "steps": tried}


if __name__ == "__main__":
    watch_systemd()
    how, first, second, ran_directory = sys.argv[1:]
    # What a command imports is imported once, and not by every child anew.
    with redirect_stdout(io.StringIO()):
        cli.run(["plan", first])
    sys.stdout.write(json.dumps(try_all(how, (first, second), Path(ran_directory))) + "\n")
