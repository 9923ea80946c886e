"""What somebody writes who takes APScheduler as a cron: jobs of a file, run by threads, their output read by pipes.

    python3 apscheduler_peer.py JOBS

A line of JOBS is `{"name", "argv", "second", "minute", "hour"}`. Run by the Python that has
APScheduler, never imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Only the peer's own environment has it.
from apscheduler.events import EVENT_SCHEDULER_STARTED  # type: ignore[import-not-found]  # in its own venv
from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-not-found]  # in its own venv
from apscheduler.schedulers.blocking import BlockingScheduler  # type: ignore[import-not-found]  # in its own venv
from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-not-found]  # in its own venv

#: What APScheduler takes by default.
THREADS = 10


def run(argv: list[str]) -> None:
    """One run of a job."""
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def main() -> None:
    """Add every job, then run them for ever."""
    # A late job is to run all the same, and one due twice twice: by default APScheduler drops both.
    defaults = {"misfire_grace_time": None, "coalesce": False, "max_instances": 10}
    scheduler = BlockingScheduler(executors={"default": ThreadPoolExecutor(THREADS)}, job_defaults=defaults)
    with Path(sys.argv[1]).open() as lines:
        for line in lines:
            job = json.loads(line)
            trigger = CronTrigger(second=job["second"], minute=job["minute"], hour=job["hour"])
            scheduler.add_job(run, trigger, args=[job["argv"]], id=job["name"], name=job["name"])
    scheduler.add_listener(lambda _: print("ready", file=sys.stderr, flush=True), EVENT_SCHEDULER_STARTED)
    scheduler.start()


if __name__ == "__main__":
    main()
