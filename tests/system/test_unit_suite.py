"""The unit tests with each distribution's own Python and libraries, as its package will run."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT_INSIDE

if TYPE_CHECKING:
    from tests.machine import Machine


@pytest.mark.timeout(900)
def test_the_unit_tests_pass_with_the_distributions_own_versions(machine: Machine) -> None:
    command = [
        "python3",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rs",
        "-m",
        "not system and not tools and not long",
    ]
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
    # Those of root are run by root outside.
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", ended.stdout, re.MULTILINE)
    assert all("needs root" in reason or reason.startswith("systemd runs here") for reason in reasons), reasons
    assert bool(reasons) == (" skipped" in summary)
