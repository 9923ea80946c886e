"""`after` and `needs` over everything that is applied: no job may wait for one that there is not, or for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdcron import drop_ins
from sdcron.errors import Problem
from sdcron.graph import Edge, circle_found, circles_of, endless
from sdcron.installed import read_one
from sdcron.job import Overlap
from sdcron.jobfile import locate_key
from sdcron.local_jobs import read_local

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sdcron.paths import Paths
    from sdcron.plan import Plan
    from sdcron.units import CompiledJob

Links = tuple[tuple[Edge, ...], "Callable[[str], str]", "Callable[[str], bool]"]
"""What is between jobs, and what tells a job's file, and whether it allows several runs."""


def links_applied(paths: Paths) -> Links:
    """What is between the applied jobs. Raises SdcronError."""
    if paths.local:
        jobs = read_local(paths)
        naming = {name: job for name, job in jobs.items() if '"after"' in job.text or '"needs"' in job.text}
        return (
            # A disabled job is not started by others.
            _edges({name: (job.after if job.active else (), job.needs) for name, job in naming.items()}),
            lambda name: jobs[name].source,
            lambda name: name in jobs and jobs[name].overlap is Overlap.ALLOW,
        )
    # The names of the drop-ins say it: there may be thousands of jobs without any.
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for name in {drop_ins.job_of(each) for directory in paths.unit_dirs for each in drop_ins.names(directory)}:
        job = read_one(paths, name)
        if job is not None:
            found[name] = (job.after, job.needs)

    def source(name: str) -> str:
        job = read_one(paths, name)
        return job.source if job is not None else ""

    def allows(name: str) -> bool:
        job = read_one(paths, name)
        return job is not None and job.overlap is Overlap.ALLOW

    return _edges(found), source, allows


def link_problems(
    plan: Plan,
    compiled: Sequence[CompiledJob],
    names: Collection[str],
    applied: Callable[[], Links],
    elsewhere: Collection[str] = (),
) -> tuple[Problem, ...]:
    """A problem for each job that would be left to wait for one that is not applied once the plan is carried out.

    `compiled` are the jobs of the files, `names` those of all that is applied before, `elsewhere` those of other
    machines. A job that waits for one of these would never run here: it is to be for the same machines.
    """
    files = {job.name: job.source for job in compiled}
    ours = _edges({job.name: (job.after, job.needs) for job in compiled})
    removed = {change.name for change in plan.changes if change.after is None}
    if not ours and not removed and not any(map(_allows_several, compiled)):
        return ()
    there = {*names, *files} - removed
    edges, source_of, allows = applied()
    left = tuple(edge for edge in edges if edge.downstream not in files and edge.downstream not in removed)
    several = {job.name: _allows_several(job) for job in compiled}
    problems = []
    for edge in (*ours, *left):
        if edge.upstream in there and (several[edge.upstream] if edge.upstream in several else allows(edge.upstream)):
            file = files.get(edge.downstream) or source_of(edge.downstream)
            what, hint = endless(edge)
            problems.append(_problem(file, edge, _of(edge, what), hint))
    for edge in (*ours, *(edge for edge in left if edge.upstream in removed)):
        if edge.upstream in there:
            continue
        what, hint = f"there is no job '{edge.upstream}'", "apply it too, or see the applied ones: sdcron list"
        if edge.upstream in elsewhere:
            what = f"the job '{edge.upstream}' is for other machines"
            hint = "give both jobs the same hosts: here this one would never run"
        elif edge.upstream in removed:
            what, hint = f"the job '{edge.upstream}' goes with this", f"take it out of '{edge.key}', or keep that job"
        file = files.get(edge.downstream) or source_of(edge.downstream)
        problems.append(_problem(file, edge, _of(edge, what), hint))
    for circle in circles_of((*ours, *left)) if left and ours and not problems else ():
        edge = next(edge for edge in (*ours, *left) if (edge.upstream, edge.downstream) == (circle[-1], circle[0]))
        file = files.get(edge.downstream) or source_of(edge.downstream)
        problems.append(replace(_problem(file, edge, *circle_found(circle, edge.key)), jobs=tuple(circle)))
    return tuple(problems)


def _of(edge: Edge, what: str) -> str:
    return f"'{edge.key}' of job {edge.downstream}: {what}"


def _allows_several(job: CompiledJob) -> bool:
    return any(said in unit.text for unit in job.units for said in ("\nOverlap=allow\n", '\n  "overlap": "allow"'))


def unnameable(compiled: Sequence[CompiledJob]) -> tuple[Problem, ...]:
    """A problem for each name that no drop-in can be for.

    systemd takes `sdcron-a-.service.d` for all units that begin with `sdcron-a-` (systemd.unit(5)).
    """
    edges = _edges({job.name: (job.after, job.needs) for job in compiled})
    files = {job.name: job.source for job in compiled}
    return tuple(
        _problem(
            files[edge.downstream],
            edge,
            f"'{edge.key}' of job {edge.downstream}: '{edge.upstream}' ends with a dash",
            "systemd would take what is added to its unit for all jobs that begin so: rename that job",
        )
        for edge in edges
        if edge.upstream.endswith("-")
    )


def _edges(jobs: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> tuple[Edge, ...]:
    found = (
        Edge(upstream, name, key)
        for name, lists in jobs.items()
        for key, upstreams in zip(("after", "needs"), lists, strict=True)
        for upstream in upstreams
    )
    return tuple(sorted(found))


def _problem(file: str, edge: Edge, message: str, hint: str) -> Problem:
    line, column, source_line = locate_key(file, edge.downstream, edge.key)
    ends = (edge.upstream, edge.downstream)
    return Problem(file, line, column, message, edge.key, hint, source_line, ends)
