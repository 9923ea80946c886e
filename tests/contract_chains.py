"""What `after` and `needs` mean, as cases of the contract: see tests/test_contract.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract import Act, Down, acts, begun, passed, runs
from tests.system.records import when

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract import Record, Steps, World

FAILS = Act(exits=1)
MIDDLE = [f"diamond-{number:02}" for number in range(1, 19)]


def told(found: list[Record]) -> list[tuple[str, str, str]]:
    """Why each run was, its outcome, and the reason of that."""
    return [(run["trigger"], run["outcome"], run["reason"]) for run in found]


RAN = ("after", "success", "")


def skipped(*names: str) -> tuple[str, str, str]:
    """What is told of a run that a chain started and its gate refused."""
    return "after", "skipped", f"needs {', '.join(names)}"


def follows(world: World, number: int, first: str, second: str) -> None:
    """A run of the one began when that of the other was over: systemd takes a moment to say that it is."""
    ended, began = when(world.seen[first][number]["finished_at"]), when(world.seen[second][number]["started_at"])
    assert (ended - began).total_seconds() < 0.2, (first, second)


def a_chain_runs_link_by_link(world: World) -> Steps:
    """Each starts once the one before has ended."""
    world.apply(
        {
            "link-1": {"command": acts(Act("one"))},
            "link-2": {"after": "link-1", "command": acts(Act("two"))},
            "link-3": {"after": ["link-2"], "command": acts(Act("three"))},
        }
    )
    for count in (1, 2):
        world.start("link-1")
        yield runs(world, "link-3", count)
    yield passed(world, seconds=1)
    assert told(world.seen["link-1"]) == [("manual", "success", "")] * 2
    assert told(world.seen["link-2"]) == told(world.seen["link-3"]) == [RAN] * 2
    assert [run["stdout"] for run in world.seen["link-3"]] == ["three\n"] * 2
    for count in (0, 1):
        follows(world, count, "link-1", "link-2")
        follows(world, count, "link-2", "link-3")
    assert {run["next_run_at"] for run in world.seen["link-3"]} == {None}


def what_is_needed_must_have_succeeded_since_the_last_success(world: World) -> Steps:
    """Whatever starts the job; a success uses it up, and nothing else does."""
    world.apply(
        {
            "needed": {"command": acts(FAILS, Act())},
            "also-needed": {"command": acts()},
            "gated": {"needs": ["needed", "also-needed"], "command": acts(FAILS, Act("through"))},
        }
    )
    world.start("gated", "needed", "also-needed")
    yield runs(world, "gated", 1)
    yield runs(world, "needed", 1)
    yield runs(world, "also-needed", 1)
    yield passed(world, seconds=0.5)
    world.start("gated")
    yield runs(world, "gated", 2)
    world.start("needed")
    yield runs(world, "needed", 2)
    yield passed(world, seconds=0.5)
    for count in (3, 4, 5):
        world.start("gated")
        yield runs(world, "gated", count)
        yield passed(world, seconds=0.5)
    found = world.seen["gated"]
    assert told(found)[1:] == [
        ("manual", "skipped", "needs needed"),
        ("manual", "failure", "exit status 1"),
        ("manual", "success", ""),
        ("manual", "skipped", "needs needed, also-needed"),
    ]
    assert [run["stdout"] for run in found] == ["", "", "", "through\n", ""]


def what_comes_after_a_failure_is_skipped_all_the_way_down(world: World) -> Steps:
    """Each names the one before; and runs again when that succeeds."""
    world.apply(
        {
            "broken": {"command": acts(FAILS, Act())},
            "broken-2": {"after": "broken", "command": acts()},
            "broken-3": {"after": "broken-2", "command": acts()},
            "beside": {"command": acts()},
            "broken-all": {"after": ["beside", "broken", "broken-3"], "command": acts()},
        }
    )
    world.start("beside", "broken")
    yield runs(world, "broken-all", 1)
    world.start("beside", "broken")
    yield runs(world, "broken-all", 2)
    yield passed(world, seconds=1)
    assert told(world.seen["broken-2"]) == [skipped("broken"), RAN]
    assert told(world.seen["broken-3"]) == [skipped("broken-2"), RAN]
    assert told(world.seen["broken-all"]) == [skipped("broken", "broken-3"), RAN]


def a_failure_that_is_retried_is_no_end(world: World) -> Steps:
    """What comes after waits for the last attempt."""
    retry = {"delay": "300ms", "attempts": 1}
    world.apply(
        {
            "recovers": {"command": acts(FAILS, Act()), "retry": retry, "accuracy": "10ms"},
            "after-recovers": {"after": "recovers", "command": acts()},
            "gives-up": {"command": acts(FAILS), "retry": retry, "accuracy": "10ms"},
            "after-gives-up": {"after": "gives-up", "command": acts()},
            "other-status": {"command": acts(FAILS), "retry": {**retry, "on_exit": 75}},
            "after-other-status": {"after": "other-status", "command": acts()},
        }
    )
    world.start("recovers", "gives-up", "other-status")
    for name in ("recovers", "gives-up", "other-status"):
        yield runs(world, f"after-{name}", 1)
    yield passed(world, seconds=1)
    assert [run["attempt"] for run in world.seen["recovers"]] == [1, 2]
    assert [run["attempt"] for run in world.seen["gives-up"]] == [1, 2]
    assert told(world.seen["after-recovers"]) == [RAN]
    assert told(world.seen["after-gives-up"]) == [skipped("gives-up")]
    assert told(world.seen["after-other-status"]) == [skipped("other-status")]


def a_diamond_runs_each_of_its_jobs_once(world: World) -> Steps:
    """However many end at the same moment."""
    world.apply(
        {
            "diamond-00": {"command": acts()},
            **{name: {"after": "diamond-00", "needs": "diamond-00", "command": acts()} for name in MIDDLE},
            "diamond-19": {"after": MIDDLE, "needs": ["diamond-00", *MIDDLE[:3]], "command": acts(Act("all"))},
        }
    )
    for count in (1, 2):
        world.start("diamond-00")
        yield runs(world, "diamond-19", count)
    yield passed(world, seconds=1.5)
    for name in (*MIDDLE, "diamond-19"):
        assert told(world.seen[name]) == [RAN] * 2, name
    for name in MIDDLE:
        follows(world, 0, name, "diamond-19")
        follows(world, 1, name, "diamond-19")


def a_run_by_hand_does_not_wait_for_what_it_comes_after(world: World) -> Steps:
    """Nor does a run at a time of the schedule; neither counts as one that the chain has started."""
    world.apply(
        {
            "first-half": {"command": acts(FAILS)},
            "second-half": {"command": acts()},
            "by-hand-too": {"after": ["first-half", "second-half"], "command": acts()},
        }
    )
    world.start("first-half")
    yield runs(world, "first-half", 1)
    yield passed(world, seconds=0.5)
    world.start("by-hand-too")
    yield runs(world, "by-hand-too", 1)
    yield passed(world, seconds=0.5)
    world.start("second-half")
    yield runs(world, "by-hand-too", 2)
    assert told(world.seen["by-hand-too"]) == [("manual", "success", ""), skipped("first-half")]


def the_start_of_a_job_that_runs_is_dropped(world: World) -> Steps:
    """As one at a time of its schedule."""
    slow = {"after": "quick-link", "command": acts(Act(lasts=600))}
    world.apply({"quick-link": {"command": acts()}, "slow-link": slow})
    world.start("quick-link")
    yield begun(world, "slow-link")
    world.start("quick-link")
    yield runs(world, "quick-link", 2)
    yield passed(world, seconds=1.5)
    world.stop("slow-link")
    yield passed(world, seconds=1.5)
    assert told(world.seen["slow-link"]) == [("after", "killed", "stopped by an administrator")]


def a_chain_starts_a_job_that_is_on_by_its_overlap(world: World) -> Steps:
    """One that queues waits, one that replaces takes the place, and one that is allowed runs beside."""
    firsts = {"queue": Act(patient=True), "allow": Act(lasts=600), "replace": Act(lasts=600)}
    world.apply(
        {
            "before-kinds": {"command": acts()},
            **{
                f"chained-{kind}": {"after": "before-kinds", "overlap": kind, "command": acts(first, Act())}
                for kind, first in firsts.items()
            },
        }
    )
    world.start("before-kinds")
    for kind in firsts:
        yield begun(world, f"chained-{kind}")
    world.start("before-kinds")
    yield runs(world, "chained-allow", 1)
    yield runs(world, "chained-replace", 2)
    assert "chained-queue" not in world.seen
    world.let_go("chained-queue")
    yield runs(world, "chained-queue", 2)
    world.stop("chained-allow")
    yield runs(world, "chained-allow", 2)
    replaced = ("after", "killed", "replaced by the next run")
    stopped = ("after", "killed", "stopped by an administrator")
    assert told(world.seen["chained-queue"]) == [RAN, RAN]
    assert sorted(told(world.seen["chained-allow"])) == sorted([RAN, stopped])
    assert told(world.seen["chained-replace"]) == [replaced, RAN]


def what_another_run_takes_the_place_of_has_not_ended(world: World) -> Steps:
    """What comes after it comes after the one that took its place."""
    world.apply(
        {
            "replaces-itself": {"overlap": "replace", "command": acts(Act(lasts=600), Act())},
            "after-replaces": {"after": "replaces-itself", "command": acts()},
        }
    )
    world.start("replaces-itself")
    yield begun(world, "replaces-itself")
    world.start("replaces-itself")
    yield runs(world, "after-replaces", 1)
    yield passed(world, seconds=1)
    assert told(world.seen["after-replaces"]) == [RAN]


def a_job_that_was_stopped_has_not_succeeded(world: World) -> Steps:
    """Also one that exits with 0 then."""
    world.apply(
        {
            "obeys-link": {"command": acts(Act(lasts=600, on_term="obeys"))},
            "after-obeys-link": {"after": "obeys-link", "command": acts()},
            "needs-obeys-link": {"needs": "obeys-link", "command": acts()},
        }
    )
    world.start("obeys-link")
    yield begun(world, "obeys-link")
    world.stop("obeys-link")
    yield passed(world, seconds=0.5)
    yield runs(world, "after-obeys-link", 1)
    world.start("needs-obeys-link")
    yield runs(world, "needs-obeys-link", 1)
    assert told(world.seen["after-obeys-link"]) == [skipped("obeys-link")]
    assert told(world.seen["needs-obeys-link"]) == [("manual", "skipped", "needs obeys-link")]


def what_comes_after_a_skipped_run_is_skipped(world: World) -> Steps:
    """Whatever condition it was, and after what could not be started too."""
    world.apply(
        {
            "no-path-1": {"when": {"path_exists": "/no/such"}, "command": acts()},
            "after-no-path": {"after": "no-path-1", "command": acts()},
            "no-command-1": {"when": {"command": ["/bin/false"]}, "command": acts()},
            "after-no-command": {"after": "no-command-1", "command": acts()},
            "no-file-1": {"environment_file": "/no/such", "command": acts()},
            "after-no-file": {"after": "no-file-1", "command": acts()},
        }
    )
    names = ("no-path", "no-command", "no-file")
    for count in (1, 2):
        world.start(*(f"{name}-1" for name in names))
        for name in names:
            yield runs(world, f"after-{name}", count)
        yield passed(world, seconds=1)
    for name in names:
        assert told(world.seen[f"after-{name}"]) == [skipped(f"{name}-1")] * 2


def what_has_ended_is_known_over_a_restart(world: World) -> Steps:
    """And what was cut off is an end too, without success; a run that is retried is none."""
    retry = {"delay": "500ms", "attempts": 1}
    world.apply(
        {
            "before-it": {"command": acts()},
            "behind-it": {"command": acts()},
            "around-it": {"after": ["before-it", "behind-it"], "needs": "before-it", "command": acts()},
            "cut-off": {"command": acts(Act(lasts=600))},
            "after-cut-off": {"after": "cut-off", "command": acts()},
            "cut-off-once": {"command": acts(Act(lasts=600), Act()), "retry": retry},
            "after-cut-off-once": {"after": "cut-off-once", "command": acts()},
        }
    )
    world.start("before-it", "cut-off", "cut-off-once")
    yield runs(world, "before-it", 1)
    yield begun(world, "cut-off")
    yield begun(world, "cut-off-once")
    yield passed(world, seconds=0.5)
    yield Down.RESTART
    yield runs(world, "after-cut-off", 1)
    yield runs(world, "after-cut-off-once", 1)
    world.start("cut-off")
    yield begun(world, "cut-off")
    yield passed(world, seconds=1)
    yield Down.CRASH
    yield runs(world, "after-cut-off", 2)
    world.start("behind-it")
    yield runs(world, "around-it", 1)
    yield passed(world, seconds=1)
    assert told(world.seen["around-it"]) == [RAN]
    assert told(world.seen["after-cut-off"]) == [skipped("cut-off")] * 2
    assert told(world.seen["after-cut-off-once"]) == [RAN]


def a_paused_job_is_not_started_by_its_chain(world: World) -> Steps:
    """What it was asked for meanwhile is not owed."""
    world.apply({"goes-on": {"command": acts()}, "rests": {"after": "goes-on", "command": acts()}})
    yield passed(world, seconds=0)
    assert world.sdcron("pause", "rests")[0] == 0
    world.start("goes-on")
    yield runs(world, "goes-on", 1)
    yield passed(world, seconds=1.5)
    assert world.sdcron("resume", "rests")[0] == 0
    yield passed(world, seconds=1.5)
    assert "rests" not in world.seen
    world.start("goes-on")
    yield runs(world, "rests", 1)
    yield passed(world, seconds=0.5)
    assert told(world.seen["rests"]) == [RAN]


CONDITIONS = "the conditions of a made-up engine all hold"
COMMANDS = "there are no commands for the jobs of a made-up engine"
CHAINS: list[tuple[Callable[[World], Steps], dict[str, str]]] = [
    (a_chain_runs_link_by_link, {}),
    (what_is_needed_must_have_succeeded_since_the_last_success, {}),
    (what_comes_after_a_failure_is_skipped_all_the_way_down, {}),
    (a_failure_that_is_retried_is_no_end, {}),
    (a_diamond_runs_each_of_its_jobs_once, {}),
    (a_run_by_hand_does_not_wait_for_what_it_comes_after, {}),
    (the_start_of_a_job_that_runs_is_dropped, {}),
    (a_chain_starts_a_job_that_is_on_by_its_overlap, {}),
    (what_another_run_takes_the_place_of_has_not_ended, {}),
    (a_job_that_was_stopped_has_not_succeeded, {}),
    (what_comes_after_a_skipped_run_is_skipped, {"fake": CONDITIONS}),
    (what_has_ended_is_known_over_a_restart, {}),
    (a_paused_job_is_not_started_by_its_chain, {"fake": COMMANDS}),
]
"""The cases, and where they cannot be played, with the reason."""
