"""Random schedules: the compiled calendar as systemd reads it, next_after() and a brute-force evaluator must agree.

systemd-analyze is the oracle for the calendar lines. SDCRON_SYSTEMD_ANALYZE is its command line (split as a shell
would), to run these tests with another version; SDCRON_EXAMPLES is the number of examples of each test.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdcron.daylight import changes
from sdcron.schedule import Schedule, ScheduleMistakes, parse_schedule
from tests import cron_evaluator
from tests.cron_evaluator import CronLine

ANALYZE = tuple(shlex.split(os.environ.get("SDCRON_SYSTEMD_ANALYZE", "systemd-analyze")))
EXAMPLES = int(os.environ.get("SDCRON_EXAMPLES", "20"))
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Europe/Dublin",
    "Asia/Kolkata",
)
MORE_ZONES = (
    "America/Santiago",
    "Africa/Cairo",
    "Atlantic/Azores",
    "Pacific/Chatham",
    "America/St_Johns",
    "Africa/Casablanca",
)
START, END = 2027, 2029  # two years, with a leap day
HOUR, DAY = 3600, 86400

differential = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def _instant(year: int, month: int = 1, day: int = 1) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


_GIVES_UP = re.compile(
    "Infinite loop in calendar calculation: .*|Failed to determine next elapse for .*: Resource dead.*"
)


def _analyze(lines: tuple[str, ...], zone: str, base: int, iterations: int = 1) -> list[list[int]]:
    """For each line the next instants after `base`, as systemd on a machine in `zone` computes them."""
    found, dead = _asked(lines, zone, base, iterations)
    assert not dead, f"{lines} in {zone}: systemd gives up"
    return found


def _asked(lines: tuple[str, ...], zone: str, base: int, iterations: int = 1) -> tuple[list[list[int]], bool]:
    """The instants, and whether systemd gave up on a line, of which those before that are all it has.

    It does for a time that lies in Chatham's gap, which begins and ends within an hour. A timer then goes by its other
    lines, and asks all of them again when it elapses (timer_enter_waiting() in systemd's src/core/timer.c).
    """
    if shutil.which(ANALYZE[0]) is None:
        pytest.fail(f"{ANALYZE[0]} is missing: install the package systemd (apt-get install systemd)")
    output = subprocess.run(
        (*ANALYZE, "calendar", f"--iterations={iterations}", f"--base-time=@{base}", *lines),
        env={**os.environ, "TZ": zone, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    dead = [error for error in output.stderr.splitlines() if _GIVES_UP.fullmatch(error)]
    assert dead or output.returncode == 0, f"{lines} in {zone}: {output.stderr}"
    if dead and len(lines) > 1:  # it is not told of which line
        return [_asked((line,), zone, base, iterations)[0][0] for line in lines], True
    found: list[list[int]] = []
    for line in output.stdout.splitlines():
        if "Normalized form:" in line:
            found.append([])
        elif "Original form:" not in line:
            # Local time, and UTC on a line of its own; but 257 leaves that out where it holds the zone for UTC itself.
            for moment in re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:UTC|GMT|\+00)$", line):
                instant = int(datetime.fromisoformat(moment + "+00:00").timestamp())
                if instant not in found[-1][-1:]:
                    found[-1].append(instant)
    if dead and not found:
        return [[]], True
    assert len(found) == len(lines), output.stdout
    return found, bool(dead)


def _chain(schedule: Schedule, start: int, end: int) -> list[int]:
    """The instants in [start, end) by next_after()."""
    found: list[int] = []
    moment: datetime | None = datetime.fromtimestamp(start - 1, UTC)
    while moment is not None:
        moment = schedule.next_after(moment)
        if moment is None or moment.timestamp() >= end:
            break
        found.append(int(moment.timestamp()))
    return found


def _union(lines: tuple[str, ...], zone: str, start: int, end: int, count: int) -> list[int]:
    """The instants in [start, end) at which any line elapses, of which there should be `count`."""
    found: set[int] = set()
    asked = lines
    iterations = 8
    while lines:  # a line with few instants is not asked for those of the next hundred years
        iterations = min(iterations * 8, count + 2)
        elapses, dead = _asked(lines, zone, start - 1, iterations)
        if dead:
            return _timer(asked, zone, start, end)
        found.update(instant for one in elapses for instant in one if start <= instant < end)
        if iterations == count + 2:
            break
        unfinished = zip(lines, elapses, strict=True)
        lines = tuple(line for line, one in unfinished if len(one) == iterations and one[-1] < end)
    return sorted(found)


def _timer(lines: tuple[str, ...], zone: str, start: int, end: int) -> list[int]:
    """The instants in [start, end) at which a timer fires: after each, it asks all lines for the next."""
    found: list[int] = []
    base = start - 1
    while True:
        elapses = [one[0] for one in _asked(lines, zone, base)[0] if one]
        if not elapses or min(elapses) >= end:
            return found
        base = min(elapses)
        assert not found or base > found[-1], f"{lines} in {zone} elapses at {base} again"
        found.append(base)


@lru_cache(maxsize=16)
def _transitions(zone: str) -> tuple[int, ...]:
    return tuple(change.instant for year in range(START, END) for change in changes(zone, year))


def _times(instants: list[int]) -> str:
    return ", ".join(datetime.fromtimestamp(instant, UTC).isoformat() for instant in instants[:20])


def _same(first: list[int], second: list[int], what: str) -> None:
    if first != second:
        missing = _times(sorted(set(second) - set(first)))
        extra = _times(sorted(set(first) - set(second)))
        pytest.fail(f"{what}: missing {missing or 'nothing'}; too many {extra or 'nothing'}")


# --- Strategies ------------------------------------------------------------------------------------------------------


def _listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, min_size=1, max_size=3).map(",".join)


def _range(low: int, high: int) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    steps = st.sampled_from(["", "", "/2", "/3"])
    return st.tuples(pairs, steps).map(lambda found: f"{found[0][0]}-{found[0][1]}{found[1]}")


minutes = st.one_of(
    st.sampled_from(["*", "0", "30", "*/5", "*/20", "7-59/10", "0,30", "15,45"]),
    _listed(st.one_of(st.integers(0, 59).map(str), _range(0, 59))),
)
hours = st.one_of(
    st.sampled_from(["*", "*", "0", "1", "2", "3", "23", "0-23", "*/2", "1-5", "0,1,2"]),
    _listed(st.one_of(st.integers(0, 23).map(str), _range(0, 23))),
)
days = st.one_of(
    st.sampled_from(["*", "*", "*", "*", "L", "1", "*/2", "1-7", "25-31", "1,L", "29"]),
    _listed(st.one_of(st.integers(1, 28).map(str), _range(1, 31))),
)
months = st.one_of(
    st.sampled_from(["*", "*", "*", "*", "3", "10", "mar,oct", "4,9,11", "2"]),
    _listed(st.one_of(st.integers(1, 12).map(str), _range(1, 12))),
)
weekdays = st.one_of(
    st.sampled_from(
        ["*", "*", "*", "*", "0", "sun", "sat", "6-7", "fri-sun", "1-5", "*/2", "0L", "7#1", "sun#2", "5L"]
    ),
    _listed(st.one_of(st.integers(0, 7).map(str), _range(0, 7))),
)
cron_lines = st.tuples(minutes, hours, days, months, weekdays).map(" ".join)
texts = st.one_of(cron_lines, st.tuples(cron_lines, cron_lines).map(list))
zones = st.sampled_from([*ZONES, *ZONES, *MORE_ZONES])


def _schedule(written: str | list[str], zone: str, *, foreign: bool = False) -> Schedule | None:
    try:
        if foreign:
            return parse_schedule(written, timezone=zone)
        return parse_schedule(written, local_timezone=zone)
    except ScheduleMistakes as error:
        for mistake in error.mistakes:
            assert "never run" in mistake.message or "cannot be combined" in mistake.message, mistake
        return None


# --- Tests -----------------------------------------------------------------------------------------------------------

DENSE = 20_000  # runs in two years; what runs more often is compared around the clock changes and for a while besides


@pytest.mark.parametrize("zone", ZONES)
@settings(differential, max_examples=max(EXAMPLES // 6, 1))
@given(written=texts, day=st.integers(0, 720))
def test_systemd_and_next_after_and_a_walk_through_every_minute_agree_over_two_years(
    zone: str, written: str | list[str], day: int
) -> None:
    schedule = _schedule(written, zone)
    if schedule is None:
        return
    start, end = _instant(START), _instant(END)
    lines = [CronLine(text) for text in ([written] if isinstance(written, str) else written)]
    walked = sorted({instant for line in lines for instant in line.fires(zone, start, end)})
    windows = [(start, end)]
    if len(walked) > DENSE:
        places = [start + day * DAY, *(instant - 12 * HOUR for instant in _transitions(zone))]
        windows = [(place, place + DAY) for place in places]
    for low, high in windows:
        expected = [instant for instant in walked if low <= instant < high]
        _same(_chain(schedule, low, high), expected, f"next_after of {written} in {zone}")
        elapsed = _union(schedule.to_calendar(), zone, low, high, len(expected))
        _same(elapsed, expected, f"systemd with {schedule.to_calendar()} for {written} in {zone}")


FOUND = [  # by the tests below
    # A time in a gap that leads to standard time: mktime(3) goes back, and systemd skips the rest of the day.
    ("Europe/Dublin", ["* * * * 1-5", "* 1-5 * * *"]),
    ("Europe/Dublin", "0 1,9,17 * * *"),
    ("Africa/Casablanca", "*/10 2-4 * * *"),
    # A gap that ends at 03:45: systemd skips the rest of that hour, for it begins inside the gap.
    ("Pacific/Chatham", "*/5 * * * 0"),
    ("Pacific/Chatham", "50 3 * * *"),
    # Times in that gap: systemd gives up on the line, until another one wakes the timer.
    ("Pacific/Chatham", "50 2 * * *"),
    ("Pacific/Chatham", ["54-59 2 * * *", "0 3 * * *"]),
    ("Pacific/Chatham", "45,50 2,3 * * 0"),
    # Times that no clock ever shows: an error ("Infinite loop") and not just never.
    ("Europe/Berlin", "30 2 * 3 0L"),
    ("Europe/Berlin", ["0 2 * 3 0L", "0 5 * * 6"]),
    # Changes that follow no rule: what the other line wakes in the second pass of an overlap must not run again.
    ("Africa/Casablanca", ["0 * * * *", "1 2 * * *"]),
    ("Africa/Casablanca", ["*/30 * * * *", "1 2,5 L,7 2 *"]),
]


@pytest.mark.parametrize(("zone", "written"), FOUND)
def test_what_once_differed_from_systemd_does_so_no_more(zone: str, written: str | list[str]) -> None:
    schedule = parse_schedule(written, local_timezone=zone)
    lines = [CronLine(text) for text in ([written] if isinstance(written, str) else written)]
    for instant in _transitions(zone):
        low, high = instant // 60 * 60 - 12 * HOUR, instant // 60 * 60 + 36 * HOUR
        expected = sorted({run for line in lines for run in line.fires(zone, low, high)})
        _same(_chain(schedule, low, high), expected, f"next_after of {written} in {zone}")
        elapsed = _union(schedule.to_calendar(), zone, low, high, len(expected))
        _same(elapsed, expected, f"systemd with {schedule.to_calendar()} for {written} in {zone}")
        fired = _timer(schedule.to_calendar(), zone, instant - 121, instant + 20 * 60)
        wanted = [run for run in expected if instant - 120 <= run < instant + 20 * 60]
        _same(fired, wanted, f"a timer with {schedule.to_calendar()} in {zone}")


def test_a_time_that_no_clock_ever_shows_is_refused() -> None:
    with pytest.raises(ScheduleMistakes, match="the clocks of Europe/Berlin never show such a time"):
        parse_schedule("* 2 * 3 0L", local_timezone="Europe/Berlin")
    assert parse_schedule("* 2 * 3 0L").to_calendar() == ("Sun *-03~01,02,03,04,05,06,07 02:*:00",)


def test_the_evaluator_shares_nothing_with_what_it_judges() -> None:
    """It imports the standard library alone."""
    tree = ast.parse(Path(cron_evaluator.__file__).read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


@differential
@given(written=texts, zone=st.sampled_from(MORE_ZONES), data=st.data())
def test_next_after_agrees_with_a_walk_through_every_minute(
    written: str | list[str], zone: str, data: st.DataObject
) -> None:
    schedule = _schedule(written, zone)
    if schedule is None:
        return
    lines = [CronLine(text) for text in ([written] if isinstance(written, str) else written)]
    windows = [(instant // 60 * 60 - 36 * HOUR, instant // 60 * 60 + 36 * HOUR) for instant in _transitions(zone)]
    first = _instant(START) + data.draw(st.integers(0, 71)) * 10 * DAY
    windows.append((first, first + 10 * DAY))
    for start, end in windows:
        walked = sorted({instant for line in lines for instant in line.fires(zone, start, end)})
        _same(_chain(schedule, start, end), walked, f"next_after of {written} in {zone}")


@differential
@given(written=texts, zone=zones, foreign=st.booleans(), day=st.integers(0, 700))
def test_systemd_elapses_when_next_after_says_in_a_zone_that_is_not_the_machines(
    written: str | list[str], zone: str, foreign: bool, day: int
) -> None:
    schedule = _schedule(written, zone, foreign=foreign)
    if schedule is None:
        return
    # A few runs each: before 257 systemd forks for every single one in a foreign zone.
    for low in (_instant(START) + day * DAY, *(instant - 12 * HOUR for instant in _transitions(zone))):
        expected = _chain(schedule, low, low + DAY)
        elapsed = _union(schedule.to_calendar(), "UTC" if foreign else zone, low, low + DAY, len(expected))
        _same(elapsed, expected, f"systemd with {schedule.to_calendar()} for {written} in {zone}")


@differential
@given(
    written=texts, zone=st.sampled_from([zone for zone in (*ZONES, *MORE_ZONES) if zone not in ("UTC", "Asia/Kolkata")])
)
def test_a_timer_keeps_the_policy_through_every_clock_change(written: str | list[str], zone: str) -> None:
    schedule = _schedule(written, zone)
    if schedule is None:
        return
    for instant in _transitions(zone)[:2]:
        low, high = instant - 2 * HOUR - 1, instant + 2 * HOUR
        expected = _chain(schedule, low, high)
        if len(expected) > 40:  # a dense one: from the first pass into the second
            low = instant - 8 * 60 - 1
            expected = _chain(schedule, low, high)
            high = expected[40] if len(expected) > 40 else high
            expected = expected[:40]
        fired = _timer(schedule.to_calendar(), zone, low, high)
        _same(fired, expected, f"a timer with {schedule.to_calendar()} for {written} in {zone}")


intervals = st.one_of(
    st.sampled_from(["90s", "15m", "2h", "7h", "100s", "1h30m", "1d", "2d", "3d", "10d", "45d", "1w", "2w", "28h"]),
    st.integers(1, 40).map(lambda number: f"{number}d"),
).map(lambda length: f"every {length}")
clock_times = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda time: f"{time[0]:02d}:{time[1]:02d}")
moments = st.tuples(st.dates(date(START, 1, 1), date(START, 12, 28)), clock_times).map(
    lambda moment: f"{moment[0]} {moment[1]}"
)
own_forms = st.one_of(
    intervals,
    st.lists(st.one_of(clock_times, moments), min_size=1, max_size=3).map(lambda found: "at " + ", ".join(found)),
)


@differential
@given(written=own_forms, zone=zones, spread=st.sampled_from([0, 0, 600, 20000]), seed=st.text("abc", max_size=3))
def test_systemd_elapses_when_next_after_says_for_intervals_and_times_of_day(
    written: str, zone: str, spread: int, seed: str
) -> None:
    schedule = parse_schedule(written, local_timezone=zone, seed=seed, spread=timedelta(seconds=spread))
    start = _instant(START)
    end = _instant(END) if len(_chain(schedule, start, start + 5 * DAY)) <= 20 else start + 9 * DAY
    expected = _chain(schedule, start, end)
    elapsed = _union(schedule.to_calendar(), zone, start, end, len(expected))
    _same(elapsed, expected, f"systemd with {schedule.to_calendar()} for {written} in {zone}")


@differential
@given(written=texts, zone=zones, seed=st.text("abc", max_size=3))
def test_a_spread_moves_every_run_by_one_offset_on_a_clock_that_never_changes(
    written: str | list[str], zone: str, seed: str
) -> None:
    plain = _schedule(written, "UTC")
    if plain is None:
        return
    spread = parse_schedule(written, seed=seed, spread=timedelta(hours=3))
    start = _instant(START) + 40 * DAY
    offset = int(spread.offset.total_seconds())
    moved = [instant + offset for instant in _chain(plain, start, start + 40 * DAY)]
    _same(_chain(spread, start + offset, start + 40 * DAY + offset), moved, f"{written} later by {offset} s")
    late = parse_schedule(written, local_timezone=zone, seed=seed, spread=timedelta(hours=3))
    for instant in _transitions(zone)[:2]:
        expected = _chain(late, instant - 6 * HOUR, instant + 6 * HOUR)
        elapsed = _union(late.to_calendar(), zone, instant - 6 * HOUR, instant + 6 * HOUR, len(expected))
        _same(elapsed, expected, f"systemd with {late.to_calendar()} in {zone}")


def _component(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}..{max(pair)}")
    steps = st.tuples(numbers, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    stepped = st.tuples(ranges, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    items = st.one_of(numbers.map(str), numbers.map(lambda number: f"{number:02d}"), ranges, steps, stepped)
    return st.one_of(st.just("*"), st.lists(items, min_size=1, max_size=3).map(",".join))


dates = st.one_of(
    st.tuples(_component(1, 12), st.sampled_from("-~"), _component(1, 28)).map("".join),
    st.tuples(st.sampled_from(["*", "2027", "28", "2027..2029", "2026/2"]), _component(1, 12), _component(1, 31)).map(
        "-".join
    ),
    st.sampled_from(["*-*~01", "*-*~07/1", "*-2~03..05", "*-*-31", "02-29"]),
)
clocks = st.one_of(
    st.tuples(_component(0, 23), _component(0, 59)).map(":".join),
    st.tuples(_component(0, 23), _component(0, 59), _component(0, 59)).map(":".join),
)
week = st.sampled_from(
    ["", "", "Mon ", "mon..fri ", "Sat,Sun ", "Wed, ", "Tuesday ", "Mon-Wed,Sun ", "Sun..Mon ", "Monda ", "Fri,,Sat "]
)
calendars = st.one_of(
    st.tuples(week, dates, st.just(" "), clocks).map("".join),
    st.tuples(week, clocks).map("".join),
    st.tuples(week, dates).map("".join),
    st.sampled_from(["minutely", "Hourly", "daily UTC", "weekly", "monthly", "quarterly", "semi-annually", "yearly"]),
    st.sampled_from(["*:0/50", "*:*/5", "24:00", "1..1:0", "5..4:0", "*:0/0", "12-5 ", "1-1-1-1", "mon *:", ":5", "5"]),
)


def _ended(text: str) -> str:
    """The text with an end for its open steps.

    systemd (252 to 262) can skip a run where two units overflow: from 23:59:59, *:0/50 goes to 00:50, not 00:00.
    """
    words = text.split()
    for place, word in enumerate(words):
        sign = ":" if ":" in word else "-"
        ends = {":": ["23", "59", "59"], "-": ["12", "31"] if word.count("-") == 1 else ["2199", "12", "31"]}[sign]
        if "~" not in word and word[0] in "*0123456789":
            parts = zip(word.split(sign), ends, strict=False)
            words[place] = sign.join(re.sub(r"(?<![.\d])(\d+)/", rf"\1..{end}/", part) for part, end in parts)
    return " ".join(words)


@settings(differential, max_examples=EXAMPLES * 5)
@given(text=calendars)
def test_a_calendar_expression_means_what_systemd_reads_in_it(text: str) -> None:
    shown = subprocess.run(
        (*ANALYZE, "calendar", "--iterations=25", f"--base-time=@{_instant(START) - 1}", text),
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        schedule = parse_schedule(text)
    except ScheduleMistakes as error:
        if "never run" in str(error):
            assert _analyze((text,), "UTC", 0) == [[]], f"systemd runs {text}: {error}"
        else:
            assert shown.returncode, f"systemd accepts {text}: {error}"
        return
    if shown.returncode and "~" in text and "," in text:
        return  # systemd refuses lists of days from the end that reach far; sdcron writes them as several lines
    assert shown.returncode == 0, f"systemd refuses {text}: {shown.stderr}"
    elapsed = _analyze((_ended(text),), "UTC", _instant(START) - 1, 25)[0]
    if not elapsed:
        assert schedule.next_after(datetime.fromtimestamp(_instant(START) - 1, UTC)) is None
        return
    _same(_chain(schedule, _instant(START), elapsed[-1] + 1), elapsed, f"next_after of {text}")
    compiled = _union(schedule.to_calendar(), "UTC", _instant(START), elapsed[-1] + 1, len(elapsed))
    _same(compiled, elapsed, f"systemd with {schedule.to_calendar()} for {text}")
