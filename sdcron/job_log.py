"""What one job prints, from the journal: of its last run, of any run, the last lines, or as it comes.

Offered to others by queries.py. What an entry means is log_lines.py's matter.
"""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from sdcron.asking import JOB_FIELD, MESSAGE_ID, UNIT_FIELD
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.journal import Journal
from sdcron.log_lines import Assembly, LogLine
from sdcron.machine import machine_id
from sdcron.messages import STARTING, text_of, uid_of
from sdcron.output import compile_patterns
from sdcron.overlap import slot_name, slot_of
from sdcron.run_queries import BECOME_READER, applied_job, open_store
from sdcron.runs import microseconds_of, rfc3339

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from datetime import datetime

    from sdcron.operations import Place
    from sdcron.runs import Run

_SINGLE_RUNS = 200
"""Runs for an instant of which systemd's word is looked for, and not output alone."""
LAST_RUN_LINES = 1000
"""So many lines of the last run are shown if nothing else is asked for."""
_LATE_US = 60_000_000
"""How long after its end lines of a run are looked for."""
_SETTLED_SECONDS = 0.3
"""How long nothing comes before the end of a run is told: output can be later than systemd's word."""
_LOOKED_BACK = 1 << 17
"""Entries, at most, among which the beginning of the last run is looked for."""


def logs(
    place: Place,
    job: str,
    *,
    since: datetime | None = None,
    lines: int | None = None,
    run: str = "",
    follow: bool = False,
) -> Generator[LogLine, None, None]:
    """What the job printed, the oldest first: of its last run (at most LAST_RUN_LINES), unless one of these is given.

    `since` a time; the last `lines`; of the run whose id begins with `run`. With `follow` it goes on with what comes,
    until the run that was asked for ends, or else for ever. Raises UsageError for an unknown job or run, BackendError
    where the journal cannot be read.
    """
    if place.offline:
        raise UsageError("logs are read from the journal of the running machine", "leave --root away")
    check_readable(place)
    reader = _JobJournal(place, job)
    with closing(reader):
        if run:
            yield from reader.one_run(run, follow=follow)
            return
        if since is not None:
            reader.journal.seek_time(microseconds_of(since))
            found = reader.rest()
            yield from deque(found, lines) if lines is not None else found
        else:
            yield from reader.last(lines) if lines is not None else reader.last_run()
        if follow:
            yield from reader.coming()
        else:
            yield from reader.assembly.settle(last=True)


def check_readable(place: Place) -> None:
    """Raises BackendError where the caller may read no journal that the place's entries can be in."""
    root, machine = place.paths.root, machine_id(place.paths.root)
    names = ["system.journal"] + [f"user-{os.getuid()}.journal"] * place.user
    directories = [root / parent / machine for parent in ("var/log/journal", "run/log/journal")]
    if any(os.access(directory / name, os.R_OK) for directory in directories for name in names):
        return
    if place.user:
        raise BackendError(
            "there is no journal of your own to read",
            "have the machine keep one: sudo mkdir /var/log/journal && sudo systemctl restart systemd-journald",
        )
    raise BackendError(
        "no permission to read the machine's journal",
        BECOME_READER,
    )


class _JobJournal:
    """The journal of one job."""

    def __init__(self, place: Place, job: str) -> None:
        paths, applied = applied_job(place, job)
        self._place, self._job = place, job
        uid = os.getuid()
        self._user = place.user
        uids = (uid,) if place.user else tuple({0, uid_of(applied.user if applied else None, 0)})
        self._patterns = compile_patterns(applied.redact) if applied else ()
        self._uids = uids
        most = applied.max_parallel if applied is not None else 1
        self._units = [slot_name(job, number) for number in range(1, most + 1)]
        self._units += self._of_single_runs()
        self.journal = Journal(self._matches())
        if applied is None and not self._has_entries():
            self.journal.close()
            from sdcron.applied import applied_jobs
            from sdcron.job_queries import unknown_job

            raise unknown_job(place, job, applied_jobs(paths))
        self.assembly = self._assembly()

    def close(self) -> None:
        self.journal.close()

    def _asked(self) -> list[str]:
        """Matches of what people ask for: systemd 252 does not say itself of which job a unit of a single run is."""
        uid = os.getuid() if self._user else 0  # nobody else has such units
        return [f"{JOB_FIELD}={self._job}", f"MESSAGE_ID={MESSAGE_ID}", f"_UID={uid}"]

    def _of_single_runs(self) -> Iterable[str]:
        """The units of the last runs for an instant, or with values of their own."""
        asked = Journal(self._asked())
        found: deque[str] = deque(maxlen=_SINGLE_RUNS)
        with closing(asked):
            asked.seek_head()
            while asked.next():
                unit = text_of(asked.get, UNIT_FIELD)
                if slot_of(unit)[0] == self._job:
                    found.append(unit)
        return found

    def _matches(self) -> list[str]:
        uid, user = f"_UID={os.getuid()}" if self._user else "_UID=0", "USER_" * self._user
        # Several values of one field are alternatives: sd_journal_add_match(3).
        own = [f"_SYSTEMD_{user}UNIT={unit}" for unit in self._units]
        groups = [[f"SYSLOG_IDENTIFIER=sdcron-{self._job}"], own]
        groups = [[*matches, uid] for matches in groups] if self._user else groups
        groups += [[*(f"{user}UNIT={unit}" for unit in self._units), uid], self._asked()]
        matches: list[str] = []
        for group in groups:
            matches += ["+"] * bool(matches) + group
        return matches

    def _has_entries(self) -> bool:
        self.journal.seek_head()
        return self.journal.next()

    def _assembly(self) -> Assembly:
        return Assembly(self._job, user=self._user, uids=self._uids, patterns=self._patterns, record_of=self._record_of)

    def _record_of(self, run_id: str) -> Run | None:
        with suppress(SdcronError), open_store(self._place) as store:
            return next(store.history(self._job, run_id=run_id, limit=1), None) if store else None
        return None

    def rest(self) -> Iterator[LogLine]:
        """All from here to the end."""
        while self.journal.next():
            if self.journal.get("MESSAGE_ID") == MESSAGE_ID.encode():
                self._hear_of(text_of(self.journal.get, UNIT_FIELD))
            else:
                yield from self.assembly.take(self.journal.get, self.journal.realtime_us())

    def _hear_of(self, unit: str) -> None:
        """A single run is asked for: look at what is told of it, too."""
        if slot_of(unit)[0] == self._job and unit not in self._units:
            self._units.append(unit)
            cursor = self.journal.cursor()
            self.journal.close()
            self.journal = Journal(self._matches())
            self.journal.seek_cursor(cursor)

    def coming(self) -> Iterator[LogLine]:
        """What comes, for ever."""
        while True:
            yield from self.rest()
            seconds = _SETTLED_SECONDS if self.assembly.ending else 60
            if not self.journal.wait(seconds) and self.assembly.ending:
                yield from self.assembly.settle()

    def last(self, count: int) -> list[LogLine]:
        """The last so many lines."""
        back = count + 64
        while True:
            found, all_of_it = self._look_back(back)
            lines = [index for index, line in enumerate(found) if line.event is None]
            if len(lines) >= count or all_of_it:
                return found[lines[-count] :] if 0 < count <= len(lines) else found if count else []
            back *= 4

    def last_run(self) -> list[LogLine]:
        """The last run from its beginning."""
        back = 256
        while True:
            found, all_of_it = self._look_back(back)
            starts = [index for index, line in enumerate(found) if line.event == "start"]
            if starts or all_of_it or back >= _LOOKED_BACK:
                break
            back *= 8
        if starts:
            # What was to become the command may be heard before systemd's word that it starts it.
            begun = found.pop(starts[-1])
            its_first = next((index for index, line in enumerate(found) if line.run_id == begun.run_id), starts[-1])
            found = [begun, *found[min(its_first, starts[-1]) :]]
        if len(found) <= LAST_RUN_LINES + 2:
            return found
        first, run_id = found[0], found[0].run_id
        hint = (
            f"[… {len(found) - LAST_RUN_LINES} lines left out; all: sdcron logs {self._job} --run {(run_id or '')[:8]}]"
        )
        return [first, LogLine(first.when, "sdcron", hint, run_id), *found[-LAST_RUN_LINES:]]

    def _look_back(self, entries: int) -> tuple[list[LogLine], bool]:
        """What the last so many entries hold, and whether these are all that there are."""
        self.journal.seek_tail(entries)
        self.assembly = self._assembly()
        found: list[LogLine] = []
        count = 0
        while self.journal.next():
            count += 1
            found += self.assembly.take(self.journal.get, self.journal.realtime_us())
        return found, count < entries

    def one_run(self, beginning: str, *, follow: bool) -> Iterator[LogLine]:
        """The lines of one run; with `follow` until it ends."""
        run_id, started_us = self._find_run(beginning)
        self.journal.seek_time(started_us - 1_000_000)
        end_us = None
        while True:
            for line in self.rest():
                if line.run_id == run_id:
                    yield line
                if line.event == "end" and line.run_id == run_id:
                    end_us = end_us or microseconds_of(line.when)
                if end_us is not None and microseconds_of(line.when) > end_us + _LATE_US:
                    return
            waited = follow and end_us is None and self.journal.wait(_SETTLED_SECONDS if self.assembly.ending else 60)
            if waited:
                continue
            settled = self.assembly.settle(last=not follow)
            yield from (line for line in settled if line.run_id == run_id)
            if not follow or end_us is not None or any(line.run_id == run_id for line in settled):
                return

    def _find_run(self, beginning: str) -> tuple[str, int]:
        """Id and first moment of the run. Raises UsageError."""
        text = beginning.lower().replace("-", "")
        if not re.fullmatch("[0-9a-f]{1,32}", text):
            raise UsageError(f"{beginning} is not the beginning of a run id", f"see them: sdcron history {self._job}")
        field_name = "USER_INVOCATION_ID" if self._user else "INVOCATION_ID"
        unit_field = "USER_UNIT" if self._user else "UNIT"
        whose = f"_UID={os.getuid()}" if self._user else "_PID=1"
        units = [f"{unit_field}={unit}" for unit in self._units]
        starts = Journal([*units, f"MESSAGE_ID={STARTING.decode()}", whose])
        found: dict[str, int] = {}
        with closing(starts):
            starts.seek_head()
            while starts.next():
                run_id = (starts.get(field_name) or b"").decode("ascii", "replace")
                if run_id.startswith(text):
                    found.setdefault(run_id, starts.realtime_us())
        if len(found) > 1:
            told = ", ".join(f"{run_id[:12]} ({rfc3339(moment)})" for run_id, moment in list(found.items())[:8])
            raise UsageError(f"several runs of {self._job} begin with {text}: {told}", "write more of it")
        recorded = self._record_of(text) if not found else None
        if recorded is not None and recorded.started_us is not None:
            return recorded.run_id, recorded.started_us
        if not found:
            raise UsageError(
                f"no run of {self._job} that begins with {text} is in the journal",
                f"what is kept of its output: sdcron history {self._job} --run {text} --output",
            )
        return next(iter(found.items()))
