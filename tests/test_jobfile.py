"""jobfile: what a file means, and what is said about a wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.cli import run
from sdcron.job import (
    Credential,
    Directive,
    Interpreter,
    Job,
    Limits,
    Missed,
    Otherwise,
    Overlap,
    Passthrough,
    Priority,
    Retry,
    Sandbox,
    Source,
    When,
)
from sdcron.jobfile import Context, is_job_name, parse_text, read_file, schema_text
from sdcron.parameters import mistake
from sdcron.template import job_template
from sdcron.units import _shebang

if TYPE_CHECKING:
    from sdcron.errors import Problem

BAD = Path(__file__).parent / "bad"
EXAMPLES = Path(__file__).parent.parent / "packaging" / "examples" / "jobs"
# Read before the fixtures clear the environment; to be used on purpose, and the difference to be read.
RENEW_GOLDEN = os.environ.get("SDCRON_RENEW_GOLDEN") == "1"
CONTEXT = Context(local_timezone="UTC", machine_id="0123456789abcdef")
COMMAND = "command: /bin/true\n"


def told(problems: tuple[Problem, ...]) -> str:
    """Problems as a terminal shows them: place and sentence, the line with a caret, the hint."""
    lines = []
    for problem in problems:
        lines.append(str(problem))
        if problem.source_line:
            lines += [f"    {problem.source_line}", "    " + " " * (problem.column - 1) + "^"]
        if problem.hint:
            lines.append(f"  hint: {problem.hint}")
    return "\n".join(lines) + "\n"


def only_job(text: str, path: str = "backup.yaml") -> Job:
    """The one job of a text without problems."""
    jobs, problems = parse_text(text, path, CONTEXT)
    assert not problems, told(problems)
    assert len(jobs) == 1
    return jobs[0]


def jobs_by_name(text: str) -> dict[str, Job]:
    """All jobs of a text without problems."""
    jobs, problems = parse_text(text, "jobs.yaml", CONTEXT)
    assert not problems, told(problems)
    return {job.name: job for job in jobs}


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_file_gets_exactly_these_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    problems = read_file(Path(f"{name}.yaml"), CONTEXT)[1]
    assert problems
    golden = BAD / f"{name}.txt"
    if RENEW_GOLDEN:
        golden.write_text(told(problems), encoding="utf-8")
    assert told(problems) == golden.read_text(encoding="utf-8")


def test_no_word_of_the_schema_language_reaches_a_user() -> None:
    texts = [path.read_text("utf-8") for path in BAD.glob("*.txt")]
    for jargon in (
        "is not valid under",
        "is not of type",
        "does not match",
        "schema '",
        "propertyNames",
        "anyOf",
        "$ref",
    ):
        assert not [text for text in texts if jargon in text]


def test_there_is_a_bad_file_for_every_text_and_a_text_for_every_bad_file() -> None:
    assert {path.stem for path in BAD.glob("*.txt")} == {path.stem for path in BAD.glob("*.yaml")}
    assert len(list(BAD.glob("*.yaml"))) >= 50


def test_every_problem_names_a_line_and_says_what_to_do() -> None:
    for path in BAD.glob("*.yaml"):
        for problem in read_file(path, CONTEXT)[1]:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.hint


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_valid_and_explained(path: Path) -> None:
    jobs, problems = read_file(path, CONTEXT)
    assert not problems, told(problems)
    assert jobs
    assert all(job.description and not job.unsupported for job in jobs)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert sum(line.strip().startswith("#") for line in lines) >= 3


def test_there_are_examples_for_a_whole_server() -> None:
    assert len(list(EXAMPLES.glob("*.yaml"))) >= 10


def test_a_new_job_file_is_valid_as_it_is() -> None:
    text = job_template("nightly")
    job = only_job(text, "nightly.yaml")
    assert job.name == "nightly"
    assert job.schedule is not None
    uncommented = text.replace("# timezone", "timezone").replace("# user", "user").replace("# retry", "retry")
    job = only_job(uncommented, "nightly.yaml")
    assert (job.timezone, job.user, job.retry) == ("Europe/Berlin", "www-data", Retry(timedelta(minutes=5)))


def test_one_job_is_named_like_its_file() -> None:
    job = only_job(COMMAND, "jobs/nightly-dump.v2.yaml")
    assert job == Job("nightly-dump.v2", Source("jobs/nightly-dump.v2.yaml", 1), ("/bin/true",))


def test_a_name_in_the_file_goes_before_the_file_name() -> None:
    assert only_job(f"# first\nname: other\n{COMMAND}", "a file with blanks.yaml").name == "other"


def test_a_job_names_the_line_it_starts_on() -> None:
    assert only_job(f"\n# comment\n{COMMAND}").source.line == 3
    jobs = jobs_by_name("jobs:\n  a: {command: x}\n  b:\n    command: y\n")
    assert {name: job.source.line for name, job in jobs.items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("a", True),
        ("A_1.b-c", True),
        ("9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        (".a", False),
        ("-a", False),
        ("a b", False),
        ("a/b", False),
        ("a@b", False),
        ("ä", False),
        ("a\n", False),
    ],
)
def test_job_names_are_letters_digits_and_three_marks(name: str, valid: bool) -> None:
    assert is_job_name(name) is valid


@pytest.mark.parametrize("name", ["boot", "collector", "engine"])
def test_the_names_of_sdcrons_own_units_are_no_job_names(name: str) -> None:
    assert not is_job_name(name)
    message = f"the job name '{name}' is taken: sdcron-{name}.service is sdcron's own"
    for text in (f"name: {name}\n{COMMAND}", f"jobs: {{{name}: {{command: x}}}}\n"):
        jobs, problems = parse_text(text, "x.yaml", CONTEXT)
        assert (jobs, [problem.message for problem in problems]) == ((), [message])
    jobs, problems = parse_text(COMMAND, f"{name}.yaml", CONTEXT)
    assert (jobs, [problem.message for problem in problems]) == ((), [message])
    assert only_job(f"name: my-{name}\n{COMMAND}", f"{name}.yaml").name == f"my-{name}"


WHEN = """\
when:
  network: true
  units: a.service
  mounts: /b
  path_exists: [/c, /d]
  path_missing: /e
  ac_power: true
  command: test -s '/f g'
  else: wait
  wake: true
"""
SYSTEMD = """\
schedule: "@daily"
systemd:
  unit: {Documentation: man:x}
  service: {ReadWritePaths: [/a, /b], PrivateTmp: true, X: 1.50}
  timer: {OnClockChange: on}
"""
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("description: ' two\n\n  words '", "description", "two words"),
        ("user: 1000", "user", "1000"),
        ("user: www-data", "user", "www-data"),
        ("group: _apt", "group", "_apt"),
        ("directory: /srv/with blank/ü", "directory", "/srv/with blank/ü"),
        ("umask: 027", "umask", "027"),
        ("umask: '0077'", "umask", "0077"),
        ("environment: {A: 1.10, B: 0x1F, C: true, D: '', E: 027, F: yes, G: '%h $x'}", "environment",
         (("A", "1.10"), ("B", "0x1F"), ("C", "true"), ("D", ""), ("E", "027"), ("F", "yes"), ("G", "%h $x"))),
        ("environment_file: /etc/a", "environment_file", ("/etc/a",)),
        ("environment_file: [/etc/a, -/etc/b]", "environment_file", ("/etc/a", "-/etc/b")),
        ("credentials: {a: /x, b: {encrypted: /y}}", "credentials",
         (Credential("a", "/x"), Credential("b", "/y", True))),
        ("interpreter: python3", "interpreter", Interpreter(program="python3")),
        ("interpreter: {venv: /srv/app/venv}", "interpreter", Interpreter(venv="/srv/app/venv")),
        ("timeout: 90", "timeout", timedelta(seconds=90)),
        ("timeout: 1h30m", "timeout", timedelta(minutes=90)),
        ("timeout: 1w2d3h4m5s6ms", "timeout", timedelta(9, 5, 0, 6, 4, 3)),
        ("timeout: '90'", "timeout", timedelta(seconds=90)),
        ("stop_timeout: 2d", "stop_timeout", timedelta(days=2)),
        ("accuracy: 500ms", "accuracy", timedelta(milliseconds=500)),
        ("spread: 5m", "spread", 5 * MINUTE),
        ("kill_signal: SIGINT", "kill_signal", "SIGINT"),
        ("missed: skip", "missed", Missed.SKIP),
        ("overlap: queue", "overlap", Overlap.QUEUE),
        ("overlap: allow\nmax_parallel: 4", "max_parallel", 4),
        ("retry: 5m", "retry", Retry(5 * MINUTE, 3, 1.0, None, ())),
        ("retry: 30", "retry", Retry(timedelta(seconds=30))),
        ("retry: {delay: 1m, attempts: 20, backoff: 1.5, max_delay: 1h, on_exit: [75, 1, 75]}", "retry",
         Retry(MINUTE, 20, 1.5, HOUR, (75, 1))),
        ("retry: {delay: 1m, on_exit: 75}", "retry", Retry(MINUTE, on_exit=(75,))),
        ("success_exit: 3", "success_exit", (3,)),
        ("success_exit: [3, SIGPIPE, 3]", "success_exit", (3, "SIGPIPE")),
        ("priority: {nice: -5, io: best-effort:7, cpu_weight: 20}", "priority", Priority(-5, "best-effort:7", 20)),
        ("limits: {memory: 512M, cpu: 150%, tasks: 10, open_files: 4096}", "limits", Limits(512 << 20, 150, 10, 4096)),
        ("limits: {memory: 64KiB}", "limits", Limits(memory=65536)),
        ("limits: {memory: 1000}", "limits", Limits(memory=1000)),
        ("sandbox: strict", "sandbox", Sandbox.STRICT),
        ("enabled: false", "enabled", False),
        (WHEN, "when",
         When(True, ("a.service",), ("/b",), ("/c", "/d"), ("/e",), True, ("test", "-s", "/f g"),
              Otherwise.WAIT, True)),
        (SYSTEMD, "systemd",
         Passthrough((Directive("Documentation", "man:x"),),
                     (Directive("ReadWritePaths", "/a"), Directive("ReadWritePaths", "/b"),
                      Directive("PrivateTmp", "true"), Directive("X", "1.50")),
                     (Directive("OnClockChange", "on"),))),
    ],
)  # fmt: skip
def test_a_key_means_what_the_contract_says(text: str, key: str, expected: object) -> None:
    assert getattr(only_job(f"{COMMAND}{text}\n"), key) == expected


@pytest.mark.parametrize("text", ["max_parallel: 4", "max_parallel: 4.0", "max_parallel: 0x4"])
def test_a_whole_number_is_one_however_it_is_spelt(text: str) -> None:
    assert repr(only_job(f"{COMMAND}overlap: allow\n{text}\n").max_parallel) == "4"


@pytest.mark.parametrize(
    ("written", "default"),
    [
        ("7", "7"), ("-7", "-7"), ("007", "007"), ("+1", "+1"), ("0x1F", "31"), ("0o17", "15"),
        ("0.50", "0.50"), ("1e3", "1e3"), (".5", ".5"), ("true", "true"), ("True", "true"),
        ("FALSE", "false"), ("'True'", "True"), ("0x", "0x"), ("''", ""),
    ],
)  # fmt: skip
def test_a_default_is_as_it_is_written_but_for_what_only_yaml_writes_so(written: str, default: str) -> None:
    [parameter] = only_job(f"{COMMAND}parameters: {{a: {written}}}\n").parameters
    assert parameter.default == default
    # So that it may be given too.
    assert mistake(parameter, default) is None


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("command: /bin/echo a  b", ("/bin/echo", "a", "b")),
        ("command: /bin/echo 'a  b' \"c $HOME\" d\\ e", ("/bin/echo", "a  b", "c $HOME", "d e")),
        ("command: [/bin/echo, 5, 1.10, true, '', -x, '%n', '$HOME', '|']",
         ("/bin/echo", "5", "1.10", "true", "", "-x", "%n", "$HOME", "|")),
        ("command: |\n  /bin/echo a \\\n    b\n", ("/bin/echo", "a", "b")),
        ("command: >\n  /bin/echo\n  a\n", ("/bin/echo", "a")),
        ("command: find . -name *.log -exec rm {} \\;", ("find", ".", "-name", "*.log", "-exec", "rm", "{}", ";")),
        ("command: curl http://x/?a=1&b=2", ("curl", "http://x/?a=1&b=2")),
        ("command: echo '' \"\"", ("echo", "", "")),
    ],
)  # fmt: skip
def test_a_command_becomes_exactly_these_arguments(text: str, argv: tuple[str, ...]) -> None:
    assert only_job(text).command == argv


def test_a_script_keeps_its_lines() -> None:
    job = only_job("script: |\n  #!/bin/bash\n  echo $HOME | cat\n")
    assert job.script == "#!/bin/bash\necho $HOME | cat\n"
    assert job.command == ()


@pytest.mark.parametrize("rest", ["", " -a", "\t -a b \t", " a\u00a0b c", "\u2003", "\x0c x", " -S  a  b"])
def test_a_first_line_names_the_interpreter_as_the_kernel_reads_it(rest: str, tmp_path: Path) -> None:
    show = tmp_path / f"show{rest.strip(' ')[:1]}" if rest[:1] not in ("", " ", "\t") else tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf \'%s\\n\' "$0" "$@"\n')
    show.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(f"#!{tmp_path}/show{rest}\n")
    script.chmod(0o755)
    kernels = subprocess.run([str(script)], capture_output=True, text=True, timeout=20, check=True).stdout
    assert [*_shebang(script.read_text()), str(script)] == kernels.split("\n")[:-1]


def test_an_argument_or_a_variable_that_the_kernel_would_refuse_is_a_problem() -> None:
    long = "x" * 131072
    for text, key in (
        (f"command: [/bin/true, {long}]\n", "command"),
        (f"command: /bin/true {long}\n", "command"),
        (f"{COMMAND}when: {{command: [test, {long}]}}\n", "when.command"),
        (f"{COMMAND}environment: {{A: {long[2:]}}}\n", "environment.A"),
        (f"script: '#!{long}'\n", "script"),
    ):
        jobs, (problem,) = parse_text(text, "a.yaml", CONTEXT)
        assert not jobs
        assert problem.key == key
        assert problem.hint == "hand it over in a file"
    longest = only_job(f"command: [/bin/true, {long[1:]}]\nenvironment: {{A: {long[3:]}}}\n")
    assert longest.command == ("/bin/true", long[1:])


def test_a_schedule_is_read_in_the_jobs_zone_and_spot() -> None:
    job = only_job(f"{COMMAND}schedule: ['H 3 * * *', every 2h]\ntimezone: Europe/Berlin\nspread: 10m\n")
    assert job.schedule is not None
    assert job.schedule.texts == ("H 3 * * *", "every 2h")
    assert job.schedule.timezone == "Europe/Berlin"
    assert timedelta(0) <= job.schedule.offset < timedelta(minutes=10)
    assert only_job(f"{COMMAND}timezone: Europe/Berlin\n").schedule is None


def test_the_spot_of_a_schedule_is_the_jobs_and_the_machines_own() -> None:
    spots = set()
    for name in ("a", "b", "c", "d"):
        for machine in ("1", "2", "3", "4"):
            jobs, _ = parse_text(f"{COMMAND}schedule: H H * * *\n", f"{name}.yaml", Context(machine_id=machine))
            assert jobs[0].schedule is not None
            spots.add(str(jobs[0].schedule.entries))
    assert len(spots) > 10


def test_scalars_follow_yaml_1_2() -> None:
    job = only_job("command: [x, on, yes, 22:30, 1_000, 0o17, '07', 1e3, ~x]\n")
    assert job.command == ("x", "on", "yes", "22:30", "1_000", "0o17", "07", "1e3", "~x")
    assert jobs_by_name("jobs: {on: {command: x}, 22: {command: y}, 'null': {command: z}}").keys() == {
        "on",
        "22",
        "null",
    }


def test_aliases_repeat_a_value() -> None:
    job = only_job("command: &argv [/bin/echo, a]\nwhen: {command: *argv}\n")
    assert job.when.command == job.command == ("/bin/echo", "a")


def test_jobs_inherit_whole_keys_but_environments_merge() -> None:
    jobs = jobs_by_name(
        "defaults:\n"
        "  user: backup\n"
        "  retry: {delay: 1m, attempts: 9}\n"
        "  environment: {A: 1.10, B: b}\n"
        "jobs:\n"
        "  one: {command: x}\n"
        "  two: {command: x, user: root, retry: {delay: 2m}, environment: {B: 2.20, C: c}}\n"
    )
    assert jobs["one"].user == "backup"
    assert jobs["one"].retry == Retry(MINUTE, 9)
    assert jobs["one"].environment == (("A", "1.10"), ("B", "b"))
    assert jobs["two"].user == "root"
    assert jobs["two"].retry == Retry(2 * MINUTE)
    assert jobs["two"].environment == (("A", "1.10"), ("B", "2.20"), ("C", "c"))


def test_command_and_script_are_one_choice_that_a_job_makes_over_its_defaults() -> None:
    jobs = jobs_by_name(
        "defaults: {command: x, interpreter: python3}\njobs:\n  a: {script: exit 0}\n  b: {umask: 027}\n"
    )
    assert (jobs["a"].script, jobs["a"].command, jobs["a"].interpreter) == ("exit 0", (), None)
    assert (jobs["b"].script, jobs["b"].command) == (None, ("x",))


def test_a_good_job_survives_beside_a_bad_one() -> None:
    jobs, problems = parse_text("jobs:\n  good: {command: x}\n  bad: {command: x, timeout: 0s}\n", "f.yaml", CONTEXT)
    assert [job.name for job in jobs] == ["good"]
    assert [(problem.line, problem.key) for problem in problems] == [(3, "timeout")]


def test_a_mistake_in_defaults_is_told_once_and_spoils_only_its_heirs() -> None:
    text = "defaults: {timeout: 0s}\njobs:\n  a: {command: x}\n  b: {command: x}\n  c: {command: x, timeout: 1s}\n"
    jobs, problems = parse_text(text, "f.yaml", CONTEXT)
    assert [job.name for job in jobs] == ["c"]
    assert [problem.line for problem in problems] == [1]


def test_defaults_that_nobody_inherits_are_checked_too() -> None:
    text = "defaults: {schedule: 61 * * * *}\njobs:\n  a: {command: x, schedule: '@daily'}\n"
    problems = parse_text(text, "f.yaml", CONTEXT)[1]
    assert [problem.message for problem in problems] == ["minute 61 is not between 0 and 59"]


@pytest.mark.parametrize(
    "text",
    [
        "notify: {failure: mailto:a@example.org}",
        "ping: https://example.org/x",
    ],
)
def test_a_key_of_a_later_version_is_valid_and_recorded(text: str) -> None:
    assert text.partition(":")[0] in only_job(f"{COMMAND}{text}\n").unsupported


def test_a_key_that_works_is_not_recorded_as_unsupported() -> None:
    assert only_job(f"{COMMAND}overlap: queue\nretry: 5m\n").unsupported == ()


def test_a_problem_points_into_a_text() -> None:
    (problem,) = parse_text(f"schedule: 0 25 * * *\n{COMMAND}", "x.yaml", CONTEXT)[1]
    assert (problem.line, problem.column, problem.source_line) == (1, 13, "schedule: 0 25 * * *")
    (problem,) = parse_text(f'schedule: "0 25 * * *"\n{COMMAND}', "x.yaml", CONTEXT)[1]
    assert problem.column == 14


def test_lines_are_counted_as_yaml_counts_them() -> None:
    for line_break in ("\n", "\r\n", "\r"):
        text = line_break.join(["# one", "# two", "user: '%'", "command: x"])
        (problem,) = parse_text(text, "x.yaml", CONTEXT)[1]
        assert (problem.line, problem.column, problem.source_line) == (3, 7, "user: '%'")


def test_columns_count_characters_not_bytes() -> None:
    text = "{description: 'größe 🙂', command: x, user: '%'}"
    (problem,) = parse_text(text, "x.yaml", CONTEXT)[1]
    assert problem.column == text.index("'%'") + 1


def test_a_hostile_key_cannot_write_to_the_terminal() -> None:
    text = 'command: x\nenvironment: {"A\\e[31m": x}\n"\\e[2J": y\n'
    for problem in parse_text(text, "x.yaml", CONTEXT)[1]:
        assert "\x1b" not in problem.message + problem.hint + problem.key + problem.source_line


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
def test_a_huge_file_is_refused_at_once(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(COMMAND + "#" * size)
    jobs, problems = read_file(path, CONTEXT)
    assert not jobs
    assert [problem.message for problem in problems] == ["the file is larger than 1 MiB"]


@pytest.mark.parametrize(
    "unit", ["[", "{a: ", "- ", "? ", "a: &a [*a]\n", "!a ", "&a ", "'", '"\\', "|\n ", "%", "*a "]
)
def test_a_bomb_ends_in_a_problem_and_not_in_a_crash(unit: str) -> None:
    jobs, problems = parse_text(unit * 20000, "x.yaml", CONTEXT)
    assert not jobs
    assert problems


@given(st.text())
def test_no_text_can_raise(text: str) -> None:
    jobs, problems = parse_text(text, "x.yaml", CONTEXT)
    assert jobs or problems


PIECES = st.sampled_from(
    ["a", "command", "schedule", "jobs", "defaults", "environment", "systemd", "service", "retry", "when", "name", ": ",
     ":", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ", "'", '"', "\\", "\\n", "\\u", "&a ", "*a", "!x ",
     "|\n  ",
     ">\n  ", "# ", "---\n", "...\n", "5m", "@daily", "* * * * *", "/bin/true", "~", "null", "true", "0x1", "1e9", "\t",
     "%", "\u2028", "\x85", "\ufeff", "🙂", "?", "<<"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join))
def test_no_heap_of_yaml_can_raise(text: str) -> None:
    jobs, problems = parse_text(text, "x.yaml", CONTEXT)
    assert jobs or problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1


@given(st.binary(max_size=200))
def test_no_bytes_can_raise(data: bytes) -> None:
    path = Path(os.environ["HOME"]) / "x.yaml"
    path.write_bytes(data)
    jobs, problems = read_file(path, CONTEXT)
    assert jobs or problems


def test_the_pure_python_parser_of_yaml_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from sdcron import yaml_nodes

    texts = [path.read_text("utf-8") for path in EXAMPLES.glob("*.yaml")]
    texts += [path.read_text("utf-8", "ignore") for path in BAD.glob("*.yaml") if "utf" not in path.name]
    fast = [parse_text(text, "x.yaml", CONTEXT) for text in texts]
    monkeypatch.setattr(yaml_nodes, "_LOADER", yaml.SafeLoader)
    for text, (jobs, problems) in zip(texts, fast, strict=True):
        slow_jobs, slow_problems = parse_text(text, "x.yaml", CONTEXT)
        assert slow_jobs == jobs
        assert bool(slow_problems) == bool(problems)
        assert not [problem for problem in slow_problems if problem.message.startswith("not YAML")]


def test_a_valid_file_is_read_without_jsonschema() -> None:
    program = (
        "import sys; from sdcron.jobfile import *; r = parse_text('command: x', 'x.yaml', Context());"
        " assert r[0]; assert not r[1]; assert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_wrong_file_is_explained_without_a_warning() -> None:
    program = "from sdcron.jobfile import *; r = parse_text('shedule: x', 'x.yaml', Context()); assert r[1]"
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", program], check=True, timeout=60)


def test_the_schema_command_gets_the_file_validation_uses() -> None:
    assert schema_text().startswith("{\n")


def secure(path: Path) -> tuple[Problem, ...]:
    """The problems of a file that only root may have written."""
    return read_file(path, Context(root_owned_only=True))[1]


def test_a_file_that_others_may_write_is_refused_as_cron_does(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "x.yaml"
    path.write_text(COMMAND)
    path.chmod(0o644)
    assert secure(path) == ()
    path.chmod(0o664)
    (problem,) = secure(path)
    assert problem.message == "this file may be written by others (mode 0664), so others decide what runs"
    assert problem.hint == f"run: chmod go-w {path}"
    spaced = path.rename(tmp_path / "x y.yaml")
    assert f"run: chmod go-w '{spaced}'" in {problem.hint for problem in secure(spaced)}
    spaced.rename(path)
    assert read_file(path, CONTEXT)[1] == ()
    assert read_file(path, Context(root_owned_only=True))[0] == ()


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(COMMAND)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    (problem,) = secure(path)
    assert problem.path == str(tmp_path)
    assert "this directory may be written by others" in problem.message


def test_the_target_of_a_symlink_counts_and_its_directory_too(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(mode=0o755)
    bad.mkdir()
    bad.chmod(0o777)
    (bad / "x.yaml").write_text(COMMAND)
    (bad / "x.yaml").chmod(0o666)
    (good / "x.yaml").symlink_to(bad / "x.yaml")
    problems = secure(good / "x.yaml")
    assert {problem.path for problem in problems} == {str(good / "x.yaml"), str(bad.resolve())}


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_or_a_directory_of_somebody_else_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "x.yaml"
    path.write_text(COMMAND)
    path.chmod(0o644)
    wrong = path if what == "file" else tmp_path
    if os.getuid() == 0:
        os.chown(wrong, 65534, 65534)
    else:  # everything here is ours: so we are not the one who asks
        monkeypatch.setattr(os, "getuid", lambda: 0)
    owner = wrong.stat().st_uid
    (problem,) = [problem for problem in secure(path) if problem.path == str(wrong)]
    assert problem.message == f"this {what} belongs to uid {owner}, not to root, so others decide what runs"
    assert problem.hint == f"run: chown root: {wrong}"


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "compile"])
def test_every_command_that_reads_jobs_as_root_refuses_what_others_may_write(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    jobs, root = tmp_path / "jobs", tmp_path / "root"
    for directory in (jobs, root):
        directory.mkdir(mode=0o755)
    path = jobs / "x.yaml"
    path.write_text(COMMAND)
    path.chmod(0o666)
    options = ["-o", str(root)] if command == "compile" else [] if command == "validate" else ["--root", str(root)]
    assert run([command, str(jobs), *options]) == 3
    assert "this file may be written by others (mode 0666), so others decide what runs" in capsys.readouterr().err
    assert list(root.rglob("sdcron-*")) == []
    path.chmod(0o644)
    assert run([command, str(jobs), *options]) == 0
    jobs.chmod(0o777)
    assert run([command, str(jobs), *options]) == 3
    assert "this directory may be written by others (mode 0777)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("directory", "shown", "message"),
    [
        (b"a\nb", "a\ufffdb", "holds the character U+000A, which a unit file cannot express"),
        (b"a\xffb", "a\ufffdb", "is not UTF-8"),
        (b"jobs ", "jobs ", "ends with a blank, which a unit file cannot express"),
    ],
)
def test_a_directory_that_no_unit_can_name_is_a_problem_of_its_files(
    directory: bytes, shown: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / os.fsdecode(directory)
    jobs.mkdir()
    (jobs / "a.yaml").write_text(COMMAND)
    for arguments in (["validate", str(jobs)], ["compile", str(jobs), "-o", str(tmp_path / "units")]):
        assert run(arguments) == 3
        told_now = capsys.readouterr().err
        assert f"{tmp_path}/{shown}/a.yaml:1:1: the path of this directory {message}\n" in told_now
        assert f"hint: rename the directory {tmp_path}/{shown}\n" in told_now
    assert run(["validate", str(jobs), "--json"]) == 3
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize("name", [b"a\nb.yaml", b"a\xff.yaml", b"a\r.yaml"])
def test_a_file_that_no_unit_can_name_is_a_problem(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_text(f"name: a\n{COMMAND}")
    jobs, (problem,) = read_file(path, CONTEXT)
    assert not jobs
    assert problem.message.startswith("the path of this file ")
    assert str(problem).isprintable()


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nothing")
    for path in tmp_path.iterdir():
        jobs, problems = read_file(path, CONTEXT)
        assert not jobs
        assert problems[0].message.startswith("cannot be read: ")
