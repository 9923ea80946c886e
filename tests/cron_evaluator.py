"""An independent, slow evaluator of cron lines: walks every minute (or second) of UTC and asks whether it fires.

Shares no code and no method with sdcron, so that the two can be compared: zoneinfo turns each instant into wall-clock
time, `fold` tells the passes of an overlap apart, and each field is a function of the time. Takes only valid lines.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "sun mon tue wed thu fri sat".split()

# A wall-clock time is one number that reads as it is written: 20270328023000.
_DATE = 10**6


@dataclass(frozen=True)
class Walk:
    """What a zone's clocks show at each instant: the time, its pass (0 or 1), and the times that a jump skipped."""

    walls: array[int]
    passes: bytes
    skipped: dict[int, list[int]]


def _wall(moment: datetime) -> int:
    date = moment.year * 10**4 + moment.month * 10**2 + moment.day
    return date * _DATE + moment.hour * 10**4 + moment.minute * 10**2 + moment.second


@lru_cache(maxsize=8)
def _walk(zone: str, start: int, end: int, unit: int) -> Walk:
    clock = ZoneInfo(zone)
    walls = array("q")
    passes = bytearray()
    skipped: dict[int, list[int]] = {}
    before = datetime.fromtimestamp(start - 1, clock).utcoffset() or timedelta(0)
    for instant in range(start, end, unit):
        local = datetime.fromtimestamp(instant, clock)
        offset = local.utcoffset() or timedelta(0)
        if offset > before:
            gap = datetime.fromtimestamp(instant, UTC) + before
            while gap < datetime.fromtimestamp(instant, UTC) + offset:
                skipped.setdefault(instant, []).append(_wall(gap))
                gap += timedelta(seconds=unit)
        before = offset
        walls.append(_wall(local))
        passes.append(local.fold)
    return Walk(walls, bytes(passes), skipped)


class CronLine:
    """One cron line of five fields, or six with the seconds first."""

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        self.has_seconds = len(words) == 6
        second, minute, hour, day, month, weekday = words if self.has_seconds else ["0", *words]
        self.seconds = _numbers(second, 0, 59, [])
        self.minutes = _numbers(minute, 0, 59, [])
        self.hours = _numbers(hour, 0, 23, [])
        self.months = _numbers(month, 1, 12, ["", *MONTHS])
        self.day, self.weekday = day, weekday
        self.times = {h * 10**4 + m * 10**2 + s for h in self.hours for m in self.minutes for s in self.seconds}
        # Every day is decided once: the field functions are slow.
        self.dates: dict[int, bool] = {}
        written = minute + (second if self.has_seconds else "")
        self.steps = len(self.hours) == 24 or any(sign in written for sign in "*-/")

    def _date_fits(self, year: int, month: int, day: int) -> bool:
        if month not in self.months:
            return False
        by_day = any(_day_item(item, year, month, day) for item in self.day.split(","))
        by_weekday = any(_weekday_item(item, year, month, day) for item in self.weekday.split(","))
        if self.day[0] == "*" or self.weekday[0] == "*":
            return by_day and by_weekday
        return by_day or by_weekday

    def fits(self, wall: int) -> bool:
        """Whether the wall-clock time is one of the line's."""
        date, time = divmod(wall, _DATE)
        if time not in self.times:
            return False
        if date not in self.dates:
            self.dates[date] = self._date_fits(date // 10**4, date // 100 % 100, date % 100)
        return self.dates[date]

    def fires(self, zone: str, start: int, end: int) -> list[int]:
        """The instants in [start, end), both whole minutes since the Unix epoch in seconds."""
        unit = 1 if self.has_seconds else 60
        walk = _walk(zone, start, end, unit)
        found = []
        for instant, wall, second_pass in zip(range(start, end, unit), walk.walls, walk.passes, strict=True):
            if self.steps:
                runs = self.fits(wall)
            else:
                skipped = walk.skipped.get(instant, ())
                runs = (self.fits(wall) and not second_pass) or any(self.fits(one) for one in skipped)
            if runs:
                found.append(instant)
        return found


def _numbers(text: str, low: int, high: int, names: list[str]) -> set[int]:
    found: set[int] = set()
    for item in text.split(","):
        base, _, step = item.partition("/")
        first, _, last = base.partition("-")
        if base == "*":
            first, last = str(low), str(high)
        start = names.index(first) if first in names else int(first)
        end = start if not last else names.index(last) if last in names else int(last)
        if last == "sun" and first != "sun":
            end = 7
        found |= {number for number in range(start, end + 1) if (number - start) % int(step or 1) == 0}
    return found


def _month_end(year: int, month: int) -> int:
    return (datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC) - timedelta(days=1)).day


def _day_item(item: str, year: int, month: int, day: int) -> bool:
    if item == "l":
        return day == _month_end(year, month)
    return day in _numbers(item, 1, 31, [])


def _weekday_item(item: str, year: int, month: int, day: int) -> bool:
    weekday = datetime(year, month, day, tzinfo=UTC).isoweekday() % 7
    if "#" in item:
        name, _, nth = item.partition("#")
        return weekday in _weekdays(name) and (day - 1) // 7 + 1 == int(nth)
    if item.endswith("l"):
        return weekday in _weekdays(item[:-1]) and day + 7 > _month_end(year, month)
    return weekday in _weekdays(item)


def _weekdays(text: str) -> set[int]:
    return {number % 7 for number in _numbers(text, 0, 7, WEEKDAYS)}
