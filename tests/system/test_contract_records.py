"""The same fifty job files, run by systemd and by the engine on the same machine: what their records differ in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract_jobs import FIFTY, FILES, PLACE, PROGRAMS, sh
from tests.contract_worlds import LocalWorld, SystemdWorld
from tests.machine import until
from tests.system.jobs import yaml
from tests.system.records import check_shape, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract import Record
    from tests.machine import Machine

SHARED = "/srv/contract"

#: What is another's by nature. Times are compared by whether there are any.
OWN = {"run_id", "backend", "cpu_s", "memory_peak_bytes", "job_digest"}
TIMES = {"scheduled_at", "started_at", "finished_at", "duration_s", "lateness_s"}


@pytest.fixture
def engine(machine: Machine) -> Iterator[LocalWorld]:
    """An engine on a machine whose systemd runs jobs too."""
    world = LocalWorld(machine, "/srv/local", "python3")
    try:
        yield world
    finally:
        world.switch_off()
        machine.run(["rm", "-rf", "/srv/local", SHARED])


def test_fifty_job_files_make_the_same_records_with_systemd_and_with_the_engine(
    machine: Machine, engine: LocalWorld
) -> None:
    assert len(FIFTY) == 50
    # Of jobs of the same names in earlier tests nothing is to be on record.
    prepare(machine)
    machine.write_files({f"{SHARED}/{name}": text for name, text in FILES.items()})
    machine.write_files({f"{SHARED}/{name}": FILES[name] for name in PROGRAMS}, mode=0o755)
    worlds = (SystemdWorld(machine, "/srv/systemd"), engine)
    for world in worlds:
        world.apply({name: with_place(made.job) for name, made in FIFTY.items()})
        world.carry_out()
    engine.switch_on()
    for world in worlds:
        world.start(*FIFTY)
        world.carry_out()

    def over(names: set[str]) -> bool:
        for world in worlds:
            world.look()
        counts = [len(world.seen.get(name, ())) >= FIFTY[name].records for world in worlds for name in names]
        return all(counts)

    stopped = {name for name, made in FIFTY.items() if made.stopped}
    until(lambda: over(FIFTY.keys() - stopped), 60, "all but those that go on are over")
    for world in worlds:
        for name in stopped:
            world.stop(name)
    until(lambda: over(set(FIFTY)), 30, "all are over")
    by_systemd, by_engine = (world.seen for world in worlds)
    machine.run(["rm", "-rf", "/srv/systemd"])
    counts = {name: made.records for name, made in FIFTY.items()}
    for seen in (by_systemd, by_engine):
        assert {name: len(found) for name, found in seen.items()} == counts
        assert {name: found[-1]["outcome"] for name, found in seen.items()} == {
            name: made.outcome for name, made in FIFTY.items()
        }
    differences = [
        difference
        for name in FIFTY
        for one, other in zip(by_systemd[name], by_engine[name], strict=True)
        for difference in differing(one, other)
    ]
    assert not differences, "\n".join(differences)


def with_place(value: Any) -> Any:
    """A job with the shared directory in it."""
    if isinstance(value, str):
        return value.replace(PLACE, SHARED)
    if isinstance(value, dict):
        return {key: with_place(item) for key, item in value.items()}
    return [with_place(item) for item in value] if isinstance(value, list) else value


def differing(of_systemd: Record, of_engine: Record) -> list[str]:
    """What two records of the same job differ in that they must not."""
    for record in (of_systemd, of_engine):
        check_shape({**record, "backend": "systemd"})
    assert (of_systemd["backend"], of_engine["backend"]) == ("systemd", "local")
    one, other = comparable(of_systemd), comparable(of_engine)
    if one["exit_code"] is None and one["signal"] is None and other["exit_code"] is not None and says_no_status(one):
        other["exit_code"] = None
    name = of_systemd["job"]
    return [f"{name}: {key} is {one[key]!r}, and {other[key]!r}" for key in one if one[key] != other[key]]


def says_no_status(record: Record) -> bool:
    """Whether systemd tells of such an end only as long as the unit is loaded: of a success, and one it asked for."""
    return record["outcome"] == "success" or "stopped" in record["reason"] or "timeout" in record["reason"]


def comparable(record: Record) -> Record:
    """A record as it must be the same whoever ran the job."""
    found = {key: value for key, value in record.items() if key not in OWN}
    found |= {key: found[key] is not None for key in TIMES}
    # Of a step of the start that failed the releases of systemd give different reasons: for the same missing user it is
    # "No such process" (252, 257) or "Invalid argument" (262), for a missing credential "Protocol error" (252, 257).
    found["reason"] = re.sub(r"(at step (?:USER|GROUP|CREDENTIALS)): .*", r"\1", record["reason"])
    return found


#: Job files that each backend refuses, in the same words: mistakes, and what this version does not have.
REFUSED: tuple[dict[str, dict[str, Any]], ...] = (
    {"misspelt": {"shedule": "@daily"}, "no-time": {"schedule": "61 * * * *"}, "no-user": {"user": "a b"}},
    {"overlap": {"overlap": "allow", "retry": "5m"}, "parallel": {"max_parallel": 2}},
    {"notify": {"notify": {"failure": "mailto:a@example.org"}}, "ping": {"ping": "https://example.org/x"}, "other": {}},
)


def test_what_one_refuses_the_other_refuses_in_the_same_words(machine: Machine) -> None:
    places = (("--backend", "systemd"), ("--backend", "local", "--root", "/srv/refused/root"))
    for refused in REFUSED:
        lines = [f"  {name}: {yaml({**job, 'command': ['/bin/true']})}\n" for name, job in refused.items()]
        machine.write("/srv/refused/jobs.yaml", "jobs:\n" + "".join(lines))
        first, second = (machine.sdcron("apply", *place, "/srv/refused", status=3).stderr for place in places)
        assert first == second
        wrong = {number for number, job in enumerate(refused.values(), start=2) if job}
        assert {int(line.split(":")[1]) for line in first.splitlines() if line.startswith("/srv/refused")} == wrong
    assert [machine.sdcron("list", *place, "--json").stdout.strip() for place in places] == ["[]", "[]"]
    machine.run(["rm", "-rf", "/srv/refused"])


def test_who_is_not_root_is_refused_jobs_of_others_and_nothing_is_applied(machine: Machine) -> None:
    jobs = {
        "another": {"user": "daemon", "command": sh("id -un")},
        "another-group": {"group": "daemon", "command": sh("id -gn")},
        "less-nice": {"priority": {"nice": -20}, "command": ["/bin/true"]},
    }
    text = "jobs:\n" + "".join(f"  {name}: {yaml(job)}\n" for name, job in jobs.items())
    machine.write("/home/tester/refused/jobs.yaml", text, owner="tester")
    options = ("--backend", "local", "--root", "/home/tester/root")
    words = machine.sdcron("apply", *options, "/home/tester/refused", user="tester", status=3).stderr
    assert "'user: daemon' needs root: this engine may not run jobs as another user" in words
    assert "'group: daemon' needs root: this engine may not run jobs as another group" in words
    assert words.count("jobs.yaml:") == 3, words
    assert machine.sdcron("list", *options, "--json", user="tester").stdout.strip() == "[]"
    machine.run(["rm", "-rf", "/home/tester/refused", "/home/tester/root"])
