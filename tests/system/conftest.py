"""Booted machines as fixtures, one of each supported systemd.

Where no machine can be booted, the tests are counted as skipped and one plain line at the end says why. In CI, and
where booting should work and does not, they fail instead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SKIPPED
from tests.machine import RELEASES, Machine, Release, why_no_machines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", params=RELEASES, ids=[release.systemd for release in RELEASES])
def release(request: pytest.FixtureRequest) -> Release:
    """The Debian release, and with it the systemd version, that a test runs on: once on each."""
    reason = why_no_machines()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"machines must boot in CI: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{SKIPPED}{reason}")
    chosen: Release = request.param
    return chosen


@pytest.fixture(scope="session")
def shared_machine(release: Release) -> Iterator[Machine]:
    """One machine per release for all tests; use `machine`, which starts from a clean one."""
    with Machine(release) as machine:
        yield machine


@pytest.fixture
def machine(shared_machine: Machine) -> Iterator[Machine]:
    """A running machine without anything of sdcron in it; shared, so leave its users, zone and power as they are.

    A test that leaves a failed unit of its own behind fails.
    """
    shared_machine.reset()
    yield shared_machine
    failed = shared_machine.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
    assert [line for line in failed.splitlines() if not line.startswith("sdcron-")] == []


@pytest.fixture
def fresh_machine(release: Release) -> Iterator[Machine]:
    """A machine for one test alone, to be changed, switched off and booted again at will."""
    with Machine(release) as machine:
        yield machine
