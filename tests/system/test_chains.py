"""`after` and `needs` on real systemd: edits, removals, power cuts. The rest is in the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.machine import until
from tests.system.jobs import JOBS, apply, start, states, yaml
from tests.system.records import shell

if TYPE_CHECKING:
    from tests.machine import Machine

TRUE = ["/bin/true"]
FALSE = ["/bin/false"]


def history(machine: Machine, job: str, user: str | None = None) -> list[tuple[str, str, str]]:
    """Trigger, outcome and reason of its runs, the oldest first."""
    done = machine.sdcron("history", "--json", *(["--user"] if user else []), "-n", "0", user=user)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [(run["trigger"], run["outcome"], run["reason"]) for run in found[::-1] if run["job"] == job]


def wait_for_runs(machine: Machine, job: str, count: int, user: str | None = None) -> list[tuple[str, str, str]]:
    """Its runs, once there are so many."""
    until(lambda: len(history(machine, job, user)) >= count, 30, f"{count} runs of {job}")
    return history(machine, job, user)


def quiet(machine: Machine) -> None:
    """Wait until nothing of sdcron's runs, or is about to."""
    command = [
        "sh",
        "-c",
        "systemctl list-jobs --no-legend 'sdcron-*'; systemctl list-units --no-legend --state=activating",
    ]
    until(lambda: "sdcron-" not in machine.run(command).stdout, 30, "nothing runs")


def files(machine: Machine) -> list[str]:
    """What of jobs is in the unit directory and among the tokens."""
    command = ["sh", "-c", "cd /etc/systemd/system && find . -name 'sdcron-*'; ls -R /var/lib/sdcron/graph 2>/dev/null"]
    own = ("./sdcron-collector.service", "./sdcron-boot.service")
    lines = machine.run(command, status=None).stdout.split()
    return sorted(line for line in lines if not line.endswith(own) and "target.wants" not in line)


def test_a_job_may_come_after_one_of_another_directory_that_goes_on_as_it_is(machine: Machine) -> None:
    apply(machine, {"first": {"schedule": "* * * * * *", "missed": "skip", "command": TRUE}})
    wait_for_runs(machine, "first", 1)
    properties = ("ActiveEnterTimestampMonotonic", "NeedDaemonReload")
    before = machine.show("sdcron-first.timer", *properties), machine.read("/etc/systemd/system/sdcron-first.service")
    machine.write("/srv/others/second.yaml", f"after: first\ncommand: {yaml(TRUE)}\n")
    machine.sdcron("apply", "/srv/others")
    assert wait_for_runs(machine, "second", 2)[:2] == [("after", "success", "")] * 2
    listed = [line.split() for line in machine.sdcron("list").stdout.splitlines()]
    assert ["second", "after", "first"] in [words[:3] for words in listed]
    assert "no times of its own: it runs after first" in machine.sdcron("next", "second").stderr
    assert "nothing to do" in machine.sdcron("plan", JOBS).stdout
    assert "nothing to do" in machine.sdcron("plan", "/srv/others").stdout
    assert "all as the job files say" in machine.sdcron("doctor", status=None).stdout
    machine.run(["rm", "/srv/others/second.yaml"])
    machine.sdcron("apply", "/srv/others")
    assert files(machine) == ["./sdcron-first.service", "./sdcron-first.timer"]
    after = machine.show("sdcron-first.timer", *properties), machine.read("/etc/systemd/system/sdcron-first.service")
    assert after == before
    quiet(machine)
    count = len(history(machine, "second"))
    wait_for_runs(machine, "first", len(history(machine, "first")) + 2)
    assert len(history(machine, "second")) == count


def test_an_edit_runs_nothing_and_a_removal_leaves_nothing(machine: Machine) -> None:
    two: dict[str, dict[str, Any]] = {"a": {"command": TRUE}, "b": {"command": TRUE}}
    apply(machine, {**two, "d": {"after": ["a", "b"], "command": TRUE}})
    start(machine, "a")
    quiet(machine)
    apply(machine, {**two, "d": {"after": ["a"], "command": TRUE}})
    quiet(machine)
    assert history(machine, "d") == []
    start(machine, "a")
    assert wait_for_runs(machine, "d", 1) == [("after", "success", "")]
    apply(machine, {**two, "d": {"after": ["a", "b"], "needs": ["b"], "command": TRUE}})
    start(machine, "a", "b")
    assert wait_for_runs(machine, "d", 2)[1:] == [("after", "success", "")]
    quiet(machine)
    apply(machine, {**two, "d": {"after": "a", "enabled": False, "command": FALSE}})
    start(machine, "a")
    quiet(machine)
    assert len(history(machine, "d")) == 2
    apply(machine, two)
    assert files(machine) == ["./sdcron-a.service", "./sdcron-b.service"]
    machine.sdcron("remove", "--yes", "a", "b")
    assert files(machine) == []
    loaded = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron-*"]).stdout
    assert loaded == ""


def test_what_was_asked_for_when_the_power_was_cut_runs_once_after_the_boot(fresh_machine: Machine) -> None:
    machine = fresh_machine
    jobs: dict[str, dict[str, Any]] = {
        "a": {"command": TRUE},
        "asked": {"after": "a", "command": TRUE},
        "about-to": {"after": "a", "command": TRUE},
        "not-yet": {"after": ["a", "asked"], "command": TRUE},
        "paused": {"after": "a", "command": TRUE},
        "no-path": {"after": "a", "command": TRUE, "when": {"path_exists": "/no/such"}},
    }
    apply(machine, jobs)
    machine.sdcron("pause", "paused")
    graph = "/var/lib/sdcron/graph"
    tokens = (
        f"cd {graph} && echo >asked/due && echo bad >about-to/a.end && echo ok >not-yet/a.end && echo >paused/due; sync"
    )
    start(machine, "a")
    assert wait_for_runs(machine, "no-path", 1)[0][:2] == ("after", "skipped")
    for name in ("asked", "about-to", "not-yet"):
        assert wait_for_runs(machine, name, 1) == [("after", "success", "")]
    quiet(machine)
    machine.run(["sh", "-c", tokens])
    machine.kill()
    machine.boot()
    assert wait_for_runs(machine, "asked", 2)[1:] == [("after", "success", "")]
    assert wait_for_runs(machine, "about-to", 2)[1:] == [("after", "skipped", "needs a")]
    # The second of the two has ended by that.
    assert wait_for_runs(machine, "not-yet", 2)[1:] == [("after", "success", "")]
    # It had been looked at.
    assert len(history(machine, "no-path")) == 1
    machine.sdcron("resume", "paused")
    machine.poweroff()
    machine.boot()
    start(machine, "a")
    for name in ("asked", "about-to"):
        assert wait_for_runs(machine, name, 3)[2:] == [("after", "success", "")]
    assert wait_for_runs(machine, "paused", 1) == [("after", "success", "")]


def mount(machine: Machine, what: str, kind: str) -> None:
    """Make a disk that can be mounted, or cannot."""
    machine.write("/etc/systemd/system/srv-disk.mount", f"[Mount]\nWhat={what}\nWhere=/srv/disk\nType={kind}\n")
    machine.run(["systemctl", "daemon-reload"])


def test_a_start_that_came_to_nothing_is_an_end_to_those_that_come_after(machine: Machine) -> None:
    mount(machine, "/no/such", "ext4")
    held = "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n"
    machine.write("/etc/systemd/system/held.service", held)
    jobs: dict[str, dict[str, Any]] = {
        "disk": {"when": {"mounts": "/srv/disk", "else": "wait"}, "command": TRUE},
        "beside-disk": {"command": TRUE},
        "after-disk": {"after": ["disk", "beside-disk"], "command": TRUE},
        "waits": {"when": {"units": "held.service", "else": "wait"}, "command": TRUE},
        "later": {"after": "waits", "command": TRUE},
        "retried": {"when": {"units": "held.service", "else": "wait"}, "retry": "1h", "command": TRUE},
        "after-retried": {"after": "retried", "command": TRUE},
    }
    apply(machine, jobs)
    for count in (1, 2):
        start(machine, "disk")
        start(machine, "beside-disk")
        assert wait_for_runs(machine, "after-disk", count)[-1] == ("after", "skipped", "needs disk")
    mount(machine, "tmpfs", "tmpfs")
    # Nothing of one round is left for the next.
    for count, (first, last) in enumerate((("disk", "beside-disk"), ("beside-disk", "disk")), 3):
        start(machine, first)
        quiet(machine)
        assert len(history(machine, "after-disk")) == count - 1
        start(machine, last)
        assert wait_for_runs(machine, "after-disk", count)[-1] == ("after", "success", "")
    machine.run(["systemctl", "stop", "srv-disk.mount"])
    # Nor is a start that somebody gives up.
    start(machine, "waits", "retried", wait=False)
    until(lambda: "sdcron-retried" in machine.run(["systemctl", "list-jobs"]).stdout, 30, "they wait")
    machine.sdcron("stop", "waits", "retried")
    assert wait_for_runs(machine, "later", 1) == [("after", "skipped", "needs waits")]
    assert wait_for_runs(machine, "after-retried", 1) == [("after", "skipped", "needs retried")]
    machine.run(["sh", "-c", "systemctl stop held.service; systemctl reset-failed held.service"])


def test_what_cannot_be_started_and_is_retried_has_ended_once_it_is_given_up(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "no-file": {"environment_file": "/no/such", "retry": {"delay": "500ms", "attempts": 2}, "command": TRUE},
        "after-no-file": {"after": "no-file", "command": TRUE},
    }
    apply(machine, jobs)
    start(machine, "no-file")
    assert wait_for_runs(machine, "after-no-file", 1) == [("after", "skipped", "needs no-file")]
    quiet(machine)
    assert [run[:2] for run in history(machine, "no-file")] == [("manual", "failure"), *[("retry", "failure")] * 2]
    assert len(history(machine, "after-no-file")) == 1


def test_another_job_to_come_after_is_no_end_while_the_one_before_runs(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "either-long": {"command": ["/bin/sleep", "600"]},
        "either-short": {"command": TRUE},
    }
    apply(machine, {**jobs, "after-either": {"after": "either-long", "command": TRUE}})
    start(machine, "either-long", wait=False)
    until(lambda: states(machine, "either-long")["either-long"].startswith("activating"), 20, "it runs")
    for names in (["either-short"], ["either-short", "either-long"], ["either-long", "either-short"], ["either-short"]):
        apply(machine, {**jobs, "after-either": {"after": names, "command": TRUE}})
    machine.sdcron("stop", "either-long")
    quiet(machine)
    assert history(machine, "after-either") == []
    start(machine, "either-short")
    assert wait_for_runs(machine, "after-either", 1) == [("after", "success", "")]


def test_a_run_that_had_no_time_to_tell_of_its_end_has_ended_all_the_same(machine: Machine) -> None:
    jobs: dict[str, dict[str, Any]] = {
        "hasty": {"command": TRUE, "stop_timeout": "1s"},
        "after-hasty": {"after": "hasty", "command": TRUE},
    }
    apply(machine, jobs)
    holder = ["systemd-run", "--quiet", "--collect", "--unit=holder", "flock", "/var/lib/sdcron/graph/after-hasty/lock"]
    machine.run([*holder, "sleep", "infinity"])
    start(machine, "hasty")
    until(lambda: history(machine, "hasty") != [], 30, "the run is over")
    machine.run(["systemctl", "stop", "holder.service"])
    assert wait_for_runs(machine, "after-hasty", 1) == [("after", "skipped", "needs hasty")]
    assert [run[1] for run in history(machine, "hasty")] == ["timeout"]
    start(machine, "hasty")
    assert wait_for_runs(machine, "after-hasty", 2)[1:] == [("after", "success", "")]


def test_a_users_own_jobs_have_chains_too(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.start_user_manager()
    jobs: dict[str, dict[str, Any]] = {
        "a": {"command": shell("[ -e ~/good ]"), "retry": {"delay": "300ms", "attempts": 1}},
        "b": {"after": "a", "command": TRUE, "sandbox": "strict"},
        "c": {"after": "b", "needs": "a", "command": TRUE, "sandbox": "standard"},
    }
    apply(machine, jobs, user="tester")
    start(machine, "a", user="tester")
    assert wait_for_runs(machine, "c", 1, "tester") == [("after", "skipped", "needs b, a")]
    machine.run(["touch", "/home/tester/good"], user="tester")
    start(machine, "a", user="tester")
    assert wait_for_runs(machine, "c", 2, "tester")[1:] == [("after", "success", "")]
    start(machine, "c", user="tester")
    assert wait_for_runs(machine, "c", 3, "tester")[2:] == [("manual", "skipped", "needs a")]
    machine.sdcron("remove", "--user", "--yes", *jobs, user="tester")
    left = machine.run(
        ["sh", "-c", "find ~/.config/systemd ~/.local/state/sdcron/graph -name 'sdcron-*'"], user="tester", status=None
    )
    assert left.stdout == ""
