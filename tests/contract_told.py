"""The contract on what runs say of themselves by sdk.py, and on jobs that are functions; see tests/contract.py."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tests.contract import Wait, runs
from tests.contract_jobs import PLACE, sh
from tests.machine import CHECKOUT, CHECKOUT_INSIDE

if TYPE_CHECKING:
    from tests.contract import Steps, World

#: A module of functions that are jobs.
MODULE = """
import os, sys, time
from sdcron.sdk import alarm, current, log, progress

def wait(name):
    while not os.path.exists(os.path.join(os.getcwd(), "counts", name)):
        time.sleep(0.05)

class Work:
    @staticmethod
    def much():
        for number in range(1_000_000):
            progress(number, 1_000_000)
        progress(1_000_000, 1_000_000)
        log.info("%s are done", 1_000_000)
        alarm("the disk\\n is  nearly full")
        print(current().job, current().run_id, sys.prefix)
        wait("much")
        return 3

def fails():
    print("before")
    raise RuntimeError("as it happens")

def ends():
    sys.exit(7)

def fine():
    return True

def takes(days, rate, *, dry, where):
    print([days, rate, dry, where])
"""


def sdk(world: World) -> str:
    """A shell's words for sdcron-job."""
    if world.backend == "systemd":
        return f"python3 {CHECKOUT_INSIDE}/sdcron/sdk.py"
    return f"{sys.executable} {CHECKOUT}/sdcron/sdk.py"


def status_of(world: World, job: str) -> dict[str, Any]:
    """What `sdcron status` says."""
    code, text, words = world.sdcron("status", job, "--json")
    assert code == 0, words
    found: dict[str, Any] = json.loads(text)
    return found


def has_told(world: World, job: str) -> Wait:
    """Its progress is known."""
    return Wait(f"{job} tells of its progress", lambda: status_of(world, job)["progress"] is not None)


def logged(world: World, job: str) -> list[tuple[str, str]]:
    """Streams and texts that `sdcron logs` shows of its last run."""
    lines = [json.loads(line) for line in world.sdcron("logs", job, "--json")[1].splitlines()]
    return [(line["stream"], line["text"]) for line in lines if line["event"] is None]


def write(world: Any, **files: str) -> None:
    """Files in the world's directory; a real one's."""
    world.computer.write_files({f"{world.directory}/{name}": text for name, text in files.items()})


def edit(world: Any, job: str, expression: str) -> tuple[int, str, str]:
    """Change a job's file by sed(1); a real world's."""
    found: tuple[int, str, str] = world.edit(job, expression)
    return found


def watch(world: Any, job: str, gate: str) -> tuple[int, str, str]:
    """What `sdcron status -f` shows on a terminal; the file `gate` is there a moment later. A real world's."""
    found: tuple[int, str, str] = world.watch(job, gate)
    return found


def a_shell_tells_of_its_progress_and_status_shows_it_while_it_runs(world: World) -> Steps:
    job = sdk(world)
    text = (
        f"{job} log warning 'be careful'; {job} alarm 'the  disk is nearly full'; {job} alarm 'secret-1'; "
        f"{job} progress 13 77; {job} current; while [ ! -e {PLACE}/counts/shell-tells ]; do sleep 0.1; done"
    )
    world.apply({"shell-tells": {"command": sh(text), "output": {"redact": ["secret-\\d"]}}})
    world.start("shell-tells")
    yield has_told(world, "shell-tells")
    told = status_of(world, "shell-tells")
    assert (told["state"], [alarm["text"] for alarm in told["alarms"]]) == (
        "running",
        ["the disk is nearly full", "[redacted]"],
    )
    found = told["progress"]
    assert (found["done"], found["total"], found["percent"]) == (13, 77, 16.9)
    assert told["running_since"] < found["at"] < found["ends_at"]
    [row] = [row for row in json.loads(world.sdcron("status", "--json")[1]) if row["job"] == "shell-tells"]
    assert row["progress"] == found
    assert "#---" in world.sdcron("status", "shell-tells")[1]
    write(world, **{"counts/shell-tells": ""})
    yield runs(world, "shell-tells", 1)
    [run] = world.seen["shell-tells"]
    assert [alarm["text"] for alarm in run["alarms"]] == ["the disk is nearly full", "[redacted]"]
    assert run["outcome"] == "success"
    trigger = "" if world.backend == "systemd" else "manual"
    known = f"job=shell-tells\nrun_id={run['run_id']}\nattempt=1\ntrigger={trigger}\nfor=\n"
    assert (run["stdout"], run["stderr"]) == (known, "warning: be careful\n")
    told = status_of(world, "shell-tells")
    assert (told["progress"], told["alarms"], len(told["last_run"]["alarms"])) == (None, [], 2)
    lines = logged(world, "shell-tells")
    assert [text for stream, text in lines if stream == "sdcron"] == [
        "alarm: the disk is nearly full",
        "alarm: [redacted]",
    ]
    assert ("stderr", "warning: be careful") in lines
    assert not any("progress" in text for _, text in lines)


def a_function_is_a_job_in_its_own_environment(world: Any) -> Steps:
    write(world, **{"told_work.py": MODULE})
    python = "python3" if world.backend == "systemd" else sys.executable
    world.computer.run([python, "-m", "venv", "--without-pip", f"{world.directory}/told-venv"])
    world.computer.run(["chmod", "-R", "a+rX", f"{world.directory}/told-venv"])
    job = {"directory": PLACE, "interpreter": {"venv": f"{PLACE}/told-venv"}}
    names = {
        "much": "Work.much",
        "fails": "fails",
        "ends": "ends",
        "fine": "fine",
        "missing": "missing",
        "takes": "takes",
    }
    jobs = {f"function-{name}": {**job, "command": f"python:told_work:{path}"} for name, path in names.items()}
    jobs["function-takes"]["parameters"] = {"days": 7, "rate": 0.5, "dry": False, "where": "a {days} b"}
    world.apply(jobs)
    world.start(*jobs)
    yield Wait("all is done", lambda: (status_of(world, "function-much")["progress"] or {}).get("percent") == 100)
    write(world, **{"counts/much": ""})
    for name in names:
        yield runs(world, f"function-{name}", 1)
    [much], [fails], [ends], [fine], [missing], [takes] = (world.seen[f"function-{name}"] for name in names)
    assert (much["outcome"], much["exit_code"]) == ("failure", 3)
    assert much["stdout"] == f"function-much {much['run_id']} {world.directory}/told-venv\n"
    assert much["stderr"] == "info: 1000000 are done\n"
    assert [alarm["text"] for alarm in much["alarms"]] == ["the disk is nearly full"]
    assert (fails["exit_code"], fails["stdout"]) == (1, "before\n")
    assert fails["stderr"].startswith("Traceback")
    assert fails["stderr"].endswith("RuntimeError: as it happens\n")
    assert "function_runner" not in fails["stderr"]
    assert (ends["exit_code"], fine["outcome"], missing["exit_code"]) == (7, "success", 1)
    assert "has no attribute 'missing'" in missing["stderr"]
    assert (takes["stdout"], takes["stderr"]) == ("[7, 0.5, False, 'a {days} b']\n", "")
    given = ("days=8", "dry=true", "where=it's")
    assert world.sdcron("run", "function-takes", *given, "--wait")[:2] == (0, '[8, 0.5, True, "it\'s"]\n')
    if world.backend == "systemd":
        match = "SDCRON_RUN_ID=" + much["run_id"]
        count = len(world.machine.journal(match))
        assert 2 <= count <= 20, count


def a_run_speaks_of_itself_alone(world: Any) -> Steps:
    world.apply({"spoken-of": {"command": sh(f"while [ ! -e {PLACE}/counts/spoken-of ]; do sleep 0.1; done")}})
    world.start("spoken-of")
    yield Wait("it runs", lambda: status_of(world, "spoken-of")["running_id"] is not None)
    run_id = status_of(world, "spoken-of")["running_id"]
    as_another = f"INVOCATION_ID={run_id} SDCRON_RUN_ID={run_id} SDCRON_JOB=spoken-of {sdk(world)}"
    text = f"for i in 1 2 3; do {as_another} progress $i 9; {as_another} alarm forged; done; {sdk(world)} alarm own"
    world.apply({"speaks": {"command": sh(text)}})
    world.start("speaks")
    yield runs(world, "speaks", 1)
    told = status_of(world, "spoken-of")
    assert (told["running_id"], told["progress"], told["alarms"]) == (run_id, None, [])
    assert "own" in [alarm["text"] for alarm in world.seen["speaks"][0]["alarms"]]
    write(world, **{"counts/spoken-of": ""})
    yield runs(world, "spoken-of", 1)
    assert world.seen["spoken-of"][0]["alarms"] == []


def a_run_knows_how_manieth_attempt_it_is(world: World) -> Steps:
    job = sdk(world)
    asks = f"{job} current attempt; {job} current trigger; exit 1"
    world.apply(
        {
            "asks-retried": {"retry": {"delay": "500ms", "attempts": 2}, "command": sh(asks)},
            "asks-again": {"retry": {"delay": "1h", "attempts": 2}, "command": sh(asks)},
            "asks-for": {"command": sh(f"{job} current for; {job} current trigger"), "timezone": "Europe/Berlin"},
            "asks-often": {"schedule": "* * * * * *", "retry": {"delay": "1h", "attempts": 2}, "command": sh(asks)},
        }
    )
    world.start("asks-retried", "asks-again")
    yield runs(world, "asks-retried", 3)
    yield runs(world, "asks-again", 1)
    # Its retry waits, and this is not the one.
    world.start("asks-again")
    yield runs(world, "asks-again", 2)
    yield runs(world, "asks-often", 3)
    # A run for an instant has a service of its own, which tells.
    said = world.sdcron("run", "asks-for", "--for", "2026-06-01", "--wait")[1].split()
    assert said == ["2026-06-01T00:00:00+02:00", "manual"]
    by_hand = [] if world.backend == "systemd" else ["manual"]
    told = {name: [run["stdout"].split() for run in world.seen[name]] for name in ("asks-retried", "asks-again")}
    assert told == {
        "asks-retried": [["1", *by_hand], ["2", "retry"], ["3", "retry"]],
        "asks-again": [["1", *by_hand]] * 2,
    }
    by_time = [] if world.backend == "systemd" else ["schedule"]
    assert all(run["stdout"].split() == ["1", *by_time] for run in world.seen["asks-often"])


def on_a_terminal_the_progress_moves_until_the_run_ends(world: World) -> Steps:
    job, gate = sdk(world), f"{PLACE}/counts/watched"
    text = f"{job} progress 13 77; while [ ! -e {gate} ]; do sleep 0.1; done; {job} progress 77 77; sleep 1"
    world.apply({"watched": {"command": sh(text)}})
    world.start("watched")
    yield has_told(world, "watched")
    code, shown, words = watch(world, "watched", f"{world.directory}/counts/watched")
    assert code == 0, words
    # The block of the job comes first; then one line, written anew each time, and nothing is left of it at the end.
    _, *looks = shown.split("\x1b[K")
    assert len(looks) >= 4, shown
    moving, last = [look.rstrip() for look in looks[:-1]], looks[-1]
    assert all("\n" not in look and len(look) < 60 for look in moving), shown
    assert moving[0].startswith("[####--------------------] 13/77 17 %"), shown
    assert any(look == f"[{24 * '#'}] 77/77 100 %" for look in moving), shown
    assert last.startswith("success, took "), shown


CASES = (
    a_shell_tells_of_its_progress_and_status_shows_it_while_it_runs,
    a_function_is_a_job_in_its_own_environment,
    a_run_speaks_of_itself_alone,
    a_run_knows_how_manieth_attempt_it_is,
    on_a_terminal_the_progress_moves_until_the_run_ends,
)
