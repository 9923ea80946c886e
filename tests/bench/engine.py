"""Benchmarks of the local engine, side by side with its peers in one run: `python3 -m tests.bench.engine [PEER…]`.

What the rows of the table mean:

load          start of the process until it has written that it is ready, if it does, and is quiet (Daemon.ready);
              jobs that are due at night. sdcron has them applied, the others read their own form of files.
resident      Rss of smaps_rollup, after loading 1,000, and after an idle minute with 10,000
idle          of a processor, over a minute that nothing is due in, with 10,000 jobs; what it starts included
200 at once   200 jobs due in one second: from that instant to each job's first instruction. Of three such seconds the
              middle one; of one minute where a peer has only minutes
2,000 at once jobs a second, from the instant 2,000 are due to the first instruction of the last
every second  the highest rate at which, for three seconds on end, all jobs due in each second begin within it; of
              those that have schedules by the second

The floor is a bare loop over subprocess.Popen with two pipes a child. All run the same static program.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.figures import Figure
from tests.bench.peers import ENVIRONMENT, PEERS, Job, Peer, Sdcron
from tests.bench.peers.begun import begun_in, lateness_of, next_minute, start_of, until_loaded, wait_for
from tests.bench.peers.daemon import Daemon, DaemonError
from tests.bench.peers.installed import MissingPeer
from tests.bench.peers.table import ROWS, Column, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (1_000, 10_000)
LOAD_TIMEOUT = 120
IDLE_SECONDS = 60
AT_ONCE = 200
BURST = 2_000
ROUNDS = 5
#: Between two rounds, in seconds: what is late of one must not be in the next.
ROUND_SECONDS = 3
RATES = (200, 400, 600, 800, 1_000, 1_200, 1_400, 1_600)
RATE_SECONDS = 3
#: A second between two rates.
WINDOW_SECONDS = RATE_SECONDS + 1
#: Nothing is measured below this share of a processor, in percent: two engines below are equal.
NOTHING = 0.01

#: What starting costs at least: spawn all that is due, at most `most` at a time, and read their pipes to the end.
FLOOR = """
import subprocess, sys, time
probe, file, count, most, *instants = sys.argv[1:]
for instant in instants:
    time.sleep(max(0, float(instant) - time.time()))
    running = []
    for number in range(int(count)):
        running.append(subprocess.Popen(
            [probe, file, str(number)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ))
        if len(running) >= int(most):
            running.pop(0).communicate()
    for child in running:
        child.communicate()
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement by the clock: about how long it takes, and whether it has to wait for a minute to begin."""

    seconds: float
    minute: bool
    run: Callable[[], None]


class Bench:
    """One run: the engines that can be had, a directory for their files, and what was measured."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.directory = directory
        self.probe = directory / "probe"
        compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
        source = Path(__file__).parent / "peers/probe.c"
        subprocess.run([compiler, "-O2", "-static", "-o", str(self.probe), str(source)], check=True)
        self.columns: dict[str, Column] = {}
        self.peers: list[Peer] = []
        everybody: tuple[Peer, ...] = (Sdcron(), *PEERS)
        for peer in everybody:
            if names and peer.name not in names:
                continue
            column = self.columns[peer.name] = Column(peer.name, peer.python)
            with self._told(column, "install"):
                column.version = peer.version()
                self.peers.append(peer)
        self.floor = Column("floor", python=False)
        self._floor_rounds: list[list[float]] = []
        self._count = 0

    def loads(self) -> None:
        """Load time and memory with each size; then all the big ones idle together for a minute."""
        for peer in self.peers:
            column = self.columns[peer.name]
            with self._told(column, "load 1,000"):
                for _ in range(3):
                    with self._started(peer, night_jobs(SIZES[0])) as (daemon, took):
                        column.keep_least("load 1,000", took)
                        column.keep_least("resident 1,000", daemon.memory()[0])
                    if took > 2:
                        break
        with ExitStack() as running:
            daemons: dict[str, Daemon] = {}
            for peer in self.peers:
                column = self.columns[peer.name]
                with self._told(column, "load 10,000"):
                    started = self._started(peer, night_jobs(SIZES[1]))
                    daemons[peer.name], column.numbers["load 10,000"] = running.enter_context(started)
            before = {name: daemon.processor_seconds() for name, daemon in daemons.items()}
            began = time.monotonic()
            time.sleep(IDLE_SECONDS)
            for name, daemon in daemons.items():
                used, took = daemon.processor_seconds() - before[name], time.monotonic() - began
                self.columns[name].numbers["idle"] = used / took * 100
                self.columns[name].numbers["resident 10,000"], proportional = daemon.memory()
                print(f"     {name}: proportional {proportional:.1f} MB of {SIZES[1]} jobs")

    def by_the_clock(self) -> None:
        """Everything that waits for an instant: those that can begin at any second between those that cannot."""
        # sdcron's first figure is told as a ratio to the floor's: both of the same minute, and the floor around it.
        self._floor()
        for peer in self.peers[:1]:
            self._at_once(peer)
        self._floor()
        steps: list[Step] = []
        for peer in self.peers:
            early, late = peer.patience(AT_ONCE), peer.patience(BURST)
            if peer is not self.peers[0]:
                seconds = early + (ROUNDS * ROUND_SECONDS if peer.seconds else 2)
                steps.append(Step(seconds, not peer.seconds, partial(self._at_once, peer)))
            steps.append(Step(late + (10 if peer.seconds else 2), not peer.seconds, partial(self._burst, peer)))
            if peer.seconds:
                seconds = peer.patience(RATES[-1]) + len(RATES) * WINDOW_SECONDS + 2
                steps.append(Step(seconds, minute=False, run=partial(self._every_second, peer)))
        while steps:
            left = 60 - time.time() % 60
            waiting = next((step for step in steps if step.minute), None)
            room = left - waiting.seconds if waiting else math.inf
            fitting = [step for step in steps if not step.minute and step.seconds < room]
            step = max(fitting, key=lambda step: step.seconds, default=waiting)
            assert step is not None  # without one that waits there is room for all
            if step.minute and step.seconds > left:
                time.sleep(left)
                continue
            steps.remove(step)
            step.run()

    def _at_once(self, peer: Peer) -> None:
        column = self.columns[peer.name]
        with self._told(column, "200 at once"):
            rounds = ROUNDS if peer.seconds else 1
            late = self._due(peer, AT_ONCE, rounds)
            _lateness(column, late)

    def _burst(self, peer: Peer) -> None:
        column = self.columns[peer.name]
        with self._told(column, "2,000 at once"):
            [late] = self._due(peer, BURST, 1)
            column.numbers["2,000 at once"] = BURST / late[-1]

    def _floor(self) -> None:
        """The bare loop; of two times the middle of all rounds, and the better burst."""
        for count, rounds in ((AT_ONCE, ROUNDS), (BURST, 1)):
            results = self._place() / "results"
            first = time.time() + 1
            instants = [first + 2 * number for number in range(rounds)]
            arguments = (str(self.probe), str(results), str(count), str(AT_ONCE), *map(str, instants))
            subprocess.run([sys.executable, "-c", FLOOR, *arguments], env=ENVIRONMENT, check=True, timeout=120)
            found = lateness_of(results, instants, count)
            if count == AT_ONCE:
                self._floor_rounds += found
            else:
                self.floor.keep_most("2,000 at once", count / found[0][-1])
        _lateness(self.floor, self._floor_rounds)

    def _due(self, peer: Peer, count: int, rounds: int) -> list[list[float]]:
        """So many jobs due at once, some times over: for each time how late each began, in seconds, in order."""
        place = self._place()
        if peer.seconds:
            first = start_of(peer.patience(count), ROUND_SECONDS * rounds)
        else:
            first = next_minute(peer.patience(count))
        instants = [first + timedelta(seconds=ROUND_SECONDS * number) for number in range(rounds)]
        jobs = [self._job(peer, place, number, instants) for number in range(count)]
        with self._started(peer, jobs, place):
            until_loaded(first)
            wait_for(place / "results", count * rounds, instants[-1].timestamp() + 30)
        return lateness_of(place / "results", [instant.timestamp() for instant in instants], count)

    def _every_second(self, peer: Peer) -> None:
        """Rate after rate in one process, each in a window of its own, until some have not begun at its end."""
        column = self.columns[peer.name]
        with self._told(column, "every second"):
            place = self._place()
            start = start_of(peer.patience(RATES[-1]), 0)
            windows = []
            for window in range(len(RATES)):
                begin = start + timedelta(seconds=WINDOW_SECONDS * window)
                windows.append([begin + timedelta(seconds=second) for second in range(RATE_SECONDS)])
            jobs = []
            for number in range(RATES[-1]):
                # A job is in each window that has as many. All take less than a minute: no second of it comes twice.
                mine = [window for rate, window in zip(RATES, windows, strict=True) if number < rate]
                jobs.append(self._job(peer, place, number, [at for window in mine for at in window], every=True))
            with self._started(peer, jobs, place):
                until_loaded(start)
                column.numbers["every second"] = 0
                done = 0
                for rate, instants in zip(RATES, windows, strict=True):
                    done += rate * RATE_SECONDS
                    end = instants[-1].timestamp() + 1
                    wait_for(place / "results", done, end + 0.1, enough=False)
                    begun = [begin for begin, _ in begun_in(place / "results")][done - rate * RATE_SECONDS :]
                    due = sorted(instant.timestamp() for instant in instants for _ in range(rate))
                    if len(begun) < len(due):
                        break
                    late = [begin - instant for begin, instant in zip(begun, due, strict=False)]
                    if len(begun) > len(due) or min(late) < 0:
                        raise DaemonError("jobs began more often than they were due, or before")
                    if max(late) <= 1:
                        column.numbers["every second"] = rate

    def _job(self, peer: Peer, place: Path, number: int, instants: list[datetime], *, every: bool = False) -> Job:
        """A job that says when it begins, due at these instants of one minute, or at their seconds of every minute."""
        inside = peer.inside(place)
        argv = (str(inside / "probe"), str(inside / "results"), str(number))
        second = ",".join(str(instant.second) for instant in instants) if peer.seconds else None
        minute, hour = ("*", "*") if every else (str(instants[0].minute), str(instants[0].hour))
        return Job(f"job-{number:05}", argv, minute, hour, second)

    def _place(self) -> Path:
        """A new directory with the probe in it."""
        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir()
        if self.probe.exists():
            shutil.copy2(self.probe, place)
        return place

    @contextmanager
    def _started(self, peer: Peer, jobs: list[Job], place: Path | None = None) -> Iterator[tuple[Daemon, float]]:
        """The peer with these jobs, ready, and the seconds it took."""
        place = place or self._place()
        argv = peer.prepare(jobs, place)
        with Daemon(argv, ENVIRONMENT, place / "log") as daemon:
            yield daemon, daemon.ready(peer.line, LOAD_TIMEOUT)

    @contextmanager
    def _told(self, column: Column, what: str) -> Iterator[None]:
        """What goes wrong with a peer is a line below the table; with sdcron it is an error."""
        began = time.monotonic()
        try:
            yield
        except (MissingPeer, DaemonError, subprocess.CalledProcessError) as error:
            if column.name == Sdcron.name:
                raise
            column.reasons.append(f"{column.name}, {what}: {error}")
        print(f"     ({column.name}, {what}: {time.monotonic() - began:.0f} s)", flush=True)


def night_jobs(count: int) -> list[Job]:
    """Jobs of hours that are not near."""
    far = datetime.now(UTC).hour + 10
    return [
        Job(
            f"job-{number:05}",
            ("/usr/bin/true", "--number", str(number)),
            str(number % 60),
            str((far + number % 4) % 24),
        )
        for number in range(count)
    ]


def _lateness(column: Column, rounds: list[list[float]]) -> None:
    """The middle round's median and 95th percentile, in milliseconds."""
    for name, share in (("median", 0.5), ("p95", 0.95)):
        values = [late[math.ceil(share * len(late)) - 1] * 1000 for late in rounds]
        column.numbers[f"200 at once, {name}"] = statistics.median(values)


def figures(bench: Bench) -> list[Figure]:
    """sdcron's own limits, and each row against the best of the Python peers."""
    own = bench.columns[Sdcron.name].numbers
    p95 = "200 at once, p95"
    found = [
        Figure("200 jobs at once: p95 lateness / a bare loop's", own[p95] / bench.floor.numbers[p95], 1.3, "x"),
        Figure("10,000 applied jobs loaded", own["load 10,000"], 2),
        Figure("the engine with 10,000 jobs: resident", own["resident 10,000"], 55, "MB"),
        Figure("the engine with 10,000 jobs of which none is due: of a processor", own["idle"], 0.1, "%"),
    ]
    for row in ROWS:
        peers = {
            column.name: max(column.numbers[row.key], NOTHING)
            for column in bench.columns.values()
            if column.python and column.name != Sdcron.name and row.key in column.numbers
        }
        if peers:
            best = (max if row.more else min)(peers, key=lambda name: peers[name])
            value = max(own[row.key], NOTHING)
            ratio, words = peers[best] / value, f"{best} / sdcron"
            if not row.more:
                ratio, words = value / peers[best], f"sdcron / {best}"
            found.append(Figure(f"{row.key}: {words}, the best Python peer", ratio, 1, "x"))
    return found


def engine(names: list[str]) -> list[Figure]:
    """Measure the engine and the peers, or those named; print the table, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="sdcron-bench-") as directory:
        bench = Bench(Path(directory), names)
        bench.loads()
        bench.by_the_clock()
    print(table(list(bench.columns.values()), bench.floor))
    for column in bench.columns.values():
        for reason in column.reasons:
            print(f"     {reason}")
    return figures(bench) if bench.columns.get(Sdcron.name) else []


def main() -> int:
    """Run it; exit 1 if a limit is missed."""
    found = engine(sys.argv[1:])
    for figure in found:
        print(figure)
    return 0 if all(figure.good for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
