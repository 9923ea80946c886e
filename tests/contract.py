"""What the contract tests run jobs in: the engine's core with a made-up clock, a real engine, and real systemd.

All of them are a World: jobs are applied, started and stopped in it, the machine goes down and comes back, and the
records are read with `sdcron history --json`. A case is a function that yields what it waits for, so that all cases of
one world wait at the same time; where the clock is made up, each has a world of its own, and waits take no time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from tests.contract_jobs import PLACE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence


Record = dict[str, Any]
Jobs = dict[str, dict[str, Any]]
#: Seconds for any one wait of a case. Most take one; the rest is for a machine that is busy with other things.
PATIENCE = 120.0


class Down(StrEnum):
    """How the jobs are interrupted, for all cases of a world at once: once none of them waits for anything else."""

    NOT_YET = "not yet"
    """Not at all: only wait until then."""
    RESTART = "restart"
    """An orderly end, and a new beginning: the machine is booted anew, the engine ended by SIGTERM."""
    CRASH = "crash"
    """The power is cut, the engine killed."""


@dataclass(frozen=True)
class Wait:
    """Go on when `over` says so, or the clock shows `at`."""

    what: str
    over: Callable[[], bool] = lambda: False
    at: datetime | None = None


if TYPE_CHECKING:
    Steps = Generator[Wait | Down, None, None]


@dataclass(frozen=True)
class Act:
    """What a command does, as a shell says it and as a made-up process does it."""

    prints: str = ""
    exits: int = 0
    dies: str = ""
    """The signal that it sends itself, such as KILL."""
    lasts: float = 0.0
    """Seconds."""
    on_term: str = "dies"
    """Or `obeys`: says bye and exits with 0; or `ignores`."""
    leaves: float = 0.0
    """For how many seconds a child goes on, in a session of its own."""
    patient: bool = False
    """Whether it goes on until World.let_go is called for its job."""
    fails_at: str = ""
    """The step of its start that fails, of a made-up process only."""

    def shell(self) -> str:
        """For /bin/sh."""
        traps = {"dies": "", "obeys": "trap 'echo bye; exit 0' TERM; ", "ignores": "trap '' TERM; "}
        parts = [f"setsid sleep {self.leaves} & "] if self.leaves else []
        parts.append(f"echo {self.prints}; " if self.prints else "")
        parts.append(f": >{PLACE}/marks/$0; ")
        rest = {"dies": f"sleep {self.lasts}; ", "obeys": f"sleep {self.lasts} & wait $!; "}
        loop = f"for i in $(seq {int(self.lasts * 5)}); do sleep 0.2; done; "
        parts.append(f"until [ -e {PLACE}/marks/let-go-$0 ]; do sleep 0.1; done; " if self.patient else "")
        parts.append((rest.get(self.on_term) or loop) if self.lasts else "")
        return traps[self.on_term] + "".join(parts) + (f"kill -{self.dies} $$" if self.dies else f"exit {self.exits}")


@dataclass(frozen=True)
class Acts:
    """What the runs of one job do, one after the other; the last goes for all that follow."""

    each: tuple[Act, ...]

    def argv(self, job: str) -> list[str]:
        """The command that does it."""
        if len(self.each) == 1:
            return ["/bin/sh", "-c", self.each[0].shell(), job]
        count = f"{PLACE}/counts/$0"
        cases = "".join(f"{number}) {act.shell()};; " for number, act in enumerate(self.each[:-1], start=1))
        text = f"echo >>{count}; case $(wc -l <{count}) in {cases}*) {self.each[-1].shell()};; esac"
        return ["/bin/sh", "-c", text, job]


def acts(*each: Act) -> Acts:
    """The commands of one job's runs."""
    return Acts(each or (Act(),))


class World(Protocol):
    """Somewhere that jobs run."""

    @property
    def backend(self) -> str:
        """`fake`, `local` or `systemd`."""

    @property
    def directory(self) -> str:
        """What @DIR@ stands for in the jobs."""

    def apply(self, jobs: Jobs) -> None:
        """Have these jobs too, at the latest before the next wait."""

    def start(self, *names: str) -> None:
        """Start jobs by hand then, and do not wait; of one that runs, what its `overlap` says comes of that."""

    def carry_out(self) -> None:
        """Do now what `apply` and `start` are to do."""

    def stop(self, name: str) -> None:
        """As an administrator, and wait until it is over."""

    def let_go(self, name: str) -> None:
        """Have the run end that waits for it, and those that follow."""

    def go_down(self, how: Down, seconds: float) -> None:
        """Interrupt everything, for at least so many seconds, and come back."""

    def pass_time(self, until: datetime | None) -> None:
        """Let happen what happens next, or the clock reach a time."""

    def now(self) -> datetime:
        """What the world's clock shows."""

    def write(self, files: Mapping[str, str]) -> None:
        """Files there, by path."""

    def sdcron(self, *arguments: str) -> tuple[int, str, str]:
        """A command's exit code, standard output and standard error."""

    def marked(self, name: str) -> bool:
        """Whether a run of the job has come as far as it says."""

    def alive(self, pids: Sequence[str]) -> list[str]:
        """Those of these processes that there are."""

    @property
    def seen(self) -> dict[str, list[Record]]:
        """The records by job, oldest first, as of the last `look`."""

    def look(self) -> None:
        """Read the records."""


# What cases wait for


def runs(world: World, job: str, count: int) -> Wait:
    """So many of the job's runs are on record."""
    return Wait(f"{count} runs of {job} are on record", lambda: len(world.seen.get(job, ())) >= count)


def passed(world: World, **length: float) -> Wait:
    """So much time has passed."""
    moment = world.now() + timedelta(**length)
    return Wait(f"it is {moment}", at=moment)


def begun(world: World, job: str) -> Wait:
    """A run of it has come as far as it says."""
    return Wait(f"{job} runs", lambda: world.marked(job))


# How cases are played


@dataclass
class _Player:
    name: str
    steps: Steps
    wait: Wait | Down | None = None
    since: float = field(default_factory=time.monotonic)
    asked: int = 0

    def go_on(self) -> None:
        """Up to the next wait. Raises what the case raises, and StopIteration at its end."""
        self.wait, self.since = next(self.steps), time.monotonic()

    def may_go_on(self, world: World) -> bool:
        wait = self.wait
        if not isinstance(wait, Wait):
            return wait is None
        return wait.over() or (wait.at is not None and world.now() >= wait.at)


def play(world: World, cases: Mapping[str, Callable[[World], Steps]]) -> dict[str, Exception]:
    """Play cases to their ends, all at the same time; what went wrong in which."""
    problems: dict[str, Exception] = {}
    players = [_Player(name, steps(world)) for name, steps in cases.items()]
    while players:
        world.look()
        for player in list(players):
            try:
                while player.may_go_on(world):
                    player.go_on()
                _see_to_patience(world, player)
            except StopIteration:
                players.remove(player)
            except Exception as error:  # noqa: BLE001 - an AssertionError above all; told by the case's own test
                problems[player.name] = error
                players.remove(player)
        world.carry_out()
        downs = [how for how in Down if any(player.wait is how for player in players)]
        waits = [player.wait for player in players if isinstance(player.wait, Wait)]
        if waits:
            times = [wait.at for wait in waits if wait.at is not None]
            world.pass_time(min(times) if times else None)
        elif downs:
            if downs[0] is not Down.NOT_YET:
                world.go_down(downs[0], 2.2)
            for player in players:
                if player.wait is downs[0]:
                    player.wait = None
    return problems


def _see_to_patience(world: World, player: _Player) -> None:
    """Raises AssertionError where nothing more is to be waited for."""
    player.asked += 1
    late = time.monotonic() - player.since > PATIENCE
    assert not (isinstance(player.wait, Wait) and late), f"still not: {player.wait}, {world.seen.get(player.name)}"


def by_job(found: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by job, the oldest first, also of those that began at the same time."""
    jobs: dict[str, list[Record]] = {}
    for record in sorted(found, key=lambda record: str(record["started_at"])):
        jobs.setdefault(record["job"], []).append(record)
    return jobs
