"""The drop-in directories below a root: applied, and generated from, by the shell script and its compiler."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

import sdcron
from sdcron import dropped, editing
from sdcron import generate as generate_module
from sdcron.apply import Applier
from sdcron.cli import run
from sdcron.cli.applying import _show
from sdcron.errors import BackendError, JobFileError, Problem, SdcronError, UsageError
from sdcron.generate import generate
from sdcron.installed import read_installed, read_one
from sdcron.job import Overlap
from sdcron.paths import _drop_in_dirs, system_paths
from sdcron.place import Place, make_place
from sdcron.plan import Plan
from tests.compiled import compiled, install
from tests.fake_backend import FakeBackend

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPT = CHECKOUT / "packaging/generator/sdcron-generator"
BOOTED = CHECKOUT / "packaging/systemd/sdcron-boot.service.d/generator.conf"
DAILY = "schedule: '@daily'\ncommand: /bin/true\n"


class Root:
    """A machine's file system."""

    def __init__(self, root: Path) -> None:
        self.root, self.paths = root, system_paths(root)
        self.etc, self.run, self.usr = self.paths.drop_in_dirs
        for directory in (self.etc, self.usr, root / "usr/lib/systemd/system-generators", root / "run"):
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        shutil.copy(SCRIPT, root / "usr/lib/systemd/system-generators")
        self.generated = root / "generator"
        self.applied = root / "var/lib/sdcron/generated"
        self.python_ran = root / "python-ran"
        self.mark = root / "run/sdcron.generated"

    def write(self, directory: Path, **texts: str) -> None:
        """Job files, by their names."""
        for name, text in texts.items():
            (directory / f"{name}.yaml").write_text(text)
            (directory / f"{name}.yaml").chmod(0o644)

    def apply(self, *, lenient: bool = False) -> list[str]:
        """Apply the directories as if systemd did not run; returns what is wrong."""
        wanted = dropped.plan_paths(Place(self.paths), (), None, lenient=lenient)
        dropped.carry_out(Place(self.paths), Applier(self.paths, None), wanted)
        return list(map(str, wanted.problems))

    def generate(self, *, at_boot: bool = False) -> list[str]:
        """What its compiler makes, as paths below the generator's directory."""
        shutil.rmtree(self.generated, ignore_errors=True)
        self.generated.mkdir()
        self.problems = generate(self.paths, self.generated, at_boot=at_boot)
        return self.files(self.generated)

    def script(self, python: str = "", *words: str) -> int:
        """Run the shell script, with something else in the place of Python; returns its exit status."""
        text = re.sub("/(etc|run|usr/lib|var/lib)/(sdcron|[$])", rf"{self.root}/\1/\2", SCRIPT.read_text())
        text = text.replace("/dev/kmsg", f"{self.root}/kmsg")
        stand_in = self.root / "python3"
        self.python_ran.unlink(missing_ok=True)
        stand_in.write_text(f"#!/bin/sh\ntouch {self.python_ran}\n{python}\n")
        stand_in.chmod(0o755)
        own = self.root / "script"
        own.write_text(text.replace("/usr/bin/python3", str(stand_in)))
        shutil.rmtree(self.generated, ignore_errors=True)
        self.generated.mkdir()
        command = ["sh", str(own), *(words or (str(self.generated), "/early", "/late"))]
        return subprocess.run(command, check=False, timeout=30).returncode

    def has_booted(self) -> None:
        """As sdcron-boot.service has it."""
        [line] = re.findall("(?m)^ExecStartPre=-[+]/bin/sh -c '(.*)'$", BOOTED.read_text())
        own = line.replace("/run/", f"{self.root}/run/").replace("$$", "$")
        subprocess.run(["sh", "-c", own], check=False, timeout=30)

    def wanted(self) -> list[str]:
        """What is started at a boot, by the last that was generated."""
        text = (self.generated / "timers.target.d/sdcron.conf").read_text()
        assert text.startswith("[Unit]\n")
        return re.findall("(?m)^Wants=(.*)$", text)

    def files(self, directory: Path) -> list[str]:
        """All that is no directory."""
        return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


UNITS = ["sdcron-a.service", "sdcron-a.timer"]
GENERATED = [*UNITS, "timers.target.d/sdcron.conf"]


def test_the_units_of_dropped_in_jobs_are_kept_for_the_generator_and_nowhere_else(root: Root) -> None:
    root.write(root.usr, a=DAILY, b="command: /bin/hidden\n")
    root.write(root.etc, b="")
    root.apply()
    assert root.files(root.applied) == UNITS
    assert not root.paths.unit_dir.exists()
    assert root.paths.generated_from.read_text().startswith("# 3 1\n")
    installed = read_installed(root.paths)
    assert installed.foreign == frozenset()
    assert [(job.name, job.source) for job in installed.jobs.values()] == [("a", f"{root.usr}/a.yaml")]
    assert read_one(root.paths, "a") == installed.jobs["a"]
    (root.usr / "a.yaml").unlink()
    root.apply()
    assert root.files(root.applied) == []


@pytest.mark.parametrize("when", ["boot", "reload"])
def test_the_script_links_what_was_applied_and_starts_no_python(root: Root, when: str) -> None:
    def run() -> list[str]:
        if when == "boot":
            root.mark.unlink(missing_ok=True)
        assert root.script() == 0
        root.has_booted()
        assert not root.python_ran.exists()
        return root.files(root.generated)

    assert run() == []
    root.write(root.etc, a=DAILY)
    root.apply()
    assert run() == GENERATED
    assert root.wanted() == ["sdcron-a.timer"]
    assert (root.generated / "sdcron-a.timer").samefile(root.applied / "sdcron-a.timer")
    (root.etc / "a.yaml").unlink()
    root.apply()
    assert run() == []


@pytest.mark.parametrize("change", ["edited", "new", "gone", "renamed", "hidden"])
def test_the_script_starts_the_compiler_once_a_file_differs(root: Root, change: str) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    if change == "edited":
        root.write(root.etc, a=f"{DAILY}description: other\n")
    elif change == "new":
        root.write(root.usr, b=DAILY)
    elif change == "gone":
        (root.etc / "a.yaml").unlink()
    elif change == "renamed":
        (root.etc / "a.yaml").rename(root.etc / "b.yaml")
    else:
        root.run.mkdir(parents=True)
        (root.run / "a.yml").symlink_to("/dev/null")
    assert root.script("", "--check") == 1
    called = f'echo "$*" >>{root.root}/called'
    # Until the boot is over a reload is part of it.
    assert [root.script(called), root.script(called)] == [0, 0]
    root.has_booted()
    assert root.script(called) == 0
    words = f"-P -m sdcron.generate {root.generated}"
    assert (root.root / "called").read_text() == f"{words} boot\n{words} boot\n{words} reload\n"


def test_what_is_applied_and_out_of_reach_is_begun_later_whenever_that_is_seen(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    called = f'echo "$5" >>{root.root}/called'
    for _ in range(2):
        # As one leaves an emergency shell.
        assert root.script(called) == 0
        root.has_booted()
        assert root.mark.read_text() == "early\n"
    # As in a soft reboot, which /run outlasts and other file systems do not.
    root.mark.write_text("")
    assert root.script(called) == 0
    assert root.mark.read_text() == "early\n"
    assert (root.root / "called").read_text() == "boot\n" * 3


def test_what_was_kept_without_a_file_is_generated(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    (root.etc / "a.yaml").unlink()
    wanted = dropped.plan_paths(Place(root.paths), (), None, prune=False)
    dropped.carry_out(Place(root.paths), Applier(root.paths, None), wanted)
    assert root.script() == 0
    assert not root.python_ran.exists()
    assert root.wanted() == ["sdcron-a.timer"]


def test_nothing_that_was_not_applied_is_started_by_what_is_generated(root: Root) -> None:
    root.write(root.etc, a=DAILY, chained="command: /bin/true\nafter: a\n")
    root.apply()
    applied = {name: (root.applied / name).read_bytes() for name in root.files(root.applied)}
    own = "timers.target.d/sdcron.conf"
    assert root.generate() == sorted([*applied, own])
    assert root.wanted() == ["sdcron-a.timer"]
    root.write(root.etc, a=f"{DAILY}description: other\n", b=DAILY, later="command: /bin/true\nafter: a\n")
    (root.etc / "chained.yaml").unlink()
    # A reload leaves what is applied as it is; what is new can be looked at.
    new = [
        "sdcron-b.service",
        "sdcron-b.timer",
        *(f"sdcron-later{kind}.service" for kind in ("", "@after", "@skipped")),
    ]
    assert root.generate() == sorted([*applied, *new, own])
    assert root.wanted() == ["sdcron-a.timer"]
    assert {name: (root.generated / name).read_bytes() for name in applied} == applied
    # A boot makes good what has been missed, but has nothing of what is gone, and applies what there is now.
    wanted = "multi-user.target.wants/sdcron.service"
    assert root.generate(at_boot=True) == sorted([*new, *UNITS, own, wanted])
    assert root.wanted() == ["sdcron-a.timer"]
    assert (root.generated / "sdcron-a.service").read_bytes() == applied["sdcron-a.service"]
    root.apply()
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-a.timer", "sdcron-b.timer"]


def test_a_paused_job_is_not_started_by_a_boot(root: Root) -> None:
    root.write(root.etc, a=DAILY, b=DAILY)
    root.paths.paused_dir.mkdir(parents=True)
    (root.paths.paused_dir / "a").write_text(json.dumps({"since": 1, "by": "root", "reason": ""}))
    root.apply()
    assert "sdcron-a.timer" in root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-b.timer"]
    assert root.script() == 0
    assert root.wanted() == ["sdcron-b.timer"]


@pytest.mark.parametrize("at_boot", [False, True])
def test_a_file_with_a_mistake_stops_no_other_and_its_jobs_stay_as_they_were(root: Root, at_boot: bool) -> None:
    root.write(root.etc, a=DAILY, b=DAILY)
    root.apply()
    root.write(root.etc, a="schedule: '@dayly'\ncommand: /bin/true\n", c="jobs: [\n", d="command: /bin/true\n")
    generated = root.generate(at_boot=at_boot)
    assert set(UNITS) < set(generated)
    assert root.wanted() == ["sdcron-a.timer", "sdcron-b.timer"]
    assert "sdcron-d.service" in generated
    assert {problem.partition(":")[0] for problem in root.problems} == {f"{root.etc}/a.yaml", f"{root.etc}/c.yaml"}
    with pytest.raises(JobFileError):
        root.apply()
    told = root.apply(lenient=True)
    assert {problem.partition(":")[0] for problem in told} == {f"{root.etc}/a.yaml", f"{root.etc}/c.yaml"}
    assert sorted(read_installed(root.paths).jobs) == ["a", "b", "d"]


def test_a_job_has_one_owner(root: Root, tmp_path: Path) -> None:
    install(root.paths, [compiled("taken", directory="/srv/jobs")])
    root.write(root.etc, mine=DAILY, one=f"name: mine\n{DAILY}", taken=DAILY)
    with pytest.raises(JobFileError) as caught:
        root.apply()
    assert "the job name 'mine' is taken already, by" in str(caught.value.problems[0])
    told = root.apply(lenient=True)
    assert any("job taken is applied already from /srv/jobs/" in line for line in told)
    root.generate(at_boot=True)
    assert any("job taken is applied already from /srv/jobs/" in line for line in root.problems)
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    root.write(jobs, mine=DAILY)
    wanted = [problem.message for problem in refused(root, jobs)]
    assert wanted == [f"job mine is applied already from {root.etc}/mine.yaml"]


def refused(root: Root, path: Path) -> tuple[Problem, ...]:
    with pytest.raises(JobFileError) as caught:
        dropped.plan_paths(Place(root.paths), [path], None)
    return caught.value.problems


def test_a_drop_in_file_is_not_applied_apart_from_the_others(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    for path in (root.etc, root.etc / "a.yaml"):
        with pytest.raises(UsageError, match="are applied as one") as caught:
            dropped.plan_paths(Place(root.paths), [path], None)
        assert caught.value.hint == "leave the path away: sdcron apply"


def test_where_nothing_would_generate_their_units_nothing_is_applied(root: Root) -> None:
    (root.root / "usr/lib/systemd/system-generators/sdcron-generator").unlink()
    for place in (
        Place(root.paths),
        make_place(user=False, root=root.root, backend="auto"),
        make_place(user=True, root=None, backend="systemd"),
        make_place(user=False, root=None, backend="local"),
    ):
        with pytest.raises(UsageError) as caught:
            dropped.drop_ins_of(place)
        assert "sdcron apply PATH" in caught.value.hint


def test_what_is_removed_by_name_must_not_come_back(root: Root) -> None:
    root.write(root.usr, a=DAILY)
    root.apply()
    jobs = [*read_installed(root.paths).jobs.values()]
    with pytest.raises(UsageError) as caught:
        dropped.check_removal(Place(root.paths), jobs, [])
    assert f"ln -sf /dev/null {root.etc}/a.yaml" in caught.value.hint
    dropped.check_removal(Place(root.paths), jobs, [root.usr / "a.yaml"])
    # Nor may it come to the fore from behind the file that goes.
    root.write(root.etc, a=DAILY)
    root.apply()
    jobs = [*read_installed(root.paths).jobs.values()]
    with pytest.raises(UsageError):
        dropped.check_removal(Place(root.paths), jobs, [root.etc / "a.yaml"])


def test_whatever_keeps_the_compiler_from_its_work_what_is_applied_goes_on(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    root.write(root.etc, b=DAILY)
    assert root.script("exit 1") == 0
    # It was the first of this boot.
    assert root.files(root.generated) == sorted([*GENERATED, "multi-user.target.wants/sdcron.service"])
    assert root.wanted() == ["sdcron-a.timer"]
    assert (root.root / "kmsg").read_text() == "<3>sdcron-generator: the drop-in directories could not be compiled\n"
    assert root.paths.generator_log.read_text() == "the drop-in directories could not be compiled\n"
    root.has_booted()
    assert root.script("exit 1") == 0
    assert root.files(root.generated) == sorted(GENERATED)


@pytest.mark.parametrize("how", ["directory", "link", "colon", "feed"])
def test_a_file_that_is_refused_whole_is_left_out_alone(root: Root, how: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, of whom it is asked that nobody else may write")
    root.write(root.etc, a=DAILY)
    root.write(root.usr, b=DAILY, **({"web:one": f"name: c\n{DAILY}"} if how == "colon" else {}))
    root.apply()
    if how == "directory":
        root.etc.chmod(0o775)
    elif how == "link":
        other = tmp_path / "other"
        other.mkdir()
        other.chmod(0o777)
        root.write(other, a=DAILY)
        (root.etc / "a.yaml").unlink()
        (root.etc / "a.yaml").symlink_to(other / "a.yaml")
    elif how == "colon":
        root.write(root.usr, **{"web:one": "schedule: x\n"})
    else:
        root.write(root.usr, **{"line\nfeed": DAILY})
    root.write(root.usr, new=DAILY)
    for at_boot in (True, False):
        assert "sdcron-new.timer" in root.generate(at_boot=at_boot)
        kept = ["sdcron-a.timer", "sdcron-b.timer", *(["sdcron-c.timer"] if how == "colon" else [])]
        assert root.wanted() == kept
        assert root.problems
    assert root.apply(lenient=True)
    assert {"a", "b", "new"} <= read_installed(root.paths).jobs.keys()


def test_a_mistake_in_what_hides_a_packages_job_leaves_that_as_it_is_applied(root: Root) -> None:
    root.write(root.usr, a=DAILY, b=DAILY)
    root.apply()
    root.write(root.etc, a="schedule: '@dayly'\ncommand: /bin/true\n")
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-a.timer", "sdcron-b.timer"]
    assert len(root.apply(lenient=True)) == 1
    assert read_installed(root.paths).jobs["a"].source == f"{root.usr}/a.yaml"


def test_what_another_job_waits_for_does_not_go_before_that(root: Root) -> None:
    root.write(root.usr, dump=DAILY)
    root.write(root.etc, report="command: /bin/true\nafter: dump\n", other=DAILY)
    root.apply()
    root.write(root.etc, dump="", other=f"{DAILY}description: edited\n")
    # Nor is it left out by the boot before that apply.
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-dump.timer", "sdcron-other.timer"]
    told = root.apply(lenient=True)
    assert any("'after' of job report" in line for line in told)
    jobs = read_installed(root.paths).jobs
    assert sorted(jobs) == ["dump", "other", "report"]
    assert jobs["other"].description == "edited"


def test_what_an_applied_job_waits_for_does_not_go_either(root: Root) -> None:
    root.write(root.usr, dump=DAILY, gone=DAILY)
    root.apply()
    install(root.paths, [compiled("outside", None, directory="/srv/jobs", after=("dump",))])
    (root.usr / "dump.yaml").unlink()
    (root.usr / "gone.yaml").unlink()
    root.write(root.etc, new=DAILY)
    told = root.apply(lenient=True)
    assert any("'after' of job outside" in line for line in told)
    assert sorted(read_installed(root.paths).jobs) == ["dump", "new", "outside"]
    # Nor where no drop-in file is left.
    (root.etc / "new.yaml").unlink()
    root.apply(lenient=True)
    assert root.script("", "--check") == 1
    root.paths.generated_mark.write_text("")
    assert root.script() == 0
    assert root.wanted() == ["sdcron-dump.timer"]


def test_a_boot_starts_no_job_that_has_left_its_file_or_is_for_another_machine(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.root / "etc/hostname").write_text("here\n")
    root.write(
        root.etc, two="jobs:\n  keep: {command: x, schedule: '@daily'}\n  gone: {command: x, schedule: '@reboot'}\n"
    )
    root.write(root.etc, renamed=f"name: old\n{DAILY}", mine=f"hosts: [here]\n{DAILY}")
    root.apply()
    root.generate(at_boot=True)
    assert root.wanted() == [f"sdcron-{name}.timer" for name in ("gone", "keep", "mine", "old")]
    (root.root / "etc/hostname").write_text("there\n")
    root.write(root.etc, two="jobs:\n  keep: {command: x, schedule: '@daily'}\n", renamed=f"name: new\n{DAILY}")
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-keep.timer"]
    backend = FakeBackend(root.paths)
    root.paths.generated_mark.write_text("early\n")
    dropped.begin_late(Place(root.paths), backend)
    assert backend.mutations() == ["reload", "start sdcron-keep.timer"]


def test_what_is_left_as_it_was_is_started_by_a_late_boot_too(root: Root) -> None:
    root.write(root.usr, override="command: hidden\n", packaged=DAILY)
    root.write(root.etc, override=DAILY)
    root.apply()
    root.write(root.etc, override="", packaged="schedule: x\n")
    backend = FakeBackend(root.paths)
    root.paths.generated_mark.write_text("early\n")
    dropped.begin_late(Place(root.paths), backend)
    assert backend.mutations() == ["reload", "start sdcron-override.timer", "start sdcron-packaged.timer"]
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-override.timer", "sdcron-packaged.timer"]


@pytest.mark.parametrize("now", ["overlap: allow\n", "after: outside\n"])
def test_what_would_be_a_mistake_with_an_applied_job_is_left_as_it_was_and_stops_no_other(root: Root, now: str) -> None:
    root.write(root.usr, dump=DAILY)
    root.apply()
    install(root.paths, [compiled("outside", None, directory="/srv/jobs", after=("dump",))])
    root.write(root.usr, dump=f"{DAILY}{now}", new=DAILY)
    assert len(root.apply(lenient=True)) == 1
    jobs = read_installed(root.paths).jobs
    assert sorted(jobs) == ["dump", "new", "outside"]
    assert now not in jobs["dump"].units["sdcron-dump.service"]
    assert (jobs["dump"].after, jobs["dump"].overlap) == ((), Overlap.SKIP)


def test_of_two_files_with_one_name_the_applied_one_keeps_it(root: Root) -> None:
    root.write(root.etc, b=f"name: mine\n{DAILY}")
    root.apply()
    root.write(root.etc, a=f"name: mine\n{DAILY}", b=f"name: mine\n{DAILY}description: edited\n")
    [told] = root.apply(lenient=True)
    assert told.startswith(f"{root.etc}/a.yaml:1:1: the job name 'mine' is taken already, by {root.etc}/b.yaml")
    assert read_installed(root.paths).jobs["mine"].description == "edited"
    root.generate()
    assert root.problems == (f"{root.etc}/a.yaml: job mine is applied already from {root.etc}/b.yaml",)
    # Of more than one in each, too.
    root.write(root.etc, a=DAILY)
    root.apply()
    root.write(root.etc, a="jobs:\n  a: {command: x}\n  mine: {command: x}\n")
    [told] = root.apply(lenient=True)
    assert told.startswith(f"{root.etc}/a.yaml:3:1: the job name 'mine' is taken already, by {root.etc}/b.yaml")
    assert read_installed(root.paths).jobs["mine"].description == "edited"


def test_what_units_are_made_for_beside_the_files_is_looked_at_too(root: Root) -> None:
    assert f"for name in {' '.join(dropped._MACHINE)}; do" in SCRIPT.read_text(), "both count the same files"
    (root.root / "etc/hostname").write_text("here\n")
    root.write(root.etc, a=DAILY)
    root.apply()
    assert f"  {Path(sdcron.__file__)}\n" in root.paths.generated_from.read_text()
    assert root.script("", "--check") == 0
    (root.root / "etc/hostname").write_text("there\n")
    assert root.script("", "--check") == 1
    (root.root / "etc/hostname").write_text("here\n")
    assert root.script("", "--check") == 0
    (root.root / "etc/timezone").write_text("Europe/Berlin\n")
    assert root.script("", "--check") == 1


def test_a_job_that_was_applied_by_its_path_before_moves_to_where_the_generator_finds_it(root: Root) -> None:
    install(root.paths, [compiled("a", directory=str(root.etc))])
    root.write(root.etc, a=DAILY)
    assert root.files(root.paths.unit_dir) != []
    root.apply()
    assert root.files(root.paths.unit_dir) == []
    assert root.files(root.applied) == UNITS
    # Their directory may be a link some day.
    root.etc.rename(root.root / "moved")
    root.etc.symlink_to(root.root / "moved")
    _drop_in_dirs.cache_clear()
    root.apply()
    assert read_installed(root.paths).jobs["a"].source == f"{root.root}/moved/a.yaml"
    (root.root / "moved/a.yaml").unlink()
    root.apply()
    assert root.files(root.applied) == []


def test_a_unit_of_somebody_else_is_not_hidden_by_a_generated_one(root: Root) -> None:
    foreign = root.root / "usr/lib/systemd/system/sdcron-exporter.service"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("[Service]\nExecStart=/usr/bin/exporter\n")
    root.write(root.etc, exporter=DAILY, a=DAILY)
    generated = root.generate(at_boot=True)
    assert "sdcron-exporter.service" not in generated
    assert "sdcron-a.service" in generated
    assert root.problems == (f"{root.etc}/exporter.yaml: sdcron-exporter.service exists and is not sdcron's",)


def test_what_a_power_cut_has_left_half_done_is_not_taken_for_whole(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    (root.root / "var/lib/sdcron/apply.journal").write_text("{}")
    assert root.script("", "--check") == 1
    assert root.script(f"touch {root.root}/called") == 0
    assert (root.root / "called").exists()


def test_an_apply_that_reloads_starts_no_compiler(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    (root.root / "var/lib/sdcron/apply.journal").write_text("{}")
    root.paths.lock_file.parent.mkdir(parents=True, exist_ok=True)
    with root.paths.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert root.script("exit 9", "--check") == 0
    assert root.script("exit 9", "--check") == 1


def test_a_directory_that_is_a_link_may_lead_elsewhere(root: Root) -> None:
    for number, schedule in enumerate(("@daily", "@weekly")):
        (root.root / f"release-{number}").mkdir()
        root.write(root.root / f"release-{number}", a=f"schedule: '{schedule}'\ncommand: /bin/true\n")
    root.etc.rmdir()
    root.etc.symlink_to("../../release-0")
    _drop_in_dirs.cache_clear()
    root.apply()
    assert root.script("", "--check") == 0
    root.etc.unlink()
    root.etc.symlink_to("../../release-1")
    assert root.script("", "--check") == 1


def test_others_who_may_write_to_a_directory_hide_nothing_with_it(root: Root) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, of whom it is asked that nobody else may write")
    root.write(root.usr, a=DAILY)
    root.apply()
    root.etc.chmod(0o775)
    root.write(root.etc, a="")
    assert any("so others decide what runs" in problem for problem in root.apply(lenient=True))
    assert root.files(root.applied) == UNITS


def test_a_file_that_was_cut_off_to_nothing_removes_no_job(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    root.write(root.etc, a="")
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-a.timer"]
    assert [problem.partition(": ")[2] for problem in root.apply(lenient=True)] == ["the file is empty"]
    assert root.files(root.applied) == UNITS
    with pytest.raises(JobFileError):
        root.apply()


def test_what_was_left_out_for_a_mistake_is_tried_again_by_each_boot_and_by_no_reload(root: Root) -> None:
    root.write(root.etc, a=DAILY, bad="schedule: x\n")
    assert root.apply(lenient=True)
    assert root.paths.generated_from.read_text().startswith("# 2 1 left out\n")
    called = root.root / "called"
    for is_boot in (True, False, True):
        called.unlink(missing_ok=True)
        root.paths.generated_mark.unlink(missing_ok=True) if is_boot else None
        assert root.script(f"touch {called}") == 0
        root.has_booted()
        assert called.exists() == is_boot
    assert root.script("", "--check") == 1
    (root.etc / "bad.yaml").unlink()
    assert not root.apply(lenient=True)
    assert root.script("", "--check") == 0


def test_what_was_for_the_last_boot_stays_if_others_wait_for_it(root: Root) -> None:
    root.run.mkdir(parents=True)
    root.write(root.run, up=DAILY)
    root.write(root.etc, down="command: /bin/true\nafter: up\n")
    root.apply()
    (root.run / "up.yaml").unlink()
    root.generate(at_boot=True)
    assert root.wanted() == ["sdcron-up.timer"]
    assert any("'after' of job down" in line for line in root.apply(lenient=True))
    assert sorted(read_installed(root.paths).jobs) == ["down", "up"]


def test_what_was_for_the_last_boot_is_gone_with_it_and_what_it_hid_is_to_be_applied(root: Root) -> None:
    root.write(root.usr, a=DAILY)
    root.run.mkdir(parents=True)
    root.write(root.run, a="schedule: '@reboot'\ncommand: /bin/override\n")
    root.apply()
    shutil.rmtree(root.run)
    root.generate(at_boot=True)
    assert root.wanted() == []
    assert "override" not in (root.generated / "sdcron-a.service").read_text()


def test_what_came_into_a_directory_after_the_generator_had_looked_is_there_once_it_is_applied(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    backend = FakeBackend(root.paths)
    dropped.begin_late(Place(root.paths), backend)
    dropped.begin_late(Place(root.paths), backend)
    # What it missed meanwhile is made good, as by the boot that could not see it.
    assert backend.mutations() == ["reload", "start sdcron-a.timer"]
    assert (root.paths.generator_out / "sdcron-a.timer").exists()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_what_hid_a_job_for_the_last_boot_is_never_begun_in_its_place(root: Root, late: bool, waits: bool) -> None:
    root.run.mkdir(parents=True)
    root.write(root.run, a="schedule: '@daily'\ncommand: /bin/of-last-boot\n")
    root.write(root.usr, a=DAILY, b=DAILY, **({"later": "command: /bin/true\nafter: a\n"} if waits else {}))
    root.apply()
    (root.run / "a.yaml").unlink()
    if late:
        backend = FakeBackend(root.paths)
        root.mark.write_text("early\n")
        dropped.begin_late(Place(root.paths), backend)
        assert [call for call in backend.mutations() if call != "reload"] == ["start sdcron-b.timer"]
    else:
        root.generate(at_boot=True)
        assert root.wanted() == ["sdcron-b.timer"]
        assert "of-last-boot" not in (root.generated / "sdcron-a.service").read_text()


def test_a_file_whose_name_no_terminal_shows_keeps_no_other_from_being_applied(root: Root) -> None:
    root.write(root.etc, a=f"name: one\n{DAILY}", **{"my\u00a0own": f"name: one\n{DAILY}"}, other=DAILY)
    assert root.apply(lenient=True)
    assert "other" in read_installed(root.paths).jobs


def test_a_timer_that_systemd_will_not_start_keeps_no_other_from_being_applied(root: Root) -> None:
    root.write(root.etc, a=DAILY, b=DAILY)
    backend = FakeBackend(root.paths, refused={"sdcron-a.timer"})
    wanted = dropped.plan_paths(Place(root.paths), (), backend.active_timers(), lenient=True)
    problems = dropped.carry_out(Place(root.paths), Applier(root.paths, backend), wanted)
    assert [problem.path for problem in problems] == [f"{root.etc}/a.yaml"]
    assert sorted(read_installed(root.paths).jobs) == ["a", "b"]
    assert [*backend.active_timers()] == ["sdcron-b.timer"]
    # By hand it is all or nothing.
    strict = FakeBackend(root.paths, refused={"sdcron-a.timer"})
    root.write(root.etc, c=DAILY)
    wanted = dropped.plan_paths(Place(root.paths), (), strict.active_timers())
    with pytest.raises(BackendError):
        dropped.carry_out(Place(root.paths), Applier(root.paths, strict), wanted)
    assert sorted(read_installed(root.paths).jobs) == ["a", "b"]


def test_whatever_is_wrong_with_the_files_what_is_applied_begins_late(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.write(root.etc, a=DAILY)
    root.apply()
    root.mark.write_text("early\n")
    monkeypatch.setattr(dropped, "plan_paths", raises)
    backend = FakeBackend(root.paths)
    dropped.begin_late(Place(root.paths), backend)
    assert "start sdcron-a.timer" in backend.mutations()
    # Not what the boot has left out: its file may be gone.
    shutil.rmtree(root.paths.generator_out)
    backend = FakeBackend(root.paths)
    dropped.begin_late(Place(root.paths), backend)
    assert backend.mutations() == ["reload"]


def raises(*_: object, **__: object) -> None:
    raise SdcronError("systemd-analyze did not end within 60 s")


def test_no_job_file_is_left_and_one_could_not_be_read_when_they_were_applied(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    os.mkfifo(root.etc / "x.yaml")
    root.apply(lenient=True)
    for path in root.etc.iterdir():
        path.unlink()
    assert root.script(f"touch {root.root}/called") == 0
    assert (root.root / "called").exists()


def test_a_fifo_keeps_no_boot_waiting(root: Root) -> None:
    root.write(root.etc, a=DAILY)
    os.mkfifo(root.etc / "x.yaml")
    assert root.apply(lenient=True)
    assert root.script(f"touch {root.root}/called") == 0
    assert (root.root / "called").exists()


def test_where_only_a_path_can_be_applied_one_of_these_directories_is_as_any_other(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.write(root.etc, a=DAILY)
    for place in (Place(root.paths.of_engine()), Place(root.paths.transient(), transient=True)):
        assert [change.name for change in dropped.plan_paths(place, [root.etc], None).plan.changes] == ["a"]
    (root.root / "usr/lib/systemd/system-generators/sdcron-generator").unlink()
    assert [change.name for change in dropped.plan_paths(Place(root.paths), [root.etc], None).plan.changes] == ["a"]


def test_what_is_wrong_is_told_in_the_kernel_log_and_to_doctor_until_it_is_mended(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = root.root / "kmsg"
    log.touch()
    monkeypatch.setattr(generate_module, "_KERNEL_LOG", log)
    monkeypatch.setattr(generate_module, "system_paths", lambda: root.paths)
    root.write(root.etc, bad="schedule: x\ncommand: y\n", a=DAILY)
    root.write(root.etc, long=f"schedule: '{'y' * 2000}'\ncommand: y\n")
    root.generated.mkdir()
    assert generate_module.main([str(root.generated), "reload"]) == 0
    lines = log.read_bytes().splitlines()
    assert lines[0].startswith(f"<3>sdcron-generator: {root.etc}/bad.yaml:1:11: ".encode())
    assert max(map(len, lines)) <= 900
    told = root.paths.generator_log.read_text().splitlines()
    assert len(told) == len(lines)
    assert len(told[-1]) > 900
    for name in ("bad", "long"):
        (root.etc / f"{name}.yaml").unlink()
    root.apply()
    assert not root.paths.generator_log.exists()


def test_what_could_not_be_read_when_the_machine_booted_is_started_then_as_a_boot_does(root: Root) -> None:
    root.write(root.etc, a=DAILY, gone=DAILY, masked=DAILY, kept=DAILY, waits="command: /bin/true\nafter: kept\n")
    root.apply()
    (root.etc / "gone.yaml").unlink()
    (root.etc / "kept.yaml").unlink()
    backend = FakeBackend(root.paths, refused={"sdcron-a.timer"})
    root.paths.generated_mark.write_text("early\n")
    for _ in range(2):
        dropped.begin_late(Place(root.paths), backend)
    started = [f"start sdcron-{name}.timer" for name in ("a", "kept", "masked")]
    assert sorted(backend.mutations()) == ["reload", *started]
    assert root.paths.generated_mark.read_text() == ""


def test_an_edit_shows_all_that_is_applied_with_it(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "connect", lambda _: nullcontext(None))
    root.write(root.etc, a=DAILY, b=DAILY)
    root.write(root.etc, two="jobs:\n  one: {command: /bin/true}\n  two: {command: /bin/true}\n")
    root.apply()
    (root.etc / "b.yaml").unlink()

    def planned(name: str, before: str, after: str) -> list[str]:
        path = root.etc / f"{name}.yaml"
        todo = editing.plan_of(Place(root.paths), editing.Draft(path, path, before, after))
        return [f"{change.action} {change.name}" for change in todo.changes]

    assert planned("a", DAILY, f"{DAILY}description: x\n") == ["change a", "remove b"]
    (root.etc / "b.yaml").write_text(DAILY)
    two = (root.etc / "two.yaml").read_text()
    assert planned("two", two, two.replace("two: {", "two: {description: x, ")) == ["change two"]
    # A mistake in one file keeps nobody from another.
    root.write(root.etc, bad="x: y\n")
    assert planned("a", DAILY, f"{DAILY}description: x\n") == ["change a"]
    # Without the generator they are as any others.
    (root.root / "usr/lib/systemd/system-generators/sdcron-generator").unlink()
    assert not dropped.is_dropped_in(Place(root.paths), f"{root.etc}/a.yaml")
    assert not dropped.is_dropped_in(make_place(user=False, root=root.root, backend="auto"), f"{root.etc}/a.yaml")


def test_they_are_validated_and_planned_without_a_path(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.write(root.etc, a=DAILY)
    root.write(root.usr, a="hidden: x\n", b=DAILY)
    assert run(["validate", "--root", str(root.root)]) == 0
    assert capsys.readouterr().out == "2 jobs, no problems\n"
    root.write(root.etc, bad="schedule: x\n")
    assert run(["validate", "--root", str(root.root)]) == 3
    assert f"{root.etc}/bad.yaml:1:11: " in capsys.readouterr().err
    for command in ("plan", "apply"):
        assert run([command, "--root", str(root.root)]) == 2
        assert "are taken up when that machine boots" in capsys.readouterr().err


def test_what_was_left_out_is_told_beside_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem("/bad.yaml", 1, 1, "no good")
    _show(Plan(), (), json=False, done=True, left_out=[problem])
    told = capsys.readouterr()
    assert told.out == "nothing to do: 0 unchanged\n"
    assert told.err.splitlines() == [
        "/bad.yaml:1:1: no good",
        "sdcron: 1 problem, what has them is left as it was, all else is applied",
    ]
    _show(Plan(), (), json=True, done=True, left_out=[problem])
    told = capsys.readouterr()
    assert (json.loads(told.out)["problems"][0]["message"], told.err) == ("no good", "")


def test_lenient_is_for_the_drop_in_directories(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["apply", "--lenient", "--root", str(tmp_path), str(tmp_path)]) == 2
    assert "--lenient is for the drop-in directories" in capsys.readouterr().err
    assert run(["apply", "--lenient", "--dry-run", "--root", str(tmp_path)]) == 2
    assert "--dry-run shows what a strict apply would do" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
