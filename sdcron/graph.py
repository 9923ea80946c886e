"""How jobs depend on each other: circles of `after` and `needs`, and the graph as text and in DOT. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdcron.job import Job

_MOST_CIRCLES = 20
_MOST_NAMES = 12
"""How many names of a circle one line shows."""


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`downstream` names `upstream` under `key`: `after`, which starts it, or `needs`, without which it is skipped."""

    upstream: str
    downstream: str
    key: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Jobs and what is between them, both sorted; `strangers` are named by some and are not among them."""

    jobs: tuple[str, ...]
    edges: tuple[Edge, ...]
    strangers: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The documented JSON shape."""
        edges = [{"from": edge.upstream, "to": edge.downstream, "key": edge.key} for edge in self.edges]
        return {"jobs": list(self.jobs), "edges": edges}


def edges_of(jobs: Iterable[Job]) -> tuple[Edge, ...]:
    """What is between these jobs, and from others to them."""
    found = (
        Edge(upstream, job.name, key)
        for job in jobs
        for key, names in (("after", job.after), ("needs", job.needs))
        for upstream in names
    )
    return tuple(sorted(found))


def graph_of(jobs: Sequence[Job]) -> Graph:
    """The graph of these jobs."""
    names = {job.name for job in jobs}
    edges = edges_of(jobs)
    return Graph(tuple(sorted(names)), edges, tuple(sorted({edge.upstream for edge in edges} - names)))


def circles_of(edges: Iterable[Edge]) -> tuple[tuple[str, ...], ...]:
    """Jobs that wait for each other: circles that have no job in common, sorted; empty for none.

    Each is in the order in which its jobs would run, from the first by name. Of very many not all are told.
    """
    upstream: dict[str, list[str]] = {}
    for edge in edges:
        upstream.setdefault(edge.downstream, []).append(edge.upstream)
    found: list[tuple[str, ...]] = []
    while len(found) < _MOST_CIRCLES:
        try:
            TopologicalSorter(upstream).prepare()
        except CycleError as error:
            # Its first is its last, too (graphlib.CycleError).
            circle: list[str] = error.args[1][:-1]
            first = circle.index(min(circle))
            found.append((*circle[first:], *circle[:first]))
            known = frozenset(circle)
            upstream = {name: [each for each in names if each not in known] for name, names in upstream.items()}
            for name in circle:
                upstream.pop(name)
        else:
            break
    return tuple(sorted(found))


def described(circle: Sequence[str]) -> str:
    """A circle on one line, back to where it began; of a long one its begin and end."""
    names = [*circle, circle[0]]
    if len(names) > _MOST_NAMES:
        half = _MOST_NAMES // 2
        names = [*names[:half], f"… ({len(names) - 2 * half} more)", *names[-half:]]
    return " -> ".join(names)


def circle_found(circle: Sequence[str], key: str) -> tuple[str, str]:
    """What is wrong with a circle, and what to do about it where `key` closes it."""
    hint = f"take '{circle[-1]}' out of '{key}' here, or break the circle elsewhere"
    return f"jobs wait for each other: {described(circle)}", hint


def endless(edge: Edge) -> tuple[str, str]:
    """The same of a job that waits for one of which several runs may be on."""
    message = f"'{edge.upstream}' has 'overlap: allow', so nothing can wait for its end"
    return message, f"let '{edge.upstream}' skip, queue or replace its runs, or take it out of '{edge.key}'"


def as_text(graph: Graph) -> str:
    """A tree for each job that waits for none: below each job those that it starts (─) or lets run (╌).

    What hangs below several jobs is drawn out below the first of them.
    """
    below: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        below.setdefault(edge.upstream, []).append(edge)
    waiting = {edge.downstream for edge in graph.edges}
    lines: list[str] = []
    drawn: set[str] = set()
    roots = [name for name in sorted({*graph.jobs, *graph.strangers}) if name not in waiting]
    # By hand and not by recursion: a chain may be longer than Python's stack. What is to be drawn: job, its own
    # beginning of the line, and what stands before those below it.
    todo = [(name, "", "") for name in reversed(roots)]
    while todo:
        name, own, before = todo.pop()
        edges = below.get(name, [])
        note = " (not here)" if name in graph.strangers else " …" if name in drawn and edges else ""
        lines.append(f"{own}{name}{note}")
        if name in drawn:
            continue
        drawn.add(name)
        for index in range(len(edges) - 1, -1, -1):
            corner, bar = ("└", " ") if index == len(edges) - 1 else ("├", "│")
            line = "─" if edges[index].key == "after" else "╌"
            todo.append((edges[index].downstream, f"{before}{corner}{line} ", f"{before}{bar}  "))
    return "".join(f"{line}\n" for line in lines)


def as_dot(graph: Graph) -> str:
    """The graph in Graphviz's language: `needs` dashed, strangers grey."""
    lines = ["digraph sdcron {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += [f"  {_quoted(name)};" for name in graph.jobs]
    lines += [f"  {_quoted(name)} [color=gray, fontcolor=gray];" for name in graph.strangers]
    for edge in graph.edges:
        style = "" if edge.key == "after" else " [style=dashed]"
        lines.append(f"  {_quoted(edge.upstream)} -> {_quoted(edge.downstream)}{style};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(name: str) -> str:
    # There is nothing to escape in a job's name (is_job_name).
    return f'"{name}"'
