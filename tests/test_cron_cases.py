"""A collection of cron lines and of what went wrong with cron's successors, each with what sdcron makes of it.

tests/cron-cases.tsv holds the lines that a schedule can or cannot be, one test each; what is about more than a
schedule has a test here, under the name that the collection gives it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.jobfile import Context, parse_text, read_file
from sdcron.jobset import find_files
from sdcron.schedule import ScheduleMistakes, parse_schedule
from tests.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.errors import Problem
    from sdcron.job import Job

CASES = Path(__file__).with_name("cron-cases.tsv")
# The collection itself, where it lies beside the checkout.
COLLECTION = Path(__file__).resolve().parents[2] / "shared" / "cases" / "cron-cases.tsv"
ROWS = [line.split("\t") for line in CASES.read_text(encoding="utf-8").splitlines()[1:]]
START = datetime(2024, 2, 25, tzinfo=UTC)
BEHAVIOUR: set[str] = set()
LATER = {
    # What a run cut off by a shutdown becomes is recorded, and retried, with the status records.
    "Persistent job killed by shutdown half way",
    # Not an error of the file, which may be checked where the user is unknown; the run fails with status 217/USER.
    "0 0 * * * nosuchuser x",
}


def behaviour(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark the test of a row that is about more than a schedule."""
    BEHAVIOUR.add(name)
    return lambda test: test


def written(text: str) -> str:
    """An expression with its escapes resolved."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def local(text: str, zone: str, after: str, count: int) -> list[str]:
    """The runs after a moment in UTC, in UTC: `31 01:00`."""
    schedule = parse_schedule(text, local_timezone=zone)
    moment: datetime | None = datetime.fromisoformat(after + "+00:00")
    found: list[str] = []
    while moment is not None and len(found) < count:
        moment = schedule.next_after(moment)
        assert moment is not None
        found.append(moment.astimezone(UTC).strftime("%d %H:%M"))
    return found


def read(text: str, name: str = "x.yaml") -> tuple[tuple[Job, ...], tuple[Problem, ...]]:
    return parse_text(text, name, Context())


def job_of(text: str) -> Job:
    jobs, problems = read(text)
    assert problems == ()
    return jobs[0]


def mistakes(text: str, **zones: str) -> list[str]:
    with pytest.raises(ScheduleMistakes) as raised:
        parse_schedule(text, timezone=zones.get("timezone"))
    return [f"{mistake.message}; {mistake.hint}" for mistake in raised.value.mistakes]


def units(schedule: str | tuple[str, ...] | None, **keys: Any) -> dict[str, str]:
    """The units of a job: what follows its name -> text."""
    return {unit.name.removeprefix("sdcron-x"): unit.text for unit in compiled("x", schedule, **keys).units}


VALID = [row for row in ROWS if row[1] == "valid"]
INVALID = [row for row in ROWS if row[1] == "invalid"]


@pytest.mark.parametrize(("text", "lines", "runs"), [(row[0], row[2], row[3]) for row in VALID])
def test_a_valid_line_has_this_calendar_and_these_runs(text: str, lines: str, runs: str) -> None:
    schedule = parse_schedule(written(text))
    assert " | ".join(schedule.to_calendar()) == lines
    found = []
    moment: datetime | None = START
    for _ in range(3):
        moment = schedule.next_after(moment) if moment is not None else None
        found.append(f"{moment:%Y-%m-%dT%H:%MZ}")
    assert ",".join(found) == runs


@pytest.mark.parametrize(("text", "messages"), [(row[0], row[2]) for row in INVALID])
def test_an_invalid_line_is_refused_with_every_mistake_and_a_hint(text: str, messages: str) -> None:
    with pytest.raises(ScheduleMistakes) as raised:
        parse_schedule(written(text))
    found = raised.value.mistakes
    assert " | ".join(dict.fromkeys(mistake.message for mistake in found)) == messages
    assert all(mistake.hint for mistake in found)


def test_no_row_of_the_collection_is_left_out() -> None:
    """And each is valid, invalid and elapses as the collection says, but where cron-cases.tsv says why not."""
    own = {row[0]: row for row in ROWS}
    assert not BEHAVIOUR & LATER
    lines = COLLECTION.read_text(encoding="utf-8").splitlines()[1:] if COLLECTION.exists() else []
    for text, kind, meaning, _ in (line.split("\t") for line in lines):
        if meaning.startswith("BEHAVIOUR"):
            assert text in BEHAVIOUR | LATER
            continue
        _, our_kind, expected, runs, why = own[text]
        if not why:
            assert our_kind == kind
            assert kind == "invalid" or meaning.startswith(f"OC={expected} ; next3={runs}")


# --- Times -----------------------------------------------------------------------------------------------------------


@behaviour("@reboot")
def test_a_job_at_boot_has_a_timer_without_a_calendar_that_an_apply_does_not_set_off() -> None:
    job = compiled("x", "@reboot")
    text = units("@reboot")[".timer"]
    assert "\nOnBootSec=" in text
    assert "OnCalendar" not in text
    assert "Persistent" not in text
    # What was applied since the boot has missed that boot; the file is in /run and goes with it.
    assert "\nConditionPathExists=!%t/sdcron/applied-this-boot/x\n" in text
    assert "sdcron-x.timer" not in job.start


@behaviour("@reboot with OnBootSec=0")
def test_a_job_at_boot_waits_a_second_because_none_may_be_for_ever() -> None:
    assert "\nOnBootSec=1s\n" in units("@reboot")[".timer"]


@behaviour("30 2 * * *   [TZ Europe/Paris, 2024-03-31 gap]")
def test_half_past_two_that_does_not_exist_is_made_up_for_at_three() -> None:
    assert local("30 2 * * *", "Europe/Paris", "2024-03-30T12:00", 2) == ["31 01:00", "01 00:30"]
    assert parse_schedule("30 2 * * *", local_timezone="Europe/Paris").to_calendar() == (
        "*-*-* 02:30:00",
        "Sun *-03-25..31 01:00:00 UTC",
    )


@behaviour("30 2 * * *   [TZ Europe/Paris, 2024-10-27 overlap]")
def test_half_past_two_that_happens_twice_is_one_run() -> None:
    assert local("30 2 * * *", "Europe/Paris", "2024-10-26T12:00", 2) == ["27 00:30", "28 01:30"]


@behaviour("*/20 * * * * [TZ Europe/Paris, 2024-10-27 overlap]")
def test_every_twenty_minutes_has_no_hole_in_autumn() -> None:
    assert local("*/20 * * * *", "Europe/Paris", "2024-10-27T00:20", 4) == [
        "27 00:40",
        "27 01:00",
        "27 01:20",
        "27 01:40",
    ]
    assert parse_schedule("*/20 * * * *", local_timezone="Europe/Paris").to_calendar() == ("*-*-* *:00,20,40:00 UTC",)


@behaviour("* * * * *    [TZ Europe/Paris, 2024-10-27 overlap]")
def test_every_minute_loses_no_hour_in_autumn() -> None:
    found = local("* * * * *", "Europe/Paris", "2024-10-27T00:00", 180)
    assert found[-1] == "27 03:00"
    assert len(set(found)) == 180


@behaviour("0 * * * *    [TZ Europe/Dublin, 2025-03-30]")
def test_every_hour_in_dublin_is_written_in_utc() -> None:
    assert parse_schedule("0 * * * *", local_timezone="Europe/Dublin").to_calendar() == ("*-*-* *:00:00 UTC",)


@behaviour("0 0 * * *    [TZ America/Havana or Africa/Cairo spring]")
def test_a_midnight_that_does_not_exist_is_no_lost_day() -> None:
    assert local("0 0 * * *", "America/Havana", "2024-03-09T12:00", 2) == ["10 05:00", "11 04:00"]
    assert local("0 0 * * *", "Africa/Cairo", "2024-04-25T12:00", 2) == ["25 22:00", "26 21:00"]


@behaviour("CRON_TZ=Europe/Warsaw + 1 * * * mon-wed")
def test_a_time_zone_stands_in_the_calendar() -> None:
    lines = parse_schedule("1 * * * mon-wed", timezone="Europe/Warsaw").to_calendar()
    assert lines == ("Mon,Tue,Wed *-*-* *:01:00 Europe/Warsaw",)


@behaviour("TZ = '\":Europe/Warsaw\"'")
def test_a_colon_before_a_time_zone_is_refused_with_the_zone_without_it() -> None:
    assert mistakes("@daily", timezone=":Europe/Warsaw") == [
        "unknown time zone ':Europe/Warsaw'; leave out the colon: Europe/Warsaw"
    ]


@behaviour("TZ=UTC0 + job")
def test_a_time_zone_of_posix_is_refused() -> None:
    assert mistakes("@daily", timezone="UTC0") == ["unknown time zone 'UTC0'; did you mean UTC?"]
    assert mistakes("@daily", timezone="CET-1CEST")[0].startswith("unknown time zone 'CET-1CEST'; ")


@behaviour("TZ=Europe/Nowhere + job")
def test_an_unknown_time_zone_is_an_error() -> None:
    assert mistakes("@daily", timezone="Europe/Nowhere")[0].startswith("unknown time zone 'Europe/Nowhere'; ")


@behaviour("TZ= (empty)")
def test_no_time_zone_is_the_machines_and_an_empty_one_is_an_error() -> None:
    assert parse_schedule("@daily", local_timezone="Asia/Kolkata").to_calendar() == ("*-*-* 00:00:00",)
    problems = read('command: x\nschedule: "@daily"\ntimezone: ""\n')[1]
    assert [problem.message for problem in problems] == ["'timezone' is empty"]


@behaviour("40 5 job1 cmd  (anacrontab period 40)")
def test_every_forty_days_is_every_forty_days() -> None:
    schedule = parse_schedule("every 40d", local_timezone="Europe/Berlin")
    moment: datetime | None = datetime(2027, 1, 1, tzinfo=UTC)
    dates: list[date] = []
    while moment is not None and len(dates) < 12:
        moment = schedule.next_after(moment)
        assert moment is not None
        dates.append(moment.date())
    assert {later - earlier for earlier, later in pairwise(dates)} == {timedelta(days=40)}


# --- Commands and environments ---------------------------------------------------------------------------------------


@behaviour('0 22 * * 1-5 mail -s "It\'s 10pm" joe%Joe,%%Where?%')
@behaviour("* * * * * echo a\\%b")
@behaviour('*/1 * * * * date "+%H:%M"')
def test_a_percent_sign_in_a_command_is_a_percent_sign_and_doubled_in_the_unit() -> None:
    for argument in ("joe%Joe,%%Where?%", "a%b", "+%H:%M"):
        job = job_of(f"command: [/bin/echo, '{argument}']\n")
        assert job.command == ("/bin/echo", argument)
        text = units(None, command=job.command)[".service"]
        line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        assert line.replace('"', "").endswith(f" {argument.replace('%', '%%')}")
    assert job_of('command: date "+%H:%M"\n').command == ("date", "+%H:%M")


@behaviour("* * * * * sleep $((RANDOM\\%30)) && x")
def test_a_script_is_not_touched() -> None:
    text = "sleep $((RANDOM%30)) && x\n"
    assert job_of(f"script: |\n  {text}").script == text
    assert compiled("x", None, script=text).script == text


@behaviour("BATCH= (empty value)")
def test_an_empty_value_is_neither_true_nor_false() -> None:
    for value in ('""', ""):
        assert len(read(f"command: x\nenabled: {value}\n")[1]) == 1


@behaviour('MAILTO=""  /  MAILTO=')
def test_an_empty_address_is_an_error() -> None:
    """Who wants no mail leaves the key out."""
    for value in ('""', ""):
        assert len(read(f"command: x\nnotify: {value}\n")[1]) == 1


@behaviour("A = ' \" 10 \" '")
def test_a_value_of_the_environment_is_what_yaml_says() -> None:
    assert job_of("command: x\nenvironment:\n  A: ' \" 10 \" '\n").environment == (("A", ' " 10 " '),)


@behaviour("FOO = 'bar")
def test_an_open_quote_is_an_error() -> None:
    assert "a quote that was opened is not closed" in read("environment:\n  FOO: 'bar\ncommand: x\n")[1][0].message


@behaviour("FOO=")
def test_a_variable_may_be_empty_but_not_without_a_value() -> None:
    assert job_of('command: x\nenvironment: {FOO: ""}\n').environment == (("FOO", ""),)
    assert [problem.message for problem in read("command: x\nenvironment:\n  FOO:\n")[1]] == [
        "'environment.FOO' has no value"
    ]


@behaviour("0 0 * * * x # c")
def test_a_number_sign_inside_a_command_begins_no_comment() -> None:
    assert job_of('command: "x # c"\n').command == ("x", "#", "c")


@behaviour("0 0 * * * <1100-char command>")
def test_a_command_may_be_long() -> None:
    assert job_of(f"command: x {'y' * 100_000}\n").command == ("x", "y" * 100_000)


# --- Files -----------------------------------------------------------------------------------------------------------


@behaviour("0 0 * * * x   (no newline at EOF)")
def test_the_last_line_needs_no_line_break() -> None:
    assert job_of("schedule: 0 0 * * *\ncommand: x").command == ("x",)


@behaviour("0 0 * * * x\\r\\n")
def test_line_breaks_of_windows_are_line_breaks() -> None:
    job = job_of("schedule: 0 0 * * *\r\ncommand: x y\r\n")
    assert job.command == ("x", "y")
    assert job.schedule == parse_schedule("0 0 * * *")


@behaviour("\\t0\\t0\\t*\\t*\\t*\\tx")
def test_blanks_and_tabs_around_fields_do_not_matter() -> None:
    assert parse_schedule("\t0\t 0\t*\t*\t* ").to_calendar() == ("*-*-* 00:00:00",)


@behaviour("two lines, second is 99 * * * *")
def test_one_bad_job_spoils_the_file_but_not_what_is_said_about_the_others() -> None:
    jobs, problems = read(
        "jobs:\n  a: {schedule: 0 0 * * *, command: x}\n  b: {schedule: 99 * * * *, command: x}\n"
        "  c: {schedule: 0 77 * * *, command: x}\n"
    )
    assert [job.name for job in jobs] == ["a"]
    assert [problem.line for problem in problems] == [3, 4]


@behaviour("0 0 * * * x  (ISO-8859-2 bytes or NUL in command)")
def test_bytes_that_are_no_text_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"command: [x, za\xbf]\n")
    (problem,) = read_file(path, Context())[1]
    assert (problem.line, problem.column, problem.message) == (1, 16, "the byte 0xbf is not valid UTF-8")
    (problem,) = read('command: [x, "a\\0"]\n')[1]
    assert problem.message == "item 2 of 'command' holds the character U+0000, which systemd does not accept"


@behaviour("/etc/cron.d/name.with.dot, name~, name.dpkg-old")
def test_what_editors_and_packages_leave_behind_is_no_job_file(tmp_path: Path) -> None:
    names = ["a.yaml", "name.with.dot.yaml", "b.yml"]
    others = ["a.yaml~", "a.yaml.dpkg-old", "a.yaml.rpmsave", ".a.yaml.swp", ".hidden.yaml", "#a.yaml#", "README"]
    for name in (*names, *others):
        (tmp_path / name).write_text("command: x\n")
    found = find_files([tmp_path]).chosen
    assert sorted(path.name for path in found.values()) == sorted(names)
    assert read_file(tmp_path / "name.with.dot.yaml", Context())[0][0].name == "name.with.dot"


# --- Timers: what the units say; the tests on booted machines show that systemd does it ------------------------------


@behaviour("edit 05:35 -> 06:35 at 10:37, daemon-reload")
@behaviour("systemctl restart x.timer with no edit")
def test_an_edit_runs_nothing_and_what_is_not_edited_keeps_its_text() -> None:
    """The order of an apply (stop, write, stamp, start) is in test_apply.py."""
    before, after = units("35 5 * * *"), units("35 6 * * *")
    assert before[".service"] == after[".service"]
    assert before[".timer"] != after[".timer"]
    assert units("35 5 * * *") == before


@behaviour("OnCalendar bad -> fixed -> daemon-reload")
@behaviour("OnCalendar=good + OnCalendar=bad in one timer")
def test_a_bad_line_never_reaches_systemd_not_even_beside_a_good_one() -> None:
    with pytest.raises(ScheduleMistakes):
        parse_schedule(["@daily", "0 0 31 2 *"])
    assert read('command: x\nschedule: ["@daily", "99 * * * *"]\n')[0] == ()


@behaviour("@daily + RandomizedDelaySec=22h + daily daemon-reload or reboot")
def test_a_spread_is_in_the_calendar_and_not_thrown_anew() -> None:
    text = "command: x\nschedule: '@daily'\nspread: 22h\n"
    job = job_of(text)
    assert job.schedule is not None
    lines = job.schedule.to_calendar()
    assert len(lines) == 1
    assert lines != ("*-*-* 00:00:00",)
    assert job_of(text).schedule == job.schedule
    assert "Randomized" not in units("@daily", spread=job.spread)[".timer"]


@behaviour("Persistent=true, host off for 5 periods")
def test_missed_runs_are_made_up_for_unless_the_job_says_no() -> None:
    assert "\nPersistent=yes\n" in units("@daily")[".timer"]


@behaviour("every-second timer, 5 s job, 12 s")
def test_a_job_that_still_runs_is_not_started_again() -> None:
    """A oneshot is activating as long as it runs, and systemd.timer(5) starts only what is inactive."""
    text = units("* * * * * *")
    assert "\nType=oneshot\n" in text[".service"]
    assert "\nOnCalendar=*-*-* *:*:*\n" in text[".timer"]
    assert "\nAccuracySec=1s\n" in text[".timer"]
