"""The peers as they are installed: each in a directory of its own beside the machines' root file systems.

Owns `peers/` of the cache directory (tests.rootfs.cache_dir). Nothing is installed on the machine itself, and no
service is started. A directory's name has a digest of what it was made of; it is complete or absent, never between.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rootfs import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable

BUILD_TIMEOUT = 600
#: Part of every name: raise it when the way something is built changes.
RECIPE = 1
#: The newest stable release; a release keeps one version of each package, but for fixes.
SUITE = "trixie"
PACKAGES = ("cronie", "busybox-static")


class MissingPeer(Exception):
    """A peer cannot be had here; the message says why."""


def environment_of(requirement: str) -> Path:
    """The Python of a virtual environment that has `requirement` and what it needs. Raises MissingPeer."""
    name = requirement.partition("==")[0].lower()

    def build(directory: Path) -> None:
        _run([sys.executable, "-m", "venv", str(directory)])
        pip = (str(directory / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run([*pip, requirement])

    return _kept(name, [requirement, sys.version], build) / "bin/python"


def debian_tree() -> Path:
    """A small Debian with the cron daemons that Debian has, to be entered by chroot(2). Raises MissingPeer."""
    if os.getuid() != 0:
        raise MissingPeer("only root can enter a Debian tree")

    def build(directory: Path) -> None:
        command = [
            *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=essential"),
            f"--include={','.join(PACKAGES)}",
            # Debian's own hourly and daily jobs are not part of the set.
            '--customize-hook=rm -f "$1/etc/crontab" "$1"/etc/cron.*/*',
            *(SUITE, str(directory)),
        ]
        _run(command)

    return _kept("debian", [SUITE, PACKAGES], build)


def package_version(package: str) -> str:
    """The version of a package in the Debian tree."""
    return _run(["chroot", str(debian_tree()), "dpkg-query", "--show", "--showformat=${Version}", package])


def _kept(name: str, made_of: object, build: Callable[[Path], None]) -> Path:
    cache = cache_dir() / "peers"
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([RECIPE, made_of]).encode()).hexdigest()[:12]
    kept = cache / f"{name}-{digest}"
    if kept.exists():
        return kept
    print(f"     installing {name} into {cache} …", flush=True)
    for old in cache.glob(f"{name}-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache, ignore_cleanup_errors=True) as building:
        tree = Path(building, name)
        build(tree)
        tree.rename(kept)
    return kept


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingPeer(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise MissingPeer(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout.strip()
