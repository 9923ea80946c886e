"""Commands under simulated strict confinement, as snapd gives it to a snap: for tests of the engine inside one.

Owns the file system that the command sees, its identity and its system calls. Standard library, util-linux and
libseccomp. Needs root. A command lives in a mount namespace of its own, which goes with it: no mount is left behind.

Inside, as in a snap: everything is read-only but $SNAP_DATA and $SNAP_COMMON (a real snap also has a private /tmp).
There is no /run/systemd, no D-Bus, no journal and no /dev/log. No capability is left, also to root. With `seccomp` the
system calls are those of snapd's own policy, which tests.snapd.seccomp_policy() reads: without it, user namespaces are
open to a command, and with them capabilities of a kind.

Run as a program it is the last step before the command: it installs the filters, then becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECKOUT = Path(__file__).resolve().parent.parent

#: Where a snap's directories are for those inside; the revision is that of a snap that was installed from a file.
SNAP = "/snap/sdcron/x1"
SNAP_COMMON = "/var/snap/sdcron/common"
SNAP_DATA = "/var/snap/sdcron/x1"

#: The user `snap_daemon`, whom snapd offers to daemons that want to be nobody else's; no entry in /etc/passwd needed.
SNAP_DAEMON = 584788

#: Builds the file system below $1, an empty directory, from triples of options, source and place, up to `--`; then
#: moves into it and becomes the rest. Only bind mounts and what the kernel makes: nothing is copied or written.
FILE_SYSTEM = """
set -eu
umask 022
root=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root"
cd "$root"
mkdir -p before dev home proc root run snap sys tmp var/lib var/log
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -P "/$name" .; elif [ -d "/$name" ]; then set -- ro "/$name" "/$name" "$@"; fi
done
while [ "$1" != -- ]; do
    mkdir -p ".$3"
    mount --bind "$2" ".$3"
    mount -o "remount,bind,nosuid,nodev,$1" ".$3"
    shift 3
done
shift
mount -t proc -o ro,nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=0755,nosuid,noexec tmpfs dev
for name in null zero full random urandom tty; do
    : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mkdir dev/pts dev/shm
ln -s x1 "$root${SNAP%/*}/current"
ln -s x1 "$root${SNAP_DATA%/*}/current"
mount -o remount,ro dev
mount -o remount,ro .
pivot_root . before
umount -l before
cd "$SNAP_DATA"
exec "$@"
"""

#: prctl(2).
PR_SET_PDEATHSIG = 1

#: seccomp_init(3), seccomp_rule_add(3): what becomes of a call, and how an argument is compared.
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | 1  # EPERM, as snapd refuses
COMPARE = {"!": 1, "<": 2, "<=": 3, "": 4, ">=": 5, ">": 6}
MASKED_EQUAL = 7


def why_not_confined() -> str | None:
    """Why nothing can be confined here, in words that say what to do; None if it can be tried."""
    if os.environ.get("SDCRON_TEST_MACHINES") == "no":
        return "SDCRON_TEST_MACHINES=no"
    if os.geteuid() != 0:
        return "not root (run `sudo make test`)"
    missing = [name for name in ("unshare", "setpriv", "pivot_root", "mount") if shutil.which(name) is None]
    if missing:
        return "not installed: util-linux, mount (run `apt-get install util-linux mount`)"
    return None


def confined(
    command: Sequence[str | Path],
    *,
    common: Path,
    data: Path,
    root_uid: bool = False,
    snap: Path = CHECKOUT,
    seccomp: str = "",
    environment: Mapping[str, str] | None = None,
    pid_namespace: bool = False,
) -> list[str]:
    """The argument list that runs `command` confined, for subprocess.

    `common` and `data` are what it sees, and may write to, as $SNAP_COMMON and $SNAP_DATA; they are given to its user,
    snap_daemon, or to root with `root_uid`, as snapd runs daemons. `snap` is what it sees as $SNAP. The checkout and
    the Python that runs this are where they are outside, read-only. `environment` adds to the snap's own variables:
    nothing else of the caller's gets in.

    The process that is started is the command itself in the end, so its process id and the signals sent to it are the
    command's; it is killed when its parent ends. With `pid_namespace` it is the first process of a namespace of its
    own instead, and all its children are killed with the one that was started.
    """
    user = 0 if root_uid else SNAP_DAEMON
    for place in (common, data):
        os.chown(place, user, user)
    mounts = [("ro", Path("/usr"), "/usr"), ("ro", Path("/etc"), "/etc")]
    mounts += [("ro", place, str(place)) for place in _python_and_checkout()]
    mounts += [("ro", snap, SNAP), ("rw", common, SNAP_COMMON), ("rw", data, SNAP_DATA)]
    namespaces = ["--mount"] + (["--pid", "--fork", "--kill-child=KILL"] if pid_namespace else [])
    variables = {**_snap_environment(), **(environment or {})}
    privileges = [
        *(f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"),
    ]
    return [
        *("unshare", *namespaces, "--", "env", f"SNAP={SNAP}", f"SNAP_DATA={SNAP_DATA}"),
        *("sh", "-c", FILE_SYSTEM, "sh", str(_mount_point())),
        *(str(word) for mount in mounts for word in mount),
        *("--", "setpriv", *privileges, "--", "env", "-i", *(f"{name}={value}" for name, value in variables.items())),
        *(sys.executable, "-I", str(Path(__file__).resolve()), seccomp, str(os.getpid())),
        *(str(word) for word in command),
    ]


def _mount_point() -> Path:
    """An empty directory that is the same in every run; what is mounted on it is so only in namespaces."""
    from tests.rootfs import cache_dir

    place = cache_dir() / "mnt"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _python_and_checkout() -> list[Path]:
    """What lies outside /usr and is needed to run sdcron: outermost first, none inside another."""
    found: list[Path] = []
    for place in sorted({CHECKOUT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}):
        if not any(place.is_relative_to(other) for other in (Path("/usr"), *found)):
            found.append(place)
    return found


def _snap_environment() -> dict[str, str]:
    """The variables that snapd sets for a daemon, and what sdcron of the checkout needs; no bus among them."""
    own = ":".join(f"{SNAP}/{place}" for place in ("usr/sbin", "usr/bin", "sbin", "bin"))
    return {
        "SNAP": SNAP,
        "SNAP_NAME": "sdcron",
        "SNAP_INSTANCE_NAME": "sdcron",
        "SNAP_REVISION": "x1",
        "SNAP_VERSION": "test",
        "SNAP_COMMON": SNAP_COMMON,
        "SNAP_DATA": SNAP_DATA,
        "HOME": "/root/snap/sdcron/x1",
        "PATH": f"{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp_rule_add(3)."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def install_filters(policy: str) -> None:
    """Allow this process the system calls of a policy in snapd's words, and refuse all others with EPERM; for good.

    A line is a call and what its arguments must be: `-` anything, a number or a name of one, `!`, `<`, `<=`, `>`,
    `>=` before it, `|X` all bits of X, `MASK|X` X under the mask, `u:root` and `g:root` 0. A line with `~` before it
    refuses what others allow. Raises OSError.
    """
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    lines = [line.split() for line in policy.splitlines() if line and not line.startswith("#")]
    refused = [[line[0].removeprefix("~"), *line[1:]] for line in lines if line[0].startswith("~")]
    allowed = [line for line in lines if not line[0].startswith("~")]
    # Two filters: the kernel takes the stricter answer of both. The one that allows little is last, for loading it
    # takes calls of its own.
    for default, action, rules in ((ALLOW, REFUSE, refused), (REFUSE, ALLOW, allowed)):
        context = ctypes.c_void_p(library.seccomp_init(default))
        for name, *arguments in rules:
            _add_rule(library, context, action, name, arguments)
        failed = library.seccomp_load(context)
        library.seccomp_release(context)
        if failed:
            raise OSError(-failed, f"seccomp_load: {os.strerror(-failed)}")


def _add_rule(library: ctypes.CDLL, context: ctypes.c_void_p, action: int, name: str, arguments: list[str]) -> None:
    """Add one line of a policy; a call or a constant that this machine does not know cannot be made, and is left."""
    number = library.seccomp_syscall_resolve_name(name.encode())
    try:
        compared = [_compared(place, text) for place, text in enumerate(arguments) if text != "-"]
    except KeyError:
        return
    if number < 0:
        return
    failed = library.seccomp_rule_add_array(
        context, ctypes.c_uint32(action), number, len(compared), (_Comparison * len(compared))(*compared)
    )
    if failed:
        raise OSError(-failed, f"{name} {' '.join(arguments)}: {os.strerror(-failed)}")


def _compared(place: int, text: str) -> _Comparison:
    """What the argument at a place is compared with. Raises KeyError for a name nobody knows."""
    if text in ("u:root", "g:root"):
        text = "0"
    mask, bar, value = text.rpartition("|")
    if bar:
        number = _number(value)
        return _Comparison(place, MASKED_EQUAL, _number(mask) if mask else number, number)
    operator = next(sign for sign in ("!", "<=", ">=", "<", ">", "") if text.startswith(sign))
    number = _number(text.removeprefix(operator))
    if not operator:
        # The kernel looks at the lower half of what is an int, as -1 for "leave it as it is".
        return _Comparison(place, MASKED_EQUAL, 0xFFFFFFFF, number & 0xFFFFFFFF)
    return _Comparison(place, COMPARE[operator], number, 0)


def _number(text: str) -> int:
    """A number, or the value of a constant of the C library that Python also knows."""
    import os as files
    import socket
    import stat
    import termios

    if text.lstrip("-").isdecimal():
        return int(text)
    for module in (files, socket, stat, termios):
        if isinstance(value := getattr(module, text, None), int):
            return value
    raise KeyError(text)


def _become(policy: str, parent: int, command: list[str]) -> None:
    """The last step: die with the parent, lose all calls but those of the policy, become the command."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # In a namespace of its own the parent is 0: --kill-child takes care there.
    if os.getppid() not in (0, parent):
        sys.exit("confined: the parent has ended")
    if policy:
        install_filters(policy)
    os.execvp(command[0], command)  # noqa: S606 - without a shell


if __name__ == "__main__":
    _become(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
