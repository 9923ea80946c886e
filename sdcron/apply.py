"""Carry out a plan: all or nothing, never a run by accident, and one that was killed is finished by the next.

Order, and why: what is about to change is written down first; all new texts are on disk under hidden names before
anything is stopped; timers stop before their files change (a reload would run a job whose new time has just passed);
files appear by rename; systemd re-reads everything only if it still holds an old text; then timers start, with the
stamp of a changed persistent timer set to the moment it stopped: an edit never runs a job, a due time is never lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.drop_ins import directories as drop_in_directories
from sdcron.drop_ins import unit_of
from sdcron.errors import BackendError, LockHeldError, SdcronError
from sdcron.files import Files, leftovers, make_directory
from sdcron.paths import wants_dir, wants_target
from sdcron.pauses import NO_MARKS, owed_without
from sdcron.step import Scene, Step, backward, forward, is_boot_timer, is_retry, read_text, stamp_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sdcron.backends import Backend
    from sdcron.paths import Paths
    from sdcron.plan import Change, Plan

_LOCK_POLL_SECONDS = 0.05
_UNLOAD_TRIES = 20
_UNLOAD_SECONDS = 0.002
_STARTED_AT_ONCE = 200
_ASKED_ONE_BY_ONE = 500
"""Up to so many units are asked for by name; a list of all that are in memory can be long."""
_TICK_MARGIN_SECONDS = 2.0
"""A plain timer this close to its time is let elapse before it is stopped."""
_TICK_LATENESS_SECONDS = 1.1
"""How late it may be: AccuracySec=1s, and some."""


@contextmanager
def apply_lock(paths: Paths, wait_seconds: float) -> Iterator[None]:
    """Hold the scope's lock. Raises LockHeldError if another apply keeps it longer than `wait_seconds`."""
    make_directory(paths.runtime_dir)
    descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockHeldError(
                        f"another sdcron apply has been at work for {wait_seconds:.0f} s",
                        f"wait for it; who holds it: fuser {shlex.quote(str(paths.lock_file))}",
                    ) from None
                time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _names_below(directory: Path, paths: Iterable[str]) -> list[str]:
    """What of these files lies there, and how it is called."""
    below = f"{directory}/"
    return [path.removeprefix(below) for path in paths if path.startswith(below)]


class Applier:
    """Changes one scope. `backend` None means that only files change (`--root`)."""

    def __init__(
        self,
        paths: Paths,
        backend: Backend | None,
        files: Files | None = None,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        """Use `files` to watch or fail single steps in tests; `progress` hears of (step, done, total)."""
        self._paths = paths
        self._backend = backend
        self._files = files or Files()
        self._progress = progress
        self.recovered = False
        """Whether `recover` found an apply that had been killed."""
        self.refused: dict[str, BackendError] = {}
        """Timers that did not start, where the others were to start all the same."""

    def recover(self) -> bool:
        """Bring back what a killed apply was about to change; True if there was one. Call with the lock held."""
        self._delete_leftovers()
        if self._backend:
            # A run that outlived its job and failed then.
            self._backend.reset_failed(self._backend.failed_without_file())
        if not self._paths.journal_file.exists():
            return False
        try:
            step = Step(**json.loads(self._paths.journal_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise SdcronError(
                f"{self._paths.journal_file} cannot be read: {error}",
                f"see that the units in {self._paths.unit_dir} are right, then delete that file",
            ) from error
        self._restore(step)
        self.recovered = True
        return True

    def carry_out(
        self,
        plan: Plan,
        marks: Mapping[str, str | None] = NO_MARKS,
        *,
        give_up: bool = True,
        digests: str | None = None,
        lenient: bool = False,
    ) -> None:
        """Apply every change, or restore what was there and raise what went wrong.

        Leniently, what does not start is among `refused`, and keeps nothing else from being applied.

        `marks` are texts for `Paths.paused_dir` by name, None for one to be removed: see pauses.py. Starts that wait,
        of jobs that are paused or gone then, are given up unless told otherwise. `digests` are those of the drop-in
        files that all this was compiled from: see jobs_d.py.
        """
        generated_from = self._paths.generated_from
        if digests == read_text(generated_from):
            digests = None
        if not plan and not marks and digests is None:
            return
        scene = self._scene(plan.changes)
        onward = self._forward(plan.changes, scene)
        if not give_up:
            onward.cancel = []
        back = backward(plan.changes, scene)
        gone = [change.name for change in plan.changes if change.after is None]
        for name, mark in {**owed_without(self._paths, gone), **marks}.items():
            path = self._paths.paused_dir / name
            onward.files[str(path)] = mark
            back.files[str(path)] = read_text(path)
        if digests is not None:
            onward.files[str(generated_from)] = digests
            back.files[str(generated_from)] = read_text(generated_from)
        text = json.dumps({name: getattr(back, name) for name in Step.__slots__})
        try:
            staged = self._stage(onward)
            self._files.write(self._paths.journal_file, text, 0o600)
        except BaseException:
            self._delete_leftovers()
            raise
        try:
            self._transition(onward, staged, lenient=lenient)
            self._close_journal()
        except BaseException as failure:
            try:
                self._restore(back)
            except (OSError, SdcronError) as second:
                raise SdcronError(
                    f"{failure}; and what was there could not be brought back: {second}",
                    "mend that, then run the same again: it begins with bringing back",
                ) from failure
            raise
        for directory in (self._paths.paused_dir, self._paths.queued_dir):
            with suppress(OSError):
                # Not while a mark is in it.
                directory.rmdir()

    def _restore(self, step: Step) -> None:
        """Bring back what was there. A timer that does not start is left to the next plan, which sees it stopped."""
        self._delete_leftovers()
        differing = {path: text for path, text in step.files.items() if read_text(Path(path)) != text}
        self._mark_applied_this_boot(step)
        # No staging of all first: on a full disk each file can take the room that the one before it gave back.
        self._transition(replace(step, files=differing, start=[]), {})
        for first in range(0, len(step.start), _STARTED_AT_ONCE) if self._backend else ():
            self._start_what_starts(step.start[first : first + _STARTED_AT_ONCE])
        self._close_journal()

    def _start_what_starts(self, timers: Sequence[str]) -> None:
        if self._backend is None or not timers:
            return
        try:
            self._start(self._backend, timers)
        except BackendError as error:
            if len(timers) == 1:
                self.refused[timers[0]] = error
            for timer in timers if len(timers) > 1 else ():
                self._start_what_starts([timer])

    def _start(self, backend: Backend, timers: Sequence[str]) -> None:
        """Start these timers from the texts that are published now."""
        backend.start(timers)

    def _close_journal(self) -> None:
        self._files.delete(self._paths.journal_file)
        # A journal that comes back after a power cut would undo what is done.
        self._files.sync_directory(self._paths.state_dir)

    def _delete_leftovers(self) -> None:
        paths = self._paths
        for directory in (
            *(directory for unit_dir in paths.unit_dirs for directory in (unit_dir, wants_dir(unit_dir))),
            *(paths.script_dir, paths.paused_dir, paths.queued_dir, paths.state_dir),
        ):
            for path in leftovers(directory):
                self._files.delete(path)
        self._delete_empty(leftovers_too=True)

    def _delete_empty(self, *, leftovers_too: bool = False) -> None:
        """Remove the directories of drop-ins, and of tokens, that are empty."""
        graph = self._paths.graph_dir
        tokens = [path for path in sorted(graph.iterdir()) if path.is_dir()] if graph.is_dir() else []
        unit_dirs = self._paths.unit_dirs
        drop_ins = [unit_dir / name for unit_dir in unit_dirs for name in sorted(drop_in_directories(unit_dir))]
        for directory in (*drop_ins, *tokens, *([graph] if graph.is_dir() else [])):
            for path in leftovers(directory) if leftovers_too else ():
                self._files.delete(path)
            if not any(directory.iterdir()):
                with suppress(OSError):  # somebody has put something there
                    directory.rmdir()

    def _scene(self, changes: Sequence[Change]) -> Scene:
        if self._backend is None:
            return Scene(self._paths, online=False)
        names = {unit_of(name) for change in changes for name in (*change.texts_before(), *change.texts_after())}
        names -= {"script"}
        if len(names) > _ASKED_ONE_BY_ONE:
            loaded = names & self._backend.loaded().keys()
            active = names & self._backend.active_timers().keys()
        else:
            loaded = {name for name in names if self._backend.is_loaded(name)}
            active = {name for name in loaded if name.endswith(".timer") and self._backend.is_active(name)}
        texts = {name: text for change in changes for name, text in change.texts_before().items() if name in active}
        boot = {name for name, text in texts.items() if is_boot_timer(text) and self._backend.is_waiting(name)}
        return Scene(self._paths, online=True, loaded=frozenset(loaded), active=active, boot=frozenset(boot))

    def _forward(self, changes: Sequence[Change], scene: Scene) -> Step:
        return forward(changes, scene)

    def _stage(self, step: Step) -> dict[str, Path]:
        staged = {}
        for count, (path, text) in enumerate(step.files.items()):
            self._progress("writing", count, len(step.files))
            if text is not None:
                staged[path] = self._stage_one(path, text)
        return staged

    def _stage_one(self, path: str, text: str) -> Path:
        # Who can open a lock can hold it.
        mode = 0o600 if path.startswith(f"{self._paths.graph_dir}/") else 0o644
        return self._files.stage(Path(path), text, mode)

    def _transition(self, step: Step, staged: Mapping[str, Path], *, lenient: bool = False) -> None:
        self._mark_applied_this_boot(step)
        marks = {path for path in step.files if path.startswith(f"{self._paths.paused_dir}/")}
        for path in marks:
            # Before timers stop: from then on no failure arms a retry.
            self._publish(path, step.files[path], staged)
        began = time.time_ns()
        if self._backend and step.stop:
            began = self._let_due_timers_elapse(self._backend, step)
            self._backend.stop(step.stop)
        if self._backend and step.cancel:
            self._backend.cancel(frozenset(step.cancel))
        for timer, what in step.stamps.items():
            # Before the new text is there: the machine may go down in between and boot with it.
            if what == "set":
                self._files.touch(stamp_path(self._paths, timer), max(began, self._last_elapse(timer)))
        last = {str(self._paths.generated_from)}
        for path, text in step.files.items():
            if path not in marks | last:
                self._publish(path, text, staged)
        for link, target in step.links.items():
            if target is None:
                self._files.delete(Path(link))
            else:
                self._files.link(Path(link), target)
        for path in last.intersection(step.files):
            # Who reads it takes all else for what it says.
            self._publish(path, step.files[path], staged)
        if any(".service.d/" in path or path.startswith(f"{self._paths.graph_dir}/") for path in step.files):
            self._delete_empty()
        for directory in {Path(path).parent for path in (*step.files, *step.links)}:
            self._files.sync_directory(directory)
        if self._backend:
            self._forget_old_texts(self._backend, step)
        for timer, what in step.stamps.items():
            if what == "remove":
                self._files.delete(stamp_path(self._paths, timer))
        if self._backend:
            timers = [name for name in step.start if not is_retry(name)]
            for first in range(0, len(timers), _STARTED_AT_ONCE):
                self._progress("starting", first, len(timers))
                chosen = timers[first : first + _STARTED_AT_ONCE]
                if lenient:
                    self._start_what_starts(chosen)
                else:
                    self._start(self._backend, chosen)
            # It may not: then the job runs again already, by hand.
            self._start_what_starts([name for name in step.start if is_retry(name)])

    def _publish(self, path: str, text: str | None, staged: Mapping[str, Path]) -> None:
        if text is None:
            self._files.delete(Path(path))
        else:
            self._files.publish(staged.get(path) or self._stage_one(path, text), Path(path))

    def _mark_applied_this_boot(self, step: Step) -> None:
        """Keep `@reboot` timers from anything but the next boot; the mark must be there before the unit is."""
        if self._backend is None:
            return
        for path, text in step.files.items():
            if text is not None and path.endswith(".timer") and is_boot_timer(text):
                # The last one: a directive that was passed through may have the name, too.
                name = text.rpartition("\nJob=")[2].partition("\n")[0]
                self._files.touch(self._paths.armed_boot_dir / name, time.time_ns())

    def _let_due_timers_elapse(self, backend: Backend, step: Step) -> int:
        """Wait out plain timers about to elapse, so that stopping them loses no run; returns now, ns since 1970.

        One that is due has elapsed, however large its AccuracySec=: systemd looks at its timers whenever it wakes, as
        each of our calls makes it.
        """
        now = time.time()
        moments = [moment.timestamp() for name in step.plain if (moment := backend.next_elapse(name))]
        due = [moment for moment in moments if 0 <= moment - now < _TICK_MARGIN_SECONDS]
        if due:
            time.sleep(max(due) - now + _TICK_LATENESS_SECONDS)
        return time.time_ns()

    def _forget_old_texts(self, backend: Backend, step: Step) -> None:
        """Make systemd drop the old texts; one reload only where it still holds one (a run is on, a retry waits).

        timers.target holds its timers from a boot or reload on, and lets go of those whose link a reload does not find.
        What is generated is there only after a reload.
        """
        # Not the units of others that a drop-in adds to.
        own = {name for unit_dir in self._paths.unit_dirs for name in _names_below(unit_dir, step.files)}
        changed = {unit_of(name) for name in own}
        old = [name for name in step.forget if name in changed]
        backend.reset_failed([name for name in old if name in own])
        kept = self._still_loaded(backend, {*old, *step.anew})
        generated = self._paths.generated_dir
        regenerate = generated is not None and any(
            _names_below(directory, (*step.files, *step.links)) for directory in (generated, wants_dir(generated))
        )
        if not kept and not regenerate:
            return
        unit_dirs = self._paths.unit_dirs
        enabled = [(wants_dir(each) / name, wants_target(each, name)) for each in unit_dirs for name in step.anew]
        held = {link: target for link, target in enabled if link.name in kept and os.path.lexists(link)}
        for link in held:
            self._files.delete(link)
        backend.reload()
        self._still_loaded(backend, {link.name for link in held})
        for link, target in held.items():
            self._files.link(link, target)
        for directory in {link.parent for link in held}:
            self._files.sync_directory(directory)
        if generated is not None and any(link.parent == wants_dir(generated) for link in held):
            backend.reload()

    def _still_loaded(self, backend: Backend, names: Collection[str]) -> Collection[str]:
        """Those that systemd keeps in memory, when it has had the time to let go of what nothing needs."""
        for _ in range(_UNLOAD_TRIES):
            names = [name for name in names if backend.is_loaded(name)]
            if not names:
                break
            time.sleep(_UNLOAD_SECONDS)
        return names

    def _last_elapse(self, timer: str) -> int:
        """When a persistent timer elapsed last, by its stamp, ns since 1970; 0 for never, or a time yet to come."""
        try:
            modified = stamp_path(self._paths, timer).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
        return modified if modified <= time.time_ns() else 0
