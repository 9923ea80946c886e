"""The lines in which jobs' output is stored on disk: spool.py writes them, spool_log.py reads them. Pure.

A line is `MICROSECONDS RUN KIND LENGTH TEXT`: when it came, since 1970; of which run (`-`: none); its stream, or
`start` or `end` for what became of the run; the bytes of the text; and the text as it was printed. A long line is
stored in pieces: `stdout+` goes on in a later `+stdout`. A line whose length is wrong was cut off by a crash, and is
none. The first line of a file, of the kind `file`, has its number: one more than that of the file before it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 48 * 1024
"""Bytes of text that are stored as one line, and held back while its end is to come, at most."""
LONGEST_STORED = PIECE + 128
"""Bytes of a line that is stored, with all that stands before its text."""
LONGEST_FIRST = 128
"""Bytes in which the first line of a file ends."""
START, END, FILE, SDCRON = b"start", b"end", b"file", b"sdcron"
_LINE = re.compile(rb"([0-9]{1,17}) (-|[0-9A-Za-z-]{1,64}) (\+?)(stdout|stderr|sdcron|start|end|file)(\+?) (\d{1,5}) ")


def spool_file(directory: Path, job: str) -> str:
    """Path of the job's current file; the older one has a `~` behind it, which is in no job's name."""
    return f"{directory}/{job}.log"


class Stored(NamedTuple):
    """One line of a file, read back."""

    when_us: int
    run_id: bytes
    """Empty for none."""
    continues: bool
    """Whether it goes on with a line that a piece before it began."""
    kind: bytes
    goes_on: bool
    text: bytes


def parse_stored(line: bytes) -> Stored | None:
    """What a line, without its newline, says; None if it is none of ours, or not whole."""
    found = _LINE.match(line)
    if found is None or len(line) - found.end() != int(found[6]) or len(line) > LONGEST_STORED:
        return None
    when, run_id, continues, kind, goes_on, _ = found.groups()
    text = line[found.end() :]
    return Stored(int(when), b"" if run_id == b"-" else run_id, bool(continues), kind, bool(goes_on), text)


def file_number(beginning: bytes) -> int:
    """The number of a file that begins so; 0 if it does not tell."""
    first, newline, _ = beginning.partition(b"\n")
    stored = parse_stored(first) if newline else None
    return int(stored.text) if stored is not None and stored.kind == FILE and stored.text.isdigit() else 0


def stored_line(prefix: bytes, kind: bytes, text: bytes) -> bytes:
    """A line to store, without regard to its length; `prefix` is time and run."""
    return b"%b%b %d %b\n" % (prefix, kind, len(text), text)


def stored_pieces(
    prefix: bytes, kind: bytes, text: bytes, *, continues: bool = False, goes_on: bool = False
) -> list[bytes]:
    """One line, or all of it that is known, as lines to store."""
    pieces = []
    for at in range(0, len(text) or 1, PIECE):
        first = b"+" if continues or at else b""
        last = b"+" if goes_on or at + PIECE < len(text) else b""
        pieces.append(stored_line(prefix, first + kind + last, text[at : at + PIECE]))
    return pieces
