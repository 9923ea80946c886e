"""The progress of a run while it goes on: one line that changes on a terminal, a line a change in a pipe."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from sdcron import render
from sdcron.render_runs import length, progress_words

if TYPE_CHECKING:
    from datetime import datetime

    from sdcron.job_answers import JobStatusRow, Progress
    from sdcron.runs import Run


class ProgressLine:
    """Of one run."""

    def __init__(self) -> None:
        self._terminal = render.is_terminal(sys.stdout)
        self._last: Progress | None = None
        self._open = False

    def show(self, row: JobStatusRow, now: datetime) -> None:
        """What it has told last."""
        progress = row.progress
        if not self._terminal:
            if progress is not None and progress != self._last:
                told = progress.as_json()
                render.line("\t".join(str(told[name]) for name in ("at", "done", "total", "percent")))
                render.flush()
            self._last = progress
            return
        since = row.running_since
        text = (
            f"{row.state} for {length((now - since).total_seconds() * 1_000_000)}" if since is not None else row.state
        )
        if progress is not None:
            text = progress_words(progress, now)
        sys.stdout.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
        render.flush()
        self._open = True

    def end(self, last: Run | None = None) -> None:
        """It is over; `last` is its record, None if nothing is known of it."""
        if self._open:
            sys.stdout.write("\r\x1b[K")
            self._open = False
        if last is not None:
            why = f": {last.reason}" if last.reason else ""
            took = f", took {length(last.duration_us)}" if last.duration_us is not None else ""
            render.line(render.plain(f"{last.outcome}{why}{took}"))
        render.flush()
