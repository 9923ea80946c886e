"""Whatever is done to an engine: each due time has one run, each run one record, and nobody is left of those it killed.

Real engines with real jobs; the clocks that are set are made up, with the same engine around them.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.engine_socket import ask, near
from sdcron.errors import SdcronError
from sdcron.runs import Outcome, Trigger
from tests.conftest import SKIPPED
from tests.engine_rig import (
    LONG,
    MARK,
    READY,
    Rig,
    by_job,
    children,
    fields_of,
    most_at_once,
    mounted,
    processor_seconds,
    rig,
    wait,
    zombies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdcron.runs import Run

pytestmark = pytest.mark.long

KILLS = 300 if LONG else 30
JOBS = 200
#: Seconds that an engine on a busy machine may need to take up what is due.
TO_START = 0.7
EVERY_SECOND = "* * * * * *"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason=f"{SKIPPED}root mounts, and becomes another user"
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "root") as made:
        yield made


def soon(seconds: int) -> dict[str, str]:
    """The keys of a job that runs once, then."""
    return {"schedule": f"at {datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}", "timezone": "UTC"}


# Killed at any moment


def loaded(place: Rig) -> dict[str, dict[str, Any]]:
    """Two hundred jobs a second; some go on for longer than that, and leave orphans in sessions of their own."""
    short: dict[str, Any] = {"schedule": EVERY_SECOND, "command": place.noting()}
    long: dict[str, Any] = {
        "schedule": EVERY_SECOND,
        "command": place.noting("echo on; (setsid sleep 1000 &) ; sleep 1.5; echo off"),
    }
    return {f"job-{number:03}": (long if number % 20 == 0 else short) for number in range(JOBS)}


@dataclass(frozen=True, slots=True)
class Life:
    """One engine: when it was started, when it was ready, None if it never was, and when it was killed."""

    began: float
    ready: float | None
    killed: float


class Killer:
    """Starts engines, kills them at random moments, and sees that the next one ends what they left."""

    def __init__(self, place: Rig, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)
        self.lives: list[Life] = []
        self.ended = 0
        """Processes of killed engines that the next engine has ended."""

    def life(self, seconds: float | None = None) -> None:
        """One engine, killed after so long, or at random: half of them while they begin."""
        place = self.place
        left = place.alive()
        before = place.said().count(READY)
        began = time.time()
        place.start(ready=False)
        killed = began + (seconds or self.random.choice((self.random.uniform(0.2, 0.5), self.random.uniform(0.4, 1.5))))
        ready = None
        while (now := time.time()) < killed:
            if ready is None and place.said().count(READY) > before:
                ready = now
                # Numbers of processes are given to others only after a long time.
                assert left & place.alive() == set()
                self.ended += len(left)
            time.sleep(max(min(0.005, killed - time.time()), 0))
        if seconds is None:
            place.kill()
        self.lives.append(Life(began, ready, time.time()))


@pytest.mark.timeout(1500 if LONG else 120)
def test_an_engine_killed_at_any_moment_loses_no_run_and_repeats_none(
    place: Rig, record_property: Callable[[str, object], None]
) -> None:
    place.apply(loaded(place))
    applied = time.time()
    killer = Killer(place, 4)
    for _ in range(KILLS):
        killer.life()
    killer.life(4)
    place.end()
    assert "Traceback" not in place.said()
    assert "bug" not in place.said()
    records = place.assert_all_on_record()
    assert_at_most_one_run_a_due_time(records)
    begun = assert_outcomes_are_what_was(place, records)
    jobs = by_job(records)
    assert len(jobs) == JOBS
    lost = [loss for runs in jobs.values() for loss in due_times_lost(runs, applied, killer.lives)]
    late = [record.lateness_us or 0 for record in records if record.trigger is Trigger.SCHEDULE]
    for what, value in {
        "engines that were killed": KILLS,
        "before they were ready": sum(life.ready is None for life in killer.lives),
        "records": len(records),
        "triggers": dict(Counter(str(record.trigger) for record in records)),
        "outcomes": dict(Counter(str(record.outcome) for record in records)),
        "runs cut off before their first instruction": len(records) - begun,
        "processes of killed engines that were ended": killer.ended,
        "longest lateness in seconds": max(late) / 1e6,
    }.items():
        record_property(what, value)
    assert lost == []
    assert killer.ended


def assert_at_most_one_run_a_due_time(records: list[Run]) -> None:
    dues = Counter((record.job, record.scheduled_us) for record in records)
    assert [due for due, count in dues.items() if count > 1] == []


def assert_outcomes_are_what_was(place: Rig, records: list[Run]) -> int:
    """What is told of a run fits to what it has noted itself; returns how many have."""
    noted = {note.run_id: note.at for note in place.notes()}
    for record in records:
        if record.outcome is Outcome.SUCCESS:
            assert record.run_id in noted, record
        else:
            assert record.outcome is Outcome.ABANDONED, record
            shut_down = record.reason == "cut off by a shutdown"
            assert shut_down or record.reason == "cut off: its service manager was killed"
            assert shut_down is (record.finished_us is not None)
        assert record.scheduled_us is not None
        # It notes hundredths of a second.
        assert noted.get(record.run_id, math.inf) >= record.scheduled_us / 1e6 - 0.02, record
    return len(noted)


def due_times_lost(runs: list[Run], applied: float, lives: list[Life]) -> list[str]:
    """Due times of a job that fires every second which have no run, and no reason to have none.

    A reason is that a run was on; or that no engine was there then, or it had no time for it before it was killed, and
    the next run makes good what was missed: several due times that passed are one run.
    """
    lost = []
    scheduled = {record.scheduled_us: record for record in runs}
    # From when on it is taken up; with two hundred others it begins a little later.
    spans = [(start_of(run) - TO_START / 2, end_of(run, lives) + 0.05) for run in runs]
    for second in range(int(applied) + 2, int(lives[-1].killed) - 1):
        if second * 1_000_000 in scheduled or any(start <= second <= end for start, end in spans):
            continue
        following = min((us for us in scheduled if us is not None and us > second * 1_000_000), default=None)
        if following is None:
            lost.append(f"{runs[0].job} at {second}: nothing makes it good")
            continue
        by = scheduled[following]
        had_time = any(life.ready and life.ready < second and second + TO_START < life.killed for life in lives)
        if had_time or not (by.trigger is Trigger.MISSED or due_while_beginning(by, lives)):
            lost.append(f"{runs[0].job} at {second}: {by}")
    return lost


def due_while_beginning(run: Run, lives: list[Life]) -> bool:
    """Whether the run was due when its engine was there, and had not come to look: then it is on time, and for all."""
    [life] = [life for life in lives if life.began <= start_of(run) <= life.killed]
    return life.ready is None or (run.scheduled_us or 0) / 1e6 <= life.ready + 0.1


def start_of(run: Run) -> float:
    """Seconds since 1970."""
    return (run.started_us or 0) / 1e6


def end_of(run: Run, lives: list[Life]) -> float:
    """The same of its end; of one that was cut off, when its engine was killed."""
    if run.finished_us is not None:
        return run.finished_us / 1e6
    return min(life.killed for life in lives if life.killed >= start_of(run))


# The machine is short of something


@pytest.mark.timeout(120)
def test_with_hardly_any_open_files_runs_are_late_and_none_is_lost(place: Rig) -> None:
    count = 60
    place.settings(concurrency=1000)
    once = {**soon(4), "command": place.noting("(setsid sleep 1000 &); sleep 0.05")}
    place.apply({f"job-{number}": once for number in range(count)})
    pid = place.start()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (48, 48))
    wait(lambda: len(place.records()) == count, "all jobs ran", 60)
    # It still sees who belongs to a run.
    assert place.alive() == set()
    assert place.said().count("Too many open files") == 1
    assert place.sdcron("status").stdout.count("success") == count
    place.end()
    assert [record.outcome for record in place.assert_all_on_record()] == [Outcome.SUCCESS] * count
    assert len(place.notes()) == count


@needs_root
@pytest.mark.timeout(120)
def test_with_a_full_process_table_runs_are_late_and_none_is_lost() -> None:
    # The limit counts all processes of a user: of one whom nobody else is, and who cannot look where pytest writes.
    user, count = 61_234, 40
    with TemporaryDirectory() as name, rig(Path(name) / "root") as place:
        Path(name).chmod(0o755)
        once = {**soon(4), "command": place.noting("sleep 0.05 & wait")}
        place.apply({f"job-{number}": once for number in range(count)})
        subprocess.run(["chown", "-R", str(user), place.root], check=True)
        # Python may be where only root looks.
        looks = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        place.start("prlimit", "--nproc=8", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *looks)
        wait(lambda: len(place.records()) == count, "all jobs ran", 60)
        assert place.said().count("Resource temporarily unavailable") == 1
        place.end()
        # A job's own shell may find no room for its processes: that is the job's failure, and on record.
        assert {record.outcome for record in place.assert_all_on_record()} <= {Outcome.SUCCESS, Outcome.FAILURE}
        assert len(place.notes()) == count


@needs_root
@pytest.mark.parametrize("ends", [False, True])
def test_jobs_run_on_while_the_disk_is_full_and_are_on_record_once_it_is_not(tmp_path: Path, ends: bool) -> None:
    root = tmp_path / "root"
    (root / "var").mkdir(parents=True)
    with mounted(f"mount -t tmpfs -o size=1500k tmpfs {root}/var") as inside, rig(root, inside) as place:
        place.apply(
            {
                **{f"job-{number}": {"schedule": EVERY_SECOND, "command": place.noting()} for number in range(5)},
                "loud": {
                    "schedule": EVERY_SECOND,
                    "command": place.noting("head -c 20000 /dev/zero | tr '\\0' x; echo"),
                },
                # What it runs is written to disk first.
                "script": {"schedule": EVERY_SECOND, "script": f"#!/bin/sh\n{place.noting()[2]}\n"},
            }
        )
        place.start()
        wait(lambda: len(place.records()) >= 6, "runs are on record")
        fill = f"mountpoint -q {root}/var; head -c 4M /dev/zero >{root}/var/filler || df --output=avail {root}/var"
        left = subprocess.run([*inside, "sh", "-ec", fill], capture_output=True, text=True, check=True, timeout=20)
        assert left.stdout.split() == ["Avail", "0"]
        began = len(place.notes())
        wait(lambda: "runs cannot be recorded" in place.said(), "the engine says so")
        wait(lambda: len(place.notes()) >= began + 30, "jobs run on")
        subprocess.run([*inside, "rm", root / "var/filler"], check=True, timeout=20)
        if not ends:
            wait(lambda: "records are written again" in place.said(), "records are written again", 60)
        place.end()
        assert place.said().count("runs cannot be recorded") == 1
        place.assert_all_on_record()
        # Of what was printed meanwhile the record has all, the disk had no room for it.
        shown = place.sdcron("logs", "loud", "-n", "1000").stdout
        assert "left out, which could not be written: No space left on device" in shown or ends
        whole = [record for record in by_job(place.records())["loud"] if record.outcome is Outcome.SUCCESS]
        assert {record.stdout.size for record in whole} == {20_001}


def test_jobs_run_on_while_the_log_cannot_be_written(place: Rig) -> None:
    jobs = {f"job-{number}": {"schedule": EVERY_SECOND, "command": place.noting()} for number in range(5)}
    place.apply(jobs)
    place.start()
    log = place.paths.log_dir / "job_status.log"
    wait(lambda: len(place.logged()) >= 5, "records are logged")
    aside = log.with_name("aside")
    log.rename(aside)
    log.mkdir()
    began = len(place.notes())
    wait(lambda: len(place.notes()) >= began + 15, "jobs run on")
    wait(lambda: len(place.records()) >= began + 10, "the database has them")
    # Also if it is killed now.
    place.kill()
    log.rmdir()
    aside.rename(log)
    place.start()
    wait(lambda: len(place.notes()) >= began + 25, "jobs run on")
    place.end()
    place.assert_all_on_record()
    assert place.said().count("logs cannot be written") == 1


def test_many_who_connect_and_say_nothing_keep_nobody_from_being_heard(place: Rig) -> None:
    place.apply({"job": {"schedule": EVERY_SECOND, "command": place.noting()}})
    pid = place.start()
    with ExitStack() as stack:
        # An address has room for 107 characters (unix(7)).
        directory = os.open(place.paths.engine_dir, os.O_RDONLY)
        stack.callback(os.close, directory)
        for _ in range(300):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.settimeout(10)
            while True:
                with suppress(BlockingIOError):
                    silent.connect(f"/proc/self/fd/{directory}/control")
                    break
                time.sleep(0.002)
        state = ask(place.paths.engine_dir, {"do": "state"})
        assert state is not None
        assert state["jobs"] == 1
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 300
    before = processor_seconds(pid)
    began = len(place.notes())
    wait(lambda: len(place.notes()) > began + 2, "it goes on")
    assert processor_seconds(pid) - before < 1
    place.end()
    place.assert_all_on_record()


def test_who_waits_for_a_run_hears_of_one_whose_end_is_not_kept_yet(place: Rig) -> None:
    # Something is always due: what is over is kept with what begins next.
    often = {"schedule": EVERY_SECOND, "command": ["sleep", "0.5"]}
    place.settings(concurrency=2)
    place.apply({"waited-for": {"command": place.noting("exec sleep 300")}, **{f"often-{i}": often for i in range(20)}})
    pid = place.start()
    place.sdcron("run", "waited-for")
    wait(lambda: len(place.notes()) == 1, "it runs")
    [process] = [each for each in place.alive() if each.run_id == place.notes()[0].run_id]
    with near(place.paths.engine_dir, "control") as address, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(address)
        # Not before the engine has taken it up, and sleeps.
        ask(place.paths.engine_dir, {"do": "sync"})
        wait(lambda: "\nState:\tS" in Path(f"/proc/{pid}/status").read_text(), "the engine sleeps")
        # It hears of the end and of who asks at once.
        place.signal(signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        client.sendall(json.dumps({"do": "wait", "run_id": process.run_id}).encode() + b"\n")
        wait(lambda: process not in place.alive(), "it is over")
        place.signal(signal.SIGCONT)
        reply = json.loads(client.makefile().readline())
    assert reply["run"]["outcome"] == "killed", reply
    place.end()


# The end of the engine


def test_sigterm_ends_runs_within_their_stop_timeouts_and_has_them_retried(place: Rig) -> None:
    keys = {"stop_timeout": "1s", "retry": {"delay": "1s", "attempts": 1}}
    place.apply(
        {
            "polite": {"command": place.noting("trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done")},
            "deaf": {"command": place.noting("trap '' TERM; while :; do sleep 0.05; done"), **keys},
            "tick": {"schedule": EVERY_SECOND, "command": place.noting()},
        }
    )
    place.start()
    place.sdcron("run", "polite")
    place.sdcron("run", "deaf")
    wait(lambda: {"polite", "deaf"} <= place.running(), "both run")
    began = time.monotonic()
    place.end()
    took = time.monotonic() - began
    assert 0.9 < took < 20
    found = {job: runs[-1] for job, runs in by_job(place.assert_all_on_record()).items()}
    for job in ("polite", "deaf"):
        record = found[job]
        assert (record.outcome, record.reason) == (Outcome.ABANDONED, "cut off by a shutdown")
        assert record.finished_us is not None
    assert found["polite"].stdout.kept == b"bye\n"
    assert (found["polite"].finished_us or 0) < (found["deaf"].finished_us or 0)
    place.start()
    wait(lambda: "deaf" in place.running(), "the retry runs")
    place.end()
    runs = by_job(place.assert_all_on_record())
    assert [(run.trigger, run.attempt) for run in runs["deaf"]] == [(Trigger.MANUAL, 1), (Trigger.RETRY, 2)]
    assert len(runs["polite"]) == 1


def test_a_second_sigterm_ends_everything_at_once(place: Rig) -> None:
    place.apply(
        {"deaf": {"command": place.noting("trap '' TERM; while :; do sleep 0.05; done"), "stop_timeout": "60s"}}
    )
    place.start()
    place.sdcron("run", "deaf")
    wait(place.notes, "it runs")
    place.signal(signal.SIGTERM)
    wait(lambda: "ending 1 run" in place.said(), "the engine waits for it")
    place.end(20)
    [record] = place.assert_all_on_record()
    assert (record.outcome, record.reason) == (Outcome.ABANDONED, "cut off by a shutdown")


def test_sighup_takes_up_what_is_applied_and_stays_with_what_it_has_if_that_is_damaged(place: Rig) -> None:
    place.apply({"a": {"schedule": EVERY_SECOND, "command": place.noting()}})
    place.start()
    stored = place.paths.local_jobs_file
    whole = stored.read_text()
    stored.write_text(whole + "{")
    place.signal(signal.SIGHUP)
    wait(lambda: "damaged" in place.said(), "the engine says so")
    # Nor does somebody who asks for it end the engine.
    assert ask(place.paths.engine_dir, {"do": "state"}) is not None
    with pytest.raises(SdcronError):
        ask(place.paths.engine_dir, {"do": "reload"})
    before = len(place.records())
    wait(lambda: len(place.records()) > before + 1, "jobs run on")
    stored.write_text(whole + re.sub(r'(\\?)"a\1"', r'\1"b\1"', whole.splitlines()[1]) + "\n")
    place.signal(signal.SIGHUP)
    wait(lambda: any(record.job == "b" for record in place.records()), "the new job runs")
    place.end()


# Output


@pytest.mark.parametrize("redact", [False, True])
def test_64_mib_without_a_newline_take_little_memory_and_disk(place: Rig, redact: bool) -> None:
    size = 64 << 20
    place.settings(output="1MiB")
    output = {"output": {"redact": ["secret"]}} if redact else {}
    place.apply({"job": {"command": place.noting(f"head -c {size} /dev/zero | tr '\\0' x"), **output}})
    pid = place.start()
    place.sdcron("run", "job")
    before = fields_of(pid, "VmHWM")["VmHWM"]
    wait(place.records, "it is on record", 60)
    grown = fields_of(pid, "VmHWM")["VmHWM"] - before
    [record] = place.assert_all_on_record()
    assert (record.outcome, record.stdout.size, record.stdout.truncated) == (Outcome.SUCCESS, size, not redact)
    assert len(record.stdout.kept) < 80_000
    assert b"left out" in record.stdout.kept or redact
    assert grown < 24 * 1024
    stored = sum(file.stat().st_size for file in place.paths.spool_dir.iterdir())
    assert stored < 2 << 20
    shown = place.sdcron("logs", "job").stdout
    assert shown.count("x") > 100_000 or (redact and "[redacted]" in shown)
    place.end()


def test_a_job_that_closes_its_streams_goes_on_and_costs_nothing(place: Rig) -> None:
    place.apply({"job": {"command": place.noting("echo first; exec >&- 2>&-; sleep 2; exit 3")}})
    pid = place.start()
    place.sdcron("run", "job")
    wait(place.notes, "it runs")
    before = processor_seconds(pid)
    wait(place.records, "it is over")
    used = processor_seconds(pid) - before
    [record] = place.assert_all_on_record()
    assert (record.outcome, record.exit_code, record.stdout.kept) == (Outcome.FAILURE, 3, b"first\n")
    assert (record.duration_us or 0) > 1_900_000
    assert used < 0.5
    place.end()


def test_a_job_that_prints_for_ever_can_be_stopped_and_holds_up_nobody(place: Rig) -> None:
    forever = "trap '' TERM; yes & yes >&2 & while :; do wait; done"
    place.apply(
        {
            "loud": {"command": place.noting(forever), "stop_timeout": "1s"},
            "tick": {"schedule": EVERY_SECOND, "command": place.noting()},
        }
    )
    pid = place.start()
    place.sdcron("run", "loud")
    ticks = len(place.notes())
    wait(lambda: len(place.notes()) > ticks + 3, "others run")
    place.sdcron("stop", "loud", timeout=60)
    wait(lambda: "loud" in by_job(place.records()), "it is over", 60)
    [record] = by_job(place.records())["loud"]
    assert (record.outcome, record.reason) == (Outcome.KILLED, "stopped by an administrator")
    assert (record.stdout.size > 1 << 20, record.stderr.size > 1 << 20) == (True, True)
    assert fields_of(pid, "VmHWM")["VmHWM"] < 80 * 1024
    assert {process.run_id for process in place.alive()} <= {note.run_id for note in place.notes()} - {record.run_id}
    place.end()


def test_whoever_escapes_from_a_run_with_its_pipe_holds_up_nobody(place: Rig) -> None:
    # No environment, no session, no parents: nothing says whose it is, and it prints faster than anybody reads.
    escaped = f"(setsid env -i {MARK}={place.root} INVOCATION_ID=none yes &); sleep 0.2"
    place.apply(
        {"job": {"command": place.noting(escaped)}, "tick": {"schedule": EVERY_SECOND, "command": place.noting()}}
    )
    place.start()
    place.sdcron("run", "job")
    wait(lambda: {"job", "tick"} <= by_job(place.records()).keys(), "both are over")
    ticks = len(place.notes())
    wait(lambda: len(place.notes()) > ticks + 1, "others run")
    # Once no run is on, it is nobody's.
    wait(lambda: not any(process.run_id == "none" for process in place.alive()), "it is killed")
    place.end()


# Many


@pytest.mark.timeout(120)
def test_two_thousand_jobs_due_in_one_second_run_once_each_and_no_more_at_a_time_than_they_may(place: Rig) -> None:
    count, most = 2000, 50
    place.settings(concurrency=most)
    once = {**soon(6), "command": place.noting("sleep 0.1")}
    place.apply({f"job-{number}": once for number in range(count)})
    place.start()
    seen = 0
    deadline = time.monotonic() + 90
    while len(place.notes()) < count and time.monotonic() < deadline:
        seen = max(seen, len({process.run_id for process in place.alive()}))
    wait(lambda: len(place.records()) == count, "all are on record")
    place.end()
    records = place.assert_all_on_record()
    assert {record.outcome for record in records} == {Outcome.SUCCESS}
    assert len({record.job for record in records}) == count
    assert len({record.scheduled_us for record in records}) == 1
    assert len(place.notes()) == count
    # How many really are depends on the machine.
    assert 5 < seen <= most
    assert 5 < most_at_once(records) <= most


@pytest.mark.timeout(240)
def test_three_thousand_short_jobs_leave_no_zombie_and_no_memory(place: Rig) -> None:
    place.apply({f"job-{number}": {"schedule": EVERY_SECOND, "command": ["/bin/true"]} for number in range(300)})
    pid = place.start()
    wait(lambda: place.count() >= 1200, "it is warm")
    sizes = [fields_of(pid, "VmRSS")["VmRSS"]]
    # Where the machine is busy more runs are on at once, and what that takes once is no leak; a leak goes on.
    while len(sizes) < 2 or (sizes[-1] - sizes[-2] >= 1024 and len(sizes) < 4):
        many = 1200 + 3000 * len(sizes)
        wait(lambda many=many: place.count() >= many, "so many runs are over", 60)  # type: ignore[misc]  # as it is now
        sizes.append(fields_of(pid, "VmRSS")["VmRSS"])
    wait(lambda: zombies(pid) == 0, "all are reaped", 5)
    place.end()
    # A megabyte would be 340 bytes a run.
    assert sizes[-1] - sizes[-2] < 1024, sizes


def test_orphans_are_killed_with_their_run_and_reaped(place: Rig) -> None:
    orphan = "(setsid sh -c 'sleep 1000 & sleep 1000' &); (sleep 1000 &); sleep 0.2"
    place.apply({"job": {"command": place.noting(orphan)}})
    pid = place.start()
    place.sdcron("run", "job")
    wait(lambda: len(place.alive()) >= 5, "all are there")
    wait(place.records, "it is over")
    [record] = place.records()
    assert record.outcome is Outcome.SUCCESS
    assert place.alive() == set()
    wait(lambda: children(pid) == [], "all are reaped")
    place.end()


# As the first process


@needs_root
def test_as_pid_1_it_reaps_orphans_ends_on_sigterm_and_exits_with_0(place: Rig) -> None:
    orphans = "for n in 1 2 3 4 5; do (setsid env -i sh -c 'sleep 0.1' &); done; (setsid sleep 1000 &)"
    place.apply(
        {
            "orphans": {"schedule": EVERY_SECOND, "command": place.noting(orphans)},
            "long": {"command": place.noting("sleep 1000")},
        }
    )
    # What is killed last is the engine, whatever becomes of unshare.
    outer = place.start("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
    engine = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
    place.sdcron("run", "long")
    wait(lambda: len(place.records()) >= 4, "orphans were left behind")
    assert "NSpid:\t" + f"{engine}\t1\n" in Path(f"/proc/{engine}/status").read_text()
    wait(lambda: zombies(engine) == 0, "all are reaped")
    os.kill(engine, signal.SIGTERM)
    assert place.ended() == 0
    assert place.alive() == set()
    records = by_job(place.assert_all_on_record())
    assert [record.reason for record in records["long"]] == ["cut off by a shutdown"]
    # Another engine, in a namespace of its own: the first process there is another boot.
    place.start("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
    wait(lambda: len(place.records()) >= sum(map(len, records.values())) + 2, "it goes on")
    place.kill()
    wait(lambda: place.alive() == set(), "with its first process a namespace goes")
    place.start()
    place.end()
    place.assert_all_on_record()
