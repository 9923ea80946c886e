"""What shells offer for `sdcron` when Tab is pressed: real shells, with the files that the package has."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.tools
COMPLETIONS = CHECKOUT / "packaging/completions"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a shell in which `sdcron` is this checkout's."""
    program = tmp_path / "bin" / "sdcron"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m sdcron "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def shell(name: str) -> str:
    """Its path; prepare.sh installs it where that may be, as in CI, and elsewhere nobody needs both."""
    found = shutil.which(name)
    assert found or os.environ.get("CI") != "true", f"{name} must be there in CI"
    return found or pytest.skip(f"{name} is not installed")


def test_fish_offers_commands_with_what_they_do_and_options_and_files(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()

    def offered(line: str) -> list[str]:
        text = f"source {COMPLETIONS}/sdcron.fish; complete -C '{line}'"
        argv = [shell("fish"), "--no-config", "-c", text]
        ended = subprocess.run(
            argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        return ended.stdout.splitlines()

    assert [line.partition("\t")[0] for line in offered("sdcron st")] == ["status", "stop"]
    assert "--follow\tOf a job that runs: show its progress until it ends." in offered("sdcron status --")
    assert offered("sdcron apply jo") == ["jobs/"]


def test_zsh_completes_commands_options_and_files(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [shell("zsh"), "-f", "-i"],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(its_end)
    try:
        _type(terminal, f"fpath=({COMPLETIONS} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n", "ready")
        _type(terminal, "sdcron hist\t", "sdcron history ")
        _type(terminal, "--js\t", "--json")
        _type(terminal, "\x15sdcron apply jo\t", "sdcron apply jobs/")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _type(terminal: int, keys: str, shown: str) -> None:
    """Press keys, and wait until the terminal shows what is to come of them."""
    os.write(terminal, keys.encode())
    seen, deadline = "", time.monotonic() + 60
    while shown not in seen:
        assert select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0], seen
        seen += os.read(terminal, 4096).decode(errors="replace")
