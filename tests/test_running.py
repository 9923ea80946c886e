"""Runs that a person starts, follows and ends through the engine; with an engine that the test answers for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron import beginnings, running
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.place import make_place
from sdcron.run_queries import NotAReaderError
from sdcron.runs import Outcome
from sdcron.spool import Spool
from tests.answering import RUN, does, engine, place_with_job
from tests.recorded import NOW_US, keep, recorded

if TYPE_CHECKING:
    from pathlib import Path

    from sdcron.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One with a job."""
    return place_with_job(tmp_path)


def test_a_job_is_started_and_its_run_id_given(place: Place) -> None:
    with engine(place, does(run={"run_id": RUN})) as asked:
        assert running.start(place, "job") == RUN
    assert asked == [{"do": "run", "job": "job"}]


def test_a_job_that_runs_already_is_not_started(place: Place) -> None:
    with engine(place, does(run={"run_id": None})), pytest.raises(SdcronError, match="job runs already") as caught:
        running.start(place, "job")
    assert "sdcron stop job" in caught.value.hint


def test_what_the_engine_refuses_is_raised(place: Place) -> None:
    with engine(place, does(run={"error": "no permission", "hint": "sudo"})), pytest.raises(BackendError) as caught:
        running.start(place, "job")
    assert (caught.value.message, caught.value.hint) == ("no permission", "sudo")


def test_a_job_that_is_not_applied_is_refused_before_anybody_is_asked(place: Place) -> None:
    with engine(place, does()) as asked, pytest.raises(UsageError):
        running.start(place, "other")
    assert asked == []


def test_without_an_engine_it_is_said_how_to_start_one(place: Place) -> None:
    with pytest.raises(BackendError, match="no engine runs here") as caught:
        running.start(place, "job")
    assert caught.value.hint == "start it: sdcron engine"


def test_a_run_is_followed_to_its_end_with_what_it_prints(place: Place) -> None:
    spool = Spool(place.paths.spool_dir, 1 << 20)
    spool.begin("job", RUN, NOW_US)
    spool.write("job", RUN, "stdout", b"one\ntwo\n", NOW_US)
    spool.write("job", RUN, "stderr", b"oh\n", NOW_US)
    spool.say("job", "words of sdcron's", NOW_US, RUN)
    spool.end("job", RUN, NOW_US, "failure: exit status 3")
    spool.close()
    keep(place.paths, [recorded("job", run_id=RUN, outcome=Outcome.FAILURE, stdout=b"one\ntwo\n")])
    shown: list[tuple[str, str]] = []
    with engine(place, does(wait={"run": {}})):
        record = running.follow(place, "job", RUN, lambda stream, text: shown.append((stream, text)))
    assert shown == [("stdout", "one"), ("stdout", "two"), ("stderr", "oh")]
    assert (record.outcome, record.exit_code, record.stdout.kept) == (Outcome.FAILURE, 3, b"one\ntwo\n")


def test_a_run_that_could_not_be_recorded_says_why(place: Place) -> None:
    spool = Spool(place.paths.spool_dir, 1 << 20)
    spool.begin("job", RUN, NOW_US)
    spool.end("job", RUN, NOW_US, "success")
    spool.close()
    with (
        engine(place, does(wait={"run": {}}, sync={"done": False})),
        pytest.raises(SdcronError, match=f"the run {RUN} is not on record"),
    ):
        running.follow(place, "job", RUN, None)


def test_below_a_root_without_an_engine_nothing_is_run(tmp_path: Path) -> None:
    place = make_place(user=False, root=tmp_path, backend="auto")
    with pytest.raises(SdcronError):
        running.start(place, "job")


def unreadable() -> str | None:
    raise NotAReaderError("no permission to read the record", "sudo")


def test_what_is_over_and_may_not_be_seen_is_no_error_but_for_who_wants_to_see_it() -> None:
    assert beginnings.id_of("a", unreadable, lambda: False, begun=False) == beginnings.UNSEEN
    with pytest.raises(NotAReaderError):
        beginnings.id_of("a", unreadable, lambda: False, begun=True)


def test_what_waits_is_not_taken_for_over_where_its_record_may_not_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "_START_SECONDS", 0.1)
    assert beginnings.id_of("a", unreadable, lambda: True, begun=False) == beginnings.PENDING
