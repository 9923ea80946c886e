"""Clocks that are set under the engine, and machines that sleep: the whole engine, with made-up clocks and processes.

To the engine a machine that slept is one whose clock was set forward: CLOCK_MONOTONIC stands still in a suspend
(clock_gettime(2)), so what is tested of the one is tested of the other.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from sdcron.agenda import Agenda
from sdcron.agenda_slot import Entry
from sdcron.engine import Engine
from sdcron.engine_keep import Keeper
from sdcron.engine_locks import Locks
from sdcron.job import Job, Missed, Retry, Source
from sdcron.job_text import text_of, timing_of
from sdcron.local_jobs import LocalJob, local_job_of, schedule_of
from sdcron.paths import system_paths
from sdcron.process import Ended
from sdcron.process_tree import Process
from sdcron.run_book import RunBook
from sdcron.runs import Outcome, Trigger
from sdcron.schedule import parse_schedule
from sdcron.settings import Settings
from sdcron.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sdcron.runs import Run

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400
FORWARD = [HOUR, DAY]
BACK = [-HOUR, -DAY]


class MadeUpClock:
    """Both clocks, as they are told."""

    def __init__(self) -> None:
        self.wall = NOON
        self._monotonic = 1000.0

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return (self.wall - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._monotonic

    def pass_by(self, seconds: float) -> None:
        """Time passes."""
        self._monotonic += seconds
        self.set_by(seconds)

    def set_by(self, seconds: float) -> None:
        """Somebody sets the clock, or the machine sleeps."""
        self.wall += timedelta(seconds=seconds)


class MadeUpProcesses:
    """Runs that take so many seconds each, and end as told."""

    def __init__(self, clock: MadeUpClock, seconds: float, status: int) -> None:
        self.locks = Locks(Path("/nowhere"))
        self._clock = clock
        self._seconds = seconds
        self._status = status
        self._numbers = itertools.count(1000)
        self._ends: dict[int, float] = {}
        self.killed: set[int] = set()

    def start(self, _job: Job, _run_id: str, _argv: tuple[str, ...] | None, _stdout: int, _stderr: int) -> int:
        """It begins."""
        pid = next(self._numbers)
        self._ends[pid] = self._clock.monotonic() + self._seconds
        return pid

    def reap(self) -> Iterator[Ended]:
        """Those whose time is over, or who were killed."""
        for pid, end in list(self._ends.items()):
            if pid in self.killed or end <= self._clock.monotonic():
                del self._ends[pid]
                yield Ended(pid, "killed", 15, 0) if pid in self.killed else Ended(pid, "exited", self._status, 0)

    def members(self, pid: int, _run_id: str) -> Collection[Process]:
        """The one process, if it is alive."""
        return {Process(pid, 1, pid, 0)} if pid in self._ends else set()

    def send(self, members: Collection[Process], _number: int) -> None:
        """Every signal kills."""
        self.killed |= {member.pid for member in members}

    def kill(self, pid: int, _run_id: str) -> None:
        """As this one."""
        self.killed.add(pid)

    def begun_at(self, pid: int) -> int:
        """See Processes."""
        return pid

    def end_strays(self) -> None:
        """There is nothing to do."""

    def tidy(self, run_id: str) -> None:
        """There is nothing to do."""


@dataclass
class World:
    """One machine with some jobs and an engine, which can be replaced by the next."""

    root: Path
    jobs: dict[str, dict[str, Any]]
    seconds: float = 0.5
    status: int = 0
    clock: MadeUpClock = field(default_factory=MadeUpClock)
    boot: str = "first"
    records: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.since_us = self.clock.wall_us()

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        paths = system_paths(self.root).of_engine()
        self._keeper = self._stack.enter_context(Keeper(paths, Settings(), print))
        self._processes = MadeUpProcesses(self.clock, self.seconds, self.status)
        agenda = Agenda(lambda entry: schedule_of(entry.timing, "UTC", entry.name), self.boot, self.clock.wall_us())
        spool = Spool(paths.spool_dir, 1 << 20)
        book = RunBook(agenda, self._keeper, spool, self.clock, self.boot, job_of=_job_of, tell=print)
        book.on_end.append(self.records.append)
        self.engine = Engine(book, self._processes, self.clock, concurrency=10, unmet=lambda _: None, tell=print)
        self._stack.callback(self.engine.close)
        store = self._keeper.ledger.store
        agenda.restore(store.memories())
        left = store.open_runs()
        book.use_jobs({name: _applied(name, keys, self.since_us) for name, keys in self.jobs.items()})
        entries = [Entry(name, timing_of(job.text), self.since_us) for name, job in book.jobs.items()]
        agenda.put(entries, self.clock.wall_us(), starting=True)
        book.take_over(left)
        book.keep()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def go_on(self, seconds: float, every: float = 30) -> None:
        """Time passes, in which the engine looks now and then, as often as it would be woken or more."""
        end = self.clock.monotonic() + seconds
        self.engine.step(0)
        while self.clock.monotonic() < end:
            self.clock.pass_by(min(every, end - self.clock.monotonic()))
            self.engine.step(0)
        # What has just begun ends.
        for _ in range(4):
            self.clock.pass_by(0.25)
            self.engine.step(0)

    def set_by(self, seconds: float) -> None:
        """The clock is set, and the engine finds out."""
        self.clock.set_by(seconds)
        self.engine.step(0)

    def runs(self, job: str = "job") -> list[tuple[str, str]]:
        """Triggers, and when a run should have been, of all that are over."""
        found = [record for record in self.records if record.job == job]
        return [(str(record.trigger), _shown(record.scheduled_us)) for record in found]


def _shown(moment_us: int | None) -> str:
    if moment_us is None:
        return ""
    return datetime.fromtimestamp(moment_us / 1e6, UTC).strftime("%d %H:%M")


def _applied(name: str, keys: dict[str, Any], since_us: int) -> LocalJob:
    texts = keys.get("schedule")
    schedule = parse_schedule(texts, local_timezone="UTC", seed=name) if texts else None
    more = {key: value for key, value in keys.items() if key != "schedule"}
    job = Job(name=name, source=Source(f"/jobs/{name}.yaml"), schedule=schedule, command=("true",), **more)
    return LocalJob(name, "/jobs", f"/jobs/{name}.yaml", since_us, text_of(job, "/jobs"))


def _job_of(owner: LocalJob) -> Job:
    return local_job_of(owner, "UTC", owner.name)


def world(root: Path, schedule: str | None = None, **keys: Any) -> World:
    """One with a single job, called `job`."""
    own = {name: keys.pop(name) for name in ("seconds", "status") if name in keys}
    return World(root, {"job": {**({"schedule": schedule} if schedule else {}), **keys}}, **own)


# Back


def test_a_fixed_time_does_not_come_twice_when_the_clock_is_set_back_an_hour(tmp_path: Path) -> None:
    with world(tmp_path, "30 12 * * *") as machine:
        machine.go_on(40 * MINUTE)
        assert machine.runs() == [("schedule", "15 12:30")]
        machine.set_by(-HOUR)
        machine.go_on(3 * HOUR)
        assert machine.runs() == [("schedule", "15 12:30")]
        machine.go_on(DAY)
        assert machine.runs() == [("schedule", "15 12:30"), ("schedule", "16 12:30")]


@pytest.mark.parametrize("by", BACK)
def test_a_fixed_time_that_was_still_to_come_comes_once_at_the_new_time(tmp_path: Path, by: int) -> None:
    with world(tmp_path, "30 12 * * *") as machine:
        machine.go_on(20 * MINUTE)
        machine.set_by(by)
        machine.go_on(-by + 5 * MINUTE)
        machine.go_on(30 * MINUTE)
        days = ("15",) if by == -HOUR else ("14", "15")
        assert machine.runs() == [("schedule", f"{day} 12:30") for day in days]


def test_after_a_day_back_the_new_time_counts(tmp_path: Path) -> None:
    with world(tmp_path, "30 12 * * *") as machine:
        machine.go_on(40 * MINUTE)
        machine.set_by(-DAY)
        machine.go_on(DAY)
        assert machine.runs() == [("schedule", "15 12:30")] * 2


def test_a_single_time_that_is_to_come_again_after_a_day_back_comes_again(tmp_path: Path) -> None:
    with world(tmp_path, "at 2026-06-15 12:30") as machine:
        machine.go_on(40 * MINUTE)
        machine.set_by(-HOUR)
        machine.go_on(2 * HOUR)
        assert machine.runs() == [("schedule", "15 12:30")]
        machine.set_by(-DAY)
        machine.go_on(DAY)
        assert machine.runs() == [("schedule", "15 12:30")] * 2


@pytest.mark.parametrize("by", BACK)
def test_what_runs_every_so_often_goes_on_at_once_after_the_clock_was_set_back(tmp_path: Path, by: int) -> None:
    with world(tmp_path, "*/10 * * * *") as machine:
        machine.go_on(25 * MINUTE)
        assert [when for _, when in machine.runs()] == ["15 12:10", "15 12:20"]
        machine.set_by(by)
        machine.go_on(10 * MINUTE)
        assert machine.runs()[2:] == [("schedule", "15 11:30" if by == -HOUR else "14 12:30")]
        machine.go_on(60 * MINUTE)
        assert len(machine.runs()) == 9


@pytest.mark.parametrize("by", BACK)
def test_a_clock_that_was_set_back_while_no_engine_ran_is_the_same(tmp_path: Path, by: int) -> None:
    steps = {"schedule": "*/10 * * * *"}
    machine = World(tmp_path, {"job": {"schedule": "30 12 * * *"}, "steps": steps})
    with machine:
        machine.go_on(35 * MINUTE)
    machine.clock.set_by(by)
    with machine:
        assert len(machine.runs("steps")) == 3
        machine.go_on(10 * MINUTE)
        assert len(machine.runs("steps")) == 4
        machine.go_on(-by)
    assert machine.runs() == [("schedule", "15 12:30")] * (1 if by == -HOUR else 2)


# Forward, or asleep


@pytest.mark.parametrize("by", FORWARD)
@pytest.mark.parametrize("schedule", ["30 12 * * *", "*/10 * * * *"])
def test_the_times_that_passed_are_one_run_that_says_so(tmp_path: Path, by: int, schedule: str) -> None:
    with world(tmp_path, schedule) as machine:
        machine.go_on(5 * MINUTE)
        assert machine.runs() == []
        machine.set_by(by)
        machine.go_on(2)
        last = "13:00" if schedule.startswith("*") and by == HOUR else "12:00" if schedule.startswith("*") else "12:30"
        day = "15" if by == HOUR or schedule.startswith("30") else "16"
        assert machine.runs() == [("missed", f"{day} {last}")]
        machine.go_on(10 * MINUTE)
        on_time = [("schedule", "15 13:10" if by == HOUR else "16 12:10")] if schedule.startswith("*") else []
        assert machine.runs()[1:] == on_time


@pytest.mark.parametrize("by", FORWARD)
def test_a_run_that_is_on_does_not_become_too_long_by_the_clock(tmp_path: Path, by: int) -> None:
    with world(tmp_path, "5 12 * * *", seconds=10 * MINUTE, timeout=timedelta(minutes=20)) as machine:
        machine.go_on(10 * MINUTE)
        machine.set_by(by)
        assert list(machine.engine.running()) == ["job"]
        machine.go_on(6 * MINUTE)
        [record] = machine.records
        assert record.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("by", BACK)
def test_a_run_does_not_end_before_it_began_when_the_clock_is_set_back_under_it(tmp_path: Path, by: int) -> None:
    with world(tmp_path, "5 12 * * *", seconds=10 * MINUTE, timeout=timedelta(minutes=12)) as machine:
        machine.go_on(10 * MINUTE)
        machine.set_by(by)
        machine.go_on(6 * MINUTE)
        [record] = machine.records
        assert (record.outcome, record.duration_us) == (Outcome.SUCCESS, 0)


# Retries


@pytest.mark.parametrize("by", FORWARD + BACK)
@pytest.mark.parametrize("again", [False, True])
def test_a_retry_that_waits_waits_as_long_as_it_would_have(tmp_path: Path, by: int, again: bool) -> None:
    retry = Retry(timedelta(minutes=10), attempts=1)
    machine = world(tmp_path, retry=retry, status=1)
    with machine:
        machine.engine.start_by_hand("job")
        machine.go_on(4 * MINUTE)
        assert machine.runs() == [("manual", "")]
        machine.set_by(by)
        machine.go_on(1 * MINUTE)
        if not again:
            assert_retry_is_due_in(machine, 5 * MINUTE)
            return
    with machine:
        assert_retry_is_due_in(machine, 5 * MINUTE)


def assert_retry_is_due_in(machine: World, seconds: int) -> None:
    machine.go_on(seconds - 30)
    assert len(machine.records) == 1
    machine.go_on(60)
    assert [record.trigger for record in machine.records] == [Trigger.MANUAL, Trigger.RETRY]
    assert machine.engine.agenda.retries() == {}


# Cut off, and away for long


@pytest.mark.parametrize("boot", ["first", "second"])
def test_times_that_passed_after_a_run_was_cut_off_are_made_good(tmp_path: Path, boot: str) -> None:
    machine = world(tmp_path, "30 12 * * *", seconds=10 * MINUTE)
    with machine:
        machine.go_on(35 * MINUTE)
        assert len(machine.engine.active) == 1
    machine.clock.set_by(3 * DAY)
    machine.boot = boot
    with machine:
        machine.go_on(11 * MINUTE)
    assert machine.runs() == [("schedule", "15 12:30"), ("missed", "18 12:30")]
    assert [record.outcome for record in machine.records] == [Outcome.ABANDONED, Outcome.SUCCESS]


@pytest.mark.parametrize("boot", ["first", "second"])
def test_a_run_that_was_cut_off_is_retried_once(tmp_path: Path, boot: str) -> None:
    machine = world(tmp_path, "30 12 * * *", seconds=10 * MINUTE, retry=Retry(timedelta(minutes=5), attempts=2))
    with machine:
        machine.go_on(35 * MINUTE)
    machine.boot = boot
    machine.clock.pass_by(MINUTE)
    with machine:
        machine.go_on(3 * MINUTE)
        assert machine.runs() == [("schedule", "15 12:30")]
        machine.go_on(13 * MINUTE)
        assert [run for run, _ in machine.runs()] == ["schedule", "retry"]
        assert [record.attempt for record in machine.records] == [1, 2]
        machine.go_on(2 * HOUR)
    assert len(machine.records) == 2


def test_what_may_be_missed_is_not_made_good_after_a_start(tmp_path: Path) -> None:
    machine = world(tmp_path, "30 12 * * *", missed=Missed.SKIP)
    with machine:
        machine.go_on(5 * MINUTE)
    machine.clock.set_by(3 * DAY)
    with machine:
        machine.go_on(2 * MINUTE)
        assert machine.runs() == []
        machine.go_on(30 * MINUTE)
    assert machine.runs() == [("schedule", "18 12:30")]
