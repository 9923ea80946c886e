"""How much the collector holds in memory does not grow with what there is to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.test_recorder import Collecting, Tape, logged, recorded

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sdcron.runs import Run
    from sdcron.store import Batch


def held(collecting: Collecting) -> int:
    """Bytes of output of the runs whose records are not closed."""
    return sum(run.stdout.held + run.stderr.held for run in collecting.fold.runs.values())


def read_all(collecting: Collecting, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, list[list[Run]]]:
    """Read to the end; returns the most runs and bytes that were held before a commit, and the records of each."""
    runs, size, kept = 0, 0, []
    commit = collecting.store.commit

    def watched(batch: Batch) -> list[tuple[int, Run]]:
        nonlocal runs, size
        runs, size = max(runs, len(collecting.fold.runs)), max(size, held(collecting))
        kept.append(batch.closed)
        return commit(batch)

    monkeypatch.setattr(collecting.store, "commit", watched)
    monkeypatch.setattr("sdcron.recorder._READ_ENTRIES", 512)
    assert collecting.recorder.catch_up()
    collecting.end()
    return runs, size, kept


def test_an_old_journal_of_many_runs_is_read_with_few_of_them_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = Tape()
    for number in range(6000):
        tape.tell.at(number / 10)
        tape.tell.starting(f"job-{number % 7}", f"{number:032x}")
        tape.tell.succeeded(f"job-{number % 7}", f"{number:032x}")
    runs, _, kept = read_all(Collecting(tape, tmp_path), monkeypatch)
    assert runs < 1000  # those of a minute, and what is read between two looks
    assert sum(map(len, kept)) == 6000


def test_a_thousand_runs_of_one_minute_with_much_output_are_not_all_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdcron.recorder._PENDING_BYTES", 256 * 1024)
    monkeypatch.setattr("sdcron.open_runs._BATCH_BYTES", 64 * 1024)
    tape = Tape()
    for number in range(1000):
        tape.tell.at(number * 0.06)
        run_id = f"{number:032x}"
        tape.tell.starting("job", run_id)
        tape.tell.line("job", "x" * 3000, run_id, stream=run_id)
        tape.tell.succeeded("job", run_id)
    _, size, kept = read_all(Collecting(tape, tmp_path), monkeypatch)
    # Of ten seconds, and of what is read between two looks.
    assert size < 1000 * 3000 / 2
    assert max(sum(len(run.stdout.kept) for run in records) for records in kept) < 64 * 1024 + 3001
    assert len(recorded(tmp_path)) == len(logged(tmp_path)) == 1000


def test_runs_that_all_end_at_once_are_kept_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcron.open_runs._BATCH", 20)
    tape = Tape()
    for number in range(100):
        tape.tell.starting(f"job-{number}", f"{number:032x}")
    for number in range(100):
        tape.tell.succeeded(f"job-{number}", f"{number:032x}")
    _, _, kept = read_all(Collecting(tape, tmp_path), monkeypatch)
    assert max(map(len, kept)) == 20
    assert len(recorded(tmp_path)) == len(logged(tmp_path)) == 100
