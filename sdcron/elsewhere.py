"""Jobs of other hosts in the job files that are applied here: kept for `list --all-hosts`, and for nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sdcron.files import Files
    from sdcron.job import Job
    from sdcron.paths import Paths


@dataclass(frozen=True, slots=True, order=True)
class OtherJob:
    """A job that is for other machines; `source` is the path of its file."""

    name: str
    hosts: tuple[str, ...]
    schedule: tuple[str, ...]
    source: str


def read_elsewhere(paths: Paths) -> tuple[OtherJob, ...]:
    """Those of the files that are still there, by name; none where nothing tells of them."""
    try:
        stored = json.loads(_path(paths).read_text(encoding="utf-8"))
        found = [
            OtherJob(str(name), tuple(map(str, hosts)), tuple(map(str, schedule)), str(source))
            for name, hosts, schedule, source in stored
        ]
    except (OSError, ValueError, TypeError, RecursionError):
        return ()
    return tuple(sorted(job for job in found if _may_exist(job.source)))


def write_elsewhere(paths: Paths, files: Files, jobs: Iterable[Job], *, read: Collection[str]) -> None:
    """Keep what an apply has found in the files that it has `read`; what is known of others stays.

    Nothing is written if nothing differs.
    """
    before = read_elsewhere(paths)
    after = {
        OtherJob(job.name, job.hosts, job.schedule.texts if job.schedule is not None else (), job.source.path)
        for job in jobs
    }
    after |= {job for job in before if job.source not in read}
    if after != {*before}:
        # It is for people to look at: without it everything else is as it shall be.
        with suppress(OSError):
            if after:
                texts = [[job.name, job.hosts, job.schedule, job.source] for job in sorted(after)]
                files.write(_path(paths), json.dumps(texts) + "\n", 0o644)
            else:
                _path(paths).unlink(missing_ok=True)


def forget_elsewhere(paths: Paths) -> None:
    """Of no applied job any more are there others."""
    with suppress(OSError):
        _path(paths).unlink(missing_ok=True)


def _may_exist(path: str) -> bool:
    """Whether it is there, or that cannot be seen."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def _path(paths: Paths) -> Path:
    return paths.state_dir / "elsewhere.json"
