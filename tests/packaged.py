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

#: Where apt finds packages.
REPOSITORY = "/var/local/archive"
#: Copies the files that git names, from $1 to $2, and builds there as the user $6; a package is not to depend on where,
#: when and by whom it was built (reproducible-builds.org).
_BUILD = """
set -e
mkdir -p "$2/sdcron"; cd "$1"
umask "$3"; export TZ="$4" DEB_BUILD_OPTIONS="$7"
tar --create --null --files-from=/var/tmp/files | tar --extract --directory="$2/sdcron"
cd "$2/sdcron"
if [ -n "$5" ]; then
    sed -i "1s/(.*)/($5)/" debian/changelog
    sed -i "s/^__version__ = .*/__version__ = '$5'/" sdcron/__init__.py
fi
dpkg-checkbuilddeps -I
chown --recursive "$6" "$2"
runuser --user "$6" -- dpkg-buildpackage --no-check-builddeps --build=full --no-sign
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
        # Errors and warnings end it with another status; and it must have come to its end.
        lint = "lintian --pedantic --display-info --tag-display-limit=0 --fail-on=error,warning"
        told = machine.run_off(["sh", "-c", f"{lint} {place}/*.changes; echo lintian: $?"])
        warnings = (machine.disk / "var/tmp/warnings").read_text()
        return Package(path.name, path.read_bytes(), log, told, warnings)


#: Makes an archive of all packages in DEBS and of $1, of which alone apt installs from then on, as from any other.
_ARCHIVE = f"""
set -e
mkdir -p {REPOSITORY}; cd {REPOSITORY}
number=0
for deb in {DEBS}/*.deb "$@"; do
    number=$((number + 1))
    # Their names have characters of URIs in them.
    ln -sf "$deb" $number.deb
    dpkg-deb --field "$deb"
    echo "Filename: ./$number.deb"
    echo "Size: $(stat --dereference --format=%s $number.deb)"
    echo "SHA256: $(sha256sum <$number.deb | cut -d ' ' -f 1)"
    echo
done >Packages
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes allow-insecure=yes] file:{REPOSITORY} ./' >/etc/apt/sources.list.d/own.list
apt-get --quiet update
"""


def offer(machine: Machine, package: Package) -> str:
    """Have apt find the package, beside what it needs of the distribution; returns the path of its file there.

    The machine is off or on. What apt installs is then what the package says that it needs, and nothing else.
    """
    path = f"/var/tmp/{package.name}"
    (machine.disk / path.lstrip("/")).write_bytes(package.content)
    command = ["sh", "-c", _ARCHIVE, "archive", path]
    if machine.leader:
        machine.run(command)
    else:
        machine.run_off(command)
    return path


#: How an administrator installs.
APT = ["apt-get", "--quiet", "--yes", "--no-install-recommends"]


@contextmanager
def installed(release: Release, package: Package) -> Iterator[Machine]:
    """A machine that has the package, installed while it was off with nothing but what the distribution has, and on."""
    with Machine(release, boot=False, kind=BARE) as machine:
        offer(machine, package)
        machine.run_off([*APT, "install", "sdcron"])
        machine.boot()
        yield machine


#: All files of a machine but those of the system's own working, sorted.
FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp"
    " -o -path /var/log/journal -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log/apt"
    " -o -path /var/lib/systemd -o -path /var/lib/dbus -o -path /opt -o -path /root/.cache"
    " -o -name .updated \\) -prune -o -print | sort"
)
