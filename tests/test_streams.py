"""Whose a line is where journald could not tell, and what else real machines showed of runs that follow each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdcron import messages
from sdcron.definition import Definition
from sdcron.fold import Fold
from sdcron.paths import Scope
from sdcron.runs import Outcome, Run, Trigger
from sdcron.schedule import parse_schedule
from tests.entries import SECOND, Teller

A, B = "a" * 32, "b" * 32
JOB = Definition(digest="d", schedule=parse_schedule("* * * * * *"), retry_delays_us=(SECOND,))


def folded(definition: Definition = JOB, scope: Scope = Scope.SYSTEM) -> tuple[Fold, Teller]:
    fold = Fold(scope, 0, lambda _: definition, lambda _: False)
    return fold, Teller(fold)


def closed(fold: Fold) -> list[Run]:
    for run in fold.ended():
        fold.close(run)
    return fold.changes().closed


def test_a_record_says_that_lines_may_be_another_runs_when_journald_was_away() -> None:
    doubt = "some of its output may be another run's: journald was restarted"
    restarted = {
        "SYSLOG_IDENTIFIER": "systemd-journald", "MESSAGE_ID": messages.JOURNAL_STARTED.decode(),
        "_TRANSPORT": "driver",
    }  # fmt: skip
    for name, (forged, by_name, expected) in {
        "guessed": (False, True, doubt),
        "known": (False, False, ""),
        "forged": (True, True, ""),
    }.items():
        fold, tell = folded()
        tell.starting("job", A)
        tell.feed(**{**restarted, **({"_TRANSPORT": "journal"} if forged else {})})
        tell.line("job", "out", None if by_name else A)
        tell.succeeded("job", A)
        [run] = closed(fold)
        assert (run.reason, run.stdout.kept) == (expected, b"out\n"), name
    # What a boot begins with is no restart.
    fold, tell = folded()
    tell.feed(**restarted)
    tell.starting("job", A)
    tell.line("job", "out", None)
    tell.succeeded("job", A)
    [run] = closed(fold)
    assert run.reason == ""


def test_a_line_of_the_jobs_unit_without_an_invocation_is_of_the_run_that_is_open() -> None:
    fold, tell = folded()
    tell.starting("job", A)
    tell.line("job", "out", None, _SYSTEMD_UNIT="sdcron-job.service")
    tell.line("job", "err", None, "s2", _SYSTEMD_UNIT="sdcron-job.service", PRIORITY="4")
    tell.succeeded("job", A)
    [run] = closed(fold)
    assert (run.stdout.kept, run.stderr.kept) == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"_SYSTEMD_UNIT": "web.service", "_UID": "33"}, False),
        ({"_SYSTEMD_UNIT": "run-1.service", "_UID": "0"}, True),
        ({"_SYSTEMD_UNIT": "session-c1.scope", "_UID": "33"}, True),
        ({"_SYSTEMD_UNIT": "session-c1.scope", "_UID": "33", "_AUDIT_LOGINUID": "4294967295"}, True),
        ({"_SYSTEMD_UNIT": "session-7.scope", "_UID": "33", "_AUDIT_LOGINUID": "33"}, False),
        ({"_SYSTEMD_UNIT": "user@0.service", "_UID": "0"}, False),
        ({"_SYSTEMD_UNIT": "sdcron-other.service", "_UID": "0"}, False),
        ({"_UID": "33"}, False),
    ],
)
def test_a_line_of_another_unit_is_taken_from_the_jobs_user_and_from_sessions_without_a_login(
    fields: dict[str, str], taken: bool
) -> None:
    fold, tell = folded()
    tell.starting("job", A)
    tell.line("job", "text", None, **fields)
    tell.succeeded("job", A)
    [run] = closed(fold)
    assert run.stdout.kept == (b"text\n" if taken else b"")


def test_lines_of_a_run_that_nothing_tells_of_are_given_to_no_other() -> None:
    fold, tell = folded()
    tell.line("job", "of a run whose messages journald never got", None)
    tell.at(1).starting("job", A)
    tell.line("job", "out", A, "s2")
    tell.line("job", "of another such run", None, "s3")
    tell.succeeded("job", A)
    [run] = closed(fold)
    assert run.stdout.kept == b"out\n"


def test_why_it_cannot_start_is_heard_before_systemd_says_that_it_starts() -> None:
    for fields in (
        {"_SYSTEMD_UNIT": "sdcron-job.service", "_SYSTEMD_INVOCATION_ID": A},
        # It was gone before journald looked, and says itself whose it was.
        {"_UID": "0", "UNIT": "sdcron-job.service", "INVOCATION_ID": A},
    ):
        fold, tell = folded()
        text = "sdcron-job.service: Failed at step USER spawning /usr/bin/systemd-cat: No such process"
        tell.feed(SYSLOG_IDENTIFIER="(temd-cat)", MESSAGE_ID=messages.SPAWN_FAILED.decode(), MESSAGE=text, **fields)
        tell.starting("job", A)
        tell.failed("job", A, status=217)
        [run] = closed(fold)
        assert run.reason == "could not be started, at step USER: No such process"
        assert run.started_us is not None


def test_255_is_an_exit_status_like_others() -> None:
    fold, tell = folded()
    tell.starting("job", A)
    told = "sdcron-job.service: Main process exited, code=exited, status=255/EXCEPTION"
    tell.manager("sdcron-job.service", messages.EXITED, A, EXIT_CODE="exited", EXIT_STATUS="255", MESSAGE=told)
    tell.manager("sdcron-job.service", messages.FAILED, A, UNIT_RESULT="exit-code")
    tell.manager("sdcron-job.service", messages.START_FAILED, A, JOB_RESULT="failed")
    assert [(run.reason, run.exit_code) for run in closed(fold)] == [("exit status 255", 255)]


def test_a_run_that_begins_before_the_record_of_the_one_before_is_closed_was_due() -> None:
    fold, tell = folded()
    tell.at(-5).timer_started("sdcron-job.timer")
    tell.at(0).starting("job", A)
    tell.succeeded("job", A)
    tell.at(1).starting("job", B)
    tell.succeeded("job", B)
    assert [run.trigger for run in closed(fold)] == [Trigger.SCHEDULE, Trigger.SCHEDULE]


def test_the_status_of_a_success_is_not_made_up_where_several_are() -> None:
    fold, tell = folded(replace(JOB, success_exit=True))
    tell.starting("job", A)
    tell.succeeded("job", A)
    assert [(run.outcome, run.exit_code) for run in closed(fold)] == [(Outcome.SUCCESS, None)]


def of_a_user(unit: str, run_id: str = "", pid: str = "7") -> dict[str, str]:
    return {
        "USER_UNIT": unit, "USER_INVOCATION_ID": run_id, "_UID": "0", "_PID": pid, "_SYSTEMD_USER_UNIT": "init.scope",
    }  # fmt: skip


def test_a_users_manager_that_goes_down_stops_its_default_target_first() -> None:
    fold, tell = folded(scope=Scope.USER)
    unit = "sdcron-job.service"
    tell.manager("", messages.STARTING, **of_a_user(unit, A))
    tell.manager("", messages.HAS_STOPPED, **of_a_user("default.target"))
    tell.manager("", messages.FAILED, UNIT_RESULT="signal", **of_a_user(unit, A))
    tell.manager("", messages.HAS_STOPPED, JOB_RESULT="done", **of_a_user(unit, A))
    [run] = closed(fold)
    assert (run.outcome, run.reason) == (Outcome.ABANDONED, "cut off by a shutdown")
    assert fold.memories.of("job").owed == 1


def test_a_users_manager_that_is_killed_cuts_its_runs_off() -> None:
    fold, tell = folded(scope=Scope.USER)
    tell.manager("", messages.STARTING, **of_a_user("sdcron-job.service", A))
    tell.manager("", messages.STARTED, **of_a_user("basic.target", pid="8"))
    [run] = closed(fold)
    assert (run.outcome, run.reason) == (Outcome.ABANDONED, "cut off: its service manager was killed")
    assert (run.finished_us, fold.memories.of("job").owed) == (None, 1)
