"""Golden units: for every key of the job file, the exact text and the exact set of files that it becomes.

`tests/golden/CASE.yaml` is the job, `CASE.…` beside it are its units for the system's manager and, where those of a
user's manager differ, `CASE.user.…`. SDCRON_RENEW_GOLDEN=1 writes them anew; read the diff then.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcron.drop_ins import is_drop_in, unit_of
from sdcron.jobfile import Context, parse_text
from sdcron.jobset import check_supported
from sdcron.paths import Scope
from sdcron.python_command import RUNNER
from sdcron.units import CompiledJob, compile_job, is_sealed

if TYPE_CHECKING:
    from sdcron.job import Job

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
# Read at import: no test sees the developer's settings.
RENEW = os.environ.get("SDCRON_RENEW_GOLDEN") == "1"
STATE = "/var/lib/sdcron"
SCHEMA = Path(__file__).parent.parent / "sdcron/schema/job.schema.json"


def job_of(case: str) -> Job:
    """The one job of a case, on a machine that is the same everywhere."""
    context = Context(local_timezone="America/New_York", machine_id="0123456789abcdef0123456789abcdef")
    text = (GOLDEN / f"{case}.yaml").read_text(encoding="utf-8")
    jobs, problems = parse_text(text, f"/etc/sdcron/jobs/{case}.yaml", context)
    assert problems == ()
    return jobs[0]


def compiled(case: str, scope: Scope) -> CompiledJob:
    return compile_job(job_of(case), directory="/etc/sdcron/jobs", scope=scope, state_dir=STATE)


def golden_texts(case: str) -> dict[str, str]:
    """Golden file name -> text of everything that a case becomes, in both scopes.

    The digests are left out, so that a change shows as the lines that changed.
    """
    job = compiled(case, Scope.SYSTEM)
    system = texts_by_name(job)
    texts = {f"{case}{name}": text for name, text in system.items()}
    for name, text in texts_by_name(compiled(case, Scope.USER)).items():
        if text != system.get(name):
            texts[f"{case}.user{name}"] = text
    if job.script is not None:
        texts[f"{case}.script"] = job.script
    texts[f"{case}.timers"] = f"start {' '.join(job.start)}\nboot {' '.join(job.boot)}\n"
    return texts


def texts_by_name(job: CompiledJob) -> dict[str, str]:
    """What follows the job's name in a unit's name, such as `.service` or `@retry-1.timer` -> its text.

    What it adds to another unit is called by that: `.dump.conf`.
    """
    found = {}
    for unit in job.units:
        other = unit_of(unit.name).removeprefix("sdcron-").removesuffix(".service")
        name = f".{other}.conf" if is_drop_in(unit.name) else unit.name.removeprefix(f"sdcron-{job.name}")
        # Wherever this checkout lies.
        text = unit.text.replace(RUNNER, "/usr/lib/python3/dist-packages/sdcron/function_runner.py")
        found[name] = text.partition("Digest=")[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_units_of_a_job_are_exactly_the_golden_ones(case: str) -> None:
    texts = golden_texts(case)
    present = {
        path.name: path
        for path in GOLDEN.iterdir()
        if re.fullmatch(
            re.escape(case) + r"(\.user)?((@[a-z0-9-]+)?\.(service|timer|timers|script)|\.[a-z0-9@-]+\.conf)", path.name
        )
    }
    if RENEW:
        for path in present.values():
            path.unlink()
        for name, text in texts.items():
            (GOLDEN / name).write_text(text, encoding="utf-8")
        return
    assert set(texts) == set(present)
    for name, text in texts.items():
        assert text == present[name].read_text(encoding="utf-8"), name


def test_every_key_of_the_job_file_has_a_golden_case() -> None:
    keys = set(json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]["job"]["properties"])
    # Their behaviour is still to come: compile refuses them.
    later = {"notify", "ping"}
    used = {
        line.partition(":")[0]
        for case in CASES
        for line in (GOLDEN / f"{case}.yaml").read_text(encoding="utf-8").splitlines()
        if re.match("[a-z_]+:", line)
    }
    assert keys - later == used


@pytest.mark.parametrize("case", CASES)
def test_every_golden_job_can_be_compiled_and_every_unit_carries_its_own_digest(case: str) -> None:
    assert check_supported([job_of(case)]) == ()
    for unit in compiled(case, Scope.SYSTEM).units:
        assert is_sealed(unit.text)
        assert not is_sealed(unit.text.replace("Job=", "Job=x"))


def test_no_golden_file_is_left_over_from_a_case_that_is_gone() -> None:
    known = re.compile("|".join(re.escape(case) for case in CASES))
    assert [path.name for path in GOLDEN.iterdir() if not known.match(path.name)] == []


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_about_any_golden_unit(scope: Scope, tmp_path: Path) -> None:
    cases = [case for case in CASES if scope is Scope.SYSTEM or not check_supported([job_of(case)], user=True)]
    jobs = [compiled(case, scope) for case in cases]
    units = [unit for job in jobs for unit in job.units]
    for unit in units:
        (tmp_path / unit.name).parent.mkdir(exist_ok=True)
        (tmp_path / unit.name).write_text(unit.text, encoding="utf-8")
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "SYSTEMD_LOG_COLOR": "0"}
    named = [str(tmp_path / unit.name) for unit in units if not is_drop_in(unit.name)]
    command = ["systemd-analyze", f"--{scope}", "--man=no", "verify", *named]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert [line for line in told.stderr.splitlines() if "sdcron-" in line or str(tmp_path) in line] == []
    assert "aliases" not in told.stderr
