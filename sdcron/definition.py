"""What the applied units of one job say that its records need: its times, its retries, what of its output is kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.errors import SdcronError
from sdcron.installed import read_one
from sdcron.job import NOT_RUN, Overlap
from sdcron.messages import uid_of
from sdcron.output import KEEP, Patterns, compile_patterns
from sdcron.record import look
from sdcron.units import service_name, timer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdcron.installed_job import InstalledJob
    from sdcron.paths import Paths
    from sdcron.record import Look
    from sdcron.schedule import Schedule

_MICROSECOND = timedelta(microseconds=1)
_KEPT = 2000
"""Jobs whose definition stays in memory."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One job as it is applied. Lengths are microseconds."""

    digest: str | None = None
    timer_digest: str | None = None
    schedule: Schedule | None = None
    boot: bool = False
    """Whether it has a timer that waits for a boot."""
    boot_delay_us: int = 1_000_000
    persistent: bool = True
    accuracy_us: int = 1_000_000
    retry_delays_us: tuple[int, ...] = ()
    retry_on_exit: tuple[int, ...] = ()
    success_exit: bool = False
    """Whether other exit statuses than 0 are a success too, but for that of a run without its locks."""
    keep: int = KEEP
    patterns: Patterns = ()
    overlap: Overlap = Overlap.SKIP
    max_parallel: int = 1
    uid: int = 0
    """Whose processes run it; -1 for a user that there is not."""

    @property
    def has_times(self) -> bool:
        """Whether there is more to its schedule than boots."""
        return self.schedule is not None and bool(self.schedule.entries)


class Definitions:
    """The definitions of one scope, read when a run needs one and kept as long as the job's units look the same."""

    def __init__(
        self, places: Sequence[Paths], schedule_of: Callable[[Paths, InstalledJob], Schedule | None], uid: int = 0
    ) -> None:
        """`places` are where jobs may be applied, persistent ones first; `uid` is whose manager it is."""
        # As text: looking at a job's units is a good part of what a run costs.
        self._places = [(paths, str(unit_dir)) for paths in places for unit_dir in paths.unit_dirs]
        self._schedule_of = schedule_of
        self._uid = uid
        self._known: dict[str, tuple[tuple[Look | None, ...], Definition]] = {}

    def __call__(self, job: str) -> Definition | None:
        """The job as it is applied now; None if it is not."""
        for paths, unit_dir in self._places:
            looks = (look(f"{unit_dir}/{service_name(job)}"), look(f"{unit_dir}/{timer_name(job)}"))
            if looks[0] is None:
                continue
            known = self._known.get(job)
            if known is not None and known[0] == looks:
                return known[1]
            installed = read_one(paths, job)
            if installed is None:
                continue
            definition = self._define(paths, installed)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[job] = (looks, definition)
            return definition
        return None

    def _define(self, paths: Paths, job: InstalledJob) -> Definition:
        schedule = None
        with suppress(SdcronError):  # edited by hand to something that is no schedule
            schedule = self._schedule_of(paths, job)
        offset = schedule.offset // _MICROSECOND if schedule is not None else 0
        return Definition(
            digest=job.digest,
            timer_digest=job.units.get(timer_name(job.name), "").rpartition("Digest=")[2].strip() or None,
            schedule=schedule if job.active else None,
            boot=job.boot,
            boot_delay_us=1_000_000 + offset,
            persistent=job.persistent,
            accuracy_us=job.accuracy // _MICROSECOND,
            retry_delays_us=tuple(delay // _MICROSECOND for delay in job.retry_delays),
            retry_on_exit=job.retry_on_exit,
            success_exit=job.directive("SuccessExitStatus") not in ("", str(NOT_RUN)),
            keep=job.output_keep,
            patterns=compile_patterns(job.redact),
            overlap=job.overlap,
            max_parallel=job.max_parallel,
            uid=uid_of(job.user, self._uid),
        )
