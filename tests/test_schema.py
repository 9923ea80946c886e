"""The schema of job files: complete for editors, the same as what validation uses, and as strict as its quick form."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.job_schema import findings, schema, schema_text
from sdcron.schema_check import UnknownKeywordError, compile_check

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = Any  # what JSON holds
SCHEMA = json.loads(schema_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CHECK = compile_check(SCHEMA)
CONTRACT = (
    "accuracy after command credentials description directory enabled environment environment_file group hosts"
    " interpreter kill_signal limits lock lock_wait missed name needs notify output overlap parameters ping priority"
    " retry sandbox schedule script spread stop_timeout success_exit systemd timeout timezone umask user when"
)


def parts(part: Data = SCHEMA, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every map in the schema with its place."""
    if isinstance(part, dict):
        yield where, part
        for key, inner in part.items():
            if key not in {"examples", "default", "enum"}:
                yield from parts(inner, f"{where}/{key}")
    elif isinstance(part, list):
        for index, inner in enumerate(part):
            yield from parts(inner, f"{where}/{index}")


KEYS = [
    (f"{where}/{name}", key) for where, part in parts() if where.endswith("/properties") for name, key in part.items()
]


def test_the_schema_is_valid_draft_2020_12() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_has_exactly_the_keys_of_the_contract() -> None:
    assert sorted(SCHEMA["$defs"]["job"]["properties"]) == sorted(CONTRACT.split())


@pytest.mark.parametrize(("where", "key"), KEYS, ids=[where for where, _ in KEYS])
def test_every_key_has_a_description_and_examples_that_validate(where: str, key: dict[str, Any]) -> None:
    assert re.match(r"['A-Z].*\.$", key["description"])
    assert key["examples"]
    alone = {"$defs": SCHEMA["$defs"], **key}
    for example in [*key["examples"], *([key["default"]] if "default" in key else [])]:
        jsonschema.Draft202012Validator(alone).validate(example)
        assert compile_check(alone)(example)


def test_every_reference_stays_in_the_file() -> None:
    assert all(part["$ref"].startswith("#/$defs/") for _, part in parts() if isinstance(part.get("$ref"), str))


def test_no_map_takes_keys_it_does_not_know() -> None:
    open_maps = [where for where, part in parts() if "properties" in part and part.get("type") == "object"
                 and part.get("additionalProperties") is not False]  # fmt: skip
    assert open_maps == []


def test_branches_differ_in_type_so_that_one_of_them_can_explain_a_mistake() -> None:
    for where, part in parts():
        if isinstance(part.get("anyOf"), list):
            types = [branch["type"] for branch in part["anyOf"]]
            flat = [name for kind in types for name in ([kind] if isinstance(kind, str) else kind)]
            assert len(flat) == len(set(flat)), where
            assert part.get("title"), where


def test_every_expectation_has_words_for_it() -> None:
    branches = ("anyOf/", "/if", "$defs/duration_text", "/one_job", "$defs/job/properties")
    for where, part in parts():
        if {"type", "enum", "pattern"} & part.keys() and not any(inside in where[-40:] for inside in branches):
            assert part.get("title"), where


def test_no_pattern_stops_at_a_line_break_that_python_ignores() -> None:
    """`$` also matches before a last line break: no meaning may depend on that, job_draft refuses the break."""
    assert not findings({"command": "x", "umask": "027\n"})


ATOMS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.floats(allow_nan=False), st.sampled_from([0.0, 1.0, 3.0, 255.0]),
    st.text(max_size=5), st.sampled_from(["5m", "/x", "SIGINT", "a", "50%", "027", "run", "skip", "x.service", "A"]),
)  # fmt: skip
WORDS = sorted({where.rpartition("/")[2] for where, _ in KEYS} | {"A", "a-b", "x"})
DATA = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
EXAMPLES = [(where.rpartition("/")[2], example) for where, key in KEYS for example in key["examples"]]


@st.composite
def nearly_jobs(draw: st.DrawFn) -> Data:
    """Job files made of the schema's examples, with something odd put in here and there."""

    def job() -> dict[str, Any]:
        made = dict(draw(st.lists(st.sampled_from(EXAMPLES), max_size=6)))
        if draw(st.booleans()):
            made["command"] = "x"
        if draw(st.integers(0, 3)) == 0:
            made[draw(st.sampled_from(WORDS))] = draw(DATA)
        for key, value in made.items():
            if isinstance(value, dict) and draw(st.integers(0, 5)) == 0:
                made[key] = {**value, draw(st.sampled_from(WORDS)): draw(DATA)}
        return made

    if draw(st.booleans()):
        return job()
    return {
        "jobs": {"a": job(), draw(st.sampled_from(WORDS)): job()},
        **({"defaults": job()} if draw(st.booleans()) else {}),
    }


@given(st.one_of(nearly_jobs(), DATA))
def test_the_quick_check_says_yes_exactly_when_jsonschema_does(data: Data) -> None:
    assert CHECK(data) == VALIDATOR.is_valid(data)


@given(st.one_of(nearly_jobs(), DATA))
def test_every_no_is_explained_in_words(data: Data) -> None:
    found = findings(data)
    only_choice_of_command = all(error.validator == "oneOf" for error in VALIDATOR.iter_errors(data))
    assert bool(found) == (not CHECK(data) and not only_choice_of_command)
    for finding in found:
        assert finding.message
        assert "something else" not in finding.message


def test_a_keyword_the_quick_check_does_not_know_is_an_error() -> None:
    unknown_keywords: tuple[dict[str, Data], ...] = (
        {"not": {}},
        {"properties": {"a": {"uniqueItems": True}}},
        {"enum": [1]},
    )
    for unknown in unknown_keywords:
        with pytest.raises(UnknownKeywordError):
            compile_check(unknown)


def test_the_schema_is_loaded_once() -> None:
    assert schema() is schema()
