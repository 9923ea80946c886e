"""Problems, plans, jobs and times as text for people, plain lines for pipes, or JSON: the only place that prints.

Colour only on a terminal and without NO_COLOR (no-color.org); a pipe gets the same words, one item a line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from itertools import repeat
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    from sdcron.errors import Problem, SdcronError
    from sdcron.findings import Finding
    from sdcron.plan import Plan

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red"), "start": (">", "cyan")}


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it; FORCE_COLOR (force-color.org) says so of a pipe."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour where the stream shows colours."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def plain(text: str) -> str:
    """`text` with what a terminal would obey, or hide, shown as escapes: job files are written by others."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\t\n" else sign.encode("unicode_escape").decode("ascii") for sign in text
    )


def line(text: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line on stderr: what a person wants to know and a pipe does not."""
    sys.stderr.write(text + "\n")


def text_block(text: str) -> None:
    """Text as it is, on stdout."""
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")


def flush() -> None:
    """Hand on what is printed: somebody may be waiting for it at the other end of a pipe."""
    sys.stdout.flush()


def json_line(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """A JSON document of one line on stdout, ASCII only: nothing in it can be taken for the end of a line."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def json_array(values: Iterable[Any]) -> None:
    """A JSON array on stdout, an element a line, each written when it is there."""
    separator = "["
    for value in values:
        sys.stdout.write(f"{separator}\n  {json.dumps(value)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def as_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """One JSON document on stdout. Bytes that are not UTF-8, lone surrogates in Python, are escaped as such."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    sys.stdout.write(re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text) + "\n")


def error(failure: SdcronError) -> None:
    """One line of what is wrong and one of what to do, on stderr."""
    note(f"{paint('sdcron: ', 'red', sys.stderr)}{plain(failure.message)}")
    if failure.hint:
        note(f"  {paint('hint:', 'cyan', sys.stderr)} {plain(failure.hint)}")


def problems(found: Sequence[Problem], outcome: str = "nothing was changed") -> None:
    """Every problem as `path:line:column: message`, its source line, a caret and the hint, and `outcome`; on stderr."""
    for problem in found:
        note(paint(plain(str(problem)), "bold", sys.stderr))
        if problem.source_line:
            number = f"{problem.line:>5} | "
            before = plain(problem.source_line[: max(problem.column - 1, 0)])
            # A tab before the caret is kept, so that the caret stands below the character on any terminal.
            indent = "".join("\t" if character == "\t" else " " for character in before)
            note(f"{number}{plain(problem.source_line)}")
            note(f"{' ' * (len(number) - 2)}| {indent}{paint('^', 'red', sys.stderr)}")
        if problem.hint:
            note(f"  {paint('hint:', 'cyan', sys.stderr)} {plain(problem.hint)}")
    count = len(found)
    note(f"sdcron: {count} problem{'' if count == 1 else 's'}, {outcome}")


def plan(todo: Plan, *, diffs: bool) -> None:
    """A line a change; with `diffs` what changes in each unit."""
    for change in todo.changes:
        sign, colour = _SIGNS[change.action]
        word = "start timer of" if change.action == "start" else change.action
        line(paint(f"{sign} {word} {change.name}", colour, sys.stdout))
        if diffs:
            _diff(change.diff())
    for name in todo.kept:
        line(f"  keep {name}, which left its directory (--no-prune)")


def plan_summary(todo: Plan, done: bool) -> str:
    """Such as `1 added, 2 changed, 1 removed, 7 unchanged`."""
    counts = dict.fromkeys(_SIGNS, 0)
    for change in todo.changes:
        counts[change.action] += 1
    past = {"add": "added", "change": "changed", "remove": "removed", "start": "started"}
    words = [f"{count} {past[action] if done else 'to ' + action}" for action, count in counts.items() if count]
    words.append(f"{todo.unchanged} unchanged")
    return ", ".join(words)


def plan_json(todo: Plan) -> dict[str, Any]:
    """The documented JSON shape of a plan."""
    return {
        "changes": [
            {"action": str(change.action), "job": change.name, "diff": change.diff()} for change in todo.changes
        ],
        "unchanged": todo.unchanged,
        "kept": list(todo.kept),
    }


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], colours: Iterable[Mapping[int, str]] | None = None
) -> None:
    """Columns on a terminal; in a pipe the cells of a row with tabs between, no headings.

    `colours` has for each row the colours of its cells, by their position.
    """
    rows = [tuple(map(plain, row)) for row in rows]
    if not is_terminal(sys.stdout):
        for row in rows:
            line("\t".join(row))
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    line(paint(_columns(headings, widths), "bold", sys.stdout))
    for row, colour in zip(rows, colours or repeat({}), strict=False):
        line(_columns(row, widths, colour))


def moment(when: datetime | None, now: datetime) -> str:
    """A time for a person: the date and time, and how far away on a terminal."""
    if when is None:
        return "-"
    text = when.isoformat(sep=" ", timespec="seconds")
    return f"{text} ({distance(when - now)})" if is_terminal(sys.stdout) else when.isoformat(timespec="seconds")


def distance(left: timedelta, parts: int = 2) -> str:
    """`in 5min`, `in 3h 20min`, `2d ago`: the largest unit, and the next smaller one if there is any of it.

    With `parts` 1 the largest unit only.
    """
    seconds = round(abs(left.total_seconds()))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next((index for index, (_, size) in enumerate(units) if seconds >= size), None)
    if first is None:
        return "now"
    words = []
    for name, size in units[first : first + parts]:
        count, seconds = divmod(seconds, size)
        words += [f"{count}{name}"] if count else []
    return f"in {' '.join(words)}" if left.total_seconds() > 0 else f"{' '.join(words)} ago"


def findings(found: Sequence[Finding]) -> None:
    """What doctor found, a line each, and below it what to do."""
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for finding in found:
        line(f"{paint(f'{finding.level:<8}', colours[finding.level], sys.stdout)}{plain(finding.what)}")
        if finding.advice:
            line(f"{'':8}{paint('do:', 'cyan', sys.stdout)} {plain(finding.advice)}")


class Progress:
    """A bar on a terminal's stderr for work that takes over a second; silent everywhere else.

    Calling it says that `done` of `total` are done in this step of the work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the second; `clock` gives seconds."""
        self._clock = clock
        self._began = clock()
        self._drawn = 0.0
        self._shown = is_terminal(sys.stderr)

    def __call__(self, step: str, done: int, total: int) -> None:
        """Draw, at most ten times a second."""
        now = self._clock()
        if not self._shown or now - self._began < 1 or (now - self._drawn < 0.1 and done < total):
            return
        self._drawn = now
        filled = 24 * done // max(total, 1)
        sys.stderr.write(f"\r\x1b[K{step:<9} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the bar away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def now_utc() -> datetime:
    """The present, for relative times."""
    return datetime.now(UTC)


def _columns(cells: Sequence[str], widths: Sequence[int], colours: Mapping[int, str] | None = None) -> str:
    last = max((index for index, cell in enumerate(cells) if cell), default=0)
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)][: last + 1]
    padded[last] = padded[last].rstrip()
    for index, colour in (colours or {}).items():
        if index <= last:
            text = padded[index].rstrip()
            padded[index] = paint(text, colour, sys.stdout) + padded[index][len(text) :]
    return "  ".join(padded)


def _diff(text: str) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for row in plain(text).split("\n")[:-1]:
        line("  " + (paint(row, colours[row[0]], sys.stdout) if row[:1] in colours else row))


def problem_json(problem: Problem) -> dict[str, Any]:
    """The documented JSON shape of a problem."""
    return {
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
    }
