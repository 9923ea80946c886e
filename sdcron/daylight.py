"""When a zone's clocks change, and what that does to an entry: the daylight saving policy, in one place.

A fixed entry whose wall-clock time falls into a spring gap runs at the instant of the jump; in an autumn overlap it
runs in the first pass only. A stepping entry runs whenever the wall clock matches: twice in an overlap, never in a gap.
Reads zone data through zoneinfo and nothing else; instants are whole seconds since the Unix epoch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from sdcron.entries import DAY, LAST_YEAR, Entry, day_number

# Clock changes are written out, or found to follow a rule, for these years. Constants, so that the same job file
# always compiles to the same units.
WINDOW = range(2026, 2038)
_RULE_WINDOW = range(2026, 2054)  # 28 years: in any such stretch each weekday falls on each date
UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal"})

_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_PROBE = 5 * DAY  # changes are searched in stretches of this length; none comes back sooner


@dataclass(frozen=True, slots=True)
class Change:
    """Clocks change at `instant` from `before` to `after` seconds east of UTC.

    `to_standard`: what follows counts as standard time. So it is in autumn, but in Europe/Dublin and Africa/Casablanca,
    where winter and Ramadan are the exception, in spring.
    """

    instant: int
    before: int
    after: int
    to_standard: bool


@dataclass(frozen=True, slots=True)
class Occasion:
    """A clock change on one of several dates in UTC: each year's (`year` 0), or that of one year.

    `dates` are (month, day) pairs of which the one on `weekday` (Sunday = 0) is meant; for one year there is only one.
    `second` is the time of day in UTC, `before` and `after` are offsets; all in seconds. `to_standard` as in Change.
    """

    year: int
    dates: tuple[tuple[int, int], ...]
    weekday: int
    second: int
    before: int
    after: int
    to_standard: bool


def is_utc(zone: str) -> bool:
    """Whether the zone is another name of UTC, for which no zone data is needed."""
    return zone in UTC_NAMES


@lru_cache(maxsize=1024)
def zone_exists(zone: str) -> bool:
    """Whether the IANA time zone database has this name, spelled exactly so."""
    if is_utc(zone):
        return True
    if not _ZONE_NAME.fullmatch(zone):
        return False
    from zoneinfo import ZoneInfo  # here: most machines run in UTC and never need it

    try:
        ZoneInfo(zone)
    except (OSError, ValueError, KeyError):  # not there; a directory; not a zone file
        return False
    return True


@lru_cache(maxsize=1024)
def zone_clock(zone: str) -> tzinfo:
    """The zone for use in datetimes. The zone must exist."""
    if is_utc(zone):
        return UTC
    from zoneinfo import ZoneInfo  # here: see zone_exists

    return ZoneInfo(zone)


def _offset(zone: str, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone_clock(zone)).utcoffset() or timedelta(0)
    return offset // timedelta(seconds=1)


@lru_cache(maxsize=8192)
def changes(zone: str, year: int) -> tuple[Change, ...]:
    """Every change of the zone's offset in a year (in UTC), in order."""
    found: list[Change] = []
    start, end = day_number(year, 1, 1) * DAY - 1, day_number(year + 1, 1, 1) * DAY - 1
    before = _offset(zone, start)
    for stop in range(start + _PROBE, end + _PROBE, _PROBE):
        after = _offset(zone, min(stop, end))
        if after != before:
            low, high = stop - _PROBE, min(stop, end)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            standard = not datetime.fromtimestamp(high, zone_clock(zone)).dst()
            found.append(Change(high, before, after, standard))
            before = after
    return tuple(found)


@lru_cache(maxsize=1024)
def has_changes(zone: str) -> bool:
    """Whether the zone's clocks change in the years that schedules are compiled for."""
    return not is_utc(zone) and any(changes(zone, year) for year in _RULE_WINDOW)


@lru_cache(maxsize=1024)
def offsets(zone: str) -> tuple[int, ...]:
    """Every offset from UTC that the zone has in the years that schedules are compiled for, in seconds."""
    if is_utc(zone):
        return (0,)
    found = {_offset(zone, day_number(WINDOW[0], 1, 1) * DAY)}
    found.update(change.after for year in _RULE_WINDOW for change in changes(zone, year))
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def occasions(zone: str) -> tuple[Occasion, ...]:
    """The zone's clock changes to come: as yearly rules if all of them follow one, else each one in WINDOW."""
    if not has_changes(zone):
        return ()
    return _rules(zone) or tuple(_occasion(change) for year in WINDOW for change in changes(zone, year))


def _rules(zone: str) -> tuple[Occasion, ...] | None:
    years = [tuple(_occasion(change) for change in changes(zone, year)) for year in _RULE_WINDOW]
    if len({len(year) for year in years}) != 1:
        return None
    rules: list[Occasion] = []
    for same in zip(*years, strict=True):
        alike = {replace(occasion, year=0, dates=()) for occasion in same}
        dates = tuple(sorted({occasion.dates[0] for occasion in same}))
        numbers = [day_number(2001, month, day) for month, day in dates]
        # A rule such as "the last Sunday of March": seven dates in a row, clear of February and of the year's ends
        # (the dates a day either side are looked at, and must not depend on the year).
        if len(alike) != 1 or len(dates) != 7 or numbers[-1] - numbers[0] != 6:
            return None
        if numbers[0] < day_number(2001, 3, 2) or numbers[-1] > day_number(2001, 12, 30):
            return None
        rules.append(replace(same[0], year=0, dates=dates))
    return tuple(rules)


def _occasion(change: Change) -> Occasion:
    moment = datetime.fromtimestamp(change.instant, UTC)
    weekday = moment.isoweekday() % 7
    return Occasion(
        moment.year,
        ((moment.month, moment.day),),
        weekday,
        change.instant % DAY,
        change.before,
        change.after,
        change.to_standard,
    )


@lru_cache(maxsize=8192)
def _nearby(zone: str, year: int) -> tuple[Change, ...]:
    return tuple(change for near in (year - 1, year, year + 1) for change in changes(zone, near))


def is_ever_shown(entry: Entry) -> bool:
    """Whether the clocks of its zone ever show a time of the entry: 02:30 on the last Sunday of March, in Berlin never.

    Looks from the entry's first year on, or from the years that schedules are compiled for.
    """
    if entry.is_daily() or not has_changes(entry.zone):
        return True
    first = day_number((entry.years or WINDOW)[0], 1, 1) * DAY
    return next_instant(replace(entry, steps=True), first - DAY - 1) is not None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Instants in [start, end) have the offset `offset`; `before` and `after` are those of the neighbours."""

    start: int
    end: int
    before: int
    offset: int
    after: int


def _stretch(zone: str, instant: int) -> _Stretch:
    year = datetime.fromtimestamp(instant, UTC).year
    start, end = day_number(year - 1, 1, 1) * DAY, day_number(year + 2, 1, 1) * DAY
    before = offset = _offset(zone, instant)
    for change in _nearby(zone, year):
        if change.instant > instant:
            return _Stretch(start, change.instant, before, offset, change.after)
        start, before = change.instant, change.before
    return _Stretch(start, end, before, offset, offset)


def next_instant(entry: Entry, instant: int) -> int | None:
    """The first instant after `instant` at which the entry fires, by the policy above; None when there is none."""
    if is_utc(entry.zone):
        return entry.wall_from(instant + 1)
    while True:
        if datetime.fromtimestamp(instant, UTC).year > LAST_YEAR:
            return None
        stretch = _stretch(entry.zone, instant + 1)
        low = instant + 1 + stretch.offset
        if not entry.steps and stretch.before > stretch.offset:
            low = max(low, stretch.start + stretch.before)  # the second pass of an overlap
        wall = entry.wall_from(low)
        turns_back = entry.steps and stretch.after < stretch.offset
        if wall is None and not turns_back:
            return None
        if wall is not None and wall - stretch.offset < stretch.end:
            return wall - stretch.offset
        if wall is not None and not entry.steps and wall < stretch.end + stretch.after:
            return stretch.end  # in a gap
        # Nothing matches up to `wall`: go on shortly before it. But an overlap to come turns the clock back first.
        if wall is None or turns_back:
            instant = stretch.end - 1
        else:
            instant = max(stretch.end, wall - stretch.offset - 2 * DAY) - 1
