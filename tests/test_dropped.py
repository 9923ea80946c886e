"""The drop-in directories by hand: validated, applied, edited, removed from, and what is told of them."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from sdcron import dropped, editing, operations
from sdcron.apply import Applier
from sdcron.cli import applying, run, writing
from sdcron.doctor import examine
from sdcron.errors import BackendError, UsageError
from sdcron.installed import read_installed
from sdcron.paths import DROP_IN_DIRS
from sdcron.place import Place
from tests.compiled import compiled, install
from tests.fake_backend import FakeBackend
from tests.test_generator import CHECKOUT, DAILY, Root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


@pytest.fixture
def sdcron(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A command on that machine, whose service manager is in memory; exit code, stdout, stderr."""
    backend = FakeBackend(root.paths)
    for module in (applying, writing):
        monkeypatch.setattr(module, "place_of", lambda *_, **__: Place(root.paths))
    for module in (editing, operations):
        monkeypatch.setattr(module, "connect", lambda _: nullcontext(backend))
    monkeypatch.setattr(operations, "keep_recording", lambda *_, **__: None)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_file_that_was_cut_off_is_a_mistake_to_validate_as_it_is_to_apply(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write(root.etc, a=DAILY, b=DAILY)
    root.apply()
    root.write(root.etc, a="", only_hides="")
    assert run(["validate", "--root", str(root.root)]) == 3
    told = capsys.readouterr().err
    assert f"{root.etc}/a.yaml:1:1: the file is empty" in told
    assert "only_hides" not in told
    # Also for who would run them elsewhere.
    assert run(["validate", "--root", str(root.root), "--user"]) == 3
    (root.etc / "a.yaml").unlink()
    assert run(["validate", "--root", str(root.root)]) == 0


def test_an_edit_is_applied_whatever_is_wrong_in_another_file_and_that_is_told(
    root: Root, monkeypatch: pytest.MonkeyPatch, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    root.write(root.etc, a=DAILY, b=DAILY)
    assert sdcron("apply")[0] == 0
    root.write(root.etc, b="schedule: x\ncommand: /bin/true\n", new=DAILY)
    (root.root / "editor").write_text("#!/bin/sh\necho 'description: edited' >>\"$1\"\n")
    (root.root / "editor").chmod(0o755)
    monkeypatch.setenv("EDITOR", str(root.root / "editor"))
    code, out, err = sdcron("edit", "a")
    assert (root.etc / "a.yaml").read_text() == f"{DAILY}description: edited\n"
    jobs = read_installed(root.paths).jobs
    assert (sorted(jobs), jobs["a"].description) == (["a", "b", "new"], "edited")
    # What it shows before it asks is what it does then.
    plan = ["~ change a", "+ add new"]
    assert out.splitlines()[-5:] == [*plan, *plan, "1 added, 1 changed, 0 unchanged"]
    assert code == 3
    assert err.startswith(f"{root.etc}/b.yaml:1:11: ")
    assert err.endswith("sdcron: 1 problem, what has them is left as it was, all else is applied\n")


def test_what_a_boot_could_not_do_is_no_failure_any_more_once_it_is_done(root: Root) -> None:
    class Manager(FakeBackend):
        def reset_failed(self, names: Sequence[str]) -> None:
            super().reset_failed(names)
            if [*names] == ["sdcron.service"]:
                raise BackendError("no permission")

    manager = Manager(root.paths)

    def asked(*, lenient: bool = False) -> list[str]:
        manager.calls.clear()
        wanted = dropped.plan_paths(Place(root.paths), (), manager.active_timers(), lenient=lenient)
        dropped.carry_out(Place(root.paths), Applier(root.paths, manager), wanted, manager)
        return [call for call in manager.mutations() if call.startswith("reset_failed sdcron.")]

    root.write(root.etc, a=DAILY, bad="schedule: x\n")
    assert asked(lenient=True) == []
    root.write(root.etc, bad=DAILY)
    # Where it cannot be, that is no failure of the apply.
    assert asked() == ["reset_failed sdcron.service"]
    assert asked(lenient=True) == ["reset_failed sdcron.service"]


def test_an_apply_by_hand_resets_what_the_boot_has_left_failed(
    root: Root, monkeypatch: pytest.MonkeyPatch, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(FakeBackend, "reset_failed", lambda _, names: calls.extend(names))
    root.write(root.etc, a=DAILY)
    assert sdcron("apply")[0] == 0
    assert "sdcron.service" in calls


def test_doctor_names_the_command_that_tells_of_a_mistake(
    root: Root, monkeypatch: pytest.MonkeyPatch, sdcron: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr("sdcron.doctor._collector", lambda *_: ())

    def advised() -> list[str]:
        return [finding.advice for finding in examine(Place(root.paths)) if "the drop-in directories" in finding.what]

    root.write(root.etc, a=DAILY)
    assert sdcron("apply")[0] == 0
    root.write(root.etc, **{"with space": "schedule: x\n"})
    assert advised() == [f"sdcron validate '{root.etc}/with space.yaml'"]
    (root.etc / "with space.yaml").unlink()
    # In each file by itself there is nothing wrong.
    for text in (f"name: a\n{DAILY}", f"{DAILY}after: nobody\n", f"{DAILY}ping: https://example.org/x\n"):
        root.write(root.etc, b=text)
        assert sdcron("plan")[0] == 3
        assert advised() == ["sdcron plan"]
    root.write(root.etc, b="")
    install(root.paths, [compiled("b", directory="/srv/jobs")])
    root.write(root.etc, b=DAILY)
    assert advised() == ["sdcron plan"]


def test_the_packages_readme_tells_of_every_directory_and_of_what_purge_does_with_it() -> None:
    text = " ".join((CHECKOUT / "debian/sdcron.README.Debian").read_text().split())
    of_purge = text.partition('"apt purge sdcron". ')[2]
    for directory in DROP_IN_DIRS:
        assert text.count(f"/{directory}") > 1, directory
        assert f"/{directory}" in of_purge, directory


def test_a_path_is_quoted_in_a_command_to_type(root: Root, sdcron: Callable[..., tuple[int, str, str]]) -> None:
    root.write(root.usr, **{"it's here": f"name: a\n{DAILY}"})
    assert sdcron("apply")[0] == 0
    code, _, told = sdcron("edit", "a")
    copy = ["cp", f"{root.usr}/it's here.yaml", f"{root.etc}/,"]
    assert (code, shlex.split(told.partition("hint: ")[2])[:3]) == (2, copy)
    [job] = read_installed(root.paths).jobs.values()
    with pytest.raises(UsageError) as refused:
        dropped.check_removal(Place(root.paths), [job], [])
    mask = ["ln", "-sf", "/dev/null", f"{root.etc}/it's here.yaml;"]
    assert shlex.split(refused.value.hint.partition("has: ")[2])[:4] == mask
