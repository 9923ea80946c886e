"""The key `parameters` of a job: its value, and what a command may ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job import Parameter, ParameterKind
from sdcron.job_schema import suggestion
from sdcron.job_values import check_argument
from sdcron.parameters import mistake, names_in, variable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.job_draft import Draft
    from sdcron.yaml_nodes import Data, Path


def read_parameters(draft: Draft, path: Path, value: dict[str, Data]) -> tuple[Parameter, ...]:
    """The value of `parameters`."""
    found: dict[str, Parameter] = {}
    for name, inner in value.items():
        place = (*path, name)
        if name.upper() in found:
            other = found[name.upper()].name
            draft.refuse(
                place, f"the parameters '{other}' and '{name}' would be one variable", "rename one", at_key=True
            )
            continue
        described = isinstance(inner, dict)
        default = inner.get("default") if described else inner
        default_place = (*place, "default") if described else place
        text = _default(draft, default_place, default) if default is not None else None
        if text is not None:
            draft.read(default_place, check_argument, f"{variable(name)}={text}")
        description = " ".join(inner.get("description", "").split()) if described else ""
        found[name.upper()] = Parameter(name, text, _kind(default), description)
    return tuple(found.values())


def _default(draft: Draft, path: Path, default: Data) -> str:
    """As it stands in the file; what only YAML writes so, as `True`, `0x1F` and `.inf`, as values are given."""
    text = draft.written(path, default)
    wrong = mistake(Parameter("", text, _kind(default)), text)
    return text if wrong is None else str(default).lower()


def _kind(default: Data) -> ParameterKind:
    if isinstance(default, bool):
        return ParameterKind.TRUTH
    if isinstance(default, int):
        return ParameterKind.WHOLE
    return ParameterKind.NUMBER if isinstance(default, float) else ParameterKind.TEXT


def check_parameters(draft: Draft, sound: Mapping[str, Data], fields: Mapping[str, Data]) -> None:
    """What a command asks for is declared, and a run that nobody starts by hand has a value for everything."""
    declared = {each.name: each for each in fields.get("parameters", ())}
    written = draft.values.get("command") if "parameters" in draft.values else None
    for index, word in enumerate(fields.get("command", ()) if written is not None else ()):
        for name in names_in(word):
            if name not in declared:
                near = suggestion(name, declared)
                hint = f"write {{{{{name}}}}} to pass it on as it is, or declare it in 'parameters'"
                draft.refuse(
                    ("command", index) if isinstance(written, list) else ("command",),
                    f"'{{{name}}}' in 'command' is no parameter of the job",
                    f"{near} Else {hint}" if near else hint,
                    offset=max((written if isinstance(written, str) else word).find(f"{{{name}}}"), 0),
                )
    refused = {path[:2] for path in (*draft.refused, *(finding.path for finding in draft.findings))}
    by_itself = next((key for key in ("schedule", "after") if key in sound), None)
    for name, each in declared.items():
        if each.default is None and ("parameters", name) not in refused and by_itself is not None:
            draft.refuse(
                ("parameters", name),
                f"the parameter '{name}' has no default, and with '{by_itself}' the job runs by itself",
                f"give it one: {name}: value",
                at_key=True,
            )
