"""cli.options: what all commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron.cli import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply", ""],
        ["validate", "jobs", ""],
        ["plan", "jobs", "--root", ""],
        ["list", "--root="],
        ["compile", "jobs", "-o", ""],
        ["compile", "jobs", "--output", ""],
        ["new", "a", "--directory", ""],
        ["new", "a", "-d", ""],
        ["remove", "", "--yes"],
    ],
)
def test_an_empty_argument_never_means_the_current_directory(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    assert run(arguments) == 2
    assert "an argument is empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]
