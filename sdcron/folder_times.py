"""What the names of PyCron's folders say of times: `1day` and `at0730` as texts for a schedule.

The names are those of PyCron 0.1.4 (github.com/Willd14469/PyCron, pycron/jobs/jobs.py). A folder is `<N>min`,
`<N>hour`, `<N>day` or `<N>week`, in small letters and without a plural. In it may lie `at<HHMM>` folders: for days and
weeks that is the time of day, for hours the minute (HH is 00), for minutes it means nothing. PyCron takes no hour whose
second digit is above 3, by a slip in its pattern; here at0730 is a time as well.

PyCron counts from the end of a job's last run. Here times are fixed, as for every job. Days begin at local midnight and
weeks on Sunday; what is shorter counts from midnight UTC, or from local midnight if it has a minute (`2hour/at0030`).
What does not divide a day (above a day: a week) is counted from its start, so that one gap of it differs; a warning
says how long that is. What is above a week is rounded to whole days, with a warning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta

from sdcron.entries import WEEKDAY_NAMES
from sdcron.intervals import Interval, parse_every
from sdcron.job_values import RefusedValueError
from sdcron.span import span

_EVERY = re.compile(r"([0-9]+)(min|hour|day|week)")
_AT = re.compile(r"at([01][0-9]|2[0-3])([0-5][0-9])")

_DAY, _WEEK = 1440, 10080  # minutes
_MINUTES = {"min": 1, "hour": 60, "day": _DAY, "week": _WEEK}
_MOST_DAYS = 366  # as in `every 366d`


@dataclass(frozen=True, slots=True)
class FolderTimes:
    """What the names of folders say: texts for a schedule, in `timezone` (None: the machine's).

    `interval` is the time between runs as the name has it. `warnings` say where the texts, or the names, mean less.
    """

    texts: tuple[str, ...]
    interval: timedelta
    timezone: str | None = None
    warnings: tuple[str, ...] = ()


def folder_times(every: str, at: str = "") -> FolderTimes:
    """The times that the names of a folder and of the `at` folder in it stand for.

    Raises RefusedValueError for a name that stands for none, the second if there is one.
    """
    named = _EVERY.fullmatch(every)
    if not named:
        raise RefusedValueError("does not say how often its scripts run", _every_hint(every))
    count, unit = int(named[1]), named[2]
    minutes = count * _MINUTES[unit]
    if not minutes:
        raise RefusedValueError("must be longer than nothing", f"rename it to 1{unit}")
    if minutes > _MOST_DAYS * _DAY:
        raise RefusedValueError(f"is longer than {_MOST_DAYS} days", "name a shorter time, such as 4week")
    time = _AT.fullmatch(at)
    if at and not time:
        raise RefusedValueError("is not a time of day", _at_hint(at))
    interval = timedelta(minutes=minutes)
    hour, minute = (int(time[1]), int(time[2])) if time else (0, 0)
    if time is None:
        return _every(interval)
    if unit == "min":
        found = _every(interval)
        ignored = (
            f"a time of day means nothing for minutes: this runs every {span(interval)}, as what is in {every} does"
        )
        return replace(found, warnings=(ignored, *found.warnings))
    if unit == "hour":
        found = _each_hours(count, minute, interval)
        ignored = f"the hour means nothing in {every}: this runs at the minute {minute:02d} alone"
        return replace(found, warnings=(ignored, *found.warnings)) if hour else found
    return FolderTimes(_days_at(minutes // _DAY, hour, minute), interval)


def _every(interval: timedelta) -> FolderTimes:
    """Times without a time of day."""
    minutes = interval // timedelta(minutes=1)
    if minutes % _DAY == 0 or minutes > _WEEK:
        days, warnings = _whole_days(interval)
        text = f"every {days}d" if days % 7 else f"every {days // 7}w"
        return FolderTimes((text,), interval, warnings=warnings)
    text = f"every {minutes}m" if minutes % 60 else f"every {minutes // 60}h"
    if isinstance(parse_every(text), Interval):
        return FolderTimes((text,), interval)
    texts, warnings = _counted(interval, 0, "midnight UTC")
    return FolderTimes(texts, interval, "UTC", warnings)


def _each_hours(hours: int, minute: int, interval: timedelta) -> FolderTimes:
    """Times of so many hours at a minute, on local clocks."""
    if hours < 24 and 24 % hours == 0:
        return FolderTimes((f"{minute} {'*' if hours == 1 else f'*/{hours}'} * * *",), interval)
    if hours % 24 == 0 or hours * 60 > _WEEK:
        days, warnings = _whole_days(interval)
        return FolderTimes(_days_at(days, 0, minute), interval, warnings=warnings)
    texts, warnings = _counted(interval, minute, "local midnight")
    return FolderTimes(texts, interval, warnings=warnings)


def _whole_days(interval: timedelta) -> tuple[int, tuple[str, ...]]:
    """The nearest number of days, and a warning if it is not the same."""
    days = round(interval / timedelta(days=1))
    same = interval == timedelta(days=days)
    return days, () if same else (f"{span(interval)} is not a number of days: this runs every {days} days",)


def _days_at(days: int, hour: int, minute: int) -> tuple[str, ...]:
    """So many days at a time of day, on the dates of `every Nd`."""
    if days == 1:
        return (f"at {hour:02d}:{minute:02d}",)
    length = f"{days}d" if days % 7 else f"{days // 7}w"
    return (f"every {length} at {hour:02d}:{minute:02d}",)


def _counted(interval: timedelta, offset: int, midnight: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Times counted from the start of every day or week, and a warning unless the interval divides it evenly.

    `offset` is in minutes. The one gap that differs is no shorter than half of the others.
    """
    minutes = interval // timedelta(minutes=1)
    weekly = minutes > _DAY or (minutes % 60 == 0 and _WEEK % minutes == 0)
    period, word = (_WEEK, "week") if weekly else (_DAY, "day")
    times = list(range(offset, period, minutes))
    if (offset + period - times[-1]) * 2 < minutes:
        times.pop()
    gap = timedelta(minutes=offset + period - times[-1])
    warnings: tuple[str, ...] = ()
    if gap != interval:
        start = f"Sunday, {midnight}" if weekly else midnight
        uneven = f"{span(interval)} does not divide a {word} evenly"
        warnings = (f"{uneven}: it is counted from {start}, and the last gap of a {word} is {span(gap)}",)
    if not weekly:
        return ("at " + ", ".join(f"{time // 60:02d}:{time % 60:02d}" for time in times),), warnings
    hours_of: dict[tuple[int, int], list[str]] = {}  # weekday and minute -> hours
    for time in times:
        hours_of.setdefault((time // _DAY, time % 60), []).append(f"{time % _DAY // 60:02d}")
    lines = ((WEEKDAY_NAMES[day], ",".join(hours), minute) for (day, minute), hours in hours_of.items())
    return tuple(f"{weekday} {hours}:{minute:02d}" for weekday, hours, minute in lines), warnings


def _every_hint(name: str) -> str:
    near = re.fullmatch(r"([0-9]{1,9})[ _-]*(m|h|d|w|min|hour|day|week|minute|hr)s?", name, re.IGNORECASE)
    if near:
        unit = next(unit for unit in _MINUTES if unit[0] == near[2][0].lower())
        return f"rename it to {near[1]}{unit}"
    single = {"minutely": "1min", "hourly": "1hour", "daily": "1day", "weekly": "1week"}.get(name.lower())
    return f"rename it to {single}" if single else "folders are called as in 5min, 2hour, 1day or 1week"


def _at_hint(name: str) -> str:
    near = re.fullmatch(r"(?:at)?[ _-]*([0-9]{1,2})[:._h-]?([0-9]{2})", name, re.IGNORECASE)
    if near and _AT.fullmatch(right := f"at{int(near[1]):02d}{near[2]}"):
        return f"rename it to {right}"
    return "a folder in a folder is called as in at0730, from at0000 to at2359"
