"""Applying the drop-in directories: strictly by hand, leniently where nobody is there to read a message."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sdcron
from sdcron.desired import Desired, plan_jobs, read_desired
from sdcron.errors import BackendError, JobFileError, Problem, SdcronError, UsageError
from sdcron.files import Files
from sdcron.installed import read_installed
from sdcron.jobfile import read_file
from sdcron.jobs_d import find
from sdcron.jobset import read_files
from sdcron.local_operations import LocalApplier
from sdcron.operations import file_context
from sdcron.paths import system_paths
from sdcron.step import read_text
from sdcron.yaml_nodes import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sdcron.apply import Applier
    from sdcron.backends import Backend, UnitState
    from sdcron.jobs_d import Found
    from sdcron.jobset import JobSet
    from sdcron.paths import Paths
    from sdcron.place import Place
    from sdcron.plan import Before, Plan

APPLY_UNIT = "sdcron.service"
"""What applies the drop-in directories at a boot."""
_EARLY = "early\n"
_MACHINE = ("hostname", "localtime", "machine-id", "timezone")
"""In /etc: what tells one machine from another. The generator's shell script has the same names."""
_GENERATOR = "systemd/system-generators/sdcron-generator"
_GENERATOR_DIRS = ("run", "etc", "usr/local/lib", "usr/lib")
"""systemd.generator(7), below the root."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be applied: of the drop-in directories with their digests, and what is wrong with files left out."""

    desired: Desired
    plan: Plan
    digests: str | None = None
    problems: tuple[Problem, ...] = ()
    lenient: bool = False


def drop_ins_of(place: Place) -> Found:
    """The files of the drop-in directories. Raises UsageError where there are none to be applied, and SdcronError."""
    hint = "name what is to be applied: sdcron apply PATH..."
    if place.offline:
        raise UsageError(
            "the drop-in directories below a --root are taken up when that machine boots", f"to apply others, {hint}"
        )
    if place.user or place.transient or place.local or place.paths.generated_dir is None:
        raise UsageError("drop-in directories are for the machine's own systemd", hint)
    if not has_generator(place.paths):
        raise UsageError("the drop-in directories need sdcron's generator, which its Debian package has", hint)
    return _found(place.paths)


def read_drop_ins(place: Place) -> JobSet:
    """The jobs of the drop-in directories, wherever they are to run. Raises JobFileError, SdcronError."""
    return read_files(_found(system_paths(place.paths.root)).as_paths(), file_context(place))


def _found(paths: Paths) -> Found:
    applied = read_installed(paths, retries=False).jobs
    return find(paths.drop_in_dirs, {name: job.source for name, job in applied.items() if job.generated})


def is_dropped_in(place: Place, source: str) -> bool:
    """Whether this job file is in a drop-in directory, and applied with all of those."""
    return (
        _is_in_one(place.paths, source)
        and not (place.user or place.transient or place.local or place.offline)
        and has_generator(place.paths)
    )


def _is_in_one(paths: Paths, source: str) -> bool:
    return source.rpartition("/")[0] in map(str, paths.drop_in_dirs)


def plan_paths(
    place: Place,
    paths: Sequence[Path],
    timers: Mapping[str, UnitState] | None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
    *,
    prune: bool = True,
    lenient: bool = False,
) -> Wanted:
    """Read, compile and plan these files and directories; the drop-in directories where there are none.

    `timers` are the active ones, None where no systemd runs; `note` hears of what could not be checked. Leniently, a
    drop-in file with a mistake is left out as a whole, and its jobs stay as they are applied; a name of two files is
    the applied one's, or the first's. Raises JobFileError, UsageError, and SdcronError.
    """
    if paths:
        for path in paths:
            _refuse_drop_ins(place, path)
        desired = read_desired(place, paths, timers, progress, note)
        return Wanted(desired, plan_jobs(place, desired, timers, prune=prune))
    found = drop_ins_of(place)
    # Before they are read: what is edited meanwhile is then told from what is applied.
    digests = found.digests(place.paths.drop_in_names, _meant_for(place.paths))
    if lenient:
        desired, todo, problems = _plan_leniently(place, found, timers, progress, note, prune=prune)
        return Wanted(desired, todo, _digests(digests, problems), problems, lenient=True)
    desired = read_desired(place, found.as_paths(), timers, progress, note)
    return Wanted(desired, plan_jobs(place, desired, timers, prune=prune), digests)


def _plan_leniently(
    place: Place,
    found: Found,
    timers: Mapping[str, UnitState] | None,
    progress: Callable[[str, int, int], None],
    note: Callable[[str], object],
    *,
    prune: bool,
) -> tuple[Desired, Plan, tuple[Problem, ...]]:
    """Without the files that have mistakes, and with the jobs kept that others wait for."""
    problems: dict[Problem, None] = {}
    without: set[str] = set()
    kept: set[str] = set()
    for path in found.files:
        wrong = read_file(path, file_context(place))[1]
        problems.update(dict.fromkeys(wrong))
        without |= {str(path)} if wrong else set()
    while True:
        sources: dict[str, str] = {}
        try:
            desired = read_desired(place, found.as_paths(without), timers, progress, note)
            sources = {job.name: job.source for job in desired.compiled}
            todo = plan_jobs(place, desired, timers, prune=prune, without=without, kept=kept)
            return desired, todo, tuple(problems)
        except JobFileError as error:
            problems.update(dict.fromkeys(error.problems))
            there, before = set(map(str, found.files)) - without, (len(without), len(kept))
            for problem in error.problems:
                # What a mistake is told of may be applied from elsewhere, or be no file any more: then it is the
                # others that are left as they are, or a job that goes and others wait for.
                ends = {sources[job] for job in problem.jobs if job in sources}
                # As it is shown, where its name has what a terminal does not.
                named = {path for path in there if problem.path in (path, printable(path))}
                wrong_now = named or there & ends
                without |= wrong_now
                kept |= set() if wrong_now else set(problem.jobs)
            if before == (len(without), len(kept)):
                raise


def _meant_for(paths: Paths) -> list[Path]:
    """What units are compiled for, beside the job files: another sdcron, or another machine, makes others of them."""
    machine = (paths.root / "etc" / name for name in _MACHINE)
    return [path for path in (Path(sdcron.__file__), *machine) if path.exists()]


def _digests(digests: str, problems: Collection[Problem]) -> str:
    """With a word for the generator where something was left out: each boot is to try it again."""
    first, end, rest = digests.partition("\n")
    return "".join((first, " left out" if problems else "", end, rest))


def _refuse_drop_ins(place: Place, path: Path) -> None:
    if place.user or place.transient or place.local or not (place.offline or has_generator(place.paths)):
        return
    real = os.path.realpath(path)
    if not _is_in_one(place.paths, real) and not _is_in_one(place.paths, f"{real}/"):
        return
    hint = "leave the path away: sdcron apply"
    if place.offline:
        hint = "the machine takes them up when it boots"
    raise UsageError(f"{path} is of the drop-in directories, which are applied as one", hint)


def has_generator(paths: Paths) -> bool:
    """Whether systemd there finds sdcron's generator, which comes with the Debian package."""
    return any((paths.root / parent / _GENERATOR).exists() for parent in _GENERATOR_DIRS)


def carry_out(
    place: Place, applier: Applier | LocalApplier, wanted: Wanted, backend: Backend | None = None
) -> tuple[Problem, ...]:
    """Apply it, see Applier.carry_out; returns what was left out, and what does not start where that stops no other.

    What was told of mistakes in the drop-in directories ends with the last.
    """
    if wanted.digests is None or isinstance(applier, LocalApplier):
        applier.carry_out(wanted.plan)
        return wanted.problems
    applier.carry_out(wanted.plan, digests=wanted.digests, lenient=wanted.lenient)
    problems = list(wanted.problems)
    for change in wanted.plan.changes:
        refused = applier.refused.keys() & set(change.after.start if change.after is not None else ())
        told = (applier.refused[timer] for timer in sorted(refused))
        problems += [Problem(change.source, 0, 0, str(error), hint=error.hint) for error in told]
    if not problems:
        place.paths.generator_log.unlink(missing_ok=True)
        with suppress(BackendError):
            # What a boot could not do is done.
            backend.reset_failed([APPLY_UNIT]) if backend is not None else None
    return tuple(problems)


def begin_late(place: Place, backend: Backend | None) -> None:
    """Start what a boot would have started, had all of it been there: what is applied, or the files that it is of.

    Either may be in a file system that is mounted late. As by a boot, what was missed while the machine was off is made
    good, and what does not start stays so. Raises BackendError, OSError.
    """
    mark, generated = place.paths.generated_mark, place.paths.generated_dir
    if backend is None or generated is None:
        return
    is_early = read_text(mark) == _EARLY
    left_out = _left_out(place.paths, generated)
    if not is_early and not left_out:
        return
    backend.reload()
    installed = read_installed(place.paths)
    gone: set[str] = set()
    try:
        gone |= installed.of_last_boot(place.paths, {*map(str, drop_ins_of(place).files)})
        changes = plan_paths(place, (), None, lenient=True).plan.changes
        gone |= {change.name for change in changes if change.after is None}
    except SdcronError:
        if not is_early:
            # Their files may be gone for good.
            return
    for name, job in installed.jobs.items():
        is_late = job.generated and (is_early or not left_out.isdisjoint(job.units))
        for timer in sorted(job.enabled) if is_late and name not in gone else ():
            with suppress(BackendError):
                backend.start([timer])
    # Not before: an apply that is killed over it does it again.
    if is_early:
        Files().write(mark, "")


def _left_out(paths: Paths, generated: Path) -> set[str]:
    """The units of applied jobs that systemd does not have: their files were not there when it booted."""
    with suppress(OSError):
        return {path.name for path in generated.iterdir() if not os.path.lexists(paths.generator_out / path.name)}
    return set()


def check_removal(place: Place, jobs: Iterable[Before], files: Collection[Path]) -> None:
    """Raise UsageError for a drop-in job that would be back: its file is not among `files`, which go, or hides one."""
    hidden = {path.name for path in find(place.paths.drop_in_dirs).hidden}
    for job in jobs:
        source = Path(job.source)
        if job.generated and (source not in files or source.name in hidden):
            mask = f"ln -sf /dev/null {shlex.quote(f'{place.paths.drop_in_dirs[0]}/{source.name}')}"
            raise UsageError(
                f"{job.name} is of {source}, and would be back",
                f"remove that file, or hide what a package has: {mask}; then: sdcron apply",
            )


def forget(paths: Paths, backend: Backend | None) -> None:
    """Have the next boot, or apply, begin anew with the drop-in directories. Raises BackendError."""
    if paths.generated_dir is None:
        return
    paths.generated_from.unlink(missing_ok=True)
    if backend is not None:
        # Where a file had a mistake, the apply of the last boot has failed.
        backend.reset_failed([APPLY_UNIT])
