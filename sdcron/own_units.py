"""sdcron's own units: the collector and what follows a boot, there as long as jobs of their scope are applied.

The texts are those of units/ with the program that runs now, and with what the machine lacks left out. Unlike jobs they
are not part of a plan: whatever goes wrong here, the jobs run, and the next apply or remove makes it right.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import BackendError
from sdcron.escape import Place, escape
from sdcron.files import STAGE_PREFIX, Files, make_directory
from sdcron.paths import Paths, Scope, user_paths
from sdcron.step import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdcron.backends import Backend

COLLECTOR = "sdcron-collector.service"
BOOT = "sdcron-boot.service"
NAMES = (BOOT, COLLECTOR)
PACKAGED_PROGRAM = "/usr/bin/sdcron"
ACCOUNT = "sdcron"
"""The user that the collector runs as, on a machine that has it."""
_GROUP = "systemd-journal"
_WANTED_BY = {Scope.SYSTEM: "multi-user.target.wants", Scope.USER: "default.target.wants"}
_EMPTY_INSIDE = {Scope.SYSTEM: ("/home", "/root", "/run/user", "/tmp", "/var/tmp"), Scope.USER: ("/tmp", "/var/tmp")}  # noqa: S108 - asked about, not written to
"""Directories that ProtectHome= and PrivateTmp= show empty."""
_IN_A_NAMESPACE = re.compile(
    "(?:CapabilityBoundingSet|Private[A-Za-z]+|ProtectSystem|ProtectControlGroups|ProtectKernel[A-Za-z]+|ProtectProc"
    "|ReadWritePaths|BindReadOnlyPaths)=.*\n"
)
_START_SECONDS = 5.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Program:
    """How to start this sdcron: its command line, what PYTHONPATH must name, and the directories it lies in."""

    argv: tuple[str, ...] = (PACKAGED_PROGRAM,)
    search_path: str | None = None
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """What of a machine decides the texts: the accounts it has, and whether a user may make a user namespace."""

    account: bool = False
    group: bool = False
    namespaces: bool = True


def running_program() -> Program:
    """The program that runs now."""
    if os.path.realpath(sys.argv[0]) == PACKAGED_PROGRAM:
        return Program()
    # The way it was found, so that a checkout behind a link stays there.
    parent = str(Path(__file__).absolute().parents[1])
    search_path = None if parent in site.getsitepackages() else parent
    # -P: what lies in the working directory is not imported.
    return Program((sys.executable, "-P", "-m", "sdcron"), search_path, (sys.prefix, sys.base_prefix, parent))


def host_of(paths: Paths) -> Host:
    """The machine below `paths.root`. Its files are asked, not its name service: the accounts are made by a package."""

    def names(file: str) -> set[str]:
        return {line.partition(":")[0] for line in (read_text(paths.root / "etc" / file) or "").splitlines()}

    namespaces = paths.scope is Scope.SYSTEM or _user_namespaces()
    return Host(ACCOUNT in names("passwd"), _GROUP in names("group"), namespaces)


def _user_namespaces() -> bool:
    """Whether this kernel lets a user make a user namespace: user_namespaces(7), and Debian's and Ubuntu's own."""
    closed = (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    )
    return not any((read_text(Path("/proc/sys", file)) or "").strip() == value for file, value in closed)


def unit_texts(
    scope: Scope, texts: Mapping[str, str], program: Program, host: Host, environment: Sequence[str] = ()
) -> dict[str, str]:
    """The units as they are to be, from the `texts` in units/: file name -> text. `environment` are NAME=value."""
    command = " ".join(escape(word, Place.ARGUMENT) for word in program.argv)
    hidden = [path for path in dict.fromkeys(program.directories) if _is_below(path, _EMPTY_INSIDE[scope])]
    lines = [f"Environment={escape(text, Place.WORD)}" for text in environment]
    if program.search_path is not None:
        lines.append(f"Environment={escape(f'PYTHONPATH={program.search_path}', Place.WORD)}")
    state = [text.partition("=")[2] for text in environment if text.startswith("XDG_STATE_HOME=")]
    lines += [f"ReadWritePaths={escape(f'-{path}/sdcron', Place.WORD)}" for path in state]
    lines += [f"BindReadOnlyPaths={escape(path, Place.WORD)}" for path in hidden]
    made = {}
    for name, text in texts.items():
        own = list(lines)
        if scope is Scope.SYSTEM and host.group:
            own.append(f"Group={_GROUP}" if name == COLLECTOR else f"SupplementaryGroups={_GROUP}")
        # Nobody but root gets into /root.
        in_root = any(_is_below(path, ["/root"]) for path in hidden)
        if scope is Scope.SYSTEM and name == COLLECTOR and host.account and not in_root:
            own.append(f"User={ACCOUNT}")
        whole = text.replace(f"ExecStart={PACKAGED_PROGRAM} ", f"ExecStart={command} ")
        whole = whole.replace("UMask=", "".join(f"{line}\n" for line in own) + "UMask=", 1)
        made[name] = whole if host.namespaces else _IN_A_NAMESPACE.sub("", whole)
    return made


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{directory}/") for directory in directories)


def shipped_texts(scope: Scope) -> dict[str, str]:
    """The texts of units/: in a checkout beside the package, else inside it."""
    package = Path(__file__).parent
    directory = package / "unit_files" if (package / "unit_files").is_dir() else package.parent / "units"
    directory = directory / "user" if scope is Scope.USER else directory
    return {name: (directory / name).read_text(encoding="utf-8") for name in NAMES}


def is_installed(paths: Paths) -> bool:
    """Whether the collector is there for longer than until the next boot, as it is while such jobs are."""
    return os.path.lexists(_link(paths, paths.unit_dir, COLLECTOR))


def ensure(paths: Paths, backend: Backend | None, *, transient: bool) -> None:
    """Have the collector of a scope at work; nothing changes when all is right.

    `paths` are those of the scope's persistent jobs; `transient` units are gone at the next boot. Raises BackendError
    that says why runs are not recorded, or OSError.
    """
    files = Files()
    program, environment = _program(paths, backend), _environment(paths)
    wanted = unit_texts(paths.scope, shipped_texts(paths.scope), program, host_of(paths), environment)
    if program == Program() and not environment and all(_packaged(paths, name) for name in NAMES):
        wanted = {}
    here, there = (_runtime_dir(paths), paths.unit_dir) if transient else (paths.unit_dir, _runtime_dir(paths))
    old = [name for name in NAMES if read_text(here / name) != wanted.get(name) or os.path.lexists(there / name)]
    if (paths.unit_dir / COLLECTOR).is_symlink():
        raise BackendError(f"{COLLECTOR} is masked", f"systemctl unmask {COLLECTOR}")
    if COLLECTOR in old and backend is not None:
        # Before its text changes: of a killed apply nothing but a stopped collector is left, which the next one sees.
        backend.stop([COLLECTOR])
    for name in old:
        if name in wanted:
            files.write(here / name, wanted[name])
        else:
            files.delete(here / name)
        files.delete(there / name)
    for name in NAMES:
        target = str(here / name) if name in wanted else str(_packaged(paths, name))
        _set_link(files, _link(paths, here, name), None if transient else paths.on_machine(Path(target)))
    if backend is not None and (old or not backend.is_active(COLLECTOR)):
        _start(paths, backend)


def withdraw(paths: Paths, backend: Backend | None) -> None:
    """Take the units of a scope away when none of its jobs is left; what is on record stays."""
    files = Files()
    loaded = [name for name in NAMES if backend is not None and backend.is_loaded(name)]
    if backend is not None and loaded:
        backend.stop(loaded)
        backend.reset_failed(loaded)
    for directory in (paths.unit_dir, _runtime_dir(paths)):
        for name in NAMES:
            unit = directory / name
            for path in (_link(paths, directory, name), *([] if unit.is_symlink() else [unit])):
                files.delete(path)
                files.delete(path.with_name(STAGE_PREFIX + path.name))
        with suppress(OSError):  # others want units there, or nobody ever did
            _link(paths, directory, COLLECTOR).parent.rmdir()
    # A target that wants them holds them since the boot.
    if backend is not None and any(backend.is_loaded(name) for name in loaded):
        backend.reload()


def _start(paths: Paths, backend: Backend) -> None:
    """Start the collector with the text that its file has now. Raises BackendError if that takes too long."""
    if any(backend.is_outdated(name) for name in NAMES if backend.is_loaded(name)):
        backend.reload()
    if paths.scope is Scope.USER:
        # What ReadWritePaths= names must be there.
        make_directory(paths.log_dir.parent)
    backend.start([COLLECTOR], wait=False)
    deadline = time.monotonic() + _START_SECONDS
    while not backend.is_active(COLLECTOR):
        if time.monotonic() > deadline:
            option = " --user" if paths.scope is Scope.USER else ""
            raise BackendError(f"{COLLECTOR} does not start", f"see: journalctl{option} -u {COLLECTOR} -n 20")
        time.sleep(_POLL_SECONDS)


def _program(paths: Paths, backend: Backend | None) -> Program:
    """What the units are to start. Raises BackendError where there is nothing that could run."""
    if backend is None:
        if not (paths.root / PACKAGED_PROGRAM.lstrip("/")).exists():
            raise BackendError(f"there is no {PACKAGED_PROGRAM} below {paths.root}", "install sdcron there")
        return Program()
    if not can_read_the_journal():
        raise BackendError(
            "the Python package systemd is missing, which reads the journal",
            "install it: apt install python3-systemd, or pip install 'sdcron[systemd]'",
        )
    return running_program()


def can_read_the_journal() -> bool:
    """Whether this Python has what the collector needs."""
    try:
        return importlib.util.find_spec("systemd._reader") is not None
    except ModuleNotFoundError:
        return False


def _environment(paths: Paths) -> list[str]:
    """The XDG variables by which the caller's directories differ from those that a user's manager would use."""
    if paths.scope is Scope.SYSTEM:
        return []
    usual = user_paths({"HOME": os.environ.get("HOME", "/")}, os.getuid(), paths.root)
    chosen = {
        "XDG_CONFIG_HOME": (paths.config_file, usual.config_file),
        "XDG_DATA_HOME": (paths.stamp_dir, usual.stamp_dir),
        "XDG_STATE_HOME": (paths.log_dir, usual.log_dir),
    }
    return [f"{name}={paths.on_machine(ours.parents[1])}" for name, (ours, other) in chosen.items() if ours != other]


def _runtime_dir(paths: Paths) -> Path:
    """Where units are that a boot takes away: systemd.unit(5), "Unit File Load Path"."""
    return paths.runtime_dir.parent / f"systemd/{paths.scope}"


def _packaged(paths: Paths, name: str) -> Path | None:
    """The unit's file as a package of the distribution brings it."""
    path = paths.root / f"usr/lib/systemd/{paths.scope}" / name
    return path if path.exists() else None


def _link(paths: Paths, directory: Path, name: str) -> Path:
    return directory / _WANTED_BY[paths.scope] / name


def _set_link(files: Files, link: Path, target: str | None) -> None:
    there = str(link.readlink()) if link.is_symlink() else None
    if target is None and os.path.lexists(link):
        files.delete(link)
    elif target is not None and there != target:
        files.link(link, target)
        files.sync_directory(link.parent)
