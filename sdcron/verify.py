"""Directives passed through under `systemd:` are checked by systemd's own verifier, systemd-analyze(1) verify."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.units import CompiledJob

_TIMEOUT_SECONDS = 60


def verify_units(jobs: Sequence[CompiledJob], *, user: bool) -> tuple[Problem, ...]:
    """What the verifier says of these jobs' units, a Problem a line. Empty where systemd-analyze is not installed."""
    program = shutil.which("systemd-analyze")
    if program is None or not jobs:
        return ()
    with tempfile.TemporaryDirectory(prefix="sdcron-verify-") as directory:
        sources = {}
        for job in jobs:
            for unit in job.units:
                path = Path(directory, unit.name)
                path.write_text(unit.text, encoding="utf-8")
                sources[unit.name] = job.source
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:", "SYSTEMD_LOG_COLOR": "0"}
        scope = "--user" if user else "--system"
        command = [program, scope, "--man=no", "verify", *sorted(str(Path(directory, name)) for name in sources)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False, env=environment
        )
        return tuple(_problem(line, directory, sources) for line in result.stderr.splitlines() if directory in line)


def _problem(line: str, directory: str, sources: dict[str, str]) -> Problem:
    place, _, message = line.partition(f"{directory}/")[2].partition(": ")
    unit = place.split(".service:")[0].split(".timer:")[0]
    source = next((path for name, path in sources.items() if name.startswith(unit)), unit)
    return Problem(source, 0, 0, f"systemd: {message or line}", "systemd", "see systemd.exec(5) and systemd.service(5)")
