"""The generator's compiler: what is generated of the drop-in directories when they are not as they were applied.

systemd runs generators at a boot and at every daemon-reload (systemd.generator(7)); the shell script in front of this
comes here only if a digest differs. What is generated then starts nothing new: whoever reloads has applied no job, and
a timer whose text changes while it waits may run its job at once. So what is applied stays as it is, and makes good at
a boot what it has missed; of a new job the service and its timers are there to be looked at, and no more. At a boot
sdcron.service applies the directories next.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.drop_ins import is_drop_in
from sdcron.dropped import APPLY_UNIT
from sdcron.errors import JobFileError, SdcronError
from sdcron.hosts import belongs
from sdcron.installed import read_installed
from sdcron.jobfile import read_file
from sdcron.jobs_d import Found, find, may_be_in
from sdcron.jobset import JobSet
from sdcron.operations import compile_jobs, file_context
from sdcron.paths import TIMERS, system_paths
from sdcron.place import Place

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sdcron.paths import Paths
    from sdcron.units import CompiledJob

_KERNEL_LOG = Path("/dev/kmsg")
_LONGEST = 900
"""Bytes in an entry of the kernel log: somewhat less than PRINTK's own bound of about 1,000."""
_ERROR = "<3>"
"""The priority in front of a line in the kernel log: sd-daemon(3), SD_ERR."""


def generate(paths: Paths, into: Path, *, at_boot: bool) -> tuple[str, ...]:
    """Generate units into an empty directory; returns what is wrong, a line each. Raises OSError."""
    installed = read_installed(paths)
    applied = {name: job for name, job in installed.jobs.items() if job.generated}
    taken = {name: job.source for name, job in installed.jobs.items() if not job.generated}
    if at_boot:
        _link(into / "multi-user.target.wants", APPLY_UNIT, f"/usr/lib/systemd/system/{APPLY_UNIT}")
    problems: list[str] = []
    compiled: list[CompiledJob] = []
    without: set[str] = set()
    try:
        found = find(paths.drop_in_dirs, {name: job.source for name, job in applied.items()})
    except SdcronError as error:
        found, problems = Found((), ()), [str(error)]
        without = {job.source for job in applied.values()}
    # A name that two of them have is the applied one's.
    sources = {job.source for job in applied.values()}
    for path in sorted(found.files, key=lambda path: str(path) not in sources):
        jobs, wrong = _compile(paths, path, taken, installed.foreign)
        taken |= {job.name: job.source for job in jobs}
        compiled += jobs
        problems += wrong
        without |= {str(path)} if wrong else set()
    # A job of which no file says anything any more: the next apply removes it.
    gone = {
        name
        for name in applied.keys() - {job.name for job in compiled}
        if at_boot and not may_be_in(applied[name].source, without)
    }
    if at_boot:
        # What was for the last boot alone has gone with it, and what it hid is to be applied.
        gone |= installed.of_last_boot(paths, {str(path) for path in found.files} | without)
        # What others wait for, and no file has any more, is for that apply to see to.
        gone -= installed.waited_for(installed.jobs.keys() - gone) - {job.name for job in compiled}
    stay = applied.keys() - gone
    for name in sorted(stay):
        _write_units(into, applied[name].units)
    for job in compiled:
        if job.name not in stay:
            _write_units(into, {unit.name: unit.text for unit in job.units if not is_drop_in(unit.name)})
    wanted = sorted(name for job in stay for name in applied[job].enabled)
    _write_units(into, {f"{TIMERS}.d/sdcron.conf": "".join(("[Unit]\n", *(f"Wants={name}\n" for name in wanted)))})
    return tuple(problems)


def _compile(
    paths: Paths, path: Path, taken: Mapping[str, str], foreign: Collection[str]
) -> tuple[list[CompiledJob], list[str]]:
    """The jobs of one file, or none and what is wrong with it; `taken` are names of jobs, `foreign` ones of units."""
    place = Place(paths)
    context = file_context(place)
    jobs, problems = read_file(path, context)
    here = tuple(job for job in jobs if belongs(job, context.host))
    try:
        # What runs after what is for the apply to check: nothing of a new job starts by itself.
        compiled = [] if problems else list(compile_jobs(place, JobSet(here, host=context.host), verify=False))
    except JobFileError as error:
        compiled, problems = [], error.problems
    wrong = [*map(str, problems)]
    for job in compiled:
        if job.name in taken:
            wrong.append(f"{path}: job {job.name} is applied already from {taken[job.name]}")
        wrong += [f"{path}: {unit.name} exists and is not sdcron's" for unit in job.units if unit.name in foreign]
    return [] if wrong else compiled, wrong


def _write_units(into: Path, units: Mapping[str, str]) -> None:
    for name, text in units.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _link(directory: Path, name: str, target: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (directory / name).symlink_to(target)


def _tell(paths: Paths, problems: Sequence[str]) -> None:
    """Say what is wrong in the kernel log, where that may be written, and where `sdcron doctor` finds it."""
    with suppress(OSError), _KERNEL_LOG.open("r+b", buffering=0) as log:
        for line in problems:
            # An entry a call, and no longer than the kernel takes.
            log.write(f"{_ERROR}sdcron-generator: {line}".encode(errors="replace")[:_LONGEST] + b"\n")
    with suppress(OSError):
        paths.runtime_dir.mkdir(parents=True, exist_ok=True)
        paths.generator_log.unlink(missing_ok=True)
        if problems:
            text = "".join(f"{line}\n" for line in problems)
            paths.generator_log.write_text(text, encoding="utf-8", errors="replace")


def main(arguments: Sequence[str]) -> int:
    """`sdcron-generator`'s compiler: the directory to generate into, and `boot` or `reload`."""
    paths = system_paths()
    os.umask(0o022)
    into, when = Path(arguments[0]), arguments[1]
    try:
        problems = generate(paths, into, at_boot=when == "boot")
    except OSError as error:
        _tell(paths, [str(error)])
        return 1
    _tell(paths, problems)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
