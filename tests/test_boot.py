"""What an earlier boot left undone: which retries are owed, and how they are armed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sdcron.apply import Applier
from sdcron.boot import Owed, arm, not_given_up, owed_retries
from sdcron.files import Files
from sdcron.installed import read_installed
from sdcron.job_memory import Memory
from sdcron.jobfile import Context
from sdcron.jobset import read_paths
from sdcron.paths import Scope, system_paths
from sdcron.pauses import Pause
from sdcron.plan import make_plan
from sdcron.store import Batch, Store
from sdcron.units import compile_job
from tests.fake_backend import FakeBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.paths import Paths


NOW = 1_000_000_000_000


def owed_by(tmp_path: Path, **memories: Memory) -> list[Owed]:
    store = Store.create(tmp_path / "runs.db")
    store.commit(Batch(memories={job: json.dumps(memory.as_json()) for job, memory in memories.items()}))
    try:
        return list(owed_retries(store, "now", NOW))
    finally:
        store.close()


def test_retries_that_waited_and_runs_that_were_cut_off_are_owed_and_nothing_else(tmp_path: Path) -> None:
    found = owed_by(
        tmp_path,
        cut_off=Memory(started_us=NOW - 5, owed=2),
        waited=Memory(started_us=NOW - 5, retry=3, retry_manager="before:1"),
        waits_now=Memory(started_us=NOW - 5, retry=1, retry_manager="now:1"),
        given_up_by_hand=Memory(started_us=NOW - 5, retry=1, retry_manager="before:1", retry_stopped=True),
        long_ago=Memory(started_us=NOW - 8 * 86_400_000_000, owed=1),
        fine=Memory(),
    )
    assert [(owed.job, owed.number) for owed in found] == [("cut_off", 2), ("waited", 3)]
    assert [owed.why for owed in found] == [
        "the machine went down while it ran",
        "the machine went down while it waited",
    ]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return system_paths(tmp_path)


@pytest.fixture
def backend(paths: Paths, tmp_path: Path) -> Iterator[FakeBackend]:
    """A manager with one job applied that has two retries, and one that is disabled."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    text = "command: /bin/false\nretry: {delay: 5m, attempts: 2}\n"
    (jobs / "job.yaml").write_text(text)
    (jobs / "idle.yaml").write_text(text + "enabled: false\n")
    read = read_paths([jobs], Context())
    compiled = [compile_job(job, directory=str(jobs), scope=Scope.SYSTEM, state_dir="/s") for job in read.jobs]
    backend = FakeBackend(paths)
    plan = make_plan(compiled, read_installed(paths), {}, directories=[str(jobs)])
    Applier(paths, backend).carry_out(plan)
    backend.calls.clear()
    yield backend


def test_arming_writes_the_number_first_and_starts_the_timer(paths: Paths, backend: FakeBackend) -> None:
    told: list[str] = []
    assert arm(
        paths, backend, Owed("job", 2, "the machine went down while it ran"), lambda *what: told.append(": ".join(what))
    )
    assert backend.mutations() == ["start sdcron-job@retry-2.timer"]
    assert (paths.runtime_dir / "retry/job").read_text() == "2\n"
    assert told == ["job: the machine went down while it ran: retry 2 of 2 is waiting"]


def test_arming_twice_arms_once(paths: Paths, backend: FakeBackend) -> None:
    assert arm(paths, backend, Owed("job", 1, ""), lambda *_: None)
    assert not arm(paths, backend, Owed("job", 1, ""), lambda *_: None)
    assert backend.mutations() == ["start sdcron-job@retry-1.timer"]


@pytest.mark.parametrize("owed", [Owed("gone", 1, ""), Owed("idle", 1, ""), Owed("job", 3, "")])
def test_a_job_that_is_gone_disabled_or_has_no_such_retry_any_more_is_left_alone(
    paths: Paths, backend: FakeBackend, owed: Owed
) -> None:
    assert not arm(paths, backend, owed, lambda *_: None)
    assert backend.mutations() == []
    assert not (paths.runtime_dir / "retry").exists()


def test_a_job_that_was_changed_since_owes_nothing(paths: Paths, backend: FakeBackend) -> None:
    assert not arm(paths, backend, Owed("job", 1, "", digest="another digest"), lambda *_: None)
    job = read_installed(paths).jobs["job"]
    assert arm(paths, backend, Owed("job", 1, "", digest=job.digest), lambda *_: None)


def test_what_a_pause_has_given_up_is_not_owed_after_a_later_boot_either(paths: Paths) -> None:
    mine, yours = Owed("mine", 1, "", 7), Owed("yours", 1, "", 8)
    Files().write(paths.paused_dir / "mine", Pause("2027-01-01T00:00:00+00:00", "me").text())
    assert not_given_up(paths, [mine, yours]) == (yours,)
    (paths.paused_dir / "mine").unlink()
    assert not_given_up(paths, [mine, yours]) == (yours,)
    # Another run of it is another matter, and nothing is left behind.
    assert not_given_up(paths, [Owed("mine", 1, "", 9)]) == (Owed("mine", 1, "", 9),)
    assert not (paths.state_dir / "given-up.json").exists()


def test_a_retry_that_systemd_refuses_leaves_no_number_behind(paths: Paths, backend: FakeBackend) -> None:
    backend.refused.add("sdcron-job@retry-1.timer")
    assert not arm(paths, backend, Owed("job", 1, ""), lambda *_: None)
    assert not (paths.runtime_dir / "retry/job").exists()
