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

#: Maps three pages of a file, cuts it to so many, and looks at each.
PROGRAM = """
import mmap, os, sys
from sdcron.cut_files import outlive_cut_files

outlive_cut_files()
outlive_cut_files()
path, left = sys.argv[1], int(sys.argv[2])
with open(path, "w+b") as file:
    file.write(b"x" * 3 * mmap.PAGESIZE)
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.ftruncate(file.fileno(), left * mmap.PAGESIZE)
if len(sys.argv) > 3:
    os.unlink(path)
print([mapped[page * mmap.PAGESIZE] for page in (2, 0, 1)])
"""

pytestmark = pytest.mark.skipif(
    os.uname().machine not in _KNOWN_MACHINES, reason="the order of sigaction's members is not known here"
)


def look(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("left", "seen"), [(0, "[0, 0, 0]"), (1, "[0, 120, 0]"), (3, "[120, 120, 120]")])
@pytest.mark.parametrize("removed", [(), ("removed",)])
def test_what_was_cut_off_is_empty_and_what_is_left_is_as_it_was(
    tmp_path: Path, left: int, seen: str, removed: tuple[str, ...]
) -> None:
    ended = look(tmp_path / "system.journal", left, *removed)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{seen}\n", "")


def test_any_other_file_that_is_cut_off_ends_the_process(tmp_path: Path) -> None:
    ended = look(tmp_path / "something.else", 0)
    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "")
