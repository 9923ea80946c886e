"""Entries as OnCalendar= values with which systemd keeps the daylight saving policy of daylight.py.

Measured on systemd 252, 257 and 262 (all three alike): a line in local time skips what falls into a spring gap and
runs in the first pass of an autumn overlap; but looked at during the second pass (another line has just fired), it
runs in that pass again. Where summer is the standard time, as in Europe/Dublin, a line whose time falls into a spring
gap may skip the rest of that day too: mktime(3) moves the time out of the gap to the side that is not standard time,
and systemd refuses to go back. Where a gap of an hour ends within an hour, as in Pacific/Chatham, the rest of that
hour is skipped. A line of nothing but times that no clock ever shows is an error. So what local lines lack is added in
UTC, and what they would repeat is taken out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdcron.daylight import Occasion, has_changes, is_ever_shown, is_utc, occasions, offsets
from sdcron.entries import (
    DAY,
    EVERY_WEEKDAY,
    FIRST_YEAR,
    LAST_YEAR,
    Entry,
    Times,
    clipped,
    month_length,
    products,
    shifted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def calendar_lines(entries: tuple[Entry, ...], local_zone: str) -> tuple[str, ...]:
    """The OnCalendar= values of a schedule on a machine in `local_zone`, without repetitions."""
    lines: dict[str, None] = {}
    for entry in entries:
        if is_utc(entry.zone) and is_utc(local_zone):
            lines[entry.text()] = None
            continue
        for line in _entry_lines(entry, entries, local_zone):
            lines[line] = None
    return tuple(lines)


def _entry_lines(entry: Entry, entries: tuple[Entry, ...], local_zone: str) -> Iterator[str]:
    changing = has_changes(entry.zone)
    utc_suffix = "" if is_utc(local_zone) else " UTC"
    suffix = "" if entry.zone == local_zone else utc_suffix if is_utc(entry.zone) else f" {entry.zone}"
    in_utc = _in_utc(entry) if changing or entry.zone != local_zone else ()
    if in_utc:
        yield from (part.text(utc_suffix) for part in in_utc)
        return
    if not changing:
        yield entry.text(suffix)
        return
    yield from _base_lines(entry, entries, suffix, utc_suffix)
    for occasion in occasions(entry.zone):
        extra = _second_pass(entry, occasion) if entry.steps else _at_jump(entry, occasion)
        yield from (line.text(utc_suffix, ranges=True) for line in (*extra, *_rest_of_day(entry, occasion)))


def _in_utc(entry: Entry) -> tuple[Entry, ...]:
    """The same instants in UTC, if they are the same with every offset of the zone; else nothing.

    So it is for entries that run every hour of every day, where all offsets are whole hours apart, or where the
    minutes hide the difference. systemd before 257.5 spins on such lines in Europe/Dublin (systemd issue 32039), and
    before 257 forks for every line in a foreign zone.
    """
    if len(entry.hours) != 24 or not entry.is_daily():
        return ()
    moved = {frozenset(shifted(entry.times(), -offset % DAY)) for offset in offsets(entry.zone)}
    if len(moved) != 1:
        return ()
    return tuple(replace(entry.at(times), zone="UTC") for times in sorted(moved.pop()))


def _at_jump(entry: Entry, occasion: Occasion) -> Iterator[Entry]:
    """The jump of a spring gap, on the dates on which a time of the entry falls into the gap.

    Not on dates on which the entry runs at that very instant anyway.
    """
    if occasion.after <= occasion.before:
        return
    kept: set[tuple[int, int]] = set()
    for shift, start, end in _local_days(occasion.second + occasion.before, occasion.second + occasion.after):
        if _some_between(entry, start, end):
            kept.update(_fitting(entry, occasion, shift))
    landing, time = divmod(occasion.second + occasion.after, DAY)
    if entry.time_from(time) == time:
        kept.difference_update(_fitting(entry, occasion, landing))
    second = occasion.second
    times = ((second // 3600,), (second // 60 % 60,), (second % 60,))
    yield from _dated(entry, occasion, kept, 0, (times,))


def _rest_of_day(entry: Entry, occasion: Occasion) -> Iterator[Entry]:
    """The times after a spring gap which a local line skips along with those inside it.

    The local line may have some of them too: an instant that two lines name is one run.
    """
    gap = occasion.after - occasion.before
    if gap <= 0:
        return
    for shift, start, end in _local_days(occasion.second + occasion.before, occasion.second + occasion.after):
        until = end
        if occasion.to_standard and _some_between(entry, start, end):
            until = DAY
        elif end % 3600 and gap >= 3600:  # the hour itself is moved into the next one
            until = end - end % 3600 + 3600
        dates = _fitting(entry, occasion, shift) if _some_between(entry, end, until) else set()
        if dates:
            yield from _wall_lines(entry, occasion, dates, shift, (end, until), occasion.after)


def _second_pass(entry: Entry, occasion: Occasion) -> Iterator[Entry]:
    """The second pass of an autumn overlap, which systemd's local lines leave out."""
    if occasion.after >= occasion.before:
        return
    for shift, start, end in _local_days(occasion.second + occasion.after, occasion.second + occasion.before):
        dates = _fitting(entry, occasion, shift)
        if dates:
            yield from _wall_lines(entry, occasion, dates, shift, (start, end), occasion.after)


def _wall_lines(
    entry: Entry, occasion: Occasion, dates: set[tuple[int, int]], shift: int, span: tuple[int, int], offset: int
) -> Iterator[Entry]:
    """The times of the entry in `span` (local seconds of the day) at a zone offset, as entries in UTC."""
    by_day: dict[int, list[int]] = {}
    for hours, minutes, seconds in clipped(entry.times(), *span):
        for hour in hours:
            for minute in minutes:
                start = shift * DAY + hour * 3600 + minute * 60 - offset
                by_day.setdefault(start // DAY, []).extend([start % DAY + second for second in seconds])
    for day, times in by_day.items():
        yield from _dated(entry, occasion, dates, day, products(times))


def _local_days(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Cut local seconds [start, end), counted from midnight of the date in UTC, at the midnights in between."""
    for shift in range(start // DAY, (end - 1) // DAY + 1):
        yield shift, max(start - shift * DAY, 0), min(end - shift * DAY, DAY)


def _some_between(entry: Entry, start: int, end: int) -> bool:
    time = entry.time_from(start)
    return time is not None and time < end


def _moved_date(occasion: Occasion, date: tuple[int, int], shift: int) -> tuple[int, int]:
    """The (month, day) `shift` days later. Yearly rules keep clear of February and the year's ends."""
    if not shift:
        return date
    month, day = date[0], date[1] + shift
    year = occasion.year or 2001
    if day < 1:
        return (month - 1 or 12, month_length(year, month - 1 or 12) + day)
    if day > month_length(year, month):
        return (month % 12 + 1, day - month_length(year, month))
    return (month, day)


def _fitting(entry: Entry, occasion: Occasion, shift: int) -> set[tuple[int, int]]:
    """The occasion's dates (in UTC) for which the date `shift` days later fits the entry."""
    if occasion.year and entry.years and occasion.year not in entry.years:
        return set()
    weekday = (occasion.weekday + shift) % 7
    return {date for date in occasion.dates if entry.fits(occasion.year, *_moved_date(occasion, date, shift), weekday)}


def _dated(
    entry: Entry, occasion: Occasion, dates: Iterable[tuple[int, int]], shift: int, times: Iterable[Times]
) -> Iterator[Entry]:
    """`times` in UTC on `dates` moved by `shift` days: an entry for each month and each product of times."""
    days_of: dict[int, list[int]] = {}
    for month, day in sorted(_moved_date(occasion, date, shift) for date in dates):
        days_of.setdefault(month, []).append(day)
    # The one date of one year needs no weekday.
    weekdays = EVERY_WEEKDAY if occasion.year else ((occasion.weekday + shift) % 7,)
    years = (occasion.year,) if occasion.year else entry.years
    for month, days in days_of.items():
        for hours, minutes, seconds in times:
            yield Entry("UTC", hours, minutes, seconds, years, (month,), tuple(days), weekdays=weekdays)


def _base_lines(entry: Entry, entries: tuple[Entry, ...], suffix: str, utc_suffix: str) -> Iterator[str]:
    """The entry in local time; where systemd would take the wrong pass of an overlap, the first pass in UTC instead."""
    local = [entry]
    first_pass: list[Entry] = []
    wakes = not entry.steps and any(other.steps or other.zone != entry.zone for other in entries)
    for occasion in occasions(entry.zone):
        if occasion.after >= occasion.before:
            continue
        for shift, start, end in _local_days(occasion.second + occasion.after, occasion.second + occasion.before):
            dates = _fitting(entry, occasion, shift) if _some_between(entry, start, end) else set()
            moved = {_moved_date(occasion, date, shift) for date in dates}
            if dates and (wakes or _may_take_second(entry, moved, start)):
                weekday = (occasion.weekday + shift) % 7
                taken = _without_in if occasion.year else _without
                local = [part for one in local for part in taken(one, occasion, moved, weekday, (start, end))]
                first_pass += _wall_lines(entry, occasion, dates, shift, (start, end), occasion.before)
    yield from (one.text(suffix) for one in local if is_ever_shown(one))
    yield from (one.text(utc_suffix, ranges=True) for one in first_pass)


def _may_take_second(entry: Entry, dates: set[tuple[int, int]], start: int) -> bool:
    """Whether systemd may come to the second pass of an overlap from before the first, and leave out the first.

    It does (seen in Europe/Berlin) when it counts days from the end of a month, and (seen in America/Havana) when it
    skips months from winter straight to a first of a month whose midnight happens twice: mktime(3) takes an ambiguous
    time to have the offset that it met last.
    """
    skips_months = len(entry.months) < 12 or bool(entry.years)
    return entry.from_end or (start == 0 and skips_months and any(day == 1 for _, day in dates))


def _without_in(
    entry: Entry, occasion: Occasion, dates: set[tuple[int, int]], weekday: int, span: tuple[int, int]
) -> Iterator[Entry]:
    """As _without, in the year of the occasion alone."""
    years = entry.years or tuple(range(FIRST_YEAR, LAST_YEAR + 1))
    if occasion.year not in years:
        yield entry
        return
    others = tuple(year for year in years if year != occasion.year)
    if others:
        yield replace(entry, years=others)
    yield from _without(replace(entry, years=(occasion.year,)), occasion, dates, weekday, span)


def _without(
    entry: Entry, occasion: Occasion, dates: set[tuple[int, int]], weekday: int, span: tuple[int, int]
) -> Iterator[Entry]:
    """The entry without the times in `span` on those of `dates` that are a `weekday`."""
    months = tuple(sorted({month for month, _ in dates} & set(entry.months)))
    others = tuple(month for month in entry.months if month not in months)
    if others:
        yield replace(entry, months=others)
    for month in months:
        days = _month_days(entry, occasion.year or 2001, month)
        hit = tuple(day for day in days if (month, day) in dates)
        rest = tuple(day for day in days if (month, day) not in dates)
        dated = replace(entry, months=(month,), from_end=False)
        if rest:
            yield replace(dated, days=rest)
        if not hit:
            continue
        if weekday not in entry.weekdays:
            yield replace(dated, days=hit)
            continue
        weekdays = tuple(day for day in entry.weekdays if day != weekday)
        if weekdays and not occasion.year:
            yield replace(dated, days=hit, weekdays=weekdays)
        outside = clipped(entry.times(), 0, span[0]) + clipped(entry.times(), span[1], DAY)
        for times in outside:
            yield replace(dated.at(times), days=hit, weekdays=(weekday,))


def _month_days(entry: Entry, year: int, month: int) -> tuple[int, ...]:
    """The entry's days in a month as days from its start."""
    length = month_length(year, month)
    if not entry.days:
        return tuple(range(1, length + 1))
    days = (length + 1 - day for day in entry.days) if entry.from_end else iter(entry.days)
    return tuple(sorted(day for day in days if 1 <= day <= length))
