"""Journal entries -> runs. Pure: entries come in, runs come out, and all in between can be written down as JSON.

What is believed: of the manager's messages those that the manager itself wrote, by the fields that journald adds and
no program can (systemd.journal-fields(7)). Anybody may call himself sdcron-backup. Output is streams.py's matter.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdcron.asking import AskedFor
from sdcron.chain_entries import hear_chain, hear_gate
from sdcron.job import RESERVED_NAMES, Overlap
from sdcron.job_memory import Cause
from sdcron.lock_skips import hear_lock, note_held_lock
from sdcron.memories import Memories
from sdcron.messages import (
    DROPPED,
    ENDS,
    EXITED,
    FAILED,
    HAS_STOPPED,
    JOURNAL_STARTED,
    OWN_IDENTIFIERS,
    RESOURCES,
    SKIPPED,
    SPAWN,
    SPAWN_FAILED,
    START_FAILED,
    STARTED,
    STARTING,
    STEP,
    SUCCEEDED,
    is_of_manager,
    made_up_id,
    number_of,
    text_of,
    unmet_condition,
)
from sdcron.open_run import CUT_OFF, END_UNKNOWN, MANAGER_GONE, REPLACED, SHUT_DOWN, STOPPED, OpenRun
from sdcron.open_runs import OpenRuns
from sdcron.overlap import MOST_SLOTS, slot_name, slot_of
from sdcron.paths import Scope
from sdcron.reports import Reports
from sdcron.runs import NOT_ASKED, Trigger, microseconds_of, moment_of
from sdcron.store import Batch
from sdcron.streams import Streams
from sdcron.units import PREFIX
from sdcron.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.definition import Definition
    from sdcron.messages import Get


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
        self._unit_field = "USER_UNIT" if self._user else "UNIT"
        self._id_field = "USER_INVOCATION_ID" if self._user else "INVOCATION_ID"
        self._open_runs = OpenRuns(is_recorded)
        self.runs = self._open_runs.by_id
        self.memories = Memories(define)
        self._asked_for = AskedFor(self.memories, self._uid, self.is_applied)
        runs = self._open_runs
        self._waits = Waits(define, self.memories, self._asked_for.is_answered, runs.count_on, runs.put_back)
        user_id = self._uid if self._user else None
        self.streams = Streams(self.runs, define, self.memories.capture, self._unknown_run, user=user_id)
        self._reports = Reports(
            self.runs, define, lambda job: self.memories.output(job)[1], self._unknown_run, user=user_id
        )
        # As output: many may come, and who asks for a status has what is new kept before.
        self._reports.on_progress, self._reports.on_alarm = self.streams.grown.add, self.touch
        self.manager = ""
        """The systemd that was heard last: boot id and process id."""
        self.manager_us = 0
        self.going_down = False
        """Whether it has begun to stop everything."""
        self._complaint = ("", "")
        """What the manager said last of a run that it could not begin: its id, and the text."""
        self._dropped: list[tuple[str, int]] = []

    # What the caller keeps between two starts

    def restore(self, meta: dict[str, str], open_runs: dict[str, tuple[str, str]], memories: dict[str, str]) -> None:
        """Take up where `changes` left off. What cannot be read, as of another version, is forgotten."""
        try:
            state = json.loads(meta.get("fold", "{}"))
            self.manager, self.manager_us = str(state.get("manager", "")), int(state.get("manager_us", 0))
            self.going_down = bool(state.get("going_down", False))
            self.streams.journald_us = int(state.get("journald_us", 0))
        except (ValueError, TypeError, AttributeError):
            pass
        self.memories.restore(memories)
        found = []
        for job, text in open_runs.values():
            try:
                found.append(OpenRun.from_json(json.loads(text), self.memories.output(job)[1]))
            except (ValueError, TypeError, KeyError):
                continue
        for run in sorted(found, key=lambda run: run.started_us or 0):
            self._open_runs.add(run)
            self.streams.restore(run)

    def changes(self) -> Batch:
        """Everything that is new since the last call. To be kept before the next entry is taken."""
        state = {
            "manager": self.manager,
            "manager_us": self.manager_us,
            "going_down": self.going_down,
            "journald_us": self.streams.journald_us,
        }
        closed, open_runs = self._open_runs.changes(self.streams.grown)
        batch = Batch(closed, open_runs, self.memories.changes(), {"fold": json.dumps(state)}, self._dropped)
        self._dropped = []
        self.streams.grown.clear()
        return batch

    # Entries

    def feed(self, get: Get, received_us: int) -> None:
        """Take one entry: `get` gives its fields, `received_us` is when journald got it."""
        identifier = get("SYSLOG_IDENTIFIER")
        if identifier is None:
            return
        if identifier.startswith(b"sdcron-") and identifier not in OWN_IDENTIFIERS:
            if not self.streams.line(get, identifier, received_us):
                hear_lock(get, identifier, self._unit_field, self._define, self._open_runs, self._unknown_run)
                self._reports.take(get, received_us)
            hear_gate(get, identifier, self._unit_field, self._uid, self._open_runs, self._unknown_run)
        elif identifier == b"systemd":
            self._manager_message(get, received_us)
        elif identifier == b"sdcron":
            self._asked_for.hear(get, int(get("_SOURCE_REALTIME_TIMESTAMP") or received_us))
        elif identifier.startswith(b"(") and get("MESSAGE_ID") == SPAWN_FAILED:
            self._spawn_failed(get)
        elif identifier == b"systemd-journald" and get("_TRANSPORT") == b"driver":
            if get("MESSAGE_ID") == DROPPED:
                self._lines_dropped(get)
            elif get("MESSAGE_ID") == JOURNAL_STARTED:
                self.streams.journald_us = received_us

    def _manager_message(self, get: Get, received_us: int) -> None:
        if not is_of_manager(get, self._uid if self._user else None):
            return
        unit = (get(self._unit_field) or b"").decode("ascii", "replace")
        when_us = int(get("_SOURCE_REALTIME_TIMESTAMP") or received_us)
        self._hear(f"{text_of(get, '_BOOT_ID')}:{text_of(get, '_PID')}", when_us)
        if unit.startswith(PREFIX):
            name, _, kind = unit.removeprefix(PREFIX).rpartition(".")
            if name in RESERVED_NAMES:
                return
            job, slot = slot_of(unit)
            if job:
                self._service(job, slot, get, when_us)
            elif kind == "service" and get("MESSAGE_ID") == STARTING:
                if not self._waits.asked(name, when_us, self.manager, self.manager_us):
                    hear_chain(name, when_us, self.manager, self._open_runs, self.memories, self._define)
            elif kind == "timer" and get("MESSAGE_ID") == STARTED and get(self._id_field):
                self._waits.timer_started(unit, when_us, self.manager)
            elif kind == "timer" and get("MESSAGE_ID") == HAS_STOPPED and not self.going_down:
                self._waits.timer_stopped(unit, when_us)
        elif unit == ("default.target" if self._user else "timers.target"):
            # It goes first when everything is stopped, and nobody stops it alone.
            message = get("MESSAGE_ID")
            if message in (HAS_STOPPED, STARTED):
                self.going_down = message == HAS_STOPPED

    def _hear(self, manager: str, when_us: int) -> None:
        if manager != self.manager:
            if not self.manager:
                # Output may be the first that is read.
                for run in self.runs.values():
                    run.manager = run.manager or manager
            self.manager, self.manager_us, self.going_down = manager, when_us, False
            # With the boot, and not in the middle of it.
            self.streams.journald_us = 0
            self.abandon_all_but(manager)

    def abandon_all_but(self, manager: str) -> None:
        """Close the runs of every other manager: it is gone, and so are they.

        A run that somebody's shutdown had stopped has its end; what has none was cut off.
        """
        boot = manager.partition(":")[0]
        for run in [run for run in self.runs.values() if run.manager != manager]:
            self._abandon(run, MANAGER_GONE if run.manager.partition(":")[0] == boot else CUT_OFF)

    def abandon_other_boots(self, boot_id: str) -> None:
        """The same for every run that is not of this boot. Only when all that the journal has was taken."""
        for run in [run for run in self.runs.values() if run.manager.partition(":")[0] != boot_id]:
            self._abandon(run, CUT_OFF)

    def _abandon(self, run: OpenRun, why: str) -> None:
        if not run.result and not run.stopped:
            run.result = why
        self.close(run)

    def _service(self, job: str, slot: int, get: Get, when_us: int) -> None:
        message = get("MESSAGE_ID")
        run_id = text_of(get, self._id_field)
        if message == STARTING:
            self._begin(job, slot, run_id, text_of(get, "_HOSTNAME"), when_us)
            return
        if message == STARTED and not run_id:
            self._skip(job, slot, get, when_us)
            return
        if not message and (get("PRIORITY") or b"6") <= b"3":
            self._complaint = (run_id, text_of(get, "MESSAGE").removeprefix(f"{slot_name(job, slot)}: "))
        run = self.runs.get(run_id)
        if run is None and message in ENDS:
            run = self._unknown_run(job, run_id or made_up_id(get, when_us), slot)
            if run is not None and message in (FAILED, START_FAILED) and text_of(get, "UNIT_RESULT") != "exit-code":
                # What systemd cannot even begin has no first message: a file or a unit that it needs is missing.
                self._begin(job, slot, run.run_id, text_of(get, "_HOSTNAME"), when_us)
                run.detail = self._complaint[1] if self._complaint[0] == run_id else ""
        if run is None:
            return
        self._open_runs.touched.add(run.run_id)
        self._take(run, message, get, when_us)

    def _take(self, run: OpenRun, message: bytes | None, get: Get, when_us: int) -> None:
        """What a message of the manager's tells of a run."""
        job_result = text_of(get, "JOB_RESULT")
        if message == EXITED:
            if text_of(get, "COMMAND") in ("ExecStart", "") or not run.exit_kind:
                run.exit_kind, run.exit_status = text_of(get, "EXIT_CODE"), number_of(get("EXIT_STATUS"))
                step = STEP.search(text_of(get, "MESSAGE"))
                if step and not run.detail:
                    run.detail = f"could not be started, at step {step[1]}"
        elif message in (SUCCEEDED, FAILED, SKIPPED):
            run.result = text_of(get, "UNIT_RESULT") or "success"
            run.ended_us = when_us
        elif message == RESOURCES:
            cpu = number_of(get("CPU_USAGE_NSEC"))
            run.cpu_us = cpu // 1000 if cpu is not None else run.cpu_us
            run.memory_peak_bytes = number_of(get("MEMORY_PEAK")) or run.memory_peak_bytes
        elif message in (STARTED, START_FAILED, HAS_STOPPED):
            run.done = True
            run.ended_us = run.ended_us or when_us
            if not run.result:
                run.result = job_result if job_result not in ("done", "") else "success"
            if message == HAS_STOPPED:
                run.stopped = SHUT_DOWN if self.going_down else REPLACED if self._is_replaced(run) else STOPPED
            self._remember_end(run, self._define(run.job))

    def _is_replaced(self, run: OpenRun) -> bool:
        """Whether it was stopped for the next run."""
        definition, memory = self._define(run.job), self.memories.of(run.job)
        replaces = definition is not None and definition.overlap is Overlap.REPLACE and run.slot <= MOST_SLOTS
        return replaces and memory.is_replaced(run.started_us or 0, run.ended_us or 0)

    def _begin(self, job: str, slot: int, run_id: str, host: str, when_us: int) -> None:
        for other in self._open_runs.going_on(job, slot, run_id):
            # systemd runs a service once at a time: the end of this one was lost.
            other.result = other.result or END_UNKNOWN
            other.done = True
            self._open_runs.touched.add(other.run_id)
        definition, memory = self._define(job), self.memories.of(job)
        if slot > MOST_SLOTS:
            # Somebody's, which stands for no other run: what is to come is still to come.
            cause, asked = Cause(Trigger.MANUAL), self._asked_for.take(job, slot_name(job, slot), when_us)
            memory.is_held = True
        else:
            cause, asked = self._waits.cause(job, when_us, self.manager, self.manager_us), NOT_ASKED
            if cause.trigger is Trigger.MANUAL:  # it may have queued since
                asked = self._asked_for.take(job, "", when_us if memory.tick_us is None else memory.tick_us)
            memory.run_started(when_us, cause)
        if definition is not None:
            memory.seen(definition)
        run = self.runs.get(run_id)
        if run is None and self._open_runs.is_over(run_id):
            # Read a second time, for a database that was rebuilt: what comes next is judged by it all the same.
            return
        run = run or self._open(job, run_id, slot)
        run.begin(when_us, cause, definition)
        run.host, run.asked, run.slot = host, asked, slot
        self._open_runs.touched.add(run_id)
        self.streams.adopt(run)

    def _open(self, job: str, run_id: str, slot: int) -> OpenRun:
        capture = self.memories.capture
        run = OpenRun(job, run_id, self.manager, stdout=capture(job), stderr=capture(job), slot=slot)
        self._open_runs.add(run)
        self._open_runs.touched.add(run_id)
        return run

    def _unknown_run(self, job: str, run_id: str, slot: int = 1) -> OpenRun | None:
        """A run whose beginning the journal has lost, or has yet to tell; None if its record is closed already."""
        return None if self._open_runs.is_over(run_id) else self._open(job, run_id, slot)

    def _skip(self, job: str, slot: int, get: Get, when_us: int) -> None:
        """A condition did not hold: systemd gives such a start no invocation."""
        run_id = made_up_id(get, when_us)
        self._begin(job, slot, run_id, text_of(get, "_HOSTNAME"), when_us)
        run = self.runs.get(run_id)
        if run is None:
            return
        run.result, run.ended_us = "exec-condition", when_us
        run.detail = unmet_condition(text_of(get, "MESSAGE"))
        self.close(run)

    def _spawn_failed(self, get: Get) -> None:
        """What the process says that was to become the command, before it did, and maybe before systemd says a word."""
        run_id, unit = text_of(get, "_SYSTEMD_INVOCATION_ID"), text_of(get, f"_SYSTEMD_{self._unit_field}")
        if not run_id and get("_UID") == self._uid:
            # It was gone before journald looked, and says itself whose it was.
            run_id, unit = text_of(get, self._id_field), text_of(get, self._unit_field)
        run = self.runs.get(run_id)
        job, slot = slot_of(unit)
        if run is None and run_id and job:
            run = self._unknown_run(job, run_id, slot)
        found = SPAWN.search(text_of(get, "MESSAGE"))
        if run is not None and found:
            run.detail = f"could not be started, at step {found[1]}: {found[2]}"
            self._open_runs.touched.add(run.run_id)

    def _lines_dropped(self, get: Get) -> None:
        """journald tells of lines over the limit when the next line of the unit comes, which may be of the next run."""
        unit = text_of(get, "OBJECT_SYSTEMD_USER_UNIT" if self._user else "OBJECT_SYSTEMD_UNIT")
        count = number_of(get("N_DROPPED")) or 0
        if not unit.startswith(PREFIX):
            return
        job = slot_of(unit)[0] or unit.removeprefix(PREFIX).removesuffix(".service")
        run = self.runs.get(text_of(get, "OBJECT_SYSTEMD_INVOCATION_ID"))
        if run is not None and (run.stdout.size or run.stderr.size):
            run.dropped_lines += count
            self._open_runs.touched.add(run.run_id)
        else:
            self._dropped.append((job, count))
            if run is not None:
                run.dropped_before += count
                self._open_runs.touched.add(run.run_id)

    # The end of a run

    def ended(self) -> list[OpenRun]:
        """Runs that systemd has finished with, and whose output may still be on its way."""
        return [run for run in self.runs.values() if run.done]

    @property
    def is_full(self) -> bool:
        """Whether there is so much to keep by now that `changes` should be called before more is closed."""
        return self._open_runs.is_full

    @property
    def only_output_grew(self) -> bool:
        """Whether nothing but the output of open runs is new since the last `changes`."""
        return bool(self.streams.grown) and not (self._open_runs.is_changed or self.memories.changed or self._dropped)

    def is_applied(self, job: str) -> bool:
        """Whether there is such a job now."""
        return self._define(job) is not None

    def touch(self, run: OpenRun) -> None:
        """The caller has changed it: it is among the next `changes`."""
        self._open_runs.touched.add(run.run_id)

    def close(self, run: OpenRun) -> None:
        """Make the record; it is among the next `changes`."""
        definition = self._define(run.job)
        note_held_lock(run)
        schedule = definition.schedule if definition is not None else None
        after_us = run.ended_us or run.started_us
        following = schedule.next_after(moment_of(after_us)) if schedule is not None and after_us else None
        known = definition is not None and not definition.success_exit
        record = run.close(microseconds_of(following) if following is not None else None, 0 if known else None)
        self._remember_end(run, definition)
        self._open_runs.close(run, record)
        self.streams.forget(run)

    def _remember_end(self, run: OpenRun, definition: Definition | None) -> None:
        """The job's memory is told at once: the next run may begin before this one's output is complete."""
        memory = self.memories.of(run.job)
        if run.slot > MOST_SLOTS:
            memory.is_held, memory.held_us = False, max(memory.held_us, run.ended_us or 0)
        elif run.started_us is None or run.started_us == memory.started_us:
            memory.run_ended(run.ended_us, run.retry_owed(definition))
