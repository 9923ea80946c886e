"""`pip install` into a virtual environment that has nothing else: with and without the extra."""

from __future__ import annotations

import subprocess
import venv
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT
from tests.packaged import tracked_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.tools
@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", ["", "[systemd]"])
def test_pip_installs_it_into_a_plain_environment(extra: str, tmp_path: Path) -> None:
    source, place, jobs = tmp_path / "source", tmp_path / "venv", tmp_path / "jobs"
    for name in tracked_files():
        # Not in the checkout: what is built is put beside the source.
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    venv.create(place, with_pip=True)

    def run(*argv: str) -> str:
        environment = {"PATH": f"{place}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
        ended = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert ended.returncode == 0, f"{argv}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    constraints = ("-c", str(CHECKOUT / "constraints.txt"))
    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, f"{source}{extra}")
    assert run("sdcron", "--version").startswith("sdcron ")
    jobs.mkdir()
    (jobs / "hello.yaml").write_text("schedule: '@daily'\ncommand: echo hello\n", encoding="utf-8")
    assert "+ add hello" in run("sdcron", "plan", str(jobs), "--root", str(tmp_path / "root"))
    run("sdcron", "apply", str(jobs), "--root", str(tmp_path / "root"), "--yes")
    assert (tmp_path / "root/etc/systemd/system/sdcron-hello.timer").is_file()
    assert run("sdcron-job", "--help")
    has_extra = run(
        "python", "-c", "from importlib.util import find_spec as f; print(bool(f('pystemd') and f('systemd')))"
    )
    assert has_extra.strip() == str(bool(extra))
