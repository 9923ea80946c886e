"""The jobs that are applied to the local engine: one file, replaced in one step, a line a job.

What the unit directory is to systemd, this file is to the engine: all of what was applied, and nothing else. A line is
JSON: the job's name, where it comes from, since when its times count, and its canonical text (job_text.py).
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdcron.errors import BackendError, SdcronError
from sdcron.files import Files
from sdcron.job import MAX_PARALLEL, Missed, Overlap, Retry
from sdcron.job_text import digest_of, job_of, parameters_of, text_of, timing_of
from sdcron.plan import Action
from sdcron.schedule import parse_schedule
from sdcron.span import parse_span
from sdcron.units import CompiledJob, Unit, timer_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta
    from pathlib import Path

    from sdcron.job import Job, Parameter
    from sdcron.job_text import Timing
    from sdcron.paths import Paths
    from sdcron.plan import Plan
    from sdcron.schedule import Schedule

FORMAT = 1
"""Version of the file; the first line says it."""
_LAST_US = 1 << 53
"""No moment in it is later: in the year 2255."""


@dataclass(frozen=True, slots=True)
class LocalJob:
    """One job that is applied to the engine. Answers what installed.InstalledJob answers of a job in units."""

    name: str
    directory: str
    source: str
    since_us: int
    """Since when its times count: when they were applied first, microseconds since 1970."""
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return digest_of(self.text)

    @property
    def timing(self) -> Timing:
        """What decides when it runs. Raises ValueError for a damaged text."""
        return timing_of(self.text)

    @property
    def plain(self) -> dict[str, Any]:
        """Its text as plain data: only what differs from the defaults. Empty for a damaged text."""
        try:
            plain = json.loads(self.text)
        except ValueError:
            return {}
        return plain if isinstance(plain, dict) else {}

    # As installed.AppliedJob

    @property
    def generated(self) -> bool:
        """No generator knows it."""
        return False

    @property
    def units(self) -> Mapping[str, str]:
        """Its text under the name that stands for it in a plan."""
        return {text_name(self.name): self.text}

    @property
    def unit_names(self) -> tuple[str, ...]:
        """It has none."""
        return ()

    @property
    def script(self) -> None:
        """It is part of the text."""

    @property
    def enabled(self) -> frozenset[str]:
        """It has no units."""
        return frozenset()

    @property
    def active(self) -> bool:
        """Whether it runs at its times."""
        return self.plain.get("enabled", True) is True

    @property
    def schedule(self) -> tuple[str, ...]:
        """As written."""
        return _texts(self.plain.get("schedule", ()))

    @property
    def timezone(self) -> str | None:
        """As written; None: the machine's."""
        return self.plain.get("timezone")

    @property
    def spread(self) -> timedelta:
        """Inside which it has its stable offset."""
        return parse_span(self.plain.get("spread", ""))

    @property
    def persistent(self) -> bool:
        """Whether a time that fell into downtime is made good."""
        return bool(self.plain.get("missed", Missed.RUN) == Missed.RUN)

    @property
    def calendar_timers(self) -> tuple[str, ...]:
        """What stands for its times when it is asked whether they are waited for: see backends.local."""
        return (timer_name(self.name),) if any(text.strip() != "@reboot" for text in self.schedule) else ()

    @property
    def description(self) -> str:
        """As written, on one line."""
        return " ".join(str(self.plain.get("description", "")).split())

    @property
    def user(self) -> str | None:
        """Whose identity its runs have; None: the engine's."""
        return self.plain.get("user")

    @property
    def time_limit(self) -> str | None:
        """How long a run may take, as systemd.time(7) writes it."""
        return self.plain.get("timeout")

    @property
    def retry_delays(self) -> tuple[timedelta, ...]:
        """The wait before each retry, in order."""
        retry = self.plain.get("retry") if self.active else None
        if not isinstance(retry, dict):
            return ()
        longest = parse_span(retry["max_delay"]) if "max_delay" in retry else None
        return Retry(
            parse_span(retry["delay"]), int(retry.get("attempts", 3)), float(retry.get("backoff", 1)), longest
        ).delays()

    @property
    def retry_on_exit(self) -> tuple[int, ...]:
        """The exit statuses that are retried; empty: every failure is."""
        codes = self.plain.get("retry", {}).get("on_exit", ())
        return tuple(codes) if isinstance(codes, list) else (codes,) if codes else ()

    @property
    def resumable(self) -> bool:
        """Whether a run that a suspend has ended is started again."""
        return self.plain.get("resumable") is True

    @property
    def after(self) -> tuple[str, ...]:
        """The jobs whose ends start it."""
        return _texts(self.plain.get("after", ()))

    @property
    def needs(self) -> tuple[str, ...]:
        """The jobs that must have succeeded since it did."""
        return _texts(self.plain.get("needs", ()))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What may differ from run to run. Raises ValueError for a damaged text."""
        return parameters_of(self.text)

    @property
    def overlap(self) -> Overlap:
        """What becomes of a run that is due while another is on."""
        written = str(self.plain.get("overlap"))
        return Overlap(written) if written in Overlap.__members__.values() else Overlap.SKIP

    @property
    def max_parallel(self) -> int:
        """How many runs may be on at the same time."""
        return int(self.plain.get("max_parallel", MAX_PARALLEL)) if self.overlap is Overlap.ALLOW else 1

    @property
    def locks(self) -> tuple[str, ...]:
        """The names of the locks that a run holds."""
        return _texts(self.plain.get("lock", ()))

    @property
    def redact(self) -> tuple[str, ...]:
        """Regular expressions of what does not go on record."""
        return _texts(self.plain.get("output", {}).get("redact", ()))

    def same_files(self, compiled: CompiledJob) -> bool:
        """True when it is exactly what `compiled` would store."""
        return self.units == {unit.name: unit.text for unit in compiled.units}


def text_name(name: str) -> str:
    """What stands for a job's text in a plan, as a unit's name does on systemd."""
    return f"{name}.job"


def compile_local(job: Job, directory: str) -> CompiledJob:
    """A job as it is stored, in the form that plan.py compares."""
    text = text_of(job, directory)
    units = (Unit(text_name(job.name), text),)
    return CompiledJob(job.name, directory, job.source.path, units, after=job.after, needs=job.needs)


def read_local(paths: Paths) -> dict[str, LocalJob]:
    """What is applied, by name; nothing where there is no file. Raises SdcronError for one that is damaged."""
    path = paths.local_jobs_file
    try:
        with path.open(encoding="utf-8") as stream:
            lines = stream.readlines()
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise BackendError(f"no permission to read {path}", "run it as root (sudo)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SdcronError(f"{path} cannot be read: {error}", _anew(path)) from error
    jobs: dict[str, LocalJob] = {}
    for number, line in enumerate(lines, start=1):
        try:
            if number == 1:
                _check_head(path, json.loads(line))
                continue
            jobs |= _job_of_line(line)
        except (ValueError, TypeError, RecursionError) as error:
            raise SdcronError(f"{path} is damaged in line {number}", _anew(path)) from error
    if not lines:
        # Nobody writes such a file: no job is lost without a word.
        raise SdcronError(f"{path} is damaged: it is empty", _anew(path))
    return jobs


def _job_of_line(line: str) -> dict[str, LocalJob]:
    """Raises ValueError, TypeError, RecursionError."""
    name, directory, source, since_us, text = json.loads(line)
    if any(type(word) is not str for word in (name, directory, source, text)) or type(since_us) is not int:
        raise ValueError("not a job")
    if not 0 <= since_us <= _LAST_US:
        raise ValueError("not a moment")
    return {name: LocalJob(name, directory, source, since_us, text)}


def _anew(path: Path) -> str:
    return f"move it away and apply the job files again: {shlex.join(['mv', str(path), f'{path}.damaged'])}"


def _check_head(path: Path, head: object) -> None:
    written = head.get("sdcron_jobs") if isinstance(head, dict) else None
    if written != FORMAT:
        raise SdcronError(f"{path} was written by another version of sdcron", _anew(path))


def write_local(paths: Paths, jobs: Iterable[LocalJob], files: Files | None = None) -> None:
    """Replace what is applied, in one step. Raises OSError."""
    lines = [json.dumps({"sdcron_jobs": FORMAT})]
    lines += [
        # In ASCII: a path may hold bytes that are not UTF-8.
        json.dumps([job.name, job.directory, job.source, job.since_us, job.text])
        for job in sorted(jobs, key=lambda job: job.name)
    ]
    # What jobs are called with is nobody else's business.
    (files or Files()).write(paths.local_jobs_file, "\n".join(lines) + "\n", 0o640)


def carried_out(plan: Plan, jobs: Mapping[str, LocalJob], now_us: int) -> dict[str, LocalJob]:
    """What is applied once a plan is carried out. Times that changed count from now on."""
    after = dict(jobs)
    for change in plan.changes:
        if change.action is Action.REMOVE or change.after is None:
            after.pop(change.name, None)
            continue
        job = change.after
        text = job.units[0].text
        before = jobs.get(change.name)
        since_us = before.since_us if before is not None and _same_times(before.text, text) else now_us
        after[change.name] = LocalJob(change.name, job.directory, job.source, since_us, text)
    return after


def _same_times(before: str, after: str) -> bool:
    """Whether two texts have the same times; what cannot be read any more has none."""
    try:
        return timing_of(before) == timing_of(after)
    except ValueError:
        return False


def local_job_of(job: LocalJob, zone: str, seed: str) -> Job:
    """The job itself, in the machine's time zone unless it has its own. Raises ValueError for a damaged text."""
    found = job_of(job.text, local_timezone=zone, seed=seed)
    return replace(found, timezone=found.timezone or zone)


@lru_cache(maxsize=1024)
def _parsed(texts: tuple[str, ...], zone: str | None, local: str, seed: str, spread: timedelta) -> Schedule:
    return parse_schedule(texts, timezone=zone, local_timezone=local, seed=seed, spread=spread)


def schedule_of(timing: Timing, local_timezone: str, seed: str) -> Schedule | None:
    """The schedule of a job's times; None for a job that runs by hand only. Raises ScheduleMistakes.

    Most schedules depend on nothing but their texts: those are shared by all jobs that have them.
    """
    if not timing.schedule:
        return None
    seeded = bool(timing.spread) or any("H" in text for text in timing.schedule)
    return _parsed(timing.schedule, timing.timezone, local_timezone, seed if seeded else "", timing.spread)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(text) for text in value) if isinstance(value, list | tuple) else ()
