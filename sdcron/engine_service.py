"""`sdcron engine`: opens what the engine needs, hears signals and those who ask, and follows job files.

SIGTERM and SIGINT end what runs, within each job's stop timeout; a second one ends it at once. SIGHUP takes up job
files and what is applied anew.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections import OrderedDict
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdcron import conditions
from sdcron.agenda import Agenda
from sdcron.agenda_slot import Entry
from sdcron.clocks import SystemClock, boot_of
from sdcron.engine import Engine
from sdcron.engine_keep import Keeper
from sdcron.engine_reports import RunReports
from sdcron.engine_signals import Signals, raise_open_files
from sdcron.engine_socket import Connection, Requests, ask, listening
from sdcron.errors import LockHeldError, SdcronError, UsageError
from sdcron.job_answers import without_output
from sdcron.job_text import timing_of
from sdcron.local_jobs import LocalJob, local_job_of, read_local, schedule_of
from sdcron.machine import local_timezone, machine_id
from sdcron.parameters import asked_by
from sdcron.pauses import read_pauses
from sdcron.process import become_reaper
from sdcron.processes import Processes
from sdcron.resident import give_back_heap, keep_heap_small
from sdcron.run_book import RunBook
from sdcron.runs import FAILED, Outcome
from sdcron.settings import read_settings
from sdcron.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sdcron.followed import Followed
    from sdcron.job import Job
    from sdcron.place import Place
    from sdcron.runs import Run
    from sdcron.schedule import Schedule

_FOLLOWING_SECONDS = 1.0
"""How often job files may be looked at that are followed."""
_BOOT = "engine_boot"
"""Where the database keeps in which boot an engine ran last."""
_PARSED = 4000
"""Jobs that stay read: those that run often."""


def serve(place: Place, files: Sequence[Path], folders: Path | None, tell: Callable[[str], object]) -> None:
    """Run the jobs of a scope until SIGTERM or SIGINT. `tell` hears in one line of what a person should know.

    Raises LockHeldError if another engine, or the collector of systemd's jobs, is at work; SdcronError and OSError for
    what cannot be read or written at the start.
    """
    gc.enable()
    with ExitStack() as stack:
        settings = read_settings(place.paths.config_file)
        raise_open_files(settings.concurrency)
        try:
            keeper = stack.enter_context(Keeper(place.paths, settings, tell))
        except LockHeldError as error:
            raise _taken(place, error) from error
        signals = stack.enter_context(Signals())
        followed = _followed(place, files, folders, tell)
        service = _Service(place, keeper, followed, tell, settings.concurrency, settings.job_output)
        stack.callback(service.engine.close)
        become_reaper()
        keep_heap_small()
        service.begin()
        service.engine.watch(stack.enter_context(service.reports).fileno())
        listener = stack.enter_context(listening(place.paths.engine_dir))
        requests = Requests(listener, service.engine.watch, service.engine.unwatch)
        stack.callback(requests.close)
        service.engine.watch(signals.descriptor)
        count = len(service.engine.agenda)
        tell(f"{count} job{'' if count == 1 else 's'}; the engine runs")
        service.run(requests, signals)


def _followed(
    place: Place, files: Sequence[Path], folders: Path | None, tell: Callable[[str], object]
) -> Followed | None:
    """What is to be followed; what reads job files is loaded only for that."""
    if not files and folders is None:
        return None
    from sdcron.followed import Followed

    return Followed(place, files, folders, tell)


def tell(text: str) -> None:
    """A line on stderr, for whoever keeps what a container or a service says; that nobody does ends no engine."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"sdcron: {text}\n")
        sys.stderr.flush()


def _taken(place: Place, error: LockHeldError) -> LockHeldError:
    if ask(place.paths.engine_dir, {"do": "state"}) is not None:
        return LockHeldError("an engine runs here already", "see what it does: sdcron status --backend local")
    return LockHeldError(
        error.message + ": the collector of jobs that systemd runs",
        "let systemd run these jobs too: sdcron apply --backend systemd, or remove its jobs first",
    )


class _Service:
    """One engine with what is around it."""

    def __init__(
        self,
        place: Place,
        keeper: Keeper,
        followed: Followed | None,
        tell: Callable[[str], object],
        concurrency: int,
        output_bytes: int,
    ) -> None:
        self._place = place
        self._keeper = keeper
        self._followed = followed
        self._tell = tell
        self._zone = local_timezone(place.paths.root)
        self._machine = machine_id(place.paths.root)
        self._waiting: dict[str, list[Connection]] = {}
        self._failed: set[str] = set()
        self._told_settings = ""
        self._handlers: dict[str, Callable[[dict[str, Any], Connection], dict[str, Any] | None]] = {
            "state": lambda *_: self._state(),
            "sync": lambda *_: self._sync(),
            "run": self._start,
            "wait": self._wait,
            "stop": self._stop,
            "whose": self._whose,
            "reload": self._reload_asked,
        }
        self._clock = SystemClock()
        self._processes = Processes(place.paths)
        self._parsed: OrderedDict[str, tuple[LocalJob, Job]] = OrderedDict()
        boot = self._boot = boot_of()
        self.book = RunBook(
            Agenda(self._schedule, boot, self._clock.wall_us()),
            keeper,
            Spool(place.paths.spool_dir, output_bytes),
            self._clock,
            boot,
            job_of=self._job_of,
            tell=tell,
        )
        self.book.on_end.append(self._run_is_over)
        self.engine = Engine(
            self.book,
            self._processes,
            self._clock,
            concurrency=concurrency,
            unmet=lambda job: conditions.unmet(job.when),
            tell=tell,
        )
        self.reports = RunReports(
            place.paths.engine_dir, self.engine.active, self.book, self._processes.members, self._clock.wall_us
        )
        self._processes.about = self.reports.about

    # Jobs

    def _seed(self, name: str) -> str:
        return f"{name}@{self._machine}"

    def _schedule(self, entry: Entry) -> Schedule | None:
        return schedule_of(entry.timing, self._zone, self._seed(entry.name))

    def _job_of(self, owner: LocalJob) -> Job:
        """What is stored of a job, read; of those that ran last it is kept."""
        known = self._parsed.get(owner.name)
        if known is None or known[0] is not owner:
            known = self._parsed[owner.name] = (owner, local_job_of(owner, self._zone, self._seed(owner.name)))
            if len(self._parsed) > _PARSED:
                self._parsed.popitem(last=False)
        else:
            self._parsed.move_to_end(owner.name)
        return known[1]

    def begin(self) -> None:
        """Take up what was before: memories, jobs, and runs that an earlier engine left."""
        store = self._keeper.ledger.store
        last = {job: status for job, status in store.statuses().items() if status.last is not None}
        self._failed = {job for job, status in last.items() if status.failures}
        ran_us = {job: status.last.started_us or 0 for job, status in last.items() if status.last is not None}
        self.engine.agenda.restore(store.memories(), ran_us)
        del last
        open_runs = store.open_runs()
        self._processes.end_survivors(self.book.own_processes(open_runs))
        self.engine.agenda.seen_boot = store.meta().get(_BOOT) == self._boot
        self.book.meta[_BOOT] = self._boot
        self._processes.forget_all()
        if self._followed:
            self._followed.take_up()
        self._load(starting=True)
        self.book.take_over(open_runs)
        self.book.keep()
        self._maintain()
        # What is there by now stays: no need to look through it again and again.
        gc.collect()
        gc.freeze()
        give_back_heap()

    def _take_settings(self) -> None:
        """Read sdcron.toml again; with a mistake in it, which is told once, what it said before goes on."""
        try:
            settings = read_settings(self._place.paths.config_file)
        except SdcronError as error:
            if error.message != self._told_settings:
                self._tell(f"{error.message}; {error.hint}")
            self._told_settings = error.message
            return
        self._told_settings = ""
        self._keeper.use(settings)
        self.book.spool.keep_bytes = settings.job_output
        self.engine.concurrency = settings.concurrency
        raise_open_files(settings.concurrency)

    def _load(self, *, starting: bool = False) -> None:
        jobs: dict[str, LocalJob] = {}
        entries = []
        pauses = read_pauses(self._place.paths)
        for name, job in read_local(self._place.paths).items():
            try:
                timing = timing_of(job.text)
                if pauses.of(name):
                    timing = replace(timing, enabled=False)
                entry = Entry(name, timing, job.since_us)
                self._schedule(entry)
            except (ValueError, SdcronError) as error:
                self._tell(f"{name}: what is stored of it cannot be read ({error}); apply its job file again")
                continue
            jobs[name] = job
            entries.append(entry)
        self.book.use_jobs(jobs)
        self.engine.agenda.put(entries, self._clock.wall_us(), starting=starting)

    def reload(self) -> None:
        """Take up job files and what is applied; what is wrong is told, and all stays as it was."""
        self._parsed.clear()
        try:
            zone, self._zone = self._zone, local_timezone(self._place.paths.root)
            self._machine = machine_id(self._place.paths.root)
            if zone != self._zone:
                self.engine.agenda.zone_was_set(self._clock.wall_us())
            self._take_settings()
            if self._followed:
                self._followed.take_up()
            self._load()
        except SdcronError as error:
            self._tell(f"{error.message}; {error.hint}")
        except OSError as error:
            self._tell(f"{error.filename}: {error.strerror}")
        give_back_heap()

    # The loop

    def run(self, requests: Requests, signals: Signals) -> None:
        """Until a signal ends it, and everything with it."""
        engine, asked = self.engine, 0
        while not (engine.ending and not engine.active):
            for descriptor in engine.step(_FOLLOWING_SECONDS if self._followed else math.inf):
                if descriptor == signals.descriptor:
                    signals.forget()
                    continue
                if descriptor == self.reports.fileno():
                    self.reports.take()
                    continue
                request = requests.take(descriptor)
                if request is not None:
                    self._answer(*request)
            if signals.endings > asked:
                asked = signals.endings
                if not engine.ending and engine.active:
                    count = len(engine.active)
                    self._tell(f"ending {count} run{'' if count == 1 else 's'}")
                engine.end(kill=asked > 1)
            if signals.reload or (self._followed and not engine.ending and self._followed.changed()):
                signals.reload = False
                self.reload()
            self._keeper.take_notes()
            for note in self.book.spool.take_notes():
                self._tell(note)
            self._maintain()
        self.book.keep()

    def _maintain(self) -> None:
        """Now and then, and at the start: forget what is old."""
        for job in self._keeper.maintain(self.engine.agenda.__contains__):
            self.engine.agenda.forget(job)
            self.book.spool.forget(job)
            self._processes.forget(job)

    # Those who ask

    def _answer(self, request: dict[str, Any], connection: Connection) -> None:
        do = self._handlers.get(str(request.get("do")))
        if do is None:
            connection.answer({"error": "the engine does not know what is asked for", "hint": "use the same version"})
            return
        may = connection.uid in (0, os.geteuid())
        if not may and request.get("do") not in ("state", "sync"):
            hint = "run it as root (sudo)" if os.geteuid() == 0 else f"run it as the engine's user, uid {os.geteuid()}"
            connection.answer({"error": "no permission to change what the engine runs", "hint": hint})
            return
        reply = do(request, connection)
        if reply is not None:
            connection.answer(reply)

    def _state(self) -> dict[str, Any]:
        engine = self.engine
        return {
            "pid": os.getpid(),
            "jobs": len(engine.agenda),
            "running": engine.running(),
            "ending": sorted({active.run.job for active in engine.active.values() if active.was_asked_to_stop}),
            "retries": engine.agenda.retries(),
            "waiting": engine.agenda.queued(),
            "failed": sorted(self._failed),
            "recorded": not self._keeper.is_behind,
        }

    def _sync(self) -> dict[str, Any]:
        self.engine.reap()
        self.book.keep_told()
        self.book.keep()
        return {"done": self._keeper.is_complete}

    def _start(self, request: dict[str, Any], connection: Connection) -> dict[str, Any]:
        name = str(request.get("job"))
        if self.engine.ending:
            return {"error": "the engine is ending", "hint": "start it again first"}
        waited = self.engine.agenda.waiting(name) is not None
        try:
            asked = asked_by(connection.uid, request, self._job_of(self.book.jobs[name]).parameters)
            # None: it runs already, or waits for the end of what does.
            run_id = self.engine.start_by_hand(name, asked)
        except KeyError:
            return {"error": f"no job called {name} is applied here", "hint": "see the applied ones: sdcron list"}
        except UsageError as error:
            return {"error": error.message, "hint": error.hint}
        except (ValueError, TypeError):
            return {"error": "the engine does not know what is asked for", "hint": "use the same version"}
        waits = run_id is None and not asked.is_special and self.engine.agenda.waiting(name) is not None
        held = waits and name in self.engine.agenda.held
        return {"run_id": run_id, "waits": waits, "waited": waits and waited, "held": held}

    def _wait(self, request: dict[str, Any], connection: Connection) -> dict[str, Any] | None:
        run_id = str(request.get("run_id"))
        if run_id in self.engine.active or self.book.is_to_be_kept(run_id):
            self._waiting.setdefault(run_id, []).append(connection)
            return None
        found = self._keeper.find(run_id) if run_id.isalnum() and run_id.isascii() else None
        return (
            {"run": without_output(found)} if found is not None else {"error": f"there is no run {run_id}", "hint": ""}
        )

    def _run_is_over(self, run: Run) -> None:
        if run.outcome in FAILED:
            self._failed.add(run.job)
        elif run.outcome is Outcome.SUCCESS:
            self._failed.discard(run.job)
        for connection in self._waiting.pop(run.run_id, ()):
            connection.answer({"run": without_output(run)})

    def _stop(self, request: dict[str, Any], _: Connection) -> dict[str, Any]:
        name = str(request.get("job"))
        if name not in self.book.jobs and name not in self.engine.running():
            return {"run_ids": []}  # it is over, and was removed
        run_ids = self.engine.stop(name, str(request.get("run_id") or ""), kill=request.get("kill") is True)
        return {"run_ids": run_ids}

    def _whose(self, request: dict[str, Any], _: Connection) -> dict[str, Any]:
        pid = request.get("pid")
        run = self.engine.run_of(pid) if type(pid) is int else None
        return {"job": run.job, "run_id": run.run_id} if run is not None else {"job": None, "run_id": None}

    def _reload_asked(self, *_: object) -> dict[str, Any]:
        try:
            self._load()
        except SdcronError as error:
            return {"error": error.message, "hint": error.hint}
        return {"jobs": len(self.engine.agenda)}
