"""Apply on a booted machine: twice, beside what is not ours, removing, at once, refused, offline, for a user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.machine import Machine, until
from tests.system.watch import (
    JOBS,
    RAN,
    anything_of,
    calls_to_systemd,
    forget_runs,
    has_run,
    looks,
    units_in_memory,
    write_jobs,
)

#: Of every kind; none is due by itself.
ALL_KINDS = {
    "daily": f"schedule: 0 3 1 1 *\ncommand: touch {RAN}/daily\n",
    "plain": f"schedule: 0 3 1 1 *\ncommand: touch {RAN}/plain\nmissed: skip\n",
    "script": f"schedule: 0 3 1 1 *\nscript: touch {RAN}/script\n",
    "retried": "schedule: 0 3 1 1 *\ncommand: 'false'\nretry: {delay: 1h, attempts: 2}\n",
    "failed": "schedule: 0 3 1 1 *\ncommand: 'false'\n",
    "running": "schedule: 0 3 1 1 *\ncommand: sleep 600\n",
    "at-boot": f"schedule: '@reboot'\ncommand: touch {RAN}/at-boot\n",
    "at-boot-too": f"schedule: ['@reboot', 0 3 1 1 *]\ncommand: touch {RAN}/at-boot-too\n",
    "by-hand": f"command: touch {RAN}/by-hand\n",
    "off": f"schedule: 0 3 1 1 *\ncommand: touch {RAN}/off\nenabled: false\n",
}


def edited(text: str) -> str:
    """The same job, an hour later and with a new description."""
    return text.replace("0 3 1 1", "0 4 1 1") + "description: edited\n"


def make_busy(machine: Machine) -> None:
    """Let one job run, one fail, and one wait for a retry."""
    units = [f"sdcron-{name}.service" for name in ("running", "failed", "retried")]
    machine.run(["systemctl", "start", "--no-block", *units])
    until(
        lambda: (
            machine.show(units[0], "ActiveState")["ActiveState"] == "activating"
            and machine.show(units[1], "ActiveState")["ActiveState"] == "failed"
            and machine.show("sdcron-retried@retry-1.timer", "ActiveState")["ActiveState"] == "active"
        ),
        10,
        "one job runs, one has failed, one waits",
    )


def test_a_second_apply_writes_nothing_and_tells_systemd_nothing(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    assert "10 added" in machine.sdcron("apply", JOBS).stdout
    before = looks(machine)
    assert sum(path.endswith((".timer", ".service")) for path in before) > 20
    with calls_to_systemd(machine) as calls:
        assert machine.sdcron("apply", JOBS).stdout == "nothing to do: 10 unchanged\n"
        # However the directory is called, and whatever the last apply wrote down.
        script = "cd /etc/sdcron && python3 -m sdcron apply ./jobs/ && ln -s jobs link && python3 -m sdcron apply link"
        assert machine.run(["sh", "-c", script]).stdout.count("nothing to do") == 2
        assert machine.sdcron("plan", "--check", JOBS).stdout == "nothing to do: 10 unchanged\n"
    assert calls == []
    assert looks(machine) == before
    machine.run(["sh", "-c", "rm /var/lib/sdcron/applied.json; systemctl daemon-reload"])
    before = {path: look for path, look in looks(machine).items() if "sdcron-" in path}
    with calls_to_systemd(machine) as calls:
        assert machine.sdcron("apply", JOBS).stdout == "nothing to do: 10 unchanged\n"
    assert calls == []
    assert {path: look for path, look in looks(machine).items() if "sdcron-" in path} == before


def test_editing_adding_and_removing_idle_jobs_needs_no_reload_and_held_ones_need_one(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    with calls_to_systemd(machine) as added:
        machine.sdcron("apply", JOBS)
    machine.run(["systemctl", "start", "sdcron-failed.service"], status=None)
    now = {name: edited(text) for name, text in ALL_KINDS.items() if name not in ("script", "running")}
    now |= {"running": ALL_KINDS["running"], "new": ALL_KINDS["daily"]}
    write_jobs(machine, now)
    with calls_to_systemd(machine) as changed:
        assert "1 added, 8 changed, 1 removed" in machine.sdcron("apply", JOBS).stdout
    assert "StartUnit sdcron-daily.timer" in changed
    # A job that runs, and whose own text does not change.
    machine.run(["systemctl", "start", "--no-block", "sdcron-running.service"])
    now = {**now, "running": ALL_KINDS["running"].replace("0 3", "0 4")}
    write_jobs(machine, now)
    with calls_to_systemd(machine) as running:
        machine.sdcron("apply", JOBS)
    assert machine.show("sdcron-running.service", "ActiveState")["ActiveState"] == "activating"
    assert "Reload" not in [*added, *changed, *running]
    # Any number of changes, one reload; and only the changed ones are touched.
    machine.run(["systemctl", "daemon-reload"])
    write_jobs(machine, {**ALL_KINDS, "new": ALL_KINDS["daily"]})
    with calls_to_systemd(machine) as held:
        machine.sdcron("apply", JOBS)
    assert held.count("Reload") == 1
    assert not [call for call in held if "new" in call]


FOREIGN = {
    "/etc/systemd/system/sdcron-mine.service": "[Service]\nExecStart=/bin/true\n",
    "/etc/systemd/system/sdcron-mine.timer": "[Timer]\nOnCalendar=*-01-01\n[Install]\nWantedBy=timers.target\n",
    "/etc/systemd/system/cron-root-root-0.service": "[Service]\nExecStart=/bin/true\n",
    "/etc/systemd/system/cron-root-root-0.timer": "[Timer]\nOnCalendar=*-01-01\nPersistent=true\n",
    "/usr/lib/systemd/system/sdcron-vendor.service": "[Service]\nExecStart=/bin/true\n",
    "/etc/systemd/system/sdcron-daily.service.d/override.conf": "[Service]\nEnvironment=FROM=override\nNice=7\n",
    "/etc/systemd/system/sdcron-daily.timer.d/override.conf": "[Timer]\nAccuracySec=7s\n",
}


def remove_foreign(machine: Machine) -> None:
    machine.run(["systemctl", "stop", "sdcron-mine.timer", "cron-root-root-0.timer"], status=None)
    machine.run(["rm", *FOREIGN])


LOOK_AT_FOREIGN = 'for file; do stat -c "%n %i %s %Y %Z %y %z %a" "$file"; sha256sum "$file"; done'


def test_what_is_not_of_this_directory_stays_to_the_byte_and_drop_ins_are_in_force(machine: Machine) -> None:
    other = {"theirs": f"schedule: 0 3 1 1 *\nscript: touch {RAN}/theirs\nretry: 5m\n"}
    write_jobs(machine, other, "/etc/sdcron/other")
    machine.sdcron("apply", "/etc/sdcron/other")
    write_jobs(machine, ALL_KINDS)
    machine.sdcron("apply", JOBS)
    machine.write_files(FOREIGN)
    # What `systemctl edit` ends with.
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "sdcron-mine.timer", "cron-root-root-0.timer"])
    theirs = machine.run(["find", "/etc/systemd/system", "/var/lib/sdcron/scripts", "-name", "*theirs*"]).stdout.split()
    assert len(theirs) > 6
    watched = [*FOREIGN, *theirs, "/var/lib/systemd/timers/stamp-sdcron-theirs.timer"]
    before = machine.run(["sh", "-c", LOOK_AT_FOREIGN, "look", *watched]).stdout
    for jobs in ({name: edited(text) for name, text in ALL_KINDS.items()}, {"daily": ALL_KINDS["daily"]}):
        write_jobs(machine, jobs)
        machine.sdcron("apply", JOBS)
        shown = machine.show("sdcron-daily.service", "Nice", "Environment", "DropInPaths")
        assert (shown["Nice"], shown["Environment"]) == ("7", "FROM=override")
        assert machine.show("sdcron-daily.timer", "AccuracyUSec")["AccuracyUSec"] == "7s"
    write_jobs(machine, {})
    machine.sdcron("apply", JOBS)
    assert machine.run(["sh", "-c", LOOK_AT_FOREIGN, "look", *watched]).stdout == before
    for timer in ("sdcron-mine.timer", "cron-root-root-0.timer", "sdcron-theirs.timer"):
        assert machine.show(timer, "ActiveState")["ActiveState"] == "active"
    remove_foreign(machine)


@pytest.mark.parametrize("how", ["apply", "remove"])
def test_a_removed_job_leaves_no_file_link_stamp_or_state_whatever_it_was_doing(machine: Machine, how: str) -> None:
    write_jobs(machine, {**ALL_KINDS, "stays": ALL_KINDS["daily"]})
    machine.sdcron("apply", JOBS)
    machine.run(["systemctl", "start", "sdcron-daily.service"])
    make_busy(machine)
    if how == "apply":
        write_jobs(machine, {"stays": ALL_KINDS["daily"]})
        assert "10 removed" in machine.sdcron("apply", JOBS).stdout
    else:
        machine.sdcron("remove", "--yes", *ALL_KINDS)
    assert anything_of(machine, *ALL_KINDS) == []
    # The run that was on goes on to its end: a removed job is not a stopped one.
    in_memory = units_in_memory(machine)
    assert {name for name, state in in_memory.items() if state[1] != "inactive"} == {
        "sdcron-running.service",
        "sdcron-stays.timer",
    }
    machine.run(["systemctl", "stop", "sdcron-running.service"])
    until(
        lambda: set(units_in_memory(machine)) <= {"sdcron-stays.timer", "sdcron-stays.service"}, 10, "it is forgotten"
    )
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout.count("sdcron-") == 0
    assert anything_of(machine, *ALL_KINDS) == []


def test_a_run_that_outlives_its_job_and_fails_is_forgotten_by_the_next_apply(machine: Machine) -> None:
    write_jobs(machine, {"long": "command: sleep infinity\n", "stays": ALL_KINDS["daily"]})
    machine.sdcron("apply", JOBS)
    machine.run(["systemctl", "start", "--no-block", "sdcron-long.service"])
    until(lambda: units_in_memory(machine)["sdcron-long.service"][2] == "start", 10, "it runs")
    machine.sdcron("remove", "--yes", "long")
    machine.run(["rm", f"{JOBS}/long.yaml"])
    machine.run(["systemctl", "kill", "--signal=KILL", "sdcron-long.service"])
    gone = ["not-found", "failed", "failed"]
    until(lambda: units_in_memory(machine).get("sdcron-long.service") == gone, 10, "it has failed")
    assert "nothing to do" in machine.sdcron("apply", JOBS).stdout
    assert "sdcron-long.service" not in units_in_memory(machine)


def test_a_name_of_another_directory_or_of_a_foreign_unit_is_refused_and_nothing_changes(machine: Machine) -> None:
    write_jobs(machine, {"taken": ALL_KINDS["daily"]}, "/etc/sdcron/other")
    machine.sdcron("apply", "/etc/sdcron/other")
    machine.write_files(FOREIGN)
    before = looks(machine)
    new = ALL_KINDS["daily"]
    write_jobs(machine, {"taken": new, "mine": new, "vendor": new, "good": new})
    with calls_to_systemd(machine) as calls:
        told = machine.sdcron("apply", JOBS, status=3).stderr
    assert "job taken is applied already from /etc/sdcron/other/taken.yaml" in told
    assert "unit sdcron-mine.service exists and is not sdcron's" in told
    assert "sdcron-vendor.service" in told
    assert calls == []
    assert looks(machine) == before
    remove_foreign(machine)


# Two at once, and where it cannot work

#: Runs the command with a lock that is waited for half a second, and not half a minute.
IMPATIENT = """
import sys
from sdcron import cli, operations
operations.LOCK_WAIT_SECONDS = 0.5
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("missed", ["run", "skip"])
def test_a_run_that_is_due_and_need_not_have_begun_yet_is_not_lost_by_an_edit(machine: Machine, missed: str) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
    schedule = f"schedule: '{due:%S %M %H} * * *'\naccuracy: 30m\nmissed: {missed}\n"
    write_jobs(machine, {"late": f"{schedule}command: touch {RAN}/late\n"})
    forget_runs(machine)
    machine.sdcron("apply", JOBS)
    machine.write(f"{JOBS}/late.yaml", f"{schedule}command: sh -c 'echo >>{RAN}/late'\n")
    # In the machine, so that nothing wakes systemd before.
    wait = f"until [ $(date +%s) -gt {due.timestamp():.0f} ]; do sleep 0.1; done"
    assert datetime.now(UTC) < due
    applied = machine.run(["sh", "-c", f"{wait}; exec python3 -m sdcron apply {JOBS}"]).stdout
    assert "1 changed" in applied
    assert has_run(machine) == ["late"]
    assert machine.read(f"{RAN}/late") in ("", "\n")


def test_of_two_applies_at_once_one_waits_and_gives_up_in_the_end(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    write_jobs(machine, {"theirs": ALL_KINDS["daily"]}, "/etc/sdcron/other")
    both = "python3 -m sdcron apply /etc/sdcron/other & python3 -m sdcron apply /etc/sdcron/jobs && wait $!"
    assert machine.run(["sh", "-c", both]).stdout.count("0 unchanged") == 2
    assert len(machine.sdcron("list").stdout.splitlines()) == len(ALL_KINDS) + 1
    write_jobs(machine, {})
    before = looks(machine)
    held = ["flock", "/run/sdcron/apply.lock", "python3", "-c", IMPATIENT, "apply", JOBS]
    for arguments in (["apply", JOBS], ["remove", "--yes", "daily"]):
        told = machine.run([*held[:5], *arguments], status=6)
        assert "another sdcron apply" in told.stderr
        assert "fuser /run/sdcron/apply.lock" in told.stderr
    assert looks(machine) == before


def test_without_permission_or_systemd_nothing_changes_and_what_to_do_is_said(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    machine.sdcron("apply", JOBS)
    jobs = {name: edited(text) for name, text in ALL_KINDS.items()}
    machine.write_files({f"/tmp/jobs/{name}.yaml": text for name, text in jobs.items()})
    before = looks(machine)
    for arguments in (["apply", "/tmp/jobs"], ["apply", JOBS], ["remove", "--yes", "daily"]):
        told = machine.sdcron(*arguments, user="tester", status=4).stderr
        assert "no permission" in told
        assert "run it as root (sudo), or manage your own jobs with --user" in told
    # Looking is allowed.
    assert "nothing to do" in machine.sdcron("plan", JOBS, user="tester").stdout
    assert "daily" in machine.sdcron("list", user="tester").stdout
    for bus in ("unix:path=/nowhere", "nonsense"):
        told = machine.sdcron("apply", JOBS, env={"DBUS_SYSTEM_BUS_ADDRESS": bus}, status=4).stderr
        assert "systemd does not answer on this machine" in told
        assert "sdcron compile PATH -o DIR" in told
    hidden = "mount -t tmpfs tmpfs /run && exec python3 -m sdcron apply /etc/sdcron/jobs"
    told = machine.run(["unshare", "--mount", "sh", "-c", hidden], status=4).stderr
    assert "systemd does not answer on this machine" in told
    told = machine.sdcron("apply", "--user", "/tmp/jobs", user="nobody", status=4).stderr
    assert "no systemd user manager answers" in told
    assert "loginctl enable-linger" in told
    assert looks(machine) == before


BAD = {
    "calendar": "schedule: ['0 3 1 1 *', 'Mon *-*-* 25:00']\ncommand: 'true'\n",
    "passed": "schedule: 0 3 1 1 *\ncommand: 'true'\nsystemd: {timer: {OnCalendar: nonsense}}\n",
    "unknown": "schedule: 0 3 1 1 *\ncommand: 'true'\nsystemd: {service: {NoSuchThing: 1}}\n",
    "never": "schedule: 0 0 31 2 *\ncommand: 'true'\n",
    "key": "schedul: 0 3 1 1 *\ncommand: 'true'\n",
    "yaml": "schedule: [\n",
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_file_among_good_ones_changes_nothing(machine: Machine, name: str) -> None:
    write_jobs(machine, ALL_KINDS)
    machine.sdcron("apply", JOBS)
    before = looks(machine)
    good = {name: edited(text) for name, text in ALL_KINDS.items()}
    write_jobs(machine, {**good, f"bad-{name}": BAD[name], "new": ALL_KINDS["daily"]})
    with calls_to_systemd(machine) as calls:
        told = machine.sdcron("apply", JOBS, status=3).stderr
    assert f"bad-{name}.yaml:" in told
    assert "nothing was changed" in told
    assert calls == []
    assert looks(machine) == before


NEWER = "find / -xdev -newer /root/mark ! -path '/proc/*'; find /run /tmp -newer /root/mark; exit 0"


def test_apply_below_a_root_writes_only_there_and_asks_no_bus(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    machine.sdcron("validate", JOBS)
    machine.run(["sh", "-c", "rm -rf /srv/image; mkdir -p /srv/image/etc; touch /root/mark; sleep 0.05"])
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
    before = looks(machine)
    with calls_to_systemd(machine) as calls:
        assert "10 added" in machine.sdcron("apply", "--root", "/srv/image", JOBS, env=nowhere).stdout
        assert "nothing to do" in machine.sdcron("apply", "--root", "/srv/image", JOBS, env=nowhere).stdout
        assert "daily" in machine.sdcron("list", "--root", "/srv/image", env=nowhere).stdout
        write_jobs(machine, {name: edited(text) for name, text in ALL_KINDS.items() if name != "script"})
        machine.sdcron("apply", "--root", "/srv/image", JOBS, env=nowhere)
    assert calls == []
    assert looks(machine) == before
    allowed = ("/srv/image", "/etc/sdcron", "/root", "/tmp/pycache", "/var/log/", "/run/log/", "/run/systemd/journal")
    newer = [path for path in machine.run(["sh", "-c", NEWER]).stdout.splitlines() if "sdcron" in path]
    assert [path for path in newer if not path.startswith(allowed)] == []
    # Whole: what the image will run when it boots.
    wants = machine.run(["ls", "/srv/image/etc/systemd/system/timers.target.wants"]).stdout.split()
    assert len(wants) == 8
    machine.sdcron("remove", "--yes", "--root", "/srv/image", *(name for name in ALL_KINDS if name != "script"))
    left = machine.run(["find", "/srv/image", "!", "-type", "d", "!", "-name", "apply.lock"]).stdout.split()
    assert [path for path in left if not path.endswith("/applied.json")] == []


# Disks that are full


def test_a_full_disk_restores_everything(machine: Machine) -> None:
    write_jobs(machine, ALL_KINDS)
    machine.sdcron("apply", JOBS)
    # The collector writes its record whenever it has something to.
    files = "find /etc/systemd /var/lib/sdcron /run/sdcron -path /var/lib/sdcron/runs -prune -o -type f"
    files += " ! -name apply.lock -print | sort | xargs sha256sum"
    # A script and many units: more than either of the small disks has room for.
    more = {f"more-{number}": f"{ALL_KINDS['daily']}description: {'x' * 3000}\n" for number in range(100)}
    big = f"schedule: 0 3 1 1 *\nscript: |\n  # {'x' * 300_000}\n"
    jobs = {name: edited(text) for name, text in ALL_KINDS.items() if name != "failed"}
    for directory, full in (("/etc/systemd/system", {**jobs, **more}), ("/var/lib/sdcron", {**jobs, "big": big})):
        small = (
            'cp -a "$1" /tmp/copy && mount -t tmpfs -o size=280k tmpfs "$1" && cp -a /tmp/copy/. "$1"; rm -r /tmp/copy'
        )
        machine.run(["sh", "-c", small, "small", directory])
        try:
            before = machine.run(["sh", "-c", files]).stdout, units_in_memory(machine)
            write_jobs(machine, full)
            told = machine.sdcron("apply", JOBS, status=1).stderr
            assert "No space left on device" in told
            assert "free space" in told
            assert (machine.run(["sh", "-c", files]).stdout, units_in_memory(machine)) == before
        finally:
            machine.run(["umount", directory])
    write_jobs(machine, jobs)
    assert "removed" in machine.sdcron("apply", JOBS).stdout


# Users, and boots


def test_a_user_applies_lists_and_removes_jobs_of_their_own_and_nothing_is_left(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.start_user_manager()
    home = "/home/tester"
    jobs = {
        name: text.replace(RAN, f"{home}/ran") for name, text in ALL_KINDS.items() if name not in ("running", "failed")
    }
    machine.write_files({f"{home}/jobs/{name}.yaml": text for name, text in jobs.items()}, owner="tester")
    machine.run(["chown", "-R", "tester:", home])
    script = 'cd && find . /run/user/*/ -path "*sdcron*" ! -path "*/jobs*" -o -path "*systemd/user/*" | sort'
    untouched = looks(machine)
    assert "8 added" in machine.sdcron("apply", "--user", f"{home}/jobs", user="tester").stdout
    assert "sdcron-daily.timer" in machine.run(["systemctl", "--user", "list-timers", "--all"], user="tester").stdout
    assert machine.sdcron("apply", "--user", f"{home}/jobs", user="tester").stdout == "nothing to do: 8 unchanged\n"
    assert len(machine.sdcron("list", "--user", user="tester").stdout.splitlines()) == 8
    machine.run(["systemctl", "--user", "start", "sdcron-retried.service"], user="tester", status=None)
    files = {f"{home}/jobs/{name}.yaml": edited(text) for name, text in jobs.items()}
    machine.write_files(files, owner="tester")
    assert "8 changed" in machine.sdcron("apply", "--user", f"{home}/jobs", user="tester").stdout
    machine.sdcron("remove", "--user", "--yes", *jobs, user="tester")
    left = machine.run(["sh", "-c", script], user="tester").stdout.split()
    kept = (
        "/sdcron",
        "/scripts",
        "/retry",
        "/applied-this-boot",
        "/apply.lock",
        "/applied.json",
        "/timers.target.wants",
    )
    recorded = ("./.local/state/sdcron/runs", "./.local/state/sdcron/log")
    assert [path for path in left if not path.endswith(kept) and not path.startswith(recorded)] == []
    assert "sdcron-" not in machine.run(["systemctl", "--user", "list-units", "--all"], user="tester").stdout
    assert looks(machine) == untouched


@pytest.mark.timeout(150)
def test_a_job_at_boot_runs_once_at_the_next_boot_and_at_no_edit_reload_or_restart(fresh_machine: Machine) -> None:
    machine = fresh_machine
    jobs = {
        "boot-a": f"schedule: '@reboot'\ncommand: sh -c 'echo >>{RAN}/boot-a'\n",
        "boot-b": f"schedule: ['@reboot', 0 3 1 1 *]\ncommand: sh -c 'echo >>{RAN}/boot-b'\n",
        "boot-off": f"schedule: '@reboot'\ncommand: touch {RAN}/boot-off\nenabled: false\n",
        "boot-gone": f"schedule: '@reboot'\ncommand: touch {RAN}/boot-gone\n",
    }
    shake = "systemctl daemon-reload; systemctl restart timers.target; systemctl isolate --no-block default.target"

    def nothing_runs() -> None:
        machine.run(["sh", "-c", shake])
        assert has_run(machine) == []

    write_jobs(machine, jobs)
    machine.sdcron("apply", JOBS)
    nothing_runs()
    jobs = {name: f"{text}description: edited\n" for name, text in jobs.items() if name != "boot-gone"}
    write_jobs(machine, jobs)
    machine.sdcron("apply", JOBS)
    nothing_runs()
    assert anything_of(machine, "boot-gone") == []
    for how in (machine.poweroff, machine.kill):
        how()
        machine.boot()
        until(lambda: machine.run(["ls", RAN]).stdout.split() == ["boot-a", "boot-b"], 20, "they run at boot")
        machine.run(["sh", "-c", shake])
        assert has_run(machine) == ["boot-a", "boot-b"]
        assert machine.read(f"{RAN}/boot-a") + machine.read(f"{RAN}/boot-b") == "\n\n"
        forget_runs(machine)
    jobs = {name: text.replace("edited", "again") for name, text in jobs.items()}
    jobs["boot-off"] = jobs["boot-off"].replace("enabled: false", "enabled: true")
    write_jobs(machine, jobs)
    assert "3 changed" in machine.sdcron("apply", JOBS).stdout
    nothing_runs()
    machine.sdcron("remove", "--yes", *jobs)
    nothing_runs()
    assert anything_of(machine, *jobs) == []
    assert units_in_memory(machine) == {}


def test_a_boot_run_that_is_still_to_come_is_kept_by_an_edit_and_dropped_by_disabling(fresh_machine: Machine) -> None:
    machine = fresh_machine
    jobs = {name: f"schedule: '@reboot'\nspread: 2h\ncommand: touch {RAN}/{name}\n" for name in ("edited", "disabled")}
    write_jobs(machine, jobs)
    machine.sdcron("apply", JOBS)
    machine.poweroff()
    machine.boot()
    assert [machine.show(f"sdcron-{name}.timer", "SubState")["SubState"] for name in jobs] == ["waiting", "waiting"]
    due = machine.show("sdcron-edited.timer", "NextElapseUSecMonotonic")
    write_jobs(machine, {name: f"{text}description: x\n" for name, text in jobs.items()})
    machine.sdcron("apply", JOBS)
    assert machine.show("sdcron-edited.timer", "SubState")["SubState"] == "waiting"
    assert machine.show("sdcron-edited.timer", "NextElapseUSecMonotonic") == due
    write_jobs(machine, {"edited": jobs["edited"], "disabled": jobs["disabled"] + "enabled: false\n"})
    machine.sdcron("apply", JOBS)
    assert machine.show("sdcron-edited.timer", "SubState", "NeedDaemonReload") == {
        "SubState": "waiting",
        "NeedDaemonReload": "no",
    }
    assert machine.show("sdcron-disabled.timer", "SubState")["SubState"] == "dead"
    assert has_run(machine) == []
