"""Which machine a job belongs to: the key `hosts`. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdcron.job import Job


def belongs(job: Job, host: str) -> bool:
    """Whether a job is for the machine of this name.

    The name is hostname(7)'s, whole or up to its first dot, in any case; names and globs are matched as in
    ConditionHost= (systemd.unit(5)). A job without `hosts` is for all.
    """
    name = host.lower()
    names = (name, name.partition(".")[0])
    return not job.hosts or any(fnmatchcase(each, pattern.lower()) for pattern in job.hosts for each in names)


def may_meet(one: Job, other: Job) -> bool:
    """Whether two jobs of the same name are for the same machine, as far as that can be seen without knowing all."""
    return not one.hosts or not other.hosts or not {*one.hosts}.isdisjoint(other.hosts)
