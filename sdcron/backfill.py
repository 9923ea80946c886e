"""Runs by hand for instants: one, every due time of a range in its order, or what a file lists.

Each run is started once the one before is over, also one that the job's schedule has started meanwhile. What a range
has done is on record: continued, it leaves out the instants for which a run has succeeded.
"""

from __future__ import annotations

import io
import shlex
import time
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sdcron import running
from sdcron.errors import UsageError
from sdcron.machine import local_timezone
from sdcron.queries import Outcome, catch_up, find_job, history, job_schedule, parse_past
from sdcron.runs import microseconds_of, moment_of
from sdcron.stopping import under_way

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from sdcron.place import Place
    from sdcron.runs import Asked, Run

MOST = 100_000
"""A range with more due times than this is a mistake."""
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run that is to be: the job, and what is asked for with it."""

    job: str
    asked: Asked


def read_instant(place: Place, job: str, text: str, now: datetime) -> datetime:
    """A time, in the job's time zone if it names no offset. Raises UsageError."""
    return parse_past(place.paths, text, now, find_job(place, job).timezone)


def read_range(place: Place, job: str, text: str, now: datetime) -> tuple[datetime, datetime] | None:
    """`A..B` as two times, both included: a date alone on the right is all of that day. None for one time alone.

    Raises UsageError.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return None
    if not first or not last:
        raise UsageError(f"{text} has no beginning or no end", "write it as 2026-01-01..2026-12-31")
    begin, end = (read_instant(place, job, word, now) for word in (first, last))
    if _is_date(last):
        zone = ZoneInfo(find_job(place, job).timezone or local_timezone(place.paths.root))
        following = end.astimezone(zone).date() + timedelta(days=1)
        # In UTC, as the day may end twice.
        midnight = datetime(following.year, following.month, following.day, tzinfo=zone).astimezone(UTC)
        end = midnight - timedelta(microseconds=1)
    if end < begin:
        raise UsageError(f"{text} ends before it begins", "write the earlier time first")
    return begin, end


def _is_date(text: str) -> bool:
    if text in ("today", "yesterday"):
        return True
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def wanted_in(place: Place, job: str, asked: Asked, begin: datetime, end: datetime) -> list[Wanted]:
    """A run for each of the due times of a job from `begin` to `end`. Raises UsageError."""
    return [Wanted(job, replace(asked, for_us=each)) for each in due_instants(place, job, begin, end)]


def due_instants(place: Place, job: str, begin: datetime, end: datetime) -> list[int]:
    """The due times themselves, microseconds since 1970. Raises UsageError."""
    schedule = job_schedule(place.paths, find_job(place, job))
    if schedule is None or not schedule.entries:
        raise UsageError(f"{job} has no times, so none in that range", "give one instant: --for 2026-01-01T00:00")
    found: list[int] = []
    following = schedule.next_after(begin.astimezone(UTC) - timedelta(microseconds=1))
    while following is not None and following <= end:
        found.append(microseconds_of(following))
        if len(found) > MOST:
            raise UsageError(f"{job} is due more than {MOST} times in that range", "choose a shorter one")
        following = schedule.next_after(following)
    return found


def wait_for_run(place: Place, job: str, waits: Callable[[str], object]) -> None:
    """Wait for the end of a run that is on, as an interruption leaves one: it counts. `waits` hears of it."""
    told = False
    while job in under_way(place):
        if not told:
            waits(job)
        told = True
        time.sleep(_POLL_SECONDS)


def not_done(place: Place, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those of these runs of one job that have not succeeded, for their instants and values, as far as is on record."""
    catch_up(place)
    runs = history(place, wanted[0].job, outcomes={Outcome.SUCCESS}) if wanted else ()
    done = {(run.asked.for_us, frozenset(run.asked.values)) for run in runs}
    return [each for each in wanted if (each.asked.for_us, frozenset(each.asked.values)) not in done]


def run_all(
    place: Place,
    wanted: Iterable[Wanted],
    show: Callable[[str, str], object] | None,
    waits: Callable[[str], object],
) -> Generator[Run, None, None]:
    """Start each once the one before is over; the records. `waits` hears of a job whose run is on already.

    `show` gets stream and text of what they print. Raises SdcronError.
    """
    for each in wanted:
        run_id = _start(place, each, waits)
        yield running.follow(place, each.job, run_id, show)


def _start(place: Place, wanted: Wanted, waits: Callable[[str], object]) -> str:
    told = False
    while True:
        try:
            return running.start(place, wanted.job, wanted.asked, begun=True)
        except running.RunsAlreadyError:
            if not told:
                waits(wanted.job)
            told = True
            time.sleep(_POLL_SECONDS)


def read_list(place: Place, text: str, name: str, now: datetime, by: str) -> list[Wanted]:
    """The runs that a file asks for: on each line a job, and maybe an instant and values of parameters.

    Raises UsageError for the first line that is none, with its number.
    """
    found = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        try:
            words = _words(line)
            if not words:
                continue
            job, *rest = words
            instant = rest.pop(0) if rest and "=" not in rest[0] else None
            moment = read_instant(place, job, instant, now) if instant is not None else None
            found.append(Wanted(job, running.read_asked(place, job, rest, moment, by)))
        except ValueError as error:
            raise UsageError(f"{name}:{number}: {error}", "close the quote") from error
        except UsageError as error:
            raise UsageError(f"{name}:{number}: {error.message}", error.hint) from error
    if not found:
        raise UsageError(f"{name} lists no job", "write one a line, with an instant behind it if it is for one")
    return found


def _words(line: str) -> list[str]:
    """As a shell has them: a comment begins where a word would. Raises ValueError for a quote that is not closed."""
    source = io.StringIO(line)
    lexer = shlex.shlex(source, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    while not line[source.tell() :].lstrip().startswith("#") and (word := lexer.get_token()) is not None:
        words.append(word)
    return words


def shown(asked: Asked) -> str:
    """The instant that a run is for, for a person."""
    return moment_of(asked.for_us).astimezone().isoformat(timespec="seconds") if asked.for_us is not None else ""
