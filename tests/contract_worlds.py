"""The real worlds of the contract tests: an engine of its own on any computer, and the systemd of a booted machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.contract import Acts, Down, by_job
from tests.contract_jobs import PLACE
from tests.system.jobs import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.contract import Jobs, Record
    from tests.machine import Machine


class Computer(Protocol):
    """Where commands run: this machine, or one of tests/machine.py."""

    def run(
        self, argv: Sequence[str], *, timeout: float = 60, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """A command that ends. Raises an error unless it ends with that status."""

    def write_files(self, files: Mapping[str, str], *, mode: int = 0o644) -> None:
        """Files, with the directories above them."""


class Host:
    """This machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }

    def run(
        self, argv: Sequence[str], *, timeout: float = 60, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        done = subprocess.run(
            list(argv), check=False, capture_output=True, text=True, timeout=timeout, env=self.environment, cwd="/"
        )
        assert status is None or done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
        return done

    def write_files(self, files: Mapping[str, str], *, mode: int = 0o644) -> None:
        """Files, with the directories above them."""
        for name, text in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(mode)


#: Asks an engine to start jobs: directory of its socket, then names.
_START = """
import sys
from pathlib import Path
from sdcron.engine_socket import ask
for name in sys.argv[2:]:
    assert ask(Path(sys.argv[1]), {"do": "run", "job": name}), "no engine runs"
"""

#: Runs a command in a terminal of 60 columns, and copies what appears on it.
_TERMINAL = """
import contextlib, fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if not pid:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
with contextlib.suppress(OSError):  # EIO: it is over
    while text := os.read(terminal, 65536):
        os.write(1, text)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


class RealWorld:
    """What the two kinds of real worlds have in common."""

    def __init__(self, backend: str, computer: Computer, directory: str, python: str, *options: str) -> None:
        self.backend = backend
        self.directory = directory
        self.seen: dict[str, list[Record]] = {}
        self.computer = computer
        self._python = python
        self._options = options
        self._jobs: Jobs = {}
        self._to_apply: Jobs = {}
        self._to_start: list[str] = []
        self._marks: set[str] = set()

    def apply(self, jobs: Jobs) -> None:
        """Have these jobs too, at the latest before the next wait."""
        assert not jobs.keys() & self._jobs.keys(), jobs.keys()
        self._to_apply |= {name: self._real(name, job) for name, job in jobs.items()}

    def start(self, *names: str) -> None:
        """Start jobs by hand then, and do not wait."""
        self._to_start += names

    def carry_out(self) -> None:
        """Do now what `apply` and `start` are to do: once for all cases."""
        jobs, self._to_apply = self._to_apply, {}
        if jobs:
            self._apply(jobs)
        names, self._to_start = self._to_start, []
        if names:
            self._start(names)

    def _start(self, names: Sequence[str]) -> None:
        raise NotImplementedError

    def _apply(self, jobs: Jobs) -> None:
        self._jobs |= jobs
        text = "jobs:\n" + "".join(f"  {name}: {yaml(job)}\n" for name, job in self._jobs.items())
        made = f"{self.directory}/marks/.made", f"{self.directory}/counts/.made"
        self.computer.write_files({f"{self.directory}/jobs/jobs.yaml": text, **dict.fromkeys(made, "")})
        self.computer.run(["chmod", "1777", f"{self.directory}/marks", f"{self.directory}/counts"])
        code, _, words = self._sdcron("apply", f"{self.directory}/jobs")
        assert code == 0, words

    def _real(self, name: str, job: Mapping[str, Any]) -> dict[str, Any]:
        command = job.get("command")
        real = {**job, "command": command.argv(name)} if isinstance(command, Acts) else dict(job)
        # @DIR@ stands in texts only.
        found: dict[str, Any] = json.loads(json.dumps(real).replace(PLACE, self.directory))
        return found

    def let_go(self, name: str) -> None:
        """Have the run end that waits for it, and those that follow."""
        self.computer.write_files({f"{self.directory}/marks/let-go-{name}": ""})

    def write(self, files: Mapping[str, str]) -> None:
        """Files there, by path."""
        self.computer.write_files(files)

    def sdcron(self, *arguments: str) -> tuple[int, str, str]:
        """A command's exit code, standard output and standard error."""
        self.carry_out()
        return self._sdcron(*arguments)

    def edit(self, job: str, expression: str) -> tuple[int, str, str]:
        """Change a job's file as a person does whose editor is sed(1)."""
        self.carry_out()
        return self._sdcron("edit", "--yes", job, editor=f"sed -i {expression}")

    def watch(self, job: str, gate: str) -> tuple[int, str, str]:
        """What `sdcron status -f` shows on a terminal, which has the file `gate` after three seconds."""
        self.carry_out()
        command = [self._python, "-m", "sdcron", "status", *self._options, job, "--follow"]
        terminal = [self._python, "-c", _TERMINAL, *command]
        script = f'(sleep 3; >"{gate}") & exec "$@"'
        done = self.computer.run(["env", "NO_COLOR=1", "sh", "-c", script, "-", *terminal], timeout=90, status=None)
        return done.returncode, done.stdout, done.stderr

    def _sdcron(self, *arguments: str, editor: str = "false") -> tuple[int, str, str]:
        command = [self._python, "-m", "sdcron", arguments[0], *self._options, *arguments[1:]]
        done = self.computer.run(["env", f"EDITOR={editor}", *command], timeout=90, status=None)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def stop(self, name: str) -> None:
        """As an administrator, and wait until it is over."""
        code, _, words = self.sdcron("stop", name)
        assert code == 0, words

    def pass_time(self, until: datetime | None) -> None:
        """Let happen what happens next, or the clock reach a time."""
        time.sleep(0.1)

    def now(self) -> datetime:
        """What the world's clock shows."""
        return datetime.now(UTC)

    def marked(self, name: str) -> bool:
        """Whether a run of the job has come as far as it says."""
        return name in self._marks

    def alive(self, pids: Sequence[str]) -> list[str]:
        """Those of these processes that there are."""
        return [pid for pid in pids if self.computer.run(["sh", "-c", f"kill -0 {pid}"], status=None).returncode == 0]

    def look(self) -> None:
        """Read the records."""
        code, text, words = self.sdcron("history", "--json", "-n", "0")
        assert code == 0, words
        self.seen = by_job(json.loads(text)[::-1])
        self._marks = set(self.computer.run(["ls", f"{self.directory}/marks"], status=None).stdout.split())


class LocalWorld(RealWorld):
    """A real engine with a root directory of its own, on any computer."""

    def __init__(self, computer: Computer, directory: str, python: str = sys.executable) -> None:
        self.root = f"{directory}/root"
        super().__init__("local", computer, directory, python, "--backend", "local", "--root", self.root)
        self._engine: subprocess.Popen[bytes] | None = None
        self._pid = ""

    def switch_on(self) -> None:
        """Start the engine, and wait until it answers."""
        argv = [self._python, "-m", "sdcron", "engine", "--root", self.root]
        log = f"{self.directory}/engine.log"
        if isinstance(self.computer, Host):
            with Path(log).open("ab") as stream:
                self._engine = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=self.computer.environment, cwd="/"
                )
            self._pid = str(self._engine.pid)
        else:
            # With what a container has in its environment, and not what a test machine's commands have.
            background = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
            self._pid = self.computer.run(["sh", "-c", background, "-", log, *argv]).stdout.strip()
        deadline = time.monotonic() + 30
        while self.sdcron("status", "--json")[0] or not self._answers():
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def _answers(self) -> bool:
        return self.computer.run(["test", "-S", f"{self.root}/run/sdcron/engine/control"], status=None).returncode == 0

    def words(self) -> str:
        """What the engine has said."""
        return self.computer.run(["cat", f"{self.directory}/engine.log"], status=None).stdout

    def switch_off(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the engine, and wait until it is gone."""
        if not self._pid:
            return
        self.computer.run(["sh", "-c", f"kill -{number.name.removeprefix('SIG')} {self._pid}"], status=None)
        if self._engine is not None:
            try:
                self._engine.wait(30)
            finally:
                self._engine.kill()
                self._engine.wait()
        deadline = time.monotonic() + 30
        while self.alive([self._pid]):
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)
        self._pid = ""

    def _start(self, names: Sequence[str]) -> None:
        self.computer.run([self._python, "-c", _START, f"{self.root}/run/sdcron/engine", *names])

    def go_down(self, how: Down, seconds: float) -> None:
        """Interrupt everything, for at least so many seconds, and come back."""
        self.switch_off(signal.SIGTERM if how is Down.RESTART else signal.SIGKILL)
        time.sleep(seconds)
        self.switch_on()


class SystemdWorld(RealWorld):
    """A booted machine of its own."""

    def __init__(self, machine: Machine, directory: str = "/srv/contract") -> None:
        super().__init__("systemd", machine, directory, "python3", "--backend", "systemd")
        self.machine = machine

    def _start(self, names: Sequence[str]) -> None:
        # One command for all: `sdcron run` is for one. What does not skip is asked for as timers ask.
        asks = [f"sdcron-{name}@tick.service" for name in names if "overlap" in self._jobs[name]]
        begins = [f"sdcron-{name}.service" for name in names if "overlap" not in self._jobs[name]]
        # The one is over when it has asked, the other when the run is.
        for units, how in ((asks, []), (begins, ["--no-block"])):
            if units:
                self.machine.run(["systemctl", "start", *how, *units])

    def go_down(self, how: Down, seconds: float) -> None:
        """Interrupt everything, for at least so many seconds, and come back."""
        if how is Down.RESTART:
            self.machine.poweroff()
        else:
            # What is in no file when the power is cut is lost.
            self.machine.run(["sh", "-c", "journalctl --sync; sync"])
            self.look()
            self.machine.kill()
        time.sleep(seconds)
        self.machine.boot()
