"""What doctor finds: one check, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `level` is `ok`, `warning` or `error`; `advice` is what to do about the latter two."""

    level: str
    what: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {"level": self.level, "what": self.what, "advice": self.advice}
