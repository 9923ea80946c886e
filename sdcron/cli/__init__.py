"""The command line: arguments -> one call -> exit code, and the only error boundary.

Imports only typer at the top; each command imports what it uses.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if "rich" not in sys.modules:
    # typer 0.12 to 0.19 imports rich where it is installed, which takes as long as typer itself; nothing here uses it.
    sys.modules["rich"] = None  # type: ignore[assignment]  # what makes the import fail
    import typer

    del sys.modules["rich"]
else:
    import typer

from sdcron.cli import applying, asking, collecting, running, watching, writing
from sdcron.cli.options import EndedAsError, app
from sdcron.errors import ExitCode, JobFileError, SdcronError, words_for_bug

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

__all__ = ["app", "applying", "asking", "collecting", "main", "run", "running", "watching", "writing"]


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; every error ends here."""
    command: Any = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name="sdcron", standalone_mode=False)
        sys.stdout.flush()
        status = int(result) if isinstance(result, int) else ExitCode.DONE
        # What newer versions of typer make of a KeyboardInterrupt, without a word.
        return _interrupted() if status == ExitCode.INTERRUPTED else status
    except EndedAsError as failure:
        sys.stdout.flush()
        return failure.status
    except JobFileError as failure:
        return _report_problems(failure, arguments)
    except SdcronError as failure:
        return _report(failure, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        # The reader of our output has gone, as `sdcron list | head` does; nobody is left to tell. What is still to be
        # written goes nowhere, or Python would complain at the end (its documentation, "Note on SIGPIPE").
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as failure:  # noqa: BLE001 - the one place where anything unforeseen becomes one line
        show = getattr(failure, "show", None)
        if callable(show):
            show()
            return int(getattr(failure, "exit_code", ExitCode.USAGE))
        return _bug(failure)


def _interrupted() -> int:
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write("sdcron: interrupted\n")
    return ExitCode.INTERRUPTED


def _report(failure: SdcronError, arguments: Sequence[str]) -> int:
    from sdcron import render

    if "--json" in arguments:
        render.as_json({"error": failure.message, "hint": failure.hint})
    render.error(failure)
    return failure.exit_code


def _report_problems(failure: JobFileError, arguments: Sequence[str]) -> int:
    from sdcron import render

    if "--json" in arguments:
        render.as_json({"problems": [render.problem_json(problem) for problem in failure.problems]})
    else:
        render.problems(failure.problems)
    return failure.exit_code


def _bug(failure: Exception) -> int:
    if os.environ.get("SDCRON_DEBUG"):
        import traceback

        traceback.print_exception(failure)
    sys.stderr.write(words_for_bug(failure))
    return ExitCode.BUG


def _end_in_order() -> None:
    """Make SIGTERM, and the SIGHUP of a lost connection, end a command as Ctrl-C does: apply restores what was there.

    Only the first one: the next must not cut the restoring short. A SIGHUP that nohup(1) ignores stays ignored.
    """
    ending = (signal.SIGHUP, signal.SIGTERM)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ending:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def main() -> None:
    """The `sdcron` program."""
    _end_in_order()
    # One command allocates and ends; looking for garbage among 10,000 jobs is a fifth of its time.
    gc.disable()
    sys.exit(run(sys.argv[1:]))
