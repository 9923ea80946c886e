"""Journal entries -> runs. Pure: entries come in, runs come out, and all in between can be written down as JSON.

What is believed: of the manager's messages those that the manager itself wrote, by the fields that journald adds and
no program can (systemd.journal-fields(7)). Anybody may call himself sdcron-backup. Output is streams.py's matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from sdcron.job import RESERVED_NAMES
from sdcron.open_run import CUT_OFF, END_UNKNOWN, SHUT_DOWN, STOPPED, OpenRun, new_captures
from sdcron.paths import Scope
from sdcron.runs import moment_of
from sdcron.store import Batch
from sdcron.streams import PREFIX, Streams
from sdcron.trigger import Memory, cause_of, microseconds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.definition import Definition
    from sdcron.runs import Run
    from sdcron.trigger import Cause

    Get = Callable[[str], bytes | None]

# MESSAGE_ID= of systemd's own entries (sd-messages.h).
STARTING = b"7d4958e842da4a758f6c1cdc7b36dcc5"
EXITED = b"98e322203f7a4ed290d09fe03c09fe15"
SUCCEEDED = b"7ad2d189f7e94e70a38c781354912448"
FAILED = b"d9b373ed55a64feb8242e02dbe79a49c"
SKIPPED = b"0e4284a0caca4bfc81c0bb6786972673"
STARTED = b"39f53479d3a045ac8e11786248231fbf"
START_FAILED = b"be02cf6855d2428ba40df7e9d022f03d"
HAS_STOPPED = b"9d1aaa27d60140bd96365438aad20286"
RESOURCES = b"ae8f7b866b0347b9af31fe1c80b127c0"
SPAWN_FAILED = b"641257651c1b4ec9a8624d7a40a9e1e7"
DROPPED = b"a596d6fe7bfa4994828e72309e95d61e"

_OWN = frozenset(f"{PREFIX}{name}".encode() for name in RESERVED_NAMES)
_ENDS = (SUCCEEDED, FAILED, SKIPPED, STARTED, START_FAILED, HAS_STOPPED)
# systemd.exec(5), "Process Exit Codes": from 200 on they are its own, with a name each.
_STEP = re.compile(r"status=2\d\d/([A-Z_]{3,})")
_SPAWN = re.compile(r"Failed at step (\S+) spawning .*: (.+)")
_CONDITION = re.compile(r"unmet condition check \(?([^)\n]+)\)?")
_RETRY_TIMER = re.compile(r"sdcron-(.+)@retry-(\d+)\.timer")


class Fold:
    """Takes the entries of one scope in the journal's order."""

    def __init__(
        self,
        scope: Scope,
        uid: int,
        define: Callable[[str], Definition | None],
        is_recorded: Callable[[str], bool],
    ) -> None:
        """`uid` is the user whose manager it is; `define` tells how a job is applied now."""
        self._user = scope is Scope.USER
        self._uid = str(uid).encode()
        self._define = define
        self._is_recorded = is_recorded
        self._unit_field = "USER_UNIT" if self._user else "UNIT"
        self._id_field = "USER_INVOCATION_ID" if self._user else "INVOCATION_ID"
        self.runs: dict[str, OpenRun] = {}
        """All that are open, by run id, in the order of their beginning."""
        self.streams = Streams(self.runs, define, self._unknown_run, user=self._uid if self._user else None)
        self.manager = ""
        """The systemd that was heard last: boot id and process id."""
        self.manager_us = 0
        self.going_down = False
        """Whether it has begun to stop everything."""
        self._complaint = ("", "")
        """What the manager said last of a run that it could not begin: its id, and the text."""
        self._memories: dict[str, Memory] = {}
        self._closed: list[Run] = []
        self._lately: set[str] = set()
        """Ids of closed runs that may not be recorded yet."""
        self._dropped: list[tuple[str, int]] = []
        self._touched: set[str] = set()
        self._remembered: set[str] = set()

    # What the caller keeps between two starts

    def restore(self, meta: dict[str, str], open_runs: dict[str, tuple[str, str]], memories: dict[str, str]) -> None:
        """Take up where `changes` left off. What cannot be read, as of another version, is forgotten."""
        try:
            state = json.loads(meta.get("fold", "{}"))
            self.manager, self.manager_us = str(state.get("manager", "")), int(state.get("manager_us", 0))
            self.going_down = bool(state.get("going_down", False))
        except (ValueError, TypeError, AttributeError):
            pass
        for job, text in memories.items():
            try:
                self._memories[job] = Memory.from_json(json.loads(text))
            except (ValueError, TypeError):
                continue
        found = []
        for job, text in open_runs.values():
            try:
                found.append(OpenRun.from_json(json.loads(text), self._define(job)))
            except (ValueError, TypeError, KeyError):
                continue
        for run in sorted(found, key=lambda run: run.started_us or 0):
            self.runs[run.run_id] = run
            self.streams.restore(run)

    def changes(self) -> Batch:
        """Everything that is new since the last call."""
        state = {"manager": self.manager, "manager_us": self.manager_us, "going_down": self.going_down}
        open_runs = {
            run_id: (run.job, json.dumps(run.as_json()))
            for run_id in self._touched | self.streams.grown
            if (run := self.runs.get(run_id)) is not None
        }
        memories = {job: json.dumps(self._memories[job].as_json()) for job in self._remembered}
        batch = Batch(self._closed, open_runs, memories, {"fold": json.dumps(state)}, self._dropped)
        self._lately = {record.run_id for record in self._closed}
        self._closed, self._dropped, self._touched, self._remembered = [], [], set(), set()
        self.streams.grown.clear()
        return batch

    def memory(self, job: str) -> Memory:
        """What the job's timers and runs did; what the caller changes in it is kept."""
        self._remembered.add(job)
        return self._memories.setdefault(job, Memory())

    def jobs(self) -> tuple[str, ...]:
        """All jobs that there are memories of."""
        return tuple(self._memories)

    # Entries

    def feed(self, get: Get, received_us: int) -> None:
        """Take one entry: `get` gives its fields, `received_us` is when journald got it."""
        identifier = get("SYSLOG_IDENTIFIER")
        if identifier is None:
            return
        if identifier.startswith(b"sdcron-") and identifier not in _OWN:
            self.streams.line(get, identifier, received_us)
        elif identifier == b"systemd":
            self._manager_message(get, received_us)
        elif identifier.startswith(b"(") and get("MESSAGE_ID") == SPAWN_FAILED:
            self._spawn_failed(get)
        elif identifier == b"systemd-journald" and get("MESSAGE_ID") == DROPPED:
            self._lines_dropped(get)

    def _manager_message(self, get: Get, received_us: int) -> None:
        if not self._is_manager(get):
            return
        unit = (get(self._unit_field) or b"").decode("ascii", "replace")
        when_us = int(get("_SOURCE_REALTIME_TIMESTAMP") or received_us)
        self._hear(f"{_text(get, '_BOOT_ID')}:{_text(get, '_PID')}", when_us)
        if unit.startswith(PREFIX):
            name, _, kind = unit.removeprefix(PREFIX).rpartition(".")
            if name in RESERVED_NAMES:
                return
            if kind == "service" and "@" not in name:
                self._service(name, get, when_us)
            elif kind == "timer":
                self._timer(unit, name, get, when_us)
        elif unit == "timers.target":
            # It goes first when everything is stopped, and nobody stops it alone.
            message = get("MESSAGE_ID")
            if message in (HAS_STOPPED, STARTED):
                self.going_down = message == HAS_STOPPED

    def _is_manager(self, get: Get) -> bool:
        if self._user:
            return get("_UID") == self._uid and get("_SYSTEMD_USER_UNIT") == b"init.scope"
        return get("_PID") == b"1"

    def _hear(self, manager: str, when_us: int) -> None:
        if manager != self.manager:
            if not self.manager:
                # Output may be the first that is read.
                for run in self.runs.values():
                    run.manager = run.manager or manager
            self.manager, self.manager_us, self.going_down = manager, when_us, False
            self.abandon_all_but(manager)

    def abandon_all_but(self, manager: str) -> None:
        """Close the runs of every other manager: it is gone, and so are they.

        A run that somebody's shutdown had stopped has its end; what has none was cut off.
        """
        for run in [run for run in self.runs.values() if run.manager != manager]:
            self._abandon(run)

    def abandon_other_boots(self, boot_id: str) -> None:
        """The same for every run that is not of this boot. Only when all that the journal has was taken."""
        for run in [run for run in self.runs.values() if run.manager.partition(":")[0] != boot_id]:
            if boot_id:
                self._abandon(run)

    def _abandon(self, run: OpenRun) -> None:
        if not run.result and not run.stopped:
            run.result = CUT_OFF
        self.close(run)

    def _service(self, job: str, get: Get, when_us: int) -> None:
        message = get("MESSAGE_ID")
        run_id = _text(get, self._id_field)
        if message == STARTING:
            self._begin(job, run_id, _text(get, "_HOSTNAME"), when_us)
            return
        if message == STARTED and not run_id:
            self._skip(job, get, when_us)
            return
        if not message and (get("PRIORITY") or b"6") <= b"3":
            self._complaint = (run_id, _text(get, "MESSAGE").removeprefix(f"{PREFIX}{job}.service: "))
        run = self.runs.get(run_id)
        if run is None and message in _ENDS:
            run = self._unknown_run(job, run_id or _made_up(get, when_us))
            if run is not None and message in (FAILED, START_FAILED) and _text(get, "UNIT_RESULT") != "exit-code":
                # What systemd cannot even begin has no first message: a file or a unit that it needs is missing.
                self._begin(job, run.run_id, _text(get, "_HOSTNAME"), when_us)
                run.detail = self._complaint[1] if self._complaint[0] == run_id else ""
        if run is None:
            return
        self._touched.add(run.run_id)
        self._take(run, message, get, when_us)

    def _take(self, run: OpenRun, message: bytes | None, get: Get, when_us: int) -> None:
        """What a message of the manager's tells of a run."""
        job_result = _text(get, "JOB_RESULT")
        if message == EXITED:
            if _text(get, "COMMAND") in ("ExecStart", "") or not run.exit_kind:
                run.exit_kind, run.exit_status = _text(get, "EXIT_CODE"), _number(get("EXIT_STATUS"))
                step = _STEP.search(_text(get, "MESSAGE"))
                if step and not run.detail:
                    run.detail = f"could not be started, at step {step[1]}"
        elif message in (SUCCEEDED, FAILED, SKIPPED):
            run.result = _text(get, "UNIT_RESULT") or "success"
            run.ended_us = when_us
        elif message == RESOURCES:
            cpu = _number(get("CPU_USAGE_NSEC"))
            run.cpu_us = cpu // 1000 if cpu is not None else run.cpu_us
            run.memory_peak_bytes = _number(get("MEMORY_PEAK")) or run.memory_peak_bytes
        elif message in (STARTED, START_FAILED, HAS_STOPPED):
            run.done = True
            run.ended_us = run.ended_us or when_us
            if not run.result:
                run.result = job_result if job_result not in ("done", "") else "success"
            if message == HAS_STOPPED:
                run.stopped = SHUT_DOWN if self.going_down else STOPPED

    def _begin(self, job: str, run_id: str, host: str, when_us: int) -> None:
        for other in [run for run in self.runs.values() if run.job == job and run.run_id != run_id and not run.done]:
            # systemd runs a job once at a time: the end of this one was lost.
            other.result = other.result or END_UNKNOWN
            other.done = True
            self._touched.add(other.run_id)
        definition = self._define(job)
        run = self.runs.get(run_id)
        if run is None:
            if self._is_over(run_id):
                # Read a second time, for a database that was rebuilt: what comes next is judged by it all the same.
                self.memory(job).run_started(when_us, self._cause(job, when_us, definition))
                return
            run = self._open(job, run_id, definition)
        cause = self._cause(job, when_us, definition)
        run.begin(when_us, cause, definition)
        run.host = host
        self.memory(job).run_started(when_us, cause)
        self._touched.add(run_id)
        self.streams.adopt(run)

    def _cause(self, job: str, when_us: int, definition: Definition | None) -> Cause:
        return cause_of(when_us, definition, self.memory(job), self.manager, self.manager_us)

    def _open(self, job: str, run_id: str, definition: Definition | None) -> OpenRun:
        stdout, stderr = new_captures(definition)
        run = self.runs[run_id] = OpenRun(job, run_id, self.manager, stdout=stdout, stderr=stderr)
        self._touched.add(run_id)
        return run

    def _unknown_run(self, job: str, run_id: str) -> OpenRun | None:
        """A run whose beginning the journal has lost, or has yet to tell; None if its record is closed already."""
        return None if self._is_over(run_id) else self._open(job, run_id, self._define(job))

    def _is_over(self, run_id: str) -> bool:
        return run_id in self._lately or self._is_recorded(run_id)

    def _skip(self, job: str, get: Get, when_us: int) -> None:
        """A condition did not hold: systemd gives such a start no invocation."""
        run_id = _made_up(get, when_us)
        if self._is_over(run_id) or run_id in self.runs:
            return
        definition = self._define(job)
        run = self._open(job, run_id, definition)
        cause = self._cause(job, when_us, definition)
        run.begin(when_us, cause, definition)
        self.memory(job).run_started(when_us, cause)
        run.host = _text(get, "_HOSTNAME")
        condition = _CONDITION.search(_text(get, "MESSAGE"))
        run.result, run.ended_us = "exec-condition", when_us
        run.detail = condition[1] if condition else ""
        self.close(run)

    def _timer(self, unit: str, name: str, get: Get, when_us: int) -> None:
        message, run_id = get("MESSAGE_ID"), _text(get, self._id_field)
        started = message == STARTED and bool(run_id)
        retry = _RETRY_TIMER.fullmatch(unit)
        if retry:
            memory = self.memory(retry[1])
            if started:
                memory.retry_started(int(retry[2]), when_us, self.manager)
            elif message == HAS_STOPPED and memory.retry == int(retry[2]) and not self.going_down:
                memory.retry_stopped = True
        elif started:
            job = name.removesuffix("@boot")
            definition = self._define(job)
            memory = self.memory(job)
            if name.endswith("@boot") or (definition is not None and definition.boot and not definition.has_times):
                memory.boot_timer_us = when_us
            else:
                memory.timer_started(when_us, self.manager, definition.digest if definition else None)

    def _spawn_failed(self, get: Get) -> None:
        """What the process says that was to become the command, before it did."""
        run = self.runs.get(_text(get, "_SYSTEMD_INVOCATION_ID"))
        found = _SPAWN.search(_text(get, "MESSAGE"))
        if run is not None and found:
            run.detail = f"could not be started, at step {found[1]}: {found[2]}"
            self._touched.add(run.run_id)

    def _lines_dropped(self, get: Get) -> None:
        """journald tells of lines over the limit when the next line of the unit comes, which may be of the next run."""
        unit = _text(get, "OBJECT_SYSTEMD_USER_UNIT" if self._user else "OBJECT_SYSTEMD_UNIT")
        count = _number(get("N_DROPPED")) or 0
        if get("_TRANSPORT") != b"driver" or not unit.startswith(PREFIX):
            return
        job = unit.removeprefix(PREFIX).removesuffix(".service")
        run = self.runs.get(_text(get, "OBJECT_SYSTEMD_INVOCATION_ID"))
        if run is not None and (run.stdout.size or run.stderr.size):
            run.dropped_lines += count
            self._touched.add(run.run_id)
        else:
            self._dropped.append((job, count))
            if run is not None:
                run.dropped_before += count
                self._touched.add(run.run_id)

    # The end of a run

    def ended(self) -> list[OpenRun]:
        """Runs that systemd has finished with, and whose output may still be on its way."""
        return [run for run in self.runs.values() if run.done]

    def touch(self, run: OpenRun) -> None:
        """The caller has changed it: it is among the next `changes`."""
        self._touched.add(run.run_id)

    def close(self, run: OpenRun) -> None:
        """Make the record; it is among the next `changes`."""
        definition = self._define(run.job)
        schedule = definition.schedule if definition is not None else None
        after_us = run.ended_us or run.started_us
        following = schedule.next_after(moment_of(after_us)) if schedule is not None and after_us else None
        record = run.close(microseconds_of(following) if following is not None else None)
        memory = self.memory(run.job)
        memory.run_ended(run.ended_us, _retry_owed(run, definition))
        self._closed.append(record)
        self._lately.add(run.run_id)
        self.runs.pop(run.run_id, None)
        self.streams.forget(run)


def _retry_owed(run: OpenRun, definition: Definition | None) -> int:
    """The number of the retry that a run gets which the machine cut off: systemd itself saw no failure, or no more."""
    if definition is None or not (run.result == CUT_OFF or run.stopped == SHUT_DOWN):
        return 0
    # With `retry.on_exit` only these exit statuses are retried, and this run has none.
    return run.attempt if run.attempt <= len(definition.retry_delays_us) and not definition.retry_on_exit else 0


def _text(get: Get, field: str) -> str:
    return (get(field) or b"").decode("utf-8", "replace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _made_up(get: Get, when_us: int) -> str:
    """An id for what systemd gave none: the same whenever this entry is read."""
    parts = (_text(get, "_BOOT_ID"), _text(get, "JOB_ID"), str(when_us), _text(get, "UNIT"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
