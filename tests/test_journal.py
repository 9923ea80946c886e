"""Where a reader of the journal goes on, with a made-up reader in the place of systemd's."""

from __future__ import annotations

import errno
import os
import sys
import time
from types import ModuleType

import pytest

from sdcron.errors import BackendError
from sdcron.journal import Journal

NOW_US = 1_800_000_000_000_000


class Reader:
    """Entries 0 to 9 but for what was vacuumed, with systemd's manners: at either end, nothing moves.

    Each was got a microsecond after the one before it; `tail` is the newest, by the time that a field is looked for.
    """

    first = 0
    rotated: list[int]
    """Entries with which a file is full: after them the reader finds that all have other names, and is at no entry."""
    lost: list[int]
    """Entries whose file went without a word."""
    unreadable: list[int]
    """Entries whose files went, in order: the reader fails until it takes notice of one after the other."""
    damaged: list[int]
    """What cannot be read whatever it takes notice of."""
    torn: dict[tuple[int, str], int]
    """In which entries which fields are between two steps of journald's, and for how many looks more."""
    lines: bool
    tail: int
    end_us: int | None

    def __init__(self, _flags: int) -> None:
        self.at: float = self.first - 1
        self.is_nowhere = False
        self.gone: list[int] = []

    def fileno(self) -> int:
        """None."""
        return -1

    def process(self) -> int:
        """Whether files have changed: SD_JOURNAL_INVALIDATE."""
        if self.unreadable:
            self.gone.append(self.unreadable.pop(0))
            return 2
        if int(self.at) not in self.rotated:
            return 0
        self.rotated.remove(int(self.at))
        self.is_nowhere = True
        return 2

    def seek_head(self) -> None:
        """Before the first."""
        self.at = self.first - 1

    def seek_cursor(self, cursor: str) -> None:
        """Just before the entry, or where it was."""
        self.at = max(int(cursor), self.first) - 0.5

    def _next(self) -> bool:
        following = int(self.at // 1) + 1
        if following > 9:
            return False
        while following in self.gone:
            following += 1
        if following in self.unreadable or following in self.damaged:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        if following - 1 in self.rotated:
            return False
        self.at = max(following, self.first)
        self.is_nowhere = False
        return True

    def _previous(self) -> bool:
        if self.at - 1 < self.first:
            return False
        self.at -= 1
        return True

    def test_cursor(self, cursor: str) -> bool:
        """Whether this is the entry."""
        return self.at == int(cursor)

    def _get_cursor(self) -> str:
        if self.is_nowhere or int(self.at) in self.lost:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return str(int(self.at))

    def _get(self, field: str) -> bytes:
        left = self.torn.get((int(self.at), field), 0)
        if left:
            self.torn[int(self.at), field] = left - 1
            raise KeyError(field)
        number = b"%d" % self.at
        printed = {"MESSAGE": b"line " + number, "_STREAM_ID": b"a", "_TRANSPORT": b"stdout"}
        return (printed if self.lines else {"MESSAGE": b"sent " + number, "_TRANSPORT": b"journal"})[field]

    def _get_realtime(self) -> int:
        return NOW_US + int(self.at)

    def _get_end(self) -> int:
        return NOW_US + self.tail if self.end_us is None else self.end_us


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("systemd._reader")
    module._Reader = Reader  # type: ignore[attr-defined]  # made on the spot
    monkeypatch.setitem(sys.modules, "systemd", ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd._reader", module)
    monkeypatch.setattr(Reader, "first", 0)
    monkeypatch.setattr(Reader, "rotated", [], raising=False)
    monkeypatch.setattr(Reader, "lost", [], raising=False)
    monkeypatch.setattr(Reader, "unreadable", [], raising=False)
    monkeypatch.setattr(Reader, "damaged", [], raising=False)
    monkeypatch.setattr(Reader, "torn", {}, raising=False)
    monkeypatch.setattr(Reader, "lines", True, raising=False)
    monkeypatch.setattr(Reader, "tail", 9, raising=False)
    monkeypatch.setattr(Reader, "end_us", None, raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, and nobody does wait; it is NOW_US and a second."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(time, "time_ns", lambda: (NOW_US + 1_000_000) * 1000)
    return found


def rest(journal: Journal) -> list[int]:
    found = []
    while journal.next():
        found.append(int(journal.cursor()))
    return found


def test_it_goes_on_after_the_entry_that_was_read_last() -> None:
    journal = Journal()
    assert journal.seek_cursor("4")
    assert rest(journal) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("first", [5, 6, 9])
def test_where_that_entry_was_vacuumed_it_goes_on_with_the_first_that_is_left(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "first", first)
    journal = Journal()
    assert not journal.seek_cursor("3")
    assert rest(journal) == list(range(first, 10))


def test_the_place_of_the_last_entry_is_known_after_its_file_was_given_another_name() -> None:
    Reader.rotated = [4, 9]
    journal = Journal()
    # The reader looks for more and finds that the file has another name: more is in the next, or nothing is yet.
    assert rest(journal) == list(range(10))
    assert Reader.rotated == []
    assert journal.cursor() == "9"
    assert not journal.next()
    assert journal.cursor() == "9", "where the reader is at no entry it has none to forget"


def test_where_that_is_not_known_any_more_none_is_made_up() -> None:
    Reader.lost = [9]
    journal = Journal()
    while journal.next():
        pass
    with pytest.raises(BackendError, match="read last is gone") as caught:
        journal.cursor()
    assert "try again" in caught.value.hint


def test_entries_that_went_with_their_files_are_passed_over() -> None:
    Reader.unreadable = [3, 4, 8]
    assert rest(Journal()) == [0, 1, 2, 5, 6, 7, 9]


def test_a_journal_that_cannot_be_read_is_told_with_what_to_do() -> None:
    Reader.damaged = [3]
    with pytest.raises(BackendError, match="the journal cannot be read: Bad message") as caught:
        rest(Journal())
    assert "try again" in caught.value.hint


def test_it_says_what_to_install_where_the_reader_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd._reader", None)
    with pytest.raises(BackendError, match="the Python package systemd is missing") as caught:
        Journal()
    assert "apt install python3-systemd" in caught.value.hint


def printed(journal: Journal) -> list[bytes | None]:
    """Stream and line of every entry."""
    found = []
    while journal.next():
        found += [journal.get("_STREAM_ID"), journal.get("MESSAGE")]
    return found


ALL = [text for number in range(10) for text in (b"a", b"line %d" % number)]


@pytest.mark.parametrize("field", ["MESSAGE", "_STREAM_ID"])
@pytest.mark.parametrize("looks", [1, 2, 5])
def test_a_field_that_is_not_there_yet_in_the_newest_entry_is_looked_for_again(
    field: str, looks: int, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "tail", 5)
    Reader.torn[5, field] = looks
    assert printed(Journal()) == ALL
    # The second look is at once.
    assert len(waits) == looks - 1


def test_a_field_that_comes_while_the_next_entry_does_is_not_missed(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "tail", 9)
    Reader.torn[5, "MESSAGE"] = 1
    assert printed(Journal()) == ALL
    assert not waits


def test_what_an_entry_lacks_for_good_is_waited_for_only_a_moment(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "tail", 5)
    Reader.torn[5, "MESSAGE"] = 1_000_000
    assert printed(Journal()) == [None if text == b"line 5" else text for text in ALL]
    assert 0.2 < sum(waits) < 0.5


def test_nothing_is_waited_for_in_an_entry_that_another_follows(waits: list[float]) -> None:
    gone = {(entry, "MESSAGE"): 1000 for entry in (2, 3, 7)}
    Reader.torn |= gone
    assert printed(Journal()) == [None if text in (b"line 2", b"line 3", b"line 7") else text for text in ALL]
    assert not waits
    # Nor is there a second look at what was complete before the first: a damaged file is read as quickly as another.
    assert [1000 - Reader.torn[key] for key in gone] == [2, 1, 1]


def test_nothing_is_waited_for_that_such_an_entry_does_not_have(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "lines", False)
    assert printed(Journal()) == [text for number in range(10) for text in (None, b"sent %d" % number)]
    assert not waits


@pytest.mark.parametrize("before", [False, True])
def test_after_the_clock_was_set_back_a_field_is_looked_for_all_the_same(
    before: bool, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "end_us", NOW_US + 3_600_000_000)
    journal = Journal()
    if before:
        monkeypatch.setattr(time, "time_ns", lambda: (NOW_US + 3_601_000_000) * 1000)
        Reader.torn[3, "MESSAGE"] = 1
        assert printed(journal) == ALL
        journal.seek_head()
    monkeypatch.setattr(time, "time_ns", lambda: (NOW_US + 100) * 1000)
    Reader.torn[5, "MESSAGE"] = 4
    assert printed(journal) == ALL
    assert len(waits) == 3
