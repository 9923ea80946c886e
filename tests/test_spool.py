"""What jobs print is on disk as it was printed, in bounded space, whatever the disk and a crash do to it."""

from __future__ import annotations

import errno
import os
import random
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcron.output import compile_patterns
from sdcron.spool import Spool
from sdcron.spool_lines import FILE, LONGEST_STORED, PIECE, Stored, parse_stored
from sdcron.spool_log import LONGEST_LINE, logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sdcron.log_lines import LogLine

RUN, NEXT = "a" * 32, "b" * 32
NOON = 1_795_000_000_000_000
LARGE = 1 << 30


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "output"


def told(lines: Iterable[LogLine]) -> list[tuple[str, str]]:
    return [(line.event or line.stream, line.text) for line in lines]


def everything(directory: Path, job: str = "backup") -> list[tuple[str, str]]:
    return told(logs(directory, job, lines=1 << 30))


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def as_lines(printed: bytes) -> list[str]:
    """What is to be shown of a stream."""
    lines = printed.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    cut = [line[at : at + LONGEST_LINE] for line in lines for at in range(0, len(line) or 1, LONGEST_LINE)]
    return [line.decode("utf-8", "backslashreplace") for line in cut]


_ANY = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.text(alphabet="a\n\r\0\u00e4 ", max_size=30).map(str.encode),
        st.sampled_from([b"\n", b"x" * PIECE, b"y" * (PIECE - 1), b"z" * (PIECE + 1) + b"\n", b"x" * (3 * PIECE)]),
    ),
    max_size=8,
)


@given(
    pieces=st.lists(st.tuples(st.sampled_from([RUN, NEXT]), st.sampled_from(["stdout", "stderr"]), _ANY), max_size=6)
)
def test_any_bytes_in_any_pieces_come_back_as_the_same_lines(pieces: list[tuple[str, str, list[bytes]]]) -> None:
    printed = {(run, which): b"" for run in (RUN, NEXT) for which in ("stdout", "stderr")}
    with tempfile.TemporaryDirectory() as directory, closing(Spool(Path(directory), LARGE)) as spool:
        for run in (RUN, NEXT):
            spool.begin("backup", run, NOON)
        for run, which, parts in pieces:
            for part in parts:
                spool.write("backup", run, which, part, NOON + 1)
                printed[run, which] += part
        for run in (RUN, NEXT):
            spool.end("backup", run, NOON + 2, "success")
        for run in (RUN, NEXT):
            found = list(logs(Path(directory), "backup", run=run))
            assert (found[0].event, found[-1].event) == ("start", "end")
            for which in ("stdout", "stderr"):
                assert [line.text for line in found if line.stream == which] == as_lines(printed[run, which])


def test_a_stored_line_can_be_read_by_a_person(directory: Path) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON)
        spool.write("backup", RUN, "stdout", b"one\ntwo", NOON + 1)
        spool.write("backup", RUN, "stderr", b"no\n", NOON + 2)
        spool.say("backup", "retry 1 of 3 is waiting", NOON + 3)
        spool.end("backup", RUN, NOON + 4, "failure: exit status 3")
    assert (directory / "backup.log").read_text() == (
        f"{NOON} - file 16 {NOON}\n"
        f"{NOON} {RUN} start 0 \n"
        f"{NOON + 1} {RUN} stdout 3 one\n"
        f"{NOON + 2} {RUN} stderr 2 no\n"
        f"{NOON + 3} - sdcron 23 retry 1 of 3 is waiting\n"
        f"{NOON + 4} {RUN} stdout 3 two\n"
        f"{NOON + 4} {RUN} end 22 failure: exit status 3\n"
    )


def test_words_of_several_lines_are_several_lines_and_never_forge_one(directory: Path) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        spool.say("backup", f"first\n{NOON} {RUN} start 0 ", NOON)
        spool.end("backup", RUN, NOON, f"failure: \udcff\n{NOON} {NEXT} start 0 ")
    assert everything(directory) == [
        ("sdcron", "first"),
        ("sdcron", f"{NOON} {RUN} start 0 "),
        ("end", f"failure: \\udcff {NOON} {NEXT} start 0 "),
    ]


def test_64_mib_without_a_newline_are_stored_in_pieces_and_not_held_in_memory(directory: Path) -> None:
    with closing(Spool(directory, 8 << 20)) as spool:
        spool.begin("backup", RUN, NOON)
        for _ in range(1024):
            spool.write("backup", RUN, "stdout", b"x" * 65536, NOON)
        spool.end("backup", RUN, NOON, "success")
        assert size(directory) <= 8 << 20
    stored = on_disk(directory).split(b"\n")
    assert max(map(len, stored)) <= LONGEST_STORED
    shown = [len(line.text) for line in logs(directory, "backup", run=RUN) if line.stream == "stdout"]
    assert sum(shown) > 4_000_000
    assert max(shown) == LONGEST_LINE


@settings(max_examples=20)
@given(keep=st.sampled_from([1, 300, 2_000, 30_000, 200_000]), seed=st.integers(0, 10**6))
def test_a_job_takes_no_more_space_than_it_may_and_what_is_kept_is_the_newest(keep: int, seed: int) -> None:
    chance = random.Random(seed)
    printed: list[str] = []
    with tempfile.TemporaryDirectory() as directory, closing(Spool(Path(directory), keep)) as spool:
        spool.begin("backup", RUN, NOON)
        for number in range(chance.randrange(60)):
            texts = [f"{number}.{count} " + "x" * chance.choice([0, 9, 300]) for count in range(chance.choice([1, 40]))]
            printed += texts
            spool.write("backup", RUN, "stdout", "".join(f"{text}\n" for text in texts).encode(), NOON + number)
            assert size(Path(directory)) <= max(keep, 500) + 500
            assert len(list(Path(directory).iterdir())) <= 2
        kept = [text for kind, text in everything(Path(directory)) if kind == "stdout"]
        assert kept == printed[len(printed) - len(kept) :]
        assert not printed or kept
        if len(kept) < len(printed):
            assert size(Path(directory)) > keep // 2 - 500


def test_the_files_of_a_job_are_numbered_also_by_the_next_process(directory: Path) -> None:
    numbers = []
    for _ in range(3):
        with closing(Spool(directory, 4000)) as spool:
            for _ in range(60):
                spool.write("backup", RUN, "stdout", b"x" * 100 + b"\n", NOON)
            stored = [parse_stored(line) for line in on_disk(directory).split(b"\n")]
            files = [line for line in stored if isinstance(line, Stored) and line.kind == FILE]
            numbers.append(sorted(int(line.text) - NOON for line in files))
    [(first, second), *more] = numbers
    assert (second, more) == (first + 1, [[pair[0], pair[0] + 1] for pair in more])
    assert first < more[0][0] < more[1][0] < 20


def written(directory: Path) -> tuple[bytes, list[tuple[str, str]]]:
    """A small file, and what it says."""
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON)
        spool.write("backup", RUN, "stdout", b"one 12\n\n\xff\0\r\n", NOON)
        spool.write("backup", RUN, "stderr", b"a much longer line\n", NOON)
        spool.end("backup", RUN, NOON, "success")
    return (directory / "backup.log").read_bytes(), everything(directory)


def test_a_file_cut_off_at_any_byte_keeps_its_whole_lines_and_goes_on_with_a_fresh_one(directory: Path) -> None:
    content, whole = written(directory)
    after = [("start", ""), ("stdout", "after"), ("end", "success")]
    for cut in range(len(content) + 1):
        (directory / "backup.log").write_bytes(content[:cut])
        # A line without its newline, but else whole, is whole once the next one has begun.
        lines = content[:cut].count(b"\n") + (content[cut : cut + 1] == b"\n")
        assert everything(directory) == whole[: max(content[:cut].count(b"\n") - 1, 0)]
        with closing(Spool(directory, LARGE)) as spool:
            spool.begin("backup", NEXT, NOON)
            spool.write("backup", NEXT, "stdout", b"after\n", NOON)
            spool.end("backup", NEXT, NOON, "success")
        assert everything(directory) == whole[: max(lines - 1, 0)] + after, cut
        assert told(logs(directory, "backup")) == after


@given(garbage=st.binary(min_size=1, max_size=60), blocks=st.integers(0, 9))
def test_garbage_after_a_crash_misleads_nobody(garbage: bytes, blocks: int) -> None:
    garbage += b"\0" * 100_000 * blocks
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _, whole = written(directory)
        with (directory / "backup.log").open("ab") as file:
            file.write(garbage)
        with closing(Spool(directory, LARGE)) as spool:
            spool.write("backup", NEXT, "stdout", b"after\n", NOON)
        assert everything(directory) == [*whole, ("stdout", "after")]
        assert told(logs(directory, "backup", run=RUN)) == whole
        assert told(logs(directory, "backup", lines=1)) == [("stdout", "after")]


class _FullDisk:
    """Takes so many bytes, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, content: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._write(descriptor, content[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [*range(0, 200, 3), 450, 460])
def test_a_full_disk_loses_lines_says_how_much_once_it_is_not_and_troubles_nobody(
    directory: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON)
        disk = _FullDisk(monkeypatch, room)
        for number in range(6):
            spool.write("backup", RUN, "stdout", b"line %d\n" % number, NOON)
        spool.end("backup", RUN, NOON, "success")
        spool.begin("backup", NEXT, NOON)
        notes = spool.take_notes()
        disk.room = 1 << 20
        spool.write("backup", NEXT, "stdout", b"after\n", NOON + 5)
        assert spool.take_notes() == ()
    shown = everything(directory)
    kept = [text for kind, text in shown if text.startswith("line ")]
    assert kept == [f"line {number}" for number in range(len(kept))]
    lost = f"{(6 - len(kept)) * 7} bytes" if len(kept) < 6 else "lines of sdcron's"
    assert shown[-2:] == [
        ("sdcron", f"[… {lost} left out, which could not be written: No space left on device]"),
        ("stdout", "after"),
    ]
    [note] = notes
    assert note.startswith(f"{directory}/backup.log: No space left on device")


def test_a_limit_on_the_size_of_files_is_borne_as_the_kernel_makes_it(directory: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        try:
            for _ in range(30):
                spool.write("backup", RUN, "stdout", b"x" * 399 + b"\n", NOON)
            assert size(directory) == 5000
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        spool.end("backup", RUN, NOON, "success")
    shown = everything(directory)
    assert shown[1:-2] == [("stdout", "x" * 399)] * 10
    assert "[… 8000 bytes left out" in shown[-2][1]


def test_pieces_of_a_line_are_not_joined_over_what_could_not_be_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        spool.write("backup", RUN, "stdout", b"a" * (PIECE + 1), NOON)
        disk = _FullDisk(monkeypatch, 0)
        spool.write("backup", RUN, "stdout", b"b" * PIECE, NOON)
        disk.room = LARGE
        spool.write("backup", RUN, "stdout", b"c\n", NOON)
    [notice, first, last] = [text for _, text in everything(directory)]
    assert (first, f"{PIECE} bytes" in notice, last) == ("a" * PIECE, True, "b" + "c")


def _a_directory(directory: Path) -> Callable[[], None]:
    (directory / "backup.log").mkdir(parents=True)
    return (directory / "backup.log").rmdir


def _a_link(directory: Path) -> Callable[[], None]:
    directory.mkdir(parents=True)
    (directory / "backup.log").symlink_to("/dev/full")
    return (directory / "backup.log").unlink


def _a_fifo(directory: Path) -> Callable[[], None]:
    directory.mkdir(parents=True)
    os.mkfifo(directory / "backup.log")
    return (directory / "backup.log").unlink


def _a_file_above(directory: Path) -> Callable[[], None]:
    directory.parent.mkdir()
    directory.write_text("")
    return directory.unlink


def _no_older_one(directory: Path) -> Callable[[], None]:
    directory.mkdir(parents=True)
    (directory / "backup.log~" / "x").mkdir(parents=True)

    def remove() -> None:
        (directory / "backup.log~" / "x").rmdir()
        (directory / "backup.log~").rmdir()

    return remove


@pytest.mark.parametrize("obstacle", [_a_directory, _a_link, _a_fifo, _a_file_above, _no_older_one])
def test_what_is_in_the_way_costs_lines_and_is_told_once(
    directory: Path, obstacle: Callable[[Path], Callable[[], None]]
) -> None:
    remove = obstacle(directory)
    with closing(Spool(directory, 2000)) as spool:
        for number in range(20):
            spool.begin("backup", f"{number:032x}", NOON)
            spool.write("backup", f"{number:032x}", "stdout", b"x" * 100 + b"\n", NOON)
            spool.end("backup", f"{number:032x}", NOON, "success")
        spool.forget("backup")
        spool.begin("backup", RUN, NOON)
        assert 1 <= len(spool.take_notes()) <= 2
        remove()
        spool.begin("backup", NEXT, NOON)
        spool.end("backup", NEXT, NOON, "success")
    shown = everything(directory)
    assert shown[-2:] == [("start", ""), ("end", "success")]


def test_the_same_trouble_is_told_again_after_an_hour(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        _FullDisk(monkeypatch, 0)
        for minute in range(0, 150, 10):
            spool.say("backup", "words", NOON + minute * 60_000_000)
        assert len(spool.take_notes()) == 3


def test_secrets_never_reach_the_disk_however_the_pieces_fall(directory: Path) -> None:
    patterns = compile_patterns(["secret-[0-9]+"])
    text = b"say secret-1 now\nand secret-22\nthen secret-333"
    with closing(Spool(directory, LARGE)) as spool:
        for cut in range(len(text)):
            run = f"{cut:032x}"
            spool.begin("backup", run, NOON, patterns)
            spool.write("backup", run, "stdout", text[:cut], NOON)
            spool.write("backup", run, "stdout", text[cut:], NOON)
            spool.say("backup", "about secret-4", NOON, run)
            if cut % 2:
                spool.end("backup", run, NOON, "success")
            assert b"secret-" not in on_disk(directory)
    assert b"secret-" not in on_disk(directory)
    assert on_disk(directory).count(b"[redacted]") == 4 * len(text)


@pytest.mark.parametrize("step", [70_000, 1000, 400_000])
def test_a_line_too_long_to_be_looked_at_is_hidden_up_to_its_end(directory: Path, step: int) -> None:
    patterns = compile_patterns(["secret-[0-9]+"])
    text = b"first\n" + b"x" * 300_000 + b" secret-1 \nlast secret-2\n" + b"y" * 200_000 + b"\n" + b"z" * 300_000
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON, patterns)
        for at in range(0, len(text), step):
            spool.write("backup", RUN, "stdout", text[at : at + step], NOON)
        spool.end("backup", RUN, NOON, "success")
    assert [text for _, text in everything(directory)][1:-1] == [
        "first", "[redacted]", "last [redacted]", "y" * 200_000, "[redacted]",
    ]  # fmt: skip


def test_files_and_their_directory_have_their_modes_whatever_the_umask(directory: Path) -> None:
    for umask in (0o077, 0):
        before = os.umask(umask)
        try:
            with closing(Spool(directory, LARGE)) as spool:
                spool.begin(f"job{umask}", RUN, NOON)
        finally:
            os.umask(before)
        assert (directory / f"job{umask}.log").stat().st_mode & 0o777 == 0o640
    assert directory.stat().st_mode & 0o777 == 0o750


def open_below(directory: Path) -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(str(directory))
        except FileNotFoundError:
            continue
    return count


def test_few_files_are_open_and_none_after_the_end(directory: Path) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        for number in range(300):
            spool.begin(f"job{number}", RUN, NOON)
        assert open_below(directory) == 64
        spool.write("job0", RUN, "stdout", b"still\n", NOON)
    assert open_below(directory) == 0
    assert everything(directory, "job0") == [("start", ""), ("stdout", "still")]


def test_descriptors_that_are_wanted_elsewhere_are_given_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        for number in range(10):
            spool.begin(f"job{number}", RUN, NOON)
        really = os.open

        def scarce(path: str, flags: int, mode: int = 0o777) -> int:
            if open_below(directory) >= 10:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return really(path, flags, mode)

        monkeypatch.setattr(os, "open", scarce)
        spool.begin("another", RUN, NOON)
        monkeypatch.setattr(os, "open", really)
        assert (spool.take_notes(), open_below(directory)) == ((), 1)


@pytest.mark.parametrize("how", ["delete", "move", "empty"])
def test_a_file_that_somebody_else_took_away_is_begun_anew_with_the_next_run(directory: Path, how: str) -> None:
    path = directory / "backup.log"
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, NOON)
        if how == "delete":
            path.unlink()
        elif how == "move":
            path.rename(path.with_name("kept"))
        else:
            os.truncate(path, 0)
        spool.begin("backup", NEXT, NOON)
        assert everything(directory) == [("start", "")]
        assert path.read_bytes().startswith(b"%d - file " % NOON)


def test_what_is_forgotten_is_gone_and_a_run_that_goes_on_is_kept_and_stays_redacted(directory: Path) -> None:
    with closing(Spool(directory, 1000)) as spool:
        spool.begin("backup", RUN, NOON, compile_patterns(["secret"]))
        spool.write("backup", RUN, "stdout", b"x" * 100 * 20 + b"\n", NOON)
        spool.write("backup", RUN, "stdout", b"x\n", NOON)
        assert len(list(directory.iterdir())) == 2
        spool.forget("backup")
        assert list(directory.iterdir()) == []
        spool.write("backup", RUN, "stdout", b"a secret\n", NOON)
    assert everything(directory) == [("stdout", "a [redacted]")]


def test_a_clock_before_1970_is_no_trouble(directory: Path) -> None:
    with closing(Spool(directory, LARGE)) as spool:
        spool.begin("backup", RUN, -5)
        spool.write("backup", RUN, "stdout", b"x\n", -5)
        spool.end("backup", RUN, -5, "success")
    assert len(everything(directory)) == 3


def test_short_runs_and_floods_are_cheap(directory: Path) -> None:
    """Far above what it takes: the machine may be busy."""
    with closing(Spool(directory, 4 << 20)) as spool:
        began = time.process_time()
        for number in range(2000):
            spool.begin(f"job{number % 500}", RUN, NOON)
            spool.write(f"job{number % 500}", RUN, "stdout", b"done\n", NOON)
            spool.end(f"job{number % 500}", RUN, NOON, "success")
        assert (time.process_time() - began) / 2000 < 0.001
        flood = b"".join(b"line %d of a flood\n" % number for number in range(100_000))
        began = time.process_time()
        for at in range(0, len(flood), 65536):
            spool.write("flood", RUN, "stdout", flood[at : at + 65536], NOON)
        assert time.process_time() - began < 2
