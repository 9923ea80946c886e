"""Is this place fit for the local engine, does one run, and is what is applied what the job files say?"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.backends.local import LocalBackend
from sdcron.desired import plan_jobs, read_desired, told_by
from sdcron.errors import BackendError, JobFileError, SdcronError
from sdcron.findings import Finding, pause_finding
from sdcron.local_jobs import LocalJob, read_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdcron.paths import Paths
    from sdcron.place import Place


def examine_local(place: Place) -> tuple[Finding, ...]:
    """Run every check; none changes anything."""
    found = list(_engine(place))
    try:
        jobs = read_local(place.paths)
    except SdcronError as error:
        return (*found, Finding("error", error.message, error.hint))
    return (*found, *_permissions(place.paths), *_applied(place, jobs), *pause_finding(place.paths, jobs))


def _engine(place: Place) -> Iterator[Finding]:
    option = " --user" * place.user
    try:
        state = LocalBackend(place.paths).state()
    except BackendError as error:
        yield Finding("error", error.message, error.hint)
        return
    if not state:
        yield Finding("error", "no engine runs here: no job will run", f"start it: sdcron engine{option}")
        return
    count = state["jobs"]
    yield Finding("ok", f"the engine runs {count} job{'' if count == 1 else 's'}, as process {state['pid']}")
    if not state.get("recorded", True):
        yield Finding("error", "runs cannot be recorded now", "see what the engine says where it was started")


def _permissions(paths: Paths) -> Iterator[Finding]:
    good = True
    for path in (paths.local_jobs_file, paths.local_jobs_file.parent, paths.state_dir):
        finding = _others_may_write(path)
        if finding is not None:
            good = False
            yield finding
    if good:
        yield Finding("ok", f"permissions of {paths.state_dir} are right")


def _others_may_write(path: Path) -> Finding | None:
    """What lets others decide what runs; None if nothing does, or there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    what = f"others than the engine's user may write {path}, and so run anything as that user"
    typed = shlex.quote(str(path))
    return Finding("error", what, f"chown {os.geteuid()} {typed} && chmod go-w {typed}")


def _applied(place: Place, jobs: Mapping[str, LocalJob]) -> Iterator[Finding]:
    drifted = False
    sources = sorted({job.source for job in jobs.values()})
    for source in (source for source in sources if not Path(source).exists()):
        drifted = True
        names = ", ".join(sorted(job.name for job in jobs.values() if job.source == source))
        yield Finding(
            "warning", f"{names} came from {source}, which is gone", f"bring it back, or: sdcron remove {names}"
        )
    there = [Path(source) for source in sources if source.endswith((".yaml", ".yml")) and Path(source).exists()]
    try:
        todo = plan_jobs(place, read_desired(place, there, None), None, prune=True) if there else None
    except JobFileError as error:
        drifted = True
        yield Finding("warning", error.message, told_by(place, error, there))
        todo = None
    for change in todo.changes if todo is not None else ():
        drifted = True
        yield Finding("warning", f"{change.name} is not as its file says (to {change.action})", "apply that file again")
    if not drifted:
        count = len(jobs)
        yield Finding("ok", f"{count} job{'' if count == 1 else 's'} applied, all as the job files say")
