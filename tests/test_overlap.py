"""Runs that are due while one is on: in the engine's agenda, in the scripts of units, and in what the journal tells."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from sdcron.agenda_memory import Memory, Waiting
from sdcron.agenda_slot import Due, Entry
from sdcron.backends.transient import refusals
from sdcron.beginnings import WAITS, WAITS_ALREADY
from sdcron.boot import start_queued
from sdcron.boot_chains import start_chains
from sdcron.definition import Definition
from sdcron.installed import read_one
from sdcron.installed_job import InstalledJob
from sdcron.job import Job, Missed, Overlap, Retry, Source
from sdcron.job_memory import Memory as RunMemory
from sdcron.overlap import queued_marks, queued_name, slot_name, slot_of, tick_name
from sdcron.overlapping import start_by_systemd
from sdcron.paths import Scope, system_paths
from sdcron.pauses import Pause
from sdcron.place import make_place
from sdcron.plan import Action, Change
from sdcron.runs import Outcome, Run, Trigger
from sdcron.schedule import parse_schedule
from sdcron.stopping import Target, stop, under_way
from sdcron.unit_locks import HELD_MESSAGE
from sdcron.units import compile_job
from tests import test_agenda, test_fold
from tests.entries import NOON, SECOND
from tests.fake_backend import FakeBackend
from tests.test_agenda import DAY, HOUR, MINUTE, QUARTERLY, at
from tests.test_escape import words
from tests.test_retry import setting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdcron.place import Place

MARKS = [mark.name for mark in queued_marks(Path(), "a")]
"""That say that a run of `a` waits."""

# The agenda


def entry(overlap: Overlap, most: int = 16, *texts: str, missed: Missed = Missed.RUN) -> Entry:
    made = test_agenda.entry("a", *(texts or (QUARTERLY,)), missed=missed)
    return replace(made, timing=replace(made.timing, overlap=overlap, max_parallel=most))


def machine(overlap: Overlap, most: int = 16, *texts: str) -> test_agenda.Machine:
    made = test_agenda.Machine()
    made.start(entry(overlap, most, *texts))
    return made


def scheduled(found: Sequence[Due]) -> list[int | None]:
    return [due.scheduled_us for due in found]


def test_the_first_time_that_comes_waits_for_the_end_of_the_run() -> None:
    one = machine(Overlap.QUEUE)
    assert scheduled(one.due(at(1, "00:15"))) == [at(1, "00:15")]
    assert [one.due(at(1, clock)) for clock in ("00:30", "00:45", "01:00")] == [[], [], []]
    one.now_us = at(1, "01:10")
    one.over("a")
    assert one.due() == [Due("a", Trigger.SCHEDULE, 1, at(1, "00:30"))]
    assert one.due() == []
    one.over("a")
    assert one.due() == []
    assert scheduled(one.due(at(1, "01:15"))) == [at(1, "01:15")]


def test_the_last_time_that_comes_takes_the_place_of_the_run() -> None:
    one = machine(Overlap.REPLACE)
    one.due(at(1, "00:15"))
    assert one.agenda.take_replaced() == []
    assert one.due(at(1, "00:30")) == []
    assert one.agenda.take_replaced() == ["a"]
    assert one.agenda.take_replaced() == []
    assert one.due(at(1, "00:45")) == []
    one.over("a")
    assert scheduled(one.due()) == [at(1, "00:45")]


def test_no_more_runs_begin_than_may_be_on() -> None:
    one = machine(Overlap.ALLOW, 2)
    found = [scheduled(one.due(at(1, clock))) for clock in ("00:15", "00:30", "00:45")]
    assert found == [[at(1, "00:15")], [at(1, "00:30")], []]
    one.over("a")
    assert one.due() == [], "what was dropped is not made good"
    assert scheduled(one.due(at(1, "01:00"))) == [at(1, "01:00")]
    assert one.agenda.take("a") is None
    one.over("a")
    assert one.agenda.take("a") == Due("a", Trigger.MANUAL)


@pytest.mark.parametrize("boot", ["first", "second"])
def test_what_waits_is_kept_and_begins_when_the_engine_does(boot: str) -> None:
    one = machine(Overlap.QUEUE)
    one.due(at(1, "00:15"))
    one.due(at(1, "00:30"))
    one.start(now_us=at(1, "00:40"), boot=boot)
    # What the engine finds cut off is over.
    one.over("a", retry=2, delay_us=MINUTE)
    assert one.due() == [Due("a", Trigger.SCHEDULE, 1, at(1, "00:30"))]
    assert one.agenda.retries() == {}


def test_all_that_fell_due_before_what_waits_begins_is_one_run() -> None:
    one = machine(Overlap.QUEUE)
    one.due(at(1, "00:15"))
    one.due(at(1, "00:30"))
    one.start(now_us=at(2), boot="second")
    assert scheduled(one.due()) == [at(1, "00:30")]
    one.over("a")
    assert one.due() == []


def test_a_run_by_hand_waits_too_and_is_given_up_when_asked() -> None:
    one = machine(Overlap.QUEUE)
    assert one.agenda.take("a") is not None
    assert one.agenda.take("a") is None
    assert one.agenda.waiting("a") == Waiting(Trigger.MANUAL)
    one.agenda.give_up_waiting("a")
    one.over("a")
    assert one.due(at(1, "00:10")) == []


@pytest.mark.parametrize(
    "after",
    [
        entry(Overlap.SKIP), entry(Overlap.ALLOW), entry(Overlap.REPLACE), entry(Overlap.QUEUE, 16, "@daily"),
        replace(entry(Overlap.QUEUE), timing=replace(entry(Overlap.QUEUE).timing, enabled=False)),
    ],
)  # fmt: skip
def test_what_waits_is_given_up_with_the_times_or_with_queueing(after: Entry) -> None:
    one = machine(Overlap.QUEUE)
    one.due(at(1, "00:15"))
    one.due(at(1, "00:30"))
    one.put(after)
    one.over("a")
    assert one.due(at(1, "00:31")) == []
    one.start(now_us=at(1, "00:32"))
    assert one.due() == []


def test_what_waits_is_kept_when_something_else_of_the_job_changes() -> None:
    one = machine(Overlap.QUEUE)
    one.due(at(1, "00:15"))
    one.due(at(1, "00:30"))
    one.put(entry(Overlap.QUEUE, missed=Missed.SKIP))
    one.over("a")
    assert scheduled(one.due()) == [at(1, "00:30")]


@pytest.mark.parametrize("by_us", [-2 * HOUR, -DAY, HOUR])
def test_what_may_begin_begins_though_the_clock_is_set(by_us: int) -> None:
    one = machine(Overlap.QUEUE, 16, "@yearly")
    one.agenda.take("a")
    one.agenda.take("a")
    one.now_us = at(2)
    one.over("a")
    one.set_clock(at(2) + by_us)
    assert [due.trigger for due in one.due()] == [Trigger.MANUAL]


@pytest.mark.parametrize(
    "waiting",
    [
        "x", [1, 2, 3, 4, 5], ["no", 1, "", 1, []], ["manual", "1", "", 1, []], ["manual", -1, "", 1, []],
        ["manual", True, "", 1, []], ["manual", 1, 2, 1, []], ["manual", 1, "", 0, []], ["manual", 1, "", 1, "ab"],
        ["manual", 1, "", 1, [1]], ["manual", 1], [None] * 5, {}, 7,
    ],
)  # fmt: skip
def test_a_damaged_memory_of_what_waits_is_none(waiting: object) -> None:
    text = Memory(5, "t", waiting=Waiting(Trigger.SCHEDULE, 5)).text()
    assert Memory.of(text).waiting == Waiting(Trigger.SCHEDULE, 5)
    damaged = Memory.of(text.replace('["schedule", 5, "", 1, []]', json.dumps(waiting)))
    assert damaged.waiting is None, text
    assert damaged == Memory(5, "t")


def test_of_a_hundred_that_come_while_one_is_on_exactly_one_waits_and_runs_once() -> None:
    one = machine(Overlap.QUEUE, 16, "@yearly")
    assert one.agenda.take("a") is not None
    for _ in range(100):
        assert one.agenda.take("a") is None
    assert one.agenda.queued() == ["a"]
    one.over("a")
    assert [due.trigger for due in one.due()] == [Trigger.MANUAL]
    one.over("a")
    assert one.due() == []
    assert one.agenda.queued() == []


# The scripts of units

#: Lists what the test says, and writes down what it was asked to do.
SYSTEMCTL = """#!/bin/sh
case "$*" in
*list-units*) echo "$UNITS";;
*list-jobs*) echo "$JOBS";;
*) echo "$*" >>"$ASKED";;
esac
"""


def handled(
    directory: Path,
    overlap: Overlap,
    unit: str,
    *,
    units: str = "",
    jobs: str = "",
    retry: Retry | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
    systemctl: str = SYSTEMCTL,
) -> tuple[list[str], str]:
    """What a unit's script asks of systemd, and says; with `more` in its environment."""
    job = Job("a", Source("/a.yaml"), ("/bin/true",), overlap=overlap, max_parallel=3, retry=retry)
    compiled = compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir=str(directory / "state"))
    [text] = [each.text for each in compiled.units if each.name == unit]
    program = directory / "bin/systemctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(systemctl)
    program.chmod(0o755)
    asked = directory / "asked"
    asked.write_text("")
    path = f"{program.parent}:{os.environ['PATH']}"
    argv = [
        word.replace("$$", "$")
        for word in words(setting(text, "ExecStart").replace("%t", str(directory)).replace("%%", "%"))
    ]
    environment = {"PATH": path, "ASKED": str(asked), "UNITS": units, "JOBS": jobs, **more}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=20, check=True, start_new_session=True
    )
    assert done.stderr == ""
    return asked.read_text().splitlines(), done.stdout


def test_a_tick_leaves_its_mark_before_anything_waits_and_the_waiting_unit_removes_it(tmp_path: Path) -> None:
    mark = tmp_path / "state/queued/a"
    for _ in range(2):
        asked, _ = handled(tmp_path, Overlap.QUEUE, tick_name("a"))
        assert asked == ["restart --quiet --no-block sdcron-a@queued.service"]
        assert mark.exists()
    asked, _ = handled(tmp_path, Overlap.QUEUE, queued_name("a"))
    assert asked == ["start --quiet --no-block sdcron-a.service"]
    assert not mark.exists()
    # It is asked again, as by a boot, for what has begun meanwhile.
    assert handled(tmp_path, Overlap.QUEUE, queued_name("a"))[0] == []
    assert list(mark.parent.iterdir()) == []


def test_a_tick_that_ends_the_waiting_unit_before_it_has_asked_for_the_start_loses_no_run(tmp_path: Path) -> None:
    """The tick leaves its mark, the run that is on ends and what waits takes the mark, the tick has that restarted."""
    mark = tmp_path / "state/queued/a"
    handled(tmp_path, Overlap.QUEUE, tick_name("a"))
    killed = SYSTEMCTL.replace("\n", "\nkill -9 0\n", 1)
    with pytest.raises(subprocess.CalledProcessError):
        handled(tmp_path, Overlap.QUEUE, queued_name("a"), systemctl=killed)
    assert not mark.exists()
    asked, _ = handled(tmp_path, Overlap.QUEUE, queued_name("a"))
    assert asked == ["start --quiet --no-block sdcron-a.service"]
    assert list(mark.parent.iterdir()) == []
    assert handled(tmp_path, Overlap.QUEUE, queued_name("a"))[0] == []


def test_a_tick_of_a_job_that_replaces_restarts_the_service(tmp_path: Path) -> None:
    asked = handled(tmp_path, Overlap.REPLACE, tick_name("a"))[0]
    assert asked == ["restart --quiet --no-block sdcron-a.service"]


@pytest.mark.parametrize(
    ("units", "jobs", "slot"),
    [
        ("", "", "sdcron-a.service"),
        ("sdcron-a.service loaded activating start  of sdcron-a@2.service * \\n", "", "sdcron-a@2.service"),
        ("sdcron-a@2.service loaded activating start x", "", "sdcron-a.service"),
        ("sdcron-a@tick.service loaded activating start x", "7 sdcron-a.service start waiting", "sdcron-a@2.service"),
        ("sdcron-a@2.service x\nsdcron-a.service   x", "", "sdcron-a@3.service"),
        ("sdcron-a@2.service x\nsdcron-a.service x", "1 sdcron-a@3.service start running", None),
        # A run for an instant is one of them.
        ("sdcron-a@1795340191259175.service x", "", "sdcron-a.service"),
        (
            "sdcron-a@1795340191259175.service x\nsdcron-a.service x",
            "1 sdcron-a@1795340191259175.service start running",
            "sdcron-a@2.service",
        ),
        ("sdcron-a@1795340191259175.service x\nsdcron-a@2.service x\nsdcron-a.service x", "", None),
        ("sdcron-a@1795340191259175.service x\nsdcron-a@3.service x\nsdcron-a@2.service x", "", None),
        # More were allowed when these began.
        ("sdcron-a@7.service x\nsdcron-a@8.service x\nsdcron-a@9.service x", "", None),
        ("sdcron-a@7.service x\nsdcron-a@9.service x", "", "sdcron-a.service"),
    ],
)
def test_a_tick_takes_the_first_service_that_is_free(tmp_path: Path, units: str, jobs: str, slot: str | None) -> None:
    asked, said = handled(tmp_path, Overlap.ALLOW, tick_name("a"), units=units, jobs=jobs)
    assert asked == ([f"start --quiet --no-block {slot}"] if slot else [])
    assert said == ("" if slot else "sdcron-a: 3 runs are on already, this one is dropped\n")


@pytest.mark.parametrize(
    ("overlap", "result", "marked", "says"),
    [
        *((Overlap.QUEUE, "exit-code", name, "a run waits already, no retry") for name in MARKS),
        (Overlap.QUEUE, "exit-code", None, None),
        (Overlap.REPLACE, "success", None, "was replaced, no retry"),
        (Overlap.REPLACE, "exit-code", None, None),
    ],
)
def test_a_failure_is_not_retried_where_another_run_comes_anyway(
    tmp_path: Path, overlap: Overlap, result: str, marked: str | None, says: str | None
) -> None:
    if marked:
        mark = tmp_path / "state/queued" / marked
        mark.parent.mkdir(parents=True)
        mark.touch()
    monitor = {"MONITOR_SERVICE_RESULT": result, "MONITOR_EXIT_STATUS": "1"}
    asked, said = handled(tmp_path, overlap, "sdcron-a@retry.service", retry=Retry(timedelta(seconds=1)), more=monitor)
    assert asked == ([] if says else ["start --quiet --no-block --job-mode=fail sdcron-a@retry-1.timer"])
    assert said == f"<5>sdcron-a: {says or 'retry 1 of 3 is waiting'}\n"


def test_services_beside_each_other_are_alike_and_their_names_lead_back() -> None:
    job = Job("a.b-c", Source("/a.yaml"), ("/bin/true",), overlap=Overlap.ALLOW, max_parallel=3)
    units = {
        unit.name: unit.text for unit in compile_job(job, directory="/", scope=Scope.USER, state_dir="/state").units
    }
    names = [slot_name(job.name, number) for number in (1, 2, 3)]
    assert units.keys() == {*names, tick_name(job.name)}
    assert units[names[1]] == units[names[2]]
    added = set(units[names[1]].splitlines()) - set(units[names[0]].splitlines())
    assert {line for line in added if not line.startswith("Digest=")} == {
        "CollectMode=inactive-or-failed",
        "Slice=app.slice",
    }
    assert [slot_of(name) for name in names] == [(job.name, 1), (job.name, 2), (job.name, 3)]
    gated = compile_job(replace(job, needs=("x",)), directory="/", scope=Scope.USER, state_dir="/state").units
    # What a run does at its end, with what it needs, it does as itself.
    ends = [
        setting(unit.text, "ExecStopPost").rpartition(" sdcron-succeeded ")[2] for unit in gated if unit.name in names
    ]
    assert [end.partition(" ")[0] for end in ends] == names
    for other in (tick_name("a"), queued_name("a"), "sdcron-a@retry.service", "sdcron-a@2.timer", "a.service"):
        assert slot_of(other) == ("", 0)


def test_a_plan_shows_one_of_several_services_that_are_alike() -> None:
    job = Job("a", Source("/a.yaml"), ("/bin/true",), overlap=Overlap.ALLOW, max_parallel=5, needs=("x",))
    compiled = compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir="/state")
    shown = [line for line in Change(Action.ADD, "a", None, compiled).diff().splitlines() if line.startswith("+++")]
    names = ("sdcron-a.service", "sdcron-a@2.service", tick_name("a"), "sdcron-x.service.d/sdcron-a.conf")
    assert shown == [f"+++ desired/{name}" for name in names]
    units = {unit.name: unit.text for unit in compiled.units}
    edited = InstalledJob("a", "/", "/a.yaml", {**units, "sdcron-a@4.service": "[Unit]\n"})
    assert "--- installed/sdcron-a@4.service" in Change(Action.CHANGE, "a", edited, compiled).diff()


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.ALLOW, Overlap.REPLACE])
def test_a_transient_job_can_only_skip(overlap: Overlap) -> None:
    job = Job("a", Source("/a.yaml"), ("/bin/true",), overlap=overlap, schedule=parse_schedule("@daily"))
    made = compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir="/state", pausable=False)
    [problem] = refusals([made])
    assert (problem.key, problem.message.partition(":")[0]) == ("overlap", "of 'overlap' --transient can only skip")


# What the journal tells

A, B = "a" * 32, "b" * 32


def journal(overlap: Overlap, schedule: str = "* * * * *", *, retries: int = 0) -> test_fold.Place:
    every, delays = parse_schedule(schedule), (60 * SECOND,) * retries
    own = Definition(digest="d1", schedule=every, overlap=overlap, max_parallel=2, retry_delays_us=delays)
    return test_fold.Place(own)


def often(overlap: Overlap) -> test_fold.Place:
    """Every other second: the first tick comes at 2, on time, and so does its run."""
    place = journal(overlap, "*/2 * * * * *")
    place.tell.at(1).timer_started("sdcron-a.timer")
    place.tell.at(2.05)
    if overlap is not Overlap.SKIP:
        tick(place)
    place.tell.at(2.2).starting("a", A)
    return place


def tick(place: test_fold.Place) -> None:
    place.tell.starting("a@tick", "c" * 32)


def begins(place: test_fold.Place, number: int, run_id: str) -> None:
    """A run of one of several services that are alike."""
    place.tell.starting(slot_name("a", number).removeprefix("sdcron-").removesuffix(".service"), run_id)


def ticked(overlap: Overlap, *, retries: int = 0) -> test_fold.Place:
    """Its timer has asked for a run at 60."""
    place = journal(overlap, retries=retries)
    place.tell.timer_started("sdcron-a.timer")
    place.tell.at(60)
    tick(place)
    return place


def full() -> test_fold.Place:
    """Of two that may be on, the second begins at 4."""
    place = often(Overlap.ALLOW)
    place.tell.at(4.1)
    tick(place)
    begins(place, 2, B)
    return place


def waiting(overlap: Overlap, *, retries: int = 0) -> test_fold.Place:
    """And for another at 120, while that was on."""
    place = ticked(overlap, retries=retries)
    place.tell.starting("a", A)
    place.tell.at(120)
    tick(place)
    return place


def causes(runs: Sequence[Run]) -> list[tuple[Trigger | None, int | None]]:
    return [(run.trigger, (run.scheduled_us - NOON) // SECOND if run.scheduled_us else None) for run in runs]


def test_a_run_that_waited_was_due_when_the_first_tick_came() -> None:
    place = ticked(Overlap.QUEUE)
    place.tell.starting("a", A)
    for seconds in (120, 180, 240):
        place.tell.at(seconds)
        tick(place)
    # Also over a restart of the collector.
    place.close_all()
    place = place.again()
    place.tell.at(270).succeeded("a", A)
    place.tell.starting("a", B)
    place.tell.at(290).succeeded("a", B)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 120)]
    # Nothing is left of it: by hand is by hand.
    place.tell.at(295).starting("a", "d" * 32)
    place.tell.succeeded("a", "d" * 32)
    assert causes(place.close_all()) == [(Trigger.MANUAL, None)]


def test_what_asks_while_the_run_before_is_being_started_asks_for_the_next() -> None:
    place = ticked(Overlap.QUEUE)
    place.tell.starting("a", A)
    place.tell.succeeded("a", A)
    place.tell.at(119.7)
    tick(place)  # by hand
    place.tell.at(119.9).starting("a@queued", "e" * 32)
    place.tell.at(120)
    tick(place)
    place = place.again()
    tick(place)
    place.tell.at(120.3).starting("a", B)
    place.tell.succeeded("a", B)
    place.tell.starting("a@queued", "e" * 32)
    for run_id in ("c" * 32, "d" * 32):
        place.tell.starting("a", run_id)
        place.tell.succeeded("a", run_id)
    assert causes(place.close_all())[-3:] == [(Trigger.MANUAL, None), (Trigger.SCHEDULE, 120), (Trigger.MANUAL, None)]


def test_a_waiting_run_that_was_never_begun_is_not_waited_for() -> None:
    place = ticked(Overlap.QUEUE)
    place.tell.starting("a@queued", "e" * 32)
    place.tell.at(120)
    tick(place)
    place.tell.starting("a@queued", "e" * 32)
    place.tell.starting("a", A)
    place.tell.succeeded("a", A)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 120)]


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.ALLOW, Overlap.REPLACE])
def test_a_start_that_waits_for_a_network_keeps_its_due_time(overlap: Overlap) -> None:
    place = ticked(overlap)
    place.tell.at(105).starting("a", A)
    place.tell.succeeded("a", A)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 60)]


def test_what_waited_when_its_timer_was_stopped_is_given_up() -> None:
    place = waiting(Overlap.QUEUE)
    place.tell.at(130).timer_stopped("sdcron-a.timer")
    place.tell.at(140).timer_started("sdcron-a.timer")
    place.tell.at(180)
    tick(place)
    place.tell.at(190).succeeded("a", A)
    place.tell.starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 180)]


def test_the_first_that_waits_for_a_run_for_an_instant_is_the_one_that_runs() -> None:
    place = journal(Overlap.QUEUE)
    place.tell.timer_started("sdcron-a.timer")
    place.tell.at(30).starting("a@1795340191259175", A)
    for second in (60, 120):
        place.tell.at(second)
        tick(place)
    place = place.again()
    place.tell.at(180)
    tick(place)
    place.tell.at(185).succeeded("a@1795340191259175", A)
    place.tell.starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all())[-1] == (Trigger.SCHEDULE, 60)


def test_a_tick_by_hand_is_no_due_time() -> None:
    place = ticked(Overlap.QUEUE)
    place.tell.starting("a", A)
    place.tell.at(85)
    tick(place)
    place.tell.at(90).succeeded("a", A)
    place.tell.starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 60), (Trigger.MANUAL, None)]


def test_what_was_asked_for_long_ago_and_given_up_is_not_why_a_run_begins() -> None:
    place = waiting(Overlap.QUEUE)
    place.tell.at(130).stopped("a", A)
    place.tell.at(155).starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all())[1] == (Trigger.MANUAL, None)


def test_a_run_that_is_stopped_for_the_next_was_replaced_and_one_that_is_not_was_stopped() -> None:
    place = waiting(Overlap.REPLACE)
    place.tell.at(130).stopped("a", A)
    place.tell.starting("a", B)
    place.tell.at(140).stopped("a", B)
    runs = place.close_all()
    assert causes(runs) == [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 120)]
    assert [(run.outcome, run.reason) for run in runs] == [
        (Outcome.KILLED, "replaced by the next run"),
        (Outcome.KILLED, "stopped by an administrator"),
    ]


def test_runs_side_by_side_are_each_their_own() -> None:
    place = journal(Overlap.ALLOW)
    place.tell.timer_started("sdcron-a.timer")
    for number, run_id in enumerate((A, B), start=1):
        place.tell.at(60 * number)
        tick(place)
        begins(place, number, run_id)
        place.tell.line("a", run_id[0], run_id, run_id[0], _SYSTEMD_UNIT=slot_name("a", number))
    assert {run.service for run in place.fold.runs.values()} == {"sdcron-a.service", "sdcron-a@2.service"}
    place.tell.at(130).failed("a@2", B)
    [second] = place.close_all()
    place.tell.at(140).succeeded("a", A)
    [first] = place.close_all()
    assert causes([first, second]) == [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 120)]
    assert [(run.outcome, run.stdout.kept) for run in (first, second)] == [
        (Outcome.SUCCESS, b"a\n"),
        (Outcome.FAILURE, b"b\n"),
    ]


@pytest.mark.parametrize(
    "said",
    [
        {"SDCRON_PROGRESS": "1/2"},
        {"MESSAGE": "needs x", "PRIORITY": "5", "_STREAM_ID": "s1"},
        {"MESSAGE_ID": HELD_MESSAGE, "INVOCATION_ID": B, "SDCRON_LOCK": "x"},
    ],
)
def test_a_run_beside_others_that_speaks_before_it_is_known_is_none_of_the_first(said: dict[str, str]) -> None:
    place = journal(Overlap.ALLOW)
    own = {
        "_SYSTEMD_UNIT": slot_name("a", 2),
        "_SYSTEMD_INVOCATION_ID": B,
        "_UID": "0",
        "SYSLOG_IDENTIFIER": "sdcron-a",
    }
    place.tell.feed(**own, **said)
    place.tell.starting("a", A)
    assert [(run.run_id, run.slot, run.result) for run in place.fold.runs.values()] == [(B, 2, ""), (A, 1, "")]


def test_runs_side_by_side_that_begin_late_have_each_their_due_time() -> None:
    place = journal(Overlap.ALLOW)
    place.tell.timer_started("sdcron-a.timer")
    for second in (60, 120, 180):  # the last is dropped
        place.tell.at(second)
        tick(place)
    place = place.again()
    for number, run_id in enumerate((A, B), start=1):
        begins(place, number, run_id)
    place.tell.at(240)
    tick(place)
    place.tell.at(250).succeeded("a", A)
    place.tell.at(300)
    tick(place)
    place.tell.starting("a", "d" * 32)
    for name, run_id in (("a@2", B), ("a", "d" * 32)):
        place.tell.succeeded(name, run_id)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, second) for second in (60, 120, 300)]


def test_a_run_that_another_makes_room_for_between_its_tick_and_its_start_keeps_its_due_time() -> None:
    place = journal(Overlap.ALLOW)
    place.tell.timer_started("sdcron-a.timer")
    for number, run_id in enumerate((A, B), start=1):
        place.tell.at(60 * number)
        tick(place)
        begins(place, number, run_id)
    place.tell.at(180)
    tick(place)
    place.tell.succeeded("a", A)
    place = place.again()
    place.tell.at(181).starting("a", "d" * 32)
    place.tell.at(240)
    tick(place)  # dropped
    place.tell.at(260).succeeded("a@2", B)
    place.tell.starting("a@2", "e" * 32)  # by hand
    for name, run_id in (("a", "d" * 32), ("a@2", "e" * 32)):
        place.tell.succeeded(name, run_id)
    schedule = [(Trigger.SCHEDULE, second) for second in (60, 120, 180)]
    assert causes(place.close_all()) == [*schedule, (Trigger.MANUAL, None)]


@pytest.mark.parametrize("begins_at", [7.05, 7.4])
def test_what_a_stalled_systemd_begins_late_is_for_the_time_before_and_the_next_for_the_last(begins_at: float) -> None:
    place = often(Overlap.ALLOW)
    place.tell.at(2.3).succeeded("a", A)
    # It elapsed at 4, began after 6, and then elapsed at 6 at once.
    place.tell.at(6.4)
    tick(place)
    for moment in sorted((7.1, begins_at)):
        place.tell.at(moment)
        if moment == begins_at:
            begins(place, 1, B)
        else:
            tick(place)
        place = place.again()
    place.tell.at(7.5)
    begins(place, 2, "d" * 32)
    place.tell.at(8.1)
    tick(place)  # dropped
    for name, run_id in (("a", B), ("a@2", "d" * 32)):
        place.tell.succeeded(name, run_id)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, second) for second in (2, 4, 6)]


def test_a_service_that_a_stalled_systemd_begins_late_is_for_the_time_before_and_the_next_for_the_last() -> None:
    for is_on_record in (True, False):
        place = often(Overlap.SKIP)
        place.tell.at(2.3).succeeded("a", A)
        place.tell.at(6.4).starting("a", B)
        place.tell.at(6.5).succeeded("a", B)
        found = place.close_all() if is_on_record else []
        for moment, run_id in ((6.6, "c" * 32), (7.0, "d" * 32), (8.0, "e" * 32)):
            place.tell.at(moment).starting("a", run_id)
            place.tell.at(moment + 0.1).succeeded("a", run_id)
        found += place.close_all()
        times = [(Trigger.SCHEDULE, second) for second in ((2, 6, 4) if is_on_record else (2, 4, 6))]
        assert causes(found) == [*times, (Trigger.MANUAL, None), (Trigger.SCHEDULE, 8)]


@pytest.mark.parametrize("overlap", Overlap)
def test_the_first_run_of_all_may_begin_late_too(overlap: Overlap) -> None:
    place = journal(overlap, "*/2 * * * * *")
    place.tell.at(3.9).timer_started("sdcron-a.timer")
    for moment, run_id in ((6.2, A), (6.4, B)):
        place.tell.at(moment)
        if overlap is not Overlap.SKIP:
            tick(place)
        place.tell.starting("a", run_id)
        place.tell.succeeded("a", run_id)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 4), (Trigger.SCHEDULE, 6)]


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.ALLOW, Overlap.REPLACE])
def test_a_tick_that_begins_late_was_due_though_a_run_was_on_then(overlap: Overlap) -> None:
    place = ticked(overlap)
    place.tell.starting("a", A)
    place.tell.at(120.2).succeeded("a", A)
    place.tell.at(121)
    tick(place)
    place.tell.at(121.2).starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 120)]


def test_a_tick_has_its_own_time_and_not_that_of_one_that_was_dropped() -> None:
    place = full()
    place.tell.at(6.1)
    tick(place)  # dropped
    place.tell.at(7).succeeded("a", A)
    place.tell.at(8.1)
    tick(place)
    begins(place, 1, "d" * 32)
    for name, run_id in (("a@2", B), ("a", "d" * 32)):
        place.tell.succeeded(name, run_id)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, second) for second in (2, 4, 8)]


def test_what_is_asked_for_beside_a_run_that_waits_may_be_a_run_of_its_own() -> None:
    place = waiting(Overlap.QUEUE)
    place.tell.at(179.8).succeeded("a", A)
    place.tell.at(180)
    tick(place)  # and before it is seen to, what waits begins
    place.tell.at(180.1).starting("a@queued", "e" * 32)
    for moment, run_id in ((180.2, B), (180.5, "d" * 32), (181, "f" * 32)):
        place.tell.at(moment).starting("a", run_id)
        place.tell.at(moment + 0.1).succeeded("a", run_id)
    times = [(Trigger.SCHEDULE, second) for second in (60, 120, 180)]
    assert causes(place.close_all()) == [*times, (Trigger.MANUAL, None)]


def test_what_was_missed_is_made_good_beside_what_waited_at_the_shutdown_however_busy_the_boot_is() -> None:
    place = waiting(Overlap.QUEUE)
    place.definition = replace(place.definition or Definition(), persistent=True)
    place.tell.at(130).stopped("a", A)
    place.tell.boot = "c" * 32
    place.tell.at(200).timer_started("sdcron-a.timer")
    place.tell.at(202).starting("a@queued", "e" * 32)
    for moment, run_id in ((203, B), (206, "d" * 32), (207, "e" * 32)):
        place.tell.at(moment)
        if run_id == "d" * 32:
            tick(place)
        place.tell.starting("a", run_id)
        place.tell.succeeded("a", run_id)
    times = [(Trigger.SCHEDULE, 60), (Trigger.SCHEDULE, 120), (Trigger.MISSED, 180)]
    assert causes(place.close_all()) == [*times, (Trigger.MANUAL, None)]


def test_a_retry_is_one_though_what_was_asked_for_beside_its_run_came_to_nothing() -> None:
    place = journal(Overlap.QUEUE, "*/5 * * * * *", retries=1)
    place.definition = replace(place.definition or Definition(), retry_delays_us=(3 * SECOND,))
    place.tell.at(4).timer_started("sdcron-a.timer")
    for second in (5, 10, 15.01):
        place.tell.at(second)
        tick(place)
        if second == 5:
            place.tell.starting("a", A)
    place.tell.at(15.5).succeeded("a", A)
    place.tell.starting("a@queued", "e" * 32)
    place.tell.at(15.55).starting("a", B)
    place.tell.at(15.6).failed("a", B)
    place.tell.timer_started("sdcron-a@retry-1.timer")
    place.tell.at(18.71).starting("a", "d" * 32)
    place.tell.succeeded("a", "d" * 32)
    runs = place.close_all()
    assert [(run.trigger, run.attempt) for run in runs][1:] == [(Trigger.SCHEDULE, 1), (Trigger.RETRY, 2)]


def test_what_was_one_with_the_run_that_waited_is_not_why_another_begins() -> None:
    place = waiting(Overlap.QUEUE)
    place.tell.at(180)
    tick(place)
    place.tell.at(185).succeeded("a", A)
    place.tell.starting("a@queued", "e" * 32)
    for moment, run_id in ((185.1, B), (188, "d" * 32)):
        place.tell.at(moment).starting("a", run_id)
        place.tell.succeeded("a", run_id)
    assert causes(place.close_all())[1:] == [(Trigger.SCHEDULE, 120), (Trigger.MANUAL, None)]


@pytest.mark.parametrize(("stopped", "asked", "due"), [(130, 132, None), (130, 130.5, None), (177, 180, 180)])
def test_what_is_given_up_with_a_run_is_not_what_is_asked_for_next(stopped: float, asked: float, due: int) -> None:
    place = waiting(Overlap.QUEUE)
    place.tell.at(stopped).stopped("a", A)
    place.tell.at(asked)
    tick(place)
    place.tell.at(asked + 0.2).starting("a", B)
    place.tell.succeeded("a", B)
    assert causes(place.close_all())[1] == ((Trigger.SCHEDULE, due) if due else (Trigger.MANUAL, None))


def test_of_two_ticks_the_first_replaces_nothing_and_the_second_that_and_both_have_their_times() -> None:
    place = journal(Overlap.REPLACE, "*/2 * * * * *")
    place.tell.at(1).timer_started("sdcron-a.timer")
    for second in (5.9, 6.01):
        place.tell.at(second)
        tick(place)
    place.tell.at(6.1).starting("a", A)
    place.tell.at(6.2).stopped("a", A)
    place.tell.at(6.3).starting("a", B)
    place.tell.at(60).stopped("a", B)
    runs = place.close_all()
    assert causes(runs) == [(Trigger.SCHEDULE, 4), (Trigger.SCHEDULE, 6)]
    assert [run.reason for run in runs] == ["replaced by the next run", "stopped by an administrator"]


def test_while_a_run_ends_for_the_next_the_last_that_comes_is_that() -> None:
    place = often(Overlap.REPLACE)
    for second in (4.01, 6.01, 8.01):
        place.tell.at(second)
        tick(place)
    place.tell.at(9).stopped("a", A)
    place.tell.starting("a", B)
    place.tell.at(9.1).succeeded("a", B)
    assert causes(place.close_all()) == [(Trigger.SCHEDULE, 2), (Trigger.SCHEDULE, 8)]


@pytest.mark.parametrize(
    "spans",
    [
        # One begins when one is over that was on over its time.
        [(2.01, 5, 2), (5.01, 8, 4), (8.01, 8.1, 8), (9, 9.1, None)],
        # One by hand was on over a time.
        [(2.01, 2.1, 2), (3.5, 4.5, None), (6.01, 6.1, 6), (7, 7.1, None)],
    ],
)
def test_a_time_that_fell_into_a_run_was_not_passed_over(spans: list[tuple[float, float, int | None]]) -> None:
    place = journal(Overlap.SKIP, "*/2 * * * * *")
    place.tell.at(1).timer_started("sdcron-a.timer")
    for number, (began, ended, _) in enumerate(spans):
        place.tell.at(began).starting("a", f"{number}" * 32)
        place.tell.at(ended).succeeded("a", f"{number}" * 32)
    assert [due for _, due in causes(place.close_all())] == [due for *_, due in spans]


def test_what_was_dropped_was_for_the_time_before_if_the_next_comes_at_once() -> None:
    place = full()
    for second in (8.4, 8.5):
        place.tell.at(second)
        tick(place)
    place.tell.succeeded("a", A)
    place.tell.at(8.6)
    begins(place, 1, "d" * 32)
    for name, run_id in (("a@2", B), ("a", "d" * 32)):
        place.tell.succeeded(name, run_id)
    assert causes(place.close_all())[-1] == (Trigger.SCHEDULE, 8)


def test_what_was_dropped_is_forgotten_with_its_manager() -> None:
    place = full()
    place.tell.at(6.1)
    tick(place)
    place.tell.boot = "c" * 32
    place.tell.at(7).starting("a", "d" * 32)
    place.tell.succeeded("a", "d" * 32)
    assert causes(place.close_all())[-1] == (Trigger.MANUAL, None)


def test_a_boot_is_why_a_run_begins_beside_what_waited_at_the_shutdown() -> None:
    place = waiting(Overlap.QUEUE)
    place.definition = replace(place.definition or Definition(), boot=True)
    place.tell.at(130).stopped("a", A)
    place.tell.boot = "c" * 32
    place.tell.at(195).timer_started("sdcron-a@boot.timer")
    place.tell.at(196.1).starting("a", B)
    place.tell.at(197)
    tick(place)
    place.tell.at(197.1).succeeded("a", B)
    place.tell.starting("a", "d" * 32)
    place.tell.succeeded("a", "d" * 32)
    assert causes(place.close_all())[1:] == [(Trigger.SCHEDULE, 120), (Trigger.BOOT, None)]


def test_of_a_memory_of_before_no_time_was_passed_over() -> None:
    state = RunMemory(due_us=5).as_json()
    assert RunMemory.from_json({name: state[name] for name in state if "before" not in name}).due_before_us == 5


def test_a_memory_of_before_has_no_tick() -> None:
    state = RunMemory(started_us=5).as_json()
    assert RunMemory.from_json({name: state[name] for name in state if not name.startswith("tick")}).tick_us is None


# After a boot


def booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job | None) -> tuple[Place, FakeBackend]:
    """A machine on which a run of `a` waited when it went down."""
    paths = system_paths(tmp_path)
    backend = FakeBackend(paths)
    for module in ("boot", "boot_chains"):
        monkeypatch.setattr(f"sdcron.{module}.connect", lambda _: backend)
    monkeypatch.setattr(FakeBackend, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(FakeBackend, "__exit__", lambda *_: None, raising=False)
    paths.unit_dir.mkdir(parents=True)
    paths.queued_dir.mkdir(parents=True)
    (paths.queued_dir / "a").touch()
    if job is not None:
        for unit in compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir=str(paths.state_dir)).units:
            (paths.unit_dir / unit.name).parent.mkdir(exist_ok=True)
            (paths.unit_dir / unit.name).write_text(unit.text)
    return replace(make_place(user=False, root=None, backend="systemd"), paths=paths), backend


@pytest.mark.parametrize(
    ("job", "paused", "begins"),
    [
        (Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.QUEUE), False, True),
        (Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.QUEUE), True, False),
        (Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.QUEUE, enabled=False), False, False),
        (Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.REPLACE), False, False),
        (None, False, False),
    ],
)
@pytest.mark.parametrize("name", MARKS)
def test_what_waited_begins_after_a_boot_unless_it_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job | None, paused: bool, begins: bool, name: str
) -> None:
    place, backend = booted(tmp_path, monkeypatch, job)
    paths = place.paths
    (paths.queued_dir / "a").rename(paths.queued_dir / name)
    if paused:
        paths.paused_dir.mkdir()
        (paths.paused_dir / "a").write_text(Pause("2027-01-01T00:00:00Z", "x").text())
    told: list[str] = []
    start_queued(place, lambda name, text: told.append(f"{name}: {text}"))
    assert (("start", queued_name("a")) in backend.calls) == begins
    assert (paths.queued_dir / name).exists() == begins, "the unit itself removes it"
    assert bool(told) == begins


def test_what_waited_and_cannot_begin_keeps_no_other_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, backend = booted(tmp_path, monkeypatch, Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.QUEUE))
    backend.refused.add(queued_name("a"))
    told: list[str] = []
    assert start_queued(place, lambda name, text: told.append(f"{name}: {text}")) == frozenset()
    assert (place.paths.queued_dir / "a").exists()
    assert [text.partition(", and ")[2].partition(":")[0] for text in told] == ["it cannot begin"]


@pytest.mark.parametrize("token", ["due", "x.end"])
def test_what_waited_at_a_boot_is_what_its_chain_asked_for_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    job = Job("a", Source("/a.yaml"), ("x",), overlap=Overlap.QUEUE, after=("x",))
    place, backend = booted(tmp_path, monkeypatch, job)
    tokens = place.paths.graph_dir / "a"
    tokens.mkdir(parents=True)
    (tokens / "lock").touch()
    (tokens / token).write_text("ok\n")
    begun = start_queued(place, lambda *_: None)
    assert start_chains(place, None, begun) == (token != "due")
    starts = [call for call in backend.calls if call[0] == "start"]
    # The end of another that nobody had heard of yet asks for a run of its own.
    assert starts == [("start", queued_name("a")), *[("start", "sdcron-a@after.service")] * (token != "due")]


# By hand


def by_hand(tmp_path: Path, overlap: Overlap) -> tuple[FakeBackend, Place, InstalledJob]:
    """A job that two runs are on of, and whoever is asked for another."""
    paths = system_paths(tmp_path)
    paths.unit_dir.mkdir(parents=True)
    job = Job("a", Source("/a.yaml"), ("x",), overlap=overlap, max_parallel=2)
    for unit in compile_job(job, directory="/", scope=Scope.SYSTEM, state_dir=str(paths.state_dir)).units:
        (paths.unit_dir / unit.name).write_text(unit.text)
    backend = FakeBackend(paths)
    for number in (1, 2):
        backend.set_active(slot_name("a", number), "activating")
        backend.running[slot_name("a", number)] = (str(number) * 32, datetime(2027, 1, 1, tzinfo=UTC))
    applied = read_one(paths, "a")
    assert applied is not None
    return backend, replace(make_place(user=False, root=None, backend="systemd"), paths=paths), applied


def test_no_more_are_asked_for_than_may_be_on(tmp_path: Path) -> None:
    backend, place, job = by_hand(tmp_path, Overlap.ALLOW)
    assert start_by_systemd(place, backend, job, lambda: None, begun=False) is None
    assert backend.calls == []


def test_whoever_asks_hears_whether_one_waited_before(tmp_path: Path) -> None:
    backend, place, job = by_hand(tmp_path, Overlap.QUEUE)
    assert start_by_systemd(place, backend, job, lambda: None, begun=False) == WAITS
    backend.queued.append(queued_name("a"))
    assert start_by_systemd(place, backend, job, lambda: None, begun=False) == WAITS_ALREADY
    assert backend.calls == [("start", tick_name("a"))] * 2


def test_one_of_several_runs_is_stopped_by_its_id_and_all_by_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, place, _ = by_hand(tmp_path, Overlap.ALLOW)
    monkeypatch.setattr("sdcron.stopping.connect", lambda _: nullcontext(backend))
    assert under_way(place) == {"a": ("1" * 32, "2" * 32)}
    assert stop(place, [Target("a", "2" * 32)]) == {"a": ("2" * 32,)}
    assert backend.calls == [("stop", slot_name("a", 2))]
    backend.calls.clear()
    assert stop(place, [Target("a")])["a"][0] == "1" * 32
    assert ("stop", slot_name("a", 1)) in backend.calls


@pytest.mark.parametrize("name", MARKS)
def test_with_a_job_what_waits_is_given_up_and_not_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backend, place, _ = by_hand(tmp_path, Overlap.QUEUE)
    monkeypatch.setattr("sdcron.stopping.connect", lambda _: nullcontext(backend))
    mark = place.paths.queued_dir / name
    mark.parent.mkdir(parents=True)
    mark.touch()
    stop(place, [Target("a", "1" * 32)])
    assert mark.exists()
    stop(place, [Target("a")])
    assert not mark.exists()
    assert ("stop", queued_name("a")) in backend.calls
