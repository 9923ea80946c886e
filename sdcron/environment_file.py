"""The text of an EnvironmentFile= -> its assignments, by systemd's own rules (systemd.exec(5)). Pure.

What systemd 254 and newer read: up to 253 a comment that ended in a backslash went on in the next line.
"""

from __future__ import annotations

import errno
import os
import re

from sdcron.errors import SdcronError

_COMMENT, _BLANK, _NEWLINE = "#;", " \t\n\r", "\n\r"
_LINE_END = re.compile(r"[\n\r]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"\\(?P<escaped>.?)|(?P<blank>[ \t]+)|(?P<plain>[^\\ \t\n\r]+)|(?P<end>[\n\r])", re.DOTALL)
_QUOTED = re.compile(r"\\(?P<escaped>.?)|(?P<plain>[^\\\"]+)|(?P<end>\")", re.DOTALL)
_UNESCAPED_IN_QUOTES = '"\\`$'
# Bytes that are not UTF-8 (as surrogateescape decodes them), and code points that Unicode says are no characters.
_NOT_TEXT = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef" + "".join(f"{chr(p << 16 | 0xFFFE)}{chr(p << 16 | 0xFFFF)}" for p in range(17)) + "]"
)


class EnvironmentFileError(SdcronError):
    """systemd refuses the whole file, and with it the start. `reason` is the text of its error number."""

    def __init__(self, number: int, hint: str) -> None:
        self.reason = os.strerror(number)
        super().__init__(self.reason, hint)


def parse(text: bytes | str) -> list[tuple[str, str]]:
    """Name and value of every variable that the file sets, each once with the last value given to it.

    What no shell would take for a name is skipped without a word, and so is a line without `=`. Raises
    EnvironmentFileError for a NUL anywhere, and for a name or value that is not UTF-8.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if "\0" in text:
        raise EnvironmentFileError(errno.EBADMSG, "a file of environment variables holds text, and no NUL")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if text[at] in _COMMENT:
            at = _end_of_line(text, at)
        elif text[at] in _BLANK:
            at += 1
        else:
            at = _assignment(text, at, found)
    return list(found.items())


def _end_of_line(text: str, at: int) -> int:
    """Where the next line begins."""
    end = _LINE_END.search(text, at)
    return end.end() if end else len(text)


def _assignment(text: str, at: int, found: dict[str, str]) -> int:
    """Read what begins here as `name=value`; where to go on."""
    # Even if its first character is an equals sign.
    equals = text.find("=", at + 1, _end_of_line(text, at + 1))
    if equals < 0:
        return _end_of_line(text, at)
    name = text[at:equals].rstrip(" \t")
    value, after = _value(text, equals + 1)
    if _NOT_TEXT.search(name) or _NOT_TEXT.search(value):
        raise EnvironmentFileError(errno.EINVAL, "names and values of environment variables must be UTF-8")
    if _NAME.fullmatch(name):
        found.pop(name, None)
        found[name] = value
    return after


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins here, and where the next line does.

    Any number of quoted pieces, with the blanks around them dropped, and then perhaps one without quotes: in that,
    quotes stand for themselves.
    """
    pieces: list[str] = []
    while at < len(text):
        character = text[at]
        if character in _NEWLINE:
            return "".join(pieces), at + 1
        if character == "'":
            piece, _, _ = text[at + 1 :].partition("'")
            at += len(piece) + 2
        elif character == '"':
            piece, at = _double_quoted(text, at + 1)
        elif character in _BLANK:
            piece, at = "", at + 1
        else:
            piece, at = _bare(text, at)
            return "".join([*pieces, piece]), at
        pieces.append(piece)
    return "".join(pieces), at


def _double_quoted(text: str, at: int) -> tuple[str, int]:
    """What stands up to the closing quote or the end of the file, and where that is."""
    pieces: list[str] = []
    for token in _QUOTED.finditer(text, at):
        at = token.end()
        if token.lastgroup == "end":
            break
        if token.lastgroup == "plain":
            pieces.append(token["plain"])
        elif token["escaped"] in _UNESCAPED_IN_QUOTES:
            pieces.append(token["escaped"])
        elif token["escaped"] != "\n":
            pieces.append(token[0])
    return "".join(pieces), at


def _bare(text: str, at: int) -> tuple[str, int]:
    """What stands up to the end of the line, without the blanks there, and where the next line begins."""
    pieces: list[str] = []
    blank = ""
    for token in _BARE.finditer(text, at):
        at = token.end()
        if token.lastgroup == "end":
            break
        if token.lastgroup == "blank":
            blank = token[0]
            continue
        piece = token["plain"] or ("" if token["escaped"] in _NEWLINE else token["escaped"])
        pieces += [blank, piece]
        blank = ""
    return "".join(pieces), at
