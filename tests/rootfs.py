"""Root file systems of the Debian releases sdcron supports: built once with mmdebstrap, then cached.

Owns the cache directory (SDCRON_TEST_CACHE, default /var/tmp/sdcron-test). Standard library only, so that
`make run` needs nothing installed. `python3 -m tests.rootfs` builds what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Part of every cache key: raise it when the build below changes in a way the package list does not show.
RECIPE = 2

#: What any machine boots with.
_SYSTEM = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "passwd", "polkitd", "procps", "tzdata")
#: What sdcron needs from the distribution.
NEEDED = (
    "python3",
    "python3-pystemd",
    "python3-systemd",
    "python3-typer",
    "python3-jsonschema",
    "python3-yaml",
)
#: What its unit tests need to run there.
_TESTING = ("python3-croniter", "python3-pytest", "python3-pytest-timeout", "python3-hypothesis")
#: What its package is built with, and looked at: debian/control says it again, and dpkg-checkbuilddeps compares.
_BUILDING = (
    "debhelper",
    "dh-python",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-setuptools",
    "lintian",
    "man-db",
    "groff",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a root file system is for: the packages in it, and those that lie in DEBS with all that they depend on."""

    name: str
    packages: tuple[str, ...]
    fetched: tuple[str, ...] = ()
    complete: str = "usr/bin/systemd-analyze"
    """A file that is there once it is built."""


#: Where packages lie that can be installed without a network.
DEBS = "/var/local/debs"

TEST = Kind("", (*_SYSTEM, *NEEDED, *_TESTING), complete="usr/lib/python3/dist-packages/typer")
#: A machine as it is before anything of sdcron's gets there.
BARE = Kind("bare-", _SYSTEM, NEEDED)
BUILD = Kind("build-", ("systemd", "tzdata", *NEEDED, *_TESTING, *_BUILDING), complete="usr/bin/dh")
KINDS = (TEST, BARE, BUILD)
#: For benchmarks alone: with what sdcron is measured against.
PEER = Kind("peer-", (*_SYSTEM, *NEEDED), ("systemd-cron",), complete="usr/lib/python3/dist-packages/typer")

#: Units that would start work of their own during a test.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
)

#: A build takes half a minute; a slow mirror is given this many seconds, and so is waiting for another run's build.
BUILD_TIMEOUT = 1200


class RootfsError(Exception):
    """A root file system cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """One Debian release: its suite name, the systemd version it has, and what apt needs to be told."""

    suite: str
    systemd: str
    apt_options: tuple[str, ...] = ()

    def key(self, kind: Kind) -> str:
        """A digest of everything that goes into the root file system, except the archive's own state."""
        recipe = [RECIPE, platform.machine(), self.suite, self.apt_options, kind.packages, MASKED]
        recipe += [kind.fetched] if kind.fetched else []
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


RELEASES = (
    Release("bookworm", "252"),
    Release("trixie", "257"),
    # A testing suite's index expires after a week, and an archive copy may be older than that.
    Release("forky", "262", ('Acquire::Check-Valid-Until "false"',)),
)


def cache_dir() -> Path:
    """Where root file systems are kept between runs."""
    return Path(os.environ.get("SDCRON_TEST_CACHE", "/var/tmp/sdcron-test"))  # kept over reboots


@contextmanager
def rootfs(release: Release, kind: Kind = TEST) -> Iterator[Path]:
    """The root file system of `release`, built if it is missing, and kept from removal while in use.

    Read it, never write to it: machines put an overlay on top. Raises RootfsError.
    """
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        mount_point = cache / "mnt"
        mount_point.mkdir(exist_ok=True)
        root = cache / f"rootfs-{kind.name}{release.suite}-{release.key(kind)}"
        lock = stack.enter_context(_locked(root, fcntl.LOCK_SH))
        while not _complete(root, kind):
            fcntl.flock(lock, fcntl.LOCK_UN)
            _wait_for_lock(lock, fcntl.LOCK_EX, root)
            if not _complete(root, kind):
                _build(release, kind, root)
            # Changing an exclusive lock into a shared one may let another process in between: look again.
            fcntl.flock(lock, fcntl.LOCK_SH)
        _remove_old(release, kind, root)
        yield root


def build_all() -> None:
    """Build every missing root file system, two at a time. Raises RootfsError."""

    def ensure(wanted: tuple[Kind, Release]) -> None:
        kind, release = wanted
        with rootfs(release, kind):
            pass

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(ensure, product(KINDS, RELEASES)))


def _complete(root: Path, kind: Kind) -> bool:
    """Renaming a finished build into place is the last step; the look inside finds one that was cleaned by halves."""
    return (root / "usr/bin/systemd-analyze").exists() and (root / kind.complete).exists()


@contextmanager
def _locked(root: Path, mode: int) -> Iterator[int]:
    """An open, locked descriptor of the lock file beside `root`."""
    path = root.with_suffix(".lock")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _wait_for_lock(descriptor, mode, root)
            # Whoever removed an old root file system also removed its lock file: one that is gone protects nothing.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _wait_for_lock(descriptor: int, mode: int, root: Path) -> None:
    deadline = time.monotonic() + BUILD_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RootfsError(f"another run has held {root.with_suffix('.lock')} for {BUILD_TIMEOUT} s") from None
            time.sleep(0.1)
        else:
            return


def _build(release: Release, kind: Kind, root: Path) -> None:
    """Build into a directory of its own, then rename: `root` is complete or absent, never between."""
    started = time.monotonic()
    what = f"{kind.name}{release.suite}"
    print(f"building the {what} root file system (systemd {release.systemd}) …", file=sys.stderr, flush=True)
    building = root.with_name(f".build-{root.name}")
    _remove_tree(building)
    masks = " ".join(f'"$1/etc/systemd/system/{unit}"' for unit in MASKED)
    command = [
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(kind.packages)}",
        *(f"--aptopt={option}" for option in release.apt_options),
        f'--customize-hook=for unit in {masks}; do ln -sf /dev/null "$unit"; done',
        '--customize-hook=echo sdcron-test >"$1/etc/hostname"; rm -f "$1/etc/resolv.conf"',
        '--customize-hook=chroot "$1" useradd --create-home --shell /bin/sh tester',
        *_fetching(kind),
        *(release.suite, str(building)),
    ]
    try:
        built = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RootfsError(f"mmdebstrap could not build {release.suite}: {error}") from error
    if built.returncode != 0:
        raise RootfsError(f"mmdebstrap could not build {release.suite}:\n{built.stderr[-4000:]}")
    _remove_tree(root)
    building.rename(root)
    print(f"built {release.suite} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _fetching(kind: Kind) -> list[str]:
    """How mmdebstrap gets packages that are not installed, and all that they depend on (mmdebstrap(1), "HOOKS")."""
    if not kind.fetched:
        return []
    apt = f'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only -o Dir::Cache::archives="$1{DEBS}"'
    return [
        f'--customize-hook=mkdir -p "$1{DEBS}/partial"',
        f"--customize-hook={apt} install {' '.join(kind.fetched)}",
        f'--customize-hook=rm -rf "$1{DEBS}/partial" "$1{DEBS}/lock"',
    ]


def _remove_old(release: Release, kind: Kind, current: Path) -> None:
    """Remove this suite's root file systems of earlier recipes, unless another run uses one."""
    for lock in current.parent.glob(f"rootfs-{kind.name}{release.suite}-*.lock"):
        root = lock.with_suffix("")
        if root == current:
            continue
        with lock.open("r+") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove_tree(root)
            _remove_tree(root.with_name(f".build-{root.name}"))
            lock.unlink(missing_ok=True)


def _remove_tree(tree: Path) -> None:
    """Remove a root file system, refusing one that has something mounted inside."""
    if not tree.exists():
        return
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [mount for mount in mounts if mount == str(tree) or mount.startswith(f"{tree}/")]
    if inside:
        raise RootfsError(f"will not remove {tree}: {', '.join(inside)} is still mounted; umount it first")
    shutil.rmtree(tree)


if __name__ == "__main__":
    try:
        build_all()
    except RootfsError as failure:
        sys.exit(str(failure))
