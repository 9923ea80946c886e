"""machine: the time zone by its name, wherever the machine keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron.cli import run
from sdcron.errors import SdcronError
from sdcron.machine import local_timezone

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The etc directory of a machine below tmp_path."""
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def test_without_localtime_the_zone_is_utc_even_without_an_etc(tmp_path: Path) -> None:
    assert local_timezone(tmp_path) == "UTC"


def test_without_localtime_another_file_means_nothing_to_systemd(etc: Path) -> None:
    (etc / "timezone").write_text("Europe/Berlin\n")
    assert local_timezone(etc.parent) == "UTC"


@pytest.mark.parametrize(
    "target",
    ["/usr/share/zoneinfo/Europe/Berlin", "../usr/share/zoneinfo/Europe/Berlin", "/etc/zoneinfo/Europe/Berlin"],
)
def test_the_zone_is_what_localtime_links_to(target: str, etc: Path) -> None:
    (etc / "localtime").symlink_to(target)
    (etc / "timezone").write_text("Asia/Tokyo\n")
    assert local_timezone(etc.parent) == "Europe/Berlin"


def test_a_copy_of_a_zone_is_named_by_debians_file(etc: Path) -> None:
    (etc / "localtime").write_bytes(b"TZif2")
    (etc / "timezone").write_text("Europe/Berlin\n")
    assert local_timezone(etc.parent) == "Europe/Berlin"


@pytest.mark.parametrize("name", [None, b"", b"\n", b"\xff\n"])
def test_a_copy_of_a_zone_without_a_name_is_never_taken_for_utc(name: bytes | None, etc: Path) -> None:
    (etc / "localtime").write_bytes(b"TZif2")
    if name is not None:
        (etc / "timezone").write_bytes(name)
    with pytest.raises(SdcronError, match="has no name") as raised:
        local_timezone(etc.parent)
    assert "timedatectl set-timezone ZONE" in raised.value.hint


def test_a_zone_is_found_through_other_links_as_ubuntu_core_has_them(etc: Path) -> None:
    (etc / "writable").mkdir()
    (etc / "localtime").symlink_to("/etc/writable/localtime")
    (etc / "writable/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert local_timezone(etc.parent) == "Europe/Berlin"
    (etc / "writable/localtime").unlink()
    (etc / "writable/localtime").symlink_to("localtime")
    with pytest.raises(SdcronError, match="has no name"):
        local_timezone(etc.parent)


def test_a_link_to_no_zone_is_never_taken_for_utc(etc: Path) -> None:
    (etc / "localtime").symlink_to("/etc/somewhere")
    with pytest.raises(SdcronError, match="has no name"):
        local_timezone(etc.parent)


def test_an_unknown_zone_of_the_machine_is_told_once_and_not_at_the_keys_of_a_job(
    etc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/Mars/Olympus")
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name in ("a", "b"):
        (jobs / f"{name}.yaml").write_text("command: x\nschedule: '@daily'\ntimezone: Europe/Berlin\n")
    assert run(["validate", str(jobs), "--root", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.count("Mars/Olympus") == 1
    assert f"the machine's time zone is unknown: {etc}/localtime names 'Mars/Olympus'" in told
    assert "timezone:" not in told
