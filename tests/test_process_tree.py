"""Who belongs to a run, and that nobody of it gets away. Real processes, and all of them are gone afterwards."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import textwrap
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sdcron import process_tree
from sdcron.process import Command, reap, start
from sdcron.process_tree import (
    Process,
    become_reaper,
    kill_all,
    kill_survivors,
    members,
    members_of,
    signal_all,
    strays,
)
from tests.apart import apart, children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
#: Forks twice into a session of its own and says its number: a daemon as they are made.
DAEMON = textwrap.dedent("""
    import os, sys, time
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(100)
""")


def run(*argv: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The number of the main process of a new run, and the run's id."""
    name = uuid.uuid4().hex
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        what = Command(argv, {**ENVIRONMENT, "INVOCATION_ID": name, **(environment or {})})
        return start(what, null, null), name
    finally:
        os.close(null)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def reaped(pid: int) -> bool:
    """Whether it has been reaped by now; others are too."""
    list(reap())
    return pid not in children()


def numbers(processes: set[Process]) -> set[int]:
    return {process.pid for process in processes}


def daemon(tmp_path: Path, *prefix: str) -> tuple[int, str, int]:
    """A run that leaves a daemon behind: its main process, which has ended, its id, and the daemon."""
    main, name = run(*prefix, sys.executable, "-c", DAEMON, str(tmp_path / "daemon"))
    until(lambda: (tmp_path / "daemon").exists() and reaped(main))
    pid = int((tmp_path / "daemon").read_text())
    (tmp_path / "daemon").unlink()
    return main, name, pid


def end(main: int, name: str) -> None:
    """Kill a run, and reap it."""
    kill_all(main, name)
    until(lambda: list(reap()) or not members(main, name))
    until(lambda: not list(reap()) and not members(main, name))


@pytest.fixture(params=["lists", "table"])
def view(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's lists of children, and as in a strict snap, which may only read what each process is."""
    if request.param == "table":
        read = process_tree._read

        def confined(path: str) -> bytes | None:
            return None if path.endswith(("/children", "/environ")) else read(path)

        monkeypatch.setattr(process_tree, "_read", confined)
    return str(request.param)


# Who is one


@apart
def test_a_run_is_its_main_process_and_all_that_descend_from_it(view: str) -> None:
    main, name = run("sh", "-c", "sleep 100 & (sleep 100; :) & setsid sleep 100 & wait")
    other, other_name = run("sleep", "100")
    running = {main: name, other: other_name}
    until(lambda: len(members(main, name, running)) == 5)
    found = members(main, name, running)
    assert main in numbers(found)
    assert all(process.session == main for process in found if process.pid == main)
    assert numbers(members(other, other_name, running)) == {other}
    both = {name: main, other_name: other}
    assert members_of(both, running) == {name: found, other_name: members(other, other_name)}
    assert members(main, name) == found
    end(main, name)
    end(other, other_name)


@apart
def test_children_of_another_thread_than_the_first_are_found() -> None:
    script = """
        import subprocess, threading, time
        threading.Thread(target=lambda: subprocess.run(["sleep", "100"])).start()
        time.sleep(100)
    """
    main, name = run(sys.executable, "-c", textwrap.dedent(script))
    until(lambda: len(members(main, name)) == 2)
    end(main, name)


@apart
def test_a_program_whose_first_thread_has_ended_still_lives() -> None:
    script = """
        import ctypes, threading, time
        threading.Thread(target=lambda: time.sleep(100)).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    main, name = run(sys.executable, "-c", textwrap.dedent(script))
    until(lambda: b") Z " in (process_tree._read(f"/proc/{main}/stat") or b""))
    assert list(reap()) == []
    assert numbers(members(main, name, {main: name})) == {main}
    end(main, name)


@apart
def test_when_the_main_process_has_left_nobody_one_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    others = dict(run("sleep", "100") for _ in range(5))
    main, name = run("true")
    until(lambda: reaped(main))
    asked: list[str] = []
    read = process_tree._read

    def counted(path: str) -> bytes | None:
        asked.append(path)
        return read(path)

    monkeypatch.setattr(process_tree, "_read", counted)
    assert members(main, name, others) == set()
    assert asked == [f"/proc/{os.getpid()}/task/{os.getpid()}/children"]
    for pid, run_id in others.items():
        end(pid, run_id)


@apart
def test_who_is_left_in_the_background_is_found_by_the_session(view: str) -> None:
    main, name = run("sh", "-c", "env -i /bin/sleep 100 & exit 0")
    until(lambda: reaped(main))
    until(lambda: len(members(main, name)) == 1)
    [process] = members(main, name)
    assert (process.session, process.parent) == (main, os.getpid())
    end(main, name)


@apart
def test_a_daemon_that_forked_twice_is_found_by_its_environment_with_its_children(tmp_path: Path) -> None:
    main, name, pid = daemon(tmp_path)
    other, other_name = run("sleep", "100")
    assert numbers(members(main, name, {other: other_name})) == {pid}
    assert numbers(members(main, name)) == {pid}
    # What runs beside it, or has got the number of its main process since, is not of it.
    assert numbers(members(other, name, {other: other_name})) == {pid}
    assert numbers(members(other, other_name, {other: other_name})) == {other}
    end(main, name)
    end(other, other_name)


@apart
def test_whoever_belongs_to_nobody_is_a_stray(tmp_path: Path) -> None:
    main, name, pid = daemon(tmp_path, "env", "-i")
    other, other_name = run("sh", "-c", "setsid sleep 100 & wait")
    until(lambda: len(members(other, other_name)) == 2)
    assert members(main, name) == set()
    runs, running = {other_name: other}, {other: other_name}
    assert numbers(strays(runs, running)) == {pid}
    signal_all(strays(runs, running), signal.SIGKILL)
    until(lambda: reaped(pid))
    end(other, other_name)
    assert strays({}, {}) == set()


@apart
def test_the_dead_are_not_members() -> None:
    main, name = run("sh", "-c", "true & exec sleep 100")
    until(lambda: numbers(members(main, name)) == {main})
    os.kill(main, signal.SIGKILL)
    until(lambda: not members(main, name, {main: name}))
    assert main in children()
    assert reaped(main)


@apart
def test_where_orphans_go_elsewhere_all_processes_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, name, pid = daemon(tmp_path)
    other, other_name = run("sh", "-c", "sleep 100 & wait")
    until(lambda: len(members(other, other_name)) == 2)
    with monkeypatch.context() as patch:
        patch.setattr(process_tree, "_reaper", False)
        assert numbers(members(main, name, {other: other_name})) == {pid}
        assert len(members(other, other_name, {other: other_name})) == 2
        assert members(other, name, {other: other_name}) == members(main, name)
        kill_all(main, name)
        kill_all(other, other_name, {other: other_name})
        until(lambda: not members(main, name) and not members(other, other_name))
    end(main, name)
    end(other, other_name)


@apart
def test_to_become_the_reaper_twice_is_no_harm() -> None:
    assert become_reaper()
    assert become_reaper()


# Signals


@apart
def test_a_signal_reaches_each_of_them_but_not_one_that_has_the_number_of_one_that_is_gone(view: str) -> None:
    main, name = run("sh", "-c", "sleep 100 & sleep 100 & wait")
    until(lambda: len(members(main, name)) == 3)
    found = members(main, name)
    signal_all({replace(process, started=process.started - 1) for process in found}, signal.SIGKILL)
    time.sleep(0.05)
    assert members(main, name) == found
    signal_all(found, signal.SIGTERM)
    until(lambda: reaped(main) and not members(main, name))
    signal_all(found, signal.SIGTERM)


@apart
@pytest.mark.parametrize("refusal", [OSError(24, "too many open files"), PermissionError(1, "refused")])
def test_without_a_descriptor_for_a_process_it_is_signalled_by_number(
    monkeypatch: pytest.MonkeyPatch, refusal: OSError
) -> None:
    def refused(_: int) -> int:
        raise refusal

    monkeypatch.setattr(os, "pidfd_open", refused)
    main, name = run("sleep", "100")
    signal_all(members(main, name), signal.SIGTERM)
    until(lambda: reaped(main))


@apart
def test_whoever_does_not_hear_sigterm_is_killed_all_the_same(view: str) -> None:
    main, name = run("sh", "-c", 'trap "" TERM; (trap "" TERM; while :; do sleep 1; done) & while :; do sleep 1; done')
    until(lambda: len(members(main, name)) == 4)
    signal_all({process for process in members(main, name) if process.pid == main}, signal.SIGTERM)
    assert main in numbers(members(main, name))
    signal_all(members(main, name), signal.SIGSTOP)
    left = kill_all(main, name, {main: name})
    assert main in numbers(left) | {main}
    until(lambda: reaped(main) and not members(main, name))


BOMB = """
    import os, sys, time
    born = time.monotonic()
    kind, most = sys.argv[1], int(sys.argv[2])
    deadline = born + 20
    while time.monotonic() < deadline:
        try:
            pid = os.fork()
        except OSError:
            continue
        if kind == "chain" and pid: os._exit(0)
        if kind == "chain": os.setsid()
        if kind == "fan" and pid == 0:
            time.sleep(20)
            os._exit(0)
        if kind == "tree" and pid == 0 and most <= 1:
            time.sleep(20)
            os._exit(0)
        most -= 1
        if kind != "chain" and most <= 0: time.sleep(20)
"""


@apart
@pytest.mark.parametrize(("kind", "most"), [("chain", 0), ("fan", 300), ("tree", 7)])
def test_who_forks_while_being_killed_does_not_get_away(view: str, kind: str, most: int) -> None:
    if (kind, view) == ("chain", "table"):
        # Each is in a session of its own, and nobody may read whose it is.
        return
    main, name = run(sys.executable, "-c", textwrap.dedent(BOMB), kind, str(most))
    time.sleep(0.2)
    running = {main: name}

    def is_gone() -> bool:
        # The dead must be reaped now and then: they are looked at too.
        kill_all(main, name, running)
        for one in reap():
            running.pop(one.pid, None)
        return not members(main, name, running)

    until(is_gone)
    until(lambda: not list(reap()) and not children())
    assert members(main, name) == set()


@apart
def test_whoever_is_too_fast_to_be_seen_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each time it is another that has ended already.
    beyond = itertools.count(2**22)
    monkeypatch.setattr(process_tree, "_view", lambda: (process_tree._Lists(), [next(beyond)]))
    found = members(1, "0" * 32)
    assert len(found) == 1
    signal_all(found, signal.SIGKILL)
    assert kill_all(1, "0" * 32) == set()
    assert next(beyond) - 2**22 < 200


@apart
def test_orphans_are_reaped() -> None:
    runs = [run("sh", "-c", "(sleep 0.05 &) ; (setsid sleep 0.05 &) ; exit 0") for _ in range(50)]
    until(lambda: not list(reap()) and not children())
    assert members_of({name: main for main, name in runs}, {}) == {name: set() for _, name in runs}


# After a death of the engine


@apart
def test_survivors_of_a_killed_engine_are_killed_by_their_environment_and_nobody_else(tmp_path: Path) -> None:
    main, name, pid = daemon(tmp_path)
    other, other_name = run("sh", "-c", "env -i /bin/sleep 100 & wait")
    until(lambda: len(members(other, other_name)) == 2)
    gone, gone_name = run("true")
    until(lambda: reaped(gone))
    own, own_name = run("sleep", "100")
    assert kill_survivors([]) == set()
    kill_survivors([name, other_name, gone_name, uuid.uuid4().hex])
    until(lambda: reaped(pid) and reaped(other) and reaped(main) and children() == [own])
    assert numbers(members(own, own_name)) == {own}
    end(own, own_name)


@apart
def test_an_engine_does_not_take_itself_for_a_survivor() -> None:
    # As one that was started with the environment of a run.
    main, name = run("sleep", "100")
    marked = process_tree._named_run

    def with_own(pid: int) -> str | None:
        return name if pid == os.getpid() else marked(pid)

    process_tree._named_run = with_own
    kill_survivors([name])
    until(lambda: reaped(main) and not children())
