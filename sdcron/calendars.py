"""systemd's calendar expressions (systemd.time(7), CALENDAR EVENTS) as entries.

Accepts what `systemd-analyze calendar` accepts, but for fractions of a second, abbreviations of the local zone (they
mean something else on another machine) and instants so old that they are surely meant as something else.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from sdcron.cron import FULL_NAMES, WEEKDAYS
from sdcron.daylight import zone_exists
from sdcron.entries import (
    EVERY_HOUR,
    EVERY_MINUTE,
    EVERY_MONTH,
    EVERY_WEEKDAY,
    FIRST_YEAR,
    LAST_YEAR,
    Entry,
    Mistake,
)

SHORTHANDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
    "semi-annually": "*-01,07-01 00:00:00",
    "biannually": "*-01,07-01 00:00:00",
    "bi-annually": "*-01,07-01 00:00:00",
}

_WORD = re.compile(r"[^ ]+")
_ITEM = re.compile(r"([0-9]+)(?:\.\.([0-9]+))?(?:/([0-9]+))?")
_DATE = re.compile(r"(?:([^-~]+)-)?([^-~]+)([-~])([^-~]+)")
_NUMBER_OF_SECONDS = re.compile(r"@[0-9]+")
_ABBREVIATION = re.compile(r"[A-Z]{3,5}")
_EXAMPLE = "a calendar expression looks like: Mon..Fri *-*-* 08:00"


class _Refused(Exception):
    def __init__(self, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.mistake = Mistake(0, column, message, hint)


def parse_calendar(text: str, zone: str) -> tuple[tuple[Entry, ...], tuple[Mistake, ...]]:
    """The entry of a calendar expression, in its own zone or else in `zone`, or what is wrong (index 0)."""
    try:
        entry = _expression(text, zone)
    except _Refused as refused:
        return (), (refused.mistake,)
    if not entry.ever_fires():
        hint = "the last day of a month is written *-*~01"
        return (), (Mistake(0, 0, f"no date fits '{text.strip()}': it would never run", hint),)
    if entry.from_end:
        return tuple(replace(entry, days=days) for days in _writable_from_end(entry.days)), ()
    return (entry,), ()


def _writable_from_end(days: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Cut a list of days from the end into lists that systemd (252 to 262) reads back.

    Its chain_valid() lowers the highest day by three again for each item, and so refuses ~1,2,23 or ~1,2,3,4,5,6,7,8.
    """
    lists: list[list[int]] = [[]]
    for day in days:
        if day > 31 - 3 * (len(lists[-1]) + 1):
            lists.append([])
        lists[-1].append(day)
    return [tuple(one) for one in lists]


def own_zone(text: str) -> str | None:
    """The zone that the expression itself names, None if it names none."""
    last = text.rstrip(" ").rpartition(" ")[2]
    if last.upper() == "UTC":
        return "UTC"
    return last if last[:1].isalpha() and zone_exists(last) else None


def _expression(text: str, zone: str) -> Entry:
    words = [(found.group(), found.start()) for found in _WORD.finditer(text)]
    named = own_zone(text) if len(words) > 1 else None
    if named:
        words.pop()
        zone = named
    if len(words) == 1 and words[0][0].lower() in SHORTHANDS:
        text = SHORTHANDS[words[0][0].lower()]
        words = [(found.group(), found.start()) for found in _WORD.finditer(text)]
    if len(words) == 1 and _NUMBER_OF_SECONDS.fullmatch(words[0][0]):
        return _instant(*words[0])
    weekdays = EVERY_WEEKDAY
    if words[0][0][:1].isalpha():
        weekdays = _weekdays(*words.pop(0), lonely=len(words) == 0)
    years: tuple[int, ...] = ()
    months, from_end = EVERY_MONTH, False
    days: tuple[int, ...] = ()
    if words and ":" not in words[0][0]:
        years, months, days, from_end = _date(*words.pop(0))
    hours, minutes, seconds, steps = _time(*words.pop(0)) if words else ((0,), (0,), (0,), False)
    if words:
        raise _unexpected(*words[0])
    steps = steps or len(hours) == 24
    return Entry(zone, hours, minutes, seconds, years, months, days, from_end, weekdays, steps)


def _unexpected(word: str, column: int) -> _Refused:
    if _ABBREVIATION.fullmatch(word):
        hint = "name the zone by its place, such as Europe/Berlin: an abbreviation means different zones"
        return _Refused(column, f"'{word}' is not a time zone here", hint)
    if word[:1].isalpha():
        return _Refused(column, f"unknown time zone '{word}'", "zones are named as in Europe/Berlin")
    return _Refused(column, f"'{word}' does not belong here", _EXAMPLE)


def _instant(word: str, column: int) -> Entry:
    """`@SECONDS`: seconds since the Unix epoch, in UTC."""
    number = int(word[1:])
    if not 10**8 <= number < 4 * 10**9:
        raise _Refused(column, f"{word} is not a time to come", "for an interval write: every 5m")
    moment = datetime.fromtimestamp(number, UTC)
    return Entry(
        "UTC", (moment.hour,), (moment.minute,), (moment.second,), (moment.year,), (moment.month,), (moment.day,)
    )


def _weekdays(word: str, column: int, *, lonely: bool) -> tuple[int, ...]:
    """A list of weekdays and ranges of weekdays; weeks begin on Monday. A comma may trail."""
    found: set[int] = set()
    place = column
    for item in (word.removesuffix(",") if word != "," else word).split(","):
        first, dots, last = item.partition(".." if ".." in item else "-")
        start = _weekday(first, place, item, lonely=lonely)
        end = _weekday(last, place, item, lonely=lonely) if dots else start
        if (end - 1) % 7 < (start - 1) % 7:
            until = last if end == 1 else f"Mon..{last}"
            hint = f"a week ends on Sunday: write {first}..Sun,{until}"
            raise _Refused(place, f"the range {item} runs backwards", hint)
        found.update((day + 1) % 7 for day in range((start - 1) % 7, (end - 1) % 7 + 1))
        place += len(item) + 1
    return tuple(sorted(found))


def _weekday(name: str, column: int, item: str, *, lonely: bool) -> int:
    short = name.lower()
    short = FULL_NAMES.get(short, short)
    if short in WEEKDAYS:
        return WEEKDAYS.index(short)
    if lonely:
        raise _Refused(column, f"'{item}' is not a schedule", _HINT_ALL)
    raise _Refused(column, f"'{name}' is not a weekday", "write Mon, Tue, Wed, Thu, Fri, Sat or Sun")


_HINT_ALL = (
    "write a cron line (30 2 * * *), @daily, every 15m, at 11:30, or a calendar expression (Mon..Fri *-*-* 08:00)"
)


def _date(word: str, column: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    found = _DATE.fullmatch(word)
    if not found:
        hint = "cron lines have five fields, dates look like *-*-01" if "*" in word or word.isdigit() else _EXAMPLE
        raise _Refused(column, f"'{word}' is neither a date nor a time", hint)
    year_text, month_text, dash, day_text = found.groups()
    years: tuple[int, ...] = ()
    if year_text and year_text != "*":
        years = _component(year_text, column, "year", FIRST_YEAR, LAST_YEAR)[0]
    months = EVERY_MONTH
    if month_text != "*":
        months = _component(month_text, column + found.start(2), "month", 1, 12)[0]
    if day_text == "*":
        return years, months, (), False
    at = column + found.start(4)
    if dash == "~":
        return years, months, _from_end(day_text, at), True
    days = _component(day_text, at, "day of month", 1, 31)[0]
    return years, months, () if len(days) == 31 else days, False


def _from_end(text: str, column: int) -> tuple[int, ...]:
    """Days counted from the end: ranges go up (~01..03), a bare step goes towards the end (~07/1)."""
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match and match[3] and not match[2]:
            start, step = int(match[1]), int(match[3])
            if not 1 <= start <= 28 or not 1 <= step <= start - 1:
                raise _Refused(column, f"'~{item}' does not fit into a month", "~07/1 are the last seven days")
            found.update(range(start, 0, -step))
        else:
            found.update(_component(item, column, "day from the end of the month", 1, 28)[0])
        column += len(item) + 1
    return tuple(sorted(found))


def _time(word: str, column: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    parts = word.split(":")
    if len(parts) not in (2, 3):
        raise _Refused(column, f"'{word}' is not a time of day", "write hours:minutes or hours:minutes:seconds")
    hours = EVERY_HOUR if parts[0] == "*" else _component(parts[0], column, "hour", 0, 23)[0]
    column += len(parts[0]) + 1
    minutes, steps = (EVERY_MINUTE, True) if parts[1] == "*" else _component(parts[1], column, "minute", 0, 59)
    if len(parts) == 2:
        return hours, minutes, (0,), steps
    column += len(parts[1]) + 1
    if re.search(r"(?<!\.)\.(?!\.)", parts[2]):
        raise _Refused(column, f"'{parts[2]}' has a fraction of a second", "jobs start on whole seconds")
    if parts[2] == "*":
        return hours, minutes, EVERY_MINUTE, True
    seconds, second_steps = _component(parts[2], column, "second", 0, 59)
    return hours, minutes, seconds, steps or second_steps


def _component(text: str, column: int, name: str, low: int, high: int) -> tuple[tuple[int, ...], bool]:
    """The numbers of a list, and whether a range or a step was written in it."""
    if "," not in text and text.isdigit() and low <= int(text) <= high:
        return (int(text),), False
    found: set[int] = set()
    steps = False
    for item in text.split(","):
        found.update(_numbers(item, column, name, low, high))
        steps = steps or not item.isdigit()
        column += len(item) + 1
    return tuple(sorted(found)), steps


def _numbers(item: str, column: int, name: str, low: int, high: int) -> range:
    match = _ITEM.fullmatch(item)
    if not match:
        hint = f"write a number, a range such as {low}..{min(low + 5, high)}, or a step such as {low}/5"
        if item == "*":
            hint = f"a * stands alone; for a step write {low}/5"
        elif item.startswith("*/"):
            hint = f"write {low}{item[1:]}"
        raise _Refused(column, f"'{item}' is not a valid {name}", hint)
    start = _checked(match[1], column, name, low, high)
    if match[3] is not None and int(match[3]) == 0:
        raise _Refused(column, f"a step of 0 in the {name} never moves on", "a step is 1 or more")
    step = int(match[3] or 1)
    if match[2] is None and match[3] is None:
        return range(start, start + 1)
    if match[2] is None:
        if start + step > high:
            raise _Refused(column, f"the step in '{item}' leads past {high}", f"write {start}")
        return range(start, high + 1, step)
    end = _checked(match[2], column, name, low, high)
    if end < start:
        hint = f"write {start}..{high},{low}..{end}"
        raise _Refused(column, f"the range {item} runs backwards", hint)
    if name == "second" and end == start and match[3] is None:
        raise _Refused(column, f"'{item}' is not a range", f"write {start}")  # nor is it for systemd
    if step > high - low:
        raise _Refused(column, f"a step of {step} is longer than the {name} field", f"write {start}")
    return range(start, end + 1, step)


def _checked(text: str, column: int, name: str, low: int, high: int) -> int:
    number = int(text)
    if low == FIRST_YEAR and number < 100:
        number += 2000 if number < 70 else 1900  # as systemd reads two digits
    if not low <= number <= high:
        raise _Refused(column, f"{name} {number} is not between {low} and {high}", f"write {low} to {high}")
    return number
