"""Job files written and changed by hand: the file of a new job, and the file of an applied one in an editor.

A file is changed only to what has been checked, and by one rename: an editor that dies half way changes nothing.
"""

from __future__ import annotations

import difflib
import errno
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.applied import applied_jobs
from sdcron.desired import Desired, plan_jobs
from sdcron.dropped import is_dropped_in, plan_paths
from sdcron.errors import JobFileError, SdcronError, UsageError
from sdcron.files import Files
from sdcron.hosts import belongs
from sdcron.job import RESERVED_NAMES
from sdcron.jobfile import is_job_name, parse_text
from sdcron.jobset import JobPaths, JobSet, check_together
from sdcron.operations import changing, compile_jobs, connect, file_context, writing_hint
from sdcron.pauses import read_pauses
from sdcron.queries import find_job
from sdcron.record import Record
from sdcron.template import job_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sdcron.backends import UnitState
    from sdcron.jobfile import Context
    from sdcron.place import Place
    from sdcron.plan import Change, Plan

_EDITORS = ("sensible-editor", "editor", "nano", "vi")
"""Where neither $VISUAL nor $EDITOR is set."""
_AS_OWNER = "run it as root (sudo), or as the file's owner"


def path_of_new(name: str, directory: Path) -> Path:
    """Where the file of a new job goes. Raises UsageError for a name that cannot be one, or a file that exists."""
    if name in RESERVED_NAMES:
        raise UsageError(f"{name!r} is a name of sdcron's own", "choose another, such as my-" + name)
    if not is_job_name(name):
        raise UsageError(f"{name!r} cannot be a job's name", "use letters, digits, - _ and ., at most 128")
    path = directory / f"{name}.yaml"
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", "choose another name, or edit that file")
    return path


def new_job_file(name: str, directory: Path, values: Mapping[str, str]) -> Path:
    """Write a commented job file; `values` are texts for its keys, by their names.

    Raises as `path_of_new`, JobFileError for values that cannot be, and SdcronError.
    """
    path = path_of_new(name, directory)
    text = job_template(name, values)
    problems = parse_text(text, str(path), file_context_here())[1]
    if problems:
        raise JobFileError(problems)
    try:
        with path.open("x", encoding="utf-8") as stream:
            try:
                stream.write(text)
                stream.flush()
            except OSError:
                path.unlink()
                raise
    except PermissionError as error:
        raise SdcronError(f"{path}: {error.strerror}", "choose a directory you may write: --directory DIR") from error
    except OSError as error:
        raise SdcronError(f"{path}: {error.strerror}", writing_hint(error)) from error
    return path


def problems_of_value(name: str, key: str, value: str) -> tuple[str, ...]:
    """What is wrong with one value of a new job, for who is being asked for it: nothing if all is right."""
    text = job_template(name, {key: value})
    _, problems = parse_text(text, f"{name}.yaml", file_context_here())
    return tuple(f"{problem.message}: {problem.hint}" if problem.hint else problem.message for problem in problems)


def file_context_here() -> Context:
    """What a job file means on this machine, whoever will run its jobs."""
    from sdcron.place import make_place

    return file_context(make_place(user=False, root=None, backend="local"))


@dataclass(frozen=True, slots=True)
class Draft:
    """A job file as it is, as somebody wants it to be, and what applying that would change; `copy` is what he edits."""

    path: Path
    copy: Path
    before: str
    after: str
    plan: Plan | None = None

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return self.before != self.after

    def forget(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.copy.parent, ignore_errors=True)


def source_of(place: Place, job: str) -> Path:
    """The file of an applied job. Raises UsageError if that is not there, or is no job file, and SdcronError."""
    path = Path(find_job(place, job).source)
    if job not in applied_jobs(place.paths):
        again = f"edit that, and then: sdcron apply --transient {shlex.quote(str(path))}"
        raise UsageError(f"{job} is transient, of {path}", again)
    if path.parent == _of_packages(place):
        copy = shlex.join(["cp", str(path), f"{place.paths.drop_in_dirs[0]}/"])
        raise UsageError(f"{path} is a package's", f"{copy}, edit that, and then: sdcron apply")
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{job} comes from {path}, which is no job file", "change that itself")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = f"write it anew, and apply it; or: sdcron remove {job}"
        raise UsageError(f"{path}, from which {job} was applied, is not there any more", hint) from error
    except OSError as error:
        raise SdcronError(f"{path}: {error.strerror}", _AS_OWNER) from error
    return path


def _of_packages(place: Place) -> Path | None:
    """Where packages put their job files, which nobody else changes or removes."""
    return place.paths.drop_in_dirs[-1] if place.paths.drop_in_dirs else None


def check_rights(place: Place, path: Path) -> None:
    """Raise SdcronError for whoever may not replace the file, or change what is applied: before he writes anything."""
    directory = path.resolve().parent
    if not os.access(directory, os.W_OK):
        raise SdcronError(f"{path}: {os.strerror(errno.EACCES)}", _AS_OWNER)
    with connect(place) as backend, changing(place, backend):
        pass


def edited(place: Place, path: Path, again: Callable[[JobFileError], bool], note: Callable[[str], object]) -> Draft:
    """Have the file changed in an editor until it is right.

    `again` hears what is wrong, and says whether to go on; if not, that is raised, and `note` hears where the text is
    kept. The file itself is not touched.
    """
    before = _read(path)
    directory = Path(tempfile.mkdtemp(prefix="sdcron-edit-"))
    draft = Draft(path, directory / path.name, before, before)
    try:
        _write(draft.copy, before)
        while True:
            _run_editor(draft.copy)
            draft = replace(draft, after=_read(draft.copy))
            try:
                return replace(draft, plan=plan_of(place, draft)) if draft else draft
            except JobFileError as error:
                if not again(error):
                    raise
    except BaseException:
        keep(draft, note)
        raise


def keep(draft: Draft, note: Callable[[str], object]) -> None:
    """Say where what somebody wrote is, now that it is not saved; nothing if he wrote nothing."""
    try:
        differs = _read(draft.copy) != draft.before
    except SdcronError:
        differs = draft.copy.exists()
    if differs:
        note(f"sdcron: what you wrote is kept in {draft.copy}")
    else:
        draft.forget()


def plan_of(place: Place, draft: Draft) -> Plan:
    """What applying it would change. Raises JobFileError for what could not be applied, BackendError."""
    context = file_context(place)
    jobs, problems = parse_text(draft.after, str(draft.path), context)
    if problems:
        raise JobFileError(problems)
    here = tuple(job for job in jobs if belongs(job, context.host))
    others = tuple(job for job in jobs if not belongs(job, context.host))
    # Where a key stands is looked up in the file.
    drafted = [replace(job, source=replace(job.source, path=str(draft.copy))) for job in here]
    if together := check_together(drafted):
        raise JobFileError(tuple(together))
    pauses = read_pauses(place.paths)
    compile_jobs(place, JobSet(tuple(drafted), elsewhere=others, host=context.host))
    compiled = compile_jobs(place, JobSet(here, elsewhere=others, host=context.host))
    every = is_dropped_in(place, str(draft.path))
    compiled = tuple(replace(job, generated=every) for job in compiled)
    desired = Desired(
        tuple(job.while_paused() if pauses.of(job.name) else job for job in compiled),
        frozenset(),
        frozenset(),
        JobPaths({str(draft.path): draft.path}, files=(str(draft.path),)),
        Record(""),
        {},
    )
    with connect(place) as manager:
        timers = manager.active_timers() if manager else None
        todo = plan_jobs(place, desired, timers, prune=True)
        beside = _pending(place, draft.path, timers) if every else ()
    return replace(todo, changes=tuple(sorted((*todo.changes, *beside), key=lambda change: change.name)))


def _pending(place: Place, path: Path, timers: Mapping[str, UnitState] | None) -> tuple[Change, ...]:
    """What else an apply of all the drop-in directories would change, beside the jobs of that file."""
    # One that has mistakes keeps nobody from putting right another, and is told of when they are applied.
    with suppress(JobFileError):
        changes = plan_paths(place, (), timers, lenient=True).plan.changes
        return tuple(change for change in changes if change.source != str(path))
    return ()


def difference(draft: Draft) -> str:
    """What differs, in the unified format."""
    before, after = (text.splitlines(keepends=True) for text in (draft.before, draft.after))
    lines = difflib.unified_diff(before, after, f"{draft.path}", f"{draft.path}, edited")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def save(draft: Draft) -> None:
    """Replace the file. Raises SdcronError, also if somebody else has changed it meanwhile."""
    path = draft.path
    if _read(path) != draft.before:
        raise SdcronError(f"{path} was changed by somebody else meanwhile", "edit it again")
    try:
        real = path.resolve()
        status = real.stat()
        files = Files()
        staged = files.stage(real, draft.after, stat.S_IMODE(status.st_mode))
        try:
            if os.geteuid() == 0 or status.st_gid != staged.stat().st_gid:
                os.chown(staged, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
            files.publish(staged, real)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        files.sync_directory(real.parent)
    except PermissionError as error:
        raise SdcronError(f"{path}: {error.strerror}", _AS_OWNER) from error
    except OSError as error:
        raise SdcronError(f"{path}: {error.strerror}", writing_hint(error)) from error


def removable(place: Place, names: Sequence[str], note: Callable[[str], object]) -> list[Path]:
    """The files that hold these applied jobs and nothing else; `note` hears of those that hold more."""
    jobs = applied_jobs(place.paths)
    found = []
    for source in sorted({jobs[name].source for name in names if name in jobs}):
        path = Path(source)
        if path.suffix not in (".yaml", ".yml") or not os.path.lexists(path):
            continue
        if path.parent == _of_packages(place):
            continue
        of_file = ", ".join(sorted({name for name in names if name in jobs and jobs[name].source == source}))
        try:
            inside, problems = parse_text(_read(path), source, file_context(place))
        except SdcronError as error:
            note(f"sdcron: {error.message}; {of_file} may come back from it with the next apply")
            continue
        others = sorted({job.name for job in inside} - {*names})
        if others or problems:
            what = f"also holds {', '.join(others)}" if others else "has mistakes in it"
            note(f"sdcron: {path} {what} and stays: take {of_file} out of it, or the next apply brings it back")
        else:
            found.append(path)
    return found


def remove_files(paths: Iterable[Path], note: Callable[[str], object]) -> list[Path]:
    """Remove them; those that are gone. `note` hears of the others."""
    gone = []
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            note(f"sdcron: {path} stays: {error.strerror}; remove it, or the next apply brings its jobs back")
        else:
            gone.append(path)
    return gone


def _read(path: Path) -> str:
    """The text as it is, its ends of lines too. Raises SdcronError."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise SdcronError(f"{path} is not UTF-8", "save it as UTF-8") from error
    except OSError as error:
        hint = _AS_OWNER if isinstance(error, PermissionError) else f"see: ls -l {shlex.quote(str(path))}"
        raise SdcronError(f"{path} cannot be read: {error.strerror}", hint) from error


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)


def _run_editor(path: Path) -> None:
    words = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        command = shlex.split(words)
    except ValueError as error:
        raise UsageError(f"$EDITOR cannot be read: {error}", "for example: EDITOR=nano") from error
    if not command:
        found = next(filter(None, map(shutil.which, _EDITORS)), None)
        if found is None:
            raise UsageError("there is no editor", "set one: EDITOR=/usr/bin/nano")
        command = [found]
    try:
        ended = subprocess.run([*command, str(path)], check=False)
    except OSError as error:
        raise UsageError(f"{command[0]}: {error.strerror}", "set another: EDITOR=/usr/bin/nano") from error
    if ended.returncode:
        raise SdcronError(f"{command[0]} ended with exit status {ended.returncode}", "nothing is changed")
