"""The one way for text from users into a unit file.

Source of the rules: systemd.syntax(7) (continuation, comments, quoting), systemd.unit(5) (specifiers) and
systemd.service(5), "Command lines" (`$` expansion).
"""

from __future__ import annotations

import re
from enum import Enum, auto

from sdcron.errors import SdcronError
from sdcron.parameters import pieces, variable

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@+=:,./-]+", re.ASCII)
_UNWRITABLE = re.compile("[\n\r\0\ud800-\udfff]")
# systemd takes a line with one of Unicode's noncharacters for broken UTF-8 and ignores it, with a word in the journal
# only (unichar_is_valid() in its utf8.c). Escaped as bytes they get into a command line, not into Environment=.
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(f"{chr(last)}{chr(last + 1)}" for last in range(0xFFFE, 0x110000, 0x10000)) + "]"
)
_NAMED_ESCAPES = {"\\": "\\\\", '"': '\\"', "\t": "\\t"}


class Place(Enum):
    """Where in a unit the text will stand, which decides what systemd would read into it."""

    VALUE = auto()
    """All of a setting's value, taken by systemd as it is but for `%`: a path, a description."""
    WORD = auto()
    """One word in a setting that systemd splits at blanks: Environment=."""
    ARGUMENT = auto()
    """One argument of a command line: a word in which `$` would be expanded too."""
    RAW = auto()
    """What the user passes through under `systemd:`: specifiers keep their meaning."""


class UnitTextError(SdcronError):
    """A text that no unit file can carry."""


def escape_template(text: str) -> str:
    """Return an ARGUMENT in which systemd puts the values of parameters into their places (parameters.py).

    `${NAME}` gives what the variable holds as it is, and splits nothing (systemd.service(5), "Command lines"). Raises
    UnitTextError as `escape`.
    """
    found = list(pieces(text))
    if not any(is_name for _, is_name in found):
        return escape("".join(piece for piece, _ in found), Place.ARGUMENT)
    words = [
        f"${{{variable(piece)}}}" if is_name else escape(f" {piece}", Place.ARGUMENT)[2:-1] for piece, is_name in found
    ]
    return f'"{"".join(words)}"'


def escape(text: str, place: Place) -> str:
    """Return `text` so that systemd reads back exactly `text` in that place.

    Raises UnitTextError for a newline, a carriage return, NUL or half a surrogate pair anywhere, for a noncharacter
    anywhere but in an ARGUMENT, and for a VALUE that begins or ends with a blank: systemd has no way to write these.
    """
    if _UNWRITABLE.search(text):
        raise UnitTextError(
            "a newline, carriage return, NUL or half a surrogate pair cannot stand in a unit file",
            "remove it from the value",
        )
    if place is not Place.ARGUMENT and _NONCHARACTER.search(text):
        raise UnitTextError("a Unicode noncharacter cannot stand in a unit file", "remove it from the value")
    if place in (Place.VALUE, Place.RAW):
        if text != text.strip():
            raise UnitTextError("a value for a unit file cannot begin or end with a blank", "remove the blank")
        doubled = text if place is Place.RAW else text.replace("%", "%%")
        trailing = len(doubled) - len(doubled.rstrip("\\"))
        # A backslash at the end of a line would join the next line; a blank after it is stripped by systemd.
        return doubled + " " if trailing % 2 else doubled
    doubled = text.replace("%", "%%")
    if place is Place.ARGUMENT:
        doubled = doubled.replace("$", "$$")
    if _PLAIN_WORD.fullmatch(text):
        return doubled
    return '"' + "".join(_escape_character(character) for character in doubled) + '"'


def _escape_character(character: str) -> str:
    if character in _NAMED_ESCAPES:
        return _NAMED_ESCAPES[character]
    if ord(character) < 0x20 or ord(character) == 0x7F:
        return f"\\x{ord(character):02x}"
    if _NONCHARACTER.match(character):
        return "".join(f"\\x{byte:02x}" for byte in character.encode())
    return character
