"""What doctor finds: one check, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcron.errors import SdcronError
from sdcron.paths import Scope
from sdcron.pauses import described, read_pauses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sdcron.paths import Paths


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `level` is `ok`, `warning` or `error`; `advice` is what to do about the latter two."""

    level: str
    what: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        return {"level": self.level, "what": self.what, "advice": self.advice}


def pause_finding(paths: Paths, names: Collection[str]) -> Iterator[Finding]:
    """That jobs are paused, if some of these are."""
    try:
        told = described(read_pauses(paths), names)
    except SdcronError as error:
        yield Finding("error", error.message, error.hint)
        return
    if told is not None:
        option = " --user" if paths.scope is Scope.USER else ""
        yield Finding("warning", told[0], f"{told[1]}{option}")
