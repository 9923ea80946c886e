"""sdcron's own units on a machine: there with the first job, gone with the last, confined, and in nobody's way.

What the collector does is tested elsewhere; here a program that does nothing stands in for it, but for its sandbox.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.machine import CHECKOUT_INSIDE, MachineError, until
from tests.system.jobs import JOBS, apply

if TYPE_CHECKING:
    from tests.machine import Machine

COLLECTOR = "sdcron-collector.service"
NAMES = ["sdcron-boot.service", COLLECTOR]
DAILY = {"command": "true", "schedule": "@daily"}
ETC = "/etc/systemd/system"
RUN = "/run/systemd/system"
HOME = "/home/tester/.config/systemd/user"


def stand_in(machine: Machine, directory: str = ETC, owner: str = "root") -> None:
    """Let the collector sleep: everything else of its unit stays."""
    text = "[Service]\nExecStart=\nExecStart=sleep infinity\n"
    machine.write(f"{directory}/{COLLECTOR}.d/stand-in.conf", text, owner=owner)


def files(machine: Machine) -> list[str]:
    """Files and links of sdcron's own units."""
    find = 'find /etc/systemd /run/systemd/system /home /run/user -name "*sdcron-boot*" -o -name "*sdcron-collector*"'
    found = machine.run(["sh", "-c", f"{find} | grep -v /units/ | grep -v service.d; exit 0"]).stdout
    return sorted(found.split())


def installed_in(directory: str, wanted_by: str = "multi-user.target") -> list[str]:
    """What `files` says of an applied job."""
    return sorted(f"{directory}/{place}{name}" for place in ("", f"{wanted_by}.wants/") for name in NAMES)


def look(machine: Machine) -> str:
    """Inode and times of the files, and the process of the collector."""
    stat = machine.run(["stat", "--format=%n %i %y %z", *files(machine)]).stdout
    return stat + str(machine.show(COLLECTOR, "MainPID", "InvocationID"))


def test_the_first_job_brings_them_the_last_one_takes_them_and_nothing_in_between_touches_them(
    machine: Machine,
) -> None:
    stand_in(machine)
    apply(machine, {"a": DAILY, "b": DAILY})
    assert files(machine) == installed_in(ETC)
    state = machine.show(COLLECTOR, "ActiveState", "UnitFileState", "NeedDaemonReload")
    assert state == {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    before = look(machine)
    apply(machine, {"a": DAILY, "b": {**DAILY, "command": "false"}})
    machine.sdcron("remove", "--yes", "a")
    assert look(machine) == before
    # Whatever somebody did to them, an apply that has nothing else to do makes right.
    machine.run(["systemctl", "stop", COLLECTOR])
    machine.run(["rm", f"{ETC}/multi-user.target.wants/{COLLECTOR}", f"{ETC}/sdcron-boot.service"])
    machine.write(f"{ETC}/{COLLECTOR}", "[Service]\nExecStart=false\n")
    apply(machine, {"b": {**DAILY, "command": "false"}})
    assert files(machine) == installed_in(ETC)
    assert machine.show(COLLECTOR, "ActiveState", "NeedDaemonReload") == {
        "ActiveState": "active",
        "NeedDaemonReload": "no",
    }
    machine.run(["touch", "/var/log/sdcron/record", "/var/lib/sdcron/runs/record"])
    machine.sdcron("remove", "--yes", "b")
    assert files(machine) == []
    machine.run(["rm", "-r", f"{ETC}/{COLLECTOR}.d"])
    machine.run(["systemctl", "daemon-reload"])
    loaded = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    assert loaded == ""
    assert machine.run(["ls", "/var/log/sdcron", "/var/lib/sdcron/runs"]).stdout.count("record") == 2
    assert machine.exists("/run/sdcron/apply.lock"), "the collector took the directory of all with it"


def works(machine: Machine) -> bool:
    """Whether the collector answers."""
    return machine.exists("/run/sdcron/collector/sync")


def test_the_real_ones_work_and_a_boot_brings_them_and_after_the_last_job_nothing_does(fresh_machine: Machine) -> None:
    machine = fresh_machine
    apply(machine, {"a": DAILY})
    until(lambda: works(machine), 20, "the collector works")
    machine.poweroff()
    machine.boot()
    until(lambda: works(machine), 20, "the collector works again")
    ended = "ConditionTimestampMonotonic", "ActiveState", "Result", "ExecMainStatus"
    until(lambda: machine.show(NAMES[0], *ended)["ActiveState"] == "inactive", 30, "what follows a boot is done")
    state = machine.show(NAMES[0], *ended)
    assert (state["Result"], state["ExecMainStatus"]) == ("success", "0")
    assert state["ConditionTimestampMonotonic"] != "0"
    assert machine.show(COLLECTOR, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    warnings = machine.journal("--priority=4", "_SYSTEMD_UNIT=" + COLLECTOR, "+", "_SYSTEMD_UNIT=" + NAMES[0])
    assert [entry["MESSAGE"] for entry in warnings] == []
    machine.sdcron("remove", "--yes", "a")
    loaded = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    assert (loaded, files(machine)) == ("", [])
    machine.poweroff()
    machine.boot()
    loaded = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    assert loaded == ""


def test_each_unit_is_confined_and_systemd_finds_nothing_wrong_with_it(machine: Machine) -> None:
    machine.start_user_manager()
    stand_in(machine)
    apply(machine, {"a": DAILY})
    apply(machine, {"u": DAILY}, user="tester")
    places = [*((ETC, name, None) for name in NAMES), *((HOME, name, "tester") for name in NAMES)]
    exposures = {}
    for directory, name, user in places:
        scope = ["--user"] if user else []
        for text in (f"{directory}/{name}", f"{CHECKOUT_INSIDE}/units/{'user/' if user else ''}{name}"):
            command = ["systemd-analyze", *scope, "security", "--offline=true", "--no-pager", text]
            told = machine.run(command, user=user).stdout
            exposures[text] = float(told.rpartition("Overall exposure level for ")[2].split()[1])
        verify = ["systemd-analyze", *scope, "--man=no", "verify", f"{directory}/{name}"]
        told = machine.run(verify, user=user, status=None).stderr
        assert [line for line in told.splitlines() if name in line] == []
    assert max(exposures.values()) <= 2.5, exposures
    machine.sdcron("remove", "--user", "--yes", "u", user="tester")


CHECK = r"""
import json, os, sqlite3, sys
from pathlib import Path
from systemd import journal
import sdcron.backends.systemd
def status(key):
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(key)][0]
database = sqlite3.connect(sys.argv[1] + "/test.db")
database.execute("PRAGMA journal_mode=wal")
database.execute("CREATE TABLE IF NOT EXISTS t (a)")
database.commit()
Path(sys.argv[2], "log").open("a").write("x\n")
Path(sys.argv[3]).mkdir(exist_ok=True) if "user" in sys.argv[3] else None
Path(sys.argv[3], "at").write_text("x")
try:
    Path("/var/tmp/x").write_text("x"), Path("/usr/x").write_text("x")
    strict = False
except OSError:
    strict = True
manager = sdcron.backends.systemd.SystemdBackend(user="user" in sys.argv[3])
print(json.dumps({
    "uid": os.geteuid(), "gid": os.getegid(), "capabilities": status("CapEff"), "bounding": status("CapBnd"),
    "entries": sum(1 for _ in journal.Reader()) > 10, "strict": strict, "jobs": bool(manager.active_timers()),
    "unit": Path(sys.argv[4]).exists(), "boot": os.environ["SDCRON_BOOT_ID"],
}), flush=True)
import time; time.sleep(10**6)
"""


def sandbox(machine: Machine, directory: str, places: list[str], user: str | None = None) -> dict[str, object]:
    """What a program finds in the collector's place."""
    machine.write("/opt/check.py", CHECK)
    drop_in = f"{directory}/{COLLECTOR}.d/stand-in.conf"
    command = " ".join(["python3", "/opt/check.py", *places])
    machine.write(drop_in, f"[Service]\nExecStart=\nExecStart={command}\n", owner=user or "root")
    scope = ["--user"] if user else []
    machine.run(["systemctl", *scope, "daemon-reload"], user=user)
    machine.run(["systemctl", *scope, "restart", COLLECTOR], user=user)
    invocation = machine.show(COLLECTOR, "InvocationID", user=user)["InvocationID"]
    said: list[str] = []

    def answered() -> bool:
        said[:] = [entry["MESSAGE"] for entry in machine.journal(f"_SYSTEMD_INVOCATION_ID={invocation}")]
        return any(line.startswith("{") for line in said)

    try:
        until(answered, 20, "the program tells what it finds")
    except MachineError as error:
        raise AssertionError("\n".join(said)) from error
    return dict(json.loads(next(line for line in said if line.startswith("{"))))


def test_the_collector_has_what_it_needs_and_is_nobody_or_the_user_of_its_name(machine: Machine) -> None:
    stand_in(machine)
    apply(machine, {"a": DAILY})
    places = ["/var/lib/sdcron/runs", "/var/log/sdcron", "/run/sdcron/collector", f"{ETC}/sdcron-a.service"]
    group = int(machine.run(["getent", "group", "systemd-journal"]).stdout.split(":")[2])
    none = "0" * 16
    expected: dict[str, object] = {
        "uid": 0, "gid": group, "capabilities": none, "bounding": none,
        "entries": True, "strict": True, "jobs": True, "unit": True, "boot": machine.journal("-n1")[0]["_BOOT_ID"],
    }  # fmt: skip
    assert sandbox(machine, ETC, places) == expected
    try:
        machine.run(["useradd", "--system", "--no-create-home", "sdcron"])
        apply(machine, {"a": DAILY})
        expected["uid"] = int(machine.run(["id", "-u", "sdcron"]).stdout)
        # What root's collector left now belongs to the user, and to those who may read the journal.
        assert sandbox(machine, ETC, places) == expected
        owners = machine.run(["stat", "--format=%U:%G %a", *places[:2], f"{places[0]}/test.db", f"{places[1]}/log"])
        assert owners.stdout.splitlines() == [*["sdcron:systemd-journal 750"] * 2, *["sdcron:systemd-journal 640"] * 2]
    finally:
        machine.run(["systemctl", "stop", COLLECTOR])
        machine.run(["userdel", "sdcron"], status=None)


def test_a_user_has_a_collector_too(machine: Machine) -> None:
    machine.start_user_manager()
    stand_in(machine, HOME, "tester")
    machine.run(["chown", "-R", "tester:", "/home/tester"])
    try:
        apply(machine, {"u": DAILY}, user="tester")
        assert files(machine) == installed_in(HOME, "default.target")
        state = "/home/tester/.local/state/sdcron"
        uid = int(machine.run(["id", "-u", "tester"]).stdout)
        machine.run(["mkdir", "-p", f"{state}/runs", f"{state}/log"], user="tester")
        places = [f"{state}/runs", f"{state}/log", f"/run/user/{uid}/sdcron/collector", f"{HOME}/sdcron-u.service"]
        found = sandbox(machine, HOME, places, "tester")
        assert found == {**found, "uid": uid, "strict": True, "entries": True, "jobs": True, "unit": True}
        assert (found["capabilities"], found["bounding"]) == ("0" * 16, "0" * 16)
    finally:
        machine.sdcron("remove", "--user", "--yes", "u", user="tester")
        machine.run(["rm", "-rf", f"{HOME}/{COLLECTOR}.d"])
    assert files(machine) == []
    loaded = machine.run(["systemctl", "--user", "list-units", "--all", "--no-legend", "sdcron-*"], user="tester")
    assert loaded.stdout == ""


def test_transient_jobs_have_a_collector_that_leaves_nothing_in_etc(machine: Machine) -> None:
    stand_in(machine, RUN)
    apply(machine, {"a": DAILY}, "--transient")
    assert files(machine) == sorted(f"{RUN}/{name}" for name in NAMES)
    before = look(machine)
    apply(machine, {"a": DAILY}, "--transient")
    assert look(machine) == before
    # With a job that stays it stays, and with that gone it is as it was.
    machine.write("/etc/sdcron/more/b.yaml", "command: /bin/true\n")
    machine.sdcron("apply", "/etc/sdcron/more")
    assert files(machine) == installed_in(ETC)
    apply(machine, {"a": DAILY}, "--transient")
    assert files(machine) == installed_in(ETC)
    machine.sdcron("remove", "--yes", "b")
    assert files(machine) == sorted(f"{RUN}/{name}" for name in NAMES)
    assert machine.show(COLLECTOR, "ActiveState") == {"ActiveState": "active"}
    machine.sdcron("remove", "--transient", "--yes", "a")
    assert files(machine) == []


def test_a_machine_without_the_journal_reader_or_with_a_broken_collector_gets_its_jobs_and_a_word(
    machine: Machine,
) -> None:
    machine.write("/tmp/shadow/systemd/__init__.py", "")
    machine.write(f"{JOBS}/a.yaml", "command: /bin/true\n")
    applied = machine.sdcron("apply", JOBS, env={"PYTHONPATH": f"/tmp/shadow:{CHECKOUT_INSIDE}"})
    assert applied.stdout == "+ add a\n1 added, 0 unchanged\n"
    [line] = applied.stderr.splitlines()
    assert line.startswith("sdcron: runs are not recorded: the Python package systemd is missing")
    assert "apt install python3-systemd" in line
    assert files(machine) == []
    machine.write(f"{ETC}/{COLLECTOR}.d/stand-in.conf", "[Service]\nExecStart=\nExecStart=/nowhere/sdcron\n")
    applied = machine.sdcron("apply", JOBS)
    assert applied.stdout == "nothing to do: 1 unchanged\n"
    [line] = applied.stderr.splitlines()
    assert line.startswith(f"sdcron: runs are not recorded: {COLLECTOR} does not start; see: journalctl -u")
    assert files(machine) == installed_in(ETC)
