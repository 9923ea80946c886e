"""A year of the engine with a clock that is wound by hand: every job is started when systemd's calendar would start it.

The oracle is systemd-analyze with the OnCalendar= lines that the same schedule is compiled to; for cron lines that
have many times a day a walk through every minute besides. The engine is killed every few weeks, with nothing lost.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from sdcron.agenda import Agenda
from sdcron.agenda_slot import Entry
from sdcron.daylight import changes
from sdcron.job import Missed
from sdcron.job_text import Timing
from sdcron.runs import Trigger
from sdcron.schedule import Schedule, parse_schedule
from tests import test_calendar_property as calendar
from tests.cron_evaluator import CronLine

pytestmark = pytest.mark.long

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Europe/Dublin",
    "Pacific/Chatham",
    "UTC",
)
YEAR = 2027
START, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (YEAR, YEAR + 1))
DAY = 86400
SECOND_US = 1_000_000

SPARSE: dict[str, tuple[str, ...]] = {
    "in-the-gap": ("30 2 * * *",),
    "at-midnight": ("0 0 * * *",),
    "twice-shown": ("45 1 * * 0",),
    "three-a-night": ("15 1,2,3 * * *",),
    "working-days": ("0 9 * * mon-fri",),
    "weekly": ("@weekly",),
    "monthly": ("0 0 1 * *",),
    "last-day": ("30 23 L * *",),
    "second-sunday": ("30 2 * * sun#2",),
    "last-sunday": ("30 2 * * sunL",),
    "day-or-weekday": ("0 4 13 * 5",),
    "leap-day": ("0 5 29 2 *",),
    "stepping-hours": ("0 */4 * * *",),
    "every-6h": ("every 6h",),
    "every-12h": ("every 12h",),
    "at-times": ("at 02:30", "at 12:00"),
    "systemd-days": ("Mon..Fri *-*-* 02:15:00",),
    "systemd-end": ("*-*~01 03:30:00",),
    "systemd-year": ("2027-06..08-01/7 02:00",),
    "mixed": ("30 2 * * *", "every 8h", "Sat *-*-* 01:30:00"),
    "twice": ("0 12 * * *", "at 12:00"),
    "boot-too": ("@reboot", "30 3 * * *"),
}
DENSE: dict[str, tuple[str, ...]] = {
    "every-quarter": ("every 15m",),
    "cron-quarter": ("*/15 * * * *",),
    "at-night": ("*/10 0-4 * * *",),
    "hourly": ("0 * * * *",),
}
"""The whole year in one zone that changes by an hour and in one by half an hour, and around the changes everywhere."""
DENSEST: dict[str, tuple[str, ...]] = {"every-minute": ("* * * * *",), "every-minute-too": ("every 1m",)}


@dataclass
class Engine:
    """The agenda of an engine in one zone, through a stretch of time. Each run is over as soon as it begins."""

    zone: str
    jobs: dict[str, tuple[str, ...]]
    started: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    boots: int = 0

    def __post_init__(self) -> None:
        self.schedules = {
            name: parse_schedule(texts, local_timezone=self.zone, seed=name) for name, texts in self.jobs.items()
        }
        self.started = {name: [] for name in self.jobs}

    def through(self, start: int, end: int) -> None:
        """From one instant up to another, which is not in it."""
        since_us = start * SECOND_US - 1
        now_us = since_us
        while now_us < end * SECOND_US:
            # Killed, and back after a moment in which nothing is due.
            stop_us = min(now_us + 31 * DAY * SECOND_US, end * SECOND_US)
            self._run(since_us, now_us, stop_us)
            now_us = stop_us

    def _run(self, since_us: int, now_us: int, stop_us: int) -> None:
        def schedule_of(entry: Entry) -> Schedule:
            return self.schedules[entry.name]

        agenda = Agenda(schedule_of, f"{now_us}", now_us)
        agenda.restore(self.kept)
        entries = [
            Entry(name, Timing(True, texts, None, timedelta(0), Missed.RUN), since_us)
            for name, texts in self.jobs.items()
        ]
        agenda.put(entries, now_us, starting=True)
        while (due_us := agenda.next_us()) is not None and due_us < stop_us:
            for due in agenda.take_due(due_us, 1000):
                agenda.over(due.job, due_us)
                if due.trigger is Trigger.BOOT:
                    self.boots += 1
                    continue
                assert due.trigger is Trigger.SCHEDULE
                assert due.scheduled_us == due_us, f"{due.job} in {self.zone}"
                self.started[due.job].append(due_us // SECOND_US)
            self.kept |= agenda.changes()


def compare(engine: Engine, start: int, end: int) -> int:
    """All that was started is what systemd elapses at; how much that was."""
    count = 0
    for name, found in engine.started.items():
        lines = engine.schedules[name].to_calendar()
        part = found[bisect_left(found, start) : bisect_left(found, end)]
        elapsed = calendar._union(lines, engine.zone, start, end, len(part))
        calendar._same(part, elapsed, f"{name} with {lines} in {engine.zone}")
        count += len(part)
    return count


def around_changes(zone: str) -> list[tuple[int, int]]:
    """A day and a half about each change of the clocks, and a day in summer."""
    instants = [change.instant // 60 * 60 for change in changes(zone, YEAR)]
    return [(START + 180 * DAY, START + 181 * DAY), *((moment - DAY, moment + DAY // 2) for moment in instants)]


@pytest.fixture(autouse=True)
def has_oracle() -> None:
    """There is nothing to compare with without it."""
    if shutil.which(calendar.ANALYZE[0]) is None:
        pytest.fail("systemd-analyze is missing: install the package systemd (apt-get install systemd)")


@pytest.mark.parametrize("zone", ZONES)
def test_in_a_year_of_the_engine_every_job_is_started_when_systemds_calendar_elapses(zone: str) -> None:
    engine = Engine(zone, SPARSE)
    engine.through(START, END)
    assert compare(engine, START, END) > 9000
    assert len(engine.started["in-the-gap"]) == 365
    assert len(engine.started["twice"]) == 365
    assert engine.started["leap-day"] == []
    assert engine.boots == 12


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
def test_what_runs_many_times_a_day_does_so_through_the_year_as_systemds_calendar(zone: str) -> None:
    jobs = {name: DENSE[name] for name in ("cron-quarter", "at-night")}
    engine = Engine(zone, jobs)
    engine.through(START, END)
    assert compare(engine, START, END) > 45_000


@pytest.mark.parametrize("zone", ZONES)
def test_what_runs_every_minute_does_so_around_each_change_of_the_clocks_as_systemds_calendar(zone: str) -> None:
    for start, end in around_changes(zone):
        engine = Engine(zone, DENSE | DENSEST)
        engine.through(start, end)
        compare(engine, start, end)
        for name in ("every-minute", "cron-quarter", "at-night", "hourly"):
            walked = CronLine(engine.jobs[name][0]).fires(zone, start, end)
            calendar._same(engine.started[name], walked, f"{name} in {zone}")
        assert len(engine.started["every-minute"]) == (end - start) // 60
        assert engine.started["every-minute-too"] == engine.started["every-minute"]
