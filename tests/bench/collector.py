"""Benchmarks of the collector, and of what `status` and `history` tell from its records.

A million real runs would take a day: `million` runs one job once and gives journald's own files the entries of that
run a million times, under other names, ids and times, by systemd-journal-remote(8), which keeps journald's fields.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.figures import JOBS, Figure, job_files, sdcron, times
from tests.machine import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

#: systemd-journal-remote is no program of the PATH.
IMPORTER = Path("/usr/lib/systemd/systemd-journal-remote")
LINES = 1_000_000
LINE = "line %.0f of a job that prints as fast as it can, and then some more"
IDLE_SECONDS = 60
BUSY_SECONDS = 30
FEW = 100
MANY_JOBS = 1_000
RUNS_OF_EACH = 1_000
#: A boot that is over, with the same first process.
OTHER_BOOT = "0123456789abcdef0123456789abcdef"
COLLECTOR = "sdcron-collector.service"

#: Room for all of it, so that nothing is vacuumed in the middle of a figure.
JOURNALD = "[Journal]\nStorage=persistent\nSystemMaxUse=8G\n"
CLEAN = f"""
rm -rf {JOBS}
find /var/log/journal -name 'imported*.journal' -delete
systemctl restart systemd-journald
journalctl --quiet --rotate
journalctl --quiet --vacuum-size=1
"""

#: Starts a service that runs once, and prints when its record was there: seconds since 1970.
RECORDED = """
import sqlite3, subprocess, sys, time
service, job = sys.argv[1:]
runs = sqlite3.connect("file:/var/lib/sdcron/runs/runs.db?mode=ro", uri=True)
subprocess.run(["systemctl", "start", service], check=True)
while not runs.execute("SELECT 1 FROM runs WHERE job = ?", (job,)).fetchone():
    time.sleep(0.01)
print(time.time())
"""


def few_jobs(machine: Machine) -> list[Figure]:
    """What the collector takes of a processor while nothing happens, and while a job runs every second."""
    _clean(machine)
    machine.write_files(job_files(FEW, schedule=_far_schedule()))
    sdcron(machine, "apply", JOBS)
    sdcron(machine, "status")
    time.sleep(2)
    before = _processor_seconds(machine)
    time.sleep(IDLE_SECONDS)
    idle = (_processor_seconds(machine) - before) / IDLE_SECONDS
    before, began = _processor_seconds(machine), time.monotonic()
    for second in range(BUSY_SECONDS):
        machine.run(["systemctl", "start", f"sdcron-job-{second % FEW:05}.service"])
        time.sleep(max(0, began + second + 1 - time.monotonic()))
    busy = (_processor_seconds(machine) - before) / BUSY_SECONDS
    print(f"     the collector with one run a second: {busy * 100:.2f} % of a processor; {_memory_text(machine)}")
    return [Figure(f"the collector of {FEW} jobs of which none runs: of a processor", idle * 100, 0.1, "%")]


def flood(machine: Machine) -> list[Figure]:
    """A job that prints as fast as journald takes it: how far the collector falls behind, and how fast it reads."""
    _clean(machine)
    command = f"/usr/bin/seq -f '{LINE}' 1 {LINES}"
    machine.write(f"{JOBS}/flood.yaml", f'schedule: "{_far_schedule()}"\ncommand: "{command}"\n')
    sdcron(machine, "apply", JOBS)
    sdcron(machine, "status")
    output = machine.run(["python3", "-c", RECORDED, "sdcron-flood.service", "flood"], timeout=300).stdout
    memory = _memory_text(machine)
    closed = float(output)
    first, last = _received(machine, "--lines=+1"), _received(machine, "--lines=1")
    _check_flood(machine)
    stored = LINES / (last - first)
    print(f"     journald stored {stored:.0f} lines/s; the record was closed {closed - last:.2f} s later; {memory}")
    machine.run(["systemctl", "stop", COLLECTOR])
    for _ in range(2):
        machine.run(["systemctl", "start", "sdcron-flood.service"], timeout=300)
    machine.run(["journalctl", "--sync"])
    took = sdcron(machine, "collect", "--once")
    _check_flood(machine)
    read = 2 * LINES / took
    print(f"     collect --once read {read:.0f} lines/s from a stored journal")
    return [
        Figure(
            f"a job's {LINES} lines: until its record / until journald had them",
            (closed - first) / (last - first),
            1.25,
            "x",
        ),
        Figure(f"2 x {LINES} stored lines: lines/s of journald / of the collector", stored / read, 1, "x"),
        Figure(f"2 x {LINES} stored lines: 100,000 lines/s / lines/s of the collector", 100_000 / read, 1, "x"),
    ]


def million(machine: Machine) -> list[Figure]:
    """A collector that recorded a million runs: its memory, and `status` and `history` of them."""
    _clean(machine)
    machine.write_files(job_files(MANY_JOBS, schedule=_far_schedule()))
    machine.write(
        f"{JOBS}/job-00000.yaml", f'schedule: "{_far_schedule()}"\ncommand: /bin/sh -c "echo well done; sleep 0.2"\n'
    )
    sdcron(machine, "apply", JOBS)
    machine.run(["systemctl", "start", "sdcron-job-00000.service"])
    templates = _templates(machine)
    machine.run(["systemctl", "stop", COLLECTOR])
    machine.run(["sh", "-c", "rm -rf /var/lib/sdcron/runs/* /var/log/sdcron/*"])
    files, size = _import(machine, _entries(templates))
    total = MANY_JOBS * RUNS_OF_EACH
    began = time.monotonic()
    machine.run(["systemctl", "start", COLLECTOR])
    until(lambda: _newest_row(machine) >= total, 3600, f"{total} runs are on record")
    took = time.monotonic() - began
    status = times(machine, "python3", "-m", "sdcron", "status", count=10)
    history = times(machine, "python3", "-m", "sdcron", "history", "job-00500", "-n", "20", count=10)
    resident, peak = _memory(machine)
    print(f"     {total} runs from {files} journal files of {size / 1e9:.1f} GB: {total / took:.0f} runs/s")
    print(f"     resident {resident:.1f} MB, at most {peak:.1f} MB")
    print(f"     status: median {statistics.median(status):.3f} s; history: median {statistics.median(history):.3f} s")
    [last] = json.loads(machine.sdcron("history", "job-00500", "-n", "1", "--json").stdout)
    if (last["trigger"], last["stdout_bytes"]) != ("schedule", 10):
        raise AssertionError(f"these were no runs as real ones are: {last}")
    return [
        Figure(f"the collector after {total} records: resident", resident, 60, "MB"),
        Figure(f"the collector on the way to {total} records: resident at most", peak, 60, "MB"),
        Figure(f"status of {MANY_JOBS} jobs with {total} records", status[0], 0.5),
        Figure(f"history JOB -n 20 of {total} records", history[0], 0.3),
    ]


def _clean(machine: Machine) -> None:
    machine.reset()
    machine.write("/etc/systemd/journald.conf.d/bench.conf", JOURNALD)
    machine.run(["sh", "-c", CLEAN])


def _far_schedule() -> str:
    """Every minute of an hour that is not near."""
    return f"* {(time.gmtime().tm_hour + 12) % 24} * * *"


def _pid(machine: Machine) -> str:
    return machine.show(COLLECTOR, "MainPID")["MainPID"]


def _processor_seconds(machine: Machine) -> float:
    """What the collector has used so far: proc(5), the time on a processor in nanoseconds."""
    return int(machine.read(f"/proc/{_pid(machine)}/schedstat").split()[0]) / 1e9


def _memory(machine: Machine) -> tuple[float, float]:
    """Resident now and at most, in MB, pages of files that it has mapped included."""
    status = dict(re.findall(r"(\w+):\s+(\d+) kB", machine.read(f"/proc/{_pid(machine)}/status")))
    return int(status["VmRSS"]) * 1024 / 1e6, int(status["VmHWM"]) * 1024 / 1e6


def _memory_text(machine: Machine) -> str:
    resident, peak = _memory(machine)
    return f"resident {resident:.1f} MB, at most {peak:.1f} MB"


def _received(machine: Machine, which: str) -> float:
    """When journald got the first or the last line of the flood, in seconds since 1970."""
    return int(machine.journal("SYSLOG_IDENTIFIER=sdcron-flood", which)[0]["__REALTIME_TIMESTAMP"]) / 1e6


def _check_flood(machine: Machine) -> None:
    [last] = json.loads(machine.sdcron("history", "flood", "-n", "1", "--json").stdout)
    expected = sum(len(LINE % number) + 1 for number in range(1, LINES + 1))
    if (last["stdout_bytes"], last["dropped_lines"]) != (expected, 0):
        raise AssertionError(
            f"{last['stdout_bytes']} bytes are on record, not {expected}; {last['dropped_lines']} lines dropped"
        )


def _newest_row(machine: Machine) -> int:
    program = (
        "import sqlite3; runs = sqlite3.connect('file:/var/lib/sdcron/runs/runs.db?mode=ro', uri=True)\n"
        "print(runs.execute('SELECT coalesce(max(id), 0) FROM runs').fetchone()[0])"
    )
    time.sleep(1)
    ended = machine.run(["python3", "-c", program], status=None)
    return int(ended.stdout) if ended.returncode == 0 else 0


# A million runs


def _templates(machine: Machine) -> list[str]:
    """The entries of the one run as journalctl exports them, what differs from run to run being %-directives."""
    until(lambda: machine.sdcron("history", "--json").stdout.count('"run_id"'), 30, "the run is on record")
    output = machine.run(["journalctl", "--output=export", "--unit=sdcron-job-00000.service"]).stdout
    entries = [entry for entry in output.split("\n\n") if entry.strip()]
    [first, *_] = re.findall(r"^INVOCATION_ID=(\w+)$", output, re.MULTILINE)
    templates = [_template(entry, first) for entry in entries if first in entry]
    if not any("_STREAM_ID=" in template for template in templates):
        raise AssertionError(f"the run's output is not among its entries:\n{output}")
    return templates


def _template(entry: str, run_id: str) -> str:
    fields = [line for line in entry.replace("%", "%%").splitlines() if not line.startswith(("__", "_BOOT_ID="))]
    text = "\n".join(["__REALTIME_TIMESTAMP=%(us)d", "__MONOTONIC_TIMESTAMP=%(us)d", f"_BOOT_ID={OTHER_BOOT}", *fields])
    text = re.sub(r"^(_SOURCE_REALTIME_TIMESTAMP)=.*", r"\1=%(us)d", text, flags=re.MULTILINE)
    text = re.sub(r"^_STREAM_ID=.*", "_STREAM_ID=%(stream)032x", text, flags=re.MULTILINE)
    return text.replace(run_id, "%(run)032x").replace("job-00000", "job-%(job)05d") + "\n\n"


def _entries(templates: list[str]) -> Iterator[str]:
    """The entries of all runs: at every minute of an hour a day all jobs start, and then print, and then end."""
    hour = int(_far_schedule().split()[1])
    today = int(time.time()) // 86400 * 86400
    days = -(-RUNS_OF_EACH // 60)
    minutes = [today - day * 86400 + hour * 3600 + minute * 60 for day in range(days, 0, -1) for minute in range(60)]
    for number, minute in enumerate(minutes[-RUNS_OF_EACH:]):
        values: dict[str, Any]
        for phase, template in enumerate(templates):
            made = []
            for job in range(MANY_JOBS):
                us = minute * 1_000_000 + (phase * MANY_JOBS + job) * 100 + 100
                run = (number * MANY_JOBS + job + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128
                values = {"us": us, "job": job, "run": run, "stream": run ^ 1}
                made.append(template % values)
            yield "".join(made)


def _import(machine: Machine, entries: Iterator[str]) -> tuple[int, int]:
    """Make journal files of entries, where journald has its own; returns how many, and their bytes."""
    directory = machine.disk / "var/log/journal" / machine.read("/etc/machine-id").strip()
    command = [str(IMPORTER), f"--output={directory}/imported.journal", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, stderr=subprocess.DEVNULL, text=True) as importer:
        assert importer.stdin is not None
        for text in entries:
            importer.stdin.write(text)
        importer.stdin.close()
    if importer.returncode:
        raise subprocess.CalledProcessError(importer.returncode, command)
    files = list(directory.glob("imported*.journal"))
    for file in files:
        os.chown(file, 0, directory.stat().st_gid)
    return len(files), sum(file.stat().st_size for file in files)
