"""Texts on their way into a unit: what systemd reads back is what was given.

The reader here is written after systemd's manual pages and knows nothing of escape.py; tests/system/test_units.py asks
systemd itself.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.escape import Place, UnitTextError, escape, escape_template
from sdcron.parameters import filled, variable

NONCHARACTERS = "\ufdd0\ufdef\ufffe\uffff\U0001fffe\U0010ffff"
#: What a job file may hold: anything but line breaks, NUL, halves of surrogate pairs and noncharacters.
CHARACTERS = st.one_of(
    st.sampled_from("%$\\\"' \t;=#-@:+!|~{}[]*?<>\x01\x1b\x7f\x85\u2028é😀n"), st.text(min_size=1, max_size=1)
)
TEXTS = st.lists(
    CHARACTERS.filter(
        lambda character: (
            character not in "\n\r\0" and not "\ufdd0" <= character <= "\ufdef" and ord(character) & 0xFFFE != 0xFFFE
        )
    ),
    max_size=30,
).map("".join)
VALUES = TEXTS.filter(lambda text: text == text.strip())


def setting(written: str) -> str:
    """The value of `Key=written` as systemd.syntax(7) takes it from its line; fails if the next line is joined."""
    assert "\n" not in written
    body = written.rstrip(" \t")
    assert body == written or body.endswith("\\"), "blanks are only added behind a backslash"
    trailing = len(written) - len(written.rstrip("\\"))
    assert trailing % 2 == 0, "a lone backslash at the end would join the next line"
    return body


def without_specifiers(text: str) -> str:
    """The text once %% is read as %; fails for any other specifier (systemd.unit(5))."""
    assert not re.search("%(?!%)", text.replace("%%", ""))
    return text.replace("%%", "%")


def words(line: str) -> list[str]:
    """The words of a line with quotes and C escapes, systemd.syntax(7), "Quoting"; `;` alone ends a command."""
    found: list[str] = []
    position = 0
    while position < len(line):
        if line[position] in " \t":
            position += 1
            continue
        assert not (line[position] == ";" and line[position + 1 : position + 2] in ("", " ", "\t"))
        word, quote = bytearray(), ""
        while position < len(line):
            character = line[position]
            if character == "\\":
                decoded, position = escape_sequence(line, position + 1)
                word += decoded
                continue
            position += 1
            if character == quote:
                quote = ""
            elif not quote and character in "\"'":
                quote = character
            elif not quote and character in " \t":
                break
            else:
                word += character.encode()
        assert not quote, "a quote is never closed"
        found.append(word.decode())
    return found


def escape_sequence(line: str, position: int) -> tuple[bytes, int]:
    """One C escape that begins behind the backslash, and the position behind it."""
    character = line[position]
    if character == "x":
        return bytes([int(line[position + 1 : position + 3], 16)]), position + 3
    return {"t": b"\t", "\\": b"\\", '"': b'"'}[character], position + 1


@given(VALUES)
def test_a_value_is_read_back_exactly(text: str) -> None:
    assert without_specifiers(setting(escape(text, Place.VALUE))) == text


@given(VALUES)
def test_a_value_passed_through_keeps_its_specifiers(text: str) -> None:
    assert setting(escape(text, Place.RAW)) == text


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_words_are_read_back_exactly(texts: list[str]) -> None:
    line = " ".join(escape(text, Place.WORD) for text in texts)
    assert words(without_specifiers(setting(line))) == texts


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_arguments_are_read_back_exactly_and_nothing_is_expanded(texts: list[str]) -> None:
    line = " ".join(escape(text, Place.ARGUMENT) for text in texts)
    read = words(without_specifiers(setting(line)))
    assert not any(re.search(r"\$(?!\$)", word.replace("$$", "")) for word in read)
    assert [word.replace("$$", "$") for word in read] == texts


@given(st.lists(st.one_of(TEXTS, st.sampled_from(["{day}", "{{day}}", "{To}", "{", "}"])), max_size=6), TEXTS, TEXTS)
def test_values_of_parameters_stand_in_their_places_and_are_never_looked_into(
    texts: list[str], day: str, to: str
) -> None:
    template = "".join(texts)
    values = {**dict.fromkeys(re.findall("[A-Za-z_][A-Za-z0-9_]*", template), "?"), "day": day, "To": to}
    variables = {variable(name): value for name, value in values.items()}
    [read] = words(without_specifiers(setting(escape_template(template))))

    def put_in(found: re.Match[str]) -> str:
        return variables[found[1]] if found[1] else "$"

    # As systemd does: one pass from the left.
    assert re.sub(r"\$(?:\{([A-Z0-9_]+)\}|\$)", put_in, read, flags=re.IGNORECASE) == filled(template, values)


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("text", ["a\nb", "\n", "a\rb", "a\0b", "a\n", "\ud800", "\udc80"])
def test_what_no_unit_can_carry_is_refused_everywhere(text: str, place: Place) -> None:
    with pytest.raises(UnitTextError, match="cannot stand in a unit file"):
        escape(text, place)


@pytest.mark.parametrize("place", [Place.VALUE, Place.RAW])
@pytest.mark.parametrize("text", [" a", "a ", "\ta", "a\t", " "])
def test_a_value_with_a_blank_at_either_end_is_refused(text: str, place: Place) -> None:
    with pytest.raises(UnitTextError, match="cannot begin or end with a blank"):
        escape(text, place)


@pytest.mark.parametrize("place", [Place.VALUE, Place.RAW, Place.WORD])
@pytest.mark.parametrize("character", NONCHARACTERS)
def test_a_noncharacter_is_refused_where_systemd_drops_the_line(character: str, place: Place) -> None:
    with pytest.raises(UnitTextError, match="noncharacter"):
        escape(f"a{character}b", place)


@pytest.mark.parametrize("character", NONCHARACTERS)
def test_a_noncharacter_in_an_argument_is_written_as_bytes(character: str) -> None:
    written = escape(character, Place.ARGUMENT)
    assert written.isascii()
    assert words(written) == [character]


@pytest.mark.parametrize("text", ["/usr/bin/rsync", "-a", "--exclude=*", "A_b.c:d@e+f,g"])
def test_a_plain_word_stays_readable(text: str) -> None:
    assert escape(text, Place.ARGUMENT).strip('"') == text


def test_an_empty_word_is_written_as_two_quotes() -> None:
    assert escape("", Place.ARGUMENT) == '""'
    assert escape("", Place.VALUE) == ""
