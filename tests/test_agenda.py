"""What the engine starts when: a clock of the test's, no process, and memory only where a store would have it."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcron.agenda import CORRECTION_US, Agenda
from sdcron.agenda_memory import Memory
from sdcron.agenda_slot import Due, Entry, timing_key
from sdcron.job import Missed, Overlap
from sdcron.job_text import Timing
from sdcron.runs import Asked, Trigger, microseconds_of
from sdcron.schedule import Schedule, parse_schedule

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NIGHTLY, QUARTERLY = "30 9 * * *", "*/15 * * * *"


def at(day: int, clock: str = "00:00") -> int:
    """A moment of March 2027 in UTC."""
    hour, _, minute = clock.partition(":")
    return microseconds_of(datetime(2027, 3, day, int(hour), int(minute), tzinfo=UTC))


def timing(*texts: str, enabled: bool = True, missed: Missed = Missed.RUN, spread: timedelta = timedelta(0)) -> Timing:
    return Timing(enabled, texts, None, spread, missed)


def entry(name: str, *texts: str, since_us: int = at(1), enabled: bool = True, missed: Missed = Missed.RUN) -> Entry:
    return Entry(name, timing(*texts, enabled=enabled, missed=missed), since_us)


def schedule_of(entry: Entry, zone: str = "UTC") -> Schedule | None:
    if not entry.timing.schedule:
        return None
    timing = entry.timing
    return parse_schedule(
        timing.schedule, timezone=timing.timezone, local_timezone=zone, seed=entry.name, spread=timing.spread
    )


@dataclass
class Machine:
    """An agenda, the clock it goes by, and what a store has kept of it."""

    now_us: int = at(1)
    boot: str = "first"
    kept: dict[str, str] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    zone: str = "UTC"

    def __post_init__(self) -> None:
        self.agenda = self._agenda()

    def _agenda(self) -> Agenda:
        return Agenda(lambda entry: schedule_of(entry, self.zone), self.boot, self.now_us)

    def start(self, *entries: Entry, now_us: int | None = None, boot: str | None = None) -> None:
        """An engine begins, with what the one before has kept; it was killed, or this is the first."""
        self.now_us = self.now_us if now_us is None else now_us
        self.boot = boot or self.boot
        self.entries = entries or self.entries
        self.agenda = self._agenda()
        self.agenda.restore(self.kept)
        self.agenda.put(self.entries, self.now_us, starting=True)
        self.keep()

    def put(self, *entries: Entry) -> None:
        """Other jobs are applied while it runs."""
        self.entries = entries
        self.agenda.put(entries, self.now_us)
        self.keep()

    def keep(self) -> None:
        """As the engine does at the end of each step, and before it starts anything."""
        self.kept |= self.agenda.changes()

    def set_clock(self, now_us: int) -> None:
        """Somebody sets it, or the machine slept."""
        by_us, self.now_us = now_us - self.now_us, now_us
        self.agenda.clock_was_set(by_us, now_us)
        self.keep()

    def due(self, now_us: int | None = None, most: int = 1000) -> list[Due]:
        """What is started now."""
        self.now_us = self.now_us if now_us is None else now_us
        found = self.agenda.take_due(self.now_us, most)
        self.keep()
        return found

    def over(self, job: str, *, retry: int = 0, delay_us: int = 0) -> bool:
        """A run has ended, or is found to have been cut off."""
        waits = self.agenda.over(job, self.now_us, retry=retry, delay_us=delay_us)
        self.keep()
        return waits

    def through(self, until_us: int, length_us: int = 0) -> list[Due]:
        """All that is started until then, each run taking so long; only at moments at which there is something."""
        found: list[Due] = []
        ends: list[tuple[int, str]] = []
        while True:
            moments = [moment for moment in (self.agenda.next_us(), *(end for end, _ in ends)) if moment is not None]
            if not moments or min(moments) > until_us:
                self.now_us = until_us
                return found
            self.now_us = max(self.now_us, min(moments))
            for end in sorted(end for end in ends if end[0] <= self.now_us):
                ends.remove(end)
                self.over(end[1])
            for due in self.due():
                found.append(due)
                ends.append((self.now_us + length_us, due.job))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def started(found: list[Due]) -> list[tuple[str, int | None]]:
    return [(due.job, due.scheduled_us) for due in found]


# Due times


def test_a_due_time_is_taken_once_and_by_its_time(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    assert machine.agenda.next_us() == at(1, "9:30")
    assert machine.due(at(1, "9:30") - 1) == []
    assert machine.due(at(1, "9:30")) == [Due("a", Trigger.SCHEDULE, 1, at(1, "9:30"))]
    machine.over("a")
    assert machine.due() == []
    assert machine.agenda.next_us() == at(2, "9:30")


def test_a_late_engine_takes_a_due_time_with_the_moment_it_should_have_been(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    assert machine.due(at(1, "9:31")) == [Due("a", Trigger.SCHEDULE, 1, at(1, "9:30"))]


def test_several_due_times_that_passed_are_one_run_for_the_last_of_them(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    assert machine.due(at(1, "9:07")) == [Due("a", Trigger.SCHEDULE, 1, at(1, "9:00"))]
    machine.over("a")
    assert machine.agenda.next_us() == at(1, "9:15")


def test_a_killed_engine_neither_loses_a_due_time_nor_takes_one_twice(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    assert started(machine.due(at(1, "0:15"))) == [("a", at(1, "0:15"))]
    machine.start()
    assert machine.due() == []
    assert started(machine.due(at(1, "0:30"))) == [("a", at(1, "0:30"))]


def test_a_due_time_that_was_taken_and_not_kept_is_taken_again(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.agenda.take_due(at(1, "0:15"), 10)
    machine.start(now_us=at(1, "0:16"))
    assert machine.due() == [Due("a", Trigger.MISSED, 1, at(1, "0:15"))]


def test_a_time_that_comes_while_the_engine_loads_is_made_good_with_those_it_missed(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY), entry("skips", QUARTERLY, missed=Missed.SKIP))
    machine.start(now_us=at(1, "0:20"))
    # The one run is for the last of them, and it is not there because that one came.
    both = [Due("a", Trigger.MISSED, 1, at(1, "0:30")), Due("skips", Trigger.SCHEDULE, 1, at(1, "0:30"))]
    assert machine.due(at(1, "0:30")) == both


def test_a_job_without_times_is_never_due(machine: Machine) -> None:
    machine.start(entry("by-hand"))
    assert machine.agenda.next_us() is None
    assert machine.due(at(30)) == []


def test_a_schedule_whose_dates_have_passed_is_never_due_again(machine: Machine) -> None:
    machine.start(entry("once", "2027-03-01 09:30"))
    assert len(machine.due(at(2))) == 1
    machine.over("once")
    assert machine.agenda.next_us() is None
    machine.start(now_us=at(20))
    assert machine.due() == []


def test_jobs_are_started_in_the_order_of_their_times_and_then_of_their_names(machine: Machine) -> None:
    machine.start(entry("c", "0 9 * * *"), entry("b", "0 8 * * *"), entry("a", "0 9 * * *"))
    assert [due.job for due in machine.due(at(1, "10:00"))] == ["b", "a", "c"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_cap_keeps_the_order_and_loses_nothing(machine: Machine, most: int) -> None:
    names = [f"job-{number}" for number in range(7)]
    machine.start(*(entry(name, f"{number} 9 * * *") for number, name in enumerate(names)))
    found: list[Due] = []
    while some := machine.due(at(1, "10:00"), most):
        assert len(some) <= most
        found += some
        for due in some:
            machine.over(due.job)
    assert started(found) == [(name, at(1, f"9:0{number}")) for number, name in enumerate(names)]


def test_no_room_takes_nothing(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    assert machine.due(at(1, "0:15"), 0) == []
    assert machine.due(at(1, "0:15"), -3) == []
    assert len(machine.due(at(1, "0:15"))) == 1


def test_what_waited_for_room_through_several_of_its_times_runs_once(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY), entry("b", "1 0 * * *"))
    assert [due.job for due in machine.due(at(1, "0:50"), 1)] == ["b"]
    assert started(machine.due(at(1, "1:20"), 1)) == [("a", at(1, "1:15"))]
    assert machine.due(most=1) == []


# A run that is on


def test_what_falls_due_while_a_run_is_on_is_dropped(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    assert machine.due(at(1, "0:30")) == []
    assert machine.due(at(1, "0:46")) == []
    machine.over("a")
    assert machine.due() == []
    assert machine.agenda.next_us() == at(1, "1:00")


def test_what_fell_due_in_the_last_moment_of_a_run_is_dropped_also_if_nobody_looked(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.now_us = at(1, "0:30") + 1
    machine.over("a")
    assert machine.due() == []


def test_a_run_by_hand_is_busy_too_and_what_falls_due_meanwhile_is_dropped(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    assert machine.agenda.take("a") == Due("a", Trigger.MANUAL)
    assert machine.agenda.take("a") is None
    assert machine.due(at(1, "0:15")) == []
    machine.over("a")
    assert started(machine.due(at(1, "0:30"))) == [("a", at(1, "0:30"))]


def test_nobody_can_start_a_job_that_is_not_there(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    assert machine.agenda.take("b") is None
    assert "b" not in machine.agenda
    assert "a" in machine.agenda
    assert len(machine.agenda) == 1


def test_a_job_that_runs_by_hand_only_can_be_run_when_it_is_disabled(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY, enabled=False))
    assert machine.due(at(9)) == []
    assert machine.agenda.take("a") == Due("a", Trigger.MANUAL)
    assert not machine.over("a", retry=2, delay_us=MINUTE)
    assert machine.agenda.next_us() is None


def test_a_job_that_is_removed_and_applied_again_while_it_runs_does_not_run_twice_at_once(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.put()
    machine.put(entry("a", QUARTERLY, since_us=machine.now_us))
    assert machine.due(at(1, "0:30")) == []
    assert machine.agenda.take("a") is None
    machine.over("a")
    assert started(machine.due(at(1, "0:45"))) == [("a", at(1, "0:45"))]


def test_a_job_whose_times_change_while_it_runs_does_not_run_twice_at_once(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.put(entry("a", "*/5 * * * *", since_us=machine.now_us))
    assert machine.due(at(1, "0:20")) == []
    machine.over("a")
    assert started(machine.due(at(1, "0:25"))) == [("a", at(1, "0:25"))]


def test_the_end_of_a_run_whose_job_is_gone_leaves_nothing(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.put()
    assert not machine.over("a", retry=2, delay_us=MINUTE)
    assert machine.due(at(9)) == []
    assert machine.agenda.retries() == {}


# What was missed


def test_what_was_missed_while_no_engine_ran_is_one_run(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY), entry("b", NIGHTLY))
    machine.through(at(1, "12:00"))
    machine.start(now_us=at(4, "9:20"))
    assert sorted(started(machine.due())) == [("a", at(4, "9:15")), ("b", at(3, "9:30"))]
    assert machine.due() == []


def test_a_missed_run_says_so(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.start(now_us=at(3))
    assert machine.due() == [Due("a", Trigger.MISSED, 1, at(2, "9:30"))]


def test_a_job_that_skips_what_it_missed_waits_for_its_next_time(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY, missed=Missed.SKIP))
    assert len(machine.due(at(1, "9:30"))) == 1
    machine.start(now_us=at(4))
    assert machine.due() == []
    assert machine.due(at(4, "9:30")) == [Due("a", Trigger.SCHEDULE, 1, at(4, "9:30"))]


def test_what_passed_between_applying_and_the_first_start_is_missed(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY, since_us=at(1, "9:00")), now_us=at(1, "10:00"))
    assert machine.due() == [Due("a", Trigger.MISSED, 1, at(1, "9:30"))]


def test_what_passed_before_a_job_was_applied_is_no_run(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY, since_us=at(1, "9:30")), now_us=at(1, "10:00"))
    assert machine.due() == []


def test_an_apply_while_the_engine_runs_runs_nothing_at_once(machine: Machine) -> None:
    machine.start()
    machine.now_us = at(5, "12:00")
    machine.put(entry("a", NIGHTLY, since_us=at(5, "12:00")), entry("b", QUARTERLY, since_us=at(5, "12:00")))
    assert machine.due() == []
    assert started(machine.due(at(5, "12:15"))) == [("b", at(5, "12:15"))]


def test_an_apply_that_the_engine_hears_of_late_loses_no_time(machine: Machine) -> None:
    machine.start()
    machine.now_us = at(5, "9:31")
    machine.put(entry("a", NIGHTLY, since_us=at(5, "9:29")))
    assert started(machine.due()) == [("a", at(5, "9:30"))]


def test_without_memories_nothing_is_owed_from_before_the_last_run_on_record(machine: Machine) -> None:
    # A database that was lost is made anew from the logs, which know of runs only.
    machine.entries = (entry("a", NIGHTLY), entry("b", NIGHTLY), entry("c", NIGHTLY))
    machine.now_us = at(9, "12:00")
    machine.agenda.restore({}, {"a": at(9, "9:30") + SECOND, "b": at(8, "9:31"), "d": at(9)})
    machine.agenda.put(machine.entries, machine.now_us, starting=True)
    assert sorted(started(machine.due())) == [("b", at(9, "9:30")), ("c", at(9, "9:30"))]


# Changes


def test_changed_times_count_from_the_change(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.now_us = at(1, "9:00")
    machine.put(entry("a", "0 8 * * *", since_us=at(1, "9:00")))
    assert machine.due() == []
    assert machine.agenda.next_us() == at(2, "8:00")


def test_times_that_changed_while_no_engine_ran_count_from_the_change(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.start(entry("a", "0 8 * * *", since_us=at(2, "7:00")), now_us=at(2, "7:30"))
    assert machine.due() == []
    machine.start(now_us=at(2, "8:30"))
    assert started(machine.due()) == [("a", at(2, "8:00"))]


def test_times_that_changed_there_and_back_count_from_the_last_change(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.start(entry("a", NIGHTLY, since_us=at(4, "12:00")), now_us=at(4, "13:00"))
    assert machine.due() == []
    assert machine.agenda.next_us() == at(5, "9:30")


def test_a_job_that_was_removed_and_comes_back_runs_nothing_at_once(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=2, delay_us=HOUR)
    machine.put()
    machine.now_us = at(5, "12:00")
    machine.put(entry("a", NIGHTLY, since_us=at(5, "12:00")))
    assert machine.due() == []
    assert "a" not in machine.agenda.retries()


def test_a_job_that_was_removed_and_comes_back_between_two_engines_runs_nothing_at_once(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=2, delay_us=HOUR)
    machine.start(entry("other", NIGHTLY, since_us=at(3)), now_us=at(3))
    machine.start(entry("a", NIGHTLY, since_us=at(4, "12:00")), now_us=at(5))
    assert machine.due() == []


def test_a_job_that_is_disabled_and_enabled_again_runs_nothing_at_once(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.put(entry("a", NIGHTLY, since_us=at(1), enabled=False))
    assert machine.due(at(3)) == []
    machine.put(entry("a", NIGHTLY, since_us=at(3)))
    assert machine.due() == []
    assert machine.agenda.next_us() == at(3, "9:30")


def test_a_retry_that_waits_ends_when_its_job_is_disabled(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    assert machine.over("a", retry=2, delay_us=HOUR)
    machine.put(entry("a", NIGHTLY, since_us=machine.now_us, enabled=False))
    assert machine.due(at(2)) == []


def test_an_apply_that_changes_no_times_changes_nothing(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.over("b", retry=2, delay_us=MINUTE)
    before = machine.agenda.next_us(), machine.agenda.retries()
    machine.put(*machine.entries)
    assert (machine.agenda.next_us(), machine.agenda.retries()) == before
    assert machine.agenda.changes() == {}


def test_what_makes_times_the_same_is_all_that_decides_them() -> None:
    one = entry("a", NIGHTLY)
    assert timing_key(one) == timing_key(entry("b", NIGHTLY))
    others = [
        entry("a", QUARTERLY),
        entry("a", NIGHTLY, QUARTERLY),
        entry("a", NIGHTLY, enabled=False),
        entry("a", NIGHTLY, since_us=at(2)),
        Entry("a", replace(one.timing, timezone="Europe/Berlin"), one.since_us),
        Entry("a", replace(one.timing, spread=timedelta(minutes=1)), one.since_us),
    ]
    assert len({timing_key(each) for each in (one, *others)}) == 1 + len(others)


def test_a_machine_that_moves_to_another_zone_runs_nothing_at_once_and_then_by_its_clock(machine: Machine) -> None:
    elsewhere = Entry("c", Timing(True, (NIGHTLY,), "Asia/Kolkata", timedelta(0), Missed.RUN), at(1))
    machine.start(entry("a", NIGHTLY), entry("b", "0 8 * * *"), elsewhere)
    for due in machine.due(at(1, "8:15")):
        machine.over(due.job)
    machine.zone = "Europe/Berlin"  # 09:15 there
    machine.agenda.zone_was_set(machine.now_us)
    assert machine.due() == []
    assert started(machine.through(at(2, "8:00"))) == [
        ("a", at(1, "8:30")),
        ("c", at(2, "4:00")),
        ("b", at(2, "7:00")),
    ]


def test_what_was_due_already_stays_so_when_the_zone_changes(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.now_us = at(1, "9:31")
    machine.zone = "Asia/Kolkata"
    machine.agenda.zone_was_set(machine.now_us)
    assert started(machine.due()) == [("a", at(1, "9:30"))]


# Retries


def test_a_retry_follows_after_its_wait(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    assert machine.over("a", retry=2, delay_us=5 * MINUTE)
    assert machine.agenda.retries()["a"] == (2, at(1, "9:35"))
    assert machine.agenda.retries() == {"a": (2, at(1, "9:35"))}
    assert machine.due(at(1, "9:34")) == []
    assert machine.due(at(1, "9:35")) == [Due("a", Trigger.RETRY, 2, at(1, "9:35"))]
    assert "a" not in machine.agenda.retries()
    machine.over("a")
    assert machine.agenda.next_us() == at(2, "9:30")


def test_a_regular_run_ends_the_wait_for_a_retry(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.over("a", retry=2, delay_us=20 * MINUTE)
    assert machine.due(at(1, "0:30")) == [Due("a", Trigger.SCHEDULE, 1, at(1, "0:30"))]
    machine.over("a")
    assert machine.due(at(1, "0:40")) == []


def test_a_run_by_hand_ends_the_wait_for_a_retry(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=2, delay_us=20 * MINUTE)
    machine.agenda.take("a")
    machine.keep()
    machine.start()
    assert machine.due(at(1, "12:00")) == []


def test_a_retry_that_falls_due_with_a_regular_run_is_that_run(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.due(at(1, "0:15"))
    machine.over("a", retry=2, delay_us=15 * MINUTE)
    assert machine.due(at(1, "0:30")) == [Due("a", Trigger.SCHEDULE, 1, at(1, "0:30"))]
    machine.over("a")
    assert machine.due(at(1, "0:44")) == []


def test_a_wait_outlives_a_restart(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=3, delay_us=20 * MINUTE)
    machine.start(now_us=at(1, "9:40"))
    assert machine.due() == []
    machine.start(now_us=at(1, "9:55"))
    assert machine.due() == [Due("a", Trigger.RETRY, 3, at(1, "9:50"))]
    machine.start()
    assert machine.due() == []


def test_a_cut_off_run_is_retried_and_what_was_missed_since_is_not_dropped(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.start(now_us=at(1, "9:40"))
    assert machine.over("a", retry=2, delay_us=MINUTE)
    assert machine.due(at(1, "9:41")) == [Due("a", Trigger.RETRY, 2, at(1, "9:41"))]
    machine.start(now_us=at(4))  # cut off again, and two nights went by
    machine.over("a", retry=3, delay_us=MINUTE)
    assert machine.due() == [Due("a", Trigger.MISSED, 1, at(3, "9:30"))]
    machine.over("a")
    assert machine.due(at(4, "9:00")) == []


def test_a_cut_off_run_without_retry_does_not_drop_what_was_missed_since(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.start(now_us=at(4))
    machine.over("a")
    assert started(machine.due()) == [("a", at(3, "9:30"))]


def test_a_wait_keeps_its_length_when_the_clock_is_set(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    for by_us in (DAY, -DAY, HOUR, -HOUR, 9 * HOUR):
        machine.due(machine.agenda.next_us())
        machine.over("a", retry=2, delay_us=10 * MINUTE)
        machine.now_us += 4 * MINUTE
        machine.set_clock(machine.now_us + by_us)
        for due in machine.due():  # what the jump has passed over ends the wait
            assert due.trigger is not Trigger.RETRY
            machine.over(due.job, retry=2, delay_us=6 * MINUTE)
        assert machine.due(machine.now_us + 6 * MINUTE - 1) == []
        assert [due.trigger for due in machine.due(machine.now_us + 1)] == [Trigger.RETRY]
        machine.over("a")


def test_a_wait_keeps_its_length_when_the_machine_comes_up_with_an_old_clock(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(20, "9:30"))
    machine.over("a", retry=2, delay_us=10 * MINUTE)
    machine.start(now_us=at(2), boot="second")
    assert machine.agenda.retries()["a"] == (2, at(2, "0:10"))
    machine.now_us += MINUTE
    machine.set_clock(at(20, "9:35"))
    assert machine.agenda.retries()["a"] == (2, at(20, "9:44"))


def test_the_wait_for_a_retry_is_seen_before_later_times(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=2, delay_us=MINUTE)
    assert machine.agenda.next_us() == at(1, "9:31")
    machine.put(*machine.entries)
    machine.agenda.take("a")
    machine.over("a")
    assert machine.agenda.next_us() == at(2, "9:30")


# Boots


def test_a_boot_job_runs_at_the_first_start_in_a_boot_and_not_at_the_next(machine: Machine) -> None:
    machine.start(entry("a", "@reboot"))
    assert machine.due(machine.now_us + SECOND) == [Due("a", Trigger.BOOT)]
    machine.over("a")
    machine.start()
    assert machine.due(machine.now_us + HOUR) == []
    machine.start(boot="second")
    assert machine.due(machine.now_us + SECOND) == [Due("a", Trigger.BOOT)]


def test_a_boot_job_of_an_engine_that_was_killed_before_it_ran_runs_at_the_next_start(machine: Machine) -> None:
    machine.start(entry("a", "@reboot"))
    machine.start()
    assert machine.due(machine.now_us + SECOND) == [Due("a", Trigger.BOOT)]


def test_a_new_boot_job_waits_for_the_next_boot_where_an_engine_runs(machine: Machine) -> None:
    machine.start()
    machine.put(entry("a", "@reboot", since_us=machine.now_us))
    assert machine.due(machine.now_us + HOUR) == []
    machine.start()
    assert machine.due(machine.now_us + HOUR) == []
    machine.start(boot="second")
    assert machine.due(machine.now_us + HOUR) == [Due("a", Trigger.BOOT)]


def test_a_boot_job_that_is_disabled_does_not_run_at_boot(machine: Machine) -> None:
    machine.start(entry("a", "@reboot", enabled=False))
    assert machine.due(machine.now_us + HOUR) == []
    machine.put(entry("a", "@reboot", since_us=machine.now_us))
    assert machine.due(machine.now_us + HOUR) == []


def test_a_boot_job_whose_spread_is_long_waits_for_its_own_offset(machine: Machine) -> None:
    spread = Entry("a", timing("@reboot", "0 5 * * *", spread=timedelta(hours=1)), at(1))
    machine.start(spread)
    found = schedule_of(spread)
    assert found is not None
    offset_us = found.offset // timedelta(microseconds=1)
    assert 0 < offset_us < HOUR
    assert machine.due(at(1) + offset_us) == []
    assert machine.due(at(1) + offset_us + SECOND) == [Due("a", Trigger.BOOT)]


def test_a_boot_job_with_times_runs_at_both(machine: Machine) -> None:
    machine.start(entry("a", "@reboot", NIGHTLY))
    assert [due.trigger for due in machine.through(at(3))] == [Trigger.BOOT, Trigger.SCHEDULE, Trigger.SCHEDULE]


def test_a_boot_that_coincides_with_what_was_missed_is_one_run(machine: Machine) -> None:
    machine.start(entry("a", "@reboot", NIGHTLY))
    machine.through(at(1, "12:00"))
    machine.start(now_us=at(3), boot="second")
    found = machine.due(at(3) + SECOND)
    assert [due.trigger for due in found] == [Trigger.MISSED]
    machine.over("a")
    assert machine.due(at(3, "1:00")) == []


def test_a_boot_job_waits_as_long_when_the_clock_is_set(machine: Machine) -> None:
    for boot, by_us in (("second", 300 * DAY), ("third", -300 * DAY)):
        machine.start(entry("a", "@reboot"), boot=boot)
        machine.set_clock(machine.now_us + by_us)
        assert machine.due() == []
        assert machine.due(machine.now_us + SECOND) == [Due("a", Trigger.BOOT)]
        machine.over("a")


# Clocks that are set


def test_a_clock_set_back_a_little_does_not_make_fixed_times_come_twice(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a")
    machine.set_clock(at(1, "7:00"))
    assert started(machine.through(at(2, "12:00"))) == [("a", at(2, "9:30"))]


def test_a_clock_set_back_a_little_does_not_stop_what_runs_every_so_often(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY))
    machine.through(at(1, "10:01"))
    machine.set_clock(at(1, "9:01"))
    assert started(machine.through(at(1, "9:31"))) == [("a", at(1, "9:15")), ("a", at(1, "9:30"))]


@pytest.mark.parametrize("back_us", [CORRECTION_US + SECOND, DAY, 300 * DAY])
def test_after_a_clock_that_was_wrong_the_new_time_counts(machine: Machine, back_us: int) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY))
    machine.through(at(1, "10:31"))
    machine.set_clock(at(1, "10:31") - back_us)
    assert machine.due() == []
    found = [due.scheduled_us for due in machine.through(machine.now_us + DAY) if due.job == "a"]
    assert len(found) == 1
    assert found[0] is not None
    assert found[0] % DAY == at(1, "9:30") % DAY


def test_a_clock_set_back_far_counts_also_where_the_last_due_time_is_near(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.through(at(1, "14:00"))
    machine.set_clock(at(1, "9:00"))
    assert started(machine.through(at(1, "10:00"))) == [("a", at(1, "9:30"))]


def test_many_small_steps_back_are_no_large_one(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.through(at(1, "9:30"))
    for clock in ("7:30", "5:30", "3:30"):
        machine.set_clock(at(1, clock))
    assert machine.through(at(1, "12:00")) == []


def test_a_clock_set_back_while_no_engine_ran_is_as_one_that_was_set_under_it(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY))
    machine.through(at(1, "9:31"))
    machine.start(now_us=at(1, "8:01"))
    assert (
        started(machine.through(at(1, "9:40")))
        == [("b", at(1, f"{hour}:{minute:02d}")) for hour in (8, 9) for minute in (0, 15, 30, 45)][1:7]
    )
    machine.start(now_us=at(1, "0:01"))
    assert [due.job for due in machine.through(at(1, "10:00"))].count("a") == 1


def test_a_clock_set_back_and_forward_again_runs_nothing_twice(machine: Machine) -> None:
    for back_us in (HOUR, DAY):
        machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY), now_us=at(9))
        machine.kept.clear()
        machine.through(at(9, "10:31"))
        machine.set_clock(at(9, "10:31") - back_us)
        machine.set_clock(at(9, "10:32"))
        assert machine.due() == []
        assert started(machine.through(at(9, "10:50"))) == [("b", at(9, "10:45"))]


def test_a_machine_whose_clock_begins_with_1970_at_each_boot_runs_nothing_twice(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY))
    machine.through(at(9, "10:31"))
    machine.start(now_us=5 * SECOND, boot="second")
    assert machine.due() == []
    machine.now_us += 30 * SECOND
    machine.start(boot="second")  # killed meanwhile
    machine.set_clock(at(9, "10:44"))
    assert machine.due() == []
    machine.start(now_us=5 * SECOND, boot="third")
    machine.set_clock(at(10, "10:44"))
    assert sorted(started(machine.due())) == [("a", at(10, "9:30")), ("b", at(10, "10:30"))]


def test_a_clock_put_forward_runs_what_it_passed_over_once(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", QUARTERLY))
    machine.through(at(1, "8:00"))
    machine.set_clock(at(1, "9:40"))
    assert machine.due() == [
        Due("b", Trigger.MISSED, 1, at(1, "9:30")),
        Due("a", Trigger.MISSED, 1, at(1, "9:30")),
    ]


def test_a_disabled_job_stays_silent_whatever_is_done_to_the_clock(machine: Machine) -> None:
    machine.start(entry("a", QUARTERLY, enabled=False))
    for moment in (at(5), at(2), at(1), at(30)):
        machine.set_clock(moment)
        assert machine.agenda.next_us() is None


def test_a_date_that_passed_comes_again_when_the_clock_was_wrong(machine: Machine) -> None:
    machine.start(entry("once", "2027-03-05 09:30"))
    assert len(machine.through(at(6))) == 1
    assert machine.agenda.next_us() is None
    machine.set_clock(at(3))
    assert started(machine.through(at(6))) == [("once", at(5, "9:30"))]


# Memory


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"engine": null}',
        '{"engine": []}',
        '{"engine": [1, 2, 3]}',
        '{"engine": {"a": 1}}',
        '{"engine": [1, 0, 0, 0, 0, "", "", ""]}',
        '{"engine": ["1", 0, 0, 0, 0, "", ""]}',
        '{"engine": [true, 0, 0, 0, 0, "", ""]}',
        '{"engine": [1.5, 0, 0, 0, 0, "", ""]}',
        '{"engine": [-1, 0, 0, 0, 0, "", ""]}',
        f'{{"engine": [{10**30}, 0, 0, 0, 0, "", ""]}}',
        f'{{"engine": [{-(10**30)}, 0, 0, 0, 0, "", ""]}}',
        f'{{"engine": [1, 0, {10**30}, 0, 2, "", ""]}}',
        '{"engine": [1, 0, 0, 0, -2, "", ""]}',
        '{"engine": [1, 0, 0, 0, 1e3, "", ""]}',
        f'{{"engine": [1, 0, 0, 0, {10**9}, "", ""]}}',
        '{"engine": [1, 0, 0, 0, 0, 7, ""]}',
        '{"engine": [1, 0, 0, 0, 0, "", null]}',
        '{"retry": 0, "due_us": 5, "timer_manager": ""}',
    ],
)
def test_a_memory_that_cannot_be_read_is_none(machine: Machine, text: str) -> None:
    assert Memory.of(text) == Memory()
    machine.kept["a"] = text
    machine.start(entry("a", NIGHTLY, since_us=at(2)), now_us=at(2))
    assert started(machine.through(at(3))) == [("a", at(2, "9:30"))]


times = st.integers(-(1 << 70), 1 << 70) | st.integers(0, 1 << 54) | st.none() | st.text(max_size=3) | st.booleans()


@given(st.lists(times, min_size=5, max_size=8), st.sampled_from([NIGHTLY, QUARTERLY, "@reboot", "2027-03-05 9:30"]))
def test_no_memory_whatever_it_says_stops_the_agenda(numbers: list[object], text: str) -> None:
    machine = Machine()
    key = timing_key(entry("a", text))
    machine.kept["a"] = json.dumps({"engine": [*numbers[:5], key, "first"]})
    machine.kept["b"] = json.dumps({"engine": numbers})
    machine.start(entry("a", text), entry("b", text), now_us=at(3))
    machine.set_clock(at(2))
    machine.set_clock(at(4))
    for due in machine.due():
        machine.over(due.job)
    machine.due(at(5))
    assert all(type(found) is str for found in machine.kept.values())


@given(
    st.builds(
        Memory,
        due_us=st.none() | st.integers(0, 1 << 53),
        timing=st.text(),
        retry=st.integers(0, 20),
        retry_us=st.integers(0, 1 << 53),
        retry_from_us=st.integers(0, 1 << 53),
        boot=st.text(),
        used_us=st.integers(0, 1 << 53),
    )
)
def test_a_memory_is_read_as_it_was_written(memory: Memory) -> None:
    assert Memory.of(memory.text()) == memory


def test_only_what_has_changed_is_to_be_kept_and_all_of_it_when_it_was_lost(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", NIGHTLY))
    assert set(machine.kept) == {"a", "b"}
    assert machine.agenda.changes() == {}
    machine.agenda.take_due(at(1, "9:30"), 1)
    assert set(machine.agenda.changes()) == {"a"}
    machine.put(entry("b", NIGHTLY))
    machine.agenda.remember_all()
    assert set(machine.agenda.changes()) == {"a", "b"}


def test_what_is_forgotten_is_not_kept_again(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY), entry("b", NIGHTLY))
    machine.put(entry("b", NIGHTLY))
    machine.agenda.forget("a")
    machine.agenda.remember_all()
    assert set(machine.agenda.changes()) == {"b"}


def test_asking_and_ending_what_is_not_there_leaves_no_trace(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    for name in ("b", "c"):
        assert name not in machine.agenda.retries()
        assert not machine.over(name, retry=2)
    machine.agenda.remember_all()
    assert set(machine.agenda.changes()) == {"a"}


def test_runs_by_hand_take_no_memory(machine: Machine) -> None:
    machine.start(entry("a", "0 0 1 1 *"))
    for _ in range(10_000):
        machine.agenda.take("a")
        machine.agenda.over("a", machine.now_us)
    assert len(machine.agenda._heap) < 3000
    assert machine.agenda.next_us() == microseconds_of(datetime(2028, 1, 1, tzinfo=UTC))


# All of it, in any order

FIXED = {
    "f1": "20 0,2,3,4,6,7,8,9,10,12,14,16,18,20,21,22,23 * * *",
    "f2": "10 1,5,9,13,17,21 * * *",
    "f3": "5 3 * * *",
}
STEPS = {"s1": "*/15 * * * *", "s2": "*/7 * * * *"}


def _due_times(text: str) -> list[int]:
    """By hand: the due times of one of these in a hundred days."""
    minutes, hours = text.split()[:2]
    step = minutes.removeprefix("*/")
    chosen = range(0, 60, int(step)) if step != minutes else [int(minutes)]
    of_day = [
        hour * HOUR + minute * MINUTE
        for hour in (range(24) if hours == "*" else map(int, hours.split(",")))
        for minute in chosen
    ]
    return [at(1) + day * DAY + time for day in range(-2, 100) for time in of_day]


TIMES = {name: _due_times(text) for name, text in (FIXED | STEPS).items()}


@dataclass
class Model:
    """What is used up of each job, by the rules alone."""

    used: dict[str, int]
    most_used: dict[str, int]
    on: set[str] = field(default_factory=set)

    def last(self, job: str, now_us: int) -> int | None:
        """The last due time until now that is not used up."""
        all_times = TIMES[job]
        spot = bisect_right(all_times, now_us)
        return all_times[spot - 1] if all_times[spot - 1] > self.used[job] else None

    def use(self, job: str, due_us: int) -> None:
        """All until then is used up."""
        self.used[job] = due_us
        self.most_used[job] = max(due_us, self.most_used[job])


actions = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 200 * 60)),
    st.tuples(st.just("pass"), st.integers(1, 90)),
    st.tuples(st.just("end"), st.integers(0, 4)),
    st.tuples(st.just("hand"), st.integers(0, 4)),
    st.tuples(st.just("kill"), st.sampled_from([0, 0, 1, 600, 5000, 40_000])),
    st.tuples(st.just("step"), st.integers(-80 * 60, 80 * 60)),
    st.tuples(st.just("step while down"), st.integers(-80 * 60, 80 * 60)),
    st.tuples(st.just("apply"), st.just(0)),
)


@settings(max_examples=200)
@given(st.lists(actions, min_size=1, max_size=60), st.integers(1, 6))
def test_no_due_time_is_lost_or_taken_twice_whatever_happens(steps: list[tuple[str, int]], most: int) -> None:
    names = [*FIXED, *STEPS]
    machine = Machine(now_us=at(5))
    machine.start(*(entry(name, text, since_us=at(5)) for name, text in (FIXED | STEPS).items()))
    model = Model(dict.fromkeys(names, at(5)), dict.fromkeys(names, at(5)))
    true_us = machine.now_us  # what the clock would show if nobody set it
    taken: set[tuple[str, int]] = set()

    def look() -> None:
        """All that is due is started, some at a time, and nothing else."""
        expected = {job: model.last(job, machine.now_us) for job in names}
        found: dict[str, int | None] = {}
        while some := machine.due(most=most):
            found |= {due.job: due.scheduled_us for due in some}
        assert found == {job: due for job, due in expected.items() if due is not None and job not in model.on}
        for job, due_us in expected.items():
            if due_us is None:
                continue
            if job in found:
                assert job in STEPS or (job, due_us) not in taken, "twice"
                taken.add((job, due_us))
                model.on.add(job)
            model.use(job, due_us)

    def set_back() -> None:
        for job in STEPS:
            model.used[job] = min(model.used[job], machine.now_us)

    for what, how_much in steps:
        if what == "pass":
            machine.now_us += how_much * SECOND
            true_us += how_much * SECOND
        elif what == "end" and names[how_much] in model.on:
            job = names[how_much]
            machine.over(job)
            model.on.discard(job)
            model.use(job, model.last(job, machine.now_us) or model.used[job])
        elif what == "hand":
            job = names[how_much]
            assert (machine.agenda.take(job) is None) == (job in model.on)
            model.on.add(job)
        elif what == "apply":
            machine.put(*machine.entries)
        elif what == "kill":
            machine.start(now_us=machine.now_us + how_much * SECOND)
            true_us += how_much * SECOND
            for job in model.on:
                machine.over(job)
            model.on.clear()
        elif what.startswith("step"):
            # Never so far off that the clock counts as wrong.
            by_us = max(-80 * MINUTE, min(80 * MINUTE, machine.now_us + how_much * SECOND - true_us))
            target_us = true_us + by_us
            if what == "step":
                back = target_us < machine.now_us
                machine.set_clock(target_us)
                if back:
                    set_back()
                else:
                    for job in STEPS:
                        if model.used[job] < model.most_used[job]:
                            model.used[job] = min(model.most_used[job], target_us)
            else:
                machine.start(now_us=target_us)
                set_back()
                for job in model.on:
                    machine.over(job)
                model.on.clear()
        look()


# Runs for an instant


FOR = Asked("anna", 1)


def test_what_falls_due_while_a_run_for_an_instant_is_on_waits_for_its_end(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.now_us = at(1, "9:29")
    assert machine.agenda.take("a", FOR) == Due("a", Trigger.MANUAL, asked=FOR)
    assert machine.due(at(1, "9:30")) == []
    machine.now_us = at(1, "9:40")
    machine.over("a")
    assert machine.due() == [Due("a", Trigger.SCHEDULE, 1, at(1, "9:30"))]
    assert machine.due(at(2, "9:29")) == []


def test_a_run_for_an_instant_ends_no_wait_for_a_retry_and_one_that_is_due_meanwhile_comes_after_it(
    machine: Machine,
) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.due(at(1, "9:30"))
    machine.over("a", retry=2, delay_us=5 * MINUTE)
    machine.now_us = at(1, "9:32")
    assert machine.agenda.take("a", FOR) is not None
    assert machine.due(at(1, "9:36")) == []
    machine.over("a")
    assert machine.due() == [Due("a", Trigger.RETRY, 2, at(1, "9:35"))]


def test_no_other_run_by_hand_waits_for_a_run_for_an_instant(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    assert machine.agenda.take("a", FOR) is not None
    assert machine.agenda.take("a") is None
    assert machine.agenda.take("a", FOR) is None
    machine.over("a")
    assert machine.due() == []


def test_what_waits_for_a_run_for_an_instant_is_owed_after_the_engine_is_killed(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    machine.now_us = at(1, "9:29")
    machine.agenda.take("a", FOR)
    assert machine.due(at(1, "9:30")) == []
    machine.keep()
    machine.start()
    machine.over("a")
    assert started(machine.due()) == [("a", at(1, "9:30"))]


def test_what_a_chain_asks_for_while_a_run_for_an_instant_is_on_waits_for_its_end(machine: Machine) -> None:
    machine.start(entry("a", NIGHTLY))
    assert machine.agenda.take("a", FOR) is not None
    machine.agenda.start_after("a", ("b",))
    assert machine.due() == []
    machine.over("a")
    assert machine.due() == [Due("a", Trigger.AFTER, failed=("b",))]


def test_of_what_a_chain_asks_for_again_while_one_waits_the_last_word_counts(machine: Machine) -> None:
    queues = entry("a", NIGHTLY)
    machine.start(replace(queues, timing=replace(queues.timing, overlap=Overlap.QUEUE)))
    assert machine.agenda.take("a") is not None
    machine.agenda.start_after("a", ("b",))
    assert machine.due() == []
    machine.agenda.start_after("a", ())
    assert machine.due() == []
    machine.over("a")
    assert machine.due() == [Due("a", Trigger.AFTER)]
