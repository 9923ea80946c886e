"""Cron lines of five fields, or six with the seconds first, as entries.

The rules are those of Vixie cron's crontab(5) with `L`, `#` and `H` added. Reports every mistake of a line at once;
guesses nothing: what cron would silently clamp or ignore is a mistake here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256

from sdcron.entries import EVERY_MONTH, EVERY_WEEKDAY, Entry, Mistake

MACROS = {  # crontab(5); @reboot is the schedule's own. Cron's @weekly is Sunday, systemd's "weekly" is Monday.
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FULL_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_FULL_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
FULL_NAMES = {name: name[:3] for name in (*_FULL_MONTHS, *_FULL_WEEKDAYS)}

_WORD = re.compile(r"[^ \t]+")
_NUMBER = re.compile(r"[0-9]+")
_HASHED = re.compile(r"H(?:\(([0-9]+)-([0-9]+)\))?(?:/([0-9]+))?")
_LAST_WEEKDAY = re.compile(r"([0-7]|[A-Za-z]+)[lL]")
_NTH_WEEKDAY = re.compile(r"([0-7]|[A-Za-z]+)#([0-9]+)")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field may hold: its name, its numbers, its names (the first stands for `first_name`)."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first_name: int = 0
    hash_high: int = -1

    def spots(self) -> tuple[int, int]:
        """The numbers that H chooses from: all, but days that every month has, and each weekday once."""
        return self.low, self.high if self.hash_high < 0 else self.hash_high


_SECOND = _Kind("second", 0, 59)
_MINUTE = _Kind("minute", 0, 59)
_HOUR = _Kind("hour", 0, 23)
_DAY = _Kind("day of month", 1, 31, hash_high=28)
_MONTH = _Kind("month", 1, 12, MONTHS, 1)
_WEEKDAY = _Kind("day of week", 0, 7, WEEKDAYS, 0, hash_high=6)
_FIVE = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
_SIX = (_SECOND, *_FIVE)


class _Refused(Exception):
    """A list item that is wrong: what is wrong with it and what to write."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(slots=True)
class _Field:
    """One field as read. `stepped` is written with `*`, a range or a step; `starred` begins with `*`.

    `last_day` is an L in the day field; `last` and `nth` hold the weekdays of `5L` and of `1#2`.
    """

    kind: _Kind
    text: str
    column: int
    numbers: set[int] = field(default_factory=set)
    stepped: bool = False
    starred: bool = False
    last_day: bool = False
    last: set[int] = field(default_factory=set)
    nth: dict[int, set[int]] = field(default_factory=dict)


def is_cron(text: str) -> bool:
    """Whether the text has as many words as a cron line (or as a Quartz one, which is refused with a hint)."""
    return len(text.split()) >= 5


def parse_cron(text: str, zone: str, seed: str) -> tuple[tuple[Entry, ...], tuple[Mistake, ...]]:
    """The entries of a cron line, or every mistake in it (index 0). `seed` chooses the spots of H."""
    words = [(found.group(), found.start()) for found in _WORD.finditer(text)]
    if len(words) not in (5, 6):
        message = f"a cron line has five fields, or six with the seconds first, not {len(words)}"
        hint = "Quartz's year field is not cron: use a calendar expression such as 2025-01-01 00:00"
        return (), (Mistake(0, 0, message, hint if len(words) == 7 else ""),)
    fields: list[_Field] = []
    mistakes: list[Mistake] = []
    for kind, (word, column) in zip(_FIVE if len(words) == 5 else _SIX, words, strict=True):
        one = _Field(kind, word, column)
        _read_field(one, seed, mistakes)
        fields.append(one)
    if mistakes:
        return (), tuple(mistakes)
    return _entries(fields, zone)


def _read_field(one: _Field, seed: str, mistakes: list[Mistake]) -> None:
    if one.text == "*":
        one.numbers.update(range(one.kind.low, one.kind.high + 1))
        one.starred = one.stepped = True
    else:
        one.starred = one.text.startswith("*")
        column = one.column
        for item in one.text.split(","):
            try:
                _read_item(one, item, seed)
            except _Refused as refused:
                mistakes.append(Mistake(0, column, refused.message, refused.hint))
            column += len(item) + 1
    if one.kind is _WEEKDAY and 7 in one.numbers:
        one.numbers.discard(7)
        one.numbers.add(0)


def _read_item(one: _Field, item: str, seed: str) -> None:
    kind = one.kind
    if item.isdigit():  # most items; the text is ASCII
        one.numbers.add(_number(kind, item))
    elif item.startswith("H"):
        _read_hashed(one, item, seed)
    elif kind is _DAY and item in ("L", "l"):
        one.last_day = True
    elif kind is _WEEKDAY and (found := _LAST_WEEKDAY.fullmatch(item)):
        one.last.add(_number(kind, found[1]) % 7)
    elif kind is _WEEKDAY and (found := _NTH_WEEKDAY.fullmatch(item)):
        weekday, nth = _number(kind, found[1]) % 7, int(found[2])
        if not 1 <= nth <= 5:
            raise _Refused(f"a month has no weekday number {nth}", "# takes 1 to 5, L is the last one: 5L")
        one.nth.setdefault(nth, set()).add(weekday)
    else:
        _read_range(one, item)


def _read_range(one: _Field, item: str) -> None:
    kind = one.kind
    base, slash, step_text = item.partition("/")
    first_text, dash, last_text = base.partition("-")
    if not item or not base or (dash and not (first_text and last_text)) or (slash and not step_text):
        _refuse_incomplete(kind, item, base)
    if base == "*":
        first, last = kind.low, kind.high
    else:
        first = _number(kind, first_text)
        last = _number(kind, last_text) if dash else first
        if kind is _WEEKDAY and dash and last == 0 and not last_text.isdigit() and first:
            last = 7  # fri-sun: a range that ends on Sunday
    if slash and not dash and base != "*":
        raise _Refused(f"the step in '{item}' has no range", f"write {first}-{kind.high}/{step_text}")
    if last < first:
        hint = f"write {first}-{kind.high},{kind.low}-{last}"
        if kind is _WEEKDAY:
            hint = f"write {first}-7" if last == 0 else f"write {first}-6,0-{last}"
        raise _Refused(f"the range {base} runs backwards", hint)
    step = _step(kind, step_text) if slash else 1
    one.numbers.update(range(first, last + 1, step))
    one.stepped = one.stepped or bool(dash or slash or base == "*")


def _refuse_incomplete(kind: _Kind, item: str, base: str) -> None:
    if not item:
        raise _Refused(f"an empty item in the {kind.name} field", "a list is written 1,2,3")
    if base.startswith("-") or base.endswith("-"):
        raise _Refused(f"'{item}' is not a range", "a range is written 1-5; there are no negative numbers")
    if not base:
        raise _Refused(f"the step in '{item}' has nothing to step through", f"write *{item}")
    raise _Refused(f"the step in '{item}' has no number", "a step is written */5")


def _step(kind: _Kind, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _Refused(f"'{text}' is not a step", "a step is one number: */5")
    step = int(text)
    if step == 0:
        raise _Refused(f"a step of 0 in the {kind.name} field never moves on", "a step is 1 or more")
    if step > kind.high:
        raise _Refused(
            f"a step of {step} is longer than the {kind.name} field, which ends at {kind.high}",
            f"for longer intervals write: every {step}{kind.name[0]}" if kind.high in (59, 23) else f"write {kind.low}",
        )
    return step


def _number(kind: _Kind, text: str) -> int:
    if text.isdigit():
        number = int(text)
        if not kind.low <= number <= kind.high:
            raise _Refused(f"{kind.name} {number} is not between {kind.low} and {kind.high}", _range_hint(kind))
        return number
    name = text.lower()
    if name in kind.names:
        return kind.names.index(name) + kind.first_name
    raise _Refused(f"'{text}' is not a valid {kind.name}", _name_hint(kind, text, name))


def _range_hint(kind: _Kind) -> str:
    if kind is _WEEKDAY:
        return "Sunday is 0 or 7, Saturday is 6"
    if kind is _DAY:
        return "the last day of a month is L"
    return f"write a number from {kind.low} to {kind.high}"


def _name_hint(kind: _Kind, text: str, name: str) -> str:
    short = FULL_NAMES.get(name)
    if short and short in kind.names:
        return f"write {short}"
    if text == "?":
        return "that is Quartz's: write *"
    if "~" in text:
        return "for a stable spot write H, or H(0-29)"
    if "#" in text or (name.endswith("l") and kind is not _WEEKDAY):
        return "L is for the day fields and # for the day of week: L is the last day of the month, 5L its last Friday"
    if kind is _DAY and name.endswith("w"):
        return "the nearest weekday has no meaning here: give the days"
    if text.startswith("+"):
        return f"write {text[1:]}"
    names = f", or {kind.names[0]} to {kind.names[-1]}" if kind.names else ""
    return f"write a number from {kind.low} to {kind.high}{names}"


def _read_hashed(one: _Field, item: str, seed: str) -> None:
    """`H`, `H(0-29)`, `H/15`, `H(0-29)/10`: a spot, or a first spot, that a hash of the seed chooses."""
    kind = one.kind
    found = _HASHED.fullmatch(item)
    if not found:
        raise _Refused(f"'{item}' is not a spot", "write H, H(0-29), H/15 or H(0-29)/10")
    low, high = kind.spots()
    if found[1]:
        low, high = _number(kind, found[1]), _number(kind, found[2])
        if high < low:
            raise _Refused(f"the range of {item} runs backwards", f"write H({high}-{low})")
    chosen = int.from_bytes(sha256(f"{seed}\0{kind.name}".encode()).digest()[:8], "big")
    if not found[3]:
        one.numbers.add(low + chosen % (high - low + 1))
        return
    step = _step(kind, found[3])
    one.numbers.update(range(low + chosen % min(step, high - low + 1), high + 1, step))
    one.stepped = True


def _entries(fields: list[_Field], zone: str) -> tuple[tuple[Entry, ...], tuple[Mistake, ...]]:
    second = fields[0] if len(fields) == 6 else None
    minute, hour, day, month, weekday = fields[-5:]
    plain = Entry(
        zone,
        tuple(sorted(hour.numbers)),
        tuple(sorted(minute.numbers)),
        tuple(sorted(second.numbers)) if second else (0,),
        months=EVERY_MONTH if len(month.numbers) == 12 else tuple(sorted(month.numbers)),
        steps=minute.stepped or len(hour.numbers) == 24 or bool(second and second.stepped),
    )
    entries = _dated(plain, day, weekday)
    if entries is None:
        message = "the last weekday of a month cannot be combined with a step through its days"
        return (), (Mistake(0, day.column, message, "write * as the day of month"),)
    alive = tuple(entry for entry in entries if entry.ever_fires())
    if not alive:
        message = f"no month of this schedule has a day {day.text}: it would never run"
        return (), (Mistake(0, day.column, message, "L is the last day of a month, whatever its length"),)
    return alive, ()


def _dated(plain: Entry, day: _Field, weekday: _Field) -> list[Entry] | None:
    """Join the two day fields by Vixie cron's rule: both must match if one begins with `*`, else either may."""
    by_day = _by_day(plain, day)
    by_weekday = _by_weekday(plain, weekday)
    if not day.starred and not weekday.starred:
        return by_day + by_weekday
    both: list[Entry] = []
    for one in by_day:
        for other in by_weekday:
            joined = _both(one, other)
            if joined is None:
                return None
            if joined.days or not (one.days and other.days):
                both.append(joined)
    return both


def _by_day(plain: Entry, day: _Field) -> list[Entry]:
    entries: list[Entry] = []
    if day.numbers:
        days = () if day.starred and len(day.numbers) == 31 else tuple(sorted(day.numbers))
        entries.append(_on(plain, days))
    if day.last_day:
        entries.append(_on(plain, (1,), from_end=True))
    return entries


def _by_weekday(plain: Entry, weekday: _Field) -> list[Entry]:
    entries: list[Entry] = []
    if weekday.numbers:
        entries.append(_on(plain, weekdays=tuple(sorted(weekday.numbers))))
    for nth, weekdays in sorted(weekday.nth.items()):
        days = tuple(range(nth * 7 - 6, min(nth * 7, 31) + 1))
        entries.append(_on(plain, days, weekdays=tuple(sorted(weekdays))))
    if weekday.last:
        entries.append(_on(plain, tuple(range(1, 8)), from_end=True, weekdays=tuple(sorted(weekday.last))))
    return entries


def _on(
    plain: Entry, days: tuple[int, ...] = (), *, from_end: bool = False, weekdays: tuple[int, ...] = EVERY_WEEKDAY
) -> Entry:
    return Entry(
        plain.zone,
        plain.hours,
        plain.minutes,
        plain.seconds,
        months=plain.months,
        days=days,
        from_end=from_end,
        weekdays=weekdays,
        steps=plain.steps,
    )


def _both(one: Entry, other: Entry) -> Entry | None:
    """The dates that fit both: `one` from the day field, `other` from the weekday field. None: not one entry."""
    if not other.days:
        return _on(one, one.days, from_end=one.from_end, weekdays=other.weekdays)
    if not one.days:
        return _on(one, other.days, from_end=other.from_end, weekdays=other.weekdays)
    if one.from_end != other.from_end:
        return None
    days = tuple(day for day in one.days if day in other.days)
    return _on(one, days, from_end=one.from_end, weekdays=other.weekdays)
