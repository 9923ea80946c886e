"""Apply against a service manager in memory: what it does, in which order, and what a fault at any step leaves."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcron.apply import Applier, apply_lock
from sdcron.errors import BackendError, JobFileError, LockHeldError, SdcronError
from sdcron.installed import read_installed
from sdcron.job import Missed, Overlap, Retry
from sdcron.plan import make_plan
from tests.compiled import DIRECTORY, compiled, install, paths_below, tree
from tests.fake_backend import FakeBackend
from tests.faults import Killed, Power, Trap, armed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.paths import Paths
    from sdcron.units import CompiledJob

RETRY = Retry(timedelta(minutes=5), attempts=2)


@dataclass
class Host:
    """One scope with its fake service manager."""

    paths: Paths
    backend: FakeBackend
    dropped: bool = False
    """Whether its jobs are from the drop-in directories."""

    def apply(self, jobs: Sequence[CompiledJob]) -> None:
        """What the command does: recover, plan, carry out."""
        jobs = self.dropped_in(jobs)
        applier = Applier(self.paths, self.backend)
        applier.recover()
        installed = read_installed(self.paths)
        loaded = self.backend.loaded()
        plan = make_plan(jobs, installed, loaded, directories={DIRECTORY}, generated=self.dropped)
        applier.carry_out(plan, digests=digests(jobs) if self.dropped else None)

    def dropped_in(self, jobs: Sequence[CompiledJob]) -> list[CompiledJob]:
        """The jobs as they are there, if they are."""
        return [replace(job, generated=self.dropped) for job in jobs]

    def holds(self, jobs: Sequence[CompiledJob]) -> None:
        """Assert that exactly these jobs are applied and run, and nothing else of sdcron is left."""
        assert self.backend.accidents == []
        assert self.backend.stale() == []
        assert self.backend.active() == sorted(timer for job in jobs for timer in job.start)
        found = tree(self.paths)
        units, links, above = ("etc/systemd/system", "etc/systemd/system/timers.target.wants", "..")
        if self.dropped:
            units, links, above = ("var/lib/sdcron/generated", "var/lib/sdcron/generated.wanted", "../generated")
        wanted = {f"{units}/{unit.name}": unit.text for job in jobs for unit in job.units} | {
            f"{links}/{name}": f"-> {above}/{name}" for job in jobs for name in job.enable
        }
        if self.dropped:
            wanted["var/lib/sdcron/generated.sha256"] = digests(jobs)
        wanted |= {f"var/lib/sdcron/scripts/{job.name}": job.script for job in jobs if job.script is not None}
        chained = [job for job in jobs if job.needs or any("@after" in unit.name for unit in job.units)]
        wanted |= {f"var/lib/sdcron/graph/{job.name}/lock": "" for job in chained}
        drop_ins = [path for unit_dir in self.paths.unit_dirs for path in unit_dir.glob("sdcron-*.d")]
        directories = [*drop_ins, *self.paths.state_dir.glob("graph/*")]
        assert [path for path in directories if not any(path.iterdir())] == []
        volatile = ("var/lib/systemd/timers/", "run/sdcron/", "run/systemd/generator/")
        assert {name: text for name, text in found.items() if not name.startswith(volatile)} == wanted
        stamps = {name.rpartition("/stamp-")[2] for name in found if "/stamp-" in name}
        persistent = {unit.name for job in jobs for unit in job.units if "\nPersistent=yes\n" in unit.text}
        assert stamps <= persistent
        marks = {name.rpartition("/")[2] for name in found if "/applied-this-boot/" in name}
        assert marks <= {job.name for job in jobs}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of applies need not reach the disk, nor wait for a service manager that answers at once."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An empty one."""
    return new_host(tmp_path)


def new_host(root: Path) -> Host:
    paths = paths_below(root)
    return Host(paths, FakeBackend(paths))


def digests(jobs: Sequence[CompiledJob]) -> str:
    """Stands for those of the files of these jobs."""
    return "".join(sorted(f"{job.name} {hash(job.units)}\n" for job in jobs))


def age_stamps(paths: Paths) -> None:
    """Let every persistent timer have run an hour ago."""
    for stamp in paths.stamp_dir.glob("stamp-*"):
        os.utime(stamp, (time.time() - 3600, time.time() - 3600))


def test_new_jobs_are_written_enabled_and_started_without_a_reload(host: Host) -> None:
    jobs = [compiled("a"), compiled("b", script="true", retry=RETRY), compiled("c", None)]
    host.apply(jobs)
    host.holds(jobs)
    assert host.backend.mutations() == ["start sdcron-a.timer", "start sdcron-b.timer"]


def test_a_second_apply_writes_nothing_and_asks_for_nothing(host: Host) -> None:
    jobs = [compiled("a"), compiled("b", "@reboot"), compiled("c", script="true"), compiled("d", enabled=False)]
    host.apply(jobs)
    host.backend.calls.clear()
    with armed(Trap([host.paths.root])) as trap:
        host.apply(jobs)
    assert trap.steps == []
    assert host.backend.calls == []


def test_the_failed_state_of_a_run_that_outlived_its_job_is_forgotten_by_the_next_apply(host: Host) -> None:
    host.apply([compiled("a"), compiled("b")])
    host.backend.set_active("sdcron-a.service", "activating")
    host.backend.set_active("sdcron-b.service", "failed")
    host.apply([compiled("b")])
    host.backend.set_active("sdcron-a.service", "failed")
    host.apply([compiled("b")])
    assert "sdcron-a.service" not in host.backend.memory
    assert host.backend.memory["sdcron-b.service"].active == "failed"


def test_what_a_job_adds_to_another_that_is_in_memory_needs_one_reload_and_leaves_that_one_alone(host: Host) -> None:
    host.apply([compiled("a"), compiled("failed")])
    host.backend.set_active("sdcron-failed.service", "failed")
    host.backend.calls.clear()
    jobs = [compiled("a"), compiled("failed"), compiled("d", None, after=("a", "failed"))]
    host.apply(jobs)
    host.holds(jobs)
    assert host.backend.mutations() == ["reload"]
    assert host.backend.memory["sdcron-failed.service"].active == "failed"
    host.apply(jobs[:2])
    host.holds(jobs[:2])


def test_tokens_go_with_their_job_and_with_another_list_of_jobs_to_be_after(host: Host) -> None:
    jobs = [compiled("a"), compiled("b"), compiled("d", None, after=("a", "b"), needs=("a",))]
    host.apply(jobs)
    graph = host.paths.graph_dir / "d"
    # Who can open a lock can hold it.
    assert (graph / "lock").stat().st_mode & 0o077 == 0

    def put(*names: str) -> None:
        for name in names:
            (graph / name).write_text("ok\n")

    put("a.end", "a.ok", "due", "b.told")
    host.apply([*jobs[:2], compiled("d", "0 1 * * *", after=("a", "b"), needs=("a",), command=("false",))])
    assert {path.name for path in graph.iterdir()} == {"lock", "a.end", "a.ok", "due", "b.told"}
    host.apply([*jobs[:2], compiled("d", None, after=("a",), needs=("a",))])
    assert {path.name for path in graph.iterdir()} == {"lock", "a.ok"}
    put("a.end", "a.told")
    host.apply([*jobs[:2], compiled("d", None, after=("a",), needs=("a",), enabled=False)])
    assert {path.name for path in graph.iterdir()} == {"lock", "a.ok"}
    host.apply(jobs[:2])
    host.holds(jobs[:2])
    assert not host.paths.graph_dir.exists()


def test_a_drop_in_of_somebody_else_is_left_as_it_is_and_stands_in_the_way_of_none(host: Host) -> None:
    directory = host.paths.unit_dir / "sdcron-a.service.d"
    directory.mkdir(parents=True)
    theirs = directory / "override.conf"
    theirs.write_text("[Service]\nNice=1\n")
    jobs = [compiled("a"), compiled("d", None, after=("a",))]
    host.apply(jobs)
    host.apply([])
    assert list(directory.iterdir()) == [theirs]
    (directory / "sdcron-d.conf").write_text("[Service]\nNice=1\n")
    with pytest.raises(JobFileError) as raised:
        host.apply(jobs)
    assert "sdcron-a.service.d/sdcron-d.conf exists and is not sdcron's" in raised.value.problems[0].message


def test_a_timer_stops_before_its_file_changes_and_starts_after(host: Host) -> None:
    host.apply([compiled("a"), compiled("same")])
    with armed(Trap([host.paths.unit_dir])) as trap:
        host.apply([compiled("a", "0 4 * * *"), compiled("same")])
    steps = [step for step in trap.steps if "rename" in step or not step.startswith(("os.", "open"))]
    unit = host.paths.unit_dir / "sdcron-a.timer"
    staged = unit.with_name(".sdcron-stage-sdcron-a.timer")
    assert steps[:2] == ["stop sdcron-a.timer", f"os.rename {staged} {unit}"]
    assert steps[-1] == "start sdcron-a.timer"
    assert not any("same" in step for step in trap.steps)
    host.holds([compiled("a", "0 4 * * *"), compiled("same")])


def test_a_changed_persistent_timer_is_stamped_and_an_unchanged_one_keeps_its_stamp(host: Host) -> None:
    host.apply([compiled("schedule"), compiled("command"), compiled("skip", missed=Missed.SKIP)])
    age_stamps(host.paths)
    before = time.time_ns()
    command = compiled("command", command=("false",))
    after = [compiled("schedule", "0 4 * * *"), command, compiled("skip", "0 4 * * *", missed=Missed.SKIP)]
    host.apply(after)
    host.holds(after)
    stamp = host.paths.stamp_dir / "stamp-sdcron-schedule.timer"
    assert before <= stamp.stat().st_mtime_ns <= time.time_ns()
    # A time that fell due while the timer was stopped is still caught up.
    assert (host.paths.stamp_dir / "stamp-sdcron-command.timer").stat().st_mtime < time.time() - 3000
    assert not (host.paths.stamp_dir / "stamp-sdcron-skip.timer").exists()


def test_timers_held_by_a_boot_need_one_reload_for_any_number_of_changes(host: Host) -> None:
    before = [compiled(name) for name in "abcdef"]
    host.apply(before)
    host.backend.boot()
    age_stamps(host.paths)
    after = [compiled("a", "0 4 * * *"), compiled("b", command=("false",)), compiled("d"), compiled("e"), compiled("f")]
    host.apply(after)
    host.holds(after)
    assert host.backend.mutations().count("reload") == 1
    assert not any(call.endswith(("d.timer", "e.timer", "f.timer")) for call in host.backend.mutations())


def test_plain_timers_that_are_held_are_let_go_by_the_same_reload_and_begin_anew(host: Host) -> None:
    plain = {"missed": Missed.SKIP}
    host.apply([compiled("a", **plain), compiled("b", **plain), compiled("c", **plain)])
    host.backend.boot()
    # Only the command of a, b's time; c stays, and stays in memory.
    after = [compiled("a", command=("false",), **plain), compiled("b", "0 4 * * *", **plain), compiled("c", **plain)]
    with armed(Trap([host.paths.wants_dir])) as trap:
        host.apply(after)
    host.holds(after)
    assert host.backend.mutations().count("reload") == 1
    assert not any("c.timer" in step for step in trap.steps)
    # One that somebody stopped is still where it began.
    host.backend.stop(["sdcron-c.timer"])
    host.apply(after)
    host.holds(after)


def test_a_persistent_timer_that_somebody_stopped_does_not_catch_up_when_it_is_started_again(host: Host) -> None:
    host.apply([compiled("a"), compiled("b")])
    host.backend.stop(["sdcron-a.timer", "sdcron-b.timer"])
    age_stamps(host.paths)
    host.apply([compiled("a", command=("false",)), compiled("b")])
    for name in "ab":
        assert (host.paths.stamp_dir / f"stamp-sdcron-{name}.timer").stat().st_mtime > time.time() - 60


def test_a_retry_that_waits_waits_anew_for_another_delay_and_not_for_any_other_edit(host: Host) -> None:
    host.apply([compiled("a", retry=RETRY), compiled("b", retry=RETRY)])
    waiting = ["sdcron-a@retry-1.timer", "sdcron-b@retry-1.timer"]
    host.backend.start(waiting)
    host.backend.calls.clear()
    shorter = Retry(timedelta(minutes=1), attempts=2)
    host.apply([compiled("a", retry=shorter), compiled("b", command=("false",), retry=RETRY)])
    assert host.backend.accidents == []
    assert set(waiting) <= set(host.backend.active())
    assert [call for call in host.backend.mutations() if "retry-1" in call and "reset" not in call] == [
        "stop sdcron-a@retry-1.timer",
        "start sdcron-a@retry-1.timer",
    ]


def test_a_running_job_is_not_touched_and_its_new_text_needs_one_reload(host: Host) -> None:
    host.apply([compiled("a")])
    host.backend.set_active("sdcron-a.service", "activating")
    host.backend.calls.clear()
    after = [compiled("a", command=("false",))]
    host.apply(after)
    assert host.backend.mutations() == [
        "stop sdcron-a.timer",
        "reset_failed sdcron-a.service",
        "reload",
        "start sdcron-a.timer",
    ]
    assert host.backend.memory["sdcron-a.service"].active == "activating"
    host.holds(after)


def test_only_the_schedule_of_a_running_job_changes_without_a_reload(host: Host) -> None:
    host.apply([compiled("a")])
    host.backend.set_active("sdcron-a.service", "activating")
    host.apply([compiled("a", "0 4 * * *")])
    host.holds([compiled("a", "0 4 * * *")])
    assert "reload" not in host.backend.mutations()


def test_a_failed_job_is_read_afresh_without_a_reload(host: Host) -> None:
    host.apply([compiled("a")])
    host.backend.set_active("sdcron-a.service", "failed")
    after = [compiled("a", command=("false",))]
    host.apply(after)
    host.holds(after)
    assert "reload" not in host.backend.mutations()


def test_a_waiting_retry_survives_a_change_and_ends_with_the_job(host: Host) -> None:
    host.apply([compiled("a", retry=RETRY)])
    host.backend.start(["sdcron-a@retry-1.timer"])
    after = compiled("a", "0 4 * * *", retry=Retry(timedelta(minutes=6), attempts=1))
    host.apply([after])
    assert host.backend.active() == ["sdcron-a.timer", "sdcron-a@retry-1.timer"]
    assert host.backend.stale() == []
    host.apply([])
    host.holds([])
    assert host.backend.memory == {}


def test_a_removed_job_leaves_nothing_whatever_state_it_is_in(host: Host) -> None:
    jobs = [
        compiled("failed"),
        compiled("script", script="true"),
        compiled("boot", ("@reboot", "0 3 * * *")),
        compiled("retried", retry=RETRY),
        compiled("off", enabled=False),
    ]
    host.apply(jobs)
    host.backend.set_active("sdcron-failed.service", "failed")
    host.backend.start(["sdcron-retried@retry-2.timer"])
    (host.paths.runtime_dir / "retry").mkdir()
    (host.paths.runtime_dir / "retry" / "retried").write_text("2\n")
    host.apply([])
    assert tree(host.paths) == {}
    assert host.backend.memory == {}
    assert "reload" not in host.backend.mutations()


def test_what_is_not_ours_is_left_as_it_is(host: Host) -> None:
    mine = {
        host.paths.unit_dir / "sdcron-collector.service": "[Service]\nExecStart=/bin/true\n",
        host.paths.unit_dir / "sdcron-a.service.d" / "override.conf": "[Service]\nNice=5\n",
        host.paths.stamp_dir / "stamp-other.timer": "",
        host.paths.wants_dir / "other.timer": "",
    }
    for path, text in mine.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    other = compiled("other", directory="/srv/jobs")
    install(host.paths, [other])
    before = tree(host.paths)
    for jobs in ([compiled("a")], [compiled("a", "0 4 * * *"), compiled("b")], []):
        host.apply(jobs)
        assert before.items() <= tree(host.paths).items()
    assert tree(host.paths) == before


def test_a_job_that_runs_at_boot_is_marked_and_not_started(host: Host) -> None:
    host.apply([compiled("boot", "@reboot"), compiled("both", ("@reboot", "0 3 * * *"))])
    assert host.backend.mutations() == ["start sdcron-both.timer"]
    assert sorted(path.name for path in host.paths.armed_boot_dir.iterdir()) == ["boot", "both"]


def test_files_change_alone_where_no_systemd_runs(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    stamp = paths.stamp_dir / "stamp-sdcron-old.timer"
    install(paths, [compiled("old"), compiled("boot", "@reboot")])
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    os.utime(stamp, (1000, 1000))
    jobs = [compiled("a"), compiled("old", "0 5 * * *"), compiled("boot", "@reboot", description="new")]
    plan = make_plan(jobs, read_installed(paths), None, directories={DIRECTORY})
    with armed(Trap([tmp_path])) as trap:
        Applier(paths, None).carry_out(plan)
    assert all(step.startswith(("os.", "open")) for step in trap.steps)
    assert read_installed(paths).jobs["a"].same_files(jobs[0])
    # The image may boot for the first time in a year: no stamp, so no catch-up, and no mark that stops @reboot.
    assert [path.name for path in paths.stamp_dir.iterdir()] == ["stamp-sdcron-old.timer"]
    assert stamp.stat().st_mtime > time.time() - 60
    assert not paths.armed_boot_dir.exists()


def test_a_timer_about_to_elapse_is_waited_for_unless_it_would_catch_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    plain = {"missed": Missed.SKIP}
    host.apply([compiled("a", **plain), compiled("b", **plain), compiled("c")])
    now = datetime.now(UTC)
    host.backend.elapse = {
        "sdcron-a.timer": now + timedelta(seconds=1.5),
        "sdcron-b.timer": now + timedelta(seconds=1.9),
        "sdcron-c.timer": now + timedelta(seconds=1),
    }
    host.apply([compiled("a", **plain), compiled("b", **plain), compiled("c", "0 4 * * *")])
    assert slept == []
    host.apply([compiled("a", "0 4 * * *", **plain), compiled("b", **plain), compiled("c", "0 4 * * *")])
    assert len(slept) == 1
    assert 1.5 < slept[0] < 3


def test_a_run_that_this_boot_still_owes_goes_on_waiting_when_its_job_is_edited(host: Host) -> None:
    host.apply([compiled("a", "@reboot"), compiled("b", "@reboot")])
    host.backend.boot()
    host.backend.elapse = {f"sdcron-{name}.timer": datetime.now(UTC) + timedelta(hours=1) for name in "ab"}
    host.apply([compiled("a", "@reboot", description="edited"), compiled("b", "@reboot", enabled=False)])
    assert host.backend.memory["sdcron-a.timer"].active == "active"
    assert ("stop", "sdcron-a.timer") not in host.backend.calls
    assert ("stop", "sdcron-b.timer") in host.backend.calls


def test_a_disabled_job_is_idle_a_waiting_retry_of_it_included(host: Host) -> None:
    host.apply([compiled("a", retry=RETRY)])
    host.backend.start(["sdcron-a@retry-1.timer"])
    host.apply([compiled("a", retry=RETRY, enabled=False)])
    assert host.backend.active() == []
    assert [path.name for path in host.paths.unit_dir.glob("sdcron-*@*")] == []


# Faults

CHAIN = [
    compiled("a", retry=RETRY),
    compiled("b", None, after=("a",), needs=("a",)),
    compiled("c", after=("a", "b"), needs=("d",), retry=RETRY),
    compiled("d", None, after=("a",)),
]
SCENES: dict[str, tuple[list[CompiledJob], list[CompiledJob]]] = {
    "first apply": ([], [compiled("a"), compiled("b", script="true", retry=RETRY), compiled("c", ("@reboot",))]),
    "first chain": ([compiled("a", retry=RETRY)], CHAIN),
    "last chain": (CHAIN, [compiled("a", retry=RETRY)]),
    "other chain": (
        CHAIN,
        [
            compiled("a", retry=RETRY),
            compiled("b", None, needs=("a",)),
            compiled("c", "0 4 * * *", after=("b",)),
            compiled("d", None, after=("a",), needs=("c",), enabled=False),
        ],
    ),
    "last removal": (
        [compiled("a", retry=RETRY), compiled("b", script="true"), compiled("c", ("@reboot", "1 * * * *"))],
        [],
    ),
    "overlap": (
        [
            compiled("queues", overlap=Overlap.QUEUE),
            compiled("allows", overlap=Overlap.ALLOW, max_parallel=3),
            compiled("replaces", overlap=Overlap.REPLACE, retry=RETRY),
            compiled("gone", ("@reboot", "1 * * * *"), overlap=Overlap.QUEUE),
        ],
        [
            compiled("queues", overlap=Overlap.ALLOW, max_parallel=2),
            compiled("allows", overlap=Overlap.REPLACE),
            compiled("replaces"),
            compiled("new", overlap=Overlap.QUEUE, retry=RETRY),
        ],
    ),
    "everything": (
        [
            compiled("same"),
            compiled("schedule"),
            compiled("command", retry=RETRY),
            compiled("script", script="old"),
            compiled("gone", retry=RETRY, script="x"),
            compiled("boot", "@reboot"),
            compiled("disabled"),
            compiled("kind", "@reboot"),
        ],
        [
            compiled("same"),
            compiled("schedule", "0 4 * * *"),
            compiled("command", command=("false",), retry=Retry(timedelta(minutes=1), attempts=1)),
            compiled("script", script="new"),
            compiled("new", retry=RETRY),
            compiled("boot", ("@reboot", "0 9 * * *")),
            compiled("disabled", enabled=False),
            compiled("kind", "0 0 * * *"),
        ],
    ),
}


#: Job files that are applied by their path; that are dropped in; and that were applied by their path before.
WAYS = ("by path", "dropped in", "moved in")


def prepared(root: Path, before: Sequence[CompiledJob], *, booted: bool, way: str = WAYS[0]) -> Host:
    host = new_host(root)
    host.dropped = way == WAYS[1]
    host.apply(before)
    host.dropped = way != WAYS[0]
    if booted:
        host.backend.boot()
    age_stamps(host.paths)
    host.backend.calls.clear()
    return host


def whole_units(host: Host, *states: Sequence[CompiledJob]) -> None:
    """Assert that every visible unit is, to the byte, one that some state has."""
    known = {(unit.name, unit.text) for state in states for job in state for unit in job.units}
    for unit_dir in host.paths.unit_dirs:
        for path in (*unit_dir.glob("sdcron-*"), *unit_dir.glob("sdcron-*.d/sdcron-*")):
            if path.is_file():
                assert (str(path.relative_to(unit_dir)), path.read_text()) in known


MOVED = (
    [compiled("a"), compiled("b", script="true", retry=RETRY)],
    [compiled("a", "0 4 * * *"), *SCENES["first apply"][1][1:2]],
)
CASES = [
    *((WAYS[0], *states) for states in SCENES.values()),
    *((WAYS[1], *SCENES[scene]) for scene in ("everything", "other chain")),
    (WAYS[2], *MOVED),
]
CASE_NAMES = [*SCENES, "dropped in", "dropped in chain", "moved in"]


@pytest.mark.parametrize("booted", [False, True], ids=["fresh", "booted"])
@pytest.mark.parametrize(("way", "before", "after"), CASES, ids=CASE_NAMES)
def test_after_a_kill_at_any_step_the_next_apply_reaches_the_same_end(
    tmp_path: Path, way: str, before: list[CompiledJob], after: list[CompiledJob], booted: bool
) -> None:
    for at in range(1, 1000):
        host = prepared(tmp_path / str(at), before, booted=booted, way=way)
        power = Power([host.paths.root], at)
        try:
            with armed(power.trap):
                host.apply(after)
        except Killed:
            whole_units(host, before, after)
        else:
            break
        # The machine may also go down with it.
        if at % 2 and booted:
            host.backend.boot()
        host.apply(after)
        host.holds(after)
    assert at > 10
    host.holds(after)


def test_a_kill_while_recovering_from_a_kill_is_recovered_too(tmp_path: Path) -> None:
    before, after = SCENES["everything"]
    first_kills = (20, 40, 60, 80, 100)
    for first in first_kills:
        for second in range(1, 400, 23):
            host = prepared(tmp_path / f"{first}-{second}", before, booted=False)
            for at in (first, second):
                power = Power([host.paths.root], at)
                try:
                    with armed(power.trap):
                        host.apply(after)
                except Killed:
                    whole_units(host, before, after)
            host.apply(after)
            host.holds(after)


@pytest.mark.parametrize("booted", [False, True], ids=["fresh", "booted"])
@pytest.mark.parametrize(("way", "before", "after"), CASES, ids=CASE_NAMES)
def test_a_failure_at_any_step_restores_what_was_there(
    tmp_path: Path, way: str, before: list[CompiledJob], after: list[CompiledJob], booted: bool
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failed = 0
    for at in range(1, 1000):
        host = prepared(tmp_path / str(at), before, booted=booted, way=way)
        trap = Trap([host.paths.root], at, full)
        stamps = {path.name for path in host.paths.stamp_dir.glob("*")}
        active = host.backend.active()
        try:
            with armed(trap):
                host.apply(after)
        except OSError:
            failed += 1
            assert host.backend.active() == active, trap.steps[at - 1]
            host.dropped = way == WAYS[1]
            host.holds(before)
            left = {path.name for path in host.paths.stamp_dir.glob("*")}
            assert left == stamps, trap.steps[at - 1]
        if len(trap.steps) < at:
            break
    assert failed > 10


def test_a_full_disk_changes_nothing_and_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [compiled("a"), compiled("b", script="old")]
    host.apply(before)
    host.backend.calls.clear()
    real_open = os.open

    def full(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(host.paths.unit_dir)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        host.apply([compiled("a", "0 4 * * *"), compiled("c")])
    assert host.backend.calls == []
    monkeypatch.undo()
    host.holds(before)


def test_a_unit_that_does_not_start_brings_everything_back_and_says_so(host: Host) -> None:
    before = [compiled("a"), compiled("gone", retry=RETRY)]
    host.apply(before)
    age_stamps(host.paths)
    host.backend.refused = {"sdcron-new.timer"}
    with pytest.raises(BackendError, match=r"could not start sdcron-new\.timer"):
        host.apply([compiled("a", "0 4 * * *"), compiled("new")])
    host.holds(before)


def test_a_retry_that_waits_goes_on_waiting_when_a_change_is_taken_back(host: Host) -> None:
    before = [compiled("a", retry=RETRY)]
    host.apply(before)
    host.backend.start(["sdcron-a@retry-1.timer"])
    host.backend.refused = {"sdcron-new.timer"}
    with pytest.raises(BackendError):
        host.apply([compiled("a", "0 4 * * *", retry=RETRY), compiled("new")])
    assert host.backend.active() == ["sdcron-a.timer", "sdcron-a@retry-1.timer"]


def test_a_timer_that_cannot_start_any_more_does_not_block_applies_for_ever(host: Host) -> None:
    before = [compiled("a"), compiled("b")]
    host.apply(before)
    power = Power([host.paths.root], 30)
    with pytest.raises(Killed), armed(power.trap):
        host.apply([compiled("a", "0 4 * * *"), compiled("b", "0 4 * * *"), compiled("c"), compiled("d")])
    host.backend.stop(["sdcron-a.timer"])
    host.backend.refused = {"sdcron-a.timer"}
    with pytest.raises(BackendError, match=r"could not start sdcron-a\.timer"):
        host.apply(before)
    host.apply([compiled("b")])
    host.holds([compiled("b")])


def test_a_journal_that_cannot_be_read_is_told_with_what_to_do(host: Host) -> None:
    host.paths.state_dir.mkdir(parents=True)
    for text in ("", "[]", '{"no": 1}', "\0"):
        host.paths.journal_file.write_text(text)
        with pytest.raises(SdcronError, match=r"apply\.journal cannot be read") as caught:
            host.apply([compiled("a")])
        assert "delete that file" in caught.value.hint


# Any machine, any edit

NAMES = ("a", "b", "c")
COMPILED = st.builds(
    lambda name, schedule, keys: compiled(name, schedule, **keys),
    st.sampled_from(NAMES),
    st.sampled_from(["0 3 * * *", "0 4 * * *", "@reboot", ("@reboot", "0 3 * * *"), None]),
    st.sampled_from(
        [
            {},
            {"command": ("false",)},
            {"script": "one"},
            {"script": "two", "retry": RETRY},
            {"retry": Retry(timedelta(minutes=1), attempts=1)},
            {"missed": Missed.SKIP},
            {"enabled": False},
            {"after": ("a",)},
            {"after": ("b", "c"), "needs": ("a",)},
            {"needs": ("c",), "enabled": False},
            {"overlap": Overlap.QUEUE},
            {"overlap": Overlap.QUEUE, "retry": RETRY},
            {"overlap": Overlap.ALLOW, "max_parallel": 3},
            {"overlap": Overlap.REPLACE},
        ]
    ),
)
DIRECTORIES = st.lists(COMPILED, max_size=3, unique_by=lambda job: job.name)


@settings(max_examples=60)
@given(states=st.lists(DIRECTORIES, min_size=2, max_size=4), data=st.data())
def test_any_series_of_applies_with_kills_between_ends_where_it_should(
    states: list[list[CompiledJob]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as root:
        host = new_host(Path(root))
        for before, after in zip([[], *states], states, strict=False):
            if data.draw(st.booleans(), label="booted"):
                host.backend.boot()
            for name in data.draw(st.sets(st.sampled_from(NAMES)), label="busy"):
                if (host.paths.unit_dir / f"sdcron-{name}.service").exists():
                    host.backend.set_active(
                        f"sdcron-{name}.service", data.draw(st.sampled_from(["failed", "activating"]))
                    )
            age_stamps(host.paths)
            for at in data.draw(st.lists(st.integers(1, 120), max_size=2), label="kills"):
                try:
                    with armed(Power([host.paths.root], at).trap):
                        host.apply(after)
                except Killed:
                    whole_units(host, before, after)
            host.apply(after)
            host.holds(after)
            host.backend.calls.clear()
            with armed(Trap([host.paths.root])) as trap:
                host.apply(after)
            assert trap.steps == []


# Two at once


def test_a_second_apply_waits_and_then_says_that_the_lock_is_held(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    with apply_lock(paths, 0):
        started = time.monotonic()
        with pytest.raises(LockHeldError, match="another sdcron apply"), apply_lock(paths, 0.2):
            pass
        assert time.monotonic() - started >= 0.2
    with apply_lock(paths, 0):
        pass


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    with pytest.raises(RuntimeError), apply_lock(paths, 0):
        raise RuntimeError
    with apply_lock(paths, 0):
        pass
