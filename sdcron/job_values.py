"""What single values of a job file mean: lengths of time, sizes, command lines, paths, texts a unit can carry.

Pure functions from a value to its meaning. A value that means nothing raises RefusedValueError.
"""

from __future__ import annotations

import re
import warnings
from datetime import timedelta

from sdcron.errors import SdcronError

LONGEST_DURATION = timedelta(days=3650)
LARGEST_SIZE = 1 << 60
LONGEST_FILE_NAME = 255  # bytes: NAME_MAX (limits.h)
SHORTEST_SPREAD = timedelta(seconds=2)
LONGEST_ARGUMENT = 131071  # bytes; execve(2), MAX_ARG_STRLEN without its NUL: also one variable with its name
_LONGEST_EXPRESSION = 1000
_LONGEST_PATH = 4095  # PATH_MAX without its NUL; systemd.exec(5) directives refuse longer ones

_DURATION_PART = re.compile(r"([0-9]+)(ms|[wdhms])")
_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_SIZE = re.compile(r"([0-9]+)([BKMGT]?)(?:iB)?\Z")
_BINARY = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}  # as systemd: K is 1024
# What systemd's unichar_is_valid() refuses in a unit file beside control characters: surrogates and noncharacters.
_NONCHARACTERS = "\ud800-\udfff\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17)
)
_NOT_ACCEPTED = re.compile(f"[\0{_NONCHARACTERS}]")
_NOT_IN_A_UNIT = re.compile(f"[\0\n\r{_NONCHARACTERS}]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OPERATOR = re.compile(r"(?:\|\|?|&&?|;;?|(?:[0-9]*[<>]|&>|.*;\Z).*)\Z", re.DOTALL)
_EXPANSION = re.compile(r"\$[A-Za-z_{(]|`")


class RefusedValueError(SdcronError):
    """A value without a meaning; the message completes a sentence that starts with the key."""

    def __init__(self, message: str, hint: str = "", offset: int | None = None) -> None:
        super().__init__(message, hint)
        self.offset = offset


def parse_duration(value: int | float | str) -> timedelta:
    """Whole seconds, or a text such as `90s`, `15m` or `1h30m` with the units w, d, h, m, s and ms in that order."""
    if not isinstance(value, str):
        length = timedelta(seconds=min(int(value), 10**10))
    elif value.isdigit():
        length = timedelta(seconds=int(value))
    else:
        try:
            length = sum((int(count) * _UNITS[unit] for count, unit in _DURATION_PART.findall(value)), timedelta(0))
        except OverflowError:
            length = timedelta.max
    if length <= timedelta(0):
        raise RefusedValueError("must be longer than 0", "leave the key out for the default")
    if length > LONGEST_DURATION:
        raise RefusedValueError("is longer than 10 years", "units are ms, s, m (minutes), h, d and w")
    return length


def parse_spread(value: int | float | str) -> timedelta:
    """A duration of which a part of whole seconds can be chosen."""
    length = parse_duration(value)
    if length < SHORTEST_SPREAD or length % timedelta(seconds=1):
        raise RefusedValueError("must be whole seconds, at least 2", "runs are moved by whole seconds")
    return length


def parse_size(value: int | float | str) -> int:
    """Bytes, or a text such as `64KiB` or `512M`; K, M, G and T are powers of 1024, as in systemd."""
    number, unit = value, ""
    if isinstance(value, str):
        match = _SIZE.match(value)
        if not match:
            raise RefusedValueError("is not a size", "write a size such as 64KiB, 512M or 2G")
        number, unit = match.groups()
    size = int(number) * _BINARY[unit]
    if size <= 0:
        raise RefusedValueError("must be more than 0", "leave the key out for no limit")
    if size > LARGEST_SIZE:
        raise RefusedValueError("is larger than any machine", "K, M, G and T are powers of 1024")
    return size


def check_path(path: str) -> str:
    """An absolute path that a unit can carry."""
    if not path.startswith("/"):
        raise RefusedValueError("must be an absolute path", "start the path with '/'")
    if path != path.strip():
        hint = "remove the blank, or rename the file"
        raise RefusedValueError("ends with a blank, which a unit file cannot express", hint)
    if path.endswith("\\"):
        hint = "remove the backslash, or rename the file"
        raise RefusedValueError("ends with a backslash, which a unit file cannot express", hint)
    if len(path.encode("utf-8", "replace")) > _LONGEST_PATH:
        raise RefusedValueError(f"is longer than {_LONGEST_PATH} bytes", "use a shorter path")
    return path


def check_secret_path(path: str) -> str:
    """An absolute path for LoadCredential=: systemd 254 and later hand it on to their executor without quotes."""
    if set(" \\") & set(check_path(path)):
        hint = "rename the file, or link to it"
        raise RefusedValueError("has a blank or a backslash, which systemd cannot read in a credential's path", hint)
    return path


def check_plain_path(path: str) -> str:
    """An absolute path as conditions and RequiresMountsFor= want it (path_simplify_and_warn in systemd).

    Another one systemd leaves out with a warning in the journal: the job would run whether it is there or not.
    """
    parts = check_path(path).split("/")
    if {".", ".."} & set(parts):
        raise RefusedValueError("has '.' or '..' in its path", "write the path without them")
    if any(len(part.encode()) > LONGEST_FILE_NAME for part in parts):
        raise RefusedValueError(f"has a name longer than {LONGEST_FILE_NAME} bytes", "no file can be called so")
    return path


def check_optional_path(text: str) -> str:
    """A path for EnvironmentFile=, whose leading `-` says that the file may be missing."""
    check_path(text.removeprefix("-"))
    return text


def check_text(text: str) -> str:
    """A text that can stand in a unit file."""
    found = _NOT_IN_A_UNIT.search(text)
    if found is None:
        return text
    if found.group() in "\n\r":
        hint = "write it on one line; in a block, '|' and '>' keep the last line break, '>-' does not"
        raise RefusedValueError("holds a line break, which a unit file cannot express", hint)
    return check_lines(text)


def check_argument(text: str) -> str:
    """A text that a program can be given as one argument, or a variable with its name as `NAME=value`."""
    size = len(text.encode("utf-8", "replace"))
    if size > LONGEST_ARGUMENT:
        hint = "hand it over in a file"
        raise RefusedValueError(f"has {size} bytes, but Linux hands over at most {LONGEST_ARGUMENT} in one piece", hint)
    return text


def check_script(text: str) -> str:
    """A script whose first line can be a command line, if it names an interpreter."""
    first_line = text.partition("\n")[0]
    if not first_line.startswith("#!"):
        return text
    found = _CONTROL.search(first_line)
    if found:
        hint = "write the script as a block after '|', with lines that end in a line feed alone"
        raise RefusedValueError(f"has the control character U+{ord(found.group()):04X} in its '#!' line", hint)
    check_argument(first_line)
    return text


def check_expression(text: str) -> str:
    """A regular expression of Python's `re` that a unit can carry, and that never matches nothing at all."""
    if len(text) > _LONGEST_EXPRESSION:
        raise RefusedValueError(f"is longer than {_LONGEST_EXPRESSION} characters", "use several shorter expressions")
    try:
        with warnings.catch_warnings():
            # What Python warns of would not match what its writer thinks, such as [[:digit:]].
            warnings.simplefilter("error")
            expression = re.compile(text)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise RefusedValueError(
            f"is not a regular expression: {error}", "escape special characters with a backslash"
        ) from error
    if any(match.start() == match.end() for sample in ("", "a 0") for match in expression.finditer(sample)):
        raise RefusedValueError("matches the empty string", "make it match what shall be hidden: token-[0-9a-f]+")
    check_text(text)
    if text != text.strip():
        hint = "write the blank as [ ] or \\s"
        raise RefusedValueError("begins or ends with a blank, which a unit file cannot express", hint)
    return text


def check_file_path(path: str) -> None:
    """The absolute path of a job file or of its directory, which its units name."""
    found = _NOT_IN_A_UNIT.search(path)
    if found and 0xDC80 <= ord(found.group()) <= 0xDCFF:  # how Python shows bytes that are no text (PEP 383)
        raise RefusedValueError("is not UTF-8")
    if found:
        name = f"U+{ord(found.group()):04X}"
        raise RefusedValueError(f"holds the character {name}, which a unit file cannot express")
    if path != path.strip():
        raise RefusedValueError("ends with a blank, which a unit file cannot express")


def check_lines(text: str) -> str:
    """A text of characters that systemd and the file system accept, line breaks included."""
    found = _NOT_ACCEPTED.search(text)
    if found:
        name = f"U+{ord(found.group()):04X}"
        raise RefusedValueError(f"holds the character {name}, which systemd does not accept", "remove it")
    return text


def split_command(text: str) -> tuple[str, ...]:
    """The words of a command line, by the quoting rules of a POSIX shell; nothing is expanded.

    What only a shell could do is refused, so that `a | b` is never run as a with two odd arguments.
    """
    words: list[str] = []
    for word, bare, start in _shell_words(text):
        if bare is not None and _OPERATOR.match(bare):
            hint = "write `script:` instead, or quote it to pass it on as it is"
            raise RefusedValueError(f"has {bare!r}, but no shell runs it", hint, start)
        if bare is not None and bare.startswith("~/"):
            raise RefusedValueError(f"has {bare!r}, but no shell expands it", "write the full path", start)
        if bare is not None and _EXPANSION.search(bare):
            hint = "write `script:` instead, or put it in 'single quotes' to pass it on as it is"
            raise RefusedValueError(f"has {bare!r}, but no shell expands it", hint, start)
        words.append(word)
    return tuple(words)


def split_condition(text: str) -> tuple[str, ...]:
    """As split_command, for a command that has no `script:` beside it."""
    try:
        return split_command(text)
    except RefusedValueError as error:
        hint = error.hint.replace("write `script:` instead", 'ask a shell: [/bin/sh, -c, "…"]')
        raise RefusedValueError(error.message, hint, error.offset) from error


def _shell_words(text: str) -> list[tuple[str, str | None, int]]:
    """Words with their unquoted spelling (None when any of it was quoted) and where they start.

    POSIX Shell Command Language, 2.2 Quoting. shlex.split tells neither quoted from unquoted, nor does it know that a
    backslash at the end of a line joins lines, or that it escapes `$` in double quotes.
    """
    words: list[tuple[str, str | None, int]] = []
    position, length = 0, len(text)
    while position < length:
        if text[position] in " \t\r\n":
            position += 1
            continue
        if text.startswith("\\\n", position):
            position += 2
            continue
        start = position
        word, quoted = "", False
        while position < length and text[position] not in " \t\r\n":
            character = text[position]
            if text.startswith("\\\n", position):
                position += 2
            elif character in "\"'\\":
                quoted = True
                inner, position = _quoted(text, position)
                word += inner
            else:
                word += character
                position += 1
        words.append((word, None if quoted else word, start))
    return words


def _quoted(text: str, start: int) -> tuple[str, int]:
    """What the quote or backslash at `start` stands for, and the position behind it."""
    quote = text[start]
    if quote == "\\":
        if start + 1 == len(text):
            raise RefusedValueError("ends with a backslash that escapes nothing", "remove it, or double it", start)
        return text[start + 1], start + 2
    inner, position = "", start + 1
    while position < len(text) and text[position] != quote:
        if quote == '"' and text.startswith("\\\n", position):
            position += 2
            continue
        if quote == '"' and text[position] == "\\" and text[position + 1 : position + 2] in {'"', "\\", "$", "`"}:
            position += 1
        inner += text[position]
        position += 1
    if position >= len(text):
        raise RefusedValueError(
            f"has a {quote} that is not closed", "close the quote, or write a list of arguments", start
        )
    return inner, position + 1
