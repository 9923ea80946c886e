"""One run of the engine's, with processes that the test makes up: phases, bounds, signals, and systemd's words."""

from __future__ import annotations

import errno
import os
import signal
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.engine_locks import Locks
from sdcron.engine_run import (
    DEFAULT_STOP_SECONDS,
    ActiveRun,
    Phase,
    StartFailedError,
    result_of,
    signal_name,
    signal_number,
)
from sdcron.job import NOT_RUN, Job, Otherwise, Source, When
from sdcron.open_run import SHUT_DOWN, STOPPED, OpenRun
from sdcron.process import Ended
from sdcron.process_tree import Process
from sdcron.runs import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from sdcron.runs import Run

MAIN = 4711


@dataclass
class Machine:
    """Made-up processes: `alive` are those of the run."""

    alive: set[int] = field(default_factory=set)
    started: list[tuple[str, ...] | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    kills: int = 0
    tidied: int = 0
    error: Exception | None = None
    stubborn: bool = False
    writers: list[int] = field(default_factory=list)
    locks: Locks = field(default_factory=lambda: Locks(Path("/nowhere")))

    def start(self, _job: Job, _run_id: str, argv: tuple[str, ...] | None, stdout: int, stderr: int) -> int:
        """See Processes, here and below."""
        if self.error is not None:
            raise self.error
        self.started.append(argv)
        self.writers += [os.dup(stdout), os.dup(stderr)]
        self.alive.add(MAIN)
        return MAIN

    def reap(self) -> Iterable[Ended]:
        """Nobody: the test says who ends."""
        return ()

    def members(self, _pid: int, _run_id: str) -> Collection[Process]:
        """All that is alive."""
        return [Process(pid, 1, pid, 0) for pid in self.alive]

    def send(self, members: Collection[Process], number: int) -> None:
        """A signal for them, at which those end that are not stubborn and not the main process."""
        assert members
        self.sent.append(number)
        if not self.stubborn:
            self.alive &= {MAIN}

    def kill(self, _pid: int, _run_id: str) -> None:
        """The end of all but the main process, whose end the test tells."""
        self.kills += 1
        self.alive &= {MAIN}

    def begun_at(self, pid: int) -> int:
        """See Processes."""
        return pid

    def end_strays(self) -> None:
        """None."""

    def tidy(self, _run_id: str) -> None:
        """After the last of a run."""
        self.tidied += 1


class Stage:
    """A run on a machine, and what `when` lacks."""

    def __init__(self, **keys: Any) -> None:
        self.machine = Machine()
        self.lacks: str | None = None
        self.output: list[tuple[str, bytes]] = []
        job = Job("job", Source("/jobs/job.yaml"), command=("true",), **keys)
        self.run = OpenRun("job", "a" * 32, "engine:boot", "host", 0)
        self.active = ActiveRun(self.run, job, self.machine, 100.0)

    def unmet(self) -> str | None:
        """What is not there."""
        return self.lacks

    def begin(self, now: float = 100.0) -> None:
        """Start it."""
        self.active.begin(now, self.unmet)

    def look(self, now: float) -> None:
        """What the engine's loop does by that time."""
        self.active.look(now, self.unmet)

    def ends(self, now: float, kind: str = "exited", status: int = 0, cpu_us: int = 7) -> None:
        """The main process does."""
        self.machine.alive.discard(MAIN)
        self.active.ended(Ended(MAIN, kind, status, cpu_us), now)
        self.look(now)

    def take(self, which: str, piece: bytes) -> None:
        """Output of it."""
        self.run.capture(which).add(piece)
        self.output.append((which, piece))

    def record(self) -> Run:
        """What goes on record."""
        assert self.active.phase is Phase.OVER
        return self.run.close(None, None, backend="local")


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(**keys: Any) -> Stage:
        made.append(Stage(**keys))
        return made[-1]

    yield make
    for one in made:
        for descriptor in (*one.machine.writers, *one.active.pipes):
            os.close(descriptor)


# A run that nothing happens to


def test_a_run_is_over_when_its_process_is_and_nobody_is_left(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    assert (one.active.phase, one.machine.started, one.active.look_at) == (Phase.RUNNING, [None], None)
    one.ends(101)
    assert (one.active.phase, one.run.result, one.run.cpu_us) == (Phase.OVER, "success", 7)
    assert one.machine.sent == []
    assert (one.record().exit_code, str(one.record().outcome)) == (0, "success")


@pytest.mark.parametrize(
    ("kind", "status", "success_exit", "result", "reason"),
    [
        ("exited", 0, (), "success", ""),
        ("exited", 3, (), "exit-code", "exit status 3"),
        ("exited", 3, (3,), "success", ""),
        ("exited", 3, (4, "SIGTERM"), "exit-code", "exit status 3"),
        ("killed", 15, (), "signal", "died of SIGTERM"),
        ("killed", 15, ("SIGTERM",), "success", ""),
        ("killed", 15, ("TERM",), "success", ""),
        ("killed", 15, (15,), "signal", "died of SIGTERM"),
        ("killed", 9, ("SIGTERM",), "signal", "died of SIGKILL"),
        ("dumped", 11, (), "core-dump", "died of SIGSEGV, core dumped"),
        ("dumped", 11, ("SIGSEGV",), "success", ""),
        ("killed", 37, (), "signal", "died of SIGRTMIN+3"),
    ],
)
def test_how_a_process_ends_is_said_in_systemds_words(
    stage: Callable[..., Stage], kind: str, status: int, success_exit: tuple[int | str, ...], result: str, reason: str
) -> None:
    assert result_of(Ended(MAIN, kind, status, 0), success_exit) == result
    one = stage(success_exit=success_exit)
    one.begin()
    one.ends(101, kind, status)
    assert one.run.result == result
    assert one.record().reason == reason


def test_what_the_main_process_left_is_ended_before_the_run_is_over(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    one.machine.alive.add(4712)
    one.ends(101)
    assert (one.active.phase, one.machine.sent) == (Phase.STOPPING, [signal.SIGTERM])
    one.look(101.2)
    assert (one.active.phase, one.run.result, one.active.killed) == (Phase.OVER, "success", False)


def test_what_will_not_end_is_killed_after_the_stop_timeout(stage: Callable[..., Stage]) -> None:
    one = stage(stop_timeout=timedelta(seconds=5))
    one.begin()
    one.machine.alive.add(4712)
    one.machine.stubborn = True
    one.ends(101)
    one.look(105.9)
    assert one.machine.kills == 0
    one.look(106)
    one.look(106.2)
    assert (one.active.phase, one.machine.kills, one.run.result) == (Phase.OVER, 1, "timeout")


def test_a_failure_stays_a_failure_also_when_what_it_left_is_killed(stage: Callable[..., Stage]) -> None:
    one = stage(stop_timeout=timedelta(seconds=5))
    one.begin()
    one.machine.alive.add(4712)
    one.machine.stubborn = True
    one.ends(101, "exited", 3)
    one.look(107)
    one.look(107.2)
    assert (one.run.result, one.record().reason) == ("exit-code", "exit status 3")


# Bounds


def test_a_run_that_takes_too_long_is_ended_and_then_killed(stage: Callable[..., Stage]) -> None:
    one = stage(timeout=timedelta(seconds=30), stop_timeout=timedelta(seconds=5), kill_signal="SIGINT")
    one.begin()
    assert one.active.look_at == 130
    one.look(129)
    assert one.active.phase is Phase.RUNNING
    one.look(130)
    assert (one.active.phase, one.machine.sent) == (Phase.STOPPING, [signal.SIGINT])
    one.look(134.9)
    assert one.machine.kills == 0
    one.look(135)
    assert (one.machine.kills, one.active.killed) == (1, True)
    one.ends(135.1, "killed", 9)
    record = one.record()
    assert (str(record.outcome), record.reason, record.signal) == ("timeout", "took longer than its timeout", "SIGKILL")


def test_a_run_that_ends_well_when_its_time_is_up_was_too_long_all_the_same(stage: Callable[..., Stage]) -> None:
    one = stage(timeout=timedelta(seconds=30))
    one.begin()
    one.look(130)
    one.ends(131, "exited", 0)
    assert str(one.record().outcome) == "timeout"


def test_without_a_timeout_a_run_may_take_for_ever(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    one.look(1e9)
    assert (one.active.phase, one.active.look_at, one.machine.sent) == (Phase.RUNNING, None, [])


@pytest.mark.parametrize("why", [STOPPED, SHUT_DOWN])
def test_a_run_that_is_stopped_says_why_and_is_killed_only_if_it_must_be(stage: Callable[..., Stage], why: str) -> None:
    one = stage()
    one.begin()
    one.active.stop(why, 110)
    assert (one.machine.sent, one.active.kill_at) == ([signal.SIGTERM], 110 + DEFAULT_STOP_SECONDS)
    one.ends(111, "killed", 15)
    assert (one.record().reason, one.active.was_asked_to_stop, one.machine.kills) == (why, True, 0)


def test_who_stopped_it_first_is_on_record(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    one.active.stop(STOPPED, 110)
    one.active.stop(SHUT_DOWN, 120)
    assert one.active.kill_at == 110 + DEFAULT_STOP_SECONDS
    one.ends(121, "killed", 15)
    assert one.record().reason == STOPPED


def test_a_run_that_is_killed_is_killed_at_once(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    one.active.kill(STOPPED, 110)
    assert one.active.look_at == 110
    one.look(110)
    assert one.machine.kills == 1
    one.ends(110.1, "killed", 9)
    assert str(one.record().outcome) == "killed"


def test_a_run_that_is_over_can_be_stopped_no_more(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    one.ends(101)
    one.active.stop(STOPPED, 102)
    one.active.kill(STOPPED, 102)
    one.look(103)
    assert (one.run.stopped, one.machine.sent, one.active.phase) == ("", [], Phase.OVER)


# What does not begin


def test_a_step_that_fails_is_the_exit_status_that_systemd_has_for_it(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.machine.error = StartFailedError("CHDIR", 200, "could not be started, at step CHDIR: No such file")
    one.begin()
    record = one.record()
    assert (str(record.outcome), record.exit_code) == ("failure", 200)
    assert record.reason == "could not be started, at step CHDIR: No such file"
    assert one.active.pipes == {}


def test_what_cannot_even_be_tried_says_why(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.machine.error = StartFailedError("", 0, "Failed to load environment files: No such file", "said elsewhere")
    one.begin()
    record = one.record()
    assert (str(record.outcome), record.exit_code) == ("failure", None)
    assert record.reason.endswith("Failed to load environment files: No such file")
    assert one.active.said == "said elsewhere"


def test_where_there_is_no_room_for_a_process_nothing_is_left_open_and_it_begins_later(
    stage: Callable[..., Stage],
) -> None:
    one = stage()
    before = sorted(os.listdir("/proc/self/fd"))
    one.machine.error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    with pytest.raises(OSError, match="temporarily"):
        one.begin()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert one.active.phase is not Phase.OVER
    one.machine.error = None
    one.begin()
    assert one.active.phase is Phase.RUNNING


# Locks


def locked(stage: Callable[..., Stage], directory: Path, **keys: Any) -> tuple[Stage, Locks]:
    """A run of a job with a lock, and those of others."""
    one = stage(lock=("a",), **keys)
    one.machine.locks = Locks(directory)
    return one, Locks(directory)


def test_a_run_without_room_for_its_process_gives_its_locks_back(stage: Callable[..., Stage], tmp_path: Path) -> None:
    one, others = locked(stage, tmp_path)
    one.machine.error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    with pytest.raises(OSError, match="temporarily"):
        one.begin()
    assert others.take("x", one.active.job, 0) is None
    others.leave("x", one.active.job)
    one.machine.error = None
    one.begin()
    assert others.take("x", one.active.job, 0) is not None
    others.leave("x", one.active.job)
    one.ends(101, status=NOT_RUN)
    assert one.record().outcome is Outcome.SUCCESS
    one.active.close(one.take)
    assert others.take("x", one.active.job, 0) is None
    others.leave("x", one.active.job)


def test_a_run_waits_for_its_lock_behind_its_conditions(stage: Callable[..., Stage], tmp_path: Path) -> None:
    one, others = locked(stage, tmp_path, lock_wait=timedelta(seconds=2), when=When(command=("check",)))
    assert others.take("x", one.active.job, 0) is None
    one.begin()
    assert (one.active.phase, one.machine.started) == (Phase.CHECKING, [("check",)])
    one.ends(101)
    assert (one.active.phase, one.active.look_at, one.active.pid) == (Phase.WAITING, 101.2, 0)
    one.lacks = "not asked again"
    one.look(102)
    assert (one.active.phase, one.machine.started) == (Phase.WAITING, [("check",)])
    others.leave("x", one.active.job)
    one.look(102.2)
    assert (one.active.phase, one.machine.started) == (Phase.RUNNING, [("check",), None])
    one.ends(103)
    assert one.record().outcome is Outcome.SUCCESS
    one.active.close(one.take)


@pytest.mark.parametrize("timeout", [None, 1])
def test_a_run_that_waits_for_its_lock_too_long_is_skipped_or_out_of_time(
    stage: Callable[..., Stage], tmp_path: Path, timeout: int | None
) -> None:
    limit = timedelta(seconds=timeout) if timeout else None
    one, others = locked(stage, tmp_path, lock_wait=timedelta(seconds=2), timeout=limit)
    assert others.take("x", one.active.job, 0) is None
    one.begin()
    one.look(100.9)
    assert one.active.phase is Phase.WAITING
    one.look(101)
    one.look(102)
    record = one.record()
    assert (record.outcome, record.reason) == (
        (Outcome.TIMEOUT, "took longer than its timeout") if timeout else (Outcome.SKIPPED, "lock a is held")
    )
    others.leave("x", one.active.job)
    one.active.close(one.take)


# Conditions


def test_what_is_not_there_skips_the_run(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(path_exists=("/none",)))
    one.lacks = "/none does not exist"
    one.begin()
    record = one.record()
    assert (str(record.outcome), one.machine.started) == ("skipped", [])
    assert "/none does not exist" in record.reason


def test_what_is_not_there_is_waited_for_and_the_run_begins_once_it_is(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(path_exists=("/none",), otherwise=Otherwise.WAIT), timeout=timedelta(seconds=60))
    one.lacks = "/none does not exist"
    one.begin()
    assert (one.active.phase, one.active.look_at) == (Phase.WAITING, 105)
    one.look(105)
    assert (one.active.phase, one.active.look_at) == (Phase.WAITING, 110)
    one.lacks = None
    one.look(110)
    assert (one.active.phase, one.active.look_at, one.machine.started) == (Phase.RUNNING, 160, [None])


def test_a_wait_ends_with_the_runs_time(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(path_exists=("/none",), otherwise=Otherwise.WAIT), timeout=timedelta(seconds=7))
    one.lacks = "/none does not exist"
    one.begin()
    one.look(105)
    assert one.active.look_at == 107
    one.look(107)
    assert (str(one.record().outcome), one.machine.started) == ("timeout", [])


@pytest.mark.parametrize("kill", [False, True])
def test_a_run_that_waits_can_be_stopped(stage: Callable[..., Stage], kill: bool) -> None:
    one = stage(when=When(path_exists=("/none",), otherwise=Otherwise.WAIT))
    one.lacks = "/none does not exist"
    one.begin()
    one.active.kill(STOPPED, 103) if kill else one.active.stop(STOPPED, 103)
    assert (str(one.record().outcome), one.record().reason) == ("killed", STOPPED)


def test_a_command_that_says_yes_lets_the_job_run(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(command=("test", "-e", "/x")))
    one.begin()
    assert (one.active.phase, one.machine.started) == (Phase.CHECKING, [("test", "-e", "/x")])
    one.ends(101)
    assert (one.active.phase, one.machine.started) == (Phase.RUNNING, [("test", "-e", "/x"), None])
    one.ends(102, "exited", 3)
    assert one.record().exit_code == 3


@pytest.mark.parametrize(("kind", "status"), [("exited", 1), ("exited", 254)])
def test_a_command_that_says_no_skips_the_run(stage: Callable[..., Stage], kind: str, status: int) -> None:
    one = stage(when=When(command=("false",)))
    one.begin()
    one.ends(101, kind, status)
    record = one.record()
    assert (str(record.outcome), record.exit_code, len(one.machine.started)) == ("skipped", None, 1)


def test_a_command_that_says_no_is_asked_again_where_it_is_waited_for(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(command=("false",), otherwise=Otherwise.WAIT))
    one.begin()
    one.ends(101, "exited", 1)
    assert (one.active.phase, one.active.look_at) == (Phase.WAITING, 106)
    one.look(106)
    assert (one.active.phase, one.machine.started) == (Phase.CHECKING, [("false",), ("false",)])
    one.ends(107)
    assert (one.active.phase, one.machine.started[-1]) == (Phase.RUNNING, None)


def test_a_command_of_when_counts_towards_the_timeout_and_is_ended_with_it(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(command=("sleep", "1000")), timeout=timedelta(seconds=10))
    one.begin()
    one.look(110)
    assert one.machine.sent == [signal.SIGTERM]
    one.ends(110.5, "killed", 15)
    assert (str(one.record().outcome), len(one.machine.started)) == ("timeout", 1)


def test_a_run_that_is_stopped_while_a_command_of_when_runs_does_not_begin(stage: Callable[..., Stage]) -> None:
    one = stage(when=When(command=("true",)))
    one.begin()
    one.active.stop(STOPPED, 100.5)
    one.ends(101)
    assert (one.record().reason, len(one.machine.started)) == (STOPPED, 1)


# Output


def test_both_streams_are_taken_and_told_apart(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    out, err = one.machine.writers
    os.write(out, b"to stdout\n")
    os.write(err, b"to stderr\n")
    for descriptor in list(one.active.pipes):
        assert one.active.read(descriptor, one.take)
    assert sorted(one.output) == [("stderr", b"to stderr\n"), ("stdout", b"to stdout\n")]


def test_a_stream_that_is_closed_is_let_go_of(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    for descriptor in one.machine.writers:
        os.close(descriptor)
    one.machine.writers.clear()
    assert [one.active.read(descriptor, one.take) for descriptor in list(one.active.pipes)] == [False, False]
    assert one.active.pipes == {}


def test_the_last_of_the_output_is_taken_whole(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    out, err = one.machine.writers
    os.set_blocking(out, False)
    written = 0
    try:
        while True:
            written += os.write(out, b"x" * 1000)
    except BlockingIOError:
        pass
    os.write(err, b"last words")
    one.ends(101)
    one.active.close(one.take)
    assert (one.run.stdout.size, one.run.stderr.size) == (written, len("last words"))
    assert one.active.pipes == {}
    assert one.machine.tidied == 1


def test_who_escaped_and_writes_for_ever_holds_up_nobody(stage: Callable[..., Stage]) -> None:
    one = stage()
    one.begin()
    out = one.machine.writers[0]
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            try:
                os.write(out, b"y\n" * 32768)
            except BrokenPipeError:
                return

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        one.ends(101)
        one.active.close(one.take)
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
    assert one.active.pipes == {}
    assert not any(thread.is_alive() for thread in threads)


# Names of signals


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("TERM", 15), ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMIN+3", signal.SIGRTMIN + 3)],
)
def test_signals_have_names_with_and_without_sig(name: str, number: int) -> None:
    assert signal_number(name) == number
    assert signal_name(number) in (name, f"SIG{name}")


@pytest.mark.parametrize("name", ["", "SIG", "NONE", "RTMIN+x", "15"])
def test_what_is_no_signal_is_refused(name: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        signal_number(name)
