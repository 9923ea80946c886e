"""queries: moments from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdcron.cli import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "moment",
    ["9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "1969-12-31", "2200-01-01"],
)
def test_a_moment_in_a_year_that_systemd_does_not_know_is_a_usage_error(
    moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["next", "--schedule", "@daily", "--from", moment]) == 2
    assert f"{moment} is not between 1970 and 2199" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("moment", "following"),
    [
        ("1970-01-01T00:00:00+14:00", "1970-01-01T00:00:00+00:00\n"),
        ("2199-12-30T23:59:59-12:00", "never again"),
        ("2199-12-31T23:59:59-12:00", "never again"),
        ("2199-12-31", "never again"),
    ],
)
def test_the_first_and_the_last_moment_have_an_answer(
    moment: str, following: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["next", "--schedule", "@daily", "--from", moment, "-n", "1", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert following in told.out + told.err
