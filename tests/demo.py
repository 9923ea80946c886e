"""What `make run` shows: jobs applied, listed and firing, every command printed as you would type it.

Uses this machine's systemd if it runs one, and removes again what it applied; elsewhere sdcron's own engine, in a
directory of its own. With the argument `machine` it boots a throw-away machine, for which it must be root. Standard
library only.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.machine import CHECKOUT, RELEASES, Machine, MachineError, RootfsError, until, why_no_machines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = "packaging/examples/jobs"

#: Fires often enough to be watched.
TICK = """\
# A job: a schedule and a command, as in cron, with seconds.
description: Say hello every two seconds
schedule: every 2s
command: echo "hello from sdcron"
"""


#: Fails now and then.
FLAKY = """\
description: Fetch something, which does not work the first time
command: [/bin/sh, -c, 'echo "cannot reach the server" >&2; exit 1']
retry: {delay: 1s, attempts: 2}
"""


class DemoError(Exception):
    """A command of the tour did not do what the tour is there to show."""


class Place(Protocol):
    """Where the tour takes place."""

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command: exit status and output, errors included."""

    def write(self, path: str, text: str) -> None:
        """Write a file, making the directories above it."""


class ThrowAway:
    """A booted machine that is gone afterwards."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.write("/usr/local/bin/sdcron", '#!/bin/sh\nexec python3 -m sdcron "$@"\n', mode=0o755)

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command there as root."""
        ended = self.machine.run(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv], status=None)
        return ended.returncode, ended.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file there."""
        self.machine.write(path, text, mode=mode)


class Here:
    """This machine, with the sdcron of the checkout run by this Python; `programs` is a directory for it."""

    def __init__(self, programs: str) -> None:
        self.programs = programs
        program = Path(programs, "sdcron")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sdcron "$@"\n', encoding="utf-8")
        program.chmod(0o755)

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command, `sdcron` being the checkout's."""
        path = f"{self.programs}:{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT)}
        ended = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=120, check=False, cwd=CHECKOUT, env=environment,
        )  # fmt: skip
        return ended.returncode, ended.stdout

    def background(self, argv: list[str]) -> subprocess.Popen[bytes]:
        """Start a command; what it says is seen."""
        path = f"{self.programs}:{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT)}
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, cwd=CHECKOUT, env=environment)

    def write(self, path: str, text: str) -> None:
        """Write a file into a directory of the tour's own."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def say(text: str) -> None:
    """A line of the guide's own."""
    print(f"\n# {text}", flush=True)


def shown(place: Place, *argv: str, quiet_after: int = 40, terminal: bool = False) -> str:
    """Print a command as typed and the output it gave, at most `quiet_after` lines. Raises DemoError if it fails.

    With `terminal` the command writes to one, where tables have columns and headings.
    """
    print(f"\n$ {shlex.join(argv)}", flush=True)
    typed = f"stty columns 160; NO_COLOR=1 SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 exec {shlex.join(argv)}"
    status, output = place.run(["script", "-qec", typed, "/dev/null"] if terminal else list(argv))
    lines = [line.rstrip() for line in output.rstrip().splitlines()]
    print("\n".join(lines[:quiet_after]), flush=True)
    if len(lines) > quiet_after:
        print(f"… and {len(lines) - quiet_after} lines more", flush=True)
    if status != 0:
        raise DemoError(f"{shlex.join(argv)} exited {status}")
    return output


def tour(place: Place, examples: str, own: str, *, scope: tuple[str, ...] = ()) -> None:
    """Apply, list, watch, remove. `own` is the directory for the tour's own job; `scope` is `--user` or nothing.

    Raises DemoError.
    """
    # The examples name users and places of the whole machine: a user's own manager only checks them.
    as_user = "--user" in scope
    say("Jobs are YAML files; these are the examples. Every mistake would be reported at once.")
    shown(place, "ls", examples)
    shown(place, "sdcron", "validate", examples)
    with applied(place, scope):
        if not as_user:
            say("Applying makes them systemd timers. It never runs a job by itself.")
            shown(place, "sdcron", "apply", examples)
            shown(place, "sdcron", "apply", examples)
            shown(place, "sdcron", "list", terminal=True)
            shown(place, "systemctl", "list-timers", "--no-pager", "sdcron-*", terminal=True)
        say("A job that fires every two seconds, from file to journal.")
        place.write(f"{own}/hello.yaml", TICK)
        shown(place, "cat", f"{own}/hello.yaml")
        shown(place, "sdcron", "apply", *scope, own)
        watch(place, scope)
        say("Every run is on record.")
        shown(place, "sdcron", "status", *scope, terminal=True)
        shown(place, "sdcron", "history", *scope, "hello", terminal=True)
        shown(place, "sdcron", "logs", *scope, "hello", "-n", "6", terminal=True, quiet_after=12)
        say("Removing a job leaves nothing behind.")
        shown(place, "sdcron", "remove", *scope, "hello")


def watch(place: Place, scope: tuple[str, ...]) -> None:
    """Wait until the tour's own job has run twice, and show its lines. Raises DemoError after 20 seconds."""
    journal = ["journalctl", *scope, "--no-pager", "--quiet", "--identifier=sdcron-hello", "--output=short-iso"]
    try:
        until(lambda: place.run(journal)[1].count("hello from sdcron") >= 2, 20, "the job ran twice")
    except MachineError as error:
        raise DemoError(str(error)) from error
    shown(place, *journal, quiet_after=6)


@contextmanager
def applied(place: Place, scope: tuple[str, ...]) -> Iterator[None]:
    """At the end, however it comes, remove every job that was not there before. Raises DemoError."""

    def names() -> set[str]:
        status, output = place.run(["sdcron", "list", *scope, "--json"])
        if status != 0:
            raise DemoError(f"sdcron list exited {status}:\n{output}")
        return {row["job"] for row in json.loads(output)}

    before = names()
    try:
        yield
    finally:
        left = sorted(names() - before)
        if left:
            say("The end: everything this tour applied is removed again.")
            shown(place, "sdcron", "remove", *scope, *left)


def engine_tour(place: Here, own: str) -> None:
    """The same with the engine: `own` is a directory for its job files, and for all that it keeps. Raises DemoError."""
    root, jobs = f"{own}/root", f"{own}/jobs"
    here = ("--backend", "local", "--root", root)
    say("Jobs are YAML files. This one fires every two seconds; the other fails, and is tried again.")
    place.write(f"{jobs}/hello.yaml", TICK)
    place.write(f"{jobs}/flaky.yaml", FLAKY)
    for name in ("hello", "flaky"):
        shown(place, "cat", f"{jobs}/{name}.yaml")
    shown(place, "sdcron", "validate", jobs)
    say("The engine runs them, and follows the directory: what a container or a snap starts.")
    print(f"\n$ {shlex.join(['sdcron', 'engine', jobs, '--root', root])} &", flush=True)
    with engine_running(place, ["sdcron", "engine", jobs, "--root", root]):

        def records() -> list[dict[str, object]]:
            found: list[dict[str, object]] = json.loads(place.run(["sdcron", "history", *here, "--json"])[1] or "[]")
            return found

        def enough() -> bool:
            outcomes = [(record["job"], record["outcome"]) for record in records()]
            return outcomes.count(("hello", "success")) >= 2 and outcomes.count(("flaky", "failure")) >= 1

        try:
            until(lambda: place.run(["sdcron", "doctor", *here])[0] == 0, 30, "the engine is there")
            shown(place, "sdcron", "run", "flaky", *here)
            until(enough, 30, "the jobs ran")
        except MachineError as error:
            raise DemoError(str(error)) from error
        say("Every run is on record.")
        shown(place, "sdcron", "status", *here, terminal=True)
        shown(place, "sdcron", "history", *here, terminal=True)
        shown(place, "sdcron", "logs", *here, "hello", "-n", "6", terminal=True, quiet_after=12)
        say("And the engine can be asked how it is.")
        shown(place, "sdcron", "doctor", *here, terminal=True)
    say("The engine has ended, and everything is in one directory, which is removed now.")


@contextmanager
def engine_running(place: Here, argv: list[str]) -> Iterator[None]:
    """An engine in the background, ended in order at the end. Raises DemoError when it does not end so."""
    engine = place.background(argv)
    try:
        yield
    finally:
        engine.terminate()
        try:
            status = engine.wait(30)
        except subprocess.TimeoutExpired:
            engine.kill()
            status = engine.wait(30)
    if status != 0:
        raise DemoError(f"{shlex.join(argv)} exited {status}")


def choose(stack: ExitStack, where: str) -> Callable[[], None]:
    """Where to hold the tour. Raises DemoError saying what to install or run."""
    if Path("/run/systemd/system").is_dir():
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="sdcron-demo-"))
        scope = () if os.geteuid() == 0 else ("--user",)
        say(f"This machine runs systemd: using {'it' if not scope else 'your own service manager'}, then cleaning up.")
        programs = stack.enter_context(tempfile.TemporaryDirectory(prefix="sdcron-demo-bin-"))
        return lambda: tour(Here(programs), EXAMPLES, own, scope=scope)
    if where != "machine":
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="sdcron-demo-"))
        programs = stack.enter_context(tempfile.TemporaryDirectory(prefix="sdcron-demo-bin-"))
        say("No systemd runs here: sdcron's own engine runs the jobs. (make run-machine boots a machine instead.)")
        return lambda: engine_tour(Here(programs), own)
    reason = why_no_machines()
    if reason:
        raise DemoError(f"systemd does not run here, and a throw-away machine cannot be booted: {reason}")
    release = next(release for release in RELEASES if release.suite == "trixie")
    say(f"No systemd runs here: booting a throw-away machine (Debian {release.suite}, systemd {release.systemd}).")
    started = time.monotonic()
    machine = stack.enter_context(Machine(release))
    say(f"It is up after {time.monotonic() - started:.1f} s, and will be gone at the end.")
    return lambda: tour(ThrowAway(machine), f"/opt/sdcron/{EXAMPLES}", "/root/jobs")


def main() -> int:
    """Hold the tour; 0 if everything it shows is true."""
    try:
        with ExitStack() as stack:
            choose(stack, "".join(sys.argv[1:2]))()
    except (DemoError, MachineError, RootfsError) as error:
        print(f"\nmake run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say("Next: README.md, `sdcron new NAME`, `sdcron --help`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
