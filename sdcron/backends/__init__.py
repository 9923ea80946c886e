"""What can run jobs: the Protocol that plan and apply speak, and the literal registry of who implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sdcron.units import Unit


@dataclass(frozen=True, slots=True)
class UnitState:
    """A loaded unit: `load` is systemd's LoadState, `active` ActiveState, `sub` SubState (systemctl(1))."""

    load: str
    active: str
    sub: str


class Backend(Protocol):
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

    def next_elapse(self, timer: str) -> datetime | None:
        """When a timer elapses next, in UTC; None if never or unknown."""

    def start(self, names: Sequence[str]) -> None:
        """Start units and wait until each is active."""

    def stop(self, names: Sequence[str]) -> None:
        """Stop units and wait until each is inactive."""

    def reset_failed(self, names: Sequence[str]) -> None:
        """Forget the failed state of units, so that they can leave memory."""

    def start_transient(self, timer: Unit, others: Sequence[Unit]) -> None:
        """Create units that live until the next boot, and start the timer among them."""

    def reload(self) -> None:
        """Have the manager read all unit files again: the expensive step."""
