"""The contract of all backends: a job file means the same to the engine's core, a real engine, and booted systemd.

Here with a made-up clock and with a real engine; tests/system/test_contract.py plays the same cases on machines.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.machine import caller
from tests import contract_told
from tests.contract import Act, Down, Wait, acts, begun, by_job, passed, play, runs
from tests.contract_chains import CHAINS
from tests.contract_fake import FakeWorld
from tests.contract_jobs import FILES, PLACE, PROGRAMS, sh
from tests.contract_worlds import Host, LocalWorld
from tests.system.records import check_shape, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contract import Record, Steps, World

ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Case:
    """What every backend does the same way; where it cannot be played, with the reason."""

    steps: Callable[[World], Steps]
    not_on: dict[str, str] = field(default_factory=dict)
    alone: bool = False
    """Whether it changes what other cases rely on: it is played when they are over."""


CASES: dict[str, Case] = {}


def contract(*, alone: bool = False, **not_on: str) -> Callable[[Callable[[World], Steps]], Callable[[World], Steps]]:
    """Make a function a case; `alone` as in Case, and `not_on` gives reasons by backend."""

    def note(steps: Callable[[World], Steps]) -> Callable[[World], Steps]:
        CASES[steps.__name__] = Case(steps, not_on, alone)
        return steps

    return note


def cases_on(backend: str) -> list[str]:
    """The names of all that can be played there."""
    return [name for name, case in CASES.items() if backend not in case.not_on]


def play_all(world: World, backend: str) -> dict[str, Exception]:
    """What goes wrong in which case; those that change what others rely on come last, one after the other."""
    names = cases_on(backend)
    problems = play(world, {name: CASES[name].steps for name in names if not CASES[name].alone})
    for name in names:
        if CASES[name].alone:
            problems |= play(world, {name: CASES[name].steps})
    return problems


for _steps, _not_on in CHAINS:
    CASES[_steps.__name__] = Case(_steps, _not_on)

NO_PROCESSES = "its processes are made up"
NO_DAYS = "takes days, which only a made-up clock has"


def brief(found: list[Record]) -> list[tuple[str, int, str]]:
    """Why, as the how manieth attempt, and with what outcome each run was."""
    return [(run["trigger"], run["attempt"], run["outcome"]) for run in found]


def waits(found: list[Record]) -> list[float]:
    """The seconds between the end of each run and the start of the next."""
    pairs = itertools.pairwise(found)
    return [(when(b["started_at"]) - when(a["finished_at"])).total_seconds() for a, b in pairs]


def instants(found: list[Record]) -> list[datetime]:
    """When each run should have been."""
    return [when(run["scheduled_at"]).astimezone(UTC) for run in found]


def status_of(world: World, job: str) -> dict[str, Any]:
    """What `sdcron status` says."""
    code, text, words = world.sdcron("status", job, "--json")
    assert code == 0, words
    found: dict[str, Any] = json.loads(text)
    return found


# Schedules


@contract()
def a_job_runs_once_at_each_of_its_times(world: World) -> Steps:
    schedule = {"schedule": "* * * * * *", "missed": "skip"}
    world.apply({"every-second": {**schedule, "command": acts(Act("tick"))}})
    yield runs(world, "every-second", 3)
    found = [run for run in world.seen["every-second"] if run["trigger"] == "schedule"]
    due = instants(found)
    assert due == sorted(set(due))
    assert all(moment.microsecond == 0 for moment in due)
    assert {(run["attempt"], run["outcome"], run["stdout"]) for run in found} == {(1, "success", "tick\n")}
    early = [run for run in found if when(run["started_at"]) < when(run["scheduled_at"])]
    assert early == []
    assert all(when(run["next_run_at"]) > when(run["scheduled_at"]) for run in found)


@contract()
def a_one_off_runs_once_and_never_again(world: World) -> Steps:
    moment = (world.now() + timedelta(seconds=8)).replace(microsecond=0)
    at = moment + timedelta(hours=9)  # Japan has no daylight saving time
    world.apply({"once": {"schedule": f"at {at:%Y-%m-%d %H:%M:%S}", "timezone": "Asia/Tokyo", "command": acts()}})
    yield runs(world, "once", 1)
    yield passed(world, days=700) if world.backend == "fake" else passed(world, seconds=2)
    [run] = world.seen["once"]
    assert (instants([run]), run["trigger"], run["next_run_at"]) == ([moment], "schedule", None)


#: Half past two in Berlin, and a quarter to two on Lord Howe Island, whose clocks change by half an hour.
CHANGES = {
    "berlin": ("Europe/Berlin", "30 2 * * *"),
    "lord-howe": ("Australia/Lord_Howe", "45 1 * * *"),
    "berlin-often": ("Europe/Berlin", "30 1-3 * * *"),
}
#: What falls into the gap runs right after it; what comes twice runs the first time only: cron(8).
EXPECTED = {
    ("berlin", "2026-03-28T12:00:00Z"): ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    ("berlin", "2026-10-24T12:00:00Z"): ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
    ("lord-howe", "2026-04-04T00:00:00Z"): ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    ("lord-howe", "2026-10-03T00:00:00Z"): ["2026-10-04T01:45:00+10:30", "2026-10-05T01:45:00+11:00"],
}


@contract()
def the_same_times_over_every_change_of_the_clocks(world: World) -> Steps:
    for name, (zone, expression) in CHANGES.items():
        world.apply({name: {"schedule": expression, "timezone": zone, "command": acts()}})
    yield passed(world, seconds=0)
    told = {name: times_of(world, name, "2026-03-27T12:00:00Z", 1200) for name in CHANGES}
    for (name, since), expected in EXPECTED.items():
        texts = [moment.isoformat() for moment in times_of(world, name, since, 2)]
        assert texts == expected, (name, since)
    if world.backend == "fake":
        yield Wait("a year is over", at=datetime(2027, 3, 26, 12, tzinfo=UTC))
        for name, moments in told.items():
            found = instants(world.seen[name])
            assert found == [moment.astimezone(UTC) for moment in moments[: len(found)]], name
        assert [len(world.seen[name]) for name in CHANGES] == [364, 364, 1092]


def times_of(world: World, job: str, since: str, count: int) -> list[datetime]:
    """The next times of a job, by `sdcron next`."""
    code, text, words = world.sdcron("next", job, "--from", since, "-n", str(count), "--json")
    assert code == 0, words
    return [datetime.fromisoformat(moment) for moment in json.loads(text)]


@contract()
def a_job_that_is_not_enabled_runs_by_hand_alone(world: World) -> Steps:
    job = {"schedule": "* * * * * *", "enabled": False, "retry": "100ms", "command": acts(Act(exits=1))}
    world.apply({"not-enabled": job})
    yield passed(world, seconds=2.5)
    assert "not-enabled" not in world.seen
    world.start("not-enabled")
    yield runs(world, "not-enabled", 1)
    yield passed(world, seconds=2.5)
    assert brief(world.seen["not-enabled"]) == [("manual", 1, "failure")]
    assert world.seen["not-enabled"][0]["next_run_at"] is None


# Pauses

NO_COMMANDS = "there are no commands for the jobs of a made-up engine"


@contract(fake=NO_COMMANDS)
def a_paused_job_waits_until_it_is_resumed(world: World) -> Steps:
    often = {"schedule": "* * * * * *", "command": acts()}
    world.apply({"paused": often})
    yield runs(world, "paused", 1)
    assert world.sdcron("pause", "paused")[:2] == (0, "paused: paused\n")
    assert world.sdcron("pause", "paused")[:2] == (0, "paused already\n")
    # What was on ends, and is recorded.
    yield passed(world, seconds=1.5)
    count = len(world.seen["paused"])
    told = status_of(world, "paused")
    assert (told["state"], told["next_run_at"], told["next_runs_at"]) == ("paused", None, [])
    yield Down.RESTART
    world.apply({"paused-and-another": {"command": acts()}})
    yield passed(world, seconds=2.5)
    assert len(world.seen["paused"]) == count
    world.start("paused")
    yield runs(world, "paused", count + 1)
    resumed = world.now()
    assert world.sdcron("resume", "paused")[:2] == (0, "resumed: paused\n")
    yield runs(world, "paused", count + 4)
    by_hand, *later = world.seen["paused"][count:]
    assert by_hand["trigger"] == "manual"
    assert {run["trigger"] for run in later} == {"schedule"}
    assert instants(later)[0] >= resumed - timedelta(seconds=1)
    assert status_of(world, "paused")["state"] in ("waiting", "running")


@contract(fake=NO_COMMANDS)
def a_retry_that_waits_is_given_up_by_a_pause_and_a_run_that_fails_then_has_none(world: World) -> Steps:
    fails = {"retry": "1s", "command": acts(Act(exits=1))}
    world.apply({"paused-retry": fails, "paused-failing": fails})
    world.start("paused-retry")
    yield runs(world, "paused-retry", 1)
    code, _, words = world.sdcron("pause", "paused-retry", "paused-failing")
    assert code == 0, words
    world.start("paused-failing")
    yield runs(world, "paused-failing", 1)
    count = len(world.seen["paused-retry"])  # the retry may have come before
    yield passed(world, seconds=3)
    assert [len(world.seen[name]) for name in ("paused-retry", "paused-failing")] == [count, 1]
    world.sdcron("resume", "paused-retry", "paused-failing")
    yield passed(world, seconds=2)
    assert [len(world.seen[name]) for name in ("paused-retry", "paused-failing")] == [count, 1]


@contract(fake=NO_COMMANDS, alone=True)
def a_suspend_ends_what_runs_and_only_what_is_resumable_is_started_again(world: World) -> Steps:
    resumable = {f"suspended-{number}": number % 2 == 0 for number in range(20)}
    often = {"schedule": "* * * * * *", "command": acts()}
    lasting = {"command": acts(Act(lasts=600))}
    by_name = {"suspended-by-name": {**lasting, "resumable": True}, "suspended-often": often}
    world.apply({name: {**lasting, "resumable": may} for name, may in resumable.items()} | by_name)
    world.start(*resumable, "suspended-by-name")
    yield runs(world, "suspended-often", 1)
    for name in resumable:
        yield begun(world, name)
    yield begun(world, "suspended-by-name")
    world.sdcron("pause", "suspended-by-name")
    code, out, words = world.sdcron("suspend")
    assert code == 0, words
    assert {f"{name} is stopped" for name in resumable} <= set(out.splitlines())
    for name in resumable:
        yield runs(world, name, 1)
        assert brief(world.seen[name]) == [("manual", 1, "killed")]
    count = len(world.seen["suspended-often"])
    yield Down.RESTART
    yield passed(world, seconds=2.5)
    assert len(world.seen["suspended-often"]) == count
    assert all(len(world.seen[name]) == 1 for name in resumable)
    code, out, words = world.sdcron("resume", "--all", "--json")
    assert code == 0, words
    assert sorted(json.loads(out)["started"]) == sorted(name for name, may in resumable.items() if may)
    assert "suspended-by-name" in json.loads(out)["paused"]
    yield runs(world, "suspended-often", count + 2)
    states = {row["job"]: row["state"] for row in json.loads(world.sdcron("status", "--json")[1])}
    assert {name: states[name] == "running" for name in resumable} == resumable
    code, out, words = world.sdcron("stop", "--all", "--kill", "--json")
    assert code == 0, words
    for name in (name for name, may in resumable.items() if may):
        yield runs(world, name, 2)
        assert world.seen[name][1]["run_id"] in json.loads(out)["run_ids"]
    assert not [name for name, may in resumable.items() if not may and len(world.seen[name]) > 1]


@contract(fake=NO_COMMANDS, alone=True)
def a_pause_of_all_lasts_over_a_restart_and_what_fell_due_meanwhile_is_not_made_good(world: World) -> Steps:
    often = {"schedule": "* * * * * *", "command": acts()}
    at_boot = {"schedule": "@reboot", "command": acts()}
    world.apply({"all-often": often, "all-at-boot": at_boot, "all-by-hand": {"command": acts()}})
    yield runs(world, "all-often", 1)
    assert world.sdcron("pause", "--all")[:2] == (0, "all jobs are paused\n")
    yield passed(world, seconds=1.5)  # what was on is on record
    count = len(world.seen["all-often"])
    yield Down.RESTART
    yield passed(world, seconds=2.5)
    assert world.seen.keys().isdisjoint({"all-at-boot"})
    # Somebody may still want a run.
    world.start("all-by-hand")
    yield runs(world, "all-by-hand", 1)
    assert len(world.seen["all-often"]) == count
    resumed = world.now()
    code, _, words = world.sdcron("resume", "--all")
    assert code == 0, words
    yield runs(world, "all-often", count + 2)
    later = world.seen["all-often"][count:]
    assert {run["trigger"] for run in later} == {"schedule"}
    assert instants(later)[0] >= resumed - timedelta(seconds=1)
    assert world.seen.keys().isdisjoint({"all-at-boot"}), "a resume is no boot"


@contract(fake=NO_COMMANDS, alone=True)
def an_edit_is_of_the_runs_to_come_and_what_is_on_goes_on(world: World) -> Steps:
    waits = f"while [ ! -e {PLACE}/counts/edited ]; do sleep 0.1; done"
    world.apply({"edited": {"command": sh(f"echo first >&2; {waits}; echo the-old-text")}})
    world.start("edited")
    yield Wait("it runs", lambda: contract_told.status_of(world, "edited")["state"] == "running")
    code, out, words = contract_told.edit(world, "edited", "s/the-old-text/the-new-text/")
    assert code == 0, words
    assert "change edited" in out + words
    contract_told.write(world, **{"counts/edited": ""})
    yield runs(world, "edited", 1)
    world.start("edited")
    yield runs(world, "edited", 2)
    assert [(run["outcome"], run["stdout"]) for run in world.seen["edited"]] == [
        ("success", "the-old-text\n"),
        ("success", "the-new-text\n"),
    ]
    digests = {run["job_digest"] for run in world.seen["edited"]}
    assert len(digests) == 2
    # What is wrong changes nothing.
    code, _, words = contract_told.edit(world, "edited", "/the-new-text/s/command/comand/")
    assert (code, "unknown key 'comand'" in words) == (3, True), words
    code, _, words = contract_told.edit(world, "edited", "s/no-such-text/word/")
    assert (code, words.splitlines()[-1].endswith("is as it was")) == (0, True), words
    assert world.sdcron("plan", f"{world.directory}/jobs")[0] == 0


# Downtime


@contract()
def what_fell_into_downtime_runs_once_if_it_shall(world: World) -> Steps:
    often = {"schedule": "*/2 * * * * *", "command": acts()}
    world.apply({"missed-run": often, "missed-skip": {**often, "missed": "skip"}})
    yield runs(world, "missed-run", 1)
    yield runs(world, "missed-skip", 1)
    yield Down.RESTART
    back = world.now()
    yield Wait("a run after that", lambda: any(when(run["started_at"]) > back for run in world.seen["missed-skip"]))
    for name in ("missed-run", "missed-skip"):
        due = instants([run for run in world.seen[name] if run["scheduled_at"]])
        assert due == sorted(set(due)), name
    missed = [run["trigger"] for run in world.seen["missed-run"]].count("missed")
    if world.backend == "systemd" and not missed:
        # The machine was down for longer than from one time to the next; but the next time may come in the very moment
        # the timer is started again, and takes the missed one's place. Nothing that was owed came late.
        ran = sorted(world.seen["missed-run"], key=lambda run: when(run["started_at"]))
        gaps = [when(after["started_at"]) - when(before["started_at"]) for before, after in itertools.pairwise(ran)]
        first = ran[gaps.index(max(gaps)) + 1]
        assert (first["trigger"], first["lateness_s"] <= 1.2) == ("schedule", True), first
    else:
        assert missed == 1
    assert "missed" not in {run["trigger"] for run in world.seen["missed-skip"]}


@contract(local=NO_DAYS, systemd=NO_DAYS)
def ten_days_of_downtime_are_one_run(world: World) -> Steps:
    jobs = {name: {"schedule": "0 6 * * *", "missed": name, "command": acts()} for name in ("run", "skip")}
    world.apply(jobs)
    yield runs(world, "run", 1)
    world.go_down(Down.CRASH, 10 * 86400)
    yield passed(world, days=1)
    assert [brief(world.seen[name]) for name in jobs] == [
        [("schedule", 1, "success"), ("missed", 1, "success"), ("schedule", 1, "success")],
        [("schedule", 1, "success"), ("schedule", 1, "success")],
    ]
    # The last of the times that were missed, which is summer time already.
    assert instants(world.seen["run"])[1] == datetime(2026, 4, 7, 4, tzinfo=UTC)


@contract()
def a_boot_starts_what_is_to_run_at_boot_and_nothing_else_does(world: World) -> Steps:
    world.apply({"at-boot": {"schedule": "@reboot", "command": acts()}})
    yield passed(world, seconds=2)
    assert "at-boot" not in world.seen, "an apply is no boot"
    yield Down.RESTART
    if world.backend == "local":
        yield passed(world, seconds=3)
        assert "at-boot" not in world.seen, "an engine that begins anew while the machine is on is no boot"
        return
    yield runs(world, "at-boot", 1)
    yield passed(world, seconds=2)
    [run] = world.seen["at-boot"]
    assert (run["trigger"], run["scheduled_at"], run["outcome"]) == ("boot", None, "success")


def have_no_more(world: World, job: str) -> None:
    """As long as one job always runs, a machine that boots has not come up."""
    if world.backend != "fake":
        world.sdcron("pause", job)
        world.stop(job)


@contract(local="an engine that begins anew while the machine is on is no boot")
def what_does_not_skip_runs_at_boot_and_makes_good_what_it_missed_too(world: World) -> Steps:
    kinds = ("queue", "allow", "replace")
    for kind in kinds:
        world.apply({f"{kind}-at-boot": {"schedule": "@reboot", "overlap": kind, "command": acts()}})
        # So far apart that a busy machine that boots leaves no doubt which time it was.
        job = {"schedule": "*/5 * * * * *", "accuracy": "10ms", "overlap": kind, "command": acts()}
        world.apply({f"{kind}-missed": job})
        yield runs(world, f"{kind}-missed", 1)
    yield Down.RESTART
    back = world.now()
    for kind in kinds:
        yield runs(world, f"{kind}-at-boot", 1)
        found = world.seen[f"{kind}-missed"]
        count = len([run for run in found if when(run["started_at"]) < back])
        yield runs(world, f"{kind}-missed", max(count, len(found)) + 2)
        [run] = world.seen[f"{kind}-at-boot"]
        assert (run["trigger"], run["scheduled_at"], run["outcome"]) == ("boot", None, "success")
        found = world.seen[f"{kind}-missed"]
        assert [run for run in found if run["trigger"] not in ("schedule", "missed")] == []
        due = instants(found)
        assert due == sorted(set(due))
        have_no_more(world, f"{kind}-missed")


# Overlap


NO_RUN_COMMAND = "there is no command to start a job of a made-up engine"


@contract()
def a_time_that_comes_while_the_job_runs_is_dropped(world: World) -> Steps:
    world.apply({"slow": {"schedule": "* * * * * *", "missed": "skip", "command": acts(Act(lasts=2.3))}})
    yield runs(world, "slow", 3)
    found = world.seen["slow"][:3]
    assert min(waits(found)) >= 0
    if world.backend == "systemd":
        # Only a timer that did not start the run drops what it elapses at. One that did, and elapsed meanwhile, starts
        # the service again at once, and not as often as it elapsed: systemd.timer(5), DeferReactivation=.
        return
    assert {run["trigger"] for run in found} == {"schedule"}
    for before, run in itertools.pairwise(found):
        assert instants([run])[0] > when(before["finished_at"]), "what was dropped is not made good"


@contract(fake=NO_RUN_COMMAND)
def a_job_that_runs_is_not_started_by_hand_too(world: World) -> Steps:
    world.apply({"busy": {"command": acts(Act(lasts=600))}})
    world.start("busy")
    yield begun(world, "busy")
    code, _, words = world.sdcron("run", "busy")
    assert (code, words.splitlines()[0]) == (1, "sdcron: busy runs already")
    world.stop("busy")
    yield runs(world, "busy", 1)
    assert len(world.seen["busy"]) == 1


def asks(world: World, job: str, times: int) -> Steps:
    """Start it so often, one after the other."""
    for _ in range(times):
        world.start(job)
        yield passed(world, seconds=0.3)


@contract()
def of_the_runs_that_are_due_while_one_is_on_one_waits_and_begins_after_it(world: World) -> Steps:
    world.apply({"queues": {"overlap": "queue", "command": acts(Act(patient=True), Act())}})
    world.start("queues")
    yield begun(world, "queues")
    yield from asks(world, "queues", 4)
    assert "queues" not in world.seen
    world.let_go("queues")
    yield runs(world, "queues", 2)
    yield passed(world, seconds=2)
    assert brief(world.seen["queues"]) == [("manual", 1, "success")] * 2
    [wait] = waits(world.seen["queues"])
    assert 0 <= wait < 3


@contract()
def a_run_that_waited_was_due_while_the_one_before_it_was_on(world: World) -> Steps:
    job = {"schedule": "* * * * * *", "missed": "skip", "overlap": "queue", "command": acts(Act(lasts=2.4))}
    world.apply({"queues-often": job})
    yield runs(world, "queues-often", 4)
    found = world.seen["queues-often"][:4]
    assert [run["trigger"] for run in found] == ["schedule"] * 4
    assert min(waits(found)) >= 0
    # The next may be due while one is still to begin, on a busy machine.
    for before, run in itertools.pairwise(found):
        [earlier, due] = instants([before, run])
        assert earlier < due <= when(before["finished_at"]), (before, run)
    have_no_more(world, "queues-often")


@contract()
def a_run_that_waits_is_kept_over_a_restart(world: World) -> Steps:
    world.apply({"queues-kept": {"overlap": "queue", "command": acts(Act(lasts=600), Act())}})
    world.start("queues-kept")
    yield begun(world, "queues-kept")
    yield from asks(world, "queues-kept", 2)
    yield Down.RESTART
    yield runs(world, "queues-kept", 2)
    yield passed(world, seconds=3)
    assert brief(world.seen["queues-kept"]) == [("manual", 1, "abandoned"), ("manual", 1, "success")]


@contract()
def a_run_that_waits_is_kept_when_the_power_is_cut(world: World) -> Steps:
    world.apply({"queues-cut": {"overlap": "queue", "command": acts(Act(lasts=600), Act())}})
    world.start("queues-cut")
    yield begun(world, "queues-cut")
    yield from asks(world, "queues-cut", 2)
    yield Down.CRASH
    yield runs(world, "queues-cut", 2)
    yield passed(world, seconds=3)
    assert brief(world.seen["queues-cut"]) == [("manual", 1, "abandoned"), ("manual", 1, "success")]


@contract()
def a_failure_is_not_retried_where_a_run_waits_already(world: World) -> Steps:
    retry = {"delay": "1s", "attempts": 1}
    world.apply(
        {"queues-retry": {"overlap": "queue", "retry": retry, "command": acts(Act(patient=True, exits=1), Act())}}
    )
    world.start("queues-retry")
    yield begun(world, "queues-retry")
    yield from asks(world, "queues-retry", 1)
    world.let_go("queues-retry")
    yield runs(world, "queues-retry", 2)
    yield passed(world, seconds=3)
    assert brief(world.seen["queues-retry"]) == [("manual", 1, "failure"), ("manual", 1, "success")]


@contract()
def as_many_runs_are_on_as_are_allowed_and_never_more(world: World) -> Steps:
    world.apply({"parallel": {"overlap": "allow", "max_parallel": 3, "command": acts(Act("on", lasts=600))}})
    yield from asks(world, "parallel", 5)
    if world.backend != "fake":
        assert len(status_of(world, "parallel")["running_ids"]) == 3
    world.stop("parallel")
    yield passed(world, seconds=2)
    yield runs(world, "parallel", 3)
    found = world.seen["parallel"]
    assert brief(found) == [("manual", 1, "killed")] * 3
    assert max(when(run["started_at"]) for run in found) < min(when(run["finished_at"]) for run in found)
    assert {run["stdout"] for run in found} == {"on\n"}
    yield from asks(world, "parallel", 1)
    world.stop("parallel")
    yield passed(world, seconds=2)
    yield runs(world, "parallel", 4)


@contract()
def runs_beside_each_other_have_each_their_due_time(world: World) -> Steps:
    # Every other second, and within 10 ms: of a start that comes a second late nobody could say which one it was.
    job = {"schedule": "*/2 * * * * *", "accuracy": "10ms", "missed": "skip", "overlap": "allow", "max_parallel": 4}
    world.apply({"parallel-often": {**job, "command": acts(Act(lasts=4.9))}})
    yield runs(world, "parallel-often", 6)
    found = world.seen["parallel-often"][:6]
    assert {run["trigger"] for run in found} == {"schedule"}
    due = instants(found)
    assert due == sorted(set(due))
    # Each its own time, though a busy machine begins it late.
    late = [when(run["started_at"]) - when(run["scheduled_at"]) for run in found]
    assert timedelta(0) <= min(late) <= max(late) < timedelta(seconds=5), late
    beside = [b for a, b in itertools.pairwise(found) if when(b["started_at"]) < when(a["finished_at"])]
    assert len(beside) >= 3
    have_no_more(world, "parallel-often")


@contract()
def the_next_run_takes_the_place_of_the_one_that_is_on(world: World) -> Steps:
    retry = {"delay": "1s", "attempts": 2}
    world.apply({"replaces": {"overlap": "replace", "retry": retry, "command": acts(Act(lasts=600), Act(lasts=3))}})
    world.start("replaces")
    yield begun(world, "replaces")
    yield from asks(world, "replaces", 1)
    yield runs(world, "replaces", 2)
    yield passed(world, seconds=3)
    killed, success = world.seen["replaces"]
    assert brief([killed, success]) == [("manual", 1, "killed"), ("manual", 1, "success")]
    assert (killed["reason"], success["reason"]) == ("replaced by the next run", "")
    assert when(killed["finished_at"]) <= when(success["started_at"])


@contract()
def each_time_replaces_the_run_before(world: World) -> Steps:
    # While systemd reads a hundred units anew, on a busy machine, it starts nothing for six seconds and more.
    job = {"schedule": "*/10 * * * * *", "missed": "skip", "overlap": "replace", "command": acts(Act(lasts=600))}
    world.apply({"replaces-often": job})
    yield runs(world, "replaces-often", 3)
    found = world.seen["replaces-often"][:3]
    assert brief(found) == [("schedule", 1, "killed")] * 3
    assert {run["reason"] for run in found} == {"replaced by the next run"}
    due = instants(found)
    assert [b - a for a, b in itertools.pairwise(due)] == [timedelta(seconds=10)] * 2
    have_no_more(world, "replaces-often")


@contract(fake=NO_PROCESSES)
def the_whole_tree_of_a_replaced_run_is_ended(world: World) -> Steps:
    command = sh(f"echo $$; setsid sleep 300 & echo $!; : >{PLACE}/marks/replaces-tree; wait")
    world.apply({"replaces-tree": {"overlap": "replace", "command": command}})
    world.start("replaces-tree")
    yield begun(world, "replaces-tree")
    yield from asks(world, "replaces-tree", 1)
    yield runs(world, "replaces-tree", 1)
    [killed] = world.seen["replaces-tree"]
    assert len(killed["stdout"].split()) == 2
    assert world.alive(killed["stdout"].split()) == []
    world.stop("replaces-tree")


@contract(fake=NO_RUN_COMMAND)
def a_run_by_hand_of_a_job_that_queues_waits_and_the_command_says_so(world: World) -> Steps:
    world.apply({"asked": {"overlap": "queue", "command": acts(Act(lasts=600), Act(lasts=600), Act())}})
    first = world.sdcron("run", "asked")[1].strip()
    assert len(first) == 32
    yield begun(world, "asked")
    words = "for the end of the one that is on\n"
    assert status_of(world, "asked")["waits"] is False
    assert world.sdcron("run", "asked")[:2] == (0, f"a run of asked waits {words}")
    assert world.sdcron("run", "asked")[:2] == (0, f"a run of asked waits already {words}")
    assert status_of(world, "asked")["waits"] is True
    # One run is stopped, and the next begins; the job is, and none does.
    assert world.sdcron("stop", first)[0] == 0
    yield Wait("the second runs", lambda: status_of(world, "asked")["running_id"] not in (None, first))
    assert world.sdcron("run", "asked")[:2] == (0, f"a run of asked waits {words}")
    world.stop("asked")
    yield runs(world, "asked", 2)
    yield passed(world, seconds=2)
    assert brief(world.seen["asked"]) == [("manual", 1, "killed")] * 2
    assert {run["reason"] for run in world.seen["asked"]} == {"stopped by an administrator"}


@contract(fake=NO_RUN_COMMAND)
def a_run_by_hand_is_one_more_or_takes_the_place_of_another(world: World) -> Steps:
    lasting = {"command": acts(Act(lasts=600))}
    world.apply({"asked-allow": {"overlap": "allow", "max_parallel": 2, **lasting}})
    world.apply({"asked-replace": {"overlap": "replace", **lasting}})
    ids = [world.sdcron("run", "asked-allow")[1].strip() for _ in range(2)]
    assert sorted(status_of(world, "asked-allow")["running_ids"]) == sorted(set(ids))
    code, _, words = world.sdcron("run", "asked-allow")
    assert (code, words.splitlines()[0]) == (1, "sdcron: asked-allow runs already")
    # One of two is stopped by its id.
    assert world.sdcron("stop", ids[1])[0] == 0
    assert status_of(world, "asked-allow")["running_ids"] == ids[:1]
    old, new = (world.sdcron("run", "asked-replace")[1].strip() for _ in range(2))
    assert status_of(world, "asked-replace")["running_id"] == new != old
    for name in ("asked-allow", "asked-replace"):
        world.stop(name)
        yield runs(world, name, 2)
    assert [run["run_id"] for run in world.seen["asked-replace"]] == [old, new]
    reasons = [run["reason"] for run in world.seen["asked-replace"]]
    assert reasons == ["replaced by the next run", "stopped by an administrator"]


@contract(fake=NO_COMMANDS)
def a_pause_gives_up_the_run_that_waits(world: World) -> Steps:
    world.apply(
        {"queues-paused": {"overlap": "queue", "schedule": "@yearly", "command": acts(Act(patient=True), Act())}}
    )
    world.start("queues-paused")
    yield begun(world, "queues-paused")
    yield from asks(world, "queues-paused", 1)
    assert world.sdcron("pause", "queues-paused")[0] == 0
    world.let_go("queues-paused")
    yield runs(world, "queues-paused", 1)
    assert world.sdcron("resume", "queues-paused")[0] == 0
    yield passed(world, seconds=2)
    assert len(world.seen["queues-paused"]) == 1


# Locks


@contract()
def jobs_that_share_a_lock_run_one_at_a_time_and_none_is_lost(world: World) -> Steps:
    names = [f"sharing-{number}" for number in range(50)]
    count = f"{PLACE}/counts/sharing"
    noting = sh(f"echo enter >>{count}; sleep 0.01; echo leave >>{count}")
    job = {"lock": "shared", "lock_wait": "5m", "command": acts(Act(lasts=0.01)) if world.backend == "fake" else noting}
    world.apply(dict.fromkeys(names, job))
    yield passed(world, seconds=0)
    world.start(*names)
    for name in names:
        yield runs(world, name, 1)
    found = [world.seen[name] for name in names]
    assert [(len(each), each[0]["outcome"], each[0]["reason"]) for each in found] == [(1, "success", "")] * 50
    if world.backend != "fake":
        world.apply({"sharing-noted": {"command": sh(f"cat {count}")}})
        world.start("sharing-noted")
        yield runs(world, "sharing-noted", 1)
        assert world.seen["sharing-noted"][0]["stdout"] == "enter\nleave\n" * 50


@contract()
def a_run_whose_lock_is_held_is_skipped_at_once_and_neither_failed_nor_retried(world: World) -> Steps:
    world.apply(
        {
            "holding": {"lock": ["lathe", "press"], "command": acts(Act(lasts=600))},
            "refused": {"lock": ["drill", "press"], "retry": "300ms", "command": acts(Act("printed"))},
            "refused-too": {"lock": "drill", "output": {"redact": ["lock"]}, "command": acts(Act("printed"))},
        }
    )
    world.start("holding")
    yield begun(world, "holding")
    world.start("refused")
    yield runs(world, "refused", 1)
    yield passed(world, seconds=2)
    [run] = world.seen["refused"]
    assert (run["trigger"], run["outcome"], run["reason"]) == ("manual", "skipped", "lock press is held")
    assert (run["exit_code"], run["signal"], run["stdout"], run["stderr"], run["stderr_bytes"]) == (
        None,
        None,
        "",
        "",
        0,
    )
    row = status_of(world, "refused")
    assert (row["state"], row["failures"], row["retry"]) == ("by hand", 0, None)
    assert not world.marked("refused")
    lines = [json.loads(line) for line in world.sdcron("logs", "refused", "--json")[1].splitlines()]
    said = [(line["stream"], line["text"], line["run_id"]) for line in lines]
    assert ("sdcron", "not run: lock press is held", run["run_id"]) in said, said
    # What it could have had is free.
    world.start("refused-too")
    yield runs(world, "refused-too", 1)
    world.stop("holding")
    yield runs(world, "holding", 1)
    world.start("refused")
    yield runs(world, "refused", 2)
    assert [brief(world.seen[name])[-1] for name in ("refused", "refused-too")] == [("manual", 1, "success")] * 2
    assert [run["exit_code"] for run in world.seen["refused"]] == [None, 0]


@contract()
def a_run_waits_for_its_locks_as_long_as_it_says(world: World) -> Steps:
    world.apply(
        {
            "first": {"lock": ["kiln", "wheel"], "command": acts(Act(lasts=600))},
            "in-time": {"lock": ["kiln", "wheel"], "lock_wait": "10m", "command": acts(Act("in time"))},
            "too-late": {"lock": "kiln", "lock_wait": "700ms", "command": acts(Act("too late"))},
            "hidden": {
                "lock": "wheel",
                "lock_wait": 1,
                "output": {"redact": ["wh.*l"], "keep": "9"},
                "command": acts(Act("hidden")),
            },
            "no-time": {"lock": "kiln", "lock_wait": "10m", "timeout": "700ms", "command": acts(Act("no time"))},
            "ended": {"lock": "kiln", "lock_wait": "10m", "command": acts(Act("ended"))},
        }
    )
    world.start("first")
    yield begun(world, "first")
    world.start("in-time", "too-late", "hidden", "no-time", "ended")
    for name in ("too-late", "hidden", "no-time"):
        yield runs(world, name, 1)
    assert "in-time" not in world.seen
    for name in ("ended", "first"):
        world.stop(name)
    for name in ("ended", "first", "in-time"):
        yield runs(world, name, 1)
    ends = {name: world.seen[name][0] for name in ("in-time", "too-late", "hidden", "no-time", "ended")}
    assert {name: (run["outcome"], run["stdout"], run["stderr"]) for name, run in ends.items()} == {
        "in-time": ("success", "in time\n", ""),
        "too-late": ("skipped", "", ""),
        "hidden": ("skipped", "", ""),
        "no-time": ("timeout", "", ""),
        "ended": ("killed", "", ""),
    }
    assert [ends[name]["reason"] for name in ("too-late", "hidden", "no-time", "ended")] == [
        "lock kiln is held",
        "lock wheel is held",
        "took longer than its timeout",
        "stopped by an administrator",
    ]
    assert ends["too-late"]["duration_s"] > 0.6
    assert when(ends["in-time"]["finished_at"]) >= when(world.seen["first"][0]["finished_at"])


@contract()
def jobs_that_name_the_same_locks_in_any_order_do_not_wait_for_each_other_for_ever(world: World) -> Steps:
    orders = itertools.permutations(["fork", "knife", "spoon"])
    jobs = {f"eats-{number}": list(order) for number, order in enumerate(orders)}
    jobs |= {"eats-with-two": ["spoon", "fork"], "eats-with-the-others": ["knife", "spoon", "knife"]}
    command = acts(Act(lasts=0.1))
    world.apply({name: {"lock": names, "lock_wait": "1m", "command": command} for name, names in jobs.items()})
    yield passed(world, seconds=0)
    world.start(*jobs)
    for name in jobs:
        yield runs(world, name, 1)
    assert {run["outcome"] for name in jobs for run in world.seen[name]} == {"success"}


@contract()
def no_lock_outlives_its_run_whatever_ends_it(world: World) -> Steps:
    ends: dict[str, dict[str, Any]] = {
        "locked-killed": {"command": acts(Act(dies="KILL", lasts=1))},
        "locked-leaving": {"command": acts(Act(leaves=1000))},
        "locked-timing-out": {
            "timeout": "500ms",
            "stop_timeout": "500ms",
            "command": acts(Act(lasts=600, on_term="ignores")),
        },
        "locked-cut-off": {"command": acts(Act(lasts=1000))},
    }
    world.apply({name: {"lock": f"lock-of-{name}", **job} for name, job in ends.items()})
    after = {f"after-{name}": {"lock": f"lock-of-{name}", "command": acts(Act("free"))} for name in ends}
    world.apply(after)
    world.start(*ends)
    for name in ends:
        if name != "locked-cut-off":
            yield runs(world, name, 1)
            world.start(f"after-{name}")
            yield runs(world, f"after-{name}", 1)
    yield begun(world, "locked-cut-off")
    yield Down.CRASH
    world.start("after-locked-cut-off")
    yield runs(world, "after-locked-cut-off", 1)
    assert {name: (world.seen[name][0]["outcome"], world.seen[name][0]["stdout"]) for name in after} == dict.fromkeys(
        after, ("success", "free\n")
    )
    assert [world.seen[name][0]["outcome"] for name in ends] == ["killed", "success", "timeout", "abandoned"]


@contract(fake=NO_COMMANDS)
def a_lock_with_a_parameter_is_one_for_each_value(world: World) -> Steps:
    place = {"lock": ["stock", "import-{region}", "{region}"], "parameters": {"region": "eu"}}
    world.apply(
        {
            "importing": {**place, "lock": "import-{region}", "command": acts(Act(lasts=600))},
            "checking": {**place, "command": ["/bin/echo", "{region}"]},
            "by-name": {"lock": ["import-eu"], "command": ["/bin/true"]},
        }
    )
    world.start("importing")
    yield begun(world, "importing")
    world.start("checking", "by-name")
    for name in ("checking", "by-name"):
        yield runs(world, name, 1)
        [run] = world.seen[name]
        assert (run["outcome"], run["reason"]) == ("skipped", "lock import-eu is held")
    code, out, _ = world.sdcron("run", "checking", "region=us", "--wait")
    assert (code, out) == (0, "us\n")
    # Two of its names are one then.
    code, out, _ = world.sdcron("run", "checking", "region=stock", "--wait")
    assert (code, out) == (0, "stock\n")
    world.sdcron("run", "checking", "region=eu", "--wait")
    yield runs(world, "checking", 4)
    assert [run["outcome"] for run in world.seen["checking"]] == ["skipped", "success", "success", "skipped"]
    assert (world.seen["checking"][3]["reason"], world.seen["checking"][3]["stderr"]) == ("lock import-eu is held", "")
    code, _, words = world.sdcron("run", "checking", "region=a b")
    assert (code, words.splitlines()[0]) == (2, "sdcron: checking: the lock 'import-{region}' would be 'import-a b'")
    world.stop("importing")
    yield runs(world, "importing", 1)


@contract()
def jobs_of_several_users_share_a_lock(world: World) -> Steps:
    users = ["daemon", "nobody", "root"] if ROOT else [""]
    names = {f"of-{user or 'itself'}": {"user": user} if user else {} for user in users}
    now = "date +%s.%N"
    command = acts(Act(lasts=1)) if world.backend == "fake" else ["/bin/sh", "-c", f"{now}; sleep 1; {now}"]
    world.apply(
        {name: {**user, "lock": "common", "lock_wait": "1m", "command": command} for name, user in names.items()}
    )
    yield passed(world, seconds=0)
    for count in (1, 2):
        world.start(*names)
        for name in names:
            yield runs(world, name, count)
    found = [run for name in names for run in world.seen[name]]
    assert {run["outcome"] for run in found} == {"success"}
    if world.backend == "fake":
        on = sorted((end - 1, end) for end in (when(run["finished_at"]).timestamp() for run in found))
    else:
        # As they say themselves: who else looks may be late.
        on = sorted((float(begin), float(end)) for begin, end in (run["stdout"].split() for run in found))
    assert all(ended <= begins for (_, ended), (begins, _) in itertools.pairwise(on)), on


# Retries


@contract()
def a_failed_run_is_retried_after_its_delay_as_often_as_it_says(world: World) -> Steps:
    retry = {"delay": "1s", "attempts": 2}
    world.apply({"fails": {"retry": retry, "accuracy": "10ms", "command": acts(Act("no", exits=3))}})
    world.start("fails")
    yield runs(world, "fails", 3)
    yield passed(world, seconds=3)
    found = world.seen["fails"]
    assert brief(found) == [("manual", 1, "failure"), ("retry", 2, "failure"), ("retry", 3, "failure")]
    assert [(run["exit_code"], run["reason"]) for run in found] == [(3, "exit status 3")] * 3
    assert min(waits(found)) > 0.5
    assert [run["scheduled_at"] is None for run in found] == [True, False, False]
    assert all(when(run["scheduled_at"]) <= when(run["started_at"]) for run in found[1:])
    row = status_of(world, "fails")
    assert (row["failures"], row["retry"]) == (3, None)
    code, text, _ = world.sdcron("logs", "fails", "-n", "100")
    assert code == 0
    said = [line.rpartition("fails: ")[2] for line in text.splitlines() if "retr" in line]
    expected = ["retry 1 of 2 is waiting", "retry 2 of 2 is waiting", "gave up after 2 retries"]
    assert [word for word in expected if any(word in line for line in said)] == expected, text


@contract()
def each_wait_is_longer_than_the_one_before_up_to_the_longest(world: World) -> Steps:
    retry = {"delay": "300ms", "attempts": 4, "backoff": 3, "max_delay": "2s"}
    world.apply({"backoff": {"retry": retry, "accuracy": "10ms", "command": acts(Act(exits=1))}})
    world.start("backoff")
    yield runs(world, "backoff", 5)
    for seen, delay in zip(waits(world.seen["backoff"]), [0.3, 0.9, 2, 2], strict=True):
        # A busy systemd tells of an end a little later than it was.
        assert seen > delay - 0.001 if world.backend == "fake" else seen > delay / 2
        assert world.backend != "fake" or seen < delay + 0.001


@contract(local=NO_DAYS, systemd=NO_DAYS)
def waits_of_days_are_waited_for_also_over_downtime(world: World) -> Steps:
    retry = {"delay": "6h", "attempts": 6, "backoff": 2, "max_delay": "3d"}
    world.apply({"days": {"retry": retry, "command": acts(Act(exits=1))}})
    world.start("days")
    yield runs(world, "days", 4)
    world.go_down(Down.CRASH, 3600)
    yield runs(world, "days", 7)
    yield passed(world, days=30)
    assert len(world.seen["days"]) == 7
    assert [round(seen / 3600, 3) for seen in waits(world.seen["days"])] == [6, 12, 24, 48, 72, 72]


@contract()
def a_success_ends_the_series(world: World) -> Steps:
    world.apply({"third": {"retry": "500ms", "command": acts(Act(exits=1), Act(exits=1), Act())}})
    world.start("third")
    yield runs(world, "third", 3)
    yield passed(world, seconds=1.5)
    assert [run["outcome"] for run in world.seen["third"]] == ["failure", "failure", "success"]
    assert status_of(world, "third")["failures"] == 0


@contract()
def only_the_exit_codes_that_are_named_are_retried(world: World) -> Steps:
    retry = {"delay": "300ms", "on_exit": [75, 137]}
    commands = {
        "named-code": acts(Act(exits=75), Act()),
        "then-another": acts(Act(exits=75), Act(exits=1)),
        "other-code": acts(Act(exits=1)),
        "no-code": acts(Act(dies="KILL")),
    }
    world.apply({name: {"retry": retry, "command": command} for name, command in commands.items()})
    world.start(*commands)
    for name in commands:
        yield runs(world, name, 2 if name in ("named-code", "then-another") else 1)
    yield passed(world, seconds=1.5)
    seen = {name: [run["outcome"] for run in world.seen[name]] for name in commands}
    assert seen == {
        "named-code": ["failure", "success"],
        "then-another": ["failure", "failure"],
        "other-code": ["failure"],
        "no-code": ["killed"],
    }


@contract()
def a_run_by_hand_takes_the_place_of_a_retry_that_waits(world: World) -> Steps:
    world.apply({"superseded": {"retry": {"delay": "1h", "attempts": 2}, "command": acts(Act(exits=1))}})
    for count in (1, 2):
        world.start("superseded")
        yield runs(world, "superseded", count)
    assert brief(world.seen["superseded"]) == [("manual", 1, "failure")] * 2
    if world.backend == "fake":
        yield runs(world, "superseded", 4)
        assert brief(world.seen["superseded"])[2:] == [("retry", 2, "failure"), ("retry", 3, "failure")]
    else:
        yield Wait("a retry waits", lambda: bool(status_of(world, "superseded")["retry"]))
        assert status_of(world, "superseded")["retry"]["attempt"] == 2


@contract()
def what_is_stopped_on_purpose_is_killed_and_not_retried(world: World) -> Steps:
    retry = {"delay": "300ms", "attempts": 2}
    jobs = {
        "stopped-now": {"retry": retry, "command": acts(Act(lasts=600))},
        "obeys": {"retry": retry, "command": acts(Act(lasts=600, on_term="obeys"))},
        "ignores": {"retry": retry, "stop_timeout": "500ms", "command": acts(Act(lasts=600, on_term="ignores"))},
    }
    world.apply(jobs)
    world.start(*jobs)
    for name in jobs:
        yield begun(world, name)
    yield passed(world, seconds=0.5)
    for name in jobs:
        world.stop(name)
    yield passed(world, seconds=1.5)
    for name, signal in {"stopped-now": "SIGTERM", "obeys": None, "ignores": "SIGKILL"}.items():
        [run] = world.seen[name]
        assert (run["outcome"], run["reason"]) == ("killed", "stopped by an administrator")
        assert (run["signal"], run["exit_code"]) in ((signal, None), (signal, 0 if name == "obeys" else None))
        assert run["stdout"] == ("bye\n" if name == "obeys" else "")


# What is cut off


def cut_off(world: World, how: Down, reason: str) -> Steps:
    """Have jobs run, and wait for a retry, when everything goes down."""
    again = {"delay": "500ms", "attempts": 2}
    names = {name: f"{how.value}-{name}" for name in ("runs", "waits", "once", "codes")}
    world.apply(
        {
            names["runs"]: {"retry": again, "command": acts(Act("begun", lasts=1000), Act("again"))},
            names["waits"]: {"retry": {"delay": "4s", "attempts": 3}, "command": acts(Act(exits=1), Act())},
            names["once"]: {"command": acts(Act("begun", lasts=1000))},
            names["codes"]: {"retry": {**again, "on_exit": [75]}, "command": acts(Act("begun", lasts=1000))},
        }
    )
    go_on = [name for key, name in names.items() if key != "waits"]
    world.start(*go_on)
    for name in go_on:
        yield begun(world, name)
    # Everything goes down soon after: before the retry.
    yield Down.NOT_YET
    world.start(names["waits"])
    yield runs(world, names["waits"], 1)
    went_down = world.now()
    yield how
    yield runs(world, names["runs"], 2)
    yield runs(world, names["waits"], 2)
    yield runs(world, names["once"], 1)
    yield passed(world, seconds=1)
    seen = {name: brief(world.seen[full]) for name, full in names.items()}
    assert seen == {
        "runs": [("manual", 1, "abandoned"), ("retry", 2, "success")],
        "waits": [("manual", 1, "failure"), ("retry", 2, "success")],
        "once": [("manual", 1, "abandoned")],
        "codes": [("manual", 1, "abandoned")],
    }
    assert all(when(world.seen[names[name]][1]["started_at"]) > went_down for name in ("runs", "waits"))
    for name in ("runs", "once", "codes"):
        run = world.seen[names[name]][0]
        assert re.fullmatch(reason, run["reason"]), run
        assert (run["finished_at"] is None) == (how is Down.CRASH)
        assert (run["signal"], run["exit_code"]) == ("SIGTERM" if how is Down.RESTART else None, None)


@contract()
def what_an_orderly_end_cuts_off_is_abandoned_and_retried(world: World) -> Steps:
    yield from cut_off(world, Down.RESTART, "cut off by a shutdown")


@contract()
def what_a_crash_cuts_off_is_abandoned_and_retried(world: World) -> Steps:
    # Not before: all cases of a world go down together.
    yield Down.RESTART
    # An engine that is killed on a machine that goes on is not the machine's end.
    manager = "cut off: its service manager was killed"
    reason = manager if world.backend == "local" else "cut off: the machine went down without a shutdown"
    yield from cut_off(world, Down.CRASH, reason)


# Time limits


@contract()
def a_run_that_takes_too_long_gets_its_signal_and_then_sigkill(world: World) -> Steps:
    limit = {"timeout": "1s", "stop_timeout": "500ms"}
    jobs = {
        "long-dies": acts(Act("begun", lasts=600)),
        "long-obeys": acts(Act("begun", lasts=600, on_term="obeys")),
        "long-ignores": acts(Act("begun", lasts=600, on_term="ignores")),
        "long-but-quick": acts(Act("begun")),
    }
    world.apply({name: {**limit, "command": command} for name, command in jobs.items()})
    world.start(*jobs)
    for name in jobs:
        yield runs(world, name, 1)
    ends = {name: world.seen[name][0] for name in jobs}
    seen = {name: (run["outcome"], run["signal"], run["reason"]) for name, run in ends.items()}
    late = "took longer than its timeout"
    assert seen == {
        "long-dies": ("timeout", "SIGTERM", late),
        "long-obeys": ("timeout", None, late),
        "long-ignores": ("timeout", "SIGKILL", late),
        "long-but-quick": ("success", None, ""),
    }
    assert ends["long-obeys"]["stdout"] == "begun\nbye\n"
    # A busy systemd tells of a start a little later than it counts from.
    assert ends["long-dies"]["duration_s"] > 0.5
    assert ends["long-ignores"]["duration_s"] > 1


@contract()
def nobody_of_a_run_is_left_when_it_is_over(world: World) -> Steps:
    jobs: dict[str, dict[str, Any]] = {
        "leaves": {"command": acts(Act("main", leaves=1000))},
        "leaves-late": {"timeout": "500ms", "command": acts(Act("main", lasts=600, leaves=1000))},
    }
    # Its children are in sessions of their own, without parents, and deaf to the signal.
    stubborn = "sh -c 'trap \"\" TERM; for i in 1 2 3 4 5 6 7 8 9; do sleep 600; done'"
    tree = f"setsid {stubborn} & echo $!; ({stubborn} & echo $!); exec sleep 600"
    if world.backend != "fake":
        jobs["tree"] = {"timeout": "1s", "stop_timeout": "500ms", "command": sh(tree)}
    world.apply(jobs)
    world.start(*jobs)
    for name in jobs:
        yield runs(world, name, 1)
    [leaves], [late] = world.seen["leaves"], world.seen["leaves-late"]
    assert (leaves["outcome"], leaves["stdout"], leaves["exit_code"]) == ("success", "main\n", 0)
    assert (late["outcome"], late["signal"]) == ("timeout", "SIGTERM")
    if world.backend != "fake":
        [run] = world.seen["tree"]
        pids = run["stdout"].split()
        assert (run["outcome"], len(pids)) == ("timeout", 2)
        yield Wait("all of the tree are gone", lambda: world.alive(pids) == [])


# How it ends


@contract()
def exit_codes_and_signals_are_what_the_record_says(world: World) -> Steps:
    ends: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
        "code-0": ({"command": acts()}, ("success", 0, None, "")),
        "code-1": ({"command": acts(Act(exits=1))}, ("failure", 1, None, "exit status 1")),
        "code-255": ({"command": acts(Act(exits=255))}, ("failure", 255, None, "exit status 255")),
        "code-4": ({"success_exit": [3], "command": acts(Act(exits=4))}, ("failure", 4, None, "exit status 4")),
        "term": ({"command": acts(Act(dies="TERM"))}, ("killed", None, "SIGTERM", "died of SIGTERM")),
        "kill": ({"command": acts(Act(dies="KILL"))}, ("killed", None, "SIGKILL", "died of SIGKILL")),
        "usr1": ({"command": acts(Act(dies="USR1"))}, ("killed", None, "SIGUSR1", "died of SIGUSR1")),
    }
    world.apply({name: job for name, (job, _) in ends.items()} | {"code-3": {**ends["code-4"][0], **THREE}})
    world.start(*ends, "code-3")
    for name in (*ends, "code-3"):
        yield runs(world, name, 1)
    for name, (_, expected) in ends.items():
        [run] = world.seen[name]
        assert (run["outcome"], run["exit_code"], run["signal"], run["reason"]) == expected
    [run] = world.seen["code-3"]
    # systemd tells the status of a success only as long as the unit is loaded.
    assert (run["outcome"], run["exit_code"] in ((3, None) if world.backend == "systemd" else (3,))) == (
        "success",
        True,
    )


THREE: dict[str, Any] = {"command": acts(Act(exits=3))}


@contract()
def what_cannot_be_started_is_a_failure_that_is_retried(world: World) -> Steps:
    # Made-up processes fail at the same step.
    job = {"retry": {"delay": "300ms", "attempts": 1}, "command": acts(Act(fails_at="CHDIR")), "directory": "/no/such"}
    world.apply({"not-startable": job})
    world.start("not-startable")
    yield runs(world, "not-startable", 2)
    yield passed(world, seconds=1)
    found = world.seen["not-startable"]
    assert brief(found) == [("manual", 1, "failure"), ("retry", 2, "failure")]
    assert {run["exit_code"] for run in found} == {200}
    assert all(run["reason"].startswith("could not be started, at step CHDIR: ") for run in found)


# What a run finds, and what it prints

FOUND: dict[str, tuple[dict[str, Any], str]] = {
    "own-environment": (
        {"environment": {"A": "a b", "B": "$HOME %h"}, "command": sh('echo "$A|$B"')},
        "a b|$HOME %h\n",
    ),
    "file-environment": (
        {"environment": {"A": "of the job"}, "environment_file": "@DIR@/two.env", "command": sh("echo $A")},
        "from the second file\n",
    ),
    "own-directory": ({"directory": "@DIR@", "command": sh("pwd")}, "@DIR@\n"),
    "no-own-directory": ({"command": sh("pwd")}, "/\n"),
    "own-umask": ({"umask": "077", "command": sh("umask")}, "0077\n"),
    "no-own-umask": ({"command": sh("umask")}, "0022\n"),
    "no-input": ({"command": sh("cat; echo end")}, "end\n"),
    "own-files": ({"limits": {"open_files": 99}, "command": sh("ulimit -n; ulimit -Hn")}, "99\n99\n"),
    "own-niceness": ({"priority": {"nice": 7}, "command": sh("nice")}, "7\n"),
    "own-script": ({"script": "#!/bin/sh\necho of $0 >&2\necho in it\n"}, "in it\n"),
    "own-venv": ({"interpreter": {"venv": "@DIR@/venv"}, "command": ["tool", "word"]}, "tool @DIR@/venv word\n"),
    "own-secret": (
        {"credentials": {"key": "@DIR@/secret"}, "command": sh("cat $CREDENTIALS_DIRECTORY/key")},
        "s3cret\n",
    ),
    "exact-words": ({"command": ["/bin/echo", "a  b", "*", "$HOME", "%n", "'"]}, "a  b * $HOME %n '\n"),
    "its-id": ({"command": sh("echo $INVOCATION_ID")}, "ID\n"),
}
OF_ROOT: dict[str, tuple[dict[str, Any], str]] = {
    "own-user": ({"user": "daemon", "command": sh("id -un; id -gn; echo $USER")}, "daemon\ndaemon\ndaemon\n"),
    "own-group": ({"group": "daemon", "command": sh("id -un; id -gn")}, "root\ndaemon\n"),
    "own-io": ({"priority": {"io": "best-effort:6"}, "command": sh("ionice -p $$")}, "best-effort: prio 6\n"),
}


@contract(fake=NO_PROCESSES)
def a_run_finds_what_its_file_says(world: World) -> Steps:
    found = FOUND | (OF_ROOT if ROOT else {})
    world.apply({name: job for name, (job, _) in found.items()})
    world.start(*found)
    for name in found:
        yield runs(world, name, 1)
    for name, (_, expected) in found.items():
        [run] = world.seen[name]
        text = expected.replace("@DIR@", world.directory).replace("ID", run["run_id"])
        assert (run["outcome"], run["stdout"]) == ("success", text), run


@contract(fake=NO_PROCESSES)
def both_streams_are_kept_apart_and_told_by_logs(world: World) -> Steps:
    jobs: dict[str, dict[str, Any]] = {
        "streams": {"command": sh("echo out; echo err >&2; printf 'grüße, no end'")},
        "much": {"output": {"keep": "100"}, "command": sh("seq 1 500; seq 1 5 >&2")},
        "secret": {"output": {"redact": ["hunter\\d"]}, "command": sh("echo password hunter2")},
    }
    world.apply(jobs)
    world.start(*jobs)
    for name in jobs:
        yield runs(world, name, 1)
    [streams], [much], [secret] = (world.seen[name] for name in jobs)
    assert (streams["stdout"], streams["stderr"], streams["truncated"]) == ("out\ngrüße, no end", "err\n", False)
    assert (much["stdout_bytes"], much["stderr_bytes"], much["truncated"]) == (1892, 10, True)
    assert (much["stdout"][:4], much["stdout"][-4:], much["stderr"]) == ("1\n2\n", "500\n", "1\n2\n3\n4\n5\n")
    assert secret["stdout"] == "password [redacted]\n"
    lines = [json.loads(line) for line in world.sdcron("logs", "streams", "--json")[1].splitlines()]
    printed = {(line["stream"], line["text"]) for line in lines if line["stream"] in ("stdout", "stderr")}
    assert printed == {("stdout", "out"), ("stdout", "grüße, no end"), ("stderr", "err")}
    assert "hunter2" not in world.sdcron("logs", "secret")[1]


@contract(systemd="journald drops empty lines, and blanks at the end of others", fake=NO_PROCESSES)
def every_byte_that_is_printed_is_kept(world: World) -> Steps:
    world.apply({"blank": {"command": sh("printf '\\n\\na  \\n\\n b \\n'")}})
    world.start("blank")
    yield runs(world, "blank", 1)
    assert (world.seen["blank"][0]["stdout"], world.seen["blank"][0]["stdout_bytes"]) == ("\n\na  \n\n b \n", 11)


@contract(systemd="its control group bounds it, and the machines of the tests have none for that", fake=NO_PROCESSES)
def memory_is_bounded_for_each_process(world: World) -> Steps:
    world.apply({"memory": {"limits": {"memory": "64MiB"}, "command": sh("ulimit -d; ulimit -Hd")}})
    world.start("memory")
    yield runs(world, "memory", 1)
    assert world.seen["memory"][0]["stdout"] == "65536\n65536\n"


@contract(fake=NO_COMMANDS)
def a_run_is_stopped_by_its_id_or_by_a_process_of_it(world: World) -> Steps:
    world.apply({"by-id": {"command": acts(Act(lasts=600))}, "by-pid": {"command": sh("sleep 600 & echo $!; wait")}})
    world.start("by-id", "by-pid")
    yield begun(world, "by-id")
    run_id = status_of(world, "by-id")["running_id"]
    assert world.sdcron("stop", run_id)[:2] == (0, "by-id is stopped\n")
    printed: list[str] = []

    def prints() -> bool:
        lines = [json.loads(line) for line in world.sdcron("logs", "by-pid", "--json")[1].splitlines()]
        printed.extend(line["text"] for line in lines if line["stream"] == "stdout")
        return bool(printed)

    yield Wait("it says whose number it is", prints)
    assert world.sdcron("stop", printed[0])[:2] == (0, "by-pid is stopped\n")
    for name in ("by-id", "by-pid"):
        yield runs(world, name, 1)
        assert brief(world.seen[name]) == [("manual", 1, "killed")]
    assert world.alive(printed[:1]) == []
    for target, words in ((run_id, f"no run {run_id} is on"), ("1", "process 1 is of no run of sdcron's")):
        code, _, told = world.sdcron("stop", target)
        assert (code, told.splitlines()[0]) == (2, f"sdcron: {words}")


@contract(fake=NO_COMMANDS)
def a_run_is_killed_by_its_id_or_by_a_process_of_it(world: World) -> Steps:
    deaf = sh("trap '' TERM; echo $$; while :; do sleep 1; done")
    world.apply({f"kill-{by}": {"command": deaf, "stop_timeout": "1h"} for by in ("id", "pid")})
    world.start("kill-id", "kill-pid")
    printed: dict[str, str] = {}

    def print_both() -> bool:
        for name in ("kill-id", "kill-pid"):
            lines = [json.loads(line) for line in world.sdcron("logs", name, "--json")[1].splitlines()]
            printed.update((name, line["text"]) for line in lines if line["stream"] == "stdout")
        return len(printed) == len(("kill-id", "kill-pid"))

    yield Wait("they say whose number they are", print_both)
    run_id = status_of(world, "kill-id")["running_id"]
    assert world.sdcron("stop", "--kill", run_id)[:2] == (0, "kill-id is killed\n")
    assert world.sdcron("stop", "--kill", printed["kill-pid"])[:2] == (0, "kill-pid is killed\n")
    for name in ("kill-id", "kill-pid"):
        yield runs(world, name, 1)
        assert brief(world.seen[name]) == [("manual", 1, "killed")]
    assert world.alive(list(printed.values())) == []


@contract(fake=NO_COMMANDS)
def what_is_stopped_takes_its_whole_tree_with_it(world: World) -> Steps:
    deaf = "trap '' TERM; while :; do sleep 1; done"
    tree = f'setsid sh -c "{deaf}" & echo $!; sh -c "{deaf}" & echo $!; : >{PLACE}/marks/whole-tree; exec sleep 600'
    world.apply({"whole-tree": {"command": sh(tree), "stop_timeout": "500ms"}})
    world.start("whole-tree")
    yield begun(world, "whole-tree")
    assert world.sdcron("stop", "whole-tree")[0] == 0
    yield runs(world, "whole-tree", 1)
    [stopped] = world.seen["whole-tree"]
    assert (stopped["outcome"], stopped["reason"]) == ("killed", "stopped by an administrator")
    assert len(stopped["stdout"].split()) == 2
    assert world.alive(stopped["stdout"].split()) == []


@contract(fake=NO_COMMANDS)
def a_job_is_applied_where_its_hosts_match(world: World) -> Steps:
    often = {"schedule": "* * * * * *", "command": acts()}
    world.apply({"for-here": {**often, "hosts": "*"}, "for-there": {**often, "hosts": ["no-such-host", "nor-*"]}})
    yield runs(world, "for-here", 2)
    assert "for-there" not in world.seen

    def listed(*options: str) -> dict[str, str]:
        rows = json.loads(world.sdcron("list", "--json", *options)[1])
        return {row["job"]: row["state"] for row in rows if row["job"].startswith("for-")}

    assert listed().keys() == {"for-here"}
    assert listed("--all-hosts").keys() == {"for-here", "for-there"}
    assert listed("--all-hosts")["for-there"] == "elsewhere"
    code, _, words = world.sdcron("run", "for-there")
    assert (code, "for-there" in words) == (2, True)


@contract(fake=NO_COMMANDS)
def what_is_killed_is_not_retried_and_what_comes_after_it_hears_of_it(world: World) -> Steps:
    names = [f"killed-{number}" for number in range(6)]
    deaf = sh(f"trap '' TERM; setsid sleep 300 & echo $!; : >{PLACE}/marks/$0; while :; do sleep 1; done")
    retried = {"retry": {"delay": "500ms", "attempts": 2}, "stop_timeout": "1m"}
    for name in names:
        own = {"command": [*deaf, name]} if name[-1] in "01" else {"command": acts(Act(lasts=600))}
        world.apply({name: retried | own, f"after-{name}": {"after": name, "command": acts()}})
    world.start(*names)
    for name in names:
        yield begun(world, name)
    assert world.sdcron("stop", "--kill", *names)[0] == 0
    for name in names:
        yield runs(world, f"after-{name}", 1)
    yield passed(world, seconds=2)
    for name in names:
        assert [(run["outcome"], run["reason"]) for run in world.seen[name]] == [
            ("killed", "stopped by an administrator")
        ]
        assert [(run["outcome"], run["reason"]) for run in world.seen[f"after-{name}"]] == [
            ("skipped", f"needs {name}")
        ]
    assert world.alive([number for name in names for number in world.seen[name][0]["stdout"].split()]) == []


ASKS = 'echo "$@ for ${SDCRON_FOR-nothing}, $SDCRON_PARAM_REGION $SDCRON_PARAM_DAYS"'


@contract(fake=NO_COMMANDS)
def a_run_has_the_values_that_are_given_and_defaults_for_the_others(world: World) -> Steps:
    odd = """a 'b' "c" $HOME %i {days} \\ ö;"""
    world.apply(
        {
            "values": {
                "command": ["/bin/sh", "-c", ASKS, "-", "--region={region}", "{days}", "{{days}}", "{}"],
                "parameters": {"region": "eu", "days": 7},
                "timezone": "Europe/Berlin",
                "schedule": "0 0 1 1 *",
                "retry": {"delay": "100ms", "attempts": 1},
            },
            "must": {"command": ["/bin/echo", "{what}"], "parameters": {"what": None}},
        }
    )
    world.start("values")
    yield runs(world, "values", 1)
    first = world.seen["values"][0]
    assert first["stdout"] == "--region=eu 7 {days} {} for nothing, eu 7\n"
    assert (first["trigger"], first["for"], first["parameters"]) == ("manual", None, {})
    code, out, words = world.sdcron("run", "values", f"region={odd}", "--for", "2026-03-29T01:00:00Z", "--wait")
    assert (code, out, words) == (0, f"--region={odd} 7 {{days}} {{}} for 2026-03-29T03:00:00+02:00, {odd} 7\n", "")
    assert world.sdcron("run", "values", "--wait")[0] == 0
    yield runs(world, "values", 3)
    second, third = world.seen["values"][1:]
    assert (second["trigger"], second["parameters"]) == ("manual", {"region": odd})
    assert second["asked_by"] == caller()
    assert when(second["for"]) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert (third["trigger"], third["asked_by"], third["parameters"]) == ("manual", caller(), {})
    for given, told in (
        (["day=1"], "values: there is no parameter 'day'"),
        (["days=x"], "values: 'days' must be a whole number, as its default 7 is"),
    ):
        code, _, words = world.sdcron("run", "values", *given)
        assert (code, words.splitlines()[0]) == (2, f"sdcron: {told}")
    assert world.sdcron("run", "must")[0] == 2
    assert world.sdcron("run", "must", "what=this", "--wait")[:2] == (0, "this\n")


@contract(fake=NO_COMMANDS)
def a_run_with_values_is_beside_others_only_where_several_may_be_on(world: World) -> Steps:
    kinds = ("queue", "replace", "allow")
    command = sh('[ "$1" = 1 ] || { : >"$2"; sleep 600; }; echo "$1 for ${SDCRON_FOR-nothing}"')
    for kind in kinds:
        job = {"overlap": kind, "parameters": {"n": 1}, "command": [*command, "-", "{n}", f"{PLACE}/marks/one-{kind}"]}
        world.apply(
            {f"one-{kind}": job | {"after": "one-first"} if kind == "queue" else job, "one-first": {"command": acts()}}
        )
    yield passed(world, seconds=0)
    for kind in kinds:
        assert world.sdcron("run", f"one-{kind}", "n=2")[0] == 0
        yield begun(world, f"one-{kind}")
    for kind in ("queue", "replace"):
        name = f"one-{kind}"
        for more in (["n=3"], ["--for", "2026-01-01"]):
            code, _, words = world.sdcron("run", name, *more)
            assert (code, words.splitlines()[0]) == (1, f"sdcron: {name} runs already")
        # Any other run waits for its end, whatever the job does with those that are due.
        waits = "for the end of the one that is on\n"
        assert world.sdcron("run", name)[:2] == (0, f"a run of {name} waits {waits}")
        assert world.sdcron("run", name)[:2] == (0, f"a run of {name} waits already {waits}")
    assert world.sdcron("run", "one-allow", "--for", "2026-01-01T00:00:00Z", "--wait")[1].startswith(
        "1 for 2026-01-01T"
    )
    code, out, _ = world.sdcron("run", "one-allow")
    assert (code, len(out.strip())) == (0, 32), "it waits for nobody"
    for kind in kinds:
        running = status_of(world, f"one-{kind}")["running_id"]
        assert world.sdcron("stop", running)[0] == 0
    for kind in kinds:
        beside = kind == "allow"
        yield runs(world, f"one-{kind}", 2 + beside)
        found = sorted(world.seen[f"one-{kind}"], key=lambda run: str(run["parameters"]))
        assert [(run["trigger"], run["parameters"], run["outcome"]) for run in found] == [
            ("manual", {"n": "2"}, "killed"),
            *[("manual", {}, "success")] * (1 + beside),
        ]
    # Nothing of that was a run of the chain's.
    world.start("one-first")
    yield runs(world, "one-queue", 3)
    assert brief(world.seen["one-queue"])[2] == ("after", 1, "success")


@contract(fake=NO_COMMANDS)
def a_range_is_run_in_order_up_to_a_failure_and_goes_on_behind_what_has_succeeded(world: World) -> Steps:
    log = f"{PLACE}/counts/range"
    text = f'echo "$SDCRON_FOR" >>{log}; case $SDCRON_FOR in *-01-03T*) [ -e {log}-mended ];; esac'
    job = {"schedule": "30 2 1-5 1 *", "timezone": "UTC", "command": ["/bin/sh", "-c", text], "retry": "1h"}
    failing = {"command": ["/bin/sh", "-c", '[ -n "$SDCRON_FOR" ]']}
    mend = {"command": ["/bin/touch", f"{log}-mended"]}
    world.apply({"range": job, "range-failed": failing, "mend": mend})
    # Its last regular run has failed: that does not stand in the way.
    world.start("range-failed")
    yield runs(world, "range-failed", 1)
    code, _, words = world.sdcron("run", "range-failed", "--for", "2026-01-01", "--wait")
    assert (code, words) == (0, "")
    span = ("range", "--for", "2026-01-01..2026-01-05")
    code, out, words = world.sdcron("run", *span)
    assert code == 1
    assert [line.split("  ")[2] for line in out.splitlines()] == ["success", "success", "failure: exit status 1"]
    assert "range failed, 2 of 5 are done; once that is mended: sdcron run" in words
    assert words.rstrip().endswith("range --for 2026-01-01..2026-01-05 --continue")
    assert world.sdcron("run", "mend", "--wait")[0] == 0
    code, out, words = world.sdcron("run", *span, "--continue")
    assert (code, len(out.splitlines())) == (0, 3)
    assert world.sdcron("run", *span, "--continue")[0] == 0
    yield runs(world, "range", 6)
    days = [when(run["for"]).day for run in world.seen["range"]]
    assert days == [1, 2, 3, 3, 4, 5]
    assert {(run["trigger"], run["attempt"]) for run in world.seen["range"]} == {("manual", 1)}
    begun = [when(run["started_at"]) for run in world.seen["range"]]
    ended = [when(run["finished_at"]) for run in world.seen["range"]]
    assert all(end <= start for end, start in zip(ended, begun[1:], strict=False))


@contract(fake=NO_COMMANDS)
def what_falls_due_while_a_run_for_an_instant_is_on_runs_right_after_it(world: World) -> Steps:
    world.apply(
        {
            "held": {
                "schedule": "* * * * * *",
                "missed": "skip",
                "command": ["/bin/sh", "-c", '[ -z "${SDCRON_FOR-}" ] || sleep 3'],
            }
        }
    )
    yield passed(world, seconds=0)
    code = 1
    while code:
        # A regular run may be on just then.
        code, _, _ = world.sdcron("run", "held", "--for", "2026-01-01")
        yield passed(world, seconds=0.1)

    def is_over() -> bool:
        return any(run["for"] for run in world.seen.get("held", ()))

    yield Wait("the run for an instant is over", is_over)
    known = len(world.seen["held"])
    yield runs(world, "held", known + 2)
    found = sorted(world.seen["held"], key=lambda run: when(run["started_at"]))
    [index] = [index for index, run in enumerate(found) if run["for"]]
    long, following = found[index], found[index + 1]
    assert long["trigger"] == "manual"
    assert following["trigger"] in ("schedule", "missed")
    assert when(long["started_at"]) < when(following["scheduled_at"])
    assert timedelta(0) <= when(following["started_at"]) - when(long["finished_at"]) < timedelta(seconds=1)
    code, _, words = world.sdcron("run", "held", "--for", "2026-01-01", "--continue")
    assert (code, words.splitlines()[0]) == (2, "sdcron: --continue goes with a range")


@contract(fake=NO_COMMANDS)
def what_waits_for_the_end_of_a_run_for_an_instant_is_given_up_by_a_pause(world: World) -> Steps:
    """Nobody wants it to begin in the middle of a pause."""
    gate = f"{PLACE}/counts/held-paused"
    waits = f'[ -z "${{SDCRON_FOR-}}" ] || while [ ! -e {gate} ]; do sleep 0.1; done'
    world.apply({"held-paused": {"schedule": "* * * * * *", "missed": "skip", "command": sh(waits)}})
    yield passed(world, seconds=0)
    while world.sdcron("run", "held-paused", "--for", "2026-01-01")[0]:
        yield passed(world, seconds=0.1)
    yield passed(world, seconds=2.5)  # a time has come
    assert world.sdcron("pause", "held-paused")[0] == 0
    contract_told.write(world, **{"counts/held-paused": ""})

    def is_over() -> bool:
        return any(run["for"] for run in world.seen.get("held-paused", ()))

    yield Wait("the run for an instant is over", is_over)
    yield passed(world, seconds=2.5)
    [ended] = [when(run["finished_at"]) for run in world.seen["held-paused"] if run["for"]]
    assert [run for run in world.seen["held-paused"] if when(run["started_at"]) > ended] == []
    resumed = world.now()
    assert world.sdcron("resume", "held-paused")[0] == 0
    count = len(world.seen["held-paused"])
    yield runs(world, "held-paused", count + 2)
    later = world.seen["held-paused"][count:]
    assert {run["trigger"] for run in later} == {"schedule"}
    assert instants(later)[0] >= resumed - timedelta(seconds=1)


@contract(fake=NO_COMMANDS)
def a_file_lists_runs_for_instants_and_with_values(world: World) -> Steps:
    command = ["/bin/sh", "-c", 'echo "$0${SDCRON_FOR+ $SDCRON_FOR}"; [ "$0" != bad ]', "{what}"]
    world.apply(
        {
            "listed": {"command": command, "parameters": {"what": "plain"}, "timezone": "UTC"},
            "listed-busy": {"command": sh("sleep 1"), "overlap": "queue"},
        }
    )
    yield passed(world, seconds=0)
    text = "# a comment\nlisted 2026-01-01 what='a b'\n\nlisted what=bad # and another\nlisted\n"
    path = f"{world.directory}/list-of-runs"
    world.write({path: text})
    code, out, _ = world.sdcron("run", "--file", path, "--wait")
    assert code == 1
    printed = [line for line in out.splitlines() if not line.startswith("listed")]
    assert printed == ["a b 2026-01-01T00:00:00+00:00", "bad", "plain"]
    yield runs(world, "listed", 3)
    assert [run["outcome"] for run in world.seen["listed"]] == ["success", "failure", "success"]
    # One that waits is waited for.
    assert world.sdcron("run", "listed-busy")[0] == 0
    world.write({path: "listed-busy\nlisted\n"})
    code, out, words = world.sdcron("run", "--file", path)
    assert (code, out.splitlines()) == (0, ["listed-busy  success", "listed  success"]), words
    world.write({path: "listed\nlistd\n"})
    code, _, words = world.sdcron("run", "--file", path)
    assert (code, words.splitlines()[0]) == (2, f"sdcron: {path}:2: no job called listd is applied here")
    yield runs(world, "listed-busy", 2)
    assert (len(world.seen["listed"]), len(world.seen["listed-busy"])) == (4, 2)


@contract(fake=NO_COMMANDS)
def sdcron_run_shows_a_run_and_exits_as_it_does(world: World) -> Steps:
    world.apply(
        {
            "shown": {"command": sh("echo out; echo err >&2; exit 9")},
            "shown-well": {"command": sh("exit 3"), "success_exit": 3},
            "shown-130": {"command": sh("exit 130")},
        }
    )
    yield passed(world, seconds=0)
    assert world.sdcron("run", "shown-well", "--wait") == (0, "", "")
    told = "sdcron: shown-130: failure: exit status 130\n"
    assert world.sdcron("run", "shown-130", "--wait") == (130, "", told)
    code, out, err = world.sdcron("run", "shown", "--wait")
    assert (code, out) == (9, "out\n")
    assert err.splitlines() == ["err", "sdcron: shown: failure: exit status 9"]
    code, out, _ = world.sdcron("run", "shown", "--wait", "--json")
    record = json.loads(out)
    yield runs(world, "shown", 2)
    assert (code, record) == (9, world.seen["shown"][1])


# What runs say of themselves, and jobs that are functions

for told in contract_told.CASES:
    contract(fake=NO_PROCESSES)(told)


# The tests


def test_whatever_a_backend_does_not_play_has_a_reason() -> None:
    for case in CASES.values():
        assert case.not_on.keys() < {"fake", "local", "systemd"}
        assert all(case.not_on.values())


@pytest.mark.parametrize("name", cases_on("fake"))
def test_the_core_of_the_engine_keeps_the_contract(name: str, tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    problems = play(world, {name: CASES[name].steps})
    world.switch_off()
    for problem in problems.values():
        raise problem
    world.look()
    kept = json.loads(world.sdcron("history", "--json", "-n", "0")[1])
    assert by_job(kept[::-1]) == world.seen
    check_records(kept, (tmp_path / "var/log/sdcron/job_status.log").read_text("ascii"))


@pytest.fixture(scope="module")
def local_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    """A real engine, for all of its tests."""
    directory = tmp_path_factory.mktemp("contract")
    host = Host(directory)
    host.write_files({f"{directory}/{name}": text for name, text in FILES.items()})
    host.write_files({f"{directory}/{name}": FILES[name] for name in PROGRAMS}, mode=0o755)
    world = LocalWorld(host, str(directory), sys.executable)
    try:
        yield world
    finally:
        world.switch_off()


@pytest.fixture(scope="module")
def local_problems(local_world: LocalWorld) -> dict[str, Exception]:
    """What went wrong in which case."""
    local_world.switch_on()
    return play_all(local_world, "local")


@pytest.mark.parametrize("name", cases_on("local"))
def test_a_real_engine_keeps_the_contract(name: str, local_problems: dict[str, Exception]) -> None:
    if name in local_problems:
        raise local_problems[name]


@pytest.mark.usefixtures("local_problems")
def test_every_run_of_a_real_engine_is_on_record_once(local_world: LocalWorld) -> None:
    local_world.switch_off()
    local_world.look()
    log = f"{local_world.root}/var/log/sdcron/job_status.log"
    kept = [run for found in local_world.seen.values() for run in found]
    check_records(kept, local_world.computer.run(["cat", log]).stdout)


def check_records(kept: list[Record], log: str) -> None:
    """Every record has all that a record has, once, and the log says the same."""
    for run in kept:
        assert run["backend"] in ("local", "systemd")
        check_shape({**run, "backend": "systemd"})
    logged = {record["run_id"]: record for record in map(json.loads, log.splitlines())}
    assert len(logged) == len(log.splitlines()) == len(kept)
    assert logged == {run["run_id"]: run for run in kept}
