"""Unit text -> the typed properties of StartTransientUnit, as systemd-run(1) makes them.

Knows the directives that units.py writes and the common ones a user passes through; any other is refused by name, so that
nothing of a job is lost on the way.
"""

from __future__ import annotations

from typing import Any

from sdcron.errors import BackendError
from sdcron.span import parse_span


def unit_properties(text: str) -> list[tuple[str, str, Any]]:
    """(property, D-Bus signature, value) for each line. Raises BackendError for what a transient unit cannot have."""
    del text, parse_span
    raise BackendError("transient units are not there yet")
