"""Chains of the engine: killed at any instant it loses no start and makes none twice; edits run nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.agenda_memory import Chain, Memory
from sdcron.runs import Asked
from tests.contract import Act, Down, acts
from tests.contract_fake import FakeWorld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdcron.engine_keep import Keeper
    from sdcron.store import Batch

RAN = ("after", "success")


class Killed(Exception):
    """The engine is no more."""


def on_record(world: FakeWorld, job: str) -> list[tuple[str, str]]:
    """Trigger and outcome of the job's runs, the oldest first."""
    found: list[dict[str, Any]] = json.loads(world.sdcron("history", "--json", "-n", "0")[1])
    return [(run["trigger"], run["outcome"]) for run in found[::-1] if run["job"] == job]


def settle(world: FakeWorld) -> None:
    """Let happen what happens at once."""
    for _ in range(40):
        world.engine.step(0)


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, before: bool) -> None:
    """Have the engine die when it keeps something for that many times, before or after it is kept."""
    from sdcron import engine_keep

    keep: Callable[[Keeper, Batch], object] = engine_keep.Keeper.keep
    count = 0

    def counted(keeper: Keeper, batch: Batch) -> None:
        nonlocal count
        something = batch.closed or batch.open_runs or batch.memories
        count += bool(something)
        if before and something and count == number:
            raise Killed
        keep(keeper, batch)
        if something and count == number:
            raise Killed

    monkeypatch.setattr(engine_keep.Keeper, "keep", counted)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 9))
def test_an_engine_that_is_killed_at_any_instant_runs_what_comes_after_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, before: bool
) -> None:
    world = FakeWorld(tmp_path)
    world.apply(
        {
            "a": {"command": acts()},
            "b": {"after": "a", "command": acts()},
            "c": {"after": ["a", "b"], "command": acts()},
        }
    )
    settle(world)
    with monkeypatch.context() as patch:
        killed_at(patch, number, before=before)
        try:
            world.start("a")
            settle(world)
        except Killed:
            pass
    world.switch_off(Down.CRASH)
    world.switch_on()
    settle(world)
    first = on_record(world, "a")
    if not first:
        # It was killed before anything of it was kept, and whoever asked had no answer.
        assert (number, before, on_record(world, "b")) == (1, True, [])
        return
    assert [len(on_record(world, name)) for name in "abc"] == [1, 1, 1]
    if first == [("manual", "success")] and on_record(world, "b") == [RAN]:
        assert on_record(world, "c")[0] in (RAN, ("after", "abandoned"))
    # The next time all is as ever.
    world.start("a")
    settle(world)
    assert [on_record(world, name)[1:] for name in "bc"] == [[RAN], [RAN]]
    world.switch_off()


def test_a_start_that_was_asked_for_is_made_by_the_next_engine(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.apply({"a": {"command": acts(Act(exits=1))}, "b": {"after": "a", "command": acts()}})
    chain = world.engine.agenda.memory("b").chain
    chain.due = ("a",)
    world.engine.book.keep()
    world.switch_off(Down.CRASH)
    world.switch_on()
    settle(world)
    assert on_record(world, "b") == [("after", "skipped")]
    world.switch_off()


def test_an_edit_begins_anew_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    two = {"a": {"command": acts()}, "b": {"command": acts()}}
    world.apply({**two, "d": {"after": ["a", "b"], "needs": ["a", "b"], "command": acts()}})
    world.start("a")
    settle(world)
    assert world.engine.agenda.memory("d").chain == Chain(("a", "b"), {"a": True}, {"a"})
    world.apply({"d": {"after": "a", "needs": "b", "command": acts()}})
    settle(world)
    assert on_record(world, "d") == []
    assert world.engine.agenda.memory("d").chain == Chain(("a",))
    world.apply({"d": {"command": acts(), "schedule": "@yearly"}})
    assert not world.engine.agenda.memory("d").chain
    world.start("a")
    settle(world)
    assert on_record(world, "d") == []
    world.switch_off()


def test_a_disabled_job_is_not_started_and_its_gate_holds(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.apply({"a": {"command": acts()}, "d": {"after": "a", "needs": "a", "enabled": False, "command": acts()}})
    world.start("d")
    settle(world)
    world.start("a")
    settle(world)
    world.start("d")
    settle(world)
    assert on_record(world, "d") == [("manual", "skipped"), ("manual", "success")]
    world.switch_off()


@pytest.mark.parametrize(
    "chain",
    [
        "7",
        [],
        [["a"], {"a": 1}, [], None],
        [["a"], {}, [1], None],
        [[], {}, [], 5],
        [["a"], [], [], None],
        [[3], {}, [], []],
    ],
)
def test_what_cannot_be_read_of_a_chain_is_a_job_that_nothing_is_known_of(chain: object) -> None:
    text = Memory(due_us=5, chain=Chain(("a",), {"a": True}, {"b"}, ("c",))).text()
    assert Memory.of(text).chain == Chain(("a",), {"a": True}, {"b"}, ("c",))
    assert Memory.of(json.dumps({**json.loads(text), "chain": chain})) == Memory()
    assert "chain" not in Memory(due_us=5).text()


def test_a_run_for_an_instant_of_its_own_is_none_of_a_chain(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.apply({"a": {"command": acts()}, "b": {"after": "a", "needs": "a", "command": acts()}})
    world.engine.start_by_hand("a", Asked(for_us=5))
    settle(world)
    assert on_record(world, "b") == []
    world.start("a")
    settle(world)
    assert on_record(world, "b") == [RAN]
    world.switch_off()
