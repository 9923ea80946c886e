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
        gone = [line for line in shipped[name].splitlines() if line not in text.splitlines() and "ExecStart" not in line]
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
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("sdcron", "units"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet", "build", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    assert "Scope.SYSTEM" not in os.environ
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
    backend.boot()
    backend.wanted.add(COLLECTOR)
    backend._need(COLLECTOR)
    monkeypatch.setattr(own_units, "running_program", lambda: CHECKOUT_PROGRAM)
    own_units.ensure(paths, backend, transient=False)
    assert backend.mutations() == [f"stop {COLLECTOR}", "reload ", f"start {COLLECTOR}"] or backend.stale() == []


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
    backend.memory[COLLECTOR] = backend._need(COLLECTOR)
    backend.memory[COLLECTOR].text, backend.memory[COLLECTOR].active = "", "active"
    own_units.ensure(paths, None_start(backend), transient=True)
    assert installed(paths) == {f"run/systemd/system/{name}" for name in NAMES}
    assert not own_units.is_installed(paths)
    own_units.ensure(paths, backend, transient=False)
    assert installed(paths) == UNITS
    own_units.withdraw(paths, backend)
    assert installed(paths) == set()
