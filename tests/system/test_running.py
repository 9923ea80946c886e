"""`sdcron run` and `sdcron stop` on real systemd."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

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


def _has_begun(machine: Machine, job: str) -> bool:
    return "begun" in machine.sdcron("logs", job).stdout
