"""What a job tells sdcron of itself, and asks: progress, alarms, log lines, and which run this is.

    from sdcron.sdk import alarm, current, log, progress

    for number, file in enumerate(files, start=1):
        upload(file)
        progress(number, len(files))
    log.info("%s files are up", len(files))

Shells say the same with `sdcron-job`. One file of the standard library alone, which may be copied to wherever it is
needed. Outside of sdcron everything works too, and tells the terminal; no function raises because of sdcron.
"""

from __future__ import annotations

# All else is imported where it is needed. Run as a program this file has its own directory in front of the search path,
# with modules of other names than they have here; and a script that only tells its progress starts no slower for it.
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["Current", "alarm", "current", "log", "progress"]

_JOURNAL = "/run/systemd/journal/socket"
_RATE = 2.0  # messages about progress a second, in the long run
_BURST = 10.0
_LONGEST_ALARM = 1000  # characters
_PATIENCE = 1.0  # seconds that something important waits for being taken
_READ_SECONDS = 0.005  # how long journald may take to look at who has sent what it has just read
_UNSENT = 0x5411  # SIOCOUTQ, unix(7): what the other end has not read yet
_LONGEST_ADDRESS = 107  # unix(7)
_LEVELS = ("debug", "info", "warning", "error", "critical")
_USAGE = """\
usage: sdcron-job progress DONE [TOTAL]
       sdcron-job log [debug|info|warning|error|critical] TEXT
       sdcron-job alarm TEXT
       sdcron-job current [job|run_id|attempt|trigger|for]
"""


# Which run this is


class Current:
    """The run that this process is of; outside of sdcron every field is None.

    `job` is its name, `run_id` that of its record. `attempt` is 1, and n + 1 for the n-th retry. `trigger` is what
    started it, as in the record; by systemd only `retry`, and `manual` for a run with values of its own, can be told
    while it is on. `for_` is the instant that it is run for (`sdcron run --for`), RFC 3339. What cannot be found out is
    None.
    """

    def __init__(self) -> None:
        unit, self._instance, self._in_user_scope = _unit()
        environment = os.environ
        by_engine = "SDCRON_SOCKET" in environment
        self.job: str | None = environment.get("SDCRON_JOB") if by_engine else unit
        found = environment.get("SDCRON_RUN_ID" if by_engine else "INVOCATION_ID")
        self.run_id = found if self.job else None
        self.for_ = environment.get("SDCRON_FOR") if self.job else None
        self._by_engine = by_engine
        self._found_attempt: int | None = None

    @property
    def attempt(self) -> int | None:
        """How manieth it is."""
        if self._by_engine:
            told = os.environ.get("SDCRON_ATTEMPT", "")
            return int(told) if told.isdecimal() else None
        if self._instance:
            return 1 if self._instance.isdecimal() else None
        if self._found_attempt is None and self.job:
            self._found_attempt = _attempt_by_systemd(self.job, user=self._in_user_scope)
        return self._found_attempt

    @property
    def trigger(self) -> str | None:
        """What started it."""
        if self._by_engine:
            return os.environ.get("SDCRON_TRIGGER") or None
        if self._instance.isdecimal() and len(self._instance) > len("1000000"):
            return "manual"
        # Not $TRIGGER_UNIT: systemd 252 leaves there what started the first of several runs.
        return "retry" if (self.attempt or 1) > 1 else None

    def __repr__(self) -> str:
        names = ("job", "run_id", "attempt", "trigger", "for_")
        return f"Current({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def current() -> Current:
    """The run that this process is of."""
    return Current()


def _unit() -> tuple[str | None, str, bool]:
    """The job in whose control group this is, None for none; what its unit has behind an @; whether a user's it is."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 - pathlib takes long to import
            lines = stream.read().splitlines()
    except OSError:
        lines = []
    for names in (line.split("/") for line in lines):
        for name in reversed(names):
            if name.startswith("sdcron-") and name.endswith(".service"):
                job, _, instance = name[7:-8].partition("@")
                if instance != "retry" and job not in ("boot", "collector", "engine"):
                    return job, instance, any(other.startswith("user@") for other in names)
    return None, "", False


def _attempt_by_systemd(job: str, *, user: bool) -> int | None:
    """By what the retry handler has left for the timer that waits; None where that cannot be asked."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if user else "/run"
    try:
        with open(f"{runtime}/sdcron/retry/{job}", encoding="ascii") as stream:  # noqa: PTH123 - as above
            number = stream.read(64).split()[0]
    except FileNotFoundError:
        return 1
    except (OSError, ValueError, IndexError):
        return None
    if not number.isdecimal():
        return 1  # the run before was stopped by an administrator
    # A timer that was stopped before its time has no last trigger: this run began before the retry that waited.
    scope = ["--user"] if user else []
    timer = f"sdcron-{job}@retry-{number}.timer"
    command = ["systemctl", *scope, "show", "--value", "--property=LastTriggerUSec", timer]
    import subprocess

    try:
        moment = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return int(number) + 1 if moment not in ("", "n/a") else 1


# Messages to whoever runs the job


def _send(fields: Mapping[str, str], *, wait: bool = False) -> bool:
    """Send to the engine, or for the collector to the journal; whether it was taken. Never raises.

    With `wait` it is so important, or this process over so soon, that it is waited until the message is read.
    """
    run, engine = Current(), os.environ.get("SDCRON_SOCKET")
    if not run.job:
        return False
    known = {"SYSLOG_IDENTIFIER": f"sdcron-{run.job}", "SDCRON_RUN_ID": run.run_id or "", **fields}
    lines = (f"{name}={' '.join(value.split())}\n" for name, value in known.items())
    try:
        _deliver(engine or _JOURNAL, "".join(lines).encode("utf-8", "replace"), wait=wait, asked=bool(engine))
    except (OSError, ValueError):
        return False
    return True


def _deliver(address: str, message: bytes, *, wait: bool, asked: bool) -> None:
    """Raises OSError."""
    import select
    import socket
    from contextlib import ExitStack

    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        if len(os.fsencode(address)) > _LONGEST_ADDRESS:
            directory, _, name = address.rpartition("/")
            near = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, near)
            address = f"/proc/self/fd/{near}/{name}"
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sender = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        if not (wait and asked):
            _put(sender, message, [], address, deadline if wait else 0.0)
            if wait:
                _until_read(sender, deadline)
            return
        # The engine closes its end of the pipe when it has seen to the message, and to who has sent it.
        ours, its = os.pipe()
        stack.callback(os.close, ours)
        try:
            _put(sender, message, [its], address, deadline)
        finally:
            os.close(its)
        poll = select.poll()
        poll.register(ours, 0)
        poll.poll(_PATIENCE * 1000)


def _put(sender: Any, message: bytes, descriptors: Sequence[int], address: str, deadline: float) -> None:  # noqa: ANN401 - a socket
    """Send as soon as there is room for it, until then. Raises OSError."""
    import array
    import socket

    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    while True:
        try:
            sender.sendmsg([message], rights, 0, address)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _until_read(sender: Any, deadline: float) -> None:  # noqa: ANN401 - a socket
    """Wait until journald has read it: it asks the kernel whose a message is only then. Raises nothing: it is sent."""
    from contextlib import suppress
    from fcntl import ioctl

    with suppress(OSError):
        while ioctl(sender, _UNSENT, b"\0\0\0\0") != b"\0\0\0\0" and time.monotonic() < deadline:
            time.sleep(0.001)
    time.sleep(_READ_SECONDS)


def _tell(text: str, *, to_people_alone: bool = False) -> None:
    """Lines on stderr; that nobody reads them is no matter."""
    try:
        if not to_people_alone or sys.stderr.isatty():
            sys.stderr.write(text)
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


# Progress


class _Meter:
    """Lets through what is told of progress, some times a second; what was held back last goes at the end."""

    def __init__(self) -> None:
        self._credit, self._at = _BURST, time.monotonic()
        self._last: tuple[float, float | None] | None = None
        self._held: tuple[float, float | None] | None = None
        self._owner = 0
        """The process that holds it: a child that it forks is another one."""

    def tell(self, done: float, total: float | None) -> None:
        """Take it, and maybe send it."""
        now = time.monotonic()
        self._credit, self._at = min(self._credit + (now - self._at) * _RATE, _BURST), now
        # The last one goes at once, if not all are the last.
        if self._credit >= 1 or (done == total and self._credit > -_BURST):
            if (done, total) != self._last:
                self._credit -= 1
                self._last, self._held = (done, total), None
                _progress_now(done, total)
            return
        if self._owner != os.getpid():
            import atexit

            self._owner = os.getpid()
            atexit.register(self._at_exit)
        self._held = done, total

    def _at_exit(self) -> None:
        held, self._held = self._held, None
        if held is not None and held != self._last and self._owner == os.getpid():
            _progress_now(*held, wait=True)


def _progress_now(done: float, total: float | None, *, wait: bool = False) -> bool:
    """Send it, whatever was sent before; False for what is no number from 0 on."""
    try:
        words = _number(done), _number(total) if total is not None else ""
    except (TypeError, ValueError, OverflowError):
        return False
    shown = f"{words[0]}/{words[1]}" if words[1] else words[0]
    fields = {"MESSAGE": f"progress: {shown}", "PRIORITY": "6", "SDCRON_PROGRESS": "/".join(words)}
    if not _send(fields, wait=wait):
        percent = f" ({float(done) * 100 / float(total):.0f} %)" if total and float(total) else ""
        _tell(f"progress: {shown}{percent}\n", to_people_alone=True)
    return True


def _number(value: float) -> str:
    number = float(value)
    if not 0 <= number < 1e15:
        raise ValueError(f"{value} is no count")
    return str(int(number)) if number == int(number) else f"{number:.3f}"


_meter = _Meter()


def progress(done: float, total: float | None = None) -> None:
    """Say that so much is done, of so much in all where that is known: `sdcron status` shows it.

    May be called as often as one likes: ten times at once, then twice a second are passed on, and the last one at the
    end. What is no number from 0 on is passed over.
    """
    _meter.tell(done, total)


# Alarms and log lines


def alarm(text: object) -> None:
    """Say that a person should know of this: `sdcron status` shows it, and it stays on the record of the run.

    Of a run the first 20 are kept, up to 1000 characters each, on one line. The run goes on, and is no failure by it.
    """
    said = " ".join(str(text).split())[:_LONGEST_ALARM]
    if said and not _send({"MESSAGE": f"alarm: {said}", "PRIORITY": "3", "SDCRON_ALARM": said}, wait=True):
        _tell(f"alarm: {said}\n")


class _Log:
    """Lines on stderr with their level in front, and so part of what the run has printed.

    As with `logging`, what follows the message is put in by `%`.
    """

    def debug(self, message: object, *values: object) -> None:
        """What helps to find a mistake."""
        self._write("debug", message, values)

    def info(self, message: object, *values: object) -> None:
        """What is as it should be."""
        self._write("info", message, values)

    def warning(self, message: object, *values: object) -> None:
        """What may be wrong."""
        self._write("warning", message, values)

    def error(self, message: object, *values: object) -> None:
        """What is wrong."""
        self._write("error", message, values)

    def critical(self, message: object, *values: object) -> None:
        """What makes all else useless."""
        self._write("critical", message, values)

    def _write(self, level: str, message: object, values: tuple[object, ...]) -> None:
        text = str(message)
        if values:
            try:
                text %= values
            except (TypeError, ValueError, KeyError):
                text = f"{text} {values}"
        _tell("".join(f"{level}: {line}\n" for line in text.split("\n")))


log = _Log()


# As a program


def main(arguments: Sequence[str] | None = None) -> int:
    """`sdcron-job`; the exit status: 0, or 2 for a mistake in the words."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        return 0
    if command == "progress" and len(rest) in (1, 2):
        # Texts are numbers to it as well.
        if not _progress_now(*rest, *[None] * (2 - len(rest)), wait=True):  # type: ignore[arg-type]  # as above
            return _misused("progress takes numbers from 0 on")
    elif command == "log" and rest:
        level = rest.pop(0) if rest[0] in _LEVELS and rest[1:] else "info"
        getattr(log, level)(" ".join(rest))
    elif command == "alarm" and rest:
        alarm(" ".join(rest))
    elif command == "current" and len(rest) <= 1:
        return _show_current(*rest)
    else:
        return _misused(f"not to be understood: {' '.join(words)}" if words else "what is to be told?")
    return 0


def _misused(what: str) -> int:
    _tell(f"sdcron-job: {what}\n{_USAGE}")
    return 2


def _show_current(only: str = "") -> int:
    run = current()
    names = ("job", "run_id", "attempt", "trigger", "for")
    if only and only not in names:
        return _misused(f"{only} is nothing that is known of a run")
    for name in [only] if only else names:
        value = getattr(run, "for_" if name == "for" else name)
        sys.stdout.write(f"{'' if only else f'{name}='}{'' if value is None else value}\n")
    return 0


if __name__ == "__main__":
    # Nothing is imported from beside this file because it was started by its path.
    if os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):  # noqa: PTH120 - as above
        del sys.path[0]
    sys.exit(main())
