"""Job -> unit names and unit text: every directive is chosen here.

Pure: no file system, no clock, no systemd. What is written here is what `compile` prints and `apply` installs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdcron.chain_units import chain_units, gate
from sdcron.chain_units import on_record as chain_on_record
from sdcron.escape import Place, escape, escape_template
from sdcron.job import Missed, Output, Overlap
from sdcron.overlap import asked_unit, overlap_units, queued_mark
from sdcron.parameters import variable, write_parameters
from sdcron.paths import Scope
from sdcron.pauses import conditions as marks
from sdcron.python_command import function_argv, is_function
from sdcron.retry import gave_up_after, retry_units
from sdcron.sandbox import sandbox_directives
from sdcron.span import span
from sdcron.unit_conditions import when_service, when_unit
from sdcron.unit_locks import lock_notes, lock_service, lock_unit, lock_units, lock_words, reads_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.job import Directive, Job

PREFIX = "sdcron-"
FORMAT = 1
"""Version of the unit layout, written to [X-Sdcron]; raised when installed units must be rewritten."""

_LOADERS = ("GCONV_PATH", "GLIBC_TUNABLES", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOCPATH", "NLSPATH")
SYSTEMD_CAT = "/usr/bin/systemd-cat"
# systemd takes the name of an environment file for a pattern (systemd.exec(5), EnvironmentFile=); here it is a name.
_GLOB, _BACKSLASHED = re.compile(r"[*?\[\\]"), r"\\\g<0>"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file: its name, such as `sdcron-backup.timer`, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class CompiledJob:
    """All that one job becomes.

    `start` are the timers that run once it is applied, `boot` those that only a boot starts, `enable` those that
    timers.target wants; none of a job that is paused. `script` is the text of a `script:` job, kept beside the units.
    `after` and `needs` are names of jobs. What is `generated` comes from a drop-in directory, and to systemd by the
    generator.
    """

    name: str
    directory: str
    source: str
    units: tuple[Unit, ...]
    start: tuple[str, ...] = ()
    boot: tuple[str, ...] = ()
    script: str | None = None
    paused: bool = False
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    generated: bool = False

    def while_paused(self) -> CompiledJob:
        """The same, and nothing starts it."""
        return replace(self, start=(), boot=(), paused=True)

    @property
    def enable(self) -> tuple[str, ...]:
        """Timers that timers.target shall want: those that run now and those that wait for a boot."""
        return self.start + self.boot


def service_name(job_name: str) -> str:
    """The unit that runs the job."""
    return f"{PREFIX}{job_name}.service"


def timer_name(job_name: str) -> str:
    """The unit that holds the job's schedule."""
    return f"{PREFIX}{job_name}.timer"


def boot_timer_name(job_name: str) -> str:
    """The second timer of a job that runs at boot and at other times too.

    An at sign cannot stand in a job name, so no other job's unit can have this name.
    """
    return f"{PREFIX}{job_name}@boot.timer"


def compile_job(job: Job, *, directory: str, scope: Scope, state_dir: str, pausable: bool = True) -> CompiledJob:
    """Compile one job whose file belongs to `directory`; its script, and its mark when paused, are in `state_dir`.

    What is not `pausable` is a transient job.

    Raises UnitTextError when a value cannot stand in a unit; jobfile.py refuses such values before.
    """
    script = script_text(job)
    units = [Unit(service_name(job.name), _service(job, directory, scope, state_dir))]
    start: list[str] = []
    boot: list[str] = []
    schedule = job.schedule
    if schedule is not None:
        calendar = schedule.to_calendar()
        boot_name = boot_timer_name(job.name) if calendar else timer_name(job.name)
        if calendar:
            triggers = [f"OnCalendar={line}" for line in calendar]
            triggers.append(f"Persistent={'yes' if job.missed is Missed.RUN else 'no'}")
            units.append(Unit(timer_name(job.name), _timer(job, directory, triggers, ())))
            start.append(timer_name(job.name))
        if schedule.on_boot:
            units.append(Unit(boot_name, _boot_timer(job, directory, scope)))
            boot.append(boot_name)
    if job.retry is not None and job.enabled:
        paths = marks(f"{state_dir}/paused", job.name) if pausable else ()
        paused = [f"ConditionPathExists=!{escape(path, Place.VALUE)}" for path in paths]
        header = [*_header(job), *paused]
        mark = queued_mark(state_dir, job.name)
        units += [Unit(name, text) for name, text in retry_units(job, scope, header, _ownership(job, directory), mark)]
    beside = overlap_units(job, scope, state_dir, units[0].text, _header(job), _ownership(job, directory))
    units += [Unit(name, text) for name, text in beside]
    units += [Unit(*made) for made in lock_units(job, scope, _header(job), _ownership(job, directory))]
    if job.after or job.needs:
        found = chain_units(job, scope, state_dir, _header(job), _ownership(job, directory))
        units += [Unit(name, text) for name, text in found]
    if not job.enabled:
        start, boot = [], []
    sealed = tuple(Unit(unit.name, seal(unit.text)) for unit in units)
    timers = (tuple(start), tuple(boot))
    return CompiledJob(job.name, directory, job.source.path, sealed, *timers, script, after=job.after, needs=job.needs)


def seal(text: str) -> str:
    """The text with its own SHA-256 below it, so that an edit by hand is seen. Ends the [X-Sdcron] section."""
    return f"{text}Digest={hashlib.sha256(text.encode()).hexdigest()}\n"


def is_sealed(text: str) -> bool:
    """Whether a unit's text is still what sdcron wrote."""
    body, found, _ = text.rpartition("Digest=")
    return bool(found) and seal(body) == text


def _header(job: Job) -> list[str]:
    return [f"SourcePath={escape(job.source.path, Place.VALUE)}"]


def _ownership(job: Job, directory: str) -> list[str]:
    return [
        "",
        "[X-Sdcron]",
        f"Format={FORMAT}",
        f"Job={job.name}",
        f"Source={escape(job.source.path, Place.VALUE)}",
        f"Directory={escape(directory, Place.VALUE)}",
        f"Enabled={'yes' if job.enabled else 'no'}",
    ]


def _on_record(job: Job) -> list[str]:
    """What must be known of an applied job and no directive tells."""
    lines = [f"OutputKeep={job.output.keep}"] if job.output.keep != Output().keep else []
    lines += [f"Redact={escape(text, Place.VALUE)}" for text in job.output.redact]
    if job.retry is not None and job.retry.on_exit and job.enabled:
        lines.append(f"RetryOnExit={' '.join(str(code) for code in job.retry.on_exit)}")
    if job.schedule is None and job.timezone is not None:
        lines.append(f"Timezone={job.timezone}")  # else it stands in a timer
    lines += [f"Parameter={escape(written, Place.VALUE)}" for written in write_parameters(job.parameters)]
    if job.overlap is not Overlap.SKIP:
        lines.append(f"Overlap={job.overlap}")
    if job.overlap is Overlap.ALLOW:
        lines.append(f"MaxParallel={job.max_parallel}")
    return [*lines, *lock_notes(job), *["Resumable=yes"] * job.resumable, *chain_on_record(job)]


def _schedule_as_written(job: Job) -> list[str]:
    if job.schedule is None:
        return []
    lines = [f"Schedule={escape(text.strip(), Place.VALUE)}" for text in job.schedule.texts]
    lines += [f"Timezone={job.timezone}"] if job.timezone else []
    return lines + ([f"Spread={span(job.spread)}"] if job.spread else [])


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _service(job: Job, directory: str, scope: Scope, state_dir: str) -> str:
    unit = ["[Unit]", f"Description={_description(job)}", *_header(job), *when_unit(job, scope)]
    service = [
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={_command_line(job, f'{state_dir}/scripts/{job.name}')}",
        *gate(job, scope, state_dir),
        *when_service(job, scope),
        f"SyslogIdentifier={PREFIX}{job.name}",
        f"LogExtraFields=SDCRON_JOB={job.name}",
        # Interval 0 does not switch the limit off (silently lost lines); a burst nobody reaches does.
        "LogRateLimitIntervalSec=1s",
        "LogRateLimitBurst=100000000",
        *_identity(job),
        *_environment(job),
        *_not_for_root(job, scope),
        *_bounds(job),
        *sandbox_directives(job.sandbox, scope),
    ]
    if job.retry is not None and job.enabled:
        extra_unit, extra_service = gave_up_after(job, scope)
        unit += extra_unit
        service += extra_service
    if any(each.default is None for each in job.parameters):
        # Only a unit of by_hand.py has a value for it.
        unit.append("RefuseManualStart=yes")
    # Runs are bounded by their schedule, not by a start limit, which would drop runs of a busy job.
    unit.append("StartLimitIntervalSec=0")
    unit += lock_unit(job, scope)
    unit += _passed_through(job.systemd.unit)
    service += _passed_through(job.systemd.service)
    service += lock_service(job, scope)
    return _text([*unit, *service, *_ownership(job, directory), *_on_record(job)])


def _timer(job: Job, directory: str, triggers: Sequence[str], conditions: Sequence[str]) -> str:
    timer = [
        "[Unit]",
        f"Description=Schedule of {_description(job)}",
        *_header(job),
        *conditions,
        # Several edits within seconds must not end in a timer that systemd refuses to start.
        "StartLimitIntervalSec=0",
        "",
        "[Timer]",
        *triggers,
        f"AccuracySec={span(job.accuracy)}",
        f"Unit={asked_unit(job)}",
    ]
    if job.when.wake:
        timer.append("WakeSystem=yes")
    timer += _passed_through(job.systemd.timer)
    install = ["", "[Install]", "WantedBy=timers.target"]
    return _text([*timer, *install, *_ownership(job, directory), *_schedule_as_written(job)])


def _boot_timer(job: Job, directory: str, scope: Scope) -> str:
    # A timer whose boot time has passed elapses the moment it is started (systemd.timer(5), OnBootSec=), so the mark
    # that apply leaves until the next boot keeps anything else from starting it. 0s may never fire: systemd #37390.
    seconds = 1 + (job.schedule.offset.total_seconds() if job.schedule else 0)
    base = "OnBootSec" if scope is Scope.SYSTEM else "OnStartupSec"
    condition = f"ConditionPathExists=!%t/sdcron/applied-this-boot/{job.name}"
    return _timer(job, directory, [f"{base}={seconds:.0f}s"], [condition])


def _description(job: Job) -> str:
    first = " ".join(job.description.split())
    return escape(f"{job.name}: {first}" if first else f"sdcron job {job.name}", Place.VALUE)


def argv_of(job: Job, script_path: str) -> tuple[str, ...]:
    """What the job runs, its script being kept at `script_path`."""
    if job.script is not None:
        return (*_shebang(job.script), script_path)
    if is_function(job.command):
        return function_argv(job)
    if job.interpreter and job.interpreter.program:
        return (job.interpreter.program, *job.command)
    return job.command


def _command_line(job: Job, script_path: str) -> str:
    # systemd-cat execs the command with one stream for stdout and one for stderr and leaves no process behind;
    # the level prefix is off so that a line beginning with <3> arrives as it was written.
    cat = [SYSTEMD_CAT, f"--identifier={PREFIX}{job.name}", "--priority=info", "--stderr-priority=warning"]
    words = [*cat, "--level-prefix=false", "--", *argv_of(job, script_path)]
    plain = len(words) - len(job.command) if job.parameters else len(words)
    escaped = [*(escape(word, Place.ARGUMENT) for word in words[:plain]), *map(escape_template, words[plain:])]
    return " ".join([*lock_words(job), *escaped])


def _shebang(script: str) -> tuple[str, ...]:
    """The interpreter and its one argument, as execve(2) splits a `#!` line; it also works on a noexec /var."""
    first_line = script.partition("\n")[0]
    words = first_line[2:].strip(" \t") if first_line.startswith("#!") else ""
    # execve knows no other blanks than these two.
    return tuple(re.split("[ \t]+", words, maxsplit=1)) if words else ("/bin/sh",)


def script_text(job: Job) -> str | None:
    """The text of a `script:` job as it is kept; None for any other."""
    if job.script is None:
        return None
    return job.script if job.script.endswith("\n") else job.script + "\n"


def _identity(job: Job) -> list[str]:
    lines = []
    if job.user is not None:
        lines.append(f"User={escape(job.user, Place.VALUE)}")
    if job.group is not None:
        lines.append(f"Group={escape(job.group, Place.VALUE)}")
    if job.directory is not None:
        lines.append(f"WorkingDirectory={escape(job.directory, Place.VALUE)}")
    if job.umask is not None:
        lines.append(f"UMask={job.umask}")
    return lines


def _environment(job: Job) -> list[str]:
    lines = []
    named = dict(job.environment)
    if job.interpreter and job.interpreter.venv:
        venv = job.interpreter.venv
        path = f"{venv}/bin:{named.pop('PATH', DEFAULT_PATH)}"
        lines.append(f"Environment={escape(f'PATH={path}', Place.WORD)}")
        lines.append(f"Environment={escape(f'VIRTUAL_ENV={venv}', Place.WORD)}")
    lines += [f"Environment={escape(f'{key}={value}', Place.WORD)}" for key, value in named.items()]
    for each in job.parameters:
        # Without a default it is given by whoever starts the run: see by_hand.py.
        lines.append(f"Environment={escape(f'{variable(each.name)}={each.default or str()}', Place.WORD)}")
    lines += [f"EnvironmentFile={escape(_GLOB.sub(_BACKSLASHED, path), Place.VALUE)}" for path in job.environment_file]
    for credential in job.credentials:
        directive = "LoadCredentialEncrypted" if credential.encrypted else "LoadCredential"
        lines.append(f"{directive}={escape(f'{credential.name}:{credential.path}', Place.VALUE)}")
    return lines


def _not_for_root(job: Job, scope: Scope) -> list[str]:
    """What the job's user may write into his file of variables, and the steps of a run that are root's must not have.

    `+` gives a command all rights, and the variables of all the others (systemd.service(5), "Special executable
    prefixes"); the C library would load what these name.
    """
    names = loaders(job) if scope is Scope.SYSTEM else ()
    return [f"UnsetEnvironment={' '.join(names)}"] if names else []


def loaders(job: Job) -> tuple[str, ...]:
    """The variables that a run does not have, whoever sets them."""
    others = job.user not in (None, "root", "0") and reads_files(job.environment_file, job.systemd)
    return _LOADERS if others else ()


def _bounds(job: Job) -> list[str]:
    settings = [
        ("TimeoutStartSec", span(job.timeout) if job.timeout else None),
        ("TimeoutStopSec", span(job.stop_timeout) if job.stop_timeout else None),
        ("KillSignal", job.kill_signal),
        ("SuccessExitStatus", " ".join(str(code) for code in job.success_exit) or None),
        ("Nice", job.priority.nice),
        *_io_settings(job.priority.io),
        ("CPUWeight", job.priority.cpu_weight),
        ("MemoryMax", job.limits.memory),
        ("CPUQuota", f"{job.limits.cpu}%" if job.limits.cpu is not None else None),
        ("TasksMax", job.limits.tasks),
        ("LimitNOFILE", job.limits.open_files),
    ]
    return [f"{key}={value}" for key, value in settings if value is not None]


def _io_settings(io: str | None) -> list[tuple[str, str | None]]:
    if io is None:
        return []
    scheduling_class, _, level = io.partition(":")
    return [("IOSchedulingClass", scheduling_class), ("IOSchedulingPriority", level or None)]


def _passed_through(directives: Sequence[Directive]) -> list[str]:
    return [f"{directive.key}={escape(directive.value, Place.RAW)}" for directive in directives]
