"""Every directory sdcron uses, for the system and the user scope and below a `--root`.

Owns the answer to "where"; creates nothing, and reads links alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


DROP_IN_DIRS = ("etc/sdcron/jobs.d", "run/sdcron/jobs.d", "usr/lib/sdcron/jobs.d")
"""Below the root: the administrator's, this boot's, and those of packages."""

TIMERS = "timers.target"
_GENERATED = "generated"


class Scope(StrEnum):
    """Which service manager owns the units: the machine's, or one user's."""

    SYSTEM = "system"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one scope.

    `root` is where they are found; texts that go into units name paths as the running machine sees them,
    which `on_machine` gives.
    """

    scope: Scope
    root: Path
    unit_dir: Path
    state_dir: Path
    runtime_dir: Path
    stamp_dir: Path
    runs_dir: Path
    """The record of runs: the collector's database. One a scope, as the next two, also for transient units."""
    log_dir: Path
    """Where job_status.log is written."""
    config_file: Path
    """sdcron's own settings."""
    local: bool = False
    """Whether the engine runs the jobs of this scope, and not a service manager."""
    generated_dir: Path | None = None
    """The units of the jobs in `drop_in_dirs`, for the generator to copy; None where there are no such directories."""

    @property
    def unit_dirs(self) -> tuple[Path, ...]:
        """All directories with units of jobs."""
        return (self.unit_dir,) if self.generated_dir is None else (self.unit_dir, self.generated_dir)

    @property
    def drop_in_dirs(self) -> tuple[Path, ...]:
        """Where job files are dropped in: a file hides those of the same name in the directories after its own."""
        return _drop_in_dirs(self.root) if self.generated_dir is not None and not self.local else ()

    @property
    def drop_in_names(self) -> Mapping[Path, Path]:
        """How these are called, if not as they are: any of them may be a symlink."""
        return dict(zip(self.drop_in_dirs, (self.root / below for below in DROP_IN_DIRS), strict=False))

    @property
    def generated_from(self) -> Path:
        """What the units in `generated_dir` were compiled from: the digests of all drop-in files."""
        return self.state_dir / f"{_GENERATED}.sha256"

    @property
    def generated_mark(self) -> Path:
        """There once the generator has run in this boot; it says so if nothing that was applied could be read yet."""
        return self.runtime_dir.with_name(f"sdcron.{_GENERATED}")

    @property
    def generator_out(self) -> Path:
        """Where generators write, and systemd reads, units that stand behind those in /etc: systemd.generator(7)."""
        return self.root / "run/systemd/generator"

    @property
    def generator_log(self) -> Path:
        """What the generator has found wrong when it compiled last; not there if nothing."""
        return self.runtime_dir / "generator.log"

    def unit_dir_of(self, generated: bool) -> Path:
        """Where the units of a job are."""
        return self.generated_dir if generated and self.generated_dir is not None else self.unit_dir

    @property
    def local_jobs_file(self) -> Path:
        """What is applied to the engine."""
        return self.state_dir / "engine/jobs"

    @property
    def spool_dir(self) -> Path:
        """What jobs of the engine print."""
        return self.state_dir / "engine/output"

    @property
    def engine_dir(self) -> Path:
        """Where the engine can be asked, and what a run of it needs for itself."""
        return self.runtime_dir / "engine"

    @property
    def wants_dir(self) -> Path:
        """Where a timer is enabled: systemd.unit(5), WantedBy=timers.target."""
        return wants_dir(self.unit_dir)

    @property
    def script_dir(self) -> Path:
        """Where the texts of `script:` jobs are kept for the interpreter to read."""
        return self.state_dir / "scripts"

    @property
    def paused_dir(self) -> Path:
        """Marks the jobs that are paused: see pauses.py."""
        return self.state_dir / "paused"

    @property
    def queued_dir(self) -> Path:
        """Marks the jobs of which a run waits for the end of another: see overlap.py."""
        return self.state_dir / "queued"

    @property
    def graph_dir(self) -> Path:
        """What jobs that run after others know of those: a directory for each, see chain_units.py."""
        return self.state_dir / "graph"

    @property
    def lock_file(self) -> Path:
        """Held by the one apply that may be at work."""
        return self.runtime_dir / "apply.lock"

    @property
    def lock_dir(self) -> Path:
        """The files of jobs' locks. The same for units and the engine: each respects what the other's runs hold."""
        return self.runtime_dir / "locks"

    @property
    def journal_file(self) -> Path:
        """What an apply is about to change, kept until it is done, so that a killed one can be finished."""
        return self.state_dir / "apply.journal"

    @property
    def collector_dir(self) -> Path:
        """Where the collector can be asked to catch up: a directory of its own, so that it can belong to its user."""
        return self.runtime_dir / "collector"

    @property
    def armed_boot_dir(self) -> Path:
        """Marks `@reboot` jobs applied since the last boot: they wait for the next one (emptied by a reboot)."""
        return self.runtime_dir / "applied-this-boot"

    def of_engine(self) -> Paths:
        """The same scope's where the engine runs the jobs. Only these directories are below a `--root`."""
        return replace(self, local=True, root=Path("/"))

    def transient(self) -> Paths:
        """The same scope for units that live until the next boot: their texts are kept in the runtime directory."""
        kept = self.runtime_dir / "transient"
        state = self.runtime_dir / "transient-state"
        return replace(self, unit_dir=kept, state_dir=state, generated_dir=None)

    def on_machine(self, path: Path) -> str:
        """`path` as the machine will see it: without the `--root` in front."""
        if self.root == Path("/"):
            return str(path)
        return "/" + str(path.relative_to(self.root))


@lru_cache(maxsize=8)
def _drop_in_dirs(root: Path) -> tuple[Path, ...]:
    """Resolved, as the directories of job files are."""
    return tuple((root / below).resolve() for below in DROP_IN_DIRS)


def wants_dir(unit_dir: Path) -> Path:
    """Where what is in a directory of units is enabled, by links; the generator makes lines of its own of them."""
    return unit_dir.with_name(f"{_GENERATED}.wanted") if unit_dir.name == _GENERATED else unit_dir / f"{TIMERS}.wants"


def wants_target(unit_dir: Path, name: str) -> str:
    """Where such a link leads."""
    return f"../{_GENERATED}/{name}" if unit_dir.name == _GENERATED else f"../{name}"


def snap_paths(common: Path) -> Paths:
    """The directories of the engine in a snap, all below its $SNAP_COMMON, which outlives every refresh."""
    state = common / "state"
    return Paths(
        scope=Scope.SYSTEM,
        root=Path("/"),
        unit_dir=state / "units",
        state_dir=state,
        runtime_dir=common / "run",
        stamp_dir=state / "stamps",
        runs_dir=state / "runs",
        log_dir=common / "log",
        config_file=common / "sdcron.toml",
        local=True,
    )


def system_paths(root: Path = Path("/")) -> Paths:
    """The directories of the machine's own service manager."""
    return Paths(
        scope=Scope.SYSTEM,
        root=root,
        unit_dir=root / "etc/systemd/system",
        state_dir=root / "var/lib/sdcron",
        runtime_dir=root / "run/sdcron",
        stamp_dir=root / "var/lib/systemd/timers",
        runs_dir=root / "var/lib/sdcron/runs",
        log_dir=root / "var/log/sdcron",
        config_file=root / "etc/sdcron/sdcron.toml",
        generated_dir=root / "var/lib/sdcron" / _GENERATED,
    )


def user_paths(environment: Mapping[str, str], uid: int, root: Path = Path("/")) -> Paths:
    """The directories of one user's service manager, by the XDG base directory specification.

    `environment` supplies HOME and the XDG_ variables; `uid` the default of XDG_RUNTIME_DIR.
    """

    def below_root(variable: str, default: str) -> Path:
        value = environment.get(variable) or default
        return root / value.lstrip("/")

    home = environment.get("HOME", "/").rstrip("/")
    config = below_root("XDG_CONFIG_HOME", f"{home}/.config")
    state = below_root("XDG_STATE_HOME", f"{home}/.local/state")
    data = below_root("XDG_DATA_HOME", f"{home}/.local/share")
    runtime = below_root("XDG_RUNTIME_DIR", f"/run/user/{uid}")
    return Paths(
        scope=Scope.USER,
        root=root,
        unit_dir=config / "systemd/user",
        state_dir=state / "sdcron",
        runtime_dir=runtime / "sdcron",
        stamp_dir=data / "systemd/timers",
        runs_dir=state / "sdcron/runs",
        log_dir=state / "sdcron/log",
        config_file=config / "sdcron/sdcron.toml",
    )
