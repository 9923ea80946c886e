"""Drop-ins: what a job adds to the unit of another one, in a file of its own (systemd.unit(5), "unit.d").

Among a job's units a drop-in is named by its path below the unit directory: `sdcron-X.service.d/sdcron-D.conf` is D's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PREFIX = "sdcron-"
_SERVICE_D = ".service.d"


def drop_in_name(unit: str, job: str) -> str:
    """What `job` adds to `unit`."""
    return f"{unit}.d/{_PREFIX}{job}.conf"


def is_drop_in(name: str) -> bool:
    """Whether this is one, and no unit."""
    return "/" in name


def is_own(file_name: str) -> bool:
    """Whether a file in the directory of a unit's drop-ins is one of a job's, and not an administrator's."""
    return file_name.startswith(_PREFIX)


def unit_of(name: str) -> str:
    """The unit that a file is of: itself, or the one that a drop-in adds to."""
    directory, found, _ = name.partition("/")
    return directory.removesuffix(".d") if found else name


def job_of(name: str) -> str:
    """The job that a drop-in is of."""
    return name.rpartition("/")[2].removeprefix(_PREFIX).removesuffix(".conf")


def directories(unit_dir: Path | str) -> Iterator[str]:
    """The names of the directories for drop-ins of sdcron's services."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(unit_dir) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(_PREFIX) and name.endswith(_SERVICE_D) and entry.is_dir(follow_symlinks=False):
                yield name


def names(unit_dir: Path | str) -> list[str]:
    """All files there that are called as a job's drop-in is."""
    found = []
    for directory in directories(unit_dir):
        with suppress(FileNotFoundError, NotADirectoryError):
            inside = os.listdir(f"{unit_dir}/{directory}")  # noqa: PTH208 - names are all that is needed
            found += [f"{directory}/{name}" for name in inside if name.startswith(_PREFIX) and name.endswith(".conf")]
    return sorted(found)
