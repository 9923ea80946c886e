"""What the machine says of itself: its time zone and its id. Read once, then passed on as values."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from sdcron.daylight import zone_exists
from sdcron.errors import SdcronError

_LINKS = 8
"""So many links one after the other are followed."""
_SET_ZONE = "run: timedatectl set-timezone ZONE (`timedatectl list-timezones` lists them)"


def local_timezone(root: Path = Path("/")) -> str:
    """The IANA name that /etc/localtime links to; `UTC` where there is none (localtime(5)).

    Where it is a copy of a zone's file, which has no name, /etc/timezone tells it (Debian). Raises SdcronError when
    nothing does, or when the name is of no zone: a wrong guess would move every job.
    """
    place, name = root / "etc/localtime", ""
    try:
        name = _linked_zone(place, root)
    except FileNotFoundError:
        return "UTC"
    except OSError:  # not a link
        pass
    if not name:
        place, name = root / "etc/timezone", _first_line(root / "etc/timezone")
    if not name:
        raise SdcronError("the machine's time zone has no name: /etc/localtime links to no zone", _SET_ZONE)
    if not zone_exists(name):
        raise SdcronError(f"the machine's time zone is unknown: {place} names '{name}'", _SET_ZONE)
    return name


def _linked_zone(link: Path, root: Path) -> str:
    """What a link names below zoneinfo/, perhaps by way of others (Ubuntu Core's goes through /etc/writable), or "".

    Raises OSError for what is no link itself.
    """
    target = str(link.readlink())
    for _ in range(_LINKS):
        _, found, name = target.partition("zoneinfo/")
        if found:
            return name
        link = root / target.lstrip("/") if target.startswith("/") else link.parent / target
        try:
            target = str(link.readlink())
        except OSError:
            break
    return ""


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []


def host_name(root: Path = Path("/")) -> str:
    """What hostname(1) says; below another root what hostname(5) has for its next boot, empty for nothing."""
    if root == Path("/"):
        return os.uname().nodename
    return next((line.strip() for line in _lines(root / "etc/hostname") if line.strip() and line[0] != "#"), "")


def caller() -> str:
    """The login name of whoever runs this: behind sudo(8) the one who called it."""
    uid = os.getuid()
    if uid == 0 and os.environ.get("SUDO_USER"):
        return os.environ["SUDO_USER"]
    return login_name(uid)


def login_name(uid: int) -> str:
    """The login name of a user; the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def machine_id(root: Path = Path("/")) -> str:
    """The 32 hex digits of machine-id(5); empty where there is none."""
    try:
        return (root / "etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
