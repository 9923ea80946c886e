"""How jobs depend on each other: circles, and the graph as it is drawn."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.cli import run
from sdcron.drawing import svg_of
from sdcron.errors import JobFileError, SdcronError
from sdcron.graph import Edge, as_dot, as_text, circles_of, described, graph_of
from sdcron.jobfile import Context, parse_text
from sdcron.jobset import read_paths

if TYPE_CHECKING:
    from pathlib import Path

    from sdcron.graph import Graph

JOBS = """\
jobs:
  dump: {command: x, schedule: '@daily'}
  compress: {command: x, after: dump}
  upload: {command: x, after: compress, needs: [mount, keys]}
  report: {command: x, after: [dump, upload]}
  mount: {command: x}
  alone: {command: x}
"""
#: On its own line each, so that it can be compared by eye.
TREE = """\
alone
dump
├─ compress
│  └─ upload
│     └─ report
└─ report
keys (not here)
└╌ upload …
mount
└╌ upload …
"""


def graph(text: str = JOBS) -> Graph:
    jobs, problems = parse_text(text, "jobs.yaml", Context())
    assert problems == ()
    return graph_of(jobs)


def test_the_tree_shows_each_job_below_what_it_waits_for() -> None:
    assert as_text(graph()) == TREE


def test_dot_has_every_job_and_every_line_and_dashes_for_needs() -> None:
    dot = as_dot(graph()).splitlines()
    assert '  "alone";' in dot
    assert '  "keys" [color=gray, fontcolor=gray];' in dot
    assert [line for line in dot if "->" in line] == [
        '  "compress" -> "upload";',
        '  "dump" -> "compress";',
        '  "dump" -> "report";',
        '  "keys" -> "upload" [style=dashed];',
        '  "mount" -> "upload" [style=dashed];',
        '  "upload" -> "report";',
    ]


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    assert run(["graph", str(tmp_path), "--svg"]) == 0
    picture = ET.fromstring(capsys.readouterr().out)  # noqa: S314 - of our own making
    titles = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}title")}
    assert {"dump", "upload", "dump->compress", "mount->upload"} <= titles


def test_where_graphviz_is_missing_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SdcronError, match="Graphviz is missing") as caught:
        svg_of("digraph {}")
    assert caught.value.hint == "apt install graphviz"


def test_a_long_chain_is_drawn_too() -> None:
    edges = tuple(Edge(f"{number:05}", f"{number + 1:05}", "after") for number in range(5000))
    text = as_text(type(graph())(tuple(f"{number:05}" for number in range(5001)), edges))
    assert text.count("\n") == 5001


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_circle_is_found_exactly_where_there_is_one_and_is_one(pairs: set[tuple[int, int]]) -> None:
    circles = circles_of(Edge(str(one), str(other), "after") for one, other in pairs)
    # By hand: who can be reached from itself?
    reached = {(str(one), str(other)) for one, other in pairs}
    for _ in range(8):
        reached |= {(a, d) for a, b in reached for c, d in reached if b == c}
    assert bool(circles) == any(a == b for a, b in reached)
    for circle in circles:
        steps = zip(circle, (*circle[1:], circle[0]), strict=True)
        assert all((int(one), int(other)) in pairs for one, other in steps)
        assert circle[0] == min(circle)
    # Without the jobs of these there is none left.
    told = [name for circle in circles for name in circle]
    assert len(told) == len(set(told))
    assert circles_of(Edge(str(a), str(b), "after") for a, b in pairs if {str(a), str(b)}.isdisjoint(told)) == ()


def test_jobs_in_a_circle_are_refused_with_the_way_around(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dump.yaml").write_text("command: x\nafter: report\n")
    (tmp_path / "load.yaml").write_text("command: x\nafter: [dump]\n")
    (tmp_path / "report.yaml").write_text("command: x\nneeds: [load]\n")
    for command in ("validate", "graph", "plan"):
        assert run([command, str(tmp_path), *(["--root", str(tmp_path / "root")] if command == "plan" else [])]) == 3
        told = capsys.readouterr().err
        assert "dump.yaml:2:1: jobs wait for each other: dump -> load -> report -> dump" in told, told
        assert "take 'report' out of 'after' here" in told


def test_every_circle_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"a": "b", "b": "a", "c": "d", "d": "c", "e": "e2", "e2": "a"}
    for name, before in texts.items():
        (tmp_path / f"{name}.yaml").write_text(f"command: x\nafter: {before}\n")
    assert run(["validate", str(tmp_path)]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "wait for each other" in line]
    assert [line.rpartition(": ")[2] for line in told] == ["a -> b -> a", "c -> d -> c"]


def test_of_a_long_circle_begin_and_end_are_told() -> None:
    circle = tuple(f"{number:03}" for number in range(100))
    assert described(circle) == (
        "000 -> 001 -> 002 -> 003 -> 004 -> 005 -> … (89 more) -> 095 -> 096 -> 097 -> 098 -> 099 -> 000"
    )


def test_a_circle_among_jobs_of_other_hosts_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("command: x\nafter: b\nhosts: there\n")
    (tmp_path / "b.yaml").write_text("command: x\nafter: a\n")
    assert [job.name for job in read_paths([tmp_path], Context(host="here")).jobs] == ["b"]
    with pytest.raises(JobFileError) as caught:
        read_paths([tmp_path], Context(host="there"))
    assert [problem.message for problem in caught.value.problems] == ["jobs wait for each other: a -> b -> a"]


def test_the_command_draws_it_in_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    assert run(["graph", str(tmp_path)]) == 0
    assert capsys.readouterr().out == TREE
    assert run(["graph", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"] == ["alone", "compress", "dump", "mount", "report", "upload"]
    assert {"from": "mount", "to": "upload", "key": "needs"} in told["edges"]
    assert run(["graph", str(tmp_path), "--dot"]) == 0
    assert capsys.readouterr().out.startswith("digraph sdcron {")
    assert run(["graph", str(tmp_path), "--dot", "--svg"]) == 2


def test_nothing_waits_for_a_job_that_allows_several_runs(tmp_path: Path) -> None:
    text = "jobs:\n  dump:\n    command: x\n    overlap: allow\n  upload:\n    command: x\n    needs: [dump]\n"
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(JobFileError) as caught:
        read_paths([tmp_path], Context())
    [problem] = caught.value.problems
    assert (problem.line, problem.key) == (7, "needs")
    assert problem.message == "'dump' has 'overlap: allow', so nothing can wait for its end"
