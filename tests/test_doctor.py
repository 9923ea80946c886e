"""What doctor says, below a --root and with a service manager in memory."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sdcron import operations
from sdcron.cli import run
from sdcron.doctor import examine
from sdcron.findings import Finding
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


@pytest.mark.parametrize("name", ["etc/systemd/system/sdcron-backup.timer", "var/lib/sdcron/scripts/hello"])
def test_a_unit_or_script_that_others_may_write_is_an_error(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "jobs/hello.yaml").write_text("script: echo hello\n")
    (tmp_path / "jobs/hello.yaml").chmod(0o644)
    assert run(["apply", str(tmp_path / "jobs"), "--root", str(root)]) == 0
    assert found(root, "error") == []
    (root / name).chmod(0o666)
    [finding] = found(root, "error")
    assert finding.what == f"others than root may write {root}/{name}, and so run anything as root"
    assert finding.advice == f"chmod go-w {root}/{name}"
    assert not any("permissions" in finding.what for finding in found(root, "ok"))


def test_a_unit_of_another_owner_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = root / "etc/systemd/system/sdcron-backup.timer"
    if os.getuid() == 0:
        os.chown(unit, 12345, 12345)
    else:
        # Only root gives files away: the others are somebody else's as soon as we are another.
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert f"chown 0 {unit}" in {finding.advice for finding in found(root, "error")}


def test_a_changed_job_file_is_drift(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/backup.yaml").write_text("schedule: '@weekly'\ncommand: /usr/bin/true\n")
    [finding] = found(root, "warning")
    assert finding.what == f"backup is not as {tmp_path}/jobs/backup.yaml says (to change)"
    assert finding.advice == f"sdcron plan {tmp_path}/jobs/backup.yaml, then sdcron apply {tmp_path}/jobs/backup.yaml"


def test_files_beside_one_that_was_applied_alone_are_no_drift(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/other.yaml").write_text("command: /usr/bin/true\n")
    (tmp_path / "jobs/bad.yaml").write_text("comand: x\n")
    assert found(root, "warning") == []


def test_a_job_file_that_is_gone_is_told_with_what_to_do(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/backup.yaml").unlink()
    [finding] = found(root, "warning")
    assert finding.what == f"backup is applied from {tmp_path}/jobs/backup.yaml, which is gone"
    assert "sdcron remove backup" in finding.advice


def test_a_unit_edited_by_hand_is_told_apart_from_a_changed_job_file(root: Path) -> None:
    unit = root / "etc/systemd/system/sdcron-backup.timer"
    unit.write_text(unit.read_text().replace("00:00:00", "04:00:00"))
    warnings = found(root, "warning")
    assert "sdcron-backup.timer was edited by hand" in warnings[0].what
    assert "systemctl edit" in warnings[0].advice


def test_a_unit_with_bytes_that_are_not_utf_8_is_told_as_edited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = root / "etc/systemd/system/sdcron-backup.service"
    unit.write_bytes(unit.read_bytes().replace(b"/usr/bin/true", b"/usr/bin/tr\xffe"))
    assert "sdcron-backup.service was edited by hand" in found(root, "warning")[0].what
    assert run(["doctor", "--root", str(root)]) == 0
    assert run(["doctor", "--root", str(root), "--json"]) == 0
    assert "edited by hand" in capsys.readouterr().out


def test_a_job_directory_that_is_gone_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").rename(tmp_path / "elsewhere")
    [finding] = found(root, "warning")
    assert "which is gone" in finding.what


def test_a_bad_job_file_is_a_warning_and_not_the_end(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/backup.yaml").write_text("comand: x\n")
    [finding] = found(root, "warning")
    assert finding.advice == f"sdcron validate {tmp_path}/jobs/backup.yaml"


def test_a_mistake_between_files_is_told_by_plan_and_not_by_validate(root: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs/backup.yaml").write_text("command: x\nafter: nobody\n")
    [finding] = found(root, "warning")
    assert finding.advice == f"sdcron plan {tmp_path}/jobs/backup.yaml"
    assert run(["plan", f"{tmp_path}/jobs/backup.yaml", "--root", str(root)]) == 3
    assert run(["validate", f"{tmp_path}/jobs/backup.yaml", "--root", str(root)]) == 0


def test_a_path_with_a_space_can_be_typed_as_it_is_advised(root: Path, tmp_path: Path) -> None:
    (tmp_path / "my jobs").mkdir(mode=0o755)
    (tmp_path / "my jobs/x.yaml").write_text("command: x\n")
    (tmp_path / "my jobs/x.yaml").chmod(0o644)
    place = ("--root", str(root), "--backend", "local")
    assert run(["apply", str(tmp_path / "my jobs"), *place]) == 0
    (tmp_path / "my jobs/x.yaml").write_text("comand: x\n")
    findings = examine(make_place(user=False, root=root, backend="local"))
    assert f"sdcron validate '{tmp_path}/my jobs/x.yaml'" in {finding.advice for finding in findings}


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


def test_a_collector_that_does_not_record_is_told_with_its_own_last_words(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    place = make_place(user=False, root=root, backend="auto")
    backend = FakeBackend(place.paths)
    said = [""]

    @contextmanager
    def connect(_: Place) -> Iterator[FakeBackend]:
        yield backend

    monkeypatch.setattr(operations, "connect", connect)
    monkeypatch.setattr("sdcron.doctor._last_words", lambda _place: said[0])
    monkeypatch.setattr("sdcron.own_units.can_read_the_journal", lambda: True)

    def told() -> Finding:
        [finding] = [finding for finding in examine(place) if re.search("recorded|the collector", finding.what)]
        return finding

    assert told().what == "runs are not recorded: sdcron-collector.service is not active"
    assert "systemctl restart sdcron-collector.service" in told().advice
    (place.paths.unit_dir / "sdcron-collector.service").write_text("[Service]\nExecStart=sdcron collect\n")
    backend.start(["sdcron-collector.service"])
    assert told() == Finding("ok", "the collector records every run")
    said[0] = "/var/lib/sdcron/runs: No space left on device; trying again until it works"
    assert told().what == f"runs are not recorded: sdcron-collector.service is at a loss; it said: {said[0]}"
    monkeypatch.setattr("sdcron.own_units.can_read_the_journal", lambda: False)
    assert "Python package systemd is missing" in told().what
    assert "apt install python3-systemd" in told().advice
    for unit in place.paths.unit_dir.glob("sdcron-backup*"):
        unit.unlink()
    assert not [finding for finding in examine(place) if "recorded" in finding.what]
