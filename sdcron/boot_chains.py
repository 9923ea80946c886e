"""After a boot: jobs that were about to run after others when the machine went down. Their tokens: chain_units.py.

A run that lost its power has no end of which systemd could tell anybody: the record says that it was cut off.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdcron.chain_units import DUE, END, LOCK, TOLD, after_handler_name
from sdcron.files import Files
from sdcron.installed import read_one
from sdcron.operations import connect
from sdcron.pauses import read_pauses
from sdcron.runs import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from sdcron.operations import Place
    from sdcron.paths import Paths
    from sdcron.store import Store


def start_chains(place: Place, store: Store | None, begun: Collection[str]) -> int:
    """Start the jobs whose chains have asked for it, or were about to; returns how many.

    Where a run that waited has `begun`, it is the one that was asked for, though it may still wait for a network. What
    a paused job was asked for is dropped, and what the record says came to nothing. Raises SdcronError, OSError.
    """
    pauses = read_pauses(place.paths)
    handlers = []
    for directory, after in _chained(place.paths):
        with _locked(directory):
            if _came_to_nothing(directory, store):
                (directory / DUE).unlink()
            was_asked = (directory / DUE).exists()
            due = _is_due(directory, after) and not (was_asked and directory.name in begun)
            if pauses.of(directory.name):
                (directory / DUE).unlink(missing_ok=True)
            elif due:
                os.utime(directory / DUE)
                handlers.append(after_handler_name(directory.name))
    if handlers:
        with connect(place) as backend:
            if backend is not None:
                backend.start(handlers, wait=False)
    return len(handlers)


def tell_of_cut_off(paths: Paths, store: Store, retried: Collection[str]) -> None:
    """Have jobs know of the runs before them that were cut off, but for those of jobs that are `retried`.

    Raises SdcronError, OSError.
    """
    for directory, after in _chained(paths):
        since_us = (directory / LOCK).stat().st_mtime_ns // 1000
        for name in after:
            status = store.statuses(name).get(name)
            run = status.last if status is not None else None
            if run is None or run.outcome is not Outcome.ABANDONED or run.asked.is_special or name in retried:
                continue
            with _locked(directory):
                told = directory / f"{name}{TOLD}"
                if (run.started_us or 0) >= since_us and _text(told) != run.run_id:
                    Files().write(directory / f"{name}{END}", "bad\n")
                    Files().write(told, f"{run.run_id}\n")


def _chained(paths: Paths) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The directories of the jobs that run after others, and those others."""
    graph = paths.graph_dir
    for directory in sorted(graph.iterdir()) if graph.is_dir() else ():
        job = read_one(paths, directory.name)
        if job is not None and after_handler_name(job.name) in job.units and (directory / LOCK).exists():
            yield directory, job.after


def _came_to_nothing(directory: Path, store: Store | None) -> bool:
    """Whether a start that was asked for was made, and no gate came to see it: another condition did not hold."""
    if store is None or not (directory / DUE).exists():
        return False
    status = store.statuses(directory.name).get(directory.name)
    run = status.last if status is not None else None
    asked_us = (directory / DUE).stat().st_mtime_ns // 1000
    return run is not None and run.outcome is Outcome.SKIPPED and (run.started_us or 0) >= asked_us


def _is_due(directory: Path, after: Sequence[str]) -> bool:
    """Whether a start is asked for. All tokens are that too, and become it."""
    due = directory / DUE
    ends = {name: _text(directory / f"{name}{END}") for name in after}
    used = list(after)
    if due.exists():
        # Those that it was made of may have been left when the power was cut; what has ended since is for the next.
        asked_ns = due.stat().st_mtime_ns
        used = [name for name in after if ends[name] and (directory / f"{name}{END}").stat().st_mtime_ns <= asked_ns]
    elif all(ends.values()):
        Files().write(due, " ".join(name for name, end in ends.items() if end != "ok") + "\n")
    else:
        return False
    for name in used:
        (directory / f"{name}{END}").unlink(missing_ok=True)
    return True


def _text(path: Path) -> str:
    """What a token says; nothing for one that is not there."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """While no other end is looked at: see flock(1) in the units."""
    descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
