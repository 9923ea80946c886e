"""Who runs the jobs of a place: chosen by what may be managed there, and by what is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcron import place as place_module
from sdcron.backends.local import LocalBackend
from sdcron.errors import UsageError
from sdcron.files import Files
from sdcron.paths import Scope, system_paths
from sdcron.place import connect, make_place, may_manage_units, observe, own_snap


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One with systemd, outside of any snap."""
    for variable in ("SNAP", "SNAP_NAME", "SNAP_COMMON", "SNAP_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(place_module, "may_manage_units", lambda: True)
    for name in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container."""
    monkeypatch.setattr(place_module, "may_manage_units", lambda: False)


@pytest.fixture
def in_snap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sdcron's own; its $SNAP_COMMON."""
    monkeypatch.setenv("SNAP_NAME", "sdcron")
    monkeypatch.setenv("SNAP_COMMON", str(tmp_path / "common"))
    return tmp_path / "common"


def test_where_systemd_runs_its_units_are_managed() -> None:
    place = make_place(user=False, root=None, backend="auto")
    assert (place.local, place.offline, place.transient, place.user) == (False, False, False, False)
    assert place.paths.unit_dir == Path("/etc/systemd/system")
    assert place.other is not None


def test_the_root_of_a_file_system_that_is_being_made_is_one_where_no_systemd_is_asked() -> None:
    place = make_place(user=False, root=Path("/"), backend="auto")
    assert (place.offline, place.local, place.paths) == (True, False, system_paths())


@pytest.mark.usefixtures("without_systemd")
def test_where_no_units_may_be_managed_the_engine_runs_the_jobs() -> None:
    place = make_place(user=False, root=None, backend="auto")
    assert place.local
    assert place.other is None
    assert place.paths.local_jobs_file == Path("/var/lib/sdcron/engine/jobs")


def test_the_engine_can_be_asked_for_beside_systemd_and_the_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_place(user=False, root=None, backend="local").local
    monkeypatch.setattr(place_module, "may_manage_units", lambda: False)
    assert not make_place(user=False, root=None, backend="systemd").local


@pytest.mark.usefixtures("without_systemd")
@pytest.mark.usefixtures("without_systemd")
def test_jobs_that_are_applied_to_a_systemd_that_does_not_run_stay_its_own() -> None:
    paths = make_place(user=True, root=None, backend="systemd").paths
    Files().write(paths.unit_dir / "sdcron-backup.service", "[Service]\n")
    assert not make_place(user=True, root=None, backend="auto").local


def test_below_a_root_the_machine_decides_nothing(tmp_path: Path) -> None:
    place = make_place(user=False, root=tmp_path, backend="auto")
    assert (place.local, place.offline) == (False, True)
    place = make_place(user=False, root=tmp_path, backend="local")
    assert (place.local, place.offline) == (True, False)
    assert place.paths.local_jobs_file == tmp_path / "var/lib/sdcron/engine/jobs"
    assert place.paths.engine_dir == tmp_path / "run/sdcron/engine"
    assert place.paths.root == Path("/"), "its engine runs on this machine"


def test_in_the_own_snap_the_engine_runs_the_jobs_also_beside_systemd(in_snap: Path) -> None:
    for user in (False, True):
        place = make_place(user=user, root=None, backend="auto")
        assert place.local
        assert place.paths.local_jobs_file.is_relative_to(in_snap)
        assert place.paths.scope is Scope.SYSTEM
    assert make_place(user=False, root=None, backend="local").paths.local_jobs_file.is_relative_to(in_snap)


@pytest.mark.usefixtures("in_snap")
def test_in_the_own_snap_systemd_can_be_asked_for_all_the_same() -> None:
    place = make_place(user=False, root=None, backend="systemd")
    assert not place.local
    assert place.paths.unit_dir == Path("/etc/systemd/system")


def test_a_root_given_in_a_snap_is_that_root(in_snap: Path, tmp_path: Path) -> None:
    place = make_place(user=False, root=tmp_path / "image", backend="local")
    assert not place.paths.local_jobs_file.is_relative_to(in_snap)
    assert place.paths.local_jobs_file.is_relative_to(tmp_path / "image")
    assert make_place(user=False, root=tmp_path / "image", backend="auto").offline


@pytest.mark.parametrize(
    ("variables", "own"),
    [
        ({}, False),
        ({"SNAP_NAME": "sdcron"}, False),
        ({"SNAP_NAME": "sdcron", "SNAP_COMMON": ""}, False),
        ({"SNAP_NAME": "code", "SNAP_COMMON": "/var/snap/code/common"}, False),
        ({"SNAP_COMMON": "/var/snap/x/common"}, False),
        ({"SNAP_NAME": "sdcron", "SNAP_COMMON": "/var/snap/sdcron/common"}, True),
    ],
)
def test_a_shell_inside_another_snap_is_no_snap_of_ours(variables: dict[str, str], own: bool) -> None:
    assert own_snap(variables) == own


@pytest.mark.parametrize("there", [True, False])
def test_units_may_be_managed_where_systemd_was_booted(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """sd_booted(3) looks at nothing else."""
    asked: list[str] = []

    def is_dir(path: Path) -> bool:
        asked.append(str(path))
        return there

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert may_manage_units() == there
    assert asked == ["/run/systemd/system"]


@pytest.mark.parametrize("backend", ["local", "auto"])
def test_transient_units_and_the_engine_do_not_go_together(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(place_module, "may_manage_units", lambda: False)
    with pytest.raises(UsageError, match="--transient"):
        make_place(user=False, root=None, backend=backend, transient=True)


def test_transient_units_below_a_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--transient") as caught:
        make_place(user=False, root=tmp_path, backend="auto", transient=True)
    assert caught.value.hint == "leave --root away"


def test_transient_and_persistent_units_know_of_each_other() -> None:
    transient = make_place(user=False, root=None, backend="auto", transient=True)
    persistent = make_place(user=False, root=None, backend="auto")
    assert transient.transient
    assert transient.other == persistent.paths
    assert persistent.other == transient.paths


def test_a_users_engine_is_in_his_own_directories(tmp_path: Path) -> None:
    place = make_place(user=True, root=None, backend="local")
    assert place.user
    assert place.paths.local_jobs_file == tmp_path / "state/sdcron/engine/jobs"
    assert place.paths.engine_dir == tmp_path / "sdcron/engine"


def test_where_nobody_has_logged_in_an_engine_keeps_its_socket_with_its_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    place = make_place(user=True, root=None, backend="local")
    assert place.paths.engine_dir == tmp_path / "state/sdcron/run/engine"


@pytest.mark.usefixtures("without_systemd")
def test_job_files_are_checked_for_the_engine_only_where_it_has_jobs(tmp_path: Path) -> None:
    place = make_place(user=True, root=None, backend="auto", checking=True)
    assert not place.local
    Files().write(tmp_path / "state/sdcron/engine/jobs", "")
    assert make_place(user=True, root=None, backend="auto", checking=True).local
    assert make_place(user=True, root=None, backend="local", checking=True).local


def test_the_engine_is_asked_over_its_socket_and_no_bus_is_looked_for(tmp_path: Path) -> None:
    place = make_place(user=False, root=tmp_path, backend="local")
    with connect(place) as backend:
        assert backend is None
    with observe(place) as observer:
        assert isinstance(observer, LocalBackend)
        assert observer.state() == {}
        assert observer.in_use() == {}
        assert observer.run_in_progress("sdcron-a.service") is None
        assert observer.wait_ends("sdcron-a@retry-1.timer") is None


def test_below_a_root_nobody_is_asked(tmp_path: Path) -> None:
    place = make_place(user=False, root=tmp_path, backend="auto")
    with connect(place) as backend, observe(place) as observer:
        assert backend is None
        assert observer is None
