"""Whose output is a line? Streams of journald's -> the two streams of a run. Pure.

A stream belongs to one run for good; its first line tells to which: by the invocation that journald noted, or, where
the process or its unit was over before journald looked (up to one in seven of those that end at once), by the job's
name and by what runs of it are open. A line may also come before its run's first message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdcron.messages import may_be_of_job
from sdcron.overlap import slot_of
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.definition import Definition
    from sdcron.messages import Get
    from sdcron.open_run import OpenRun
    from sdcron.output import Capture

_WHICH = {b"6": "stdout", b"4": "stderr"}
"""systemd-cat's priorities for the two, by the units that units.py writes."""
_LINE_ENDS = {None: b"\n", b"nul": b"\0"}
"""What a line ended with, by journald's _LINE_BREAK=; after any other value the line goes on, or the stream ended."""
_STRANGERS = 4096
_KEPT_US = 10_000_000
"""How long lines without a run are kept for one to come."""
_EARLY_US = 50_000
"""How long before systemd says that a run starts, after it has started it, journald may get its first line."""


@dataclass(slots=True)
class _Stream:
    job: str
    which: str
    capture: Capture
    run: OpenRun | None
    since_us: int


class Streams:
    """The streams of all open runs."""

    def __init__(
        self,
        runs: dict[str, OpenRun],
        define: Callable[[str], Definition | None],
        capture: Callable[[str], Capture],
        unknown_run: Callable[[str, str, int], OpenRun | None],
        *,
        user: bytes | None,
    ) -> None:
        """`runs` are the open ones by id. `unknown_run` makes one of an id that is new; None if that run is over.

        `user` is whose manager it is, as _UID= has it; None for the machine's.
        """
        self._runs = runs
        self._define = define
        self._capture = capture
        self._unknown_run = unknown_run
        self._user = user
        self._unit_field = "_SYSTEMD_USER_UNIT" if user else "_SYSTEMD_UNIT"
        self._streams: dict[bytes, _Stream] = {}
        self._strangers: set[bytes] = set()
        self._early: dict[bytes, _Stream] = {}
        self.journald_us = 0
        """When journald was started last within this boot, microseconds since 1970; 0 for never."""
        self.grown: set[str] = set()
        """Ids of runs with new output; whoever looks clears it."""

    def restore(self, run: OpenRun) -> None:
        """Take up the streams of a run that was put away."""
        for stream, which in run.streams.items():
            self._streams[stream.encode()] = _Stream(run.job, which, run.capture(which), run, 0)

    def forget(self, run: OpenRun) -> None:
        """The run's record is closed."""
        for stream in run.streams:
            self._streams.pop(stream.encode(), None)
            self._remember_stranger(stream.encode())

    def line(self, get: Get, identifier: bytes, received_us: int) -> bool:
        """Take a line that says it is of a job; False for what was not printed, but sent as logger(1) does."""
        name = get("_STREAM_ID")
        if name is None:
            return False
        stream = self._streams.get(name)
        if stream is None:
            if name in self._strangers:
                return True
            stream = self._new(get, identifier, name, received_us)
            if stream is None:
                self._remember_stranger(name)
                return True
        stream.capture.add((get("MESSAGE") or b"") + _LINE_ENDS.get(get("_LINE_BREAK"), b""))
        if stream.run is not None:
            self.grown.add(stream.run.run_id)
        return True

    def adopt(self, run: OpenRun) -> None:
        """Give a run that has just begun the lines that came before it."""
        for name, stream in list(self._early.items()):
            if stream.job == run.job:
                del self._early[name]
                if stream.since_us > (run.started_us or 0) - _EARLY_US and run.capture(stream.which).size == 0:
                    self._give(run, name, stream)
                else:
                    self._streams.pop(name, None)
                    self._remember_stranger(name)

    def _give(self, run: OpenRun, name: bytes, stream: _Stream) -> None:
        stream.run = run
        self._doubt(run)
        run.streams[name.decode("ascii", "replace")] = stream.which
        if stream.which == "stdout":
            run.stdout = stream.capture
        else:
            run.stderr = stream.capture
        self.grown.add(run.run_id)

    def _new(self, get: Get, identifier: bytes, name: bytes, received_us: int) -> _Stream | None:
        which = _WHICH.get(get("PRIORITY") or b"")
        job = identifier.decode("ascii", "replace").removeprefix(PREFIX)
        if which is None or (self._user is not None and get("_UID") != self._user):
            return None
        unit = get(self._unit_field)
        invocation = (get("_SYSTEMD_INVOCATION_ID") or b"").decode("ascii", "replace")
        run = None
        of_job, slot = slot_of((unit or b"").decode("ascii", "replace"))
        ours = of_job == job
        if ours and invocation:
            run = self._runs.get(invocation) or self._unknown_run(job, invocation, slot)
            if run is None:
                return None
        elif not ours and not self._may_be_of(job, get, unit):
            return None
        else:
            run = self._likely(job, which)
            if run is not None:
                self._doubt(run)
        stream = _Stream(job, which, run.capture(which) if run else self._capture(job), run, received_us)
        self._streams[name] = stream
        if run is None:
            self._wait(name, stream)
        else:
            run.streams[name.decode("ascii", "replace")] = which
        return stream

    def _wait(self, name: bytes, stream: _Stream) -> None:
        self._early[name] = stream
        for other, earlier in list(self._early.items()):
            if stream.since_us - earlier.since_us > _KEPT_US or len(self._early) > _STRANGERS:
                del self._early[other]
                self._streams.pop(other, None)

    def _may_be_of(self, job: str, get: Get, unit: bytes | None) -> bool:
        definition = self._define(job)
        uids = (b"0", str(definition.uid).encode()) if definition is not None else ()
        return may_be_of_job(get, unit, uids)

    def _doubt(self, run: OpenRun) -> None:
        """Note of a run that got a stream by its job's name alone, if there may be another that journald knows not of.

        While journald is away systemd does not write to it, and a run may begin and end that nothing else tells of.
        """
        if self.journald_us > (run.started_us or self.journald_us) - _KEPT_US and self.journald_us:
            run.doubtful = True

    def _likely(self, job: str, which: str) -> OpenRun | None:
        """The open run that lacks this stream, the oldest first."""
        runs = (run for run in self._runs.values() if run.job == job and which not in run.streams.values())
        return next(runs, None)

    def _remember_stranger(self, name: bytes) -> None:
        if len(self._strangers) >= _STRANGERS:
            self._strangers.clear()
        self._strangers.add(name)
