"""What systemd's verifier says of passed-through directives is told at the directive in the job file."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from sdcron import verify
from sdcron.cli import run
from sdcron.errors import SdcronError
from sdcron.jobfile import Context, read_file
from sdcron.paths import Scope
from sdcron.units import compile_job
from sdcron.verify import verify_units

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdcron.errors import Problem

CONTEXT = Context(local_timezone="UTC", machine_id="0" * 32)


def verified(path: Path, text: str, note: Callable[[str], object] = lambda _: None) -> tuple[Problem, ...]:
    path.write_text(text)
    jobs, problems = read_file(path, CONTEXT)
    assert problems == ()
    compiled = [compile_job(job, directory=str(path.parent), scope=Scope.SYSTEM, state_dir="/") for job in jobs]
    return verify_units({job.name: job for job in jobs}, compiled, user=False, note=note)


def test_an_unknown_directive_is_told_at_its_place_in_the_job_file(tmp_path: Path) -> None:
    (problem,) = verified(tmp_path / "x.yaml", 'command: "true"\nsystemd:\n  service:\n    PrivateTmpp: x\n')
    # The rest of the message is the verifier's own.
    assert str(problem).startswith(f"{tmp_path}/x.yaml:4:18: systemd.service.PrivateTmpp: Unknown key")
    assert problem.source_line == "    PrivateTmpp: x"
    assert "systemd.exec(5)" in problem.hint


def test_each_wrong_value_of_a_list_is_told_at_its_own_place(tmp_path: Path) -> None:
    found = verified(
        tmp_path / "x.yaml",
        'schedule: "@daily"\ncommand: "true"\nsystemd:\n'
        "  service: {ReadWritePaths: [/a, b, /c, d]}\n  timer: {OnClockChange: perhaps}\n",
    )
    assert [(problem.line, problem.column, problem.key) for problem in found] == [
        (4, 34, "systemd.service.ReadWritePaths"),
        (4, 41, "systemd.service.ReadWritePaths"),
        (5, 26, "systemd.timer.OnClockChange"),
    ]
    assert found[2].hint == "see systemd.timer(5)"


def test_right_directives_and_programs_that_are_not_there_yet_are_no_mistakes(tmp_path: Path) -> None:
    text = "command: /usr/bin/env /not/here\nsystemd: {unit: {Documentation: man:x(1)}, service: {PrivateTmp: yes}}\n"
    assert verified(tmp_path / "x.yaml", text) == ()


def test_several_jobs_of_one_file_are_told_apart(tmp_path: Path) -> None:
    found = verified(
        tmp_path / "x.yaml",
        "jobs:\n"
        "  good: {command: /bin/true, systemd: {service: {PrivateTmp: yes}}}\n"
        "  bad: {command: /bin/true, systemd: {service: {PrivateTmp: perhaps}}}\n",
    )
    assert [(problem.line, problem.key) for problem in found] == [(3, "systemd.service.PrivateTmp")]


def test_without_the_verifier_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    assert verified(tmp_path / "x.yaml", "command: /bin/true\nsystemd: {service: {Nonsense: 1}}\n") == ()


def test_that_the_verifier_is_missing_is_noted_once_and_only_if_there_is_something_to_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    for name in ("a", "b"):
        (jobs / f"{name}.yaml").write_text("command: /bin/true\nsystemd: {service: {Nonsense: 1}}\n")
        (jobs / f"{name}.yaml").chmod(0o644)
    program = tmp_path / "root/usr/bin/sdcron"
    program.parent.mkdir(parents=True)
    program.touch()
    said = "sdcron: systemd-analyze is not installed, so the directives under 'systemd:' are not checked\n"
    for arguments in (
        ["validate", str(jobs)],
        ["compile", str(jobs), "-o", str(tmp_path / "units")],
        ["plan", str(jobs), "--root", str(tmp_path / "root")],
        ["apply", str(jobs), "--root", str(tmp_path / "root"), "--json"],
    ):
        assert run(arguments) == 0
        assert capsys.readouterr().err == said
    for name in ("a", "b"):
        (jobs / f"{name}.yaml").write_text("command: /bin/true\n")
    assert run(["validate", str(jobs)]) == 0
    assert capsys.readouterr().err == ""


def stand_in(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell script be called in place of systemd-analyze."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _program: str(path))


def test_a_verifier_that_cannot_begin_to_look_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "analyze", "echo 'Failed to create directory /run/x: Read-only' >&2; exit 1", monkeypatch)
    noted: list[str] = []
    assert verified(tmp_path / "x.yaml", "command: x\nsystemd: {unit: {A: b}}\n", noted.append) == ()
    [line] = noted
    assert line.startswith("sdcron: the directives under 'systemd:' are not checked: ")
    assert line.endswith("analyze: Failed to create directory /run/x: Read-only")


def test_where_no_manager_of_the_machine_may_be_made_up_that_of_a_user_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "analyze", f'echo "$1 $XDG_RUNTIME_DIR" >>{tmp_path}/calls', monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for runtime in (tmp_path / "nothing", tmp_path):
        monkeypatch.setattr(verify, "_RUNTIME", runtime)
        verified(tmp_path / "x.yaml", "command: x\nsystemd: {unit: {A: b}}\n")
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("--user /")
    assert "sdcron-verify-" in first
    assert second.startswith("--system")


def test_very_many_units_are_verified_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = f'echo $# >> {tmp_path}/calls; echo "$4:3: Unknown key, ignoring." >&2'
    stand_in(tmp_path / "analyze", report, monkeypatch)
    jobs = "".join(f"  j{number:03}: {{command: x, systemd: {{unit: {{A: b}}}}}}\n" for number in range(450))
    found = verified(tmp_path / "x.yaml", f"jobs:\n{jobs}")
    assert (tmp_path / "calls").read_text().split() == ["203", "203", "53"]
    # The first unit of each call.
    assert [problem.line for problem in found] == [2, 202, 402]


def test_a_verifier_that_does_not_end_or_cannot_be_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "command: /bin/true\nsystemd: {service: {PrivateTmp: yes}}\n"
    monkeypatch.setattr(verify, "_TIMEOUT_SECONDS", 0.2)
    stand_in(tmp_path / "analyze", "exec sleep 30", monkeypatch)
    with pytest.raises(SdcronError, match=r"analyze verify did not end within 0\.2 s"):
        verified(tmp_path / "x.yaml", text)
    (tmp_path / "analyze").chmod(0o644)
    with pytest.raises(SdcronError, match="analyze cannot be run: Permission denied"):
        verified(tmp_path / "x.yaml", text)


def test_a_retry_does_not_keep_the_verifier_from_looking(tmp_path: Path) -> None:
    text = 'command: "true"\nschedule: ["@reboot", "@daily"]\nretry: 1m\nsystemd: {service: {PrivateTmpp: x}}\n'
    (problem,) = verified(tmp_path / "x.yaml", text)
    assert problem.key == "systemd.service.PrivateTmpp"
