"""What is asked of systemd in several calls is of one run. The bus is made up; the rest is tested on machines."""

from __future__ import annotations

from typing import Any

import pytest

from sdcron.backends.systemd import SystemdBackend

#: What two runs of a service leave, one after the other.
RUNS = [
    {"InvocationID": b"\x01", "Result": "success", "ExecMainCode": 1, "ExecMainStatus": 3},
    {"InvocationID": b"\x02", "Result": "success", "ExecMainCode": 0, "ExecMainStatus": 0},
]
REST = {"CPUUsageNSec": 5000, "MemoryPeak": 1, "ExecMainExitTimestamp": 9, "ActiveState": "inactive"}


class Bus(SystemdBackend):
    """A manager that goes on to the next run before the property of that number is asked for."""

    def __init__(self, changes_at: int | None) -> None:
        self._changes_at = changes_at
        self._asked = 0
        self._encode_path = lambda _base, _name: b"/"

    def is_loaded(self, name: str) -> bool:
        """It is."""
        return True

    def _property(self, path: bytes, interface: bytes, name: str) -> Any:
        run = RUNS[self._changes_at is not None and self._asked >= self._changes_at]
        self._asked += 1
        return (run | REST)[name]


def test_the_answer_is_that_of_the_run() -> None:
    last = Bus(None).last_run("sdcron-job.service")
    assert last is not None
    assert (last.run_id, last.exit_kind, last.exit_status, last.cpu_us) == ("01", "exited", 3, 5)


@pytest.mark.parametrize("changes_at", range(1, 9))
def test_a_run_that_begins_between_two_answers_does_not_mix_with_the_one_before(changes_at: int) -> None:
    last = Bus(changes_at).last_run("sdcron-job.service")
    assert last is not None
    whole = {"01": ("exited", 3), "02": ("", None)}
    assert (last.exit_kind, last.exit_status) == whole[last.run_id]
