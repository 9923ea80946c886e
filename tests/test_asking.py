"""What people ask for with runs, as the journal has it: believed by who says so, and given to the run that begins."""

from __future__ import annotations

import json
import os
import pwd

import pytest

from sdcron.asking import ASKED_FIELD, IDENTIFIER, JOB_FIELD, MESSAGE_ID, UNIT_FIELD
from sdcron.definition import Definition
from sdcron.job import Overlap
from sdcron.runs import Asked, Run, Trigger
from sdcron.schedule import parse_schedule
from tests.entries import NOON, SECOND
from tests.test_fold import A, B, Place

SINGLE = "sdcron-job@1795340191259175"
JAN = 1_767_225_600_000_000


@pytest.fixture
def place() -> Place:
    found = Place()
    found.tell.at(1000)  # no due time
    return found


def ask(place: Place, asked: Asked, unit: str = "", uid: str = "0", **fields: str) -> None:
    """What `sdcron run` writes."""
    known = {
        "SYSLOG_IDENTIFIER": IDENTIFIER, "MESSAGE_ID": MESSAGE_ID, "_UID": uid, JOB_FIELD: "job", UNIT_FIELD: unit,
        ASKED_FIELD: json.dumps(asked.as_json()),
    }  # fmt: skip
    place.tell.feed(**{**known, **fields})


def only(place: Place) -> Run:
    [run] = place.close_all()
    return run


def by_hand(place: Place, run_id: str = A, job: str = "job") -> None:
    """A run from its beginning to its end."""
    place.tell.starting(job, run_id)
    place.tell.succeeded(job, run_id)


def test_a_run_by_hand_is_recorded_with_who_asked(place: Place) -> None:
    ask(place, Asked("anna"))
    by_hand(place)
    run = only(place)
    assert (run.trigger, run.asked) == (Trigger.MANUAL, Asked("anna"))


def test_a_single_run_is_recorded_with_all_that_was_asked_for(place: Place) -> None:
    asked = Asked("anna", JAN, (("region", "eu"),))
    ask(place, Asked("berta"))
    ask(place, asked, f"{SINGLE}.service")
    by_hand(place, B, SINGLE.removeprefix("sdcron-"))
    by_hand(place, A)
    first, second = place.close_all()
    assert (first.job, first.trigger, first.asked) == ("job", Trigger.MANUAL, asked)
    assert (second.job, second.trigger, second.asked) == ("job", Trigger.MANUAL, Asked("berta"))


def test_what_was_asked_for_goes_to_one_run_only(place: Place) -> None:
    ask(place, Asked("anna"))
    by_hand(place, A)
    by_hand(place, B)
    assert [run.asked.by for run in place.close_all()] == ["anna", ""]


def causes(place: Place) -> list[tuple[Trigger | None, int | None, str]]:
    """Why each run began, the second in which it was due, and who asked."""
    return [
        (run.trigger, (run.scheduled_us - NOON) // SECOND if run.scheduled_us else None, run.asked.by)
        for run in place.close_all()
    ]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.ALLOW, Overlap.REPLACE])
def test_what_somebody_has_just_asked_for_is_his_though_a_time_is_due(overlap: Overlap) -> None:
    hourly = parse_schedule("0 * * * *")
    place = Place(Definition(digest="d1", schedule=hourly, overlap=overlap, accuracy_us=3600 * SECOND))

    def begins(run_id: str) -> None:
        if overlap is not Overlap.SKIP:
            place.tell.starting("job@tick", "c" * 32)
        by_hand(place, run_id)

    place.tell.timer_started("sdcron-job.timer")
    place.tell.at(3600 + 600)
    ask(place, Asked("anna"))
    begins(A)
    place.tell.at(3600 + 601)
    begins(B)
    assert causes(place) == [(Trigger.MANUAL, None, "anna"), (Trigger.SCHEDULE, 3600, "")]


def test_who_asked_some_time_ago_or_may_not_have_started_it_is_not_why_it_begins(place: Place) -> None:
    place.tell.timer_started("sdcron-job.timer")
    place.tell.at(86_397)
    ask(place, Asked("anna"))
    place.tell.at(86_400)
    ask(place, Asked("berta"), uid="1000")
    by_hand(place)
    assert [cause[:2] for cause in causes(place)] == [(Trigger.SCHEDULE, 86_400)]


def test_a_run_that_its_timer_starts_is_nobodys(place: Place) -> None:
    place.tell.timer_started("sdcron-job.timer")
    ask(place, Asked("anna"))
    place.tell.at(86_400)
    by_hand(place)
    run = only(place)
    assert (run.trigger, run.asked) == (Trigger.SCHEDULE, Asked())


def test_who_is_not_root_speaks_for_himself_only(place: Place) -> None:
    ask(place, Asked("root", JAN, (("region", "eu"),)), f"{SINGLE}.service", uid=str(os.getuid() or 65534))
    by_hand(place)
    assert only(place).asked == Asked(pwd.getpwuid(os.getuid() or 65534).pw_name)


@pytest.mark.parametrize(
    "fields",
    [
        {"_UID": ""},
        {"MESSAGE_ID": "0" * 32},
        {ASKED_FIELD: "no JSON"},
        {ASKED_FIELD: "[]"},
        {ASKED_FIELD: '{"for": 5}'},
        {ASKED_FIELD: '{"for": "0001-01-01T00:00:00+14:00"}'},
        {ASKED_FIELD: '{"for": "9999-12-31T23:59:59-14:00"}'},
        {ASKED_FIELD: '{"parameters": {"a": 1}}'},
        {JOB_FIELD: "other"},
        {"SYSLOG_IDENTIFIER": "sdcron2"},
    ],
)
def test_what_is_not_as_sdcron_writes_it_says_nothing(place: Place, fields: dict[str, str]) -> None:
    ask(place, Asked("anna"), **fields)
    by_hand(place)
    assert only(place).asked == Asked()


def test_nobody_crowds_out_what_root_asked_for(place: Place) -> None:
    ask(place, Asked("anna", JAN), f"{SINGLE}.service")
    for _ in range(100):
        ask(place, Asked("mallory"), uid="65534")
    by_hand(place, A, SINGLE.removeprefix("sdcron-"))
    assert only(place).asked == Asked("anna", JAN)


def test_what_others_asked_for_is_soon_forgotten(place: Place) -> None:
    ask(place, Asked("mallory"), uid="65534")
    place.tell.at(1020)
    by_hand(place)
    assert only(place).asked == Asked()


def test_of_a_job_that_there_is_not_nothing_is_remembered() -> None:
    place = Place(None)
    ask(place, Asked("anna"))
    assert place.fold.changes().memories == {}


def test_what_was_asked_for_long_before_is_not_believed_any_more(place: Place) -> None:
    ask(place, Asked("anna"))
    place.tell.at(4700)
    by_hand(place)
    assert only(place).asked == Asked()


def test_what_is_asked_for_again_and_again_takes_little_room(place: Place) -> None:
    for number in range(1000):
        ask(place, Asked(f"user{number}"), f"sdcron-job@{1795340191259175 + number}.service")
    assert len(place.fold.memories.of("job").asked) <= 20


def test_it_survives_a_restart_of_the_collector(place: Place) -> None:
    ask(place, Asked("anna", JAN), f"{SINGLE}.service")
    again = place.again()
    by_hand(again, A, SINGLE.removeprefix("sdcron-"))
    assert only(again).asked == Asked("anna", JAN)


def test_a_single_run_uses_up_no_due_time_and_ends_no_wait(place: Place) -> None:
    place.tell.timer_started("sdcron-job.timer")
    place.tell.at(86_390)
    ask(place, Asked("anna", JAN), f"{SINGLE}.service")
    place.tell.starting(SINGLE.removeprefix("sdcron-"), A)
    place.tell.at(86_405).succeeded(SINGLE.removeprefix("sdcron-"), A)
    by_hand(place, B)
    single, regular = place.close_all()
    assert (single.trigger, single.scheduled_us) == (Trigger.MANUAL, None)
    assert regular.trigger is Trigger.SCHEDULE


def test_what_waited_for_a_single_run_was_due_in_time(place: Place) -> None:
    place.tell.timer_started("sdcron-job.timer")
    place.tell.at(86_390)
    ask(place, Asked("anna", JAN), f"{SINGLE}.service")
    place.tell.starting(SINGLE.removeprefix("sdcron-"), A)
    place.tell.at(86_400 + 600).succeeded(SINGLE.removeprefix("sdcron-"), A)
    by_hand(place, B)
    _, regular = place.close_all()
    assert (regular.trigger, regular.scheduled_us) == (Trigger.SCHEDULE, NOON + 86_400 * SECOND)
    # A late one has nothing to do with it.
    place.tell.at(2 * 86_400 + 600)
    by_hand(place, "c" * 32)
    [late] = place.close_all()
    assert late.trigger is Trigger.MISSED


def test_a_run_is_of_the_unit_that_begins_it_whoever_spoke_of_it_before(place: Place) -> None:
    place.fold._unknown_run("job", A)
    place.tell.starting(SINGLE.removeprefix("sdcron-"), A)
    assert place.fold.runs[A].service == f"{SINGLE}.service"
