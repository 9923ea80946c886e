"""A job on its way from a document to a Job: its values, where each was written, and what is wrong so far.

Knows of no key by name but the few whose texts may hold line breaks; job_keys.py says what keys mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sdcron.job_schema import label
from sdcron.job_values import RefusedValueError, check_lines, check_text
from sdcron.yaml_nodes import Data, Document, Finding, Path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TAKEN_APART = frozenset({("command",), ("script",), ("description",), ("when", "command")})
"""Texts whose line breaks never reach a unit."""

T = TypeVar("T")


@dataclass(slots=True)
class Draft:
    """A job on its way from a document to a Job.

    `values` are its keys, those of `defaults` included; `places` says where in the document each stands, with
    `("environment", NAME)` for variables, which can come from two maps. `refused` holds the places of values the
    schema has refused already.
    """

    name: str
    document: Document
    path: Path
    values: dict[str, Data]
    places: Mapping[Path, Path]
    refused: frozenset[Path] = frozenset()
    findings: list[Finding] = field(default_factory=list)

    def place(self, path: Path) -> Path:
        """Where a value of the job stands in the document."""
        for length in (2, 1):
            base = self.places.get(path[:length])
            if base is not None:
                return base + path[length:]
        return self.path + path

    def locate(self, path: Path) -> tuple[int, int]:
        """The line and column, from 1, of a value of the job."""
        return self.document.locate(Finding(self.place(path), ""))

    def refuse(
        self, path: Path, message: str, hint: str = "", *, at_key: bool = False, offset: int | None = None
    ) -> None:
        """Record a mistake at a value of the job."""
        self.findings.append(Finding(self.place(path), message, hint, at_key=at_key, offset=offset))

    def read(self, path: Path, parse: Callable[[Data], T], value: Data) -> T | None:
        """What `parse` makes of a value; None, and a finding, when it refuses."""
        try:
            return parse(value)
        except RefusedValueError as error:
            self.refuse(path, f"{label(path)} {error.message}", error.hint, offset=error.offset)
            return None

    def written(self, path: Path, value: object) -> str:
        """A scalar as it stands in the file: `1.10` and `0x1F` keep their spelling."""
        if isinstance(value, str):
            return value
        node = self.document.node(self.place(path))
        return node.text if node is not None else str(value)


def sound_values(draft: Draft) -> dict[str, Data]:
    """The job's values without what the schema refused and without texts that no unit can carry."""
    sound = {}
    for key, value in draft.values.items():
        before = len(draft.findings)
        if key != "schedule":  # which says itself what it thinks of odd characters
            _check_texts(draft, (key,), value)
        refused = draft.refused | {finding.path for finding in draft.findings[before:]}
        kept = _without(refused, draft, (key,), value) if refused else value
        if kept is not None:
            sound[key] = kept
    return sound


def _without(refused: frozenset[Path], draft: Draft, path: Path, value: Data) -> Data:
    """A value without its refused members; a refused item of a list, and a refused value itself, become None."""
    if draft.place(path) in refused:
        return None
    if isinstance(value, dict):
        kept = {name: _without(refused, draft, (*path, name), inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner is not None or value[name] is None}
    if isinstance(value, list):
        return [_without(refused, draft, (*path, index), inner) for index, inner in enumerate(value)]
    return value


def is_refused(draft: Draft) -> bool:
    """Whether the schema refused anything in the job, or in what it inherits."""
    bases = {draft.path, *draft.places.values()}
    return any(refused[: len(base)] == base for refused in draft.refused for base in bases)


def _check_texts(draft: Draft, path: Path, value: object) -> None:
    if isinstance(value, str):
        draft.read(path, check_lines if path in _TAKEN_APART else check_text, value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            draft.read((*path, name), check_text, name)
            _check_texts(draft, (*path, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_texts(draft, (*path, index), inner)
