"""What is kept of a stream: head, tail, exact counts, redaction, and the way to the database and back."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from sdcron.output import REDACTED, Capture, compile_patterns
from sdcron.runs import Output

if TYPE_CHECKING:
    import pytest


def fed(pieces: list[bytes], keep: int = 100, patterns: tuple[str, ...] = ()) -> Output:
    capture = Capture(keep, compile_patterns(patterns))
    for piece in pieces:
        capture.add(piece)
    return capture.output()


def test_a_short_stream_is_kept_as_it_is() -> None:
    assert fed([b"one\n", b"two"]) == Output(b"one\ntwo", 7)


def test_a_long_stream_keeps_its_first_and_last_half_and_says_how_much_is_missing() -> None:
    output = fed([b"%05d\n" % number for number in range(1000)], keep=60)
    assert output.size == 6000
    assert output.truncated
    head, _, tail = output.kept.partition("[… 5940 bytes left out …]\n".encode())
    assert head == b"00000\n00001\n00002\n00003\n00004\n"
    assert tail == b"00995\n00996\n00997\n00998\n00999\n"


def test_no_character_is_cut_in_two_at_the_seam() -> None:
    output = fed(["ä€😀".encode() * 100], keep=51)
    text = output.kept.decode()
    assert "\\x" not in output.text()
    [left_out] = re.findall(r"\[… (\d+) bytes left out …\]", text)
    kept = re.sub(r"\n\[…[^\n]*\n", "", text)
    assert len(kept.encode()) + int(left_out) == output.size == 900


def test_what_is_redacted_is_counted_and_not_kept() -> None:
    output = fed([b"password=hunter2 ok\n"], patterns=(r"password=\S+",))
    assert output == Output(f"{REDACTED} ok\n".encode(), 20)


def test_a_secret_in_a_line_that_comes_in_pieces_is_found() -> None:
    assert b"hunter2" not in fed([b"a pass", b"word=hunt", b"er2\n"], patterns=(r"password=\S+",)).kept
    assert b"hunter2" not in fed([b"a pass", b"word=hunter2"], patterns=(r"password=\S+",)).kept


def test_a_secret_is_not_in_the_state_either() -> None:
    capture = Capture(100, compile_patterns((r"password=\S+",)))
    capture.add(b"my password=hunter2")
    assert "hunter2" not in str(Capture.restored(capture.state(), ()).output())


def test_what_is_left_of_a_line_after_a_restart_is_hidden_with_its_beginning() -> None:
    capture = Capture(100, compile_patterns((r"password=\S+",)))
    capture.add(b"my pass")
    again = Capture.restored(capture.state(), compile_patterns((r"password=\S+",)))
    again.add(b"word=hunter2\n")
    again.add(b"next\n")
    assert again.output() == Output(f"{REDACTED}\nnext\n".encode(), 25)


def test_a_line_too_long_to_be_searched_as_one_is_hidden_whole() -> None:
    output = fed([b"x" * 200_000, b"y" * 200_000, b"password=hunter2\n", b"next\n"], 10_000, (r"password=\S+",))
    assert output == Output(f"{REDACTED}\nnext\n".encode(), 400_022)


def test_a_pattern_that_takes_for_ever_hides_the_lines_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcron.output._SEARCH_SECONDS", 0.05)
    monkeypatch.setattr("sdcron.output._MOST_SEARCH_SECONDS", 0.2)
    output = fed([b"a" * 40 + b"!\n"] * 1000, 100_000, (r"(a+)+$",))
    assert output.kept == f"{REDACTED}\n".encode() * 1000


def test_a_pattern_that_does_not_compile_any_more_hides_everything() -> None:
    assert fed([b"secret\n"], patterns=("(",)).kept == REDACTED.encode()


def test_bytes_that_are_not_utf8_are_kept_and_shown_as_escapes() -> None:
    output = fed([b"a\xff\x00b\n"], patterns=("x",))
    assert output.kept == b"a\xff\x00b\n"
    assert output.text() == "a\\xff\x00b\n"


@given(st.lists(st.binary(max_size=40)), st.integers(2, 60), st.integers(0, 30))
def test_a_capture_that_was_put_away_goes_on_as_if_it_had_not(pieces: list[bytes], keep: int, at: int) -> None:
    whole, parted = Capture(keep), Capture(keep)
    for number, piece in enumerate(pieces):
        if number == at:
            parted = Capture.restored(json.loads(json.dumps(parted.state())), ())
        whole.add(piece)
        parted.add(piece)
    assert parted.output() == whole.output()
    assert whole.output().size == sum(map(len, pieces))
    if not whole.output().truncated:
        assert whole.output().kept == b"".join(pieces)
