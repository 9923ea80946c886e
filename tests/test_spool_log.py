"""The output of a job is read back as it was printed: a run, the last lines, or as it comes, also over rotations."""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcron.errors import BackendError, UsageError
from sdcron.render_log import LogPrinter
from sdcron.runs import Outcome, moment_of
from sdcron.spool import Spool
from sdcron.spool_lines import PIECE
from sdcron.spool_log import LAST_RUN_LINES, LONGEST_LINE, logs
from tests.recorded import recorded
from tests.test_spool import LARGE, NEXT, NOON, RUN, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdcron.log_lines import LogLine
    from sdcron.runs import Run

SECOND = 1_000_000
THIRD = "c" * 32


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    with closing(Spool(directory, LARGE)) as spool:
        yield spool


def run(spool: Spool, run_id: str, when_us: int, *texts: str, job: str = "backup", end: str = "success") -> None:
    """One run that prints a line a second."""
    spool.begin(job, run_id, when_us)
    for number, text in enumerate(texts, 1):
        spool.write(job, run_id, "stdout", f"{text}\n".encode(), when_us + number * SECOND)
    if end:
        spool.end(job, run_id, when_us + (len(texts) + 1) * SECOND, end)


def three_runs(spool: Spool) -> None:
    run(spool, RUN, NOON, "one", "two")
    run(spool, NEXT, NOON + 10 * SECOND, "three", "four", end="failure: exit status 3")
    spool.say("backup", "retry 1 of 3 is waiting", NOON + 14 * SECOND)
    run(spool, THIRD, NOON + 20 * SECOND, "five", "six", "seven", end="")


ALL = [
    ("start", ""), ("stdout", "one"), ("stdout", "two"), ("end", "success"),
    ("start", ""), ("stdout", "three"), ("stdout", "four"), ("end", "failure: exit status 3"),
    ("sdcron", "retry 1 of 3 is waiting"),
    ("start", ""), ("stdout", "five"), ("stdout", "six"), ("stdout", "seven"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ALL[9:]),
        ({"lines": 0}, []),
        ({"lines": 2}, ALL[11:]),
        ({"lines": 4}, ALL[8:]),
        ({"lines": 6}, ALL[5:]),
        ({"lines": 8}, ALL[1:]),
        ({"lines": 100}, ALL),
        ({"run": "bb"}, ALL[4:8]),
        ({"run": NEXT.upper()}, ALL[4:8]),
        ({"run": "c" * 8}, ALL[9:]),
        ({"since": moment_of(NOON + 11 * SECOND)}, ALL[5:]),
        ({"since": moment_of(NOON + 11 * SECOND), "lines": 2}, ALL[11:]),
        ({"since": moment_of(NOON - 11 * SECOND)}, ALL),
        ({"since": moment_of(NOON + HOUR)} if (HOUR := 3600 * SECOND) else {}, []),
    ],
)
def test_what_is_asked_for_is_shown(
    spool: Spool, directory: Path, options: dict[str, Any], shown: list[tuple[str, str]]
) -> None:
    three_runs(spool)
    assert told(logs(directory, "backup", **options)) == shown


def test_a_line_has_its_time_its_stream_and_its_run(spool: Spool, directory: Path) -> None:
    three_runs(spool)
    spool.write("backup", THIRD, "stderr", b"no\xff\n", NOON + 30 * SECOND + 7)
    line = list(logs(directory, "backup"))[-1]
    assert (line.when, line.stream, line.text) == (moment_of(NOON + 30 * SECOND + 7), "stderr", "no\\xff")
    assert (line.run_id, line.event, line.run) == (THIRD, None, None)
    said = next(line for line in logs(directory, "backup", lines=99) if line.stream == "sdcron" and not line.event)
    assert said.run_id is None


def test_what_sdcron_says_after_the_last_run_is_shown_with_it(spool: Spool, directory: Path) -> None:
    run(spool, RUN, NOON, "one")
    spool.say("backup", "gave up after 3 retries", NOON + 9 * SECOND)
    assert told(logs(directory, "backup"))[-2:] == [("end", "success"), ("sdcron", "gave up after 3 retries")]


def test_of_a_long_last_run_the_end_is_shown_and_how_to_see_the_rest(spool: Spool, directory: Path) -> None:
    run(spool, NEXT, NOON, *map(str, range(LAST_RUN_LINES)))
    assert len(list(logs(directory, "backup"))) == LAST_RUN_LINES + 2
    run(spool, NEXT, NOON, *map(str, range(LAST_RUN_LINES + 5)))
    shown = told(logs(directory, "backup"))
    hint = "[… 7 lines left out; all: sdcron logs backup --run bbbbbbbb]"
    assert shown[:3] == [("start", ""), ("sdcron", hint), ("stdout", "6")]
    assert (len(shown), shown[-1]) == (LAST_RUN_LINES + 2, ("end", "success"))


@pytest.mark.parametrize("asked", [{}, {"run": "a"}])
def test_a_run_whose_beginning_is_gone_says_so(directory: Path, asked: dict[str, Any]) -> None:
    with closing(Spool(directory, 4000)) as spool:
        run(spool, RUN, NOON, *(f"line {number}" for number in range(200)))
    shown = told(logs(directory, "backup", **asked))
    assert shown[0] == ("sdcron", "[… the beginning of this run is not kept any more]")
    assert 20 < len(shown) < 100
    assert shown[-2:] == [("stdout", "line 199"), ("end", "success")]


def test_runs_side_by_side_are_told_apart(spool: Spool, directory: Path) -> None:
    spool.begin("backup", RUN, NOON)
    spool.begin("backup", NEXT, NOON)
    for run_id in (RUN, NEXT, RUN, NEXT):
        spool.write("backup", run_id, "stdout", b"begun ", NOON)
    for run_id in (NEXT, RUN):
        spool.write("backup", run_id, "stdout", run_id[:1].encode() * PIECE, NOON)
        spool.write("backup", run_id, "stdout", run_id[:1].encode() * PIECE, NOON)
    spool.end("backup", RUN, NOON, "success")
    spool.write("backup", NEXT, "stdout", b"\n", NOON)
    spool.end("backup", NEXT, NOON, "success")
    for run_id in (RUN, NEXT):
        text = "begun begun " + run_id[0] * PIECE * 2
        assert told(logs(directory, "backup", run=run_id)) == [("start", ""), ("stdout", text), ("end", "success")]
    assert {line.run_id for line in logs(directory, "backup")} == {NEXT}
    [*_, line, end] = logs(directory, "backup", lines=1)
    assert (line.text, end.event) == (text, "end")


def test_a_line_that_is_not_over_is_shown_as_far_as_it_is_stored(spool: Spool, directory: Path) -> None:
    spool.begin("backup", RUN, NOON)
    spool.write("backup", RUN, "stdout", b"x" * (PIECE + 9), NOON)
    assert told(logs(directory, "backup")) == [("start", ""), ("stdout", "x" * PIECE)]
    assert told(logs(directory, "backup", lines=1)) == [("stdout", "x" * PIECE)]


def test_the_last_lines_are_whole_and_as_many_as_asked_for(spool: Spool, directory: Path) -> None:
    spool.begin("backup", RUN, NOON)
    texts = [str(number) * size for number, size in enumerate((9, PIECE * 3, 5, LONGEST_LINE + 7, PIECE * 2, 1), 1)]
    for text in texts:
        spool.write("backup", RUN, "stdout", f"{text}\n".encode(), NOON)
    lines = [text[at : at + LONGEST_LINE] for text in texts for at in range(0, len(text), LONGEST_LINE)]
    for count in range(1, len(lines) + 1):
        assert [text for _, text in told(logs(directory, "backup", lines=count))] == lines[-count:]


@settings(max_examples=60)
@given(st.data())
def test_the_last_lines_are_the_end_of_all_lines(data: st.DataObject) -> None:
    keep = data.draw(st.sampled_from([3000, 20_000, LARGE]))
    with tempfile.TemporaryDirectory() as name, closing(Spool(Path(name), keep)) as spool:
        for number in range(data.draw(st.integers(1, 30))):
            run_id = data.draw(st.sampled_from([RUN, NEXT]))
            size = data.draw(st.sampled_from([1, 200, 5000, PIECE + 1]))
            what = data.draw(st.sampled_from(["begin", "write", "write", "write", "rest", "say", "end"]))
            if what == "begin":
                spool.begin("backup", run_id, NOON + number)
            elif what in ("write", "rest"):
                # The beginning of a line that is stored before its end comes is a matter of its own: see above.
                size = size if what == "write" else size % PIECE
                text = f"{number} " + "x" * size + "\n" * (what == "write")
                spool.write("backup", run_id, data.draw(st.sampled_from(["stdout", "stderr"])), text.encode(), NOON)
            elif what == "say":
                spool.say("backup", f"{number}", NOON + number)
            else:
                spool.end("backup", run_id, NOON + number, "success")
        every = list(logs(Path(name), "backup", lines=10_000))
        lines = [index for index, line in enumerate(every) if line.event is None]
        for count in range(1, len(lines) + 1):
            assert list(logs(Path(name), "backup", lines=count)) == every[lines[-count] :]
        for run_id in {line.run_id for line in every if line.run_id}:
            of_run = [line for line in logs(Path(name), "backup", run=run_id) if "beginning of this" not in line.text]
            assert of_run == [line for line in every if line.run_id == run_id]


def test_the_last_lines_of_a_large_file_are_read_without_the_rest(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Spool(directory, 64 << 20)) as spool:
        spool.begin("backup", RUN, NOON)
        for _ in range(300):
            spool.write("backup", RUN, "stdout", b"a line of the flood\n" * 1000, NOON)
        run(spool, NEXT, NOON + SECOND, "one", "two")
    sizes = []
    really = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        block = really(descriptor, size, offset)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(os, "pread", counted)
    assert (directory / "backup.log").stat().st_size > 20 << 20
    asked: list[dict[str, Any]] = [{"lines": 10}, {}, {"since": moment_of(NOON + SECOND)}]
    for options in asked:
        sizes.clear()
        assert len(list(logs(directory, "backup", **options))) >= 4
        assert sum(sizes) < 1 << 20


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ("x1", "x1 is not the beginning of a run id", "see them: sdcron history backup"),
        ("f", "no run of backup that begins with f is in its output on disk", "--run f --output"),
        ("a", "several runs of backup begin with a: aaaaaaaaaaaa (", "write more of it"),
    ],
)
def test_a_run_that_is_not_there_is_refused(spool: Spool, directory: Path, asked: str, message: str, hint: str) -> None:
    run(spool, RUN, NOON)
    run(spool, "a" * 31 + "1", NOON)
    with pytest.raises(UsageError) as caught:
        list(logs(directory, "backup", run=asked))
    assert caught.value.message.startswith(message)
    assert caught.value.hint.endswith(hint)


@pytest.mark.parametrize("job", ["nothing", "../output/backup", "..", "", "-x", "a\0b"])
def test_an_unknown_job_is_refused_and_a_known_one_that_never_ran_has_printed_nothing(
    spool: Spool, directory: Path, job: str
) -> None:
    run(spool, RUN, NOON)
    assert list(logs(directory, job)) == []
    with pytest.raises(UsageError, match="no job called"):
        list(logs(directory, job, known=False))
    assert told(logs(directory, "backup", known=False)) == [("start", ""), ("end", "success")]


def test_what_may_not_be_read_is_told_with_what_to_do_and_leaves_nothing_open(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Spool(directory, 1000)) as spool:
        run(spool, RUN, NOON, *["x" * 100] * 9)
    before = len(list(Path("/proc/self/fd").iterdir()))
    really = os.open

    def refused(path: Path, flags: int) -> int:
        if str(path).endswith("~"):
            return really(path, flags)
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(BackendError, match="no permission to read"):
            list(logs(directory, "backup"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_end_of_a_run_comes_with_its_record_and_can_be_printed_without(
    spool: Spool, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spool, RUN, NOON, "one")
    record = recorded(run_id=RUN)
    records: list[Callable[[str], Run | None] | None] = [None, lambda _: None, lambda _: record]
    ends = [list(logs(directory, "backup", record_of=record_of))[-1] for record_of in records]
    assert [line.run for line in ends] == [None, None, record]
    monkeypatch.setattr("sdcron.render.is_terminal", lambda _: True)
    printer = LogPrinter()
    for line in ends:
        printer(line)
    plain, _, full = capsys.readouterr().out.splitlines()
    assert "success" in plain
    assert "took 2.0s, by schedule" in full


class _Waiting:
    """Stands for the time between two looks: in each, the next step is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
        self._steps = iter(steps)
        self.over = False
        self.slept = 0.0
        really = time.monotonic
        monkeypatch.setattr("sdcron.spool_log.time.sleep", self._sleep)
        monkeypatch.setattr("sdcron.spool_log.time.monotonic", lambda: really() + self.slept)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        step = next(self._steps, None)
        if step is None:
            assert not self.over, "it goes on after its end"
            self.over = True
        else:
            step()

    def ending(self) -> bool:
        return self.over


def test_following_goes_on_with_what_comes(spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_runs(spool)
    waiting = _Waiting(
        monkeypatch,
        lambda: spool.write("backup", THIRD, "stdout", b"eight\nni", NOON),
        lambda: None,
        lambda: spool.write("backup", THIRD, "stdout", b"ne\n", NOON),
        lambda: spool.end("backup", THIRD, NOON, "success"),
        lambda: run(spool, RUN, NOON, "ten"),
    )
    shown = told(logs(directory, "backup", follow=True, ending=waiting.ending))
    assert shown[:4] == ALL[9:]
    assert [text or kind for kind, text in shown[4:]] == ["eight", "nine", "success", "start", "ten", "success"]


@pytest.mark.parametrize("options", [{"lines": 0}, {"lines": 3}, {"since": moment_of(NOON)}, {}])
def test_following_a_job_that_never_ran_shows_its_first_run(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    waiting = _Waiting(monkeypatch, lambda: None, lambda: three_runs(spool))
    assert told(logs(directory, "backup", follow=True, ending=waiting.ending, **options)) == ALL


def test_following_one_run_ends_with_it(spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_runs(spool)
    record = recorded(run_id=THIRD)
    records: list[Run] = []
    _Waiting(
        monkeypatch,
        lambda: run(spool, RUN, NOON, "of another run"),
        lambda: spool.write("backup", THIRD, "stdout", b"x" * PIECE * 2, NOON),
        lambda: spool.end("backup", THIRD, NOON, "success"),
        lambda: records.append(record),
    )
    lines = list(logs(directory, "backup", run="cc", follow=True, record_of=lambda _: (*records, None)[0]))
    assert told(lines) == [*ALL[9:], ("stdout", "x" * PIECE * 2), ("end", "success")]
    assert lines[-1].run is record
    assert told(logs(directory, "backup", run="cc", follow=True)) == told(lines)


def test_following_a_run_whose_end_was_not_written_ends_when_it_is_on_record(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_runs(spool)
    records: list[Run] = []
    _Waiting(
        monkeypatch,
        *[lambda: spool.say("backup", "of no run", NOON)] * 20,
        lambda: records.append(recorded(run_id=THIRD, outcome=Outcome.ABANDONED, reason="cut off")),
        *[lambda: None] * 20,
    )
    lines = list(logs(directory, "backup", run="c", follow=True, record_of=lambda _: (*records, None)[0]))
    assert told(lines) == [*ALL[9:], ("end", "abandoned: cut off")]
    assert lines[-1].run is records[0]


def test_following_looks_five_times_a_second(spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(spool, RUN, NOON)
    waiting = _Waiting(monkeypatch, *[lambda: None] * 9)
    list(logs(directory, "backup", follow=True, ending=waiting.ending))
    assert waiting.slept == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["delete", "empty", "forget"])
def test_following_survives_that_the_file_is_taken_away(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run(spool, RUN, NOON, "one")
    take_away = {
        "delete": (directory / "backup.log").unlink,
        "empty": lambda: os.truncate(directory / "backup.log", 0),
        "forget": lambda: spool.forget("backup"),
    }[how]
    waiting = _Waiting(monkeypatch, take_away, lambda: None, lambda: run(spool, NEXT, NOON, "two"))
    shown = told(logs(directory, "backup", follow=True, ending=waiting.ending))
    assert [text for kind, text in shown if kind == "stdout"] == ["one", "two"]


def numbered(lines: list[LogLine]) -> tuple[list[int], int]:
    """The numbers that were printed, and how often it was said that some are missing."""
    gaps = sum(line.stream == "sdcron" and line.event is None for line in lines)
    return [int(line.text.split()[0]) for line in lines if line.stream == "stdout"], gaps


class _Meddler:
    """Writes on while somebody reads: before any system call that the reader makes."""

    def __init__(self, spool: Spool, chance: random.Random, often: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self._spool, self._chance, self._often = spool, chance, often
        self.count = 0
        self.at_end: int | None = None
        self._busy = False
        for name in ("open", "pread", "stat", "fstat"):
            monkeypatch.setattr(os, name, self._before(getattr(os, name)))
        monkeypatch.setattr("sdcron.spool_log.time.sleep", lambda _: None)

    def _before(self, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self._busy and self._chance.random() < self._often:
                self.write(self._chance.choice([1, 1, 3, 40]))
            return really(*args, **options)

        return call

    def write(self, lines: int) -> None:
        self._busy = True
        for _ in range(lines):
            padding = b"x" * self._chance.choice([0, 50])
            self._spool.write("backup", RUN, "stdout", b"%d %b\n" % (self.count, padding), NOON)
            self.count += 1
        self._busy = False

    def ending(self) -> bool:
        if self.at_end is None and self.count > 3000:
            self.at_end = self.count
        return self.at_end is not None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("often", [0.05, 0.3])
def test_no_line_is_lost_or_doubled_whenever_the_files_are_rotated(
    directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int, often: float
) -> None:
    with closing(Spool(directory, 40_000)) as spool:
        meddler = _Meddler(spool, random.Random(seed), often, monkeypatch)
        meddler.write(seed * 100)
        lines = list(logs(directory, "backup", lines=0 if seed % 2 else 50, follow=True, ending=meddler.ending))
    numbers, gaps = numbered(lines)
    assert gaps == 0
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert meddler.at_end is not None
    assert numbers[-1] >= meddler.at_end - 1
    assert len(numbers) > 1000


@pytest.mark.parametrize("seed", range(12))
def test_lines_that_come_faster_than_they_can_be_read_are_missed_in_order_and_that_is_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    with closing(Spool(directory, 1500)) as spool:
        meddler = _Meddler(spool, random.Random(seed), 0.5, monkeypatch)
        lines = list(logs(directory, "backup", follow=True, ending=meddler.ending))
    numbers, gaps = numbered(lines)
    jumps = sum(later != earlier + 1 for earlier, later in pairwise(numbers))
    assert numbers == sorted(set(numbers))
    assert 0 < jumps <= gaps


@pytest.mark.parametrize("seed", range(10))
def test_what_was_there_is_read_in_full_while_it_is_rotated(
    directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    with closing(Spool(directory, 30_000)) as spool:
        meddler = _Meddler(spool, random.Random(seed), 0.3, monkeypatch)
        meddler.write(1000)
        for lines in (5, 100, 10_000):
            before = meddler.count
            numbers, _ = numbered(list(logs(directory, "backup", lines=lines)))
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            assert numbers[-1] >= before - 1
            assert len(numbers) == lines or lines == 10_000


def test_a_reader_that_stops_early_leaves_no_file_open(spool: Spool, directory: Path) -> None:
    three_runs(spool)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = logs(directory, "backup", lines=9)
    with closing(reader):
        assert len(list(islice(reader, 2))) == 2
    following = logs(directory, "backup", follow=True)
    with closing(following):
        next(following)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_json_shape_is_that_of_other_logs(spool: Spool, directory: Path) -> None:
    run(spool, RUN, NOON, "one")
    [start, line, end] = logs(directory, "backup")
    assert list(line.as_json()) == ["time", "stream", "text", "run_id", "event"]
    assert (start.as_json()["event"], end.as_json()["text"]) == ("start", "success")
