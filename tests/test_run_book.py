"""The engine's runs as records: what is kept when, how a run ends, and which retry follows. No process, no disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.agenda import Agenda
from sdcron.agenda_slot import Due, Entry
from sdcron.job import Job, Output, Retry, Source
from sdcron.job_text import text_of, timing_of
from sdcron.local_jobs import LocalJob, local_job_of, schedule_of
from sdcron.open_run import CUT_OFF, MANAGER_GONE, SHUT_DOWN, STOPPED, OpenRun
from sdcron.run_book import RunBook
from sdcron.runs import Outcome, Run, Trigger, microseconds_of
from sdcron.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.engine_keep import Keeper
    from sdcron.spool import Spool
    from sdcron.store import Batch

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
START = microseconds_of(datetime(2027, 3, 1, tzinfo=UTC))
BOOT = "0123.42"
RETRY = Retry(timedelta(minutes=1), attempts=3, backoff=2.0)


@dataclass
class Clock:
    """Both clocks go together."""

    now_us: int = START

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return self.now_us

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_us / SECOND


@dataclass
class Kept:
    """A keeper that has everything, in the order in which it came; `fails` is one that cannot write."""

    steps: list[Batch] = field(default_factory=list)
    begins_anew: bool = False
    fails: bool = False

    def keep(self, batch: Batch) -> list[Run]:
        """Take a step."""
        self.steps.append(batch)
        return [] if self.fails else list(batch.closed)

    def records(self) -> list[Run]:
        """All that was closed."""
        return [run for step in self.steps for run in step.closed]

    def memories(self) -> dict[str, str]:
        """The last text of each job."""
        return {job: text for step in self.steps for job, text in step.memories.items()}

    def open_runs(self) -> dict[str, tuple[str, str]]:
        """As the database has them at last."""
        found: dict[str, tuple[str, str]] = {}
        for step in self.steps:
            found |= step.open_runs
            for run in step.closed:
                found.pop(run.run_id, None)
        return found


@dataclass
class Said:
    """A spool that writes down what it is told."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def begin(self, job: str, run_id: str, when_us: int, patterns: object = (), *, later: bool = False) -> None:
        """See Spool, here and below."""
        assert later
        self.lines.append(("begin", job, run_id, when_us, patterns))

    def tell_starts(self, _before_us: int) -> bool:
        """All are told already."""
        return True

    def write(self, job: str, run_id: str, which: str, piece: bytes, _when_us: int) -> None:
        """Output."""
        self.lines.append(("write", job, run_id, which, piece))

    def say(self, job: str, text: str, _when_us: int, run_id: str | None = None) -> None:
        """Words of sdcron's."""
        self.lines.append(("say", job, run_id, text))

    def end(self, job: str, run_id: str, _when_us: int, outcome_text: str) -> None:
        """The end of a run."""
        self.lines.append(("end", job, run_id, outcome_text))

    def words(self) -> list[str]:
        """What was said of retries."""
        return [line[3] for line in self.lines if line[0] == "say"]

    def ends(self) -> list[str]:
        """How runs ended."""
        return [line[3] for line in self.lines if line[0] == "end"]


class Office:
    """A run book with all that it needs."""

    def __init__(self, *jobs: Job, boot: str = BOOT, clock: Clock | None = None, kept: Kept | None = None) -> None:
        self.clock = clock or Clock()
        self.kept = kept or Kept()
        self.said = Said()
        self.told: list[str] = []
        self.agenda = Agenda(lambda entry: schedule_of(entry.timing, "UTC", entry.name), boot, self.clock.wall_us())
        self.agenda.restore(self.kept.memories())
        self.book = RunBook(
            self.agenda,
            cast("Keeper", self.kept),
            cast("Spool", self.said),
            self.clock,
            boot,
            job_of=lambda owner: local_job_of(owner, "UTC", owner.name),
            tell=self.told.append,
        )
        self.apply(*jobs, starting=True)

    def apply(self, *jobs: Job, starting: bool = False, damaged: Mapping[str, str] | None = None) -> None:
        """Have these jobs applied; of `damaged` ones the text cannot be read."""
        applied = {job.name: LocalJob(job.name, "/jobs", job.source.path, START, text_of(job, "/jobs")) for job in jobs}
        entries = [Entry(job.name, timing_of(job.text), job.since_us) for job in applied.values()]
        self.book.use_jobs(
            {
                name: replace(job, text=damaged[name]) if damaged and name in damaged else job
                for name, job in applied.items()
            }
        )
        self.agenda.put(entries, self.clock.wall_us(), starting=starting)

    def begin(self, due: Due | None = None) -> tuple[OpenRun, Job]:
        """Start what is due, or that."""
        dues = [due] if due is not None else self.agenda.take_due(self.clock.now_us, 10)
        [(run, job)] = self.book.prepare(dues)
        self.book.keep()
        self.book.begins(run, job)
        return run, job

    def end(self, run: OpenRun, job: Job, result: str = "exit-code", status: int = 3, *, stopped: str = "") -> Run:
        """A run is over; its record."""
        run.result, run.stopped = result, stopped
        run.exit_kind, run.exit_status = ("killed" if result in ("signal", "timeout") else "exited"), status
        run.ended_us = self.clock.now_us
        self.book.close(run, job)
        self.book.keep()
        return self.kept.records()[-1]

    def fail(self, **how: Any) -> Run:
        """One whole run that fails."""
        run, job = self.begin()
        return self.end(run, job, **how)


def a_job(name: str = "job", text: str | None = "0 * * * *", **keys: Any) -> Job:
    schedule = parse_schedule(text) if text is not None else None
    return Job(name, Source(f"/jobs/{name}.yaml"), command=("true",), schedule=schedule, **keys)


def at_next_hour(office: Office) -> None:
    office.clock.now_us = (office.clock.now_us // HOUR + 1) * HOUR


@pytest.fixture
def office() -> Office:
    office = Office(a_job(retry=RETRY))
    at_next_hour(office)
    return office


# The record


def test_a_run_is_on_record_with_its_due_time_before_it_begins(office: Office) -> None:
    [(run, _)] = office.book.prepare(office.agenda.take_due(office.clock.now_us, 10))
    assert office.said.lines == []
    office.book.keep()
    [step] = office.kept.steps
    assert list(step.open_runs) == [run.run_id]
    assert json.loads(step.memories["job"])["engine"][0] == office.clock.now_us


def test_a_record_has_all_fields_that_an_engine_knows(office: Office) -> None:
    run, job = office.begin()
    office.clock.now_us += 2 * SECOND
    office.book.printed(run, job, "stdout", b"hello\nwor")
    office.book.printed(run, job, "stdout", b"ld\n")
    office.book.printed(run, job, "stderr", b"oh\n")
    run.cpu_us = 1234
    record = office.end(run, job, "success", 0)
    begun = START + HOUR
    assert record.outcome is Outcome.SUCCESS
    assert (record.job, record.backend, record.trigger, record.attempt) == ("job", "local", Trigger.SCHEDULE, 1)
    assert (record.scheduled_us, record.started_us, record.finished_us) == (begun, begun, begun + 2 * SECOND)
    assert record.next_run_us == START + 2 * HOUR
    assert (record.exit_code, record.signal, record.reason, record.cpu_us) == (0, None, "", 1234)
    assert (record.stdout.kept, record.stderr.kept) == (b"hello\nworld\n", b"oh\n")
    assert record.job_digest == office.book.jobs["job"].digest
    assert record.host
    assert len(record.run_id) == 32


def test_output_goes_to_the_spool_as_it_comes_and_to_the_record_without_secrets() -> None:
    office = Office(a_job(output=Output(keep=100, redact=("pass=[a-z]+",))))
    at_next_hour(office)
    run, job = office.begin()
    for piece in (b"pass=", b"word\npass=other\n", b"half pass=se", b"cret"):
        office.book.printed(run, job, "stdout", piece)
    record = office.end(run, job, "success", 0)
    assert record.stdout.kept == b"[redacted]\n[redacted]\nhalf [redacted]"
    assert b"".join(line[4] for line in office.said.lines if line[0] == "write").endswith(b"half pass=secret")
    [begin] = [line for line in office.said.lines if line[0] == "begin"]
    assert [pattern.pattern for pattern in begin[4]] == ["pass=[a-z]+"]


def test_a_run_by_hand_says_so_and_a_job_without_times_has_no_next_run() -> None:
    office = Office(a_job(text=None))
    due = office.agenda.take("job")
    assert due is not None
    record = office.end(*office.begin(due), "success", 0)
    assert (record.trigger, record.scheduled_us, record.next_run_us) == (Trigger.MANUAL, None, None)


def test_a_disabled_job_has_no_next_run_and_no_retry() -> None:
    office = Office(a_job(enabled=False, retry=RETRY))
    due = office.agenda.take("job")
    assert due is not None
    record = office.end(*office.begin(due))
    assert record.next_run_us is None
    assert office.agenda.retries() == {}
    assert office.said.words() == []


def test_the_end_is_told_once_the_record_was_handed_over(office: Office) -> None:
    heard: list[Run] = []
    office.book.on_end.append(heard.append)
    run, job = office.begin()
    run.result, run.exit_kind, run.exit_status, run.ended_us = "success", "exited", 0, office.clock.now_us
    office.book.close(run, job)
    assert (heard, office.said.ends()) == ([], [])
    office.book.keep()
    assert [record.run_id for record in heard] == [run.run_id]
    assert office.said.ends() == ["success"]
    office.book.keep()
    assert len(heard) == 1


def test_who_waits_for_a_run_hears_of_its_end_also_while_records_cannot_be_written(office: Office) -> None:
    heard: list[Run] = []
    office.book.on_end.append(heard.append)
    office.kept.fails = True
    office.fail()
    assert len(heard) == 1


# What is kept of a run that is on


def test_what_a_run_prints_is_kept_every_ten_seconds(office: Office) -> None:
    run, job = office.begin()
    kept = []
    for second in range(31):
        office.book.printed(run, job, "stdout", b"%d\n" % second)
        office.book.keep()
        if office.kept.steps[-1].open_runs:
            kept.append(second)
        office.clock.now_us += SECOND
    assert len(kept) in (2, 3)
    state = json.loads(office.kept.open_runs()[run.run_id][1])
    assert OpenRun.from_json(state, ()).stdout.output().kept.startswith(b"0\n1\n")


def test_a_silent_run_is_kept_once(office: Office) -> None:
    office.begin()
    for _ in range(30):
        office.clock.now_us += SECOND
        office.book.keep()
    assert len([step for step in office.kept.steps if step.open_runs]) == 1


def test_after_a_database_was_made_anew_everything_is_kept_again() -> None:
    office = Office(a_job("first"), a_job("second", "30 5 * * *"))
    at_next_hour(office)
    run, job = office.begin()
    office.book.printed(run, job, "stdout", b"line\n")
    office.kept.steps.clear()
    office.kept.begins_anew = True
    office.book.keep()
    [step] = office.kept.steps
    assert set(step.memories) == {"first", "second"}
    assert list(step.open_runs) == [run.run_id]
    assert not office.kept.begins_anew


def test_a_run_that_is_over_is_not_kept_open(office: Office) -> None:
    run, job = office.begin()
    office.book.printed(run, job, "stdout", b"line\n")
    office.clock.now_us += 20 * SECOND
    office.end(run, job, "success", 0)
    assert office.book.open == {}
    assert office.kept.open_runs() == {}
    office.kept.begins_anew = True
    office.book.keep()
    assert office.kept.open_runs() == {}


# Retries


def test_a_failure_is_retried_with_growing_waits_and_then_given_up(office: Office) -> None:
    waits = []
    for _ in range(3):
        office.fail()
        [(attempt, when_us)] = office.agenda.retries().values()
        waits.append((attempt, (when_us - office.clock.now_us) // MINUTE))
        office.clock.now_us = when_us
    record = office.fail()
    assert waits == [(2, 1), (3, 2), (4, 4)]
    assert (record.trigger, record.attempt) == (Trigger.RETRY, 4)
    assert record.scheduled_us == office.clock.now_us
    assert office.agenda.retries() == {}
    assert office.said.words() == [*(f"retry {n} of 3 is waiting" for n in (1, 2, 3)), "gave up after 3 retries"]


def test_the_longest_wait_bounds_what_the_backoff_makes(office: Office) -> None:
    office.apply(a_job(retry=Retry(timedelta(minutes=1), attempts=3, backoff=10, max_delay=timedelta(minutes=3))))
    waits = []
    for _ in range(3):
        office.fail()
        [(_, when_us)] = office.agenda.retries().values()
        waits.append((when_us - office.clock.now_us) // MINUTE)
        office.clock.now_us = when_us
    assert waits == [1, 3, 3]


def test_a_success_ends_the_series(office: Office) -> None:
    office.fail()
    office.clock.now_us += MINUTE
    run, job = office.begin()
    assert run.attempt == 2
    office.end(run, job, "success", 0)
    assert office.agenda.retries() == {}
    at_next_hour(office)
    assert office.fail().attempt == 1


@pytest.mark.parametrize(
    ("result", "status", "stopped", "outcome", "retried"),
    [
        ("exit-code", 3, "", Outcome.FAILURE, True),
        ("timeout", 15, "", Outcome.TIMEOUT, True),
        ("signal", 9, "", Outcome.KILLED, True),
        ("core-dump", 11, "", Outcome.KILLED, True),
        ("resources", 0, "", Outcome.FAILURE, True),
        ("success", 0, "", Outcome.SUCCESS, False),
        ("exec-condition", 1, "", Outcome.SKIPPED, False),
        ("signal", 15, STOPPED, Outcome.KILLED, False),
        ("success", 0, STOPPED, Outcome.KILLED, False),
        ("signal", 15, SHUT_DOWN, Outcome.ABANDONED, True),
    ],
)
def test_what_is_retried(
    office: Office, result: str, status: int, stopped: str, outcome: Outcome, retried: bool
) -> None:
    assert office.fail(result=result, status=status, stopped=stopped).outcome is outcome
    assert bool(office.agenda.retries()) == retried
    assert bool(office.said.words()) == retried


def test_only_chosen_exit_statuses_are_retried(office: Office) -> None:
    office.apply(a_job(retry=replace(RETRY, on_exit=(75, 3))))
    for how, retried in (({"status": 3}, True), ({"status": 4}, False), ({"result": "signal", "status": 9}, False)):
        office.fail(**how)
        assert bool(office.agenda.retries()) == retried
        at_next_hour(office)
    assert office.said.words() == [
        "retry 1 of 3 is waiting",
        "not one of the exit statuses to retry: exit status 4",
        "not one of the exit statuses to retry: died of SIGKILL",
    ]


def test_a_job_without_retry_is_not_retried(office: Office) -> None:
    office.apply(a_job())
    office.fail()
    assert office.agenda.retries() == {}
    assert office.said.words() == []


def test_a_retry_of_a_job_that_is_retried_no_more_does_not_run(office: Office) -> None:
    office.fail()
    office.apply(a_job())
    office.clock.now_us += MINUTE
    assert office.book.prepare(office.agenda.take_due(office.clock.now_us, 10)) == []
    at_next_hour(office)
    assert office.begin()[0].trigger is Trigger.SCHEDULE


def test_a_retry_beyond_the_attempts_there_are_now_does_not_run(office: Office) -> None:
    office.fail()
    office.clock.now_us += MINUTE
    office.fail()
    office.apply(a_job(retry=replace(RETRY, attempts=1)))
    office.clock.now_us += 2 * MINUTE
    assert office.book.prepare(office.agenda.take_due(office.clock.now_us, 10)) == []


def test_no_retry_is_promised_for_a_job_that_was_removed_or_disabled_while_it_ran(office: Office) -> None:
    run, job = office.begin()
    office.apply()
    office.end(run, job)
    office.apply(a_job(retry=RETRY))
    at_next_hour(office)
    run, job = office.begin()
    office.apply(a_job(retry=RETRY, enabled=False))
    office.end(run, job)
    assert office.agenda.retries() == {}
    assert office.said.words() == []


def test_a_job_whose_text_is_damaged_does_not_run_and_others_do() -> None:
    office = Office(a_job("bad"), a_job("good"))
    office.apply(a_job("bad"), a_job("good"), damaged={"bad": "{}"})
    at_next_hour(office)
    assert [job.name for _, job in office.book.prepare(office.agenda.take_due(office.clock.now_us, 10))] == ["good"]
    assert office.told[0].startswith("bad: what is stored of it cannot be read")
    assert "apply its job file again" in office.told[0]
    at_next_hour(office)
    assert len(office.agenda.take_due(office.clock.now_us, 10)) == 1  # good is on, bad is tried again


# What an earlier engine left


def taken_over(before: Office, *jobs: Job, boot: str = BOOT, later_us: int = 10 * MINUTE) -> Office:
    """An engine that begins after the other was killed."""
    clock = Clock(before.clock.now_us + later_us)
    kept = before.kept
    after = Office(*jobs, boot=boot, clock=clock, kept=kept)
    after.book.take_over(kept.open_runs())
    after.book.keep()
    return after


@pytest.mark.parametrize(("boot", "reason"), [(BOOT, MANAGER_GONE), ("other.1", CUT_OFF)])
def test_a_run_that_was_cut_off_is_abandoned_and_retried(office: Office, boot: str, reason: str) -> None:
    run, job = office.begin()
    office.clock.now_us += 11 * SECOND
    office.book.printed(run, job, "stdout", b"so far\n")
    office.book.keep()
    after = taken_over(office, a_job(retry=RETRY), boot=boot)
    [record] = after.kept.records()
    assert (record.outcome, record.run_id) == (Outcome.ABANDONED, run.run_id)
    assert record.reason.startswith(reason)
    assert (record.started_us, record.finished_us) == (START + HOUR, None)
    assert record.stdout.kept == b"so far\n"
    assert after.agenda.retries() == {"job": (2, after.clock.now_us + MINUTE)}
    assert after.said.words() == ["retry 1 of 3 is waiting"]
    assert after.kept.open_runs() == {}


def test_a_cut_off_retry_goes_on_with_the_series(office: Office) -> None:
    office.fail()
    office.clock.now_us += MINUTE
    office.begin()
    after = taken_over(office, a_job(retry=RETRY))
    assert [number for number, _ in after.agenda.retries().values()] == [3]
    assert after.kept.records()[-1].attempt == 2


def test_a_run_that_somebody_stopped_is_not_retried_when_the_engine_is_killed_over_it(office: Office) -> None:
    run, job = office.begin()
    run.stopped = STOPPED
    office.book.printed(run, job, "stdout", b"ending\n")
    office.clock.now_us += 11 * SECOND
    office.book.keep()
    after = taken_over(office, a_job(retry=RETRY))
    assert after.kept.records()[-1].outcome is Outcome.KILLED
    assert after.agenda.retries() == {}


def test_what_was_missed_after_a_run_was_cut_off_is_made_good(office: Office) -> None:
    office.begin()
    after = taken_over(office, a_job(), later_us=3 * HOUR)
    [due] = after.agenda.take_due(after.clock.now_us, 10)
    assert (due.trigger, due.scheduled_us) == (Trigger.MISSED, START + 4 * HOUR)
    after.agenda.over("job", after.clock.now_us)


def test_a_run_of_a_job_that_is_gone_is_closed_without_retry(office: Office) -> None:
    office.begin()
    after = taken_over(office)
    assert [run.outcome for run in after.kept.records()] == [Outcome.ABANDONED]
    assert after.said.words() == []


def test_runs_of_systemds_are_left_to_the_collector(office: Office) -> None:
    theirs = OpenRun("job", "a" * 32, "4711:1", "host", START)
    office.book.take_over({"a" * 32: ("job", json.dumps(theirs.as_json()))})
    office.book.keep()
    assert office.kept.records() == []


@pytest.mark.parametrize("state", ["", "{", "null", "[]", "{}", '"x"', "7", '{"stdout": 1}', "[" * 100_000])
def test_a_state_that_cannot_be_read_is_a_run_that_was_cut_off(office: Office, state: str) -> None:
    office.book.take_over({"a" * 32: ("job", state)})
    office.book.keep()
    [record] = office.kept.records()
    assert (record.outcome, record.run_id, record.started_us) == (Outcome.ABANDONED, "a" * 32, None)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_state_whatever_is_in_it_stops_an_engine(data: st.DataObject) -> None:
    office = Office(a_job())
    at_next_hour(office)
    run, _ = office.begin()
    state = run.as_json()
    key = data.draw(st.sampled_from(["job", "run_id", "manager", "trigger", "stdout", "stderr"]))
    if key.startswith("std") and data.draw(st.booleans()):
        state[key][data.draw(st.sampled_from(sorted(state[key])))] = data.draw(junk)
    elif data.draw(st.booleans()):
        state[key] = data.draw(junk)
    else:
        del state[data.draw(st.sampled_from(sorted(state)))]
    office.book.take_over({run.run_id: ("job", json.dumps(state))})
    office.book.keep()
    assert {(record.job, record.run_id) for record in office.kept.records()} <= {("job", run.run_id)}


def test_what_goes_on_for_a_while_is_written_with_its_process_and_what_is_over_at_once_is_not() -> None:
    office = Office(
        Job("a", Source("/jobs/a.yaml"), command=("true",)), Job("b", Source("/jobs/a.yaml"), command=("true",))
    )
    office.book.begun_at = lambda run: run.pid * 10
    (long, _), (short, short_job) = (office.begin(Due(name, Trigger.MANUAL)) for name in ("a", "b"))
    for run, pid in ((long, 7), (short, 8)):
        run.pid = pid
        office.book.has_process(run)
    steps = len(office.kept.steps)
    settled = [office.book.is_settled]
    office.book.close(short, short_job)
    office.clock.now_us += SECOND
    office.book.keep()
    assert [*settled, office.book.is_settled] == [False, True]
    written = [state for step in office.kept.steps[steps:] for state in step.open_runs.items()]
    assert [(run_id, json.loads(text)["pid_started"]) for run_id, (_, text) in written] == [(long.run_id, 70)]
    assert office.book.own_processes(office.kept.open_runs()) == {long.run_id: (7, 70)}


def test_in_a_hurry_records_are_kept_at_once_and_told_beside_the_output_a_little_later() -> None:
    office = Office(*(Job(name, Source("/jobs/a.yaml"), command=("true",)) for name in "abc"))
    told = []
    for run, job in [office.begin(Due(name, Trigger.MANUAL)) for name in "abc"]:
        office.clock.now_us += SECOND
        run.result = "success"
        office.book.close(run, job)
        office.book.keep(hurried=True)
        told.append((len(office.kept.records()), len(office.said.ends())))
    assert told == [(1, 0), (2, 0), (3, 3)]


def test_the_end_of_a_run_that_has_printed_is_with_its_output_before_anybody_hears_of_it() -> None:
    office = Office(Job("a", Source("/jobs/a.yaml"), command=("true",)))
    heard: list[list[str]] = []
    office.book.on_end.append(lambda _: heard.append(office.said.ends()))
    run, job = office.begin(Due("a", Trigger.MANUAL))
    office.book.printed(run, job, "stdout", b"no end")
    run.result = "success"
    office.book.close(run, job)
    office.book.keep(hurried=True)
    assert heard == [["success"]]
