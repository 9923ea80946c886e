"""`sdcron run` and `sdcron stop` on real systemd."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.backfilled import INTERRUPT, YEAR, check_year, year_job
from tests.machine import until
from tests.system.jobs import apply, service
from tests.system.records import prepare, shell

if TYPE_CHECKING:
    from tests.machine import Machine

JOBS: dict[str, dict[str, Any]] = {
    "both": {"command": shell("echo out; echo err >&2; exit 3")},
    "quick": {"command": shell("echo quick")},
    "skipped": {"command": ["/bin/true"], "when": {"path_exists": "/no/such"}},
    "long": {"command": shell("echo begun; trap 'exit 0' TERM; sleep 100 & wait")},
    "stubborn": {"command": shell("trap '' TERM; echo begun; while :; do sleep 1; done"), "stop_timeout": "60s"},
}


def test_a_run_by_hand_shows_what_it_prints_and_ends_as_the_job_does(shared_machine: Machine) -> None:
    machine = shared_machine
    prepare(machine)
    apply(machine, JOBS)
    ended = machine.sdcron("run", "both", "--wait", status=3)
    assert (ended.stdout, ended.stderr.splitlines()) == ("out\n", ["err", "sdcron: both: failure: exit status 3"])
    for _ in range(5):  # over, and forgotten by systemd, before anybody can ask
        assert machine.sdcron("run", "quick", "--wait").stdout == "quick\n"
    record = json.loads(machine.sdcron("run", "quick", "--wait", "--json").stdout)
    assert (record["outcome"], record["trigger"], record["stdout"]) == ("success", "manual", "quick\n")
    skipped = machine.sdcron("run", "skipped", "--wait", status=1)
    assert "skipped: a condition of `when` did not hold" in skipped.stderr
    assert machine.sdcron("run", "no-such", status=2).stderr.startswith("sdcron: no job called no-such")


def test_what_a_run_prints_is_shown_while_it_is_on_and_lists_may_come_from_a_pipe(shared_machine: Machine) -> None:
    machine = shared_machine
    prepare(machine)
    held = shell("echo begun; read word </tmp/gate; echo $word")
    told = {"command": ["/bin/echo", "{what}"], "parameters": {"what": "nothing"}}
    apply(machine, {"held": {"command": held}, "told": told})
    waits = "python3 -m sdcron run held --wait >/tmp/shown 2>&1; echo $? >>/tmp/shown"
    machine.run(["sh", "-c", f"rm -f /tmp/gate /tmp/shown; mkfifo /tmp/gate; ({waits}) >/dev/null 2>&1 &"])
    shown = ["sh", "-c", "cat /tmp/shown 2>/dev/null || :"]
    until(lambda: machine.run(shown).stdout == "begun\n", 20, "what it prints is there")
    assert machine.show(service("held"), "ActiveState")["ActiveState"] == "activating"
    machine.run(["sh", "-c", "echo over >/tmp/gate"])
    until(lambda: machine.run(shown).stdout == "begun\nover\n0\n", 20, "and the rest")
    ended = machine.sdcron("run", "--file", "-", "--json", input="told what=one\ntold\n")
    assert [json.loads(line)["stdout"] for line in ended.stdout.splitlines()] == ["one\n", "nothing\n"]


def test_a_run_is_stopped_or_killed_and_that_is_on_record(shared_machine: Machine) -> None:
    machine = shared_machine
    prepare(machine)
    apply(machine, JOBS)
    for job, options in (("long", []), ("stubborn", ["--kill"])):
        run_id = machine.sdcron("run", job).stdout.strip()
        until(partial(_has_begun, machine, job), 20, "it runs")
        assert machine.sdcron("run", job, status=1).stderr.startswith(f"sdcron: {job} runs already")
        machine.sdcron("stop", job, *options)
        assert machine.show(service(job), "ActiveState")["ActiveState"] in ("inactive", "failed")
        [record] = json.loads(machine.sdcron("history", job, "--run", run_id, "--json").stdout)
        assert (record["outcome"], record["reason"]) == ("killed", "stopped by an administrator"), record
        assert "does not run" in machine.sdcron("stop", job).stderr


@pytest.mark.timeout(400)
def test_a_year_is_made_up_for_in_order_also_when_that_is_interrupted(fresh_machine: Machine) -> None:
    machine = fresh_machine
    apply(machine, {"yearly": year_job("/tmp/nights")})
    sdcron = ["python3", "-m", "sdcron", "run", "yearly", "--for", YEAR]
    told = machine.run(["python3", "-c", INTERRUPT, "/tmp/nights", "100", *sdcron], timeout=200).stdout
    interrupted, _, words = told.partition("\n")
    machine.run([*sdcron, "--continue"], timeout=300)
    records = json.loads(machine.sdcron("history", "yearly", "--json", "-n", "0").stdout)
    check_year(machine.read("/tmp/nights").splitlines(), records, interrupted, words)
    assert machine.sdcron("run", "yearly", "--for", YEAR, "--continue").stderr == "all of it has succeeded already\n"
    assert machine.run(["ls", "/run/systemd/system"]).stdout == ""


def _has_begun(machine: Machine, job: str) -> bool:
    return "begun" in machine.sdcron("logs", job).stdout
