"""A service manager in memory that does with unit files what systemd was measured to do (no clock, no processes).

A unit is read when it is first needed and kept while it is active, failed, wanted by timers.target or used by one that
is kept; only a reload reads a kept one again. Remembers what was asked of it, and each run that an edit would cause.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdcron.backends import LastRun, UnitState
from sdcron.errors import BackendError
from sdcron.paths import wants_dir
from tests.faults import told

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sdcron.paths import Paths
    from sdcron.units import Unit


def _times(text: str | None) -> list[str]:
    """The lines that say when a timer elapses."""
    return [line for line in (text or "").splitlines() if line.startswith(("OnCalendar=", "OnActiveSec="))]


@dataclass(slots=True)
class Loaded:
    """A unit in memory: `text` as it was read, None for one without a file."""

    text: str | None
    active: str = "inactive"
    started: bool = False
    """Whether it has been active since it was read first."""


@dataclass(slots=True)
class FakeBackend:
    """See the module. `wanted` are the units that timers.target holds in memory, as after a boot or a reload."""

    paths: Paths
    memory: dict[str, Loaded] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    elapse: dict[str, datetime] = field(default_factory=dict)
    running: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    accidents: list[str] = field(default_factory=list)
    generated: dict[str, str] = field(default_factory=dict)
    """What the last reload has found generated."""
    refused: set[str] = field(default_factory=set)
    """Units that fail to start."""
    queued: list[str] = field(default_factory=list)
    """Units whose start waits for something."""
    processes: dict[int, str] = field(default_factory=dict)
    """Whose units processes are."""
    _ran_with: dict[str, str] = field(default_factory=dict)

    # What sdcron asks

    def version(self) -> str:
        """The oldest supported one."""
        return "252 (fake)"

    def clock_synchronised(self) -> bool | None:
        """Yes."""
        return True

    def loaded(self) -> Mapping[str, UnitState]:
        """What is in memory."""
        return {
            name: UnitState("not-found" if unit.text is None else "loaded", unit.active, "fake")
            for name, unit in self.memory.items()
        }

    def in_use(self) -> Mapping[str, UnitState]:
        """What is not inactive."""
        return {name: state for name, state in self.loaded().items() if state.active != "inactive"}

    def active_timers(self) -> Mapping[str, UnitState]:
        """The timers among them that are active."""
        return {
            name: state for name, state in self.loaded().items() if name.endswith(".timer") and state.active == "active"
        }

    def is_active(self, name: str) -> bool:
        """Whether it is active."""
        return name in self.memory and self.memory[name].active == "active"

    def is_waiting(self, timer: str) -> bool:
        """Whether a test has given it a time to come."""
        return self.memory[timer].active == "active" and timer in self.elapse

    def failed_without_file(self) -> Sequence[str]:
        """What failed and has no text any more."""
        return [name for name, unit in self.memory.items() if unit.text is None and unit.active == "failed"]

    def is_loaded(self, name: str) -> bool:
        """Whether it is in memory."""
        return name in self.memory

    def starting(self) -> Sequence[str]:
        """What the test says."""
        return self.queued

    def unit_of(self, pid: int) -> str | None:
        """What the test says."""
        return self.processes.get(pid)

    def next_elapse(self, timer: str) -> datetime | None:
        """What the test says."""
        return self.elapse.get(timer)

    def is_outdated(self, name: str) -> bool:
        """Whether its file has another text."""
        return self.memory[name].text != self._read(name)

    def wait_ends(self, timer: str) -> datetime | None:
        """What the test says."""
        return self.elapse.get(timer)

    def run_in_progress(self, service: str) -> tuple[str, datetime] | None:
        """What the test says."""
        return self.running.get(service)

    def start(self, names: Sequence[str], *, wait: bool = True) -> None:
        """Start one after the other; the first refusal is raised when all were asked for, as systemd's jobs are."""
        failed = []
        for name in names:
            self._tell("start", name)
            unit = self._need(name)
            if unit.text is None or name in self.refused:
                failed.append(name)
                self._sweep()
                continue
            if unit.active != "active":
                self._look_for_accident(name, unit.text, "started")
                if unit.started and "\nPersistent=no\n" in unit.text:
                    # It begins where it began the last time, and catches up, for as long as it is in memory.
                    self.accidents.append(f"{name} started a second time")
                unit.active, unit.started = "active", True
        if failed:
            raise BackendError(f"systemd could not start {', '.join(failed)}")

    def stop(self, names: Sequence[str], *, kill: bool = False) -> None:
        """Stop; a unit that is not in memory is stopped already."""
        for name in names:
            self._tell("stop", name)
            if name in self.memory:
                self.memory[name].active = "inactive"
                self._sweep()

    def cancel(self, names: Collection[str]) -> None:
        """Forget those that wait."""
        self._tell("cancel", " ".join(sorted(names)))
        self.queued = [name for name in self.queued if name not in names]

    def drop_ins(self, name: str) -> Sequence[str]:
        """None."""
        return []

    def reset_failed(self, names: Sequence[str]) -> None:
        """Forget failed states."""
        for name in names:
            self._tell("reset_failed", name)
            if name in self.memory and self.memory[name].active == "failed":
                self.memory[name].active = "inactive"
                self._sweep()

    def last_run(self, service: str) -> LastRun | None:
        """Nothing is known of runs."""
        return None

    def start_transient(self, timer: Unit, others: Sequence[Unit]) -> None:
        """Not faked."""
        raise NotImplementedError

    def reload(self) -> None:
        """Read every unit again; active timers with a new text are what runs jobs by accident."""
        self._tell("reload", "")
        generated = self.paths.generated_dir
        if generated is not None:
            # As sdcron's generator does.
            files = [path for path in sorted(generated.rglob("sdcron-*")) if path.is_file()]
            self.generated = {str(path.relative_to(generated)): path.read_text(encoding="utf-8") for path in files}
            shutil.rmtree(self.paths.generator_out, ignore_errors=True)
            for name in self.generated:
                (self.paths.generator_out / name).parent.mkdir(parents=True, exist_ok=True)
                (self.paths.generator_out / name).symlink_to(generated / name)
        for name, unit in list(self.memory.items()):
            text = self._read(name)
            if unit.active == "active" and text is not None and _times(text) != _times(unit.text):
                self.accidents.append(f"{name} reloaded while active")
            unit.text = text
        links = [wants_dir(unit_dir) for unit_dir in self.paths.unit_dirs]
        self.wanted = {link.name for directory in links if directory.is_dir() for link in directory.iterdir()}
        for name in sorted(self.wanted):
            self._need(name)
        self._sweep()

    # What a test does

    def boot(self) -> None:
        """Start afresh with what is wanted, as the machine does."""
        self.memory.clear()
        shutil.rmtree(self.paths.runtime_dir, ignore_errors=True)
        self.reload()
        for name in sorted(self.wanted):
            text = self.memory[name].text
            if text is not None:
                self.memory[name].active, self.memory[name].started = "active", True
                self._look_for_accident(name, text, "booted")
        self.calls.clear()

    def set_active(self, name: str, state: str) -> None:
        """Let a unit be running (`activating`) or `failed` without anybody's start."""
        self._need(name).active = state
        self._sweep()

    def stale(self) -> list[str]:
        """Units in memory with another text than their file has."""
        return sorted(name for name, unit in self.memory.items() if unit.text != self._read(name))

    def active(self) -> list[str]:
        """Timers that are active and have a time to come: one of a boot that has been has none."""
        return sorted(
            name
            for name, unit in self.memory.items()
            if unit.active == "active" and unit.text and ("\nOnCalendar=" in unit.text or "\nOnActiveSec=" in unit.text)
        )

    def mutations(self) -> list[str]:
        """The calls that changed something, in order, `verb unit`."""
        return [f"{verb} {name}".strip() for verb, name in self.calls]

    # How it works

    def _tell(self, verb: str, name: str) -> None:
        told(f"{verb} {name}".strip())
        self.calls.append((verb, name))

    def _need(self, name: str) -> Loaded:
        if name not in self.memory:
            self.memory[name] = Loaded(self._read(name))
            for other in self._used_by(self.memory[name].text):
                self._need(other)
        return self.memory[name]

    def _used_by(self, text: str | None) -> list[str]:
        lines = (text or "").splitlines()
        return [
            name
            for line in lines
            if line.startswith(("Unit=", "OnFailure=", "Conflicts=", "Wants="))
            for name in line.partition("=")[2].split()
        ]

    def _sweep(self) -> None:
        roots = [name for name, unit in self.memory.items() if unit.active != "inactive"]
        keep: set[str] = set()
        queue = roots + [name for name in self.wanted if name in self.memory]
        while queue:
            name = queue.pop()
            if name not in keep and name in self.memory:
                keep.add(name)
                queue += self._used_by(self.memory[name].text)
        for name in set(self.memory) - keep:
            del self.memory[name]

    def _read(self, name: str) -> str | None:
        added = [text for path, text in sorted(self.generated.items()) if path.startswith(f"{name}.d/")]
        for directory in (self.paths.unit_dir, self.paths.runtime_dir.parent / f"systemd/{self.paths.scope}"):
            with suppress(FileNotFoundError):
                texts = [(directory / name).read_text(encoding="utf-8")]
                texts += [
                    path.read_text(encoding="utf-8") for path in sorted(directory.glob(f"{name}.d/sdcron-*.conf"))
                ]
                return "".join((*texts, *added))
        return "".join((self.generated[name], *added)) if name in self.generated else None

    def _look_for_accident(self, name: str, text: str, how: str) -> None:
        """A persistent timer with a new text and a stamp from before it catches up a time that it never had."""
        stamp = self.paths.stamp_dir / f"stamp-{name}"
        before = self._ran_with.get(name)
        if "\nPersistent=yes\n" in text:
            if stamp.exists():
                files = [unit_dir / name for unit_dir in self.paths.unit_dirs if (unit_dir / name).exists()]
                written = files[0].stat().st_mtime
                # A stamp is set to the moment the timer stopped; its text was staged some milliseconds before or after.
                if before is not None and before != text and stamp.stat().st_mtime < written - 5:
                    self.accidents.append(f"{name} {how} with an old stamp")
            else:
                stamp.parent.mkdir(parents=True, exist_ok=True)
                stamp.touch()
        self._ran_with[name] = text
