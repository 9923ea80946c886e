"""Whatever happens to the collector, to journald, to their files and to the disk: each run is on record exactly once.

The jobs note the ids of their runs where only the test looks; that, and the journal, is what the records must tell.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import STARTING, apply, service, start
from tests.system.jobs import entries as jobs_entries
from tests.system.records import (  # noqa: F401
    COLLECTOR,
    LOG,
    RUNS,
    Record,
    by_job,
    collect,
    forget_journal,
    logged,
    prepare,
    records,
    stored,
    told,
    truth,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.machine import Machine

KILLS = 200
RESTARTS = 20

NUMBERS = "".join(f"{number}\n" for number in range(1, 51))
TICKS = ("tick-1", "tick-2", "tick-3")
PRINTED = {"hand": "hand\n", **dict.fromkeys(TICKS, "")}

#: Some start every second, one is started again and again by hand, one prints as long as the test lasts.
JOBS: dict[str, dict[str, Any]] = {
    **{
        name: {
            "schedule": "* * * * * *",
            "accuracy": "10ms",
            "missed": "skip",
            "command": told(name, "echo $INVOCATION_ID; seq 50; echo err >&2"),
        }
        for name in TICKS
    },
    "hand": {"command": told("hand", "echo $INVOCATION_ID; seq 50; echo err >&2; exit 3")},
    "long": {"command": told("long", "n=0; while [ -e /tmp/load ]; do echo $n; n=$((n+1)); sleep 0.02; done")},
}

KILLER = """
import os, random, sys, time
count, seed = map(int, sys.argv[1:])
random.seed(seed)
last = None
procs = "/sys/fs/cgroup/system.slice/sdcron-collector.service/cgroup.procs"
while count:
    try:
        pids = open(procs).read().split()
    except OSError:
        pids = []
    if pids and pids[0] != last:
        last = pids[0]
        time.sleep(random.uniform(0, 0.35))
        try:
            os.kill(int(last), 9)
        except ProcessLookupError:
            sys.exit(f"the collector ended by itself, with {count} kills to come")
        count -= 1
    time.sleep(0.002)
"""


def often_restarted(machine: Machine) -> None:
    """Let the collector come back at once."""
    machine.write(f"/etc/systemd/system/{COLLECTOR}.d/soon.conf", "[Service]\nRestartSec=10ms\n")


@contextmanager
def load(machine: Machine, more: Mapping[str, dict[str, Any]] | None = None) -> Iterator[None]:
    """Jobs run all the time, and have ended afterwards; `more` are applied with them."""
    machine.run(["touch", "/tmp/load"])
    apply(machine, {**JOBS, **(more or {})})
    again = f"while [ -e /tmp/load ]; do systemctl start {service('hand')}; sleep 0.1; done"
    machine.run(["systemd-run", "--quiet", "--unit=load", "--collect", "sh", "-c", again])
    start(machine, "long", wait=False)
    try:
        yield
    finally:
        machine.run(["systemctl", "stop", *(f"sdcron-{name}.timer" for name in TICKS)])
        machine.run(["rm", "/tmp/load"])
        until(lambda: not active(machine, [*JOBS, "load"]), 20, "nothing runs any more")


def active(machine: Machine, names: Iterable[str]) -> str:
    """What of these jobs, and of the load, still runs."""
    units = [*map(service, names), "load.service"]
    states = "--state=active,activating,deactivating"
    return machine.run(["systemctl", "list-units", "--plain", "--no-legend", states, *units]).stdout


def assert_all_known(machine: Machine) -> list[Record]:
    """Every run is on record exactly once, with all that it said; returns the records."""
    found = records(machine)
    by_id = {record["run_id"]: record for record in found}
    ids = truth(machine)
    there = {run_id: name for name, run_ids in ids.items() for run_id in run_ids}
    assert {run_id: record["job"] for run_id, record in by_id.items()} == there
    # What systemd said of them is the same.
    said = machine.journal(f"MESSAGE_ID={STARTING}")
    began = {entry["INVOCATION_ID"] for entry in said if entry.get("UNIT", "").partition(".")[0][7:] in JOBS}
    assert began <= by_id.keys()
    for record in found:
        if record["job"] == "long":
            assert record["stdout"].splitlines() == [str(n) for n in range(len(record["stdout"].splitlines()))]
            assert len(record["stdout"].splitlines()) > 50
            continue
        assert (record["stdout"], record["stderr"]) == (f"{record['run_id']}\n{NUMBERS}", "err\n"), record
        hand = record["job"] == "hand"
        assert (record["outcome"], record["exit_code"]) == (("failure", 3) if hand else ("success", 0)), record
        assert (record["trigger"], record["attempt"]) == ("manual" if hand else "schedule", 1), record
    assert [record for record in found if record["job"] != "hand" and record["reason"]] == []
    return found


@pytest.mark.timeout(240)
def test_the_collector_killed_two_hundred_times_misses_nothing(machine: Machine) -> None:
    prepare(machine)
    often_restarted(machine)
    with load(machine):
        machine.write("/tmp/killer.py", KILLER)
        killer = machine.run(["python3", "/tmp/killer.py", str(KILLS), "3"], timeout=200, status=None)
        assert killer.returncode == 0, killer.stderr
    machine.run(["rm", "-r", f"/etc/systemd/system/{COLLECTOR}.d"])
    assert len(assert_all_known(machine)) > 4 * 20
    assert "Traceback" not in machine.run(["journalctl", "-u", COLLECTOR, "-o", "cat"]).stdout


def test_journald_restarted_again_and_again_costs_no_record_that_it_has(machine: Machine) -> None:
    prepare(machine)
    limit = "/run/systemd/system/systemd-journald.service.d"
    machine.write(f"{limit}/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    machine.run(["systemctl", "daemon-reload"])
    with load(machine):
        restart = "systemctl restart systemd-journald.service; sleep 0.3"
        machine.run(["sh", "-c", f"for n in $(seq {RESTARTS}); do {restart}; done"], timeout=60)
    machine.run(["rm", "-r", limit])
    machine.run(["systemctl", "daemon-reload"])
    # Of what journald never got, only systemd itself can tell, and it is asked when the collector starts.
    machine.run(["systemctl", "restart", COLLECTOR])
    assert_nothing_lost_that_the_journal_has(machine)


def assert_nothing_lost_that_the_journal_has(machine: Machine) -> list[Record]:
    """Each run that the journal tells of is on record once, and says what could not be known; returns the records."""
    found = records(machine)
    by_id = {record["run_id"]: record for record in found}
    entries = [entry for entry in machine.journal() if _of_a_job(entry)]
    told_of = {entry.get("INVOCATION_ID") or entry.get("_SYSTEMD_INVOCATION_ID") for entry in entries} - {None}
    ran = {run_id for run_ids in truth(machine).values() for run_id in run_ids}
    assert told_of <= by_id.keys(), told_of - by_id.keys()
    assert by_id.keys() <= told_of | ran
    begun = {entry["INVOCATION_ID"] for entry in entries if entry.get("MESSAGE_ID") == STARTING}
    for record in found:
        assert (record["started_at"] is not None) == (record["run_id"] in begun), record
        assert record["started_at"] or "its start is in no journal" in record["reason"], record
        assert record["finished_at"] or "its end is in no journal" in record["reason"], record
        assert (record["outcome"] == "abandoned") == (record["finished_at"] is None), record
        printed = record["stdout"].splitlines()
        if record["job"] != "long":
            # Lines may be missing; those of another run are not there.
            assert {line for line in printed if len(line) == 32} <= {record["run_id"]}, record
        assert len(set(printed)) == len(printed), record
    return found


def _of_a_job(entry: dict[str, Any]) -> bool:
    units = {service(name) for name in JOBS}
    by_systemd = entry.get("UNIT") in units and entry.get("_PID") == "1"
    return by_systemd or entry.get("_SYSTEMD_UNIT") in units


def said(machine: Machine, since: float) -> list[str]:
    """What the collector itself has said."""
    return [entry["MESSAGE"] for entry in jobs_entries(machine, since, "-u", COLLECTOR, "_COMM=python3")]


def test_a_journal_vacuumed_to_nothing_costs_only_what_was_not_read_yet(machine: Machine) -> None:
    prepare(machine)
    since = time.time()
    more = {
        "failed-meanwhile": {
            "command": told("failed-meanwhile", "echo x; while [ -e /tmp/hold ]; do sleep 0.05; done; exit 3")
        },
        "ended-meanwhile": {"command": told("ended-meanwhile", "echo x; while [ -e /tmp/hold ]; do sleep 0.05; done")},
    }
    machine.run(["touch", "/tmp/hold"])
    with load(machine, more):
        start(machine, *more, wait=False)
        until(lambda: len(truth(machine).get("tick-1", ())) > 2, 20, "some runs")
        for _ in range(5):
            machine.run(["journalctl", "--rotate"])
            collect(machine)
            # Everything that is read by now goes at once.
            machine.run(["journalctl", "--vacuum-size=1K"])
            time.sleep(0.3)
        read = records(machine)
        machine.run(["systemctl", "stop", COLLECTOR])
        machine.run(["rm", "/tmp/hold"])
        until(lambda: not active(machine, more), 20, "they have ended")
        time.sleep(1)
        lost = truth(machine)
        forget_journal(machine)
        machine.run(["systemctl", "start", COLLECTOR])
    found = records(machine)
    raise AssertionError("\n".join([*show(machine, found, [e for e in truth(machine)]), *said(machine, since)]))


def show(machine, found, names):
    out = []
    for r in found:
        if r["job"] in ("failed-meanwhile", "ended-meanwhile") or r["trigger"] is None or r["outcome"] == "abandoned":
            out.append(
                str(
                    {
                        k: (v if k != "stdout" else len(v.splitlines()))
                        for k, v in r.items()
                        if k
                        not in (
                            "schema",
                            "host",
                            "backend",
                            "duration_s",
                            "lateness_s",
                            "next_run_at",
                            "job_digest",
                            "cpu_s",
                            "memory_peak_bytes",
                        )
                    }
                )
            )
    ids = {r["run_id"] for r in found}
    for n, t in truth(machine).items():
        out.append(f"{n}: {''.join('.' if i in ids else 'M' for i in t)}")
    return out


def test_a_full_disk_costs_nothing_once_it_is_freed(machine: Machine) -> None:
    prepare(machine)
    since = time.time()
    places = {RUNS: "1500k", "/var/log/sdcron": "800k"}
    for place, size in places.items():
        machine.run(["mkdir", "-p", place])
        machine.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0750", "tmpfs", place])
    try:
        with load(machine):
            until(lambda: len(truth(machine).get("tick-1", ())) > 1, 20, "some runs")
            for place in places:
                before = len(truth(machine)["tick-1"])
                machine.run(["sh", "-c", f"cat /dev/zero >{place}/filler; ls -l {place}"], status=None)
                until(lambda: len(truth(machine)["tick-1"]) > before + 3, 20, "more runs")
                collect(machine)
                machine.run(["rm", f"{place}/filler"])
            until(lambda: len(truth(machine)["tick-1"]) > before + 5, 20, "more runs")
        try:
            until(lambda: len(stored(machine)) == sum(map(len, truth(machine).values())), 20, "all")
        except Exception:
            pass
        raise AssertionError(
            "\n".join([*show(machine, records(machine), [e for e in truth(machine)]), *said(machine, since)])
        )
    finally:
        machine.run(["systemctl", "stop", COLLECTOR])
        machine.run(["umount", *places])
