"""Journal entries as the service manager and journald write them, made up for tests of what reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron import messages

if TYPE_CHECKING:
    from sdcron.fold import Fold

BOOT = "b" * 32
SECOND = 1_000_000
#: A Monday, 12:00 UTC.
NOON = 1_782_129_600 * SECOND


class Teller:
    """Feeds entries to a Fold, one after the other, each some microseconds later; `at` moves the clock, in seconds."""

    def __init__(self, target: Fold, *, boot: str = BOOT) -> None:
        self.target = target
        self.boot = boot
        self.now_us = NOON
        self.jobs = 100

    def at(self, seconds: float) -> Teller:
        """Set the clock to so long after NOON."""
        self.now_us = NOON + round(seconds * SECOND)
        return self

    def feed(self, **fields: str | bytes) -> None:
        """Any entry."""
        self.now_us += 10
        entry = {name: value if isinstance(value, bytes) else value.encode() for name, value in fields.items()}
        self.target.feed(entry.get, self.now_us)

    def manager(self, unit: str, message: bytes, run_id: str = "", **fields: str) -> None:
        """A message of PID 1 about a unit."""
        known = {
            "SYSLOG_IDENTIFIER": "systemd", "_PID": "1", "_UID": "0", "_BOOT_ID": self.boot, "UNIT": unit,
            "MESSAGE_ID": message.decode(), "_HOSTNAME": "host", "INVOCATION_ID": run_id,
        }  # fmt: skip
        self.feed(**{**known, **fields})

    def starting(self, job: str, run_id: str) -> None:
        """systemd begins a run."""
        self.manager(f"sdcron-{job}.service", messages.STARTING, run_id, JOB_TYPE="start")

    def line(self, job: str, text: str | bytes, run_id: str | None, stream: str = "s1", **fields: str) -> None:
        """A line of output; `run_id` None for a process that was gone before journald looked."""
        known: dict[str, str | bytes] = {
            "SYSLOG_IDENTIFIER": f"sdcron-{job}", "_TRANSPORT": "stdout", "_STREAM_ID": stream, "PRIORITY": "6",
            "MESSAGE": text, "_UID": "0",
        }  # fmt: skip
        if run_id is not None:
            known |= {"_SYSTEMD_UNIT": f"sdcron-{job}.service", "_SYSTEMD_INVOCATION_ID": run_id}
        self.feed(**{**known, **fields})

    def succeeded(self, job: str, run_id: str) -> None:
        """It ends well."""
        unit = f"sdcron-{job}.service"
        self.manager(unit, messages.SUCCEEDED, run_id)
        self.manager(unit, messages.STARTED, run_id, JOB_TYPE="start", JOB_RESULT="done")

    def failed(self, job: str, run_id: str, result: str = "exit-code", kind: str = "exited", status: int = 1) -> None:
        """It ends otherwise."""
        unit = f"sdcron-{job}.service"
        self.manager(unit, messages.EXITED, run_id, EXIT_CODE=kind, EXIT_STATUS=str(status), COMMAND="ExecStart")
        self.manager(unit, messages.FAILED, run_id, UNIT_RESULT=result)
        self.manager(unit, messages.START_FAILED, run_id, JOB_TYPE="start", JOB_RESULT="failed")

    def stopped(self, job: str, run_id: str) -> None:
        """Somebody stops it."""
        unit = f"sdcron-{job}.service"
        self.manager(unit, messages.EXITED, run_id, EXIT_CODE="killed", EXIT_STATUS="15", COMMAND="ExecStart")
        self.manager(unit, messages.FAILED, run_id, UNIT_RESULT="signal")
        self.manager(unit, messages.HAS_STOPPED, run_id, JOB_TYPE="stop", JOB_RESULT="done")

    def timer_started(self, unit: str) -> None:
        """A timer begins to wait."""
        self.manager(unit, messages.STARTED, "f" * 32, JOB_TYPE="start", JOB_RESULT="done")

    def timer_stopped(self, unit: str) -> None:
        """It waits no longer."""
        self.manager(unit, messages.HAS_STOPPED, JOB_TYPE="stop", JOB_RESULT="done")

    def going_down(self) -> None:
        """The machine begins to shut down."""
        self.manager("timers.target", messages.HAS_STOPPED, JOB_TYPE="stop", JOB_RESULT="done")
