"""Whether the machine offers what a job's `when` asks for, in the local engine: what systemd checks before a start.

Looks at the machine and changes nothing. What does not hold is told in systemd's words, so that the records of both
are equal. `when.units` and `when.wake` are not for the engine (engine_support.py).
"""

from __future__ import annotations

import os
import re
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.messages import unmet_condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdcron.job import When

_ROOT = Path("/")
_OCTAL = re.compile(r"\\([0-7]{3})")
_UP, _REJECT = 0x1, 0x200  # flags of a route: RTF_UP, RTF_REJECT (linux/route.h)
# Addresses for documentation alone (RFC 5737, RFC 3849): they are routed like all others, and nobody has them.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def unmet(when: When, root: Path = _ROOT) -> str | None:
    """What of `when` does not hold now, as systemd names it, such as `ConditionPathExists=!/run/maintenance`.

    None if all does. Empty if the network is missing, of which systemd's journal says no more than that a condition
    does not hold. Not in it is `when.command`, for the caller to run afterwards. Of several, the one
    that systemd tells: it goes through its list from the end, and leaves our checks of the network for last.
    """
    for name, value, holds in reversed(list(_conditions(when, root))):
        if not holds():
            return _as_told(f"{name}={value}")
    return "" if when.network and not has_network(root) else None


def has_network(root: Path = _ROOT, elsewhere: Callable[[], bool] | None = None) -> bool:
    """Whether packets for somewhere else have a way: a default route that is up.

    `elsewhere` is asked where /proc/net cannot be read, as in a snap without the interface network-observe.
    """
    tables = [(_default_route, "route"), (_default_route_6, "ipv6_route")]
    readable = False
    for leads_elsewhere, name in tables:
        try:
            lines = (root / "proc/net" / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        readable = True
        if any(leads_elsewhere(line.split()) for line in lines):
            return True
    return not readable and (elsewhere or _is_routed)()


def is_mount_point(path: str, root: Path = _ROOT) -> bool:
    """Whether a file system is mounted there, after all links, and not hidden by another one further up.

    As systemd's path_is_mount_point(): a bind mount is one too, also of a file.
    """
    base = os.path.realpath(root)
    real = os.path.realpath(f"{base}/{path}")
    inner = "/" + real.removeprefix(base).lstrip("/")
    if inner == "/":
        return True
    try:
        lines = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:  # as in a snap without the interface mount-observe
        return os.path.ismount(real)
    return _ends_at_mount(inner, [mount for line in lines if (mount := _mount(line.split(" "))) is not None])


def on_ac_power(root: Path = _ROOT) -> bool:
    """Whether the machine does not run on battery, by the rules of systemd-ac-power(1).

    A supply that is online is enough; else no battery may be discharging. A machine without supplies is on mains.
    """
    discharging = False
    for supply in _entries(root / "sys/class/power_supply"):
        kind = _attribute(supply, "type")
        if kind is None or (kind == "USB" and not _takes_power(supply, root)):
            continue
        if kind == "Battery":
            discharging = discharging or _is_discharging(supply)
        elif (online := _attribute(supply, "online")) is not None and online.isdecimal() and int(online) > 0:
            return True
    return not discharging


def _conditions(when: When, root: Path) -> Iterator[tuple[str, str, Callable[[], bool]]]:
    """Name, value and check of each Condition...= directive, in the order of the unit (units.py)."""
    for path in when.mounts:
        yield "ConditionPathIsMountPoint", _simple(path), partial(is_mount_point, path, root)
    for path in when.path_exists:
        yield "ConditionPathExists", _simple(path), partial(_exists, path, root)
    for path in when.path_missing:
        yield "ConditionPathExists", f"!{_simple(path)}", partial(_is_missing, path, root)
    if when.ac_power:
        yield "ConditionACPower", "yes", partial(on_ac_power, root)


def _exists(path: str, root: Path) -> bool:
    """As access(2) sees it: a link to nothing, or what is in a closed directory, is not there."""
    return os.access(f"{root}/{path}", os.F_OK)


def _is_missing(path: str, root: Path) -> bool:
    return not _exists(path, root)


def _simple(path: str) -> str:
    """As systemd's path_simplify() writes it: no slash and no dot too many."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _as_told(condition: str) -> str:
    """What is read of it from systemd's message, which has the form of systemd 257's here."""
    return unmet_condition(f"skipped, unmet condition check {condition}") or condition


def _mount(fields: list[str]) -> tuple[str, str, str] | None:
    """Id, id of the parent, and place of a mount: a line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    if len(fields) < 5:
        return None
    # Bytes may be written as octal numbers: those of a blank, a tab, a line feed and a backslash are.
    return fields[0], fields[1], _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])


def _ends_at_mount(path: str, mounts: list[tuple[str, str, str]]) -> bool:
    """Walk down to `path` as the kernel would: from mount to mount, each on top of the one before."""
    known = {number for number, _, _ in mounts}
    # The mount below the first one, such as the one that a chroot hides, is not in the list.
    below = {
        (parent if parent in known and parent != number else "", place): number for number, parent, place in mounts
    }
    current, prefix, here = "", "", False
    for part in path.split("/"):
        prefix = f"{prefix.rstrip('/')}/{part}"
        here = False
        while (current, prefix) in below:
            current = below.pop((current, prefix))
            here = True
    return here


def _default_route(fields: list[str]) -> bool:
    """A line of /proc/net/route: device, destination, gateway, flags, ..., the mask as the eighth."""
    return len(fields) > 7 and fields[1] == fields[7] == "00000000" and _is_way(fields[0], fields[3])


def _default_route_6(fields: list[str]) -> bool:
    """A line of /proc/net/ipv6_route: destination, length of its prefix, ..., flags and device."""
    return len(fields) > 9 and fields[:2] == ["0" * 32, "00"] and _is_way(fields[9], fields[8])


def _is_way(device: str, flags: str) -> bool:
    try:
        value = int(flags, 16)
    except ValueError:
        return False
    return device != "lo" and value & (_UP | _REJECT) == _UP


def _is_routed() -> bool:
    """Whether the kernel finds a way to somewhere else; this sends nothing (udp(7): connect sets an address)."""
    for family, address in _ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
                probe.connect((address, 9))
        except OSError:
            continue
        return True
    return False


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _attribute(device: Path, name: str) -> str | None:
    """An attribute in sysfs; None for one that is not there, or that its driver cannot tell now."""
    try:
        return (device / name).read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return None


def _takes_power(supply: Path, root: Path) -> bool:
    """Whether a USB port does not supply others itself, by the roles of its USB-C ports, if it has any."""
    if not (supply / "device").exists():
        return False
    parent = os.path.realpath(supply / "device")
    ports = [
        port for port in _entries(root / "sys/class/typec") if f"{os.path.realpath(port)}/".startswith(f"{parent}/")
    ]
    roles = [_attribute(port, "power_role") or "" for port in ports]
    return any("[sink]" in role for role in roles) or not any("[source]" in role for role in roles)


def _is_discharging(battery: Path) -> bool:
    """Whether it is the machine's own, is there, and does not say that it is not discharging."""
    if _attribute(battery, "scope") == "Device" or _attribute(battery, "present") == "0":
        return False
    return _attribute(battery, "status") in (None, "Discharging")
