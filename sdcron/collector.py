"""The collector of one scope: opens what it needs, follows the journal, answers who wants it to be up to date.

One process at a time, by a lock. Without one that runs, `status` and `history` collect by themselves. A database or
log that is damaged is set aside, and rebuilt from the logs and from what the journal still has.
"""

from __future__ import annotations

import gc
import os
import pwd
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.definition import Definitions
from sdcron.errors import BackendError, LockHeldError, SdcronError
from sdcron.fold import Fold
from sdcron.journal import Journal, all_stored
from sdcron.ledger import opened, set_store_aside
from sdcron.paths import Scope
from sdcron.recorder import Recorder
from sdcron.settings import read_settings
from sdcron.store import DamagedStoreError
from sdcron.sync_socket import ANSWER_SECONDS, answer, ask, listening, turn_away

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from sdcron.backends import Backend, LastRun
    from sdcron.operations import Place
    from sdcron.paths import Paths

_MANAGER_SECONDS = 30.0
_RETRY_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 60.0
_LOCK_SECONDS = 0.2
_LAST_STEPS = 4

Tell = Callable[[str], object]
"""Hears what a person should know, one line at a time."""


@contextmanager
def recording(
    place: Place, tell: Tell, ending: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Recorder, Journal]]:
    """Hold the collector's lock and give what records, all opened and brought to one state; `tell` hears in one line.

    Once `ending` says so, it comes to an end early. Raises LockHeldError if another one collects, BackendError without
    a journal, SdcronError and OSError for what cannot be opened or written.
    """
    paths = place.paths
    with ExitStack() as stack:
        settings = read_settings(paths.config_file)
        manager = stack.enter_context(_Manager(place))
        journal = Journal()
        stack.callback(journal.close)
        stack.enter_context(_as_owner(paths))
        ledger = stack.enter_context(opened(paths, settings, tell))
        uid = os.getuid() if paths.scope is Scope.USER else 0
        fold = Fold(paths.scope, uid, _definitions(place, uid), ledger.store.is_recorded)
        meta = ledger.store.meta()
        fold.restore(meta, ledger.store.open_runs(), ledger.store.memories())
        cursor = meta.get("cursor")
        if cursor is None:
            journal.seek_head()
        elif not journal.seek_cursor(cursor):
            tell("the journal no longer has what comes right after the last entry that was read; runs may be missing")
        yield (
            Recorder(journal, fold, ledger, boot_id=boot_id(), all_stored=all_stored, last_run=manager, ending=ending),
            journal,
        )


def collect_once(place: Place, tell: Tell) -> None:
    """Read to the end of the journal, and keep what it tells. Raises as `recording`."""
    with recording(place, tell) as (recorder, _):
        recorder.catch_up()


def serve(place: Place, tell: Tell) -> None:
    """Follow the journal until SIGTERM or SIGINT. What goes wrong is told once, and tried again for ever."""
    gc.enable()
    with _Ending() as ending, listening(place.paths) as listener:
        told, pause = "", _RETRY_SECONDS
        while not ending.asked:
            try:
                with recording(place, tell, lambda: ending.asked) as (recorder, journal):
                    recorder.catch_up()
                    # It may be opened and yet not be written to.
                    told, pause = "", _RETRY_SECONDS
                    _follow(recorder, journal, listener, ending, tell)
            except DamagedStoreError as error:
                tell(f"{error.message}; it is set aside, and made anew from the logs and the journal")
                set_store_aside(place.paths)
            except LockHeldError:
                # Somebody who asked reads the journal himself, and is done in a moment.
                ending.wait(_LOCK_SECONDS)
            except (SdcronError, OSError) as error:
                message = error.message if isinstance(error, SdcronError) else _words(error)
                if message != told:
                    tell(f"{message}; trying again until it works")
                    told = message
                turn_away(listener)
                ending.wait(_RETRY_SECONDS)
                # Somebody who asks may have mended what was wrong.
                ending.wait(pause - _RETRY_SECONDS, listener.fileno())
                # To open everything takes a while of the processor, and a full disk may stay full.
                pause = min(2 * pause, _LONGEST_RETRY_SECONDS)


def catch_up(place: Place) -> tuple[str, ...]:
    """Have everything recorded that has happened until now; returns what a person should know, one line each.

    Asks the collector that runs; without one reads the journal here, if the caller may. Raises nothing.
    """
    notes: list[str] = []
    try:
        bring_up_to_date(place, notes.append)
    except (SdcronError, OSError) as error:
        hint = f": {error.hint}" if isinstance(error, SdcronError) and error.hint else ""
        notes.append(f"the latest runs may be missing: {error}{hint}")
    return tuple(notes)


def bring_up_to_date(place: Place, tell: Tell) -> None:
    """Have everything recorded that has happened until now. Raises SdcronError or OSError if it cannot be."""
    answered = None if place.offline else ask(place.paths)
    if answered or place.offline:
        return
    if answered is False:
        raise SdcronError(
            f"the collector cannot record, or was busy for more than {ANSWER_SECONDS:.0f} s",
            f"see: {journal_command(place)}",
        )
    if not _may_write(place.paths):
        raise SdcronError("the collector does not run", _start_it(place))
    try:
        try:
            collect_once(place, tell)
        except DamagedStoreError as error:
            tell(f"{error.message}; it is set aside and made anew")
            set_store_aside(place.paths)
            collect_once(place, tell)
    except LockHeldError:
        # The collector may have been started just now.
        if not ask(place.paths):
            raise


def _words(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def journal_command(place: Place) -> str:
    """What shows what the collector has said."""
    return f"journalctl{' --user' * place.user} -u sdcron-collector"


def _start_it(place: Place) -> str:
    return f"{'systemctl --user' if place.user else 'sudo systemctl'} start sdcron-collector"


def _follow(recorder: Recorder, journal: Journal, listener: socket.socket, ending: _Ending, tell: Tell) -> None:
    import select

    poll = select.poll()
    for descriptor in (listener.fileno(), ending.fileno()):
        poll.register(descriptor, select.POLLIN)
    while not ending.asked:
        wait = recorder.step()
        for note in recorder.take_notes():
            tell(note)
        # The journal's own descriptor may change when its files are opened anew.
        poll.register(journal.fileno(), select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(wait * 1000)}
        poll.unregister(journal.fileno())
        if journal.fileno() in ready:
            journal.process()
        ending.forget()
        if listener.fileno() in ready:
            recorder.see_that_it_is_kept()
            answer(recorder, listener)
    # What has ended just now is recorded before it is left to the next start.
    for _ in range(_LAST_STEPS):
        recorder.step()
    recorder.commit(cursor_too=True)


class _Ending:
    """Notices SIGTERM and SIGINT without being cut short by them."""

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> _Ending:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.set_wakeup_fd(self._writer)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._reader)
        os.close(self._writer)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def fileno(self) -> int:
        """Readable once a signal has come."""
        return self._reader

    def forget(self) -> None:
        """Not readable any more: it may have been another signal, as that which ends a search that takes too long."""
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def wait(self, seconds: float, *others: int) -> None:
        """Sleep, but not on when a signal comes, or anything at `others`."""
        import select

        self.forget()
        if not self.asked and seconds > 0:
            select.select([self._reader, *others], [], [], seconds)


class _Manager:
    """Asks the service manager of a job's last run; while it does not answer, it is left alone for a while."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stack = ExitStack()
        self._backend: Backend | None = None
        self._try_again_at = 0.0

    def __enter__(self) -> _Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, service: str) -> LastRun | None:
        """None while there is no answer; a run without an id if the manager has forgotten the service's last one."""
        from sdcron.backends import LastRun
        from sdcron.operations import connect

        try:
            if self._backend is None:
                if time.monotonic() < self._try_again_at:
                    return None
                self._try_again_at = time.monotonic() + _MANAGER_SECONDS
                self._backend = self._stack.enter_context(connect(self._place))
            if self._backend is None:
                return None
            return self._backend.last_run(service) or LastRun("", active=False)
        except BackendError:
            self._stack.close()
            self._backend = None
            return None


def _definitions(place: Place, uid: int) -> Definitions:
    from sdcron.job_queries import job_schedule

    places = [place.paths, *([place.other] if place.other is not None else [])]
    return Definitions(places, job_schedule, uid)


def _may_write(paths: Paths) -> bool:
    existing = next(path for path in (paths.runs_dir, *paths.runs_dir.parents) if path.exists())
    return os.access(existing, os.W_OK)


@contextmanager
def _as_owner(paths: Paths) -> Iterator[None]:
    """Write as the user whose the directory is: root would leave files there that its collector cannot write."""
    try:
        status = paths.runs_dir.stat()
        name = pwd.getpwuid(status.st_uid).pw_name
    except (FileNotFoundError, KeyError):
        yield
        return
    if os.geteuid() != 0 or status.st_uid == 0 or not stat.S_ISDIR(status.st_mode):
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(name, status.st_gid))
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def boot_id() -> str:
    """The boot that journald notes with every entry. As systemd says it: a sandbox's own /proc has the host's."""
    told = os.environ.get("SDCRON_BOOT_ID")
    if told:
        return told
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
    except OSError:
        return ""


def tell_journal(text: str) -> None:
    """A line for the journal, as a service writes it: <5> is a notice (sd-daemon(3))."""
    sys.stderr.write(f"<5>{text}\n" if os.environ.get("JOURNAL_STREAM") else f"sdcron: {text}\n")
    sys.stderr.flush()
