"""The collector's process: what it does not load, what it says when it fails, and the memory it gives back."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcron import collect_service
from sdcron.errors import BackendError
from sdcron.resident import give_back_heap, give_back_pages

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
PAGES = 4096


class Replaced(Exception):
    """The process would be another now."""


def resident() -> int:
    """Pages of this process that are in memory: proc(5), statm."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_it_does_without_the_libraries_of_the_command_line() -> None:
    script = (
        "import sys, sdcron.collect_service, sdcron.collector, sdcron.operations, sdcron.backends.systemd\n"
        "needless = {'typer', 'click', 'rich', 'jsonschema', 'yaml', 'croniter', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {needless}' if needless else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_collect_becomes_that_process_of_the_same_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(*arguments: object) -> None:
        raise Replaced(*arguments)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    with pytest.raises(Replaced) as replaced:
        collect_service.become(user=True)
    program, argv, environment = replaced.value.args
    assert (program, argv[0], argv[-3:]) == (sys.executable, sys.executable, ["-m", "sdcron.collect_service", "--user"])
    # What an administrator has set holds.
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "1"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "65536"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BackendError("no journal", "look"), 4, "no journal"),
        (RuntimeError("boom"), 70, "a bug of ours: RuntimeError: boom (test_collect_service.py:"),
    ],
)
def test_what_goes_wrong_is_words_and_no_traceback(
    error: Exception, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(_place: object, _tell: Callable[[str], object]) -> None:
        raise error

    monkeypatch.setattr("sdcron.collector.serve", serve)
    assert collect_service.main(user=False) == status
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


@pytest.mark.parametrize("deleted", [False, True])
def test_mapped_files_of_the_suffix_are_let_go_and_can_still_be_read(tmp_path: Path, deleted: bool) -> None:
    maps = []
    for name in ("a.journal", "a.other"):
        file = tmp_path / name
        file.write_bytes(b"x" * mmap.PAGESIZE * PAGES)
        with file.open("rb") as stream:
            maps.append(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ))
        if deleted:
            file.unlink()
    journal, other = maps
    with journal, other:
        assert journal[:: mmap.PAGESIZE] == other[:: mmap.PAGESIZE] == b"x" * PAGES
        before = resident()
        give_back_pages(".journal")
        assert PAGES * 0.9 < before - resident() < PAGES * 1.5
        assert journal[:: mmap.PAGESIZE] == b"x" * PAGES


def test_free_memory_between_what_is_used_goes_back() -> None:
    pieces = [bytearray(32 * 1024) for _ in range(1000)]
    kept = pieces[::50]
    before = resident()
    pieces.clear()
    give_back_heap()
    assert (before - resident()) * mmap.PAGESIZE > 20_000_000
    assert len(kept) == 20
