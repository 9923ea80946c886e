"""The JSON Schema of job files: its text, the check with it, and its errors in plain English.

The only import of jsonschema, and only for a file that is wrong. Every sentence is made from the `title`, `examples`
and names in the schema, so that a new key needs no code here.
"""

from __future__ import annotations

import difflib
import json
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from sdcron.schema_check import Check, compile_check
from sdcron.yaml_nodes import Finding, Path, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# What people write who come from crontab, unit files or other schedulers.
_OTHER_NAMES = {
    "after_job": "after", "args": "command", "at": "schedule", "calendar": "schedule", "cmd": "command",
    "cpus": "limits", "cron": "schedule", "cwd": "directory", "depends_on": "needs", "disabled": "enabled",
    "env": "environment", "env_file": "environment_file", "every": "schedule", "exec": "command",
    "interval": "schedule", "jitter": "spread", "memory": "limits", "nice": "priority", "on_failure": "notify",
    "random_delay": "spread", "retries": "retry", "run": "command", "run_as": "user", "secrets": "credentials",
    "shell": "script", "tz": "timezone", "uid": "user", "venv": "interpreter", "when_missed": "missed",
    "workdir": "directory", "working_directory": "directory",
}  # fmt: skip
_SHORT = 60
_Validator = Any  # jsonschema.Draft202012Validator
_SchemaError = Any  # jsonschema.ValidationError, which comes without types


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) that validation really uses, as text."""
    return resources.files("sdcron").joinpath("schema", "job.schema.json").read_text("utf-8")


@cache
def schema() -> dict[str, Any]:
    """The schema as plain data; not to be changed."""
    loaded: dict[str, Any] = json.loads(schema_text())
    return loaded


@cache
def _check() -> Check:
    return compile_check(schema())


@cache
def _validator() -> _Validator:
    import jsonschema

    return jsonschema.Draft202012Validator(schema())


def findings(data: object) -> tuple[Finding, ...]:
    """What the schema has against a file's content; empty when it is valid."""
    if _check()(data):
        return ()
    found: dict[Finding, None] = {}
    for error in _validator().iter_errors(data):
        found.update(dict.fromkeys(_explain(error)))
    return tuple(found)


def label(path: Path) -> str:
    """A key as users name it: dotted, quoted, without the way from the file to its job."""
    if len(path) == 2 and path[0] == "jobs":
        return f"the job '{printable(str(path[1]))}'"
    names = [step for step in inner_path(path) if isinstance(step, str)]
    quoted = f"'{printable('.'.join(names))}'"
    if path and isinstance(path[-1], int):
        return f"item {path[-1] + 1} of {quoted}" if names else f"item {path[-1] + 1}"
    return quoted


def inner_path(path: Path) -> Path:
    """The path from a job to one of its values, from a path in the file."""
    if path[:1] == ("jobs",) and len(path) > 2:
        return path[2:]
    return path[1:] if path[:1] == ("defaults",) and len(path) > 1 else path


def show(value: object) -> str:
    """A value as a message names it."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        short = value if len(value) <= _SHORT else value[: _SHORT - 1] + "…"
        return repr(short) if value else "an empty text"
    return _inline(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to a wrong one; empty when none is near."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), list(folded), n=1) or difflib.get_close_matches(
        word.lower(), list(folded), n=1
    )
    if near:
        return f"did you mean '{folded[near[0]]}'?"
    other = _OTHER_NAMES.get(word.lower().replace("-", "_"))
    return f"did you mean '{other}'?" if other in names else ""


def _explain(error: _SchemaError) -> Iterator[Finding]:
    """The findings of one error of jsonschema."""
    keyword, value, path = error.validator, error.instance, tuple(error.absolute_path)
    if keyword == "anyOf":
        yield from _explain_branches(error, path)
    elif keyword == "oneOf":
        return  # command or script: said for the merged job by job_keys, for one job in a file too
    elif keyword == "additionalProperties" and isinstance(value, dict):
        known = error.schema.get("properties", {})
        for name in value:
            if name not in known:
                yield Finding((*path, name), _unknown_key(name, path), _known_hint(name, known, path), at_key=True)
    elif keyword == "required":
        for name in error.validator_value:
            if name not in value:
                yield Finding((*path, name), f"{label(path)} needs the key '{name}'", _example(error))
    elif "propertyNames" in error.absolute_schema_path:
        yield Finding(
            (*path, value), f"{show(value)} in {label(path)} is not {_title(error)}", _example(error), at_key=True
        )
    elif value is None:
        yield Finding(path, f"{label(path)} has no value", _example(error))
    elif keyword in {"minItems", "minLength", "minProperties"} and not value:
        yield Finding(path, f"{label(path)} is empty", _example(error))
    elif keyword == "enum":
        hint = suggestion(str(value), error.validator_value) if isinstance(value, str) else ""
        yield Finding(path, f"{label(path)} must be {_title(error)}, not {show(value)}", hint or _example(error))
    else:
        yield Finding(path, _must_be(path, _title(error), value), _hint(error))


def _must_be(path: Path, title: str, value: object) -> str:
    if not path:
        return f"a job file must be {title}, not {show(value)}"
    return f"{label(path)} must be {title}, not {show(value)}"


def _explain_branches(error: _SchemaError, path: Path) -> Iterator[Finding]:
    """An anyOf, whose branches differ in type: the one of the value's type says what is wrong, or none fits."""
    by_branch: dict[int, list[_SchemaError]] = {}
    for inner in error.context:
        by_branch.setdefault(inner.schema_path[0], []).append(inner)
    for errors in by_branch.values():
        if not any(inner.validator == "type" and not inner.path for inner in errors):
            for inner in errors:
                yield from _explain(inner)
            return
    if error.instance is None:
        yield Finding(path, f"{label(path)} has no value", _example(error))
    else:
        yield Finding(path, _must_be(path, _title(error), error.instance), _hint(error))


def _title(error: _SchemaError) -> str:
    """The noun phrase of what was expected: of the failed schema, or of the next one around it."""
    while error is not None:
        title = error.schema.get("title") if isinstance(error.schema, dict) else None
        if title:
            return str(title)
        error = error.parent
    return "something else"


def _hint(error: _SchemaError) -> str:
    """Quotes where a text was meant and YAML saw something else, an example otherwise."""
    value = error.instance
    if isinstance(value, (bool, int, float)) and _takes_text(error, _inline(value)):
        return f'put it in quotes: "{_inline(value)}"'
    return _example(error)


def _takes_text(error: _SchemaError, text: str) -> bool:
    """Whether the value would be right as a text."""
    branches = error.validator_value if error.validator == "anyOf" else [error.schema]
    return any(
        branch.get("type") == "string" and "$ref" not in branch and re.search(branch.get("pattern", ""), text)
        for branch in branches
    )


def _example(error: _SchemaError) -> str:
    """`for example: key: value`, from the innermost schema around the error that has examples."""
    here: Any = schema()
    key, examples = "", []
    steps = [step for step in error.absolute_schema_path if step != "$ref"]
    for before, step in zip(["", *steps], steps, strict=False):
        while step not in here and "$ref" in here if isinstance(here, dict) else False:
            here = schema()["$defs"][here["$ref"].removeprefix("#/$defs/")]
        if isinstance(here, dict) and step not in here:
            break
        here = here[step]
        if before == "properties" and isinstance(here, dict) and here.get("examples"):
            key, examples = str(step), here["examples"]
    return f"for example: {key}: {_inline(examples[0])}" if key else ""


def _inline(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_inline(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9/][A-Za-z0-9_./ :-]*(?<![ :])", value) and ": " not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _unknown_key(name: str, path: Path) -> str:
    inner = inner_path(path)
    inside = bool(path) and not (len(path) <= 2 and path[0] == "jobs") and path != ("defaults",)
    return f"unknown key {show(name)} in {label(inner)}" if inside else f"unknown key {show(name)}"


def _known_hint(name: str, known: Sequence[str] | dict[str, Any], path: Path) -> str:
    if name == "<<":
        return "YAML 1.2 has no merge key; put what jobs share below `defaults:`"
    if name == "defaults" and not path:
        return "'defaults' goes with 'jobs', a map from names to jobs"
    near = suggestion(name, known)
    if near:
        return near
    if "jobs" in known:
        return "beside 'jobs' stands only 'defaults'; put the key there, or into a job"
    if len(known) <= 10:
        return "known are " + ", ".join(f"'{key}'" for key in known)
    return "`sdcron schema` describes every key"
