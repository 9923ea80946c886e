"""What jobs print, on real systemd: every byte is counted, each stream is apart, and nobody else's lines are in it."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING, Any

from sdcron import messages as systemd_says
from tests.machine import until
from tests.system.jobs import apply, fresh_journal, output, service, start
from tests.system.records import COLLECTOR, RUNS, Record, by_job, collect, prepare, records, shell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.machine import Machine

LINES = 200_000
JOBS, EACH = 100, 2000
PYTHON = "#!/usr/bin/python3\nimport sys\nout, err = sys.stdout.buffer, sys.stderr.buffer\n"


def python(text: str, **more: Any) -> dict[str, Any]:
    """A job in Python, which writes bytes."""
    return {"script": PYTHON + text, **more}


def lines(number: int) -> tuple[str, str]:
    """What the job of this number writes to stdout and to stderr."""
    out = "".join(f"{n} {'o' * (number % 7 + n % 13)} out\n" for n in range(EACH))
    return out, "".join(f"{n} of {number} {'e' * (n % 11)} err\n" for n in range(EACH))


#: The same by the job itself, a line to the one and a line to the other.
INTERLEAVED = f"""
number = int(sys.argv[0].rpartition("-")[2])
for n in range({EACH}):
    out.write(b"%d %s out\\n" % (n, b"o" * (number % 7 + n % 13)))
    out.flush()
    err.write(b"%d of %d %s err\\n" % (n, number, b"e" * (n % 11)))
    err.flush()
"""


def run_all(machine: Machine, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Record]:
    """Apply the jobs, run each once, all at the same time, and give the record of each."""
    apply(machine, jobs)
    start(machine, *jobs)
    found = by_job(records(machine))
    assert {name: len(runs) for name, runs in found.items()} == dict.fromkeys(jobs, 1)
    return {name: runs[0] for name, runs in found.items()}


def test_two_hundred_thousand_lines_and_an_exit_are_all_counted(machine: Machine) -> None:
    prepare(machine)
    fresh_journal(machine)
    text = f"out.write(b''.join(b'%07d is a line of the output of this job\\n' % n for n in range({LINES})))"
    big = run_all(machine, {"big": python(text)})["big"]
    printed = [f"{number:07d} is a line of the output of this job\n" for number in range(LINES)]
    size = sum(map(len, printed))
    assert (big["stdout_bytes"], big["truncated"], big["dropped_lines"]) == (size, True, 0)
    half = 32 * 1024
    whole = "".join(printed)
    head, seam, tail = big["stdout"].partition("[…")
    left_out, _, tail = tail.partition("…]\n")
    assert whole.startswith(head.rstrip("\n")) and whole.endswith(tail)
    assert half - 1 <= len(head) <= half + 1
    assert len(tail) == half
    assert seam and int(left_out.split()[0]) == size - 2 * half
    assert (big["outcome"], big["stderr_bytes"], big["stderr"]) == ("success", 0, "")


def test_a_hundred_jobs_at_once_keep_their_streams_apart(machine: Machine) -> None:
    prepare(machine)
    jobs = {f"loud-{number}": python(INTERLEAVED, output={"keep": "1M"}) for number in range(JOBS)}
    found = run_all(machine, jobs)
    wrong = []
    for number in range(JOBS):
        record = found[f"loud-{number}"]
        for which, printed in zip(("stdout", "stderr"), lines(number), strict=True):
            if record[which] != printed:
                wrong.append(f"{number} {which}: {difference(record[which], printed)}")
            elif record[f"{which}_bytes"] != len(printed) or record["truncated"]:
                wrong.append(f"{number} {which}: {record[f'{which}_bytes']} bytes of {len(printed)}")
    # What the collector has said may be the reason; and whether it is the journal that has too much or too little.
    said = machine.run(["journalctl", "-o", "short-precise", "-u", COLLECTOR]).stdout if wrong else ""
    assert wrong == [], f"{said}{stored_lines(machine, wrong[0].split()[0])}"


def stored_lines(machine: Machine, number: str) -> str:
    """How many lines the journal has of a job, and how many of them are others than those before."""
    stored = output(machine, f"loud-{number}")
    return f"the journal has {len(stored)} lines of loud-{number}, {len(set(stored))} different ones"


def difference(found: str, printed: str) -> str:
    """Where a text begins to be another one."""
    lines, wanted = found.splitlines(), printed.splitlines()
    at = next((at for at, (line, other) in enumerate(zip(lines, wanted, strict=False)) if line != other), len(wanted))
    return f"{len(lines)} lines of {len(wanted)}, other ones from line {at} on: {lines[at : at + 2]}"


BINARY = bytes(n for n in range(256) if n not in (0, 10)) + b"\n"

#: What a job writes to stdout, in Python, and what of it is on record: text and bytes.
ODD: dict[str, tuple[str, str, int]] = {
    "no-newline": ("out.write(b'no newline')", "no newline", 10),
    "one-byte": ("out.write(b'x')", "x", 1),
    # journald counts the NUL as the end of a line: what comes after it is a line of its own.
    "nul": ("out.write(b'before\\0after\\nlast\\n')", "before\0after\nlast\n", 18),
    "not-utf-8": ("out.write(b'\\xff\\xfe caf\\xe9\\n')", "\\xff\\xfe caf\\xe9\n", 8),
    "binary": (
        "out.write(bytes(n for n in range(256) if n not in (0, 10)) + b'\\n')",
        BINARY.decode("utf-8", "backslashreplace"),
        255,
    ),
    "utf-8": ("out.write('grüße ☃ 🜁\\n'.encode())", "grüße ☃ 🜁\n", 17),
    "long-line": ("out.write(b'0123456789abcdef' * 12800)", "0123456789abcdef" * 12800, 204_800),
    "long-line-and-more": ("out.write(b'y' * 60_000 + b'\\nnext\\n')", "y" * 60_000 + "\nnext\n", 60_006),
    "escapes": ("out.write(b'\\x1b[31mred\\x1b[0m\\ttab\\rreturn\\n')", "\x1b[31mred\x1b[0m\ttab\rreturn\n", 24),
    # What is blank at the end of a line journald drops, as it does with empty lines.
    "blanks": ("out.write(b'  before\\nafter  \\n')", "  before\nafter\n", 15),
}


def test_odd_bytes_long_lines_and_missing_newlines_arrive_as_they_are(machine: Machine) -> None:
    prepare(machine)
    jobs = {name: python(code, output={"keep": "1M"}) for name, (code, _, _) in ODD.items()}
    jobs["empty-lines"] = python("out.write(b'\\n\\none\\n\\n\\ntwo\\n\\n')")
    found = run_all(machine, jobs)
    for name, (_, text, size) in ODD.items():
        record = found[name]
        assert (record["stdout"], record["stdout_bytes"]) == (text, size), name
        assert not record["truncated"]
    # journald drops empty lines, and nothing in the journal tells of them: they are neither shown nor counted.
    assert (found["empty-lines"]["stdout"], found["empty-lines"]["stdout_bytes"]) == ("one\ntwo\n", 8)


def test_what_is_redacted_is_nowhere(machine: Machine) -> None:
    prepare(machine)
    secret = "swordfish-1f8e"
    jobs: dict[str, dict[str, Any]] = {
        "secretive": {
            "output": {"redact": ["password=\\S+", "swordfish-[0-9a-f]+"]},
            "command": shell(
                "echo user=me password=hunter2 rest; "
                f"echo {secret} >&2; printf 'split {secret[:6]}'; printf '{secret[6:]}'"
            ),
        },
        # Long enough to be put away while it runs.
        "goes-on": {
            "output": {"redact": ["swordfish-[0-9a-f]+"]},
            "command": shell(f"printf '{secret}'; echo {secret} >&2; sleep 100"),
        },
    }
    apply(machine, jobs)
    start(machine, "secretive")
    start(machine, "goes-on", wait=False)
    until(lambda: machine.run(["journalctl", "-t", "sdcron-goes-on", "-o", "cat"]).stdout, 10, "it has printed")
    record = by_job(records(machine))["secretive"][0]
    assert record["stdout"] == "user=me [redacted] rest\nsplit [redacted]"
    assert record["stderr"] == "[redacted]\n"
    assert record["stdout_bytes"] == len(f"user=me password=hunter2 rest\nsplit {secret}")
    machine.run(["systemctl", "restart", "sdcron-collector.service"])
    collect(machine)
    look = f"grep -r -l -a -e {secret} -e hunter2 {RUNS} /var/log/sdcron /run/sdcron; true"
    assert machine.run(["sh", "-c", look]).stdout == ""
    machine.run(["systemctl", "stop", service("goes-on")])
    assert by_job(records(machine))["goes-on"][0]["stderr"] == "[redacted]\n"
    assert machine.run(["sh", "-c", look]).stdout == ""


def test_lines_over_a_rate_limit_are_told_of(machine: Machine) -> None:
    prepare(machine)
    apply(machine, {"chatty": python("out.write(b'line\\n' * 5000)")})
    drop_in = "[Service]\nLogRateLimitIntervalSec=1s\nLogRateLimitBurst=50\n"
    machine.write(f"/etc/systemd/system/{service('chatty')}.d/limit.conf", drop_in)
    machine.run(["systemctl", "daemon-reload"])
    for _ in range(2):
        start(machine, "chatty")
        # journald tells how many it dropped with the first line after the interval.
        time.sleep(1.2)
    first, second = by_job(records(machine))["chatty"]
    machine.run(["rm", "-r", f"/etc/systemd/system/{service('chatty')}.d"])
    machine.run(["systemctl", "daemon-reload"])
    kept = first["stdout_bytes"] // 5
    assert 50 <= kept < 5000
    assert first["dropped_lines"] == 5000 - kept
    assert second["reason"] == f"journald dropped {5000 - kept} lines of this run or the one before"


FORGER = """
import sys
from systemd import journal
job, run_id, ids = sys.argv[1], sys.argv[2], sys.argv[3:]
unit = f"sdcron-{job}.service"
for message_id in ids:
    for more in (dict(INVOCATION_ID=run_id), dict(INVOCATION_ID="0" * 32), {}):
        journal.send(
            f"{unit}: Failed with result 'exit-code'.", MESSAGE_ID=message_id, UNIT=unit, USER_UNIT=unit,
            SYSLOG_IDENTIFIER="systemd", UNIT_RESULT="exit-code", JOB_RESULT="failed", EXIT_CODE="exited",
            EXIT_STATUS="66", OBJECT_SYSTEMD_UNIT=unit, N_DROPPED="77", _PID="1", _UID="0", **more,
        )
journal.send("forged", SYSLOG_IDENTIFIER=f"sdcron-{job}", PRIORITY="6")
journal.send("forged", SYSLOG_IDENTIFIER="systemd-journald", MESSAGE_ID="a596d6fe7bfa4994828e72309e95d61e",
             OBJECT_SYSTEMD_UNIT=unit, OBJECT_SYSTEMD_INVOCATION_ID=run_id, N_DROPPED="77")
stream = journal.stream(f"sdcron-{job}", 6)
stream.write("forged\\n")
stream.flush()
"""


#: MESSAGE_ID of what systemd says of units (sd-messages.h), and of journald's word about dropped lines.
MESSAGES = [
    systemd_says.STARTING,
    systemd_says.EXITED,
    systemd_says.SUCCEEDED,
    systemd_says.FAILED,
    systemd_says.SKIPPED,
    systemd_says.STARTED,
    systemd_says.START_FAILED,
]
MESSAGES += [systemd_says.HAS_STOPPED, systemd_says.RESOURCES, systemd_says.SPAWN_FAILED, systemd_says.DROPPED]


def test_nobody_else_makes_a_record_or_gets_a_line_into_one(machine: Machine) -> None:
    prepare(machine)
    machine.start_user_manager()
    go_on = "echo begun; until [ -e /tmp/forged ]; do sleep 0.05; done; echo done >&2"
    machine.run(["rm", "-f", "/tmp/forged"])
    apply(machine, {"held": {"command": shell(go_on)}, "idle": {"schedule": "@yearly", "command": ["/bin/true"]}})
    start(machine, "held", wait=False)
    until(lambda: machine.show(service("held"), "InvocationID")["InvocationID"], 10, "it runs")
    run_id = machine.show(service("held"), "InvocationID")["InvocationID"]
    machine.write("/tmp/forge.py", FORGER)
    messages = [message.decode() for message in MESSAGES]
    cat = "echo forged | systemd-cat -t sdcron-held; echo forged | systemd-cat -t sdcron-held -p warning"
    for name, its_id in (("held", run_id), ("idle", "f" * 32)):
        machine.run(["python3", "/tmp/forge.py", name, its_id, *messages], user="tester")
        # In a service of his own, and as somebody else's daemon.
        words = " ".join(["python3", "/tmp/forge.py", name, its_id, *messages])
        own = f"[Service]\nType=oneshot\nSyslogIdentifier=sdcron-{name}\nExecStart=/usr/bin/{words}\n"
        machine.write("/home/tester/.config/systemd/user/forge.service", own, owner="tester")
        machine.run(["systemctl", "--user", "daemon-reload"], user="tester")
        machine.run(["systemctl", "--user", "start", "forge.service"], user="tester")
        daemon = ["systemd-run", "--wait", "--quiet", "--uid=tester"]
        machine.run([*daemon, "python3", "/tmp/forge.py", name, its_id, *messages])
        machine.run(["sh", "-c", cat.replace("held", name)], user="tester")
        machine.run(["logger", "-t", f"sdcron-{name}", "forged"], user="tester")
        fields = f"MESSAGE=forged\nMESSAGE_ID={messages[3]}\nUNIT={service(name)}\nINVOCATION_ID={its_id}\n"
        machine.run(["logger", "--journald"], input=f"{fields}SYSLOG_IDENTIFIER=systemd\n", user="tester")
    machine.run(["rm", "-rf", "/home/tester/.config"])
    machine.run(["touch", "/tmp/forged"])
    until(lambda: not machine.show(service("held"), "InvocationID", "Job").get("Job"), 10, "it has ended")
    machine.run(["systemctl", "start", service("held")])
    found = by_job(records(machine))
    assert found.keys() == {"held"}
    for record in found["held"]:
        assert (record["outcome"], record["exit_code"], record["dropped_lines"]) == ("success", 0, 0)
        assert (record["stdout"], record["stderr"]) == ("begun\n", "done\n")
    assert len(found["held"]) == 2


#: What another user says whose process is gone before journald looks could be of anybody; so su(1) takes a moment.
CHILDREN: dict[str, tuple[str, str]] = {
    "su": ("su -s /bin/sh -c 'echo in su; echo err >&2; sleep 0.3' tester", "in su\n"),
    "then-su": ("echo first; su -s /bin/sh -c 'echo in su' tester; echo err >&2", "first\nin su\n"),
    "setsid": ("setsid --wait sh -c 'echo in a session; echo err >&2'", "in a session\n"),
    "background": ("(sleep 0.2; echo behind; echo err >&2) & wait", "behind\n"),
    # It is killed with the job, and what it said before counts.
    "left-behind": ("(echo behind; echo err >&2; sleep 100) & sleep 0.3", "behind\n"),
    "many": ("for n in 1 2 3 4 5 6 7 8 9; do sh -c 'echo child' & done; wait; echo err >&2", "child\n" * 9),
}


def test_what_children_print_belongs_to_the_job(machine: Machine) -> None:
    prepare(machine)
    found = run_all(machine, {name: {"command": shell(command)} for name, (command, _) in CHILDREN.items()})
    printed = {name: (record["stdout"], record["stderr"]) for name, record in found.items()}
    assert printed == {name: (text, "err\n") for name, (_, text) in CHILDREN.items()}
    assert {record["outcome"] for record in found.values()} == {"success"}


#: The newest entry of a journal file at rest, as a reader finds it between the two steps in which journald tells its
#: line that it has one entry now (entry_offset, then n_entries); 50 ms later the second is done. The offsets are those
#: of systemd's journal-def.h.
TORN = """
import glob, mmap, os, shutil, struct, sys, threading, time
from systemd._reader import _Reader
from sdcron.journal import Journal

class Stored(Journal):
    def _open(self):
        return _Reader(0, "/root/torn")

[path] = glob.glob("/var/log/journal/*/system.journal")
os.makedirs("/root/torn")
shutil.copy(path, "/root/torn/system.journal")
with open("/root/torn/system.journal", "r+b") as file:
    stored = mmap.mmap(file.fileno(), 0)
line = sys.argv[1].encode()
compact = struct.unpack_from("<I", stored, 12)[0] & 16
n_entries = stored.find(b"MESSAGE=" + line) - (16 if compact else 8)
assert struct.unpack_from("<Q", stored, n_entries)[0] == 1
journal = Stored()
journal.seek_tail()
while journal.get("MESSAGE") != line:
    assert journal._reader._previous()
struct.pack_into("<Q", stored, 192, journal.realtime_us())
for restored in (False, True):
    struct.pack_into("<Q", stored, n_entries, 0)
    try:
        print(journal._reader._get("MESSAGE"))
    except KeyError:
        print("torn")
    if restored:
        threading.Timer(0.05, struct.pack_into, ("<Q", stored, n_entries, 1)).start()
    print(journal.get("_STREAM_ID") is not None, (journal.get("MESSAGE") or b"").decode())
"""


def test_a_line_that_journald_has_half_told_readers_of_is_waited_for(machine: Machine) -> None:
    line = "a line that is half told"
    machine.run(["systemd-cat", "--identifier=torn", "echo", line])
    until(lambda: line in machine.run(["journalctl", "--identifier=torn"]).stdout, 30, "the line is stored")
    told = machine.run(["python3", "-c", TORN, line]).stdout
    machine.run(["rm", "-r", "/root/torn"])
    assert told.splitlines() == ["torn", "True ", "torn", f"True {line}"]


#: A reader at the end of the journal while its files get other names: how often libsystemd was at no entry then, and
#: how often the place of the last one was not known, or led elsewhere.
RENAMED = """
import subprocess, time
from sdcron.journal import Journal

def leads_there(cursor):
    # A file that is being renamed may not be opened now: systemd issue 40053.
    again = Journal()
    found = again.seek_cursor(cursor)
    again.close()
    time.sleep(0 if found else 0.1)
    return found

journal = Journal()
journal.seek_tail(1)
nowhere, wrong, last = 0, 0, None
rotating = subprocess.Popen(["sh", "-c", "for n in $(seq 50); do journalctl --rotate; done"])
while rotating.poll() is None or journal.wait(0):
    while journal.next():
        last = journal.cursor()
    try:
        journal._reader._get_cursor()
    except OSError:
        nowhere += 1
        wrong += journal.cursor() != last or not any(map(leads_there, [last] * 5))
    journal.wait(0.1)
print(nowhere > 0, wrong)
"""


def test_files_of_the_journal_that_come_and_go_cost_a_reader_neither_its_place_nor_its_life(machine: Machine) -> None:
    apply(machine, {"some": {"command": "/bin/true"}})
    # A user's empty file is removed when it is rotated, and journald may cut it to nothing while it does: whoever has
    # it mapped, as every reader has, gets SIGBUS (systemd issues 24320 and 33277).
    machine.run(["systemd-cat", "echo", "of a user"], user="tester")
    until(lambda: "user-" in machine.run(["sh", "-c", "ls /var/log/journal/*"]).stdout, 30, "the user has a file")
    before = machine.show(COLLECTOR, "InvocationID", "NRestarts")
    assert machine.run(["python3", "-c", RENAMED], timeout=100).stdout == "True 0\n"
    assert machine.show(COLLECTOR, "InvocationID", "NRestarts") == before
    assert "trying again" not in machine.run(["journalctl", "-u", COLLECTOR, "-o", "cat"]).stdout
    # Its sandbox lets it take the signal: libffi makes code for that.
    status = machine.run(["cat", f"/proc/{machine.show(COLLECTOR, 'MainPID')['MainPID']}/status"]).stdout
    [caught] = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    assert int(caught, 16) & 1 << (signal.SIGBUS - 1)
