"""The job as every part of sdcron sees it: frozen records, no dicts, no file system, no clock.

jobfile.py makes these from YAML; units.py turns them into unit text. Defaults here are the documented ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdcron.schedule import Schedule


RESERVED_NAMES = frozenset({"boot", "collector", "engine"})
"""What no job may be called: the units of these names are sdcron's own."""
MAX_PARALLEL = 16
"""How many runs of a job that allows several may be on, unless it says."""
NOT_RUN = 248
"""The exit status by which a job's own wrapper says that it did not run, as without a lock that is held.

It is none of systemd.exec(5), "Process Exit Codes"; to systemd it is a success.
"""


class Missed(StrEnum):
    """What to do about runs that fell into downtime."""

    RUN = "run"
    SKIP = "skip"


class Overlap(StrEnum):
    """What to do when a job is due while it still runs."""

    SKIP = "skip"
    QUEUE = "queue"
    ALLOW = "allow"
    REPLACE = "replace"


class Sandbox(StrEnum):
    """A named set of systemd hardening directives."""

    NONE = "none"
    STANDARD = "standard"
    STRICT = "strict"


class Otherwise(StrEnum):
    """What to do while the machine does not offer what `when` asks for."""

    SKIP = "skip"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a job was written: absolute path of its file, and the line (from 1) it starts on.

    `shown` is the path as the user gave it, for messages.
    """

    path: str
    line: int = 1
    shown: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Retry:
    """Runs after a failure.

    `attempts` counts the retries (not the first run); the n-th waits `delay` x `backoff`^(n-1), at most
    `max_delay`. With `on_exit`, only these exit codes are retried.
    """

    delay: timedelta
    attempts: int = 3
    backoff: float = 1.0
    max_delay: timedelta | None = None
    on_exit: tuple[int, ...] = ()

    def delays(self) -> tuple[timedelta, ...]:
        """The wait before each retry, in order, whole milliseconds."""
        delays: list[timedelta] = []
        longest = self.max_delay or timedelta(days=365)
        milliseconds = self.delay / timedelta(milliseconds=1)
        for _ in range(self.attempts):
            delays.append(min(timedelta(milliseconds=round(milliseconds)), longest))
            milliseconds = min(milliseconds * self.backoff, longest / timedelta(milliseconds=1))
        return tuple(delays)


@dataclass(frozen=True, slots=True)
class Priority:
    """`nice` -20..19; `io` is systemd's class, level optional (`idle`, `best-effort:7`); `cpu_weight` 1..10000."""

    nice: int | None = None
    io: str | None = None
    cpu_weight: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory` in bytes, `cpu` in percent of one CPU, `tasks` and `open_files` as counts."""

    memory: int | None = None
    cpu: int | None = None
    tasks: int | None = None
    open_files: int | None = None


@dataclass(frozen=True, slots=True)
class When:
    """What the machine must offer before a run may start."""

    network: bool = False
    units: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    path_exists: tuple[str, ...] = ()
    path_missing: tuple[str, ...] = ()
    ac_power: bool = False
    command: tuple[str, ...] = ()
    otherwise: Otherwise = Otherwise.SKIP
    wake: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What of a run's output goes on record.

    `keep` is how many bytes of each stream, the first and the last half. What one of the regular expressions in
    `redact` matches is not recorded.
    """

    keep: int = 65536
    redact: tuple[str, ...] = ()


class ParameterKind(StrEnum):
    """What values a parameter takes: what its default is. Without one any text."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    TRUTH = "truth"


@dataclass(frozen=True, slots=True)
class Parameter:
    """What may differ from run to run; without a `default`, which is a text as written, it must be given."""

    name: str
    default: str | None = None
    kind: ParameterKind = ParameterKind.TEXT
    description: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that systemd hands to the run as a file: LoadCredential=, or LoadCredentialEncrypted=."""

    name: str
    path: str
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs `command`: a program put in front of it, or a virtual environment's bin directory."""

    program: str | None = None
    venv: str | None = None


@dataclass(frozen=True, slots=True)
class Directive:
    """One `Key=value` line that the user passes through to systemd as it is, and where it was written (from 1)."""

    key: str
    value: str
    line: int = field(default=0, compare=False)
    column: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Passthrough:
    """The `systemd:` key: directives for the job's own units, checked with systemd's verifier."""

    unit: tuple[Directive, ...] = ()
    service: tuple[Directive, ...] = ()
    timer: tuple[Directive, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is passed through."""
        return bool(self.unit or self.service or self.timer)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, complete and checked.

    Exactly one of `command` (argv) and `script` is set. `lock` are names, sorted and each once. `hosts` are names and
    globs, none for all (hosts.py). `after` and `needs` are names of jobs (graph.py). `unsupported` names the keys of
    the job file whose behaviour this version does not have: such a job validates and is refused by compile and apply.
    """

    name: str
    source: Source
    command: tuple[str, ...] = ()
    script: str | None = None
    description: str = ""
    schedule: Schedule | None = None
    timezone: str | None = None
    user: str | None = None
    group: str | None = None
    directory: str | None = None
    umask: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    environment_file: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    interpreter: Interpreter | None = None
    timeout: timedelta | None = None
    stop_timeout: timedelta | None = None
    kill_signal: str | None = None
    missed: Missed = Missed.RUN
    overlap: Overlap = Overlap.SKIP
    max_parallel: int = MAX_PARALLEL
    retry: Retry | None = None
    lock: tuple[str, ...] = ()
    lock_wait: timedelta = timedelta(0)
    when: When = field(default_factory=When)
    spread: timedelta = timedelta(0)
    accuracy: timedelta = timedelta(seconds=1)
    success_exit: tuple[int | str, ...] = ()
    priority: Priority = field(default_factory=Priority)
    limits: Limits = field(default_factory=Limits)
    sandbox: Sandbox = Sandbox.NONE
    output: Output = field(default_factory=Output)
    hosts: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    enabled: bool = True
    resumable: bool = False
    systemd: Passthrough = field(default_factory=Passthrough)
    unsupported: tuple[str, ...] = ()
