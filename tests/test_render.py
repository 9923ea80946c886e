"""What people see: relative times, tables, colours, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sdcron import render
from sdcron.errors import Problem, SdcronError
from sdcron.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda _stream: True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"), (0.4, "now"), (1, "in 1s"), (59.6, "in 1min"), (61, "in 1min 1s"), (3600, "in 1h"),
        (11 * 3600 + 39, "in 11h"), (11 * 3600 + 99, "in 11h 1min"), (86399, "in 23h 59min"), (86400, "in 1d"),
        (-5, "5s ago"), (-2 * 86400 - 3600, "2d 1h ago"), (400 * 86400, "in 400d"),
    ],
)  # fmt: skip
def test_a_time_is_told_in_its_largest_unit_and_the_next(seconds: float, words: str) -> None:
    assert render.distance(timedelta(seconds=seconds)) == words


def test_a_table_in_a_pipe_has_tabs_and_no_headings(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("JOB", "NEXT"), [("a", "soon"), ("longer", "late")])
    assert capsys.readouterr().out == "a\tsoon\nlonger\tlate\n"


@pytest.mark.usefixtures("terminal")
def test_a_table_on_a_terminal_has_columns_and_headings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    render.table(("JOB", "NEXT"), [("a", "soon"), ("longer", "late")])
    assert capsys.readouterr().out == "JOB     NEXT\na       soon\nlonger  late\n"


@pytest.mark.usefixtures("terminal")
def test_no_color_takes_colours_away_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    assert render.paint("x", "red", sys.stdout) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert render.paint("x", "red", sys.stdout) == "x"


HOSTILE = "a\x1b]0;owned\x07b\x9bc\u202ed\re"
SHOWN = "a\\x1b]0;owned\\x07b\\x9bc\\u202ed\\re"


@pytest.mark.parametrize(
    "show",
    [
        lambda: render.error(SdcronError(HOSTILE, HOSTILE)),
        lambda: render.problems([Problem("x.yaml", 1, 1, HOSTILE, "", HOSTILE, HOSTILE)]),
        lambda: render.table(("JOB",), [(HOSTILE,)]),
        lambda: render.findings([Finding("error", HOSTILE, HOSTILE)]),
    ],
    ids=["error", "problems", "table", "findings"],
)
def test_what_a_terminal_would_obey_is_shown_as_escapes(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    captured = capsys.readouterr()
    assert SHOWN in captured.out + captured.err
    assert not set("\x1b\x07\x9b\u202e\r") & set(captured.out + captured.err)


def test_bytes_that_are_not_utf_8_are_escaped_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    text = os.fsdecode(b"/srv/\xff/\xc3\xa4")
    render.as_json({"source": text})
    out = capsys.readouterr().out
    assert out == '{\n  "source": "/srv/\\udcff/ä"\n}\n'
    assert json.loads(out) == {"source": text}


def test_a_caret_stands_below_its_column_also_after_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    render.problems([Problem("x.yaml", 1, 3, "wrong", "", "", "\ta: b")])
    assert "\n    1 | \ta: b\n      | \t ^\n" in capsys.readouterr().err
