"""Carry out a plan with units that live in systemd's memory until the next boot.

Their texts are kept in the runtime directory, laid out like a unit directory, so that plan, list and recovery work as
they do for files. What differs: systemd takes no new text for a unit that it has in memory, and a unit leaves memory
only when nothing of its job is at work. So a job changes or goes as a whole, and not while it runs or a retry waits.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sdcron.apply import Applier
from sdcron.errors import BackendError
from sdcron.files import leftovers
from sdcron.pauses import NO_MARKS
from sdcron.plan import Action
from sdcron.step import is_retry
from sdcron.units import PREFIX, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdcron.backends import Backend, UnitState
    from sdcron.plan import Change, Plan
    from sdcron.step import Scene, Step

_UNLOAD_SECONDS = 10.0
_POLL_SECONDS = 0.01
_IDLE = ("inactive", "failed")


class TransientApplier(Applier):
    """Changes one scope's transient units; `backend` is never None."""

    _restoring = False
    _may_have_new = True
    """Whether units with a new text may be in memory; after a killed apply nobody knows."""
    _units: dict[str, list[str]] | None = None
    """File names in the record by job, read once for all timers that start."""

    def carry_out(
        self,
        plan: Plan,
        marks: Mapping[str, str | None] = NO_MARKS,
        *,
        give_up: bool = True,
        digests: str | None = None,
        lenient: bool = False,
    ) -> None:
        """Apply every change, or restore what was there and raise what went wrong.

        Raises BackendError before anything changes if a job that would change is at work.
        """
        if self._backend and plan:
            self._refuse_what_is_at_work(self._backend, plan)
        self._may_have_new = False
        self._restoring = False
        super().carry_out(plan, marks, give_up=give_up, digests=digests, lenient=lenient)

    def _refuse_what_is_at_work(self, backend: Backend, plan: Plan) -> None:
        loaded = _in_memory(backend)
        by_job: dict[str, list[str]] = {}
        for name in loaded:
            by_job.setdefault(_job_of(name), []).append(name)
        for change in plan.changes:
            names = sorted(by_job.get(change.name, ()))
            if change.action is Action.ADD and names:
                raise BackendError(
                    f"{names[0]} is in systemd's memory already, and is not of a transient job that sdcron knows",
                    f"see what it is, and stop it: systemctl status {names[0]}",
                )
            for name in names:
                _refuse_if_at_work(change.name, name, loaded[name])

    def _forward(self, changes: Sequence[Change], scene: Scene) -> Step:
        # A timer that somebody stopped has left memory, perhaps without its service: all of the job goes anew.
        anew = [
            replace(change, action=Action.CHANGE) if change.action is Action.START else change for change in changes
        ]
        return super()._forward(anew, scene)

    def _delete_leftovers(self) -> None:
        super()._delete_leftovers()
        # Where systemd keeps transient units, and the backend their texts: systemd.unit(5), "Unit File Load Path".
        for path in leftovers(self._paths.runtime_dir.parent / "systemd/transient"):
            self._files.delete(path)

    def _restore(self, step: Step) -> None:
        self._restoring = True
        if self._backend:
            # A killed apply may not have come to stop them all, and a timer that is active keeps its job in memory.
            jobs = frozenset(step.jobs)
            active = [name for name in self._backend.active_timers() if _job_of(name) in jobs and not is_retry(name)]
            step = replace(step, stop=sorted({*step.stop, *active}))
        super()._restore(step)

    def _forget_old_texts(self, backend: Backend, step: Step) -> None:
        """Wait until systemd has dropped all units of the jobs, and until a run that began at the last moment ends.

        Raises BackendError for one that lasts.
        """
        self._units = None
        jobs = frozenset(step.jobs)
        deadline = time.monotonic() + _UNLOAD_SECONDS
        while True:
            left = {name: state for name, state in _in_memory(backend).items() if _job_of(name) in jobs}
            backend.reset_failed([name for name, state in left.items() if state.active == "failed"])
            if self._restoring and not self._may_have_new:
                # A run that began while its timer was being stopped has the text that is being brought back.
                at_work = {_job_of(name) for name, state in left.items() if state.active not in _IDLE}
                left = {name: state for name, state in left.items() if _job_of(name) not in at_work}
            if not left:
                return
            if time.monotonic() > deadline:
                for name, state in left.items():
                    _refuse_if_at_work(_job_of(name), name, state)
                name = min(left)
                raise BackendError(f"systemd keeps {name} in memory", f"see what uses it: systemctl status {name}")
            time.sleep(_POLL_SECONDS)

    def _start(self, backend: Backend, timers: Sequence[str]) -> None:
        self._may_have_new = True
        for timer in timers:
            units = [self._unit(name) for name in self._units_of(_job_of(timer))]
            main = next(unit for unit in units if unit.name == timer)
            backend.start_transient(main, [unit for unit in units if unit is not main])

    def _units_of(self, job: str) -> list[str]:
        if self._units is None:
            self._units = {}
            for path in sorted(self._paths.unit_dir.glob(f"{PREFIX}*")):
                self._units.setdefault(_job_of(path.name), []).append(path.name)
        return self._units[job]

    def _unit(self, name: str) -> Unit:
        return Unit(name, (self._paths.unit_dir / name).read_text(encoding="utf-8"))


def _in_memory(backend: Backend) -> dict[str, UnitState]:
    """What systemd has of sdcron, but for names that are only mentioned somewhere."""
    return {name: state for name, state in backend.loaded().items() if state.load != "not-found"}


def _job_of(unit: str) -> str:
    """The job in a unit's name: a job's own name has no at sign."""
    return unit.removeprefix(PREFIX).rpartition(".")[0].partition("@")[0]


def _refuse_if_at_work(job: str, name: str, state: UnitState) -> None:
    if name.endswith(".service") and state.active not in _IDLE:
        raise BackendError(
            f"job {job} runs now, and a transient job cannot change under a run",
            f"wait for it, or end it: systemctl stop {name}",
        )
    if is_retry(name) and state.active not in _IDLE:
        raise BackendError(
            f"a retry of job {job} is waiting, and would be lost",
            f"wait for it, or give it up: systemctl stop {name}",
        )
