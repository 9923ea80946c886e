"""What runs say of themselves to journald: as whomever they run, however short they live, and who else may not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import CHECKOUT_INSIDE, until
from tests.system.jobs import apply, start
from tests.system.records import forget_journal

if TYPE_CHECKING:
    from tests.machine import Machine

SDK = f"python3 {CHECKOUT_INSIDE}/sdcron/sdk.py"
MODULE = """
import getpass
from sdcron.sdk import alarm, current, progress

def work():
    progress(5, 5)
    alarm(f"from {getpass.getuser()} in {current().job}")
"""
#: Sends as much as it can, without the limit that sdk.py has.
FLOOD = """
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    for number in range(20001):
        fields = f"SYSLOG_IDENTIFIER=sdcron-floods\\nSDCRON_PROGRESS={number}/20000\\nSDCRON_ALARM={number}\\n"
        sender.sendto(f"MESSAGE=x\\n{fields}".encode(), "/run/systemd/journal/socket")
"""


@pytest.fixture(autouse=True)
def nothing_of_earlier_tests(machine: Machine) -> None:
    """A collector that finds no database reads what the journal has, of whomever."""
    forget_journal(machine)


def asked(machine: Machine, *arguments: str, user: str | None = None) -> Any:
    """What a command says as JSON."""
    scope = ["--user"] if user else []
    return json.loads(machine.sdcron(*arguments, *scope, "--json", user=user).stdout)


def alarms(record: dict[str, Any]) -> list[str]:
    """The texts."""
    return [alarm["text"] for alarm in record["alarms"]]


def test_whoever_a_job_runs_as_and_however_confined_it_is_heard(machine: Machine) -> None:
    machine.write("/srv/told/told_work.py", MODULE)
    job = {"command": "python:told_work:work", "directory": "/srv/told"}
    jobs = {
        "as-root": job,
        "as-daemon": {**job, "user": "daemon"},
        "in-standard": {**job, "user": "daemon", "sandbox": "standard"},
        "in-strict": {**job, "user": "daemon", "sandbox": "strict"},
    }
    apply(machine, jobs)
    start(machine, *jobs)
    for name in jobs:
        [run] = asked(machine, "history", name)
        user = "root" if name == "as-root" else "daemon"
        assert (run["outcome"], run["stderr"], alarms(run)) == ("success", "", [f"from {user} in {name}"])


def test_a_users_own_jobs_are_heard_by_the_users_own_collector(machine: Machine) -> None:
    machine.start_user_manager()
    machine.write("/srv/told/told_work.py", MODULE)
    shell = f"{SDK} progress 1 2; {SDK} current attempt; {SDK} alarm mine; sleep 600"
    job = {"command": "python:told_work:work", "directory": "/srv/told"}
    apply(machine, {"users": job, "users-shell": {"command": ["/bin/sh", "-c", shell]}}, user="tester")
    start(machine, "users", user="tester")
    start(machine, "users-shell", wait=False, user="tester")
    [run] = asked(machine, "history", "users", user="tester")
    assert alarms(run) == ["from tester in users"]
    until(lambda: alarms(asked(machine, "status", "users-shell", user="tester")), 20, "the shell has told")
    told = asked(machine, "status", "users-shell", user="tester")
    assert (told["progress"]["percent"], alarms(told)) == (50, ["mine"])
    machine.run(["systemctl", "--user", "stop", "sdcron-users-shell.service"], user="tester")
    machine.sdcron("remove", "users", "users-shell", "--yes", "--user", user="tester")


def test_what_processes_say_that_end_at_once_arrives(machine: Machine) -> None:
    lines = "; ".join(f"{SDK} alarm {number}" for number in range(20))
    load = "for i in 1 2 3; do (while :; do :; done) & done"
    apply(machine, {"quick-alarms": {"command": ["/bin/sh", "-c", f"{load}; {lines}"]}})
    start(machine, "quick-alarms")
    [run] = asked(machine, "history", "quick-alarms")
    assert alarms(run) == [str(number) for number in range(20)]


def test_a_flood_is_kept_in_bounds_and_its_last_word_known(machine: Machine) -> None:
    machine.write("/srv/flood.py", f"{FLOOD}\nimport time\ntime.sleep(600)\n")
    apply(machine, {"floods": {"command": "/usr/bin/python3 /srv/flood.py"}})
    start(machine, "floods", wait=False)

    def is_told() -> bool:
        return bool((asked(machine, "status", "floods")["progress"] or {}).get("done") == 20000)

    until(is_told, 60, "the last word is known")
    assert alarms(asked(machine, "status", "floods")) == [str(number) for number in range(20)]
    machine.run(["systemctl", "stop", "sdcron-floods.service"])
    [run] = asked(machine, "history", "floods")
    assert len(run["alarms"]) == 20


def test_nobody_else_speaks_for_a_run(machine: Machine) -> None:
    apply(machine, {"quiet": {"command": "/usr/bin/sleep 600"}})
    start(machine, "quiet", wait=False)
    until(lambda: asked(machine, "status", "quiet")["running_id"], 20, "it runs")
    run_id = asked(machine, "status", "quiet")["running_id"]
    fields = f"SYSLOG_IDENTIFIER=sdcron-quiet\nMESSAGE=x\nSDCRON_RUN_ID={run_id}\nSDCRON_PROGRESS=1/2\nSDCRON_ALARM=x\n"
    forged = fields + f"_SYSTEMD_UNIT=sdcron-quiet.service\n_SYSTEMD_INVOCATION_ID={run_id}\n_UID=0\n"
    # One that goes on, and one that is gone before journald looks.
    machine.run(["logger", "--journald"], user="tester", input=forged)
    send = (
        "import socket,sys; socket.socket(socket.AF_UNIX,2).sendto(sys.argv[1].encode(),'/run/systemd/journal/socket')"
    )
    for _ in range(20):
        machine.run(["python3", "-c", send, forged], user="tester")
    machine.run(["journalctl", "--sync"])
    told = asked(machine, "status", "quiet")
    assert (told["running_id"], told["progress"], told["alarms"]) == (run_id, None, [])
    machine.run(["systemctl", "stop", "sdcron-quiet.service"])


def test_the_file_works_alone_and_outside_of_sdcron(machine: Machine) -> None:
    machine.run(["install", "-D", f"{CHECKOUT_INSIDE}/sdcron/sdk.py", "/srv/alone/sdk.py"])
    script = (
        "import sdk\nsdk.progress(1, 2)\nsdk.log.info('fine')\nsdk.alarm('unheard')\nprint(sdk.current().job)\n"
        "print(sdk.__file__)\n"
    )
    for user in ("root", "tester"):
        ended = machine.run(
            ["python3", "-W", "error", "-c", script],
            cwd="/srv/alone",
            env={"PYTHONPATH": ""},
            user=user if user != "root" else None,
        )
        assert (ended.stdout, ended.stderr) == ("None\n/srv/alone/sdk.py\n", "info: fine\nalarm: unheard\n")
