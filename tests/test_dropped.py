"""The drop-in directories by hand: validated, applied, edited, removed from, and what is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron.cli import run
from tests.test_generator import DAILY, Root

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


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
