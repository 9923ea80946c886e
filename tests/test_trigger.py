"""What started a run, worked out from times alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.definition import Definition
from sdcron.job_memory import Cause, Memory
from sdcron.runs import Trigger, microseconds_of
from sdcron.schedule import parse_schedule
from sdcron.trigger import cause_of, last_due

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
#: Noon of a day on which a daily job is due.
NOON = microseconds_of(datetime(2026, 6, 22, 12, tzinfo=UTC))
DAILY = Definition(digest="d", schedule=parse_schedule("0 12 * * *"), retry_delays_us=(60 * SECOND, 120 * SECOND))


def waiting(since_us: int = NOON - DAY, **more: object) -> Memory:
    """A job whose timer has been waiting."""
    memory = Memory(**more)  # type: ignore[arg-type]  # its fields, as the callers say
    memory.timer_started(since_us, "m", "d")
    return memory


def cause(started_us: int, memory: Memory, definition: Definition | None = DAILY, manager_us: int = 0) -> Cause:
    return cause_of(started_us, definition, memory, "m", manager_us)


@pytest.mark.parametrize("late_us", [0, 900_000, 9 * SECOND])
def test_what_starts_when_it_is_due_was_started_by_its_schedule(late_us: int) -> None:
    assert cause(NOON + late_us, waiting()) == Cause(Trigger.SCHEDULE, 1, NOON)


def test_a_start_right_before_a_time_is_late_for_the_time_before_if_that_is_not_used_up() -> None:
    often = Definition(digest="d", schedule=parse_schedule("* * * * * *"))
    memory = waiting(NOON - 10 * SECOND)
    for second, micros, due in [(0, 1_000, 0), (1, 980_000, 1), (2, 970_000, 2), (3, 5_000, 3), (3, 990_000, 4)]:
        started = NOON + second * SECOND + micros
        found = cause(started, memory, often)
        assert found == Cause(Trigger.SCHEDULE, 1, NOON + due * SECOND), (second, micros)
        memory.run_started(started, found)
        memory.run_ended(started + 1_000, 0)
    # One that its timer was not there for, or that fell into a run, is nobody's; nor is one of long ago.
    assert cause(NOON + 980_000, waiting(NOON + 500_000), often).scheduled_us == NOON + SECOND
    long = waiting(NOON - 10 * SECOND)
    long.run_started(NOON - SECOND, Cause(Trigger.SCHEDULE, 1, NOON - SECOND))
    long.run_ended(NOON + 900_000, 0)
    assert cause(NOON + 980_000, long, often).scheduled_us == NOON + SECOND
    assert cause(NOON - 20_000, waiting(NOON - 2 * DAY)).scheduled_us == NOON


def test_a_timer_that_began_to_wait_right_before_a_time_is_logged_right_after_it() -> None:
    skips = replace(DAILY, persistent=False)
    assert cause(NOON + 200_000, waiting(NOON + 5_000), skips) == Cause(Trigger.SCHEDULE, 1, NOON)
    assert cause(NOON + 200_000, waiting(NOON + 60_000), skips).trigger is Trigger.MANUAL


def test_what_falls_due_while_an_apply_is_at_work_is_run_by_it_as_it_ends() -> None:
    assert cause(NOON + 400_000, waiting(NOON + 300_000)) == Cause(Trigger.SCHEDULE, 1, NOON)
    assert cause(NOON + 3 * SECOND, waiting(NOON + 300_000)).trigger is Trigger.MANUAL
    assert cause(NOON + 12 * SECOND, waiting(NOON + 11 * SECOND)).trigger is Trigger.MANUAL


def test_what_is_started_right_after_a_pause_makes_nothing_good() -> None:
    memory = waiting(NOON - DAY)
    memory.timer_stopped_us = NOON - HOUR
    memory.timer_started(NOON + HOUR, "m", "d")
    assert cause(NOON + HOUR + SECOND, memory).trigger is Trigger.MANUAL
    # It was paused over a boot.
    memory.timer_stopped_us = NOON - HOUR
    memory.timer_started(NOON + HOUR, "of the next boot", "d")
    assert cause(NOON + HOUR + 100 * SECOND, memory).trigger is Trigger.MANUAL


def test_while_its_timer_is_stopped_a_job_is_started_by_hand_alone() -> None:
    memory = waiting(NOON - 10 * SECOND)
    memory.timer_stopped_us = NOON - SECOND
    assert cause(NOON + 1_000, memory).trigger is Trigger.MANUAL
    # What fell due before may begin a little later.
    memory.timer_stopped_us = NOON + 500
    assert cause(NOON + 1_000, memory) == Cause(Trigger.SCHEDULE, 1, NOON)
    memory.timer_started(NOON + HOUR, "m", "d")
    assert cause(NOON + DAY, memory).trigger is Trigger.SCHEDULE


def test_what_starts_at_another_time_was_started_by_hand() -> None:
    memory = waiting()
    memory.run_started(NOON, cause(NOON, memory))
    memory.run_ended(NOON + SECOND, 0)
    for moment in (NOON + 2 * SECOND, NOON + HOUR, NOON + DAY - SECOND):
        assert cause(moment, memory).trigger is Trigger.MANUAL
    assert cause(NOON + DAY, memory).trigger is Trigger.SCHEDULE


def test_a_time_that_fell_into_the_run_before_is_used_up() -> None:
    memory = waiting(NOON - 2 * DAY)
    memory.run_started(NOON - HOUR, Cause(Trigger.MANUAL))
    memory.run_ended(NOON + HOUR, 0)
    assert cause(NOON + HOUR + SECOND, memory).trigger is Trigger.MANUAL


def test_a_time_that_fell_into_a_run_of_its_timer_is_started_once_that_is_over() -> None:
    memory = waiting(NOON - 2 * DAY)
    memory.run_started(NOON - DAY, cause(NOON - DAY, memory))
    memory.run_ended(NOON + HOUR, 0)
    assert cause(NOON + HOUR + 5_000, memory) == Cause(Trigger.SCHEDULE, 1, NOON)


def test_what_a_persistent_timer_runs_at_a_boot_was_missed() -> None:
    memory = waiting(NOON - 3 * DAY)
    boot = NOON + 5 * HOUR
    memory.timer_started(boot, "m", "d")
    assert cause(boot + SECOND, memory) == Cause(Trigger.MISSED, 1, NOON)
    assert cause(boot + 60 * SECOND, memory).trigger is Trigger.MANUAL
    skipping = Definition(digest="d", schedule=DAILY.schedule, persistent=False)
    assert cause(boot + SECOND, memory, skipping).trigger is Trigger.MANUAL


@pytest.mark.parametrize("late_us", [10_000, 50_000, 400_000])
def test_what_is_made_good_about_the_next_time_does_not_use_that_up(late_us: int) -> None:
    boot = NOON - 30_000
    memory = waiting(NOON - 3 * DAY, due_us=NOON - 2 * DAY)
    memory.timer_started(boot, "m", "d")
    missed = cause(boot + late_us, memory)
    assert missed == Cause(Trigger.MISSED, 1, NOON - DAY)
    memory.run_started(boot + late_us, missed)
    memory.run_ended(boot + late_us + 1_000, 0)
    assert cause(NOON + 500_000, memory) == Cause(Trigger.SCHEDULE, 1, NOON)


def test_what_falls_due_while_a_start_waits_is_one_with_it() -> None:
    often = Definition(digest="d", schedule=parse_schedule("*/5 * * * *"))
    memory = waiting(NOON - DAY, due_us=NOON + 15 * 60 * SECOND)
    boot = NOON + 24 * 60 * SECOND + 40 * SECOND
    memory.timer_started(boot, "n", "d")
    # The network came late, and 12:25 came meanwhile.
    started = boot + 40 * SECOND
    found = cause_of(started, often, memory, "n", boot)
    assert (found.trigger, found.scheduled_us) == (Trigger.MISSED, NOON + 20 * 60 * SECOND)
    memory.run_started(started, found)
    memory.run_ended(started + SECOND, 0)
    assert cause_of(started + 80 * SECOND, often, memory, "n", boot).trigger is Trigger.MANUAL
    assert cause(NOON + 30 * 60 * SECOND, memory, often) == Cause(Trigger.SCHEDULE, 1, NOON + 30 * 60 * SECOND)


@pytest.mark.parametrize("late_us", [10_000, 50_000, 400_000])
def test_a_timer_that_starts_about_a_time_and_has_missed_nothing_starts_that(late_us: int) -> None:
    boot = NOON - 30_000
    due = Cause(Trigger.SCHEDULE, 1, NOON)
    # It starts for the first time, or has done so not long ago; or the last time was used up.
    assert cause(boot + late_us, waiting(boot)) == due
    memory = waiting(NOON - HOUR)
    memory.timer_started(boot, "m", "d")
    assert cause(boot + late_us, memory) == due
    memory = waiting(NOON - 3 * DAY, due_us=NOON - DAY)
    memory.timer_started(boot, "m", "d")
    assert cause(boot + late_us, memory) == due
    # It makes nothing good, or started long ago.
    memory = waiting(NOON - 3 * DAY, due_us=NOON - 2 * DAY)
    memory.timer_started(boot, "m", "d")
    assert cause(boot + late_us, memory, Definition(digest="d", schedule=DAILY.schedule, persistent=False)) == due
    memory.timer_started(NOON - DAY + HOUR, "m", "d")
    assert cause(boot + late_us, memory) == due


def test_what_was_missed_may_have_to_wait_for_a_network_after_the_boot() -> None:
    memory = waiting(NOON - 3 * DAY)
    boot = NOON + 5 * HOUR
    memory.timer_started(boot, "of the next boot", "d")
    assert cause_of(boot + 60 * SECOND, DAILY, memory, "of the next boot", 0) == Cause(Trigger.MISSED, 1, NOON)


def test_another_schedule_owes_nothing_of_the_one_before() -> None:
    memory = waiting(owed=1, retry=1, retry_manager="of an earlier boot")
    memory.timer_started(NOON, "m", "d")
    assert (memory.owed, memory.retry) == (0, 0)
    memory.owed, memory.retry, memory.retry_manager = 1, 2, "m"
    memory.timer_started(NOON, "m", "d")
    assert (memory.owed, memory.retry) == (1, 2)
    memory.timer_started(NOON, "m", "another")
    assert (memory.owed, memory.retry) == (0, 2)


def test_what_is_started_by_hand_right_after_the_first_apply_was_not_missed() -> None:
    memory = waiting(NOON + HOUR)
    assert cause(NOON + HOUR + 200_000, memory).trigger is Trigger.MANUAL


def test_what_is_started_by_hand_right_after_an_edit_was_not_missed() -> None:
    memory = waiting(NOON - 3 * DAY)
    memory.timer_started(NOON + HOUR, "m", "another text")
    assert cause(NOON + HOUR + 200_000, memory).trigger is Trigger.MANUAL


def test_what_starts_long_after_its_time_though_its_timer_waited_was_missed_as_after_a_suspend() -> None:
    assert cause(NOON + 3 * HOUR, waiting()) == Cause(Trigger.MISSED, 1, NOON)


def test_what_starts_at_the_end_of_a_retrys_wait_is_that_retry() -> None:
    memory = waiting()
    memory.run_started(NOON, cause(NOON, memory))
    memory.run_ended(NOON + SECOND, 0)
    memory.retry_started(2, NOON + SECOND, "m")
    due = NOON + 121 * SECOND
    assert cause(due + 500_000, memory) == Cause(Trigger.RETRY, 3, due)
    assert cause(due - 10 * SECOND, memory).trigger is Trigger.MANUAL
    assert cause(due + 60 * SECOND, memory).trigger is Trigger.MANUAL
    memory.retry_manager = "of an earlier boot"
    assert cause(due + 500_000, memory).trigger is Trigger.MANUAL


def test_what_waited_for_somebodys_run_for_an_instant_is_what_it_would_have_been() -> None:
    memory = waiting(due_us=NOON)
    memory.retry_started(1, NOON, "m")
    memory.held_us = NOON + HOUR
    due = NOON + 60 * SECOND
    assert cause(NOON + HOUR + SECOND, memory) == Cause(Trigger.RETRY, 2, due)
    assert cause(NOON + HOUR + 60 * SECOND, memory).trigger is Trigger.MANUAL
    memory = waiting(due_us=NOON)
    memory.chain_asked(NOON + HOUR, "m")
    memory.held_us = NOON + 3 * HOUR
    assert cause(NOON + 3 * HOUR + SECOND, memory) == Cause(Trigger.AFTER)
    memory.run_started(NOON + 3 * HOUR + SECOND, Cause(Trigger.AFTER))
    memory.run_ended(NOON + 3 * HOUR + 2 * SECOND, 0)
    assert cause(NOON + 3 * HOUR + 4 * SECOND, memory).trigger is Trigger.MANUAL


def test_a_regular_run_takes_the_place_of_a_retry() -> None:
    memory = waiting()
    memory.retry_started(1, NOON - 30 * SECOND, "m")
    assert cause(NOON, memory).trigger is Trigger.SCHEDULE
    memory.run_started(NOON, cause(NOON, memory))
    assert memory.retry == 0


def test_the_first_run_after_a_boot_of_a_job_with_reboot_is_the_boots() -> None:
    job = Definition(digest="d", schedule=parse_schedule("@reboot"), boot=True, boot_delay_us=31 * SECOND)
    memory = Memory(boot_timer_us=NOON + 2 * SECOND)
    assert cause(NOON + 31 * SECOND, memory, job, NOON) == Cause(Trigger.BOOT, 1, None)
    memory.run_started(NOON + 31 * SECOND, Cause(Trigger.BOOT))
    assert cause(NOON + 33 * SECOND, memory, job, NOON).trigger is Trigger.MANUAL


def test_nothing_is_known_of_a_job_that_is_not_applied_any_more() -> None:
    assert cause(NOON, waiting(), None) == Cause(None)


def test_a_job_without_a_schedule_is_started_by_hand() -> None:
    assert cause(NOON, Memory(), Definition()).trigger is Trigger.MANUAL


def test_memory_goes_through_json() -> None:
    memory = waiting(owed=2, boot_timer_us=5)
    assert Memory.from_json(memory.as_json()) == memory


SCHEDULES = [
    "0 12 * * *",
    "* * * * * *",
    "every 90s",
    "0 0 29 2 *",
    "*/7 3 * 1 mon",
    "at 11:30, 14:00",
    "@yearly",
    "0 2 * * 0",
]


@given(
    st.sampled_from(SCHEDULES),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana"]),
    st.integers(0, 400 * 86_400_000_000),
)
def test_the_last_time_of_a_schedule_is_the_one_that_nothing_follows(text: str, zone: str, after_us: int) -> None:
    schedule = parse_schedule(text, local_timezone=zone)
    moment_us = NOON + after_us
    due = last_due(schedule, moment_us)
    assert due is not None
    assert due <= moment_us
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=due)
    following = schedule.next_after(moment)
    assert following is not None
    assert microseconds_of(following) > moment_us
    before = schedule.next_after(moment - timedelta(microseconds=1))
    assert before is not None
    assert microseconds_of(before) == due
