"""Commands that are functions: what is one, what is refused, and what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdcron.job import Interpreter, Job, Parameter, ParameterKind, Source
from sdcron.parameters import with_asked
from sdcron.python_command import RUNNER, function_argv, mistake_in
from sdcron.runs import Asked
from sdcron.units import argv_of

DECLARED = (
    Parameter("days", "7", ParameterKind.WHOLE),
    Parameter("rate", "0.5", ParameterKind.NUMBER),
    Parameter("dry", "false", ParameterKind.TRUTH),
    Parameter("where"),
)


def job(command: str = "python:app.jobs:run", **fields: Any) -> Job:
    return Job("job", Source("/jobs/job.yaml"), (command,), **fields)


@pytest.mark.parametrize("command", ["python:a:b", "python:a.b.c:d", "python:_a1:B.c_2"])
def test_a_module_and_a_function_are_names(command: str) -> None:
    assert mistake_in((command,)) is None


@pytest.mark.parametrize(
    "command",
    [
        "python:", "python:a", "python:a:", "python::b", "python:a:b:c", "python:a.:b", "python:.a:b", "python:1a:b",
        "python:a-b:c", "python:a/b:c", "python: a:b", "python:a:b ", "python:ä:b", "python:a:class", "python:a:b()",
    ],
)  # fmt: skip
def test_anything_else_is_refused(command: str) -> None:
    found = mistake_in((command,))
    assert found is not None
    assert "names no function" in found[0]


def test_it_is_run_by_the_interpreter_or_by_that_of_the_virtual_environment() -> None:
    assert Path(RUNNER).is_file()
    for interpreter, program in (
        (None, "python3"),
        (Interpreter(venv="/srv/v"), "/srv/v/bin/python3"),
        (Interpreter("/usr/bin/python3.12"), "/usr/bin/python3.12"),
    ):
        assert function_argv(job(interpreter=interpreter)) == (program, RUNNER, "app.jobs:run")
        assert argv_of(job(interpreter=interpreter), "") == function_argv(job(interpreter=interpreter))


def test_its_parameters_are_told_with_their_kinds_also_in_a_run_with_values_of_its_own() -> None:
    names = ("days:whole", "rate:number", "dry:truth", "where:text")
    declared = job(parameters=DECLARED)
    assert function_argv(declared)[3:] == names
    run = with_asked(declared, Asked("anna", None, (("where", "{days}"),)))
    assert function_argv(run)[3:] == names
    assert dict(run.environment)["SDCRON_PARAM_WHERE"] == "{days}"
