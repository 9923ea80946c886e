"""The Debian package: built and looked at, installed, at work, upgraded, removed and purged, on every release."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT, CHECKOUT_INSIDE, until
from tests.packaged import FILES, Package, build, installed

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.rootfs import Release

_BUILT: dict[tuple[str, str], Package] = {}


def package_of(release: Release, version: str = "") -> Package:
    """Built once; with another version than the changelog's."""
    if (release.suite, version) not in _BUILT:
        _BUILT[release.suite, version] = build(release, version=version)
    return _BUILT[release.suite, version]


#: As it is for an administrator: nothing of the checkout, and Python keeps what it compiles where packages expect it.
PLAIN = {"PYTHONPATH": "", "PYTHONPYCACHEPREFIX": ""}


def sdcron(machine: Machine, *arguments: str, status: int | None = 0) -> str:
    """The packaged one."""
    return machine.run(["/usr/bin/sdcron", *arguments], env=PLAIN, status=status).stdout


def dpkg(machine: Machine, *arguments: str) -> None:
    """Installs, removes or purges."""
    machine.run(["dpkg", *arguments], env=PLAIN, timeout=120)


@pytest.mark.timeout(1800)
def test_whoever_builds_it_its_unit_tests_pass_and_it_is_the_same_bytes(release: Release) -> None:
    package = build(release, umask="027", zone="Pacific/Chatham", place="/var/other/place", user="tester", tested=True)
    assert package.content == package_of(release).content
    [summary] = re.findall(r"^\d+ passed.*$", package.log, re.MULTILINE)
    # Those of root are run by root outside.
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", package.log, re.MULTILINE)
    assert all("needs root" in reason for reason in reasons), reasons
    assert bool(reasons) == (" skipped" in summary)


@pytest.mark.timeout(900)
def test_it_builds_without_a_network_and_lintian_finds_nothing(release: Release) -> None:
    package = package_of(release)
    told = [line for line in package.lintian.splitlines() if re.match("[EW]: ", line)]
    assert told == [], package.lintian
    assert package.warnings == "", "man has no complaints about the pages"
    assert "dpkg-deb: building package" in package.log


@pytest.mark.timeout(600)
def test_it_installs_runs_a_job_and_tells_of_it(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        assert machine.run(["systemctl", "is-active", "sdcron-collector"], status=None).stdout == "inactive\n"
        machine.write("/etc/sdcron/jobs/often.yaml", "schedule: '* * * * * *'\ncommand: /bin/echo hello\n")
        machine.write("/etc/sdcron/jobs/by-hand.yaml", "command: /bin/sleep 600\n")
        assert "+ add often" in sdcron(machine, "apply", "/etc/sdcron/jobs")
        assert "sdcron-often.timer" in machine.run(["systemctl", "list-timers", "sdcron-*"]).stdout
        until(lambda: "hello" in sdcron(machine, "logs", "often"), 30, "it has run")
        # Its own units are the package's, and nothing of them is written anew.
        assert not machine.exists("/etc/systemd/system/sdcron-collector.service")
        collector = machine.show("sdcron-collector.service", "ActiveState", "FragmentPath", "User", "Group")
        path = collector.pop("FragmentPath")
        assert collector == {"ActiveState": "active", "User": "sdcron", "Group": "systemd-journal"}
        assert path.endswith("/lib/systemd/system/sdcron-collector.service")
        assert "all as the job files say" in sdcron(machine, "doctor", status=None)
        shipped = machine.run(["sh", "-c", "dpkg -L sdcron | grep '/systemd/system/.*[.]service$'"]).stdout.split()
        assert {path.rpartition("/")[2] for path in shipped} >= {"sdcron.service", "sdcron-collector.service"}
        for path in shipped:
            told = machine.run(["systemd-analyze", "--man=no", "verify", path], status=None).stderr
            assert [line for line in told.splitlines() if path.rpartition("/")[2] in line] == []
        for page in ("sdcron.1", "sdcron-job.1", "sdcron-job.5", "sdcron-engine.8", "sdcron-collector.8"):
            assert machine.exists(f"/usr/share/man/man{page[-1]}/{page}.gz"), page
        completion = (
            ". /usr/share/bash-completion/completions/sdcron; COMP_WORDS=(sdcron status of) COMP_CWORD=2; _sdcron; "
            'echo "${COMPREPLY[@]}"'
        )
        assert machine.run(["bash", "-c", completion], env=PLAIN).stdout == "often\n"
        # Its rule lets those who are in its group start and stop jobs, and nothing else.
        own = ["systemctl", "--no-ask-password", "restart", "sdcron-collector.service"]
        refused = ["/usr/bin/sdcron", "run", "by-hand"]
        assert machine.run(refused, env=PLAIN, user="tester", status=4).stdout == ""
        machine.run(["usermod", "-aG", "sdcron-operators", "tester"])
        machine.run(["systemctl", "restart", "polkit.service"])
        machine.run(["systemctl", "start", "--no-block", "sdcron-by-hand.service"], user="tester")
        machine.run(["systemctl", "stop", "sdcron-by-hand.service"], user="tester")
        assert machine.run(own, user="tester", status=None).returncode != 0
        tried = ["systemd-run", "--unit=sdcron-by-hand@x.service", "--wait", "/bin/touch", "/root/taken"]
        assert machine.run(tried, user="tester", status=None).returncode != 0
        assert not machine.exists("/root/taken")
        # Where no systemd runs, as in an image that is being made, the jobs go with it too.
        machine.poweroff()
        machine.run_off(["dpkg", "--remove", "sdcron"])
        assert [*(machine.disk / "etc/systemd/system").rglob("sdcron*")] == []


@pytest.mark.timeout(600)
def test_an_upgrade_lets_a_run_finish_and_keeps_what_is_on_record(release: Release) -> None:
    newer = package_of(release, "0.1.0+again")
    with installed(release, package_of(release)) as machine:
        wait = "echo begun; until [ -e /root/go ]; do sleep 0.1; done; echo over"
        machine.write("/etc/sdcron/jobs/long.yaml", f"command: [/bin/sh, -c, '{wait}']\n")
        sdcron(machine, "apply", "/etc/sdcron/jobs")
        run_id = sdcron(machine, "run", "long").strip()
        until(lambda: "begun" in sdcron(machine, "logs", "long"), 30, "it runs")
        before = machine.show("sdcron-collector.service", "InvocationID")
        path = Path("/var/tmp") / newer.name
        (machine.disk / str(path).lstrip("/")).write_bytes(newer.content)
        dpkg(machine, "--install", str(path))
        # The new program records from here on.
        assert machine.show("sdcron-collector.service", "ActiveState", "InvocationID") != before
        assert machine.show("sdcron-long.service", "ActiveState")["ActiveState"] == "activating"
        machine.run(["touch", "/root/go"])
        until(lambda: "long" in sdcron(machine, "history", "long"), 30, "it is over")
        [run] = json.loads(sdcron(machine, "history", "long", "--json", "--output"))
        assert (run["run_id"], run["outcome"], run["stdout"]) == (run_id, "success", "begun\nover\n")
        assert "nothing to do" in sdcron(machine, "plan", "/etc/sdcron/jobs")


@pytest.mark.timeout(600)
def test_removed_it_leaves_configuration_and_history_and_purged_nothing(release: Release) -> None:
    with installed(release, package_of(release), "/var/tmp/before") as machine:
        machine.write("/etc/sdcron/jobs/often.yaml", "schedule: '* * * * * *'\ncommand: /bin/echo hello\n")
        machine.write("/srv/jobs/other.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        sdcron(machine, "apply", "/etc/sdcron/jobs")
        sdcron(machine, "apply", "/srv/jobs")
        machine.write("/srv/this-boot/passing.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        sdcron(machine, "apply", "--transient", "/srv/this-boot")
        until(lambda: "hello" in sdcron(machine, "logs", "often"), 30, "it has run")
        dpkg(machine, "--remove", "sdcron")
        assert "sdcron-" not in machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend"]).stdout
        units = ["sh", "-c", "find /etc/systemd /run/systemd/system -name 'sdcron*'"]
        assert machine.run(units).stdout == ""
        for kept in ("/etc/sdcron/jobs/often.yaml", "/var/lib/sdcron/runs/runs.db", "/var/log/sdcron/job_status.log"):
            assert machine.exists(kept), kept
        dpkg(machine, "--purge", "sdcron")
        machine.run(["rm", "-r", "/etc/sdcron/jobs", "/srv/jobs", "/srv/this-boot"])
        machine.run(["sh", "-c", "rmdir /etc/sdcron 2>/dev/null || :"])
        left = machine.run(["sh", "-c", f"{FILES} | comm -13 /var/tmp/before -"]).stdout
        assert left == ""


@pytest.mark.timeout(600)
def test_the_tests_that_the_distribution_runs_of_it_pass(release: Release) -> None:
    control = (CHECKOUT / "debian/tests/control").read_text(encoding="utf-8")
    names = re.findall(r"^Tests: (\S+)$", control, re.MULTILINE)
    assert {path.name for path in (CHECKOUT / "debian/tests").iterdir()} == {"control", *names}
    with installed(release, package_of(release)) as machine:
        for name in names:
            ended = machine.run([f"{CHECKOUT_INSIDE}/debian/tests/{name}"], env=PLAIN, timeout=240, status=None)
            assert ended.returncode == 0, f"{name}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
