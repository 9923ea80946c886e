"""What the journal tells of chains and gates becomes part of a run's record, and what others say does not."""

from __future__ import annotations

import pytest

from sdcron import messages
from sdcron.definition import Definition
from sdcron.fold import Fold
from sdcron.paths import Scope
from sdcron.runs import Outcome, Run, Trigger
from sdcron.schedule import parse_schedule
from tests.entries import Teller

A, B = "a" * 32, "b" * 32
DAILY = Definition(schedule=parse_schedule("0 12 * * *"))
REFUSED = (Outcome.SKIPPED, "needs dump, rotate")


@pytest.fixture
def fold() -> Fold:
    return Fold(Scope.SYSTEM, 0, lambda _: DAILY, lambda _: False)


@pytest.fixture
def tell(fold: Fold) -> Teller:
    return Teller(fold)


def closed(fold: Fold) -> list[Run]:
    """The new records."""
    for run in fold.ended():
        fold.close(run)
    return fold.changes().closed


def asked(tell: Teller, job: str = "job", **fields: str) -> None:
    """The service that starts a job after others begins."""
    tell.manager(f"sdcron-{job}@after.service", messages.STARTING, "c" * 32, JOB_TYPE="start", **fields)


def refused(tell: Teller, run_id: str) -> None:
    """systemd skips a run because of its gate."""
    unit = "sdcron-job.service"
    tell.manager(unit, messages.SKIPPED, run_id, UNIT_RESULT="exec-condition")
    tell.manager(unit, messages.STARTED, run_id, JOB_TYPE="start", JOB_RESULT="done")


def says(tell: Teller, text: str = "needs dump, rotate", run_id: str | None = A, **fields: str) -> None:
    """What a gate prints."""
    tell.line("job", text, run_id, "gate", **{"PRIORITY": "5", **fields})


def test_a_run_that_its_chain_asked_for_says_so_and_the_next_one_does_not(fold: Fold, tell: Teller) -> None:
    tell.at(3600)
    asked(tell)
    tell.starting("job", A)
    tell.succeeded("job", A)
    tell.starting("job", B)
    tell.succeeded("job", B)
    assert [(run.trigger, run.scheduled_us) for run in closed(fold)] == [(Trigger.AFTER, None), (Trigger.MANUAL, None)]


def test_a_run_may_wait_for_a_network_but_not_for_ever(fold: Fold, tell: Teller) -> None:
    tell.at(3600)
    asked(tell)
    tell.at(3600 + 200).starting("job", A)
    tell.succeeded("job", A)
    asked(tell)
    tell.at(3600 + 700).starting("job", B)
    tell.succeeded("job", B)
    assert [run.trigger for run in closed(fold)] == [Trigger.AFTER, Trigger.MANUAL]


def test_what_a_chain_asks_for_while_the_job_runs_is_dropped(fold: Fold, tell: Teller) -> None:
    tell.at(3600).starting("job", A)
    asked(tell)
    tell.succeeded("job", A)
    tell.at(3610).starting("job", B)
    tell.succeeded("job", B)
    assert [run.trigger for run in closed(fold)] == [Trigger.MANUAL, Trigger.MANUAL]


def test_only_the_manager_says_what_a_chain_asked_for(fold: Fold, tell: Teller) -> None:
    tell.at(3600)
    asked(tell, _PID="77", _UID="1000")
    asked(tell, "another-job")
    tell.starting("job", A)
    tell.succeeded("job", A)
    assert [run.trigger for run in closed(fold)] == [Trigger.MANUAL]


def test_the_gates_word_is_the_reason_and_no_output(fold: Fold, tell: Teller) -> None:
    tell.starting("job", A)
    says(tell)
    refused(tell, A)
    [run] = closed(fold)
    assert (run.outcome, run.reason, run.stdout.size, run.stderr.size) == (*REFUSED, 0, 0)


def test_a_gate_that_is_gone_may_leave_its_unit_and_no_invocation(fold: Fold, tell: Teller) -> None:
    tell.starting("job", A)
    refused(tell, A)
    says(tell, run_id=None, _SYSTEMD_UNIT="sdcron-job.service")
    assert [(run.outcome, run.reason) for run in closed(fold)] == [REFUSED]


@pytest.mark.parametrize("early", [False, True])
def test_the_gate_may_be_heard_before_its_run_or_be_gone_before_journald_looks(
    fold: Fold, tell: Teller, early: bool
) -> None:
    if early:
        says(tell)
    tell.starting("job", A)
    if not early:
        says(tell, run_id=None)
    refused(tell, A)
    assert [(run.outcome, run.reason) for run in closed(fold)] == [REFUSED]


def test_what_a_job_itself_says_like_a_gate_changes_nothing(fold: Fold, tell: Teller) -> None:
    tell.starting("job", A)
    says(tell)
    tell.failed("job", A)
    tell.starting("job", B)
    tell.line("job", "needs dump", B)
    says(tell, "needs dump, rotate", None, _UID="1000")
    tell.succeeded("job", B)
    first, second = closed(fold)
    assert (first.outcome, first.reason) == (Outcome.FAILURE, "exit status 1")
    assert (second.outcome, second.reason, second.stdout.kept) == (Outcome.SUCCESS, "", b"needs dump\n")
