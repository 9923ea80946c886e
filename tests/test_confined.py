"""Strict confinement as tests simulate it: what it keeps from a command, what it lets through, and sdcron inside."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.confined import SNAP_DAEMON, confined
from tests.snap_stage import snapd_or_skip
from tests.snapd import seccomp_policy

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

#: Tries what a confined process must not be able to do, and what it must, and prints what came of it.
PROBE = r"""
import ctypes, errno, json, os, resource, socket, sqlite3, subprocess, time
from pathlib import Path

library = ctypes.CDLL(None, use_errno=True)
PTRACE_DETACH = 17
CLONE_NEWUSER = 0x10000000
IOPRIO_SET = 251 if os.uname().machine == "x86_64" else 30

def tried(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    except Exception as error:
        return type(error).__name__
    return "done"

def call(name, *arguments):
    if getattr(library, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)

def write(directory):
    def action():
        path = Path(directory, "probe")
        path.write_text("x")
        path.unlink()
    return action

def listen():
    with socket.socket(socket.AF_UNIX) as asked:
        asked.bind(os.environ["SNAP_COMMON"] + "/socket")
        asked.listen()

def nice_of_another():
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            os.setpriority(os.PRIO_PROCESS, child.pid, 19)
        finally:
            child.kill()

def database():
    sqlite3.connect(os.environ["SNAP_COMMON"] + "/runs.sqlite").execute("create table run (id)").connection.close()

status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
places = "/ /etc /usr /tmp /var /var/log /run /dev /dev/shm /home /root".split() + [os.environ["SNAP"]]
print(json.dumps({
    "pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups(), "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "status": {key: status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")},
    "written": {place: tried(write(place)) for place in places},
    "there": [place for place in ("/run/systemd", "/run/dbus", "/run/log", "/var/log/journal", "/dev/log", "/run/user",
                                  "/sys/fs/cgroup/cgroup.procs", "/before/usr") if os.path.lexists(place)],
    "refused": {
        "mount": tried(lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)),
        "setuid": tried(lambda: os.setuid(1)),
        "setgroups": tried(lambda: os.setgroups([1])),
        "chown": tried(lambda: os.chown(os.environ["SNAP_COMMON"], 1, 1)),
        "nice": tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
        "clock": tried(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
        "device": tried(lambda: os.mknod(os.environ["SNAP_COMMON"] + "/null", 0o20600, os.makedev(1, 3))),
        "limit": tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 30, 1 << 30))),
    },
    "allowed": {
        "common": tried(write(os.environ["SNAP_COMMON"])),
        "data": tried(write(os.environ["SNAP_DATA"])),
        "database": tried(database),
        "fifo": tried(lambda: os.mkfifo(os.environ["SNAP_COMMON"] + "/fifo")),
        "nice": tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, 19)),
        "subreaper": tried(lambda: call("prctl", 36, 1, 0, 0, 0)),
        "child": tried(lambda: subprocess.run(["sh", "-c", "kill -TERM $$"], start_new_session=True)),
    },
    "filtered": {
        "ioprio_set": tried(lambda: call("syscall", IOPRIO_SET, 1, 0, (2 << 13) | 7)),
        "ptrace": tried(lambda: call("ptrace", PTRACE_DETACH, 0, 0, 0)),
        "nice of others": tried(nice_of_another),
        "listen": tried(listen),
        "user namespace": tried(lambda: call("unshare", CLONE_NEWUSER)),
    },
}))
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    """snapd's programs, unpacked."""
    return snapd_or_skip()


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """What a confined command sees as $SNAP_COMMON and $SNAP_DATA."""
    common, data = tmp_path / "common", tmp_path / "data"
    common.mkdir()
    data.mkdir()
    return common, data


def host_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()


def probe(command: list[str]) -> tuple[int, dict[str, Any]]:
    """The process id of what was started, and what the probe in it says."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        out, _ = started.communicate(timeout=60)
    assert started.returncode == 0
    return started.pid, json.loads(out)


@pytest.mark.parametrize("root_uid", [False, True], ids=["snap_daemon", "root"])
@pytest.mark.parametrize("plugs", [None, (), ("network-bind",)], ids=["no seccomp", "no plugs", "network-bind"])
def test_confinement_holds(
    tools: Path,
    places: tuple[Path, Path],
    plugs: tuple[str, ...] | None,
    root_uid: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "of the caller")
    common, data = places
    before = host_mounts()
    policy = "" if plugs is None else seccomp_policy(tools, plugs)
    pid, seen = probe(
        confined([sys.executable, "-c", PROBE], common=common, data=data, root_uid=root_uid, seccomp=policy)
    )
    assert seen["pid"] == pid
    assert (seen["uid"], seen["groups"]) == (0 if root_uid else SNAP_DAEMON, [])
    assert seen["cwd"] == "/var/snap/sdcron/x1"
    assert seen["environment"]["SNAP_COMMON"] == "/var/snap/sdcron/common"
    assert not [name for name in seen["environment"] if name.startswith(("DBUS", "XDG", "INVOCATION", "JOURNAL"))]
    none = "0000000000000000"
    assert seen["status"] == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), none),
        "NoNewPrivs": "1",
        "Seccomp": "0" if plugs is None else "2",
    }
    assert set(seen["written"].values()) <= {"EROFS", "EACCES"}
    assert seen["written"]["/tmp"] == "EROFS"
    assert seen["there"] == []
    assert "done" not in seen["refused"].values()
    assert set(seen["allowed"].values()) == {"done"}
    if plugs is not None:
        refused = {name for name, result in seen["filtered"].items() if result == "EPERM"}
        assert refused == set(seen["filtered"]) - ({"listen"} if "network-bind" in plugs else set())
    assert host_mounts() == before
    assert not (common / "probe").exists()


def test_signals_reach_the_confined_command_and_nothing_outlives_its_namespace(
    tools: Path, places: tuple[Path, Path]
) -> None:
    common, data = places
    script = 'trap "echo ended; exit 7" TERM; echo ready; while :; do sleep 0.05; done'
    with subprocess.Popen(
        confined(["sh", "-c", script], common=common, data=data), stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.terminate()
        assert started.stdout.read() == "ended\n"
        assert started.wait(10) == 7
    first, second = socket.socketpair()
    command = ["sh", "-c", "sleep 600 & setsid sleep 600 & echo $$; wait"]
    with (
        first,
        subprocess.Popen(
            confined(command, common=common, data=data, pid_namespace=True),
            stdout=subprocess.PIPE,
            stdin=second.fileno(),
            text=True,
        ) as started,
    ):
        second.close()
        assert started.stdout is not None
        assert started.stdout.readline() == "1\n"
        started.kill()
        started.wait(10)
        # Each of the three holds the other end as its standard input: its end is the end of all.
        first.settimeout(10)
        assert first.recv(1) == b""
