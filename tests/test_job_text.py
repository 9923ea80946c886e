"""The canonical text of a job: what it says, that nothing is lost on the way there and back, and what is refused."""

from __future__ import annotations

import json
import re
import time
from dataclasses import MISSING, Field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcron.job import (
    Credential,
    Directive,
    Interpreter,
    Job,
    Limits,
    Missed,
    Otherwise,
    Output,
    Overlap,
    Parameter,
    ParameterKind,
    Passthrough,
    Priority,
    Retry,
    Sandbox,
    Source,
    When,
)
from sdcron.job_text import digest_of, job_of, text_of, timing_of
from sdcron.jobfile import Context, is_job_name, parse_text
from sdcron.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "tests/golden").glob("*.yaml"), *(ROOT / "packaging/examples/jobs").glob("*.yaml")])
JOBS = "/etc/sdcron/jobs"
ZONE = "America/New_York"
MACHINE = "0123456789abcdef0123456789abcdef"
#: The keys of a text in their order.
KEYS = [
    *json.loads((ROOT / "sdcron/schema/job.schema.json").read_text())["$defs"]["job"]["properties"],
    *("unsupported", "source", "source_directory", "format"),
]
CONTEXT = Context(local_timezone=ZONE, machine_id=MACHINE)

PLAIN = Job("plain", Source(f"{JOBS}/plain.yaml"), ("/bin/true",))

#: For every field of a job a value that is not the default; `script` goes without `command`.
SAMPLES: dict[str, Any] = {
    "name": "Other.name-1",
    "source": Source("/srv/jobs/x.yaml"),
    "command": ("/bin/echo", "", "ä b\n", '"\\'),
    "script": "#!/bin/sh\n\necho\r\n",
    "description": "Größe ☃",
    "schedule": parse_schedule(("H 2 * * *", " @reboot"), local_timezone=ZONE, seed=f"plain@{MACHINE}"),
    "timezone": "Europe/Berlin",
    "user": "1000",
    "group": "adm",
    "directory": "/srv/a b",
    "umask": "0077",
    "environment": (("Z", "1.10"), ("A", ""), ("é".replace("é", "E"), "é\u2028\x7f\u202e\x85\U000e0001")),
    "environment_file": ("-/etc/a", "/etc/b"),
    "credentials": (Credential("z", "/etc/z"), Credential("a", "/etc/a", encrypted=True)),
    "interpreter": Interpreter("python3"),
    "timeout": timedelta(hours=1, milliseconds=5),
    "stop_timeout": timedelta(days=3650),
    "kill_signal": "SIGINT",
    "missed": Missed.SKIP,
    "overlap": Overlap.ALLOW,
    "max_parallel": 4,
    "retry": Retry(timedelta(seconds=1)),
    "lock": ("a", "b.c-1"),
    "lock_wait": timedelta(minutes=1),
    "when": When(wake=True),
    "spread": timedelta(minutes=10),
    "accuracy": timedelta(minutes=1),
    "success_exit": (3, "SIGPIPE"),
    "priority": Priority(nice=-20),
    "limits": Limits(memory=1 << 60),
    "sandbox": Sandbox.STRICT,
    "output": Output(1),
    "hosts": ("db*", "web1"),
    "parameters": (
        Parameter("day", "7", ParameterKind.WHOLE),
        Parameter("to", None, ParameterKind.TEXT, "Wohin ☃"),
        Parameter("a", ""),
    ),
    "after": ("dump", "rotate"),
    "needs": ("mount",),
    "resumable": True,
    "enabled": False,
    "systemd": Passthrough(unit=(Directive("Documentation", "man:a=b"),)),
    "unsupported": ("ping",),
}

#: The same for what a job is made of.
PARTS: dict[str, dict[str, Any]] = {
    "retry": {
        "delay": timedelta(minutes=5),
        "attempts": 20,
        "backoff": 1.5,
        "max_delay": timedelta(days=1),
        "on_exit": (75, 1),
    },
    "when": {
        "network": True,
        "units": ("a.service", "b@1.mount"),
        "mounts": ("/backup",),
        "path_exists": ("/a", "/b"),
        "path_missing": ("/c",),
        "ac_power": True,
        "command": ("/bin/test", "-e", "x"),
        "otherwise": Otherwise.WAIT,
        "wake": True,
    },
    "priority": {"nice": 0, "io": "best-effort:7", "cpu_weight": 10_000},
    "limits": {"memory": 1, "cpu": 999_999, "tasks": 4_194_304, "open_files": 1_073_741_816},
    "output": {"keep": 1 << 60, "redact": ("token-[0-9a-f]+", r"\bä\b")},
    "interpreter": {"program": "/usr/bin/python3", "venv": "/srv/venv"},
    "systemd": {
        "unit": (Directive("Documentation", "x"), Directive("Documentation", "y")),
        "service": (Directive("PrivateTmp", ""),),
        "timer": (Directive("OnClockChange", "yes"),),
    },
}
KINDS = {
    "retry": Retry,
    "when": When,
    "priority": Priority,
    "limits": Limits,
    "output": Output,
    "interpreter": Interpreter,
    "systemd": Passthrough,
}


def back(text: str, name: str = "plain") -> Job:
    """The job of a text, on the machine of these tests."""
    return job_of(text, local_timezone=ZONE, seed=f"{name}@{MACHINE}")


def as_text(job: Job) -> str:
    return text_of(job, JOBS)


def edited(job: Job, **values: object) -> str:
    """A job's text with other values of its keys, written as sdcron writes; None removes a key."""
    plain = json.loads(as_text(job)) | values
    kept = {key: plain[key] for key in (*KEYS, *plain) if plain.get(key) is not None}
    return json.dumps(kept, indent=2) + "\n"


def test_a_text_has_what_differs_from_the_defaults_in_the_order_of_the_job_file() -> None:
    source = """\
description: Nightly dump
retry: {delay: 90m, backoff: 2}
schedule: 30 2 * * *
script: |
  set -eu
  dump "größe"
timeout: 1h30m
when: {else: wait, path_exists: /srv}
environment: {LANG: C.UTF-8}
accuracy: 1s
"""
    ((job,), problems) = parse_text(source, f"{JOBS}/dump.yaml", CONTEXT)
    assert not problems
    assert (
        as_text(job)
        == """\
{
  "name": "dump",
  "description": "Nightly dump",
  "schedule": "30 2 * * *",
  "script": [
    "set -eu",
    "dump \\"größe\\"",
    ""
  ],
  "environment": {
    "LANG": "C.UTF-8"
  },
  "timeout": "1h 30min",
  "retry": {
    "delay": "1h 30min",
    "backoff": 2
  },
  "when": {
    "path_exists": "/srv",
    "else": "wait"
  },
  "source": "/etc/sdcron/jobs/dump.yaml",
  "source_directory": "/etc/sdcron/jobs",
  "format": 1
}
"""
    )


def test_keys_stand_in_the_order_of_the_job_files_schema() -> None:
    job = PLAIN
    for name, value in SAMPLES.items():
        job = replace(job, **{name: value})
    keys = list(json.loads(as_text(job)))
    assert keys == [key for key in KEYS if key in keys]


def test_every_field_of_a_job_has_a_sample_here() -> None:
    assert {field.name for field in fields(Job)} == set(SAMPLES)
    for name, kind in KINDS.items():
        assert {field.name for field in fields(kind)} == set(PARTS[name])
    assert {field.name for field in fields(Credential)} == {"name", "path", "encrypted"}
    assert {field.name for field in fields(Directive) if field.compare} == {"key", "value"}
    assert {field.name for field in fields(Source) if field.compare} == {"path", "line"}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_field_of_a_job_is_in_its_text(name: str) -> None:
    job = replace(PLAIN, **{name: SAMPLES[name]})
    job = replace(job, command=()) if name == "script" else job
    if name == "spread":
        job = replace(job, schedule=parse_schedule("@daily", local_timezone=ZONE, spread=job.spread, seed="x"))
        assert job_of(as_text(job), local_timezone=ZONE, seed="x") == job
    assert as_text(job) != as_text(PLAIN)
    if name != "spread":
        assert back(as_text(job)) == job


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_every_field_of_what_a_job_is_made_of_is_in_its_text(part: str, name: str) -> None:
    kind: Any = KINDS[part]
    least: dict[str, Any] = {"delay": timedelta(seconds=1)} if kind is Retry else {}
    job = replace(PLAIN, **{part: kind(**least | {name: PARTS[part][name]})})
    assert back(as_text(job)) == job
    assert as_text(job) != as_text(replace(PLAIN, **{part: kind(**least)}) if kind is not Interpreter else PLAIN)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_jobs_of_every_example_come_back_as_they_were(path: Path) -> None:
    jobs, problems = parse_text(path.read_text(encoding="utf-8"), f"{JOBS}/{path.name}", CONTEXT)
    assert jobs and not problems
    for job in jobs:
        found = back(as_text(job), job.name)
        assert found == replace(job, source=Source(job.source.path))
        assert as_text(found) == as_text(job)


def test_the_line_a_job_starts_on_is_not_in_its_text() -> None:
    one, other = (parse_text(text, f"{JOBS}/a.yaml", CONTEXT)[0][0] for text in ("command: x", "# new\ncommand: x"))
    assert one != other
    assert as_text(one) == as_text(other)


def test_a_text_tells_which_directory_and_file_a_job_is_from() -> None:
    moved = replace(PLAIN, source=Source("/srv/jobs/plain.yaml"))
    assert len({as_text(PLAIN), as_text(moved), text_of(PLAIN, "/etc/sdcron")}) == 3


def test_every_line_of_a_text_is_a_line_and_shows_what_it_holds() -> None:
    odd = "a\u2028b\x85c\x7fd\u202ee\u00a0f\U000e0001g\x1b\ud800"
    text = as_text(replace(PLAIN, command=("/bin/echo", odd)))
    assert text.splitlines() == text.split("\n")[:-1]
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\udb40\\udc01" in text  # as JSON writes what needs two units of UTF-16
    assert back(text).command[1] == odd
    assert text.encode()


def _default(field: Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def maybe(field: str, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value of a job's field, or its default."""
    default = next(_default(each) for each in fields(Job) if each.name == field)
    return st.one_of(st.just(default), strategy)


WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
PATHS = WORDS.map(lambda word: f"/{word}")
LENGTHS = st.integers(1, 3650 * 86_400_000).map(lambda count: timedelta(milliseconds=count))
SIGNALS = st.sampled_from(["SIGHUP", "SIGINT", "SIGUSR1", "SIGPIPE", "SIGTERM"])
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
CODES = st.integers(1, 255)
TEXTS = ["H H * * *", "@reboot", "every 90s", "at 11:30, 14:00", "Mon..Fri *-*-* 09:00", " @daily\t", "0 0 L * *"]
SCHEDULES = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4)


def several(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def directives() -> st.SearchStrategy[tuple[Directive, ...]]:
    return several(st.builds(Directive, st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,9}", fullmatch=True), WORDS))


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any job that a file could hold, and some that none could."""
    zone = draw(st.sampled_from([None, "Europe/Berlin", "UTC"]))
    spread = draw(st.sampled_from([0, 2, 600, 90_000]).map(lambda count: timedelta(seconds=count)))
    texts = draw(st.none() | SCHEDULES)
    name = draw(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
    seed = f"{name}@{MACHINE}"
    schedule = None
    if texts is not None:
        schedule = parse_schedule(texts, timezone=zone, local_timezone=ZONE, seed=seed, spread=spread)
    is_script = draw(st.booleans())
    fields_drawn = {
        "description": WORDS,
        "user": NAMES,
        "group": NAMES,
        "directory": PATHS,
        "umask": st.from_regex("0?[0-7]{3}", fullmatch=True),
        "environment": st.dictionaries(NAMES, WORDS, max_size=4).map(lambda found: tuple(found.items())),
        "environment_file": several(PATHS | PATHS.map(lambda path: f"-{path}")),
        "credentials": st.dictionaries(NAMES, st.tuples(PATHS, st.booleans()), max_size=3).map(
            lambda found: tuple(Credential(name, *rest) for name, rest in found.items())
        ),
        "interpreter": st.builds(Interpreter, program=WORDS) | st.builds(Interpreter, venv=PATHS),
        "timeout": LENGTHS,
        "stop_timeout": LENGTHS,
        "kill_signal": SIGNALS,
        "missed": st.sampled_from(Missed),
        "overlap": st.sampled_from(Overlap),
        "max_parallel": st.integers(1, 64),
        "retry": st.builds(
            Retry, LENGTHS, st.integers(1, 20), st.floats(1, 100), st.none() | LENGTHS, several(CODES)
        ),
        "when": st.builds(
            When,
            st.booleans(),
            several(NAMES),
            several(PATHS),
            several(PATHS),
            several(PATHS),
            st.booleans(),
            several(WORDS),
            st.sampled_from(Otherwise),
            st.booleans(),
        ),
        "accuracy": LENGTHS,
        "success_exit": several(CODES | SIGNALS),
        "priority": st.builds(
            Priority,
            st.none() | st.integers(-20, 19),
            st.none() | st.sampled_from(["idle", "best-effort", "realtime:0"]),
            st.none() | st.integers(1, 10_000),
        ),
        "limits": st.builds(Limits, *[st.none() | st.integers(1, 1 << 60)] * 4),
        "sandbox": st.sampled_from(Sandbox),
        "output": st.builds(Output, st.integers(1, 1 << 60), several(WORDS.map(re.escape))),
        "enabled": st.booleans(),
        "systemd": st.builds(Passthrough, directives(), directives(), directives()),
        "unsupported": several(NAMES),
    }  # fmt: skip
    drawn = {name: draw(maybe(name, strategy)) for name, strategy in fields_drawn.items()}
    return Job(
        name=name,
        source=Source(draw(PATHS)),
        command=() if is_script else draw(several(WORDS, least=1)),
        script=draw(WORDS) if is_script else None,
        schedule=schedule,
        timezone=zone,
        spread=spread,
        **drawn,
    )


@settings(max_examples=100, deadline=None)
@given(jobs(), PATHS)
def test_any_job_comes_back_as_it_was(job: Job, directory: str) -> None:
    text = text_of(job, directory)
    assert back(text, job.name) == job
    assert text.splitlines() == text.split("\n")[:-1]
    assert text_of(back(text, job.name), directory) == text


@settings(max_examples=100, deadline=None)
@given(jobs())
def test_the_timing_read_quickly_is_that_of_the_job(job: Job) -> None:
    timing = timing_of(as_text(job))
    texts = job.schedule.texts if job.schedule is not None else ()
    assert (timing.enabled, timing.schedule, timing.timezone) == (job.enabled, texts, job.timezone)
    assert (timing.spread, timing.missed) == (job.spread, job.missed)


@settings(max_examples=100, deadline=None)
@given(jobs(), jobs())
def test_two_jobs_have_one_text_only_if_they_are_equal(one: Job, other: Job) -> None:
    assert (as_text(one) == as_text(other)) == (one == other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted([*SAMPLES, "source_directory", "format", "notify", ""])), JSON)
def test_a_value_of_any_other_type_is_refused_or_means_the_same_text(key: str, value: object) -> None:
    text = edited(PLAIN, **{key: value})
    try:
        job = back(text)
    except ValueError:
        pass
    else:
        directory = str(json.loads(text)["source_directory"])
        assert text_of(job, directory) == text
    try:
        timing = timing_of(text)
    except ValueError:
        return
    assert isinstance(timing.enabled, bool)
    assert all(isinstance(each, str) for each in timing.schedule)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_a_value_error_or_another_text_of_sdcrons(data: st.DataObject) -> None:
    job = PLAIN
    for name, value in SAMPLES.items():
        if name not in ("command", "spread", "timezone"):
            job = replace(job, **{name: value})
    job = replace(job, command=())
    text = as_text(job)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    damaged = (
        text[:start] + data.draw(st.sampled_from(["", "0", '"', "[", "]", "}", "null", "\\u0000", "é"])) + text[end:]
    )
    try:
        found = back(damaged)
    except ValueError:
        pass
    else:
        assert text_of(found, json.loads(damaged)["source_directory"]) == damaged


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        '{"format": 1}',
        as_text(PLAIN) + "\n",
        as_text(PLAIN).rstrip(),
        json.dumps(json.loads(as_text(PLAIN))),
        as_text(PLAIN).replace("\n", "\r\n"),
        as_text(PLAIN).replace('"name": "plain"', '"name": "other",\n  "name": "plain"'),
    ],
)
def test_what_is_not_the_text_of_a_job_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        back(text)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 2},
        {"format": None},
        {"source": None},
        {"source": "jobs/a.yaml"},
        {"source_directory": None},
        {"source_directory": 1},
        {"command": None},
        {"command": "/bin/true"},
        {"command": ["/bin/true", 1]},
        {"command": ["/bin/true\0"]},
        {"script": ["echo"]},
        {"name": "../x"},
        {"name": "a/b"},
        {"name": ""},
        {"enabled": 0},
        {"enabled": True},
        {"umask": "999"},
        {"umask": "77"},
        {"timeout": "1 hour"},
        {"timeout": "60s"},
        {"timeout": "0s"},
        {"timeout": "9" * 30 + "d"},
        {"timeout": "٣s"},
        {"timeout": 5},
        {"schedule": []},
        {"schedule": "nonsense"},
        {"schedule": ["@daily", 5]},
        {"schedule": "@daily", "timezone": "Nowhere/Nowhere"},
        {"kill_signal": "SIGNOTHING"},
        {"kill_signal": []},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": 5}},
        {"environment": {"": "x"}},
        {"credentials": {"../a": "/etc/a"}},
        {"credentials": {"a": {"encrypted": "/a", "more": 1}}},
        {"credentials": {"a": {}}},
        {"retry": {"delay": "1s", "attempts": 10**9}},
        {"retry": {"delay": "1s", "backoff": float("inf")}},
        {"retry": {"delay": "1s", "backoff": float("nan")}},
        {"retry": {}},
        {"retry": {"delay": "1s", "more": 1}},
        {"when": {"otherwise": "wait"}},
        {"when": {"else": "perhaps"}},
        {"priority": {"nice": -21}},
        {"priority": {"io": "idle; x"}},
        {"limits": {"memory": True}},
        {"limits": {"memory": 0}},
        {"output": {"redact": ["("]}},
        {"success_exit": [256]},
        {"success_exit": 0},
        {"systemd": {"service": ["no directive"]}},
        {"systemd": {"install": ["A=b"]}},
        {"hosts": 1},
        {"missed": "run"},
        {"spread": "1s", "schedule": "nonsense"},
    ],
)
def test_values_that_sdcron_does_not_write_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        back(edited(PLAIN, **values))


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "9", "x" * 128, "x" * 129, ".a", "-a", "a b", "ä", "a\n", "", "a/b"])
def test_the_names_of_jobs_are_those_of_job_files(name: str) -> None:
    text = as_text(replace(PLAIN, name=name))
    if is_job_name(name):
        assert back(text).name == name
    else:
        with pytest.raises(ValueError, match="is not"):
            back(text)


def test_a_schedule_is_read_for_the_machine_it_is_on() -> None:
    ((job,), _) = parse_text("command: x\nschedule: H H * * *\nspread: 1h\n", f"{JOBS}/a.yaml", CONTEXT)
    text = as_text(job)
    assert back(text, "a").schedule == job.schedule
    assert job_of(text, local_timezone="Asia/Tokyo", seed="a@other").schedule != job.schedule


def test_digests_are_those_of_the_text() -> None:
    assert digest_of("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert digest_of(as_text(PLAIN)) != digest_of(as_text(replace(PLAIN, enabled=False)))


def test_when_a_job_runs_is_read_without_making_all_of_it() -> None:
    ((job,), _) = parse_text(
        (ROOT / "packaging/examples/jobs/database-dump.yaml").read_text(), f"{JOBS}/a.yaml", CONTEXT
    )
    texts = [as_text(replace(job, name=f"job-{number}")) for number in range(500)]
    assert {timing_of(text).schedule for text in texts} == {("30 2 * * *",)}

    def least(read: Callable[[str], object]) -> float:
        """Seconds of a processor, of several tries: the machine may be busy."""
        took = []
        for _ in range(5):
            began = time.process_time()
            for text in texts:
                read(text)
            took.append(time.process_time() - began)
        return min(took)

    # A twentieth, as measured.
    assert least(timing_of) < least(back) / 4
