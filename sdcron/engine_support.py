"""What the local engine cannot do where it runs: refused key by key with the reason, and never ignored.

`powers_here` tries out what this process may do; `refusals` looks at nothing but jobs, and for a key's line in their
files. What this version cannot do at all, and what a user's own jobs may not ask for, says jobset.check_supported.
"""

from __future__ import annotations

import grp
import os
import pwd
import resource
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import Problem
from sdcron.job import Sandbox
from sdcron.jobfile import locate_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sdcron.job import Job

_LEAST_NICE = -20
_NICEST = 20  # RLIMIT_NICE allows a niceness down to 20 minus its value (getrlimit(2))
_OPEN_FILES = 1 << 20  # what Linux starts with as the highest limit (proc_sys_fs(5), nr_open)
_REALTIME, _BEST_EFFORT = "1", "2"
_TIMEOUT = 5  # seconds for ionice(1), which takes a few milliseconds


@dataclass(frozen=True, slots=True)
class Powers:
    """What the engine's process may do, whoever it is: a container or a snap may have taken things from root.

    `users` and `groups` are the names and ids that its runs have anyway, `any_user` says whether it may give them
    others. `nice` is the lowest niceness and `open_files` the highest limit that it can give. `ionice` says whether
    that program is there, `realtime` whether it may give the class of that name.
    """

    any_user: bool
    users: frozenset[str]
    groups: frozenset[str]
    nice: int
    open_files: int
    ionice: bool
    realtime: bool


def powers_here() -> Powers:
    """Those of this process, tried out in children that end at once: capabilities alone do not tell.

    A user namespace shows capabilities that hold inside it only, and seccomp and AppArmor show nothing at all.
    """
    uid, gid = os.geteuid(), os.getegid()
    limited_to = _NICEST - max(resource.getrlimit(resource.RLIMIT_NICE)[0], 0)
    ionice = shutil.which("ionice")
    users, groups = {str(uid)}, {str(gid)}
    with suppress(KeyError):  # a container may run an id that has no name
        users.add(pwd.getpwuid(uid).pw_name)
    with suppress(KeyError):
        groups.add(grp.getgrgid(gid).gr_name)
    return Powers(
        any_user=_can(_become_another),
        users=frozenset(users),
        groups=frozenset(groups),
        nice=_LEAST_NICE if _can(_stop_being_nice) else min(os.getpriority(os.PRIO_PROCESS, 0), limited_to),
        open_files=_most_open_files(),
        ionice=ionice is not None and _gives(ionice, _BEST_EFFORT),
        realtime=ionice is not None and _gives(ionice, _REALTIME),
    )


def refusals(jobs: Sequence[Job], powers: Powers, *, user_scope: bool) -> tuple[Problem, ...]:
    """A problem for each key that an engine of such powers cannot carry out, at its place.

    With `user_scope` without those of which check_supported(jobs, user=True) says that a user's jobs cannot have them.
    """
    problems: dict[Problem, None] = {}
    for job in jobs:
        for key, message, hint in _refused(job, powers):
            if not (user_scope and key in ("user", "group", "when.wake")):
                line, column, source_line = locate_key(job.source.path, job.name, key.partition(".")[0])
                place = (job.source.shown, line or job.source.line, column or 1)
                problems[Problem(*place, message, key, hint, source_line)] = None
    return tuple(problems)


def _refused(job: Job, powers: Powers) -> Iterator[tuple[str, str, str]]:
    """Key, message and hint of everything in a job that is out of reach."""
    yield from _identity(job, powers)
    yield from _priority(job, powers)
    most = powers.open_files
    if job.limits.open_files is not None and job.limits.open_files > most:
        message = f"'limits.open_files' is {job.limits.open_files}, but the engine may allow at most {most} here"
        hint = f"write {most} or less, or start the engine with a higher hard limit (RLIMIT_NOFILE)"
        yield "limits.open_files", message, hint
    for key, value in (("limits.cpu", job.limits.cpu), ("limits.tasks", job.limits.tasks)):
        if value is not None:
            yield key, f"'{key}' needs control groups, and the local engine runs jobs without", _instead(key)
    if job.sandbox is not Sandbox.NONE:
        message = f"'sandbox: {job.sandbox.value}' needs systemd: the local engine has no sandbox"
        yield "sandbox", message, _instead("sandbox")
    for credential in job.credentials:
        if credential.encrypted:
            message = f"the credential '{credential.name}' is encrypted, and only systemd can decrypt it"
            yield "credentials", message, "apply it with --backend systemd, or give the path of a plain file"
    if job.when.units:
        hint = "ask with 'when.command' or 'when.path_exists' instead, or apply it with --backend systemd"
        yield "when.units", "'when.units' needs systemd: the local engine knows no units", hint
    if job.when.wake:
        yield "when.wake", "'when.wake' needs systemd: the local engine wakes no machine", _instead("when.wake")
    if job.systemd:
        message = "'systemd' holds directives for units, and the local engine has no units"
        yield "systemd", message, _instead("systemd")


def _identity(job: Job, powers: Powers) -> Iterator[tuple[str, str, str]]:
    # Without privilege not even the process's supplementary groups can become its group (setresgid(2)).
    for key, wanted, own in (("user", job.user, powers.users), ("group", job.group, powers.groups)):
        if wanted is not None and not powers.any_user and wanted not in own:
            message = f"'{key}: {wanted}' needs root: this engine may not run jobs as another {key}"
            yield key, message, f"run the engine as root, or as that {key}; or remove '{key}'"


def _priority(job: Job, powers: Powers) -> Iterator[tuple[str, str, str]]:
    nice, io = job.priority.nice, job.priority.io
    if nice is not None and nice < powers.nice:
        message = f"'priority.nice: {nice}' needs root: this engine may not go below {powers.nice}"
        yield "priority.nice", message, f"write {powers.nice} or more, or run the engine as root"
    if io is not None and not powers.ionice:
        message = "'priority.io' needs the program ionice, which is not installed"
        yield "priority.io", message, "install it (util-linux), or remove 'priority.io'"
    elif io is not None and io.startswith("realtime") and not powers.realtime:
        message = f"'priority.io: {io}' needs root: this engine may not give realtime"
        yield "priority.io", message, "write best-effort:0, or run the engine as root"
    if job.priority.cpu_weight is not None:
        message = "'priority.cpu_weight' needs control groups, and the local engine runs jobs without"
        yield "priority.cpu_weight", message, _instead("priority.cpu_weight")


def _instead(key: str) -> str:
    return f"apply it with --backend systemd, or remove '{key}'"


def _can(attempt: Callable[[], None]) -> bool:
    """Whether something is allowed: done by a child, and so without a trace."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with suppress(OSError, ValueError):
                attempt()
                status = 0
        finally:
            os._exit(status)
    # A child that seccomp killed has no exit status.
    return os.waitpid(child, 0)[1] == 0


def _become_another() -> None:
    # 1 and 2 are the first that a container maps beside root, if it maps any.
    other = 1 if os.geteuid() != 1 else 2
    os.setgroups([other])
    os.setresgid(other, other, other)
    os.setresuid(other, other, other)


def _stop_being_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, _LEAST_NICE)


def _allow_one_file_more() -> None:
    more = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, more))


def _most_open_files() -> int:
    """The highest limit of open files that a run can be given."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and not _can(_allow_one_file_more):
        return hard
    try:
        return int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return max(hard, _OPEN_FILES)


def _gives(ionice: str, io_class: str) -> bool:
    """Whether ionice(1) gives a class: 1, realtime, takes CAP_SYS_ADMIN or CAP_SYS_NICE (ioprio_set(2)).

    In a snap no class is allowed: snapd's seccomp policy refuses the call.
    """
    try:
        tried = subprocess.run([ionice, "-c", io_class, "true"], capture_output=True, check=False, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0
