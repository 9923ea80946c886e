"""Is this machine fit for sdcron, and is what is applied what the job files say? Findings with what to do."""

from __future__ import annotations

import os
import re
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron import desired, dropped, operations, own_units
from sdcron.errors import JobFileError, SdcronError
from sdcron.findings import Finding, pause_finding
from sdcron.jobs_d import find
from sdcron.paths import Scope
from sdcron.units import is_sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcron.backends import Backend
    from sdcron.installed import Installed
    from sdcron.installed_job import InstalledJob
    from sdcron.operations import Place

OLDEST_SYSTEMD = 252
"""The oldest systemd that every behaviour was measured on (Debian 12)."""
_TRYING_AGAIN = "trying again until it works"
"""How the collector ends what it says when something keeps it from its work."""


def examine(place: Place) -> tuple[Finding, ...]:
    """Run every check; none changes anything."""
    if place.local:
        from sdcron.local_doctor import examine_local

        return examine_local(place)
    found = []
    installed = operations.installed_jobs(place)
    try:
        with operations.connect(place) as backend:
            if backend is not None:
                found += [*_manager(backend), *_clock(backend)]
            found += [*_journal(place), *_collector(place, backend, installed)]
            found += [*_permissions(place, installed), *_applied(place, backend, installed)]
            found += pause_finding(place.paths, installed.jobs)
    except SdcronError as error:
        found.append(Finding("error", error.message, error.hint))
        found += [*_journal(place), *_permissions(place, installed)]
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


def _collector(place: Place, backend: Backend | None, installed: Installed) -> Iterator[Finding]:
    """Whether runs are recorded, where there are jobs that could run."""
    if not installed.jobs or backend is None:
        return
    if not own_units.can_read_the_journal():
        what = "the Python package systemd is missing, which reads the journal"
        advice = "apt install python3-systemd, or pip install 'sdcron[systemd]', then run sdcron apply again"
        yield Finding("error", f"runs are not recorded: {what}", advice)
        return
    said = _last_words(place)
    unit, option = own_units.COLLECTOR, " --user" if place.user else ""
    active = backend.is_loaded(unit) and backend.is_active(unit)
    if active and not said.endswith(_TRYING_AGAIN):
        yield Finding("ok", "the collector records every run")
        return
    what = "is at a loss" if active else "is not active"
    yield Finding(
        "error",
        f"runs are not recorded: {unit} {what}" + (f"; it said: {said}" if said else ""),
        f"journalctl{option} -u {unit} -n 20; then: systemctl{option} restart {unit}",
    )


def _last_words(place: Place) -> str:
    """The last line of the collector's own in the journal; nothing where that cannot be asked."""
    import subprocess

    field = "_SYSTEMD_USER_UNIT" if place.user else "_SYSTEMD_UNIT"
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1", f"{field}={own_units.COLLECTOR}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip()


def _permissions(place: Place, installed: Installed) -> Iterator[Finding]:
    paths = place.paths
    files = [
        path
        for job in installed.jobs.values()
        for unit_dir in [paths.unit_dir_of(job.generated)]
        for path in (*(unit_dir / name for name in sorted(job.units)), paths.script_dir / job.name)
    ]
    # A user's own directories are as the umask made them, often open to a group that is the user alone.
    system = (*paths.unit_dirs, paths.wants_dir, paths.state_dir, paths.script_dir)
    directories = system if paths.scope is Scope.SYSTEM else ()
    good = True
    for path in (*directories, *files):
        finding = _others_may_write(place, path)
        if finding is not None:
            good = False
            yield finding
    for directory in (paths.unit_dir, paths.state_dir):
        if directory.is_dir() and not os.access(directory, os.W_OK):
            good = False
            yield Finding("warning", f"you may not write {directory}", "run sdcron as root (sudo), or with --user")
    if good:
        yield Finding("ok", f"permissions of {paths.unit_dir} are right")


def _others_may_write(place: Place, path: Path) -> Finding | None:
    """What lets others decide what runs, with how to close it; None if nothing does, or there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    system = place.paths.scope is Scope.SYSTEM
    owner, user = ("root", 0) if system else ("you", os.getuid())
    commands = []
    if status.st_uid not in ((user, os.getuid()) if place.offline else (user, 0)):
        commands.append(f"chown {user} {shlex.quote(str(path))}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        commands.append(f"chmod go-w {shlex.quote(str(path))}")
    if not commands:
        return None
    what = f"others than {owner} may write {path}, and so run anything as {owner}"
    return Finding("error", what, " && ".join(commands))


def _applied(place: Place, backend: Backend | None, installed: Installed) -> Iterator[Finding]:
    if place.paths.journal_file.exists():
        yield Finding("error", "an apply was cut off half way", "run sdcron apply again: it finishes or undoes it")
    directories: dict[str, list[InstalledJob]] = {}
    for job in installed.jobs.values():
        if not job.generated:
            directories.setdefault(job.directory, []).append(job)
    drifted = False
    for job in installed.jobs.values():
        for name in sorted(name for name, text in job.units.items() if not _is_as_written(text)):
            drifted = True
            yield Finding(
                "warning",
                f"{place.paths.unit_dir_of(job.generated) / name} was edited by hand",
                f"the next apply writes it anew; to keep a change: systemctl edit {name}",
            )
    for directory, jobs in sorted(directories.items()):
        for finding in _drift(place, backend, directory, jobs):
            drifted = True
            yield finding
    for finding in _dropped_in(place, backend):
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


def _is_as_written(text: str) -> bool:
    """Whether sdcron wrote it so; bytes that are not UTF-8, lone surrogates here, it never wrote."""
    try:
        return is_sealed(text)
    except UnicodeEncodeError:
        return False


def _drift(place: Place, backend: Backend | None, directory: str, jobs: list[InstalledJob]) -> Iterator[Finding]:
    """What differs between the jobs that are applied from a directory and their files.

    Other files there are not looked at: these jobs may have been applied as single files.
    """
    if not Path(directory).is_dir():
        yield Finding(
            "warning",
            f"jobs are applied from {directory}, which is gone",
            "bring it back, or remove the jobs: sdcron list, sdcron remove JOB",
        )
        return
    for job in jobs:
        if not Path(job.source).exists():
            yield Finding(
                "warning",
                f"{job.name} is applied from {job.source}, which is gone",
                f"bring it back, or: sdcron remove {job.name}",
            )
    sources = sorted({job.source for job in jobs if Path(job.source).exists()})
    try:
        timers = backend.active_timers() if backend else None
        wanted = desired.read_desired(place, [Path(source) for source in sources], timers)
        todo = desired.plan_jobs(place, wanted, timers, prune=True)
    except JobFileError as error:
        advice = desired.told_by(place, error, [Path(source) for source in sources])
        yield Finding("warning", f"{directory}: {error.message}", advice)
        return
    for change in todo.changes:
        source = shlex.quote(change.source)
        yield Finding(
            "warning",
            f"{change.name} is not as {change.source} says (to {change.action})",
            f"sdcron plan {source}, then sdcron apply {source}",
        )


def _dropped_in(place: Place, backend: Backend | None) -> Iterator[Finding]:
    """What the generator has told, and what is not as the drop-in directories say."""
    with suppress(OSError):
        for line in place.paths.generator_log.read_text(encoding="utf-8", errors="replace").splitlines():
            yield Finding("error", f"the generator: {line}", "mend that, then: sdcron apply")
    if backend is None:
        return
    try:
        found = find(place.paths.drop_in_dirs)
        if not found.files and not place.paths.generated_from.exists():
            return
        changes = dropped.plan_paths(place, (), backend.active_timers()).plan.changes
    except JobFileError as error:
        yield Finding("warning", f"the drop-in directories: {error.message}", desired.told_by(place, error))
        return
    except SdcronError as error:
        yield Finding("warning", error.message, error.hint)
        return
    for change in changes:
        yield Finding(
            "warning",
            f"{change.name} is not as {change.source} says (to {change.action})",
            "sdcron plan, then sdcron apply",
        )
