"""The drop-in directories as one set: what hides what, and what sha256sum says of them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from sdcron.jobs_d import find
from sdcron.paths import system_paths

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, ...]:
    found = system_paths(tmp_path).drop_in_dirs
    for place in found:
        place.mkdir(parents=True)
        place.chmod(0o755)
    return found


def write(place: Path, **texts: str) -> None:
    for name, text in texts.items():
        (place / f"{name}.yaml").write_text(text)


def sums(digests: str, directory: Path) -> bool:
    """Whether sha256sum(1) finds everything as it was."""
    (directory / "sums").write_text(digests)
    command = ["sha256sum", "--check", "--status", "--strict", str(directory / "sums")]
    return subprocess.run(command, check=False, timeout=30, cwd="/").returncode == 0


def test_the_administrators_file_hides_the_packages(places: tuple[Path, ...]) -> None:
    etc, run, usr = places
    write(usr, backup="command: /usr\n", rotate="command: /usr\n")
    write(run, backup="command: /run\n")
    write(etc, backup="command: /etc\n", own="command: /etc\n")
    (etc / "notes.txt").write_text("no job")
    (etc / ".hidden.yaml").write_text("command: x\n")
    found = find(places)
    assert found.files == (etc / "backup.yaml", etc / "own.yaml", usr / "rotate.yaml")
    assert found.hidden == (run / "backup.yaml", usr / "backup.yaml")
    asked = found.as_paths(without={str(etc / "own.yaml")})
    assert list(asked.chosen.values()) == [etc / "backup.yaml", usr / "rotate.yaml"]
    # Also those that have no file: a job whose file has left them is removed.
    assert asked.directories == tuple(map(str, places))


def test_an_empty_file_and_a_link_to_nothing_hide_a_packages_job(places: tuple[Path, ...]) -> None:
    etc, run, usr = places
    write(usr, one="command: x\n", two="command: x\n", three="command: x\n")
    write(etc, one="")
    (run / "two.yaml").symlink_to("/dev/null")
    found = find(places)
    assert found.files == (usr / "three.yaml",)
    assert found.hidden == (usr / "one.yaml", usr / "two.yaml")
    assert found.masks == (etc / "one.yaml", run / "two.yaml")


def test_an_empty_file_that_a_job_is_applied_from_was_cut_off(places: tuple[Path, ...]) -> None:
    etc, run, usr = places
    write(usr, override="command: x\n", hidden="command: x\n")
    # What hides nothing may have hidden what was a package's once.
    write(etc, alone="", gone="", override="", hidden="")
    found = find(places, {"x": str(etc / "alone.yaml"), "y": str(etc / "override.yaml")})
    assert found.files == (etc / "alone.yaml", etc / "override.yaml")
    assert found.masks == (etc / "gone.yaml", etc / "hidden.yaml")
    (run / "nothing.yaml").symlink_to("/dev/null")
    assert [path.name for path in find(places, {"x": str(run / "nothing.yaml")}).masks] == [
        "alone.yaml",
        "gone.yaml",
        "hidden.yaml",
        "override.yaml",
        "nothing.yaml",
    ]


def test_directories_that_are_not_there_have_no_files(tmp_path: Path) -> None:
    found = find(system_paths(tmp_path).drop_in_dirs)
    assert (found.files, found.hidden, found.masks, found.digests()) == ((), (), (), "# 0 0\n")


def test_sha256sum_tells_whether_any_of_them_has_changed(places: tuple[Path, ...], tmp_path: Path) -> None:
    etc, run, usr = places
    write(etc, plain="command: x\n", **{"with space": "command: x\n", "back\\slash": "x", "line\nfeed\r": "x"})
    write(usr, plain="command: hidden\n", masked="command: y\n")
    (run / "masked.yaml").symlink_to("/dev/null")
    before = find(places).digests()
    assert before.startswith("# 7 0\n")
    assert sums(before, tmp_path)
    write(usr, plain="command: also what is hidden\n")
    assert not sums(before, tmp_path)
    assert sums(find(places).digests(), tmp_path)


def test_what_cannot_be_read_is_never_as_it_was(places: tuple[Path, ...], tmp_path: Path) -> None:
    (places[0] / "dangling.yaml").symlink_to("/no/such/file")
    (places[1] / "directory.yaml").mkdir()
    found = find(places)
    assert len(found.files) == 2
    assert not sums(found.digests(), tmp_path)
