"""A tree as snapcraft would stage it from packaging/snap, for snapd's own tools to look at and for running it.

Runs the build script of snapcraft.yaml with a stand-in for what it calls: the python plugin, and a network to fetch
from. The dependencies are those of the Python that runs the tests, where they are; all else is as in a real build.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.confined import why_not_confined
from tests.conftest import SKIPPED
from tests.snapd import snapd_tree

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGING = CHECKOUT / "packaging/snap"

#: What of snapcraft.yaml goes into meta/snap.yaml as it is; the rest is about building.
METADATA = (
    "name",
    "title",
    "summary",
    "description",
    "license",
    "base",
    "grade",
    "confinement",
    "apps",
    "hooks",
    "plugs",
)

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf"}

#: craftctl(1) of a build: the python plugin's own step, and the version.
CRAFTCTL = """#!/bin/sh
set -eu
case $1 in
default)
    "$TEST_PYTHON" -m venv --without-pip "$CRAFT_PART_INSTALL"
    modules=$(echo "$CRAFT_PART_INSTALL"/lib/python3.*/site-packages)
    "$TEST_PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \\
        --target "$modules" .
    echo "$TEST_DEPENDENCIES" >"$modules/dependencies.pth"
    ;;
set) echo "${2#version=}" >"$TEST_VERSION" ;;
*) exit 2 ;;
esac
"""


def project() -> dict[str, Any]:
    """What snapcraft.yaml says."""
    loaded = yaml.safe_load((PACKAGING / "snapcraft.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def architecture() -> str:
    """This machine's, in Debian's and snapd's words."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def snapd_or_skip() -> Path:
    """snapd's own tools; without root the test is skipped, as those on booted machines are. In CI it fails."""
    reason = why_not_confined()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"the snap must be tested in CI: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{SKIPPED}{reason}")
    return snapd_tree()


def stage(work: Path) -> Path:
    """Build the part into a tree below `work`, with its metadata; what snapcraft would then pack."""
    source, tree, tools = work / "source", work / "tree", work / "tools"
    tools.mkdir(parents=True)
    # The build writes beside what it builds.
    for name in ("sdcron", "units", "packaging"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    (tools / "craftctl").write_text(CRAFTCTL, encoding="utf-8")
    (tools / "craftctl").chmod(0o755)
    version = work / "version"
    parts = project()["parts"]
    subprocess.run(
        ["sh", "-eu", "-c", parts["sdcron"]["override-build"]],
        cwd=source,
        env={
            "PATH": f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(work),
            "LANG": "C.UTF-8",
            "CRAFT_PART_INSTALL": str(tree),
            "TEST_PYTHON": sys.executable,
            "TEST_DEPENDENCIES": _dependencies(),
            "TEST_VERSION": str(version),
        },
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=110,
    )
    _write_metadata(tree, version.read_text(encoding="utf-8").strip())
    return tree


def _dependencies() -> str:
    """Where sdcron's dependencies are; read as a directory of modules, not for what is installed there to be edited."""
    found = importlib.util.find_spec("typer")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent.parent)


def _write_metadata(tree: Path, version: str) -> None:
    """meta/ as snapcraft writes it: snap.yaml, and the hooks of the project."""
    said = project()
    metadata = {key: said[key] for key in METADATA if key in said}
    metadata |= {
        "version": version,
        "architectures": [architecture()],
        "environment": {
            "LD_LIBRARY_PATH": "${SNAP_LIBRARY_PATH}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
            "PATH": "$SNAP/usr/sbin:$SNAP/usr/bin:$SNAP/sbin:$SNAP/bin:$PATH",
        },
    }
    hooks = tree / "meta/hooks"
    hooks.mkdir(parents=True)
    (tree / "meta/snap.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False), encoding="utf-8")
    for hook in (PACKAGING / "hooks").iterdir():
        shutil.copy(hook, hooks)
        (hooks / hook.name).chmod(0o755)  # as snapcraft does
