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

from sdcron.resident import mapped_files

_SUFFIXES = (".journal", ".journal~")
_MAP_FIXED = 0x10  # mmap(2)
_SA_SIGINFO = 4  # sigaction(2)
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
    """From now on, and in the whole process; any other SIGBUS ends it as ever. Where that cannot be, nothing happens.

    Python's own handlers of signals do not do: they run when the instruction that failed is over, which it never is.
    """
    if _installed or os.uname().machine not in _KNOWN_MACHINES:
        return
    with suppress(AttributeError, MemoryError):  # another C library; no memory in which code may be made
        _install(ctypes.CDLL(None))


def _install(libc: ctypes.CDLL) -> None:
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        ctypes.c_long,
    )

    def take(_number: int, info: ctypes._Pointer[_Info], _context: int) -> None:
        replaced = False
        try:
            replaced = _put_empty(libc, info.contents.address or 0)
        finally:
            if not replaced:
                # The instruction is tried again, and ends the process.
                libc.signal(signal.SIGBUS, None)

    action = _Action(_Handler(take), flags=_SA_SIGINFO)
    if libc.sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0:
        _installed.append(action)


def _put_empty(libc: ctypes.CDLL, address: int) -> bool:
    """Put empty memory from the page of an address on, where a file was cut off; False if it is no journal's."""
    page = address - address % mmap.PAGESIZE
    for start, end in mapped_files(*_SUFFIXES):
        if start <= address < end:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            return bool(libc.mmap(page, end - page, mmap.PROT_READ, flags, -1, 0) == page)
    return False
