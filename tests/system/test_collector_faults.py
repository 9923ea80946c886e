"""Whatever happens to the collector, to journald, to their files and to the disk: each run is on record exactly once.

The jobs note the ids of their runs where only the test looks; that, and the journal, is what the records must tell.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import until
from tests.system.jobs import STARTING, apply, service, start
from tests.system.jobs import entries as jobs_entries
from tests.system.records import (
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
EXITED = "98e322203f7a4ed290d09fe03c09fe15"
"""systemd's message of how a service's main process ended."""
RESTARTS = 20

NUMBERS = "".join(f"{number}\n" for number in range(1, 51))
TICKS = ("tick-1", "tick-2", "tick-3")

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

def own(pid):
    # systemd's own helpers, on the way to the program, are children of the one that becomes it.
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1] == "1"
    except OSError:
        return False

while count:
    try:
        pids = [pid for pid in open(procs).read().split() if own(pid)]
    except OSError:
        pids = []
    if pids and pids[0] != last:
        last = pids[0]
        time.sleep(random.uniform(0, 0.2))
        try:
            os.kill(int(last), 9)
        except ProcessLookupError:
            continue  # how it ended is in the log
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
        until(lambda: not active(machine, [*JOBS, "load.service"]), 20, "nothing runs any more")


def active(machine: Machine, names: Iterable[str]) -> str:
    """What of these still runs."""
    units = [name if "." in name else service(name) for name in names]
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
    ends = machine.journal(f"MESSAGE_ID={EXITED}", f"UNIT={COLLECTOR}")
    assert {(end["EXIT_CODE"], end["EXIT_STATUS"]) for end in ends} == {("killed", "9")}, ends
    assert len(ends) >= KILLS
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
            # Lines may be missing. Those of another run are not there, unless journald has nothing else of that run,
            # neither its start nor the process that wrote them; and then the record says so.
            others = {line for line in printed if len(line) == 32} - {record["run_id"]}
            assert others <= ran - told_of, record
            assert not others or "some of its output may be another run's" in record["reason"], record
        assert len(set(printed)) == len(printed), record
    return found


def _of_a_job(entry: dict[str, Any]) -> bool:
    units = {service(name) for name in JOBS}
    by_systemd = entry.get("UNIT") in units and entry.get("_PID") == "1"
    return by_systemd or entry.get("_SYSTEMD_UNIT") in units


def ticked(machine: Machine, count: int) -> bool:
    """Whether there were so many runs of a job that starts every second."""
    return len(truth(machine).get("tick-1", ())) >= count


def records_again(machine: Machine) -> bool:
    """Whether the collector can do what it is asked for."""
    return machine.sdcron("collect", "--once", status=None).returncode == 0


def said(machine: Machine, since: float) -> list[str]:
    """What the collector itself has said."""
    return [entry["MESSAGE"] for entry in jobs_entries(machine, since, "-u", COLLECTOR) if entry["_PID"] != "1"]


def meanwhile(name: str, end: str) -> dict[str, Any]:
    """A job that ends when the test wants it."""
    return {"command": told(name, f"echo begun; while [ -e /tmp/hold ]; do sleep 0.05; done; {end}")}


def test_a_journal_vacuumed_to_nothing_costs_only_what_was_not_read_yet(machine: Machine) -> None:
    prepare(machine)
    since = time.time()
    # When nobody can read how they end, systemd still knows it of the first, and nothing of the second.
    more = {"failed": meanwhile("failed", "exit 3"), "forgotten": meanwhile("forgotten", "exit 0")}
    machine.run(["touch", "/tmp/hold"])
    with load(machine, more):
        start(machine, *more, wait=False)
        until(lambda: len(truth(machine).get("tick-1", ())) > 2, 20, "some runs")
        for _ in range(5):
            machine.run(["journalctl", "--rotate"])
            collect(machine)
            # All that is read by now goes at once, while it reads on.
            machine.run(["journalctl", "--vacuum-size=1K"])
            time.sleep(0.2)
        records(machine)
        before = truth(machine)
        machine.run(["systemctl", "stop", COLLECTOR])
        read = {record["run_id"] for record in stored(machine)}
        machine.run(["rm", "/tmp/hold"])
        until(lambda: not active(machine, more), 20, "they have ended")
        until(lambda: len(truth(machine)["tick-1"]) > len(before["tick-1"]) + 1, 20, "runs that nobody reads of")
        forget_journal(machine)
        after = truth(machine)
        machine.run(["systemctl", "start", COLLECTOR])
        until(lambda: len(truth(machine)["tick-1"]) > len(after["tick-1"]) + 1, 20, "more runs")
    found = records(machine)
    ids = {record["run_id"] for record in found}
    assert read <= ids
    for name in (*TICKS, "hand"):
        there = truth(machine)[name]
        # The last one of before may have been just ending.
        kept = there[: len(before[name]) - 1] + there[len(after[name]) + 1 :]
        assert [run_id for run_id in kept if run_id not in ids] == []
    assert ids <= {run_id for run_ids in truth(machine).values() for run_id in run_ids}
    [failed] = by_job(found)["failed"]
    assert (failed["outcome"], failed["exit_code"], failed["stdout"]) == ("failure", 3, "begun\n")
    assert failed["finished_at"]
    [forgotten] = by_job(found)["forgotten"]
    assert (forgotten["outcome"], forgotten["reason"]) == ("abandoned", "its end is in no journal")
    assert forgotten["stdout"] == "begun\n"
    assert said(machine, since) == [
        "the journal no longer has what comes right after the last entry that was read; runs may be missing"
    ]


def test_a_full_disk_costs_nothing_once_it_is_freed(machine: Machine) -> None:
    prepare(machine)
    since = time.time()
    places = {RUNS: "12m", "/var/log/sdcron": "800k"}
    for place, size in places.items():
        machine.run(["mkdir", "-p", place])
        machine.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0750", "tmpfs", place])
    try:
        with load(machine):
            until(lambda: len(truth(machine).get("tick-1", ())) > 1, 20, "some runs")
            for place in places:
                enough = len(truth(machine)["tick-1"]) + 3
                machine.run(["sh", "-c", f"cat /dev/zero >{place}/filler"], status=None)
                until(partial(ticked, machine, enough), 20, "more runs")
                # Who asks meanwhile is told so.
                assert "cannot record" in machine.sdcron("collect", "--once", status=1).stderr
                machine.run(["rm", f"{place}/filler"])
                until(partial(records_again, machine), 20, "it works again")
        assert_all_known(machine)
        assert said(machine, since) == [
            f"{RUNS}/runs.db: database or disk is full; trying again until it works",
            f"{LOG}: No space left on device; trying again until it works",
        ]
    finally:
        machine.run(["systemctl", "stop", COLLECTOR])
        machine.run(["umount", *places])


DATABASE = f"{RUNS}/runs.db"
WRITE = "import os, sys; path = sys.argv[1]; size = os.path.getsize(path); file = open(path, 'r+b'); "

#: What may happen to the database while nobody looks, as shell commands, and what is said of it.
DAMAGED_DATABASE = {
    f"python3 -c \"{WRITE}file.seek(size // 2 & ~4095); file.write(b'x' * 8192)\" $db": "is damaged: ",
    f"python3 -c \"{WRITE}file.write(b'x' * 4096)\" $db": "is damaged: file is not a database",
    "truncate -s 9000 $db": "is damaged: database disk image is malformed",
    "echo 'not a database, by any means' >$db": "is damaged: file is not a database",
    "rm $db; mkdir $db; touch $db/in-it": "is no file",
    "rm $db; ln -s /no/where $db": "is no file",
    # Nothing to set aside.
    ": >$db": "",
    "rm $db": "",
}
#: The same of the log; and whether the records in it are all there again. What somebody cuts off he may have taken.
DAMAGED_LOG = {
    "sed -i '1a this is no record' $log": ("had lines that are no records", True),
    f'python3 -c "{WRITE}file.seek(size // 2); file.write(bytes(100))" $log': ("had lines that are no records", True),
    # As a crash leaves it.
    "head -c 5000 /dev/zero >>$log": ("", True),
    "truncate -s -100 $log": ("", False),
    "echo nothing >$log": ("had lines that are no records", False),
    ": >$log": ("was moved or deleted, or emptied, by somebody else", False),
    "rm $log": ("was moved or deleted, or emptied, by somebody else", False),
}


def after(machine: Machine, command: str) -> str:
    """Do that while no collector runs, have a run that it has not seen, start it, and say what is said then."""
    since = time.time()
    machine.run(["systemctl", "stop", COLLECTOR])
    machine.run(["sh", "-ec", f"db={DATABASE}; log={LOG}; {command}"])
    start(machine, "hand")
    machine.run(["systemctl", "start", COLLECTOR])
    # Whoever comes first to it finds the damage, and says so.
    told_now = collect(machine).replace("sdcron: ", "").splitlines()
    until(lambda: len(stored(machine)) == len(truth(machine)["hand"]), 10, "all runs are on record")
    spoken = [*told_now, *said(machine, since)]
    assert not [line for line in spoken if "Traceback" in line]
    return "\n".join(line for line in spoken if not line.startswith("the journal no longer has"))


def files(machine: Machine) -> set[str]:
    return set(machine.run(["ls", RUNS, "/var/log/sdcron"]).stdout.split())


def test_a_damaged_database_is_set_aside_and_made_anew(machine: Machine) -> None:
    prepare(machine)
    apply(machine, {"hand": JOBS["hand"]})
    for _ in range(5):
        start(machine, "hand")
    before = {record["run_id"]: record for record in records(machine)}
    for number, (command, word) in enumerate(DAMAGED_DATABASE.items()):
        if number == 3:
            # Of the runs until now the logs alone know.
            machine.run(["systemctl", "stop", COLLECTOR])
            forget_journal(machine)
        there = files(machine)
        spoken = after(machine, command)
        assert word in spoken, command
        assert spoken.count("\n") == 0, command
        aside = {name for name in files(machine) - there if name.startswith("runs.db.damaged-")}
        assert len(aside) == bool(word), command
        # Not a word of any record is different.
        found = {record["run_id"]: record for record in records(machine)}
        assert {run_id: found.get(run_id) for run_id in before} == before, command
        assert list(found) == truth(machine)["hand"], command
        before = found


def test_a_damaged_log_is_set_aside_and_made_anew(machine: Machine) -> None:
    prepare(machine)
    apply(machine, {"hand": JOBS["hand"]})
    for command, (word, whole) in DAMAGED_LOG.items():
        for _ in range(3):
            start(machine, "hand")
        collect(machine)
        in_log = {record["run_id"] for record in logged(machine)}
        there = files(machine)
        spoken = after(machine, command)
        assert word in spoken, command
        assert (spoken == "") == (word == ""), command
        aside = {name for name in files(machine) - there if name.startswith("job_status.log.damaged-")}
        assert len(aside) == ("no records" in word), command
        now = {record["run_id"] for record in logged(machine)}
        assert in_log <= now or not whole, command
        assert truth(machine)["hand"][-1] in now, command
        assert [record["run_id"] for record in stored(machine)] == truth(machine)["hand"], command
