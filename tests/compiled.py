"""Compiled jobs for tests, straight from Job records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcron.files import Files
from sdcron.job import Job, Source
from sdcron.paths import Paths, Scope, system_paths
from sdcron.schedule import parse_schedule
from sdcron.units import CompiledJob, compile_job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DIRECTORY = "/etc/sdcron/jobs"


def compiled(
    name: str,
    schedule: str | tuple[str, ...] | None = "0 3 * * *",
    *,
    directory: str = DIRECTORY,
    file: str | None = None,
    **keys: Any,
) -> CompiledJob:
    """One job of `directory`, from the file of its name unless another is given; runs true unless told otherwise."""
    if "script" not in keys:
        keys.setdefault("command", ("true",))
    job = Job(
        name=name,
        source=Source(f"{directory}/{file or name}.yaml"),
        schedule=parse_schedule(schedule) if schedule is not None else None,
        **keys,
    )
    return compile_job(job, directory=directory, scope=Scope.SYSTEM, state_dir="/var/lib/sdcron")


def paths_below(root: Path) -> Paths:
    """The system scope below `root`, for a backend that is a fake."""
    return system_paths(root)


def install(paths: Paths, jobs: Sequence[CompiledJob]) -> None:
    """Put the files and links of jobs where apply would, by the shortest way."""
    files = Files()
    for job in jobs:
        for unit in job.units:
            files.write(paths.unit_dir / unit.name, unit.text)
        for timer in job.enable:
            files.link(paths.wants_dir / timer, f"../{timer}")
        if job.script is not None:
            files.write(paths.script_dir / job.name, job.script)


def tree(paths: Paths) -> dict[str, str]:
    """Everything below the root but locks: path -> text, `-> target` for a link."""
    found = {}
    for path in sorted(paths.root.rglob("*")):
        name = str(path.relative_to(paths.root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path != paths.lock_file:
            found[name] = path.read_text()
    return found
