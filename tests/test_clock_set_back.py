"""The clock is set back an hour under the jobs: each run is recorded once, and why it started is still known."""

from __future__ import annotations

from sdcron import messages
from sdcron.definition import Definition
from sdcron.fold import Fold
from sdcron.paths import Scope
from sdcron.runs import Outcome, Run, Trigger
from sdcron.schedule import parse_schedule
from tests.entries import NOON, SECOND, Teller

HOUR = 3600
EVERY_MINUTE = Definition(digest="d", schedule=parse_schedule("* * * * *"), retry_delays_us=(60 * SECOND,))


def folded() -> tuple[Fold, Teller]:
    fold = Fold(Scope.SYSTEM, 0, lambda _: EVERY_MINUTE, lambda _: False)
    tell = Teller(fold)
    tell.at(-90).timer_started("sdcron-job.timer")
    return fold, tell


def closed(fold: Fold) -> list[Run]:
    for run in fold.ended():
        fold.close(run)
    return fold.changes().closed


def test_a_run_under_which_the_clock_is_set_back_is_one_run_with_all_its_output() -> None:
    fold, tell = folded()
    tell.at(0).starting("job", "a" * 32)
    tell.line("job", "before", "a" * 32)
    tell.at(-HOUR + 5).line("job", "after", "a" * 32)
    tell.at(-HOUR + 10).succeeded("job", "a" * 32)
    [run] = closed(fold)
    assert (run.outcome, run.trigger, run.stdout.kept) == (Outcome.SUCCESS, Trigger.SCHEDULE, b"before\nafter\n")
    assert (run.started_us, run.finished_us) == (NOON + 10, NOON + (-HOUR + 10) * SECOND + 10)
    assert (run.duration_us, run.lateness_us) == (0, 10)


def test_the_same_times_come_again_after_the_clock_was_set_back() -> None:
    fold, tell = folded()
    tell.at(0).starting("job", "a" * 32)
    tell.at(-HOUR + 10).succeeded("job", "a" * 32)
    runs = closed(fold)
    for minute in range(1, 70):
        run_id = f"{minute:032x}"
        tell.at(-HOUR + 60 * minute).starting("job", run_id)
        tell.succeeded("job", run_id)
        runs += closed(fold)
    assert {run.trigger for run in runs} == {Trigger.SCHEDULE}
    assert [run.scheduled_us for run in runs[1:]] == [NOON + (-HOUR + 60 * n) * SECOND for n in range(1, 70)]


def test_what_is_started_by_hand_after_that_is_not_taken_for_a_time_that_was_used_up() -> None:
    fold, tell = folded()
    tell.at(-HOUR + 60).starting("job", "a" * 32)
    tell.succeeded("job", "a" * 32)
    tell.at(-HOUR + 90).starting("job", "b" * 32)
    tell.succeeded("job", "b" * 32)
    assert [run.trigger for run in closed(fold)] == [Trigger.SCHEDULE, Trigger.MANUAL]


def test_a_retry_whose_wait_the_clock_was_set_back_in_is_a_retry_of_an_unknown_time() -> None:
    fold, tell = folded()
    tell.at(0).starting("job", "a" * 32)
    tell.failed("job", "a" * 32)
    tell.manager("sdcron-job@retry-1.timer", messages.STARTED, "f" * 32, JOB_TYPE="start", JOB_RESULT="done")
    tell.at(-HOUR + 30).starting("job", "b" * 32)
    tell.succeeded("job", "b" * 32)
    first, second = closed(fold)
    assert (second.trigger, second.attempt, second.scheduled_us) == (Trigger.RETRY, 2, None)
    assert first.attempt == 1
