"""A reader never sees a file half done, and what is under its name is on the disk."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from sdcron.files import STAGE_PREFIX, Files, leftovers
from tests.faults import Killed, Power, Trap, armed

if TYPE_CHECKING:
    from pathlib import Path

OLD = "old\n" * 5000
NEW = "new\n" * 6000


def test_a_staged_file_is_hidden_until_it_is_published(tmp_path: Path) -> None:
    files = Files()
    path = tmp_path / "a.timer"
    path.write_text(OLD)
    staged = files.stage(path, NEW)
    assert staged.name.startswith(".")
    assert path.read_text() == OLD
    files.publish(staged, path)
    assert path.read_text() == NEW
    assert leftovers(tmp_path) == []


def test_a_file_gets_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Files().write(tmp_path / "a", "x", 0o644)
        Files().write(tmp_path / "b", "x", 0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o644, 0o600]


@pytest.mark.parametrize("text", ["", "short\n", OLD])
def test_all_of_a_file_is_written_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    Files().stage(tmp_path / "a", text)
    assert synced == [len(text)]


def test_a_kill_at_any_step_leaves_the_old_or_the_new_text(tmp_path: Path) -> None:
    path = tmp_path / "a.timer"
    for at in range(1, 50):
        path.write_text(OLD)
        power = Power([tmp_path], at)
        try:
            with armed(power.trap):
                Files().write(path, NEW)
        except Killed:
            assert path.read_text() in (OLD, NEW)
        else:
            assert at > 3
            assert path.read_text() == NEW
            return
    pytest.fail("never got to the end")


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "wants" / "a.timer"
    Files().link(link, "../old")
    for at in range(1, 50):
        power = Power([tmp_path], at)
        try:
            with armed(power.trap):
                Files().link(link, "../new")
        except Killed:
            assert str(link.readlink()) in ("../old", "../new")
        else:
            assert str(link.readlink()) == "../new"
            return
    pytest.fail("never got to the end")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for at in (2, 3):  # 1 is the mkdir of a directory that is there
        with armed(Trap([tmp_path], at, full)), pytest.raises(OSError, match="No space"):
            Files().stage(tmp_path / "a", NEW)
        assert list(tmp_path.iterdir()) == []


def test_what_a_link_in_the_way_points_to_is_not_written(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f"{STAGE_PREFIX}a").symlink_to(victim)
    (tmp_path / "stamp").symlink_to(victim)
    staged = Files().stage(tmp_path / "a", "x")
    assert not staged.is_symlink()
    assert staged.read_text() == "x"
    with pytest.raises(OSError, match="symbolic links"):
        Files().touch(tmp_path / "stamp", 0)
    assert victim.read_text() == "mine"


def test_a_file_of_somebody_else_under_the_staged_name_is_not_used(tmp_path: Path) -> None:
    planted = tmp_path / f"{STAGE_PREFIX}a"
    planted.write_text("theirs")
    planted.chmod(0o666)
    # Whoever has it open goes on having the file that was there.
    with planted.open("r+") as theirs:
        Files().write(tmp_path / "a", "ours")
        theirs.write("THEIRS")
    assert (tmp_path / "a").read_text() == "ours"


def test_touch_does_not_wait_for_a_reader_of_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stamp")
    with pytest.raises(OSError, match="No such device"):
        Files().touch(tmp_path / "stamp", 0)


def test_touch_sets_the_time_and_keeps_the_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "stamp"
    Files().touch(path, 1_000_000_007)
    assert path.stat().st_mtime_ns == 1_000_000_007
    path.write_text("kept")
    Files().touch(path, 2_000_000_000)
    assert (path.stat().st_mtime_ns, path.read_text()) == (2_000_000_000, "kept")


def test_leftovers_are_the_staged_files_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / ".other").touch()
    (tmp_path / "sdcron-a.timer").touch()
    staged = Files().stage(tmp_path / "sdcron-a.timer", "")
    assert leftovers(tmp_path) == [staged]
    assert leftovers(tmp_path / "absent") == []
