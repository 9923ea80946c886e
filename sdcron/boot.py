"""After a boot: retries that were waiting when the machine went down wait again, and runs it cut off get theirs.

What is owed, the collector has written down; systemd itself counts a run that a shutdown ended as done, and forgets
its timers. Arming is what the retry handler does (retry.py): the number of the attempt, and the start of its timer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdcron.errors import BackendError
from sdcron.files import Files
from sdcron.installed import read_one
from sdcron.retry import retry_timer_name
from sdcron.trigger import Memory
from sdcron.units import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdcron.backends import Backend
    from sdcron.paths import Paths
    from sdcron.store import Store


@dataclass(frozen=True, slots=True)
class Owed:
    """A retry that nobody else will start; `why` is for people."""

    job: str
    number: int
    why: str


def owed_retries(store: Store, boot_id: str) -> Iterator[Owed]:
    """Retries that an earlier boot left to this one."""
    for job, text in sorted(store.memories().items()):
        try:
            memory = Memory.from_json(json.loads(text))
        except (ValueError, TypeError):
            continue
        if memory.owed:
            yield Owed(job, memory.owed, "the machine went down while it ran")
        elif memory.retry and not memory.retry_stopped and memory.retry_manager.partition(":")[0] != boot_id:
            yield Owed(job, memory.retry, "the machine went down while it waited")


def arm(paths: Paths, backend: Backend, owed: Owed, tell: Callable[[str, str], object]) -> bool:
    """Start the wait for a retry, unless the job runs or waits already. `tell` hears (job, text). Raises OSError.

    The wait begins anew: what the retry waits for, such as a network, is not there sooner for the boot.
    """
    job = read_one(paths, owed.job)
    if job is None or not job.active or owed.number > len(job.retry_delays):
        return False
    waiting = any(
        backend.is_loaded(name) and backend.is_active(name)
        for name in (retry_timer_name(owed.job, number) for number in range(1, len(job.retry_delays) + 1))
    )
    if waiting or backend.run_in_progress(service_name(owed.job)) is not None:
        return False
    state = paths.runtime_dir / "retry" / owed.job
    # Before the timer: the handler of the retry's own failure reads it.
    Files().write(state, f"{owed.number}\n")
    try:
        backend.start([retry_timer_name(owed.job, owed.number)])
    except BackendError:
        # The job has been started in the meantime, and a run takes the place of every retry.
        state.unlink(missing_ok=True)
        return False
    tell(owed.job, f"{owed.why}: retry {owed.number} of {len(job.retry_delays)} is waiting")
    return True
