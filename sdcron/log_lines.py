"""Journal entries of one job -> the lines it printed, whole again, each with its stream and its run. Pure.

The journal is open to all: a line that calls itself sdcron-backup is taken if journald says that it came from that
job's units, or, where its process was gone before journald looked, if it came from root or the job's user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcron.lock_skips import told_lock
from sdcron.messages import (
    EXITED,
    FAILED,
    HAS_STOPPED,
    SKIPPED,
    START_FAILED,
    STARTED,
    STARTING,
    SUCCEEDED,
    is_of_manager,
    may_be_of_job,
)
from sdcron.open_run import STOPPED, OpenRun
from sdcron.output import Patterns, redact
from sdcron.overlap import slot_of
from sdcron.runs import microseconds_of, moment_of, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sdcron.messages import Get
    from sdcron.runs import Run

_LONGEST_LINE = 1 << 20
"""Bytes that are put together again at most."""
_STREAMS = {b"6": "stdout", b"4": "stderr"}
"""systemd-cat's priorities for the two, by the units that units.py writes."""
_GOES_ON = (b"line-max", b"pid-change")
"""journald's _LINE_BREAK= where the line was not over."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line.

    `stream` is `stdout` or `stderr`; `sdcron`, what its retry handler says; `systemd`, what the service manager says of
    a run that it could not start; `syslog`, what the run logged by itself, the program's name in front.
    `event` is `start` or `end` where the line, of stream `sdcron`, tells of the run and not by it; its text is then
    empty, or the outcome with its reason.
    """

    when: datetime
    """When journald got it, UTC."""
    stream: str
    text: str
    run_id: str | None = None
    """None where nothing tells."""
    event: str | None = None
    run: Run | None = None
    """The record of the run that ended."""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        when = rfc3339(microseconds_of(self.when))
        return {"time": when, "stream": self.stream, "text": self.text, "run_id": self.run_id, "event": self.event}


@dataclass(slots=True)
class _Stream:
    """One stream of journald's: whose it is, and the piece of a line that is not over."""

    name: str
    run_id: str | None
    when: datetime
    piece: bytearray = field(default_factory=bytearray)


class Assembly:
    """Takes the entries of one job's journal in order and makes lines of them. Pure but for `record_of`."""

    def __init__(
        self,
        job: str,
        *,
        user: bool,
        uids: tuple[int, ...],
        patterns: Patterns = (),
        record_of: Callable[[str], Run | None] = lambda _: None,
    ) -> None:
        """`uids` are whose processes the job's lines may come from; `record_of` gives the record of a run, if any."""
        self._job = job
        self._identifier = f"sdcron-{job}".encode()
        self._beside = f"sdcron-{job}@".encode()
        self._uids = tuple(str(uid).encode() for uid in uids)
        prefix = "USER_" if user else ""
        self._unit_field, self._by_unit, self._id_field = (
            f"_SYSTEMD_{prefix}UNIT",
            f"{prefix}UNIT",
            f"{prefix}INVOCATION_ID",
        )
        self._user = user
        self._patterns = patterns
        self._record_of = record_of
        self._streams: dict[bytes, _Stream | None] = {}
        self._run: OpenRun | None = None
        """The run that began last."""
        self._said: list[LogLine] = []
        """What the retry handler said since then."""
        self._ended: datetime | None = None
        """When it ended, as long as that has not been told."""

    @property
    def ending(self) -> bool:
        """Whether the end of a run, or what was said about it, is known and not told yet."""
        return self._ended is not None or bool(self._said)

    def take(self, get: Get, received_us: int) -> list[LogLine]:
        """The lines that an entry completes."""
        identifier = get("SYSLOG_IDENTIFIER") or b""
        unit = get(self._unit_field)
        when = moment_of(received_us)
        if (
            identifier == b"systemd"
            and self._runs(get(self._by_unit))
            and is_of_manager(get, self._uids[0] if self._user else None)
        ):
            return self._event(get, when)
        if (
            unit is not None
            and unit.startswith(self._beside)
            and not self._runs(unit)
            and identifier == self._identifier
        ):
            # journald reads streams and messages by turns: this may come before the failure that it is about.
            self._said.append(LogLine(when, "sdcron", self._text(get("MESSAGE"))))
            return []
        if identifier == self._identifier and get("_STREAM_ID") is not None:
            stream = self._stream(get, unit, when)
            return self._printed(get, stream, when) if stream is not None else []
        held = told_lock(get, self._uids) if identifier == self._identifier else None
        if held is not None:
            return [LogLine(when, "sdcron", self._text(get("MESSAGE")), held[0])]
        if identifier == self._identifier and (self._runs(unit) or (unit is None and get("_UID") in self._uids)):
            # What the run says of itself by sdk.py: alarms are for people to read, progress for `status` to show.
            alarm, run_id = get("SDCRON_ALARM"), _id(get) or (_id(get, "SDCRON_RUN_ID") if unit is None else None)
            if alarm is not None:
                return [LogLine(when, "sdcron", f"alarm: {self._text(alarm)}", run_id)]
            if get("SDCRON_PROGRESS") is not None:
                return []
        # What was to become the command tells why it did not, and of which unit, also where journald came too late.
        starting = identifier.startswith(b"(") and self._runs(get(self._by_unit)) and get("_UID") in self._uids
        if self._runs(unit) or starting:
            said = starting or identifier == b"systemd-cat"
            program = "" if said else f"{identifier.decode('utf-8', 'backslashreplace')}: "
            run_id = _id(get) or _id(get, self._id_field)
            return [LogLine(when, "systemd" if said else "syslog", program + self._text(get("MESSAGE")), run_id)]
        return []

    def _runs(self, unit: bytes | None) -> bool:
        """Whether the job's runs are of this unit."""
        return unit is not None and slot_of(unit.decode("ascii", "replace"))[0] == self._job

    def _is_beside(self, unit: bytes | None) -> bool:
        """Whether it is one of the job's handlers, as that of its retries."""
        return unit is not None and unit.startswith(self._beside) and not self._runs(unit)

    def settle(self, *, last: bool = False) -> list[LogLine]:
        """What is held back: the end of a run, and lines whose ends did not come before that, or before the `last`."""
        lines = []
        for stream in self._streams.values():
            if stream is not None and stream.piece and (last or self._ended is not None):
                lines.append(LogLine(stream.when, stream.name, self._text(bytes(stream.piece)), stream.run_id))
                stream.piece.clear()
        if self._ended is not None and self._run is not None:
            run = self._record_of(self._run.run_id) or self._run.close(None)
            text = f"{run.outcome}: {run.reason}" if run.reason else str(run.outcome)
            lines.append(LogLine(self._ended, "sdcron", text, run.run_id, "end", run))
            self._ended = None
            if len(self._streams) > 256:
                self._streams.clear()
        lines += self._said
        self._said.clear()
        return lines

    def _event(self, get: Get, when: datetime) -> list[LogLine]:
        message, run_id = get("MESSAGE_ID"), (get(self._id_field) or b"").decode("ascii", "replace")
        if message == STARTING:
            told = self.settle()
            self._run = OpenRun(self._job, run_id, "", started_us=microseconds_of(when))
            return [*told, LogLine(when, "sdcron", "", run_id, "start")]
        if message == STARTED and not run_id:
            # A condition did not hold: such a start is no invocation, and nothing has gone wrong.
            return [*self.settle(), LogLine(when, "sdcron", self._text(get("MESSAGE")))]
        run, told = self._run, []
        if run is None or run.run_id != run_id:
            # Of several that are on at the same time.
            told = self.settle()
            run = self._run = OpenRun(self._job, run_id, "")
        if message == EXITED:
            status = get("EXIT_STATUS") or b""
            run.exit_kind = (get("EXIT_CODE") or b"").decode("ascii", "replace")
            run.exit_status = int(status) if status.isdigit() else None
        elif message in (SUCCEEDED, FAILED, SKIPPED):
            run.result = (get("UNIT_RESULT") or b"success").decode("ascii", "replace")
        elif message in (START_FAILED, HAS_STOPPED):
            run.result = run.result or (get("JOB_RESULT") or b"").decode("ascii", "replace")
            if message == HAS_STOPPED:
                run.stopped = STOPPED
        else:
            return told
        run.ended_us = microseconds_of(when)
        self._ended = self._ended or when if message != EXITED else self._ended
        return told

    def _stream(self, get: Get, unit: bytes | None, when: datetime) -> _Stream | None:
        """The stream that a line is of, None if it is not the job's."""
        name = get("_STREAM_ID") or b""
        if name in self._streams:
            return self._streams[name]
        stream = None
        if self._runs(unit) or may_be_of_job(get, unit, self._uids):
            kind = _STREAMS.get(get("PRIORITY") or b"", "sdcron" if unit is None else "stderr")
            run_id = _id(get) if self._runs(unit) else None
            stream = _Stream(kind, run_id or (self._run.run_id if self._run is not None else None), when)
        self._streams[name] = stream
        return stream

    def _printed(self, get: Get, stream: _Stream, when: datetime) -> list[LogLine]:
        stream.piece += get("MESSAGE") or b""
        stream.when = when
        if get("_LINE_BREAK") in _GOES_ON and len(stream.piece) < _LONGEST_LINE:
            return []
        text = self._text(bytes(stream.piece))
        stream.piece.clear()
        run_id = stream.run_id
        if stream.name == "sdcron":
            self._said.append(LogLine(when, stream.name, text))
            return []
        told = self.settle() if self._ended is not None and self._run is not None and run_id != self._run.run_id else []
        return [*told, LogLine(when, stream.name, text, run_id)]

    def _text(self, message: bytes | None) -> str:
        message = message or b""
        return (redact(message, self._patterns) if self._patterns else message).decode("utf-8", "backslashreplace")


def _id(get: Get, field_name: str = "_SYSTEMD_INVOCATION_ID") -> str | None:
    run_id = get(field_name)
    return run_id.decode("ascii", "replace") if run_id else None
