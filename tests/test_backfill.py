"""Ranges of instants: which due times are in them, by the job's own clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sdcron.backfill import Wanted, due_instants, not_done, read_instant, read_list, read_range
from sdcron.errors import UsageError
from sdcron.job import Job, Parameter, Source
from sdcron.job_text import text_of
from sdcron.local_jobs import LocalJob, write_local
from sdcron.place import make_place
from sdcron.runs import Asked, moment_of
from sdcron.schedule import parse_schedule
from tests.recorded import recorded

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
        ("0 12 * * *", None, "20260101..2026-W01-5", ["2026-01-01T12:00", "2026-01-02T12:00"]),
        # The clocks go back at its end: its last hour comes twice.
        ("30 * * * *", "Asia/Beirut", "2026-10-24T22:45..2026-10-24", ["2026-10-24T20:30", "2026-10-24T21:30"]),
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


def place_with_values(root: Path) -> Place:
    place = place_with(root, "@daily", None)
    job = Job(
        "job", Source("/jobs/job.yaml"), ("x", "{a}", "{b}"), parameters=(Parameter("a", "1"), Parameter("b", "2"))
    )
    write_local(place.paths, [LocalJob("job", "/jobs", "/jobs/job.yaml", 1, text_of(job, "/jobs"))])
    return place


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("job", {}),
        ("job a=v1#2 b=us", {"a": "v1#2", "b": "us"}),
        ("job a=http://x/#frag b=us # a comment", {"a": "http://x/#frag", "b": "us"}),
        ("job a='# none' b=\"#\" #b=3", {"a": "# none", "b": "#"}),
        ("  job\ta='' \\\n", None),
        ("job a='\u2028\x85' b=\\#", {"a": "\u2028\x85", "b": "#"}),
        ("job a=1\r", {"a": "1"}),
    ],
)
def test_a_line_of_a_list_is_read_as_a_shell_reads_words(
    line: str, values: dict[str, str] | None, tmp_path: Path
) -> None:
    place = place_with_values(tmp_path)
    text = f"# first\n\n{line}\n  # last\n"
    if values is None:
        with pytest.raises(UsageError, match="list:3: "):
            read_list(place, text, "list", NOW, "anna")
        return
    [wanted] = read_list(place, text, "list", NOW, "anna")
    assert dict(wanted.asked.values) == values


def test_what_has_succeeded_is_not_done_again_for_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_with_values(tmp_path)
    kept = [recorded("job", asked=Asked("anna", 5, (("b", "3"), ("a", "2"))))]
    monkeypatch.setattr("sdcron.backfill.history", lambda *_, **__: kept)
    monkeypatch.setattr("sdcron.backfill.catch_up", lambda _: None)
    wanted = [Wanted("job", Asked("bert", 5, values)) for values in ((("a", "2"), ("b", "3")), (("a", "2"),), ())]
    assert not_done(place, wanted) == wanted[1:]
    assert not_done(place, []) == []
