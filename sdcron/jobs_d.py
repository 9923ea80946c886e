"""The drop-in directories: job files of the administrator, of this boot, and of packages, as one set.

A file hides those of the same name in the directories after its own; one that is empty, or a link to /dev/null, hides
them and is no job, as with systemd's own files (systemd.unit(5), "masked"). What was compiled from them last holds as
long as their digests are the same: the generator asks sha256sum(1), and reads no job file.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdcron.errors import SdcronError
from sdcron.jobfile import others_may_write
from sdcron.jobset import JobPaths, is_job_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_NEVER = -2


@dataclass(frozen=True, slots=True)
class Found:
    """The files that count, by their own names, and those that another one hides or that hide others themselves."""

    places: tuple[Path, ...]
    files: tuple[Path, ...]
    hidden: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    """The files that jobs are applied from, by the jobs' names."""

    def as_paths(self, without: Collection[str] = ()) -> JobPaths:
        """As what an apply of all the directories reads, but for some files."""
        chosen = {str(path): path for path in self.files if str(path) not in without}
        return JobPaths(chosen, tuple(map(str, self.places)), generated=True, owners=self.owners)

    def digests(self, names: Mapping[Path, Path] = MappingProxyType({}), beside: Collection[Path] = ()) -> str:
        """A line that tells how many files there are, and what sha256sum(1) says of each, and of those `beside` them.

        Where one cannot be read there are never so many: then they are never what they were. `names` are those of the
        directories that are symlinks, which may lead elsewhere one day. How many there are `beside` comes second.
        """
        every = sorted((*self.files, *self.hidden, *self.masks))
        lines = [_digest(names.get(path.parent, path.parent) / path.name) for path in every]
        told = [_digest(path) for path in beside]
        counts = (_NEVER if None in found else len(found) for found in (lines, told))
        return "".join((f"# {' '.join(map(str, counts))}\n", *filter(None, (*lines, *told))))


def find(places: Collection[Path], owners: Mapping[str, str] = MappingProxyType({})) -> Found:
    """Raises SdcronError for a directory that cannot be read; one that is not there has no files.

    `owners` are the files that jobs are applied from, by the jobs' names: one of these that is empty now was cut off,
    and hides nothing. Nor does one in a directory that others may write to.
    """
    applied = frozenset(owners.values())
    first: dict[str, Path] = {}
    hidden, masks = [], []
    for place in places:
        for name in _names(place):
            path = place / name
            if name in first:
                hidden.append(path)
            else:
                first[name] = path
    for name, path in list(first.items()):
        is_meant = _is_nothing(path) or str(path) not in applied
        if _is_mask(path) and is_meant and not others_may_write(str(path.parent)):
            masks.append(first.pop(name))
    files = tuple(first[name] for name in sorted(first))
    return Found(tuple(places), files, tuple(sorted(hidden)), tuple(sorted(masks)), owners)


def may_be_in(source: str, files: Collection[str]) -> bool:
    """Whether a job whose file was `source` may be in one of these now: one of the same name may hide that."""
    return any(Path(source).name == Path(file).name for file in files)


def _names(place: Path) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if is_job_file(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SdcronError(f"{place} cannot be read: {error.strerror}", "check its permissions") from error


def _is_mask(path: Path) -> bool:
    """Whether a file is there to hide others alone."""
    with suppress(OSError):
        return _is_nothing(path) or (path.is_file() and path.stat().st_size == 0)
    return False


def _is_nothing(path: Path) -> bool:
    return os.path.realpath(path) == os.devnull


def _digest(path: Path) -> str | None:
    """The line of a file; None for one that cannot be read, or would have its reader wait, as a FIFO."""
    try:
        content = path.read_bytes() if path.is_file() or _is_mask(path) else None
    except OSError:
        content = None
    if content is None:
        return None
    digest = hashlib.sha256(content).hexdigest()
    # sha256sum(1): with a backslash in front, a line feed and a backslash are written with another one.
    name = str(path)
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"
