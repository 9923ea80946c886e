"""snapd's own tools, for tests: Debian's packages, fetched with apt and unpacked into the cache, never installed.

Installing snapd would start it and mount things. Owns its directory below that of tests.rootfs. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.rootfs import cache_dir

#: squashfs-tools packs and unpacks, liblzo2-2 is what it needs beyond what every system has, shellcheck reads hooks.
PACKAGES = ("snapd", "squashfs-tools", "liblzo2-2", "shellcheck", "libgmp10", "libffi8")

#: Part of the cache key: raise it when what is unpacked changes in a way the packages do not show.
RECIPE = 1

#: Seconds for fetching 20 MB, the package lists included.
FETCH_TIMEOUT = 300

#: How snapd's default policy begins; Go keeps it as one text among others, which none but text follows directly.
_POLICY = (
    rb"# Description: Allows access to app-specific directories and basic runtime\n#\n# The default seccomp policy "
)

#: What a plug adds to the default policy (interfaces/builtin of snapd): without network-bind a snap may not even
#: listen on a UNIX socket of its own.
PLUG_CALLS = {"network-bind": ("accept", "accept4", "bind", "listen"), "network": ("bind",)}


class SnapdError(Exception):
    """snapd's tools cannot be had; the message says why."""


def snapd_tree() -> Path:
    """The unpacked packages, fetched if they are missing. Raises SnapdError."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"snapd-{_key()}"
    with (cache / "snapd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (tree / "usr/bin/snap").exists():
            for old in cache.glob("snapd-*"):
                shutil.rmtree(old)
            _fetch(tree)
    return tree


def environment(tree: Path) -> dict[str, str]:
    """The variables with which the programs of the tree find each other and their libraries."""
    libraries = [str(place) for place in (*tree.glob("usr/lib/*-linux-gnu*"), *tree.glob("lib/*-linux-gnu*"))]
    return {
        "PATH": f"{tree}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
    }


def seccomp_policy(tree: Path, plugs: tuple[str, ...] = ("network", "network-bind")) -> str:
    """The system calls that a strict snap with these plugs may make, in snapd's words. Raises SnapdError."""
    found = re.findall(rb"(" + _POLICY + rb"(?:[\t\x20-\x7e]*\n)+)", (tree / "usr/lib/snapd/snapd").read_bytes())
    if len(found) != 1:
        raise SnapdError(f"snapd's default system call policy was found {len(found)} times in {tree}")
    calls = [line for line in found[0].decode("ascii").splitlines() if line and not line.startswith("#")]
    if not {"execve", "openat", "wait4"} <= set(calls):
        raise SnapdError(f"what was found in {tree} is not the whole of snapd's policy")
    return "\n".join([*calls, *(call for plug in plugs for call in PLUG_CALLS.get(plug, ()))])


def _key() -> str:
    """The cache is for one release of one distribution on one architecture."""
    told = platform.freedesktop_os_release()
    return f"{told['ID']}-{told.get('VERSION_CODENAME', 'unknown')}-{platform.machine()}-{RECIPE}"


def _fetch(tree: Path) -> None:
    """Download and unpack into a directory of its own, then rename: `tree` is complete or absent."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SnapdError("snapd's tools come as Debian packages: apt-get and dpkg-deb are needed")
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".snapd-") as place:
        here = Path(place)
        try:
            _download(here)
            for package in sorted(here.glob("*.deb")):
                _run(["dpkg-deb", "--extract", package.name, "unpacked"], here)
        except (OSError, subprocess.SubprocessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
            raise SnapdError(f"{error}\n{said}") from error
        (here / "unpacked").rename(tree)


def _download(here: Path) -> None:
    """Fetch the packages, with the machine's lists of packages or, where those are missing or old, with new ones."""
    for directory in ("lists/partial", "cache/archives/partial"):
        (here / directory).mkdir(parents=True)
    quiet = ["apt-get", "-qq", "-o", "APT::Sandbox::User="]
    try:
        _run([*quiet, "download", *PACKAGES], here)
    except subprocess.CalledProcessError:
        own = [*quiet, "-o", f"Dir::State::lists={here}/lists", "-o", f"Dir::Cache={here}/cache"]
        _run([*own, "update"], here)
        _run([*own, "download", *PACKAGES], here)


def _run(command: list[str], here: Path) -> None:
    subprocess.run(
        command,
        cwd=here,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=FETCH_TIMEOUT,
    )
