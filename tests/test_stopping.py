"""Runs that a person ends: what a word means, and that all of it ends together, by an engine and by systemd."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sdcron import stopping
from sdcron.errors import BackendError, UsageError
from sdcron.operations import make_place
from sdcron.runs import Asked, Outcome
from sdcron.stopping import Target
from tests.answering import RUN, does, engine, place_with_job
from tests.fake_backend import FakeBackend, Loaded
from tests.recorded import NOW_US, keep, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.place import Place

OTHER = "b" * 32
STATE = {"running": {"job": [[RUN, 1]], "gone": [[OTHER, 2]]}}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One with a job that the engine runs."""
    return place_with_job(tmp_path)


def test_a_job_that_is_not_applied_is_refused_before_anything_is_stopped(place: Place) -> None:
    with engine(place, does(state=STATE)) as asked, pytest.raises(UsageError, match="no job called other"):
        stopping.target_of(place, "other")
    assert {request["do"] for request in asked} <= {"state"}


def test_without_an_engine_it_is_said_how_to_start_one(place: Place) -> None:
    with pytest.raises(BackendError, match="no engine runs here") as caught:
        stopping.stop(place, [Target("job")])
    assert caught.value.hint == "start it: sdcron engine"


@pytest.mark.parametrize("kill", [False, True])
def test_a_job_is_stopped_and_its_end_waited_for(place: Place, kill: bool) -> None:
    with engine(place, does(stop={"run_ids": [RUN, OTHER]}, wait={"run": {}})) as asked:
        assert stopping.stop(place, [Target("job")], kill=kill) == {"job": (RUN, OTHER)}
    assert asked == [
        {"do": "stop", "job": "job", "run_id": "", "kill": kill},
        {"do": "wait", "run_id": RUN},
        {"do": "wait", "run_id": OTHER},
    ]


def test_a_run_that_is_named_twice_is_told_of_once(place: Place) -> None:
    with engine(place, does(stop={"run_ids": [RUN]}, wait={"run": {}})):
        assert stopping.stop(place, [Target("job"), Target("job", RUN)]) == {"job": (RUN,)}


def test_a_job_that_does_not_run_is_nothing_to_stop(place: Place) -> None:
    with engine(place, does(stop={"run_ids": []})) as asked:
        assert stopping.stop(place, [Target("job")]) == {}
    assert len(asked) == 1


def test_a_name_goes_before_a_run_and_that_before_a_process(place: Place) -> None:
    whose = {"job": "job", "run_id": RUN}
    with engine(place, does(state=STATE, whose=whose)) as asked:
        meant = {text: stopping.target_of(place, text) for text in ("job", "gone", RUN, OTHER, "4711")}
    assert meant == {
        "job": Target("job"),
        "gone": Target("gone"),  # removed while it ran
        RUN: Target("job", RUN),
        OTHER: Target("gone", OTHER),
        "4711": Target("job", RUN),
    }
    assert asked[-1] == {"do": "whose", "pid": 4711}


@pytest.mark.parametrize("text", ["c" * 32, "4711", "0", "4294967296"])
def test_what_is_of_no_run_is_said_to_be_so(place: Place, text: str) -> None:
    nobodys = {"job": None, "run_id": None}
    with engine(place, does(state=STATE, whose=nobodys)), pytest.raises(UsageError, match="no run"):
        stopping.target_of(place, text)


class Systemd:
    """A service manager in which sdcron and others have units; what was stopped is in its `calls`."""

    def __init__(self, place: Place) -> None:
        self.backend = FakeBackend(place.paths)
        began = datetime(2027, 1, 1, tzinfo=UTC)
        for name in (
            "sdcron-job.service",
            "sdcron-other.service",
            "sdcron-foreign.service",
            "sdcron-collector.service",
        ):
            self.backend.memory[name] = Loaded("[Service]", "active")
            self.backend.running[name] = (RUN if name == "sdcron-job.service" else OTHER, began)
        self.backend.memory["sdcron-gone.service"] = Loaded(None, "active")
        self.backend.running["sdcron-gone.service"] = (OTHER[:-1] + "c", began)
        self.backend.queued = ["sdcron-waits.service", "sdcron-foreign.service", "sdcron-job@retry.service"]
        self.backend.processes = {
            10: "sdcron-job.service",
            11: "sdcron-foreign.service",
            12: "sdcron-collector.service",
            13: "session-1.scope",
            14: "sdcron-job@retry.service",
            15: "sdcron-gone.service",
        }

    def stopped(self) -> list[str]:
        """The names, in order."""
        return [name for step, name in self.backend.calls if step == "stop"]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Place, Systemd]:
    place = make_place(user=False, root=tmp_path, backend="systemd")
    manager = Systemd(place)

    @contextmanager
    def connect(_: Place) -> Iterator[FakeBackend]:
        yield manager.backend

    monkeypatch.setattr(stopping, "connect", connect)
    monkeypatch.setattr(stopping, "applied_jobs", lambda _: dict.fromkeys(["job", "other", "waits", "idle"]))

    def find_job(_: Place, name: str) -> _Named:
        if name not in ("job", "other", "waits", "idle"):
            raise UsageError(f"no job called {name} is applied here", "see the applied ones: sdcron list")
        return _Named(name)

    monkeypatch.setattr(stopping, "find_job", find_job)
    return place, manager


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_all_that_runs_is_sdcrons_own_jobs_and_starts_that_wait(systemd: tuple[Place, Systemd]) -> None:
    place, _ = systemd
    runs = {"gone": (OTHER[:-1] + "c",), "job": (RUN,), "other": (OTHER,), "waits": ()}
    assert stopping.under_way(place) == runs


def test_a_process_of_a_run_means_that_run_and_any_other_nothing(systemd: tuple[Place, Systemd]) -> None:
    place, _ = systemd
    assert stopping.target_of(place, "10") == Target("job", RUN)
    assert stopping.target_of(place, "15") == Target("gone", OTHER[:-1] + "c")
    for pid in ("11", "12", "13", "14", "16"):
        with pytest.raises(UsageError, match="is of no run"):
            stopping.target_of(place, pid)
    with pytest.raises(UsageError, match="is of no run"):
        stopping.target_of(place, "9" * 30)


def test_one_run_is_stopped_only_while_it_is_that_run(systemd: tuple[Place, Systemd]) -> None:
    place, manager = systemd
    assert stopping.stop(place, [Target("job", OTHER), Target("idle")]) == {}
    assert manager.stopped() == []
    assert stopping.stop(place, [Target("job", RUN), Target("waits")]) == {"job": (RUN,), "waits": ()}
    assert manager.stopped() == ["sdcron-job.service", "sdcron-waits.service"]


def test_what_is_to_come_again_is_a_regular_run_that_did_not_end_well(place: Place) -> None:
    killed, well, single = (letter * 32 for letter in "def")
    keep(
        place.paths,
        [
            recorded("job", outcome=Outcome.KILLED, run_id=killed),
            recorded("job", run_id=well),
            recorded("job", outcome=Outcome.KILLED, run_id=single, asked=Asked("anna", NOW_US)),
        ],
    )
    with engine(place, does()):
        assert stopping.are_not_owed(place, "job", [well, single])
        assert not stopping.are_not_owed(place, "job", [well, killed])
        assert not stopping.are_not_owed(place, "job", [OTHER])
