"""What a job file says is what the process receives: argv, environment, directory, identity, umask, secrets, script."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.machine import CHECKOUT_INSIDE
from tests.system.jobs import JOBS, yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.machine import Machine

OUT = "/tmp/arrived"
RECORDER = f"{CHECKOUT_INSIDE}/tests/recorder.py"

#: Each stands alone, and between two letters.
HOSTILE = (
    *("%", "%%", "%n", "%h", "%i/%j", "$", "$$", "$HOME", "${HOME}", "$X $Y", "$(id)", "`id`", "${", "\\$HOME"),
    *("'", '"', "''", '""', "'\"'", "\\", "\\\\", "\\n", "\\x41", "\\101", "\\;", "a\\", "\\ "),
    *("", " ", "  ", "a b", " a", "a ", "\t", "a\tb", "\ta\t", "\xa0", "\u2003"),
    *("-x", "--", "@x", ":x", "+x", "!x", "!!x", "|x", "-@:+!|", "-/bin/true", "@/bin/sh"),
    *(";", "a;b", "; id", "&", "&&", "|", "||", ">x", "<x", "<3>x", "~", "~/x", "#", "#x", "a#b", "="),
    *("*", "?", "[a-z]", "{a,b}", "{", "}", "(", ")", "/", "//", ".", "..", "/../x", ",", "[Unit]", "ExecStart=x"),
    *("é", "ß", "日本語", "😀", "e\u0301", "\u202e", "\u200b", "\ufeff", "\u2028", "\u0085", "\x80", "\U0010fffd"),
    *("\x01", "\x07", "\x08", "\x0b", "\x0c", "\x1b[31m", "\x1f", "\x7f"),
    *("on", "yes", "no", "null", "~", "0x10", "1e3", "22:30", "- a", "a: b", "{a: b}", "!!python/name:os.system"),
)
#: Characters for random texts: those with a meaning to systemd, shells or YAML, and any other.
CHARACTERS = st.one_of(
    st.sampled_from("%$\\\"'` \t;:#=-@+!|&<>~*?[]{}(),./nxé😀\x01\x1b\x7f\x85\u2028"), st.text(min_size=1, max_size=1)
)
TEXTS = st.lists(
    CHARACTERS.filter(
        lambda character: (
            character not in "\n\r\0" and not "\ufdd0" <= character <= "\ufdef" and ord(character) & 0xFFFE != 0xFFFE
        )
    ),
    max_size=24,
).map("".join)
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).map(lambda name: f"T_{name}")


@dataclass
class Arrived:
    """What the recorder saw, as texts."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    rest: dict[str, Any] = field(default_factory=dict)


def run_jobs(machine: Machine, jobs: Mapping[str, Mapping[str, Any]], *, user: str | None = None) -> dict[str, Arrived]:
    """Apply jobs that call the recorder, run each once, and return what arrived, by job name."""
    machine.run(["sh", "-c", f"rm -rf {OUT}; mkdir -m 1777 {OUT}"])
    home = "/home/tester/jobs" if user else JOBS
    text = "jobs:\n" + "".join(f"  {name}: {yaml(dict(job))}\n" for name, job in jobs.items())
    machine.write(f"{home}/arrival.yaml", text, owner=user or "root")
    scope = ["--user"] if user else []
    machine.sdcron("apply", *scope, home, user=user)
    units = [f"sdcron-{name}.service" for name in jobs]
    ended = machine.run(["systemctl", *scope, "start", *units], user=user, status=None, timeout=100)
    read = machine.run(["sh", "-c", f'cd {OUT} && for file in *; do echo "$file"; cat "$file"; done']).stdout
    lines = read.split("\n")
    arrived = {
        name: decoded(json.loads(record)) for name, record in zip(lines[::2], lines[1::2], strict=False) if name != "*"
    }
    missing = sorted(jobs.keys() - arrived.keys())
    assert not missing, f"did not run: {missing[:5]} {[jobs[name] for name in missing[:5]]}\n{ended.stderr[-2000:]}"
    return arrived


def decoded(record: dict[str, Any]) -> Arrived:
    def text(digits: str) -> str:
        return bytes.fromhex(digits).decode("utf-8", "surrogateescape")

    return Arrived(
        [text(argument) for argument in record.pop("argv")],
        {text(name): text(value) for name, value in record.pop("environment").items()},
        text(record.pop("directory")),
        record,
    )


def recording(name: str, *arguments: str) -> list[str]:
    """A command list that records under a job's name."""
    return ["/usr/bin/python3", "-IS", RECORDER, f"{OUT}/{name}", *arguments]


def assert_arrived(jobs: Mapping[str, Mapping[str, Any]], arrived: Mapping[str, Arrived]) -> None:
    for name, job in jobs.items():
        assert arrived[name].argv == job["command"][4:], name
        for variable, value in job.get("environment", {}).items():
            assert arrived[name].environment.get(variable) == value, (name, variable)
        if "directory" in job:
            assert arrived[name].directory == job["directory"], name


def test_every_hostile_string_arrives_as_an_argument_and_in_the_environment(machine: Machine) -> None:
    jobs = {}
    for number, text in enumerate(HOSTILE):
        around = f"x{text}y"
        jobs[f"h{number}"] = {
            "command": recording(f"h{number}", text, around, text),
            "environment": {"ALONE": text, "AROUND": around},
        }
    jobs["all"] = {"command": recording("all", *HOSTILE), "environment": {f"V{n}": t for n, t in enumerate(HOSTILE)}}
    assert_arrived(jobs, run_jobs(machine, jobs))


@settings(
    max_examples=4,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
@given(
    st.lists(
        st.tuples(st.lists(TEXTS, max_size=4), st.dictionaries(NAMES, TEXTS, max_size=3)), min_size=30, max_size=60
    )
)
def test_random_strings_arrive(machine: Machine, cases: list[tuple[list[str], dict[str, str]]]) -> None:
    machine.reset()
    jobs = {
        f"r{number}": {"command": recording(f"r{number}", *texts), "environment": variables}
        for number, (texts, variables) in enumerate(cases)
    }
    assert_arrived(jobs, run_jobs(machine, jobs))


def test_a_command_as_one_text_is_split_like_a_shell_would(machine: Machine) -> None:
    start = " ".join(recording("text")[:3])
    line = rf"""{start} {OUT}/text a "b c" 'd $HOME' e\ f "" 'it'"'"'s' "\"" '\' "\x" -- ; "%n" """.replace(
        " ; ", " ';' "
    )
    arrived = run_jobs(machine, {"text": {"command": line}})
    expected = ["a", "b c", "d $HOME", "e f", "", "it's", '"', "\\", "\\x", "--", ";", "%n"]
    assert arrived["text"].argv == expected


ODD_DIRECTORIES = (
    *("/srv/a b", "/srv/100%", "/srv/%n", "/srv/$HOME", "/srv/a\"b'c", "/srv/back\\slash", "/srv/-x", "/srv/~"),
    *("/srv/é 😀", "/srv/[a]*?", "/srv/a;b#c", "/srv/a\tb", "/srv/a:b=c", "/srv/!x", "/srv/a\x01b\x7f"),
)


def test_a_job_runs_in_its_directory_whatever_that_is_called(machine: Machine) -> None:
    machine.run(["mkdir", "-p", "--", *ODD_DIRECTORIES])
    jobs = {f"d{n}": {"command": recording(f"d{n}"), "directory": path} for n, path in enumerate(ODD_DIRECTORIES)}
    assert_arrived(jobs, run_jobs(machine, jobs))


def test_a_job_runs_as_its_user_and_group_with_its_umask(machine: Machine) -> None:
    machine.run(["sh", "-c", "getent group arrivals || groupadd arrivals; usermod -aG arrivals tester"])
    groups = {
        line.split(":")[0]: int(line.split(":")[2]) for line in machine.run(["getent", "group"]).stdout.splitlines()
    }
    uid, gid, _ = machine._account("tester")
    jobs: dict[str, dict[str, Any]] = {
        "plain": {},
        "user": {"user": "tester"},
        "number": {"user": uid, "group": groups["adm"]},
        "group": {"group": "adm"},
        "both": {"user": "tester", "group": "adm", "umask": "027"},
        "umask": {"umask": "0077"},
    }
    for name, job in jobs.items():
        job["command"] = recording(name)
    arrived = run_jobs(machine, jobs)
    seen = {name: (it.rest["user"], it.rest["group"], it.rest["umask"]) for name, it in arrived.items()}
    assert seen == {
        "plain": (0, 0, "0022"),
        "user": (uid, gid, "0022"),
        "number": (uid, groups["adm"], "0022"),
        "group": (0, groups["adm"], "0022"),
        "both": (uid, groups["adm"], "0027"),
        "umask": (0, 0, "0077"),
    }
    assert groups["arrivals"] in arrived["user"].rest["groups"]
    assert arrived["user"].environment["HOME"] == "/home/tester"
    assert arrived["user"].environment["USER"] == "tester"


def test_environment_files_are_read_when_the_job_runs(machine: Machine) -> None:
    path = "/etc/100% [odd]*\\file"
    jobs = {
        "file": {
            "command": recording("file"),
            "environment": {"FIRST": "job", "KEPT": "job"},
            "environment_file": [path, "-/etc/no-such-file"],
        }
    }
    machine.write(path, "FIRST=file\nSECOND='a b'\n")
    first = run_jobs(machine, jobs)["file"].environment
    assert (first["FIRST"], first["SECOND"], first["KEPT"]) == ("file", "a b", "job")
    machine.write(path, "SECOND=later\n")
    machine.run(["systemctl", "start", "sdcron-file.service"])
    assert decoded(json.loads(machine.read(f"{OUT}/file"))).environment["SECOND"] == "later"
    machine.run(["rm", path])
    machine.run(["systemctl", "start", "sdcron-file.service"], status=1)


def test_secrets_arrive_as_files_and_stand_in_no_unit(machine: Machine) -> None:
    secret = "s3cr3t %n $HOME\n\n"
    odd = "/etc/secrets/100%$odd:'é😀\"*[a]"
    machine.write_files({"/etc/secrets/plain": secret, odd: "other"}, mode=0o600)
    copy = f'cp "$CREDENTIALS_DIRECTORY"/* {OUT}/; id -u >{OUT}/uid; env >{OUT}/environment'
    machine.run(["sh", "-c", f"rm -rf {OUT}; mkdir -m 1777 {OUT}"])
    job = {
        "command": ["/bin/sh", "-c", copy],
        "user": "tester",
        "credentials": {"db-password": "/etc/secrets/plain", "odd.name": odd},
    }
    machine.write(f"{JOBS}/secret.yaml", yaml(job))
    machine.sdcron("apply", JOBS)
    machine.run(["systemctl", "start", "sdcron-secret.service"])
    assert machine.read(f"{OUT}/db-password") == secret
    assert machine.read(f"{OUT}/odd.name") == "other"
    assert machine.read(f"{OUT}/uid") != "0\n"
    assert "s3cr3t" not in machine.read(f"{OUT}/environment")
    assert "s3cr3t" not in machine.run(["systemctl", "show", "sdcron-secret.service"]).stdout
    assert "s3cr3t" not in json.dumps(machine.journal("--boot"))
    assert machine.run(["grep", "-r", "s3cr3t", "/etc/systemd", "/var/lib/sdcron"], status=1).stdout == ""


def test_an_interpreter_runs_the_command(machine: Machine) -> None:
    machine.run(["sh", "-c", "rm -rf /srv/venv; python3 -m venv --without-pip --symlinks '/srv/venv'"])
    recorder = RECORDER
    jobs: dict[str, dict[str, Any]] = {
        "program": {"interpreter": "/usr/bin/python3", "command": [recorder, f"{OUT}/program", "$a b%n"]},
        "venv": {"interpreter": {"venv": "/srv/venv"}, "command": ["python", recorder, f"{OUT}/venv", "x"]},
        "path": {
            "interpreter": {"venv": "/srv/venv"},
            "environment": {"PATH": "/opt/bin:/usr/bin"},
            "command": ["python", recorder, f"{OUT}/path"],
        },
    }
    arrived = run_jobs(machine, jobs)
    assert arrived["program"].argv == ["$a b%n"]
    assert arrived["venv"].argv == ["x"]
    assert arrived["venv"].environment["PATH"].split(":")[0] == "/srv/venv/bin"
    assert "/usr/bin" in arrived["venv"].environment["PATH"].split(":")
    assert arrived["venv"].environment["VIRTUAL_ENV"] == "/srv/venv"
    assert arrived["venv"].rest["program"] == "/srv/venv/bin/python"
    assert arrived["path"].environment["PATH"] == "/srv/venv/bin:/opt/bin:/usr/bin"
    assert "VIRTUAL_ENV" not in arrived["program"].environment


SCRIPT_BODY = """
echo "$0 $# 100% %n \\$HOME 'é 😀'" >"$OUT"
"""


def test_a_script_runs_by_its_first_line_or_by_the_shell(machine: Machine) -> None:
    machine.run(["sh", "-c", f"rm -rf {OUT}; mkdir -m 1777 {OUT}"])
    jobs = {
        "bare": {"script": SCRIPT_BODY},
        "shell": {"script": f"#!/bin/sh -eu\n{SCRIPT_BODY}"},
        "blanks": {"script": f"#!  /bin/sh \t\n{SCRIPT_BODY}"},
        "arguments": {
            "script": "#!/usr/bin/env -S python3 -I -u\nimport os, sys\n"
            "open(os.environ['OUT'], 'w').write(repr(sys.flags.isolated))\n"
        },
        "python": {"script": "#!/usr/bin/python3\nimport os\nprint('é 😀 %n', file=open(os.environ['OUT'], 'w'))"},
        "user": {"script": SCRIPT_BODY, "user": "tester"},
    }
    for name, job in jobs.items():
        job["environment"] = {"OUT": f"{OUT}/{name}"}  # type: ignore[assignment]  # of a job, any value
    machine.write(f"{JOBS}/scripts.yaml", "jobs:\n" + "".join(f"  {name}: {yaml(job)}\n" for name, job in jobs.items()))
    machine.run(["sh", "-c", f"umask 077; python3 -m sdcron apply {JOBS}"])
    machine.run(["systemctl", "start", *(f"sdcron-{name}.service" for name in jobs)])
    said = "0 100% %n $HOME 'é 😀'\n"
    for name in ("bare", "shell", "blanks", "user"):
        assert machine.read(f"{OUT}/{name}") == f"/var/lib/sdcron/scripts/{name} {said}"
    assert machine.read(f"{OUT}/arguments") == "1"
    assert machine.read(f"{OUT}/python") == "é 😀 %n\n"


@pytest.mark.timeout(200)
def test_a_users_own_jobs_receive_the_same(fresh_machine: Machine) -> None:
    fresh_machine.start_user_manager()
    fresh_machine.run(["mkdir", "-p", "/srv/a b%n"])
    jobs: dict[str, dict[str, Any]] = {
        "texts": {"command": recording("texts", *HOSTILE), "environment": {"HOSTILE": "%n $HOME \\ '\" é😀"}},
        "directory": {"command": recording("directory"), "directory": "/srv/a b%n", "umask": "077"},
        "plain": {"command": recording("plain")},
    }
    arrived = run_jobs(fresh_machine, jobs, user="tester")
    assert_arrived(jobs, arrived)
    assert arrived["directory"].rest["umask"] == "0077"
    assert arrived["plain"].directory == "/home/tester"
    assert arrived["plain"].rest["user"] == fresh_machine._account("tester")[0]


REFUSED: Sequence[tuple[str, dict[str, Any]]] = (
    ("command", {"command": ["/bin/echo", "a{}b"]}),
    ("environment", {"environment": {"X": "a{}b"}}),
    ("directory", {"directory": "/srv/a{}b"}),
    ("user", {"user": "a{}b"}),
    ("environment_file", {"environment_file": "/etc/a{}b"}),
    ("credentials", {"credentials": {"x": "/etc/a{}b"}}),
    ("blank", {"credentials": {"x": "/etc/a b"}}),
    ("backslash", {"credentials": {"x": "/etc/a\\b"}}),
    ("interpreter", {"interpreter": "/bin/a{}b"}),
    ("venv", {"interpreter": {"venv": "/srv/a{}b"}}),
    ("mounts", {"when": {"mounts": ["/a{}b"]}}),
    ("path", {"when": {"path_exists": ["/a{}b"]}}),
    ("condition", {"when": {"command": ["/bin/echo", "a{}b"]}}),
    ("service", {"systemd": {"service": {"ReadWritePaths": "/a{}b"}}}),
    ("schedule", {"schedule": "@daily{}"}),
)


def test_what_no_unit_can_carry_is_refused_and_nothing_changes(machine: Machine) -> None:
    files = {}
    for key, value in REFUSED:
        for number, character in enumerate("\n\r\0\ufffe"):
            job = json.loads(json.dumps({"command": ["/bin/true"], **value}).replace("{}", json.dumps(character)[1:-1]))
            files[f"{JOBS}/{key}-{number}.yaml"] = yaml(job)
    machine.write_files(files)
    ended = machine.sdcron("apply", JOBS, status=3)
    for path in files:
        assert f"{path}:1:" in ended.stderr, path
    assert machine.run(["find", "/etc/systemd/system", "-name", "sdcron-*"]).stdout == ""
