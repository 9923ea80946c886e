"""The unit tests with each distribution's own Python and libraries, as its package will run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT_INSIDE

if TYPE_CHECKING:
    from tests.machine import Machine


@pytest.mark.timeout(900)
def test_the_unit_tests_pass_with_the_distributions_own_versions(machine: Machine) -> None:
    command = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not system and not tools"]
    ended = machine.run(
        # Not in the checkout, which is read-only: hypothesis wants to write where it is started.
        [
            *command,
            "-c",
            f"{CHECKOUT_INSIDE}/pyproject.toml",
            f"--rootdir={CHECKOUT_INSIDE}",
            f"{CHECKOUT_INSIDE}/tests",
        ],
        cwd="/home/tester",
        user="tester",
        env={
            "CI": os.environ.get("CI", ""),
            "SDCRON_TEST_PROFILE": "short",
            "PYTHONPYCACHEPREFIX": "/tmp/pycache-tester",
        },
        timeout=850,
        status=None,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    summary = ended.stdout.splitlines()[-1]
    assert " passed" in summary
    assert " skipped" not in summary, ended.stdout[-6000:]
