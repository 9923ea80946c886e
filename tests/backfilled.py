"""A year of due times, run by hand, interrupted in the middle and gone on with: for any backend."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

YEAR = "2025-01-01..2025-12-31"

#: Runs a command until a file has so many lines, and then interrupts it as Ctrl-C does: file, lines, command.
INTERRUPT = """
import signal, subprocess, sys, time
file, lines, *command = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may be ignored where the tests run in the background
child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
deadline = time.monotonic() + 200
while time.monotonic() < deadline and child.poll() is None:
    try:
        if len(open(file).read().splitlines()) >= int(lines):
            break
    except FileNotFoundError:
        pass
    time.sleep(0.01)
child.send_signal(signal.SIGINT)
out, err = child.communicate(timeout=60)
print(len(out.splitlines()), child.returncode)
print(err)
"""


def year_job(log: str) -> dict[str, Any]:
    """A job that is due every night, and writes down what for it runs."""
    command = ["/bin/sh", "-c", f'echo "$SDCRON_FOR" >>{log}']
    return {"schedule": "30 2 * * *", "timezone": "UTC", "command": command}


def check_year(log: Sequence[str], records: Sequence[dict[str, Any]], interrupted: str, words: str) -> None:
    """That every night ran once and in order, also around the interruption."""
    nights = [datetime(2025, 1, 1, 2, 30, tzinfo=UTC) + timedelta(days=day) for day in range(365)]
    assert [datetime.fromisoformat(line) for line in log] == nights
    assert nights[-1].date() == date(2025, 12, 31)
    runs = sorted((record for record in records if record["for"]), key=lambda record: str(record["started_at"]))
    assert [datetime.fromisoformat(run["for"]) for run in runs] == nights
    assert {(run["outcome"], run["trigger"]) for run in runs} == {("success", "manual")}
    done, status = interrupted.split()
    assert 0 < int(done) < 365
    assert status == "130"
    assert f"{done} of 365 are done" in words
    assert f"--for {YEAR} --continue" in words
