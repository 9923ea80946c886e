"""`pip install` into a virtual environment that has nothing else: with and without the extra."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from tests.machine import CHECKOUT, until
from tests.packaged import tracked_files

JOBS = """\
jobs:
  tick: {schedule: "* * * * * *", command: echo hello}
  long: {schedule: "* * * * * *", command: sleep 600}
"""


class Installed:
    """What is installed into an environment of its own, and a home for it."""

    def __init__(self, home: Path) -> None:
        self.home, self.place, self.root = home, home / "venv", home / "root"
        self.environment = {"PATH": f"{self.place}/bin:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C.UTF-8"}
        venv.create(self.place, with_pip=True)

    def run(self, *argv: str) -> str:
        """What a command prints, which must end well."""
        ended = subprocess.run(
            argv, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert ended.returncode == 0, f"{argv}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def ask(self, *arguments: str) -> str:
        """What the engine's sdcron prints."""
        return self.run("sdcron", *arguments, "--backend", "local", "--root", str(self.root))

    def engine(self, jobs: Path) -> subprocess.Popen[bytes]:
        """An engine that runs these, and says what it does in a file."""
        with (self.home / "said").open("wb") as said:
            command = [f"{self.place}/bin/sdcron", "engine", str(jobs), "--root", str(self.root)]
            return subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=said, stderr=said)

    def processes(self) -> dict[int, str]:
        """The commands of those that have this environment, as what they start has."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"HOME={self.home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


@pytest.mark.tools
@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", ["", "[systemd]"])
def test_pip_installs_it_into_a_plain_environment(extra: str, tmp_path: Path) -> None:
    source, jobs = tmp_path / "source", tmp_path / "jobs"
    for name in tracked_files():
        # Not in the checkout: what is built is put beside the source.
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    installed = Installed(tmp_path)
    run = installed.run
    constraints = ("-c", str(CHECKOUT / "constraints.txt"))
    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, f"{source}{extra}")
    assert run("sdcron", "--version").startswith("sdcron ")
    jobs.mkdir(mode=0o755)
    (jobs / "hello.yaml").write_text("schedule: '@daily'\ncommand: echo hello\n", encoding="utf-8")
    assert "+ add hello" in run("sdcron", "plan", str(jobs), "--root", str(tmp_path / "root"))
    run("sdcron", "apply", str(jobs), "--root", str(tmp_path / "root"), "--yes")
    assert (tmp_path / "root/etc/systemd/system/sdcron-hello.timer").is_file()
    assert run("sdcron-job", "--help")
    has_extra = run(
        "python", "-c", "from importlib.util import find_spec as f; print(bool(f('pystemd') and f('systemd')))"
    )
    assert has_extra.strip() == str(bool(extra))
    if extra:
        # What manages units, and what reads the journal.
        run("python", "-c", "import sdcron.backends.systemd, sdcron.journal, systemd._reader, systemd._journal")
    else:
        its_engine_runs_jobs_and_ends(installed)


def its_engine_runs_jobs_and_ends(installed: Installed) -> None:
    jobs = installed.home / "engine-jobs"
    jobs.mkdir(mode=0o755)
    (jobs / "all.yaml").write_text(JOBS, encoding="utf-8")
    (jobs / "all.yaml").chmod(0o644)
    engine = installed.engine(jobs)
    said = installed.home / "said"
    try:
        until(lambda: "the engine runs" in said.read_text() or engine.poll() is not None, 60, "the engine runs")
        assert engine.poll() is None, said.read_text()
        until(lambda: "hello\n" in installed.ask("logs", "tick"), 60, "it has run")
        [record, *_] = json.loads(installed.ask("history", "tick", "--json"))
        assert (record["outcome"], record["backend"], record["stdout"]) == ("success", "local", "hello\n")
        until(lambda: "sleep 600 " in installed.processes().values(), 60, "another one runs")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(60) == 0, said.read_text()
        assert installed.processes() == {}
    finally:
        engine.kill()
        engine.wait(10)
        for pid in installed.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
