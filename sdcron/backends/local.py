"""The local engine as commands see it: what it runs, and what waits, asked over its socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcron.backends import UnitState
from sdcron.engine_socket import ask
from sdcron.local_jobs import read_local
from sdcron.messages import RETRY_TIMER
from sdcron.overlap import queued_name, slot_name, slot_of
from sdcron.retry import retry_timer_name
from sdcron.runs import moment_of
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sdcron.paths import Paths

_RUNNING = UnitState("loaded", "activating", "start")
_FAILED = UnitState("loaded", "failed", "failed")
_WAITING = UnitState("loaded", "active", "waiting")


class LocalBackend:
    """An Observer of one scope's engine. Without one that runs, nothing runs and nothing waits."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._state: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What the engine says of itself, asked once; empty if none runs."""
        if self._state is None:
            self._state = ask(self._paths.engine_dir, {"do": "state"}) or {}
        return self._state

    def in_use(self) -> Mapping[str, UnitState]:
        """What runs, what failed, and the times and retries that are waited for, under the names of units."""
        state = self.state()
        if not state:
            return {}
        found = {
            name: _WAITING for job in read_local(self._paths).values() if job.active for name in job.calendar_timers
        }
        found |= {retry_timer_name(job, attempt - 1): _WAITING for job, (attempt, _) in state["retries"].items()}
        found |= {service_name(job): _FAILED for job in state["failed"]}
        for job, runs in state["running"].items():
            found |= {slot_name(job, number): _RUNNING for number in range(1, len(runs) + 1)}
        return found

    def run_in_progress(self, service: str) -> tuple[str, datetime] | None:
        """Run id and start of what a job runs now: its runs are numbered as the services of systemd are."""
        job, number = slot_of(service)
        runs = self.state().get("running", {}).get(job, ())
        return (runs[number - 1][0], moment_of(runs[number - 1][1])) if 0 < number <= len(runs) else None

    def starting(self) -> Sequence[str]:
        """What stands for the runs that wait for the end of others."""
        return [queued_name(job) for job in self.state().get("waiting", ())]

    def wait_ends(self, timer: str) -> datetime | None:
        """When the wait for a retry ends."""
        name = RETRY_TIMER.fullmatch(timer)
        waiting = self.state().get("retries", {}).get(name[1]) if name else None
        return moment_of(waiting[1]) if waiting else None
