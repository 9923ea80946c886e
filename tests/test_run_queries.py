"""How jobs are doing, all about one, and the runs on record: from units, a fake manager and a real database."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sdcron import queries
from sdcron.errors import SdcronError, UsageError
from sdcron.job import Retry
from sdcron.ledger import database
from sdcron.operations import Place
from sdcron.runs import FAILED, Outcome, Trigger
from tests.compiled import compiled, install, paths_below
from tests.fake_backend import FakeBackend
from tests.recorded import HOUR, MINUTE, NOW, SECOND, keep, recorded

JOBS = (
    compiled("backup", "30 2 * * *", description="Dump the database", retry=Retry(timedelta(minutes=5), attempts=2)),
    compiled("by-hand", None),
    compiled("mail", "@hourly", user="tester", timeout=timedelta(hours=2), timezone="Europe/Berlin"),
    compiled("off", enabled=False),
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Four applied jobs."""
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    return Place(paths, other=paths.transient())


@pytest.fixture
def backend(place: Place) -> FakeBackend:
    """A manager that has been booted with them."""
    backend = FakeBackend(place.paths)
    backend.boot()
    return backend


def rows(place: Place, backend: FakeBackend | None, **options: bool) -> dict[str, queries.JobStatusRow]:
    return {row.job: row for row in queries.status(place, backend, NOW, **options)}


def test_without_any_record_every_job_has_a_state_and_no_past(place: Place, backend: FakeBackend) -> None:
    found = rows(place, backend)
    assert {name: row.state for name, row in found.items()} == {
        "backup": "waiting", "by-hand": "by hand", "mail": "waiting", "off": "disabled",
    }  # fmt: skip
    assert all((row.last, row.last_success_at, row.failures) == (None, None, 0) for row in found.values())
    assert found["mail"].next_run == NOW + timedelta(hours=1)


def test_the_last_run_its_failures_and_the_last_success_are_told(place: Place, backend: FakeBackend) -> None:
    success = recorded(ago_us=3 * HOUR)
    failures = [recorded(ago_us=HOUR * hours, outcome=Outcome.FAILURE) for hours in (2, 1)]
    keep(place.paths, [success, *failures, recorded("mail")])
    found = rows(place, backend)
    assert found["backup"].last == failures[1]
    assert found["backup"].failures == 2
    assert found["backup"].last_success_at == NOW - timedelta(hours=3) + timedelta(seconds=2)
    assert (found["mail"].failures, found["by-hand"].last) == (0, None)


def test_what_runs_is_told_with_its_beginning_and_its_run_id(place: Place, backend: FakeBackend) -> None:
    backend.set_active("sdcron-backup.service", "activating")
    backend.running["sdcron-backup.service"] = ("ab" * 16, NOW - timedelta(minutes=3))
    row = rows(place, backend)["backup"]
    assert (row.state, row.running_id, row.running_since) == ("running", "ab" * 16, NOW - timedelta(minutes=3))


def test_a_run_that_ends_in_this_moment_is_running_since_nobody_knows_when(place: Place, backend: FakeBackend) -> None:
    backend.set_active("sdcron-backup.service", "activating")
    row = rows(place, backend)["backup"]
    assert (row.state, row.running_id, row.running_since) == ("running", None, None)


def test_a_retry_that_waits_is_told_with_its_attempt_and_its_time(place: Place, backend: FakeBackend) -> None:
    backend.set_active("sdcron-backup.service", "failed")
    backend.set_active("sdcron-backup@retry-2.timer", "active")
    backend.elapse["sdcron-backup@retry-2.timer"] = NOW + timedelta(minutes=4)
    row = rows(place, backend)["backup"]
    assert row.state == "retry waiting"
    assert row.retry == queries.RetryWait(3, NOW + timedelta(minutes=4))


def test_a_job_that_is_only_on_record_is_told_when_asked_for(place: Place, backend: FakeBackend) -> None:
    keep(place.paths, [recorded("gone")])
    assert "gone" not in rows(place, backend)
    assert rows(place, backend, removed=True)["gone"].state == "removed"
    detail = queries.job_status(place, backend, "gone", NOW)
    assert (detail.row.state, detail.row.last, detail.units) == ("removed", recorded("gone"), ())


def test_a_transient_job_is_among_them(place: Place, backend: FakeBackend) -> None:
    assert place.other is not None
    install(place.other, [compiled("brief")])
    row = rows(place, backend)["brief"]
    assert row.transient
    assert queries.job_status(place, backend, "brief", NOW).row.transient


def test_without_a_manager_times_come_from_the_schedules(tmp_path: Path, place: Place) -> None:
    found = rows(Place(paths_below(tmp_path), offline=True), None)
    assert (found["mail"].state, found["mail"].next_run) == ("waiting", NOW + timedelta(hours=1))
    detail = queries.job_status(place, None, "mail", NOW)
    assert dict(detail.units) == {"sdcron-mail.service": "unknown", "sdcron-mail.timer": "unknown"}


def test_all_about_one_job_is_told(place: Place, backend: FakeBackend) -> None:
    runs = [recorded(ago_us=hours * HOUR, stdout=b"hello\n", stderr=b"oh\n") for hours in range(9, 0, -1)]
    keep(place.paths, runs)
    detail = queries.job_status(place, backend, "backup", NOW, runs=3, times=2)
    assert detail.description == "Dump the database"
    assert detail.schedule == ("30 2 * * *",)
    assert detail.source == "/etc/sdcron/jobs/backup.yaml"
    assert detail.directory == "/etc/sdcron/jobs"
    assert (detail.user, detail.timeout, detail.timezone) == (None, None, None)
    assert detail.retry_delays == (timedelta(minutes=5), timedelta(minutes=5))
    assert dict(detail.units)["sdcron-backup.timer"] == "active"
    assert dict(detail.units)["sdcron-backup@retry-1.timer"] == "inactive"
    assert detail.row.last == runs[-1]
    assert [run.run_id for run in detail.recent] == [run.run_id for run in reversed(runs[-3:])]
    assert all(run.stdout.kept == b"" for run in detail.recent)
    assert detail.next_runs == (
        datetime(2026, 11, 22, 2, 30, tzinfo=UTC), datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
    )  # fmt: skip
    mail = queries.job_status(place, backend, "mail", NOW)
    assert (mail.user, mail.timeout, mail.timezone, mail.description) == ("tester", "2h", "Europe/Berlin", "")


@pytest.mark.parametrize("ask", [queries.job_status, None])
def test_an_unknown_job_is_a_usage_error_with_the_nearest(place: Place, ask: Any) -> None:
    with pytest.raises(UsageError, match="no job called bakup") as caught:
        if ask is None:
            list(queries.history(place, "bakup"))
        else:
            ask(place, None, "bakup", NOW)
    assert caught.value.hint == "did you mean backup?"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b", "x" * 300])
def test_no_name_leads_out_of_the_unit_directory(place: Place, name: str) -> None:
    with pytest.raises(UsageError, match="no job called"):
        queries.job_status(place, None, name, NOW)


def test_the_json_shapes_are_the_documented_ones(place: Place, backend: FakeBackend) -> None:
    keep(place.paths, [recorded(stdout=b"x\n")])
    row = rows(place, backend)["backup"].as_json()
    assert list(row) == [
        "job", "state", "last_run", "last_success_at", "failures", "running_since", "running_id", "running_ids",
        "waits", "next_run_at", "retry", "transient", "paused", "progress", "alarms",
    ]  # fmt: skip
    assert "stdout" not in row["last_run"]
    detail = queries.job_status(place, backend, "backup", NOW).as_json()
    assert list(detail)[: len(row)] == list(row)
    assert list(detail)[len(row) :] == [
        "description", "schedule", "timezone", "source", "directory", "user", "timeout", "retries", "units", "recent",
        "next_runs_at", "after", "needs",
    ]  # fmt: skip
    assert detail["last_run"] == recorded(stdout=b"x\n").as_json()
    assert detail["retries"] == {"delays_s": [300.0, 300.0], "on_exit": []}
    json.dumps(detail)


def test_history_is_filtered_by_everything_it_offers(place: Place) -> None:
    runs = [
        recorded(ago_us=5 * HOUR),
        recorded(ago_us=4 * HOUR, outcome=Outcome.FAILURE, trigger=Trigger.RETRY),
        recorded(ago_us=3 * HOUR, outcome=Outcome.TIMEOUT),
        recorded("mail", ago_us=2 * HOUR, trigger=Trigger.MANUAL),
        recorded(ago_us=MINUTE, stdout=b"out\n"),
    ]
    keep(place.paths, runs)

    def ids(job: str | None = None, **filters: Any) -> list[int]:
        return [[run.run_id for run in runs].index(run.run_id) for run in queries.history(place, job, **filters)]

    assert ids() == [4, 3, 2, 1, 0]
    assert ids("backup", limit=2) == [4, 2]
    assert ids(outcomes=FAILED) == [2, 1]
    assert ids(triggers=[Trigger.RETRY, Trigger.MANUAL]) == [3, 1]
    assert ids(since=NOW - timedelta(hours=4)) == [4, 3, 2, 1]
    assert ids(until=NOW - timedelta(hours=4)) == [0]
    assert ids(run_id=runs[3].run_id[:10]) == [3]
    assert ids(run_id=runs[3].run_id[:10].upper()) == [3]
    assert ids(run_id="0" * 32) == []
    assert [run.stdout.kept for run in queries.history(place, "backup", limit=1, output=True)] == [b"out\n"]
    assert next(queries.history(place, "backup", limit=1)).stdout.kept == b""


def test_a_beginning_that_several_runs_share_is_an_error_that_lists_them(place: Place) -> None:
    keep(place.paths, [recorded("mail", run_id="ab1" + "0" * 29), recorded(run_id="ab2" + "0" * 29)])
    with pytest.raises(UsageError, match=r"ab2000000000 \(backup, .*\); ab1000000000 \(mail, .*\)"):
        list(queries.history(place, run_id="ab"))
    assert [run.job for run in queries.history(place, "mail", run_id="ab")] == ["mail"]


@pytest.mark.parametrize("text", ["xyz", "ab cd", "%", "a" * 33])
def test_what_is_no_run_id_is_a_usage_error(place: Place, text: str) -> None:
    keep(place.paths, [recorded()])
    with pytest.raises(UsageError, match="not the beginning of a run id"):
        list(queries.history(place, run_id=text))


def test_pruning_forgets_runs_and_not_how_the_jobs_are_doing(place: Place, backend: FakeBackend) -> None:
    keep(place.paths, [recorded(ago_us=hours * HOUR, outcome=Outcome.FAILURE) for hours in (50, 40, 30)])
    assert queries.prune(place, NOW - timedelta(hours=35)) == 2
    assert len(list(queries.history(place))) == 1
    assert queries.prune(place, NOW) == 1
    row = rows(place, backend)["backup"]
    assert row.failures == 3
    assert row.last == recorded(ago_us=30 * HOUR, outcome=Outcome.FAILURE)
    assert queries.prune(place, NOW) == 0


def test_nothing_is_made_where_there_is_no_record(place: Place) -> None:
    assert queries.prune(place, NOW) == 0
    assert list(queries.history(place)) == []
    assert list(queries.history(place, "backup", run_id="ab")) == []
    assert not database(place.paths).exists()


def test_a_damaged_record_is_one_clear_error(place: Place, backend: FakeBackend) -> None:
    path = database(place.paths)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, by no means" * 100)
    for ask in (lambda: rows(place, backend), lambda: list(queries.history(place)), lambda: queries.prune(place, NOW)):
        with pytest.raises(SdcronError, match="is damaged") as caught:
            ask()
        assert caught.value.hint.endswith("sudo systemctl restart sdcron-collector")


def test_a_record_that_may_not_be_read_is_one_clear_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(SdcronError, match="no permission to read") as caught:
        list(queries.history(place))
    assert caught.value.hint.startswith("run it as root (sudo), or join its readers")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("1d12h", NOW - timedelta(hours=36)),
        ("today", datetime(2026, 11, 21, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20T10:00:00+02:00", datetime(2026, 11, 20, 8, tzinfo=UTC)),
        ("2026-11-20 10:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
    ],
)
def test_a_time_in_the_past_can_be_written_in_several_ways(tmp_path: Path, text: str, moment: datetime) -> None:
    assert queries.parse_past(paths_below(tmp_path), text, NOW) == moment


@pytest.mark.parametrize("text", ["soon", "0s", "2x", "-2h", "99999999w", "h", "1969-01-01"])
def test_what_is_no_time_in_the_past_is_a_usage_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        queries.parse_past(paths_below(tmp_path), text, NOW)


def test_a_run_that_took_time_is_not_late(place: Place) -> None:
    keep(place.paths, [recorded(took_us=90 * SECOND)])
    [run] = queries.history(place)
    assert (run.duration_us, run.lateness_us) == (90 * SECOND, None)


def test_everything_that_is_offered_is_there() -> None:
    for name in queries.__all__:
        assert getattr(queries, name) is not None
    with pytest.raises(AttributeError):
        _ = queries.nothing_of_the_kind  # type: ignore[attr-defined]  # so it is refused
