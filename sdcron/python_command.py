"""Commands that are functions: `python:package.module:function`, run by function_runner.py in the job's own Python."""

from __future__ import annotations

import re
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdcron.job import Job

PREFIX = "python:"
RUNNER = str(Path(__file__).absolute().with_name("function_runner.py"))
"""As systemd and the engine start it: from where sdcron was installed when the job was applied."""
_NAMES = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_TARGET = re.compile(f"{PREFIX}{_NAMES}:{_NAMES}", re.ASCII)


def is_function(command: tuple[str, ...]) -> bool:
    """Whether a command names a function, or is meant to."""
    return bool(command) and command[0].startswith(PREFIX)


def mistake_in(command: tuple[str, ...]) -> tuple[str, str] | None:
    """What is wrong with a command that names a function, and what to write; None if nothing is."""
    if len(command) > 1:
        return "names a function and has arguments behind it", "declare them as 'parameters'"
    if not _TARGET.fullmatch(command[0]) or any(iskeyword(name) for name in re.split("[.:]", command[0])):
        return f"has {command[0]!r}, which names no function", "write python:package.module:function"
    return None


def function_argv(job: Job) -> tuple[str, ...]:
    """What runs the function of a job's command."""
    interpreter = job.interpreter
    program = "python3"
    if interpreter is not None:
        program = f"{interpreter.venv}/bin/python3" if interpreter.venv is not None else interpreter.program or program
    return (program, RUNNER, job.command[0].removeprefix(PREFIX), *job.command[1:], *declared(job))


def declared(job: Job) -> tuple[str, ...]:
    """What function_runner.py must know of the parameters; nothing for a command that is no function."""
    return tuple(f"{each.name}:{each.kind}" for each in job.parameters) if is_function(job.command) else ()
