"""What the machine says of itself: its time zone and its id. Read once, then passed on as values."""

from __future__ import annotations

from pathlib import Path


def local_timezone(root: Path = Path("/")) -> str:
    """The IANA name that /etc/localtime links to (localtime(5)); `UTC` where there is none."""
    try:
        target = str((root / "etc/localtime").readlink())
    except OSError:
        return "UTC"
    _, found, name = target.partition("zoneinfo/")
    return name if found and name else "UTC"


def machine_id(root: Path = Path("/")) -> str:
    """The 32 hex digits of machine-id(5); empty where there is none."""
    try:
        return (root / "etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
