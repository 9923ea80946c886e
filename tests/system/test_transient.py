"""Jobs applied with --transient: the same to systemd as those with files, and gone at the next boot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import yaml
from tests.system.test_arrival import HOSTILE, RECORDER, decoded
from tests.system.watch import (
    JOBS,
    RAN,
    calls_to_systemd,
    forget_runs,
    has_run,
    looks,
    units_in_memory,
    write_jobs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.machine import Machine

OUT = "/srv/transient"
TRANSIENT = "/run/systemd/transient"
YEARLY = "0 3 1 1 *"


def write(machine: Machine, jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the directory of jobs hold these and no others."""
    write_jobs(machine, {name: yaml(dict(job)) for name, job in jobs.items()})


def in_memory(machine: Machine) -> list[str]:
    """All units of jobs that systemd knows, failed and inactive ones included."""
    return sorted(units_in_memory(machine))


def files_left(machine: Machine) -> list[str]:
    """Every file of a job, by path; apply's lock and its record are none, nor what systemd notes of runs that were."""
    places = ["/run/sdcron", TRANSIENT, "/run/systemd/system", "/etc/systemd", "/var/lib/sdcron", "/var/lib/systemd"]
    places += ["/run/user", "/home/tester"]
    find = 'find "$@" ! -type d \\( -name "*sdcron-*" -o -path "*/scripts/*" \\) 2>/dev/null; exit 0'
    return sorted(machine.run(["sh", "-c", find, "find", *places]).stdout.splitlines())


# What systemd makes of it

LIKE_FILES: dict[str, dict[str, Any]] = {
    "hostile": {
        "command": ["/bin/true", *HOSTILE],
        "environment": {f"V{number}": text for number, text in enumerate(HOSTILE)},
        "description": "100% of $HOME \\",
    },
    "user": {"user": "tester", "group": "adm", "umask": "0027", "directory": '/srv/100% $x"y'},
    "script": {"script": "echo \u2028 100%\n"},
    "retry": {"retry": {"delay": "1m30s", "attempts": 4, "backoff": 2.5, "max_delay": "10m", "on_exit": [75, 111]}},
    "limits": {
        "limits": {"memory": "512M", "cpu": "150%", "tasks": 64, "open_files": 4096},
        "priority": {"nice": 10, "io": "best-effort:7", "cpu_weight": 20},
        "success_exit": [1, 24, "SIGPIPE"],
    },
    "time": {"timeout": "1h30m", "stop_timeout": "20s", "kill_signal": "SIGINT"},
    "standard": {"sandbox": "standard"},
    "strict": {"sandbox": "strict", "retry": "5m"},
    "skip": {
        "when": {
            "network": True,
            "units": ["dbus.service", "dev-disk-by\\x2dlabel-backup.device"],
            "mounts": ["/backup", "/mnt/my disk"],
            "path_exists": "/etc/app/100%",
            "path_missing": ["/run/maintenance", "/run/other"],
            "ac_power": True,
            "command": ["/usr/bin/test", "-s", "/srv/in $box"],
        },
    },
    "wait": {
        "when": {
            "network": True,
            "units": "dbus.service",
            "mounts": ["/backup", '/mnt/my "disk"'],
            "path_exists": "/etc/app/100%",
            "command": "/usr/bin/test -s /srv/inbox",
            "else": "wait",
        },
    },
    "schedules": {
        "schedule": ["0 6 * * *", "at 11:30, 14:00", "every 2w", "Sat *-*-1..7 18:00", "at 2099-01-01 08:00"],
        "timezone": "America/Havana",
        "spread": "30m",
        "accuracy": "5m",
    },
    "secrets": {
        "credentials": {"db": "/etc/secrets/100%/db", "key": {"encrypted": "/etc/secrets/key"}},
        "environment_file": ["/etc/default/100%[a]*", "-/etc/app/env.local"],
    },
    "venv": {"interpreter": {"venv": "/srv/app/venv"}, "command": "report"},
    "passed": {
        "systemd": {
            "unit": {"Documentation": "https://example.org/a?b=%%n", "Wants": "dbus.socket"},
            "service": {
                "ReadWritePaths": ["/srv", "-/var/lib/x"],
                "PrivateTmp": True,
                "IPAddressDeny": "any",
                "IPAddressAllow": "localhost 192.0.2.0/24",
                "ExecStartPre": [
                    "-+/usr/bin/mkdir -p ${RUNTIME_DIRECTORY}/x ; :/bin/echo $a '${b}'",
                    "@/bin/echo name %%a \\x41\\073 \\; x",
                    "!/bin/true",
                ],
                "AmbientCapabilities": "CAP_NET_BIND_SERVICE",
                "CapabilityBoundingSet": ["CAP_CHOWN CAP_NET_BIND_SERVICE", "CAP_KILL"],
                "SystemCallFilter": "~@mount",
                "RestrictNamespaces": "net user",
                "StateDirectory": "one two",
                "SupplementaryGroups": "adm tty",
                "DeviceAllow": "/dev/null rw",
                "BindReadOnlyPaths": "/usr/share:/srv/share",
                "TemporaryFileSystem": "/var/tmp:size=1M",
                "TimeoutAbortSec": "1d 2h 3.5s",
                "OOMScoreAdjust": -100,
                "MemoryHigh": "50%",
                "LimitCORE": "1M:infinity",
                "LimitCPU": "90",
                "Slice": "batch.slice",
                "CPUSchedulingPolicy": "batch",
                "LogLevelMax": "notice",
            },
            "timer": {"OnClockChange": True, "OnTimezoneChange": True},
        },
    },
    "no-tries": {"enabled": False},
}

#: What says that a unit has no file, and what is of this moment only.
OF_ITS_KIND = {"FragmentPath", "Transient", "UnitFileState", "UnitFilePreset", "InvocationID"}
#: Names and addresses, as D-Bus types.
UNORDERED = {"as", "a(iayu)"}
#: Where transient retry timers differ until a reload: each starts a service of its own name, which wants the job's.
OF_RETRIES = {"Unit", "Triggers", "TriggeredBy", "WantedBy", "After", "Before"}


def properties(machine: Machine, units: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Every property of units over D-Bus with its exact value, but for those of its kind; lists of names sorted."""
    get = "busctl --json=short call org.freedesktop.systemd1 $path org.freedesktop.DBus.Properties GetAll s ''"
    loop = f'for path in "$@"; do {get}; done'
    paths = {unit: "/org/freedesktop/systemd1/unit/" + "".join(map(_in_path, unit)) for unit in units}
    found = machine.run(["sh", "-c", loop, "get", *paths.values()]).stdout
    # The one path that has to differ.
    found = found.replace("/run/sdcron/transient-state/scripts", "/var/lib/sdcron/scripts")
    answers = [json.loads(line)["data"][0] for line in found.split("\n") if line]
    return {
        unit: {
            name: sorted(value["data"]) if value["type"] in UNORDERED and name != "Environment" else value["data"]
            for name, value in answer.items()
            if name not in OF_ITS_KIND and "Timestamp" not in name
        }
        for unit, answer in zip(paths, answers, strict=True)
    }


def _in_path(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"_{ord(character):02x}"


def difference(
    wanted: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], *, of_retries: bool
) -> list[str]:
    retried = {unit.partition("@")[0] for unit in wanted if "@retry" in unit}
    return [
        f"{unit} {name}: {found[unit].get(name)!r}, not {wanted[unit].get(name)!r}"
        for unit in wanted
        for name in sorted({*wanted[unit], *found[unit]})
        if wanted[unit].get(name) != found[unit].get(name)
        and not (of_retries and name in OF_RETRIES and unit.rpartition(".")[0].partition("@")[0] in retried)
    ]


def test_transient_units_have_every_property_that_those_with_files_have(machine: Machine) -> None:
    jobs = {name: {"schedule": YEARLY, "missed": "skip", **job} for name, job in LIKE_FILES.items()}
    for job in jobs.values():
        if "script" not in job:
            job.setdefault("command", "/bin/true")
    write(machine, jobs)
    machine.sdcron("apply", JOBS)
    units = in_memory(machine)
    wanted = properties(machine, units)
    for unit in (unit for unit in units if "@retry" in unit):
        # That their job is paused, which a transient one cannot be.
        assert {condition[3] for condition in wanted[unit]["Conditions"]} == {
            f"/var/lib/sdcron/paused/{mark}" for mark in (unit.removeprefix("sdcron-").partition("@")[0], ".all")
        }
        wanted[unit]["Conditions"] = []
    machine.sdcron("remove", "--yes", *jobs)
    assert in_memory(machine) == []

    machine.sdcron("apply", "--transient", JOBS)
    assert sorted(set(in_memory(machine)) ^ set(units)) == sorted(
        unit.replace(".timer", ".service") for unit in units if "@retry-" in unit
    )
    assert difference(wanted, properties(machine, units), of_retries=True) == []
    assert not [path for path in files_left(machine) if not path.startswith("/run/")]

    before = looks(machine)
    with calls_to_systemd(machine) as calls:
        assert "nothing to do" in machine.sdcron("apply", "--transient", JOBS).stdout
    assert (calls, looks(machine)) == ([], before)

    machine.run(["systemctl", "daemon-reload"])
    assert in_memory(machine) == units
    assert difference(wanted, properties(machine, units), of_retries=False) == []
    with calls_to_systemd(machine) as calls:
        assert "nothing to do" in machine.sdcron("apply", "--transient", JOBS).stdout
    assert (calls, looks(machine)) == ([], before)

    machine.sdcron("remove", "--transient", "--yes", *jobs)
    assert (in_memory(machine), files_left(machine)) == ([], [])


def test_a_transient_timer_leaves_no_stamp_that_would_outlive_the_boot(machine: Machine) -> None:
    write(machine, {"missed": {"schedule": YEARLY, "missed": "run", "command": "/bin/true"}})
    machine.sdcron("apply", "--transient", JOBS)
    assert machine.show("sdcron-missed.timer", "Persistent", "ActiveState") == {
        "Persistent": "no",
        "ActiveState": "active",
    }
    assert [path for path in files_left(machine) if "stamp" in path] == []


def test_a_transient_job_is_listed_and_asked_for_like_any_other(machine: Machine) -> None:
    write(machine, {"here": {"schedule": YEARLY, "command": "/bin/true"}})
    machine.sdcron("apply", "--transient", JOBS)
    [row] = json.loads(machine.sdcron("list", "--json").stdout)
    assert (row["job"], row["state"], row["transient"]) == ("here", "waiting", True)
    assert machine.sdcron("next", "here").stdout.strip().startswith(row["next_run_at"])
    refused = machine.sdcron("remove", "--yes", "here", status=2).stderr
    assert refused == "sdcron: job here is applied with --transient\n  hint: ask for it with --transient\n"


# What runs


def often(name: str, *arguments: str, **keys: Any) -> dict[str, Any]:
    """A job that records every other second how it was started."""
    command = ["/usr/bin/python3", "-IS", RECORDER, f"{OUT}/{name}", *arguments]
    return {"schedule": "*/2 * * * * *", "command": command, **keys}


def arrived_afresh(machine: Machine, names: Sequence[str]) -> None:
    machine.run(["sh", "-c", 'rm -f "$1"/*', "forget", OUT])
    until(lambda: set(names) <= set(machine.run(["ls", OUT]).stdout.split()), 20, f"{names} have run")


def test_transient_jobs_fire_arrive_and_retry_also_after_a_reload(machine: Machine) -> None:
    machine.run(["sh", "-c", 'rm -rf "$1"; mkdir -m 1777 "$1"; mkdir -p "$2"', "make", OUT, "/srv/100% $x"])
    attempt = f'echo "$1" >>{OUT}/attempts; exit 75'
    jobs: dict[str, dict[str, Any]] = {
        "argv": often("argv", *HOSTILE, environment={f"V{n}": text for n, text in enumerate(HOSTILE)}),
        "user": often("user", user="tester", umask="027", directory="/srv/100% $x"),
        "strict": often("strict", sandbox="strict", systemd={"service": {"ReadWritePaths": OUT}}),
        "script": {
            "schedule": "*/2 * * * * *",
            "script": f"#!/bin/sh -eu\nid -un >{OUT}/script.new; mv {OUT}/script.new {OUT}/script\n",
            "user": "tester",
        },
        "skipped": often("skipped", when={"path_exists": "/nonexistent"}),
        "fails": {
            "schedule": YEARLY,
            "command": ["sh", "-c", attempt, "attempt", "100% $x"],
            "retry": {"delay": "1s", "attempts": 2, "on_exit": [75]},
        },
    }
    write(machine, jobs)
    # Whatever the umask of who applies: scripts are for the users of jobs to read.
    machine.run(["sh", "-c", 'umask 077; python3 -m sdcron apply --transient "$1"', "apply", JOBS])
    for _ in ("as made", "as read again"):
        arrived_afresh(machine, ["argv", "user", "strict", "script"])
        argv = decoded(json.loads(machine.read(f"{OUT}/argv")))
        assert argv.argv == list(HOSTILE)
        assert {key: value for key, value in argv.environment.items() if key in jobs["argv"]["environment"]} == {
            f"V{number}": text for number, text in enumerate(HOSTILE)
        }
        user = decoded(json.loads(machine.read(f"{OUT}/user")))
        assert (user.rest["user"], user.rest["umask"], user.directory) == (
            machine._account("tester")[0],
            "0027",
            "/srv/100% $x",
        )
        assert machine.read(f"{OUT}/script") == "tester\n"
        machine.run(["systemctl", "start", "sdcron-fails.service"], status=1)
        until(lambda: "gave up after 2 retries" in said(machine, "fails"), 20, "the retries have given up")
        assert machine.read(f"{OUT}/attempts") == "100% $x\n" * 3
        assert machine.exists("/run/sdcron/retry/fails") is False
        machine.run(["journalctl", "--rotate", "--vacuum-time=1s"])
        machine.run(["systemctl", "daemon-reload"])
    assert machine.exists(f"{OUT}/skipped") is False
    # One that is due every other second may run just now.
    remove = ["remove", "--transient", "--yes", *jobs]
    until(lambda: machine.sdcron(*remove, status=None).returncode == 0, 30, "the jobs are removed")
    assert (in_memory(machine), files_left(machine)) == ([], [])


def said(machine: Machine, job: str) -> str:
    return "\n".join(str(entry.get("MESSAGE")) for entry in machine.journal(f"--identifier=sdcron-{job}"))


# Edits


def test_an_edit_or_a_restart_of_a_transient_job_runs_it_not(machine: Machine) -> None:
    now = datetime.now(UTC)
    old, new = (f"{now - timedelta(seconds=ago):%S %M %H} * * *" for ago in (60, 30))
    jobs = {
        name: {"schedule": old, "command": f"touch {RAN}/{name}"} for name in ("time", "command", "stopped", "same")
    }
    write(machine, jobs)
    forget_runs(machine)
    machine.sdcron("apply", "--transient", JOBS)
    machine.run(["systemctl", "stop", "sdcron-stopped.timer"])
    jobs["time"]["schedule"] = new
    jobs["command"]["command"] += " x"
    jobs["new"] = {"schedule": new, "command": f"touch {RAN}/new"}
    write(machine, jobs)
    with calls_to_systemd(machine) as calls:
        machine.sdcron("apply", "--transient", JOBS)
    assert sorted(calls) == [
        *(f"StartTransientUnit sdcron-{name}.timer" for name in ("command", "new", "stopped", "time")),
        *(f"StopUnit sdcron-{name}.timer" for name in ("command", "time")),
    ]
    assert has_run(machine) == []
    shown = {name: machine.show(f"sdcron-{name}.timer", "ActiveState")["ActiveState"] for name in jobs}
    assert shown == dict.fromkeys(jobs, "active")
    assert f"touch {RAN}/command x" in machine.show("sdcron-command.service", "ExecStart")["ExecStart"]


BUSY = {
    "runs": {"schedule": YEARLY, "command": f"sh -c 'touch {RAN}/runs; exec sleep 600'"},
    "waits": {"schedule": YEARLY, "command": "false", "retry": "1h"},
    "failed": {"schedule": YEARLY, "command": "false"},
    "idle": {"schedule": YEARLY, "command": "true"},
}


def test_a_transient_job_at_work_is_not_changed_nor_anything_with_it(machine: Machine) -> None:
    write(machine, BUSY)
    machine.sdcron("apply", "--transient", JOBS)
    machine.run(["systemctl", "start", "--no-block", "sdcron-runs.service"])
    machine.run(["systemctl", "start", "sdcron-waits.service"], status=1)
    machine.run(["systemctl", "start", "sdcron-failed.service"], status=1)
    until(lambda: machine.exists(f"{RAN}/runs"), 10, "the job runs")
    until(lambda: machine.show("sdcron-waits@retry-1.timer", "SubState")["SubState"] == "waiting", 10, "a retry waits")
    pid = machine.show("sdcron-runs.service", "MainPID")
    state = looks(machine), in_memory(machine)
    refusals = (("runs", "job runs runs now", "service"), ("waits", "a retry of job waits is waiting", "timer"))
    for name, message, kind in refusals:
        with calls_to_systemd(machine) as calls:
            write(machine, {**BUSY, name: {**BUSY[name], "umask": "077"}, "idle": {**BUSY["idle"], "umask": "077"}})
            refused = machine.sdcron("apply", "--transient", JOBS, status=4)
            assert message in refused.stderr
            assert "systemctl stop" in refused.stderr
            assert f".{kind}" in refused.stderr
            assert message in machine.sdcron("remove", "--transient", "--yes", name, "idle", status=4).stderr
        assert (calls, looks(machine), in_memory(machine)) == ([], *state)
    # Others go on beside them; a failed job can change and go.
    write(machine, {**BUSY, "failed": {**BUSY["failed"], "umask": "077"}})
    machine.sdcron("apply", "--transient", JOBS)
    assert machine.show("sdcron-failed.service", "UMask", "ActiveState") == {"UMask": "0077", "ActiveState": "inactive"}
    assert machine.show("sdcron-runs.service", "MainPID") == pid
    machine.run(["systemctl", "stop", "sdcron-runs.service", "sdcron-waits@retry-1.timer"])
    machine.run(["systemctl", "start", "sdcron-failed.service"], status=1)
    machine.sdcron("remove", "--transient", "--yes", *BUSY)
    assert (in_memory(machine), files_left(machine)) == ([], [])


# What is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "at-boot": ({"schedule": "@reboot"}, "@reboot: units made with --transient do not survive a boot"),
    "both": ({"schedule": ["@daily", "@reboot"]}, "@reboot: units made with --transient do not survive a boot"),
    "hand": ({}, "job hand has no schedule: nothing would keep a transient unit of it"),
    "unknown": (
        {"schedule": "@daily", "systemd": {"service": {"NUMAPolicy": "bind"}}},
        "sdcron-unknown.service: NUMAPolicy= in [Service] cannot be set on a transient unit",
    ),
    "specifier": (
        {"schedule": "@daily", "systemd": {"service": {"ReadWritePaths": "/srv/%j"}}},
        "sdcron-specifier.service: ReadWritePaths= in [Service]: the specifier %j is not known to transient units",
    ),
}


def test_what_cannot_be_transient_is_refused_by_name_and_nothing_changes(machine: Machine) -> None:
    jobs = {name: {"command": "true", **keys} for name, (keys, _) in REFUSED.items()}
    write(machine, {**jobs, "good": {"command": "true", "schedule": "@daily"}})
    refused = machine.sdcron("apply", "--transient", JOBS, status=3).stderr
    for name, (keys, message) in REFUSED.items():
        place = f"{JOBS}/{name}.yaml:1:" if keys else f"{JOBS}/{name}.yaml:"
        [told] = [line for line in refused.splitlines() if line.startswith(f"{JOBS}/{name}.yaml")]
        assert told.startswith(place)
        assert message in told
    assert "apply this job without --transient" in refused
    assert (in_memory(machine), files_left(machine)) == ([], [])


def test_a_job_is_transient_or_has_files_and_never_both(machine: Machine) -> None:
    write(machine, {"one": {"command": "true", "schedule": YEARLY}})
    machine.sdcron("apply", JOBS)
    state = looks(machine), in_memory(machine), files_left(machine)
    refused = machine.sdcron("apply", "--transient", JOBS, status=3).stderr
    assert "one.yaml: job one is there already without --transient" in refused
    assert "sdcron remove one" in refused
    assert (looks(machine), in_memory(machine), files_left(machine)) == state
    machine.sdcron("remove", "--yes", "one")

    machine.sdcron("apply", "--transient", JOBS)
    state = looks(machine), in_memory(machine), files_left(machine)
    refused = machine.sdcron("apply", JOBS, status=3).stderr
    assert "one.yaml: job one is there already with --transient" in refused
    assert "sdcron remove --transient one" in refused
    assert (looks(machine), in_memory(machine), files_left(machine)) == state
    machine.sdcron("remove", "--transient", "--yes", "one")
    machine.sdcron("apply", JOBS)


# Boots, and users


@pytest.mark.timeout(200)
def test_the_next_boot_knows_nothing_of_transient_jobs_of_root_or_of_a_user(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.start_user_manager()
    home = "/home/tester/jobs"
    attempts = "/home/tester/attempts"
    mine = {
        "mine": {"schedule": "*/2 * * * * *", "script": "id -un >~/ran; pwd >>~/ran\n"},
        "again": {
            "schedule": YEARLY,
            "command": ["sh", "-c", f"echo >>{attempts}; exit 1"],
            "retry": {"delay": "1s", "attempts": 1},
            "sandbox": "standard",
        },
    }
    machine.write(
        f"{home}/mine.yaml", "jobs:\n" + "".join(f"  {n}: {yaml(j)}\n" for n, j in mine.items()), owner="tester"
    )
    write(machine, {"roots": {"schedule": YEARLY, "command": "true", "retry": "5m"}, "other": BUSY["idle"]})
    machine.sdcron("apply", "--transient", JOBS)
    scope = ["--user", "--transient"]
    machine.sdcron("apply", *scope, home, user="tester")
    assert "nothing to do" in machine.sdcron("apply", *scope, home, user="tester").stdout
    until(lambda: machine.exists("/home/tester/ran"), 10, "the user's job has run")
    assert machine.read("/home/tester/ran") == "tester\n/home/tester\n"
    for _ in ("as made", "as read again"):
        machine.run(["sh", "-c", f"rm -f {attempts}"])
        machine.run(["systemctl", "--user", "start", "sdcron-again.service"], user="tester", status=1)
        until(lambda: machine.exists(attempts) and machine.read(attempts) == "\n\n", 10, "the user's job was retried")
        until(lambda: "gave up after 1 retries" in said(machine, "again"), 10, "the retries have given up")
        machine.run(["systemctl", "--user", "daemon-reload"], user="tester")
    listed = json.loads(machine.sdcron("list", "--json", *scope, user="tester").stdout)
    assert [job["job"] for job in listed] == ["again", "mine"]
    # The one is due every other second.
    assert (listed[0]["state"], listed[1]["state"] in ("waiting", "running")) == ("failed", True)
    listed = json.loads(machine.sdcron("list", "--json", "--transient").stdout)
    assert [(job["job"], job["state"]) for job in listed] == [("other", "waiting"), ("roots", "waiting")]
    assert [path for path in files_left(machine) if not path.startswith("/run/")] == []

    machine.poweroff()
    machine.boot()
    machine.start_user_manager()
    assert files_left(machine) == []
    assert in_memory(machine) == []
    assert (
        machine.run(["systemctl", "--user", "list-units", "--all", "--no-legend", "sdcron-*"], user="tester").stdout
        == ""
    )
    assert json.loads(machine.sdcron("list", "--json", "--transient").stdout) == []
    assert json.loads(machine.sdcron("list", "--json", *scope, user="tester").stdout) == []


# Faults

FIRST = {
    "command": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/command\nretry: {delay: 5m, attempts: 1}\n",
    "gone": "schedule: 0 3 1 1 *\nscript: touch /root/ran/gone\n",
}
SECOND = {
    "command": "schedule: 0 4 1 1 *\ncommand: touch /root/ran/command x\nretry: {delay: 6m, attempts: 1}\n",
    "new": "schedule: 0 9 1 1 *\ncommand: touch /root/ran/new\n",
}

#: Runs in the machine: fault_driver for transient units. Counts the calls to systemd, and the files in its directory.
DRIVER = """
from pathlib import Path
import json, sys
from sdcron.backends.systemd import SystemdBackend
from sdcron.paths import system_paths
from tests.faults import Trap
from tests.system import fault_driver as driver

def memory():
    backend, bus = SystemdBackend(), b"org.freedesktop.systemd1."
    try:
        known = {}
        for name, unit in backend.loaded().items():
            path = backend._encode_path(b"/org/freedesktop/systemd1/unit", name.encode())
            said = sorted(backend._property(path, bus + b"Unit", "Conflicts"))
            if name.endswith(".timer"):
                for kind in ("TimersCalendar", "TimersMonotonic"):
                    said += [row[:2] for row in backend._property(path, bus + b"Timer", kind)]
            else:
                said += [row[:2] for row in backend._property(path, bus + b"Service", "ExecStart")]
            known[name] = [unit.load, unit.active, repr(said)]
        return known
    finally:
        backend.close()

state, run = driver.state, driver.cli.run
driver.PATHS = system_paths().transient()
driver.ROOTS.append(Path("/run/systemd/transient"))
driver.Trap = lambda _roots, at, action: Trap(driver.ROOTS[-1:], at, action)
# NeedDaemonReload says nothing here: it speaks of files.
driver.state = lambda ran: {**state(ran), "loaded": memory()}
driver.cli.run = lambda arguments: run([*arguments, "--transient"])
driver.watch_systemd()
tour = driver.Tour(sys.argv[1], Path(sys.argv[2]))
tour.go(("/root/first", "/root/second"))
print(json.dumps({"problems": tour.problems, "steps": tour.steps}))
"""


@pytest.mark.timeout(200)
@pytest.mark.parametrize("fault", ["kill", "fail"])
def test_a_transient_apply_cut_off_at_any_call_is_undone_or_finished(machine: Machine, fault: str) -> None:
    write_jobs(machine, FIRST, "/root/first")
    write_jobs(machine, SECOND, "/root/second")
    forget_runs(machine)
    told = json.loads(machine.run(["python3", "-c", DRIVER, fault, RAN], timeout=150).stdout)
    assert told["problems"] == []
    assert told["steps"] > 30
