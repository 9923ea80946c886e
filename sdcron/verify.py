"""Directives passed through under `systemd:` are checked by systemd's own verifier, systemd-analyze(1) verify."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.drop_ins import is_drop_in
from sdcron.errors import Problem, SdcronError
from sdcron.jobfile import line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sdcron.job import Directive, Job
    from sdcron.units import CompiledJob, Unit

_TIMEOUT_SECONDS = 60
_AT_ONCE = 200
"""Units in one call: the command line has bounds (execve(2), E2BIG), and so has what can be read within the timeout."""
_MANUALS = {
    "unit": "systemd.unit(5)",
    "service": "systemd.service(5), systemd.exec(5) and systemd.resource-control(5)",
    "timer": "systemd.timer(5)",
}
_LOCATED = re.compile(r"(?P<unit>[^/]+\.(?:service|timer)):(?:(?P<line>\d+):)? (?P<message>.*)")
_NOT_BEGUN = r"Failed to [^\n]*\n?"
"""All it says where it cannot even begin to look."""
_RUNTIME = Path("/run/systemd")


def verify_units(
    jobs: Mapping[str, Job],
    compiled: Sequence[CompiledJob],
    *,
    user: bool,
    note: Callable[[str], object] = lambda _: None,
) -> tuple[Problem, ...]:
    """What the verifier says of the units of these jobs, given by name, a Problem a line.

    Empty where systemd-analyze is not installed, which `note` is told. Raises SdcronError when it cannot be run, or
    does not end.
    """
    if not compiled:
        return ()
    program = shutil.which("systemd-analyze")
    if program is None:
        note("sdcron: systemd-analyze is not installed, so the directives under 'systemd:' are not checked")
        return ()
    try:
        return _verified(program, jobs, compiled, note, user=user)
    except subprocess.TimeoutExpired as error:
        raise SdcronError(
            f"{program} verify did not end within {_TIMEOUT_SECONDS} s",
            "see what keeps the machine busy, and try again",
        ) from error
    except OSError as error:
        raise SdcronError(f"{program} cannot be run: {error.strerror}", "see that it and /tmp are in order") from error


def _verified(
    program: str,
    jobs: Mapping[str, Job],
    compiled: Sequence[CompiledJob],
    note: Callable[[str], object],
    *,
    user: bool,
) -> tuple[Problem, ...]:
    with tempfile.TemporaryDirectory(prefix="sdcron-verify-") as directory:
        units = {unit.name: (jobs[job.name], unit) for job in compiled for unit in job.units}
        for _, unit in units.values():
            Path(directory, unit.name).parent.mkdir(exist_ok=True)
            Path(directory, unit.name).write_text(unit.text, encoding="utf-8")
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:", "SYSTEMD_LOG_COLOR": "0"}
        scope = "--user" if user else "--system"
        if os.geteuid() and not user and not _RUNTIME.is_dir():
            # It would make that directory, which only root may. What there is to be said is the same.
            scope, environment["XDG_RUNTIME_DIR"] = "--user", directory
        files = sorted(str(Path(directory, name)) for name in units if not is_drop_in(name))
        said: list[str] = []
        for first in range(0, len(files), _AT_ONCE):
            result = subprocess.run(
                [program, scope, "--man=no", "verify", *files[first : first + _AT_ONCE]],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                env=environment,
            )
            said += result.stderr.splitlines()
            if result.returncode and re.fullmatch(_NOT_BEGUN, result.stderr):
                note(f"sdcron: the directives under 'systemd:' are not checked: {program}: {result.stderr.strip()}")
        return tuple(dict.fromkeys(_problems(said, f"{directory}/", units)))


def _problems(said: Sequence[str], directory: str, units: Mapping[str, tuple[Job, Unit]]) -> Iterator[Problem]:
    """The lines about these units, each at the directive it is about; others are about what the machine has besides."""
    for line in said:
        located = _LOCATED.fullmatch(line.removeprefix(directory))
        if located is None or located["unit"] not in units:
            continue
        job, unit = units[located["unit"]]
        message = located["message"].removesuffix(".").removesuffix(", ignoring").replace(", ignoring:", ":")
        text = unit.text.split("\n")[int(located["line"]) - 1] if located["line"] else ""
        section, directive = _directive(job, unit, text)
        key = f"systemd.{section}.{directive.key}" if directive else "systemd"
        where = (directive.line, directive.column) if directive else (job.source.line, 1)
        excerpt = line_of(job.source.path, where[0])
        yield Problem(job.source.shown, *where, f"{key}: {message}", key, f"see {_MANUALS[section]}", excerpt)


def _directive(job: Job, unit: Unit, text: str) -> tuple[str, Directive | None]:
    """The directive that wrote a line of a unit, and its section; the only one there is, if the line is not known."""
    kind = "timer" if unit.name.endswith(".timer") else "service"
    passed = [("unit", each) for each in job.systemd.unit] if kind == "service" else []
    passed += [(kind, each) for each in getattr(job.systemd, kind)]
    for section, each in passed:
        if text.startswith(f"{each.key}=") and text.endswith(each.value):
            return section, each
    return passed[0] if len(passed) == 1 else (kind, None)
