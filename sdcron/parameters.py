"""Parameters: what may differ from run to run, as `{name}` in a command and as a variable of every run. Pure.

`{name}` stands for the value of a declared parameter, inside a word too; `{{name}}` is `{name}` as it is. Whatever else
stands in braces, as in `find -exec {} +` or awk's, means nothing here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sdcron.errors import UsageError
from sdcron.job import Parameter, ParameterKind
from sdcron.machine import login_name
from sdcron.python_command import declared
from sdcron.runs import Asked, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sdcron.job import Job

PREFIX = "SDCRON_PARAM_"
FOR = "SDCRON_FOR"
"""The variable that holds the instant a run is for, in RFC 3339."""
_PLACE = re.compile(r"(\{)?\{([A-Za-z_][A-Za-z0-9_]*)\}(?(1)\})")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_TRUTHS = ("true", "false")


def variable(name: str) -> str:
    """The environment variable of a parameter."""
    return PREFIX + name.upper()


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and of each whether it is the name of a parameter rather than text."""
    end = 0
    for found in _PLACE.finditer(text):
        if found.start() > end:
            yield text[end : found.start()], False
        yield (f"{{{found[2]}}}", False) if found[1] else (found[2], True)
        end = found.end()
    if end < len(text):
        yield text[end:], False


def names_in(text: str) -> list[str]:
    """The parameters that a text asks for."""
    return [piece for piece, is_name in pieces(text) if is_name]


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with values in their places. Raises KeyError for a name without one."""
    return "".join(values[piece] if is_name else piece for piece, is_name in pieces(text))


def defaults_of(parameters: Sequence[Parameter]) -> dict[str, str]:
    """The values of a run for which none are given."""
    return {each.name: each.default for each in parameters if each.default is not None}


def with_asked(job: Job, asked: Asked) -> Job:
    """The job of one run: the defaults and what was asked for filled in, with the variables that tell of it.

    A job without a time zone is taken for one in UTC. Raises KeyError for a parameter without a value.
    """
    extra = asked_variables(asked, job.timezone or "UTC")
    if not job.parameters:
        return replace(job, environment=(*job.environment, *extra)) if extra else job
    every = {**defaults_of(job.parameters), **dict(asked.values)}
    variables = tuple((variable(each.name), every[each.name]) for each in job.parameters)
    return replace(
        job,
        command=(*(filled(word, every) for word in job.command), *declared(job)),
        lock=tuple(sorted({filled(name, every) for name in job.lock})),
        environment=(*job.environment, *variables, *extra),
        parameters=(),
    )


def asked_variables(asked: Asked, timezone: str) -> tuple[tuple[str, str], ...]:
    """What a run learns of what it is asked for, beside its values: the instant, in a time zone."""
    if asked.for_us is None:
        return ()
    return ((FOR, moment_of(asked.for_us).astimezone(ZoneInfo(timezone)).isoformat()),)


def write_parameters(parameters: Sequence[Parameter]) -> list[str]:
    """Each as one line of ASCII; the inverse of `read_parameter`."""
    return [json.dumps([each.name, each.default, each.kind, each.description]) for each in parameters]


def read_parameter(text: str) -> Parameter | None:
    """One of them; None for what was never written, as by an edit."""
    try:
        name, default, kind, description = json.loads(text)
        texts = (name, description, *([] if default is None else [default]))
        return Parameter(name, default, ParameterKind(kind), description) if all(map(_is_text, texts)) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def mistake(parameter: Parameter, value: str) -> str | None:
    """What is wrong with a value for a parameter, as the rest of a sentence; None if nothing is."""
    if parameter.kind is ParameterKind.WHOLE and not _WHOLE.fullmatch(value):
        return f"must be a whole number, as its default {parameter.default} is"
    if parameter.kind is ParameterKind.NUMBER and not _NUMBER.fullmatch(value):
        return f"must be a number, as its default {parameter.default} is"
    if parameter.kind is ParameterKind.TRUTH and value not in _TRUTHS:
        return f"must be true or false, as its default {parameter.default} is"
    return None


def read_values(
    parameters: Sequence[Parameter], given: Sequence[str], check: Callable[[str, str], object]
) -> dict[str, str]:
    """`name=value` texts -> values by name. `check` hears of name and value, and raises what it finds wrong.

    Raises UsageError for what is not declared, given twice, or missing.
    """
    known = {each.name: each for each in parameters}
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{text}' is no value for a parameter", "write it as name=value")
        if name not in known:
            raise UsageError(f"there is no parameter '{name}'", _declared(known))
        if name in values:
            raise UsageError(f"'{name}' is given twice", "give it once")
        wrong = mistake(known[name], value)
        if wrong is not None:
            raise UsageError(f"'{name}' {wrong}", f"for example: {name}={known[name].default}")
        check(name, value)
        values[name] = value
    missing = [name for name, each in known.items() if each.default is None and name not in values]
    if missing:
        raise UsageError(f"'{missing[0]}' must be given", f"for example: {missing[0]}=…")
    return values


def asked_by(uid: int, request: Mapping[str, Any], parameters: Sequence[Parameter]) -> Asked:
    """What somebody asks for with a run, as Asked.as_json has it, by the kernel's word for who that is.

    Raises UsageError, ValueError or TypeError for what cannot be asked.
    """
    asked = Asked.from_json(request)
    read_values(parameters, [f"{name}={value}" for name, value in asked.values], lambda *_: None)
    return asked if uid == 0 else replace(asked, by=login_name(uid))


def _declared(names: Collection[str]) -> str:
    return f"the job has: {', '.join(sorted(names))}" if names else "the job has none: `parameters:` declares them"
