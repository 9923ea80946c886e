"""What a job's command is started with by the engine: environment, secrets, scripts, and who is left alone."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sdcron.engine_run import StartFailedError
from sdcron.job import Credential, Job, Source
from sdcron.open_run import GONE
from sdcron.paths import system_paths
from sdcron.processes import Processes
from tests.apart import apart, children

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.paths import Paths

RUN = "a" * 32
JOB = Job("job", Source("/etc/jobs/job.yaml"), command=("/bin/true",))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return system_paths(tmp_path / "root").of_engine()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_files_that_are_none_make_nobody_wait(paths: Paths, tmp_path: Path, pipe: tuple[int, int]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for job in (
        replace(JOB, environment_file=(str(fifo),)),
        replace(JOB, credentials=(Credential("key", str(fifo)),)),
    ):
        began = time.monotonic()
        with pytest.raises(StartFailedError):
            Processes(paths).start(job, RUN, None, pipe[1], pipe[1])
        assert time.monotonic() - began < 5


@apart
def test_secrets_are_handed_over_once_for_a_check_and_the_command_and_are_gone_afterwards(
    paths: Paths, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("secret")
    job = replace(JOB, credentials=(Credential("key", str(tmp_path / "key")),))
    processes = Processes(paths)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    show = ("/bin/sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/key"; stat -c %a "$CREDENTIALS_DIRECTORY/key"')
    for _ in range(2):
        pid = processes.start(job, RUN, show, writer, writer)
        while pid not in {ended.pid for ended in processes.reap()}:
            time.sleep(0.01)
        assert os.read(reader, 100) == b"secret400\n"
    processes.tidy(RUN)
    assert not (paths.engine_dir / "credentials" / RUN).exists()


@apart
def test_only_the_jobs_own_command_inherits_its_locks(paths: Paths) -> None:
    job = replace(JOB, command=("/bin/sh", "-c", "ls -l /proc/$$/fd | grep -o '/locks/.*'; :"), lock=("a", "b"))
    processes = Processes(paths)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    assert processes.locks.take(RUN, job, 0) is None
    for argv, expected in ((job.command, b""), (None, b"/locks/a\n/locks/b\n")):
        pid = processes.start(job, RUN, argv, writer, writer)
        while pid not in {ended.pid for ended in processes.reap()}:
            time.sleep(0.01)
        os.write(writer, b".")
        assert os.read(reader, 100) == expected + b"."
    processes.locks.leave(RUN, job)


@apart
def test_the_text_of_a_script_is_for_nobody_elses_eyes(paths: Paths) -> None:
    job = replace(JOB, command=(), script="#!/bin/sh\necho from a script\n")
    processes = Processes(paths)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    script = paths.local_jobs_file.parent / "scripts/job"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"\xff what somebody left there")
    pid = processes.start(job, RUN, None, writer, writer)
    while pid not in {ended.pid for ended in processes.reap()}:
        time.sleep(0.01)
    assert os.read(reader, 100) == b"from a script\n"
    assert script.stat().st_mode & 0o777 == 0o400
    processes.forget("job")
    assert not script.exists()


@apart
def test_a_child_that_was_there_before_any_run_is_left_alone(paths: Paths) -> None:
    helper = subprocess.Popen(["/bin/sleep", "60"])
    processes = Processes(paths)
    processes.end_strays()
    time.sleep(0.1)
    assert helper.poll() is None
    helper.kill()
    helper.wait(10)


@apart
def test_a_run_is_found_again_by_its_session_where_its_environment_says_nothing(paths: Paths) -> None:
    processes = Processes(paths)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = processes.start(JOB, RUN, ("/usr/bin/env", "-i", "/bin/sh", "-c", "echo on; exec sleep 60"), writer, writer)
    assert os.read(reader, 10) == b"on\n"
    started = processes.begun_at(pid)
    assert started
    processes.end_survivors({RUN: (pid, started + 1)})  # another process by now, by its beginning
    assert not list(processes.reap())
    processes.end_survivors({RUN: (pid, started)})
    deadline = time.monotonic() + 10
    while pid not in {ended.pid for ended in processes.reap()}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@apart
def test_one_that_was_gone_before_it_was_asked_when_it_began_is_still_known_by_its_session(paths: Paths) -> None:
    processes = Processes(paths)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    leaves = "env -i /bin/sleep 60 >/dev/null 2>&1 & echo on"
    pid = processes.start(JOB, RUN, ("/usr/bin/env", "-i", "/bin/sh", "-c", leaves), writer, writer)
    assert os.read(reader, 10) == b"on\n"
    deadline = time.monotonic() + 10
    while pid not in {ended.pid for ended in processes.reap()}:
        assert time.monotonic() < deadline
    assert children() != []
    processes.end_survivors({RUN: (os.getpid(), GONE)})  # that number is somebody's: it is not the run's any more
    assert children() != []
    processes.end_survivors({RUN: (pid, GONE)})
    while children():
        assert time.monotonic() < deadline
        processes.reap()


@apart
def test_whom_a_run_has_left_is_seen_among_many_that_end_at_once(paths: Paths) -> None:
    processes = Processes(paths)
    null = os.open("/dev/null", os.O_WRONLY)
    script = "sleep 60 & echo $! >&2"
    mains = {
        number: processes.start(JOB, f"{number:032x}", ("/bin/sh", "-c", script if number == 3 else ":"), null, null)
        for number in range(5)
    }
    reaped: set[int] = set()
    deadline = time.monotonic() + 10
    while reaped != set(mains.values()):
        assert time.monotonic() < deadline
        reaped |= {ended.pid for ended in processes.reap()}
    left = {number: processes.members(pid, f"{number:032x}") for number, pid in mains.items()}
    assert {number for number, members in left.items() if members} == {3}
    processes.kill(mains[3], f"{3:032x}")
    while children():
        assert time.monotonic() < deadline
        processes.reap()
    assert not processes.members(mains[3], f"{3:032x}")
