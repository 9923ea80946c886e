"""What was read is kept once: in the database and in the log, whatever is killed, full or damaged in between."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from sdcron.backends import LastRun
from sdcron.definition import Definition
from sdcron.errors import BackendError
from sdcron.fold import Fold
from sdcron.ledger import Ledger, position_of
from sdcron.paths import Scope
from sdcron.recorder import Recorder
from sdcron.runs import Outcome, Run
from sdcron.settings import Settings
from sdcron.status_log import StatusLog
from sdcron.store import Store, StoreWriteError
from tests.entries import BOOT, NOON, SECOND, Teller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Entry = dict[str, bytes]


class Tape:
    """Entries that were written down instead of folded; a cursor is the number of one."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, Entry]] = []
        self.first = 0
        """What is before it was vacuumed."""
        self._at = -1
        self.tell = Teller(self)  # type: ignore[arg-type]  # stands in for it

    def feed(self, get: Callable[[str], bytes | None], received_us: int) -> None:
        """Stands in for a Fold where a Teller talks."""
        self.entries.append((received_us, get.__self__))  # type: ignore[attr-defined]  # a method

    def reader(self, cursor: str | None) -> Tape:
        """The same tape from there on."""
        other = Tape()
        other.entries, other.first = self.entries, self.first
        other._at = max(int(cursor) if cursor is not None else -1, self.first - 1)
        return other

    def next(self) -> bool:
        """Go on."""
        if self._at + 1 >= len(self.entries):
            return False
        self._at += 1
        return True

    def get(self, field: str) -> bytes | None:
        """A field."""
        return self.entries[self._at][1].get(field)

    def realtime_us(self) -> int:
        """Its time."""
        return self.entries[self._at][0]

    def cursor(self) -> str:
        """Its number."""
        return str(self._at)


class Collecting:
    """One start of the collector, with real files."""

    def __init__(self, tape: Tape, directory: Path, *, keep: int = 4096, boot: str = BOOT) -> None:
        settings = Settings()
        self.store = Store.create(directory / "runs.db")
        self.log = StatusLog(directory / "log", settings)
        self.fold = Fold(Scope.SYSTEM, 0, lambda _: Definition(keep=keep), self.store.is_recorded)
        meta = self.store.meta()
        self.fold.restore(meta, self.store.open_runs(), self.store.memories())
        self.asked: list[str] = []
        self.known: dict[str, LastRun] = {}
        self.answers = True
        self.ledger = Ledger(self.store, self.log, settings, lambda: NOON)
        self.recorder = Recorder(
            tape.reader(meta.get("cursor")), self.fold, self.ledger, boot_id=boot,
            all_stored=lambda _: self.answers, last_run=self.known.get,
        )  # fmt: skip
        recovery = self.log.recover(position_of(meta.get("log")), self.store.newest_id(), NOON)
        self.ledger.log_again(recovery.append_after)

    def end(self) -> None:
        """Close everything, as an end of the process does."""
        self.store.close()
        self.log.close()


def logged(directory: Path) -> list[dict[str, object]]:
    return [
        json.loads(line) for path in sorted((directory / "log").iterdir()) for line in path.read_bytes().splitlines()
    ]


def recorded(directory: Path) -> list[Run]:
    store = Store.read(directory / "runs.db")
    assert store is not None
    try:
        return list(store.history(output=True))
    finally:
        store.close()


def busy_tape(runs: int, seed: int = 1) -> tuple[Tape, dict[str, tuple[Outcome, bytes]]]:
    """Many runs of some jobs, their entries mixed, and what must be recorded of each."""
    tape, choose = Tape(), random.Random(seed)
    truth: dict[str, tuple[Outcome, bytes]] = {}
    open_runs: dict[str, str] = {}
    while len(truth) < runs or open_runs:
        job = f"job-{choose.randrange(5)}"
        run_id = open_runs.get(job)
        if run_id is None:
            if len(truth) >= runs:
                continue
            run_id = f"{len(truth):032x}"
            open_runs[job] = run_id
            truth[run_id] = (Outcome.SUCCESS, b"")
            tape.tell.starting(job, run_id)
        elif choose.random() < 0.7:
            text = f"{run_id[-4:]} says {choose.randrange(1000)}"
            tape.tell.line(job, text, run_id, stream=f"{run_id}o")
            truth[run_id] = (Outcome.SUCCESS, truth[run_id][1] + text.encode() + b"\n")
        else:
            if choose.random() < 0.3:
                tape.tell.failed(job, run_id)
                truth[run_id] = (Outcome.FAILURE, truth[run_id][1])
            else:
                tape.tell.succeeded(job, run_id)
            del open_runs[job]
    return tape, truth


def assert_true(directory: Path, truth: dict[str, tuple[Outcome, bytes]]) -> None:
    records = recorded(directory)
    assert len(records) == len(truth)
    assert {run.run_id: (run.outcome, run.stdout.kept) for run in records} == truth
    lines = logged(directory)
    assert len(lines) == len(truth)
    assert {str(line["run_id"]): line["stdout"] for line in lines} == {
        run_id: output.decode() for run_id, (_, output) in truth.items()
    }


def test_every_run_is_kept_and_logged_once(tmp_path: Path) -> None:
    tape, truth = busy_tape(200)
    collecting = Collecting(tape, tmp_path)
    assert collecting.recorder.catch_up()
    collecting.end()
    assert_true(tmp_path, truth)


def test_what_has_no_place_in_the_journal_is_not_kept_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape, truth = busy_tape(20)
    monkeypatch.setattr("sdcron.recorder._READ_ENTRIES", 30)
    collecting = Collecting(tape, tmp_path)
    collecting.recorder.step()
    with monkeypatch.context() as lost:
        lost.setattr(Tape, "cursor", Mock(side_effect=BackendError("the entry is gone", "")))
        with pytest.raises(BackendError):
            collecting.recorder.step()
    collecting.end()
    collecting = Collecting(tape, tmp_path)
    assert collecting.recorder.catch_up()
    collecting.end()
    assert_true(tmp_path, truth)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("seed", range(12))
def test_a_collector_that_is_killed_at_any_point_loses_nothing_and_doubles_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape, truth = busy_tape(120, seed)
    choose = random.Random(seed)
    monkeypatch.setattr("sdcron.recorder._READ_ENTRIES", 7)

    def deadly(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            when = choose.random()
            if when < 0.04:
                raise Killed
            result = method(*arguments, **options)
            if when > 0.96:
                raise Killed
            return result

        return call

    for _ in range(1000):
        collecting = Collecting(tape, tmp_path)
        for owner, name in ((collecting.store, "commit"), (collecting.log, "append"), (collecting.recorder, "read")):
            monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
        try:
            done = collecting.recorder.catch_up()
        except Killed:
            collecting.end()
            if choose.random() < 0.3:
                with (tmp_path / "log/job_status.log").open("ab") as stream:
                    stream.write(b'{"schema":1,"job"')
            continue
        collecting.end()
        if done:
            break
    else:
        pytest.fail("it never came to the end")
    assert_true(tmp_path, truth)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape, truth = busy_tape(60)
    choose = random.Random(7)
    monkeypatch.setattr("sdcron.recorder._READ_ENTRIES", 11)

    def full(error: Exception) -> Callable[..., object]:
        def refuse(*_: object, **__: object) -> object:
            raise error

        return refuse

    done = False
    while not done:
        collecting = Collecting(tape, tmp_path)
        if choose.random() < 0.8:
            name, error = choose.choice(
                [("commit", StoreWriteError("runs.db: full")), ("append", OSError(28, "No space left on device"))]
            )
            owner = collecting.store if name == "commit" else collecting.log
            monkeypatch.setattr(owner, name, full(error))
        with suppress(StoreWriteError, OSError):
            done = collecting.recorder.catch_up()
        collecting.end()
    assert_true(tmp_path, truth)


def test_a_record_waits_until_no_more_output_comes(tmp_path: Path) -> None:
    tape = Tape()
    tape.tell.starting("job", "a" * 32)
    tape.tell.line("job", "first", "a" * 32)
    tape.tell.succeeded("job", "a" * 32)
    collecting = Collecting(tape, tmp_path)
    late = iter(["second", "third"])

    def answer(_: float) -> bool:
        text = next(late, None)
        if text is not None:
            tape.tell.line("job", text, "a" * 32)
        return True

    collecting.recorder._all_stored = answer
    assert collecting.recorder.catch_up()
    collecting.end()
    [run] = recorded(tmp_path)
    assert run.stdout.kept == b"first\nsecond\nthird\n"


def test_a_record_says_when_journald_never_told_that_its_output_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = Tape()
    tape.tell.starting("job", "a" * 32)
    tape.tell.succeeded("job", "a" * 32)
    monkeypatch.setattr("sdcron.recorder._GIVE_UP_SECONDS", 0.0)
    collecting = Collecting(tape, tmp_path)
    collecting.answers = False
    collecting.recorder.catch_up()
    collecting.end()
    [run] = recorded(tmp_path)
    assert run.reason == "its output may be incomplete: journald did not answer"


def test_a_run_whose_end_the_journal_lost_is_closed_by_what_systemd_knows(tmp_path: Path) -> None:
    tape = Tape()
    for job, run_id in (("known", "a"), ("forgotten", "b"), ("running", "c")):
        tape.tell.starting(job, run_id * 32)
    collecting = Collecting(tape, tmp_path)
    end = NOON + 90 * SECOND
    collecting.known = {
        "sdcron-known.service": LastRun("a" * 32, False, "exit-code", "exited", 3, end, 5000, None),
        "sdcron-forgotten.service": LastRun("", False),
        "sdcron-running.service": LastRun("c" * 32, True),
    }
    collecting.recorder._last_run = collecting.known.get
    assert collecting.recorder.catch_up()
    collecting.end()
    runs = {run.job: run for run in recorded(tmp_path)}
    assert runs.keys() == {"known", "forgotten"}
    assert (runs["known"].outcome, runs["known"].exit_code, runs["known"].finished_us) == (Outcome.FAILURE, 3, end)
    assert runs["known"].cpu_us == 5000
    assert (runs["forgotten"].outcome, runs["forgotten"].reason) == (Outcome.ABANDONED, "its end is in no journal")


def test_an_old_journal_is_read_without_keeping_its_runs_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcron.recorder._PENDING", 50)
    tape = Tape()
    for number in range(3000):
        run_id = f"{number:032x}"
        tape.tell.starting(f"job-{number % 7}", run_id)
        tape.tell.succeeded(f"job-{number % 7}", run_id)
    collecting = Collecting(tape, tmp_path)
    most, feed = 0, collecting.fold.feed

    def watched(get: Callable[[str], bytes | None], received_us: int) -> None:
        nonlocal most
        feed(get, received_us)
        most = max(most, len(collecting.fold.runs))

    collecting.fold.feed = watched  # type: ignore[method-assign]  # and goes on as before
    assert collecting.recorder.catch_up()
    collecting.end()
    assert most < 50 + 512
    assert len(recorded(tmp_path)) == 3000


def test_forty_days_leave_thirty_days_of_records_a_log_a_day_and_every_jobs_last_run(tmp_path: Path) -> None:
    tape, day = Tape(), 86_400 * SECOND
    tape.tell.starting("seldom", "f" * 32)
    tape.tell.succeeded("seldom", "f" * 32)
    collecting = Collecting(tape, tmp_path)
    clock = NOON
    collecting.ledger._now_us = lambda: clock
    for number in range(40):
        clock = NOON + number * day
        tape.tell.now_us = clock
        tape.tell.starting("daily", f"{number:032x}")
        tape.tell.succeeded("daily", f"{number:032x}")
        assert collecting.recorder.catch_up()
        collecting.ledger._maintained_at = None
        collecting.recorder.maintain_if_due()
    # The days of the clock are counted to the microsecond: the first of the thirty may be on either side.
    kept = [int(run.run_id, 16) for run in collecting.store.history()]
    assert kept == list(range(39, 39 - len(kept), -1))
    assert 30 <= len(kept) <= 31
    statuses = collecting.store.statuses()
    assert statuses["seldom"].last is not None
    assert statuses["seldom"].last.run_id == "f" * 32
    collecting.end()
    logs = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert 30 <= len(logs) <= 32
    assert sorted(int(str(line["run_id"]), 16) for line in logged(tmp_path))[-30:] == sorted(kept)[-30:]


def test_runs_of_another_boot_are_closed_when_the_end_of_the_journal_is_reached(tmp_path: Path) -> None:
    tape = Tape()
    tape.tell.starting("job", "a" * 32)
    first = Collecting(tape, tmp_path)
    assert first.recorder.catch_up()
    first.end()
    assert recorded(tmp_path) == []
    second = Collecting(tape, tmp_path, boot="another boot")
    assert second.recorder.catch_up()
    second.end()
    [run] = recorded(tmp_path)
    assert (run.outcome, run.finished_us) == (Outcome.ABANDONED, None)
