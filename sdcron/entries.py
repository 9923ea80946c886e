"""The normal form of every schedule: an Entry is a set of dates times a set of times of day, in one time zone.

Owns matching an entry against wall-clock time and writing it as one OnCalendar= value. Knows nothing of
daylight saving time: walls here are plain seconds since 1970-01-01 00:00 on a clock that never jumps.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache

from sdcron.errors import ScheduleError

DAY = 86400  # seconds
EVERY_MONTH = tuple(range(1, 13))
EVERY_WEEKDAY = tuple(range(7))
EVERY_HOUR = tuple(range(24))
EVERY_MINUTE = tuple(range(60))
WEEKDAY_NAMES = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
FIRST_YEAR, LAST_YEAR = 1970, 2199  # systemd's MIN_YEAR and MAX_YEAR (src/shared/calendarspec.c)

_EPOCH = date(1970, 1, 1).toordinal()
_TWO_DIGITS = tuple(f"{number:02d}" for number in range(60))

Times = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # hours, minutes, seconds: their product


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a schedule.

    `index` says which text of the list (from 0; -1: the time zone or the spread, not a text), `column` is the
    offset in that text (from 0), `hint` says what to write instead.
    """

    index: int
    column: int
    message: str
    hint: str = ""


class ScheduleMistakes(ScheduleError):
    """A schedule that cannot be read; `mistakes` carries everything that is wrong with it, in order."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("; ".join(mistake.message for mistake in mistakes), mistakes[0].hint)
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Entry:
    """Every time of day in hours x minutes x seconds, on every date that fits, on the clocks of `zone`.

    All tuples are sorted. Empty `years` or `days` mean any. With `from_end`, days count from the end of the
    month (1 is the last day). Weekdays count from Sunday = 0. `steps` chooses the daylight saving policy: a
    stepping entry follows the wall clock wherever it goes, any other one runs once for each wall-clock time.
    """

    zone: str
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...] = (0,)
    years: tuple[int, ...] = ()
    months: tuple[int, ...] = EVERY_MONTH
    days: tuple[int, ...] = ()
    from_end: bool = False
    weekdays: tuple[int, ...] = EVERY_WEEKDAY
    steps: bool = False

    def is_daily(self) -> bool:
        """Whether every date fits."""
        every_day = not self.days or (len(self.days) == 31 and not self.from_end)
        return every_day and len(self.weekdays) == 7 and len(self.months) == 12 and not self.years

    def times(self) -> Times:
        """The times of day, as a product of hours, minutes and seconds."""
        return self.hours, self.minutes, self.seconds

    def at(self, times: Times) -> Entry:
        """The same dates with other times of day."""
        return replace(self, hours=times[0], minutes=times[1], seconds=times[2])

    def last_time(self) -> int:
        """The latest time of day, in seconds."""
        return self.hours[-1] * 3600 + self.minutes[-1] * 60 + self.seconds[-1]

    def fits(self, year: int, month: int, day: int, weekday: int) -> bool:
        """Whether the date fits; with year 0 the year is left out (then `month` must not be February)."""
        if self.years and year and year not in self.years:
            return False
        if month not in self.months or weekday not in self.weekdays:
            return False
        if not self.days:
            return True
        return (month_length(year or 2001, month) + 1 - day if self.from_end else day) in self.days

    def time_from(self, second: int) -> int | None:
        """The first time of day at or after `second` (both in seconds since midnight)."""
        hour, rest = divmod(second, 3600)
        minute, low = divmod(rest, 60)
        at = bisect_left(self.hours, hour)
        if at < len(self.hours) and self.hours[at] == hour:
            spot = bisect_left(self.minutes, minute)
            if spot < len(self.minutes) and self.minutes[spot] == minute:
                place = bisect_left(self.seconds, low)
                if place < len(self.seconds):
                    return hour * 3600 + minute * 60 + self.seconds[place]
                spot += 1
            if spot < len(self.minutes):
                return hour * 3600 + self.minutes[spot] * 60 + self.seconds[0]
            at += 1
        if at == len(self.hours):
            return None
        return self.hours[at] * 3600 + self.minutes[0] * 60 + self.seconds[0]

    def date_from(self, day: int) -> int | None:
        """The first date that fits at or after `day` (both in days since 1970-01-01), None after LAST_YEAR."""
        start = date.fromordinal(day + _EPOCH)
        if start.year > LAST_YEAR:
            return None
        if self.is_daily():
            return day
        for year in self._years_from(start.year):
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                before_first = date(year, month, 1).toordinal() - _EPOCH - 1
                for month_day in self._days_of(month_length(year, month)):
                    found = before_first + month_day
                    if found >= day and (found + 4) % 7 in self.weekdays:  # 1970-01-01 was a Thursday
                        return found
        return None

    def _years_from(self, year: int) -> tuple[int, ...] | range:
        if self.years:
            return self.years[bisect_left(self.years, year) :]
        # Dates repeat within 40 years (29 February on one weekday across 2100): no need to look further.
        return range(year, min(year + 41, LAST_YEAR + 1))

    def _days_of(self, length: int) -> list[int] | range:
        if not self.days:
            return range(1, length + 1)
        if self.from_end:
            return [length + 1 - day for day in reversed(self.days) if day <= length]
        return [day for day in self.days if day <= length]

    def wall_from(self, wall: int) -> int | None:
        """The first matching wall-clock second at or after `wall`, None when there is none up to LAST_YEAR."""
        day, second = divmod(wall, DAY)
        found = self.date_from(day)
        if found == day:
            time = self.time_from(second)
            if time is not None:
                return day * DAY + time
            found = self.date_from(day + 1)
        if found is None:
            return None
        return found * DAY + self.hours[0] * 3600 + self.minutes[0] * 60 + self.seconds[0]

    def ever_fires(self) -> bool:
        """Whether any date fits at all: 31 February does not."""
        if self.is_daily() or (not self.years and not self.days):
            return True
        return self.date_from(0) is not None

    def text(self, suffix: str = "", *, ranges: bool = False) -> str:
        """One OnCalendar= value: sorted lists (with `ranges`, runs of days as a..b), full sets as `*`."""
        weekdays = "" if len(self.weekdays) == 7 else ",".join([WEEKDAY_NAMES[day] for day in self.weekdays]) + " "
        years = _years_text(self.years) if self.years else "*"
        months = "*" if len(self.months) == 12 else _list_text(self.months)
        if not self.days:
            days = "*"
        elif ranges and len(self.days) > 2 and self.days[-1] - self.days[0] == len(self.days) - 1:
            days = f"{self.days[0]:02d}..{self.days[-1]:02d}"
        else:
            days = _list_text(self.days)
        hours = "*" if len(self.hours) == 24 else _list_text(self.hours)
        minutes = "*" if len(self.minutes) == 60 else _list_text(self.minutes)
        seconds = "*" if len(self.seconds) == 60 else _list_text(self.seconds)
        dash = "~" if self.from_end else "-"
        return f"{weekdays}{years}-{months}{dash}{days} {hours}:{minutes}:{seconds}{suffix}"


def _list_text(numbers: tuple[int, ...]) -> str:
    return ",".join([_TWO_DIGITS[number] for number in numbers])


def _years_text(years: tuple[int, ...]) -> str:
    parts: list[str] = []
    start = previous = years[0]
    for year in (*years[1:], 0):
        if year == previous + 1:
            previous = year
            continue
        parts.append(str(start) if start == previous else f"{start}..{previous}")
        start = previous = year
    return ",".join(parts)


@lru_cache(maxsize=4096)
def month_length(year: int, month: int) -> int:
    """The number of days in a month."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def day_number(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    return date(year, month, day).toordinal() - _EPOCH


def products(times: set[int] | range | list[int]) -> tuple[Times, ...]:
    """Times of day (seconds since midnight) as few products of hours, minutes and seconds, in order."""
    seconds_of: dict[tuple[int, int], list[int]] = {}
    for time in sorted(times):
        seconds_of.setdefault((time // 3600, time // 60 % 60), []).append(time % 60)
    minutes_of: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for (hour, minute), seconds in seconds_of.items():
        minutes_of.setdefault(hour, {}).setdefault(tuple(seconds), []).append(minute)
    hours_of: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for hour, groups in minutes_of.items():
        for seconds_group, minutes in groups.items():
            hours_of.setdefault((tuple(minutes), seconds_group), []).append(hour)
    return tuple((tuple(hours), minutes, seconds) for (minutes, seconds), hours in hours_of.items())


def clipped(times: Times, start: int, end: int) -> tuple[Times, ...]:
    """The part of `times` in [start, end), both in seconds since midnight."""
    hours, minutes, seconds = times
    whole = tuple(hour for hour in hours if start <= hour * 3600 and hour * 3600 + 3600 <= end)
    parts: list[Times] = [(whole, minutes, seconds)] if whole else []
    for hour in hours:
        if hour in whole or hour * 3600 >= end or hour * 3600 + 3600 <= start:
            continue
        kept = {hour * 3600 + minute * 60 + second for minute in minutes for second in seconds}
        parts += products({time for time in kept if start <= time < end})
    return tuple(parts)


def shifted(times: Times, offset: int) -> tuple[Times, ...]:
    """`times` moved by `offset` seconds, around midnight where they leave the day."""
    hours, minutes, seconds = times
    moved: dict[tuple[int, ...], dict[tuple[int, ...], set[int]]] = {}
    for carried, second_group in _moved(seconds, offset % 60, 60):
        for carried_hour, minute_group in _moved(minutes, offset // 60 % 60 + carried, 60):
            hour_group = tuple(sorted((hour + offset // 3600 + carried_hour) % 24 for hour in hours))
            moved.setdefault(second_group, {}).setdefault(hour_group, set()).update(minute_group)
    seconds_of: dict[tuple[tuple[int, ...], tuple[int, ...]], set[int]] = {}
    for second_group, groups in moved.items():
        for hour_group, found in groups.items():
            seconds_of.setdefault((hour_group, tuple(sorted(found))), set()).update(second_group)
    return tuple((hour_set, minute_set, tuple(sorted(group))) for (hour_set, minute_set), group in seconds_of.items())


def _moved(numbers: tuple[int, ...], offset: int, size: int) -> list[tuple[int, tuple[int, ...]]]:
    """`numbers` plus `offset`, in groups by how often they overflow `size`."""
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault((number + offset) // size, []).append((number + offset) % size)
    return [(carried, tuple(group)) for carried, group in groups.items()]
