"""The engine reads files of environment variables as real systemd does: hundreds at random, one machine a release."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from sdcron.environment_file import EnvironmentFileError, parse
from tests.system.jobs import apply

if TYPE_CHECKING:
    from tests.machine import Machine

FILES = 300
TOKENS = (
    *("A=", "B=", "C", "=", "'", '"', "\\", "\n", "\n", "\r", " ", "\t", "#", ";", "$", "`", "x", "y z", "\\\n", '\\"'),
    *("1", "_q=", "ä", "export D=", "\x01", "\x1b", "\x7f", "\\n", "%i", "${A}"),
)
RARE = ("\udcff", "\ufffe", "\udced\udca0\udc80", "\ufdd0", "\ufeff", "\0", "\U0001ffff", "😀", "\x0b", "\x85")
UNIT = """
[Service]
Type=oneshot
EnvironmentFile=/tmp/environment/%i
ExecStart=/usr/bin/env -0
StandardOutput=truncate:/tmp/environment/%i.out
"""
#: One line a file: what it set, or nothing if systemd did not start the unit.
DRIVER = f"""
systemctl daemon-reload
seq {FILES} | sed 's/.*/environment@&.service/' | xargs -n 100 systemctl start 2>/dev/null
cd /tmp/environment
for file in $(seq {FILES}); do base64 -w0 $file.out 2>/dev/null; echo; done
systemctl reset-failed 'environment@*'
rm -r /tmp/environment /run/systemd/system/environment@.service
systemctl daemon-reload
"""
NAMES = {"A", "B", "C", "D", "_q", "x", "y"}


def _text(chance: random.Random) -> str:
    tokens = [chance.choice(TOKENS) for _ in range(chance.randint(1, 18))]
    if chance.random() < 0.15:
        tokens.insert(chance.randrange(len(tokens) + 1), chance.choice(RARE))
    return "".join(tokens)


@pytest.mark.timeout(60)
def test_any_file_means_the_same_to_the_engine_and_to_systemd(machine: Machine) -> None:
    import base64

    chance = random.Random(20261121)
    texts = [_text(chance) for _ in range(FILES)]
    if machine.release.systemd == "252":
        # There a comment that ends in a backslash goes on in the next line.
        texts = [text if "#" not in text and ";" not in text else "A=1" for text in texts]
    files = {f"/tmp/environment/{number}": text for number, text in enumerate(texts, 1)}
    machine.write_files({**files, "/run/systemd/system/environment@.service": UNIT})
    different = []
    for text, line in zip(texts, machine.run(["sh", "-c", DRIVER]).stdout.splitlines(), strict=True):
        written = base64.b64decode(line).decode("utf-8", "surrogateescape")
        theirs = dict(item.split("=", 1) for item in written.split("\0") if item) if written else None
        try:
            ours = dict(parse(text.encode("utf-8", "surrogateescape")))
        except EnvironmentFileError:
            ours = None
        if theirs is not None:
            theirs = {name: value for name, value in theirs.items() if name in {*NAMES, *(ours or {})}}
        if theirs != ours:
            different.append(f"{text!r}: {theirs} there, {ours} here")
    assert not different, "\n".join(different)


def test_what_a_user_writes_into_his_file_is_not_loaded_into_root(machine: Machine) -> None:
    machine.write("/home/tester/environment", "LD_PRELOAD=/home/tester/no-such.so\nGREETING=hello\n", owner="tester")
    job = {
        "user": "tester",
        "environment_file": "/home/tester/environment",
        "retry": {"delay": "1h", "attempts": 1},
        "command": ["/bin/sh", "-c", 'echo "$GREETING ${LD_PRELOAD-none}"; exit 3'],
    }
    apply(machine, {"preloads": {**job}, "before": {"command": "/bin/true"}, "follows": {"after": "preloads", **job}})
    since = time.time()
    machine.sdcron("run", "preloads", "--wait", status=3)
    machine.sdcron("run", "follows", "--for", "2026-01-01", "--wait", status=3)
    machine.run(["journalctl", "--sync"])
    said = machine.run(["journalctl", f"--since=@{int(since)}", "-o", "cat", "--no-pager"])
    assert said.stdout.count("hello none") == 2
    assert "cannot be preloaded" not in said.stdout
