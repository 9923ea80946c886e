"""The notations of unit settings as numbers: time spans, sizes, percentages, signals, exit statuses, flags.

Source: systemd.time(7), systemd.exec(5), systemd.resource-control(5); the numbers that D-Bus properties carry are those
of org.freedesktop.systemd1(5). Every function raises ValueError for a text that means nothing.
"""

from __future__ import annotations

import errno
import re
import signal

INFINITY = 2**64 - 1

_MICROSECONDS = {
    1: ("usec", "us", "µs", "μs"),
    1_000: ("msec", "ms"),
    1_000_000: ("seconds", "second", "sec", "s", ""),
    60_000_000: ("minutes", "minute", "min", "m"),
    3_600_000_000: ("hours", "hour", "hr", "h"),
    86_400_000_000: ("days", "day", "d"),
    604_800_000_000: ("weeks", "week", "w"),
    2_629_800_000_000: ("months", "month", "M"),
    31_557_600_000_000: ("years", "year", "y"),
}
_MICROSECONDS_BY_NAME = {name: size for size, names in _MICROSECONDS.items() for name in names}
_SPAN_PART = re.compile(r"\s*(\d+)(?:\.(\d+))?\s*([A-Za-zµμ]*)\s*", re.ASCII)

_SIZES = "BKMGTPE"

# Exit statuses by name, systemd.exec(5) "Process Exit Codes": libc's, LSB's and BSD's (sysexits.h).
_EXIT_STATUSES = {
    "SUCCESS": 0, "FAILURE": 1, "INVALIDARGUMENT": 2, "NOTIMPLEMENTED": 3, "NOPERMISSION": 4, "NOTINSTALLED": 5,
    "NOTCONFIGURED": 6, "NOTRUNNING": 7, "USAGE": 64, "DATAERR": 65, "NOINPUT": 66, "NOUSER": 67, "NOHOST": 68,
    "UNAVAILABLE": 69, "SOFTWARE": 70, "OSERR": 71, "OSFILE": 72, "CANTCREAT": 73, "IOERR": 74, "TEMPFAIL": 75,
    "PROTOCOL": 76, "NOPERM": 77, "CONFIG": 78,
}  # fmt: skip

# By number, linux/capability.h.
_CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip

# clone(2)'s flags.
_NAMESPACES = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "net": 0x40000000, "mnt": 0x00020000, "pid": 0x20000000,
    "user": 0x10000000, "uts": 0x04000000, "time": 0x00000080,
}  # fmt: skip

IO_CLASSES = {"none": 0, "realtime": 1, "best-effort": 2, "idle": 3}
CPU_POLICIES = {"other": 0, "fifo": 1, "rr": 2, "batch": 3, "idle": 5}
SYSLOG_LEVELS = {
    name: level for level, name in enumerate(("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"))
}


def boolean(text: str) -> bool:
    """systemd.syntax(7)."""
    if text.lower() in ("1", "yes", "y", "true", "t", "on"):
        return True
    if text.lower() in ("0", "no", "n", "false", "f", "off"):
        return False
    raise ValueError(text)


def microseconds(text: str) -> int:
    """A time span, systemd.time(7), in microseconds; `infinity` is the largest 64-bit number."""
    if text.strip() == "infinity":
        return INFINITY
    total, position = 0, 0
    while position < len(text) or not position:
        part = _SPAN_PART.match(text, position)
        if part is None or part.group(3) not in _MICROSECONDS_BY_NAME:
            raise ValueError(text)
        size = _MICROSECONDS_BY_NAME[part.group(3)]
        fraction = part.group(2) or ""
        total += int(part.group(1)) * size + int(fraction or 0) * size // 10 ** len(fraction)
        position = part.end()
    return total


def microseconds_or_never(text: str) -> int:
    """A time limit in microseconds, where 0 means that there is none."""
    return microseconds(text) or INFINITY


def size(text: str) -> int:
    """Bytes, with the suffixes K, M, G, T, P and E to the base of 1024."""
    if text == "infinity":
        return INFINITY
    match = re.fullmatch(rf"(\d+)(?:\.(\d+))?\s*([{_SIZES}]?)", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    unit: int = 1024 ** _SIZES.index(match.group(3) or "B")
    fraction = match.group(2) or ""
    return int(match.group(1)) * unit + int(int(fraction or 0) * unit // 10 ** len(fraction))


def ten_thousandths(text: str) -> int:
    """A percentage with up to two decimals, in 1/10000."""
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?%", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return int(match.group(1)) * 100 + int((match.group(2) or "").ljust(2, "0"))


def scale(text: str) -> int:
    """A percentage of all there is, as the part of 2^32-1 that systemd's ...Scale properties want."""
    part = ten_thousandths(text)
    if part > 10_000:
        raise ValueError(text)
    return (part * (2**32 - 1) + 5_000) // 10_000


def weight(text: str) -> int:
    """1..10000; `idle` is 0."""
    return 0 if text == "idle" else int(text)


def signal_number(text: str) -> int:
    """A signal by name, with or without SIG, or number."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal():
        return int(name)
    real_time = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d+))?", name)
    if real_time:
        base = int(signal.SIGRTMIN if real_time.group(1) == "MIN" else signal.SIGRTMAX)
        offset = int(real_time.group(3) or 0)
        return base + (offset if real_time.group(2) == "+" else -offset)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise ValueError(text) from None


def exit_statuses(text: str) -> tuple[list[int], list[int]]:
    """The exit codes and the signals in a list such as `75 TEMPFAIL SIGKILL`."""
    codes, signals = [], []
    for word in text.split():
        if word.isdecimal():
            codes.append(int(word))
        elif word in _EXIT_STATUSES:
            codes.append(_EXIT_STATUSES[word])
        else:
            signals.append(signal_number(word))
    return codes, signals


def error_number(text: str) -> int:
    """An errno by name or number."""
    if text.isdecimal():
        return int(text)
    return {name: number for number, name in errno.errorcode.items()}.get(text) or _no(text)


def capabilities(lines: list[str], before: int) -> int:
    """The capability set as bits, after all lines of a unit; `before` is what it is without any, systemd.exec(5)."""
    bits = before
    for line in lines:
        names = line.removeprefix("~")
        named = 0
        for name in names.split():
            try:
                named |= 1 << _CAPABILITIES.index(name.lower().removeprefix("cap_"))
            except ValueError:
                raise ValueError(name) from None
        if line.startswith("~"):
            bits = ~named & INFINITY if not named or bits == before else bits & ~named
        else:
            bits = named if not named or bits == before else bits | named
    return bits


def allowed_namespaces(text: str) -> int:
    """The namespaces that stay allowed, as clone(2)'s flags.

    `no` and `~...` name all others, and which those are differs between versions of systemd: ValueError.
    """
    if text in ("yes", "true", "on", "1"):
        return 0
    flags = 0
    for name in text.split():
        flags |= _NAMESPACES.get(name) or _no(name)
    return flags or _no(text)


def resource_limit(key: str, text: str) -> tuple[int, int]:
    """Soft and hard limit of a Limit...= setting, in the unit of setrlimit(2)."""
    soft, found, hard = text.partition(":")
    return _limit(key, soft), _limit(key, hard if found else soft)


def _limit(key: str, text: str) -> int:
    if text == "infinity":
        return INFINITY
    if key == "LimitCPU":
        return -(-microseconds(text) // 1_000_000)
    if key == "LimitRTTIME":
        return int(text) if text.isdecimal() else microseconds(text)
    return size(text)


def _no(text: str) -> int:
    raise ValueError(text)
