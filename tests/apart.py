"""Tests in a process of their own: they reap all its children, take in orphans, and change its signals and limits."""

from __future__ import annotations

import functools
import os
import signal
import time
import traceback
from typing import TYPE_CHECKING, ParamSpec

import pytest

from sdcron.process import reap
from sdcron.process_tree import become_reaper

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

#: Seconds such a test may take.
TIMEOUT = 100


def apart(test: Callable[P, None]) -> Callable[P, None]:
    """Run it in a copy of this process that orphans go to. Fails when it does, or when it leaves a process behind."""

    @functools.wraps(test)
    def in_child(*arguments: P.args, **keywords: P.kwargs) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                os.write(writing, _run(functools.partial(test, *arguments, **keywords)).encode()[-60_000:])
            finally:
                os._exit(0)
        os.close(writing)
        told = b""
        while piece := os.read(reading, 65536):
            told += piece
        os.close(reading)
        os.waitpid(pid, 0)
        if told:
            pytest.fail(told.decode(), pytrace=False)

    return in_child


def _run(test: Callable[[], None]) -> str:
    """What went wrong."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"not done within {TIMEOUT} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TIMEOUT)
    assert become_reaper()
    told = ""
    try:
        test()
    except BaseException:  # noqa: BLE001 - told to the process that can
        told = traceback.format_exc()
    signal.alarm(0)
    # Who has been killed needs a moment to end.
    _reap_for(2)
    left = children()
    while children():
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        _reap_for(0.1)
    return told or (f"left behind: {left}" if left else "")


def _reap_for(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while list(reap()) or (children() and time.monotonic() < deadline):
        time.sleep(0.002)


def children() -> list[int]:
    """The numbers of this process's children, those that have ended and were not reaped included."""
    with open(f"/proc/self/task/{os.getpid()}/children") as listed:
        return [int(number) for number in listed.read().split()]
