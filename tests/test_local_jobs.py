"""What is applied to the engine: one file that is there whole or not at all, and since when times in it count."""

from __future__ import annotations

import errno
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.errors import SdcronError
from sdcron.files import leftovers
from sdcron.job import Job, Missed, Output, Retry, Source
from sdcron.job_text import text_of
from sdcron.local_jobs import (
    LocalJob,
    carried_out,
    compile_local,
    local_job_of,
    read_local,
    schedule_of,
    text_name,
    write_local,
)
from sdcron.plan import Known, make_plan, removal_plan
from sdcron.schedule import parse_schedule
from tests.compiled import paths_below
from tests.faults import Killed, Power, Trap, armed

if TYPE_CHECKING:
    from sdcron.paths import Paths

DIRECTORY = "/etc/sdcron/jobs"
NOW = 1_800_000_000_000_000


def a_job(name: str = "job", text: str | None = "0 3 * * *", **keys: Any) -> Job:
    keys.setdefault("command", ("true",))
    return Job(name, Source(f"{DIRECTORY}/{name}.yaml"), schedule=parse_schedule(text) if text else None, **keys)


def stored(job: Job, since_us: int = NOW) -> LocalJob:
    return LocalJob(job.name, DIRECTORY, job.source.path, since_us, text_of(job, DIRECTORY))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return paths_below(tmp_path)


# The file


def test_what_was_written_is_read(paths: Paths) -> None:
    jobs = [stored(a_job("b")), stored(a_job("a", None, description="Ünïcödé \u2028 text"), 0), stored(a_job("c"), 7)]
    write_local(paths, jobs)
    found = read_local(paths)
    assert list(found) == ["a", "b", "c"]
    assert sorted(found.values(), key=lambda job: job.name) == sorted(jobs, key=lambda job: job.name)


def test_without_a_file_nothing_is_applied(paths: Paths) -> None:
    assert read_local(paths) == {}
    write_local(paths, [])
    assert read_local(paths) == {}


def test_only_the_owner_and_his_group_may_read_what_jobs_are_called_with(paths: Paths) -> None:
    write_local(paths, [stored(a_job())])
    assert paths.local_jobs_file.stat().st_mode & 0o777 == 0o640


names = st.text(st.characters(), min_size=1, max_size=20)


@given(names, names, names, st.integers(0, 1 << 53))
def test_no_text_whatever_is_in_it_breaks_the_file(
    tmp_path_factory: pytest.TempPathFactory, name: str, source: str, text: str, since_us: int
) -> None:
    """Also bytes that are no UTF-8, as a path may hold them, and characters that end a line somewhere."""
    paths = paths_below(tmp_path_factory.mktemp("root"))
    job = LocalJob(name, f"/d/{source}", f"/d/{source}/\udcff\u2028.yaml", since_us, text)
    other = LocalJob("other", "/d", "/d/x.yaml", 1, "text")
    write_local(paths, [job, other])
    assert read_local(paths)[name] == (other if name == "other" else job) or name == "other"
    assert len(paths.local_jobs_file.read_bytes().splitlines()) == 3


HEAD = '{"sdcron_jobs": 1}\n'
GOOD = '["a", "/d", "/d/a.yaml", 5, "text"]\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged: it is empty"),
        ("\n", "is damaged in line 1"),
        ("{}\n", "was written by another version of sdcron"),
        ('{"sdcron_jobs": 2}\n', "was written by another version of sdcron"),
        ("[]\n", "was written by another version of sdcron"),
        (GOOD, "was written by another version of sdcron"),
        (HEAD + "\n", "is damaged in line 2"),
        (HEAD + GOOD + GOOD[:20], "is damaged in line 3"),
        (HEAD + "null\n", "is damaged in line 2"),
        (HEAD + "[]\n", "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", 5]\n', "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", "5", "text"]\n', "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", 5.0, "text"]\n', "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", true, "text"]\n', "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", -1, "text"]\n', "is damaged in line 2"),
        (HEAD + f'["a", "/d", "/d/a.yaml", {10**30}, "text"]\n', "is damaged in line 2"),
        (HEAD + '[["a"], "/d", "/d/a.yaml", 5, "text"]\n', "is damaged in line 2"),
        (HEAD + '["a", null, "/d/a.yaml", 5, "text"]\n', "is damaged in line 2"),
        (HEAD + '["a", "/d", "/d/a.yaml", 5, {}]\n', "is damaged in line 2"),
        (HEAD + "[" * 100_000 + "\n", "is damaged in line 2"),
        ("[" * 100_000 + "\n", "is damaged in line 1"),
    ],
)
def test_a_damaged_file_says_where_and_what_to_do(paths: Paths, content: str, message: str) -> None:
    paths.local_jobs_file.parent.mkdir(parents=True)
    paths.local_jobs_file.write_text(content)
    with pytest.raises(SdcronError) as caught:
        read_local(paths)
    file = paths.local_jobs_file
    assert caught.value.message == f"{file} {message}"
    assert caught.value.hint == f"move it away and apply the job files again: mv {file} {file}.damaged"


def test_a_file_that_is_no_text_says_so(paths: Paths) -> None:
    paths.local_jobs_file.parent.mkdir(parents=True)
    paths.local_jobs_file.write_bytes(HEAD.encode() + b"\xff\n")
    with pytest.raises(SdcronError, match="cannot be read"):
        read_local(paths)


def test_a_directory_in_the_way_says_so(paths: Paths) -> None:
    paths.local_jobs_file.mkdir(parents=True)
    with pytest.raises(SdcronError, match="cannot be read"):
        read_local(paths)


def test_who_may_not_read_it_is_told_so(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    write_local(paths, [stored(a_job())])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SdcronError, match="no permission to read") as caught:
        read_local(paths)
    assert "sudo" in caught.value.hint


def test_a_write_that_is_killed_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    before, after = [stored(a_job("a"))], [stored(a_job("b")), stored(a_job("c"))]

    def steps(root: Path) -> int:
        paths = paths_below(root)
        write_local(paths, before)
        with armed(Trap([root])) as trap:
            write_local(paths, after)
        return len(trap.steps)

    count = steps(tmp_path / "whole")
    assert count >= 3
    seen = set()
    for step in range(1, count + 1):
        root = tmp_path / str(step)
        paths = paths_below(root)
        write_local(paths, before)
        power = Power([root], step)
        with armed(power.trap), pytest.raises(Killed):
            write_local(paths, after)
        seen.add(tuple(read_local(paths)))
        for left in leftovers(paths.local_jobs_file.parent):
            left.unlink()
        write_local(paths, after)
        assert list(read_local(paths)) == ["b", "c"]
    assert seen <= {("a",), ("b", "c")}
    assert ("a",) in seen


def test_a_disk_that_is_full_leaves_what_was_applied(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    write_local(paths, [stored(a_job("a"))])

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_local(paths, [stored(a_job("b"))])
    assert list(read_local(paths)) == ["a"]
    assert leftovers(paths.local_jobs_file.parent) == []


# Since when times count


def applied(jobs: dict[str, LocalJob], *desired: Job, now_us: int) -> dict[str, LocalJob]:
    compiled = [compile_local(job, DIRECTORY) for job in desired]
    plan = make_plan(compiled, Known(jobs), None, directories={DIRECTORY})
    return carried_out(plan, jobs, now_us)


def test_a_new_jobs_times_count_from_when_it_is_applied() -> None:
    assert applied({}, a_job(), now_us=5) == {"job": stored(a_job(), 5)}


def test_a_change_of_anything_but_its_times_leaves_them() -> None:
    jobs = {"job": stored(a_job(), 5)}
    changed = a_job(command=("false",), description="new", timeout=timedelta(seconds=5))
    assert applied(jobs, changed, now_us=9) == {"job": stored(changed, 5)}


@pytest.mark.parametrize(
    "keys",
    [
        {"text": "0 4 * * *"},
        {"text": None},
        {"timezone": "Europe/Berlin"},
        {"spread": timedelta(minutes=5)},
        {"enabled": False},
        {"missed": Missed.SKIP},
    ],
)
def test_times_that_change_count_from_the_change(keys: dict[str, Any]) -> None:
    jobs = {"job": stored(a_job(), 5)}
    changed = a_job(**keys)
    assert applied(jobs, changed, now_us=9) == {"job": stored(changed, 9)}
    again = applied({"job": stored(changed, 9)}, a_job(), now_us=12)
    assert again["job"].since_us == 12


def test_an_apply_of_the_same_changes_nothing() -> None:
    jobs = {"job": stored(a_job(), 5)}
    assert applied(jobs, a_job(), now_us=9) == jobs


def test_a_job_that_was_removed_and_comes_back_counts_anew() -> None:
    jobs = {"a": stored(a_job("a"), 5), "b": stored(a_job("b"), 5)}
    without = carried_out(removal_plan(["a"], Known(jobs)), jobs, 7)
    assert list(without) == ["b"]
    assert applied(without, a_job("a"), a_job("b"), now_us=9)["a"].since_us == 9


def test_a_job_that_moves_to_another_file_keeps_its_times() -> None:
    jobs = {"job": stored(a_job(), 5)}
    moved = Job("job", Source(f"{DIRECTORY}/other.yaml"), command=("true",), schedule=parse_schedule("0 3 * * *"))
    found = applied(jobs, moved, now_us=9)["job"]
    assert (found.since_us, found.source) == (5, f"{DIRECTORY}/other.yaml")


def test_what_is_stored_of_another_version_can_be_applied_over() -> None:
    text = json.dumps({**json.loads(text_of(a_job(), DIRECTORY)), "format": 99})
    jobs = {"job": LocalJob("job", DIRECTORY, f"{DIRECTORY}/job.yaml", 5, text)}
    assert applied(jobs, a_job(), now_us=9) == {"job": stored(a_job(), 9)}


# What it answers


def test_an_applied_job_answers_as_one_in_units() -> None:
    job = a_job(
        text="*/5 * * * *",
        description="Two\nlines  of it",
        timezone="Europe/Berlin",
        user="backup",
        timeout=timedelta(minutes=5),
        spread=timedelta(minutes=2),
        missed=Missed.SKIP,
        retry=Retry(timedelta(minutes=1), attempts=3, backoff=2, on_exit=(1, 2)),
        output=Output(redact=("secret",)),
    )
    found = stored(job)
    assert found.units == {text_name("job"): found.text}
    assert (found.unit_names, found.script, found.enabled) == ((), None, frozenset())
    assert (found.active, found.persistent) == (True, False)
    assert (found.schedule, found.timezone, found.spread) == (("*/5 * * * *",), "Europe/Berlin", timedelta(minutes=2))
    assert (found.description, found.user, found.time_limit) == ("Two lines of it", "backup", "5min")
    assert found.retry_delays == (timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4))
    assert found.retry_on_exit == (1, 2)
    assert found.redact == ("secret",)
    assert found.calendar_timers == ("sdcron-job.timer",)
    assert len(found.digest) == 64
    assert found.same_files(compile_local(job, DIRECTORY))
    assert local_job_of(found, "UTC", "seed").command == ("true",)


def test_the_least_job_answers_with_defaults() -> None:
    found = stored(a_job(text=None))
    assert (found.schedule, found.timezone, found.spread, found.calendar_timers) == ((), None, timedelta(0), ())
    assert (found.active, found.persistent, found.retry_delays, found.retry_on_exit) == (True, True, (), ())
    assert (found.description, found.user, found.time_limit, found.redact) == ("", None, None, ())


def test_a_job_that_is_disabled_waits_for_no_retry_and_one_that_only_boots_for_no_time() -> None:
    disabled = stored(a_job(enabled=False, retry=Retry(timedelta(minutes=1))))
    assert (disabled.active, disabled.retry_delays) == (False, ())
    assert stored(a_job(text="@reboot")).calendar_timers == ()
    one = stored(a_job(retry=Retry(timedelta(minutes=1), on_exit=(7,), max_delay=timedelta(seconds=30))))
    assert one.retry_on_exit == (7,)
    assert one.retry_delays == (timedelta(seconds=30),) * 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"', "{}", '{"format": 99}'])
def test_a_damaged_text_answers_with_defaults_and_is_no_job(text: str) -> None:
    found = LocalJob("job", DIRECTORY, f"{DIRECTORY}/job.yaml", 5, text)
    assert (found.schedule, found.active, found.description, found.retry_delays) == ((), True, "", ())
    assert (found.spread, found.redact, found.calendar_timers, found.retry_on_exit) == (timedelta(0), (), (), ())
    with pytest.raises(ValueError, match=r"not the text of a job|Expecting"):
        local_job_of(found, "UTC", "seed")
    with pytest.raises(ValueError, match=r"not the text of a job|Expecting"):
        _ = found.timing


def test_schedules_that_depend_on_nothing_else_are_shared_and_others_are_each_jobs_own() -> None:
    def of(text: str | None, seed: str, **keys: Any) -> object:
        return schedule_of(stored(a_job(text=text, **keys)).timing, "UTC", seed)

    assert of(None, "a") is None
    assert of("0 3 * * *", "a") is of("0 3 * * *", "b")
    assert of("H 3 * * *", "a") != of("H 3 * * *", "b")
    spread = timedelta(hours=1)
    assert of("0 3 * * *", "a", spread=spread) != of("0 3 * * *", "b", spread=spread)
