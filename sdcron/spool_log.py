"""What one job prints, from the engine's files: of its last run, of any run, the last lines, or as it comes.

Offered to others by queries.py, beside job_log.py, which answers the same from the journal. spool.py writes the files.
"""

from __future__ import annotations

import re
import time
from collections import deque
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from sdcron.errors import UsageError
from sdcron.log_lines import LogLine
from sdcron.runs import microseconds_of, moment_of, rfc3339
from sdcron.spool_files import SpoolFiles
from sdcron.spool_lines import END, FILE, SDCRON, START, parse_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from sdcron.runs import Run
    from sdcron.spool_files import Position

    RecordOf = Callable[[str], Run | None]

LAST_RUN_LINES = 1000
"""So many lines of the last run are shown if nothing else is asked for."""
LONGEST_LINE = 1 << 20
"""Bytes that are put together again at most."""
_POLL_SECONDS = 0.2
_UNHEARD_SECONDS = 2.0
"""After so long without a line the record is asked whether the run has ended: its last lines may be left out."""
_RECORD_TRIES = 5
"""How often the record of a run that has just ended is looked for, a poll apart."""


def logs(
    directory: Path,
    job: str,
    *,
    since: datetime | None = None,
    lines: int | None = None,
    run: str = "",
    follow: bool = False,
    ending: Callable[[], bool] = lambda: False,
    known: bool = True,
    record_of: RecordOf | None = None,
) -> Generator[LogLine, None, None]:
    """What the job printed, the oldest first: of its last run (at most LAST_RUN_LINES), unless one of these is given.

    `since` a time; the last `lines`; of the run whose id begins with `run`. With `follow` it goes on with what comes,
    until the run that was asked for ends, or `ending` says so, or else for ever. `record_of` gives the record of a run
    that has ended. Raises UsageError for a job that is not `known` and has printed nothing, and for an unknown run,
    BackendError where the files cannot be read.
    """
    reader = _JobOutput(directory, job, ending, record_of)
    with closing(reader.files):
        if not known and reader.files.is_empty:
            raise UsageError(f"no job called {job} is applied here", "see the applied ones: sdcron list")
        for line in reader.asked_for(since, lines, run, follow=follow):
            yield reader.with_record(line)


class _Assembly:
    """Takes stored lines in order and makes whole lines of them. Pure."""

    def __init__(self) -> None:
        self._begun: dict[tuple[bytes, bytes], bytearray] = {}
        """Lines whose ends are to come, by run and stream."""
        self._when_us = 0
        self._when = moment_of(0)

    def take(self, line: bytes) -> list[LogLine]:
        """The lines that one as it is stored completes."""
        stored = parse_stored(line)
        if stored is None or stored.kind == FILE:
            return []
        when_us, run_id, continues, kind, goes_on, text = stored
        if when_us != self._when_us:  # a flood has the same for many
            self._when_us, self._when = when_us, moment_of(when_us)
        if kind in (START, END):
            event = self._line(run_id, SDCRON, text)
            return [*self._settle_run(run_id), replace(event, event=kind.decode("ascii"))]
        if not self._begun and not goes_on:
            return [self._line(run_id, kind, text)]
        told = []
        begun = self._begun.pop((run_id, kind), None) or bytearray()
        if begun and not continues:
            told.append(self._line(run_id, kind, bytes(begun)))
            begun.clear()
        begun += text
        while len(begun) > LONGEST_LINE:
            told.append(self._line(run_id, kind, bytes(begun[:LONGEST_LINE])))
            del begun[:LONGEST_LINE]
        if goes_on:
            self._begun[run_id, kind] = begun
        else:
            told.append(self._line(run_id, kind, bytes(begun)))
        return told

    def settle(self) -> list[LogLine]:
        """The lines whose ends did not come."""
        told = [self._line(run_id, kind, bytes(text)) for (run_id, kind), text in self._begun.items()]
        self._begun.clear()
        return told

    def _settle_run(self, run_id: bytes) -> list[LogLine]:
        keys = [key for key in self._begun if key[0] == run_id]
        return [self._line(*key, bytes(self._begun.pop(key))) for key in keys]

    def _line(self, run_id: bytes, kind: bytes, text: bytes) -> LogLine:
        shown = text.decode("utf-8", "backslashreplace")
        return LogLine(self._when, kind.decode("ascii"), shown, run_id.decode("ascii") or None)


class _JobOutput:
    """The output of one job."""

    def __init__(self, directory: Path, job: str, ending: Callable[[], bool], record_of: RecordOf | None) -> None:
        self._job = job
        self._ending = ending
        self._record_of = record_of
        self.files = SpoolFiles(directory, job)
        self._assembly = _Assembly()

    def asked_for(
        self, since: datetime | None, lines: int | None, run: str, *, follow: bool
    ) -> Generator[LogLine, None, None]:
        """The lines that `logs` gives; ends of runs without the records."""
        if run:
            yield from self._one_run(run, follow=follow)
            return
        if since is not None:
            self.files.position = self._begin_of(microseconds_of(since))
            found = self._rest(settle=not follow)
            yield from deque(found, lines) if lines is not None else found
        elif lines is not None:
            yield from self._last(lines, settle=not follow)
        else:
            yield from self._last_run(settle=not follow)
        if follow:
            yield from self._coming()

    def with_record(self, line: LogLine) -> LogLine:
        """The end of a run with its record, if there is one."""
        if line.event != "end" or line.run is not None or self._record_of is None or line.run_id is None:
            return line
        return replace(line, run=self._record_of(line.run_id))

    def _rest(self, *, settle: bool) -> Iterator[LogLine]:
        """All from here to what was the end when it was opened; with `settle` also lines without an end."""
        for line in self.files.rest():
            yield from self._assembly.take(line)
        if settle:
            yield from self._assembly.settle()

    def _coming(self, only: str | None = None) -> Iterator[LogLine]:
        """What comes, until it ends; or of one run, `only`, until that ends."""
        last = False
        record: Run | None = None
        heard = time.monotonic()
        while True:
            last = last or self._ending()
            new = self.files.more()
            for line in chain.from_iterable(map(self._assembly.take, new)):
                if only is None or line.run_id == only:
                    heard = time.monotonic()
                    yield self._patiently(line)
                    if only is not None and line.event == "end":
                        return
            if new:
                continue
            if last or record is not None:
                yield from (line for line in self._assembly.settle() if only in (None, line.run_id))
                if record is not None:
                    yield _end(record)
                return
            if only is not None and self._record_of is not None and time.monotonic() - heard > _UNHEARD_SECONDS:
                heard = time.monotonic()
                record = self._record_of(only)
            time.sleep(_POLL_SECONDS)

    def _patiently(self, line: LogLine) -> LogLine:
        """The end of a run with its record, which may come a moment later."""
        for _ in range(_RECORD_TRIES if line.event == "end" and self._record_of is not None else 0):
            line = self.with_record(line)
            if line.run is not None:
                break
            time.sleep(_POLL_SECONDS)
        return line

    def _begin_of(self, since_us: int) -> Position:
        """Where the lines since then begin. If the clock was set back over that time, later lines count only."""
        begin = self.files.end
        for position, line in self.files.backwards():
            stored = parse_stored(line)
            if stored is not None and stored.when_us < since_us:
                break
            begin = position
        return begin

    def _last(self, count: int, *, settle: bool) -> list[LogLine]:
        """The last so many lines."""
        begin = self.files.end
        missing = count
        headless: set[tuple[bytes, bytes]] = set()
        for position, line in self.files.backwards() if count else ():
            begin = position
            stored = parse_stored(line)
            if stored is None or stored.kind in (START, END, FILE):
                continue
            key = (stored.run_id, stored.kind)
            if stored.continues:
                headless.add(key)
            else:
                headless.discard(key)
            missing -= not stored.goes_on
            if missing <= 0 and not headless:
                break
        self.files.position = begin
        found = list(self._rest(settle=settle)) if count else []
        lines = [index for index, line in enumerate(found) if line.event is None]
        return found[lines[-count] :] if 0 < count <= len(lines) else found

    def _last_run(self, *, settle: bool) -> Iterator[LogLine]:
        """The last run from its beginning, or from what is kept of that, and what sdcron said of no run since."""
        run_id, begin = self._last_start()
        self.files.position = begin
        found = (line for line in self._rest(settle=settle) if line.run_id in (None, run_id))
        first = next(found, None)
        if first is None:
            return
        tail: deque[LogLine] = deque(maxlen=LAST_RUN_LINES + 1)
        count = 1
        for line in found:
            count += 1
            tail.append(line)
        if run_id is not None and first.event != "start":
            yield _beginning_lost(first, run_id)
        yield first
        if count > LAST_RUN_LINES + 2:
            tail.popleft()
            rest = f"all: sdcron logs {self._job} --run {(run_id or '')[:8]}"
            yield LogLine(first.when, "sdcron", f"[… {count - LAST_RUN_LINES} lines left out; {rest}]", run_id)
        yield from tail

    def _last_start(self) -> tuple[str | None, Position]:
        """The run that began last, and where; where its beginning is not kept, the run of the last line of any."""
        newest = None
        position = self.files.begin
        for position, line in self.files.backwards():
            stored = parse_stored(line) if newest is None or line.endswith(b" start 0 ") else None
            if stored is not None and stored.run_id:
                newest = newest or stored.run_id.decode("ascii")
                if stored.kind == START:
                    return stored.run_id.decode("ascii"), position
        return newest, position

    def _one_run(self, beginning: str, *, follow: bool) -> Iterator[LogLine]:
        """The lines of one run; with `follow` until it ends."""
        run_id, self.files.position = self._find_run(beginning)
        first = True
        for line in self._rest(settle=not follow):
            if line.run_id != run_id:
                continue
            if first and line.event != "start":
                yield _beginning_lost(line, run_id)
            first = False
            yield line
            follow = follow and line.event != "end"
        if follow:
            yield from self._coming(run_id)

    def _find_run(self, beginning: str) -> tuple[str, Position]:
        """Id of the run, and a place before its first line. Raises UsageError."""
        text = beginning.lower().replace("-", "")
        if not re.fullmatch("[0-9a-f]{1,32}", text):
            raise UsageError(f"{beginning} is not the beginning of a run id", f"see them: sdcron history {self._job}")
        found: dict[bytes, tuple[int, Position]] = {}
        wanted = text.encode()
        for position, lines in self.files.blocks():
            for line in lines:
                run_id = line[line.find(b" ") + 1 :][: len(wanted)]
                stored = parse_stored(line) if run_id == wanted else None
                if stored is not None:
                    found.setdefault(stored.run_id, (stored.when_us, position))
        if len(found) > 1:
            listed = [f"{key[:12].decode()} ({rfc3339(when_us)})" for key, (when_us, _) in list(found.items())[:8]]
            raise UsageError(f"several runs of {self._job} begin with {text}: {', '.join(listed)}", "write more of it")
        if not found:
            raise UsageError(
                f"no run of {self._job} that begins with {text} is in its output on disk",
                f"what is kept of its output: sdcron history {self._job} --run {text} --output",
            )
        [(key, (_, position))] = found.items()
        return key.decode("ascii"), position


def _beginning_lost(line: LogLine, run_id: str) -> LogLine:
    return LogLine(line.when, "sdcron", "[… the beginning of this run is not kept any more]", run_id)


def _end(run: Run) -> LogLine:
    """The end of a run of which only the record tells."""
    when = moment_of(run.finished_us) if run.finished_us is not None else datetime.now(UTC)
    text = f"{run.outcome}: {run.reason}" if run.reason else str(run.outcome)
    return LogLine(when, "sdcron", text, run.run_id, "end", run)
