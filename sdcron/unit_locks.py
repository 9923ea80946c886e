"""`lock` and `lock_wait` -> unit directives: flock(1) on files below /run, and no process that stays. Pure.

A shell takes the locks on descriptors of its own and then becomes the command, which inherits them: a lock is held as
long as a process of the run is there, and no longer, whatever ends it. Why not ExecCondition=: its process is gone
before the command starts, and the lock with it. Why no flock(1) around the command: it would be the main process, and
tell of other ends than the command's.

The files are made by root. An `environment_file` may belong to somebody else, and what is in it, such as LD_PRELOAD,
reaches all processes of a unit: then a unit of its own makes them.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.errors import UsageError
from sdcron.escape import Place, escape, escape_template
from sdcron.handlers import handler_text
from sdcron.job import NOT_RUN, Sandbox
from sdcron.parameters import filled, names_in
from sdcron.paths import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdcron.job import Job, Passthrough

HELD_MESSAGE = "1ca2b1cf1a8f4e5cb7c9a5f4d3f0e27d"
"""MESSAGE_ID= of what it says in the journal, with its own id and the lock."""
MOST_LOCKS = 7
"""A shell has single digits for descriptors of its own: 3 to 9."""
LOCK_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIRECTORY = "%t/sdcron/locks"
# As root: who runs the job may not make files there. Nothing is ever replaced or taken away: a file that is there is
# somebody's lock. Who may open it could hold it for ever, so only root may, unless a job of another user needs it.
_MAKE = (
    'set -f; PATH=/usr/bin:/bin LC_ALL=C; umask 022; mkdir -p "$1" && cd "$1" || exit; umask 077;',
    "for name in $2; do",
    'case "$name" in [!A-Za-z0-9_]* | *[!A-Za-z0-9_.-]*) echo "<3>$name is no lock name"; exit 1;; esac;',
    ': >>"$name" && chmod "$3" "$name" || exit; done',
)
# One after the other in a fixed order, so that no two runs ever wait for each other. The names are none that a job has
# among its own variables, which a shell would hand on changed. A message, and not a line of output: journald has it
# before systemd says that the run is over, and with the run's id, also where its process is gone before journald looks.
_TAKE = (
    "unset PWD OLDPWD SHLVL; set -f; sdcron_fd=9 sdcron_how=-n;",
    "for sdcron_lock in $2; do",
    'eval "exec $sdcron_fd"\'<"$1/$sdcron_lock"\';',
    f'/usr/bin/flock -E {NOT_RUN} $sdcron_how "$sdcron_fd"; sdcron_got=$?;',
    f'[ "$sdcron_got" != {NOT_RUN} ] || printf "%s\\n" MESSAGE_ID={HELD_MESSAGE} PRIORITY=5',
    '"SYSLOG_IDENTIFIER=$0"',
    '"INVOCATION_ID=$INVOCATION_ID" "SDCRON_LOCK=$sdcron_lock" "MESSAGE=not run: lock $sdcron_lock is held"',
    '| /usr/bin/logger --journald; [ "$sdcron_got" = 0 ] || exit "$sdcron_got";',
    "sdcron_fd=$((sdcron_fd - 1)); done;",
    'shift 3; exec "$@"',
)
# In hundredths of a second. flock(1) takes `-w 0.00` for `-n`.
_CLOCK = (
    "sdcron_clock() { read -r sdcron_now sdcron_rest </proc/uptime; sdcron_now=${sdcron_now%.*}${sdcron_now#*.}; };",
    "sdcron_clock; sdcron_end=$((sdcron_now + $3));",
)
_LEFT = (
    "sdcron_clock; sdcron_left=$((sdcron_end - sdcron_now)); [ $sdcron_left -gt 0 ] || sdcron_left=0;",
    'sdcron_how="-w $((sdcron_left / 100)).$((sdcron_left / 10 % 10))$((sdcron_left % 10))";',
)


def lock_names(names: Sequence[str], values: Mapping[str, str]) -> Iterator[str]:
    """The names with values in the places of parameters, but for those that lack one. Raises UsageError for no name."""
    for name in names:
        if values.keys() >= set(names_in(name)):
            full = filled(name, values)
            if not LOCK_NAME.fullmatch(full):
                raise UsageError(
                    f"the lock '{name}' would be '{full}'", "letters, digits, '-', '_' and '.' make a lock"
                )
            yield full


def lock_unit_name(job_name: str) -> str:
    """The service that makes the files of a job's locks where the job's own must not."""
    return f"sdcron-{job_name}@locks.service"


def needs_lock_unit(job: Job, scope: Scope) -> bool:
    """Whether the job has such a service. Of a user's manager all is the user's."""
    return bool(job.lock) and scope is Scope.SYSTEM and reads_files(job.environment_file, job.systemd)


def reads_files(environment_file: Sequence[str], systemd: Passthrough) -> bool:
    """Whether systemd reads variables of a job from files."""
    return bool(environment_file) or any(directive.key == "EnvironmentFile" for directive in systemd.service)


def lock_units(job: Job, scope: Scope, header: Sequence[str], ownership: Sequence[str]) -> list[tuple[str, str]]:
    """Name and text of that service, if the job needs it."""
    if not needs_lock_unit(job, scope):
        return []
    description, service = f"Locks of sdcron job {job.name}", [f"ExecStart={_make(job)}"]
    text = handler_text(job.name, scope, description, unit=header, service=service, own=ownership)
    return [(lock_unit_name(job.name), text)]


def lock_unit(job: Job, scope: Scope) -> list[str]:
    """The [Unit] lines of a job's service that have it started first."""
    name = lock_unit_name(job.name)
    return [f"Wants={name}", f"After={name}"] if needs_lock_unit(job, scope) else []


def lock_service(job: Job, scope: Scope) -> list[str]:
    """The [Service] lines that have the files of its locks there before it starts, and let it end without them."""
    if not job.lock:
        return []
    lines = [] if needs_lock_unit(job, scope) else [f"ExecStartPre=+{_make(job)}"]
    lines.append(f"SuccessExitStatus={NOT_RUN}")
    if job.sandbox is not Sandbox.NONE and scope is Scope.USER:
        # A user manager ignores the +, so a sandboxed run must be able to write there.
        lines += ["RuntimeDirectory=sdcron/locks", "RuntimeDirectoryPreserve=yes"]
    return lines


def lock_words(job: Job) -> list[str]:
    """What stands in a command line before the command, as systemd reads it; nothing for a job without locks."""
    if not job.lock:
        return []
    hundredths = -(-job.lock_wait // timedelta(milliseconds=10))
    first, loop, *rest = _TAKE
    if len(job.lock) > 1 and any(map(names_in, job.lock)):
        # The order is that of the values, and two names may be one.
        loop = loop.replace("$2", "$(printf '%s\\n' $2 | LC_ALL=C /usr/bin/sort -u)")
    steps = (first, *_CLOCK, loop, *_LEFT, *rest) if hundredths else (first, loop, *rest)
    return ["/bin/sh", "-c", _script(steps), *_arguments(job, str(hundredths))]


def lock_notes(job: Job) -> list[str]:
    """The line of [X-Sdcron] that names them, for those who give values to their parameters."""
    return [f"Locks={' '.join(job.lock)}"] if job.lock else []


def _runs_as_another(job: Job) -> bool:
    dynamic = any(directive.key == "DynamicUser" for directive in job.systemd.service)
    return dynamic or job.user not in (None, "root", "0")


def _make(job: Job) -> str:
    # Monotonic: two jobs that share a lock may run as different users.
    mode = "a+r" if _runs_as_another(job) else "u+r"
    return " ".join(["/bin/sh", "-c", _script(_MAKE), *_arguments(job, mode)])


def _script(steps: tuple[str, ...]) -> str:
    # systemd.syntax(7): a backslash at the end of a line joins the next one with a blank, inside quotes too.
    return '"' + " \\\n  ".join(escape(step, Place.ARGUMENT)[1:-1] for step in steps) + '"'


def _arguments(job: Job, third: str) -> list[str]:
    """$0 to $3 of a script."""
    return [f"sdcron-{job.name}", _DIRECTORY, escape_template(" ".join(job.lock)), third]
