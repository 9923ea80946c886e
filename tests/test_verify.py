"""What systemd's verifier says of passed-through directives is told at the directive in the job file."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from sdcron.jobfile import Context, read_file
from sdcron.paths import Scope
from sdcron.units import compile_job
from sdcron.verify import verify_units

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sdcron.errors import Problem

CONTEXT = Context(local_timezone="UTC", machine_id="0" * 32)


def verified(path: Path, text: str) -> tuple[Problem, ...]:
    path.write_text(text)
    jobs, problems = read_file(path, CONTEXT)
    assert problems == ()
    compiled = [compile_job(job, directory=str(path.parent), scope=Scope.SYSTEM, script_dir="/") for job in jobs]
    return verify_units({job.name: job for job in jobs}, compiled, user=False)


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


def test_a_retry_does_not_keep_the_verifier_from_looking(tmp_path: Path) -> None:
    text = 'command: "true"\nschedule: ["@reboot", "@daily"]\nretry: 1m\nsystemd: {service: {PrivateTmpp: x}}\n'
    (problem,) = verified(tmp_path / "x.yaml", text)
    assert problem.key == "systemd.service.PrivateTmpp"
