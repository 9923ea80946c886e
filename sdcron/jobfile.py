"""One job file: its text -> jobs, and every problem with its place, in one pass.

The only way from YAML to Job; nothing behind it sees a dict. `parse_text` is pure, `read_file` reads and looks at
who may write. The steps are yaml_nodes (text), job_schema (form), job_keys (meaning).
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sdcron.errors import Problem
from sdcron.job import RESERVED_NAMES, Job, Source
from sdcron.job_draft import Draft
from sdcron.job_keys import read_defaults, read_job
from sdcron.job_schema import findings as schema_findings
from sdcron.job_schema import label, schema_text
from sdcron.job_values import RefusedValueError, check_file_path
from sdcron.yaml_nodes import MAX_CHARACTERS, Data, Document, Finding, decode, printable, read_document
from sdcron.yaml_nodes import Path as NodePath
from sdcron.yaml_syntax import LINE_BREAK

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Context", "is_job_name", "locate_key", "others_may_write", "parse_text", "read_file", "schema_text"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NO_JOB = "remove it, or write one: `sdcron new NAME` makes a file to start from"


@dataclass(frozen=True, slots=True)
class Context:
    """What a job file's meaning takes from the machine and the caller.

    `local_timezone` is the machine's IANA zone, `machine_id` chooses spots for H and `spread`. `root_owned_only`
    refuses files and directories that others may write to, as cron does. `host` is the machine's name, for `hosts`.
    """

    local_timezone: str = "UTC"
    machine_id: str = ""
    root_owned_only: bool = False
    host: str = ""


def is_job_name(name: str) -> bool:
    """Whether a job may have this name.

    Letters, digits, `-`, `_`, `.`; at most 128; not starting with `-` or `.`; and not one of sdcron's own units.
    """
    return _NAME.match(name) is not None and name not in RESERVED_NAMES


def read_file(path: Path, context: Context) -> tuple[tuple[Job, ...], tuple[Problem, ...]]:
    """All jobs of a file, and all problems; a job with a problem is left out. Raises nothing for a bad file."""
    shown = printable(str(path))
    try:
        data, insecure = _read_bytes(path, context)
    except OSError as error:
        problem = Problem(shown, 0, 0, f"cannot be read: {error.strerror or error}", hint=_reading_hint(error))
        return (), (problem,)
    text, undecodable = decode(data)
    jobs: tuple[Job, ...] = ()
    source = str(Path(os.path.realpath(path.parent)) / path.name)
    misnamed = _misnamed(shown, source)
    if undecodable:
        problems = _problems(Document(text, None, []), undecodable, shown)
    else:
        jobs, problems = _parse(text, shown, source, context)
    return (() if insecure or misnamed else jobs), (*insecure, *misnamed, *problems)


def parse_text(text: str, path: str, context: Context) -> tuple[tuple[Job, ...], tuple[Problem, ...]]:
    """All jobs of a text, and all problems; a job with a problem is left out.

    `path` names the text in problems, its stem names a single job. Raises nothing, whatever the text.
    """
    return _parse(text, path, path, context)


def locate_key(path: str, job_name: str, key: str) -> tuple[int, int, str]:
    """Line, column and source line of a job's key, its own or inherited; zeros when it cannot be found (again)."""
    try:
        document = read_document(decode(Path(path).read_bytes())[0])
    except OSError:
        return 0, 0, ""
    for place in ((key,), ("jobs", job_name, key), ("defaults", key)):
        parent = document.node(place[:-1])
        if parent is not None and key in parent.names and ("jobs" in place or "jobs" not in parent.names):
            line, column = document.locate(Finding(place, "", at_key=True))
            return line, column, document.source_line(line)
    return 0, 0, ""


def line_of(path: str, line: int) -> str:
    """The text of a job file's line, counted from 1; empty when it cannot be read (again)."""
    try:
        text = decode(Path(path).read_bytes())[0]
    except OSError:
        return ""
    lines = LINE_BREAK.split(text)
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _parse(text: str, shown: str, source: str, context: Context) -> tuple[tuple[Job, ...], tuple[Problem, ...]]:
    document = read_document(text)
    if document.root is None:
        empty = Finding((), "the file is empty", _NO_JOB, mark=(1, 1))
        return (), _problems(document, document.findings or [empty], shown)
    data = document.root.value
    found = list(document.findings)
    if data is None:
        found.append(Finding((), "the file holds no job", _NO_JOB))
    elif not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a text"
        hint = "for example: command: /usr/local/bin/backup"
        found.append(Finding((), f"a job file is a map from keys to values, not {kind}", hint))
    if len(found) > len(document.findings) or not isinstance(data, dict):
        return (), _problems(document, found, shown)
    of_schema = schema_findings(data)
    found += of_schema
    refused = frozenset(finding.path for finding in of_schema)
    if "jobs" in data:
        jobs = _several(document, data, Source(source, shown=shown), context, refused, found)
    else:
        jobs = _single(document, data, Source(source, shown=shown), context, refused, found)
    return jobs, _problems(document, found, shown) if found else ()


def _single(
    document: Document,
    data: dict[str, Data],
    source: Source,
    context: Context,
    refused: frozenset[NodePath],
    found: list[Finding],
) -> tuple[Job, ...]:
    name = data.get("name")
    if name is None and "name" not in data:
        name = PurePath(source.path).stem
        if not _NAME.match(name):
            hint = "rename the file, or add `name:` with letters, digits, '-', '_' and '.'"
            found.append(Finding((), f"the file name gives no job name: {name!r}", hint))
    if name in RESERVED_NAMES:
        hint = "add `name:` with another name, or rename the file" if "name" not in data else "give it another name"
        found.append(_reserved(str(name), ("name",) if "name" in data else (), hint))
    values = {key: value for key, value in data.items() if key != "name"}
    draft = Draft(str(name), document, (), values, {}, refused)
    line = document.root.line if document.root else 1
    job = _finish(draft, replace(source, line=line), context, found)
    return (job,) if job is not None and not found else ()


def _several(
    document: Document,
    data: dict[str, Data],
    source: Source,
    context: Context,
    refused: frozenset[NodePath],
    found: list[Finding],
) -> tuple[Job, ...]:
    defaults = data.get("defaults") or {}
    defaults = defaults if isinstance(defaults, dict) else {}
    of_defaults = Draft("defaults", document, ("defaults",), defaults, {}, refused)
    read_defaults(of_defaults, local_timezone=context.local_timezone)
    found += of_defaults.findings
    if "name" in defaults:
        found.append(
            Finding(("defaults", "name"), "'name' has no place in 'defaults'", "every job has its own", at_key=True)
        )
    # What is wrong in defaults is said already, so jobs do not say it again.
    refused |= {finding.path for finding in of_defaults.findings}
    jobs = []
    members = data["jobs"] if isinstance(data["jobs"], dict) else {}
    for name, own in members.items():
        path: NodePath = ("jobs", name)
        if not isinstance(own, dict):
            continue
        if name in RESERVED_NAMES:
            found.append(replace(_reserved(name, path, "give it another name"), at_key=True))
        if "name" in own:
            hint = f"the key above, '{name}', is the name"
            found.append(Finding((*path, "name"), "'name' has no place below 'jobs'", hint, at_key=True))
        draft = _merge(name, document, own, defaults, refused)
        node = document.node(path)
        key = document.root.members["jobs"].names.get(name) if document.root else None
        line = key.line if key else node.line if node else 1
        job = _finish(draft, replace(source, line=line), context, found)
        if job is not None and name not in RESERVED_NAMES:
            jobs.append(job)
    return tuple(jobs) if not document.findings else ()


def _reserved(name: str, path: NodePath, hint: str) -> Finding:
    return Finding(path, f"the job name '{name}' is taken: sdcron-{name}.service is sdcron's own", hint)


def _merge(
    name: str, document: Document, own: dict[str, Data], defaults: dict[str, Data], refused: frozenset[NodePath]
) -> Draft:
    """A job with the defaults it inherits: its keys replace theirs, but environments merge.

    `command` and `script` are one choice: a job's own replaces the defaults' whichever of the two it is.
    """
    chosen = {"command", "script"} & own.keys()
    inherited = {key for key in defaults if key not in own and not (chosen and key in {"command", "script"})}
    if "interpreter" in inherited and "script" in own:
        inherited.discard("interpreter")
    values = {key: value for key, value in defaults.items() if key in inherited} | own
    values.pop("name", None)
    places: dict[NodePath, NodePath] = {(key,): ("defaults", key) for key in inherited}
    theirs, ours = defaults.get("environment"), own.get("environment")
    if isinstance(theirs, dict) and isinstance(ours, dict):
        values["environment"] = theirs | ours
        places |= {("environment", key): ("defaults", "environment", key) for key in theirs if key not in ours}
    return Draft(name, document, ("jobs", name), values, places, refused)


def _finish(draft: Draft, source: Source, context: Context, found: list[Finding]) -> Job | None:
    seed = f"{draft.name}@{context.machine_id}"
    job = read_job(draft, source, seed=seed, local_timezone=context.local_timezone)
    found += draft.findings
    return job


def _problems(document: Document, found: Iterable[Finding], shown: str) -> tuple[Problem, ...]:
    """Findings as problems, in the order of the file, each once."""
    problems: dict[Problem, None] = {}
    for finding in found:
        line, column = document.locate(finding)
        key = label(finding.path).rpartition("'")[0].partition("'")[2] if finding.path else ""
        source_line = document.source_line(line)
        problems[Problem(shown, line, column, finding.message, key, finding.hint, source_line)] = None
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _read_bytes(path: Path, context: Context) -> tuple[bytes, list[Problem]]:
    """The bytes of a file, and who else may write to it; looked at on the open file, so both are of the same one."""
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        insecure = _insecure(path, status) if context.root_owned_only else []
        return stream.read(4 * MAX_CHARACTERS + 1), insecure


def _insecure(path: Path, status: os.stat_result) -> list[Problem]:
    """Others who may write to the file or its directory, or to a symlink's target; crontab(5) refuses them too."""
    problems = [_writable(str(path), status, "this file")]
    directories = {os.path.realpath(path.parent): str(path.parent)}
    real = str(path.resolve().parent)
    directories.setdefault(real, real)
    problems += [_writable(shown, Path(shown).stat(), "this directory") for shown in directories.values()]
    return [problem for problem in problems if problem is not None]


def others_may_write(path: str) -> bool:
    """Whether anybody but root and the caller may write to a file or directory."""
    return _writable(path, Path(path).stat(), "") is not None


def _writable(shown: str, status: os.stat_result, what: str) -> Problem | None:
    commands = []
    reasons = []
    if status.st_uid not in {0, os.getuid()}:
        reasons.append(f"belongs to uid {status.st_uid}, not to root")
        commands.append(f"chown root: {shlex.quote(shown)}")
    if status.st_mode & _OTHERS_MAY_WRITE:
        reasons.append(f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})")
        commands.append(f"chmod go-w {shlex.quote(shown)}")
    if not reasons:
        return None
    return Problem(
        shown, 0, 0, f"{what} {' and '.join(reasons)}, so others decide what runs", hint=f"run: {' && '.join(commands)}"
    )


def _misnamed(shown: str, source: str) -> list[Problem]:
    """What no unit can say of where its job comes from: odd characters in the path of the file or its directory."""
    for what, path in (("directory", str(Path(source).parent)), ("file", source)):
        try:
            check_file_path(path)
        except RefusedValueError as error:
            hint = f"rename the {what} {printable(path)}"
            return [Problem(shown, 1, 1, f"the path of this {what} {error.message}", hint=hint)]
    return []


def _reading_hint(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "give yourself read permission, or run as root"
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return "it is a link to what is not there: mend it, or delete it"
    if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
        return "give the path of a YAML file; in a directory of job files, only such may be called *.yaml or *.yml"
    return "check the path and its disk"
