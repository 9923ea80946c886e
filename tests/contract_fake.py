"""The engine's own core with a made-up clock and made-up processes: days pass in milliseconds, and nothing is started.

Agenda, run book, engine, database and status log are the real ones; what is made up is in this file.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.agenda import Agenda
from sdcron.agenda_slot import Entry
from sdcron.cli import run
from sdcron.engine import Engine
from sdcron.engine_keep import Keeper
from sdcron.engine_locks import Locks
from sdcron.engine_run import StartFailedError
from sdcron.job import Overlap
from sdcron.jobfile import Context, parse_text
from sdcron.local_jobs import LocalJob, compile_local, local_job_of, read_local, schedule_of, write_local
from sdcron.paths import system_paths
from sdcron.process import Ended
from sdcron.process_tree import Process
from sdcron.run_book import RunBook
from sdcron.runs import microseconds_of, moment_of
from sdcron.settings import Settings
from sdcron.spool import Spool
from tests.contract import Act, Acts, Down, by_job
from tests.system.jobs import yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sdcron.job import Job
    from sdcron.runs import Run
    from sdcron.schedule import Schedule
    from tests.contract import Jobs, Record

ZONE = "Europe/Berlin"
SEED = "0" * 32
BEGINNING = datetime(2026, 3, 27, 11, 59, 30, tzinfo=UTC)
"""Two days before a change of the clocks."""
_FAR = timedelta(days=366)


class MadeUpClock:
    """Both clocks; only who holds it makes them go on."""

    def __init__(self, beginning: datetime) -> None:
        self._wall_us = microseconds_of(beginning)
        self._monotonic = 1000.0

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return self._wall_us

    def monotonic(self) -> float:
        """Seconds of the clock that cannot be set."""
        return self._monotonic

    def go_on(self, by_us: int) -> None:
        """Time passes."""
        self._wall_us += by_us
        self._monotonic += by_us / 1e6

    def set(self, by: timedelta) -> None:
        """Somebody sets the clock."""
        self._wall_us += by // timedelta(microseconds=1)


@dataclass
class _Living:
    """A made-up process, its own or what it left."""

    act: Act
    run_id: str
    ends_at: float
    main: bool
    pipes: tuple[int, ...] = ()
    kind: str = "exited"
    status: int = 0


class MadeUpProcesses:
    """What a run asks of the machine: see engine_run.Processes."""

    def __init__(
        self, clock: MadeUpClock, acts: dict[str, Acts], begun: dict[str, int], locks: Path = Path("/nowhere")
    ) -> None:
        self.locks = Locks(locks)
        self._clock = clock
        self._acts = acts
        self._begun = begun
        """How many runs of each job there were, also before the engine."""
        self._living: dict[int, _Living] = {}
        self._next_pid = 100

    def start(self, job: Job, run_id: str, argv: tuple[str, ...] | None, stdout: int, stderr: int) -> int:
        """Do what the job's next run does."""
        if argv is not None:
            raise AssertionError(argv)
        each = self._acts[job.name].each
        number = self._begun[job.name] = self._begun.get(job.name, 0) + 1
        act = each[min(number, len(each)) - 1]
        if act.fails_at:
            raise StartFailedError(act.fails_at, 200, f"could not be started, at step {act.fails_at}: made up")
        if act.prints:
            os.write(stdout, f"{act.prints}\n".encode())
        now = self._clock.monotonic()
        lasts = 1e9 if act.patient else act.lasts
        living = _Living(act, run_id, now + lasts, True, (os.dup(stdout), os.dup(stderr)), "exited", act.exits)
        if act.dies:
            living.kind, living.status = "killed", signal.Signals[f"SIG{act.dies}"].value
        pid = self._add(living)
        if act.leaves:
            self._add(_Living(Act(), run_id, now + act.leaves, False))
        return pid

    def _add(self, living: _Living) -> int:
        self._next_pid += 1
        self._living[self._next_pid] = living
        return self._next_pid

    def let_go(self, job: str) -> None:
        """Have the process end that waits for it."""
        for living in self._living.values():
            if living.act.patient and living.act in self._acts[job].each:
                living.ends_at = self._clock.monotonic()

    def next_end(self) -> float | None:
        """When the next of them ends, by the clock that cannot be set."""
        return min((living.ends_at for living in self._living.values()), default=None)

    def reap(self) -> Iterator[Ended]:
        """Those whose time is up."""
        now = self._clock.monotonic()
        for pid, living in list(self._living.items()):
            if living.ends_at <= now:
                del self._living[pid]
                for descriptor in living.pipes:
                    os.close(descriptor)
                if living.main:
                    yield Ended(pid, living.kind, living.status, 0)

    def members(self, pid: int, run_id: str) -> Collection[Process]:
        """The living ones of a run."""
        now = self._clock.monotonic()
        found = [number for number, living in self._living.items() if living.run_id == run_id and living.ends_at > now]
        return [Process(number, 1, number, number) for number in found]

    def send(self, members: Collection[Process], number: int) -> None:
        """As each of them takes it."""
        for member in members:
            living = self._living[member.pid]
            if living.act.on_term == "obeys":
                os.write(living.pipes[0], b"bye\n")
                living.ends_at, living.kind, living.status = self._clock.monotonic(), "exited", 0
            elif living.act.on_term == "dies":
                living.ends_at, living.kind, living.status = self._clock.monotonic(), "killed", number

    def kill(self, pid: int, run_id: str) -> None:
        """They die."""
        for living in self._living.values():
            if living.run_id == run_id:
                living.ends_at, living.kind, living.status = self._clock.monotonic(), "killed", signal.SIGKILL

    def begun_at(self, pid: int) -> int:
        """See Processes."""
        return pid

    def end_strays(self) -> None:
        """There are none."""

    def tidy(self, run_id: str) -> None:
        """Nothing is left of it."""

    def end_all(self) -> None:
        """The machine is off."""
        for living in self._living.values():
            for descriptor in living.pipes:
                os.close(descriptor)
        self._living.clear()


class FakeWorld:
    """One engine with its files below a directory."""

    backend = "fake"

    def __init__(self, directory: Path, beginning: datetime = BEGINNING) -> None:
        self.directory = str(directory)
        self.clock = MadeUpClock(beginning)
        self.seen: dict[str, list[Record]] = {}
        self.told: list[str] = []
        self._paths = system_paths(directory).of_engine()
        self._acts: dict[str, Acts] = {}
        self._begun: dict[str, int] = {}
        self._recorded: list[Record] = []
        self._boots = 0
        self.switch_on()

    # The machine

    def switch_on(self) -> None:
        """Begin, as engine_service does."""
        self._boots += 1
        boot = f"boot-{self._boots}"
        self._stack = ExitStack()
        keeper = self._stack.enter_context(Keeper(self._paths, Settings(), self.told.append))
        self._processes = MadeUpProcesses(self.clock, self._acts, self._begun, self._paths.lock_dir)
        self._book = RunBook(
            Agenda(self._schedule, boot, self.clock.wall_us()),
            keeper,
            Spool(self._paths.spool_dir, 1 << 20),
            self.clock,
            boot,
            job_of=lambda job: local_job_of(job, ZONE, SEED),
            tell=self.told.append,
        )
        self._book.on_end.append(self._over)
        self.engine = Engine(
            self._book, self._processes, self.clock, concurrency=256, unmet=lambda _: None, tell=self.told.append
        )
        self._stack.callback(self.engine.close)
        store = keeper.ledger.store
        self.engine.agenda.restore(store.memories())
        self._load(starting=True)
        self._book.take_over(store.open_runs())
        self._book.keep()

    def switch_off(self, how: Down = Down.RESTART) -> None:
        """The engine ends its runs, or is no more."""
        if how is Down.RESTART:
            self.engine.end()
            self._finish(self.engine.active)
        for active in self.engine.active.values():
            for descriptor in active.pipes:
                os.close(descriptor)
            self._processes.locks.leave(active.run.run_id, active.job)
        self._processes.end_all()
        self._stack.close()

    def go_down(self, how: Down, seconds: float) -> None:
        """Interrupt everything, and come back."""
        self.switch_off(how)
        self.clock.go_on(round(seconds * 1_000_000))
        self.switch_on()

    def pass_time(self, until: datetime | None) -> None:
        """Let happen what happens next, or the clock reach a time."""
        before = len(self._recorded)
        self._step()
        if len(self._recorded) == before:
            self._to_next(until)
            self._step()

    def _finish(self, run_ids: Collection[str]) -> None:
        self._step()
        while any(run_id in self.engine.active for run_id in run_ids):
            self._to_next(None)
            self._step()

    def _step(self) -> None:
        for _ in range(3):  # of an end that frees a pipe
            self.engine.step(0)

    def _to_next(self, until: datetime | None) -> None:
        now_us, now = self.clock.wall_us(), self.clock.monotonic()
        due_us = self.engine.agenda.next_us() if not self.engine.ending else None
        looks = [active.look_at for active in self.engine.active.values() if active.look_at is not None]
        looks += [end for end in [self._processes.next_end()] if end is not None]
        lengths = [round((look - now) * 1e6) + 1 for look in looks]
        lengths += [when_us - now_us for when_us in (due_us, microseconds_of(until) if until else None) if when_us]
        assert lengths, f"nothing happens any more: {self.told}"
        self.clock.go_on(max(min(lengths), 0))
        assert self.now() < BEGINNING + 3 * _FAR, "nothing of it happens in years"

    # What cases ask

    def apply(self, jobs: Jobs) -> None:
        """Have these jobs too."""
        self._acts |= {name: job["command"] for name, job in jobs.items()}
        plain = {name: {**job, "command": ["/bin/true"]} for name, job in jobs.items()}
        read, problems = parse_text(yaml({"jobs": plain}), "/jobs/jobs.yaml", Context(ZONE, SEED))
        assert not problems, problems
        applied = read_local(self._paths)
        for job in read:
            text = compile_local(job, "/jobs").units[0].text
            applied[job.name] = LocalJob(job.name, "/jobs", "/jobs/jobs.yaml", self.clock.wall_us(), text)
        write_local(self._paths, applied.values())
        self._load()

    def _load(self, *, starting: bool = False) -> None:
        jobs = read_local(self._paths)
        self._book.use_jobs(jobs)
        entries = [Entry(name, job.timing, job.since_us) for name, job in jobs.items()]
        self.engine.agenda.put(entries, self.clock.wall_us(), starting=starting)

    @staticmethod
    def _schedule(entry: Entry) -> Schedule | None:
        return schedule_of(entry.timing, ZONE, f"{entry.name}@{SEED}")

    def start(self, *names: str) -> None:
        """Start jobs by hand."""
        for name in names:
            started = self.engine.start_by_hand(name)
            assert started or read_local(self._paths)[name].overlap is not Overlap.SKIP, name

    def stop(self, name: str) -> None:
        """As an administrator, and wait until it is over."""
        self._finish(self.engine.stop(name))
        self.look()

    def carry_out(self) -> None:
        """It is done."""

    def now(self) -> datetime:
        """What the world's clock shows."""
        return moment_of(self.clock.wall_us())

    def let_go(self, name: str) -> None:
        """Have the run end that waits for it."""
        self._processes.let_go(name)

    def write(self, files: Mapping[str, str]) -> None:
        """No case does so where processes are made up."""
        raise AssertionError(files)

    def sdcron(self, *arguments: str) -> tuple[int, str, str]:
        """A command's exit code, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([arguments[0], "--backend", "local", "--root", self.directory, *arguments[1:]])
        return code, out.getvalue(), err.getvalue()

    def marked(self, name: str) -> bool:
        """Whether a run of the job has begun."""
        return name in self._begun

    def alive(self, pids: Sequence[str]) -> list[str]:
        """None: the processes are made up."""
        return []

    def look(self) -> None:
        """Read the records."""
        self.seen = by_job(self._recorded)

    def _over(self, record: Run) -> None:
        self._recorded.append(record.as_json())
