"""A hundred thousand short jobs in one engine: `python3 -m tests.bench.endurance [RUNS]`, root or not.

Reports what the engine held before and after: resident memory, open files, zombies; and what the records take on disk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sdcron.ledger import database
from tests.bench.figures import Figure
from tests.engine_rig import Rig, fields_of, processor_seconds, rig, zombies

RUNS = 100_000
#: Runs after which the page cache of the database is full; the memory after them is the one to be held against.
WARM = 15_000
#: As many as are done within a second by two slow processors.
JOBS = 200
MOST_SECONDS_A_RUN = 0.05


def endure(place: Rig, runs: int) -> list[Figure]:
    """Let the engine run so many, most of them `true`, some with output, some that fail, some with an orphan."""
    kinds = ("exit 0", "echo out; echo err >&2", "exit 3", "(setsid sleep 1000 &)")
    place.apply(
        {
            f"job-{number:03}": {
                "schedule": "* * * * * *",
                "command": ["/bin/sh", "-c", kinds[number % 4]] if number % 5 == 0 else ["/bin/true"],
            }
            for number in range(JOBS)
        }
    )
    pid = place.start()
    _until(place, WARM, runs)
    before, files_before, used_before, began = _resident(pid), _files(pid), processor_seconds(pid), time.monotonic()
    print(f"     after {place.count()} runs: {before} KiB resident, {files_before} open files", flush=True)
    for part in range(1, 11):
        _until(place, WARM + (runs - WARM) * part // 10, runs)
        print(f"     after {place.count()} runs: {_resident(pid)} KiB, zombies {zombies(pid)}", flush=True)
    used, took = processor_seconds(pid) - used_before, time.monotonic() - began
    count = place.count() - WARM
    after, files = _resident(pid), _files(pid)
    waiting = min(_zombies(pid) for _ in range(20))
    alive = {process for process in place.alive() if process.run_id not in _open_runs(place)}
    place.end(60)
    records = place.count()
    kept = database(place.paths).stat().st_size >> 20
    spooled = sum(file.stat().st_size for file in place.paths.spool_dir.iterdir()) >> 20
    print(f"     {records} records: database {kept} MiB, output {spooled} MiB; {count / took:.0f} a second")
    print(f"     of a processor: {used / took * 100:.1f} %, {used / count * 1e3:.2f} ms a run")
    return [
        Figure(f"zombies after {runs} runs", waiting, 0, ""),
        Figure("processes that are of no run", len(alive), 0, ""),
        Figure(f"resident after {runs} runs, beyond that after {WARM}", (after - before) / 1024, 1, "MiB"),
        Figure("open files beyond those before", files - files_before, 4, ""),
    ]


def _until(place: Rig, count: int, runs: int) -> None:
    deadline = time.monotonic() + runs * MOST_SECONDS_A_RUN
    while place.count() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{place.count()} runs, and not {count}: {place.said()[-500:]}")
        time.sleep(0.5)


def _zombies(pid: int) -> int:
    time.sleep(0.1)
    return zombies(pid)


def _open_runs(place: Rig) -> set[str]:
    """Runs that are on, or have just ended."""
    from sdcron.store import Store

    store = Store.read(database(place.paths))
    if store is None:
        return set()
    try:
        return set(store.open_runs()) | {run.run_id for run in store.history(limit=JOBS)}
    finally:
        store.close()


def _resident(pid: int) -> int:
    return fields_of(pid, "VmRSS")["VmRSS"]


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> int:
    """Run it, print each figure with its limit; 1 if one is missed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as name, rig(Path(name) / "root") as place:
        figures = endure(place, runs)
    for figure in figures:
        print(figure)
    return 0 if all(figure.good for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
