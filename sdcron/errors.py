"""What can go wrong, as types: the exit codes, one Problem per mistake, and the errors that carry them.

Owns the words for failure; prints nothing and ends no process (cli.py does).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every command, part of the contract with users."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    JOB_FILE = 3
    BACKEND = 4
    DRIFT = 5
    LOCK_HELD = 6
    BUG = 70
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one job file.

    `line` and `column` count from 1; 0 means that the problem belongs to the whole file.
    `source_line` is the text of that line, for the caret; `key` is the dotted key, such as
    `retry.delay`; `hint` says what to do. `jobs` are those it is between, where a mistake is of several.
    """

    path: str
    line: int
    column: int
    message: str
    key: str = ""
    hint: str = ""
    source_line: str = ""
    jobs: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`path:line:column: message`, the form editors and compilers share."""
        if not self.line:
            return f"{self.path}: {self.message}"
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class SdcronError(Exception):
    """Any failure a user can act on: one line of what is wrong, and a hint of what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SdcronError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = ExitCode.USAGE


class JobFileError(SdcronError):
    """One or more job files are wrong; carries every problem that was found."""

    exit_code = ExitCode.JOB_FILE

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'' if count == 1 else 's'} in the job files")
        self.problems = problems


class ScheduleError(SdcronError):
    """A schedule that cannot be read, or that would never fire."""

    exit_code = ExitCode.JOB_FILE


class BackendError(SdcronError):
    """systemd cannot be reached, refused, or did not do what it was asked."""

    exit_code = ExitCode.BACKEND


class LockHeldError(SdcronError):
    """Another apply is at work in the same scope."""

    exit_code = ExitCode.LOCK_HELD


def words_for_bug(failure: Exception) -> str:
    """The lines for what nobody has foreseen: where it was, and what to do with it."""
    import traceback

    place = traceback.extract_tb(failure.__traceback__)[-1]
    name = place.filename.rpartition("/")[2]
    return (
        f"sdcron: a bug of ours: {type(failure).__name__}: {failure} ({name}:{place.lineno})\n"
        "  hint: please report it with the output of SDCRON_DEBUG=1 and the same command\n"
    )
