"""`after` and `needs` in the engine: what the end of one job means to others. Pure.

What has ended is part of the memories of those that wait for it, which are kept in one step with the record of the run
that ended: a killed engine neither loses a start nor makes one twice. The words are those of chain_units.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job import NOT_RUN
from sdcron.open_run import NEEDS
from sdcron.runs import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.agenda import Agenda
    from sdcron.agenda_memory import Chain
    from sdcron.agenda_slot import Due
    from sdcron.local_jobs import LocalJob
    from sdcron.runs import Run


class Chains:
    """What is between the jobs of one engine."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._below: dict[str, list[str]] = {}
        """Jobs that name a job, by that job."""
        self._after: dict[str, tuple[str, ...]] = {}
        self._needs: dict[str, tuple[str, ...]] = {}

    def use(self, jobs: Mapping[str, LocalJob]) -> None:
        """Have exactly these jobs from now on. What one that is gone knew of others goes too.

        Another list of jobs to be after begins anew: an edit is no reason for a run.
        """
        self._below, self._after, self._needs = {}, {}, {}
        for name, job in jobs.items():
            # Most have neither, and reading a text takes its time.
            if '"after"' in job.text or '"needs"' in job.text:
                self._after[name] = job.after if job.active else ()
                self._needs[name] = job.needs
                for upstream in dict.fromkeys((*self._after[name], *job.needs)):
                    self._below.setdefault(upstream, []).append(name)
        for name in {*self._agenda.chained(), *self._after}:
            chain = self._agenda.memory(name).chain
            after = self._after.get(name, ())
            if chain.after != after:
                chain.after, chain.ended, chain.due = after, {}, None
            chain.succeeded &= {*self._needs.get(name, ())}

    def missing(self, due: Due) -> str:
        """Why a run is skipped: those without whose success it must not start; empty for none."""
        needs = self._needs.get(due.job)
        if due.asked.is_special:
            # It is for an instant, of which what has run lately says nothing.
            return ""
        if not needs and not due.failed:
            return ""
        succeeded = self._agenda.memory(due.job).chain.succeeded
        names = dict.fromkeys((*due.failed, *(name for name in needs or () if name not in succeeded)))
        return NEEDS + ", ".join(names) if names else ""

    def over(self, run: Run, *, final: bool) -> None:
        """A run is over, and, if `final`, is not retried."""
        if run.asked.is_special:
            return
        good = run.outcome is Outcome.SUCCESS and run.exit_code != NOT_RUN
        if good and self._needs.get(run.job):
            self._agenda.memory(run.job).chain.succeeded.clear()
        for name in self._below.get(run.job, ()):
            chain = self._agenda.memory(name).chain
            if good and run.job in self._needs[name]:
                chain.succeeded.add(run.job)
            if final and run.job in chain.after:
                chain.ended[run.job] = good
                self._look(name, chain)

    def _look(self, name: str, chain: Chain) -> None:
        if all(upstream in chain.ended for upstream in chain.after):
            failed = tuple(upstream for upstream in chain.after if not chain.ended[upstream])
            chain.ended = {}
            self._agenda.start_after(name, failed)
