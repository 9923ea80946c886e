"""Every record is in the status log exactly once: whatever crashes, fills up, or is moved by somebody else."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdcron.errors import SdcronError
from sdcron.log_files import DAMAGED, LOG_NAME, ROTATED, as_record, old_logs
from sdcron.runs import Outcome, Output, Run
from sdcron.settings import Settings
from sdcron.status_log import Position, Recovery, StatusLog
from tests.faults import Killed, Power, armed

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOON = 1_795_000_000 * SECOND  # 2026-11-18T11:06:40Z


def line(number: int, padding: int = 0) -> bytes:
    return Run("job", f"{number:032x}", Outcome.SUCCESS, stdout=Output(b"x" * padding, padding)).line()


def lines(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, line(number)) for number in numbers]


def numbers_in(path: Path) -> list[int]:
    """The rows in one file, every line of which is a record."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    records = [as_record(text + b"\n") for text in content.split(b"\n")[:-1]]
    assert None not in records
    return [int(record["run_id"], 16) for record in records if record is not None]


def rows_in(*paths: Path) -> list[int]:
    return sorted(number for path in paths for number in numbers_in(path))


def opened(directory: Path, position: Position | None = None, newest: int = 0, now: int = NOON) -> StatusLog:
    log = StatusLog(directory, Settings())
    log.recover(position, newest, now)
    return log


def recovered(directory: Path, position: Position | None, newest: int, now: int = NOON) -> tuple[StatusLog, Recovery]:
    """A log after a recovery, to which has been appended again what the recovery asked for."""
    log = StatusLog(directory, Settings())
    try:
        recovery = log.recover(position, newest, now)
        again = range(recovery.append_after + 1, newest + 1)
        log.append(lines(*again), now)
    except BaseException:
        log.close()
        raise
    return log, recovery


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log" / "sdcron"


def test_a_new_log_and_its_directory_have_their_modes_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0o077)
    try:
        log = StatusLog(directory, Settings(), group=os.getegid())
        recovery = log.recover(None, 0, NOON)
    finally:
        os.umask(before)
    assert (recovery, log.position) == (Recovery(0), Position(log.path.stat().st_ino, 0, 0, 1, 0))
    assert (directory.stat().st_mode & 0o777, log.path.stat().st_mode & 0o777) == (0o750, 0o640)


def test_lines_are_appended_in_their_order_and_the_position_says_how_far(directory: Path) -> None:
    log = opened(directory)
    assert log.append(lines(3, 4), NOON) == Position(log.path.stat().st_ino, 2 * len(line(3)), NOON, 3, 4)
    position = log.append(lines(7), NOON + SECOND)
    assert position == Position(log.path.stat().st_ino, log.path.stat().st_size, NOON, 3, 7) == log.position
    assert log.append([], NOON) == position
    assert numbers_in(log.path) == [3, 4, 7]
    assert log.take_notes() == ()


def test_rows_out_of_their_order_are_a_bug_and_not_written(directory: Path) -> None:
    log = opened(directory)
    log.append(lines(3, 4), NOON)
    for wrong in (lines(4), lines(6, 5), lines(5, 5)):
        with pytest.raises(ValueError, match="after row 4"):
            log.append(wrong, NOON)
    assert numbers_in(log.path) == [3, 4]
    with pytest.raises(RuntimeError, match="not recovered"):
        StatusLog(directory, Settings()).append(lines(5), NOON)


@pytest.mark.parametrize("tail", [b"", b"{", line(3)[:-1], line(3), line(3) + line(4)[:9], b"\0" * 5000, b"\xff\n"])
def test_what_is_beyond_the_saved_position_is_cut_off_and_appended_again(directory: Path, tail: bytes) -> None:
    position = opened(directory).append(lines(1, 2), NOON)
    with (directory / LOG_NAME).open("ab") as stream:
        stream.write(tail)
    log = StatusLog(directory, Settings())
    assert log.recover(position, 4, NOON) == Recovery(2)
    log.append(lines(3, 4), NOON)
    assert numbers_in(log.path) == [1, 2, 3, 4]


def test_whole_records_that_the_database_cannot_give_again_stay(directory: Path) -> None:
    log = opened(directory)
    old = log.append(lines(1, 2), NOON)
    log.append(lines(3, 4, 5), NOON)
    # The database is restored from a backup, and gets the runs 4 and 5 from the journal again.
    log = StatusLog(directory, Settings())
    recovery = log.recover(old, 2, NOON)
    assert recovery.append_after == 2
    log.append([(3, line(4))], NOON)
    position = log.append([(4, line(5)), (5, line(6))], NOON)
    assert numbers_in(log.path) == [1, 2, 3, 4, 5, 6]
    assert recovered(directory, position, 5)[1] == Recovery(5)


def test_a_log_is_rotated_after_its_time_also_when_it_was_closed_in_between(directory: Path) -> None:
    log = opened(directory)
    assert not log.rotate_if_due(NOON + 40 * DAY), "an empty log is never old"
    position = log.append(lines(1), NOON)
    log = opened(directory, position, 1)
    assert not log.rotate_if_due(NOON + DAY - 1)
    assert log.rotate_if_due(NOON + DAY)
    assert not log.rotate_if_due(NOON + DAY)
    assert log.position == Position(log.path.stat().st_ino, 0, 0, 2, 1)
    assert numbers_in(directory / "job_status.log-20261119T110640Z") == [1]
    assert log.path.stat().st_size == 0


def test_a_log_that_is_large_is_rotated_early_and_no_name_is_taken_twice(directory: Path) -> None:
    log = StatusLog(directory, replace(Settings(), max_size=len(line(1)) + 1))
    log.recover(None, 0, NOON)
    for number in range(1, 13):
        assert log.rotate_if_due(NOON) == (number in (3, 5, 7, 9, 11))
        log.append(lines(number), NOON)
    names = ["", ".2", ".3", ".4", ".5"]
    assert [old.path.name for old in old_logs(directory)] == [f"{ROTATED}20261118T110640Z{name}" for name in names]
    assert [run.run_id for batch in log.read_back() for run in batch.runs] == [f"{n:032x}" for n in range(1, 13)]


def test_a_clock_that_is_set_back_rotates_neither_always_nor_never(directory: Path) -> None:
    log = opened(directory)
    log.append(lines(1), NOON)
    back = NOON - 100 * DAY
    assert not log.rotate_if_due(back)
    assert not log.rotate_if_due(back + DAY - 1)
    assert log.rotate_if_due(back + DAY)


def test_rotation_every_24_hours_and_retention_of_30_days_over_40_days(directory: Path) -> None:
    log = opened(directory)
    now, removed = NOON, []
    for number in range(1, 40 * 24 + 1):
        now = NOON + (number - 1) * HOUR
        log.rotate_if_due(now)
        removed += log.prune(now)
        log.append(lines(number), now)
        if number % 50 == 0:  # the collector is started again every now and then
            log = opened(directory, log.position, number, now)
    kept = old_logs(directory)
    assert (len(kept), len(removed)) == (30, 9)
    # The log of day 39 is being written; the 30 before it were rotated at the end of days 9 to 38 (the first is 0).
    assert [numbers_in(old.path) for old in kept] == [list(range(d * 24 + 1, d * 24 + 25)) for d in range(9, 39)]
    assert numbers_in(log.path) == list(range(39 * 24 + 1, 40 * 24 + 1))
    assert all(now - old.time_us < 30 * DAY for old in kept)


def test_the_oldest_logs_go_while_all_together_are_too_large(directory: Path) -> None:
    log = StatusLog(directory, replace(Settings(), total_size=3 * len(line(1))))
    log.recover(None, 0, NOON)
    for number in range(1, 6):
        log.rotate_if_due(NOON + number * DAY)
        log.append(lines(number), NOON + number * DAY)
    (directory / f"{DAMAGED}20261118T000000Z").write_bytes(b"x")
    (directory / f"{ROTATED}20269999T000000Z").write_bytes(b"no date")
    (directory / f"{ROTATED}20261118T000000Z.gz").write_bytes(b"somebody else's")
    (directory / f"{ROTATED}20261118T000000Z").symlink_to("/etc/passwd")
    gone = log.prune(NOON + 5 * DAY)
    assert [path.name for path in gone] == [
        f"{DAMAGED}20261118T000000Z", f"{ROTATED}20261120T110640Z", f"{ROTATED}20261121T110640Z",
    ]  # fmt: skip
    assert [numbers_in(old.path) for old in old_logs(directory)] == [[3], [4]]
    assert log.prune(NOON + 5 * DAY) == []


def test_a_log_of_its_own_is_begun_where_the_database_is_new(directory: Path) -> None:
    log = opened(directory)
    log.append(lines(1, 2), NOON)
    with log.path.open("ab") as stream:
        stream.write(line(3)[:-9])
    batches = list(StatusLog(directory, Settings()).read_back())
    assert [(len(batch.runs), batch.damaged) for batch in batches] == [(2, 1)]
    log = StatusLog(directory, Settings())
    recovery = log.recover(None, 2, NOON)
    assert (recovery, log.position) == (Recovery(2), Position(log.path.stat().st_ino, 0, 0, 3, 2))
    log.append(lines(3), NOON)
    assert [numbers_in(path) for path in (old_logs(directory)[0].path, log.path)] == [[1, 2], [3]]


def test_read_back_leaves_out_what_is_no_record_and_what_was_set_aside(directory: Path) -> None:
    log = opened(directory)
    run = Run("a b", "1" * 32, Outcome.TIMEOUT, host="h", started_us=NOON, stderr=Output(b"\xff\n", 2), cpu_us=1500)
    good = run.line()
    bad = [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b"{" * 100_000 + b"\n",
        b"\0" * 200_000 + b"\n",
        b'{"schema":1,"job":"a","run_id":"1"}\n',
    ]
    old = directory / f"{ROTATED}20261118T000000Z"
    old.write_bytes(b"".join(text + good for text in bad))
    (directory / f"{DAMAGED}20261118T000000Z").write_bytes(good)
    (directory / f"{ROTATED}20261119T000000Z").mkdir()
    log.append([(1, line(1))], NOON)
    batches = list(log.read_back())
    assert [batch.path for batch in batches] == [old, log.path]
    assert batches[0].runs == (replace(run, stderr=Output(b"\\xff\n", 2)),) * 6
    assert batches[0].damaged >= 6
    assert [(found.run_id, batches[1].damaged) for found in batches[1].runs] == [(f"{1:032x}", 0)]


def test_read_back_goes_in_batches_and_past_what_cannot_be_read(directory: Path) -> None:
    log = opened(directory)
    log.append([(number, line(number, 100_000)) for number in range(1, 31)], NOON)
    log.rotate_if_due(NOON + DAY)
    log.append(lines(31), NOON + DAY)
    batches = list(log.read_back())
    assert sum(len(batch.runs) for batch in batches) == 31
    assert max(len(batch.runs) for batch in batches) <= 12
    log.path.unlink()
    log.path.symlink_to("/etc/passwd")
    assert [(batch.runs, batch.damaged) for batch in log.read_back()][-1] == ((), 1)
    assert list(StatusLog(directory / "none", Settings()).read_back()) == []


def may_open(device: int, path: Path) -> bool:
    """In a container root may make more than it may open."""
    os.mknod(path, 0o20600, device)
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "device"])
def test_what_is_no_regular_file_is_refused_and_not_followed(directory: Path, kind: str, tmp_path: Path) -> None:
    directory.mkdir(parents=True)
    path = directory / LOG_NAME
    target = tmp_path / "target"
    if kind in {"link", "dangling"}:
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(line(1))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif os.geteuid() == 0 and may_open(os.makedev(1, 3), tmp_path / "device"):
        os.mknod(path, 0o20600, os.makedev(1, 3))
    else:
        path.mkdir()
    for position in (None, Position(1, 2, 3, 4, 5)):
        with pytest.raises(SdcronError, match=r"job_status\.log is not a regular file") as caught:
            opened(directory, position)
        assert caught.value.hint
    assert not target.exists() or target.read_bytes() == line(1)


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    for directory in (tmp_path / "log", tmp_path / "log" / "sdcron"):
        with pytest.raises(SdcronError, match=r"log(/sdcron)? cannot be written"):
            opened(directory)


def test_a_log_put_in_the_way_while_at_work_is_not_followed(directory: Path, tmp_path: Path) -> None:
    log = opened(directory)
    log.append(lines(1), NOON)
    log.path.rename(tmp_path / "moved")
    log.path.symlink_to(tmp_path / "target")
    with pytest.raises(SdcronError):
        log.append(lines(2), NOON)
    log.path.unlink()
    log.append(lines(2), NOON)
    assert numbers_in(log.path) == [2]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a line of text": lambda content: content[: len(line(1))] + b"hello\n" + content[len(line(1)) + 6 :],
    "NULs": lambda content: content[:700] + b"\0" * 900 + content[1600:],
    "NULs at the end": lambda content: content[:-300] + b"\0" * 300,
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
    "NULs only": lambda content: b"\0" * len(content),
    "no line break": lambda content: content.replace(b"\n", b" "),
    "nothing at the end": lambda content: content[:-1] + b" ",
    "bytes": lambda content: content[:50] + b"\xff\xfe" + content[52:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_log_is_set_aside_and_what_it_lost_is_appended_anew(directory: Path, kind: str) -> None:
    log = opened(directory)
    log.append(lines(1, 2, 3), NOON)
    log.rotate_if_due(NOON + DAY)
    position = log.append(lines(*range(4, 9)), NOON + DAY)
    broken = DAMAGE[kind](log.path.read_bytes())
    log.path.write_bytes(broken)
    log, recovery = recovered(directory, position, 8, NOON + 2 * DAY)
    assert recovery.append_after == 3
    assert len(recovery.notes) == 1
    assert f"is kept as {DAMAGED}20261120T110640Z" in recovery.notes[0]
    assert (directory / f"{DAMAGED}20261120T110640Z").read_bytes() == broken
    assert sorted(numbers_in(log.path)) == [4, 5, 6, 7, 8]
    assert log.position.first_id == 4
    assert log.path.stat().st_mode & 0o777 == 0o640
    assert recovered(directory, log.position, 8)[1] == Recovery(8)


def test_a_damaged_log_of_an_unknown_origin_keeps_its_good_records(directory: Path) -> None:
    directory.mkdir(parents=True)
    path = directory / LOG_NAME
    path.write_bytes(line(1) + b"hello\n" + line(2))
    recovery = StatusLog(directory, Settings()).recover(None, 2, NOON)
    assert len(recovery.notes) == 1
    assert [numbers_in(old.path) for old in old_logs(directory) if not old.damaged] == [[1, 2]]
    path.write_bytes(line(3) + b"hello\n")
    _log, recovery = recovered(directory, Position(1, 2, 3, 3, 3), 4)
    assert numbers_in(path) == [3, 4]


def test_a_log_that_somebody_else_moves_is_followed_by_a_new_one(directory: Path, tmp_path: Path) -> None:
    log = opened(directory)
    log.append(lines(1), NOON)
    log.path.rename(tmp_path / "moved")
    log.append(lines(2), NOON)
    assert "moved or deleted" in log.take_notes()[0]
    log.path.rename(directory / f"{LOG_NAME}.1")
    log.path.touch()  # logrotate's `create`
    assert not log.rotate_if_due(NOON + DAY)
    log.append(lines(3), NOON + DAY)
    log.path.unlink()
    log.append(lines(4), NOON + DAY)
    assert [numbers_in(tmp_path / "moved"), numbers_in(directory / f"{LOG_NAME}.1"), numbers_in(log.path)] == [
        [1],
        [2],
        [4],
    ]
    assert log.position.first_id == 4


@pytest.mark.parametrize("name", [f"{LOG_NAME}.1", f"{ROTATED}20261121", "elsewhere"])
def test_a_log_that_was_moved_while_nobody_looked_is_cut_if_it_is_found(directory: Path, name: str) -> None:
    log = opened(directory)
    position = log.append(lines(1, 2), NOON)
    if name != "elsewhere":
        log.append(lines(3), NOON)  # not saved
    log.path.rename(directory / name)
    log, recovery = recovered(directory, position, 4)
    assert recovery.append_after == 2
    assert numbers_in(directory / name) == [1, 2]
    assert numbers_in(log.path) == [3, 4]


def test_a_log_that_was_replaced_by_its_copy_goes_on(directory: Path, tmp_path: Path) -> None:
    log = opened(directory)
    position = log.append(lines(1, 2), NOON)
    log.append(lines(3), NOON)  # not saved
    shutil.move(log.path, tmp_path / "moved")
    shutil.copy(tmp_path / "moved", log.path)  # as a backup brings it back
    log = opened(directory, position, 4, NOON + HOUR)
    for number in (3, 4):
        log.append(lines(number), NOON + HOUR)
    assert numbers_in(log.path) == [1, 2, 3, 4]
    assert not log.rotate_if_due(NOON + DAY)
    assert not log.rotate_if_due(NOON + DAY + HOUR - 1), "its age counts from when it was found"
    assert recovered(directory, log.position, 4)[1] == Recovery(4)


def test_an_emptied_log_is_not_taken_for_what_it_was_when_it_has_grown_again(directory: Path) -> None:
    position = opened(directory).append(lines(1), NOON)
    os.truncate(directory / LOG_NAME, 0)
    for _ in range(2):  # the second time after a crash before the Position was saved
        log, recovery = recovered(directory, position, 4)
        assert (recovery.append_after, numbers_in(log.path)) == (1, [2, 3, 4])


def test_a_log_that_is_emptied_goes_on_at_its_end(directory: Path) -> None:
    log = opened(directory)
    position = log.append(lines(1, 2), NOON)
    os.truncate(log.path, 0)
    log.append(lines(3), NOON + HOUR)
    assert numbers_in(log.path) == [3]
    assert (log.position.first_id, log.position.began_us) == (3, NOON + HOUR)
    assert "emptied" in log.take_notes()[0]
    log, _ = recovered(directory, position, 4)  # where the Position after that was not saved
    assert numbers_in(log.path) == [3, 4]
    os.truncate(log.path, len(line(3)) + 5)
    log, _ = recovered(directory, log.position, 5)
    assert numbers_in(log.path) == [3, 5]


def test_a_kill_at_any_step_of_a_rotation_or_recovery_costs_nothing(tmp_path: Path) -> None:
    for at in range(1, 40):
        directory = tmp_path / str(at)
        log = opened(directory)
        saved = log.append(lines(1, 2), NOON)
        power = Power([directory], at)
        newest = 2
        try:
            with armed(power.trap):
                log.rotate_if_due(NOON + DAY)
                newest = 3
                saved = log.position
                log.append(lines(3), NOON + DAY)
                newest = 4
                log.append(lines(4), NOON + DAY)  # not saved
                (directory / LOG_NAME).rename(directory / f"{ROTATED}20261119T110000Z")
                log, _ = recovered(directory, saved, newest, NOON + DAY)
                saved = log.position
                broken = log.path.read_bytes()
                broken_path = log.path
                descriptor = os.open(broken_path, os.O_WRONLY)
                os.pwrite(descriptor, b"\0" * 9, len(broken) - 20)
                os.close(descriptor)
                log, _ = recovered(directory, saved, newest, NOON + DAY)
                saved = log.position
        except Killed:
            pass
        log, _ = recovered(directory, saved, newest, NOON + DAY)
        kept = [old.path for old in old_logs(directory) if not old.damaged]
        assert rows_in(*kept, log.path) == list(range(1, newest + 1)), at
        assert recovered(directory, log.position, newest, NOON + DAY)[1] == Recovery(newest)
        if not power._dead:
            break
    else:
        pytest.fail("more steps than were tried")
    assert at > 8


@pytest.mark.parametrize("failing", ["write", "short write", "fdatasync", "truncate too"])
def test_a_write_that_fails_leaves_the_file_as_it_was(
    directory: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    log = opened(directory)
    before = log.append(lines(1), NOON)
    real_write = os.write

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:

        def write_a_part(descriptor: int, data: memoryview) -> int:
            patched.setattr(os, "write", refuse)
            return real_write(descriptor, data[: len(data) // 2])

        if failing == "write":
            patched.setattr(os, "write", refuse)
        elif failing == "fdatasync":
            patched.setattr(os, "fdatasync", refuse)
        else:
            patched.setattr(os, "write", write_a_part)
        if failing == "truncate too":
            patched.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append(lines(2, 3), NOON)
    assert log.position == before
    assert failing == "truncate too" or numbers_in(log.path) == [1]
    log.append(lines(2, 3), NOON)
    assert numbers_in(log.path) == [1, 2, 3]


def test_a_record_that_is_there_already_is_not_doubled_by_a_retry(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(parents=True)
    (directory / LOG_NAME).write_bytes(line(1) + line(2))
    log = StatusLog(directory, Settings())
    assert log.recover(Position(1, 2, 3, 1, 0), 3, NOON).append_after == 0

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append(lines(1, 2, 3), NOON)
    assert log.append(lines(1, 2, 3), NOON).last_id == 3
    assert numbers_in(log.path) == [1, 2, 3]


FILL = """
import errno, resource, signal, sys
from dataclasses import replace
from pathlib import Path
from sdcron.settings import Settings
from sdcron.status_log import StatusLog
from tests.test_status_log import NOON, DAY, line, numbers_in, old_logs

directory = Path(sys.argv[1])
log = StatusLog(directory, replace(Settings(), max_size=60_000))
log.recover(None, 0, NOON)
position = log.position
committed, failures = 0, 0
for batch in range(200):
    rows = [(number, line(number, 400)) for number in range(committed + 1, committed + 8)]
    try:
        log.rotate_if_due(NOON)
        position = log.append(rows, NOON)
        committed += 7
    except OSError as error:
        assert error.errno in (errno.ENOSPC, errno.EFBIG), error
        failures += 1
        if failures % 3 == 0:  # killed and started again on the full disk
            log.close()
            log = StatusLog(directory, log.settings)
            assert log.recover(position, committed, NOON).append_after == committed
        if failures == 7:
            if sys.argv[2] == "tmpfs":
                (directory.parent / "ballast").unlink()
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = sum([numbers_in(old.path) for old in old_logs(directory)], []) + numbers_in(log.path)
    assert found == list(range(1, committed + 1)), (batch, failures)
assert failures >= 7 and committed > 600, (failures, committed)
print("held")
"""


@pytest.mark.parametrize("kind", ["limit", *(["tmpfs"] if os.geteuid() == 0 else [])])
def test_a_disk_that_fills_up_keeps_whole_records_and_the_rest_follows(tmp_path: Path, kind: str) -> None:
    if kind == "tmpfs":
        script = (
            f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && head -c 1900000 /dev/zero > {tmp_path}/ballast"
            f' && exec "$0" -c "$1" {tmp_path}/log tmpfs'
        )
        held(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, sys.executable, FILL])
    else:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, resource.RLIM_INFINITY))"
        held([sys.executable, "-c", f"{limit}\n{FILL}", str(tmp_path / "log"), "limit"])


def held(command: list[str]) -> None:
    root = Path(__file__).resolve().parent.parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "held\n"), ended.stderr


class Machine:
    """A collector and a database as the protocol wants them, with all that can happen to the log's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "log"
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir()
        self.rows = 0
        self.deleted: set[int] = set()
        self.now = NOON
        self.saved: Position | None = None
        self.log = StatusLog(self.directory, Settings())
        self.start()

    def start(self) -> None:
        """Start anew: what was in memory is forgotten."""
        self.log.close()
        self.log, _ = recovered(self.directory, self.saved, self.rows, self.now)
        self.saved = self.log.position
        self.check()

    def commit(self, count: int) -> list[tuple[int, bytes]]:
        """Rows in the database, and the Position with them."""
        self.log.rotate_if_due(self.now)
        self.saved = self.log.position
        self.rows += count
        return lines(*range(self.rows - count + 1, self.rows + 1))

    def append(self, count: int) -> None:
        """What the collector does all day."""
        self.log.append(self.commit(count), self.now)

    def kill_before_append(self, count: int) -> None:
        """Killed after the commit."""
        self.commit(count)
        self.start()

    def kill_in_append(self, count: int, cut: float, garbage: bytes) -> None:
        """Killed in the write, or the power went and took what was not synced."""
        new = self.commit(count)
        before = self.log.position.offset
        after = self.log.append(new, self.now).offset
        os.truncate(self.log.path, before + int((after - before) * cut))
        with self.log.path.open("ab") as stream:
            stream.write(garbage)
        self.start()

    def kill_in_rotation(self, at: int) -> None:
        """Killed at a step of a rotation, or of the recovery after it."""
        self.now += DAY
        try:
            with armed(Power([self.directory], at).trap):
                self.log.rotate_if_due(self.now)
                self.start()
        except Killed:
            self.start()

    def move(self, *, kill: bool) -> None:
        """logrotate, without `copytruncate`."""
        self.log.path.rename(self.directory / f"{LOG_NAME}.{len(list(self.directory.iterdir()))}")
        if kill:
            self.start()

    def move_away(self) -> None:
        """The same, into another directory, where it cannot be found again, while nothing is unsaved."""
        self.saved = self.log.position
        self.log.path.rename(self.elsewhere / str(len(list(self.elsewhere.iterdir()))))

    def copy_and_truncate(self, *, kill: bool) -> None:
        """logrotate with `copytruncate`, while nothing is unsaved."""
        self.saved = self.log.position
        shutil.copy(self.log.path, self.elsewhere / str(len(list(self.elsewhere.iterdir()))))
        os.truncate(self.log.path, 0)
        if kill:
            self.start()

    def delete(self, *, kill: bool) -> None:
        """Somebody deletes the log."""
        self.deleted |= set(numbers_in(self.log.path))
        self.log.path.unlink()
        if kill:
            self.start()

    def damage(self, where: float, garbage: bytes) -> None:
        """What a power cut may leave of a file."""
        content = self.log.path.read_bytes()
        place = int(where * len(content))
        self.log.path.write_bytes((content[:place] + garbage + content[place + len(garbage) :])[: len(content)])
        self.start()

    def pass_time(self, hours: int) -> None:
        """The clock goes on, or is set back."""
        self.now += hours * HOUR

    def check(self) -> None:
        """Every row is in exactly one file, once; at most once if somebody deleted it."""
        kept = [path for path in self.directory.iterdir() if not path.name.startswith(DAMAGED)]
        found = rows_in(*kept, *self.elsewhere.iterdir())
        assert len(found) == len(set(found))
        assert set(range(1, self.rows + 1)) - set(found) <= self.deleted


counts = st.integers(0, 4)
garbage = st.sampled_from([b"", b"\0" * 30, b"{", b"\xff\n", b"x\ny", line(10**6)[:-40], b"\n", b"\0" * 700])
# What is seen as damage wherever it stands: a letter in a text would only make it another text.
damages = st.sampled_from([b"\0" * 30, b"\xff\n", b"x\ny", b"\0" * 700])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), counts),
        st.tuples(st.just("append"), counts),
        st.tuples(st.just("kill_before_append"), counts),
        st.tuples(st.just("kill_in_append"), counts, st.floats(0, 1), garbage),
        st.tuples(st.just("kill_in_rotation"), st.integers(1, 12)),
        st.tuples(st.just("move"), st.booleans()),
        st.tuples(st.just("move_away")),
        st.tuples(st.just("copy_and_truncate"), st.booleans()),
        st.tuples(st.just("delete"), st.booleans()),
        st.tuples(st.just("damage"), st.floats(0, 1), damages),
        st.tuples(st.just("pass_time"), st.integers(-60, 60)),
        st.tuples(st.just("start")),
    ),
    max_size=14,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations)
def test_whatever_happens_every_record_is_in_the_files_once(steps: list[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory))
        for name, *arguments in steps:
            keywords = {"kill": arguments.pop()} if name in {"move", "copy_and_truncate", "delete"} else {}
            if name in {"move", "move_away", "copy_and_truncate", "delete", "damage"} and not machine.log.path.exists():
                continue
            getattr(machine, name)(*arguments, **keywords)
        machine.append(1)
        machine.check()
        machine.start()
        machine.log.close()


@pytest.mark.parametrize("padding", [0, 60_000])
def test_64_mib_are_checked_within_a_few_seconds(directory: Path, padding: int) -> None:
    log = opened(directory)
    block = line(1, padding) * max(1, (1 << 20) // len(line(1, padding)))
    with log.path.open("ab") as stream:
        while stream.tell() < 64 << 20:
            stream.write(block)
        size = stream.tell()
    inode = log.path.stat().st_ino
    began = time.perf_counter()
    assert StatusLog(directory, Settings()).recover(Position(inode, size, NOON, 1, 1), 1, NOON).append_after == 1
    assert time.perf_counter() - began < 10
