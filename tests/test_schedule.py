"""schedule: what every form means, what is refused and in which words, and what clock changes do, example by example.

Which instants a schedule means is held for random ones by test_calendar_property.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from sdcron.schedule import Schedule, ScheduleMistakes, parse_schedule

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2027, 1, 4, tzinfo=UTC)


def mistakes(texts: str | list[str], **keys: str) -> list[tuple[str, str]]:
    """What is said about a wrong schedule: messages with their hints."""
    with pytest.raises(ScheduleMistakes) as raised:
        parse_schedule(texts, **keys)  # type: ignore[arg-type]  # no key but zones and the seed
    return [(mistake.message, mistake.hint) for mistake in raised.value.mistakes]


def runs(schedule: Schedule | str, start: datetime, count: int = 3) -> list[str]:
    """The next runs after a moment, as `2027-01-04 08:00` with the zone's offset."""
    if isinstance(schedule, str):
        schedule = parse_schedule(schedule)
    found: list[str] = []
    moment: datetime | None = start
    while moment is not None and len(found) < count:
        moment = schedule.next_after(moment)
        if moment is not None:
            found.append(moment.isoformat(" ").removesuffix("+00:00").removesuffix(":00"))
    return found


def in_zone(text: str, zone: str, around: str, count: int) -> list[str]:
    """The runs from three in the evening of the day before `around`, in the zone's own time: `HH:MM+OFFSET`."""
    start = datetime.fromisoformat(around).replace(tzinfo=ZoneInfo(zone)) - timedelta(hours=9)
    schedule = parse_schedule(text, local_timezone=zone)
    found: list[str] = []
    moment: datetime | None = start
    while moment is not None and len(found) < count:
        moment = schedule.next_after(moment)
        assert moment is not None
        found.append(moment.strftime("%m-%d %H:%M%z"))
    return found


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("*/0 * * * *", "a step of 0 in the minute field never moves on", "a step is 1 or more"),
        ("0 1-5/0 * * *", "a step of 0 in the hour field never moves on", "a step is 1 or more"),
        ("H/0 * * * *", "a step of 0 in the minute field never moves on", "a step is 1 or more"),
        ("*-*-* *:0/0", "a step of 0 in the minute never moves on", "a step is 1 or more"),
        ("every 0s", "an interval must be longer than nothing", "write a length such as 15m or 2h"),
    ],
)
def test_a_step_of_zero_is_refused_with_a_hint(text: str, message: str, hint: str) -> None:
    assert mistakes(text) == [(message, hint)]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("0 22-5 * * *", "the range 22-5 runs backwards", "write 22-23,0-5"),
        ("58-2 * * * *", "the range 58-2 runs backwards", "write 58-59,0-2"),
        ("0 0 * nov-feb *", "the range nov-feb runs backwards", "write 11-12,1-2"),
        ("0 0 * * 5-1", "the range 5-1 runs backwards", "write 5-6,0-1"),
        ("0 0 * * 5-0", "the range 5-0 runs backwards", "write 5-7"),
        ("H(30-10) * * * *", "the range of H(30-10) runs backwards", "write H(10-30)"),
        ("22..5:00", "the range 22..5 runs backwards", "write 22..23,0..5"),
        ("Sat..Tue 8:00", "the range Sat..Tue runs backwards",
         "a week ends on Sunday: write Sat..Sun,Mon..Tue"),
        ("Sat..Mon 8:00", "the range Sat..Mon runs backwards", "a week ends on Sunday: write Sat..Sun,Mon"),
    ],
)  # fmt: skip
def test_a_range_that_runs_backwards_is_refused_and_the_hint_says_what_was_meant(
    text: str, message: str, hint: str
) -> None:
    assert mistakes(text) == [(message, hint)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("0 22-23,0-5 * * *", "0 0,1,2,3,4,5,22,23 * * *"), ("0 0 * * 5-6,0-1", "0 0 * * sun,mon,fri,sat")],
)
def test_what_a_hint_says_to_write_is_accepted(text: str, meant: str) -> None:
    assert parse_schedule(text).to_calendar() == parse_schedule(meant).to_calendar()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("60 * * * *", "minute 60 is not between 0 and 59", "write a number from 0 to 59"),
        ("* 24 * * *", "hour 24 is not between 0 and 23", "write a number from 0 to 23"),
        ("* * 0 * *", "day of month 0 is not between 1 and 31", "the last day of a month is L"),
        ("* * 32 * *", "day of month 32 is not between 1 and 31", "the last day of a month is L"),
        ("* * * 13 *", "month 13 is not between 1 and 12", "write a number from 1 to 12"),
        ("* * * * 8", "day of week 8 is not between 0 and 7", "Sunday is 0 or 7, Saturday is 6"),
        ("60 * * * * *", "second 60 is not between 0 and 59", "write a number from 0 to 59"),
        ("50-99 * * * *", "minute 99 is not between 0 and 59", "write a number from 0 to 59"),
        ("0 0 * * 2#6", "a month has no weekday number 6", "# takes 1 to 5, L is the last one: 5L"),
        ("0 0 * * 2#0", "a month has no weekday number 0", "# takes 1 to 5, L is the last one: 5L"),
        ("*/60 * * * *", "a step of 60 is longer than the minute field, which ends at 59",
         "for longer intervals write: every 60m"),
        ("at 24:00", "there is no time 24:00", "midnight is 00:00"),
        ("at 2027-02-29 08:00", "there is no date 2027-02-29", "write year-month-day, as in 2027-01-31"),
        ("08:60", "minute 60 is not between 0 and 59", "write 0 to 59"),
        ("every 5h at 07:30", "only days and weeks have a time of day",
         "write whole days, as in every 1d at 07:30, or a cron line"),
        ("every 3d at 25:00", "there is no time 25:00", "times run from 00:00 to 23:59"),
        ("every 3d at", "a time of day is missing", "write at 11:30, at 11:30, 14:00 or at 2027-01-01 08:00"),
        ("every 3d at 2027-01-01 08:00", "'2027-01-01 08:00' is not a time of day",
         "write a time alone, as in every 3d at 07:30"),
        ("every 400d", "an interval is at most 366 days", "write @yearly or a calendar date"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_and_never_clamped(text: str, message: str, hint: str) -> None:
    assert mistakes(text) == [(message, hint)]


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30,31 feb *", "0 0 31 4,6,9,11 *"])
def test_dates_that_never_come_are_refused(text: str) -> None:
    days = text.split()[2]
    message = f"no month of this schedule has a day {days}: it would never run"
    assert mistakes(text) == [(message, "L is the last day of a month, whatever its length")]


def test_a_calendar_date_that_never_comes_is_refused() -> None:
    assert mistakes("*-02-31") == [
        ("no date fits '*-02-31': it would never run", "the last day of a month is written *-*~01")
    ]


def test_a_leap_day_comes_often_enough() -> None:
    assert runs("0 0 29 2 *", MONDAY, 2) == ["2028-02-29 00:00", "2032-02-29 00:00"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("٣ * * * *", "U+0663"), ("１２ * * * *", "U+FF11"), ("0\u00a02 * * *", "U+00A0"), ("at ²:00", "U+00B2"),
     ("every ५m", "U+096B"), ("0 0 * * mоn", "U+043E")],
)  # fmt: skip
def test_digits_and_letters_of_other_scripts_are_refused_by_their_number(text: str, name: str) -> None:
    assert mistakes(text) == [
        (f"the character {name} has no place in a schedule", "write digits as 0 to 9 and blanks as blanks")
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("0 0 * * monday", "'monday' is not a valid day of week", "write mon"),
        ("0 0 * * monkey", "'monkey' is not a valid day of week", "write a number from 0 to 7, or sun to sat"),
        ("0 0 * march *", "'march' is not a valid month", "write mar"),
        ("0 0 * foo *", "'foo' is not a valid month", "write a number from 1 to 12, or jan to dec"),
        ("0 0 mon * *", "'mon' is not a valid day of month", "write a number from 1 to 31"),
        ("+5 * * * *", "'+5' is not a valid minute", "write 5"),
        ("0x5 * * * *", "'0x5' is not a valid minute", "write a number from 0 to 59"),
        ("0 0 ? * *", "'?' is not a valid day of month", "that is Quartz's: write *"),
        ("0~59 * * * *", "'0~59' is not a valid minute", "for a stable spot write H, or H(0-29)"),
        ("5/15 * * * *", "the step in '5/15' has no range", "write 5-59/15"),
        ("/5 * * * *", "the step in '/5' has nothing to step through", "write */5"),
        ("*/ * * * *", "the step in '*/' has no number", "a step is written */5"),
        ("-5 * * * *", "'-5' is not a range", "a range is written 1-5; there are no negative numbers"),
        ("1,,2 * * * *", "an empty item in the minute field", "a list is written 1,2,3"),
        ("Someday 08:00", "'Someday' is not a weekday", "write Mon, Tue, Wed, Thu, Fri, Sat or Sun"),
        ("@Daily", "'@Daily' is written in small letters", "write @daily"),
        ("Every 5m", "'Every' is written in small letters", "write every 5m"),
    ],
)
def test_an_unknown_name_or_sign_is_refused_with_the_right_one(text: str, message: str, hint: str) -> None:
    assert mistakes(text) == [(message, hint)]


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Berlinn", "did you mean Europe/Berlin?"),
        ("europe/berlin", "write Europe/Berlin"),
        ("America/New York", "write America/New_York"),
        (":Europe/Warsaw", "leave out the colon: Europe/Warsaw"),
        ("Mars/Olympus", "zones are named as in Europe/Berlin; `timedatectl list-timezones` lists them"),
        ("../zoneinfo/UTC", "zones are named as in Europe/Berlin; `timedatectl list-timezones` lists them"),
        ("Europe", "zones are named as in Europe/Berlin; `timedatectl list-timezones` lists them"),
    ],
)
def test_an_unknown_time_zone_is_refused_with_a_hint(zone: str, hint: str) -> None:
    assert mistakes("@daily", timezone=zone) == [(f"unknown time zone '{zone}'", hint)]


def test_everything_wrong_with_a_schedule_is_said_at_once_and_in_its_place() -> None:
    with pytest.raises(ScheduleMistakes) as raised:
        parse_schedule(["1 2 0 1,12,27 sat,11", "@daily", "every 5"], timezone="Nowhere")
    places = [(mistake.index, mistake.column) for mistake in raised.value.mistakes]
    assert places == [(-1, 0), (0, 4), (0, 11), (0, 18), (2, 6)]


def test_a_schedule_is_one_line_of_bounded_length_with_something_in_it() -> None:
    assert mistakes("0 0 * * *\n0 1 * * *") == [("a schedule is one line", "write several schedules as a list")]
    assert mistakes("  ") == [("the schedule is empty", "write a cron line, @daily, every 15m or at 11:30")]
    assert mistakes([]) == [("the list of schedules is empty", "leave the key out for a job without times")]
    assert mistakes("1," * 3000 + "1 * * * *") == [
        ("a schedule has at most 4000 characters", "write a list of schedules")
    ]


# --- Every form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["2027-01-04 02:30", "2027-01-05 02:30", "2027-01-06 02:30"]),
        ("15 30 2 * * *", ["2027-01-04 02:30:15", "2027-01-05 02:30:15", "2027-01-06 02:30:15"]),
        ("*/20 * * * * *", ["2027-01-04 00:00:20", "2027-01-04 00:00:40", "2027-01-04 00:01"]),
        ("0 9-17/4 * * mon-fri", ["2027-01-04 09:00", "2027-01-04 13:00", "2027-01-04 17:00"]),
        ("0 0 1,15 jan,Jul *", ["2027-01-15 00:00", "2027-07-01 00:00", "2027-07-15 00:00"]),
        ("0 0 * * fri-sun", ["2027-01-08 00:00", "2027-01-09 00:00", "2027-01-10 00:00"]),
        ("0 0 L * *", ["2027-01-31 00:00", "2027-02-28 00:00", "2027-03-31 00:00"]),
        ("0 0 15,L * *", ["2027-01-15 00:00", "2027-01-31 00:00", "2027-02-15 00:00"]),
        ("0 0 * * 5L", ["2027-01-29 00:00", "2027-02-26 00:00", "2027-03-26 00:00"]),
        ("0 0 * * friL", ["2027-01-29 00:00", "2027-02-26 00:00", "2027-03-26 00:00"]),
        ("0 0 * * 1#1", ["2027-02-01 00:00", "2027-03-01 00:00", "2027-04-05 00:00"]),
        ("0 0 * * mon#5", ["2027-03-29 00:00", "2027-05-31 00:00", "2027-08-30 00:00"]),
        ("@hourly", ["2027-01-04 01:00", "2027-01-04 02:00", "2027-01-04 03:00"]),
        ("@daily", ["2027-01-05 00:00", "2027-01-06 00:00", "2027-01-07 00:00"]),
        ("@midnight", ["2027-01-05 00:00", "2027-01-06 00:00", "2027-01-07 00:00"]),
        ("@weekly", ["2027-01-10 00:00", "2027-01-17 00:00", "2027-01-24 00:00"]),
        ("@monthly", ["2027-02-01 00:00", "2027-03-01 00:00", "2027-04-01 00:00"]),
        ("@yearly", ["2028-01-01 00:00", "2029-01-01 00:00", "2030-01-01 00:00"]),
        ("@annually", ["2028-01-01 00:00", "2029-01-01 00:00", "2030-01-01 00:00"]),
        ("every 90s", ["2027-01-04 00:01:30", "2027-01-04 00:03", "2027-01-04 00:04:30"]),
        ("every 15m", ["2027-01-04 00:15", "2027-01-04 00:30", "2027-01-04 00:45"]),
        ("every 2h", ["2027-01-04 02:00", "2027-01-04 04:00", "2027-01-04 06:00"]),
        ("every 1h30m", ["2027-01-04 01:30", "2027-01-04 03:00", "2027-01-04 04:30"]),
        ("every 3d", ["2027-01-05 00:00", "2027-01-08 00:00", "2027-01-11 00:00"]),
        ("every 3d at 07:30", ["2027-01-05 07:30", "2027-01-08 07:30", "2027-01-11 07:30"]),
        ("every 2w  at 0:15:30", ["2027-01-17 00:15:30", "2027-01-31 00:15:30", "2027-02-14 00:15:30"]),
        ("every 1w", ["2027-01-10 00:00", "2027-01-17 00:00", "2027-01-24 00:00"]),
        ("every 2 weeks", ["2027-01-17 00:00", "2027-01-31 00:00", "2027-02-14 00:00"]),
        ("at 11:30, 14:00", ["2027-01-04 11:30", "2027-01-04 14:00", "2027-01-05 11:30"]),
        ("at 7:05", ["2027-01-04 07:05", "2027-01-05 07:05", "2027-01-06 07:05"]),
        ("at 2027-01-05 08:00", ["2027-01-05 08:00"]),
        ("at 2027-01-05 08:00, 2027-03-01 09:00:30", ["2027-01-05 08:00", "2027-03-01 09:00:30"]),
        ("Mon..Fri *-*-* 08:00", ["2027-01-04 08:00", "2027-01-05 08:00", "2027-01-06 08:00"]),
        ("weekly", ["2027-01-11 00:00", "2027-01-18 00:00", "2027-01-25 00:00"]),
        ("quarterly", ["2027-04-01 00:00", "2027-07-01 00:00", "2027-10-01 00:00"]),
        ("*-*~03 12:00", ["2027-01-29 12:00", "2027-02-26 12:00", "2027-03-29 12:00"]),
        ("*:0/20", ["2027-01-04 00:20", "2027-01-04 00:40", "2027-01-04 01:00"]),
        ("2027-06-01", ["2027-06-01 00:00"]),
    ],
)
def test_a_form_of_schedule_means_these_runs(text: str, expected: list[str]) -> None:
    assert runs(text, MONDAY) == expected


def test_cron_counts_its_week_from_sunday_and_systemd_from_monday() -> None:
    assert parse_schedule("@weekly").to_calendar() == ("Sun *-*-* 00:00:00",)
    assert parse_schedule("weekly").to_calendar() == ("Mon *-*-* 00:00:00",)


def test_with_both_day_fields_restricted_either_may_match() -> None:
    assert runs("0 0 13 * fri", MONDAY, 4) == [
        "2027-01-08 00:00",
        "2027-01-13 00:00",
        "2027-01-15 00:00",
        "2027-01-22 00:00",
    ]


def test_with_a_star_at_the_start_of_a_day_field_both_must_match() -> None:
    """Vixie cron's rule, of which */2 is the surprising case: odd days that are Mondays."""
    assert runs("0 0 */2 * mon", MONDAY) == ["2027-01-11 00:00", "2027-01-25 00:00", "2027-02-01 00:00"]


def test_several_schedules_are_one_in_which_any_may_match() -> None:
    schedule = parse_schedule(["0 6 * * mon-fri", "0 9 * * sat", "0 6 * * 1"])
    assert runs(schedule, MONDAY + timedelta(days=4), 3) == [
        "2027-01-08 06:00",
        "2027-01-09 09:00",
        "2027-01-11 06:00",
    ]
    assert len(schedule.to_calendar()) == 3


def test_a_job_at_boot_has_no_calendar() -> None:
    schedule = parse_schedule("@reboot")
    assert schedule.on_boot
    assert schedule.to_calendar() == ()
    assert schedule.next_after(MONDAY) is None


def test_a_job_at_boot_may_have_times_too() -> None:
    schedule = parse_schedule(["@reboot", "@daily"])
    assert schedule.on_boot
    assert schedule.to_calendar() == ("*-*-* 00:00:00",)


def test_a_one_off_that_has_passed_never_runs_again() -> None:
    schedule = parse_schedule("at 2027-01-01 08:00")
    assert schedule.next_after(datetime(2027, 1, 1, 8, tzinfo=UTC)) is None
    assert schedule.next_after(datetime(2027, 1, 1, 7, 59, 59, tzinfo=UTC)) == datetime(2027, 1, 1, 8, tzinfo=UTC)
    assert schedule.to_calendar() == ("2027-01-01 08:00:00",)


def test_a_one_off_may_be_written_when_it_has_passed_already() -> None:
    """A job file stays valid when its day is over."""
    assert parse_schedule("at 2001-01-01 08:00").next_after(MONDAY) is None


# --- H and spread ----------------------------------------------------------------------------------------------------


def test_h_is_the_same_spot_every_time_and_for_ever() -> None:
    """These spots are what machines run by: another hash would move every job."""
    schedule = parse_schedule("H H * * *", seed="backup@0123456789abcdef")
    assert schedule.to_calendar() == ("*-*-* 12:05:00",)
    assert schedule == parse_schedule("H H * * *", seed="backup@0123456789abcdef")


def test_h_does_not_depend_on_the_hash_seed_of_the_interpreter() -> None:
    program = "from sdcron.schedule import parse_schedule as p; print(p('H H H * H', seed='x').to_calendar())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def test_h_keeps_to_its_range_and_step() -> None:
    for number in range(200):
        hashed = parse_schedule("H(10-20) H/6 H * *", seed=str(number)).entries[0]
        assert 10 <= hashed.minutes[0] <= 20
        assert {later - earlier for earlier, later in pairwise(hashed.hours)} == {6}
        assert hashed.hours[0] < 6
        assert 1 <= hashed.days[0] <= 28


def test_h_spreads_jobs_over_the_whole_field() -> None:
    spots = {parse_schedule("H * * * *", seed=str(number)).entries[0].minutes for number in range(1000)}
    assert len(spots) == 60


def test_a_spread_is_one_offset_below_it() -> None:
    offsets = {parse_schedule("@daily", seed=str(n), spread=timedelta(minutes=10)).offset for n in range(300)}
    assert all(timedelta(0) <= offset < timedelta(minutes=10) for offset in offsets)
    assert len(offsets) > 200


# --- next_after ------------------------------------------------------------------------------------------------------


def test_next_after_is_strictly_later() -> None:
    schedule = parse_schedule("* * * * *")
    assert schedule.next_after(MONDAY) == MONDAY + timedelta(minutes=1)
    assert schedule.next_after(MONDAY - timedelta(microseconds=1)) == MONDAY
    assert schedule.next_after(MONDAY + timedelta(microseconds=1)) == MONDAY + timedelta(minutes=1)


def test_next_after_takes_any_zone_and_answers_in_the_schedules_own() -> None:
    schedule = parse_schedule("0 8 * * *", timezone="Asia/Kolkata")
    found = {schedule.next_after(MONDAY.astimezone(zone)) for zone in (UTC, BERLIN, ZoneInfo("America/Havana"))}
    assert found == {datetime(2027, 1, 4, 8, tzinfo=ZoneInfo("Asia/Kolkata"))}
    assert str(found.pop().tzinfo) == "Asia/Kolkata"  # type: ignore[union-attr]  # it is there


def test_next_after_refuses_a_moment_without_a_zone() -> None:
    with pytest.raises(ValueError, match="a moment needs a time zone"):
        parse_schedule("@daily").next_after(datetime(2027, 1, 1))  # noqa: DTZ001 - the mistake that is tested


def test_next_after_asks_neither_the_clock_nor_the_environment() -> None:
    program = (
        "import time, datetime as d\n"
        "from sdcron.schedule import parse_schedule\n"
        "s = parse_schedule(['30 2 * * *', 'every 7h', '@reboot'], local_timezone='Europe/Berlin')\n"
        "print(s.next_after(d.datetime(2027, 3, 28, tzinfo=d.UTC)), s.to_calendar())\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "TZ": zone, "LC_ALL": locale},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for zone, locale in (("UTC", "C"), ("America/New_York", "C.UTF-8"), ("Australia/Lord_Howe", "de_DE.UTF-8"))
    }
    assert len(told) == 1


# --- Clock changes ---------------------------------------------------------------------------------------------------


def test_a_fixed_time_inside_the_spring_gap_runs_once_right_after_the_jump() -> None:
    assert in_zone("30 2 * * *", "Europe/Berlin", "2027-03-27", 3) == [
        "03-27 02:30+0100",
        "03-28 03:00+0200",
        "03-29 02:30+0200",
    ]


def test_several_fixed_times_inside_the_gap_are_one_run() -> None:
    assert in_zone("5,10,50 2 * * *", "Europe/Berlin", "2027-03-28", 2) == ["03-28 03:00+0200", "03-29 02:05+0200"]


def test_a_fixed_time_at_the_very_end_of_the_gap_runs_as_always() -> None:
    assert in_zone("0 3 * * *", "Europe/Berlin", "2027-03-28", 2) == ["03-28 03:00+0200", "03-29 03:00+0200"]


@pytest.mark.parametrize(
    ("zone", "day", "run"),
    [
        # Of the past: what these governments will do next year is another matter.
        ("America/Havana", "2025-03-09", "03-09 01:00-0400"),
        ("Africa/Cairo", "2025-04-25", "04-25 01:00+0300"),
        ("America/Santiago", "2025-09-07", "09-07 01:00-0300"),
    ],
)
def test_a_midnight_that_does_not_exist_is_made_up_for_right_after_it(zone: str, day: str, run: str) -> None:
    assert in_zone("0 0 * * *", zone, day, 1) == [run]


def test_a_fixed_time_inside_the_autumn_overlap_runs_once_and_at_the_first_of_the_two() -> None:
    assert in_zone("30 2 * * *", "Europe/Berlin", "2027-10-31", 2) == ["10-31 02:30+0200", "11-01 02:30+0100"]


def test_steps_through_minutes_keep_their_spacing_in_spring() -> None:
    assert in_zone("*/20 1-4 * * *", "Europe/Berlin", "2027-03-28", 5) == [
        "03-28 01:00+0100",
        "03-28 01:20+0100",
        "03-28 01:40+0100",
        "03-28 03:00+0200",
        "03-28 03:20+0200",
    ]


def test_steps_through_minutes_keep_their_spacing_in_autumn() -> None:
    start = datetime(2027, 10, 31, 0, 0, tzinfo=UTC)
    schedule = parse_schedule("*/20 * * * *", local_timezone="Europe/Berlin")
    found: list[datetime] = []
    moment: datetime | None = start
    while moment is not None and len(found) < 12:
        moment = schedule.next_after(moment)
        assert moment is not None
        found.append(moment.astimezone(UTC))
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=20)}


def test_every_hour_runs_in_both_passes_of_an_overlap() -> None:
    assert in_zone("0 1-3 * * *", "Europe/Berlin", "2027-10-31", 2) == ["10-31 01:00+0200", "10-31 02:00+0200"]
    assert in_zone("0 * * * *", "Europe/Berlin", "2027-10-31", 13)[-3:] == [
        "10-31 02:00+0200",
        "10-31 02:00+0100",
        "10-31 03:00+0100",
    ]


def test_half_an_hour_is_a_gap_too() -> None:
    assert in_zone("15 2 * * *", "Australia/Lord_Howe", "2027-10-03", 2) == ["10-03 02:30+1100", "10-04 02:15+1100"]
    assert in_zone("45 2 * * *", "Australia/Lord_Howe", "2027-10-03", 1) == ["10-03 02:45+1100"]


def test_intervals_do_not_notice_clock_changes() -> None:
    schedule = parse_schedule("every 90m", local_timezone="America/New_York")
    moment: datetime | None = datetime(2027, 11, 7, tzinfo=UTC)
    found: list[datetime] = []
    while moment is not None and len(found) < 16:
        moment = schedule.next_after(moment)
        assert moment is not None
        found.append(moment.astimezone(UTC))
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=90)}


def test_days_are_local_days_and_may_have_23_hours() -> None:
    assert in_zone("every 1d", "Europe/Berlin", "2027-03-28", 2) == ["03-28 00:00+0100", "03-29 00:00+0200"]


def test_a_day_after_a_gap_to_standard_time_is_written_in_utc_because_systemd_skips_the_rest_of_it() -> None:
    """Europe/Dublin: summer is the standard time, and winter the exception with an offset of its own."""
    assert parse_schedule("0 1,9 * * *", local_timezone="Europe/Dublin").to_calendar() == (
        "*-*-* 01,09:00:00",
        "Sun *-03-25..31 01:00:00 UTC",
        "Sun *-03-25..31 08:00:00 UTC",
    )


def test_a_machine_in_utc_needs_one_line_and_a_job_elsewhere_names_its_zone() -> None:
    assert parse_schedule("30 12 * * *").to_calendar() == ("*-*-* 12:30:00",)
    assert parse_schedule("30 12 * * *", timezone="Asia/Kolkata").to_calendar() == ("*-*-* 12:30:00 Asia/Kolkata",)
    assert parse_schedule("30 12 * * *", timezone="UTC", local_timezone="Asia/Kolkata").to_calendar() == (
        "*-*-* 12:30:00 UTC",
    )
