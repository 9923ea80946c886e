"""What can run jobs: the Protocol that plan and apply speak, and the literal registry of who implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sdcron.units import Unit


@dataclass(frozen=True, slots=True)
class UnitState:
    """A loaded unit: `load` is systemd's LoadState, `active` ActiveState, `sub` SubState (systemctl(1))."""

    load: str
    active: str
    sub: str


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the manager knows of a service's last run, now. Times and lengths are microseconds."""

    run_id: str
    active: bool
    result: str = ""
    exit_kind: str = ""
    exit_status: int | None = None
    finished_us: int | None = None
    cpu_us: int | None = None
    memory_peak_bytes: int | None = None


class Observer(Protocol):
    """What can be asked of whoever runs the jobs, in systemd's words. Raises BackendError with what to do."""

    def in_use(self) -> Mapping[str, UnitState]:
        """The units named `sdcron-…` that are not inactive: what runs, what failed, the timers that wait."""

    def run_in_progress(self, service: str) -> tuple[str, datetime] | None:
        """Invocation id of what a service runs now, and since when, in UTC; None if it runs nothing."""

    def starting(self) -> Sequence[str]:
        """Units named `sdcron-…` that are to start once what they wait for has come, or that start now."""

    def wait_ends(self, timer: str) -> datetime | None:
        """When the wait ends that a timer began when it was started, in UTC; None if it has ended."""


class Backend(Observer, Protocol):
    """The service manager of one scope. Every method raises BackendError with what to do."""

    def version(self) -> str:
        """The manager's own version text, such as `252.39-1~deb12u1`."""

    def clock_synchronised(self) -> bool | None:
        """Whether the machine's clock follows a time server; None if that cannot be told."""

    def loaded(self) -> Mapping[str, UnitState]:
        """All units named `sdcron-…` that the manager has in memory."""

    def active_timers(self) -> Mapping[str, UnitState]:
        """Those of them that are timers and active: a fraction of all, and all that an apply must know."""

    def is_loaded(self, name: str) -> bool:
        """Whether the manager has this unit in memory, and so an old text of it."""

    def is_active(self, name: str) -> bool:
        """Whether a unit that is in memory is active."""

    def is_waiting(self, timer: str) -> bool:
        """Whether a timer in memory waits for its time: it has not elapsed, and its job does not run because of it."""

    def failed_without_file(self) -> Sequence[str]:
        """Units named `sdcron-…` that failed after their file had gone: their failed state is all that is left."""

    def unit_of(self, pid: int) -> str | None:
        """The unit that a process belongs to; None if there is none, or no such process."""

    def next_elapse(self, timer: str) -> datetime | None:
        """When a timer elapses next by the calendar, in UTC; None if never or unknown."""

    def is_outdated(self, name: str) -> bool:
        """Whether the manager holds another text of a unit than its files have now."""

    def last_run(self, service: str) -> LastRun | None:
        """What the manager still knows of a service's last run; None if it does not have it in memory."""

    def start(self, names: Sequence[str], *, wait: bool = True) -> None:
        """Start units, and wait until each is active unless told otherwise."""

    def stop(self, names: Sequence[str], *, kill: bool = False) -> None:
        """Stop units and wait until each is inactive; with `kill` by SIGKILL at once."""

    def cancel(self, names: Collection[str]) -> None:
        """Give up the starts of these units that wait for something; what runs, and is not being ended, goes on."""

    def drop_ins(self, name: str) -> Sequence[str]:
        """The files that add to the one of a unit, in the order in which the manager reads them."""

    def reset_failed(self, names: Sequence[str]) -> None:
        """Forget the failed state of units, so that they can leave memory."""

    def start_transient(self, timer: Unit, others: Sequence[Unit]) -> None:
        """Create units that live until the next boot, and start the timer among them."""

    def reload(self) -> None:
        """Have the manager read all unit files again: the expensive step."""
