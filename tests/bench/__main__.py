"""Run the benchmarks, or those named: print each figure with its limit, exit 1 if one is missed.

All times are wall time in seconds, taken inside one machine in one run; nothing is compared across runs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.collector import few_jobs, flood, million
from tests.bench.figures import JOBS, Figure, job_files, sdcron, seconds
from tests.bench.generator import generator
from tests.machine import RELEASES, Machine, why_no_machines

MANY = 10_000
#: `systemctl daemon-reload` calls its method Reload, and gives up after three minutes.
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
SOME = 1_000


def reloads(machine: Machine) -> int:
    """How many daemon-reloads this boot has seen."""
    return sum("Reloading" in str(entry.get("MESSAGE", "")) for entry in machine.journal("_PID=1", "--boot"))


def first_apply(machine: Machine) -> list[Figure]:
    """First apply of 1,000 jobs against `systemctl start` of the same prepared units; then an unchanged apply."""
    machine.reset()
    machine.write_files(job_files(SOME))
    sdcron(machine, "validate", JOBS)
    sdcron(machine, "compile", JOBS, "-o", "/etc/systemd/system")
    peer = seconds(
        machine, "sh", "-c", "cd /etc/systemd/system && systemctl start $(ls | grep '^sdcron-job-[0-9]*.timer$')"
    )
    machine.reset()
    apply = sdcron(machine, "apply", JOBS)
    unchanged = min(sdcron(machine, "apply", JOBS) for _ in range(3))
    return [
        Figure(f"first apply of {SOME} jobs / systemctl start of the same units", apply / peer, 2, "x"),
        Figure(f"apply of {SOME} unchanged jobs", unchanged, 1),
    ]


def one_changed(machine: Machine) -> list[Figure]:
    """One job changed among 10,000 applied: against reading the files, and against one daemon-reload."""
    machine.reset()
    machine.write_files(job_files(MANY))
    sdcron(machine, "apply", JOBS)
    reading = sdcron(machine, "validate", JOBS)
    before = reloads(machine)
    changed = []
    for hour in (6, 7, 8):
        text = job_files(1)[f"{JOBS}/job-00000.yaml"].replace("'0 2 ", f"'{hour} {hour} ")
        machine.write(f"{JOBS}/job-00000.yaml", text)
        changed.append(sdcron(machine, "apply", JOBS))
    during = reloads(machine) - before
    apply = min(changed)
    reload = seconds(machine, "busctl", "--timeout=900", "call", *MANAGER, "Reload")
    print(f"     one changed among {MANY}: apply {apply:.2f} s, reading {reading:.2f} s, daemon-reload {reload:.2f} s")
    # From a boot or reload on timers.target holds its timers, and systemd reads a changed one by a reload only.
    machine.write(f"{JOBS}/job-00000.yaml", job_files(1)[f"{JOBS}/job-00000.yaml"])
    before = reloads(machine)
    held = sdcron(machine, "apply", JOBS)
    print(f"     the same when timers.target holds the timers: apply {held:.2f} s, {reloads(machine) - before} reload")
    return [
        Figure(f"one job changed among {MANY}: daemon-reloads", during, 0, ""),
        Figure(f"one job changed among {MANY}: beyond reading the files", apply - reading, 1),
        # It reads one of the files and looks at the others.
        Figure(f"one job changed among {MANY}: apply / reading the files", apply / reading, 1, "x"),
        Figure(f"one job changed among {MANY}: apply / one daemon-reload there", apply / reload, 1 / 50, "x"),
    ]


def circle(machine: Machine) -> list[Figure]:
    """10,000 jobs, each after the next and the last after the first: until they are refused."""
    machine.reset()
    lines = [f"  job-{n:05}: {{command: /bin/true, after: job-{(n + 1) % MANY:05}}}\n" for n in range(MANY)]
    machine.write(f"{JOBS}/jobs.yaml", "jobs:\n" + "".join(lines))
    taken = []
    for _ in range(3):
        began = time.monotonic()
        told = machine.sdcron("validate", JOBS, status=3).stderr
        taken.append(time.monotonic() - began)
        assert "jobs wait for each other: job-00000 -> " in told, told
    return [Figure(f"{MANY} jobs in a circle are refused", min(taken), 2)]


def start(machine: Machine) -> list[Figure]:
    """`sdcron --version` against `python -c 'import typer'`, the best of ten each, taken in turns."""
    version, peer = [], []
    for _ in range(10):
        version.append(sdcron(machine, "--version"))
        peer.append(seconds(machine, "python3", "-c", "import typer"))
    return [Figure("sdcron --version / python3 -c 'import typer'", min(version) / min(peer), 1.3, "x")]


def boot() -> list[Figure]:
    """How long a machine takes until it can be asked: the best of three of each release."""
    found = []
    for release in RELEASES:
        taken = []
        for _ in range(3):
            began = time.monotonic()
            with Machine(release):
                taken.append(time.monotonic() - began)
        found.append(Figure(f"a boot of systemd {release.systemd}", min(taken), 5))
    return found


def main() -> int:
    """Run everything, on one machine but for the boots; the report goes to stdout, as JSON too if asked."""
    reason = why_no_machines()
    if reason:
        print(f"benchmarks need a booted machine: {reason}")
        return 1
    wanted = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    figures: list[Figure] = []
    if not wanted or "boot" in wanted:
        figures += boot()
        print(*figures, sep="\n", flush=True)
    release = next(entry for entry in RELEASES if entry.systemd == "257")
    with Machine(release) as machine:
        for benchmark in (start, circle, first_apply, one_changed, few_jobs, flood, million):
            if wanted and benchmark.__name__ not in wanted:
                continue
            began = time.monotonic()
            for figure in benchmark(machine):
                print(figure, flush=True)
                figures.append(figure)
            print(f"     ({benchmark.__name__} took {time.monotonic() - began:.0f} s)", flush=True)
    if not wanted or generator.__name__ in wanted:
        for figure in generator(release):
            print(figure, flush=True)
            figures.append(figure)
    if "--json" in sys.argv:
        print(json.dumps([{"what": each.what, "value": each.value, "limit": each.limit} for each in figures]))
    return 0 if all(figure.good for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
