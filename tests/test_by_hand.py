"""Units of single runs: made of the job's service as it is applied, with what was asked for, and nothing that lasts."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron.by_hand import remove_leftovers, unit_directory, unit_text, write_unit
from sdcron.escape import UnitTextError
from sdcron.installed_job import InstalledJob
from sdcron.job import Job, Overlap, Parameter, Retry, Sandbox, Source
from sdcron.overlap import is_by_hand, slot_name, slot_of
from sdcron.paths import Scope, system_paths
from sdcron.runs import Asked
from sdcron.units import compile_job

if TYPE_CHECKING:
    from pathlib import Path

NEW_YEAR = 1_767_225_600_000_000
PATH = "/run/systemd/system/sdcron-x@1795340191259175.service"


def installed(job: Job, scope: Scope = Scope.SYSTEM) -> InstalledJob:
    """A job as apply would have it."""
    made = compile_job(job, directory="/etc/sdcron/jobs", scope=scope, state_dir="/var/lib/sdcron")
    return InstalledJob(job.name, made.directory, made.source, {unit.name: unit.text for unit in made.units})


def job(**fields: object) -> Job:
    return Job("x", Source("/etc/sdcron/jobs/x.yaml"), ("/bin/echo",), **fields)  # type: ignore[arg-type]  # a job's


def section(text: str, name: str) -> list[str]:
    """The lines of a section, of which there may be several."""
    found = re.findall(rf"(?ms)^\[{name}\]\n(.*?)(?=^\[|\Z)", text)
    assert found
    return [line for part in found for line in part.splitlines() if line]


def test_a_single_run_is_the_jobs_own_service_with_what_was_asked_for() -> None:
    applied = installed(job(parameters=(Parameter("to", "/a"), Parameter("n", "1")), directory="/srv"))
    text = unit_text(applied, Asked("anna", NEW_YEAR, (("to", 'b "c" %i $x'),)), "UTC", Scope.SYSTEM, PATH, alone=True)
    before = section(applied.units["sdcron-x.service"], "Service")
    after = section(text, "Service")
    assert after[: len(before)] == before
    assert after[len(before) : -2] == [
        "Slice=system.slice",
        r'Environment="SDCRON_PARAM_TO=b \"c\" %%i $x"',
        "Environment=SDCRON_FOR=2026-01-01T00:00:00+00:00",
    ]
    assert after[-2].startswith("ExecCondition=+/bin/sh -c ")
    assert after[-1] == f"ExecStopPost=-+/bin/rm -f {PATH}"
    assert section(text, "Unit")[-2:] == ["Before=sdcron-x.service", "CollectMode=inactive-or-failed"]
    assert "[X-Sdcron]" not in text


@pytest.mark.parametrize(("own", "told"), [("Asia/Kolkata", "05:30:00+05:30"), (None, "01:00:00+01:00")])
def test_an_instant_is_told_in_the_zone_of_the_job_or_the_machines_and_not_in_that_of_whoever_asks(
    own: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    zoned = InstalledJob("x", "", "", installed(job(timezone=own)).units, timezone=own)
    paths = system_paths(tmp_path)
    name = write_unit(paths, zoned, Asked("", NEW_YEAR), alone=False)
    text = (unit_directory(paths) / name).read_text()
    assert f"Environment=SDCRON_FOR=2026-01-01T{told}\n" in text
    assert "ExecCondition" not in text


def test_what_an_administrator_added_to_the_service_holds_for_a_single_run_too(tmp_path: Path) -> None:
    paths = system_paths(tmp_path)
    added = {
        # Of every service, and so of this one: it is not read twice.
        "service.d/10-all.conf": "[Service]\nNice=1\n",
        "sdcron-x.service.d/override.conf": "[Service]\nNice=7\nEnvironment=\nExecStopPost=\n",
        "sdcron-x.service.d/sdcron-other.conf": "[Service]\nExecStopPost=/bin/false\n",
        "sdcron-x.service.d/latin.conf": "[Unit]\n# caf\xe9\nDocumentation=man:x\n",
    }
    for name, text in added.items():
        path = tmp_path / "etc/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    # The last is one that somebody has removed, and systemd has in memory.
    files = [str(tmp_path / "etc/systemd/system" / name) for name in (*added, "sdcron-x.service.d/gone.conf")]
    name = write_unit(paths, replace(installed(job()), timezone="UTC"), Asked("", NEW_YEAR), files, alone=False)
    text = (unit_directory(paths) / name).read_text()
    # What is this run's own comes last: it is not taken away.
    assert text.endswith(
        "\n[Service]\nNice=7\nEnvironment=\nExecStopPost=\n"
        "\n[Unit]\n# caf\N{REPLACEMENT CHARACTER}\nDocumentation=man:x\n"
        "\n[Service]\nEnvironment=SDCRON_FOR=2026-01-01T00:00:00+00:00\n"
        f"ExecStopPost=-+/bin/rm -f /run/systemd/system/{name}\n"
    )
    assert ("Nice=1" in text, "/bin/false" in text) == (False, False)


@pytest.mark.parametrize("scope", Scope)
def test_a_single_run_is_not_retried_and_ends_no_waiting_retry(scope: Scope) -> None:
    retried = job(retry=Retry(timedelta(minutes=5)), sandbox=Sandbox.STANDARD)
    text = unit_text(installed(retried, scope), Asked("", NEW_YEAR), "UTC", scope, PATH, alone=True)
    assert "retry" not in text
    assert ("--user show" in text) == (scope is Scope.USER)
    assert f"Slice={'system.slice' if scope is Scope.SYSTEM else 'app.slice'}" in text


def test_a_job_that_cannot_be_started_without_values_can_be_with_them() -> None:
    applied = installed(job(parameters=(Parameter("to"),)))
    assert "RefuseManualStart=yes" in applied.units["sdcron-x.service"]
    assert "RefuseManualStart" not in unit_text(
        applied, Asked(values=(("to", "x"),)), "UTC", Scope.SYSTEM, PATH, alone=True
    )


def test_a_line_of_a_unit_ends_where_systemd_ends_it_and_nowhere_else() -> None:
    applied = installed(job(environment=(("A", "x\u2028y\x85z\x0bw"),)))
    text = unit_text(applied, Asked("", NEW_YEAR), "UTC", Scope.SYSTEM, PATH, alone=True)
    [line] = [line for line in applied.units["sdcron-x.service"].split("\n") if "A=x" in line]
    assert line in text.split("\n")


def test_what_may_run_beside_others_is_not_kept_back_by_it() -> None:
    assert "Before=" not in unit_text(installed(job()), Asked("", NEW_YEAR), "UTC", Scope.SYSTEM, PATH, alone=False)
    queues = unit_text(
        installed(job(overlap=Overlap.QUEUE)), Asked("", NEW_YEAR), "UTC", Scope.SYSTEM, PATH, alone=True
    )
    assert "Before=sdcron-x.service sdcron-x@queued.service\n" in queues


def test_a_slice_of_the_jobs_own_is_kept() -> None:
    units = {"sdcron-x.service": "[Unit]\nDescription=x\n\n[Service]\nExecStart=/bin/true\nSlice=own.slice\n"}
    text = unit_text(InstalledJob("x", "", "", units), Asked("", NEW_YEAR), "UTC", Scope.SYSTEM, PATH, alone=True)
    assert [line for line in text.splitlines() if line.startswith("Slice=")] == ["Slice=own.slice"]


def test_a_value_that_no_unit_can_carry_leaves_no_file(tmp_path: Path) -> None:
    paths = system_paths(tmp_path)
    with pytest.raises(UnitTextError):
        write_unit(paths, installed(job()), Asked(values=(("a", "x\ny"),)), alone=True)
    assert not unit_directory(paths).exists()


def test_every_single_run_has_a_unit_of_its_own_below_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_795_340_191_259_175_000)
    paths = system_paths(tmp_path)
    names = [write_unit(paths, installed(job()), Asked("", NEW_YEAR), alone=True) for _ in range(3)]
    assert names == [f"sdcron-x@179534019125917{digit}.service" for digit in "567"]
    assert sorted(os.listdir(tmp_path / "run/systemd/system")) == names
    assert all(is_by_hand(name) and slot_of(name)[0] == "x" for name in names)
    assert f"rm -f /run/systemd/system/{names[1]}\n" in (unit_directory(paths) / names[1]).read_text()


def test_what_runs_that_are_over_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    paths = system_paths(tmp_path)
    keep = {"sdcron-x@2.service", "sdcron-x@tick.service", "foo@1795340191259175.service", "sdcron-x.service"}
    on = "sdcron-x@1795340191259176.service"
    directory = unit_directory(paths)
    directory.mkdir(parents=True)
    for name in (*keep, on, "sdcron-x@1795340191259175.service"):
        (directory / name).touch()
    new = slot_name("x", time.time_ns() // 1000)  # about to be started
    (directory / new).touch()
    remove_leftovers(paths, lambda unit: unit == on)
    (directory / new).unlink()
    assert set(os.listdir(directory)) == keep | {on}
    remove_leftovers(system_paths(tmp_path / "other"), lambda _: False)
