"""The engine's runs as records: what begins, what is printed, how it ends, and which retry follows.

Knows no process. That a run begins is kept before its process is started, with the due time it uses up: an engine that
is killed between the two leaves a run on record that was cut off, and never a due time that is taken twice.
"""

from __future__ import annotations

import json
import socket
import uuid
from typing import TYPE_CHECKING

from sdcron.chains import Chains
from sdcron.open_run import CUT_OFF, GONE, MANAGER_GONE, REPLACED, STOPPED, OpenRun
from sdcron.output import Capture, compile_patterns
from sdcron.parameters import with_asked
from sdcron.runs import FAILED, Outcome, Run, Trigger, microseconds_of, moment_of
from sdcron.store import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sdcron.agenda import Agenda
    from sdcron.agenda_slot import Due
    from sdcron.clocks import Clock
    from sdcron.engine_keep import Keeper
    from sdcron.job import Job
    from sdcron.local_jobs import LocalJob
    from sdcron.spool import Spool

BACKEND = "local"
_ENGINE = "engine:"
"""How the manager of an open run is called here, before the boot."""
SETTLED_SECONDS = 0.05
"""How long a run goes on until it is one that others look at."""
_HURRIED_SECONDS = 2.0
"""How much later, at most."""
_STATE_SECONDS = 10.0
"""How often what open runs have printed is kept."""


class RunBook:
    """The records of one engine, and the jobs they are of."""

    def __init__(
        self,
        agenda: Agenda,
        keeper: Keeper,
        spool: Spool,
        clock: Clock,
        boot: str,
        *,
        job_of: Callable[[LocalJob], Job],
        tell: Callable[[str], object],
    ) -> None:
        """`job_of` reads what is stored of a job, and raises ValueError.

        `boot` names the time since the machine's start; `tell` hears in one line what a person should know.
        """
        self.agenda = agenda
        self.spool = spool
        self._keeper = keeper
        self._clock = clock
        self._boot = boot
        self._job_of = job_of
        self._tell = tell
        self._host = socket.gethostname()
        self.jobs: Mapping[str, LocalJob] = {}
        self.chains = Chains(agenda)
        self.gated: dict[str, str] = {}
        """Runs that are not to be started, and why."""
        self._drafts: dict[str, OpenRun] = {}
        """Runs of jobs that are due soon."""
        self.open: dict[str, OpenRun] = {}
        """By run id."""
        self._closed: list[Run] = []
        self._processes: dict[str, float] = {}
        """Runs whose main process is not written down yet, and since when."""
        self.is_settled = True
        """Whether all is written that is to be written of runs that go on."""
        self._ends: list[tuple[Run, int, str]] = []
        """Records that are not kept yet, when they were made, and what is to be said of the retry."""
        self._fresh: dict[str, tuple[str, str]] = {}
        """Job and state of runs that are new, or have changed, by id."""
        self._grown: set[str] = set()
        self._told: set[str] = set()
        """Runs that have told of their progress since that was kept."""
        self.meta: dict[str, str] = {}
        """What else is to be kept with the next step."""
        self._state_kept_at = self._told_at = clock.monotonic()
        self.begun_at: Callable[[OpenRun], int] = lambda _: GONE
        """Asks when the main process of a run began, as OpenRun.pid_started has it."""
        self.on_end: list[Callable[[Run], object]] = []
        """Who hears of each run that is over, once its record is kept, or waits for that."""

    # The beginning

    def prepare(self, dues: Iterable[Due]) -> list[tuple[OpenRun, Job]]:
        """The runs of what is due, to be kept before any of them is started."""
        prepared = []
        for due in dues:
            job = self._job(due)
            if job is None:
                self.agenda.over(due.job, self._clock.wall_us())
                continue
            run = self._drafts.pop(job.name, None) or self._draft(job)
            run.started_us, run.trigger, run.attempt = self._clock.wall_us(), due.trigger, due.attempt
            run.scheduled_us, run.digest, run.asked = due.scheduled_us, self.jobs[due.job].digest, due.asked
            missing = self.chains.missing(due)
            if missing:
                self.gated[run.run_id] = missing
            self.open[run.run_id] = run
            self._fresh[run.run_id] = (job.name, json.dumps(run.as_json()))
            prepared.append((run, job))
        return prepared

    def _job(self, due: Due) -> Job | None:
        """The job of a due run; None if there is none, or no such retry any more."""
        owner = self.jobs.get(due.job)
        job = self._read(owner) if owner is not None else None
        if (
            job is not None
            and due.trigger is Trigger.RETRY
            and not (job.retry and due.attempt <= job.retry.attempts + 1)
        ):
            return None
        try:
            return with_asked(job, due.asked) if job is not None else None
        except KeyError as error:
            # Whoever asked has looked at what the job was then.
            self._tell(f"{due.job}: its parameter {error} has no value; run it by hand with one")
            return None

    def _read(self, owner: LocalJob) -> Job | None:
        try:
            return self._job_of(owner)
        except ValueError as error:
            self._tell(f"{owner.name}: what is stored of it cannot be read ({error}); apply its job file again")
            return None

    def _draft(self, job: Job) -> OpenRun:
        """A run of it, as far as it is the same whenever it begins."""
        run = OpenRun(job.name, uuid.uuid4().hex, f"{_ENGINE}{self._boot}", host=self._host)
        patterns = compile_patterns(job.output.redact)
        run.stdout, run.stderr = Capture(job.output.keep, patterns), Capture(job.output.keep, patterns)
        return run

    def get_ready(self, names: Iterable[str]) -> None:
        """These jobs are due soon: have ready what can be."""
        self._drafts = {}
        for name in names:
            owner = self.jobs.get(name)
            job = self._read(owner) if owner is not None else None
            if job is not None:
                self._drafts[name] = self._draft(job)

    def use_jobs(self, jobs: Mapping[str, LocalJob]) -> None:
        """Have exactly these jobs from now on."""
        self.jobs, self._drafts = jobs, {}
        self.chains.use(jobs)

    def begins(self, run: OpenRun, job: Job, *, again: bool = False) -> None:
        """It is being started now; `again`, as it could not be before."""
        run.started_us = self._clock.wall_us()
        if not again:
            self.spool.begin(run.job, run.run_id, run.started_us, compile_patterns(job.output.redact), later=True)

    def say(self, run: OpenRun, words: str) -> None:
        """What is told of a run beside its output."""
        self.spool.say(run.job, words, self._clock.wall_us(), run.run_id)

    def printed(self, run: OpenRun, job: Job, which: str, piece: bytes) -> None:
        """What came from one of its streams."""
        capture = run.capture(which)
        if job.output.redact:
            for line in _lines(piece):
                capture.add(line)
        else:
            capture.add(piece)
        self._grown.add(run.run_id)
        self.spool.write(run.job, run.run_id, which, piece, self._clock.wall_us())

    def told(self, run: OpenRun, alarm: str = "") -> None:
        """It has told of its progress, or said `alarm`."""
        self._told.add(run.run_id)
        if alarm:
            self.say(run, f"alarm: {alarm}")
            self.keep_told()

    def keep_told(self) -> None:
        """Have it among what is kept next, as somebody asks for it."""
        for run in [self.open[run_id] for run_id in self._told if run_id in self.open]:
            self._fresh[run.run_id] = (run.job, json.dumps(run.as_json()))
        self._told.clear()

    # The end

    def own_processes(self, open_runs: Mapping[str, tuple[str, str]]) -> dict[str, tuple[int, int]]:
        """Main process, and when that began, of each run that an engine left open in this boot."""
        found = {}
        for run_id, (name, state) in open_runs.items():
            run = _restored(run_id, name, state, None)
            if run.manager == f"{_ENGINE}{self._boot}":
                found[run_id] = (run.pid, run.pid_started)
        return found

    def has_process(self, run: OpenRun) -> None:
        """Its main process is there: the next engine must be able to find it."""
        self._processes[run.run_id] = self._clock.monotonic()
        self.is_settled = False

    def take_over(self, open_runs: Mapping[str, tuple[str, str]]) -> None:
        """Close the runs that an earlier engine left open: it was killed, or the machine went down."""
        for run_id, (name, state) in open_runs.items():
            owner = self.jobs.get(name)
            job = self._read(owner) if owner is not None else None
            run = _restored(run_id, name, state, job)
            if not run.manager.startswith(_ENGINE):
                continue  # of systemd's, for the collector
            same_boot = run.manager.removeprefix(_ENGINE) == self._boot
            run.result = MANAGER_GONE if same_boot else CUT_OFF
            self.close(run, job)

    def close(self, run: OpenRun, job: Job | None) -> None:
        """Make its record, and see which retry follows."""
        now_us = self._clock.wall_us()
        schedule = job.schedule if job is not None and job.enabled else None
        following = schedule.next_after(moment_of(run.ended_us or now_us)) if schedule is not None else None
        record = run.close(microseconds_of(following) if following is not None else None, None, backend=BACKEND)
        self._closed.append(record)
        self.open.pop(run.run_id, None)
        self._fresh.pop(run.run_id, None)
        self._grown.discard(run.run_id)
        self._processes.pop(run.run_id, None)
        # Told once the record is kept: whoever follows the output asks for it then.
        self._ends.append((record, now_us, self._plan_retry(run, record, job, now_us)))
        if not run.asked.is_special:
            self.chains.over(record, final=not self.agenda.is_retried(run.job) and run.stopped != REPLACED)

    def _plan_retry(self, run: OpenRun, record: Run, job: Job | None, now_us: int) -> str:
        """Have a failed run followed by its retry; what is to be said of it. The words are retry.py's."""
        retry = job.retry if job is not None and job.enabled else None
        number, words = 0, ""
        if (
            retry is not None
            and record.outcome in FAILED
            and run.stopped not in (STOPPED, REPLACED)
            and not run.asked.is_special
        ):
            if retry.on_exit and (record.outcome is not Outcome.FAILURE or record.exit_code not in retry.on_exit):
                words = f"not one of the exit statuses to retry: {record.reason}"
            elif run.attempt > retry.attempts:
                words = f"gave up after {retry.attempts} retries"
            else:
                number, words = run.attempt, f"retry {run.attempt} of {retry.attempts} is waiting"
        delay = retry.delays()[number - 1].total_seconds() if retry is not None and number else 0.0
        again = number + 1 if number else 0
        waits = self.agenda.over(run.job, now_us, retry=again, delay_us=round(delay * 1_000_000))
        return words if waits or not number else ""

    # The record

    @property
    def has_ends(self) -> bool:
        """Whether a run is over that is not kept yet, or not told of, such as one that a condition skips."""
        return bool(self._closed or self._ends)

    def is_to_be_kept(self, run_id: str) -> bool:
        """Whether a run is over whose record is kept with the next step, and told of then."""
        return any(record.run_id == run_id for record in self._closed)

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return self._keeper.is_behind

    def keep(self, *, hurried: bool = False) -> None:
        """Write down what is new; `hurried`, as others wait to be started, the lines beside jobs' output later."""
        now = self._clock.monotonic()
        anew = self._keeper.begins_anew
        if anew:
            self._keeper.begins_anew = False
            self.agenda.remember_all()
            self._grown |= self.open.keys()
        if self._grown and (anew or now - self._state_kept_at > _STATE_SECONDS):
            self._state_kept_at = now
            states = {run_id: self.open[run_id] for run_id in self._grown}
            self._fresh |= {run_id: (run.job, json.dumps(run.as_json())) for run_id, run in states.items()}
            self._grown.clear()
        self._write_processes(now)
        closed, self._closed = self._closed, []
        fresh, self._fresh = self._fresh, {}
        meta, self.meta = self.meta, {}
        self._keeper.keep(Batch(closed=closed, open_runs=fresh, memories=self.agenda.changes(), meta=meta))
        hurried = hurried and now - self._told_at <= _HURRIED_SECONDS
        self._tell_of_runs(hurried=hurried)
        if not hurried:
            self._told_at = now
        for record in closed:
            for hear in self.on_end:
                hear(record)

    def _tell_of_runs(self, *, hurried: bool) -> None:
        """Their starts and ends, where their output is; of the many that are over at once, the two together.

        In a hurry those that have printed nothing wait: nobody misses a line of theirs.
        """
        ends, self._ends = self._ends, []
        if hurried:
            self._ends = [end for end in ends if not (end[0].stdout.size or end[0].stderr.size)]
            ends = [end for end in ends if end[0].stdout.size or end[0].stderr.size]
        for record, when_us, words in ends:
            text = f"{record.outcome}: {record.reason}" if record.reason else str(record.outcome)
            self.spool.end(record.job, record.run_id, when_us, text)
            if words:
                self.spool.say(record.job, words, when_us, record.run_id)
        if hurried:
            return
        told = self.spool.tell_starts(self._clock.wall_us() - round(SETTLED_SECONDS * 1_000_000))
        self.is_settled = told and not self._processes

    def _write_processes(self, now: float) -> None:
        """Of runs that go on for a while, which the many are not that are over at once."""
        lasting = [run_id for run_id, since in self._processes.items() if since <= now - SETTLED_SECONDS]
        for run_id in lasting:
            del self._processes[run_id]
            run = self.open.get(run_id)
            if run is not None:
                run.pid_started = self.begun_at(run)
                self._fresh[run_id] = (run.job, json.dumps(run.as_json()))


def _restored(run_id: str, name: str, state: str, job: Job | None) -> OpenRun:
    patterns = compile_patterns(job.output.redact) if job is not None else ()
    try:
        run = OpenRun.from_json(json.loads(state), patterns)
        if (run.job, run.run_id, type(run.manager)) == (name, run_id, str):
            return run
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # of another version
        pass
    return OpenRun(name, run_id, _ENGINE)  # that it was there is what is left


def _lines(piece: bytes) -> list[bytes]:
    """The lines of a piece, which end in a newline only."""
    found = piece.split(b"\n")
    return [line + b"\n" for line in found[:-1]] + ([found[-1]] if found[-1] else [])
