"""Parameters: what stands for them in a command, and which values a run takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdcron.errors import UsageError
from sdcron.job import Job, Parameter, ParameterKind, Source
from sdcron.parameters import filled, names_in, read_values, with_asked
from sdcron.runs import Asked

DAYS = Parameter("days", "7", ParameterKind.WHOLE)
RATE = Parameter("rate", "0.5", ParameterKind.NUMBER)
FULL = Parameter("full", "false", ParameterKind.TRUTH)
REGION = Parameter("region")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{region}", "eu"),
        ("--from={region}/{days}", "--from=eu/7"),
        ("{{region}}", "{region}"),
        ("{{{region}}}", "{{region}}"),
        ("{} {1} { region } {-x} {region", "{} {1} { region } {-x} {region"),
        ("{print $1}", "{print $1}"),
        ("", ""),
    ],
)
def test_a_name_in_braces_stands_for_a_value_and_nothing_else_does(text: str, expected: str) -> None:
    assert filled(text, {"region": "eu", "days": "7"}) == expected


def test_a_value_is_not_looked_into() -> None:
    assert filled("{a}{b}", {"a": "{b}", "b": "{a}"}) == "{b}{a}"
    assert names_in("{a} {{b}} {c}{a}") == ["a", "c", "a"]


def test_a_run_has_the_defaults_and_the_values_that_are_given() -> None:
    job = Job("x", Source("/x"), ("get", "{region}", "{days}"), environment=(("A", "1"),), parameters=(REGION, DAYS))
    run = with_asked(job, Asked("anna", 1_767_225_600_000_000, (("region", "eu"),)))
    assert run.command == ("get", "eu", "7")
    assert run.environment == (
        ("A", "1"),
        ("SDCRON_PARAM_REGION", "eu"),
        ("SDCRON_PARAM_DAYS", "7"),
        ("SDCRON_FOR", "2026-01-01T00:00:00+00:00"),
    )
    berlin = with_asked(
        replace(job, timezone="Europe/Berlin"), Asked("anna", 1_767_225_600_000_000, (("region", "eu"),))
    )
    assert berlin.environment[-1] == ("SDCRON_FOR", "2026-01-01T01:00:00+01:00")
    assert run.parameters == ()
    plain = Job("x", Source("/x"), ("get", "{region}"))
    assert with_asked(plain, Asked("anna")) is plain


def test_values_are_read_by_name() -> None:
    given = ["region=a=b c", "days=-3", "rate=1e3", "full=true"]
    values = read_values((REGION, DAYS, RATE, FULL), given, lambda *_: None)
    assert values == {"region": "a=b c", "days": "-3", "rate": "1e3", "full": "true"}
    assert read_values((DAYS,), [], lambda *_: None) == {}


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (["region=x", "day=1"], "there is no parameter 'day'", "the job has: days, full, rate, region"),
        (["region"], "'region' is no value for a parameter", "write it as name=value"),
        ([], "'region' must be given", "for example: region=…"),
        (["region=x", "region=y"], "'region' is given twice", "give it once"),
        (["region=x", "days=7.5"], "'days' must be a whole number, as its default 7 is", "for example: days=7"),
        (["region=x", "days=٣"], "'days' must be a whole number, as its default 7 is", "for example: days=7"),
        (["region=x", "rate=nan"], "'rate' must be a number, as its default 0.5 is", "for example: rate=0.5"),
        (["region=x", "full=yes"], "'full' must be true or false, as its default false is", "for example: full=false"),
    ],
)
def test_what_cannot_be_a_value_is_refused_in_one_line(given: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        read_values((REGION, DAYS, RATE, FULL), given, lambda *_: None)
    assert (error.value.message, error.value.hint) == (message, hint)


def test_a_job_without_parameters_says_how_to_declare_some() -> None:
    with pytest.raises(UsageError) as error:
        read_values((), ["x=1"], lambda *_: None)
    assert error.value.hint == "the job has none: `parameters:` declares them"
