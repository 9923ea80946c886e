"""Where a command works: the scope, its directories, and who runs the jobs there, systemd or the local engine.

The choice is "may units be managed here?", not a matter of taste: in sdcron's own snap, in a container and on a machine
without systemd they may not.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import UsageError
from sdcron.paths import Paths, Scope, snap_paths, system_paths, user_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdcron.backends import Backend, Observer


@dataclass(frozen=True, slots=True)
class Place:
    """One scope of one machine. `offline` is a file system below `--root`, where no systemd runs."""

    paths: Paths
    offline: bool = False
    transient: bool = False
    other: Paths | None = None
    """Where the same scope's jobs of the other kind are: transient ones beside persistent ones, and the reverse."""

    @property
    def user(self) -> bool:
        """Whether the units belong to the calling user's manager."""
        return self.paths.scope is Scope.USER

    @property
    def local(self) -> bool:
        """Whether the engine runs the jobs, and not systemd."""
        return self.paths.local


def make_place(
    *, user: bool, root: Path | None, backend: str, transient: bool = False, checking: bool = False
) -> Place:
    """The place that the options of a command name. Raises UsageError for options that do not go together.

    `checking` is for a command that only reads job files: where nothing was ever applied to an engine, they may be
    meant for any machine, and so for systemd.
    """
    base = (root or Path("/")).resolve()
    # Also in a file system that is being made, whose own root this is.
    elsewhere = root is not None
    paths = user_paths(os.environ, os.getuid(), base) if user else system_paths(base)
    if own_snap(os.environ) and not elsewhere and backend != "systemd":
        paths = snap_paths(Path(os.environ["SNAP_COMMON"]))
    automatic = not elsewhere and (paths.local or not (may_manage_units() or _has_units(paths)))
    if checking and automatic and not paths.local:
        automatic = paths.local_jobs_file.exists()
    if backend == "local" or (backend == "auto" and automatic):
        if transient:
            raise UsageError("--transient units live in a running systemd", "leave --transient away")
        paths = paths.of_engine()
        if user and not paths.runtime_dir.parent.is_dir():
            # Nobody has logged in, as in a container: there is no directory of the user's that a reboot empties.
            paths = replace(paths, runtime_dir=paths.state_dir / "run")
        return Place(paths)
    if transient and elsewhere:
        raise UsageError("--transient units live in a running systemd", "leave --root away")
    if elsewhere:
        return Place(paths, offline=True)
    if transient:
        return Place(paths.transient(), transient=True, other=paths)
    return Place(paths, other=paths.transient())


def own_snap(environment: Mapping[str, str]) -> bool:
    """Whether this is sdcron's own snap, strictly confined: no service manager can be reached from there."""
    return environment.get("SNAP_NAME") == "sdcron" and bool(environment.get("SNAP_COMMON"))


def may_manage_units() -> bool:
    """Whether there is a service manager whose units could be managed: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def _has_units(paths: Paths) -> bool:
    """Whether jobs are applied to systemd here, which only does not run now, as where a disk is repaired."""
    for directory in paths.unit_dirs:
        with suppress(OSError):
            if any(name.startswith("sdcron-") for name in os.listdir(directory)):  # noqa: PTH208 - names alone
                return True
    return False


@contextmanager
def connect(place: Place) -> Iterator[Backend | None]:
    """The service manager of the place, or None below a `--root` and where the engine is. Raises BackendError."""
    if place.offline or place.local:
        yield None
        return
    from sdcron.backends.systemd import SystemdBackend

    backend = SystemdBackend(user=place.user)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def observe(place: Place) -> Iterator[Observer | None]:
    """Whoever runs the jobs of the place, to be asked; None below a `--root`. Raises BackendError."""
    if place.local:
        from sdcron.backends.local import LocalBackend

        yield LocalBackend(place.paths)
        return
    with connect(place) as backend:
        yield backend
