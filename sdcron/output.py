"""What is kept of one stream of a run: its head and its tail, without what is to be redacted, line by line."""

from __future__ import annotations

import base64
import re
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from sdcron.runs import Output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEEP = 64 * 1024
"""Bytes kept of each stream unless the job says otherwise."""
REDACTED = "[redacted]"
_LONGEST_LINE = 256 * 1024
"""Bytes of a line that are looked at as one when there is something to redact; the rest of it is left out."""
_SEARCH_SECONDS = 0.5
_MOST_SEARCH_SECONDS = 5.0
"""How long all searches in one stream may take; then nothing more of it is shown."""

Patterns = tuple[re.Pattern[str], ...]


def compile_patterns(texts: Iterable[str]) -> Patterns:
    """The patterns of `output.redact`; one that does not compile any more, after an edit by hand, hides everything."""
    compiled = []
    for text in texts:
        try:
            compiled.append(re.compile(text))
        except re.error:
            compiled.append(re.compile("(?s).+"))
    return tuple(compiled)


def redact(line: bytes, patterns: Patterns) -> bytes:
    """The line with every match blacked out; bytes that are not UTF-8 stay as they are.

    All of it is blacked out where a search takes too long, as some patterns let it take for ever (re.sub looks for
    signals now and then). Only the main thread can be stopped so.
    """
    text = line.decode("utf-8", "surrogateescape")
    try:
        with _time_limit():
            for pattern in patterns:
                text = pattern.sub(REDACTED, text)
    except _TooLongError:
        text = REDACTED + "\n" * text.endswith("\n")
    return text.encode("utf-8", "surrogateescape")


class _TooLongError(Exception):
    pass


@contextmanager
def _time_limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SEARCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Capture:
    """Takes a stream piece by piece and keeps at most `keep` bytes: the first half and the last."""

    __slots__ = (
        "_half",
        "_head",
        "_hidden",
        "_keep",
        "_line",
        "_patterns",
        "_search_seconds",
        "_tail",
        "_total",
        "size",
    )

    def __init__(self, keep: int = KEEP, patterns: Patterns = ()) -> None:
        self._keep = keep
        self._half = keep // 2
        self._patterns = patterns
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0
        """Bytes after redaction."""
        self._line = bytearray()
        """The beginning of a line whose end is to come; kept back only if there is something to redact."""
        self._hidden = False
        """Whether the rest of the line is left out."""
        self._search_seconds = 0.0
        self.size = 0
        """Bytes before redaction."""

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self._head) + len(self._tail) + len(self._line)

    def add(self, piece: bytes) -> None:
        """Take the next bytes. Whole lines end in a newline, and what to redact is looked for within a line."""
        self.size += len(piece)
        if not self._patterns:
            self._keep_bytes(piece)
            return
        if not self._hidden:
            self._line += piece
        if len(self._line) > _LONGEST_LINE:
            # What would be found across the place where it is cut is not to be seen.
            self._line[:] = REDACTED.encode()
            self._hidden = True
        if piece.endswith(b"\n"):
            if self._hidden:
                self._line += b"\n"
            self._keep_bytes(self._redacted(bytes(self._line)))
            self._line.clear()
            self._hidden = False

    def _redacted(self, line: bytes) -> bytes:
        if self._search_seconds > _MOST_SEARCH_SECONDS:
            return REDACTED.encode() + b"\n" * line.endswith(b"\n")
        began = time.monotonic()
        try:
            return redact(line, self._patterns)
        finally:
            self._search_seconds += time.monotonic() - began

    def _keep_bytes(self, piece: bytes) -> None:
        self._total += len(piece)
        room = self._keep - self._half - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if piece:
            self._tail += piece
            # Now and then only, so that a long stream is not moved about for each of its lines.
            if len(self._tail) > self._half + 8192:
                del self._tail[: len(self._tail) - self._half]

    def output(self) -> Output:
        """What is kept now."""
        line = self._redacted(bytes(self._line)) if self._line else b""
        tail = bytes(self._tail) + line
        head = bytes(self._head)
        total = self._total + len(line)
        if total <= self._keep:
            return Output(head + tail, self.size)
        tail = tail[len(tail) - min(self._half, len(tail)) :]
        # No character is cut in two: what is left of one at the seam goes with what is left out.
        head, tail = _without_broken_end(head), _without_broken_start(tail)
        left_out = total - len(head) - len(tail)
        seam = b"" if head.endswith(b"\n") or not head else b"\n"
        return Output(head + seam + f"[… {left_out} bytes left out …]\n".encode() + tail, self.size, truncated=True)

    def state(self) -> dict[str, Any]:
        """All of it as JSON can hold it, redacted; a line that is not over yet is left out, for what may come of it."""
        line = REDACTED.encode() if self._line else b""
        head, tail = bytes(self._head), bytes(self._tail[-self._half :] if self._half else b"")
        return {
            "keep": self._keep,
            "size": self.size,
            "total": self._total,
            "head": _packed(head),
            "tail": _packed(tail),
            "line": _packed(line),
        }

    @classmethod
    def restored(cls, state: dict[str, Any], patterns: Patterns) -> Self:
        """The inverse of `state`. Raises KeyError, ValueError or TypeError for anything else."""
        capture = cls(int(state["keep"]), patterns)
        capture.size, capture._total = int(state["size"]), int(state["total"])
        capture._head += _unpacked(state["head"])
        capture._tail += _unpacked(state["tail"])
        capture._line += _unpacked(state["line"])
        capture._hidden = bool(capture._line)
        return capture


def _packed(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _without_broken_end(piece: bytes) -> bytes:
    for back in range(1, min(4, len(piece) + 1)):
        byte = piece[-back]
        if byte & 0xC0 == 0x80:
            continue
        # How long the character is that begins here (RFC 3629).
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return piece[:-back] if length > back else piece
    return piece


def _without_broken_start(piece: bytes) -> bytes:
    start = 0
    while start < min(3, len(piece)) and piece[start] & 0xC0 == 0x80:
        start += 1
    return piece[start:]
