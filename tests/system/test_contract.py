"""The contract on booted systemd: the cases of tests/test_contract.py, each on every release; see there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract_jobs import FILES, PROGRAMS
from tests.contract_worlds import SystemdWorld
from tests.machine import Machine
from tests.system.records import LOG
from tests.test_contract import cases_on, check_records, play_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Release


@pytest.fixture(scope="module")
def world(release: Release) -> Iterator[SystemdWorld]:
    """A machine for all of these tests: it goes down and comes back."""
    with Machine(release) as machine:
        world = SystemdWorld(machine)
        machine.write_files({f"{world.directory}/{name}": text for name, text in FILES.items()})
        machine.write_files({f"{world.directory}/{name}": FILES[name] for name in PROGRAMS}, mode=0o755)
        yield world


@pytest.fixture(scope="module")
def problems(world: SystemdWorld) -> dict[str, Exception]:
    """What went wrong in which case."""
    return play_all(world, "systemd")


@pytest.mark.parametrize("name", cases_on("systemd"))
def test_systemd_keeps_the_contract(name: str, problems: dict[str, Exception]) -> None:
    if name in problems:
        raise problems[name]


@pytest.mark.usefixtures("problems")
def test_every_run_of_systemd_is_on_record_once(world: SystemdWorld) -> None:
    # A run that begins between the two looks is in one of them only.
    services = [f"sdcron-{name}.service" for name in world.seen]
    world.machine.run(["sh", "-c", 'systemctl stop "sdcron-*.timer"; systemctl stop "$@"', "-", *services])
    world.look()
    kept = [run for found in world.seen.values() for run in found]
    check_records(kept, world.machine.read(LOG))
