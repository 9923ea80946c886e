"""What the engine keeps while a disk is full, a log cannot be written or a database is damaged: all, and in bounds."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sdcron import engine_keep
from sdcron.engine_keep import LOST_OUTPUT, Keeper
from sdcron.errors import LockHeldError
from sdcron.ledger import database, set_store_aside
from sdcron.settings import Settings
from sdcron.status_log import StatusLog
from sdcron.store import Batch, Store, StoreWriteError
from tests.compiled import paths_below
from tests.recorded import HOUR, MINUTE, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sdcron.paths import Paths
    from sdcron.runs import Run
    from sdcron.status_log import Position


class Room:
    """A keeper, its clock, what it told, and what can be made to go wrong."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: Paths = paths_below(root)
        self.told: list[str] = []
        self.now = 1000.0
        self.full = False
        self.unwritable = False
        self.unrotatable = False
        self.commits = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        commit, append, rotate = Store.commit, StatusLog.append, StatusLog.rotate_if_due

        def committed(store: Store, batch: Batch) -> list[tuple[int, Run]]:
            self.commits += 1
            if self.full:
                raise StoreWriteError("runs.db: database or disk is full", "free space there")
            return commit(store, batch)

        def appended(log: StatusLog, lines: Sequence[tuple[int, bytes]], now_us: int) -> Position:
            if self.unwritable:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(log.path))
            return append(log, lines, now_us)

        def rotated(log: StatusLog, now_us: int) -> bool:
            if self.unrotatable:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(log.path))
            return rotate(log, now_us)

        monkeypatch.setattr(Store, "commit", committed)
        monkeypatch.setattr(StatusLog, "append", appended)
        monkeypatch.setattr(StatusLog, "rotate_if_due", rotated)
        self.keeper = Keeper(self.paths, Settings(), self.told.append)

    def keep(self, *runs: Run, **others: Any) -> list[Run]:
        """One step of the engine."""
        return self.keeper.keep(Batch(closed=list(runs), **others))

    def state(self) -> tuple[bool, bool]:
        """Whether all is kept, and whether something cannot be written."""
        return self.keeper.is_complete, self.keeper.is_behind

    def stored(self) -> list[str]:
        """The jobs of the records in the database, in order."""
        store = Store.read(database(self.paths))
        assert store is not None
        try:
            return [run.job for run in store.history()][::-1]
        finally:
            store.close()

    def logged(self) -> list[str]:
        """The same of the log."""
        log = self.paths.log_dir / "job_status.log"
        return [json.loads(line)["job"] for line in log.read_text().splitlines()]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    found = Room(tmp_path, monkeypatch)
    with found.keeper:
        yield found


# A disk that is full


def test_while_the_disk_is_full_records_wait_and_are_written_once_when_there_is_room(room: Room) -> None:
    room.full = True
    for name in "abc":
        assert room.keep(recorded(name)) == []
        room.now += 0.1
    room.full = False
    room.now += 60
    assert [run.job for run in room.keep()] == ["a", "b", "c"]
    assert room.stored() == room.logged() == ["a", "b", "c"]
    assert room.keep() == []


def test_a_full_disk_is_told_once_and_so_is_its_end(room: Room) -> None:
    room.full = True
    for number in range(100):
        room.keep(recorded(f"job-{number}"))
        room.now += 1
    room.full = False
    room.now += 60
    room.keep()
    room.keep(recorded("last"))
    what = "runs.db: database or disk is full"
    assert room.told == [
        f"runs cannot be recorded: {what}; jobs run all the same, and it is tried again until it works",
        "records are written again",
    ]
    room.full = True
    room.keep(recorded("again"))
    assert len(room.told) == 3


def test_a_full_disk_is_tried_less_and_less_often(room: Room) -> None:
    room.full = True
    for _ in range(3000):
        room.keep(recorded())
        room.now += 0.1
    assert 10 <= room.commits <= 20


def test_what_changes_while_it_waits_is_kept_as_it_is_at_last(room: Room) -> None:
    room.full = True
    begun = recorded("a")
    room.keep(open_runs={begun.run_id: ("a", "first"), "b" * 32: ("b", "first")}, memories={"a": "first", "b": "x"})
    room.keep(open_runs={begun.run_id: ("a", "second")}, memories={"a": "second"})
    room.keep(begun, memories={"a": "third"})
    room.full, room.now = False, room.now + 60
    room.keep()
    store = room.keeper.ledger.store
    assert store.open_runs() == {"b" * 32: ("b", "first")}
    assert store.memories() == {"a": "third", "b": "x"}
    assert room.stored() == ["a"]


def test_whether_all_is_kept_can_be_asked(room: Room) -> None:
    assert room.state() == (True, False)
    room.full = True
    room.keep(recorded("a"))
    assert room.state() == (False, True)
    room.full, room.now = False, room.now + 60
    room.keep()
    assert room.state() == (True, False)


def test_a_record_is_found_also_while_it_waits(room: Room) -> None:
    one, other = recorded("a"), recorded("b")
    room.keep(one)
    room.full = True
    room.keep(other)
    assert [found.job for run in (one, other) if (found := room.keeper.find(run.run_id))] == ["a", "b"]
    assert room.keeper.find("f" * 32) is None


def test_output_that_waits_too_long_is_let_go_of_the_oldest_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_keep, "_WAITING_BYTES", 10_000)
    room.full = True
    for number in range(30):
        room.keep(recorded(f"job-{number:02d}", ago_us=number * MINUTE, stdout=b"o" * 600, stderr=b"e" * 400))
        assert sum(len(run.stdout.kept) + len(run.stderr.kept) for run in room.keeper._waiting.closed) <= 11_000
    room.full, room.now = False, room.now + 60
    room.keep()
    found = list(room.keeper.ledger.store.history(output=True))[::-1]
    assert [len(run.stdout.kept) for run in found] == [0] * 20 + [600] * 10
    assert found[0].reason == LOST_OUTPUT
    assert (found[0].stdout.size, found[0].stdout.truncated) == (600, True)
    assert found[-1].reason == ""


def test_records_that_wait_too_long_are_lost_in_the_middle_and_it_is_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keep, "_WAITING_RECORDS", 10)
    monkeypatch.setattr(engine_keep, "_WAITING_BYTES", 200)
    room.full = True
    for number in range(40):
        room.keep(recorded(f"{number}", ago_us=(50 - number) * MINUTE, stdout=b"x" * 30))
        assert len(room.keeper._waiting.closed) <= 11
    room.full, room.now = False, room.now + 60
    room.keep()
    assert room.stored() == room.logged() == [*map(str, range(5)), *map(str, range(35, 40))]
    assert room.told[-1] == "records are written again; 30 that had to wait too long are lost"


def test_a_run_that_the_database_has_as_open_is_closed_there_however_much_had_to_wait(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keep, "_WAITING_RECORDS", 10)
    begun = recorded("first", ago_us=99 * MINUTE)
    room.keep(open_runs={begun.run_id: ("first", "{}")})
    room.full = True
    room.keep(begun)
    for number in range(40):
        room.keep(recorded(f"{number}", ago_us=(50 - number) * MINUTE))
    room.full, room.now = False, room.now + 60
    room.keep()
    assert room.keeper.ledger.store.open_runs() == {}
    assert room.stored()[0] == "first"


# A log that cannot be written


def test_while_the_log_cannot_be_written_the_database_has_every_step_at_once(room: Room) -> None:
    room.unwritable = True
    for name in "abc":
        assert [run.job for run in room.keep(recorded(name), memories={name: "kept"})] == [name]
        room.now += 0.1
        assert room.stored()[-1] == name
    assert room.state() == (True, True)
    assert room.logged() == []


def test_the_log_gets_what_it_lacks_once_and_in_order(room: Room) -> None:
    room.keep(recorded("before"))
    room.unwritable = True
    for name in "abc":
        room.keep(recorded(name))
        room.now += 7
    room.unwritable, room.now = False, room.now + 60
    room.keep()
    room.keep(recorded("after"))
    assert room.logged() == room.stored() == ["before", "a", "b", "c", "after"]
    assert len(room.told) == 2
    assert room.told[0].startswith("status logs cannot be written: ")
    assert "Read-only file system" in room.told[0]
    assert room.told[1] == "records are written again"


def test_the_log_gets_what_it_lacks_also_when_nothing_runs_any_more(room: Room) -> None:
    room.unwritable = True
    room.keep(recorded("a"))
    room.unwritable = False
    for _ in range(3):
        room.now += 1
        room.keep()
    assert room.logged() == ["a"]


def test_a_log_that_cannot_be_rotated_loses_no_record(room: Room) -> None:
    room.unrotatable = True
    assert [run.job for run in room.keep(recorded("a"))] == ["a"]
    assert [run.job for run in room.keep(recorded("b"))] == ["b"]
    assert room.stored() == room.logged() == ["a", "b"]


def test_a_log_that_can_neither_be_rotated_nor_written_loses_no_record(room: Room) -> None:
    room.unrotatable = room.unwritable = True
    room.keep(recorded("a"))
    room.keep(recorded("b"))
    assert room.stored() == ["a", "b"]
    room.unrotatable = room.unwritable = False
    room.now += 60
    room.keep()
    assert room.logged() == ["a", "b"]


def test_a_directory_where_the_log_should_be_loses_no_record_and_doubles_none(room: Room) -> None:
    room.keep(recorded("a"))
    log = room.paths.log_dir / "job_status.log"
    log.rename(log.with_suffix(".old"))
    log.mkdir()
    heard = [run.job for name in "bc" for run in room.keep(recorded(name))]
    assert heard == ["b", "c"]
    assert room.stored() == ["a", "b", "c"]
    log.rmdir()
    room.now += 60
    room.keep()
    assert room.logged() == ["b", "c"]
    assert room.keeper.is_complete


def test_a_log_and_a_database_that_fail_in_turn_are_both_told_of(room: Room) -> None:
    room.unwritable = True
    room.keep(recorded("a"))
    room.full = True
    room.now += 60
    room.keep(recorded("b"))
    room.full = False
    room.now += 60
    room.keep(recorded("c"))
    room.unwritable = False
    room.now += 60
    room.keep()
    assert [text.partition(":")[0] for text in room.told] == [
        "status logs cannot be written",
        "runs cannot be recorded",
        "records are written again",
    ]
    assert room.stored() == room.logged() == ["a", "b", "c"]


# A database that is damaged


def damage(room: Room) -> None:
    """Write over what SQLite has on disk, and what it would go on with."""
    path = database(room.paths)
    for suffix in ("", "-wal"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.write_bytes(b"\xff" * max(file.stat().st_size, 8192))


def test_a_database_that_is_damaged_under_the_engine_is_made_anew_with_all_that_the_log_has(room: Room) -> None:
    for number in range(20):
        room.keep(recorded(f"{number}", stdout=b"x" * 5000), memories={f"{number}": "text"})
    room.keeper.ledger.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(room)
    room.keep(recorded("after"), memories={"after": "text"})
    room.keeper.maintain(lambda _job: True)
    assert room.keeper.begins_anew
    room.keep()
    assert sorted(room.stored()) == sorted([*map(str, range(20)), "after"])
    assert any("set aside" in text for text in room.told)
    assert len([text for text in room.told if "set aside" in text]) == 1
    assert room.keeper.is_complete


def test_a_database_that_was_deleted_is_noticed_and_made_anew(room: Room) -> None:
    room.keep(recorded("a"))
    for path in list(room.paths.runs_dir.glob("runs.db*")):
        path.unlink()
    room.keeper.maintain(lambda _job: True)
    assert room.keeper.begins_anew
    room.keep(recorded("b"))
    assert sorted(room.stored()) == ["a", "b"]


def test_a_database_that_cannot_be_made_anew_now_is_tried_again_and_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.keep(recorded("a"))
    real = set_store_aside

    def refuse(_paths: Paths) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "runs.db")

    monkeypatch.setattr(engine_keep, "set_store_aside", refuse)
    for path in list(room.paths.runs_dir.glob("runs.db*")):
        path.unlink()
    room.keeper.maintain(lambda _job: True)
    assert [text for text in room.told if text.startswith("runs cannot be recorded: runs.db: Read-only")]
    assert room.keep(recorded("b")) == []
    assert room.keeper.find("f" * 32) is None
    room.keeper.take_notes()
    monkeypatch.setattr(engine_keep, "set_store_aside", real)
    room.now += 60
    room.keep(recorded("c"))
    assert sorted(room.stored()) == ["a", "b", "c"]
    assert room.told[-1] == "records are written again"


def test_a_state_directory_that_vanishes_stops_nothing(room: Room) -> None:
    room.keep(recorded("a"))
    shutil.rmtree(room.paths.runs_dir)
    for name in "bcd":
        room.keep(recorded(name))
        room.keeper.maintain(lambda _job: True)
        room.now += 700
    room.keep()
    assert sorted(room.stored()) == ["a", "b", "c", "d"]


# Besides


def test_two_keepers_of_one_scope_do_not_write_at_the_same_time(room: Room) -> None:
    with pytest.raises(LockHeldError), Keeper(room.paths, Settings(), room.told.append):
        raise AssertionError("both hold the lock")


def test_a_step_of_nothing_writes_nothing(room: Room) -> None:
    room.keep(recorded("a"))
    room.keep()
    before = room.commits
    for _ in range(10):
        room.keep()
    assert room.commits == before


def test_what_somebody_did_to_the_log_is_told(room: Room) -> None:
    room.keep(recorded("a"))
    (room.paths.log_dir / "job_status.log").unlink()
    room.keep(recorded("b"))
    room.keeper.take_notes()
    assert any("moved or deleted" in text for text in room.told)


def test_maintenance_that_fails_is_told_and_tried_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise StoreWriteError("runs.db: database or disk is full", "")

    room.keep(recorded("a"))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "forget_jobs", refuse)
        assert room.keeper.maintain(lambda _job: True) == []
    assert room.told[0].startswith("runs cannot be recorded")
    room.now += 60
    room.keep(recorded("b"))
    assert room.told[-1] == "records are written again"


def test_jobs_of_which_nothing_is_known_any_more_are_named(room: Room) -> None:
    room.keep(recorded("a", ago_us=400 * 24 * HOUR), memories={"a": "text", "b": "text"})
    assert room.keeper.maintain(lambda job: job == "b") == ["a"]
    assert room.keeper.ledger.store.memories() == {"b": "text"}
    assert room.keeper.maintain(lambda _job: False) == []


def test_other_settings_hold_from_then_on(room: Room) -> None:
    room.keeper.use(replace(Settings(), max_size=1 << 16))
    for number in range(40):
        room.keep(recorded(f"{number}", ago_us=number * MINUTE, stdout=b"x" * 4000))
    assert 0 < len(room.logged()) < 20
