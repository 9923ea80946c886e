"""Which arguments of `sdcron engine` need no command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdcron.engine_process import EngineOptions, plain_options
from tests.machine import CHECKOUT


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], EngineOptions()),
        (["jobs", "more"], EngineOptions((Path("jobs"), Path("more")))),
        (["--user", "--root", "/r", "jobs"], EngineOptions((Path("jobs"),), root=Path("/r"), user=True)),
        (["--user", "--system", "--folders", "f"], EngineOptions(folders=Path("f"))),
    ],
)
def test_what_is_plain_is_read_at_once(arguments: list[str], options: EngineOptions) -> None:
    assert plain_options(arguments) == options


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["--rot", "x"], ["--root"], ["--root", ""], ["--root=/r"], [""], ["--", "-x"], ["-x"],
     ["--root", "a", "--root", "b"]],
)  # fmt: skip
def test_what_is_not_is_for_the_command_line(arguments: list[str]) -> None:
    assert plain_options(arguments) is None


def test_the_engine_loads_neither_the_command_line_nor_what_reads_job_files() -> None:
    script = (
        "import sys\nimport sdcron.engine_process, sdcron.engine_service\n"
        "slow = {'typer', 'click', 'rich', 'jsonschema', 'yaml', 'asyncio', 'pystemd', 'systemd', 'multiprocessing'}\n"
        "sys.exit(f'loaded: {slow & set(sys.modules)}' if slow & set(sys.modules) else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_mistake_is_told_by_the_command_line() -> None:
    command = [sys.executable, "-m", "sdcron", "engine", "--rot", "x"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert "--rot" in ended.stderr


def test_a_place_that_cannot_be_written_is_told_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("in the way")
    command = [sys.executable, "-m", "sdcron", "engine", "--root", str(tmp_path)]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.startswith("sdcron: ")
    assert "Traceback" not in ended.stderr
    assert "bug" not in ended.stderr
