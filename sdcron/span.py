"""Time spans as systemd.time(7) writes them: the exact form that sdcron puts into units, and back."""

from __future__ import annotations

from datetime import timedelta

_UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}


def span(length: timedelta) -> str:
    """The exact length in the largest units that hold it, such as `1h 30min`; `0s` for none."""
    left = length // timedelta(microseconds=1)
    parts = []
    for name, size in _UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts) or "0s"


def parse_span(text: str) -> timedelta:
    """Read what `span` wrote; anything else is no length at all."""
    total = 0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        if number.isascii() and number.isdecimal() and part[len(number) :] in _UNITS:
            total += int(number) * _UNITS[part[len(number) :]]
    return timedelta(microseconds=total)
