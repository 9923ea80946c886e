"""packaging/snap: what snapcraft.yaml says, and a real .snap by snapd's own tools."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sdcron import __version__
from tests.confined import SNAP, SNAP_COMMON, confined
from tests.snap_stage import CHECKOUT, PACKAGING, architecture, project, snapd_or_skip, stage
from tests.snapd import environment, seccomp_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOOKS = ("configure", "install", "pre-refresh")

#: The keys that snapcraft's schema has for an app of a core24 snap, of those that could be wanted here.
APP_KEYS = {
    "after", "aliases", "before", "command", "command-chain", "completer", "daemon", "daemon-scope", "environment",
    "install-mode", "plugs", "post-stop-command", "refresh-mode", "reload-command", "restart-condition",
    "restart-delay", "slots", "sockets", "start-timeout", "stop-command", "stop-mode", "stop-timeout",
    "success-exit-status", "timer", "watchdog-timeout",
}  # fmt: skip

TOP_LEVEL_KEYS = {
    "adopt-info", "apps", "assumes", "base", "compression", "confinement", "contact", "description", "environment",
    "epoch", "grade", "hooks", "icon", "issues", "layout", "license", "lint", "name", "package-repositories", "parts",
    "platforms", "plugs", "slots", "source-code", "summary", "system-usernames", "title", "version", "website",
}  # fmt: skip


def test_snapcraft_yaml_keeps_to_the_rules_of_a_strict_core24_snap() -> None:
    said = project()
    assert set(said) <= TOP_LEVEL_KEYS
    assert (said["base"], said["confinement"]) == ("core24", "strict")
    assert said["grade"] in ("stable", "devel")
    assert re.fullmatch(r"(?=.{1,40}$)[a-z0-9-]*[a-z][a-z0-9-]*", said["name"])
    assert len(said["summary"]) <= 78
    assert len(said["title"]) <= 40
    assert {"amd64", "arm64"} <= set(said["platforms"])
    assert said["adopt-info"] in said["parts"]
    assert "version" not in said  # the part says it
    for name, app in said["apps"].items():
        assert re.fullmatch(r"[a-zA-Z0-9](?:-?[a-zA-Z0-9])*", name)
        assert set(app) <= APP_KEYS
        for key in ("command", "reload-command"):
            if key in app:
                program = PACKAGING / app[key]
                assert program.is_file(), f"{name}: {key} is staged from packaging/snap/bin"
                assert program.stat().st_mode & 0o111 == 0o111


def test_the_engine_is_a_daemon_that_always_runs_and_ends_its_jobs_itself() -> None:
    engine = project()["apps"]["engine"]
    assert (engine["daemon"], engine["restart-condition"]) == ("simple", "always")
    # Only the engine gets the signal: each job has one of its own.
    assert engine["stop-mode"] == "sigterm"
    assert engine["stop-timeout"] == "15m"
    # Slower than systemd's limit of five starts in ten seconds, after which it would stay dead.
    assert int(engine["restart-delay"].removesuffix("s")) > 2
    # Without network-bind no process of a snap may listen, not even on a UNIX socket.
    assert {"network", "network-bind"} <= set(engine["plugs"])


def test_the_hooks_are_programs_and_are_all_that_snapcraft_yaml_lists() -> None:
    assert sorted(path.name for path in (PACKAGING / "hooks").iterdir()) == sorted(HOOKS)
    assert sorted(project()["hooks"]) == sorted(HOOKS)
    for hook in HOOKS:
        assert (PACKAGING / "hooks" / hook).stat().st_mode & 0o111 == 0o111
        assert (PACKAGING / "hooks" / hook).read_text().startswith("#!/bin/sh\n")


def test_the_readme_names_every_key_and_every_plug() -> None:
    text = (PACKAGING / "README.md").read_text(encoding="utf-8")
    for key in (
        "jobs",
        "log.keep",
        "log.rotate",
        "log.max-size",
        "log.total-size",
        "engine.concurrency",
        "engine.output",
    ):
        assert f"`{key}=" in text
    for plug in project()["apps"]["engine"]["plugs"]:
        assert plug in text or plug == "network-bind"


@pytest.fixture(scope="module")
def tools() -> Path:
    """snapd's programs, unpacked."""
    return snapd_or_skip()


@pytest.fixture(scope="module")
def staged(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tree that snapcraft would pack."""
    work = tmp_path_factory.mktemp("snap")
    yield stage(work)
    shutil.rmtree(work)


def run_tool(tools: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(tools),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.system
def test_shellcheck_finds_nothing_in_the_scripts_of_the_snap(tools: Path) -> None:
    scripts = [*(PACKAGING / "bin").iterdir(), *(PACKAGING / "hooks").iterdir()]
    ended = run_tool(tools, "shellcheck", "--norc", *scripts)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.system
@pytest.mark.timeout(400)
def test_snapd_finds_the_staged_tree_in_order(tools: Path, staged: Path) -> None:
    ended = run_tool(tools, "snap", "pack", "--check-skeleton", staged)
    # It lists on standard error the commands that are missing.
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_real_snap_is_packed_and_holds_what_it_says(tools: Path, staged: Path, tmp_path: Path) -> None:
    packed = run_tool(tools, "snap", "pack", staged, tmp_path)
    assert packed.returncode == 0, packed.stderr
    file = tmp_path / f"sdcron_{__version__}_{architecture()}.snap"
    assert packed.stdout.strip() == f"built: {file}"
    unpacked = tmp_path / "unpacked"
    assert run_tool(tools, "unsquashfs", "-no-progress", "-dest", unpacked, file).returncode == 0
    metadata = yaml.safe_load((unpacked / "meta/snap.yaml").read_text(encoding="utf-8"))
    said = project()
    assert {key: metadata[key] for key in ("name", "base", "confinement", "grade", "apps", "hooks")} == {
        key: said[key] for key in ("name", "base", "confinement", "grade", "apps", "hooks")
    }
    assert metadata["version"] == __version__
    for hook in HOOKS:
        assert (unpacked / "meta/hooks" / hook).stat().st_mode & 0o7777 == 0o755
        assert (unpacked / "meta/hooks" / hook).read_text() == (PACKAGING / "hooks" / hook).read_text()
    for app in said["apps"].values():
        assert (unpacked / app["command"]).stat().st_mode & 0o7777 == 0o755
    (modules,) = unpacked.glob("lib/python3.*/site-packages/sdcron")
    for file in (CHECKOUT / "sdcron").rglob("*.py"):
        assert (modules / file.relative_to(CHECKOUT / "sdcron")).read_bytes() == file.read_bytes()
    assert (modules / "schema/job.schema.json").is_file()
    assert (unpacked / "share/doc/sdcron/snap.md").read_text() == (PACKAGING / "README.md").read_text()


class Installed:
    """The staged snap as it is confined: its commands, with $SNAP_COMMON below a directory of the test's."""

    def __init__(self, tools: Path, tree: Path, place: Path, root_uid: bool) -> None:
        self.common, self.data = place / "common", place / "data"
        for directory in (self.common / "jobs", self.data):
            directory.mkdir(parents=True)
        self.tools, self.tree, self.root_uid = tools, tree, root_uid

    def command(self, program: str, *arguments: str) -> list[str]:
        """The argument list of one of the snap's programs, confined as snapd confines the app that it belongs to."""
        app = project()["apps"]["engine" if program.startswith("engine") else "sdcron"]
        return confined(
            [f"{SNAP}/bin/{program}", *arguments],
            common=self.common,
            data=self.data,
            root_uid=self.root_uid,
            snap=self.tree,
            seccomp=seccomp_policy(self.tools, tuple(app["plugs"])),
        )

    def sdcron(self, *arguments: str, status: int = 0) -> str:
        """What a command of sdcron prints; its errors where it must not succeed."""
        ended = subprocess.run(
            self.command("sdcron-launch", *arguments), capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stderr if status else ended.stdout

    def records(self) -> list[dict[str, Any]]:
        """All of job_status.log."""
        log = self.common / "log/job_status.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def processes(self) -> list[str]:
        """Those that see this $SNAP_COMMON where snaps have it."""
        found = []
        for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
            with contextlib.suppress(OSError):
                if f"{self.common} {SNAP_COMMON} " in mounts.read_text(encoding="utf-8", errors="replace"):
                    found.append(mounts.parent.name)
        return found


@pytest.fixture(params=[True, False], ids=["root", "snap_daemon"])
def installed(request: pytest.FixtureRequest, tools: Path, staged: Path, tmp_path: Path) -> Installed:
    """The snap for one test, as the user that snapd runs daemons as, and as one that has no name on the machine."""
    return Installed(tools, staged, tmp_path, request.param)


@pytest.mark.system
@pytest.mark.timeout(400)
def test_the_snap_runs_its_own_sdcron_when_confined(installed: Installed) -> None:
    assert installed.sdcron("--version") == f"sdcron {__version__}\n"
    where = [*installed.command("python3", "-I", "-c", "import sdcron; print(sdcron.__file__)")]
    assert subprocess.check_output(where, text=True, timeout=60).startswith(f"{SNAP}/lib/python3.")


@pytest.mark.system
@pytest.mark.timeout(400)
def test_the_confined_engine_runs_records_shows_and_ends_jobs(installed: Installed) -> None:
    (installed.common / "jobs/tick.yaml").write_text(
        "schedule: '* * * * * *'\nscript: |\n  echo tick $SNAP_NAME\n  grep CapEff /proc/self/status >&2\n"
    )
    (installed.common / "jobs/long.yaml").write_text("schedule: '* * * * * *'\ncommand: sleep 600\n")
    with subprocess.Popen(installed.command("engine-launch"), stderr=subprocess.PIPE, text=True) as engine:
        try:
            ticks = until(lambda: [record for record in installed.records() if record["job"] == "tick"], engine)
            assert (ticks[0]["outcome"], ticks[0]["backend"]) == ("success", "local")
            assert (ticks[0]["stdout"], ticks[0]["stderr"]) == ("tick sdcron\n", "CapEff:\t0000000000000000\n")
            rows = {row["job"]: row for row in json.loads(installed.sdcron("status", "--json"))}
            assert rows["long"]["state"] == "running"
            assert "tick sdcron" in installed.sdcron("logs", "tick")
            assert installed.sdcron("run", "tick", "--wait").startswith("tick sdcron")
            engine.send_signal(signal.SIGTERM)
            _, said = engine.communicate(timeout=30)
        finally:
            engine.kill()
    assert engine.returncode == 0, said
    assert "Traceback" not in said
    (cut_off,) = (record for record in installed.records() if record["job"] == "long")
    assert cut_off["outcome"] == "abandoned"
    assert installed.processes() == []


@pytest.mark.system
@pytest.mark.timeout(400)
def test_confined_jobs_tell_the_engine_of_themselves(installed: Installed) -> None:
    jobs = installed.common / "jobs"
    (jobs / "told.py").write_text(
        "from sdcron.sdk import alarm, current\n\ndef work():\n    alarm(f'from the function {current().job}')\n"
    )
    (jobs / "function.yaml").write_text(f"command: python:told:work\ndirectory: {SNAP_COMMON}/jobs\n")
    (jobs / "shell.yaml").write_text(
        "script: |\n  sdcron-job alarm from a shell\n  sdcron-job progress 1 4\n  sleep 600\n"
    )
    with subprocess.Popen(installed.command("engine-launch"), stderr=subprocess.PIPE, text=True) as engine:
        try:
            assert engine.stderr is not None
            assert "the engine runs" in engine.stderr.readline()
            installed.sdcron("run", "function", "--wait")
            installed.sdcron("run", "shell")

            def telling() -> list[dict[str, Any]]:
                told = json.loads(installed.sdcron("status", "shell", "--json"))
                return [told] if told["progress"] else []

            [told] = until(telling, engine)
        finally:
            engine.terminate()
            engine.communicate(timeout=30)
    assert (told["progress"]["percent"], [alarm["text"] for alarm in told["alarms"]]) == (25, ["from a shell"])
    (function,) = (record for record in installed.records() if record["job"] == "function")
    assert (function["outcome"], function["stderr"]) == ("success", "")
    assert [alarm["text"] for alarm in function["alarms"]] == ["from the function function"]


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("user: daemon", "this engine may not run jobs as another user"),
        ("priority: {nice: -5}", "this engine may not go below 0"),
        ("sandbox: strict", "the local engine has no sandbox"),
        ("limits: {tasks: 5}", "needs control groups"),
        ("when: {units: [ssh.service]}", "the local engine knows no units"),
    ],
)
def test_what_confinement_rules_out_is_refused_with_the_reason(installed: Installed, key: str, words: str) -> None:
    (installed.common / "jobs/wish.yaml").write_text(f"command: 'true'\n{key}\n")
    said = installed.sdcron("validate", f"{SNAP_COMMON}/jobs", status=3)
    assert words in said
    assert f"{SNAP_COMMON}/jobs/wish.yaml:2:1: " in said


def until(condition: Callable[[], list[dict[str, Any]]], engine: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What `condition` finds, within half a minute and while the engine runs."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert engine.poll() is None, "the engine ended: " + (engine.stderr.read() if engine.stderr else "")
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
