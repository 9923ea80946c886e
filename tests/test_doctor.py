"""What doctor says, below a --root and with a service manager in memory."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sdcron import operations
from sdcron.cli import run
from sdcron.doctor import Finding, examine
from sdcron.operations import make_place
from tests.fake_backend import FakeBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.operations import Place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with one job applied and a persistent journal."""
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    (jobs / "backup.yaml").write_text("schedule: '@daily'\ncommand: /usr/bin/true\n")
    (jobs / "backup.yaml").chmod(0o644)
    root = tmp_path / "root"
    (root / "var/log/journal").mkdir(parents=True)
    assert run(["apply", str(jobs), "--root", str(root)]) == 0
    return root


def found(root: Path, level: str) -> list[Finding]:
    """The findings of one level below a root."""
    return [finding for finding in examine(make_place(user=False, root=root, backend="auto")) if finding.level == level]


def test_a_machine_in_order_has_no_warnings(root: Path) -> None:
    assert found(root, "warning") == []
    assert found(root, "error") == []
    assert Finding("ok", "1 job applied, all as the job files say") in found(root, "ok")


def test_a_journal_in_memory_is_told_with_what_to_do(root: Path) -> None:
    (root / "var/log/journal").rmdir()
    [finding] = found(root, "warning")
    assert "journal is lost at every reboot" in finding.what
    assert "mkdir /var/log/journal" in finding.advice


def test_a_unit_directory_that_others_may_write_to_is_an_error(root: Path) -> None:
    (root / "etc/systemd/system").chmod(0o777)
    [finding] = found(root, "error")
    assert "others than root may write" in finding.what
    assert "chmod go-w" in finding.advice


def test_a_changed_job_file_is_drift(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/backup.yaml").write_text("schedule: '@weekly'\ncommand: /usr/bin/true\n")
    [finding] = found(root, "warning")
    assert finding.what == f"backup is not as {tmp_path}/jobs says (to change)"


def test_a_unit_edited_by_hand_is_told_apart_from_a_changed_job_file(root: Path) -> None:
    unit = root / "etc/systemd/system/sdcron-backup.timer"
    unit.write_text(unit.read_text().replace("00:00:00", "04:00:00"))
    warnings = found(root, "warning")
    assert "sdcron-backup.timer was edited by hand" in warnings[0].what
    assert "systemctl edit" in warnings[0].advice


def test_a_job_directory_that_is_gone_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").rename(tmp_path / "elsewhere")
    [finding] = found(root, "warning")
    assert "which is gone" in finding.what


def test_a_bad_job_file_is_a_warning_and_not_the_end(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/bad.yaml").write_text("comand: x\n")
    [finding] = found(root, "warning")
    assert finding.advice == f"sdcron validate {tmp_path}/jobs"


def test_an_apply_that_was_cut_off_is_an_error(root: Path) -> None:
    (root / "var/lib/sdcron/apply.journal").write_text("{}")
    [finding] = found(root, "error")
    assert "cut off" in finding.what


def test_findings_have_a_documented_json_shape(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["doctor", "--root", str(root), "--json"]) == 0
    for finding in json.loads(capsys.readouterr().out):
        assert set(finding) == {"level", "what", "advice"}


def test_an_old_systemd_and_a_clock_that_nobody_sets_are_told(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    place = make_place(user=False, root=root, backend="auto")

    class Old(FakeBackend):
        def version(self) -> str:
            return "249.11-0ubuntu3"

        def clock_synchronised(self) -> bool | None:
            return False

    @contextmanager
    def connect(_: Place) -> Iterator[FakeBackend]:
        yield Old(place.paths)

    monkeypatch.setattr(operations, "connect", connect)
    findings = examine(place)
    assert any(finding.level == "error" and "older than 252" in finding.what for finding in findings)
    assert any(finding.level == "warning" and "clock is not synchronised" in finding.what for finding in findings)
