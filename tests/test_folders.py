"""folders and folder_times: PyCron's folder names as schedules, and the scripts below them as jobs."""

from __future__ import annotations

import os
import re
import socket
import string
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdcron.errors import UsageError
from sdcron.folder_times import folder_times
from sdcron.folders import RETRY, Found, read_folders
from sdcron.intervals import Interval
from sdcron.job import Missed, Overlap, Retry
from sdcron.job_text import job_of, text_of
from sdcron.job_values import RefusedValueError
from sdcron.jobfile import Context, is_job_name, parse_text
from sdcron.paths import Scope
from sdcron.schedule import Schedule, parse_schedule
from sdcron.span import span
from sdcron.units import compile_job

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = Context(local_timezone="Europe/Berlin")
AS_ROOT = Context(root_owned_only=True)
START = datetime(2027, 1, 10, tzinfo=UTC)  # a Sunday, in winter


def write(path: Path, text: str = "#!/bin/sh\nexit 0\n", mode: int = 0o755) -> Path:
    """A script, and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def names(found: Found) -> list[str]:
    return [job.name for job in found.jobs]


def messages(found: Found, directory: Path) -> list[str]:
    """The problems, with paths below the directory."""
    return [str(problem).removeprefix(f"{directory}/") for problem in found.problems]


def schedule_of(every: str, at: str = "") -> Schedule:
    times = folder_times(every, at)
    return parse_schedule(times.texts, timezone=times.timezone, local_timezone="Europe/Berlin")


def runs(schedule: Schedule, count: int, after: datetime = START - timedelta(seconds=1)) -> Iterator[datetime]:
    for _ in range(count):
        moment = schedule.next_after(after)
        assert moment is not None
        after = moment
        yield moment


# Folder names -> texts of the schedule, or what is wrong: PyCron's own grammar, read as sdcron's forms.
TIMES = [
    ("1min", "", "every 1m"),
    ("5min", "", "every 5m"),
    ("7min", "", "every 7m"),
    ("90min", "", "every 90m"),
    ("120min", "", "every 2h"),
    ("1440min", "", "every 1d"),
    ("2880min", "", "every 2d"),
    ("1hour", "", "every 1h"),
    ("01hour", "", "every 1h"),
    ("7hour", "", "every 7h"),
    ("24hour", "", "every 1d"),
    ("84hour", "", "every 84h"),
    ("168hour", "", "every 1w"),
    ("1day", "", "every 1d"),
    ("3day", "", "every 3d"),
    ("14day", "", "every 2w"),
    ("366day", "", "every 366d"),
    ("1week", "", "every 1w"),
    ("52week", "", "every 52w"),
    ("1hour", "at0050", "50 * * * *"),
    ("2hour", "at0030", "30 */2 * * *"),
    ("12hour", "at0000", "0 */12 * * *"),
    ("24hour", "at0015", "at 00:15"),
    ("1day", "at0730", "at 07:30"),
    ("1day", "at1345", "at 13:45"),
    ("1day", "at2359", "at 23:59"),
    ("1day", "at0000", "at 00:00"),
    ("3day", "at0730", "every 3d at 07:30"),
    ("1week", "at0015", "every 1w at 00:15"),
    ("7day", "at1733", "every 1w at 17:33"),
    ("2week", "at1733", "every 2w at 17:33"),
]


@pytest.mark.parametrize(("every", "at", "text"), TIMES)
def test_a_folder_name_stands_for_a_schedule(every: str, at: str, text: str) -> None:
    times = folder_times(every, at)
    assert (times.texts, times.timezone, times.warnings) == ((text,), None, ())
    parse_schedule(times.texts)


REFUSED = [
    ("5mins", "", "does not say how often its scripts run", "rename it to 5min"),
    ("5 Minutes", "", "does not say how often its scripts run", "rename it to 5min"),
    ("1Day", "", "does not say how often its scripts run", "rename it to 1day"),
    ("2weeks", "", "does not say how often its scripts run", "rename it to 2week"),
    ("3d", "", "does not say how often its scripts run", "rename it to 3day"),
    ("daily", "", "does not say how often its scripts run", "rename it to 1day"),
    ("day", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("30sec", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("1month", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("-1day", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("1.5hour", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("1day\n", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("٣day", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("at0730", "", "does not say how often its scripts run", "folders are called as in 5min, 2hour, 1day or 1week"),
    ("0min", "", "must be longer than nothing", "rename it to 1min"),
    ("000week", "", "must be longer than nothing", "rename it to 1week"),
    ("367day", "", "is longer than 366 days", "name a shorter time, such as 4week"),
    ("53week", "", "is longer than 366 days", "name a shorter time, such as 4week"),
    (f"{'9' * 250}min", "", "is longer than 366 days", "name a shorter time, such as 4week"),
    ("1day", "0730", "is not a time of day", "rename it to at0730"),
    ("1day", "at730", "is not a time of day", "rename it to at0730"),
    ("1day", "at07:30", "is not a time of day", "rename it to at0730"),
    ("1day", "At0730", "is not a time of day", "rename it to at0730"),
    ("1day", "at2400", "is not a time of day", "a folder in a folder is called as in at0730, from at0000 to at2359"),
    ("1day", "at0760", "is not a time of day", "a folder in a folder is called as in at0730, from at0000 to at2359"),
    ("1day", "at0730\n", "is not a time of day", "a folder in a folder is called as in at0730, from at0000 to at2359"),
    ("1day", "lib", "is not a time of day", "a folder in a folder is called as in at0730, from at0000 to at2359"),
    ("5min", "lib", "is not a time of day", "a folder in a folder is called as in at0730, from at0000 to at2359"),
]


@pytest.mark.parametrize(("every", "at", "message", "hint"), REFUSED)
def test_a_folder_name_that_stands_for_no_schedule_is_refused_with_a_hint(
    every: str, at: str, message: str, hint: str
) -> None:
    with pytest.raises(RefusedValueError) as raised:
        folder_times(every, at)
    assert (raised.value.message, raised.value.hint) == (message, hint)


UNEVEN = [
    ("25min", "", "UTC", "25min does not divide a day evenly", "midnight UTC", "day is 15min"),
    ("1439min", "", "UTC", "23h 59min does not divide a day evenly", "midnight UTC", "day is 1d"),
    ("5hour", "", "UTC", "5h does not divide a day evenly", "midnight UTC", "day is 4h"),
    ("36hour", "", "UTC", "1d 12h does not divide a week evenly", "Sunday, midnight UTC", "week is 1d"),
    ("5hour", "at0030", None, "5h does not divide a day evenly", "local midnight", "day is 4h"),
    ("30hour", "at0015", None, "1d 6h does not divide a week evenly", "Sunday, local midnight", "week is 18h"),
]


@pytest.mark.parametrize(("every", "at", "timezone", "what", "start", "gap"), UNEVEN)
def test_an_interval_that_does_not_divide_a_day_is_kept_but_for_one_gap_with_a_warning(
    every: str, at: str, timezone: str | None, what: str, start: str, gap: str
) -> None:
    times = folder_times(every, at)
    assert times.timezone == timezone
    assert times.warnings == (f"{what}: it is counted from {start}, and the last gap of a {gap}",)


@settings(deadline=None)
@given(st.integers(1, 10080), st.none() | st.integers(0, 59))
@example(11, None)
@example(23 * 60, 30)
@example(7 * 60, 30)
@example(1441, None)
def test_gaps_are_as_long_as_the_name_says_but_for_one_that_the_warning_gives(minutes: int, minute: int | None) -> None:
    if minute is None:
        names = (f"{minutes}min", "")
    else:
        minutes = max(minutes // 60, 1) * 60
        names = (f"{minutes // 60}hour", f"at00{minute:02d}")
    times = folder_times(*names)
    schedule = parse_schedule(times.texts, timezone=times.timezone, local_timezone="UTC")
    week = list(runs(schedule, 10080 // minutes + 3))
    gaps = {after - before for before, after in pairwise(week)}
    whole = timedelta(minutes=minutes)
    assert times.interval == whole
    assert all(moment.minute == minute for moment in week if minute is not None)
    assert bool(times.warnings) == (gaps != {whole})
    for gap in gaps - {whole}:
        assert whole / 2 <= gap < whole * 3 / 2
        assert times.warnings[0].endswith(f" is {span(gap)}")


def test_hours_at_a_minute_follow_local_clocks_also_where_they_divide_only_a_week() -> None:
    times = [moment.strftime("%a %H:%M") for moment in runs(schedule_of("7hour", "at0030"), 25)]
    assert folder_times("7hour", "at0030").warnings == ()
    assert times[:5] == ["Sun 07:30", "Sun 14:30", "Sun 21:30", "Mon 04:30", "Mon 11:30"]
    assert times[23:] == ["Sun 00:30", "Sun 07:30"]


def test_what_is_above_a_week_and_no_number_of_days_is_rounded_with_a_warning() -> None:
    warning = "8d 8h is not a number of days: this runs every 8 days"
    assert folder_times("200hour").texts == ("every 8d",)
    assert folder_times("200hour").warnings == folder_times("200hour", "at0030").warnings == (warning,)
    assert {moment.strftime("%H:%M") for moment in runs(schedule_of("200hour", "at0030"), 9)} == {"00:30"}


def test_minutes_have_no_time_of_day_and_hours_only_a_minute() -> None:
    of_minutes, of_hours = folder_times("11min", "at0730"), folder_times("2hour", "at0730")
    assert of_minutes.texts == folder_times("11min").texts
    assert of_minutes.warnings[0] == (
        "a time of day means nothing for minutes: this runs every 11min, as what is in 11min does"
    )
    assert of_minutes.warnings[1:] == folder_times("11min").warnings
    assert of_hours.texts == ("30 */2 * * *",)
    assert of_hours.warnings == ("the hour means nothing in 2hour: this runs at the minute 30 alone",)


@pytest.mark.parametrize("every", ["2day", "3day", "10day", "2week", "30day", "366day"])
def test_several_days_at_a_time_of_day_are_the_dates_of_the_interval(every: str) -> None:
    days = runs(schedule_of(every), 40)
    at = list(runs(schedule_of(every, "at0730"), 40))
    assert [moment.date() for moment in at] == [moment.date() for moment in days]
    assert {moment.strftime("%H:%M") for moment in at} == {"07:30"}
    assert schedule_of(every, "at0730").entries == Interval(
        folder_times(every).interval // timedelta(seconds=1), True
    ).entries("Europe/Berlin", 27000)


def test_every_executable_file_in_a_folder_is_a_job(tmp_path: Path) -> None:
    for path in ("5min/ping", "1day/report.sh", "1day/at0730/report.sh", "2week/at1733/x_y-z.py"):
        write(tmp_path / path)
    (tmp_path / "3hour").mkdir()
    found = read_folders(tmp_path, CONTEXT)
    assert found.problems == ()
    assert names(found) == ["1day-at0730-report.sh", "1day-report.sh", "2week-at1733-x_y-z.py", "5min-ping"]
    job = found.jobs[0]
    path = f"{tmp_path}/1day/at0730/report.sh"
    assert (job.command, job.source.path, job.source.shown, job.source.line) == ((path,), path, path, 1)
    assert job.description == "1day/at0730/report.sh"
    assert (job.directory, job.user, job.timezone) == (None, None, None)
    assert (job.missed, job.overlap) == (Missed.RUN, Overlap.SKIP)
    assert job.schedule == parse_schedule("at 07:30", local_timezone="Europe/Berlin")


def test_a_folder_counted_in_utc_makes_jobs_in_utc(tmp_path: Path) -> None:
    write(tmp_path / "11min" / "x")
    (job,) = read_folders(tmp_path, CONTEXT).jobs
    assert job.timezone == "UTC"
    assert job.schedule is not None
    assert job.schedule.timezone == "UTC"


def test_the_same_job_may_be_written_as_a_job_file(tmp_path: Path) -> None:
    write(tmp_path / "1day" / "at0730" / "report.sh")
    (job,) = read_folders(tmp_path, CONTEXT).jobs
    text = f"""
        name: 1day-at0730-report.sh
        description: 1day/at0730/report.sh
        schedule: at 07:30
        command: [{tmp_path}/1day/at0730/report.sh]
        retry: {{delay: 5m, attempts: 20}}
    """
    jobs, problems = parse_text(text, f"{tmp_path}/x.yaml", CONTEXT)
    assert problems == ()
    assert replace(jobs[0], source=job.source) == job


@pytest.mark.parametrize(
    ("folder", "retry"),
    [("1min", None), ("5min", None), ("6min", RETRY), ("1hour", RETRY), ("1day/at0730", RETRY)],
)
def test_a_failure_is_retried_where_the_retry_comes_before_the_next_run(
    folder: str, retry: Retry | None, tmp_path: Path
) -> None:
    write(tmp_path / folder / "x")
    (job,) = read_folders(tmp_path, CONTEXT).jobs
    assert job.retry == retry
    assert read_folders(tmp_path, CONTEXT, None).jobs[0].retry is None
    own = Retry(timedelta(seconds=30), attempts=7)
    assert read_folders(tmp_path, CONTEXT, own).jobs[0].retry == own


def test_the_default_retry_is_one_that_a_job_file_may_ask_for() -> None:
    jobs, problems = parse_text("command: x\nretry: {delay: 5m, attempts: 20}", "x.yaml", CONTEXT)
    assert problems == ()
    assert jobs[0].retry == RETRY


@pytest.mark.parametrize("folder", ["daily", "5mins", "1day/lib", "1day/at0730/deeper"])
def test_a_bad_folder_name_is_a_warning_that_names_the_folder_and_the_others_go_on(folder: str, tmp_path: Path) -> None:
    write(tmp_path / "1day" / "good")
    write(tmp_path / "1day" / "at0730" / "good")
    write(tmp_path / folder / "bad")
    found = read_folders(tmp_path, CONTEXT)
    assert names(found) == ["1day-at0730-good", "1day-good"]
    assert [problem.path for problem in found.problems] == [f"{tmp_path}/{folder}"]
    assert found.problems[0].hint


def test_the_warning_for_a_folder_comes_once_and_only_where_scripts_run(tmp_path: Path) -> None:
    write(tmp_path / "5hour" / "at0030" / "a")
    write(tmp_path / "5hour" / "at0030" / "b")
    (tmp_path / "11min").mkdir()
    found = read_folders(tmp_path, CONTEXT)
    assert [problem.path for problem in found.problems] == [f"{tmp_path}/5hour/at0030"]
    assert len(found.jobs) == 2


def test_two_scripts_of_one_name_get_names_of_their_own_that_nothing_else_changes(tmp_path: Path) -> None:
    write(tmp_path / "1day" / "backup.sh")
    before = names(read_folders(tmp_path, CONTEXT))
    for folder in ("1day/at0730", "1day/at1930", "2day", "1week"):
        write(tmp_path / folder / "backup.sh")
    after = names(read_folders(tmp_path, CONTEXT))
    assert before == ["1day-backup.sh"]
    assert set(before) < set(after)
    assert len(after) == len(set(after)) == 5


def test_a_name_that_no_job_can_have_is_made_one_by_the_hash_of_its_path(tmp_path: Path) -> None:
    for name in ("my report", "my_report", "möbel", "x" * 200, "$(reboot)", "at0730-y", "at0730-z"):
        write(tmp_path / "1day" / name)
    write(tmp_path / "1day" / "at0730" / "y")
    found = read_folders(tmp_path, CONTEXT)
    assert found.problems == ()
    assert [re.sub("x{9,}", "xx", name) for name in names(found)] == [
        "1day-__reboot_-fa66bac9",
        "1day-at0730-y",
        "1day-at0730-y-7021146e",
        "1day-at0730-z-0cdd7e9d",
        "1day-m_bel-0862c9c1",
        "1day-my_report",
        "1day-my_report-0298b158",
        "1day-xx-e34ce0dd",
    ]
    assert all(is_job_name(name) for name in names(found))


def test_a_name_that_is_taken_by_the_hash_of_another_path_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "1day" / "a b")
    (name,) = names(read_folders(tmp_path, CONTEXT))
    write(tmp_path / "1day" / name.removeprefix("1day-"))
    found = read_folders(tmp_path, CONTEXT)
    assert names(found) == [name]
    assert messages(found, tmp_path) == [f"1day/{name[5:]}: has the job name '{name}', which is taken already"]


def test_hidden_files_and_leftovers_of_editors_and_packages_are_passed_over(tmp_path: Path) -> None:
    for name in (".x", "x~", "#x#", "x.swp", "x.dpkg-old", "x.dpkg-dist", "x.ucf-new", "x.rpmsave", "x.rpmnew"):
        write(tmp_path / "1day" / name)
        write(tmp_path / name)
    write(tmp_path / ".git" / "hooks" / "pre-commit")
    write(tmp_path / "1day" / ".cache" / "x")
    assert read_folders(tmp_path, CONTEXT) == Found((), ())


def test_what_is_no_script_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "README", mode=0o644)
    write(tmp_path / "loose.sh")
    folder = write(tmp_path / "1day" / "good").parent
    write(folder / "notes.txt", mode=0o644)
    os.mkfifo(folder / "fifo", 0o777)
    (folder / "gone").symlink_to("nowhere")
    (folder / "self").symlink_to("self")
    (tmp_path / "2day").symlink_to("nowhere")
    (folder / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the address of a socket is short
        server.bind("socket")
        Path("socket").chmod(0o777)
        found = read_folders(tmp_path, CONTEXT)
    assert names(found) == ["1day-good"]
    assert messages(found, tmp_path) == [
        "1day/fifo: is not a file",
        "1day/gone: leads nowhere",
        "1day/notes.txt: is not executable, so it is no job",
        "1day/null: is not a file",
        "1day/self: cannot be read: Too many levels of symbolic links",
        "1day/socket: is not a file",
        "2day: leads nowhere",
        "README: is in no folder that says how often it runs",
        "loose.sh: is in no folder that says how often it runs",
    ]


def test_links_to_scripts_and_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    real = write(tmp_path / "srv" / "tool")
    jobs = tmp_path / "jobs"
    write(jobs / "1day" / "x")
    (jobs / "1day" / "tool").symlink_to(real)
    (jobs / "1hour").symlink_to(real.parent)
    (jobs / "2hour").symlink_to(".")
    (jobs / "1day" / "at0730").symlink_to("..")
    found = read_folders(jobs, CONTEXT)
    assert names(found) == ["1day-tool", "1day-x", "1hour-tool"]
    assert [problem.path.removeprefix(f"{jobs}/") for problem in found.problems] == [
        "1day/at0730/1day",
        "1day/at0730/1hour",
        "1day/at0730/2hour",
        "2hour/1day",
        "2hour/1hour",
        "2hour/2hour",
    ]


def test_a_script_without_an_interpreter_line_is_given_to_a_shell_as_shells_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "1day" / "a_line").parent
    write(folder / "b_text", "echo $0\n")
    write(folder / "c_empty", "")
    (folder / "d_program").symlink_to(os.path.realpath(sys.executable))
    commands = [job.command for job in read_folders(tmp_path, CONTEXT).jobs]
    assert commands == [
        (f"{folder}/a_line",),
        ("/bin/sh", f"{folder}/b_text"),
        ("/bin/sh", f"{folder}/c_empty"),
        (f"{folder}/d_program",),
    ]
    done = subprocess.run(commands[1], capture_output=True, check=True, timeout=20)
    assert done.stdout.decode() == f"{folder}/b_text\n"


def test_bytes_that_are_no_text_and_line_breaks_in_names_are_warnings(tmp_path: Path) -> None:
    write(tmp_path / "1day" / "good")
    for name in (
        b"1day/latin-\xe9",
        b"1day/two\nlines",
        b"1day/blank ",
        b"fo\xff",
        b"1day/at0730\n",
        b"1day/\xef\xbf\xbf",
    ):
        path = os.fsencode(tmp_path) + b"/" + name
        if name.startswith(b"1day/") and not name.endswith(b"\n"):
            Path(os.fsdecode(path)).write_text("#!/bin/sh\n")
            Path(os.fsdecode(path)).chmod(0o755)
        else:
            Path(os.fsdecode(path)).mkdir()
    found = read_folders(tmp_path, CONTEXT)
    assert names(found) == ["1day-good"]
    assert messages(found, tmp_path) == [
        "1day/at0730\ufffd: is not a time of day",
        "1day/blank : ends with a blank, which a unit file cannot express",
        "1day/latin-\ufffd: is not UTF-8",
        "1day/two\ufffdlines: holds the character U+000A, which a unit file cannot express",
        "1day/\ufffd: holds the character U+FFFF, which a unit file cannot express",
        "fo\ufffd: does not say how often its scripts run",
    ]


@pytest.mark.parametrize("place", [".", "1day", "1day/at0730", "1day/at0730/x"])
def test_where_others_may_write_nothing_runs_as_root(place: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write(tmp_path / "1day" / "at0730" / "x")
    write(tmp_path / "2day" / "safe")
    for folder in ("1day", "1day/at0730", "2day"):
        (tmp_path / folder).chmod(0o755)
    assert len(read_folders(tmp_path, AS_ROOT).jobs) == 2
    path = tmp_path / place
    path.chmod(0o775)
    found = read_folders(tmp_path, AS_ROOT)
    assert names(found) == ([] if place == "." else ["2day-safe"])
    (problem,) = found.problems
    assert problem.path == str(path)
    uid = os.getuid()
    assert problem.message == (f"belongs to uid {uid} with mode 0775: others may write to it, so they decide what runs")
    assert problem.hint == f"run: chown root: {path} && chmod go-w {path}"
    assert len(read_folders(tmp_path, CONTEXT).jobs) == 2


@pytest.mark.parametrize("place", ["jobs", "jobs/1day", "jobs/1day/x"])
def test_what_belongs_to_another_user_does_not_run_as_root(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "jobs" / "1day" / "x")
    first = place
    if os.getuid() == 0:
        os.chown(tmp_path / place, 12345, 0)
    else:  # who cannot give files away becomes another himself, for whom nothing here is safe
        monkeypatch.setattr("os.getuid", lambda: 4321)
        first = "jobs"
    found = read_folders(tmp_path / "jobs", AS_ROOT)
    assert found.jobs == ()
    assert [problem.path for problem in found.problems] == [str(tmp_path / first)]
    assert f"belongs to uid {(tmp_path / first).stat().st_uid} with mode" in found.problems[0].message


def test_a_link_to_where_others_may_write_does_not_run_as_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    real = write(tmp_path / "open" / "tool")
    linked = write(tmp_path / "jobs" / "1day" / "x").parent / "tool"
    linked.symlink_to(real)
    for folder in ("jobs", "jobs/1day"):
        (tmp_path / folder).chmod(0o755)
    (tmp_path / "open").chmod(0o777)
    found = read_folders(tmp_path / "jobs", AS_ROOT)
    assert names(found) == ["1day-x"]
    assert found.problems[0].path == str(linked)
    assert found.problems[0].message.startswith(f"is in {tmp_path}/open, which belongs to uid ")


READ_AS_NOBODY = """
import os
from pathlib import Path
from sdcron import folders, jobfile
if os.getuid() == 0:
    os.setuid(65534)
found = folders.read_folders(Path(), jobfile.Context())
print(*[job.name for job in found.jobs], *found.problems, sep=chr(10))
"""


def test_folders_that_cannot_be_read_are_warnings() -> None:
    # Root may read everything, so somebody else reads here, who has no way into pytest's own directory.
    with TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        write(directory / "1day" / "good")
        (directory / "2day").mkdir(mode=0)
        folder = write(directory / "3day" / "y").parent
        (folder / "z").symlink_to("y")
        folder.chmod(0o444)
        done = subprocess.run(
            [sys.executable, "-c", READ_AS_NOBODY],
            cwd=directory,
            env={"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=False,
            timeout=60,
        )
        for closed in ("2day", "3day"):
            (directory / closed).chmod(0o755)
    assert done.stderr.decode() == ""
    assert done.stdout.decode().splitlines() == [
        "1day-good",
        "2day: cannot be read: Permission denied",
        "3day/y: cannot be read: Permission denied",
        "3day/z: cannot be read: Permission denied",
    ]


@pytest.mark.parametrize(("name", "message"), [("none", "does not exist"), ("file", "is not a directory")])
def test_a_directory_that_is_none_is_an_error_of_usage(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"{name} {message}") as raised:
        read_folders(tmp_path / name, CONTEXT)
    assert raised.value.hint == "give a directory of folders such as 5min and 1day"


def test_a_directory_that_is_a_loop_of_links_is_an_error_of_usage(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop cannot be read: Too many levels of symbolic links"):
        read_folders(tmp_path / "loop", CONTEXT)


def test_paths_of_jobs_are_absolute_and_problems_are_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "jobs" / "1day" / "x")
    write(tmp_path / "jobs" / "bad" / "x")
    (tmp_path / "link").symlink_to("jobs")
    monkeypatch.chdir(tmp_path)
    found = read_folders(Path("link"), CONTEXT)
    assert found.jobs[0].source.path == found.jobs[0].command[0] == f"{tmp_path.resolve()}/jobs/1day/x"
    assert found.jobs[0].source.shown == "link/1day/x"
    assert found.problems[0].path == "link/bad"


def test_an_unknown_time_zone_is_a_warning_for_each_folder(tmp_path: Path) -> None:
    write(tmp_path / "1day" / "x")
    write(tmp_path / "1day" / "at0730" / "x")
    found = read_folders(tmp_path, Context(local_timezone="Mars/Olympus"))
    assert found.jobs == ()
    assert messages(found, tmp_path) == [
        "1day/at0730: has no schedule: unknown time zone 'Mars/Olympus'",
        "1day: has no schedule: unknown time zone 'Mars/Olympus'",
    ]


NAMES = st.one_of(
    st.from_regex(r"[0-9]{1,4}(min|hour|day|week)s?", fullmatch=True),
    st.from_regex(r"at[0-9]{3,5}", fullmatch=True),
    st.text(string.ascii_letters + string.digits + "-_.~ #\n\t\x1b$%\"'\\", min_size=1, max_size=20),
    st.binary(min_size=1, max_size=20).map(os.fsdecode),
    st.text(min_size=1, max_size=20),
).filter(lambda name: name not in {".", ".."} and "/" not in name and "\0" not in name)


@settings(deadline=None, max_examples=300)
@given(NAMES, NAMES)
@example("1day", "at0730")
@example("9" * 300 + "day", "at0000")
def test_no_folder_name_makes_reading_it_fail_otherwise_than_by_refusal(every: str, at: str) -> None:
    try:
        times = folder_times(every, at)
    except RefusedValueError as error:
        assert error.message
        assert error.hint
    else:
        schedule = parse_schedule(times.texts, timezone=times.timezone)
        assert schedule.next_after(START) is not None


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, st.integers(1, 3)), max_size=6))
def test_no_names_of_files_make_reading_fail_and_all_job_names_are_sound(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[str, str, str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("tree")
    for *parts, depth in tree:
        try:
            write(directory.joinpath(*[os.fsdecode(os.fsencode(part)[:255]) for part in parts[:depth]]))
        except OSError:  # a file is where a folder should be, or no file system takes the name
            continue
    found = read_folders(directory, CONTEXT)
    assert len(set(names(found))) == len(found.jobs)
    assert all(is_job_name(name) for name in names(found))
    assert all(problem.message and problem.hint and str(problem).isprintable() for problem in found.problems)
    for job in found.jobs:
        assert job_of(text_of(job, str(directory)), local_timezone="Europe/Berlin", seed="") == job
        compile_job(job, directory=str(directory), scope=Scope.SYSTEM, state_dir="/s")
    assert read_folders(directory, CONTEXT) == found
