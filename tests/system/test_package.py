"""The Debian package: built and looked at, installed, at work, upgraded, removed and purged, on every release."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import CHECKOUT, CHECKOUT_INSIDE, RELEASES, Machine, until
from tests.packaged import APT, FILES, Package, build, installed, offer
from tests.rootfs import BARE, NEEDED

if TYPE_CHECKING:
    from tests.rootfs import Release

_BUILT: dict[tuple[str, str], Package] = {}


def package_of(release: Release, version: str = "") -> Package:
    """Built once; with another version than the changelog's."""
    if (release.suite, version) not in _BUILT:
        _BUILT[release.suite, version] = build(release, version=version)
    return _BUILT[release.suite, version]


#: As it is for an administrator: nothing of the checkout, and Python keeps what it compiles where packages expect it.
PLAIN = {"PYTHONPATH": "", "PYTHONPYCACHEPREFIX": "", "DEBIAN_FRONTEND": "noninteractive"}


def sdcron(machine: Machine, *arguments: str, status: int | None = 0) -> str:
    """The packaged one."""
    return machine.run(["/usr/bin/sdcron", *arguments], env=PLAIN, status=status).stdout


def apt(machine: Machine, *arguments: str) -> None:
    """Installs, removes or purges; after each all of the machine is well, but for a job that waits for its retry."""
    machine.run([*APT, *arguments], env=PLAIN, timeout=120)
    failed = machine.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
    assert [line for line in failed.splitlines() if not line.startswith("sdcron-again.service ")] == []


def loaded(machine: Machine) -> str:
    """Units of sdcron's that systemd knows of, and their files."""
    units = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcron*"]).stdout
    return units + machine.run(["sh", "-c", "find /etc/systemd /run/systemd -name 'sdcron*'"]).stdout


@pytest.mark.timeout(1800)
def test_whoever_builds_it_its_unit_tests_pass_and_it_is_the_same_bytes(release: Release) -> None:
    package = build(release, umask="027", zone="Pacific/Chatham", place="/var/other/place", user="tester", tested=True)
    assert package.content == package_of(release).content
    [summary] = re.findall(r"^\d+ passed.*$", package.log, re.MULTILINE)
    # Those of root are run by root outside.
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", package.log, re.MULTILINE)
    assert all("needs root" in reason for reason in reasons), reasons
    assert bool(reasons) == (" skipped" in summary)


#: What lintian says below a warning, and why it stands.
KNOWN = {
    "out-of-date-standards-version": "the one of the oldest release that it is built for",
    "package-uses-old-debhelper-compat-version": "the newest that this release has",
    "package-supports-alternative-init-but-no-init.d-script": "it is for machines that run systemd",
    "redundant-priority-optional-field": "the tools of the oldest release ask for it",
    "redundant-rules-requires-root-no-field": "the oldest release builds as root without it",
    "override_dh_auto_test-does-not-check-DEB_BUILD_OPTIONS": "dh(1) does, from compatibility level 13 on",
    "package-contains-empty-directory": "it is for other packages to put job files in",
}


@pytest.mark.timeout(900)
def test_it_builds_without_a_network_and_lintian_finds_nothing(release: Release) -> None:
    package = package_of(release)
    told = package.lintian.splitlines()
    assert "lintian: 0" in told, package.lintian
    assert {*re.findall("(?m)^[EWIP]: .*?: (\\S+)", package.lintian)} <= KNOWN.keys(), package.lintian
    assert package.warnings == "", "man has no complaints about the pages"
    assert "dpkg-deb: building package" in package.log


#: All that it installs beside its Python modules and the examples.
SHIPPED = {
    "/etc/sdcron/jobs.d",
    "/usr/bin/sdcron",
    "/usr/bin/sdcron-job",
    "/usr/lib/sdcron/jobs.d",
    "/usr/lib/systemd/system-generators/sdcron-generator",
    "/usr/lib/systemd/system/sdcron-boot.service",
    "/usr/lib/systemd/system/sdcron-boot.service.d/account.conf",
    "/usr/lib/systemd/system/sdcron-boot.service.d/generator.conf",
    "/usr/lib/systemd/system/sdcron-collector.service",
    "/usr/lib/systemd/system/sdcron-collector.service.d/account.conf",
    "/usr/lib/systemd/system/sdcron.service",
    "/usr/lib/systemd/user/sdcron-boot.service",
    "/usr/lib/systemd/user/sdcron-collector.service",
    "/usr/lib/sysusers.d/sdcron.conf",
    "/usr/lib/tmpfiles.d/sdcron.conf",
    "/usr/share/bash-completion/completions/sdcron",
    "/usr/share/doc/sdcron/README.Debian",
    "/usr/share/doc/sdcron/README.md.gz",
    "/usr/share/doc/sdcron/changelog.gz",
    "/usr/share/doc/sdcron/copyright",
    "/usr/share/fish/vendor_completions.d/sdcron.fish",
    "/usr/share/man/man1/sdcron-job.1.gz",
    "/usr/share/man/man1/sdcron.1.gz",
    "/usr/share/man/man5/sdcron-job.5.gz",
    "/usr/share/man/man8/sdcron-collector.8.gz",
    "/usr/share/man/man8/sdcron-engine.8.gz",
    "/usr/share/polkit-1/rules.d/sdcron.rules",
    "/usr/share/zsh/vendor-completions/_sdcron",
}
EXAMPLES = "/usr/share/doc/sdcron/examples/jobs"


def shipped(machine: Machine) -> set[str]:
    """The files that the package has installed but for its Python modules, and the empty directories."""
    paths = machine.run(["dpkg", "-L", "sdcron"]).stdout.splitlines()
    leaves = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    # Before /usr took in /lib, units lay there.
    merged = {f"/usr{path}" if path.startswith("/lib/") else path for path in leaves}
    return {path for path in merged if not path.startswith("/usr/lib/python3/") and path != "/."}


@pytest.mark.timeout(600)
def test_it_installs_runs_a_job_and_tells_of_it(release: Release) -> None:
    with installed(release, package_of(release)) as machine:
        examples = {f"{EXAMPLES}/{path.name}" for path in (CHECKOUT / "packaging/examples/jobs").iterdir()}
        assert shipped(machine) == SHIPPED | examples
        assert sdcron(machine, "validate", EXAMPLES).endswith(" jobs, no problems\n")
        assert machine.run(["stat", "--format=%a %U", "/run/sdcron"]).stdout == "755 root\n"
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
        completion = (
            ". /usr/share/bash-completion/completions/sdcron; COMP_WORDS=(sdcron status of) COMP_CWORD=2; _sdcron; "
            'echo "${COMPREPLY[@]}"'
        )
        assert machine.run(["bash", "-c", completion], env=PLAIN).stdout == "often\n"
        check_units(machine)
        check_operators(machine)
        # Where no systemd runs, as in an image that is being made, the jobs go with it too, and all that it was.
        machine.poweroff()
        machine.run_off(["dpkg", "--remove", "sdcron"])
        assert [*(machine.disk / "etc/systemd/system").rglob("sdcron*")] == []
        machine.run_off(["dpkg", "--purge", "sdcron"])
        assert [*(machine.disk / "var/lib").glob("sdcron*")] == []


def check_units(machine: Machine) -> None:
    """What it ships, as it is there with its drop-ins: systemd finds nothing wrong, and what stays on is confined."""
    machine.start_user_manager()
    paths = sorted(path for path in SHIPPED if path.endswith(".service"))
    for path in paths:
        scope, user = (["--user"], "tester") if "/user/" in path else ([], None)
        verified = machine.run(["systemd-analyze", *scope, "--man=no", "verify", path], user=user, status=None)
        # What else is wrong on the machine is told there too.
        name = path.rpartition("/")[2]
        assert [line for line in verified.stderr.splitlines() if name in line] == [], path
    for scope, user in (([], None), (["--user"], "tester")):
        command = [
            "systemd-analyze",
            *scope,
            "--no-pager",
            "security",
            "sdcron-collector.service",
            "sdcron-boot.service",
        ]
        told = machine.run(command, user=user).stdout
        exposures = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", told)
        assert len(exposures) == 2, told
        assert max(map(float, exposures)) <= 2.5, told


def check_operators(machine: Machine) -> None:
    """Its polkit rule lets those who are in its group start and stop jobs, and nothing else."""
    machine.run(["/usr/bin/sdcron", "run", "by-hand"], env=PLAIN, user="tester", status=4)
    machine.run(["usermod", "-aG", "sdcron-operators", "tester"])
    machine.run(["systemctl", "restart", "polkit.service"])
    machine.run(["/usr/bin/sdcron", "run", "by-hand"], env=PLAIN, user="tester")
    machine.run(["/usr/bin/sdcron", "stop", "by-hand"], env=PLAIN, user="tester")
    machine.run(["systemctl", "start", "--no-block", "sdcron-by-hand.service"], user="tester")
    machine.run(["systemctl", "stop", "sdcron-by-hand.service"], user="tester")
    for name in ("sdcron-collector", "sdcron-boot", "sdcron", "polkit"):
        for verb in ("start", "stop", "restart"):
            refused = ["systemctl", "--no-ask-password", verb, f"{name}.service"]
            assert machine.run(refused, user="tester", status=None).returncode != 0, refused
    tried = ["systemd-run", "--unit=sdcron-by-hand@x.service", "--wait", "/bin/touch", "/root/taken"]
    assert machine.run(tried, user="tester", status=None).returncode != 0
    assert not machine.exists("/root/taken")


#: Of two runs that are on all through the upgrade: one by hand, and one that its timer has begun.
GATED = "echo begun; echo x >>/root/{name}; until [ -e /root/go ]; do sleep 0.1; done; echo over"
UPGRADED = {
    "jobs/long": f"command: [/bin/sh, -c, '{GATED.format(name='long')}']\n",
    "jobs/done": "command: /bin/echo done\n",
    "jobs/again": "command: /bin/false\nretry: {delay: 1h, attempts: 2}\n",
    "jobs.d/dropped": f"schedule: '* * * * * *'\ncommand: [/bin/sh, -c, '{GATED.format(name='dropped')}']\n",
    "jobs.d/often": "schedule: '* * * * * *'\ncommand: [/bin/sh, -c, 'echo x >>/root/often']\n",
    "jobs.d/paused": "schedule: '* * * * * *'\ncommand: touch /root/has-run\n",
}


@pytest.mark.timeout(600)
def test_an_upgrade_lets_runs_finish_runs_nothing_twice_and_keeps_what_is_on_record(release: Release) -> None:
    newer = package_of(release, "0.1.0+again")

    def records(job: str) -> list[dict[str, Any]]:
        return list(json.loads(sdcron(machine, "history", job, "--json", "--output", "-n", "1000")))

    def begun(job: str) -> int:
        return len(machine.read(f"/root/{job}").splitlines())

    with installed(release, package_of(release)) as machine:
        sdcron(machine, "pause", "--all")
        for name, text in UPGRADED.items():
            machine.write(f"/etc/sdcron/{name}.yaml", text)
        sdcron(machine, "apply", "/etc/sdcron/jobs")
        sdcron(machine, "apply")
        sdcron(machine, "pause", "paused")
        sdcron(machine, "resume", "--all")
        run_id = sdcron(machine, "run", "long").strip()
        sdcron(machine, "run", "--wait", "done")
        sdcron(machine, "run", "--wait", "again", status=1)
        until(lambda: machine.exists("/root/dropped") and machine.exists("/root/often"), 30, "they have begun")
        until(lambda: "begun" in sdcron(machine, "logs", "long"), 30, "it runs")
        waits = json.loads(sdcron(machine, "status", "again", "--json"))
        before = machine.show("sdcron-collector.service", "InvocationID")
        done = records("done")
        assert (len(done), waits["retry"]["attempt"]) == (1, 2)
        offer(machine, newer)
        apt(machine, "install", "sdcron")
        assert sdcron(machine, "--version") == "sdcron 0.1.0+again\n"
        # The new program records from here on.
        assert machine.show("sdcron-collector.service", "ActiveState", "InvocationID") != before
        for job in ("long", "dropped"):
            assert machine.show(f"sdcron-{job}.service", "ActiveState")["ActiveState"] == "activating"
            assert begun(job) == 1
        often = begun("often")
        until(lambda: begun("often") > often, 30, "it runs on")
        assert "nothing to do" in sdcron(machine, "plan", "/etc/sdcron/jobs")
        assert "nothing to do" in sdcron(machine, "plan")
        still = json.loads(sdcron(machine, "status", "again", "--json"))
        # What is left of a delay is told in whole microseconds of two clocks.
        at, was = (datetime.fromisoformat(status["retry"]["at"]) for status in (still, waits))
        assert (still["retry"]["attempt"], abs(at - was) < timedelta(seconds=5)) == (2, True)
        sdcron(machine, "pause", "--all")
        machine.run(["touch", "/root/go"])
        until(lambda: all(records(job) for job in ("long", "dropped")), 30, "they are over")
        until(lambda: len(records("often")) == begun("often"), 30, "all of it is on record")
        [run] = records("long")
        assert (run["run_id"], run["outcome"], run["stdout"]) == (run_id, "success", "begun\nover\n")
        # The one that has been on took the place of all that were due meanwhile.
        *_, run = records("dropped")
        assert (run["trigger"], run["outcome"], run["stdout"]) == ("schedule", "success", "begun\nover\n")
        for job in ("dropped", "often"):
            assert len(records(job)) == begun(job)
            due = [record["scheduled_at"] for record in records(job)]
            assert len({*due}) == len(due), "no due time is run twice"
        assert records("done") == done
        assert not machine.exists("/root/has-run")


@pytest.mark.timeout(600)
def test_removed_it_leaves_configuration_and_history_and_purged_nothing(release: Release) -> None:
    with Machine(release, boot=False, kind=BARE) as machine:
        offer(machine, package_of(release))
        machine.run_off([*APT, "install", *NEEDED])
        # From here on as on a machine that has been at work for long.
        machine.boot()
        machine.run(["sh", "-c", f"{FILES} >/var/tmp/before"])
        machine.write("/srv/jobs/often.yaml", "schedule: '* * * * * *'\ncommand: /bin/echo hello\n")
        machine.write("/srv/jobs/gated.yaml", f"command: [/bin/sh, -c, '{GATED.format(name='gated')}']\n")
        machine.write("/srv/others/other.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        machine.write("/srv/this-boot/passing.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        apt(machine, "install", "sdcron")
        machine.write("/etc/sdcron/sdcron.toml", '[log]\nkeep = "10d"\n')
        machine.write("/etc/sdcron/jobs.d/dropped.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        sdcron(machine, "apply")
        for directory, *options in (("jobs",), ("others",), ("this-boot", "--transient")):
            sdcron(machine, "apply", *options, f"/srv/{directory}")
        until(lambda: "hello" in sdcron(machine, "logs", "often"), 30, "it has run")
        sdcron(machine, "pause", "often")
        sdcron(machine, "run", "gated")
        until(lambda: machine.exists("/root/gated"), 30, "it runs")
        history = json.loads(sdcron(machine, "history", "often", "--json", "-n", "1000"))
        apt(machine, "remove", "sdcron")
        # A run comes to its end, and its unit goes with it.
        assert machine.show("sdcron-gated.service", "ActiveState")["ActiveState"] == "activating"
        machine.run(["touch", "/root/go"])
        until(lambda: loaded(machine) == "", 30, "no unit is left")
        for kept in ("/etc/sdcron/sdcron.toml", "/etc/sdcron/jobs.d/dropped.yaml", "/var/log/sdcron/job_status.log"):
            assert machine.exists(kept), kept
        apt(machine, "install", "sdcron")
        assert "sdcron-dropped.timer" in loaded(machine)
        assert json.loads(sdcron(machine, "history", "often", "--json", "-n", "1000")) == history
        # Job files are the administrator's, and the package's own none of them.
        machine.run(["rm", "/etc/sdcron/jobs.d/dropped.yaml"])
        apt(machine, "purge", "sdcron")
        assert loaded(machine) == ""
        machine.run(["rm", "-r", "/srv/jobs", "/srv/others", "/srv/this-boot", "/root/go", "/root/gated"])
        assert machine.run(["sh", "-c", f"{FILES} | diff /var/tmp/before -"]).stdout == ""
        # In its own list systemd keeps the names of what it has had since the boot.
        pruned = "-path /run/host -prune -o -path /run/systemd/units -prune"
        state = f"find /run /var/lib/systemd {pruned} -o -name '*sdcron*' -print"
        assert machine.run(["sh", "-c", state]).stdout == ""


@pytest.mark.timeout(600)
def test_what_applies_for_a_package_keeps_nobody_from_removing_this_one_and_nothing_comes_back() -> None:
    release = RELEASES[0]
    with installed(release, package_of(release)) as machine:
        machine.write("/etc/sdcron/jobs.d/dropped.yaml", "schedule: '@daily'\ncommand: /bin/true\n")
        sdcron(machine, "apply")
        lock = "/run/sdcron/apply.lock"
        machine.run(["systemd-run", "--unit=held", "flock", lock, "sleep", "infinity"])
        until(lambda: machine.run(["flock", "-n", lock, "true"], status=None).returncode != 0, 30, "it is held")
        machine.run(["systemctl", "start", "--no-block", "sdcron.service"])
        until(lambda: machine.show("sdcron.service", "MainPID")["MainPID"] != "0", 30, "it waits for the lock")
        # With the other one gone it would apply just while the package goes.
        machine.run(["systemctl", "stop", "--no-block", "held.service"])
        apt(machine, "remove", "sdcron")
        assert loaded(machine) == ""
        assert machine.run(["systemctl", "list-jobs", "--plain", "--no-legend"]).stdout == ""


@pytest.mark.timeout(600)
def test_the_tests_that_the_distribution_runs_of_it_pass(release: Release) -> None:
    control = (CHECKOUT / "debian/tests/control").read_text(encoding="utf-8")
    names = re.findall(r"^Tests: (\S+)$", control, re.MULTILINE)
    assert {path.name for path in (CHECKOUT / "debian/tests").iterdir()} == {"control", *names}
    with Machine(release, kind=BARE) as machine:
        # As it does: on a machine that runs, out of an archive.
        offer(machine, package_of(release))
        apt(machine, "install", "sdcron")
        for name in names:
            ended = machine.run([f"{CHECKOUT_INSIDE}/debian/tests/{name}"], env=PLAIN, timeout=240, status=None)
            assert ended.returncode == 0, f"{name}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
