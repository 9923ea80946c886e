"""A job's command as a process of the engine's: environment, credentials, script and limits put together, then started.

What each key means is what its directive in units.py means on systemd; where a control group would be needed,
engine_support.py has refused the job before.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from sdcron import process, process_tree
from sdcron.engine_locks import Locks
from sdcron.engine_run import StartFailedError
from sdcron.environment_file import EnvironmentFileError, parse
from sdcron.files import Files, make_directory
from sdcron.paths import Scope
from sdcron.process import Command, login_environment
from sdcron.units import DEFAULT_PATH, argv_of, loaders, script_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from sdcron.job import Job
    from sdcron.paths import Paths
    from sdcron.process import Ended
    from sdcron.process_tree import Process

_CREDENTIALS_STATUS = 243
"""systemd.exec(5), "Process Exit Codes"."""
_LARGEST_CREDENTIAL = 1 << 20
_LARGEST_ENVIRONMENT_FILE = 1 << 20
_OWN_VARIABLES = (
    "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "MAINPID", "MANAGERPID",
    "NOTIFY_SOCKET", "OLDPWD", "PWD", "SDCRON_ATTEMPT", "SDCRON_FOR", "SDCRON_JOB", "SDCRON_RUN_ID", "SDCRON_SOCKET",
    "SDCRON_TRIGGER", "SHLVL", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC", "_",
)  # fmt: skip
"""What the engine's environment says of the engine alone."""


class Processes:
    """Those of one engine. Its own environment is that of its jobs, as a service manager's is that of its services."""

    def __init__(self, paths: Paths) -> None:
        self._scripts = paths.local_jobs_file.parent / "scripts"
        self._credentials = paths.engine_dir / "credentials"
        self.locks = Locks(paths.lock_dir)
        self._environment = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
        self._environment.setdefault("PATH", DEFAULT_PATH)
        # A user's own manager begins in his home, the machine's in the root.
        self._directory = os.environ.get("HOME", "/") if paths.scope is Scope.USER else "/"
        self.about: Callable[[str], Mapping[str, str]] = lambda _: {}
        """What a run, by its id, is told of itself."""
        self._running: dict[int, str] = {}
        """Main processes that are not reaped, and their runs."""
        self._reaped: set[int] = set()
        """Who was reaped last."""
        self._left_nobody: bool | None = None
        """Whether those have left nobody, once it was asked."""
        self._written: dict[str, str] = {}
        self._had_children = bool(process_tree.children_now())
        """Whether there were some before any run: who has started them, and what for, is not known."""

    def start(self, job: Job, run_id: str, argv: tuple[str, ...] | None, stdout: int, stderr: int) -> int:
        """Start the job's command, or `argv` in its place; its process id.

        Raises StartFailedError, and OSError where there is no room for another process now.
        """
        try:
            command = self._command(job, run_id, argv)
            pid = process.start(command, stdout, stderr)
        except process.StartFailedError as error:
            raise StartFailedError(error.step, error.status, error.detail, error.line) from error
        self._running[pid] = run_id
        return pid

    def reap(self) -> Collection[Ended]:
        """The processes that have ended, and are nobody's children any more."""
        reaped = list(process.reap())
        for ended in reaped:
            self._running.pop(ended.pid, None)
        self._reaped = {ended.pid for ended in reaped}
        self._left_nobody = None
        return reaped

    def members(self, pid: int, run_id: str) -> Collection[Process]:
        """The processes of a run that are alive."""
        if pid in self._reaped and pid not in self._running:
            # Whoever was left of it is a child of this process, and was so before anything else happened.
            if self._left_nobody is None:
                self._left_nobody = process_tree.has_only(self._running)
            if self._left_nobody:
                return ()
        return process_tree.members(pid, run_id, self._running)

    def send(self, members: Collection[Process], number: int) -> None:
        """Send a signal; those that are gone are none."""
        process_tree.signal_all(members, number)

    def kill(self, pid: int, run_id: str) -> None:
        """SIGKILL for all of a run, and for whoever is born meanwhile."""
        process_tree.kill_all(pid, run_id, self._running)

    def begun_at(self, pid: int) -> int:
        """When a process began, in the kernel's clock ticks since the boot; 0 for one that is gone."""
        found = process_tree.process_of(pid)
        return found.started if found is not None else 0

    def end_survivors(self, runs: Mapping[str, tuple[int, int]]) -> None:
        """Kill what an engine that was killed has left of these runs: they are run again, and not twice at once.

        `runs` are main process and when that began, by run id. They are known by that, by the session it leads, and by
        their environment where that may be read.
        """
        if runs:
            process_tree.kill_sessions({pid: started for pid, started in runs.values() if pid and started})
            process_tree.kill_survivors(runs.keys())

    def end_strays(self) -> None:
        """Once no run is on: kill what runs have left that changed session and environment, and lost their parents."""
        if not self._running and not self._had_children:
            process_tree.kill_strays()

    def tidy(self, run_id: str) -> None:
        """Remove what was made for the run alone."""
        directory = self._credentials / run_id
        with suppress(OSError):
            # Whoever is not root cannot empty it else.
            directory.chmod(0o700)
            shutil.rmtree(directory)

    def forget_all(self) -> None:
        """Remove what runs of an engine that was killed have left."""
        with suppress(OSError):
            for directory in self._credentials.iterdir():
                self.tidy(directory.name)

    def forget(self, job: str) -> None:
        """The job is gone for good."""
        self._written.pop(job, None)
        with suppress(OSError):
            (self._scripts / job).unlink(missing_ok=True)

    # What it is started with

    def _command(self, job: Job, run_id: str, argv: tuple[str, ...] | None) -> Command:
        limits = [(resource.RLIMIT_DATA, job.limits.memory), (resource.RLIMIT_NOFILE, job.limits.open_files)]
        return Command(
            argv=argv or argv_of(job, self._script(job)),
            environment=self._environment_of(job, run_id),
            directory=job.directory or self._directory,
            umask=int(job.umask, 8) if job.umask else 0o022,
            user=job.user,
            group=job.group,
            nice=job.priority.nice,
            io=job.priority.io,
            limits=tuple((number, value) for number, value in limits if value is not None),
            inherited=self.locks.descriptors(run_id) if argv is None else (),
        )

    def _environment_of(self, job: Job, run_id: str) -> dict[str, str]:
        environment = dict(self._environment)
        if job.user is not None:
            environment |= login_environment(job.user)
        named = dict(job.environment)
        if job.interpreter is not None and job.interpreter.venv is not None:
            venv = job.interpreter.venv
            environment["PATH"] = f"{venv}/bin:{named.pop('PATH', DEFAULT_PATH)}"
            environment["VIRTUAL_ENV"] = venv
        environment |= named
        for path in job.environment_file:
            environment |= _read_environment(path)
        for name in loaders(job):
            # As by systemd, where they would reach root: see units.py.
            environment.pop(name, None)
        if job.credentials:
            environment["CREDENTIALS_DIRECTORY"] = self._hand_over(job, run_id)
        environment["INVOCATION_ID"] = run_id
        environment.update(self.about(run_id))
        return environment

    def _script(self, job: Job) -> str:
        """The file of a `script:` job, with its text: for its user's eyes only, as the text may hold anything."""
        text = script_text(job)
        path = self._scripts / job.name
        if text is not None and self._written.get(job.name) != text:
            files, owner = Files(), _owner(job)
            staged = files.stage(path, text, 0o400)
            if owner is not None:
                os.chown(staged, owner, -1)
            files.publish(staged, path)
            self._written[job.name] = text
        return str(path)

    def _hand_over(self, job: Job, run_id: str) -> str:
        """A directory with the secrets of a run, for its user's eyes only (systemd.exec(5), LoadCredential=)."""
        directory = self._credentials / run_id
        owner = _owner(job)
        if directory.exists():  # made for a command of `when`, or when there was no room for a process
            return str(directory)
        try:
            make_directory(self._credentials)
            self._credentials.chmod(0o711)
            directory.mkdir(mode=0o700, exist_ok=True)
            for credential in job.credentials:
                _copy(credential.path, directory / credential.name, owner)
            if owner is not None:
                os.chown(directory, owner, -1)
            directory.chmod(0o500)
        except OSError as error:
            self.tidy(run_id)
            reason = f"could not be started, at step CREDENTIALS: {error.strerror}"
            raise StartFailedError("CREDENTIALS", _CREDENTIALS_STATUS, reason) from error
        return str(directory)


def _owner(job: Job) -> int | None:
    """Whose the credentials are; None: the engine's."""
    if job.user is None or os.geteuid() != 0:
        return None
    import pwd

    try:
        return pwd.getpwuid(int(job.user)).pw_uid if job.user.isdecimal() else pwd.getpwnam(job.user).pw_uid
    except KeyError:
        return None  # the start says so


def _content(path: str, most: int) -> bytes:
    """All of a regular file. Raises OSError: for any other, a FIFO that nobody writes to would be waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return stream.read(most)


def _copy(source: str, target: Path, owner: int | None) -> None:
    content = _content(source, _LARGEST_CREDENTIAL)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        if owner is not None:
            os.fchown(stream.fileno(), owner, -1)


def _read_environment(path: str) -> dict[str, str]:
    """The variables of an `environment_file`; of one that may be missing, a dash in front, none if it is."""
    name = path.removeprefix("-")
    try:
        return dict(parse(_content(name, _LARGEST_ENVIRONMENT_FILE)))
    except (OSError, EnvironmentFileError) as error:
        if path.startswith("-"):
            return {}
        reason = error.strerror if isinstance(error, OSError) else error.reason
        # Not a step: systemd finds out before it makes a process.
        raise StartFailedError("", 0, f"Failed to load environment files: {reason}") from error
