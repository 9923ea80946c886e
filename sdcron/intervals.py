"""`every 15m`, `every 3d at 07:30` and `at 11:30, 14:00` as entries: sdcron's own forms.

Intervals below a day count from midnight UTC, so that they keep their spacing through every clock change; days and
weeks count local days from Sunday, 4 January 1970. No clock is read: the same text always means the same instants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sdcron.daylight import WINDOW
from sdcron.entries import DAY, EVERY_WEEKDAY, LAST_YEAR, Entry, Mistake, Times, day_number, month_length, products

WEEK = 7 * DAY
MOST_LINES = 64  # calendar lines that one interval may need
_FIRST_SUNDAY = day_number(1970, 1, 4)
_MOST_DAYS = 366

_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), DAY),
    **dict.fromkeys(("w", "week", "weeks"), WEEK),
}
_SPAN = re.compile(r"([0-9]+)[ \t]*([A-Za-z]+)[ \t]*")
_AT = re.compile(r"[ \t]+at(?=[ \t]|\Z)")
_ITEM = re.compile(r"[^,]+")
_MOMENT = re.compile(r"(?:([0-9]{4})-([0-9]{2})-([0-9]{2})[ \t]+)?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")


@dataclass(frozen=True, slots=True)
class Interval:
    """`every` so many seconds; with `local_days`, whole days that begin `time` seconds after local midnight."""

    seconds: int
    local_days: bool
    time: int = 0

    def entries(self, zone: str, offset: int) -> tuple[Entry, ...]:
        """The instants of the interval, all `offset` seconds later: below the interval and the rest of a day."""
        if self.local_days:
            offset += self.time
            hour, minute, second = offset // 3600, offset // 60 % 60, offset % 60
            midnight = Entry(zone, (hour,), (minute,), (second,))
            return _every_days(self.seconds // DAY, midnight)
        if DAY % self.seconds == 0:
            return tuple(_in_utc(times) for times in _day_times(self.seconds, offset))
        return _week_entries(self.seconds, offset)


def parse_every(text: str) -> Interval | Mistake:
    """The interval of `every 15m`, or what is wrong with it (index 0)."""
    column = len(text) - len(text[5:].lstrip(" \t"))
    rest = text[5:].strip(" \t")
    found_at = _AT.search(rest)
    time: int | Mistake = 0
    if found_at:
        time = _time_of_day(rest[found_at.end() :], column + found_at.end())
        rest = rest[: found_at.start()]
    seconds, place = 0, 0
    smallest = WEEK
    while place < len(rest):
        found = _SPAN.match(rest, place)
        unit = _UNITS.get(found[2] if found else "")
        if not found or unit is None:
            return Mistake(0, column + place, f"'{rest[place:]}' is not a length of time", _span_hint(rest[place:]))
        seconds += int(found[1]) * unit
        smallest = min(smallest, unit)
        place = found.end()
    if not seconds:
        return Mistake(0, column, "an interval must be longer than nothing", "write a length such as 15m or 2h")
    if smallest >= DAY:
        if seconds > _MOST_DAYS * DAY:
            return Mistake(0, column, f"an interval is at most {_MOST_DAYS} days", "write @yearly or a calendar date")
        return time if isinstance(time, Mistake) else Interval(seconds, local_days=True, time=time)
    if found_at:
        hint = "write whole days, as in every 1d at 07:30, or a cron line"
        return Mistake(0, column + found_at.end() - 2, "only days and weeks have a time of day", hint)
    if not _fits(seconds):
        return Mistake(0, column, f"every {rest} does not divide a day or a week evenly", _nearest_hint(seconds))
    return Interval(seconds, local_days=False)


def _time_of_day(text: str, column: int) -> int | Mistake:
    """Seconds since midnight for what follows the `at` of an interval, or what is wrong with it."""
    word = text.strip(" \t")
    column += len(text) - len(text.lstrip(" \t"))
    found = _moment(word, column, "UTC")
    if isinstance(found, Entry):
        return Mistake(0, column, f"'{word}' is not a time of day", "write a time alone, as in every 3d at 07:30")
    return found


def _span_hint(text: str) -> str:
    if re.match(r"[0-9]+[.,][0-9]", text):
        return "write whole numbers: 90m, not 1.5h"
    if re.fullmatch(r"[0-9]+", text):
        return f"add a unit: {text}s, {text}m, {text}h, {text}d or {text}w"
    if re.match(r"[0-9]+[ \t]*(M|mo)", text):
        return "months differ in length: write @monthly or a cron line"
    if re.match(r"[0-9]+[ \t]*y", text):
        return "write @yearly"
    if text.lower() in _UNITS:
        return f"write 1{text[0].lower()}"
    return "write a length such as 90s, 15m, 2h, 3d or 1w"


def _fits(seconds: int) -> bool:
    """Whether the interval repeats every day or week, in few enough calendar lines."""
    if DAY % seconds == 0:
        return len(_day_times(seconds, 0)) <= MOST_LINES
    if WEEK % seconds or WEEK // seconds > 40 * MOST_LINES:
        return False
    return len(_week_entries(seconds, 0)) <= MOST_LINES


@lru_cache(maxsize=1)
def _lengths() -> tuple[int, ...]:
    """Every length in seconds that works, up to a week."""
    return tuple(seconds for seconds in range(1, WEEK + 1) if WEEK % seconds == 0 and _fits(seconds))


def _nearest_hint(seconds: int) -> str:
    if seconds > WEEK:
        days = seconds // DAY
        return f"write {days}d or {days + 1}d"
    below = max(length for length in _lengths() if length < seconds)
    above = min(length for length in _lengths() if length > seconds)
    return f"the nearest that do are {_span_text(below)} and {_span_text(above)}"


def _span_text(seconds: int) -> str:
    for unit, letter in ((DAY, "d"), (3600, "h"), (60, "m")):
        if seconds % unit == 0:
            return f"{seconds // unit}{letter}"
    return f"{seconds}s"


@lru_cache(maxsize=256)
def _day_times(seconds: int, offset: int) -> tuple[Times, ...]:
    return products(range(offset, DAY, seconds))


def _in_utc(times: Times, weekdays: tuple[int, ...] = EVERY_WEEKDAY) -> Entry:
    return Entry("UTC", times[0], times[1], times[2], weekdays=weekdays, steps=True)


@lru_cache(maxsize=256)
def _week_entries(seconds: int, offset: int) -> tuple[Entry, ...]:
    """An interval that divides a week from Sunday 00:00 UTC on: weekdays that share their times share a line."""
    of_day: dict[int, list[int]] = {}
    for second in range(offset, WEEK, seconds):
        of_day.setdefault(second // DAY, []).append(second % DAY)
    weekdays_of: dict[Times, list[int]] = {}
    for weekday, times in sorted(of_day.items()):
        for product in products(times):
            weekdays_of.setdefault(product, []).append(weekday)
    return tuple(_in_utc(times, tuple(weekdays)) for times, weekdays in weekdays_of.items())


def _every_days(days: int, midnight: Entry) -> tuple[Entry, ...]:
    if days == 1:
        return (midnight,)
    if days == 7:
        return (_on(midnight, weekdays=(0,)),)
    months_of: dict[tuple[int, ...], dict[int, list[int]]] = {}  # days -> year -> months
    for year in WINDOW:
        for month in range(1, 13):
            length = month_length(year, month)
            start = day_number(year, month, 1)
            wait = (_FIRST_SUNDAY - start) % days
            if wait < length:
                # Up to 31, so that months of different length share a line: no month has a day that is too many.
                found = tuple(range(wait + 1, 32, days))
                months_of.setdefault(found, {}).setdefault(year, []).append(month)
    entries: list[Entry] = []
    for month_days, by_year in months_of.items():
        years_of: dict[tuple[int, ...], list[int]] = {}
        for year, months in by_year.items():
            years_of.setdefault(tuple(months), []).append(year)
        entries += [_on(midnight, month_days, months, tuple(years)) for months, years in years_of.items()]
    entries.sort(key=lambda entry: (entry.years, entry.months))
    return (*entries, _after_window(days, midnight))


def _after_window(days: int, midnight: Entry) -> Entry:
    """What follows the dates that are written out: coarser, but never silent.

    Days 1, 1+N and so on of every month, or the first of every so many months.
    """
    years = tuple(range(WINDOW[-1] + 1, LAST_YEAR + 1))
    if days <= 15:
        return _on(midnight, tuple(range(1, 32 - days, days)), years=years)
    return _on(midnight, (1,), tuple(range(1, 13, min(-(-days // 31), 12))), years)


def _on(
    midnight: Entry,
    days: tuple[int, ...] = (),
    months: tuple[int, ...] = tuple(range(1, 13)),
    years: tuple[int, ...] = (),
    weekdays: tuple[int, ...] = EVERY_WEEKDAY,
) -> Entry:
    return Entry(
        midnight.zone, midnight.hours, midnight.minutes, midnight.seconds, years, months, days, weekdays=weekdays
    )


def parse_at(text: str, zone: str) -> tuple[tuple[Entry, ...], tuple[Mistake, ...]]:
    """The entries of `at 11:30, 14:00` or of a one-off `at 2027-01-01 08:00`, or every mistake in it (index 0)."""
    times: set[int] = set()
    entries: list[Entry] = []
    mistakes: list[Mistake] = []
    column = 2
    for item in text[2:].split(","):
        word = item.strip(" \t")
        start = column + (len(item) - len(item.lstrip(" \t")) if word else 0)
        column += len(item) + 1
        one = _moment(word, start, zone)
        if isinstance(one, Mistake):
            mistakes.append(one)
        elif isinstance(one, Entry):
            entries.append(one)
        else:
            times.add(one)
    if mistakes:
        return (), tuple(mistakes)
    return (*(Entry(zone, *product) for product in products(times)), *entries), ()


def _moment(word: str, column: int, zone: str) -> Entry | Mistake | int:
    """A one-off, or a time of day in seconds since midnight."""
    found = _MOMENT.fullmatch(word)
    if not word:
        return Mistake(0, column, "a time of day is missing", _moment_hint(word))
    if not found:
        return Mistake(0, column, f"'{word}' is not a time of day", _moment_hint(word))
    hour, minute, second = int(found[4]), int(found[5]), int(found[6] or 0)
    if hour > 23 or minute > 59 or second > 59:
        hint = "midnight is 00:00" if hour == 24 else "times run from 00:00 to 23:59"
        return Mistake(0, column, f"there is no time {word}", hint)
    if not found[1]:
        return hour * 3600 + minute * 60 + second
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    if not 1970 <= year <= LAST_YEAR or not 1 <= month <= 12 or not 1 <= day <= month_length(year, month):
        return Mistake(0, column, f"there is no date {word.split()[0]}", "write year-month-day, as in 2027-01-31")
    return Entry(zone, (hour,), (minute,), (second,), (year,), (month,), (day,))


def _moment_hint(word: str) -> str:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+", word):
        return f"write a blank for the T: {word.replace('T', ' ')}"
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", word):
        return f"add the time of day: at {word} 00:00"
    if re.match(r"[0-9]{1,2}(:[0-9]{2})? ?[AaPp][Mm]", word):
        return "write times from 00:00 to 23:59"
    if re.search(r"[A-Za-z]+/[A-Za-z]|UTC", word):
        return "give the zone with the key `timezone`"
    return "write at 11:30, at 11:30, 14:00 or at 2027-01-01 08:00"
