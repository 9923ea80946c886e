"""Machines with a booted, real systemd, for tests: systemd-nspawn containers that leave nothing behind.

Owns starting, entering, cutting the power of and removing a machine. Every machine lives in a process and mount
namespace of its own whose first process ends when this one does, so even a killed test run leaves no process, mount
or file. Standard library only, because `make run` boots one too. Needs root.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tests.rootfs import BUILD_TIMEOUT, RELEASES, TEST, Kind, Release, RootfsError, cache_dir, rootfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["BUILD_TIMEOUT", "RELEASES", "Machine", "MachineError", "Release", "RootfsError", "until", "why_no_machines"]

CHECKOUT = Path(__file__).resolve().parent.parent

#: Where a machine sees the checkout, read-only.
CHECKOUT_INSIDE = "/opt/sdcron"

#: Seconds a boot may take. It takes two; the rest is for a machine that is busy with other things.
BOOT_TIMEOUT = 90
# To systemd a boot lasts while any start job is waiting, and a run is one from its begin to its end: jobs that are
# always on keep a machine "starting". After so many seconds, a machine that waits for nothing but runs is up.
JOBS_ONLY_AFTER = 30

#: The first process of a machine's namespaces. It mounts what the machine stands on, then waits for the end of its
#: standard input, which comes with the end of the test run: then the kernel kills everything in its namespace.
#: systemd 257 needs a pure cgroup2 hierarchy to boot, whatever the host has.
HOLDER = """
set -e
mount -t tmpfs -o mode=0755 tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/changes,workdir=$1/work" overlay "$1/root"
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo ready
read -r _ || true
"""

#: Each boot gets a control group of its own: nspawn would otherwise put every machine into the same one.
BOOT = """
set -e
mkdir "/sys/fs/cgroup/$1"
echo 0 >"/sys/fs/cgroup/$1/cgroup.procs"
shift
exec "$@"
"""

#: A command runs in a control group of the machine, as one typed at its console would: logind and others refuse
#: callers from outside.
COMMAND = 'echo 0 >"$0" && exec "$@"'

#: Removes every trace of sdcron from a machine, its clock and its other units untouched.
RESET = """
if [ -S /run/user/1000/bus ]; then
    export XDG_RUNTIME_DIR=/run/user/1000
    as_tester() { setpriv --reuid=1000 --regid=1000 --init-groups "$@"; }
    as_tester systemctl --user stop --no-block 'sdcron-*.timer' 2>/dev/null
    as_tester systemctl --user stop 'sdcron-*.timer' 'sdcron-*.service' 'sdcron-*.path' 'sdcron-*.target' 2>/dev/null
fi
systemctl stop --no-block 'sdcron-*.timer' 2>/dev/null
systemctl stop 'sdcron-*.timer' 'sdcron-*.service' 'sdcron-*.path' 'sdcron-*.target' 2>/dev/null
for dir in /etc/systemd/system /etc/systemd/user /run/systemd/system /run/systemd/transient; do
    [ ! -d "$dir" ] || find "$dir" -depth -name 'sdcron-*' -exec rm -rf {} +
done
rm -rf /var/lib/systemd/timers/stamp-sdcron-* /var/lib/sdcron /run/sdcron /etc/sdcron /var/log/sdcron
cd /home/tester && rm -rf .config/systemd/user/*sdcron-* .config/systemd/user/*/sdcron-* .config/sdcron \
    .local/share/systemd/timers/stamp-sdcron-* .local/state/sdcron /run/user/1000/sdcron \
    /run/user/1000/systemd/user/sdcron-* /run/user/1000/systemd/transient/sdcron-*
systemctl daemon-reload
systemctl reset-failed 'sdcron-*' 2>/dev/null
if [ -S /run/user/1000/bus ]; then
    as_tester systemctl --user daemon-reload
    as_tester systemctl --user reset-failed 'sdcron-*' 2>/dev/null
fi
exit 0
"""

#: What a command in a machine starts with; nothing of the environment of the test run gets in.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONPATH": CHECKOUT_INSIDE,
    # The checkout is read-only inside: compiled modules go to a place that can be written.
    "PYTHONPYCACHEPREFIX": "/tmp/pycache",
}

_numbers = itertools.count(1)


class MachineError(Exception):
    """A machine did not boot, or a command in it did not do what the test relies on."""


def why_no_machines() -> str | None:
    """Why machines cannot be booted here, in words that say what to do; None if they can be tried."""
    if os.environ.get("SDCRON_TEST_MACHINES") == "no":
        return "SDCRON_TEST_MACHINES=no"
    if os.geteuid() != 0:
        return "not root (run `sudo make test`)"
    needed = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    if missing:
        return f"not installed: {' '.join(missing)} (run `apt-get install {' '.join(missing)}`)"
    return None


def until(condition: Callable[[], Any], timeout: float, what: str) -> None:
    """Wait until `condition()` is true, looking every 50 ms, for at most `timeout` seconds.

    Raises MachineError saying that `what` did not happen.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise MachineError(f"waited {timeout} s, and still not: {what}")
        time.sleep(0.05)


class Machine:
    """One machine, its disk an overlay in memory on top of a cached root file system.

    A context manager: entering makes and boots it, leaving removes it. `poweroff` or `kill` followed by `boot` is a
    restart that keeps the disk.
    """

    def __init__(self, release: Release, *, boot: bool = True, kind: Kind = TEST) -> None:
        self.release = release
        self._kind = kind
        self.name = f"sdcron-test-{os.getpid()}-{next(_numbers)}"
        self.leader = 0
        self._boot_at_entry = boot
        self._boots = 0
        self._holder_inside = 0
        self._holder: subprocess.Popen[bytes] | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console: IO[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make the machine and boot it. Raises MachineError with the console's text, or RootfsError."""
        with ExitStack() as stack:
            self._hold(stack.enter_context(rootfs(self.release, self._kind)), stack)
            if self._boot_at_entry:
                self.boot()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut the power and remove the machine with everything in it."""
        self._stack.close()

    # Power

    def boot(self) -> None:
        """Switch on, and wait until systemd has finished booting. Raises MachineError with the console's text."""
        if self._nspawn is not None:
            raise MachineError(f"{self.name} is on already")
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the machine is on
        command = self._spawned("--boot", "--console=pipe")
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._wait_for_boot()
        except BaseException:
            self.kill()
            raise

    def _spawned(self, *options: str) -> list[str]:
        """The command line that has systemd-nspawn start something in the machine's file system."""
        self._boots += 1
        return [
            *("nsenter", f"--target={self._holder_inside}", "--mount", "--pid"),
            *("sh", "-c", BOOT, "boot", f"{self.name}-{self._boots}"),
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"),
            *("--link-journal=no", "--timezone=off", "--resolv-conf=off"),
            *(f"--machine={self.name}", f"--directory={cache_dir() / 'mnt/root'}"),
            *(f"--bind-ro={str(source).replace(':', chr(92) + ':')}:{inside}" for source, inside in _binds()),
            *options,
        ]

    def run_off(self, argv: Sequence[str], *, timeout: float = 300, status: int | None = 0) -> str:
        """Run a command in the file system of a machine that is off, without a network; what it prints.

        Raises MachineError unless it exits with `status` (None: however it ends).
        """
        if self._nspawn is not None:
            raise MachineError(f"{self.name} is on")
        command = [*self._spawned("--as-pid2", "--pipe", f"--setenv=LANG={ENVIRONMENT['LANG']}"), *argv]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            told = process.communicate(timeout=timeout)[0].decode(errors="replace")
        except BaseException as error:
            for pid in reversed(_descendants(process.pid)):
                _kill(pid)
            process.kill()
            told = process.communicate()[0].decode(errors="replace")
            if isinstance(error, subprocess.TimeoutExpired):
                raise MachineError(_told(f"did not end within {timeout} s", argv, told, "")) from None
            raise
        self._remove_control_groups(of_dead_runs=False)
        if status is not None and process.returncode != status:
            raise MachineError(_told(f"exited {process.returncode}, not {status}", argv, told, ""))
        return told

    def poweroff(self, timeout: float = 60) -> None:
        """Shut down in order, as `systemctl poweroff` does; the disk is kept for the next `boot`."""
        nspawn = self._running()
        self.run(["systemctl", "poweroff", "--no-block"], timeout=timeout, status=None)
        try:
            nspawn.wait(timeout)
        except subprocess.TimeoutExpired:
            console = self.console()
            self.kill()
            raise MachineError(f"{self.name} did not shut down within {timeout} s:\n{console}") from None
        self._is_off()

    def kill(self) -> None:
        """Cut the power: every process of the machine dies at once; the disk is kept for the next `boot`."""
        if self._nspawn is None:
            return
        if self.leader:
            # The first process of a process namespace takes all others with it.
            _kill(self.leader)
        try:
            self._nspawn.wait(10)
        except subprocess.TimeoutExpired:
            for pid in reversed(_descendants(self._nspawn.pid)):
                _kill(pid)
            self._nspawn.kill()
            self._nspawn.wait(10)
        self._is_off()

    @property
    def disk(self) -> Path:
        """The machine's root directory seen from here, also while it is off. Absolute links in it lead elsewhere."""
        return Path(f"/proc/{self._holder_inside}/root{cache_dir()}/mnt/root")

    # What a test does with it

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - the name subprocess.run gives it
        user: str | None = None,
        cwd: str = "/",
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine for at most `timeout` seconds, as root or as `user` with a user's environment.

        `env` adds to the little there is. Raises MachineError unless the command exits with `status`
        (None: however it ends).
        """
        self._running()
        environment = {**ENVIRONMENT, "HOME": "/root", **(self._user_environment(user) if user else {}), **(env or {})}
        as_user: tuple[str, ...] = ()
        if user:
            uid, gid, _ = self._account(user)
            as_user = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--")
        command = [*self._enter(), *as_user, "env", f"--chdir={cwd}", "--", *argv]
        # Bytes that are not UTF-8 survive both ways: hostile strings are part of the tests.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException as error:
            # nsenter's child is not ended with nsenter: end the group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise MachineError(_told(f"did not end within {timeout} s", argv, stdout, stderr)) from None
            raise
        if status is not None and process.returncode != status:
            raise MachineError(_told(f"exited {process.returncode}, not {status}", argv, stdout, stderr))
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def sdcron(
        self,
        *arguments: str,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - the name subprocess.run gives it
        user: str | None = None,
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run the checkout's sdcron in the machine, with the distribution's own Python and libraries."""
        argv = ["python3", "-m", "sdcron", *arguments]
        return self.run(argv, timeout=timeout, env=env, input=input, user=user, status=status)

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root") -> None:
        """Write one file, making the directories above it."""
        self.write_files({path: text}, mode=mode, owner=owner)

    def write_files(self, files: Mapping[str, str], *, mode: int = 0o644, owner: str = "root") -> None:
        """Write many files at once (absolute path -> text), making the directories above them."""
        uid, gid, _ = self._account(owner)
        now = time.time()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, text in files.items():
                content = text.encode("utf-8", "surrogateescape")
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(content), mode, uid, gid, now
                tar.addfile(entry, io.BytesIO(content))
        command = [*self._enter(), "tar", "--extract", "--no-overwrite-dir", "--directory=/", "--file=-"]
        subprocess.run(command, input=archive.getvalue(), env=ENVIRONMENT, check=True, timeout=120)

    def read(self, path: str) -> str:
        """The text of a file. Raises MachineError if there is none."""
        return self.run(["cat", "--", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether there is a file, directory or symbolic link of that name, dangling ones included."""
        return self.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", path], status=None).returncode == 0

    def show(self, unit: str, *properties: str, user: str | None = None) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them, times in UTC; all of them if none is named."""
        scope = ["--user"] if user else []
        chosen = [f"--property={','.join(properties)}"] if properties else []
        output = self.run(["systemctl", *scope, "show", "--timestamp=us+utc", *chosen, "--", unit], user=user).stdout
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The entries of the journal, oldest first, that match journalctl arguments such as `--unit=NAME`."""
        self.run(["journalctl", "--sync"])
        output = self.run(["journalctl", "--output=json", "--all", "--no-pager", "--quiet", *matches]).stdout
        return [json.loads(line) for line in output.splitlines()]

    def set_zone(self, zone: str) -> None:
        """Change the machine's time zone, which systemd notices, the way timedatectl does."""
        self.run(["ln", "-sfT", f"/usr/share/zoneinfo/{zone}", "/etc/localtime.new"])
        self.run(["mv", "-T", "/etc/localtime.new", "/etc/localtime"])
        self.write("/etc/timezone", f"{zone}\n")

    def start_user_manager(self, user: str = "tester") -> None:
        """Start the user's own service manager and keep it without a login. Every machine has the user `tester`."""
        uid, _, _ = self._account(user)
        self.run(["loginctl", "enable-linger", user])
        until(
            lambda: (
                self.run(["systemctl", "--user", "is-system-running"], user=user, status=None).stdout.strip()
                in {"running", "degraded"}
            ),
            30,
            f"the service manager of {user} (user@{uid}.service) is running",
        )

    def reset(self) -> None:
        """Remove all of sdcron's units, failed states, stamps and state, so that the next test starts clean."""
        self.run(["sh", "-c", RESET], timeout=120)

    def console(self) -> str:
        """The end of what the machine printed on its console."""
        if self._console is None:
            return "(no console)"
        self._console.seek(0)
        return self._console.read()[-8000:].decode("utf-8", "replace") or "(nothing on the console)"

    # How it works

    def _hold(self, root: Path, stack: ExitStack) -> None:
        """Start the first process of the machine's namespaces, with its file system mounted."""
        namespaces = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        holder = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", HOLDER, "sdcron-test", str(cache_dir() / "mnt"), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._holder = holder
        stack.callback(self._release, holder)
        if holder.stdout is None or holder.stdout.readline() != b"ready\n":
            problem = holder.stderr.read().decode() if holder.stderr else ""
            raise MachineError(f"this machine does not let root make namespaces and mounts:\n{problem}")
        [self._holder_inside] = _children(holder.pid)
        self._remove_control_groups(of_dead_runs=True)

    def _release(self, holder: subprocess.Popen[bytes]) -> None:
        self.kill()
        with holder:
            if holder.stdin:
                holder.stdin.close()
            try:
                holder.wait(10)
            except subprocess.TimeoutExpired:
                holder.kill()

    def _wait_for_boot(self) -> None:
        started = time.monotonic()
        state, waiting = "no first process", ""
        while time.monotonic() < started + BOOT_TIMEOUT:
            if self._running().poll() is not None:
                raise MachineError(f"{self.name} ({self.release.suite}) went off while booting:\n{self.console()}")
            if not self.leader:
                self.leader = self._find_leader()
            if self.leader:
                state = self.run(["systemctl", "is-system-running"], status=None).stdout.strip() or "systemd is silent"
                if state in {"running", "degraded"}:
                    return
            if state == "starting" and time.monotonic() > started + JOBS_ONLY_AFTER:
                waiting = self.run(["systemctl", "list-jobs", "--no-legend"], status=None).stdout
                units = [line.split()[1] for line in waiting.splitlines() if len(line.split()) > 1]
                if units and all(unit.startswith("sdcron-") for unit in units):
                    return
            time.sleep(0.02)
        late = f"{self.name} ({self.release.suite}) was not up after {BOOT_TIMEOUT} s ({state}):"
        raise MachineError(f"{late}\n{waiting}{self.console()}")

    def _find_leader(self) -> int:
        """The machine's own first process, in this process namespace's numbers; 0 while there is none."""
        for pid in _descendants(self._running().pid):
            with contextlib.suppress(OSError):
                executable = Path(f"/proc/{pid}/exe").readlink()
                if executable.name == "systemd" and _first_in_its_namespace(pid):
                    return pid
        return 0

    def _enter(self) -> tuple[str, ...]:
        """What to put in front of a command to run it in the machine."""
        group = self._control_groups() / f"{self.name}-{self._boots}/payload/command"
        group.mkdir(exist_ok=True)
        return ("sh", "-c", COMMAND, str(group / "cgroup.procs"), "nsenter", f"--target={self.leader}", "--all", "--")

    def _control_groups(self) -> Path:
        """The cgroup2 hierarchy as mounted in the machine's namespaces, seen from here."""
        return Path(f"/proc/{self._holder_inside}/root/sys/fs/cgroup")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._nspawn is None:
            raise MachineError(f"{self.name} is off")
        return self._nspawn

    def _is_off(self) -> None:
        self._nspawn, self.leader = None, 0
        if self._console is not None:
            self._console.close()
            self._console = None
        self._remove_control_groups(of_dead_runs=False)

    def _remove_control_groups(self, *, of_dead_runs: bool) -> None:
        """Remove this machine's control groups, or those that killed test runs left, empty, behind."""
        for group in self._control_groups().glob("sdcron-test-*" if of_dead_runs else f"{self.name}-*"):
            owner = group.name.split("-")[2]
            if of_dead_runs and Path(f"/proc/{owner}").exists():
                continue
            for directory, _, _ in os.walk(group, topdown=False):
                # A group that still holds a dying process is left for the next run.
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()

    def _account(self, user: str) -> tuple[int, int, str]:
        """The user and group id and the home directory that the machine's /etc/passwd gives."""
        if user == "root":
            return 0, 0, "/root"
        fields = self.run(["getent", "passwd", user]).stdout.rstrip("\n").split(":")
        return int(fields[2]), int(fields[3]), fields[5]

    def _user_environment(self, user: str) -> dict[str, str]:
        uid, _, home = self._account(user)
        return {"HOME": home, "USER": user, "LOGNAME": user, "XDG_RUNTIME_DIR": f"/run/user/{uid}"}


def _binds() -> list[tuple[Path, str]]:
    """What of this machine a test machine sees: the checkout, and the case tables beside it."""
    shared = CHECKOUT.parent / "shared"
    return [(CHECKOUT, CHECKOUT_INSIDE), *([(shared, "/opt/shared")] if shared.is_dir() else [])]


def _told(what: str, argv: Sequence[str], stdout: str, stderr: str) -> str:
    return f"{list(argv)} {what}\nstdout:\n{stdout[-4000:]}\nstderr:\n{stderr[-4000:]}"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Children of a process, by proc(5)'s stat; not all kernels have /proc/PID/task/TID/children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold spaces and parentheses itself; state and parent follow it.
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _descendants(ancestor: int) -> list[int]:
    """Children, their children and so on, parents first."""
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _first_in_its_namespace(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1] == "1"
    return False
