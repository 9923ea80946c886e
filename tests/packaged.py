"""The Debian package, built of what git knows of the checkout as each release builds it, and machines that have it."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.machine import CHECKOUT, CHECKOUT_INSIDE, Machine
from tests.rootfs import BARE, BUILD, DEBS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rootfs import Release

#: Copies the files that git names, from $1 to $2, and builds there as the user $6; a package is not to depend on where,
#: when and by whom it was built (reproducible-builds.org).
_BUILD = """
set -e
mkdir -p "$2/sdcron"; cd "$1"
umask "$3"; export TZ="$4" DEB_BUILD_OPTIONS="$7"
tar --create --null --files-from=/var/tmp/files | tar --extract --directory="$2/sdcron"
cd "$2/sdcron"
[ -z "$5" ] || sed -i "1s/(.*)/($5)/" debian/changelog
dpkg-checkbuilddeps -I
chown --recursive "$6" "$2"
runuser --user "$6" -- dpkg-buildpackage --no-check-builddeps --build=binary --no-sign
for page in debian/man/*; do
    LC_ALL=C.UTF-8 MANROFFSEQ= MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null
done >/var/tmp/warnings
"""


@dataclass(frozen=True)
class Package:
    """A built package: its file name and bytes, what the build printed, and what lintian and man say of it."""

    name: str
    content: bytes
    log: str
    lintian: str
    warnings: str


def tracked_files() -> list[str]:
    """The names of what is, or is about to be, in the repository."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True, timeout=60).stdout
    return [name for name in os.fsdecode(listed).split("\0") if name and (CHECKOUT / name).is_file()]


def build(
    release: Release,
    *,
    version: str = "",
    umask: str = "022",
    zone: str = "UTC",
    place: str = "/build",
    user: str = "root",
    tested: bool = False,
) -> Package:
    """Build the package on a machine of its own that has no network; with another `version` than the changelog's.

    Where it is to be `tested`, its unit tests are run, as whoever builds it has them run.
    """
    options = "" if tested else "nocheck"
    with Machine(release, boot=False, kind=BUILD) as machine:
        (machine.disk / "var/tmp/files").write_text("".join(f"{name}\0" for name in tracked_files()))
        words = [CHECKOUT_INSIDE, place, umask, zone, version, user, options]
        log = machine.run_off(["sh", "-c", _BUILD, "build", *words], timeout=1500 if tested else 600)
        [path] = (machine.disk / place.lstrip("/")).glob("*.deb")
        told = machine.run_off(["sh", "-c", f"lintian --pedantic --tag-display-limit=0 {place}/*.changes"], status=None)
        warnings = (machine.disk / "var/tmp/warnings").read_text()
        return Package(path.name, path.read_bytes(), log, told, warnings)


@contextmanager
def installed(release: Release, package: Package, listing: str = "") -> Iterator[Machine]:
    """A machine that has the package, installed while it was off with nothing but what the distribution has, and on.

    What files there were right before goes into the file `listing` there.
    """
    with Machine(release, boot=False, kind=BARE) as machine:
        (machine.disk / "var/tmp" / package.name).write_bytes(package.content)
        apt = "apt-get --quiet --yes --no-install-recommends install"
        dependencies = f"{apt} {DEBS}/*.deb"
        if listing:
            machine.run_off(["sh", "-c", f"{dependencies} && {FILES} >{listing}"])
        machine.run_off(["sh", "-c", f"{apt} /var/tmp/{package.name} {DEBS}/*.deb"])
        machine.boot()
        yield machine


#: All files of a machine but those of the system's own working, sorted.
FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp"
    " -o -path /var/log/journal -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log/apt"
    " -o -path /var/lib/systemd -o -path /var/lib/dbus -o -path /opt -o -path /root/.cache"
    " -o -name .updated \\) -prune -o -print | sort"
)
