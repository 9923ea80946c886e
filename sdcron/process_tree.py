"""Who belongs to a run, by the kernel's word, and signals to them.

A run has its main process, which leads a session of its own, and all that descend from it. Whoever has lost his parent
becomes a child of the process that called become_reaper, and is known by his environment or his session. Who has left
both, and his parents too, belongs to no run any more: see `strays`.

Knows no job. Reads /proc, where a strict snap may see every process's `stat`, but no `children` and no `environ`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    Visit = Callable[["Process"], None]
    Run = str

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 20
"""More are of no use at once: somebody makes processes faster than they are seen, and the dead must be reaped first."""
_ROUND_SECONDS = 0.01
_MARK = b"\0INVOCATION_ID="
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD among the flags of a process."""
_ENVIRONMENT_END = 48
"""The place among its fields of where its environment ends in memory."""
_EXECUTING_MS = 100
"""For how long at most a process is waited for that has just become another program."""

_reaper = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lives, as it was when somebody looked. `started` counts clock ticks since the boot.

    By its number and its start it is the same whoever its parent is, and no later one of that number is.
    """

    pid: int
    parent: int = field(compare=False)
    session: int = field(compare=False)
    started: int


def become_reaper() -> bool:
    """Have orphans of this process's descendants become its own children (PR_SET_CHILD_SUBREAPER in prctl(2)).

    False where that is refused: then orphans go to PID 1, and `members` must look at all processes of the machine.
    """
    global _reaper  # noqa: PLW0603 - it is the process that becomes one
    if os.getpid() != 1 and not _reaper:
        import ctypes

        arguments = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
        with contextlib.suppress(OSError, AttributeError):
            _reaper = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, *arguments) == 0
    return _adopts()


def members(main: int, run: Run, running: Mapping[int, Run] | None = None) -> set[Process]:
    """The living processes of one run; `running` are main processes not yet reaped, by number, of this and other runs.

    `main` is the number of the run's main process, `run` the id in its INVOCATION_ID. When the main process has ended
    and left nobody, and `running` names all others, this reads one file.
    """
    return members_of({run: main}, running or {})[run]


def members_of(runs: Mapping[Run, int], running: Mapping[int, Run]) -> dict[Run, set[Process]]:
    """The same for several runs at once, by their ids: all cost little more than one."""
    return _walk(runs, running, _let_live)


def strays(runs: Mapping[Run, int], running: Mapping[int, Run]) -> set[Process]:
    """Living children of this process, and their descendants, that belong to none of `runs`, which are all there are.

    Such have changed both their session and their environment, or nobody may read that. Once no run is left they are
    nobody's; as long as one goes on, they may be of it.
    """
    return _strays(runs, running, _let_live)


def kill_strays() -> set[Process]:
    """SIGKILL for all of them when there is no run; returns those that have not ended yet.

    Not by PID 1, whose children may be anybody's, as of those who look into a container.
    """
    if os.getpid() == 1:
        return set()
    return _kill(lambda visit: _strays({}, {}, visit))


def _strays(runs: Mapping[Run, int], running: Mapping[int, Run], visit: Visit) -> set[Process]:
    own, found = os.getpid(), set[Process]()
    view, children = _view()
    for pid in children:
        process = None if pid in running else _look(pid)
        if process is not None and process.parent == own and _run_of(process, runs, running) is None:
            _descend(view, process, found, visit)
    return found


def signal_all(processes: Iterable[Process], number: int) -> None:
    """Send the signal to each of them that still lives. Who may not be signalled is left out without a word."""
    for process in _eldest_first(processes):
        _send(process, number)


def kill_all(main: int, run: Run, running: Mapping[int, Run] | None = None) -> set[Process]:
    """Send SIGKILL to the whole run, and to whoever is born meanwhile; does not wait for their ends.

    Returns those that have not ended yet. Where a killed process can have no more children, a second look that finds
    nobody new is proof that nobody was missed.
    """
    return _kill(lambda visit: _walk({run: main}, running or {}, visit)[run])


def kill_survivors(runs: Collection[Run]) -> set[Process]:
    """SIGKILL for whose environment names one of these runs, and their descendants: left by a killed engine.

    On the whole machine, and also for whoever is born meanwhile. Returns those that have not ended yet.
    """
    return _kill(lambda visit: set().union(*_surviving(runs, visit).values()))


def kill_sessions(leaders: Mapping[int, int]) -> None:
    """SIGKILL for all in the sessions of these main processes, by when each began, and for their descendants.

    As long as somebody is in a session, its number is no other process's (setsid(2)); a leader that began at another
    time is one that has the number after all of them were gone. Of a leader that was gone before (open_run.GONE), so
    is any.
    """
    for _ in range(_ROUNDS):
        table = _Table()
        begun = {process.pid: process.started for process in table.processes}
        ours = {pid for pid, started in leaders.items() if begun.get(pid, started) == started}
        found: set[Process] = set()
        for process in table.processes:
            if process.session in ours or process.pid in ours:
                _descend(table, process, found, _let_live)
        found = {process for process in found if process.pid != os.getpid()}
        if not found:
            return
        for process in found:
            _send(process, signal.SIGKILL)
        time.sleep(_ROUND_SECONDS)


def process_of(pid: int) -> Process | None:
    """A living process; None if there is none of that number."""
    return _look(pid)


def has_only(running: Mapping[int, Run]) -> bool:
    """Whether it is certain that this process has no other children: who was reaped before has left nobody then."""
    own = os.getpid()
    children = _read(f"/proc/{own}/task/{own}/children") if _adopts() else None
    return children is not None and all(int(number) in running for number in children.split())


def children_now() -> set[int]:
    """The numbers of this process's children."""
    return set(_view()[1])


def _adopts() -> bool:
    return _reaper or os.getpid() == 1


def _let_live(process: Process) -> None:
    pass


def _kill(find: Callable[[Visit], set[Process]]) -> set[Process]:
    """Kill whom `find` finds until that is nobody new; who of them still lives."""
    killed: set[Process] = set()

    def kill(process: Process) -> None:
        if process not in killed:
            killed.add(process)
            _send(process, signal.SIGKILL)

    # First all that are there, as long as each has the parent that it is known by; then at once whoever is born.
    for process in _eldest_first(find(_let_live)):
        kill(process)
    for _ in range(_ROUNDS):
        before = len(killed)
        find(kill)
        if len(killed) == before:
            break
    return {process for process in killed if _is_still(process)}


def _eldest_first(processes: Iterable[Process]) -> list[Process]:
    """As systemd signals them, the main process first: a shell that outlives its child prints how that died."""
    return sorted(processes, key=lambda process: (process.started, process.pid))


# Finding them


class _Lists:
    """The kernel's own lists of children (proc_pid_task_tid_children(5))."""

    def children(self, parent: int) -> list[Process]:
        """Who lives of them, also if the parent has ended just now and they are this process's."""
        pids: list[bytes] = []
        with contextlib.suppress(OSError), os.scandir(f"/proc/{parent}/task") as threads:
            for thread in threads:
                pids += (_read(f"/proc/{parent}/task/{thread.name}/children") or b"").split()
        looked = (_look(int(pid)) for pid in pids)
        return [child for child in looked if child is not None and child.parent in (parent, os.getpid())]


class _Table:
    """All processes, looked at one after the other, where there are no such lists or they may not be read."""

    def __init__(self) -> None:
        self.processes = list(filter(None, map(_look, _numbers())))
        self._children: dict[int, list[Process]] = {}
        for process in self.processes:
            self._children.setdefault(process.parent, []).append(process)

    def children(self, parent: int) -> list[Process]:
        """Who still lives of those that it had then."""
        return [child for child in self._children.get(parent, ()) if _is_still(child)]


def _view() -> tuple[_Lists | _Table, list[int]]:
    """A way to see processes, and this one's children. Their list is complete: none goes before it is reaped."""
    own = os.getpid()
    children = _read(f"/proc/{own}/task/{own}/children")
    if children is not None:
        return _Lists(), [int(number) for number in children.split()]
    table = _Table()
    return table, [child.pid for child in table.children(own)]


def _walk(runs: Mapping[Run, int], running: Mapping[int, Run], visit: Visit) -> dict[Run, set[Process]]:
    """The members of each of the runs; each is visited before its children are looked for.

    Who ends meanwhile hands his children over before he is seen to have ended, so nobody is missed once all children
    of this process have been looked at. Where orphans go elsewhere, there is no such proof. Who is too fast to be
    seen at all, by forking and ending again and again, is there as a process that is none.
    """
    own, adopts = os.getpid(), _adopts()
    found: dict[Run, set[Process]] = {run: set() for run in runs}
    seen = {pid for pid, run in running.items() if run not in runs}
    fresh: list[int] = []
    for _ in range(_ROUNDS):
        if adopts:
            view, candidates = _view()
        else:
            view = _Table()
            candidates = [process.pid for process in view.processes]
        fresh = [pid for pid in candidates if pid not in seen]
        if not fresh:
            return found
        seen.update(fresh)
        for pid in fresh:
            process = _look(pid)
            if process is not None and pid != own and (process.parent == own or not adopts):
                run = _run_of(process, runs, running)
                if run in found:
                    _descend(view, process, found[run], visit)
        if not adopts:
            return found
    for of_run in found.values():
        of_run.add(Process(fresh[-1], own, 0, 0))
    return found


def _run_of(process: Process, mains: Mapping[Run, int], running: Mapping[int, Run]) -> Run | None:
    """The run of somebody who is not known as a descendant; `mains` are those in question."""
    if process.pid in running:
        return running[process.pid]
    named = _named_run(process.pid)
    if named in mains:
        return named
    if named or process.parent != os.getpid():
        # Whose parent is another may have got the number of a session that is long over.
        return None
    session = process.session
    return running.get(session) or next((run for run, main in mains.items() if main == session), None)


def _descend(view: _Lists | _Table, process: Process, found: set[Process], visit: Visit) -> None:
    """Add it and all its descendants."""
    waiting = [process]
    while waiting:
        process = waiting.pop()
        if process not in found:
            found.add(process)
            visit(process)
            waiting += view.children(process.pid)


def _surviving(runs: Collection[Run], visit: Visit) -> dict[Run, set[Process]]:
    found: dict[Run, set[Process]] = {}
    table = _Table()
    for process in table.processes:
        run = _named_run(process.pid) if process.pid != os.getpid() else None
        if run in runs and run is not None:
            _descend(table, process, found.setdefault(run, set()), visit)
    return found


# Asking the kernel


def _numbers() -> list[int]:
    try:
        with os.scandir("/proc") as entries:
            return [int(entry.name) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return []


def _read(path: str) -> bytes | None:
    """All of a file of /proc; None if it cannot be read, as that of a process that is gone."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces = []
        while piece := os.read(number, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return None
    finally:
        os.close(number)


def _fields(pid: int) -> list[bytes]:
    """What the kernel tells of a process to anybody, from its state on (proc_pid_stat(5)); empty if it is gone."""
    # The name of the program comes second, in brackets, and may hold anything.
    return (_read(f"/proc/{pid}/stat") or b"").rpartition(b") ")[2].split()


def _look(pid: int) -> Process | None:
    """What is to be known of a process; None if it has ended, reaped or not, or is the kernel's."""
    fields = _fields(pid)
    if not fields:
        return None
    parent, session, flags, threads, started = (int(fields[number]) for number in (1, 3, 6, 17, 19))
    # The first thread of a program may end before the others.
    if (fields[0] in b"ZXx" and threads < 2) or flags & _KERNEL_THREAD:
        return None
    return Process(pid, parent, session, started)


def _is_still(process: Process) -> bool:
    """Whether it lives, it and not another with its number."""
    return _look(process.pid) == process


def _named_run(pid: int) -> Run | None:
    """The run that the environment names with which it was started; None if it names none or is not to be read."""
    path = f"/proc/{pid}/environ"
    environment = _read(path)
    for _ in range(_EXECUTING_MS):
        if environment != b"":
            break
        fields = _fields(pid)
        # In the middle of an execve(2) it has none yet.
        executing = fields and fields[0] not in b"ZXx" and fields[_ENVIRONMENT_END] == b"0"
        if executing:
            time.sleep(0.001)
        environment = _read(path)
        if not executing:
            break
    _, found, rest = (b"\0" + (environment or b"")).partition(_MARK)
    return rest.partition(b"\0")[0].decode("ascii", "replace") if found else None


def _send(process: Process, number: int) -> None:
    """Send a signal to that very process, not to one that has got its number since. Errors are passed over."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        # It is gone, or there is no descriptor to be had: then the moment between look and signal must do.
        handle = -1
    with contextlib.suppress(OSError):
        if _is_still(process):
            if handle >= 0:
                signal.pidfd_send_signal(handle, number)
            else:
                os.kill(process.pid, number)
    if handle >= 0:
        os.close(handle)
