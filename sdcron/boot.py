"""After a boot: retries that were waiting when the machine went down wait again, and runs it cut off get theirs.

Jobs that were about to run after others, do.

What is owed, the collector has written down; systemd itself counts a run that a shutdown ended as done, and forgets
its timers. Arming is what the retry handler does (retry.py): the number of the attempt, and the start of its timer.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdcron.boot_chains import start_chains, tell_of_cut_off
from sdcron.collector import boot_id, collect_once, journal_command, tell_journal
from sdcron.errors import BackendError, SdcronError
from sdcron.files import Files
from sdcron.installed import read_one
from sdcron.job import Overlap
from sdcron.job_memory import Memory
from sdcron.journal import write
from sdcron.ledger import database
from sdcron.operations import connect
from sdcron.overlap import queued_jobs, queued_marks, queued_name
from sdcron.pauses import read_pauses
from sdcron.retry import retry_timer_name
from sdcron.store import Store
from sdcron.sync_socket import ask
from sdcron.units import PREFIX, service_name

_LONG_SECONDS = 900.0
"""How long a collector may take that has much to read after a boot."""
_STARTING_SECONDS = 20.0
_FORGOTTEN_US = 7 * 86_400_000_000

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sdcron.backends import Backend
    from sdcron.operations import Place
    from sdcron.paths import Paths


@dataclass(frozen=True, slots=True)
class Owed:
    """A retry that nobody else will start; `why` is for people."""

    job: str
    number: int
    why: str
    since_us: int = 0
    """When the run began that it is for, microseconds since 1970."""
    digest: str | None = None
    """The job must still be as it was when this was owed; None if that does not matter."""


def after_boot(place: Place) -> int:
    """Arm the retries, and start the chains, that earlier boots left to this one; returns how many.

    Raises SdcronError, OSError.
    """

    def tell(job: str, text: str) -> None:
        write(f"{PREFIX}{job}: {text}", SYSLOG_IDENTIFIER=f"{PREFIX}{job}", SDCRON_JOB=job, PRIORITY="5")

    begun = start_queued(place, tell)
    _wait_for_collector(place)
    store = Store.read(database(place.paths))
    if store is None:
        return start_chains(place, None, begun)
    try:
        owed = tuple(owed_retries(store, boot_id(), time.time_ns() // 1000))
        owed = not_given_up(place.paths, owed)
        tell_of_cut_off(place.paths, store, {entry.job for entry in owed})
        started = start_chains(place, store, begun)
    finally:
        store.close()
    if owed:
        with connect(place) as backend:
            started += sum(arm(place.paths, backend, entry, tell) for entry in owed) if backend is not None else 0
    return started


def start_queued(place: Place, tell: Callable[[str, str], object]) -> frozenset[str]:
    """Have the runs begin that waited for the end of others when the machine went down; returns of which jobs.

    None of a job that is paused, or does not queue any more. Raises SdcronError, OSError.
    """
    paths = place.paths
    names = queued_jobs(paths.queued_dir)
    if not names:
        return frozenset()
    pauses = read_pauses(paths)
    begun = set()
    with connect(place) as backend:
        for name in names:
            job = read_one(paths, name)
            if job is None or not job.active or job.overlap is not Overlap.QUEUE or pauses.of(name):
                for mark in queued_marks(paths.queued_dir, name):
                    mark.unlink(missing_ok=True)
            elif backend is not None:
                try:
                    backend.start([queued_name(name)], wait=False)
                except BackendError as error:
                    # The mark stays, and no other job is to wait for this one.
                    tell(name, f"the machine went down while a run waited, and it cannot begin: {error.message}")
                    continue
                begun.add(name)
                tell(name, "the machine went down while a run waited: it begins")
    return frozenset(begun)


def _wait_for_collector(place: Place) -> None:
    """Until it has all on record: what was owed some time ago may have been paid since. Raises SdcronError if never."""
    deadline = time.monotonic() + _LONG_SECONDS
    alone = time.monotonic() + _STARTING_SECONDS
    while (answered := ask(place.paths, _LONG_SECONDS)) is not True:
        if time.monotonic() > deadline:
            raise SdcronError(
                "the collector does not record, so retries that the last boot left are not known",
                f"see: {journal_command(place)}, and then run: sdcron boot{' --user' * place.user}",
            )
        if answered is None and time.monotonic() > alone:
            # None runs, as where somebody has disabled it.
            collect_once(place, tell_journal)
            return
        time.sleep(0.2)


def owed_retries(store: Store, this_boot: str, now_us: int) -> Iterator[Owed]:
    """Retries that an earlier boot left to this one, or an earlier manager of the same user.

    Of days ago there are none: a job that was not there to be armed since may be applied again for other reasons.
    """
    manager = str(json.loads(store.meta().get("fold", "{}")).get("manager", ""))
    same_boot = manager.partition(":")[0] == this_boot

    def is_gone(other: str) -> bool:
        return other != manager if same_boot else other.partition(":")[0] != this_boot

    for job, text in sorted(store.memories().items()):
        try:
            memory = Memory.from_json(json.loads(text))
        except (ValueError, TypeError):
            continue
        if now_us - (memory.started_us or 0) > _FORGOTTEN_US:
            continue
        if memory.owed:
            since_us = memory.started_us or 0
            yield Owed(job, memory.owed, "the machine went down while it ran", since_us, memory.digest)
        elif memory.retry and not memory.retry_stopped and is_gone(memory.retry_manager):
            yield Owed(job, memory.retry, "the machine went down while it waited", memory.started_us or 0)


def not_given_up(paths: Paths, owed: Iterable[Owed]) -> tuple[Owed, ...]:
    """Those that no pause has kept back, at this boot or an earlier one: what was given up then is not owed later.

    Raises SdcronError, OSError.
    """
    file = paths.state_dir / "given-up.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = {}
    pauses = read_pauses(paths)
    kept, after = [], {}
    for entry in owed:
        if pauses.of(entry.job) or (isinstance(before, dict) and before.get(entry.job) == entry.since_us):
            after[entry.job] = entry.since_us
        else:
            kept.append(entry)
    if after:
        Files().write(file, json.dumps(after) + "\n")
    else:
        file.unlink(missing_ok=True)
    return tuple(kept)


def arm(paths: Paths, backend: Backend, owed: Owed, tell: Callable[[str, str], object]) -> bool:
    """Start the wait for a retry, unless the job runs or waits already. `tell` hears (job, text). Raises OSError.

    The wait begins anew: what the retry waits for, such as a network, is not there sooner for the boot.
    """
    job = read_one(paths, owed.job)
    if job is None or not job.active or owed.number > len(job.retry_delays):
        return False
    if owed.digest is not None and job.digest != owed.digest:
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
