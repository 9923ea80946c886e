"""Locks of the engine's runs: in the order of arrival, all or none, and held by the run's processes too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron.engine_locks import Held, Locks
from sdcron.job import Job, Source
from sdcron.process import Command, start
from tests.apart import apart
from tests.machine import until

if TYPE_CHECKING:
    from pathlib import Path

BY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user")


def job(*names: str, wait: float = 0) -> Job:
    """A job with these locks, which waits for so many seconds."""
    return Job("job", Source("/jobs/job.yaml"), ("true",), lock=names, lock_wait=timedelta(seconds=wait))


def test_a_lock_is_one_runs_at_a_time_and_the_next_is_told(tmp_path: Path) -> None:
    locks = Locks(tmp_path / "locks")
    one = job("a", wait=10)
    assert locks.take("1", one, 0) is None
    assert locks.take("1", one, 0) is None
    assert [locks.take(run_id, one, 1) for run_id in "23"] == [Held("a", 11)] * 2
    assert [locks.is_waiting(run_id) for run_id in "123"] == [False, True, True]
    locks.leave("1", one)
    assert locks.woken() == ["2"]
    assert locks.woken() == []
    assert locks.take("3", one, 2) == Held("a", 11)
    assert locks.take("2", one, 2) is None
    locks.leave("3", one)
    locks.leave("2", one)
    assert locks.woken() == []
    assert locks.take("4", one, 3) is None
    locks.leave("4", one)


def test_who_waits_no_longer_is_told_to_give_up_and_no_lock_at_all_is_none(tmp_path: Path) -> None:
    locks = Locks(tmp_path / "locks")
    assert locks.take("0", job(), 0) is None
    assert not (tmp_path / "locks").exists()
    assert locks.take("1", job("a"), 0) is None
    assert locks.take("2", job("a"), 0) == Held("a", None)
    assert locks.take("3", job("a", wait=5), 0) == Held("a", 5)
    assert locks.take("3", job("a", wait=5), 4.9) == Held("a", 5)
    assert locks.take("3", job("a", wait=5), 5) == Held("a", None)
    locks.leave("1", job("a"))


def test_what_somebody_else_holds_is_looked_at_twice_at_least(tmp_path: Path) -> None:
    locks, others = Locks(tmp_path), Locks(tmp_path)
    assert others.take("x", job("a"), 0) is None
    assert locks.take("1", job("a"), 5) == Held("a", 5.2)
    # Who is behind one of the engine's own is not in doubt.
    assert locks.take("2", job("a"), 5) == Held("a", None)
    others.leave("x", job("a"))
    assert locks.take("1", job("a"), 5.2) is None
    locks.leave("1", job("a"))
    locks.leave("2", job("a"))
    assert others.take("x", job("a"), 6) is None
    assert locks.take("3", job("a"), 6) == Held("a", 6.2)
    assert locks.take("3", job("a"), 6.2) == Held("a", None)
    others.leave("x", job("a"))


def test_a_run_has_all_of_its_locks_or_none(tmp_path: Path) -> None:
    locks, others = Locks(tmp_path), Locks(tmp_path)
    assert others.take("x", job("b"), 0) is None
    # What others hold is looked at soon again.
    assert locks.take("1", job("a", "b", "c", wait=10), 0) == Held("b", 0.2)
    assert [others.take(name, job(name), 0) for name in ("a", "c")] == [None, None]
    for name in ("a", "c", "x"):
        others.leave(name, job({"x": "b"}.get(name, name)))
    assert locks.take("1", job("a", "b", "c", wait=10), 0) is None
    assert len(locks.descriptors("1")) == 3
    assert [others.take(name, job(name), 0) for name in "abc"] == [Held(name, 0.2) for name in "abc"]
    for name in "abc":
        others.leave(name, job(name))
    locks.leave("1", job("a", "b", "c"))
    assert locks.descriptors("1") == ()
    assert others.take("y", job("a", "b", "c"), 0) is None
    others.leave("y", job("a", "b", "c"))


def test_nobody_who_needs_several_locks_is_passed_over_for_ever(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    both = job("a", "b", wait=100)
    assert locks.take("1", job("a"), 0) is None
    assert locks.take("2", both, 0) == Held("a", 100)
    # Its place in the line for b is kept too.
    assert locks.take("3", job("b", wait=50), 0) == Held("b", 50)
    locks.leave("1", job("a"))
    assert locks.take("2", both, 1) is None
    locks.leave("2", both)
    assert locks.woken() == ["2", "3"]
    assert locks.take("3", job("b", wait=50), 2) is None
    locks.leave("3", job("b"))


def test_flock_of_a_shell_and_the_engine_respect_each_other(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    assert locks.take("1", job("a"), 0) is None
    tried = ["flock", "--nonblock", str(tmp_path / "a"), "true"]
    assert subprocess.run(tried, check=False, timeout=10).returncode == 1
    locks.leave("1", job("a"))
    assert subprocess.run(tried, check=False, timeout=10).returncode == 0
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("user", [None, pytest.param("daemon", marks=BY_ROOT)])
@apart
def test_a_process_of_the_run_holds_its_locks_when_the_engine_is_gone(tmp_path: Path, user: str | None) -> None:
    locks, others = Locks(tmp_path), Locks(tmp_path)
    assert locks.take("1", job("a"), 0) is None
    command = Command(("/bin/sleep", "100"), {}, user=user, inherited=locks.descriptors("1"))
    with open(os.devnull, "wb") as nothing:
        pid = start(command, nothing.fileno(), nothing.fileno())
        unlocked = start(Command(("/bin/sleep", "100"), {}), nothing.fileno(), nothing.fileno())
    try:
        # As the kernel does it with those of an engine that is killed.
        locks.leave("1", job("a"))
        assert others.take("2", job("a"), 0) == Held("a", 0.2)
        assert others.take("2", job("a"), 0.2) == Held("a", None)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        # What is being started has copies for a moment.
        until(lambda: others.take("2", job("a"), 0) is None, 5, "nobody has it")
    finally:
        others.leave("2", job("a"))
        os.kill(unlocked, signal.SIGKILL)
        os.waitpid(unlocked, 0)


@apart
def test_a_command_that_closes_what_it_inherits_keeps_its_locks(tmp_path: Path) -> None:
    locks, others = Locks(tmp_path), Locks(tmp_path)
    assert locks.take("1", job("a"), 0) is None
    closing = "import os, time; os.closerange(3, 1000); print('closed', flush=True); time.sleep(100)"
    command = Command((sys.executable, "-c", closing), {}, inherited=locks.descriptors("1"))
    reading, writing = os.pipe()
    pid = start(command, writing, writing)
    os.close(writing)
    try:
        assert os.read(reading, 100) == b"closed\n"
        assert others.take("2", job("a"), 0) == Held("a", 0.2)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        locks.leave("1", job("a"))


@pytest.mark.parametrize("name", ["../a", "", ".", "a b", "{region}", "a\n", "a" * 129])
def test_what_is_no_name_is_no_file(tmp_path: Path, name: str) -> None:
    locks = Locks(tmp_path / "locks")
    with pytest.raises(ValueError, match="is no lock name"):
        locks.take("1", job(name), 0)
    assert list(tmp_path.iterdir()) == []
    locks.leave("1", job(name))
