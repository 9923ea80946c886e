"""What a run that goes on has printed, on its way to lines on disk: partial lines, redaction, pieces of long ones."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdcron.output import REDACTED, redact
from sdcron.spool_lines import PIECE, stored_pieces

if TYPE_CHECKING:
    from sdcron.output import Patterns

_LOOKED_AT = 256 * 1024
"""Bytes of a line that are looked at as one when there is something to redact, as in output.py."""
_MOST_SEARCH_SECONDS = 5.0
"""How long all searches in one stream may take, as in output.py."""
_HIDDEN = REDACTED.encode()


@dataclass(slots=True)
class Stream:
    """One of a run's two; `kind` is how its lines are marked."""

    kind: bytes
    held: bytearray = field(default_factory=bytearray)
    """The beginning, or what is not stored of it, of a line whose end is to come."""
    continues: bool = False
    """Whether a piece of that line is stored."""
    hidden: bool = False
    """Whether the rest of that line is left out, as it is too long to be looked at."""
    search_seconds: float = 0.0


@dataclass(slots=True)
class SpooledRun:
    """A run that goes on; `when_us` is when something of it came last, microseconds since 1970."""

    job: str
    run_id: bytes
    patterns: Patterns
    streams: dict[str, Stream]
    when_us: int
    start: bytes = b""
    """The line that tells of its start, until it is written."""


def new_run(job: str, run_id: str, patterns: Patterns, when_us: int) -> SpooledRun:
    """A run that has printed nothing yet."""
    streams = {"stdout": Stream(b"stdout"), "stderr": Stream(b"stderr")}
    return SpooledRun(job, run_id.encode("ascii", "replace"), patterns, streams, when_us)


def take_piece(run: SpooledRun, stream: Stream, piece: bytes) -> bytes:
    """The lines to store that the next bytes of a stream complete."""
    held = stream.held
    if b"\n" in piece:
        *lines, rest = (bytes(held) + piece if held else piece).split(b"\n")
        held[:] = rest
    else:
        lines = []
        if not stream.hidden:
            held += piece
    if run.patterns:
        if lines:
            lines = [_redacted(run, stream, line) for line in lines]
        if len(held) > _LOOKED_AT:
            stream.hidden = True
            held.clear()
    return _stored(run, stream, lines)


def _redacted(run: SpooledRun, stream: Stream, line: bytes) -> bytes:
    """A whole line as it may be written."""
    if stream.hidden or len(line) > _LOOKED_AT or stream.search_seconds > _MOST_SEARCH_SECONDS:
        stream.hidden = False
        return _HIDDEN
    began = time.monotonic()
    line = redact(line, run.patterns)
    stream.search_seconds += time.monotonic() - began
    return line


def _stored(run: SpooledRun, stream: Stream, lines: list[bytes]) -> bytes:
    """Whole lines, and what is too long to be held back, as lines to store."""
    prefix = b"%d %b " % (max(run.when_us, 0), run.run_id)
    pieces = []
    if lines:
        if stream.continues or max(map(len, lines)) > PIECE:
            pieces = stored_pieces(prefix, stream.kind, lines[0], continues=stream.continues)
            stream.continues = False
            for line in lines[1:]:
                pieces += stored_pieces(prefix, stream.kind, line)
        else:
            prefix_of_all = b"%b%b " % (prefix, stream.kind)
            pieces = [b"%b%d %b\n" % (prefix_of_all, len(line), line) for line in lines]
    if len(stream.held) > PIECE and not run.patterns:
        now = (len(stream.held) - 1) // PIECE * PIECE
        begun = bytes(stream.held[:now])
        pieces += stored_pieces(prefix, stream.kind, begun, continues=stream.continues, goes_on=True)
        del stream.held[:now]
        stream.continues = True
    return b"".join(pieces)


def rest_of(run: SpooledRun) -> bytes:
    """What is held back of a run, as lines to store."""
    rest = b""
    for stream in run.streams.values():
        if stream.held or stream.hidden or stream.continues:
            line = bytes(stream.held)
            stream.held.clear()
            rest += _stored(run, stream, [_redacted(run, stream, line) if run.patterns else line])
    return rest
