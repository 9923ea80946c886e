"""The unit directory read back into jobs, and what in it is somebody else's."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron.files import Files
from sdcron.installed import Installed, read_installed, read_one
from sdcron.job import Missed, Output, Retry
from tests.compiled import DIRECTORY, compiled, install, paths_below

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdcron.paths import Paths
    from sdcron.units import CompiledJob

MINUTE = timedelta(minutes=1)
JOBS = (
    compiled("plain"),
    compiled("by-hand", None),
    compiled("at-boot", "@reboot"),
    compiled("both", ("@reboot", "0 4 * * *", "every 2h"), spread=timedelta(minutes=90), timezone="Europe/Berlin"),
    compiled("again", retry=Retry(timedelta(minutes=5), attempts=2)),
    compiled("script", script="echo %n $HOME \\"),
    compiled("off", enabled=False),
    compiled("a.b-c_d", "every 90s", description="100 % \\"),
    compiled("elsewhere", directory="/srv/ä b/100%/c\\", file="x"),
)


def test_no_unit_directory_holds_no_jobs(tmp_path: Path) -> None:
    assert read_installed(paths_below(tmp_path)) == Installed({}, frozenset())


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_what_was_installed_is_read_back(tmp_path: Path, job: object) -> None:
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    installed = read_installed(paths)
    assert set(installed.jobs) == {each.name for each in JOBS}
    assert installed.foreign == frozenset()
    [expected] = [each for each in JOBS if each is job]
    found = installed.jobs[expected.name]
    assert found.same_files(expected)
    assert (found.directory, found.source) == (expected.directory, expected.source)
    assert found.active == (expected.name != "off")
    for other in JOBS:
        assert found.same_files(other) == (other is expected)


def test_the_schedule_is_read_back_as_written(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    jobs = read_installed(paths).jobs
    assert jobs["both"].schedule == ("@reboot", "0 4 * * *", "every 2h")
    assert (jobs["both"].timezone, jobs["both"].spread) == ("Europe/Berlin", timedelta(minutes=90))
    assert (jobs["at-boot"].schedule, jobs["by-hand"].schedule) == (("@reboot",), ())
    assert (jobs["plain"].timezone, jobs["plain"].spread) == (None, timedelta(0))


def test_units_of_others_are_foreign_and_never_ours(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    ours = read_installed(paths).jobs
    units = paths.unit_dir
    (units / "sdcron-collector.service").write_text("[Service]\nExecStart=/bin/true\n")
    (units / "sdcron-dangling.timer").symlink_to("/nowhere")
    (units / "sdcron-link.service").symlink_to(units / "sdcron-plain.service")
    (units / "sdcron-bytes.service").write_bytes(b"[Service]\nExecStart=/bin/\xff\n")
    unprintable = os.fsdecode(b"sdcron-\xff.service")
    (units / unprintable).write_bytes(b"[Service]\n\n[X-Sdcron]\nJob=\xff\n")
    (units / "sdcron-claims.service").write_text("[Service]\n\n[X-Sdcron]\nJob=plain\nDirectory=/etc\n")
    (units / "sdcron-plainer.timer").write_text("[Timer]\n\n[X-Sdcron]\nJob=plain\n")
    (units / "backup.service").write_text("[Service]\n\n[X-Sdcron]\nJob=backup\n")
    (units / "sdcron-plain.service.d").mkdir()
    (units / "sdcron-plain.service.d" / "override.conf").write_text("[Service]\nNice=5\n")
    (units / "sdcron-directory.timer").mkdir()
    installed = read_installed(paths)
    assert installed.jobs == ours
    assert installed.foreign == {
        "sdcron-collector.service",
        "sdcron-dangling.timer",
        "sdcron-link.service",
        "sdcron-bytes.service",
        unprintable,
        "sdcron-claims.service",
        "sdcron-plainer.timer",
    }


def test_names_in_other_directories_of_the_manager_are_foreign(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    for directory in ("usr/lib", "usr/local/lib", "run"):
        unit = tmp_path / directory / "systemd/system" / f"sdcron-in-{directory.replace('/', '-')}.service"
        unit.parent.mkdir(parents=True)
        unit.write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "run/systemd/transient").mkdir()
    (tmp_path / "run/systemd/transient/sdcron-ad-hoc.timer").write_text("")
    names = {"sdcron-in-usr-lib.service", "sdcron-in-usr-local-lib.service", "sdcron-in-run.service"}
    assert read_installed(paths).foreign == {*names, "sdcron-ad-hoc.timer"}
    # Among the transient units are those of transient jobs themselves.
    assert read_installed(paths.transient()).foreign >= names
    assert "sdcron-ad-hoc.timer" not in read_installed(paths.transient()).foreign


def test_a_unit_with_bytes_that_are_not_utf_8_stays_its_jobs_and_differs(tmp_path: Path) -> None:
    job = compiled("a", script="true")
    for damaged in ("sdcron-a.service", "sdcron-a.timer", "script"):
        paths = paths_below(tmp_path / damaged)
        install(paths, [job])
        path = paths.script_dir / "a" if damaged == "script" else paths.unit_dir / damaged
        content = b"# \xff\xc3\n" + path.read_bytes()
        path.write_bytes(content)
        installed = read_installed(paths)
        assert installed.foreign == frozenset()
        found = installed.jobs["a"]
        assert set(found.units) == {"sdcron-a.service", "sdcron-a.timer"}
        assert not found.same_files(job)
        text = found.script if damaged == "script" else found.units[damaged]
        assert text is not None
        # What apply brings back after a fault is what was there, byte by byte.
        Files().write(tmp_path / "back", text)
        assert (tmp_path / "back").read_bytes() == content


def test_a_spread_that_is_no_length_is_none(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, [compiled("a", spread=timedelta(minutes=5))])
    timer = paths.unit_dir / "sdcron-a.timer"
    for wrong in ("99999999999999999d", "9" * 5000 + "d", "soon"):
        timer.write_text(timer.read_text().rpartition("\nSpread=")[0] + f"\nSpread={wrong}\n")
        assert read_installed(paths).jobs["a"].spread == timedelta(0)


def test_a_job_with_parts_missing_or_edited_is_known_and_differs(tmp_path: Path) -> None:
    job = compiled("again", retry=Retry(timedelta(minutes=5), attempts=2), script="true")
    damages: tuple[Callable[[Paths], object], ...] = (
        lambda paths: (paths.unit_dir / "sdcron-again.service").unlink(),
        lambda paths: (paths.unit_dir / "sdcron-again@retry-2.timer").unlink(),
        lambda paths: (paths.wants_dir / "sdcron-again.timer").unlink(),
        lambda paths: (paths.script_dir / "again").unlink(),
        lambda paths: (paths.script_dir / "again").write_text("false"),
        lambda paths: (paths.unit_dir / "sdcron-again.timer").write_text(
            job.units[1].text.replace("[Timer]", "[Timer]\nWakeSystem=yes")
        ),
    )
    for damage in damages:
        paths = paths_below(tmp_path)
        install(paths, [job])
        assert read_installed(paths).jobs["again"].same_files(job)
        damage(paths)
        found = read_installed(paths).jobs["again"]
        assert not found.same_files(job)
        assert found.directory == DIRECTORY


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_one_job_is_read_as_among_all_and_no_directory_is_listed(
    tmp_path: Path, job: CompiledJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paths_below(tmp_path)
    install(paths, JOBS)
    expected = read_installed(paths).jobs[job.name]

    def listed(*_: object) -> None:
        raise AssertionError("a directory of 60,000 files would be listed")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, listed)
    assert read_one(paths, job.name) == expected


def test_one_job_that_is_not_there_or_is_somebody_elses_is_none(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    assert read_one(paths, "a") is None
    paths.unit_dir.mkdir(parents=True)
    (paths.unit_dir / "sdcron-a.service").write_text("[Service]\nExecStart=true\n\n[X-Sdcron]\nJob=b\n")
    (paths.unit_dir / "sdcron-c.timer").symlink_to("/nowhere")
    assert (read_one(paths, "a"), read_one(paths, "c")) == (None, None)


def test_what_the_collector_must_know_of_a_job_is_read_back(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    retry = Retry(timedelta(minutes=5), attempts=3, backoff=2, max_delay=timedelta(minutes=15), on_exit=(75, 7))
    output = Output(1000, (r"a%\\", "password=.*$"))
    install(
        paths,
        [
            compiled("all", ("@reboot", "@daily"), retry=retry, output=output, user="a%b", accuracy=MINUTE),
            compiled("plain", missed=Missed.SKIP),
            compiled("at-boot", "@reboot"),
            compiled("by-hand", None, retry=Retry(timedelta(seconds=1), attempts=1), accuracy=2 * MINUTE),
        ],
    )
    found = {name: job for name in ("all", "plain", "at-boot", "by-hand") if (job := read_one(paths, name))}
    job = found["all"]
    assert (job.output_keep, job.redact, job.retry_on_exit) == (1000, output.redact, (75, 7))
    assert job.retry_delays == tuple(minutes * MINUTE for minutes in (5, 10, 15))
    assert (job.user, job.accuracy, job.persistent, job.boot) == ("a%b", MINUTE, True, True)
    assert job.digest == job.units["sdcron-all.service"].rpartition("Digest=")[2].strip()
    plain = found["plain"]
    assert (plain.output_keep, plain.redact, plain.retry_on_exit, plain.retry_delays) == (65536, (), (), ())
    assert (plain.user, plain.accuracy, plain.persistent, plain.boot) == (None, timedelta(seconds=1), False, False)
    assert (found["at-boot"].boot, found["at-boot"].persistent) == (True, False)
    assert (found["by-hand"].accuracy, found["by-hand"].retry_delays) == (2 * MINUTE, (timedelta(seconds=1),))


def test_what_an_edit_made_unreadable_is_the_default(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    retry = Retry(timedelta(minutes=5), attempts=1, on_exit=(75,))
    install(paths, [compiled("a", retry=retry, output=Output(1000))])
    edits = {
        "sdcron-a.service": [("OutputKeep=1000", "OutputKeep=lots"), ("RetryOnExit=75", "RetryOnExit=x 7")],
        "sdcron-a.timer": [("AccuracySec=1s", "AccuracySec=often")],
        "sdcron-a@retry-1.timer": [("OnActiveSec=5min", "OnActiveSec=")],
    }
    for name, pairs in edits.items():
        text = (paths.unit_dir / name).read_text()
        for before, after in pairs:
            assert before in text
            text = text.replace(before, after)
        (paths.unit_dir / name).write_text(text)
    job = read_one(paths, "a")
    assert job is not None
    assert (job.output_keep, job.retry_on_exit, job.digest) == (65536, (7,), None)
    assert (job.accuracy, job.retry_delays) == (timedelta(seconds=1), (timedelta(0),))
    service = paths.unit_dir / "sdcron-a.service"
    service.write_bytes(service.read_bytes() + b"\xff\n")
    service.with_name("sdcron-a.timer").unlink()
    damaged = read_one(paths, "a")
    assert damaged is not None
    assert damaged.digest is None
