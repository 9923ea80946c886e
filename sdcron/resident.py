"""Gives back memory that a process which runs for ever holds without need. On a libc that cannot, nothing happens."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_MADV_DONTNEED = 4  # madvise(2)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


class MappedFile(NamedTuple):
    """A part of a file that is in memory: addresses of its first byte and after its last, and where it is from."""

    start: int
    end: int
    offset: int
    path: str
    """As the kernel names it: ` (deleted)` behind it if it was."""


def give_back_pages(suffix: str) -> None:
    """Let go of what was looked at of the mapped files of that suffix; the kernel's cache has it when it is wanted."""
    madvise = ctypes.CDLL(None).madvise
    for mapped in mapped_files(suffix):
        madvise(ctypes.c_void_p(mapped.start), ctypes.c_size_t(mapped.end - mapped.start), _MADV_DONTNEED)


def mapped_files(*suffixes: str) -> Iterator[MappedFile]:
    """The mapped files of these suffixes, also removed ones: proc(5), /proc/pid/maps."""
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            if line.removesuffix("\n").removesuffix(" (deleted)").endswith(suffixes):
                addresses, _, offset, _, _, path = line.removesuffix("\n").split(None, 5)
                start, end = (int(address, 16) for address in addresses.split("-"))
                yield MappedFile(start, end, int(offset, 16), path)


def keep_heap_small() -> None:
    """Have what a burst of output took go back to the system. Left alone, glibc raises these with each burst."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 131072)
        libc.mallopt(_M_MMAP_THRESHOLD, 65536)


def give_back_heap() -> None:
    """Return what is free between the blocks that are in use: malloc_trim(3). glibc does so only at the heap's end."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
