"""Keeping jobs from their times, and giving them back: pause, suspend, resume, by systemd or by the engine.

Marks and timers change in one step, all or nothing, as in an apply. What fell due meanwhile does not run: a resumed job
waits for its next time. What a suspend ended is on disk before it ends, and until it has been started again.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sdcron.applied import applied_jobs
from sdcron.errors import SdcronError, UsageError
from sdcron.job_queries import unknown_job
from sdcron.local_operations import LocalApplier, tell_engine
from sdcron.operations import changing, connect, installed_jobs
from sdcron.pauses import ALL, Pause, Pauses, owed_mark, read_pauses
from sdcron.plan import Action, Change, Plan
from sdcron.queries import catch_up
from sdcron.running import RunsAlreadyError, start_in_time
from sdcron.stopping import Target, are_not_owed, being_ended, stop, under_way

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sdcron.applied import AppliedJob
    from sdcron.apply import Applier
    from sdcron.backends import Backend
    from sdcron.place import Place


@dataclass(frozen=True, slots=True)
class Resumed:
    """What came back: jobs that wait for their times again, those started anew, and those that are paused still.

    `anything` is false where nothing of the kind was paused.
    """

    jobs: tuple[str, ...]
    started: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    anything: bool = True


def pause(place: Place, names: Sequence[str], by: str, note: Callable[[str], object]) -> tuple[str, ...]:
    """Keep these jobs from their times until they are resumed; those that were not kept before. Raises UsageError.

    A retry that waits is given up. `note` hears if no engine was there to be told.
    """
    mark = Pause(_now(), by).text()
    with _marking(place, note) as marking:
        fresh = [name for name in dict.fromkeys(names) if name not in marking.before.jobs]
        marking.carry_out(names, dict.fromkeys(fresh, mark))
    return tuple(fresh)


def pause_all(place: Place, by: str, note: Callable[[str], object]) -> tuple[str, ...] | None:
    """Keep all jobs, those too that are applied later, until `resume_all`; None if they were kept so before.

    Else those of the applied ones that were not kept before.
    """
    with _marking(place, note) as marking:
        fresh = marking.before.everything is None
        marking.carry_out(None, {ALL: Pause(_now(), by).text()} if fresh else {})
        names = tuple(sorted(marking.jobs.keys() - marking.before.jobs.keys()))
    _note_transient(place, note)
    return names if fresh else None


def suspend(place: Place, by: str, note: Callable[[str], object]) -> tuple[str, ...]:
    """Pause all and end what runs, for maintenance; the jobs whose runs were ended."""
    with _marking(place, note) as marking:
        before = marking.before
        mark = {ALL: Pause(_now(), by).text()} if before.everything is None else {}
        # What waits is ended with what runs, and remembered.
        marking.carry_out(None, mark, give_up=False)
        # With the timers stopped, no more of them can begin than are on now.
        others = _transient(place)
        running = [job for job in under_way(place) if job not in others]
        marking.carry_out((), owed_mark((*before.owed, *(job for job in running if job in marking.jobs))))
    _note_transient(place, note)
    ended = stop(place, [Target(job) for job in running])
    catch_up(place)
    whole = {job for job in running if job not in ended or are_not_owed(place, job, ended[job])}
    if whole:
        with _marking(place, note) as marking:
            # A run that came to its end all the same is not owed, unless it was so before.
            owed = {*marking.before.owed} - (whole - {*before.owed})
            marking.carry_out((), owed_mark(owed))
    return tuple(ended)


def resume(place: Place, names: Sequence[str], note: Callable[[str], object]) -> Resumed:
    """Give these jobs back to their times. Raises UsageError, also while all are paused."""
    with _marking(place, note) as marking:
        if marking.before.everything is not None:
            option = " --user" * place.user
            raise UsageError("all jobs are paused", f"bring all back: sdcron resume --all{option}")
        marked = [name for name in dict.fromkeys(names) if name in marking.before.jobs]
        marking.carry_out(names, dict.fromkeys(marked))
    return Resumed(tuple(marked), anything=bool(marked))


def resume_all(place: Place, note: Callable[[str], object]) -> Resumed:
    """End what `pause_all` or `suspend` began, and start anew what that cut off and is `resumable`.

    Jobs that were paused by name stay so, and are not started. What could not be started is left to the next call.
    """
    with _marking(place, note) as marking:
        before = marking.before
        came_back = marking.carry_out(None, {ALL: None} if before.everything is not None else {})
        jobs = marking.jobs
        owed = [job for job in before.owed if _comes_back(jobs.get(job)) and job not in before.jobs]
        if before.owed:
            marking.carry_out((), owed_mark(owed))
    started = []
    for job in owed:
        try:
            start_in_time(place, job)
        except RunsAlreadyError:
            if being_ended(place, job):
                note(f"sdcron: {job} is not started again yet: its run is being ended still; then: sdcron resume --all")
                continue
            # Somebody has started it by hand.
            note(f"sdcron: {job} runs already")
        except SdcronError as error:
            note(f"sdcron: {job} is not started again yet: {error.message}; {error.hint}")
            continue
        else:
            started.append(job)
        with _marking(place, note) as marking:
            marking.carry_out((), owed_mark({*marking.before.owed} - {job}))
    return Resumed(tuple(came_back), tuple(started), tuple(sorted(before.jobs)), before.everything is not None)


class _Marking:
    """The marks of a place, and what follows from them; the apply lock is held."""

    def __init__(
        self,
        place: Place,
        applier: Applier | LocalApplier,
        backend: Backend | None,
        note: Callable[[str], object],
    ) -> None:
        self._place = place
        self._applier = applier
        self._backend = backend
        self._note = note
        self.jobs: Mapping[str, AppliedJob] = applied_jobs(place.paths)
        self.before = read_pauses(place.paths)

    def carry_out(
        self, names: Collection[str] | None, marks: Mapping[str, str | None], *, give_up: bool = True
    ) -> list[str]:
        """Set or remove marks, and have timers or the engine follow; the jobs that wait for their times again.

        Starts of what is paused that wait, as for a network, are given up unless told otherwise.

        `names` are the jobs that are meant, None all: those too are seen to that have their mark already. Raises
        UsageError for one that is not applied.
        """
        for name in names or ():
            if name not in self.jobs:
                raise _unknown(self._place, name, self.jobs)
        after = _with(self.before, marks)
        changed = {name for name in self.jobs if bool(self.before.of(name)) != bool(after.of(name))}
        came_back = sorted(name for name in changed if not after.of(name))
        if isinstance(self._applier, LocalApplier):
            self._applier.carry_out(Plan(), marks, came_back)
            if names is None or names:
                tell_engine(self._place.paths, self._note)
        else:
            meant = changed | (self.jobs.keys() if names is None else set(names))
            plan = Plan(tuple(self._changes(sorted(meant), changed, after)))
            self._applier.carry_out(plan, marks, give_up=give_up)
        self.before = after
        return came_back

    def _changes(self, names: Iterable[str], changed: Collection[str], after: Pauses) -> Iterator[Change]:
        jobs = installed_jobs(self._place).jobs if names else {}
        active = self._backend.active_timers() if names and self._backend is not None else {}
        for name in names:
            job = jobs[name]
            compiled = job.as_compiled().while_paused() if after.of(name) else job.as_compiled()
            # Somebody may have started a timer of a paused job.
            waits = compiled.paused and not active.keys().isdisjoint(job.units)
            if name in changed or waits or not job.same_files(compiled):
                yield Change(Action.CHANGE, name, job, compiled)


def _comes_back(job: AppliedJob | None) -> bool:
    """Whether a run of it that was cut off is started again."""
    return job is not None and job.active and job.resumable


@contextmanager
def _marking(place: Place, note: Callable[[str], object]) -> Iterator[_Marking]:
    with connect(place) as backend, changing(place, backend) as applier:
        yield _Marking(place, applier, backend, note)


def _with(pauses: Pauses, marks: Mapping[str, str | None]) -> Pauses:
    """What `read_pauses` gives once these marks are set or removed, but for who set them and when."""
    jobs = {name: pause for name, pause in pauses.jobs.items() if name not in marks}
    jobs |= {name: Pause() for name, text in marks.items() if text is not None and not name.startswith(".")}
    everything = pauses.everything
    if ALL in marks:
        everything = Pause() if marks[ALL] is not None else None
    return Pauses(jobs, everything, pauses.owed)


def _now() -> str:
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def _unknown(place: Place, name: str, jobs: Iterable[str]) -> UsageError:
    if name not in _transient(place):
        return unknown_job(place, name, jobs)
    # Its units are in memory only as long as its timer runs.
    hint = f"remove it, and apply it again later: sdcron remove --transient{' --user' * place.user} {name}"
    return UsageError(f"job {name} is transient, and cannot be paused", hint)


def _transient(place: Place) -> list[str]:
    return sorted(applied_jobs(place.other)) if place.other is not None and place.other.unit_dir.is_dir() else []


def _note_transient(place: Place, note: Callable[[str], object]) -> None:
    if left := _transient(place):
        note(f"sdcron: transient jobs cannot be paused, and go on: {', '.join(left)}")
