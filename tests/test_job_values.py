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
    LONGEST_ARGUMENT,
    RefusedValueError,
    check_argument,
    check_file_path,
    check_lines,
    check_path,
    check_script,
    check_text,
    parse_duration,
    parse_size,
    parse_spread,
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


@pytest.mark.parametrize("value", ["500ms", 1, "1s", "1500ms", "10s500ms"])
def test_a_spread_that_would_be_none_or_not_the_one_written_is_refused(value: int | str) -> None:
    with pytest.raises(RefusedValueError, match="whole seconds, at least 2"):
        parse_spread(value)


@pytest.mark.parametrize(("value", "seconds"), [(2, 2), ("2000ms", 2), ("1m30s", 90)])
def test_a_spread_is_whole_seconds(value: int | str, seconds: int) -> None:
    assert parse_spread(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize("character", ["a", "ü"])
def test_an_argument_is_as_long_as_the_kernel_takes_it_and_no_longer(character: str) -> None:
    fits = character * (LONGEST_ARGUMENT // len(character.encode()))
    subprocess.run(["/bin/true", fits], check=True, timeout=20)
    assert check_argument(fits) == fits
    with pytest.raises(OSError, match="too long"):
        subprocess.run(["/bin/true", fits + "ab"], check=True, timeout=20)
    with pytest.raises(RefusedValueError, match="at most 131071"):
        check_argument(fits + "ab")


@pytest.mark.parametrize("line", ["#!/bin/sh -a\rb", "#!/bin/sh\r", "#!/bin/sh \x1b[1m", "#!/bin/\x7fsh", "#!/a\x0bb"])
def test_a_control_character_in_the_first_line_of_a_script_is_refused(line: str) -> None:
    with pytest.raises(RefusedValueError, match="control character"):
        check_script(f"{line}\necho\n")


@pytest.mark.parametrize("text", ["#!/bin/sh\t-e\necho \r", "echo \r\n", "", "#!"])
def test_control_characters_elsewhere_in_a_script_are_its_own_affair(text: str) -> None:
    assert check_script(text) == text


@pytest.mark.parametrize("path", ["/a\nb/c.yaml", "/a\rb", "/a\udcffb", "/a\ufffe", "/jobs ", "/jobs\u00a0"])
def test_the_path_of_a_job_file_that_no_unit_can_name_is_refused(path: str) -> None:
    with pytest.raises(RefusedValueError):
        check_file_path(path)


def test_any_other_path_of_a_job_file_is_fine() -> None:
    check_file_path("/a b/ü%\\$\t'\"/jobs \u2028/x.yaml")
