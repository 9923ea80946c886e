"""What the units of jobs do on real systemd: conditions, ends, priorities, limits, sandboxes, output, overlap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import CHECKOUT_INSIDE, until
from tests.system.jobs import apply, entries, fresh_journal, moment, output, service, start, starts, states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.machine import Machine

EXAMPLES = f"{CHECKOUT_INSIDE}/packaging/examples/jobs"
GOLDEN = f"{CHECKOUT_INSIDE}/tests/golden"
LINES = 100_000


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def ran(machine: Machine, names: Iterable[str]) -> set[str]:
    """Which of these jobs made the file that jobs here make."""
    there = machine.run(["sh", "-c", "ls /tmp/ran 2>/dev/null || true"]).stdout.split()
    return set(names) & set(there)


def touching(name: str) -> list[str]:
    """A command that leaves a file with the job's name."""
    return shell(f"mkdir -p /tmp/ran; >/tmp/ran/{name}")


# Verification


VERIFY = """
set -- "$@" /tmp/verify/units/sdcron-*.service /tmp/verify/units/sdcron-*.timer
echo $# units
XDG_RUNTIME_DIR=/run SYSTEMD_UNIT_PATH=/tmp/verify/units: exec systemd-analyze --man=no verify "$@" 2>&1
"""


@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_systemds_verifier_has_nothing_to_say_about_examples_and_golden_jobs(machine: Machine, scope: str) -> None:
    machine.run(
        ["sh", "-c", f"rm -rf /tmp/verify; mkdir /tmp/verify; cp {GOLDEN}/*.yaml {EXAMPLES}/*.yaml /tmp/verify"]
    )
    if scope == "--user":
        # Without the keys that only the system's manager can honour.
        machine.run(["sh", "-c", "cd /tmp/verify; grep -lE '^ *(user|group|when):|nice: -|realtime' *.yaml | xargs rm"])
    machine.sdcron("compile", *([scope] if scope == "--user" else []), "/tmp/verify", "-o", "/tmp/verify/units")
    told = machine.run(["sh", "-c", VERIFY, "verify", scope], status=None)
    count, _, said = told.stdout.partition(" units\n")
    assert (told.returncode, said) == (0, "")
    assert int(count) > (60 if scope == "--user" else 100)


# when


def test_a_job_runs_only_when_the_machine_offers_what_it_asks_for(machine: Machine) -> None:
    machine.run(["sh", "-c", "rm -rf /tmp/ran /srv/there; mkdir -p '/srv/there/a b%n'"])
    machine.write("/etc/systemd/system/idle.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    conditions: dict[str, tuple[bool, dict[str, Any]]] = {
        "path": (True, {"path_exists": ["/srv/there", "/srv/there/a b%n"]}),
        "no-path": (False, {"path_exists": ["/srv/there", "/srv/not there"]}),
        "missing": (True, {"path_missing": "/srv/not there"}),
        "not-missing": (False, {"path_missing": ["/srv/not there", "/srv/there/a b%n"]}),
        "mount": (True, {"mounts": ["/proc", "/dev"]}),
        "no-mount": (False, {"mounts": ["/proc", "/srv/there"]}),
        "unit": (True, {"units": ["dbus.service", "basic.target"]}),
        "no-unit": (False, {"units": ["dbus.service", "idle.service"]}),
        "no-such-unit": (False, {"units": "not-installed.service"}),
        "command": (True, {"command": "/usr/bin/test -d '/srv/there/a b%n'"}),
        "no-command": (False, {"command": ["/usr/bin/test", "$HOME", "=", "/root"]}),
        "command-255": (False, {"command": ["/bin/sh", "-c", "exit 255"]}),
        "no-such-command": (False, {"command": ["/no/such/program"]}),
        "all": (True, {"path_exists": "/srv", "units": "dbus.service", "command": "/bin/true", "mounts": "/proc"}),
        "not-all": (False, {"path_exists": "/srv", "units": "dbus.service", "command": "/bin/false"}),
        "power": (True, {"ac_power": True}),
    }
    jobs = {name: {"when": when, "command": touching(name)} for name, (_, when) in conditions.items()}
    jobs["as-user"] = {"when": {"command": "/usr/bin/test -O /home/tester"}, "command": ["/bin/true"], "user": "tester"}
    apply(machine, jobs)
    start(machine, *jobs)
    assert ran(machine, jobs) == {name for name, (holds, _) in conditions.items() if holds}
    # A run that was skipped is no failure, whatever kept it from running, and wants nothing.
    assert {state.split()[0] for state in states(machine, *jobs).values()} == {"inactive"}
    assert states(machine, "as-user") == {"as-user": "inactive success"}
    assert machine.show("idle.service", "ActiveState") == {"ActiveState": "inactive"}


def test_a_users_own_job_asks_the_users_own_manager_for_units(fresh_machine: Machine) -> None:
    fresh_machine.start_user_manager()
    own = "systemd-run --user --quiet --unit=own.service sleep infinity"
    fresh_machine.run(["sh", "-c", own], user="tester")
    jobs: dict[str, dict[str, Any]] = {
        f"{name}-{sandbox}": {
            "when": {"units": unit},
            "sandbox": sandbox,
            "command": ["/bin/true"] if name == "there" else ["/bin/false"],
        }
        for sandbox in ("none", "strict")
        for name, unit in (("there", "own.service"), ("missing", "systemd-journald.service"))
    }
    apply(fresh_machine, jobs, user="tester")
    since = time.time()
    start(fresh_machine, *jobs, user="tester")
    assert {state.split()[0] for state in states(fresh_machine, *jobs, user="tester").values()} == {"inactive"}

    def finished() -> set[str]:
        said = fresh_machine.journal(f"--since=@{int(since)}")
        units = {entry.get("USER_UNIT", "") for entry in said if str(entry.get("MESSAGE")).startswith("Finished")}
        return {unit for unit in units if unit.startswith("sdcron-")}

    expected = {"sdcron-there-none.service", "sdcron-there-strict.service"}
    until(lambda: finished() >= expected, 10, "the journal tells of both")
    assert finished() == expected


def test_a_job_that_waits_runs_as_soon_as_the_machine_offers_what_it_asks_for(machine: Machine) -> None:
    machine.run(["sh", "-c", "rm -rf /tmp/ran /tmp/gate; mkdir /tmp/gate; >/tmp/gate/kept-out; mkdir -p /srv/mounted"])
    machine.write("/etc/systemd/system/started.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    conditions: dict[str, dict[str, Any]] = {
        "path": {"path_exists": "/tmp/gate/open"},
        "missing": {"path_missing": "/tmp/gate/kept-out"},
        "command": {"command": "/usr/bin/test -e /tmp/gate/open"},
        "unit": {"units": "started.service"},
        "power": {"ac_power": True},
        "mount": {"mounts": "/srv/mounted"},
    }
    machine.write("/etc/systemd/system/srv-mounted.mount", "[Mount]\nWhat=tmpfs\nWhere=/srv/mounted\nType=tmpfs\n")
    jobs: dict[str, dict[str, Any]] = {
        name: {"when": {**when, "else": "wait"}, "command": touching(name)} for name, when in conditions.items()
    }
    jobs["in-vain"] = {
        "when": {"path_exists": "/tmp/gate/never", "else": "wait"},
        "timeout": "1s",
        "command": touching("in-vain"),
    }
    apply(machine, jobs)
    start(machine, *jobs, wait=False)
    until(lambda: ran(machine, jobs) == {"unit", "power", "mount"}, 10, "what is there already is not waited for")
    until(lambda: states(machine, "in-vain") == {"in-vain": "failed timeout"}, 10, "a wait ends with the timeout")
    assert ran(machine, jobs) == {"unit", "power", "mount"}
    # What only systemd can offer it is asked to: units and mounts.
    assert machine.show("started.service", "ActiveState") == {"ActiveState": "active"}
    machine.run(["sh", "-c", "rm /tmp/gate/kept-out; >/tmp/gate/open"])
    until(lambda: ran(machine, jobs) == conditions.keys(), 12, "the others follow")
    machine.run(["systemctl", "stop", "started.service", "srv-mounted.mount"])


def test_a_job_that_needs_the_network_waits_for_it_or_is_skipped(fresh_machine: Machine) -> None:
    machine = fresh_machine
    wait = "until [ -e /tmp/link ]; do sleep 0.1; done"
    gate = "[Unit]\nBefore=network-online.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    machine.write_files(
        {
            "/etc/systemd/system/link-up.service": f"{gate}ExecStart=/bin/sh -c '{wait}'\n",
            "/etc/systemd/system/network-online.target.d/gate.conf": "[Unit]\nRequires=link-up.service\n",
        }
    )
    machine.run(["systemctl", "daemon-reload"])
    waits = {"when": {"network": True, "else": "wait"}, "command": touching("waits")}
    skips = {"when": {"network": True}, "command": touching("skips"), "timeout": "1s"}
    apply(machine, {"waits": waits, "skips": skips})
    start(machine, "waits", wait=False)
    until(lambda: "waits" in machine.run(["systemctl", "list-jobs", "--no-legend"]).stdout, 5, "it waits")
    assert ran(machine, ["waits"]) == set()
    machine.run(["touch", "/tmp/link"])
    until(lambda: ran(machine, ["waits"]) == {"waits"}, 10, "it runs with the network")
    # A network that cannot come up keeps the job from running, and is no failure of the job.
    machine.run(["systemctl", "stop", "network-online.target", "link-up.service"])
    machine.write("/etc/systemd/system/link-up.service", f"{gate}ExecStart=/bin/false\n")
    machine.run(["systemctl", "daemon-reload"])
    start(machine, "skips")
    assert ran(machine, ["skips"]) == set()
    assert states(machine, "skips")["skips"].startswith("inactive ")
    machine.write("/etc/systemd/system/link-up.service", f"{gate}ExecStart=/bin/true\n")
    machine.run(["systemctl", "daemon-reload"])
    start(machine, "skips")
    assert ran(machine, ["skips"]) == {"skips"}


# The end of a run

#: A tree of processes: a child, one that left the session, and one that ignores signals. `%s` is what the job does.
TREE = "sleep 4711 & setsid sleep 4711 & (trap '' TERM INT; sleep 4711; sleep 4711) & %s"


def test_a_run_that_takes_too_long_is_ended_with_its_whole_tree(machine: Machine) -> None:
    note = "trap 'echo got {0} >&2; [ {1} = stays ] || exit 9' {0}; "
    jobs: dict[str, dict[str, Any]] = {
        "term": {"command": shell(note.format("TERM", "ends") + TREE % "while :; do sleep 0.1; done")},
        "int": {
            "command": shell(note.format("INT", "ends") + TREE % "while :; do sleep 0.1; done"),
            "kill_signal": "SIGINT",
        },
        "stays": {"command": shell(note.format("TERM", "stays") + TREE % "while :; do sleep 0.1; done")},
        # The run is over when its command is; what it leaves behind goes with it.
        "leaves": {"command": shell("sleep 4711 & setsid sleep 4711 & exit 0")},
    }
    for job in jobs.values():
        job.update({"timeout": "1s", "stop_timeout": "1s"})
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs)
    assert "4711" not in machine.run(["ps", "-e", "-o", "args="]).stdout
    seen = states(machine, *jobs)
    assert [seen[name] for name in ("term", "int", "stays")] == ["failed timeout"] * 3
    assert seen["leaves"] == "inactive success"
    # The shell may also tell that its children were terminated.
    assert "got TERM" in output(machine, "term", since)
    assert "got INT" in output(machine, "int", since)
    assert "got TERM" in output(machine, "stays", since)
    [began] = starts(machine, since)["stays"]
    [ended] = [
        moment(entry)
        for entry in entries(machine, since, "UNIT=sdcron-stays.service", "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c")
    ]
    assert 2 <= ended - began < 6, "SIGKILL follows the signal after stop_timeout"


def test_exit_codes_and_signals_that_mean_success_are_no_failures(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "one": {"command": shell("exit 1"), "success_exit": [1, 24]},
        "other": {"command": shell("exit 24"), "success_exit": [1, 24]},
        "third": {"command": shell("exit 2"), "success_exit": [1, 24]},
        "signal": {"command": shell("kill -PIPE $$"), "success_exit": ["SIGPIPE"]},
        "other-signal": {"command": shell("kill -HUP $$"), "success_exit": ["SIGPIPE"]},
    }
    apply(machine, jobs)
    start(machine, *jobs)
    assert states(machine, *jobs) == {
        "one": "inactive success",
        "other": "inactive success",
        "third": "failed exit-code",
        "signal": "inactive success",
        "other-signal": "failed signal",
    }


def test_a_job_that_is_due_while_it_runs_is_not_started_a_second_time(machine: Machine) -> None:
    job = {"schedule": "* * * * * *", "command": shell("echo run; sleep 4")}
    since = time.time()
    apply(machine, {"long": job})
    until(lambda: len(starts(machine, since)["long"]) >= 2, 20, "it has run twice")
    running = machine.run(["ps", "-e", "-o", "args="]).stdout.count("\nsleep 4\n")
    first, second = starts(machine, since)["long"][:2]
    assert second - first >= 4
    assert running <= 1


# Priorities, limits, sandboxes


def test_priorities_and_limits_are_what_systemd_has_for_the_job(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "set": {
            "priority": {"nice": 7, "io": "best-effort:6", "cpu_weight": 20},
            "limits": {"memory": "512M", "cpu": "50%", "tasks": 64, "open_files": 333},
            "command": shell("nice; ulimit -n; ionice"),
        },
        "idle": {"priority": {"nice": 19, "io": "idle"}, "command": shell("nice; ionice")},
        "high": {"priority": {"nice": -5}, "user": "daemon", "command": ["/usr/bin/nice"]},
    }
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs)
    assert output(machine, "set", since) == ["7", "333", "best-effort: prio 6"]
    assert output(machine, "idle", since) == ["19", "idle"]
    assert output(machine, "high", since) == ["-5"]
    asked = ("CPUWeight", "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "LimitNOFILE", "Nice", "IOSchedulingPriority")
    assert machine.show(service("set"), *asked) == {
        "CPUWeight": "20",
        "MemoryMax": str(512 << 20),
        "CPUQuotaPerSecUSec": "500ms",
        "TasksMax": "64",
        "LimitNOFILE": "333",
        "Nice": "7",
        "IOSchedulingPriority": "6",
    }


#: Each line tries one thing and says whether it could.
TRIES = """
can() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "$what"; fi; }
can write-usr touch /usr/sdcron-test
can write-etc touch /etc/sdcron-test
can write-var touch /var/sdcron-test
can write-home touch "$HOUSE/sdcron-test"
can write-tmp touch /tmp/sdcron-test-$$
can see-tmp test -e /tmp/from-outside
can set-hostname python3 -c 'import socket; socket.sethostname(socket.gethostname())'
can make-suid sh -c 'cp /bin/true /tmp/suid-$$ && chmod 4755 /tmp/suid-$$'
can unshare unshare --user true
can write-null sh -c 'echo x >/dev/null'
can change-owner sh -c 'touch /tmp/owned-$$ && chown daemon /tmp/owned-$$'
can read-etc cat /etc/passwd
can run-python python3 -c 'import json, socket, subprocess; socket.socket(); subprocess.run(["true"], check=True)'
can run-shell sh -c 'echo a | grep a && x=$(date)'
grep -q 'NoNewPrivs:.*0' /proc/self/status && echo new-privileges
echo warning >&2
"""


def test_a_sandbox_takes_away_what_it_says_and_a_plain_job_still_runs(machine: Machine) -> None:
    machine.run(["sh", "-c", "touch /tmp/from-outside; rm -f /usr/sdcron-test /etc/sdcron-test /var/sdcron-test"])
    jobs: dict[str, dict[str, Any]] = {
        f"{level}-{user}": {
            "sandbox": level,
            "user": user,
            "environment": {"HOUSE": "/home/tester" if user == "tester" else "/root"},
            "script": TRIES,
        }
        for level in ("none", "standard", "strict")
        for user in ("root", "tester")
    }
    apply(machine, jobs)
    since = time.time()
    start(machine, *jobs)
    assert set(states(machine, *jobs).values()) == {"inactive success"}
    could = {name: set(output(machine, name, since)) for name in jobs}
    machine.run(["sh", "-c", "rm -f /usr/sdcron-test /etc/sdcron-test /var/sdcron-test /root/sdcron-test"])
    always = {"write-tmp", "write-null", "read-etc", "run-python", "run-shell", "warning"}
    for name, found in could.items():
        assert found >= always, name
    assert could["none-root"] - always == {
        *("write-usr", "write-etc", "write-var", "write-home", "see-tmp", "set-hostname", "make-suid"),
        *("unshare", "change-owner", "new-privileges"),
    }
    assert could["none-tester"] - always == {"write-home", "see-tmp", "make-suid", "unshare", "new-privileges"}
    assert could["standard-root"] - always == {"write-var", "write-home", "change-owner", "unshare"}
    assert could["standard-tester"] - always == {"write-home", "unshare"}
    assert could["strict-root"] - always == set()
    assert could["strict-tester"] - always == set()


# Output


def test_what_a_job_writes_arrives_whole_with_its_priority_and_its_name(machine: Machine) -> None:
    # journald looks at the process when it takes the first line; of one that is gone it knows the identifier only.
    text = "echo out; echo err >&2; echo '<3>not a level'; printf 'no newline'; sleep 0.5"
    other = shell("echo mine; sleep 0.5")
    apply(machine, {"talks": {"command": shell(text)}, "other": {"user": "tester", "command": other}})
    since = time.time()
    start(machine, "talks", "other")
    found = entries(machine, since, "SDCRON_JOB=talks", "_SYSTEMD_UNIT=sdcron-talks.service")
    lines = {entry["MESSAGE"]: entry for entry in found}
    priorities = {message: entry["PRIORITY"] for message, entry in lines.items()}
    assert priorities == {"out": "6", "err": "4", "<3>not a level": "6", "no newline": "6"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in found} == {"sdcron-talks"}
    [invocation] = {entry["_SYSTEMD_INVOCATION_ID"] for entry in found}
    told = entries(machine, since, f"INVOCATION_ID={invocation}", "_PID=1")
    assert {entry["UNIT"] for entry in told} == {"sdcron-talks.service"}
    [mine] = entries(machine, since, "SDCRON_JOB=other", "SYSLOG_IDENTIFIER=sdcron-other")
    assert (mine["MESSAGE"], mine["_UID"]) == ("mine", str(machine._account("tester")[0]))
    assert lines["out"]["_SYSTEMD_SLICE"] == "system.slice"


def test_a_hundred_thousand_lines_are_all_kept(machine: Machine) -> None:
    # It lives until journald has read its first line: the unit's rate limit is gone from where journald looks for it
    # as soon as the unit has ended, and in that very moment the usual one takes its place.
    go_on = "/tmp/ran/hundred-thousand"
    script = f"echo 0; until [ -e {go_on} ]; do sleep 0.05; done; exec seq {LINES}"
    apply(machine, {"hundred-thousand": {"command": ["/bin/sh", "-c", script]}})
    fresh_journal(machine)
    start(machine, "hundred-thousand", wait=False)
    # Not with --since: then journalctl 252 takes the first line for the last.
    matches = ["SYSLOG_IDENTIFIER=sdcron-hundred-thousand", "_TRANSPORT=stdout"]
    command = ["journalctl", "--quiet", "--output=cat", "--output-fields=MESSAGE", *matches]
    until(lambda: machine.run(command).stdout == "0\n", 60, "the first line is there")
    machine.run(touching("hundred-thousand"))
    # journald may still be reading them when the run is over, and a sync does not wait for what it has not read.
    until(lambda: machine.run([*command, "--lines=1"]).stdout == f"{LINES}\n", 60, "the last line is there")
    lines = machine.run(command).stdout.split()
    assert lines == [str(number) for number in range(LINES + 1)]
