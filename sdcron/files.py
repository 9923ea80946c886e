"""Changes to files that a reader never sees half done: temporary file, fsync, rename, fsync of the directory.

Every write of an apply goes through one Files object, so that a test can fail or kill it at each step.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

STAGE_PREFIX = ".sdcron-stage-"
"""systemd ignores files that begin with a dot; what a killed apply left behind is found by this name."""


class Files:
    """The file system as apply uses it."""

    def stage(self, path: Path, text: str, mode: int = 0o644) -> Path:
        """Write `text` beside `path`, on disk but not visible under its name; returns where. Raises OSError."""
        make_directory(path.parent)
        staged = path.with_name(STAGE_PREFIX + path.name)
        # The name can be foreseen: nothing that somebody put there is written to.
        staged.unlink(missing_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Unbuffered: what a buffer holds until it is closed would miss the fsync.
            with os.fdopen(descriptor, "wb", buffering=0) as stream:
                # An installed text that is brought back may hold bytes that are not UTF-8: see installed.py.
                _write_all(stream, text.encode(errors="surrogateescape"))
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return staged

    def publish(self, staged: Path, path: Path) -> None:
        """Give a staged file its name, replacing what was there in one step."""
        staged.replace(path)

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Stage and publish one file."""
        staged = self.stage(path, text, mode)
        try:
            self.publish(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        self.sync_directory(path.parent)

    def delete(self, path: Path) -> None:
        """Remove a file or symbolic link; none there is fine."""
        path.unlink(missing_ok=True)

    def link(self, path: Path, target: str) -> None:
        """Make `path` a symbolic link to `target`, replacing what was there in one step."""
        make_directory(path.parent)
        staged = path.with_name(STAGE_PREFIX + path.name)
        staged.unlink(missing_ok=True)
        staged.symlink_to(target)
        staged.replace(path)

    def touch(self, path: Path, nanoseconds: int) -> None:
        """Set the modification time of `path`, made empty if missing, to `nanoseconds` since 1970 UTC."""
        make_directory(path.parent)
        # O_NONBLOCK: a FIFO in the way makes nobody wait. By the open file: a link put there later is not followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            os.utime(descriptor, ns=(nanoseconds, nanoseconds))
        finally:
            os.close(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Make names given or removed in `directory` survive a power cut."""
        if not directory.is_dir():
            return
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(stream: FileIO, content: bytes) -> None:
    """Write all of it: an unbuffered write may take a part only, as on a disk that fills up."""
    view = memoryview(content)
    while view:
        view = view[stream.write(view) :]


def make_directory(directory: Path) -> None:
    """Make a directory and those above it. Root's are open to all, whatever the umask: jobs of users read scripts."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            missing.chmod(0o755)


def leftovers(directory: Path) -> list[Path]:
    """Staged files that a killed apply left in `directory`."""
    names = os.listdir(directory) if directory.is_dir() else []  # noqa: PTH208 - there may be 60,000
    return sorted(directory / name for name in names if name.startswith(STAGE_PREFIX))
