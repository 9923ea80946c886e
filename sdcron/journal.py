"""The systemd journal as a stream of entries from a cursor on: the only module that imports python3-systemd.

Reads by its low-level reader, one field at a time, some ten times quicker than whole entries (sd-journal(3)). Also
knows how to tell that journald has stored all that was written before a moment.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sdcron.cut_files import outlive_cut_files
from sdcron.errors import BackendError
from sdcron.resident import give_back_pages

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCAL_ONLY = 1  # SD_JOURNAL_LOCAL_ONLY, sd_journal_open(3)
_INVALIDATE = 2  # SD_JOURNAL_INVALIDATE, sd_journal_get_fd(3)
_KEPT_ENTRIES = 5000
"""Entries after which the memory is given back that maps the files: a reader keeps all that it has looked at."""
_EXPECTED: dict[str, tuple[str, bytes | None] | None] = {
    "MESSAGE": None,
    "SYSLOG_IDENTIFIER": None,
    "PRIORITY": None,
    "_PID": None,
    "_UID": None,
    "_STREAM_ID": ("_TRANSPORT", b"stdout"),
    "_SYSTEMD_UNIT": ("_SYSTEMD_CGROUP", None),
    "_SYSTEMD_INVOCATION_ID": ("_SYSTEMD_UNIT", None),
    "MESSAGE_ID": ("SYSLOG_IDENTIFIER", b"systemd"),
    "UNIT": ("INVOCATION_ID", None),
    "INVOCATION_ID": ("MESSAGE_ID", None),
    "USER_UNIT": ("USER_INVOCATION_ID", None),
    "USER_INVOCATION_ID": ("MESSAGE_ID", None),
    "EXIT_CODE": ("EXIT_STATUS", None),
    "EXIT_STATUS": ("EXIT_CODE", None),
}
"""What a line or an event would be lost or misread without -> the field that is there as well if an entry has it: with
this value, or with any; None where nearly every entry that is asked for it has it (systemd.journal-fields(7))."""
_LOOKS_AFTER = tuple(0.001 * 2**look for look in range(8))
"""Seconds between the looks for such a field: 0.255 in all; a busy machine keeps a process waiting for some ms."""
_MOST_GONE = 16
"""How many files may go while one entry is looked for."""
_TRY_AGAIN = "files of it may have been removed just now: try again"
_STDOUT_SOCKET = "/run/systemd/journal/stdout"
_HEADER = b"sdcron-collector\n\n6\n0\n0\n0\n0\n"
"""What a program says of a stream to journald: identifier, unit, priority, and no to prefixes and forwarding."""


class Journal:
    """A place among the entries that the caller may read, of the machine and of the caller's own."""

    def __init__(self, matches: Sequence[str] = ()) -> None:
        """Open, before the first entry. `matches` are FIELD=value, all of which must hold; `+` stands for "or".

        Raises BackendError where python3-systemd is missing or there is no journal to read.
        """
        self._matches = tuple(matches)
        self._count = 0
        self._complete_us = 0
        self._end: str | None = None
        """The cursor of the last entry, where there was no other after it: its file may not be there any more."""
        self._reader = self._open()

    def _open(self) -> Any:  # noqa: ANN401 - python3-systemd has no types
        try:
            from systemd._reader import _Reader
        except ImportError as error:
            raise BackendError(
                "the Python package systemd is missing, which reads the journal",
                "install it: apt install python3-systemd, or pip install 'sdcron[systemd]'",
            ) from error
        outlive_cut_files()
        try:
            reader = _Reader(_LOCAL_ONLY)
            # Watching begins here, so that nothing between this and the first look is missed.
            reader.fileno()
        except OSError as error:
            hint = "see: journalctl --header"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                hint = "too much is watched: raise it with sysctl fs.inotify.max_user_instances"
            raise BackendError(f"the journal cannot be opened: {error.strerror}", hint) from error
        reader.data_threshold = 0
        for match in self._matches:
            if match == "+":
                reader.add_disjunction()
            else:
                reader.add_match(match)
        return reader

    def close(self) -> None:
        """Close; the entry under the reader is lost, its cursor not."""
        self._reader.close()

    # Where to read

    def seek_head(self) -> None:
        """Before the oldest entry."""
        self._end = None
        self._reader.seek_head()

    def seek_time(self, moment_us: int) -> None:
        """Before the first entry since, in microseconds since 1970."""
        self._end = None
        self._reader.seek_realtime(moment_us)

    def seek_tail(self, back: int = 0) -> None:
        """After the newest entry, or before the last `back` of them."""
        self._end = None
        self._reader.seek_tail()
        # The position becomes one by moving only: systemd issue 9934.
        steps = 0
        while steps <= back and self._reader._previous():
            steps += 1
        if steps <= back:
            self._reader.seek_head()

    def seek_cursor(self, cursor: str) -> bool:
        """After the entry of the cursor. False if that entry is gone: then before the next that there is.

        Raises BackendError for what is no cursor.
        """
        self._end = None
        try:
            self._reader.seek_cursor(cursor)
        except (OSError, ValueError) as error:
            raise BackendError("that is no cursor of a journal", "") from error
        if not self._step():
            # Either it is gone with everything after it, or what there is begins later.
            return False
        if self._reader.test_cursor(cursor):
            return True
        if not self._reader._previous():
            # It is the first of all: nothing is before it to go on from.
            self._reader.seek_head()
        return False

    # Reading

    def next(self) -> bool:
        """Go to the next entry; False when there is none yet. Raises BackendError where it cannot be read."""
        # Also right after the first, which looks for its place in every file that there is.
        if self._count % _KEPT_ENTRIES == 1:
            # With a journal of the usual 4 GB it would be more than all else of the collector.
            give_back_pages(".journal")
        self._count += 1
        if self._step():
            self._end = None
            return True
        with suppress(OSError):
            self._end = str(self._reader._get_cursor())
        # By the time of the next entry the clock may have been set back.
        self._complete_us = 0
        # New files may have come, and old ones gone.
        if self._reader.process() == _INVALIDATE and self._step():
            self._end = None
            return True
        return False

    def _step(self) -> bool:
        """Go on; where the entry that comes next went with its file, as that of an old one may, to the one after it."""
        gone = 0
        while True:
            try:
                return bool(self._reader._next())
            except OSError as error:  # systemd issue 36247
                gone += 1
                if gone > _MOST_GONE or self._reader.process() != _INVALIDATE:
                    raise BackendError(f"the journal cannot be read: {error.strerror}", _TRY_AGAIN) from error

    def get(self, field: str) -> bytes | None:
        """A field of this entry, the first if there are several; None if it has none of that name."""
        try:
            value: bytes = self._reader._get(field)
        except KeyError:
            return self._look_again(field) if field in _EXPECTED else None
        except OSError:  # a damaged file: sd_journal_get_data(3), EBADMSG
            return None
        return value

    def _look_again(self, field: str) -> bytes | None:
        """A field that seems to be missing in the newest entry may be there in a moment.

        journald shows an entry to readers first, and then tells each of its fields in two steps that it has one more;
        libsystemd passes over a field that it finds between the two (check_object in systemd's journal-file.c; systemd
        issue 40263). That is a matter of nanoseconds, but journald may have to wait for a processor in the middle. It
        happens to values that are new to the file, as most lines are, and to one field at a time: another tells whether
        this one is to come. Nothing needs to be moved or opened: the file is mapped, and every look reads it anew.
        """
        try:
            got_us = self._reader._get_realtime()
            if got_us < self._complete_us:
                return None
            for seconds in (*_LOOKS_AFTER, None):
                # Before the look: what is not found in a complete entry will never be.
                complete = got_us < self._find_complete()
                value = self._find(field)
                if value is not None or complete or seconds is None or not self._is_due(field):
                    return value
                time.sleep(seconds)
        except OSError:  # the entry went while it was looked at
            pass
        return None

    def _find_complete(self) -> int:
        """The moment before which all entries are complete: that of the newest, as journald writes one at a time.

        After the clock was set back the newest by its moment is an old one; then what is a second old is trusted.
        """
        newest_us, now_us = self._reader._get_end(), time.time_ns() // 1000
        self._complete_us = int(newest_us) if newest_us <= now_us else now_us - 1_000_000
        return self._complete_us

    def _is_due(self, field: str) -> bool:
        witness = _EXPECTED[field]
        if witness is None:
            return True
        value = self._find(witness[0])
        return value is not None and witness[1] in (None, value)

    def _find(self, field: str) -> bytes | None:
        try:
            value: bytes = self._reader._get(field)
        except KeyError:
            return None
        return value

    def realtime_us(self) -> int:
        """When journald got this entry, microseconds since 1970. Raises BackendError if it is gone."""
        try:
            return int(self._reader._get_realtime())
        except OSError as error:
            raise BackendError(f"the journal cannot be read: {error.strerror}", _TRY_AGAIN) from error

    def cursor(self) -> str:
        """What brings a reader back to the entry that `next` went to last, also after it has found no other.

        Raises BackendError where that is not known any more.
        """
        try:
            return str(self._reader._get_cursor())
        except OSError as error:
            # A rotation gives the file another name, and libsystemd, which opens it anew by that, is at no entry then.
            if self._end is not None:
                return self._end
            raise BackendError("the entry of the journal that was read last is gone", _TRY_AGAIN) from error

    def fileno(self) -> int:
        """What to poll for new entries."""
        return int(self._reader.fileno())

    def process(self) -> None:
        """Take notice of what made the descriptor readable: sd_journal_process(3)."""
        self._reader.process()

    def wait(self, seconds: float) -> bool:
        """Wait until something may be new, at most so long; True if so."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        with suppress(InterruptedError):
            if poll.poll(max(seconds, 0) * 1000):
                self._reader.process()
                return True
        return False


def write(message: str, **fields: str) -> None:
    """An entry of our own, with these fields: sd_journal_send(3)."""
    from systemd._journal import sendv

    sendv(f"MESSAGE={message}", *(f"{name}={value}" for name, value in fields.items()))


def all_stored(seconds: float) -> bool:
    """Wait until journald has gone once round all its streams; False if it does not within the time.

    We open a stream and write no line to it. journald closes it when it has read to its end, and reads a bit of each
    stream that has something before it comes back to one (sd-event dispatches what waits longest). So if nothing of a
    stream arrives between two such rounds after its writers are gone, nothing is to come. Needs no privilege, and
    leaves no trace in the journal.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as stream:
        try:
            stream.connect(_STDOUT_SOCKET)
            stream.send(_HEADER)
            stream.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        poll = select.poll()
        poll.register(stream, 0)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll(left * 1000)):
                return True
