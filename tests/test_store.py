"""The database of runs: kept or not at all, found again, forgotten in time, and what a damaged one is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sdcron.errors import SdcronError
from sdcron.runs import Outcome, Output, Run, Trigger, from_json
from sdcron.store import Batch, DamagedStoreError, Store, StoreWriteError, set_aside

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400_000_000


def run(number: int, job: str = "job", outcome: Outcome = Outcome.SUCCESS, **fields: object) -> Run:
    known: dict[str, object] = {"started_us": number * DAY, "finished_us": number * DAY + 5, "host": "h"}
    return Run(job, f"{number:032x}", outcome, **{**known, **fields})  # type: ignore[arg-type]  # the fields of a run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def test_every_field_comes_back_as_it_was(path: Path) -> None:
    whole = Run(
        "job", "f" * 32, Outcome.KILLED, "host", "systemd", Trigger.RETRY, 3, 1, 2, 9, "died of SIGKILL", None,
        "SIGKILL", Output(b"out\xff", 7, True), Output(b"err", 3), 4, 5, 6, 8, "digest",
    )  # fmt: skip
    store = Store.create(path)
    [(row, kept)] = store.commit(Batch(closed=[whole]))
    assert (row, kept) == (1, whole)
    assert list(store.history(output=True)) == [whole]
    assert [found for _, found in store.after(0)] == [whole]
    assert store.statuses("job")["job"].last == whole
    [summary] = store.history()
    assert (summary.stdout.kept, summary.stdout.size, summary.stdout.truncated) == (b"", 7, True)
    store.close()


def test_a_record_goes_through_its_json(path: Path) -> None:
    whole = run(
        3, trigger=Trigger.SCHEDULE, scheduled_us=3 * DAY, cpu_us=1, stdout=Output(b"a\n", 2), next_run_us=5 * DAY
    )
    assert from_json(whole.as_json()) == whole


def test_a_run_that_is_known_is_not_kept_twice(path: Path) -> None:
    store = Store.create(path)
    assert len(store.commit(Batch(closed=[run(1), run(2)]))) == 2
    assert [kept.run_id for _, kept in store.commit(Batch(closed=[run(2), run(3)]))] == [f"{3:032x}"]
    assert store.newest_id() == 3
    store.close()


def test_a_batch_is_kept_whole_or_not_at_all(path: Path) -> None:
    store = Store.create(path)
    with pytest.raises(AttributeError):
        store.commit(Batch(closed=[run(1), "no run"], meta={"cursor": "c"}))  # type: ignore[list-item]  # that is what fails
    assert store.meta() == {}
    assert list(store.history()) == []
    store.close()


def test_history_is_asked_by_job_outcome_trigger_time_and_beginning_of_an_id(path: Path) -> None:
    store = Store.create(path)
    store.commit(
        Batch(
            closed=[
                run(1),
                run(2, outcome=Outcome.FAILURE, trigger=Trigger.RETRY),
                run(3, job="other"),
                run(4, outcome=Outcome.TIMEOUT),
            ]
        )
    )

    def asked(**options: object) -> list[int]:
        return [int(found.run_id, 16) for found in store.history(**options)]  # type: ignore[arg-type]  # its own options

    assert asked() == [4, 3, 2, 1]
    assert asked(job="job", limit=2) == [4, 2]
    assert asked(outcomes=[Outcome.FAILURE, Outcome.TIMEOUT]) == [4, 2]
    assert asked(triggers=[Trigger.RETRY]) == [2]
    assert asked(since_us=2 * DAY, until_us=4 * DAY) == [3, 2]
    assert asked(run_id=f"{3:032x}") == [3]
    assert asked(run_id="0" * 20) == [4, 3, 2, 1]
    assert asked(job="'; DROP TABLE runs; --") == []
    store.close()


def test_failures_in_a_row_and_the_last_success_are_counted_from_success_to_success(path: Path) -> None:
    store = Store.create(path)
    steps = [
        (Outcome.FAILURE, 1, None),
        (Outcome.SKIPPED, 1, None),
        (Outcome.ABANDONED, 2, None),
        (Outcome.SUCCESS, 0, 4 * DAY + 5),
        (Outcome.TIMEOUT, 1, 4 * DAY + 5),
    ]
    for number, (outcome, failures, success) in enumerate(steps, start=1):
        store.commit(Batch(closed=[run(number, outcome=outcome)]))
        status = store.statuses()["job"]
        assert (status.failures, status.last_success_us) == (failures, success)
    store.close()


def test_a_run_that_is_read_long_after_later_ones_does_not_become_the_last(path: Path) -> None:
    store = Store.create(path)
    store.commit(Batch(closed=[run(50)]))
    store.commit(Batch(closed=[run(9, outcome=Outcome.FAILURE)]))
    status = store.statuses()["job"]
    assert status.last is not None
    assert (status.last.run_id, status.failures) == (f"{50:032x}", 0)
    store.close()


@pytest.mark.parametrize(
    "member", [{"attempt": 10**30}, {"memory_peak_bytes": 2**64}, {"job": "\ud800"}, {"reason": 5}]
)
def test_a_record_that_the_database_could_not_hold_is_none(member: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        from_json({**run(1).as_json(), **member})


def test_what_is_too_old_is_forgotten_but_for_each_jobs_last_run(path: Path) -> None:
    store = Store.create(path)
    store.commit(Batch(closed=[run(day, job=f"job-{day % 3}", stdout=Output(b"x", 1)) for day in range(1, 61)]))
    store.commit(Batch(closed=[run(99, job="seldom", started_us=1, finished_us=2)]))
    assert store.prune(31 * DAY) == 30
    assert [int(found.run_id, 16) for found in store.history()][-1] == 31
    assert store.prune(31 * DAY, thorough=True) == 1
    status = store.statuses("seldom")["seldom"]
    assert status.last is not None
    assert int(status.last.run_id, 16) == 99
    assert store.prune(10**18) == 30
    assert store.statuses()["job-0"].last is not None
    store.check()
    store.close()


def test_what_the_collector_remembers_is_kept_with_the_runs(path: Path) -> None:
    store = Store.create(path)
    store.commit(Batch(open_runs={"a": ("job", "state")}, memories={"job": "memory"}, meta={"cursor": "c"}))
    assert (store.open_runs(), store.memories(), store.meta()) == (
        {"a": ("job", "state")},
        {"job": "memory"},
        {"cursor": "c"},
    )
    store.commit(Batch(closed=[Run("job", "a", Outcome.SUCCESS)], dropped=[("job", 7)]))
    assert store.open_runs() == {}
    assert store.memories() == {"job": "memory"}
    assert next(store.history()).dropped_lines == 7
    store.close()


def test_one_can_read_while_another_writes(path: Path) -> None:
    writer = Store.create(path)
    writer.commit(Batch(closed=[run(1)]))
    reader = Store.read(path)
    assert reader is not None
    writer.commit(Batch(closed=[run(2)]))
    assert len(list(reader.history())) == 2
    reader.close()
    writer.close()


def test_there_is_nothing_to_read_before_the_first_run(path: Path) -> None:
    assert Store.read(path) is None
    path.touch()
    assert Store.read(path) is None


@pytest.mark.parametrize("damage", ["text", "middle", "short"])
def test_a_damaged_database_is_told_from_a_whole_one_and_set_aside(path: Path, damage: str) -> None:
    store = Store.create(path)
    store.commit(Batch(closed=[run(number, stdout=Output(b"x" * 900, 900)) for number in range(200)]))
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"this is no database, " * 1000)
    elif damage == "middle":
        content[8192:40960] = os.urandom(32768)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(DamagedStoreError, match=str(path)):
        Store.create(path).check()
    aside = set_aside(path, "20261121T000000Z")
    assert aside.read_bytes() == content
    assert not path.exists()
    Store.create(path).close()


@pytest.mark.parametrize("what", ["deleted", "emptied"])
def test_a_database_that_is_taken_away_from_under_its_writer_is_noticed(path: Path, what: str) -> None:
    store = Store.create(path)
    store.commit(Batch(closed=[run(1)]))
    store.see_that_it_is_there()
    if what == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(DamagedStoreError):
        store.see_that_it_is_there()
    store.close()


def test_jobs_that_are_gone_for_long_are_forgotten(path: Path) -> None:
    store = Store.create(path)
    store.commit(
        Batch(closed=[run(1, job="gone"), run(2, job="applied"), run(50, job="lately")], memories={"gone": "{}"})
    )
    assert store.forget_jobs(30 * DAY, lambda job: job == "applied") == ["gone"]
    assert store.statuses().keys() == {"applied", "lately"}
    assert store.memories() == {}
    store.close()


def test_a_directory_in_the_place_of_the_database_can_be_set_aside(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DamagedStoreError):
        Store.create(path)
    set_aside(path, "x")
    Store.create(path).close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    store = Store.create(path)
    store._connection.execute("PRAGMA user_version = 99")
    store.close()
    for attempt in (Store.create, Store.read):
        with pytest.raises(SdcronError, match="another version"):
            attempt(path)


def test_a_full_disk_is_told_and_leaves_the_database_whole(path: Path) -> None:
    store = Store.create(path)
    store.commit(Batch(closed=[run(1)]))
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreWriteError, match="full"):
        store.commit(Batch(closed=[run(2, stdout=Output(b"x" * 100_000, 100_000))], meta={"cursor": "c"}))
    assert (store.newest_id(), store.meta()) == (1, {})
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert len(store.commit(Batch(closed=[run(2)]))) == 1
    store.check()
    store.close()
