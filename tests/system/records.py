"""Records on a machine: made up to date, read from the log and from the database, and checked for what all have."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.machine import until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.machine import Machine

Record = dict[str, Any]

LOG = "/var/log/sdcron/job_status.log"
RUNS = "/var/lib/sdcron/runs"
COLLECTOR = "sdcron-collector.service"

#: A line that a job begins with: its run id goes where only the test looks, what collects knows nothing of it.
TRUTH = "/root/truth"

_TEXT, _MAYBE = (str,), (str, type(None))
_NUMBER, _MAYBE_NUMBER = (int,), (int, type(None))
_SECONDS = (float, int, type(None))
FIELDS: dict[str, tuple[type, ...]] = {
    "schema": _NUMBER,
    "job": _TEXT,
    "run_id": _TEXT,
    "host": _TEXT,
    "backend": _TEXT,
    "trigger": _MAYBE,
    "attempt": _NUMBER,
    "scheduled_at": _MAYBE,
    "started_at": _MAYBE,
    "finished_at": _MAYBE,
    "duration_s": _SECONDS,
    "lateness_s": _SECONDS,
    "outcome": _TEXT,
    "reason": _TEXT,
    "exit_code": _MAYBE_NUMBER,
    "signal": _MAYBE,
    "stdout": _TEXT,
    "stderr": _TEXT,
    "stdout_bytes": _NUMBER,
    "stderr_bytes": _NUMBER,
    "truncated": (bool,),
    "dropped_lines": _NUMBER,
    "cpu_s": _SECONDS,
    "memory_peak_bytes": _MAYBE_NUMBER,
    "next_run_at": _MAYBE,
    "job_digest": _MAYBE,
    "alarms": (list,),
    "asked_by": _MAYBE,
    "for": _MAYBE,
    "parameters": (dict,),
}
TRIGGERS = {"schedule", "missed", "retry", "manual", "after", "boot"}
OUTCOMES = {"success", "failure", "timeout", "killed", "skipped", "abandoned"}

_DATABASE = """
import sys
from pathlib import Path
from sdcron.store import Store
store = Store.read(Path(sys.argv[1]))
for _, run in store.after(0) if store else ():
    sys.stdout.write(run.line().decode("ascii"))
"""


def shell(text: str) -> list[str]:
    """A command that the shell runs."""
    return ["/bin/sh", "-c", text]


def told(name: str, text: str = "") -> list[str]:
    """A command that notes its run id where the test looks, and does the rest."""
    return shell(f"echo $INVOCATION_ID >>{TRUTH}/{name}; {text}")


def prepare(machine: Machine) -> None:
    """Begin with no truth, and with a journal that has nothing of earlier tests."""
    machine.run(["sh", "-c", f"rm -rf {TRUTH}; mkdir {TRUTH}; chmod 1777 {TRUTH}; chmod 711 /root"])
    forget_journal(machine)


def forget_journal(machine: Machine) -> None:
    """Have the journal rotated, and vacuumed to nothing."""
    # Only whole files older than a second are removed, by the times of their entries.
    machine.run(["sh", "-c", "journalctl --rotate; sleep 1.1; journalctl --vacuum-time=1s"])


def truth(machine: Machine) -> dict[str, list[str]]:
    """The ids of the runs that there were, by job, as they noted them themselves."""
    lines = machine.run(["sh", "-c", f"cd {TRUTH} && grep -H . * || :"]).stdout.splitlines()
    found: dict[str, list[str]] = {}
    for name, _, run_id in (line.partition(":") for line in lines):
        found.setdefault(name, []).append(run_id)
    return found


def collect(machine: Machine, user: str | None = None) -> str:
    """Have all that has ended put on record; returns what the command said."""
    scope = ["--user"] if user else []
    command = machine.sdcron("collect", "--once", *scope, user=user)
    assert "Traceback" not in command.stderr
    return command.stdout + command.stderr


def logged(machine: Machine, user: str | None = None) -> list[Record]:
    """The records in all of the log's files, oldest first; every line must be one, and none twice."""
    log = "/home/tester/.local/state/sdcron/log/job_status.log" if user else LOG
    # The current file comes last.
    text = machine.run(
        ["sh", "-c", 'for file in "$1"-* "$1"; do [ ! -e "$file" ] || cat "$file"; done', "-", log]
    ).stdout
    assert text.endswith("\n") or not text
    records: list[Record] = [json.loads(line) for line in text.splitlines()]
    for record in records:
        check_shape(record)
    assert_once(record["run_id"] for record in records)
    return records


def stored(machine: Machine, user: str | None = None) -> list[Record]:
    """The records in the database, in the order in which they got there."""
    path = "/home/tester/.local/state/sdcron/runs/runs.db" if user else f"{RUNS}/runs.db"
    lines = machine.run(["python3", "-c", _DATABASE, path]).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert_once(record["run_id"] for record in records)
    return records


def records(machine: Machine, user: str | None = None) -> list[Record]:
    """All records, after everything was collected; log and database must say the same."""
    collect(machine, user)
    kept = stored(machine, user)
    found: dict[str, Record] = {}

    def is_logged() -> bool:
        # A line is appended a moment after its row is there.
        found.update({record["run_id"]: record for record in logged(machine, user)})
        return all(record["run_id"] in found for record in kept)

    until(is_logged, 5, "what is in the database is in the log")
    # Of lines that journald dropped it may tell when the record is in the log already.
    late = {"dropped_lines"}
    pairs = [(record, found[record["run_id"]]) for record in kept]
    assert [(a, b) for a, b in pairs if without(a, late) != without(b, late)] == []
    return kept


def without(record: Record, names: Iterable[str]) -> Record:
    """A record without some of its fields."""
    return {name: value for name, value in record.items() if name not in names}


def by_job(found: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by job, the oldest first."""
    jobs: dict[str, list[Record]] = {}
    for record in found:
        jobs.setdefault(record["job"], []).append(record)
    return jobs


def assert_once(run_ids: Iterable[str]) -> None:
    """No id is there twice."""
    seen = list(run_ids)
    assert len(set(seen)) == len(seen), [run_id for run_id in seen if seen.count(run_id) > 1]


def when(text: str) -> datetime:
    """A time of a record, which has the offset in it."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None, text
    return moment


def check_shape(record: Record) -> None:
    """What holds for every record, whatever its run was."""
    assert list(record) == list(FIELDS), record
    wrong = {name: record[name] for name, types in FIELDS.items() if type(record[name]) not in types}
    assert wrong == {}, record
    assert (record["schema"], record["backend"]) == (1, "systemd")
    assert record["outcome"] in OUTCOMES
    assert record["trigger"] in TRIGGERS | {None}
    assert re.fullmatch("[0-9a-f]{32}", record["run_id"]), record
    assert record["attempt"] >= 1
    started, finished = record["started_at"], record["finished_at"]
    if started and finished:
        assert record["duration_s"] == max((when(finished) - when(started)).total_seconds(), 0)
    else:
        assert record["duration_s"] is None
    if record["scheduled_at"] and started:
        late = (when(started) - when(record["scheduled_at"])).total_seconds()
        assert record["lateness_s"] == max(late, 0)
    else:
        assert record["lateness_s"] is None
    assert (record["outcome"] == "success") or record["reason"], record
    assert "\n" not in record["reason"]
    assert record["exit_code"] is None or record["signal"] is None, record
    assert record["cpu_s"] is None or record["cpu_s"] >= 0
    # The machines of the tests have no memory controller: what cannot be known is not 0.
    assert record["memory_peak_bytes"] is None
    assert record["dropped_lines"] >= 0
    for stream in ("stdout", "stderr"):
        if not record["truncated"] and "[redacted]" not in record[stream]:
            assert len(re.sub(r"\\x[0-9a-f]{2}", "?", record[stream]).encode()) == record[f"{stream}_bytes"], record
