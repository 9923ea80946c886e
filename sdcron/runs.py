"""One run of one job, as it is recorded: its fields, its words, and its JSON form. Pure.

The collector makes these from the journal (the engine from its own events), store.py keeps them, and a line of
job_status.log is one of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
"""Version of the JSON form; raised when a field changes its meaning. New fields may come without."""


class Trigger(StrEnum):
    """What started a run."""

    SCHEDULE = "schedule"
    MISSED = "missed"
    """A time that fell into downtime, made good."""
    RETRY = "retry"
    MANUAL = "manual"
    AFTER = "after"
    BOOT = "boot"


class Outcome(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """It exited with another status than success, or could not be started."""
    TIMEOUT = "timeout"
    KILLED = "killed"
    """It was stopped by an administrator, or died of a signal."""
    SKIPPED = "skipped"
    """What `when:` asks for was not there, or a lock was held: the command was not started."""
    ABANDONED = "abandoned"
    """The machine went down under it, or its end was not recorded anywhere."""


FAILED = frozenset({Outcome.FAILURE, Outcome.TIMEOUT, Outcome.KILLED, Outcome.ABANDONED})


@dataclass(frozen=True, slots=True)
class Output:
    """What is kept of one stream: `kept` with a line in the middle that says what was left out, `size` in bytes of all.

    `size` counts what the journal holds: journald drops empty lines, and blanks at the end of others, and says so
    nowhere.
    """

    kept: bytes = b""
    size: int = 0
    truncated: bool = False

    def text(self) -> str:
        r"""As text; a byte that is not UTF-8 is written `\xff`, as Python and most tools do."""
        return self.kept.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a run said that a person should know, on one line, and when: microseconds since 1970 UTC."""

    at_us: int
    text: str

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {"at": rfc3339(self.at_us), "text": self.text}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for with a run: who did, the instant it is for, the values of parameters.

    Nothing of it is known of a run that was started by systemctl(1) or by its schedule.
    """

    by: str = ""
    for_us: int | None = None
    values: tuple[tuple[str, str], ...] = ()

    @property
    def is_special(self) -> bool:
        """Whether the run is another than any other of its job."""
        return self.for_us is not None or bool(self.values)

    def as_json(self) -> dict[str, Any]:
        """As a record has it."""
        return {"asked_by": self.by or None, "for": rfc3339(self.for_us), "parameters": dict(self.values)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Asked:
        """The inverse; empty for a record of before there were such fields. Raises ValueError or TypeError."""
        values, by = record.get("parameters") or {}, record.get("asked_by") or ""
        if not isinstance(values, dict) or not all(map(_is_text, (by, *values, *values.values()))):
            raise TypeError("a member of the record has another type than sdcron writes")
        return cls(by, microseconds(record.get("for")), tuple(values.items()))


NOT_ASKED = Asked()
"""Nobody, and for nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Times are microseconds since 1970 UTC, None where they are not known."""

    job: str
    run_id: str
    """systemd's invocation id (systemd.exec(5), $INVOCATION_ID); made up where systemd has none."""
    outcome: Outcome
    host: str = ""
    backend: str = "systemd"
    trigger: Trigger | None = None
    """None where nothing is left that tells."""
    attempt: int = 1
    """1 for a first run, n + 1 for the n-th retry."""
    scheduled_us: int | None = None
    started_us: int | None = None
    finished_us: int | None = None
    reason: str = ""
    """Why, in one line, for every outcome but a plain success."""
    exit_code: int | None = None
    signal: str | None = None
    """Such as SIGKILL."""
    stdout: Output = field(default_factory=Output)
    stderr: Output = field(default_factory=Output)
    dropped_lines: int = 0
    """Lines that journald says it did not keep, and which are not in the counts."""
    cpu_us: int | None = None
    memory_peak_bytes: int | None = None
    next_run_us: int | None = None
    job_digest: str | None = None
    alarms: tuple[Alarm, ...] = ()
    asked: Asked = NOT_ASKED

    @property
    def duration_us(self) -> int | None:
        """How long it took; None where one end is not known. 0 where the clock was set back under it."""
        if self.started_us is None or self.finished_us is None:
            return None
        return max(self.finished_us - self.started_us, 0)

    @property
    def lateness_us(self) -> int | None:
        """How long after its time it started."""
        if self.scheduled_us is None or self.started_us is None:
            return None
        return max(self.started_us - self.scheduled_us, 0)

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape: one such object is a line of job_status.log."""
        return {
            "schema": SCHEMA,
            "job": self.job,
            "run_id": self.run_id,
            "host": self.host,
            "backend": self.backend,
            "trigger": self.trigger,
            "attempt": self.attempt,
            "scheduled_at": rfc3339(self.scheduled_us),
            "started_at": rfc3339(self.started_us),
            "finished_at": rfc3339(self.finished_us),
            "duration_s": seconds(self.duration_us),
            "lateness_s": seconds(self.lateness_us),
            "outcome": self.outcome,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stdout": self.stdout.text(),
            "stderr": self.stderr.text(),
            "stdout_bytes": self.stdout.size,
            "stderr_bytes": self.stderr.size,
            "truncated": self.stdout.truncated or self.stderr.truncated,
            "dropped_lines": self.dropped_lines,
            "cpu_s": seconds(self.cpu_us),
            "memory_peak_bytes": self.memory_peak_bytes,
            "next_run_at": rfc3339(self.next_run_us),
            "job_digest": self.job_digest,
            "alarms": [alarm.as_json() for alarm in self.alarms],
            **self.asked.as_json(),
        }

    def line(self) -> bytes:
        """The record as one line of job_status.log, ASCII only: no reader can be misled by what a job printed."""
        return json.dumps(self.as_json(), separators=(",", ":")).encode("ascii") + b"\n"


def from_json(record: dict[str, Any]) -> Run:
    """A record that was read back. Raises ValueError, KeyError or TypeError for what `as_json` never writes."""
    _check_types(record)
    cut, trigger = bool(record["truncated"]), record["trigger"]
    stdout, stderr = (Output(record[name].encode(), record[f"{name}_bytes"], cut) for name in ("stdout", "stderr"))
    plain = ("job", "run_id", "host", "backend", "attempt", "reason", "exit_code", "signal", "dropped_lines")
    return Run(
        **{name: record[name] for name in (*plain, "memory_peak_bytes", "job_digest")},
        stdout=stdout,
        stderr=stderr,
        outcome=Outcome(record["outcome"]),
        trigger=Trigger(trigger) if trigger is not None else None,
        scheduled_us=microseconds(record["scheduled_at"]),
        started_us=microseconds(record["started_at"]),
        finished_us=microseconds(record["finished_at"]),
        cpu_us=round(record["cpu_s"] * 1_000_000) if record["cpu_s"] is not None else None,
        next_run_us=microseconds(record["next_run_at"]),
        alarms=alarms_of(record),
        asked=Asked.from_json(record),
    )


def alarms_of(record: Mapping[str, Any]) -> tuple[Alarm, ...]:
    """Those of a record, none of one from before there were any. Raises KeyError, ValueError or TypeError."""
    found = tuple(Alarm(microseconds(alarm["at"]) or 0, alarm["text"]) for alarm in record.get("alarms", ()))
    if not all(_is_text(alarm.text) for alarm in found):
        raise TypeError("an alarm of the record has no text")
    return found


_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXTS = ("job", "run_id", "host", "backend", "reason", "stdout", "stderr")
_NUMBERS = ("attempt", "stdout_bytes", "stderr_bytes", "dropped_lines")
_OPTIONAL_NUMBERS = ("exit_code", "memory_peak_bytes")
_OPTIONAL_TEXTS = ("signal", "job_digest")


def _check_types(record: dict[str, Any]) -> None:
    right = (
        all(_is_text(record[name]) for name in _TEXTS)
        and all(_is_number(record[name]) for name in _NUMBERS)
        and all(record[name] is None or _is_number(record[name]) for name in _OPTIONAL_NUMBERS)
        and all(record[name] is None or _is_text(record[name]) for name in _OPTIONAL_TEXTS)
        and (record["cpu_s"] is None or _is_number(record["cpu_s"]))
    )
    if not right:
        raise TypeError("a member of the record has another type than sdcron writes")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 2**53


def rfc3339(moment_us: int | None) -> str | None:
    """RFC 3339 with the machine's offset at that time and all six decimals, so that texts of one offset sort."""
    if moment_us is None:
        return None
    return moment_of(moment_us).astimezone().isoformat(timespec="microseconds")


def moment_of(moment_us: int) -> datetime:
    """The time in UTC."""
    whole, rest = divmod(moment_us, 1_000_000)
    return datetime.fromtimestamp(whole, tz=UTC).replace(microsecond=rest)


def microseconds(text: str | None) -> int | None:
    """The inverse of `rfc3339`. Raises ValueError."""
    if text is None:
        return None
    try:
        return microseconds_of(datetime.fromisoformat(text))
    except OverflowError as error:
        raise ValueError("no time that there is in UTC") from error


def microseconds_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly; the inverse of `moment_of`."""
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def seconds(length_us: int | None) -> float | None:
    """Microseconds as seconds."""
    return None if length_us is None else length_us / 1_000_000
