"""Reads unit texts as systemd does: settings, words and specifiers.

The inverse of escape.py, for transient units, whose settings go to systemd as values and not as text. Source of the
rules: systemd.syntax(7), systemd.unit(5) (specifiers) and systemd.service(5), "Command lines".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sdcron.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLANKS = " \t\n\r"
_NAMED_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "s": 32, "\\": 92, '"': 34, "'": 39}
_NUMBERED_ESCAPE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})")


class Setting(NamedTuple):
    """One `Key=value` line of a unit."""

    section: str
    key: str
    value: str


class Command(NamedTuple):
    """One command of an Exec line; `prefixes` are the characters before the program, such as `-+`."""

    prefixes: str
    words: tuple[str, ...]


def settings(text: str) -> Iterator[Setting]:
    """Every setting in order; comments are left out and continued lines joined. Raises BackendError for other lines."""
    section, pending = "", ""
    # Not splitlines(), to which U+2028 and others end a line too.
    for raw in text.split("\n"):
        if raw.lstrip(_BLANKS)[:1] in ("#", ";"):
            continue
        if (len(raw) - len(raw.rstrip("\\"))) % 2:
            pending += raw[:-1] + " "
            continue
        line, pending = (pending + raw).strip(_BLANKS), ""
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line:
            key, found, value = line.partition("=")
            if not found or not section:
                raise BackendError(f"not a line of a unit: {line}", "leave it out, or apply without --transient")
            yield Setting(section, key.rstrip(_BLANKS), value.lstrip(_BLANKS))


def expand_specifiers(text: str, runtime_dir: str) -> str:
    """What systemd makes of `%%`, `%t` and a `%` at the end; it expands nothing itself in properties it is given.

    Raises BackendError for any other specifier.
    """

    def expanded(match: re.Match[str]) -> str:
        specifier = match.group()
        # A lone one at the end stays as it is.
        if specifier in ("%%", "%"):
            return "%"
        if specifier == "%t":
            return runtime_dir
        raise BackendError(
            f"the specifier {specifier} is not known to transient units", "write what it stands for, or %% for a %"
        )

    return re.sub("%.?", expanded, text, flags=re.DOTALL)


def words(value: str, *, escapes: bool = True) -> list[str]:
    """Split at blanks and take quotes away. With `escapes`, a backslash begins an escape as in C.

    Raises BackendError for an open quote and for bytes that are not UTF-8.
    """
    found = []
    rest = value.lstrip(_BLANKS)
    while rest:
        word, rest = _first_word(rest, escapes=escapes)
        found.append(word)
    return found


def commands(value: str) -> list[Command]:
    """The commands of an Exec line, which `;` between blanks separates."""
    found: list[Command] = []
    current: list[str] = []
    rest = value.lstrip(_BLANKS)
    while rest:
        head = re.match(r"(\\?;)(?:[ \t\n\r]+|$)", rest)
        if head and head.group(1) == ";":
            if current:
                found.append(_command(current))
            current, rest = [], rest[head.end() :]
        elif head:
            current.append(";")
            rest = rest[head.end() :]
        else:
            word, rest = _first_word(rest, escapes=True)
            current.append(word)
    if current:
        found.append(_command(current))
    return found


def _command(words_of_it: list[str]) -> Command:
    program = words_of_it[0].lstrip("-@:+!|")
    prefixes = words_of_it[0][: len(words_of_it[0]) - len(program)]
    if not program:
        raise BackendError(f"no program in a command line: {' '.join(words_of_it)}", "name one")
    return Command(prefixes, (program, *words_of_it[1:]))


def _first_word(text: str, *, escapes: bool) -> tuple[str, str]:
    """The first word of `text`, which begins with none of the blanks, and what follows it."""
    word = bytearray()
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\":
            if position == len(text):
                word += b"\\"
                break
            taken = _escape(text, position, word) if escapes else _literal(text, position, word)
            position += taken
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character.encode()
        elif character in "\"'":
            quote = character
        elif character in _BLANKS:
            break
        else:
            word += character.encode()
    if quote:
        raise BackendError(f"a quote is not closed: {text}", f"add a {quote}")
    try:
        return word.decode(), text[position:].lstrip(_BLANKS)
    except UnicodeDecodeError as error:
        raise BackendError(f"not UTF-8: {text}", "apply without --transient") from error


def _literal(text: str, position: int, word: bytearray) -> int:
    word += text[position].encode()
    return 1


def _escape(text: str, position: int, word: bytearray) -> int:
    """Append what the escape at `position` stands for, and return its length; an unknown one stays as it is."""
    named = _NAMED_ESCAPES.get(text[position])
    if named is not None:
        word.append(named)
        return 1
    match = _NUMBERED_ESCAPE.match(text, position)
    if match is None:
        word += b"\\" + text[position].encode()
        return 1
    byte, short, long, octal = match.groups()
    if short or long:
        word += chr(int(short or long, 16)).encode()
    else:
        word.append(int(byte, 16) if byte else int(octal, 8) & 0xFF)
    return match.end() - position
