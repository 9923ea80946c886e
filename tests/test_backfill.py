"""Ranges of instants: which due times are in them, by the job's own clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sdcron.backfill import due_instants, read_instant, read_range
from sdcron.errors import UsageError
from sdcron.job import Job, Source
from sdcron.job_text import text_of
from sdcron.local_jobs import LocalJob, write_local
from sdcron.place import make_place
from sdcron.runs import moment_of
from sdcron.schedule import parse_schedule

if TYPE_CHECKING:
    from pathlib import Path

    from sdcron.place import Place

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def place_with(root: Path, schedule: str, timezone: str | None) -> Place:
    """One with a job, `job`, on a machine in UTC."""
    place = make_place(user=False, root=root, backend="local")
    job = Job("job", Source("/jobs/job.yaml"), command=("true",), timezone=timezone)
    parsed = parse_schedule((schedule,), timezone=timezone, local_timezone="UTC", seed="")
    text = text_of(replace(job, schedule=parsed), "/jobs")
    write_local(place.paths, [LocalJob("job", "/jobs", "/jobs/job.yaml", 1, text)])
    return place


@pytest.mark.parametrize(
    ("schedule", "timezone", "text", "expected"),
    [
        ("30 2 * * *", None, "2026-01-01..2026-01-02", ["2026-01-01T02:30", "2026-01-02T02:30"]),
        # The day on which the clocks go back has 25 hours, the one on which they go forward 23.
        ("30 23 * * *", "Europe/Berlin", "2026-10-25..2026-10-25", ["2026-10-25T22:30"]),
        ("30 0 * * *", "Europe/Berlin", "2026-03-29..2026-03-29", ["2026-03-28T23:30"]),
        ("0 0 * * *", "Asia/Kolkata", "2026-01-01..2026-01-02", ["2025-12-31T18:30", "2026-01-01T18:30"]),
        ("0 0 * * *", "Asia/Kolkata", "2026-01-01T00:00Z..2026-01-02T00:00Z", ["2026-01-01T18:30"]),
        ("0 12 * * *", None, "yesterday..today", ["2026-11-21T12:00", "2026-11-22T12:00"]),
        ("0 12 * * *", None, "2d..1d", ["2026-11-20T12:00", "2026-11-21T12:00"]),
    ],
)
def test_a_range_has_the_due_times_of_its_days_by_the_clock_of_the_job(
    schedule: str, timezone: str | None, text: str, expected: list[str], tmp_path: Path
) -> None:
    place = place_with(tmp_path, schedule, timezone)
    limits = read_range(place, "job", text, NOW)
    assert limits is not None
    found = [moment_of(each).strftime("%Y-%m-%dT%H:%M") for each in due_instants(place, "job", *limits)]
    assert found == expected


def test_an_instant_without_an_offset_is_one_of_the_job(tmp_path: Path) -> None:
    place = place_with(tmp_path, "@daily", "Asia/Kolkata")
    assert read_instant(place, "job", "2026-01-01", NOW) == datetime(2025, 12, 31, 18, 30, tzinfo=UTC)
    assert read_range(place, "job", "2026-01-01", NOW) is None


@pytest.mark.parametrize("text", ["..2026-01-01", "2026-01-01..", "2026-01-02..2026-01-01", "x..y", ".."])
def test_what_is_no_range_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_range(place_with(tmp_path, "@daily", None), "job", text, NOW)


def test_a_range_of_very_many_is_refused(tmp_path: Path) -> None:
    place = place_with(tmp_path, "* * * * * *", None)
    with pytest.raises(UsageError, match="more than 100000 times"):
        due_instants(place, "job", datetime(2026, 1, 1, tzinfo=UTC), NOW)
