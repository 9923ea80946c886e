"""Desired against installed: which jobs change, which are left alone, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron.backends import UnitState
from sdcron.errors import JobFileError
from sdcron.installed import Installed, read_installed
from sdcron.job import Retry
from sdcron.jobset import find_files
from sdcron.plan import Action, Plan, make_plan, removal_plan
from tests.compiled import DIRECTORY, compiled, install, paths_below

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdcron.units import CompiledJob

RUNS = UnitState("loaded", "active", "waiting")
STOPPED = UnitState("loaded", "inactive", "dead")


def plan_for(
    tmp_path: Path,
    before: Sequence[CompiledJob],
    after: Sequence[CompiledJob],
    *,
    loaded: dict[str, UnitState] | None = None,
    prune: bool = True,
) -> Plan:
    """The plan for `after` as all of DIRECTORY, on a machine where `before` is applied and runs."""
    paths = paths_below(tmp_path)
    install(paths, before)
    running = {timer: RUNS for job in before for timer in job.start}
    state = running if loaded is None else loaded
    return make_plan(after, read_installed(paths), state, directories={DIRECTORY}, prune=prune)


def actions(plan: Plan) -> list[tuple[str, str]]:
    return [(change.name, change.action.value) for change in plan.changes]


def test_nothing_differs_nothing_to_do(tmp_path: Path) -> None:
    jobs = [compiled("a"), compiled("b", "@reboot"), compiled("c", script="true"), compiled("d", None)]
    plan = plan_for(tmp_path, jobs, jobs)
    assert not plan
    assert (plan.unchanged, plan.changes, plan.kept) == (4, (), ())


def test_jobs_are_added_changed_and_removed_by_name(tmp_path: Path) -> None:
    before = [compiled("stays"), compiled("edited"), compiled("gone")]
    after = [compiled("stays"), compiled("edited", "0 4 * * *"), compiled("new")]
    plan = plan_for(tmp_path, before, after)
    assert plan
    assert actions(plan) == [("edited", "change"), ("gone", "remove"), ("new", "add")]
    assert plan.unchanged == 1


def test_a_stopped_timer_is_to_be_started_but_not_one_that_only_a_boot_starts(tmp_path: Path) -> None:
    jobs = [compiled("a"), compiled("b"), compiled("boot", "@reboot"), compiled("off", enabled=False)]
    plan = plan_for(tmp_path, jobs, jobs, loaded={"sdcron-a.timer": STOPPED})
    assert actions(plan) == [("a", "start"), ("b", "start")]


def test_a_timer_is_not_to_be_started_where_no_systemd_runs(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, [compiled("a")])
    assert not make_plan([compiled("a")], read_installed(paths), None, directories={DIRECTORY})


def test_without_prune_what_left_the_directory_is_kept_and_named(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, [compiled("a"), compiled("z"), compiled("m")], [compiled("a")], prune=False)
    assert not plan
    assert plan.kept == ("m", "z")


def test_jobs_of_other_directories_are_left_alone(tmp_path: Path) -> None:
    other = compiled("other", directory="/srv/jobs")
    plan = plan_for(tmp_path, [compiled("a"), other], [])
    assert actions(plan) == [("a", "remove")]


def test_applying_one_file_removes_only_what_left_that_file(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, [compiled("a", file="one"), compiled("b", file="one"), compiled("c", file="two")])
    plan = make_plan(
        [compiled("a", file="one")],
        read_installed(paths),
        {"sdcron-a.timer": RUNS},
        directories=(),
        files={f"{DIRECTORY}/one.yaml"},
    )
    assert actions(plan) == [("b", "remove")]


def test_a_job_that_left_a_file_applied_through_a_link_is_removed(tmp_path: Path) -> None:
    for name in ("real", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "real/m.yaml").write_text("jobs:\n  a: {command: x}\n")
    (tmp_path / "home/l.yaml").symlink_to(tmp_path / "real/m.yaml")
    paths = paths_below(tmp_path / "root")
    home = str(tmp_path.resolve() / "home")
    install(paths, [compiled(name, directory=home, file="l") for name in ("a", "b")])
    found = find_files([tmp_path / "home/l.yaml"])
    desired = [compiled("a", directory=home, file="l")]
    plan = make_plan(desired, read_installed(paths), None, directories=found.directories, files=found.files)
    assert actions(plan) == [("b", "remove")]


def test_a_job_may_move_to_another_file_of_its_directory(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, [compiled("a", file="one")], [compiled("a", file="two")])
    assert actions(plan) == [("a", "change")]


def test_a_name_that_another_directory_has_is_refused_naming_both(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        plan_for(tmp_path, [compiled("a", directory="/srv/jobs")], [compiled("a"), compiled("b")])
    [problem] = caught.value.problems
    assert problem.path == f"{DIRECTORY}/a.yaml"
    assert problem.message == "job a is applied already from /srv/jobs/a.yaml"
    assert problem.hint == "rename one of the two, or first: sdcron remove a"


def test_a_unit_that_is_not_ours_is_never_replaced() -> None:
    job = compiled("a", ("@reboot", "0 3 * * *"), retry=Retry(timedelta(minutes=1), attempts=1))
    for unit in job.units:
        with pytest.raises(JobFileError) as caught:
            make_plan([job], Installed({}, frozenset({unit.name})), {}, directories={DIRECTORY})
        [problem] = caught.value.problems
        assert problem.message == f"unit {unit.name} exists and is not sdcron's"


def test_every_clash_is_reported_at_once(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, [compiled("a", directory="/srv/jobs")])
    (paths.unit_dir / "sdcron-b.service").write_text("[Service]\n")
    with pytest.raises(JobFileError) as caught:
        make_plan([compiled("a"), compiled("b")], read_installed(paths), {}, directories={DIRECTORY})
    assert len(caught.value.problems) == 2


def test_a_diff_shows_every_unit_that_differs_and_no_other(tmp_path: Path) -> None:
    [change] = plan_for(tmp_path, [compiled("a", script="true")], [compiled("a", "0 4 * * *", script="false")]).changes
    diff = change.diff()
    assert "--- installed/sdcron-a.timer\n+++ desired/sdcron-a.timer\n" in diff
    assert "-OnCalendar=*-*-* 03:00:00\n+OnCalendar=*-*-* 04:00:00\n" in diff
    assert "-true\n+false\n" in diff
    assert "/sdcron-a.service" not in diff
    assert "Digest=" not in diff
    assert change.action is Action.CHANGE


def test_a_diff_of_a_new_or_removed_job_stands_against_nothing(tmp_path: Path) -> None:
    added, removed = plan_for(tmp_path, [compiled("b")], [compiled("a")]).changes
    assert "--- /dev/null\n+++ desired/sdcron-a.timer\n" in added.diff()
    assert "--- installed/sdcron-b.timer\n+++ /dev/null\n" in removed.diff()


def test_named_jobs_are_removed_once_each(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    install(paths, [compiled("a"), compiled("b"), compiled("c")])
    assert actions(removal_plan(["b", "a", "b"], read_installed(paths))) == [("a", "remove"), ("b", "remove")]
