"""What ordinary users may see and do: looking is free, acting takes root or polkit, and what is missing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.run_queries import BECOME_READER
from tests.machine import CHECKOUT_INSIDE, until
from tests.system.jobs import JOBS, apply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

#: What README shows, for a user who may start and stop two jobs.
[SHOWN] = re.findall(r"```js\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
RULE = SHOWN.replace('subject.isInGroup("operators")', 'subject.user == "tester"').replace("-backup", "-(long|short)")
JOBS_HERE: dict[str, dict[str, Any]] = {
    "long": {"command": ["/bin/sh", "-c", "echo begun; sleep 100"], "schedule": "30 2 * * *"},
    "short": {"command": ["/bin/echo", "hello"]},
    "other": {"command": ["/bin/echo", "other"]},
}
ROOT_OR_OWN = "run it as root (sudo), or manage your own jobs with --user"


@pytest.fixture(name="machine")
def machine_whose_users_are_as_before(machine: Machine) -> Iterator[Machine]:
    yield machine
    machine.run(["gpasswd", "--delete", "tester", "systemd-journal"], status=None)
    machine.run(["sh", "-c", "rm -f /etc/polkit-1/rules.d/*sdcron*"])


def told(machine: Machine, *arguments: str, status: int = 4) -> list[str]:
    """What a command says that an ordinary user may not use: two lines, the second what to do."""
    said = machine.sdcron(*arguments, user="tester", status=status)
    assert said.stdout == ""
    lines = said.stderr.splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("sdcron: ")
    assert lines[1].startswith("  hint: ")
    return [lines[0].removeprefix("sdcron: "), lines[1].removeprefix("  hint: ")]


@pytest.mark.timeout(120)
def test_ordinary_users_see_what_they_may_and_are_told_what_acting_takes(machine: Machine) -> None:
    apply(machine, JOBS_HERE)
    assert machine.sdcron("run", "short", "--wait").stdout == "hello\n"
    rows = json.loads(machine.sdcron("list", "--json", user="tester").stdout)
    assert [row["job"] for row in rows] == ["long", "other", "short"]
    assert machine.sdcron("next", "long", "-n", "1", user="tester").stdout.strip()
    assert "nothing to do" in machine.sdcron("plan", JOBS, user="tester").stdout
    for arguments in (["status"], ["status", "short"], ["history"]):
        assert told(machine, *arguments) == ["no permission to read /var/lib/sdcron/runs/runs.db", BECOME_READER]
    assert told(machine, "logs", "short") == ["no permission to read the machine's journal", BECOME_READER]
    for arguments in (
        ["pause", "long"],
        ["resume", "--all"],
        ["suspend"],
        ["remove", "--yes", "long"],
        ["apply", JOBS],
    ):
        assert told(machine, *arguments) == ["no permission to change the machine's jobs", ROOT_OR_OWN]
    machine.run(["systemctl", "start", "--no-block", "sdcron-long.service"])
    for verb, arguments in (("start", ["run", "short"]), ("stop", ["stop", "long"]), ("stop", ["stop", "--all"])):
        message, hint = told(machine, *arguments)
        assert message.startswith(f"no permission to {verb} the machine's jobs: ")
        assert hint == ROOT_OR_OWN
    message, _ = told(machine, "run", "short", "--for", "2026-01-01")
    assert message == "no permission to make a unit for one run"
    machine.run(["usermod", "-aG", "systemd-journal", "tester"])
    assert "hello" in machine.sdcron("status", "short", user="tester").stdout
    assert "hello" in machine.sdcron("logs", "short", user="tester").stdout
    assert len(machine.sdcron("history", "short", user="tester").stdout.splitlines()) == 1
    machine.sdcron("stop", "long")


@pytest.mark.timeout(120)
def test_polkit_lets_a_user_start_and_stop_the_jobs_that_its_rule_names(machine: Machine) -> None:
    apply(machine, JOBS_HERE)
    machine.write("/etc/polkit-1/rules.d/50-sdcron.rules", RULE)
    machine.run(["usermod", "-aG", "systemd-journal", "tester"])
    # It reads its rules anew when they change, which takes it a moment where it runs already.
    machine.run(["systemctl", "restart", "polkit.service"])
    assert machine.sdcron("run", "short", "--wait", user="tester").stdout == "hello\n"
    [record, *_] = json.loads(machine.sdcron("history", "short", "--json").stdout)
    assert (record["trigger"], record["asked_by"]) == ("manual", "tester")
    machine.sdcron("run", "long", user="tester")
    until(lambda: "begun" in machine.sdcron("logs", "long").stdout, 20, "it runs")
    assert machine.sdcron("stop", "long", user="tester").stdout == "long is stopped\n"
    # What the rule names is no leave to have root run something else under that name.
    for name in ("sdcron-long@x.service", "sdcron-short@99.service"):
        tried = ["systemd-run", f"--unit={name}", "--wait", "/bin/touch", "/root/taken"]
        assert machine.run(tried, user="tester", status=None).returncode != 0
    assert machine.run(["test", "-e", "/root/taken"], status=None).returncode == 1
    tried = ["systemctl", "set-property", "sdcron-long.service", "CPUWeight=1"]
    assert machine.run(tried, user="tester", status=None).returncode != 0
    machine.sdcron("run", "long", user="tester")
    until(lambda: json.loads(machine.sdcron("status", "long", "--json").stdout)["running_id"], 20, "it runs again")
    assert machine.sdcron("stop", "--kill", "long", user="tester").stdout == "long is killed\n"
    message, _ = told(machine, "run", "other")
    assert message.startswith("no permission to start the machine's jobs: ")
    # Who may start it may not see how it ends, and is told so.
    machine.run(["gpasswd", "--delete", "tester", "systemd-journal"])
    count = len(json.loads(machine.sdcron("history", "short", "--json").stdout))
    assert machine.sdcron("run", "short", user="tester").stdout in (
        "short was started, and is over; how it ended is for root and the journal's readers to see\n",
        f"{json.loads(machine.sdcron('history', 'short', '--json').stdout)[0]['run_id']}\n",
    )
    assert told(machine, "run", "short", "--wait")[1] == BECOME_READER
    assert len(json.loads(machine.sdcron("history", "short", "--json").stdout)) == count + 2


def test_an_engine_is_for_root_and_the_user_that_it_runs_as(machine: Machine) -> None:
    here = ["--backend", "local", "--root", "/srv/engine"]
    machine.write("/srv/engine-jobs/often.yaml", "command: [/bin/sleep, '600']\n")
    machine.sdcron("apply", *here, "/srv/engine-jobs")
    unit = ["systemd-run", "--quiet", "--collect", "--unit=engine", f"--setenv=PYTHONPATH={CHECKOUT_INSIDE}"]
    machine.run([*unit, "python3", "-m", "sdcron", "engine", "--root", "/srv/engine"])
    until(lambda: machine.exists("/srv/engine/run/sdcron/engine/control"), 20, "it answers")
    run_id = machine.sdcron("run", *here, "often").stdout.strip()
    looking, acting = [["list"], ["status"]], [["run", "often"], ["stop", "often"], ["stop", "--all"], ["stop", run_id]]
    for command in (*looking, *acting, ["pause", "often"], ["suspend"], ["resume", "--all"]):
        message, hint = told(machine, command[0], *here, *command[1:])
        assert message.startswith("no permission to "), message
        assert "root" in hint, hint
    machine.sdcron("stop", *here, run_id)
    machine.run(["sh", "-c", "systemctl stop engine.service; rm -rf /srv/engine /srv/engine-jobs"])
