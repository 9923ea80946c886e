"""Is this machine fit for sdcron, and is what is applied what the job files say? Findings with what to do."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcron import operations
from sdcron.errors import JobFileError, SdcronError
from sdcron.paths import Scope
from sdcron.units import is_sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.backends import Backend
    from sdcron.operations import Place

OLDEST_SYSTEMD = 252
"""The oldest systemd that every behaviour was measured on (Debian 12)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `level` is `ok`, `warning` or `error`; `advice` is what to do about the latter two."""

    level: str
    what: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {"level": self.level, "what": self.what, "advice": self.advice}


def examine(place: Place) -> tuple[Finding, ...]:
    """Run every check; none changes anything."""
    found = []
    try:
        with operations.connect(place) as backend:
            if backend is not None:
                found += [*_manager(backend), *_clock(backend)]
            found += [*_journal(place), *_permissions(place), *_applied(place, backend)]
    except SdcronError as error:
        found.append(Finding("error", error.message, error.hint))
        found += [*_journal(place), *_permissions(place)]
    return tuple(found)


def _manager(backend: Backend) -> Iterator[Finding]:
    version = backend.version()
    number = re.match(r"\d+", version)
    if number and int(number[0]) < OLDEST_SYSTEMD:
        yield Finding(
            "error", f"systemd {version} is older than {OLDEST_SYSTEMD}", "upgrade the distribution: Debian 12 or later"
        )
    else:
        yield Finding("ok", f"systemd {version} answers")


def _clock(backend: Backend) -> Iterator[Finding]:
    synchronised = backend.clock_synchronised()
    if synchronised is None:
        yield Finding(
            "warning", "cannot tell whether the clock is synchronised", "install systemd-timesyncd, chrony or ntpsec"
        )
    elif synchronised:
        yield Finding("ok", "the clock is synchronised")
    else:
        yield Finding(
            "warning", "the clock is not synchronised: jobs may run at wrong times", "timedatectl set-ntp true"
        )


def _journal(place: Place) -> Iterator[Finding]:
    journal = place.paths.root / "var/log/journal"
    if journal.is_dir():
        yield Finding("ok", "the journal is persistent")
    else:
        yield Finding(
            "warning",
            "the journal is lost at every reboot, and with it what jobs printed",
            "mkdir /var/log/journal && systemctl restart systemd-journald",
        )


def _permissions(place: Place) -> Iterator[Finding]:
    good = True
    for directory in (place.paths.unit_dir, place.paths.state_dir):
        if not directory.is_dir():
            continue
        status = directory.stat()
        owners = (0, os.getuid()) if place.offline else (0,)
        others = status.st_uid not in owners or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if place.paths.scope is Scope.SYSTEM and others:
            good = False
            yield Finding(
                "error",
                f"others than root may write {directory}, and so run anything as root",
                f"chown root {directory} && chmod go-w {directory}",
            )
        elif not os.access(directory, os.W_OK):
            good = False
            yield Finding("warning", f"you may not write {directory}", "run sdcron as root (sudo), or with --user")
    if good:
        yield Finding("ok", f"permissions of {place.paths.unit_dir} are right")


def _applied(place: Place, backend: Backend | None) -> Iterator[Finding]:
    if place.paths.journal_file.exists():
        yield Finding("error", "an apply was cut off half way", "run sdcron apply again: it finishes or undoes it")
    installed = operations.installed_jobs(place)
    directories = sorted({job.directory for job in installed.jobs.values()})
    drifted = False
    for job in installed.jobs.values():
        for name in sorted(name for name, text in job.units.items() if not is_sealed(text)):
            drifted = True
            yield Finding(
                "warning",
                f"{place.paths.unit_dir / name} was edited by hand",
                f"the next apply writes it anew; to keep a change: systemctl edit {name}",
            )
    for directory in directories:
        for finding in _drift(place, backend, directory):
            drifted = True
            yield finding
    if backend is not None:
        for name, state in sorted(backend.loaded().items()):
            if state.load == "not-found":
                drifted = True
                yield Finding(
                    "warning",
                    f"{name} is loaded but its file is gone",
                    f"systemctl stop {name}; systemctl reset-failed {name}",
                )
    if not drifted:
        count = len(installed.jobs)
        yield Finding("ok", f"{count} job{'' if count == 1 else 's'} applied, all as the job files say")


def _drift(place: Place, backend: Backend | None, directory: str) -> Iterator[Finding]:
    if not Path(directory).is_dir():
        yield Finding(
            "warning",
            f"jobs are applied from {directory}, which is gone",
            "bring it back, or remove the jobs: sdcron list, sdcron remove JOB",
        )
        return
    try:
        timers = backend.active_timers() if backend else None
        desired = operations.read_desired(place, [Path(directory)], timers)
        todo = operations.plan_jobs(place, desired, timers, prune=True)
    except JobFileError as error:
        yield Finding("warning", f"{directory}: {error.message}", f"sdcron validate {directory}")
        return
    for change in todo.changes:
        yield Finding(
            "warning",
            f"{change.name} is not as {directory} says (to {change.action})",
            f"sdcron plan {directory}, then sdcron apply {directory}",
        )
