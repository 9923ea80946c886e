"""What the local engine refuses to do, with which powers, and where in the file it says so."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from sdcron import engine_support
from sdcron.engine_support import Powers, powers_here, refusals
from sdcron.job import Job, Limits, Priority, When
from sdcron.jobfile import Context, read_file
from sdcron.jobset import check_supported

ROOT = Path(__file__).parent.parent
ALL = Powers(
    any_user=True,
    users=frozenset({"0", "root"}),
    groups=frozenset({"0", "root"}),
    nice=-20,
    open_files=1 << 20,
    ionice=True,
    realtime=True,
)
FEW = Powers(
    any_user=False,
    users=frozenset({"1000", "alice"}),
    groups=frozenset({"1000", "alice"}),
    nice=0,
    open_files=4096,
    ionice=True,
    realtime=False,
)

#: What every key of a job is on a local engine, in YAML, by who may have it: everybody, only an engine of many powers,
#: or nobody. A part of a key is `key.part`.
EVERYBODY = {
    "name": "a",
    "description": "x",
    "command": "x",
    "script": "echo",
    "schedule": "'@daily'",
    "timezone": "UTC",
    "directory": "/srv",
    "umask": "027",
    "environment": "{A: b}",
    "hosts": "'*'",
    "resumable": "true",
    "environment_file": "/etc/x",
    "credentials": "{a: /etc/a}",
    "interpreter": "python3",
    "timeout": "1h",
    "stop_timeout": "1s",
    "kill_signal": "SIGINT",
    "missed": "skip",
    "overlap": "queue",
    "max_parallel": "2\noverlap: allow",
    "retry": "5m",
    "lock": "[a, b]",
    "lock_wait": "1m\nlock: a",
    "when.network": "true",
    "when.mounts": "/m",
    "when.path_exists": "/a",
    "when.path_missing": "/b",
    "when.ac_power": "true",
    "when.command": "x",
    "when.otherwise": "wait",
    "spread": "1h",
    "accuracy": "1m",
    "success_exit": "3",
    "priority.nice": "19",
    "priority.io": "idle",
    "limits.memory": "1G",
    "limits.open_files": "4096",
    "output": "{keep: 1K, redact: x}",
    "enabled": "false",
    "parameters": "{region: eu}",
}
POWERFUL = {
    "user": "backup",
    "group": "adm",
    "priority.nice": "-1",
    "priority.io": "realtime:3",
    "limits.open_files": "4097",
}
NOBODY = {
    "credentials": "{a: {encrypted: /etc/a}}",
    "when.units": "a.service",
    "when.wake": "true",
    "priority.cpu_weight": "10",
    "limits.cpu": "50%",
    "limits.tasks": "5",
    "sandbox": "standard",
    "systemd": "{service: {PrivateTmp: true}}",
}
ELSEWHERE = {"source", "after", "needs", "unsupported"}
"""What is no key, and what check_supported speaks of."""


def job_file(directory: Path, text: str, name: str = "a") -> list[Job]:
    """The jobs of a file."""
    path = directory / f"{name}.yaml"
    path.write_text(text)
    jobs, problems = read_file(path, Context())
    assert not problems
    return list(jobs)


def with_key(directory: Path, key: str, value: str) -> list[Job]:
    """A job with one more key."""
    outer, _, inner = key.partition(".")
    what = f"{outer}: {{{inner.replace('otherwise', 'else')}: {value}}}" if inner else f"{outer}: {value}"
    return job_file(directory, f"{'' if outer in ('command', 'script') else 'command: x'}\n{what}\n")


@pytest.mark.parametrize("key", EVERYBODY)
@pytest.mark.parametrize("user_scope", [False, True])
def test_what_every_engine_can_do_is_not_refused(key: str, user_scope: bool, tmp_path: Path) -> None:
    jobs = with_key(tmp_path, key, EVERYBODY[key])
    for powers in (ALL, FEW):
        assert refusals(jobs, powers, user_scope=user_scope) == ()


@pytest.mark.parametrize("key", POWERFUL)
def test_what_takes_root_is_refused_to_an_engine_that_is_less(key: str, tmp_path: Path) -> None:
    jobs = with_key(tmp_path, key, POWERFUL[key])
    assert refusals(jobs, ALL, user_scope=False) == ()
    (problem,) = refusals(jobs, FEW, user_scope=False)
    assert problem.key == key


@pytest.mark.parametrize("key", NOBODY)
def test_what_no_engine_can_do_is_refused_to_all(key: str, tmp_path: Path) -> None:
    jobs = with_key(tmp_path, key, NOBODY[key])
    for powers in (ALL, FEW):
        (problem,) = refusals(jobs, powers, user_scope=False)
        assert problem.key == key
        assert "--backend systemd" in problem.hint


def test_every_key_of_a_job_is_decided() -> None:
    parts: dict[str, type[Any]] = {"when": When, "priority": Priority, "limits": Limits}
    decided = EVERYBODY.keys() | POWERFUL.keys() | NOBODY.keys()
    wanted = {field.name for field in fields(Job)} - parts.keys() - ELSEWHERE
    wanted |= {f"{part}.{field.name}" for part, kind in parts.items() for field in fields(kind)}
    assert decided == wanted


@pytest.mark.parametrize(
    ("text", "powers", "message", "hint"),
    [
        (
            "user: backup",
            FEW,
            "'user: backup' needs root: this engine may not run jobs as another user",
            "run the engine as root, or as that user; or remove 'user'",
        ),
        (
            "group: 4",
            FEW,
            "'group: 4' needs root: this engine may not run jobs as another group",
            "run the engine as root, or as that group; or remove 'group'",
        ),
        (
            "priority: {nice: -5}",
            replace(FEW, nice=-3),
            "'priority.nice: -5' needs root: this engine may not go below -3",
            "write -3 or more, or run the engine as root",
        ),
        (
            "priority: {io: realtime}",
            FEW,
            "'priority.io: realtime' needs root: this engine may not give realtime",
            "write best-effort:0, or run the engine as root",
        ),
        (
            "priority: {io: idle}",
            replace(ALL, ionice=False, realtime=False),
            "'priority.io' needs the program ionice, which is not installed",
            "install it (util-linux), or remove 'priority.io'",
        ),
        (
            "limits: {open_files: 5000}",
            FEW,
            "'limits.open_files' is 5000, but the engine may allow at most 4096 here",
            "write 4096 or less, or start the engine with a higher hard limit (RLIMIT_NOFILE)",
        ),
        (
            "limits: {cpu: 50%}",
            ALL,
            "'limits.cpu' needs control groups, and the local engine runs jobs without",
            "apply it with --backend systemd, or remove 'limits.cpu'",
        ),
        (
            "sandbox: strict",
            ALL,
            "'sandbox: strict' needs systemd: the local engine has no sandbox",
            "apply it with --backend systemd, or remove 'sandbox'",
        ),
        (
            "credentials: {plain: /a, secret: {encrypted: /b}}",
            ALL,
            "the credential 'secret' is encrypted, and only systemd can decrypt it",
            "apply it with --backend systemd, or give the path of a plain file",
        ),
        (
            "when: {units: [a.service, b.service]}",
            ALL,
            "'when.units' needs systemd: the local engine knows no units",
            "ask with 'when.command' or 'when.path_exists' instead, or apply it with --backend systemd",
        ),
        (
            "when: {wake: true}",
            ALL,
            "'when.wake' needs systemd: the local engine wakes no machine",
            "apply it with --backend systemd, or remove 'when.wake'",
        ),
        (
            "systemd: {unit: {Documentation: 'https://example.org'}}",
            ALL,
            "'systemd' holds directives for units, and the local engine has no units",
            "apply it with --backend systemd, or remove 'systemd'",
        ),
    ],
)
def test_a_refusal_says_why_and_what_to_do_instead(
    text: str, powers: Powers, message: str, hint: str, tmp_path: Path
) -> None:
    (problem,) = refusals(job_file(tmp_path, f"command: x\n{text}\n"), powers, user_scope=False)
    assert (problem.message, problem.hint) == (message, hint)
    assert (problem.path, problem.line, problem.column) == (str(tmp_path / "a.yaml"), 2, 1)
    assert problem.source_line == text


@pytest.mark.parametrize("name", ["alice", "1000"])
def test_an_engine_may_run_jobs_as_itself(name: str, tmp_path: Path) -> None:
    jobs = job_file(tmp_path, f"command: x\nuser: {name}\ngroup: {name}\n")
    assert refusals(jobs, FEW, user_scope=False) == ()


def test_everything_is_refused_at_once_each_at_its_place(tmp_path: Path) -> None:
    text = (
        "defaults:\n  sandbox: strict\n  user: backup\njobs:\n  one:\n    command: x\n    limits: {cpu: 5%, tasks: 3}\n"
        "  two:\n    command: x\n    when:\n      wake: true\n      units: a.service\n    sandbox: none\n"
    )
    problems = refusals(job_file(tmp_path, text), FEW, user_scope=False)
    assert [(problem.line, problem.column, problem.key) for problem in problems] == [
        (3, 3, "user"),
        (7, 5, "limits.cpu"),
        (7, 5, "limits.tasks"),
        (2, 3, "sandbox"),
        (10, 5, "when.units"),
        (10, 5, "when.wake"),
    ]


def test_what_is_wrong_in_a_file_that_is_gone_is_told_where_its_job_was(tmp_path: Path) -> None:
    jobs = job_file(tmp_path, "# here\ncommand: x\nsandbox: strict\n")
    (tmp_path / "a.yaml").unlink()
    (problem,) = refusals(jobs, ALL, user_scope=False)
    assert (problem.line, problem.column, problem.source_line) == (2, 1, "")


def test_nothing_is_said_twice_of_a_users_job(tmp_path: Path) -> None:
    text = "command: x\nuser: alice\ngroup: a\nwhen: {wake: true, units: a.service}\nping: http://x\nsandbox: strict\n"
    jobs = job_file(tmp_path, text)
    ours = refusals(jobs, FEW, user_scope=True)
    theirs = check_supported(jobs, user=True)
    assert [problem.key for problem in ours] == ["sandbox", "when.units"]
    assert sorted(problem.key for problem in theirs) == ["group", "ping", "user", "when"]


def test_an_example_with_what_only_systemd_has_is_refused_for_that_alone() -> None:
    told = {}
    for path in sorted((ROOT / "packaging/examples/jobs").glob("*.yaml")):
        jobs, problems = read_file(path, Context())
        assert jobs and not problems
        found = {problem.key for problem in refusals(jobs, ALL, user_scope=False)}
        told.update({path.stem: found} if found else {})
    assert told == {
        "api-export": {"systemd"},
        "log-pruning": {"sandbox"},
        "web-cache-warmup": {"limits.cpu", "limits.tasks", "sandbox"},
    }


def test_the_powers_here_are_those_of_this_process() -> None:
    before = (os.getresuid(), os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    powers = powers_here()
    assert str(os.geteuid()) in powers.users
    assert str(os.getegid()) in powers.groups
    assert -20 <= powers.nice <= os.getpriority(os.PRIO_PROCESS, 0)
    assert powers.open_files >= limits[1]
    assert not (powers.realtime and not powers.ionice)
    if os.geteuid() != 0:
        assert not powers.any_user
    assert (os.getresuid(), os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0)) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def powers_after(*before: str) -> str:
    """What powers_here() finds in a process that does these things to itself first."""
    script = "\n".join(
        ["import os, resource", "from sdcron.engine_support import powers_here", "powers_here()", *before]
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}\nprint(powers_here())"],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return ended.stdout


def test_an_engine_that_gives_up_root_has_lost_its_powers() -> None:
    if os.geteuid() == 0:
        left = ["os.setgroups([])", "os.setresgid(65534, 65534, 65534)", "os.setresuid(65534, 65534, 65534)"]
    else:
        left = []
    found = powers_after("os.nice(3)", "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))", *left)
    assert "any_user=False" in found
    assert "open_files=99" in found
    assert "realtime=False" in found
    limited_to = 20 - max(resource.getrlimit(resource.RLIMIT_NICE)[0], 0)
    assert f"nice={min(os.getpriority(os.PRIO_PROCESS, 0) + 3, limited_to)}," in found


def test_an_engine_that_may_be_less_nice_by_its_limits_may_give_that(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resource.getrlimit
    monkeypatch.setattr(engine_support, "_can", lambda _: False)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (25, 25) if which == resource.RLIMIT_NICE else real(which))
    assert powers_here().nice == -5
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1, 1) if which == resource.RLIMIT_NICE else real(which))
    assert powers_here().nice == min(os.getpriority(os.PRIO_PROCESS, 0), 19)


def test_without_ionice_no_class_can_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    powers = powers_here()
    assert (powers.ionice, powers.realtime) == (False, False)
    (tmp_path / "ionice").write_text('#!/bin/sh\n[ "$2" != 1 ]\n')
    (tmp_path / "ionice").chmod(0o755)
    powers = powers_here()
    assert (powers.ionice, powers.realtime) == (True, False)


def test_ids_without_names_are_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 123_456_789)
    monkeypatch.setattr(os, "getegid", lambda: 123_456_789)
    powers = powers_here()
    assert (powers.users, powers.groups) == (frozenset({"123456789"}), frozenset({"123456789"}))
