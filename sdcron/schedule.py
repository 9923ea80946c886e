"""The schedule of a job: one meaning for both backends, as next_after() and as OnCalendar= values.

Pure: takes no clock and no environment, and looks up nothing but time zones. The forms it reads are in cron.py,
calendars.py and intervals.py; what clock changes do to them is in daylight.py and oncalendar.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from sdcron.calendars import own_zone, parse_calendar
from sdcron.cron import MACROS, is_cron, parse_cron
from sdcron.daylight import is_ever_shown, next_instant, zone_clock, zone_exists
from sdcron.entries import DAY, Entry, Mistake, ScheduleMistakes, shifted
from sdcron.intervals import Interval, parse_at, parse_every
from sdcron.oncalendar import calendar_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Entry", "Mistake", "Schedule", "ScheduleMistakes", "parse_schedule"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 4000  # characters of one text
_Part = Entry | Interval


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job runs: at any time of any entry, and at boot if `on_boot`.

    `texts` are as written, `timezone` too (None: the machine's, which is `local_timezone`). `offset` is the stable
    part of `spread` by which every entry is late already; with `on_boot` it is for the caller to apply.
    """

    texts: tuple[str, ...]
    timezone: str | None
    on_boot: bool
    entries: tuple[Entry, ...]
    local_timezone: str = "UTC"
    offset: timedelta = timedelta(0)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time strictly after `moment` (aware), in the schedule's zone; None: never again.

        Never again is a schedule of nothing but boots, or whose dates have all passed; the year 2199 ends all.
        Raises ValueError for a naive moment.
        """
        if moment.tzinfo is None:
            message = "a moment needs a time zone"
            raise ValueError(message)
        instant = (moment - _EPOCH) // timedelta(seconds=1)
        found = [at for entry in self.entries if (at := next_instant(entry, instant)) is not None]
        if not found:
            return None
        return datetime.fromtimestamp(min(found), zone_clock(self.timezone or self.local_timezone))

    def to_calendar(self) -> tuple[str, ...]:
        """The OnCalendar= values that make systemd fire at the same times; none for a schedule of nothing but boots."""
        return calendar_lines(self.entries, self.local_timezone)


def parse_schedule(
    texts: str | Sequence[str],
    *,
    timezone: str | None = None,
    local_timezone: str = "UTC",
    seed: str = "",
    spread: timedelta = timedelta(0),
) -> Schedule:
    """Read a schedule: one text or several, of which any may match.

    `timezone` is the job's (None: `local_timezone`, the machine's). `seed` chooses the spots of H and, inside `spread`
    (whole seconds), the offset. Raises ScheduleMistakes with everything that is wrong.
    """
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    mistakes = _zone_mistakes(timezone, local_timezone)
    if spread < timedelta(0):
        mistakes.append(Mistake(-1, 0, "a spread cannot be negative", "write a length such as 10m"))
    if not texts:
        mistakes.append(Mistake(-1, 0, "the list of schedules is empty", "leave the key out for a job without times"))
    zone = local_timezone if timezone is None else timezone
    parts: list[_Part] = []
    on_boot = False
    for index, text in enumerate(texts):
        if text.strip(" \t") == "@reboot":
            on_boot = True
            continue
        found, wrong = _parse(text, zone, seed)
        parts += found
        mistakes += [replace(mistake, index=index) for mistake in wrong]
    if mistakes:
        raise ScheduleMistakes(tuple(mistakes))
    offset = _offset(parts, seed, spread // timedelta(seconds=1)) if spread else 0
    entries = _entries(parts, zone, offset)
    return Schedule(texts, timezone, on_boot, entries, local_timezone, timedelta(seconds=offset))


@lru_cache(maxsize=1024)
def _zone_hint(zone: str) -> str:
    if zone.startswith(":"):
        return f"leave out the colon: {zone[1:]}"
    for other in (zone.title(), zone.upper(), zone.replace(" ", "_"), zone.title().replace(" ", "_")):
        if other != zone and zone_exists(other):
            return f"write {other}"
    from zoneinfo import available_timezones  # here: only a mistake needs it

    near = get_close_matches(zone, sorted(available_timezones()), n=1, cutoff=0.8)
    if near:
        return f"did you mean {near[0]}?"
    return "zones are named as in Europe/Berlin; `timedatectl list-timezones` lists them"


def _zone_mistakes(timezone: str | None, local_timezone: str) -> list[Mistake]:
    mistakes = [
        Mistake(-1, 0, f"unknown time zone '{zone}'", _zone_hint(zone))
        for zone in (timezone, local_timezone)
        if zone is not None and not zone_exists(zone)
    ]
    if timezone and not mistakes and timezone != local_timezone and _is_ambiguous(timezone):
        message = f"systemd reads '{timezone}' as the abbreviation of another zone"
        mistakes.append(Mistake(-1, 0, message, "name the zone by its place, such as Europe/Berlin"))
    return mistakes


def _is_ambiguous(zone: str) -> bool:
    """Whether systemd may take the name for an abbreviation of the local zone (calendar_spec_from_string)."""
    return zone.isupper() and zone.isalpha() and len(zone) <= 5 and zone not in ("UTC", "UCT")


def _parse(text: str, zone: str, seed: str) -> tuple[Sequence[_Part], Sequence[Mistake]]:
    """What one text holds, or what is wrong with it (index 0)."""
    unreadable = _unreadable(text)
    if unreadable:
        return (), (unreadable,)
    stripped = text.strip(" \t")
    start = len(text) - len(text.lstrip(" \t"))
    word = stripped.split(None, 1)[0]
    found: Sequence[_Part] = ()
    wrong: Sequence[Mistake] = ()
    if word == "every":
        interval = parse_every(stripped)
        found, wrong = ((), (interval,)) if isinstance(interval, Mistake) else ((interval,), ())
    elif word == "at":
        found, wrong = parse_at(stripped, zone)
    elif stripped.startswith("@") and not stripped[1:].isdigit():
        found, wrong = _parse_macro(stripped, zone)
    elif word.lower() in ("every", "at"):
        wrong = (
            Mistake(0, 0, f"'{word}' is written in small letters", f"write {word.lower()}{stripped[len(word) :]}"),
        )
    elif is_cron(stripped):
        found, wrong = parse_cron(stripped, zone, seed)
    else:
        found, wrong = parse_calendar(stripped.replace("\t", " "), zone)
        own = own_zone(stripped) if found else None
        if own and own != zone and _is_ambiguous(own):
            hint = "name the zone by its place, such as Europe/Berlin"
            wrong = (Mistake(0, stripped.rindex(own), f"'{own}' is an abbreviation of several zones", hint),)
    skipped = [part for part in found if isinstance(part, Entry) and part.steps and not is_ever_shown(part)]
    if skipped and len(skipped) == len(found):  # what does not step runs right after the gap
        message = f"the clocks of {skipped[0].zone} never show such a time: it would never run"
        wrong = (Mistake(0, 0, message, "clocks are put forward then: choose a time before or after that"),)
    return found, [replace(mistake, column=mistake.column + start) for mistake in wrong] if start else wrong


def _unreadable(text: str) -> Mistake | None:
    if len(text) > _LONGEST:
        return Mistake(0, _LONGEST, f"a schedule has at most {_LONGEST} characters", "write a list of schedules")
    if not text.isascii() or not text.isprintable():
        for column, character in enumerate(text):
            if character in "\n\r":
                return Mistake(0, column, "a schedule is one line", "write several schedules as a list")
            if character != "\t" and not (character.isascii() and character.isprintable()):
                name = f"U+{ord(character):04X}"
                hint = "write digits as 0 to 9 and blanks as blanks"
                return Mistake(0, column, f"the character {name} has no place in a schedule", hint)
    if not text.strip(" \t"):
        return Mistake(0, 0, "the schedule is empty", "write a cron line, @daily, every 15m or at 11:30")
    return None


def _parse_macro(text: str, zone: str) -> tuple[Sequence[_Part], Sequence[Mistake]]:
    line = MACROS.get(text)
    if line:
        return parse_cron(line, zone, "")
    if text.lower() in MACROS or text.lower() == "@reboot":
        return (), (Mistake(0, 0, f"'{text}' is written in small letters", f"write {text.lower()}"),)
    known = ", ".join((*MACROS, "@reboot"))
    return (), (Mistake(0, 0, f"unknown macro '{text}'", f"known are {known}; for intervals write: every 5m"),)


def _offset(parts: Sequence[_Part], seed: str, spread: int) -> int:
    """The stable offset in seconds: below `spread` and every interval, and short of midnight for dated entries."""
    room = spread
    for part in parts:
        if isinstance(part, Interval):
            room = min(room, part.seconds, DAY - part.time)
        else:
            room = min(room, DAY if part.is_daily() else DAY - part.last_time())
    if room < 1:
        return 0
    return int.from_bytes(sha256(f"{seed}\0spread".encode()).digest()[:8], "big") % room


def _entries(parts: Sequence[_Part], zone: str, offset: int) -> tuple[Entry, ...]:
    entries: dict[Entry, None] = {}  # in order, each once
    for part in parts:
        if isinstance(part, Interval):
            entries.update(dict.fromkeys(part.entries(zone, offset)))
        elif offset:
            entries.update((part.at(times), None) for times in shifted(part.times(), offset))
        else:
            entries[part] = None
    return tuple(entries)
