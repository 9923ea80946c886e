"""The hooks and launchers of packaging/snap, with a snapctl that writes down what it is asked."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron import job_answers, render
from sdcron.settings import read_settings
from tests.snap_stage import CHECKOUT, PACKAGING

SNAPCTL = """#!{python} -IS
import json, sys
from pathlib import Path

here = Path(__file__).parent
config = json.loads((here / "config.json").read_text())
command, *rest = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if command == "get":
    found = {{}}
    for key in (word for word in rest if word != "-d"):
        value = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    if "-d" in rest:
        print(json.dumps(found, indent="\\t"))
    else:
        value = found.get(rest[0], "")
        print(value if isinstance(value, str) else json.dumps(value))
elif command == "set":
    config |= dict(pair.split("=", 1) for pair in rest)
    (here / "config.json").write_text(json.dumps(config))
elif command == "services":
    print("Service        Startup  Current   Notes")
    print("sdcron.engine  enabled  " + (here / "engine").read_text() + "  -")
"""


class Snap:
    """An installed snap below a directory: its own tree, $SNAP_COMMON, and a snapctl that answers from `config`."""

    def __init__(self, place: Path) -> None:
        self.common, self.tree, self.tools = place / "common", place / "snap", place / "tools"
        for directory in (self.common, self.tree / "lib/snap", self.tools):
            directory.mkdir(parents=True)
        shutil.copytree(PACKAGING / "bin", self.tree / "bin")
        shutil.copy(PACKAGING / "write_settings.py", self.tree / "lib/snap")
        # The Python that runs this, with the checkout's sdcron: -I would rule that out.
        self.program(self.tree / "bin/python3", f'shift\nPYTHONPATH={CHECKOUT} exec {sys.executable} "$@"')
        (self.tools / "snapctl").write_text(SNAPCTL.format(python=sys.executable))
        (self.tools / "snapctl").chmod(0o755)
        self.configure()
        self.engine("active")

    @staticmethod
    def program(path: Path, script: str) -> None:
        """Make a program of a shell script."""
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def configure(self, **config: Any) -> None:
        """What `snap set` has been given."""
        (self.tools / "config.json").write_text(json.dumps(config))

    def engine(self, state: str) -> None:
        """How `snapctl services` shows the daemon."""
        (self.tools / "engine").write_text(state)

    def run(self, program: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a hook or a program of the snap as snapd would."""
        (self.tools / "calls").write_text("")
        env = {
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SNAP": str(self.tree),
            "SNAP_COMMON": str(self.common),
            "SNAP_INSTANCE_NAME": "sdcron",
            **variables,
        }
        return subprocess.run([program], env=env, capture_output=True, text=True, check=False, timeout=60)

    def hook(self, name: str) -> None:
        """Run a hook that must do its work without a word."""
        ended = self.run(PACKAGING / "hooks" / name)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def told(self) -> list[str]:
        """What the last hook told snapd to do with the daemon."""
        return [call for call in (self.tools / "calls").read_text().splitlines() if call.startswith("restart")]

    def files(self) -> dict[str, str | None]:
        """All that is in $SNAP_COMMON; None for a directory."""
        found = sorted(self.common.rglob("*"))
        return {str(path.relative_to(self.common)): path.read_text() if path.is_file() else None for path in found}


@pytest.fixture
def snap(tmp_path: Path) -> Snap:
    """A snap as it is after the installation, its engine running."""
    snap = Snap(tmp_path)
    snap.hook("install")
    snap.hook("configure")
    return snap


def test_an_installation_makes_the_job_directory_and_changes_no_default(snap: Snap) -> None:
    assert json.loads((snap.tools / "config.json").read_text()) == {"jobs": f"{snap.common}/jobs"}
    assert (snap.common / "jobs").is_dir()
    assert set(snap.files()) == {"jobs", "sdcron.toml"}
    assert tomllib.loads((snap.common / "sdcron.toml").read_text()) == {}
    assert (snap.common / "jobs").stat().st_mode & 0o777 == 0o755


def test_what_is_set_is_written_as_sdcrons_own_settings_and_the_engine_reads_them(snap: Snap) -> None:
    log = {"keep": "90d", "rotate": "12h", "max-size": "16MiB", "total-size": "256MiB"}
    snap.configure(log=log, engine={"concurrency": 8, "output": "1MiB"})
    snap.hook("configure")
    assert snap.told() == ["restart --reload sdcron.engine"]
    settings = read_settings(snap.common / "sdcron.toml")
    assert (settings.keep.days, settings.rotate.total_seconds()) == (90, 12 * 3600)
    assert (settings.max_size, settings.total_size) == (16 << 20, 256 << 20)
    assert (settings.concurrency, settings.job_output) == (8, 1 << 20)


def test_what_is_unset_has_its_default_again(snap: Snap) -> None:
    before = snap.files()
    snap.configure(log={"keep": "90d"}, jobs=f"{snap.common}/nightly")
    snap.hook("configure")
    snap.configure()
    snap.hook("configure")
    assert snap.told() == ["restart sdcron.engine"]
    assert read_settings(snap.common / "sdcron.toml").keep.days == 30
    assert snap.files() == {**before, "nightly": None, "jobs-directory": f"{snap.common}/jobs\n"}


def test_a_refresh_that_changes_nothing_leaves_the_engine_alone(snap: Snap) -> None:
    snap.configure(log={"keep": "90d"}, jobs=f"{snap.common}/nightly")
    snap.hook("configure")
    before = snap.files()
    snap.hook("configure")
    assert snap.told() == []
    assert snap.files() == before


def test_another_job_directory_is_made_and_the_engine_started_with_it(snap: Snap) -> None:
    snap.configure(jobs=f"{snap.common}/all jobs/nightly")
    snap.hook("configure")
    assert snap.told() == ["restart sdcron.engine"]
    assert (snap.common / "all jobs/nightly").is_dir()
    snap.program(snap.tree / "bin/sdcron-launch", 'printf "%s\\n" "$@"')
    ended = snap.run(snap.tree / "bin/engine-launch")
    assert ended.stdout.splitlines() == ["engine", f"{snap.common}/all jobs/nightly"]


def test_the_engine_runs_the_default_directory_before_anything_is_set(tmp_path: Path) -> None:
    snap = Snap(tmp_path)
    snap.program(snap.tree / "bin/sdcron-launch", 'printf "%s\\n" "$@"')
    assert snap.run(snap.tree / "bin/engine-launch").stdout.splitlines() == ["engine", f"{snap.common}/jobs"]


def test_an_engine_that_was_stopped_stays_stopped(snap: Snap) -> None:
    snap.engine("inactive")
    snap.configure(log={"keep": "90d"}, jobs=f"{snap.common}/nightly")
    snap.hook("configure")
    assert snap.told() == []
    assert read_settings(snap.common / "sdcron.toml").keep.days == 90


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"log": {"keep": "soon"}}, "'log.keep' must be"),
        ({"log": {"keep": "1s"}}, "'log.keep' must be at least 1 minute"),
        ({"log": {"keep": ["30d"]}}, "'log.keep' must be"),
        ({"log": {"keep": '30d"\nrotate = "1h'}}, "'log.keep' must be"),
        ({"log": {"max-size": "1KiB"}}, "'log.max-size' must be at least 64KiB"),
        ({"log": {"max-size": "2GiB"}}, "'log.max-size' is more than 'log.total-size'"),
        ({"log": {"kep": "30d"}}, "did you mean 'log.keep'?"),
        ({"log": "30d"}, "'log' must be a table"),
        ({"engine": {"concurrency": 0}}, "'engine.concurrency' must be a number from 1 to"),
        ({"engine": {"concurrency": "8"}}, "'engine.concurrency' must be a number from 1 to"),
        ({"jobs": "/etc/sdcron/jobs"}, "'jobs' must be below"),
        ({"jobs": "nightly"}, "'jobs' must be an absolute path below"),
        ({"jobs": "COMMON/../data/jobs"}, "'jobs' must be below"),
        ({"jobs": "COMMON"}, "'jobs' must be a directory of its own"),
        ({"jobs": "COMMON/state/jobs"}, "'jobs' must be a directory of its own"),
        ({"jobs": "COMMON/jobs/../log"}, "'jobs' must be a directory of its own"),
        ({"jobs": "COMMON/elsewhere/jobs"}, "'jobs' must be below"),
        ({"jobs": "COMMON/file"}, "'jobs' must be a directory, which"),
        ({"jobs": "COMMON/two\nlines"}, "'jobs' must be one printable line"),
        ({"jobs": 7}, "'jobs' must be an absolute path below"),
    ],
)
def test_a_wrong_value_is_refused_with_one_line_and_nothing_changes(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    snap = Snap(tmp_path)
    (snap.common / "sdcron.toml").write_text('[log]\nrotate = "2h"\n')
    (snap.common / "elsewhere").symlink_to("/tmp")
    (snap.common / "file").write_text("kept")
    before = snap.files()
    filled = json.loads(json.dumps(config).replace("COMMON", str(snap.common)))
    snap.configure(**{"log": {"rotate": "2h"}, **filled})
    ended = snap.run(PACKAGING / "hooks/configure")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert words in ended.stderr
    assert ended.stderr.startswith("sdcron: ")
    assert ended.stderr.count("\n") == 1
    assert snap.files() == before
    assert snap.told() == []


@pytest.mark.parametrize("runs", [0, 1, 100])
def test_a_refresh_waits_for_a_moment_without_a_running_job_but_not_for_ever(snap: Snap, runs: int) -> None:
    (snap.common / "left").write_text(str(runs))
    snap.program(
        snap.tree / "bin/sdcron-launch",
        'left=$(cat "$SNAP_COMMON/left")\necho $((left - 1)) >"$SNAP_COMMON/left"\n'
        '[ "$1 $2" = "status --json" ] || exit 2\n'
        'if [ "$left" -gt 0 ]; then state=running; else state=waiting; fi\n'
        'printf \'[\\n  {\\n    "job": "backup",\\n    "state": "%s"\\n  }\\n]\\n\' "$state"',
    )
    snap.program(snap.tools / "sleep", 'echo "$@" >>"$SNAP_COMMON/slept"')
    ended = snap.run(PACKAGING / "hooks/pre-refresh")
    slept = (snap.common / "slept").read_text().split() if runs else []
    if runs < 30:
        assert (ended.returncode, ended.stderr, slept) == (0, "", ["10"] * runs)
    else:
        assert (ended.returncode, ended.stderr.count("\n"), slept) == (1, 1, ["10"] * 30)
        assert ended.stderr.startswith("sdcron: jobs are running; put off")


def test_a_refresh_goes_on_where_no_engine_answers(snap: Snap) -> None:
    snap.program(snap.tree / "bin/sdcron-launch", "echo none >&2; exit 4")
    snap.hook("pre-refresh")


def test_the_states_that_the_refresh_looks_for_are_those_that_status_prints() -> None:
    row = job_answers.JobStatusRow(job="backup", state="running")
    text = json.dumps([row.as_json()], indent=2)
    assert re.search('"state": "running"', text)
    assert "indent=2" in Path(str(render.__file__)).read_text(encoding="utf-8")


def test_a_reload_is_a_hangup_of_the_engine_alone(snap: Snap) -> None:
    with subprocess.Popen(["sleep", "60"]) as engine:
        ended = snap.run(snap.tree / "bin/engine-reload", MAINPID=str(engine.pid))
        assert (ended.returncode, engine.wait(10)) == (0, -signal.SIGHUP)


def _write_settings() -> Any:
    loader = SourceFileLoader("write_settings", str(PACKAGING / "write_settings.py"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@given(st.dictionaries(st.text().filter(lambda key: "-" not in key), st.text() | st.integers() | st.booleans()))
def test_any_text_is_the_same_text_in_the_settings_file(keys: dict[str, str | int]) -> None:
    written = _write_settings().as_toml({"log": keys})
    assert tomllib.loads(written) == {"log": keys}
