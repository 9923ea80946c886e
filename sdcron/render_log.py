"""What a job prints as it is read from its log: what logs shows, line by line. Prints by render."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from sdcron import render
from sdcron.render_runs import OUTCOME_COLOURS, cause, length

if TYPE_CHECKING:
    from sdcron.log_lines import LogLine

_WIDEST = 100
_HARMLESS = ("debug: ", "info: ")
"""How lines begin that sdk.py writes to stderr, and that tell of nothing bad."""


class LogPrinter:
    """Prints the lines of a log as they come: on a terminal with rules between runs, else time, stream and text."""

    def __init__(self) -> None:
        self._terminal = render.is_terminal(sys.stdout)
        self._width = min(shutil.get_terminal_size().columns, _WIDEST) if self._terminal else 0
        self._date = ""

    def __call__(self, line: LogLine) -> None:
        """Print one."""
        local = line.when.astimezone()
        if not self._terminal:
            if line.event is None:
                shown = render.plain(line.text).replace("\t", "\\t").replace("\n", "\\n")
                render.line(f"{local.isoformat(timespec='milliseconds')}\t{line.stream}\t{shown}")
            return
        clock = render.paint(local.strftime("%H:%M:%S"), "dim", sys.stdout)
        text = render.plain(line.text).rstrip("\n").replace("\n", f"\n{'':11}")
        if line.event is not None:
            self._rule(line)
        elif line.stream == "stderr" and not text.startswith(_HARMLESS):
            render.line(f"{clock} {render.paint('! ' + text, 'red', sys.stdout)}")
        elif line.stream == "systemd":
            render.line(f"{clock} {render.paint('! systemd: ' + text, 'yellow', sys.stdout)}")
        elif line.stream in ("stdout", "stderr"):
            render.line(f"{clock}   {text}")
        else:
            colour = "yellow" if text.startswith("alarm: ") else "dim"
            render.line(f"{clock} {render.paint('· ' + text, colour, sys.stdout)}")

    def _rule(self, line: LogLine) -> None:
        local = line.when.astimezone()
        run_id = (line.run_id or "")[:8]
        if line.event == "start":
            self._draw(f"run {run_id}, {local.strftime('%a %Y-%m-%d %H:%M:%S')}", "dim")
            return
        words = [render.plain(line.text)]
        colour = "dim"
        if line.run is not None:
            run = line.run
            colour = OUTCOME_COLOURS[run.outcome]
            words += [f"took {length(run.duration_us)}"] if run.duration_us is not None else []
            words += [f"by {cause(run)}"] if run.trigger else []
        self._draw(", ".join(words), colour)

    def _draw(self, text: str, colour: str) -> None:
        begin = render.paint("──", "dim", sys.stdout)
        left = max(self._width - len(text) - 4, 2)
        render.line(f"{begin} {render.paint(text, colour, sys.stdout)} {render.paint('─' * left, 'dim', sys.stdout)}")
