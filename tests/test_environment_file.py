"""Files of environment variables: what systemd 254 and newer make of each text.

Every pair was tried on real systemd; tests/system/test_environment_file.py tries many more.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.environment_file import EnvironmentFileError, parse

TEXT = st.text().map(lambda text: text.replace("\0", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A=1\nB=2\n", [("A", "1"), ("B", "2")]),
        ("A=1", [("A", "1")]),
        ("A=", [("A", "")]),
        ("A=\nB=", [("A", ""), ("B", "")]),
        ("A=1\rB=2\r\nC=3", [("A", "1"), ("B", "2"), ("C", "3")]),
        ("A=1\nA=2\n", [("A", "2")]),
        ("A=1\nA=", [("A", "")]),
        # Blanks
        ("\n\n \t A \t =  1 2 \t \n", [("A", "1 2")]),
        ("A=1 # not a comment", [("A", "1 # not a comment")]),
        # Comments
        ("# A=1\n; B=2\n  #C=3\nD=4", [("D", "4")]),
        ("# ends in a backslash \\\nA=1", [("A", "1")]),
        ("A#=1\nB=#2", [("B", "#2")]),
        # Names
        ("1A=x\nA-B=x\nexport C=x\nä=x\n=x\nA.B=x\n_=ok", [("_", "ok")]),
        ("\ufeffA=1\nB=2", [("B", "2")]),
        ("no equals sign\nA=1", [("A", "1")]),
        ("==x=y\nA==", [("A", "=")]),
        ("A\\\nB=1", [("B", "1")]),
        # Without quotes
        ("A=a\\ b", [("A", "a b")]),
        ("A=a\\  \n", [("A", "a ")]),
        ("A=a\\\\b\\'\\\"\\n", [("A", "a\\b'\"n")]),
        ("A=a \\\n  b\nB=c", [("A", "a   b"), ("B", "c")]),
        ("A=\\\nB=c", [("A", "B=c")]),
        ("A=x\\", [("A", "x")]),
        ("A=b'c'\"d\"", [("A", "b'c'\"d\"")]),
        ("A=$HOME ${X} `id` %i", [("A", "$HOME ${X} `id` %i")]),
        ("A=\x01\x1b\x7f\x0b\x85", [("A", "\x01\x1b\x7f\x0b\x85")]),
        # In single quotes
        ("A=' a\\\n\"b $'\nB=c", [("A", ' a\\\n"b $'), ("B", "c")]),
        ("A='open\nB=c", [("A", "open\nB=c")]),
        ("A='a'  'b' c 'd' ", [("A", "abc 'd'")]),
        ("A='' # x", [("A", "# x")]),
        # In double quotes
        ('A=" a\'b "', [("A", " a'b ")]),
        ('A="\\a\\"\\\\\\`\\$\\n\\\r"', [("A", '\\a"\\`$\\n\\\r')]),
        ('A="a\\\nb\nc"', [("A", "ab\nc")]),
        ('A="open\\\nB=c', [("A", "openB=c")]),
        ('A="x\\', [("A", "x")]),
        ("A=\"a\"'b'\\ c ", [("A", "ab c")]),
    ],
)
def test_a_file_is_read_by_systemds_rules(text: str, expected: list[tuple[str, str]]) -> None:
    assert parse(text) == expected
    assert parse(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"A=1\0", "Bad message"),
        (b"# \0", "Bad message"),
        (b"A=\xff", "Invalid argument"),
        (b"\xff=1", "Invalid argument"),
        (b"A=\xed\xa0\x80", "Invalid argument"),
        (b"A=\xef\xbf\xbe", "Invalid argument"),
        (b"A=\xef\xb7\x90", "Invalid argument"),
        (b"A=\xf0\x9f\xbf\xbf", "Invalid argument"),
    ],
)
def test_what_is_not_text_is_refused_as_a_whole(text: bytes, reason: str) -> None:
    with pytest.raises(EnvironmentFileError) as caught:
        parse(text)
    assert caught.value.reason == reason


def test_bytes_that_are_not_utf_8_do_no_harm_where_nothing_is_set() -> None:
    assert parse(b"# \xff\nB\xff\nA=1\n") == [("A", "1")]


def quoted(value: str, quote: str) -> str:
    if quote == "'":
        return f"'{value}'"
    if quote == '"':
        return '"' + "".join(f"\\{character}" if character in '"\\`$' else character for character in value) + '"'
    return "".join(f"\\{character}" for character in value)


@given(TEXT, st.sampled_from(["'", '"', ""]))
def test_a_quoted_value_is_read_as_it_was(value: str, quote: str) -> None:
    if quote == "'":
        value = value.replace("'", "")
    if not quote:
        # A newline cannot be written without quotes.
        value = value.replace("\n", "").replace("\r", "")
    line = f"NAME={quoted(value, quote)}"
    try:
        assert parse(f"{line}\nNEXT=1") == [("NAME", value), ("NEXT", "1")]
        assert parse(line) == [("NAME", value)]
    except EnvironmentFileError:
        assert any(ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF for character in value)


@given(st.text(st.sampled_from("AB_= \t\n\r'\"\\#;$`1ä")))
def test_any_text_is_read_to_its_end_and_gives_names_that_may_be_set(text: str) -> None:
    found = parse(text)
    assert all(name.isidentifier() and name.isascii() for name, _ in found)
    assert len({name for name, _ in found}) == len(found)
    # Nothing before an assignment changes it, unless it is left open.
    assert parse(f"# x\n{text}") == found
