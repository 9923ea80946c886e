"""Entries of the journal become runs: their outcomes, their output, and whom to believe."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from sdcron import messages
from sdcron.definition import Definition
from sdcron.fold import Fold
from sdcron.output import compile_patterns
from sdcron.paths import Scope
from sdcron.runs import Outcome, Run, Trigger
from sdcron.schedule import parse_schedule
from sdcron.unit_locks import HELD_MESSAGE
from tests.entries import BOOT, NOON, SECOND, Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
DAILY = Definition(digest="d1", schedule=parse_schedule("0 12 * * *"), retry_delays_us=(60 * SECOND, 120 * SECOND))


class Place:
    """A Fold with one definition for every job, and the ids of what was recorded."""

    def __init__(self, definition: Definition | None = DAILY, scope: Scope = Scope.SYSTEM) -> None:
        self.definition = definition
        self.recorded: set[str] = set()
        self.fold = Fold(scope, 0, lambda _: self.definition, self.recorded.__contains__)
        self.tell = Teller(self.fold)
        self.kept: tuple[dict[str, str], dict[str, tuple[str, str]], dict[str, str]] = ({}, {}, {})

    def _changes(self) -> list[Run]:
        """What a store would do with them."""
        batch = self.fold.changes()
        self.kept[0].update(batch.meta)
        self.kept[1].update(batch.open_runs)
        self.kept[2].update(batch.memories)
        for record in batch.closed:
            self.kept[1].pop(record.run_id, None)
            self.recorded.add(record.run_id)
        return batch.closed

    def close_all(self) -> list[Run]:
        """Close what has ended, as if its output were complete; all new records."""
        for run in self.fold.ended():
            self.fold.close(run)
        return self._changes()

    def again(self) -> Place:
        """What a collector would be that was killed after a commit and started anew."""
        assert self._changes() == []
        other = Place(self.definition)
        other.kept = self.kept
        other.recorded |= self.recorded
        other.fold.restore(*self.kept)
        other.tell.now_us = self.tell.now_us
        return other


@pytest.fixture
def place() -> Iterator[Place]:
    yield Place()


def test_a_run_that_succeeds_has_its_output_its_times_and_its_trigger(place: Place) -> None:
    place.tell.timer_started("sdcron-job.timer")
    place.tell.at(86_400)
    place.tell.starting("job", A)
    place.tell.line("job", "out", A)
    place.tell.line("job", "err", A, "s2", PRIORITY="4")
    place.tell.line("job", "tail", A, _LINE_BREAK="eof")
    place.tell.at(86_405).succeeded("job", A)
    [run] = place.close_all()
    assert (run.outcome, run.exit_code, run.signal, run.reason) == (Outcome.SUCCESS, 0, None, "")
    assert (run.stdout.kept, run.stderr.kept) == (b"out\ntail", b"err\n")
    assert (run.stdout.size, run.stderr.size, run.stdout.truncated) == (8, 4, False)
    assert (run.trigger, run.scheduled_us) == (Trigger.SCHEDULE, NOON + 86_400 * SECOND)
    assert run.started_us == NOON + 86_400 * SECOND + 10
    assert run.finished_us == NOON + 86_405 * SECOND + 10
    assert run.next_run_us == NOON + 2 * 86_400 * SECOND
    assert (run.host, run.job_digest, run.attempt) == ("host", "d1", 1)


@pytest.mark.parametrize(
    ("result", "kind", "status", "outcome", "exit_code", "signal", "reason"),
    [
        ("exit-code", "exited", 3, Outcome.FAILURE, 3, None, "exit status 3"),
        ("signal", "killed", 9, Outcome.KILLED, None, "SIGKILL", "died of SIGKILL"),
        ("core-dump", "dumped", 11, Outcome.KILLED, None, "SIGSEGV", "died of SIGSEGV, core dumped"),
        ("timeout", "killed", 15, Outcome.TIMEOUT, None, "SIGTERM", "took longer than its timeout"),
        ("timeout", "exited", 0, Outcome.TIMEOUT, 0, None, "took longer than its timeout"),
        ("oom-kill", "killed", 9, Outcome.KILLED, None, "SIGKILL", "out of memory"),
        ("signal", "killed", 40, Outcome.KILLED, None, "SIGRTMIN+6", "died of SIGRTMIN+6"),
    ],
)
def test_how_a_run_ended_is_what_systemd_says(
    place: Place, result: str, kind: str, status: int, outcome: Outcome, exit_code: int, signal: str, reason: str
) -> None:
    place.tell.starting("job", A)
    place.tell.failed("job", A, result, kind, status)
    [run] = place.close_all()
    assert (run.outcome, run.exit_code, run.signal, run.reason) == (outcome, exit_code, signal, reason)


def test_a_run_stopped_by_hand_is_killed_also_where_systemd_calls_it_a_success(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.manager("sdcron-job.service", messages.SUCCEEDED, A)
    place.tell.manager("sdcron-job.service", messages.HAS_STOPPED, A, JOB_TYPE="stop", JOB_RESULT="done")
    [run] = place.close_all()
    assert (run.outcome, run.reason) == (Outcome.KILLED, "stopped by an administrator")
    assert place.fold.memories.of("job").owed == 0


def test_a_run_cut_off_by_a_shutdown_is_abandoned_and_owed_a_retry(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.going_down()
    place.tell.stopped("job", A)
    [run] = place.close_all()
    assert (run.outcome, run.reason) == (Outcome.ABANDONED, "cut off by a shutdown")
    assert run.finished_us is not None
    assert place.fold.memories.of("job").owed == 1


def test_a_run_of_a_machine_that_died_is_abandoned_when_the_next_boot_is_heard(place: Place) -> None:
    place.tell.starting("job", A)
    place = place.again()
    place.tell.boot = "c" * 32
    place.tell.manager("other.service", messages.STARTED, B)
    [run] = place.close_all()
    assert run.outcome is Outcome.ABANDONED
    assert run.reason == "cut off: the machine went down without a shutdown"
    assert (run.finished_us, run.duration_us) == (None, None)
    assert place.fold.memories.of("job").owed == 1


def test_no_retry_is_owed_to_a_job_without_them_to_the_last_attempt_and_for_other_exits(place: Place) -> None:
    for definition, attempt in (
        (Definition(), 1),
        (DAILY, 3),
        (Definition(retry_delays_us=(1,), retry_on_exit=(75,)), 1),
    ):
        place = Place(definition)
        place.tell.starting("job", A)
        place.fold.runs[A].attempt = attempt
        place.fold.abandon_other_boots("another")
        assert place.fold.memories.of("job").owed == 0


def held(place: Place, job: str, run_id: str, lock: str = "disk", **fields: str) -> None:
    """What a run says that does not get a lock."""
    known = {"SYSLOG_IDENTIFIER": f"sdcron-{job}", "MESSAGE_ID": HELD_MESSAGE, "_TRANSPORT": "journal", "_UID": "0"}
    place.tell.feed(**known | {"INVOCATION_ID": run_id, "SDCRON_LOCK": lock, "MESSAGE": "not run"} | fields)


@pytest.mark.parametrize("early", [False, True])
def test_a_run_that_did_not_get_its_lock_is_skipped(place: Place, early: bool) -> None:
    # The one before has said nothing on stderr, and its record is open still.
    place.tell.starting("x", B)
    place.tell.line("x", "out", B)
    place.tell.succeeded("x", B)
    if not early:
        place.tell.starting("x", A)
    held(place, "x", A)
    place = place.again() if not early else place
    if early:
        place.tell.starting("x", A)
    place.tell.succeeded("x", A)
    runs = {run.run_id: run for run in place.close_all()}
    run = runs[A]
    assert (run.outcome, run.reason, run.exit_code) == (Outcome.SKIPPED, "lock disk is held", None)
    assert (run.stdout.size, run.stderr.size, run.trigger) == (0, 0, Trigger.MANUAL)
    assert runs[B].outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("told", "end", "outcome"),
    [
        ({}, "failed", Outcome.FAILURE),
        ({}, "stopped", Outcome.KILLED),
        ({"run_id": B}, "succeeded", Outcome.SUCCESS),
        ({"job": "y"}, "succeeded", Outcome.SUCCESS),
        ({"lock": "a b"}, "succeeded", Outcome.SUCCESS),
        ({"_UID": "1000"}, "succeeded", Outcome.SUCCESS),
        ({"_UID": "1000", "_SYSTEMD_INVOCATION_ID": B}, "succeeded", Outcome.SUCCESS),
        ({"_UID": "1000", "_SYSTEMD_INVOCATION_ID": A}, "succeeded", Outcome.SKIPPED),
        ({"_UID": "7"}, "succeeded", Outcome.SKIPPED),
    ],
)
def test_only_a_run_itself_or_its_user_can_say_that_it_got_no_lock(
    place: Place, told: dict[str, str], end: str, outcome: Outcome
) -> None:
    place.definition = Definition(uid=7)
    place.tell.starting("x", A)
    held(place, **{"job": "x", "run_id": A, **told})
    getattr(place.tell, end)("x", A)
    assert {run.run_id: run.outcome for run in place.close_all()}[A] is outcome


@pytest.mark.parametrize("path", ["/no/such", "/no/such (old)", "/no (such)/file"])
def test_skipped_starts_are_recorded_with_the_condition(place: Place, path: str) -> None:
    for text in (
        f"sdcron-job.service - x was skipped because of an unmet condition check (ConditionPathExists={path}).",
        f"sdcron-job.service - x skipped, unmet condition check ConditionPathExists={path}",
    ):
        place.tell.manager(
            "sdcron-job.service", messages.STARTED, "", JOB_TYPE="start", JOB_RESULT="done", JOB_ID="7", MESSAGE=text
        )
        [run] = place.close_all()
        assert run.outcome is Outcome.SKIPPED
        assert run.reason == f"a condition of `when` did not hold: ConditionPathExists={path}"
        assert len(run.run_id) == 32
    place.tell.starting("job", A)
    place.tell.manager("sdcron-job.service", messages.SKIPPED, A, UNIT_RESULT="exec-condition")
    place.tell.manager("sdcron-job.service", messages.STARTED, A, JOB_TYPE="start", JOB_RESULT="done")
    [run] = place.close_all()
    assert (run.outcome, run.reason) == (Outcome.SKIPPED, "a condition of `when` did not hold")


def test_what_systemd_cannot_even_begin_is_a_failure_with_a_time(place: Place) -> None:
    unit = "sdcron-job.service"
    place.tell.manager(unit, b"", A, MESSAGE=f"{unit}: Failed to load environment files: No such file", PRIORITY="3")
    place.tell.manager(unit, messages.FAILED, A, UNIT_RESULT="resources")
    place.tell.manager(unit, messages.START_FAILED, A, JOB_TYPE="start", JOB_RESULT="failed")
    [run] = place.close_all()
    assert run.outcome is Outcome.FAILURE
    assert run.reason == "systemd could not start it: Failed to load environment files: No such file"
    assert run.started_us is not None


def test_the_step_at_which_a_start_fails_is_told_by_either_message(place: Place) -> None:
    place.tell.starting("job", A)
    text = "sdcron-job.service: Main process exited, code=exited, status=217/USER"
    place.tell.manager(
        "sdcron-job.service",
        messages.EXITED,
        A,
        EXIT_CODE="exited",
        EXIT_STATUS="217",
        COMMAND="ExecStart",
        MESSAGE=text,
    )
    place.tell.manager("sdcron-job.service", messages.FAILED, A, UNIT_RESULT="exit-code")
    place.tell.manager("sdcron-job.service", messages.START_FAILED, A, JOB_TYPE="start", JOB_RESULT="failed")
    place.tell.starting("job", B)
    place.tell.feed(
        SYSLOG_IDENTIFIER="(temd-cat)", MESSAGE_ID=messages.SPAWN_FAILED, _SYSTEMD_INVOCATION_ID=B,
        MESSAGE="sdcron-job.service: Failed at step CHDIR spawning /usr/bin/systemd-cat: No such file or directory",
    )  # fmt: skip
    place.tell.failed("job", B, status=200)
    first, second = place.close_all()
    assert (first.reason, first.exit_code) == ("could not be started, at step USER", 217)
    assert second.reason == "could not be started, at step CHDIR: No such file or directory"


def test_a_retry_has_its_attempt_and_the_end_of_its_wait_as_its_time(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.failed("job", A)
    place.tell.timer_started("sdcron-job@retry-1.timer")
    due = place.tell.now_us + 60 * SECOND
    place.tell.manager("sdcron-job@retry-1.timer", messages.HAS_STOPPED, "f" * 32, JOB_TYPE="stop", JOB_RESULT="done")
    place.tell.now_us = due + 300_000
    place.tell.starting("job", B)
    place.tell.succeeded("job", B)
    first, second = place.close_all()
    assert (first.trigger, first.attempt) == (Trigger.SCHEDULE, 1)
    assert (second.trigger, second.attempt, second.scheduled_us) == (Trigger.RETRY, 2, due)


@pytest.mark.parametrize("shutdown", [False, True])
def test_what_starts_while_its_timer_is_stopped_was_started_by_hand(place: Place, shutdown: bool) -> None:
    place.tell.timer_started("sdcron-job.timer")
    if shutdown:
        place.tell.going_down()
    place.tell.manager("sdcron-job.timer", messages.HAS_STOPPED, "f" * 32, JOB_TYPE="stop", JOB_RESULT="done")
    place.tell.at(86_400)  # when it would be due
    place.tell.starting("job", A)
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    # At a shutdown all timers stop, and it may have begun right before.
    assert run.trigger is (Trigger.SCHEDULE if shutdown else Trigger.MANUAL)


def test_a_run_whose_end_was_lost_is_abandoned_when_the_job_starts_again(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.starting("job", B)
    place.tell.succeeded("job", B)
    first, second = place.close_all()
    assert (first.run_id, first.outcome, first.reason) == (A, Outcome.ABANDONED, "its end is in no journal")
    assert second.outcome is Outcome.SUCCESS
    assert place.fold.memories.of("job").owed == 0


def test_a_run_whose_start_was_lost_is_recorded_all_the_same(place: Place) -> None:
    place.tell.line("job", "late", A)
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert (run.outcome, run.started_us, run.reason) == (Outcome.SUCCESS, None, "its start is in no journal")
    assert run.stdout.kept == b"late\n"


def test_what_comes_after_the_record_is_closed_makes_no_other(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.succeeded("job", A)
    assert len(place.close_all()) == 1
    place.tell.manager("sdcron-job.service", messages.RESOURCES, A, CPU_USAGE_NSEC="5000000")
    place.tell.line("job", "late", A, "s9")
    place.tell.manager("sdcron-job.service", messages.HAS_STOPPED, A, JOB_TYPE="stop", JOB_RESULT="done")
    place.tell.starting("job", A)
    assert place.close_all() == []
    assert not place.fold.runs


def test_processor_time_and_memory_are_taken_where_systemd_says_them(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.succeeded("job", A)
    place.tell.manager("sdcron-job.service", messages.RESOURCES, A, CPU_USAGE_NSEC="1761046000", MEMORY_PEAK="4096")
    [run] = place.close_all()
    assert (run.cpu_us, run.memory_peak_bytes) == (1761046, 4096)


def test_lines_without_an_invocation_go_to_the_run_that_lacks_them(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.line("job", "one", None, "s1")
    place.tell.succeeded("job", A)
    place.tell.starting("job", B)
    place.tell.line("job", "two", None, "s2")
    place.tell.line("job", "more", None, "s1")
    place.tell.succeeded("job", B)
    first, second = place.close_all()
    assert (first.stdout.kept, second.stdout.kept) == (b"one\nmore\n", b"two\n")


def test_lines_that_come_before_their_runs_first_message_are_kept_for_it(place: Place) -> None:
    place.tell.line("job", "early", None, "s1")
    place.tell.line("job", "err", None, "s2", PRIORITY="4")
    place.tell.starting("job", A)
    place.tell.line("job", "later", None, "s1")
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert (run.stdout.kept, run.stderr.kept) == (b"early\nlater\n", b"err\n")


def test_nobody_else_can_tell_of_a_run_or_write_into_it(place: Place) -> None:
    place.tell.starting("job", A)
    session = {"_SYSTEMD_UNIT": "session-4.scope", "_AUDIT_LOGINUID": "1000", "_UID": "1000"}
    place.tell.line("job", "forged", None, "f1", **session)
    place.tell.line("job", "forged", None, "f2", _UID="1000")
    place.tell.line("job", "forged", None, "f5", _SYSTEMD_UNIT="apache2.service", _UID="33")
    place.tell.line("job", "of a job of a user's own", None, "f3", _SYSTEMD_UNIT="user@1000.service", _UID="1000")
    place.tell.feed(SYSLOG_IDENTIFIER="sdcron-job", _SYSTEMD_UNIT="sdcron-job.service", MESSAGE="logger", PRIORITY="6")
    unit = "sdcron-job.service"
    place.tell.manager(unit, messages.FAILED, A, _PID="4711", _UID="1000", UNIT_RESULT="signal")
    place.tell.manager(unit, messages.START_FAILED, A, _PID="4711", JOB_TYPE="start", JOB_RESULT="failed")
    place.tell.manager(unit, messages.STARTING, B, _PID="4711")
    assert place.close_all() == []
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert (run.outcome, run.stdout.kept) == (Outcome.SUCCESS, b"")


def test_a_session_that_the_job_itself_opened_writes_into_its_output(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.line(
        "job", "as postgres", None, "s1", _SYSTEMD_UNIT="session-c1.scope", _UID="100", _AUDIT_LOGINUID="4294967295"
    )
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert run.stdout.kept == b"as postgres\n"


def test_the_words_of_the_retry_handler_are_not_the_jobs_output(place: Place) -> None:
    place.tell.starting("job", A)
    place.tell.line("job", "retry 1 of 2 is waiting", None, "h", PRIORITY="5", _SYSTEMD_UNIT="sdcron-job@retry.service")
    place.tell.line("job", "of the handler", None, "h2", _SYSTEMD_UNIT="sdcron-job@retry.service", _AUDIT_LOGINUID="0")
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert run.stdout.kept == b""


def test_sdcrons_own_services_are_no_jobs(place: Place) -> None:
    place.tell.starting("collector", A)
    place.tell.line("collector", "text", A)
    place.tell.succeeded("collector", A)
    assert place.close_all() == []


def test_dropped_lines_are_told_of_the_run_or_of_the_one_before(place: Place) -> None:
    dropped = {
        "SYSLOG_IDENTIFIER": "systemd-journald", "MESSAGE_ID": messages.DROPPED.decode(), "N_DROPPED": "7",
        "OBJECT_SYSTEMD_UNIT": "sdcron-job.service", "_TRANSPORT": "driver",
    }  # fmt: skip
    place.tell.starting("job", A)
    place.tell.line("job", "x", A)
    place.tell.feed(**dropped, OBJECT_SYSTEMD_INVOCATION_ID=A)
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert run.dropped_lines == 7
    place.tell.starting("job", B)
    place.tell.feed(**dropped, OBJECT_SYSTEMD_INVOCATION_ID=B)
    place.tell.feed(**{**dropped, "_TRANSPORT": "journal"}, OBJECT_SYSTEMD_INVOCATION_ID=B)
    place.tell.succeeded("job", B)
    for open_run in place.fold.ended():
        place.fold.close(open_run)
    batch = place.fold.changes()
    assert batch.dropped == [("job", 7)]
    assert batch.closed[0].reason == "journald dropped 7 lines of this run or the one before"


def test_secrets_are_gone_before_anything_is_kept() -> None:
    place = Place(Definition(patterns=compile_patterns([r"token=\w+"])))
    place.tell.starting("job", A)
    place.tell.line("job", "my tok", A, _LINE_BREAK="line-max")
    place.tell.line("job", "en=hunter2", A, _LINE_BREAK="line-max")
    assert "hunter2" not in json.dumps(dict(place.fold.changes().open_runs))
    place.tell.line("job", " end", A)
    place.tell.succeeded("job", A)
    [run] = place.close_all()
    assert run.stdout.kept == b"my [redacted] end\n"


def test_of_a_job_that_is_not_applied_any_more_the_output_is_kept_as_it_was_to_be_or_not_at_all() -> None:
    place = Place(Definition(patterns=compile_patterns([r"token=\w+"])))
    place.tell.starting("job", A)
    place.definition = None
    place = place.again()
    place.tell.line("job", "my token=hunter2", A)
    place.tell.succeeded("job", A)
    place.tell.starting("stranger", B)
    place.tell.line("stranger", "token=hunter2", B, "s2")
    place.tell.succeeded("stranger", B)
    known, unknown = place.close_all()
    assert known.stdout.kept == b"my [redacted]\n"
    assert (unknown.stdout.size, unknown.stdout.truncated) == (14, True)
    assert b"hunter2" not in unknown.stdout.kept


def test_users_own_managers_are_told_from_the_machines_and_from_each_other() -> None:
    place = Place(scope=Scope.USER)
    unit = "sdcron-job.service"
    for uid, run_id in (("0", A), ("1000", B)):
        place.tell.feed(
            SYSLOG_IDENTIFIER="systemd", _PID="77", _UID=uid, _BOOT_ID=BOOT, USER_UNIT=unit,
            MESSAGE_ID=messages.STARTING, USER_INVOCATION_ID=run_id, _SYSTEMD_USER_UNIT="init.scope",
        )  # fmt: skip
    place.tell.starting("job", C)
    assert list(place.fold.runs) == [A]


def test_a_collector_that_is_killed_and_started_at_any_point_tells_the_same() -> None:
    def story(place: Place, cuts: set[int]) -> list[Run]:
        records: list[Run] = []
        steps: list[Callable[[Teller], None]] = [
            lambda t: t.timer_started("sdcron-job.timer"),
            lambda t: t.at(86_400).starting("job", A),
            lambda t: t.line("job", "one", A),
            lambda t: t.line("job", "err", None, "s2", PRIORITY="4"),
            lambda t: t.line("job", "tw", A, _LINE_BREAK="line-max"),
            lambda t: t.line("job", "o", A),
            lambda t: t.failed("job", A, status=4),
            lambda t: t.timer_started("sdcron-job@retry-1.timer"),
            lambda t: t.line("job", "last", A),
            lambda t: t.at(86_460).starting("job", B),
            lambda t: t.line("job", "again", B, "s3"),
            lambda t: t.going_down(),
            lambda t: t.stopped("job", B),
        ]
        for number, step in enumerate(steps):
            if number in cuts:
                records += place.close_all() if number > 8 else []
                place = place.again()
            step(place.tell)
        return records + place.close_all()

    whole = story(Place(), set())
    assert [run.outcome for run in whole] == [Outcome.FAILURE, Outcome.ABANDONED]
    assert [run.trigger for run in whole] == [Trigger.SCHEDULE, Trigger.RETRY]
    choose = random.Random(3)
    for _ in range(200):
        assert story(Place(), set(choose.sample(range(13), choose.randrange(13)))) == whole
