"""What apply and remove do where the engine runs the jobs: all or nothing, no job twice, and the engine is told."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.engine_socket import listening
from sdcron.errors import JobFileError
from sdcron.files import STAGE_PREFIX
from sdcron.job import Directive, Job, Passthrough, Source
from sdcron.local_jobs import compile_local, read_local, write_local
from sdcron.local_operations import (
    LocalApplier,
    applied_to_systemd,
    check_possible,
    compile_all,
    known_jobs,
    problems_of,
    remove_nothing_else,
    systemd_names,
    tell_engine,
)
from sdcron.paths import system_paths, user_paths
from sdcron.plan import Plan, make_plan, removal_plan
from sdcron.schedule import parse_schedule
from tests.faults import Killed, Power, Trap, armed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdcron.paths import Paths

DIRECTORY = "/etc/sdcron/jobs"


def a_job(name: str = "job", **keys: Any) -> Job:
    keys.setdefault("command", ("true",))
    source = Source(f"{DIRECTORY}/{name}.yaml", shown=f"{name}.yaml")
    return Job(name, source, schedule=parse_schedule("0 3 * * *"), **keys)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return system_paths(tmp_path).of_engine()


def plan_for(paths: Paths, *jobs: Job) -> Plan:
    return make_plan([compile_local(job, DIRECTORY) for job in jobs], known_jobs(paths), None, directories={DIRECTORY})


def test_a_plan_is_carried_out(paths: Paths) -> None:
    applier = LocalApplier(paths)
    applier.carry_out(plan_for(paths, a_job("a"), a_job("b")))
    assert list(read_local(paths)) == ["a", "b"]
    applier.carry_out(plan_for(paths, a_job("b", command=("false",)), a_job("c")))
    assert {name: job.plain["command"] for name, job in read_local(paths).items()} == {"b": ["false"], "c": ["true"]}
    applier.carry_out(removal_plan(["b"], known_jobs(paths)))
    assert list(read_local(paths)) == ["c"]


def test_a_plan_of_nothing_writes_nothing(paths: Paths) -> None:
    LocalApplier(paths).carry_out(plan_for(paths, a_job()))
    with armed(Trap([paths.local_jobs_file.parent])) as trap:
        LocalApplier(paths).carry_out(plan_for(paths, a_job()))
    assert trap.steps == []


def test_an_apply_that_is_killed_at_any_step_is_all_or_nothing_and_the_next_one_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    def prepared(root: Path) -> tuple[Paths, Plan]:
        paths = system_paths(root).of_engine()
        LocalApplier(paths).carry_out(plan_for(paths, a_job("a")))
        return paths, plan_for(paths, a_job("b"), a_job("c"))

    paths, plan = prepared(tmp_path / "whole")
    with armed(Trap([tmp_path / "whole"])) as trap:
        LocalApplier(paths).carry_out(plan)
    found = set()
    for step in range(1, len(trap.steps) + 1):
        root = tmp_path / f"{step}"
        paths, plan = prepared(root)
        with armed(Power([root], step).trap), pytest.raises(Killed):
            LocalApplier(paths).carry_out(plan)
        found.add(tuple(read_local(paths)))
        applier = LocalApplier(paths)
        applier.recover()
        assert [path.name for path in paths.local_jobs_file.parent.iterdir()] == ["jobs"]
        applier.carry_out(plan_for(paths, a_job("b"), a_job("c")))
        assert list(read_local(paths)) == ["b", "c"]
    assert found <= {("a",), ("b", "c")}


def test_a_full_disk_leaves_what_was_applied(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalApplier(paths).carry_out(plan_for(paths, a_job("a")))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plan = plan_for(paths, a_job("b"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            LocalApplier(paths).carry_out(plan)
    assert list(read_local(paths)) == ["a"]


def test_what_a_killed_apply_left_is_removed_where_there_is_something(paths: Paths) -> None:
    LocalApplier(paths).recover()
    write_local(paths, [])
    left = paths.local_jobs_file.with_name(f"{STAGE_PREFIX}jobs")
    left.write_text("half")
    LocalApplier(paths).recover()
    assert not left.exists()
    assert read_local(paths) == {}


def test_without_jobs_the_file_goes_and_a_damaged_one_stays(paths: Paths) -> None:
    remove_nothing_else(paths)
    LocalApplier(paths).carry_out(plan_for(paths, a_job()))
    remove_nothing_else(paths)
    assert paths.local_jobs_file.exists()
    LocalApplier(paths).carry_out(removal_plan(["job"], known_jobs(paths)))
    remove_nothing_else(paths)
    assert not paths.local_jobs_file.exists()
    paths.local_jobs_file.write_text("damaged")
    remove_nothing_else(paths)
    assert paths.local_jobs_file.read_text() == "damaged"


def test_a_job_that_systemd_runs_is_refused_and_how_to_change_that_is_said(paths: Paths) -> None:
    jobs = [compile_local(a_job("a"), DIRECTORY), compile_local(a_job("b"), DIRECTORY)]
    assert applied_to_systemd(paths, jobs) == ()
    assert systemd_names(paths) == frozenset()
    paths.unit_dir.mkdir(parents=True)
    for name in ("sdcron-b.service", "sdcron-b.timer", "other.service", "sdcron-a-longer.service"):
        (paths.unit_dir / name).write_text("")
    [problem] = applied_to_systemd(paths, jobs)
    assert problem.message == "job b is applied already to systemd, and would run twice"
    assert problem.hint == "rename one of the two, or first: sdcron remove --backend systemd b"
    assert problem.path == f"{DIRECTORY}/b.yaml"
    assert "other.service" not in systemd_names(paths)


def test_for_a_users_jobs_the_hint_names_the_users_scope(tmp_path: Path) -> None:
    paths = user_paths({"HOME": "/home/u"}, 1000, tmp_path).of_engine()
    paths.unit_dir.mkdir(parents=True)
    (paths.unit_dir / "sdcron-a.service").write_text("")
    [problem] = applied_to_systemd(paths, [compile_local(a_job("a"), DIRECTORY)])
    assert problem.hint.endswith("sdcron remove --user --backend systemd a")


def test_what_the_engine_cannot_do_is_refused_with_every_reason() -> None:
    jobs = [
        a_job("good"),
        a_job("bad", systemd=Passthrough(service=(Directive("PrivateTmp", "yes"),))),
        a_job("worse", systemd=Passthrough(timer=(Directive("FixedRandomDelay", "yes"),))),
    ]
    problems = problems_of(jobs, user=False)
    assert {problem.path for problem in problems} == {"bad.yaml", "worse.yaml"}
    for refuse in (compile_all, check_possible):
        with pytest.raises(JobFileError) as caught:
            refuse(jobs, user=False)
        assert caught.value.problems == problems
    check_possible(jobs[:1], user=False)
    assert [job.name for job in compile_all(jobs[:1], user=False)] == ["good"]


# The engine


@contextmanager
def engine(paths: Paths, reply: bytes) -> Iterator[list[bytes]]:
    """Somebody who answers once in its place; what he was asked."""
    asked: list[bytes] = []
    with listening(paths.engine_dir) as listener:
        listener.setblocking(True)

        def answer() -> None:
            connection = listener.accept()[0]
            asked.append(connection.recv(1000))
            connection.sendall(reply)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield asked
        thread.join(10)


def test_the_engine_is_told_of_what_is_applied(paths: Paths) -> None:
    notes: list[str] = []
    with engine(paths, b'{"jobs": 1}\n') as asked:
        tell_engine(paths, notes.append)
    assert asked == [b'{"do": "reload"}\n']
    assert notes == []


def test_without_an_engine_it_is_said_that_none_runs(paths: Paths, tmp_path: Path) -> None:
    notes: list[str] = []
    tell_engine(paths, notes.append)
    tell_engine(user_paths({"HOME": "/h"}, 1000, tmp_path).of_engine(), notes.append)
    assert [note.rpartition(": ")[2] for note in notes] == ["sdcron engine", "sdcron engine --user"]


def test_an_engine_that_cannot_take_it_up_says_why_and_the_jobs_are_stored(paths: Paths) -> None:
    notes: list[str] = []
    with engine(paths, b'{"error": "no permission", "hint": "sudo"}\n'):
        tell_engine(paths, notes.append)
    assert notes == ["sdcron: the engine was not told: no permission; sudo"]
