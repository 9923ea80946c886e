"""Where a reader of the journal goes on, with a made-up reader in the place of systemd's."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from sdcron.errors import BackendError
from sdcron.journal import Journal


class Reader:
    """Entries 0 to 9 but for what was vacuumed, with systemd's manners: at either end, nothing moves."""

    first = 0

    def __init__(self, _flags: int) -> None:
        self.at: float = self.first - 1

    def fileno(self) -> int:
        """None."""
        return -1

    def process(self) -> int:
        """Nothing has changed."""
        return 0

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
        self.at = max(following, self.first)
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
        return str(int(self.at))


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("systemd._reader")
    module._Reader = Reader  # type: ignore[attr-defined]  # made on the spot
    monkeypatch.setitem(sys.modules, "systemd", ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd._reader", module)
    monkeypatch.setattr(Reader, "first", 0)


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


def test_it_says_what_to_install_where_the_reader_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd._reader", None)
    with pytest.raises(BackendError, match="the Python package systemd is missing") as caught:
        Journal()
    assert "apt install python3-systemd" in caught.value.hint
