"""Outlives that journald cuts off a file of the journal that is mapped here.

journald may cut a file to nothing while it removes it, and then whoever looks at what he has mapped of it is ended by
SIGBUS: the collector, at a rotation, or a `logs -f` (systemd issues 24320 and 33277). systemd's own programs put empty
memory in its place and go on (its src/basic/sigbus.c); libsystemd leaves that to those who use it. Empty memory is no
object of a journal, and is passed over.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from contextlib import suppress
from pathlib import Path

from sdcron.resident import mapped_files

_SUFFIXES = (".journal", ".journal~")
_MAP_FIXED = 0x10  # mmap(2)
_SA_SIGINFO = 4  # sigaction(2)
_BUS_ADRERR = 2  # sigaction(2): an address without anything behind it
_KNOWN_MACHINES = frozenset({"x86_64", "i686", "aarch64", "armv7l", "riscv64", "ppc64le", "loongarch64"})
"""Where the C library has the members of _Action in this order."""


class _Info(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("error", ctypes.c_int), ("code", ctypes.c_int), ("address", ctypes.c_void_p))


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_Info), ctypes.c_void_p)


class _Action(ctypes.Structure):
    _fields_ = (
        ("handler", _Handler),
        ("mask", ctypes.c_ulong * (1024 // 8 // ctypes.sizeof(ctypes.c_ulong))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_installed: list[_Action] = []
"""Kept as long as the process runs: the C library has its address."""


def outlive_cut_files() -> None:
    """From now on, and in the whole process. Where that cannot be, nothing happens.

    Any other SIGBUS is left to what took it before: unless somebody has said otherwise, it ends the process.
    Python's own handlers of signals do not do: they run when the instruction that failed is over, which it never is.
    """
    if _installed or os.uname().machine not in _KNOWN_MACHINES:
        return
    with suppress(AttributeError, MemoryError):  # another C library; no memory in which code may be made
        _install(ctypes.CDLL(None))


def _install(libc: ctypes.CDLL) -> None:
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    before = _Action()

    def take(_number: int, info: ctypes._Pointer[_Info], _context: int) -> None:
        replaced = False
        code = info.contents.code
        try:
            replaced = code == _BUS_ADRERR and _put_empty(libc, info.contents.address or 0)
        finally:
            if not replaced:
                # The instruction is tried again.
                libc.sigaction(signal.SIGBUS, ctypes.byref(before), None)
                if code <= 0:  # somebody has sent it
                    os.kill(os.getpid(), signal.SIGBUS)

    action = _Action(_Handler(take), flags=_SA_SIGINFO)
    if libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before)) == 0:
        _installed.append(action)


def _put_empty(libc: ctypes.CDLL, address: int) -> bool:
    """Put an empty page where an address is; False unless it is of a journal's file, and beyond the end of that."""
    page = address - address % mmap.PAGESIZE
    for mapped in mapped_files(*_SUFFIXES):
        if mapped.start <= address < mapped.end:
            if not _is_beyond_end(mapped.path, page - mapped.start + mapped.offset):
                return False  # the disk cannot be read
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            return bool(libc.mmap(page, mmap.PAGESIZE, mmap.PROT_READ, flags, -1, 0) == page)
    return False


def _is_beyond_end(path: str, offset: int) -> bool:
    """Whether an open file of that name, which libsystemd keeps as long as it is mapped, ends before the offset."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()) == path and descriptor.stat().st_size <= offset:
                return True
    return False
