"""What is applied in a place, whoever runs it: jobs in systemd's units, or those of the local engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sdcron.installed import read_installed, read_one
from sdcron.local_jobs import read_local

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from sdcron.paths import Paths


class AppliedJob(Protocol):
    """What is asked of one applied job; InstalledJob and LocalJob say what each of these means."""

    @property
    def name(self) -> str: ...  # noqa: D102 - see InstalledJob, here and below
    @property
    def directory(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def units(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def unit_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def active(self) -> bool: ...  # noqa: D102
    @property
    def schedule(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def timezone(self) -> str | None: ...  # noqa: D102
    @property
    def spread(self) -> timedelta: ...  # noqa: D102
    @property
    def calendar_timers(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def user(self) -> str | None: ...  # noqa: D102
    @property
    def time_limit(self) -> str | None: ...  # noqa: D102
    @property
    def retry_delays(self) -> tuple[timedelta, ...]: ...  # noqa: D102
    @property
    def retry_on_exit(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def redact(self) -> tuple[str, ...]: ...  # noqa: D102


def applied_jobs(paths: Paths, *, retries: bool = True) -> Mapping[str, AppliedJob]:
    """All that is applied, by name. Without `retries` what it says of them is left out. Raises SdcronError."""
    return read_local(paths) if paths.local else read_installed(paths, retries=retries).jobs


def applied_one(paths: Paths, name: str) -> AppliedJob | None:
    """One job; None if it is not applied. Raises SdcronError."""
    return read_local(paths).get(name) if paths.local else read_one(paths, name)
