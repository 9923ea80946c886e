"""`make run` where no systemd runs: the engine runs the jobs, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import CHECKOUT


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here, and the demonstration uses it")
def test_the_demonstration_runs_jobs_without_systemd_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("hello from sdcron\n") >= 2
    assert "failure" in ended.stdout
    assert list(tmp_path.iterdir()) == []
