"""The table of what was measured of the engines side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Column:
    """What was measured of one engine: row of the table -> number. `reasons`: why there is none."""

    name: str
    python: bool
    version: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def keep_least(self, row: str, value: float) -> None:
        """The best of several is what it takes."""
        self.numbers[row] = min(value, self.numbers.get(row, value))

    def keep_most(self, row: str, value: float) -> None:
        """The best of several, where more is better."""
        self.numbers[row] = max(value, self.numbers.get(row, value))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. `better`: whether more or less is better."""

    key: str
    unit: str
    digits: int
    more: bool = False


ROWS = (
    Row("load 1,000", "s", 2),
    Row("load 10,000", "s", 2),
    Row("resident 1,000", "MB", 1),
    Row("resident 10,000", "MB", 1),
    Row("idle", "%", 3),
    Row("200 at once, median", "ms", 0),
    Row("200 at once, p95", "ms", 0),
    Row("2,000 at once", "jobs/s", 0, more=True),
    Row("every second", "jobs/s", 0, more=True),
)


def table(measured: Sequence[Column], floor: Column) -> str:
    """All that was measured, as Markdown that reads well as it is."""
    columns = [*(column for column in measured if column.numbers), floor]
    lines = [["", *(f"{column.name} {column.version}".strip() for column in columns)]]
    for row in ROWS:
        numbers = [column.numbers.get(row.key) for column in columns]
        lines.append([f"{row.key}, {row.unit}", *("–" if n is None else f"{n:.{row.digits}f}" for n in numbers)])
        least = floor.numbers.get(row.key)
        if least:
            ratios = ["–" if number is None else f"{number / least:.2f}" for number in numbers]
            lines.append([f"{row.key}, of the floor's", *ratios])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join(text.rjust(width) if place else text.ljust(width) for place, (text, width) in cells) + " |"
        for cells in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
    )
