"""Runs that a person starts, follows and ends through the engine; with an engine that the test answers for."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sdcron import running
from sdcron.engine_socket import listening
from sdcron.errors import BackendError, SdcronError, UsageError
from sdcron.job import Job, Source
from sdcron.job_text import text_of
from sdcron.local_jobs import LocalJob, write_local
from sdcron.place import Place, make_place
from sdcron.runs import Outcome
from sdcron.spool import Spool
from tests.recorded import NOW_US, keep, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUN = "a" * 32


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One with a job."""
    found = make_place(user=False, root=tmp_path, backend="local")
    job = Job("job", Source("/jobs/job.yaml"), command=("true",))
    write_local(found.paths, [LocalJob("job", "/jobs", "/jobs/job.yaml", 1, text_of(job, "/jobs"))])
    return found


@contextmanager
def engine(place: Place, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Answers in the engine's place, until it is asked no more; what it was asked."""
    asked: list[dict[str, Any]] = []
    over = threading.Event()
    with listening(place.paths.engine_dir) as listener:
        listener.settimeout(0.02)

        def serve() -> None:
            while not over.is_set():
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    continue
                connection.settimeout(10)
                request = json.loads(connection.recv(65536))
                asked.append(request)
                connection.sendall(json.dumps(answer(request)).encode() + b"\n")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            over.set()
            thread.join(15)
            assert not thread.is_alive()


def does(**answers: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers by what is asked for."""
    return lambda request: answers.get(request["do"], {"done": True})


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


@pytest.mark.parametrize("do", [running.start, running.stop])
def test_a_job_that_is_not_applied_is_refused_before_anybody_is_asked(
    place: Place, do: Callable[[Place, str], object]
) -> None:
    with engine(place, does()) as asked, pytest.raises(UsageError):
        do(place, "other")
    assert {request["do"] for request in asked} <= {"state"}


@pytest.mark.parametrize("do", [running.start, running.stop])
def test_without_an_engine_it_is_said_how_to_start_one(place: Place, do: Callable[[Place, str], object]) -> None:
    with pytest.raises(BackendError, match="no engine runs here") as caught:
        do(place, "job")
    assert caught.value.hint == "start it: sdcron engine"


@pytest.mark.parametrize("kill", [False, True])
def test_a_job_is_stopped_and_its_end_waited_for(place: Place, kill: bool) -> None:
    with engine(place, does(stop={"run_ids": [RUN, "b" * 32]}, wait={"run": {}})) as asked:
        assert running.stop(place, "job", kill=kill) == (RUN, "b" * 32)
    assert asked == [
        {"do": "stop", "job": "job", "kill": kill},
        {"do": "wait", "run_id": RUN},
        {"do": "wait", "run_id": "b" * 32},
    ]


def test_a_job_that_does_not_run_is_nothing_to_stop(place: Place) -> None:
    with engine(place, does(stop={"run_ids": []})) as asked:
        assert running.stop(place, "job") == ()
    assert len(asked) == 1


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
