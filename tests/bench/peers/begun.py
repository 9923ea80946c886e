"""When the jobs of a benchmark are due, and when they began: what the probe wrote (probe.c)."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.bench.peers.daemon import DaemonError

if TYPE_CHECKING:
    from pathlib import Path

#: A line of the probe, in bytes.
LINE = 27


def start_of(patience: float, length: int, now: datetime | None = None) -> datetime:
    """The first whole second, `patience` seconds from now, with `length` seconds of the same minute after it."""
    start = (now or datetime.now(UTC)).replace(microsecond=0) + timedelta(seconds=math.ceil(patience) + 1)
    if start.second + length > 59:
        start = start.replace(second=0) + timedelta(minutes=1)
    return start


def next_minute(patience: float) -> datetime:
    return start_of(patience, 60)


def until_loaded(first: datetime) -> None:
    """Raises DaemonError if the first instant is here already: what loads that late was not due at it."""
    if datetime.now(UTC) >= first:
        raise DaemonError("had not loaded its jobs when they were due")


def wait_for(results: Path, count: int, deadline: float, *, enough: bool = True) -> None:
    """Wait until so many jobs have begun; at the deadline (seconds since 1970) raises DaemonError if `enough` must."""
    while not results.exists() or results.stat().st_size < count * LINE:
        if time.time() > deadline:
            if enough:
                raise DaemonError(f"{len(begun_in(results))} of {count} jobs had begun at the end")
            return
        time.sleep(0.1)


def begun_in(results: Path) -> list[tuple[float, int]]:
    """When which job began, the earliest first."""
    if not results.exists():
        return []
    lines = (line.split() for line in results.read_text().splitlines())
    return sorted((int(begin) / 1e9, int(number)) for begin, number in lines)


def lateness_of(results: Path, instants: list[float], count: int) -> list[list[float]]:
    """For each instant how late each job began, in order. Raises DaemonError unless each began once, and not before."""
    found = []
    for number, instant in enumerate(instants):
        of_this = begun_in(results)[number * count : (number + 1) * count]
        if {job for _, job in of_this} != set(range(count)) or of_this[0][0] < instant:
            raise DaemonError("jobs did not begin once each, after they were due")
        found.append([begin - instant for begin, _ in of_this])
    return found
