"""The runs that the journal tells of and that are not over, and the records of those that are, until both are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.open_run import States

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sdcron.open_run import OpenRun
    from sdcron.runs import Run

_BATCH = 1000
_BATCH_BYTES = 2 * 1024 * 1024
"""Records, and bytes of output in them, that are to be in memory at once: they are there some three times over."""


class OpenRuns:
    """Those of one scope."""

    def __init__(self, is_recorded: Callable[[str], bool]) -> None:
        """`is_recorded` says whether there is a record of a run's id."""
        self._is_recorded = is_recorded
        self.by_id: dict[str, OpenRun] = {}
        """In the order of their beginning."""
        self._of_job: dict[str, list[OpenRun]] = {}
        self.touched: set[str] = set()
        """Ids of those that have changed, but for their output, since the last `changes`."""
        self._closed: list[Run] = []
        self._closed_bytes = 0
        self._lately: set[str] = set()
        """Ids of closed runs that may not be recorded yet."""

    def add(self, run: OpenRun) -> None:
        """A run begins, or is restored."""
        self.by_id[run.run_id] = run
        self._of_job.setdefault(run.job, []).append(run)

    def going_on(self, job: str, slot: int, run_id: str) -> list[OpenRun]:
        """The runs of a job's service, but for this one, with which systemd is not done."""
        runs = self._of_job.get(job, ())
        return [run for run in runs if run.slot == slot and run.run_id != run_id and not run.done]

    def count_on(self, job: str) -> int:
        """How many runs of a job's services are on."""
        return sum(not run.done for run in self._of_job.get(job, ()))

    def put_back(self, job: str, due_us: int, before_us: int) -> bool:
        """Have the run of a job that began as for a due time be for an earlier one; whether there is one."""
        for run in self._of_job.get(job, ()):
            if run.scheduled_us == due_us:
                run.scheduled_us = before_us
                self.touched.add(run.run_id)
                return True
        return False

    def is_over(self, run_id: str) -> bool:
        """Whether its record is made."""
        return run_id in self._lately or self._is_recorded(run_id)

    def close(self, run: OpenRun, record: Run) -> None:
        """It is over, and this is its record: among the next `changes`."""
        self._closed.append(record)
        self._closed_bytes += len(record.stdout.kept) + len(record.stderr.kept)
        self._lately.add(run.run_id)
        if self.by_id.pop(run.run_id, None) is not None:
            self._of_job[run.job].remove(run)

    @property
    def is_full(self) -> bool:
        """Whether there is so much to keep by now that `changes` should be called before more is closed."""
        return len(self._closed) >= _BATCH or self._closed_bytes >= _BATCH_BYTES

    @property
    def is_changed(self) -> bool:
        """Whether more than output is new since the last `changes`."""
        return bool(self._closed or self.touched)

    def changes(self, grown: Collection[str]) -> tuple[list[Run], States]:
        """New records, and the states of runs that have changed or are among `grown`, since the last call."""
        changed = self.touched.union(grown)
        states = States({run_id: self.by_id[run_id] for run_id in changed if run_id in self.by_id})
        closed = self._closed
        self._lately = {record.run_id for record in closed}
        self._closed, self._closed_bytes, self.touched = [], 0, set()
        return closed, states
