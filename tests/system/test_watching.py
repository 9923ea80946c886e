"""status, history and logs on real runs: what they say, to whom, and while the journal moves under them."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import apply, start
from tests.system.records import forget_journal

if TYPE_CHECKING:
    from tests.machine import Machine

MIXED: dict[str, dict[str, Any]] = {
    "ok": {"script": "echo one; echo two >&2; echo three", "schedule": "0 4 * * *", "description": "All is well"},
    "fails": {"script": "echo trying; echo 'no space' >&2; exit 3", "retry": {"delay": "1h", "attempts": 2}},
    "nothing": {"command": "/nonexistent/program"},
    "nobody": {"command": "/usr/bin/true", "user": "nosuchuser"},
    "skips": {"command": "/usr/bin/true", "when": {"path_exists": ["/nonexistent"]}},
    "hides": {"script": "echo password=hunter2 ok", "output": {"redact": ["password=[^ ]+"]}},
    "long": {"script": "head -c 150000 /dev/zero | tr '\\0' x; echo end; printf 'left open'"},
    "sleeps": {"script": "echo begun; exec sleep 600"},
    "off": {"command": "/usr/bin/true", "schedule": "@daily", "enabled": False},
}


@pytest.fixture(autouse=True)
def nothing_of_earlier_tests(machine: Machine) -> None:
    """A collector that finds no database reads what the journal has, of whomever."""
    forget_journal(machine)


def asked(machine: Machine, *arguments: str, user: str | None = None) -> Any:
    """What a command says as JSON."""
    return json.loads(machine.sdcron(*arguments, "--json", user=user).stdout)


def lines(machine: Machine, *arguments: str, user: str | None = None) -> list[dict[str, Any]]:
    """What logs says, an object a line."""
    output = machine.sdcron("logs", *arguments, "--json", user=user).stdout
    return [json.loads(line) for line in output.splitlines()]


def texts(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["event"] or line["stream"], line["text"]) for line in found]


def test_every_run_is_told_with_its_outcome_and_its_output(machine: Machine) -> None:
    apply(machine, MIXED)
    start(machine, *(name for name in MIXED if name not in ("sleeps", "off")))
    start(machine, "sleeps", wait=False)
    until(lambda: texts(lines(machine, "sleeps"))[-1:] == [("stdout", "begun")], 10, "the sleeper has begun")
    until(lambda: texts(lines(machine, "fails"))[-1][0] == "sdcron", 10, "the retry waits")
    rows = {row["job"]: row for row in asked(machine, "status")}
    assert {name: (row["state"], (row["last_run"] or {}).get("outcome")) for name, row in rows.items()} == {
        "ok": ("waiting", "success"),
        "fails": ("retry waiting", "failure"),
        "nothing": ("failed", "failure"),
        "nobody": ("failed", "failure"),
        "skips": ("by hand", "skipped"),
        "hides": ("by hand", "success"),
        "long": ("by hand", "success"),
        "sleeps": ("running", None),
        "off": ("disabled", None),
    }
    assert rows["fails"]["retry"]["attempt"] == 2
    waits = datetime.fromisoformat(rows["fails"]["retry"]["at"]).timestamp() - time.time()
    assert 3500 < waits < 3601
    assert len(rows["sleeps"]["running_id"]) == 32
    assert -1 < time.time() - datetime.fromisoformat(rows["sleeps"]["running_since"]).timestamp() < 60

    detail = asked(machine, "status", "fails")
    assert (detail["last_run"]["stdout"], detail["last_run"]["stderr"]) == ("trying\n", "no space\n")
    assert detail["units"]["sdcron-fails@retry-1.timer"] == "active"
    block = machine.sdcron("status", "ok").stdout
    assert "All is well" in block
    assert "stderr | two" in block

    told = texts(lines(machine, "ok"))
    assert told[0] == ("start", "")
    assert sorted(told[1:-1]) == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")]
    assert told[-1] == ("end", "success")
    assert [text for stream, text in texts(lines(machine, "fails")) if stream in ("end", "sdcron")] == [
        "failure: exit status 3",
        "sdcron-fails: retry 1 of 2 is waiting",
    ]
    assert any("credentials" in text for stream, text in texts(lines(machine, "nobody")) if stream == "systemd")
    assert "unmet condition" in texts(lines(machine, "skips"))[-1][1]
    assert ("stdout", "[redacted] ok") in texts(lines(machine, "hides"))
    assert "hunter2" not in machine.sdcron("logs", "hides").stdout
    assert ("stdout", "x" * 150_000 + "end") in texts(lines(machine, "long"))
    assert ("stdout", "left open") in texts(lines(machine, "long"))

    failed = asked(machine, "history", "--failed")
    assert sorted(run["job"] for run in failed) == ["fails", "nobody", "nothing"]
    [run] = asked(machine, "history", "fails")
    assert texts(lines(machine, "fails", "--run", run["run_id"][:10]))[-1] == ("end", "failure: exit status 3")
    assert machine.sdcron("logs", "ok", "-n", "1").stdout.count("\n") == 1
    assert machine.sdcron("logs", "ok", "--since", "1h").stdout.count("\n") == 3

    machine.run(["systemctl", "stop", "sdcron-sleeps.service"])
    assert texts(lines(machine, "sleeps"))[-1] == ("end", "killed: stopped by an administrator")
    machine.sdcron("remove", "ok", "--yes")
    assert "ok" not in {row["job"] for row in asked(machine, "status")}
    assert {row["job"]: row["state"] for row in asked(machine, "status", "--all")}["ok"] == "removed"
    assert [run["job"] for run in asked(machine, "history", "ok")] == ["ok"]
    assert ("stdout", "one") in texts(lines(machine, "ok"))
    assert asked(machine, "history", "--prune", "--before", "1s")["forgotten"] >= 6
    assert asked(machine, "status", "fails")["last_run"]["outcome"] == "failure"


#: Follows the log of a job as a program at the other end of a pipe would, until it has seen the last line; then Ctrl-C.
FOLLOW = """
import datetime, signal, subprocess, sys, time
# Whoever started the tests may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
log = subprocess.Popen([sys.executable, "-m", "sdcron", "logs", "ticks", "-f"], stdout=subprocess.PIPE, text=True)
began, slowest = False, 0.0
for line in log.stdout:
    when, stream, text = line.rstrip("\\n").split("\\t")
    if not began:
        # It has said where it begins: now the job may run.
        subprocess.run(["systemctl", "start", "--no-block", "sdcron-ticks.service"], check=True)
        began = True
        continue
    slowest = max(slowest, time.time() - datetime.datetime.fromisoformat(when).timestamp())
    print(stream, text, flush=True)
    if text == "tick 7":
        subprocess.run(["journalctl", "--rotate"], check=True)
    if text == "tick 14":
        subprocess.run(["systemctl", "restart", "systemd-journald"], check=True)
    if text == "tick 21":
        subprocess.run(["journalctl", "--rotate", "--vacuum-files=1"], check=True, stderr=subprocess.DEVNULL)
    if text == "tick 39":
        break
log.send_signal(signal.SIGINT)
print("status", log.wait(20))
print("slowest", slowest)
"""


def test_a_log_is_followed_while_the_journal_is_rotated_restarted_and_vacuumed(machine: Machine) -> None:
    script = "i=0; if [ -e /run/ticks ]; then while [ $i -lt 40 ]; do echo tick $i; i=$((i+1)); sleep 0.05; done; fi"
    apply(machine, {"ticks": {"script": f"{script}; echo ready; touch /run/ticks"}})
    machine.run(["rm", "-f", "/run/ticks"])
    start(machine, "ticks")
    told = machine.run(["python3", "-c", FOLLOW], timeout=60).stdout.splitlines()
    machine.run(["rm", "-f", "/run/ticks"])
    assert told[:40] == [f"stdout tick {number}" for number in range(40)]
    assert told[40] == "status 130"
    # A line is there at once; a restart of journald takes its time.
    assert float(told[41].split()[1]) < 5


def test_each_run_of_a_job_that_ends_at_once_has_its_own_lines(machine: Machine) -> None:
    apply(machine, {"quick": {"script": "echo $INVOCATION_ID; echo $INVOCATION_ID >&2"}})
    for _ in range(15):
        start(machine, "quick")
    runs = asked(machine, "history", "quick", "-n", "0")
    assert len(runs) == 15
    for run in runs[:5]:
        assert sorted(texts(lines(machine, "quick", "--run", run["run_id"]))) == [
            ("end", "success"), ("start", ""), ("stderr", run["run_id"]), ("stdout", run["run_id"]),
        ]  # fmt: skip
    told = lines(machine, "quick", "--since", "1h")
    printed = [line for line in told if line["event"] is None]
    assert len(printed) == 30
    assert all(line["text"] == line["run_id"] for line in printed)
    missing = machine.sdcron("logs", "quick", "--run", "00000000", status=2).stderr
    assert "no run of quick" in missing


def test_what_others_write_is_not_taken_for_the_jobs(machine: Machine) -> None:
    apply(machine, {"ok": MIXED["ok"]})
    start(machine, "ok")
    machine.run(["systemd-cat", "--identifier=sdcron-ok", "echo", "forged by a stream"], user="tester")
    machine.run(["logger", "--tag", "sdcron-ok", "forged by syslog"], user="tester")
    machine.run(["logger", "--tag", "systemd", "forged"], user="tester")
    machine.run(["journalctl", "--sync"])
    assert "forged" not in machine.sdcron("logs", "ok", "--since", "1h").stdout


def test_without_permission_it_is_said_in_a_line_what_to_do(machine: Machine) -> None:
    apply(machine, {"ok": MIXED["ok"]})
    start(machine, "ok")
    refused = machine.sdcron("logs", "ok", user="tester", status=4)
    assert refused.stdout == ""
    assert "no permission to read the machine's journal" in refused.stderr
    assert "systemd-journal" in refused.stderr
    assert refused.stderr.count("\n") == 2
    for command in ("status", "history"):
        ended = machine.sdcron(command, user="tester", status=None)
        assert ended.returncode == 4, ended
        assert ended.stderr.startswith("sdcron: no permission to ")
        assert "sudo" in ended.stderr
        assert ended.stderr.count("\n") == 2


def test_a_user_sees_his_own_jobs(machine: Machine) -> None:
    machine.start_user_manager()
    apply(machine, {"mine": {"script": "echo for me; exit 4", "retry": {"delay": "1h", "attempts": 1}}}, user="tester")
    start(machine, "mine", user="tester")
    until(
        lambda: (
            ("sdcron", "sdcron-mine: retry 1 of 1 is waiting") in texts(lines(machine, "mine", "--user", user="tester"))
        ),
        10,
        "the retry waits",
    )
    [row] = asked(machine, "status", "--user", user="tester")
    assert (row["job"], row["state"], row["last_run"]["outcome"]) == ("mine", "retry waiting", "failure")
    assert texts(lines(machine, "mine", "--user", user="tester")) == [
        ("start", ""), ("stdout", "for me"), ("end", "failure: exit status 4"),
        ("sdcron", "sdcron-mine: retry 1 of 1 is waiting"),
    ]  # fmt: skip
    assert [run["exit_code"] for run in asked(machine, "history", "--user", user="tester")] == [4]
    machine.sdcron("remove", "--user", "--yes", "mine", user="tester")
    machine.run(["systemctl", "--user", "reset-failed"], user="tester", status=None)


def test_a_damaged_record_is_made_anew_from_the_journal(machine: Machine) -> None:
    apply(machine, {"again": MIXED["ok"]})
    start(machine, "again")
    assert len(asked(machine, "history", "again")) == 1
    machine.run(["systemctl", "stop", "sdcron-collector.service"])
    machine.run(
        ["sh", "-c", "head -c 50000 /dev/urandom >/var/lib/sdcron/runs/runs.db; rm -f /var/lib/sdcron/runs/*-*"]
    )
    ended = machine.sdcron("history", "again", "--json")
    assert [run["job"] for run in json.loads(ended.stdout)] == ["again"]
    assert "damaged" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_names_of_jobs_are_completed(machine: Machine) -> None:
    apply(machine, {"ok": MIXED["ok"], "off": MIXED["off"]})
    for command in ("status", "history", "logs"):
        words = {"_SDCRON_COMPLETE": "complete_bash", "COMP_WORDS": f"sdcron {command} o", "COMP_CWORD": "2"}
        told = machine.run(
            ["python3", "-c", "from sdcron.cli import main; import sys; sys.argv = ['sdcron']; main()"], env=words
        )
        assert told.stdout.split() == ["off", "ok"]
