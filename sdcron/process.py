"""Runs one command once, without waiting for it, as a service of systemd's runs one.

Process attributes are by systemd.exec(5); the search for the program is by exec(3), as systemd-cat does it. Knows no
job. For a process of one thread only: for a moment it has the command's directory and umask itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import grp
import os
import pwd
import re
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from sdcron.errors import SdcronError
from sdcron.process_attributes import limit, renice, set_io
from sdcron.process_tree import become_reaper as become_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Execute = Callable[[str, tuple[str, ...]], int]

# systemd.exec(5), "Process Exit Codes". EXEC is 203 there, but of systemd-cat, which is always found: it then ends
# itself with 1 when it does not find the command.
_STATUSES = {"CHDIR": 200, "NICE": 201, "EXEC": 1, "LIMITS": 205, "IOPRIO": 211, "GROUP": 216, "USER": 217}
_RESOURCES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What passes: too many processes or open files, no memory."""
_SEARCHED_ON = frozenset({errno.EACCES, errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ENODEV, errno.ETIMEDOUT})
"""After these, execvp(3) tries the next directory of PATH."""
_NO_PATH = "/bin:/usr/bin"
"""Where execvp(3) searches when PATH is not set."""
_DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP})
_HANDLED_SIGNALS = tuple(signal.Signals[f"SIG{name}"] for name in "HUP INT QUIT TERM CHLD ALRM USR1 USR2".split())
"""Which a program may have handlers for."""
_NO_LOGIN = re.compile(r"(/usr)?/s?bin/nologin|(/usr)?/bin/(false|true)")
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how; what is None stays as it is with the caller.

    `environment` is all of it, `directory` an absolute path, `user` and `group` names or numbers. `io` is systemd's
    class with or without a level, such as `best-effort:7`. `limits` are resource.RLIMIT_* and the value for both the
    soft and the hard one. `inherited` are descriptors beyond those of the standard streams that it gets too.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str = "/"
    umask: int = 0o022
    user: str | None = None
    group: str | None = None
    nice: int | None = None
    io: str | None = None
    limits: tuple[tuple[int, int], ...] = ()
    inherited: tuple[int, ...] = ()


class StartFailedError(SdcronError):
    """A command that could not be started, at a step that systemd knows by the same name.

    `status` is the exit status that the run then has on systemd, `reason` the text of the error number. `detail` is
    what the record says, and `line` what systemd-cat writes, not as output of the job: one of them is empty.
    """

    def __init__(self, step: str, number: int) -> None:
        self.step = step
        self.status = _STATUSES[step]
        self.number = number
        self.reason = os.strerror(number)
        found = step != "EXEC"
        self.detail = f"could not be started, at step {step}: {self.reason}" if found else ""
        self.line = "" if found else f"Failed to execute process: {self.reason}"
        super().__init__(self.detail or self.line)


class _Identity(NamedTuple):
    """What a process is to become; None for what it is to stay."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that has ended, and has been reaped.

    `kind` is systemd's word: `exited`, `killed` or `dumped`; `status` the exit status or the signal's number. `cpu_us`
    are the microseconds that it and those it waited for had a processor, in user mode and in the kernel.
    """

    pid: int
    kind: str
    status: int
    cpu_us: int = field(compare=False)


def start(command: Command, stdout: int, stderr: int) -> int:
    """Start it, in a session and a process group of its own, and return its process id.

    It has nothing open but the two descriptors, what it inherits, and /dev/null to read from, and the signals are as
    systemd leaves them: none blocked, all with their default action but SIGPIPE, which is ignored (systemd.exec(5),
    IgnoreSIGPIPE=).

    Raises StartFailedError when the command is the reason that it cannot be, and OSError (EAGAIN, ENOMEM, EMFILE,
    ENFILE) for a lack that may pass. Then nothing of it was run.
    """
    _prepare()
    identity = _identity(command.user, command.group)
    plain = identity is None and command.nice is None and command.io is None and not command.limits
    with contextlib.ExitStack() as stack:
        # A process that was started without standard streams may get pipes with their numbers.
        stdout, stderr = (_lifted(number, stack) for number in (stdout, stderr))
        here = _way_back(stack) if plain else None
        if here is not None:
            return _spawn(command, stdout, stderr, here)
        return _fork(command, identity or _Identity(None, None, None), stdout, stderr)


def login_environment(user: str) -> dict[str, str]:
    """USER, LOGNAME, HOME and SHELL as systemd sets them for a User= (systemd.exec(5), "Environment Variables").

    HOME is left out when it is the root directory, SHELL when it is one that lets nobody log in, and both for nobody.
    Raises StartFailedError when there is no such user.
    """
    account = _account(user)
    name = account.pw_name if user.isdecimal() else user
    environment = {"USER": name, "LOGNAME": name}
    if account.pw_uid == _NOBODY:
        return environment
    if account.pw_dir.startswith("/") and account.pw_dir.strip("/"):
        environment["HOME"] = account.pw_dir
    if account.pw_shell.startswith("/") and not _NO_LOGIN.fullmatch(account.pw_shell):
        environment["SHELL"] = account.pw_shell
    return environment


def reap() -> Iterator[Ended]:
    """Every child that has ended by now, adopted ones too; never waits."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        cpu_us = round((usage.ru_utime + usage.ru_stime) * 1e6)
        if os.WIFSIGNALED(status):
            yield Ended(pid, "dumped" if os.WCOREDUMP(status) else "killed", os.WTERMSIG(status), cpu_us)
        else:
            yield Ended(pid, "exited", os.WEXITSTATUS(status), cpu_us)


@functools.cache
def _prepare() -> None:
    """Once: nothing that this process has inherited goes on to a command. What Python opens never does (PEP 446)."""
    try:
        with os.scandir("/proc/self/fd") as entries:
            numbers = [int(entry.name) for entry in entries]
    except OSError:
        numbers = list(range(min(os.sysconf("SC_OPEN_MAX"), 65536)))
    for number in numbers:
        if number > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(number, False)


def _lifted(number: int, stack: contextlib.ExitStack) -> int:
    """The same open file with a number that is not of a standard stream."""
    if number > 2:
        return number
    number = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    stack.callback(os.close, number)
    return number


def _way_back(stack: contextlib.ExitStack) -> int | None:
    """The current directory, opened; None without the right to search it, as after a change of user in /root."""
    try:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None
    stack.callback(os.close, here)
    return here


def _failure(step: str, error: OSError) -> OSError | StartFailedError:
    number = error.errno or 0
    return error if number in _RESOURCES else StartFailedError(step, number)


# Who it runs as


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise StartFailedError("USER", errno.ESRCH) from None


def _group_id(group: str) -> int:
    try:
        return (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
    except KeyError:
        raise StartFailedError("GROUP", errno.ESRCH) from None


def _identity(user: str | None, group: str | None) -> _Identity | None:
    """What is to be changed, None if all is so already. Raises StartFailedError when there is no such user or group.

    As systemd does, whoever runs with group 0, or has only a group named, keeps the supplementary groups.
    """
    uid = gid = groups = None
    if user is not None:
        account = _account(user)
        uid, gid = account.pw_uid, account.pw_gid
    if group is not None:
        gid = _group_id(group)
    if user is not None and gid:
        groups = tuple(os.getgrouplist(account.pw_name, gid))
    same = uid in (None, os.geteuid()) and gid in (None, os.getegid())
    # Only root could change the groups.
    if same and (groups is None or os.geteuid() != 0 or set(groups) == set(os.getgroups())):
        return None
    return _Identity(uid, gid, groups)


# What most commands need: vfork inside posix_spawn(3), at the same price for a large process as for a small one.


def _spawn(command: Command, stdout: int, stderr: int, here: int) -> int:
    """Start it as the same user, from its directory, with the way back `here`."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_IGN:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
        # To itself: that alone has it inherited (posix_spawn_file_actions_adddup2(3)).
        *((os.POSIX_SPAWN_DUP2, number, number) for number in command.inherited),
    ]

    def execute(path: str, argv: tuple[str, ...]) -> int:
        return os.posix_spawn(
            path,
            argv,
            command.environment,
            file_actions=streams,
            setsid=True,
            setsigdef=_DEFAULT_SIGNALS,
            setsigmask=(),
        )

    umask = os.umask(command.umask)
    step = "CHDIR"
    try:
        os.chdir(command.directory)
        step = "EXEC"
        return _searched(command, execute)
    except OSError as error:
        raise _failure(step, error) from None
    finally:
        os.umask(umask)
        os.fchdir(here)


def _searched(command: Command, execute: Execute) -> int:
    """Execute the first program of that name on its own PATH, as execvp(3) does. Raises OSError."""
    program = command.argv[0]
    if "/" in program:
        return _executed(program, command.argv, execute)
    if not program:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    number = errno.ENOENT
    for directory in command.environment.get("PATH", _NO_PATH).split(":"):
        path = f"{directory}/{program}" if directory else program
        try:
            # Costs less than a process that finds nothing to execute.
            os.stat(path)  # noqa: PTH116 - between fork and exec, or for each run
            return _executed(path, command.argv, execute)
        except OSError as error:
            if error.errno not in _SEARCHED_ON:
                raise
            if error.errno == errno.EACCES:
                number = errno.EACCES
    raise OSError(number, os.strerror(number))


def _executed(path: str, argv: tuple[str, ...], execute: Execute) -> int:
    try:
        return execute(path, argv)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without `#!`: execvp(3) gives it to the shell.
    return execute("/bin/sh", ("/bin/sh", path, *argv[1:]))


# What some need: between fork and exec, in systemd's order. Nice and limits need the rights of before the change of
# user, the directory perhaps those of after it.


def _fork(command: Command, identity: _Identity, stdout: int, stderr: int) -> int:
    reading, writing = os.pipe()
    try:
        # Else a signal could be taken for one to this process: a handler may write it to a descriptor they share.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _child(command, identity, stdout, stderr, writing)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writing)
        writing = -1
        # Its end is closed by exec, or by the end of the child.
        told = os.read(reading, 64).decode()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not told:
        return pid
    os.waitpid(pid, 0)
    step, _, number = told.partition(" ")
    if command.limits and step == "EXEC":
        # What lacks is what its own limits leave.
        raise StartFailedError(step, int(number))
    raise _failure(step, OSError(int(number), os.strerror(int(number))))


def _child(command: Command, identity: _Identity, stdout: int, stderr: int, writing: int) -> NoReturn:
    step = "EXEC"
    try:
        os.setsid()
        # It too may have the number of a standard stream.
        writing = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 3)
        for source, target in ((os.open("/dev/null", os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, target)
            os.set_inheritable(target, True)
        for descriptor in command.inherited:
            os.set_inheritable(descriptor, True)
        os.umask(command.umask)
        for step, act in _steps(command, identity):  # noqa: B007 - the step that it ended in
            act()
    except Exception as error:  # noqa: BLE001 - whatever it is, this is a copy of the process that can tell of it
        number = error.errno if isinstance(error, OSError) else None
        os.write(writing, f"{step} {number or errno.EINVAL}".encode())
    finally:
        os._exit(_STATUSES[step])


def _steps(command: Command, identity: _Identity) -> Iterator[tuple[str, Callable[[], object]]]:
    uid, gid, groups = identity
    if command.nice is not None:
        yield "NICE", functools.partial(renice, command.nice)
    if command.io is not None:
        yield "IOPRIO", functools.partial(set_io, command.io)
    for kind, value in command.limits:
        yield "LIMITS", functools.partial(limit, kind, value)
    if groups is not None:
        yield "GROUP", functools.partial(os.setgroups, groups)
    if gid is not None:
        yield "GROUP", functools.partial(os.setresgid, gid, gid, gid)
    if uid is not None:
        yield "USER", functools.partial(os.setresuid, uid, uid, uid)
    yield "CHDIR", functools.partial(os.chdir, command.directory)
    yield "EXEC", functools.partial(_replace, command)


def _replace(command: Command) -> NoReturn:
    for number in _DEFAULT_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _searched(command, lambda path, argv: os.execve(path, argv, command.environment))  # noqa: S606 - without a shell: that is the point
    raise AssertionError
