"""A file of the journal that is cut off while it is mapped: nobody is ended by that, and by anything else as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sdcron.cut_files import _KNOWN_MACHINES
from tests.test_project import ROOT

if TYPE_CHECKING:
    from pathlib import Path

#: Maps all but the first page of a file, cuts that to so many, and looks at each, also as libsystemd does: while other
#: threads may run.
PROGRAM = """
import faulthandler, mmap, os, signal, sys, zlib
from sdcron.cut_files import outlive_cut_files

path, left, *others = sys.argv[1:]
if "told" in others:
    faulthandler.enable()
outlive_cut_files()
outlive_cut_files()
file = open(path, "w+b")
file.write(b"x" * 4 * mmap.PAGESIZE)
file.flush()
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)
os.ftruncate(file.fileno(), int(left) * mmap.PAGESIZE)
if "removed" in others:
    os.unlink(path)
if "sent" in others:
    os.kill(os.getpid(), signal.SIGBUS)
whole = zlib.crc32(mapped)
seen = [mapped[page * mmap.PAGESIZE] for page in (2, 0, 1)]
pages = b"".join(bytes([seen[page]]) * mmap.PAGESIZE for page in (1, 2, 0))
print(seen, whole == zlib.crc32(pages))
"""

pytestmark = pytest.mark.skipif(os.uname().machine not in _KNOWN_MACHINES, reason="sigaction is not known here")


def look(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("left", "seen"), [(0, "[0, 0, 0]"), (2, "[0, 120, 0]"), (4, "[120, 120, 120]")])
@pytest.mark.parametrize("removed", [(), ("removed",)])
def test_what_was_cut_off_is_empty_and_what_is_left_is_as_it_was(
    tmp_path: Path, left: int, seen: str, removed: tuple[str, ...]
) -> None:
    ended = look(tmp_path / "system.journal", left, *removed)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{seen} True\n", "")


def test_any_other_file_that_is_cut_off_ends_the_process_as_before(tmp_path: Path) -> None:
    ended = look(tmp_path / "something.else", 0)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGBUS, "", "")
    ended = look(tmp_path / "something.else", 0, "told")
    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "")
    assert ended.stderr.startswith("Fatal Python error: Bus error\n")


def test_the_signal_that_somebody_sends_ends_the_process(tmp_path: Path) -> None:
    ended = look(tmp_path / "system.journal", 4, "sent")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGBUS, "", "")
