"""sdcron's own units: their texts for each way to run it, and that they are there when, and only when, jobs are."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcron import own_units
from sdcron.cli import run
from sdcron.errors import BackendError
from sdcron.own_units import BOOT, COLLECTOR, NAMES, Host, Program, shipped_texts, unit_texts
from sdcron.paths import Paths, Scope, system_paths, user_paths
from tests.compiled import paths_below, tree
from tests.fake_backend import FakeBackend
from tests.faults import Killed, Power, armed

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parent.parent
CHECKOUT_PROGRAM = Program(("/usr/bin/python3", "-P", "-m", "sdcron"), "/opt/sdcron", ("/usr", "/usr", "/opt/sdcron"))


@pytest.fixture(autouse=True)
def journal_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine here has python3-systemd, and the same program."""
    monkeypatch.setattr(own_units, "can_read_the_journal", lambda: True)
    monkeypatch.setattr(own_units, "running_program", lambda: CHECKOUT_PROGRAM)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return paths_below(tmp_path)


def installed(paths: Paths) -> set[str]:
    """Files and links below the root, by name."""
    return set(tree(paths))


UNITS = {f"etc/systemd/system/{place}{name}" for place in ("", "multi-user.target.wants/") for name in NAMES}


# Texts


@pytest.mark.parametrize("scope", Scope)
def test_the_packages_own_program_and_an_empty_machine_leave_the_texts_as_they_are(scope: Scope) -> None:
    assert unit_texts(scope, shipped_texts(scope), Program(), Host()) == shipped_texts(scope)


@pytest.mark.parametrize("scope", Scope)
def test_a_checkout_is_started_with_its_python_and_its_path_and_nothing_else_changes(scope: Scope) -> None:
    option = " --user" if scope is Scope.USER else ""
    for name, text in unit_texts(scope, shipped_texts(scope), CHECKOUT_PROGRAM, Host()).items():
        command = "collect" if name == COLLECTOR else "boot"
        assert f"\nExecStart=/usr/bin/python3 -P -m sdcron {command}{option}\n" in text
        assert "\nEnvironment=PYTHONPATH=/opt/sdcron\n" in text
        added = set(text.splitlines()) ^ set(shipped_texts(scope)[name].splitlines())
        assert all(line.startswith(("ExecStart=", "Environment=")) for line in added)


def test_only_the_collector_is_the_user_of_its_name_and_both_may_read_the_journal() -> None:
    texts = unit_texts(Scope.SYSTEM, shipped_texts(Scope.SYSTEM), Program(), Host(account=True, group=True))
    assert re.findall("(?m)^(?:User|Group|SupplementaryGroups)=.*", texts[COLLECTOR]) == [
        "Group=systemd-journal",
        "User=sdcron",
    ]
    assert re.findall("(?m)^(?:User|Group|SupplementaryGroups)=.*", texts[BOOT]) == [
        "SupplementaryGroups=systemd-journal"
    ]
    texts = unit_texts(Scope.USER, shipped_texts(Scope.USER), Program(), Host(account=True, group=True))
    assert texts == shipped_texts(Scope.USER)


@pytest.mark.parametrize(
    ("directory", "system", "user", "account"),
    [
        ("/home/a b/100%/venv", '"/home/a b/100%%/venv"', None, True),
        ("/root/sdcron", "/root/sdcron", None, False),
        ("/tmp/x", "/tmp/x", "/tmp/x", True),
        ("/srv/homes", None, None, True),
        ("/rooted", None, None, True),
    ],
)
def test_a_program_where_the_sandbox_shows_nothing_is_shown(
    directory: str, system: str | None, user: str | None, account: bool
) -> None:
    program = Program((f"{directory}/bin/python", "-P", "-m", "sdcron"), None, (directory, "/usr", directory))
    for scope, shown in ((Scope.SYSTEM, system), (Scope.USER, user)):
        text = unit_texts(scope, shipped_texts(scope), program, Host(account=True))[COLLECTOR]
        assert re.findall("(?m)^BindReadOnlyPaths=(.*)", text) == ([shown] if shown else [])
        assert ("\nUser=sdcron\n" in text) is (account and scope is Scope.SYSTEM)


def test_a_user_without_user_namespaces_gets_what_works_without() -> None:
    shipped = shipped_texts(Scope.USER)
    for name, text in unit_texts(Scope.USER, shipped, CHECKOUT_PROGRAM, Host(namespaces=False)).items():
        gone = [
            line for line in shipped[name].splitlines() if line not in text.splitlines() and "ExecStart" not in line
        ]
        assert all(re.match("Private|Protect|CapabilityBoundingSet|ReadWritePaths", line) for line in gone)
        assert "Private" not in text
        for kept in ("NoNewPrivileges=yes", "SystemCallFilter=@system-service", "RestrictAddressFamilies=AF_UNIX"):
            assert f"\n{kept}\n" in text


def test_the_units_say_what_they_must() -> None:
    for scope in Scope:
        texts = shipped_texts(scope)
        for line in ("Type=exec", "Restart=always", "RestartSec=1s", "StartLimitIntervalSec=0"):
            assert f"\n{line}\n" in texts[COLLECTOR]
        target = "multi-user.target" if scope is Scope.SYSTEM else "default.target"
        for text in texts.values():
            assert text.endswith(f"\n[Install]\nWantedBy={target}\n")
            assert "MemoryMax" not in text
            assert "\nCapabilityBoundingSet=\n" in text


# Which program


def test_the_program_is_the_packages_own_or_this_python_with_the_path_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/sdcron", "apply"])
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert own_units.running_program() == Program()
    monkeypatch.setattr(sys, "argv", [str(CHECKOUT / "sdcron/__main__.py"), "apply"])
    program = own_units.running_program()
    assert program.argv == (sys.executable, "-P", "-m", "sdcron")
    assert program.search_path == str(CHECKOUT)
    assert set(program.directories) == {sys.prefix, sys.base_prefix, str(CHECKOUT)}
    # Installed, it needs no path.
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(CHECKOUT)])
    assert own_units.running_program().search_path is None


@pytest.mark.tools
def test_an_installed_package_has_the_units_inside(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("sdcron", "units"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet", "build", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    script = (
        "import sys; sys.path.insert(0, 'built')\n"
        "from sdcron import own_units\nfrom sdcron.paths import Scope\n"
        "assert own_units.__file__.startswith(sys.argv[1]), own_units.__file__\n"
        "print([own_units.shipped_texts(scope) for scope in Scope])\n"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "built")]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout
    assert told == f"{[shipped_texts(scope) for scope in Scope]}\n"
    packages = {path.parent.relative_to(CHECKOUT) for path in CHECKOUT.glob("sdcron/**/__init__.py")}
    assert all((tmp_path / "built" / package / "__init__.py").exists() for package in packages)


# There with the first job, gone with the last


def test_they_are_installed_and_enabled_and_the_collector_started_and_then_nothing(paths: Paths) -> None:
    backend = FakeBackend(paths)
    assert not own_units.is_installed(paths)
    own_units.ensure(paths, backend, transient=False)
    assert installed(paths) == UNITS
    assert own_units.is_installed(paths)
    assert backend.mutations() == [f"stop {COLLECTOR}", f"start {COLLECTOR}"]
    assert tree(paths)[f"etc/systemd/system/multi-user.target.wants/{BOOT}"] == f"-> /etc/systemd/system/{BOOT}"
    before = {path: path.lstat() for path in paths.root.rglob("*")}
    backend.calls.clear()
    own_units.ensure(paths, backend, transient=False)
    assert {path: path.lstat() for path in paths.root.rglob("*")} == before
    assert backend.mutations() == []


def test_a_collector_that_was_stopped_is_started_and_one_whose_text_changed_starts_anew(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend(paths)
    own_units.ensure(paths, backend, transient=False)
    backend.set_active(COLLECTOR, "failed")
    backend.calls.clear()
    own_units.ensure(paths, backend, transient=False)
    assert backend.mutations() == [f"start {COLLECTOR}"]
    monkeypatch.setattr(own_units, "running_program", Program)
    backend.calls.clear()
    own_units.ensure(paths, backend, transient=False)
    # Not in memory any more once it is stopped, so nothing has to be read again.
    assert backend.mutations() == [f"stop {COLLECTOR}", f"start {COLLECTOR}"]
    # After a boot a target holds it.
    backend.wanted.add(COLLECTOR)
    monkeypatch.setattr(own_units, "running_program", lambda: CHECKOUT_PROGRAM)
    backend.calls.clear()
    own_units.ensure(paths, backend, transient=False)
    assert backend.mutations() == [f"stop {COLLECTOR}", "reload", f"start {COLLECTOR}"]
    assert backend.stale() == []


def test_the_last_job_takes_them_and_what_is_on_record_stays(paths: Paths) -> None:
    backend = FakeBackend(paths)
    own_units.ensure(paths, backend, transient=False)
    for directory in (paths.runs_dir, paths.log_dir):
        directory.mkdir(parents=True)
        (directory / "record").touch()
    own_units.withdraw(paths, backend)
    assert installed(paths) == {"var/lib/sdcron/runs/record", "var/log/sdcron/record"}
    assert backend.memory == {}
    backend.calls.clear()
    own_units.withdraw(paths, backend)
    assert backend.mutations() == []


def test_units_that_a_package_brings_are_enabled_and_not_written(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in shipped_texts(Scope.SYSTEM).items():
        (paths.root / "usr/lib/systemd/system").mkdir(parents=True, exist_ok=True)
        (paths.root / "usr/lib/systemd/system" / name).write_text(text)
    monkeypatch.setattr(own_units, "running_program", Program)
    (paths.root / "usr/bin").mkdir()
    (paths.root / "usr/bin/sdcron").touch()
    own_units.ensure(paths, None, transient=False)
    links = {path: text for path, text in tree(paths).items() if path.startswith("etc/")}
    assert links == {
        f"etc/systemd/system/multi-user.target.wants/{name}": f"-> /usr/lib/systemd/system/{name}" for name in NAMES
    }
    # Those of a checkout that was there before go.
    (paths.unit_dir / COLLECTOR).write_text("[Service]\n")
    own_units.ensure(paths, None, transient=False)
    assert not (paths.unit_dir / COLLECTOR).exists()


def test_transient_ones_are_in_run_and_persistent_ones_take_their_place(paths: Paths) -> None:
    backend = FakeBackend(paths)
    own_units.ensure(paths, backend, transient=True)
    assert installed(paths) == {f"run/systemd/system/{name}" for name in NAMES}
    assert not own_units.is_installed(paths)
    own_units.ensure(paths, backend, transient=False)
    assert installed(paths) == UNITS
    own_units.withdraw(paths, backend)
    assert installed(paths) == set()


def _first(paths: Paths, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    own_units.ensure(paths, backend, transient=False)


def _changed(paths: Paths, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    own_units.ensure(paths, backend, transient=False)
    monkeypatch.setattr(own_units, "running_program", Program)
    # As after a boot.
    backend.wanted |= set(NAMES)


def _moved(paths: Paths, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    own_units.ensure(paths, backend, transient=True)


@pytest.mark.parametrize("before", [_first, _changed, _moved])
@pytest.mark.parametrize("left", [True, False])
def test_one_that_was_killed_anywhere_is_made_right_by_the_next(
    before: Callable[..., None], left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 60):
        paths = paths_below(tmp_path / str(at))
        paths.root.mkdir()
        backend = FakeBackend(paths)
        monkeypatch.setattr(own_units, "running_program", lambda: CHECKOUT_PROGRAM)
        if before is not _first or not left:
            before(paths, backend, monkeypatch)
        power = Power([paths.root], at)

        def act(paths: Paths = paths, backend: FakeBackend = backend) -> None:
            if left:
                own_units.ensure(paths, backend, transient=False)
            else:
                own_units.withdraw(paths, backend)

        with armed(power.trap), contextlib.suppress(Killed):
            act()
        act()
        files = {path for path in installed(paths) if "/sdcron-" in path or "stage" in path}
        assert files == (UNITS if left else set())
        if left:
            assert backend.is_active(COLLECTOR)
            assert backend.memory[COLLECTOR].text == (paths.unit_dir / COLLECTOR).read_text()
        else:
            assert backend.memory == {}
        if len(power.trap.steps) < at:
            assert at > 4
            return
    raise AssertionError("it has no end")


# Where there is no collector to be had


def test_a_collector_that_does_not_start_is_told_with_what_to_do(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_units, "_START_SECONDS", 0.05)
    backend = FakeBackend(paths)
    monkeypatch.setattr(FakeBackend, "start", lambda *_, **__: None)
    with pytest.raises(BackendError, match="does not start") as raised:
        own_units.ensure(paths, backend, transient=False)
    assert raised.value.hint == f"see: journalctl -u {COLLECTOR} -n 20"
    assert installed(paths) == UNITS


def test_one_that_an_administrator_has_masked_stays_masked(paths: Paths) -> None:
    backend = FakeBackend(paths)
    (paths.unit_dir).mkdir(parents=True)
    (paths.unit_dir / COLLECTOR).symlink_to("/dev/null")
    with pytest.raises(BackendError, match="masked"):
        own_units.ensure(paths, backend, transient=False)
    own_units.withdraw(paths, backend)
    assert tree(paths) == {f"etc/systemd/system/{COLLECTOR}": "-> /dev/null"}
    assert backend.mutations() == []


def test_without_python3_systemd_nothing_is_installed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_units, "can_read_the_journal", lambda: False)
    with pytest.raises(BackendError, match="systemd is missing") as raised:
        own_units.ensure(paths, FakeBackend(paths), transient=False)
    assert "apt install python3-systemd" in raised.value.hint
    assert installed(paths) == set()


def test_below_a_root_they_are_files_and_links_for_the_program_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    (jobs / "a.yaml").write_text("command: /bin/true\n")
    (jobs / "a.yaml").chmod(0o644)
    root = tmp_path / "root"
    root.mkdir()
    arguments = [str(jobs), "--root", str(root)]
    assert run(["apply", *arguments]) == 0
    said = capsys.readouterr()
    assert said.out == "+ add a\n1 added, 0 unchanged\n"
    [line] = said.err.splitlines()
    assert line == f"sdcron: runs are not recorded: there is no /usr/bin/sdcron below {root}; install sdcron there"
    assert UNITS.isdisjoint(tree(system_paths(root)))
    for file, text in (
        ("usr/bin/sdcron", ""),
        ("etc/passwd", "sdcron:x:1:1\n"),
        ("etc/group", "systemd-journal:x:2\n"),
    ):
        (root / file).parent.mkdir(exist_ok=True, parents=True)
        (root / file).write_text(text)
    assert run(["apply", *arguments]) == 0
    assert capsys.readouterr().err == ""
    found = tree(system_paths(root))
    assert set(found) >= UNITS
    text = found[f"etc/systemd/system/{COLLECTOR}"]
    assert "\nExecStart=/usr/bin/sdcron collect\n" in text
    assert "\nGroup=systemd-journal\nUser=sdcron\n" in text
    assert run(["remove", "--yes", "a", "--root", str(root)]) == 0
    assert UNITS.isdisjoint(tree(system_paths(root)))


def test_a_users_own_directories_are_told_to_the_users_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    usual = {"HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    for environment, expected in (
        (usual, []),
        ({**usual, "XDG_STATE_HOME": "/srv/st ate"}, ['"XDG_STATE_HOME=/srv/st ate"']),
        ({**usual, "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"}, ["XDG_CONFIG_HOME=/c", "XDG_DATA_HOME=/d"]),
    ):
        paths = user_paths(environment, os.getuid())
        made = unit_texts(Scope.USER, shipped_texts(Scope.USER), Program(), Host(), own_units._environment(paths))
        told = re.findall("(?m)^Environment=(.*)", made[COLLECTOR])
        assert told == ["SDCRON_BOOT_ID=%b", *expected]
        assert ('\nReadWritePaths="-/srv/st ate/sdcron"\n' in made[BOOT]) is ("XDG_STATE_HOME" in environment)
