"""What runs say of themselves in the journal: how it is read, of whom it is believed, and what of it is kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from sdcron.definition import Definition
from sdcron.fold import Fold
from sdcron.job_answers import progress_of
from sdcron.log_lines import Assembly
from sdcron.open_run import OpenRun
from sdcron.output import compile_patterns
from sdcron.paths import Scope
from sdcron.reports import LONGEST_ALARM, MOST_ALARMS, note_alarm, note_progress
from sdcron.runs import Alarm, from_json, moment_of
from tests.entries import NOON, Teller

A, B = "a" * 32, "b" * 32


class Place:
    """A Fold of jobs that run as user 33, and one run of `job`."""

    def __init__(self, scope: Scope = Scope.SYSTEM, uid: int = 0) -> None:
        self.definition = Definition(uid=33, patterns=compile_patterns(("secret-\\d",)))
        self.fold = Fold(scope, uid, lambda _: self.definition, lambda _: False)
        self.tell = Teller(self.fold)
        self.tell.starting("job", A)

    def said(self, run_id: str = A) -> tuple[float | None, list[str]]:
        """What is done, by the last word of a run, and its alarms."""
        run = self.fold.runs.get(run_id)
        return (run.progress[0] if run and run.progress else None, [text for _, text in run.alarms] if run else [])

    def report(self, **fields: str) -> None:
        """An entry as sdk.py makes it, from within the run unless `fields` say otherwise; empty ones are not there."""
        known = {
            "SYSLOG_IDENTIFIER": "sdcron-job", "_TRANSPORT": "journal", "MESSAGE": "x", "_UID": "33",
            "_SYSTEMD_UNIT": "sdcron-job.service", "_SYSTEMD_INVOCATION_ID": A, "SDCRON_RUN_ID": A,
        }  # fmt: skip
        self.tell.feed(**{name: text for name, text in {**known, **fields}.items() if text})


GONE = {"_SYSTEMD_UNIT": "", "_SYSTEMD_INVOCATION_ID": ""}
"""What journald adds for a process that was over before it looked."""


def test_a_run_tells_of_its_progress_and_its_alarms() -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="13/77")
    place.report(SDCRON_ALARM="the disk is full of secret-5")
    assert place.said() == (13, ["the disk is full of [redacted]"])
    place.report(SDCRON_PROGRESS="14/")
    assert place.fold.runs[A].progress == (14, None, place.tell.now_us)
    place.tell.succeeded("job", A)
    [run] = place.fold.ended()
    place.fold.close(run)
    [record] = place.fold.changes().closed
    assert [alarm.text for alarm in record.alarms] == ["the disk is full of [redacted]"]
    assert from_json(json.loads(record.line())) == record


def test_progress_alone_is_kept_as_output_is_and_an_alarm_at_once() -> None:
    place = Place()
    place.fold.changes()
    place.report(SDCRON_PROGRESS="1/2")
    assert place.fold.only_output_grew
    assert json.loads(place.fold.changes().open_runs[A][1])["progress"][:2] == [1, 2]
    place.report(SDCRON_ALARM="now")
    assert not place.fold.only_output_grew


def test_both_outlive_a_collector() -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="1/2", SDCRON_ALARM="now")
    batch = place.fold.changes()
    other = Fold(Scope.SYSTEM, 0, lambda _: place.definition, lambda _: False)
    other.restore(batch.meta, dict(batch.open_runs), batch.memories)
    run = other.runs[A]
    assert (list(run.progress or ())[:2], [text for _, text in run.alarms]) == ([1, 2], ["now"])
    assert run.close(None).alarms == (Alarm(run.alarms[0][0], "now"),)


@pytest.mark.parametrize(
    "fields",
    [
        {"_SYSTEMD_UNIT": "sdcron-other.service"},
        {"_SYSTEMD_UNIT": "session-3.scope"},
        {"_SYSTEMD_UNIT": "user@33.service"},
        {"_SYSTEMD_INVOCATION_ID": B, "_SYSTEMD_UNIT": "sdcron-other.service"},
        {**GONE, "_UID": "34"},
        {**GONE, "_UID": ""},
        {**GONE, "SDCRON_RUN_ID": B},
        {**GONE, "SDCRON_RUN_ID": ""},
        {"SYSLOG_IDENTIFIER": "job"},
        {"SYSLOG_IDENTIFIER": "sdcron-collector"},
    ],
)
def test_nobody_else_is_believed(fields: dict[str, str]) -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="1/2", SDCRON_ALARM="x", **fields)
    assert place.said() == (None, [])


def test_whoever_is_of_one_run_cannot_speak_for_another() -> None:
    place = Place()
    place.tell.starting("other", B)
    place.report(SDCRON_PROGRESS="1/2", _SYSTEMD_UNIT="sdcron-other.service", _SYSTEMD_INVOCATION_ID=B)
    assert (place.said(A), place.said(B)) == ((None, []), (1, []))


def test_who_was_gone_is_believed_if_he_was_of_the_runs_user() -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="1/2", **GONE)
    assert place.said() == (1, [])
    place.report(SDCRON_PROGRESS="2/2", _SYSTEMD_INVOCATION_ID="")
    assert place.said() == (2, [])


def test_a_run_may_speak_before_systemd_says_that_it_starts() -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="3/4", _SYSTEMD_UNIT="sdcron-early.service", _SYSTEMD_INVOCATION_ID=B)
    place.tell.starting("early", B)
    assert place.said(B) == (3, [])


def test_a_run_with_a_unit_of_its_own_is_heard_once_it_is_known() -> None:
    place = Place()
    place.report(SDCRON_PROGRESS="3/4", _SYSTEMD_UNIT="sdcron-job@1795340191259175.service")
    assert place.said() == (3, [])
    place.report(SDCRON_PROGRESS="3/4", _SYSTEMD_UNIT="sdcron-job@retry.service", _SYSTEMD_INVOCATION_ID=B)
    assert B not in place.fold.runs


def test_in_a_users_scope_only_the_user_is_heard() -> None:
    place = Place(Scope.USER, 1000)
    run = place.fold.runs[A] = OpenRun("job", A, "")
    ours = {"_SYSTEMD_UNIT": "user@1000.service", "_SYSTEMD_USER_UNIT": "sdcron-job.service"}
    place.report(SDCRON_PROGRESS="1/2", **ours)
    assert run.progress is None
    place.report(SDCRON_PROGRESS="1/2", **ours, _UID="1000")
    assert run.progress is not None


@pytest.mark.parametrize("value", [b"", b"x", b"-1/2", b"1/2/3", b"1e9/2", b"1" * 16, b"1.2345", b" 1/2", b"1/2\n"])
def test_what_is_no_progress_is_none(value: bytes) -> None:
    run = OpenRun("job", A, "")
    assert not note_progress(run, value, 5)
    assert run.progress is None


@pytest.mark.parametrize(
    ("value", "progress"), [(b"5", (5, None, 7)), (b"5/", (5, None, 7)), (b"2.5/5.125", (2.5, 5.125, 7))]
)
def test_progress_is_read(value: bytes, progress: tuple[float, float | None, int]) -> None:
    run = OpenRun("job", A, "")
    assert note_progress(run, value, 7)
    assert run.progress == progress


def test_alarms_are_few_short_and_on_one_line() -> None:
    run = OpenRun("job", A, "")
    assert note_alarm(run, b" a\n b\xff ", (), 1) == "a b\\xff"
    assert note_alarm(run, b" \n", (), 1) == ""
    for number in range(100):
        note_alarm(run, b"x" * 5000, (), number)
    assert len(run.alarms) == MOST_ALARMS
    assert {len(text) for _, text in run.alarms[1:]} == {LONGEST_ALARM}


# What is told of them


def test_the_end_is_estimated_by_what_was_done_so_far() -> None:
    since = moment_of(NOON)
    at_us = NOON + 60_000_000
    found = progress_of([25, 100, at_us], since)
    assert found is not None
    assert (found.percent, found.ends_at) == (25, since + timedelta(seconds=240))
    assert found.as_json()["done"] == 25
    for told in ([0, 100, at_us], [100, 100, at_us], [7, None, at_us], [5, 100, NOON], [1e-3, 1e14, at_us]):
        found = progress_of(told, since)
        assert found is not None
        assert found.ends_at is None
    assert progress_of([150, 100, at_us], None).percent == 100  # type: ignore[union-attr]  # it is progress
    for nothing in ([], [1, 2], [None, 2, 3], [1, 2, None]):
        assert progress_of(nothing, since) is None


def test_logs_show_alarms_and_no_progress() -> None:
    assembly = Assembly("job", user=False, uids=(0, 33), patterns=compile_patterns(("secret",)))

    def lines(**fields: str) -> list[tuple[str, str, str | None]]:
        known = {"SYSLOG_IDENTIFIER": "sdcron-job", "_UID": "33", "MESSAGE": "x", **fields}
        entry = {name: text.encode() for name, text in known.items()}
        return [(line.stream, line.text, line.run_id) for line in assembly.take(entry.get, NOON)]

    ours = {"_SYSTEMD_UNIT": "sdcron-job.service", "_SYSTEMD_INVOCATION_ID": A}
    assert lines(SDCRON_PROGRESS="1/2", **ours) == []
    assert lines(SDCRON_ALARM="a secret", SDCRON_RUN_ID=B, **ours) == [("sdcron", "alarm: a [redacted]", A)]
    assert lines(SDCRON_ALARM="gone", SDCRON_RUN_ID=A) == [("sdcron", "alarm: gone", A)]
    assert lines(SDCRON_ALARM="forged", SDCRON_RUN_ID=A, _UID="1000") == []
    assert lines(SDCRON_ALARM="forged", _SYSTEMD_UNIT="session-1.scope") == []


def test_the_moment_of_an_alarm_is_told() -> None:
    assert datetime.fromisoformat(Alarm(NOON, "x").as_json()["at"]) == datetime(2026, 6, 22, 12, tzinfo=UTC)
