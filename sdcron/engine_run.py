"""One run of the engine's, from its conditions to the last byte of its output: processes, pipes, bounds.

What systemd does for a service with KillMode=control-group (systemd.kill(5)) is done here: the signal for the whole
tree, SIGKILL after the stop timeout, and nobody is left when the run is over. The words are systemd's, so that
OpenRun makes the same record of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal as signals
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from sdcron.job import NOT_RUN, Otherwise
from sdcron.lock_skips import skip
from sdcron.open_run import REPLACED, SHUT_DOWN, STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sdcron.engine_locks import Locks
    from sdcron.job import Job
    from sdcron.open_run import OpenRun
    from sdcron.process import Ended
    from sdcron.process_tree import Process

DEFAULT_STOP_SECONDS = 90.0
"""systemd's DefaultTimeoutStopSec= (systemd-system.conf(5))."""
_GIVE_UP_SECONDS = 90.0
"""How long after the first SIGKILL processes may go on: TimeoutStopSec= again, as with systemd."""
_LOOK_AGAIN_SECONDS = 0.2
"""How often it is looked whether what a run left behind is gone."""
_CONDITION_SECONDS = 5.0
"""How often `else: wait` looks, as the units that units.py writes."""
_CHUNK = 32768  # below what malloc takes from the system and gives back each time
_CHUNKS_AT_ONCE = 8


class Phase(StrEnum):
    """How far a run is."""

    WAITING = "waiting"
    """For what `when` asks for, or for a lock."""
    CHECKING = "checking"
    """A command of `when` runs."""
    RUNNING = "running"
    STOPPING = "stopping"
    OVER = "over"


class StartFailedError(Exception):
    """The command could not be started: at which step of systemd's, empty for none, with the status of that.

    `detail` is what the record says, `line` what somebody else than the job says; one of them is empty.
    """

    def __init__(self, step: str, status: int, detail: str, line: str = "") -> None:
        super().__init__(detail or line)
        self.step = step
        self.status = status
        self.detail = detail
        self.line = line


class Processes(Protocol):
    """What a run asks of the machine: see processes.Processes."""

    locks: Locks

    def start(self, job: Job, run_id: str, argv: tuple[str, ...] | None, stdout: int, stderr: int) -> int:
        """Start the job's command, or `argv` in its place; its process id.

        Raises StartFailedError, and OSError where there is no room for another process now.
        """

    def reap(self) -> Iterable[Ended]:
        """The processes that have ended, and are nobody's children any more."""

    def members(self, pid: int, run_id: str) -> Collection[Process]:
        """The processes of a run that are alive."""

    def send(self, members: Collection[Process], number: int) -> None:
        """Send a signal to processes, and have stopped ones hear it; those that are gone are none."""

    def kill(self, pid: int, run_id: str) -> None:
        """SIGKILL for all of a run."""

    def begun_at(self, pid: int) -> int:
        """When a process began, in the kernel's clock ticks since the boot; 0 for one that is gone."""

    def end_strays(self) -> None:
        """Once no run is on: kill what runs have left without a trace of whose it is."""

    def tidy(self, run_id: str) -> None:
        """Remove what was made for the run alone."""


@dataclass(slots=True)
class ActiveRun:
    """A run that is on. Moments are those of a clock that cannot be set, in seconds."""

    run: OpenRun
    job: Job
    processes: Processes
    began: float
    phase: Phase = Phase.RUNNING
    pid: int = 0
    """Of the main process, 0 when there is none; a process that is over stays until nobody of its tree is left."""
    main_over: bool = True
    pipes: dict[int, str] = field(default_factory=dict)
    """The ends that are read, and which of the two streams each is."""
    look_at: float | None = None
    """When there is something to do, at the latest."""
    kill_at: float | None = None
    killed: bool = False
    checks: list[tuple[str, ...]] = field(default_factory=list)
    """Commands of `when` that are still to say yes."""
    refused: bool = False
    """Whether the last of them said no."""
    said: str = ""
    """What is to be told of it beside its output."""

    # The beginning

    def begin(self, now: float, unmet: Callable[[], str | None]) -> None:
        """See whether what `when` asks for is there, and start. Raises OSError for want of resources: try again."""
        found = unmet()
        if found is not None:
            if self.job.when.otherwise is Otherwise.SKIP:
                self.skip(found)
            else:
                self.phase, self.look_at = Phase.WAITING, self._not_after(now + _CONDITION_SECONDS)
            return
        self.checks = [self.job.when.command] if self.job.when.command else []
        self.go_on(now)

    def go_on(self, now: float) -> None:
        """Start the next command of `when`, or the job's own. Raises OSError as `begin`."""
        argv = self.checks[0] if self.checks else None
        try:
            if argv is None and not self._has_locks(now):
                return
            self._start(argv)
        except OSError:
            self.processes.locks.leave(self.run.run_id, self.job)
            raise
        except StartFailedError as error:
            if argv is not None and error.step == "EXEC":
                # On systemd a shell looks for it: what is not there says no, too.
                self._refuse(now)
            else:
                self._failed_to_start(error)
            return
        if argv is not None:
            self.checks.pop(0)
        self.phase = Phase.CHECKING if argv is not None else Phase.RUNNING
        self.look_at = self._not_after(None)

    def _has_locks(self, now: float) -> bool:
        held = self.processes.locks.take(self.run.run_id, self.job, now)
        if held is None:
            return True
        if held.again_at is None:
            skip(self.run, held.name)
            self.said = f"not run: {self.run.detail}"
            self.phase, self.look_at = Phase.OVER, None
        else:
            self.phase, self.pid, self.look_at = Phase.WAITING, 0, self._not_after(held.again_at)
        return False

    def _start(self, argv: tuple[str, ...] | None) -> None:
        made: list[int] = []
        try:
            # What a command of `when` prints is not told apart, as with systemd.
            names = ("stdout",) if argv is not None else ("stdout", "stderr")
            for _ in names:
                made += os.pipe2(os.O_CLOEXEC)
            if max(made) >= _last_descriptor():
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            for reader in made[::2]:
                os.set_blocking(reader, False)
            self.pid = self.processes.start(self.job, self.run.run_id, argv, made[1], made[-1])
        except BaseException:
            for descriptor in made:
                os.close(descriptor)
            raise
        for writer in made[1::2]:
            os.close(writer)
        self.pipes |= dict(zip(made[::2], names, strict=True))
        self.main_over = False

    def fail(self, why: str) -> None:
        """It cannot be started, for a reason of its own."""
        self._failed_to_start(StartFailedError("", 0, why))

    def _failed_to_start(self, error: StartFailedError) -> None:
        run = self.run
        run.detail, self.said = error.detail, error.line
        if error.step:
            run.result, run.exit_kind, run.exit_status = "exit-code", "exited", error.status
        else:
            run.result = "resources"
        self.phase, self.look_at = Phase.OVER, None

    def _refuse(self, now: float) -> None:
        """A command of `when` says no."""
        self.refused, self.pid = False, 0
        if self.job.when.otherwise is Otherwise.SKIP:
            self.skip("")
        else:
            self.phase, self.look_at = Phase.WAITING, self._not_after(now + _CONDITION_SECONDS)

    def skip(self, why: str) -> None:
        """A condition does not hold."""
        self.run.result, self.run.detail = "exec-condition", why
        self.phase, self.look_at = Phase.OVER, None

    def _not_after(self, moment: float | None) -> float | None:
        """The moment, or that at which the run's time is up if that is sooner."""
        limit = self.began + self.job.timeout.total_seconds() if self.job.timeout else None
        moments = [when for when in (moment, limit) if when is not None]
        return min(moments) if moments else None

    # Its output

    def read(self, descriptor: int, take: Callable[[str, bytes], object]) -> bool:
        """Take what is there, at most some; False when the other end is closed, and the pipe with it."""
        which = self.pipes[descriptor]
        for _ in range(_CHUNKS_AT_ONCE):
            try:
                piece = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                return True
            if not piece:
                os.close(descriptor)
                del self.pipes[descriptor]
                return False
            take(which, piece)
            if len(piece) < _CHUNK // 2:
                break
        return True

    # The end

    def ended(self, ended: Ended, now: float) -> None:
        """Its main process is over."""
        self.main_over = True
        if self.phase is Phase.CHECKING:
            self.refused = ended.kind != "exited" or ended.status != 0
        else:
            run = self.run
            run.exit_kind, run.exit_status = ended.kind, ended.status
            run.cpu_us = ended.cpu_us
            reserved = (NOT_RUN,) if self.job.lock else ()
            run.result = run.result or result_of(ended, self.job.success_exit + reserved)
        self.look_at = now

    def stop(self, why: str, now: float) -> None:
        """End it: the signal now, SIGKILL after the stop timeout. `why` is open_run.STOPPED or the like."""
        if self.phase is Phase.OVER:
            return
        self.run.stopped = self.run.stopped or why
        if self.pid == 0:
            # It waits for what is not there.
            self.run.result = self.run.result or "success"
            self.phase, self.look_at = Phase.OVER, None
            return
        self._signal(now)

    def kill(self, why: str, now: float) -> None:
        """End it at once."""
        self.stop(why, now)
        if self.phase is Phase.STOPPING:
            self.kill_at, self.look_at = now, now

    def _signal(self, now: float) -> None:
        self.phase = Phase.STOPPING
        name = self.job.kill_signal or "SIGTERM"
        members = self.processes.members(self.pid, self.run.run_id)
        self.processes.send(members, signal_number(name))
        if self.kill_at is None:
            length = self.job.stop_timeout.total_seconds() if self.job.stop_timeout else DEFAULT_STOP_SECONDS
            self.kill_at = now + length
        self.look_at = min(now + _LOOK_AGAIN_SECONDS, self.kill_at)

    def look(self, now: float, unmet: Callable[[], str | None]) -> None:
        """Do what is to be done by now. Raises OSError as `begin`."""
        if self.phase is Phase.OVER:
            return
        if self.phase is Phase.WAITING:
            if self._time_is_up(now):
                self.run.result, self.phase, self.look_at = "timeout", Phase.OVER, None
            elif self.processes.locks.is_waiting(self.run.run_id):
                self.go_on(now)
            else:
                self.begin(now, unmet)
            return
        if self.main_over:
            self._see_who_is_left(now)
            return
        if self.phase is not Phase.STOPPING and self._time_is_up(now):
            self.run.result = self.run.result or "timeout"
            self._signal(now)
        if self.phase is Phase.STOPPING:
            self._see_who_is_left(now)
        else:
            self.look_at = self._not_after(None)

    def _see_who_is_left(self, now: float) -> None:
        """End what the main process left behind; once nobody is left, the run is over, or its next command begins."""
        members = self.processes.members(self.pid, self.run.run_id)
        if not members and self.main_over:
            if self.phase is Phase.CHECKING and not self.run.result and not self.run.stopped:
                self._refuse(now) if self.refused else self.go_on(now)
            else:
                self.phase, self.look_at = Phase.OVER, None
            return
        if self.phase is not Phase.STOPPING:
            self._signal(now)
        if self.kill_at is not None and now >= self.kill_at:
            self.killed = True
            if not self.run.stopped:
                self.run.result = "timeout" if self.run.result in ("", "success") else self.run.result
            self.processes.kill(self.pid, self.run.run_id)
            if now >= self.kill_at + _GIVE_UP_SECONDS:
                # As systemd does: in uninterruptible sleep, or another user's whom the engine may not end.
                self.said = f"{len(members)} processes of it do not end, not even by SIGKILL: left to themselves"
                self.phase, self.look_at = Phase.OVER, None
                return
        self.look_at = now + _LOOK_AGAIN_SECONDS

    def _time_is_up(self, now: float) -> bool:
        return self.job.timeout is not None and now >= self.began + self.job.timeout.total_seconds()

    def close(self, take: Callable[[str, bytes], object]) -> None:
        """Take the last of its output. What an escaped process holds open is not waited for, nor read for ever."""
        for descriptor in list(self.pipes):
            left = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            while descriptor in self.pipes and left > 0:
                before = self.run.stdout.size + self.run.stderr.size
                more = self.read(descriptor, take)
                taken = self.run.stdout.size + self.run.stderr.size - before
                left = left - taken if more and taken else 0
            if descriptor in self.pipes:
                os.close(descriptor)
                del self.pipes[descriptor]
        self.processes.locks.leave(self.run.run_id, self.job)
        self.processes.tidy(self.run.run_id)

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether somebody, the next run, or the end of the engine ended it."""
        return self.run.stopped in (STOPPED, REPLACED, SHUT_DOWN)


def _last_descriptor() -> int:
    """From which number on descriptors are not for pipes: without some of its own the engine sees no process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit - min(limit // 4 + 16, limit // 2)


def result_of(ended: Ended, success_exit: tuple[int | str, ...]) -> str:
    """systemd's word for how the main process of a Type=oneshot service ended (systemd.service(5))."""
    if ended.kind == "exited":
        return "success" if ended.status == 0 or ended.status in success_exit else "exit-code"
    names = {name for name in success_exit if isinstance(name, str)}
    if names and signal_name(ended.status) in {name if name.startswith("SIG") else f"SIG{name}" for name in names}:
        return "success"
    return "core-dump" if ended.kind == "dumped" else "signal"


def signal_number(name: str) -> int:
    """The number of a signal by its name, as SIGTERM or RTMIN+3. Raises ValueError."""
    plain = name.removeprefix("SIG")
    if plain.startswith("RTMIN+"):
        return signals.SIGRTMIN + int(plain[6:])
    return signals.Signals[f"SIG{plain}"].value


def signal_name(number: int) -> str:
    """The inverse."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signals.SIGRTMIN}"
