"""job_values: single values, command lines above all, against a real shell."""

from __future__ import annotations

import re
import shlex
import subprocess
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sdcron.job_values import (
    RefusedValueError,
    check_lines,
    check_path,
    check_text,
    parse_duration,
    parse_size,
    split_command,
)


def shell_words(text: str) -> list[str]:
    """What /bin/sh makes of a command line, without expanding file names."""
    script = f"set -f\nfor word in {text}\ndo printf '%s\\0' \"$word\"\ndone"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.split("\0")[:-1]


# No operators, expansions or comments: those are refused, or mean nothing without a shell.
PLAIN = st.text(st.sampled_from(list("ab-=:/.,% \t'\"\\ü{}[]?*@+!^~")), max_size=14)


@given(PLAIN)
def test_words_are_split_as_a_shell_splits_them(text: str) -> None:
    try:
        words = split_command(text)
    except RefusedValueError as error:
        refused = error.message
        assert "closed" in refused or "backslash" in refused or "expands" in refused
        return
    assume("~" not in text)
    assert list(words) == shell_words(text)


@given(PLAIN.filter(lambda text: "\n" not in text))
def test_words_are_what_shlex_makes_of_them(text: str) -> None:
    try:
        expected = shlex.split(text)
    except ValueError:
        with pytest.raises(RefusedValueError):
            split_command(text)
        return
    try:
        assert list(split_command(text)) == expected
    except RefusedValueError as error:
        assert "expands" in error.message


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=8), max_size=5))
def test_quoted_arguments_arrive_whatever_they_are(words: list[str]) -> None:
    assert list(split_command(shlex.join(words))) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a \\\n b", ["a", "b"]),
        ("a\\\nb", ["ab"]),
        ('"a\\\nb"', ["ab"]),
        ('"\\$a \\` \\x"', ["$a ` \\x"]),
        ("'\\$a'", ["\\$a"]),
        ("a''b", ["ab"]),
        ("''", [""]),
    ],
)
def test_backslashes_are_the_shells(text: str, words: list[str]) -> None:
    assert list(split_command(text)) == words == shell_words(text)


@pytest.mark.parametrize(
    "text",
    ["a | b", "a || b", "a && b", "a & b", "a &", "a; b", "a ; b", "a >x", "a > x", "a 2>&1", "a >>x", "a <x",
     "a <<EOF", "a &>x", "a <(b)", "a $HOME", "a ${HOME}", "a $(b)", "a `b`", "a x=$y", "~/a"],
)  # fmt: skip
def test_what_only_a_shell_could_do_is_refused(text: str) -> None:
    with pytest.raises(RefusedValueError, match="but no shell"):
        split_command(text)


@pytest.mark.parametrize("text", ["a '|' \"&&\" \\; '>x' '$HOME' \"$HOME\" x|y x&y a>b 5$ $5 -> ~ ~x a~/b"])
def test_what_could_be_meant_as_it_is_is_not_refused(text: str) -> None:
    assert split_command(text)[1:5] == ("|", "&&", ";", ">x")


@pytest.mark.parametrize(
    ("text", "offset"), [("/bin/a 'b", 7), ("/bin/a b | c", 9), ("a $X", 2), ("  ~/x", 2), ("abc \\", 4)]
)
def test_a_refusal_says_where(text: str, offset: int) -> None:
    with pytest.raises(RefusedValueError) as raised:
        split_command(text)
    assert raised.value.offset == offset


@given(st.integers(1, 3650 * 86400))
def test_seconds_are_seconds_however_they_are_written(seconds: int) -> None:
    expected = timedelta(seconds=seconds)
    assert parse_duration(seconds) == parse_duration(str(seconds)) == parse_duration(f"{seconds}s") == expected
    minutes, rest = divmod(seconds, 60)
    assert parse_duration(f"{minutes}m{rest}s") == expected


@pytest.mark.parametrize("value", [0, "0", "0s", "0h0m", "3651d", "999999999w", 10**30])
def test_a_length_of_time_has_bounds(value: int | str) -> None:
    with pytest.raises(RefusedValueError):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(1, 1), ("1", 1), ("1B", 1), ("1K", 1024), ("1KiB", 1024), ("3M", 3 << 20), ("2GiB", 2 << 30), ("1T", 1 << 40)],
)
def test_sizes_are_powers_of_1024(value: int | str, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["0", "0M", "5X", "M", "999999999999T"])
def test_a_size_has_bounds(value: str) -> None:
    with pytest.raises(RefusedValueError):
        parse_size(value)


@pytest.mark.parametrize("path", ["", "a", "./a", "/a ", " /a", "/a\u00a0", "/a\\", "/" + "a" * 4095, "/" + "ü" * 2048])
def test_a_path_that_no_unit_can_carry_is_refused(path: str) -> None:
    with pytest.raises(RefusedValueError):
        check_path(path)


@given(st.characters())
def test_characters_are_accepted_as_systemd_accepts_them(character: str) -> None:
    code = ord(character)
    noncharacter = 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    for check, refused in (
        (check_lines, code == 0 or noncharacter),
        (check_text, character in "\0\r\n" or noncharacter),
    ):
        if refused:
            with pytest.raises(RefusedValueError):
                check(f"a{character}b")
        else:
            assert re.search(re.escape(character), check(f"a{character}b"))


@pytest.mark.parametrize("code", [0, 0xA, 0xD, 0xD800, 0xDFFF, 0xFDD0, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF])
def test_each_kind_of_impossible_character_is_refused(code: int) -> None:
    with pytest.raises(RefusedValueError):
        check_text(f"a{chr(code)}b")
