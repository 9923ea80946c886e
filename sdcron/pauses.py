"""Which jobs are paused: marks on disk, which outlive reboots and say who set them, and since when.

One file a job below `Paths.paused_dir`, so that a unit's condition can look for it; `.all` for all jobs, those too that
are applied later; and `.owed` for the jobs that a suspend has cut off and no resume has started again yet. A job's name
cannot begin with a dot. Who changes marks holds the apply lock, and has an Applier change them with the timers.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdcron.errors import SdcronError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sdcron.paths import Paths

ALL = ".all"
OWED = ".owed"
NO_MARKS: Mapping[str, str | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Pause:
    """One mark. `since` is RFC 3339."""

    since: str = ""
    by: str = ""

    @property
    def described(self) -> str:
        """Since when and by whom, for people; empty where a damaged mark does not say."""
        return f"since {self.since} by {self.by}" if self.since else ""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape: what a damaged mark does not say is null."""
        return {"since": self.since or None, "by": self.by or None}

    def text(self) -> str:
        """As it is on disk."""
        return json.dumps({"since": self.since, "by": self.by}) + "\n"


@dataclass(frozen=True, slots=True)
class Pauses:
    """All marks of a scope."""

    jobs: dict[str, Pause] = field(default_factory=dict)
    everything: Pause | None = None
    owed: tuple[str, ...] = ()
    """Jobs whose runs a suspend has ended."""

    def of(self, job: str) -> Pause | None:
        """What keeps a job from its times; None if nothing does."""
        return self.everything or self.jobs.get(job)


def read_pauses(paths: Paths) -> Pauses:
    """What is paused now. A mark whose text cannot be read is one all the same. Raises SdcronError."""
    try:
        names = [entry.name for entry in paths.paused_dir.iterdir()]
    except FileNotFoundError:
        return Pauses()
    except OSError as error:
        # Not "nothing is paused": jobs would run by accident.
        what = f"which jobs are paused cannot be read: {paths.paused_dir}: {error.strerror}"
        raise SdcronError(what, f"see: ls -ld {shlex.quote(str(paths.paused_dir))}") from error
    jobs = {name: _read(paths, name) for name in names if not name.startswith(".")}
    return Pauses(jobs, _read(paths, ALL) if ALL in names else None, _owed(paths) if OWED in names else ())


def described(pauses: Pauses, names: Collection[str]) -> tuple[str, str] | None:
    """What is to be said of pauses where these jobs are, and what to do; None if none of them is paused."""
    if pauses.everything is not None:
        return f"all jobs are paused {pauses.everything.described}".rstrip(), "sdcron resume --all"
    paused = sorted(pauses.jobs.keys() & {*names})
    if paused:
        who = pauses.jobs[paused[0]].described if len(paused) == 1 else ""
        return f"paused: {', '.join(paused)} {who}".rstrip(), f"sdcron resume {' '.join(paused)}"
    if pauses.owed:
        what = f"ended by sdcron suspend, and not started again yet: {', '.join(pauses.owed)}"
        return what, "sdcron resume --all"
    return None


def owed_mark(jobs: Iterable[str]) -> dict[str, str | None]:
    """The mark that says which jobs are to be started again; none for no job."""
    names = sorted({*jobs})
    return {OWED: json.dumps(names) + "\n" if names else None}


def owed_without(paths: Paths, gone: Collection[str]) -> dict[str, str | None]:
    """The mark of what is owed once these jobs are removed; one of the same name that is applied later owes nothing."""
    owed = _owed(paths) if gone else ()
    return owed_mark({*owed} - {*gone}) if not {*owed}.isdisjoint(gone) else {}


def conditions(paused_dir: str, job: str) -> tuple[str, ...]:
    """The paths that are there while a job is paused."""
    return f"{paused_dir}/{job}", f"{paused_dir}/{ALL}"


def _read(paths: Paths, name: str) -> Pause:
    said = _said(paths, name)
    try:
        return Pause(str(said["since"]), str(said["by"]))
    except (TypeError, KeyError, IndexError):
        return Pause()


def _owed(paths: Paths) -> tuple[str, ...]:
    said = _said(paths, OWED)
    return tuple(sorted(name for name in said if isinstance(name, str))) if isinstance(said, list) else ()


def _said(paths: Paths, name: str) -> Any:  # noqa: ANN401 - whatever JSON can hold
    try:
        return json.loads((paths.paused_dir / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
