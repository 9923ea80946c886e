"""The peers sdcron's engine is measured beside, and how each is given the same jobs.

A peer writes a set of jobs down in its own form into a directory, and says what to run. To add one: a class with the
attributes and methods of Peer, and its name in PEERS.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.bench.peers.installed import MissingPeer, debian_tree, environment_of, package_version

CHECKOUT = Path(__file__).parents[3]
#: Where the directory of a measurement is in a Debian tree.
INSIDE = Path("/mnt")
#: Everybody's environment. Sets of jobs are written in UTC.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONPATH": str(CHECKOUT),
}
#: strictyaml takes the square of a file's size: with as few jobs a file yacron and cronstable load fastest.
JOBS_IN_A_FILE = 50


@dataclass(frozen=True, slots=True)
class Job:
    """One job: when it is due, in cron's fields (of UTC), and what it runs. Without `second` it is due at second 0."""

    name: str
    argv: tuple[str, ...]
    minute: str
    hour: str
    second: str | None = None


class Peer(Protocol):
    """An engine under measurement. `seconds`: it has schedules by the second; `line`: what it writes when loaded."""

    name: str
    python: bool
    seconds: bool
    line: str | None

    def version(self) -> str:
        """The version that is measured; installs it where it is missing. Raises MissingPeer."""

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """Write the jobs into `directory`, and return the command that runs them in the foreground."""

    def patience(self, count: int) -> float:
        """Seconds from `prepare` within which it surely has loaded so many jobs."""

    def inside(self, directory: Path) -> Path:
        """The directory of the measurement as the peer's jobs see it."""


class _Ordinary:
    """What most peers have in common."""

    python = True
    seconds = True
    line: str | None = None

    def patience(self, count: int) -> float:
        """Loading is quick."""
        return 4 + count * 0.003

    def inside(self, directory: Path) -> Path:
        """No chroot."""
        return directory


class Sdcron(_Ordinary):
    """sdcron's own engine: a set of jobs that was applied to it."""

    name = "sdcron"
    line: str | None = "the engine runs"
    command = (sys.executable, "-m", "sdcron")

    def version(self) -> str:
        """The version of the checkout."""
        output = subprocess.run(
            [*self.command, "--version"], env=ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout
        return output.split()[-1]

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """Apply the set to a root of its own."""
        lines = ["jobs:"]
        for job in jobs:
            fields = " ".join(filter(None, (job.second, job.minute, job.hour, "* * *")))
            lines += [f"  {job.name}:", f"    schedule: {json.dumps(fields)}", f"    command: {json.dumps(job.argv)}"]
        files = directory / "jobs"
        files.mkdir()
        (files / "jobs.yaml").write_text("\n".join(lines) + "\n")
        root = directory / "root"
        root.mkdir()
        apply = [*self.command, "apply", "--backend", "local", "--root", str(root), str(files)]
        subprocess.run(apply, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return [*self.command, "engine", "--root", str(root)]

    def patience(self, count: int) -> float:
        """It is applied first."""
        return 5 + count * 0.005


class ApScheduler(_Ordinary):
    """APScheduler is a library: apscheduler_peer.py is the program around it."""

    name = "APScheduler"
    line: str | None = "ready"
    release = "3.11.3"

    def version(self) -> str:
        """The pinned version."""
        self._python()
        return self.release

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """A line of JSON a job."""
        keys = ("name", "argv", "minute", "hour")
        rows = [{key: getattr(job, key) for key in keys} | {"second": job.second or "0"} for job in jobs]
        (directory / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        script = Path(__file__).with_name("apscheduler_peer.py")
        return [str(self._python()), str(script), str(directory / "jobs.jsonl")]

    def _python(self) -> Path:
        return environment_of(f"APScheduler=={self.release}")


class Cronstable(_Ordinary):
    """cronstable: seconds are a seventh field, before the others, the sixth being the year."""

    name = "cronstable"
    release = "1.2.72"

    def version(self) -> str:
        """The pinned version."""
        self._python()
        return self.release

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """YAML files of some jobs each."""
        files = directory / "jobs"
        files.mkdir()
        for start in range(0, len(jobs), JOBS_IN_A_FILE):
            lines = ["jobs:"]
            for job in jobs[start : start + JOBS_IN_A_FILE]:
                lines += [f"  - name: {job.name}", f"    schedule: '{self._schedule(job)}'", "    command:"]
                lines += [f"      - '{word}'" for word in job.argv]
            (files / f"jobs-{start:05}.yaml").write_text("\n".join(lines) + "\n")
        return [str(self._python()), "-m", self.name, "--log-level", "WARNING", "--config", str(files)]

    def patience(self, count: int) -> float:
        """It parses its files twice."""
        return 4 + count * 0.005

    def _schedule(self, job: Job) -> str:
        return f"{job.second} {job.minute} {job.hour} * * * *" if job.second else f"{job.minute} {job.hour} * * *"

    def _python(self) -> Path:
        return environment_of(f"{self.name}=={self.release}")


class Yacron(Cronstable):
    """yacron: the same form of files, which it reads again every minute, before it starts what is due."""

    name = "yacron"
    release = "0.19.0"
    seconds = False

    def patience(self, count: int) -> float:
        """It takes four times as long as cronstable."""
        return 5 + count * 0.01


class _Crontab(_Ordinary):
    """A crontab(5), of one line a job."""

    python = False
    seconds = False

    def patience(self, count: int) -> float:
        """10,000 lines are read in a tenth of a second."""
        return 3 + count * 0.0005

    def _lines(self, jobs: list[Job]) -> str:
        return "".join(f"{self._schedule(job)} {' '.join(job.argv)}\n" for job in jobs)

    def _schedule(self, job: Job) -> str:
        return f"{job.minute} {job.hour} * * *"


class Supercronic(_Crontab):
    """supercronic, where it is installed: neither Debian nor PyPI has it. Its fields are those of cronstable."""

    name = "supercronic"
    seconds = True

    def version(self) -> str:
        """What is on the PATH."""
        program = shutil.which(self.name)
        if program is None:
            raise MissingPeer("neither Debian nor PyPI has it; it is measured where it is on the PATH")
        done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).split()[-1]

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """A crontab without a user's name."""
        (directory / "crontab").write_text(self._lines(jobs))
        return [shutil.which(self.name) or self.name, "-quiet", str(directory / "crontab")]

    def _schedule(self, job: Job) -> str:
        return f"{job.second or '0'} {job.minute} {job.hour} * * * *"


class Cronie(_Crontab):
    """cronie of Debian, in a Debian tree: its crontab is root's own."""

    name = "cronie"

    def version(self) -> str:
        """The version of the package."""
        return package_version(self.name)

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """A crontab, and the tree with the directories it writes to empty, in a mount namespace that ends with it."""
        (directory / "crontab").write_text(self._lines(jobs))
        script = """
        set -e
        for empty in run tmp var/spool/cron; do mount -t tmpfs tmpfs "$1/$empty"; done
        mkdir "$1/var/spool/cron/crontabs"
        install -m 600 "$2/crontab" "$1/var/spool/cron/crontabs/root"
        mount --bind "$2" "$1/mnt"
        mount --bind /proc "$1/proc"
        exec chroot "$1" /usr/sbin/crond -n -m off
        """
        return ["unshare", "--mount", "sh", "-c", script, "sh", str(debian_tree()), str(directory)]

    def inside(self, directory: Path) -> Path:
        """What the script binds it to."""
        return INSIDE


class Busybox(_Crontab):
    """crond of Debian's static busybox, which needs nothing of its tree."""

    name = "busybox"

    def version(self) -> str:
        """The version of the package."""
        return package_version("busybox-static")

    def prepare(self, jobs: list[Job], directory: Path) -> list[str]:
        """A directory with a crontab for root."""
        crontabs = directory / "crontabs"
        crontabs.mkdir()
        (crontabs / "root").write_text(self._lines(jobs))
        busybox = debian_tree() / "usr/bin/busybox"
        return [str(busybox), "crond", "-f", "-c", str(crontabs), "-L", os.devnull]


PEERS: tuple[Peer, ...] = (ApScheduler(), Cronstable(), Supercronic(), Cronie(), Busybox(), Yacron())
