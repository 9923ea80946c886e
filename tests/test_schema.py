"""The schema of job files: complete for editors, the same as what validation uses, and as strict as its quick form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sdcron import job_schema
from sdcron.cli import run
from sdcron.job_keys import UNSUPPORTED
from sdcron.job_schema import findings, schema, schema_text
from sdcron.schema_check import UnknownKeywordError, compile_check
from sdcron.template import job_template

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = Any  # what JSON holds
BAD = Path(__file__).parent / "bad"
GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads(schema_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CHECK = compile_check(SCHEMA)
CONTRACT = (
    "accuracy after command credentials description directory enabled environment environment_file group hosts"
    " interpreter kill_signal limits lock lock_wait max_parallel missed name needs notify output overlap parameters"
    " ping priority resumable retry sandbox schedule script spread stop_timeout success_exit systemd timeout timezone"
    " umask user when"
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


def test_a_key_that_does_nothing_yet_says_so_and_no_other_does() -> None:
    says = {name for name, key in SCHEMA["$defs"]["job"]["properties"].items() if "supported yet" in key["description"]}
    assert says == UNSUPPORTED


def test_no_text_names_a_command_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [schema_text(), job_template("x"), *(path.read_text("utf-8") for path in BAD.glob("*.txt"))]
    named = {word for text in texts for word in re.findall(r"[`']sdcron ([a-z]+)", text)}
    assert named
    for command in named:
        assert run([command, "--help"]) == 0, command
    capsys.readouterr()


def test_sdcron_schema_prints_the_schema_that_validation_uses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_a_change_of_the_schema_changes_what_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of validation, the quick one and the one that explains, read what `schema` returns."""
    assert not findings({"command": "x", "umask": "027"})
    changed = json.loads(schema_text())
    del changed["$defs"]["job"]["properties"]["umask"]
    caches = (job_schema.schema, job_schema._check, job_schema._validator)
    try:
        for cache in caches:
            cache.cache_clear()
        monkeypatch.setattr(job_schema, "schema_text", lambda: json.dumps(changed))
        assert [finding.message for finding in findings({"command": "x", "umask": "027"})] == ["unknown key 'umask'"]
    finally:
        for cache in caches:
            cache.cache_clear()


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema with what it refers to."""
    reference = part.get("$ref")
    return {**SCHEMA["$defs"][reference.removeprefix("#/$defs/")], **part} if reference else part


def without_golden_unit(part: dict[str, Any], values: list[Data], where: str) -> list[str]:
    """The keys and choices below a part of the schema that none of the golden jobs' values there has."""
    part = resolved(part)
    if not values:
        return [where]
    missing = []
    if where != "/kill_signal" and "success_exit" not in where:  # one signal stands for all
        taken = [*values, part.get("default")]
        missing += [f"{where}={choice}" for choice in part.get("enum", []) if choice not in taken]
    for index, branch in enumerate(part.get("anyOf", [])):
        validator = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **branch})
        fitting = [value for value in values if validator.is_valid(value)]
        missing += without_golden_unit(branch, fitting, f"{where}/{index}")
    for name, key in part.get("properties", {}).items():
        inner = [value[name] for value in values if name in value]
        missing += without_golden_unit(key, inner, f"{where}/{name}")
    return missing


def test_every_key_and_every_choice_has_a_golden_unit() -> None:
    """Down to the keys of maps and the forms of values; what is not supported yet becomes no unit."""
    jobs = [yaml.safe_load(path.read_text("utf-8")) for path in GOLDEN.glob("*.yaml")]
    missing = without_golden_unit(SCHEMA["$defs"]["job"], jobs, "")
    later = tuple(f"/{key}" for key in UNSUPPORTED)
    assert [where for where in missing if not where.startswith(later)] == []


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
