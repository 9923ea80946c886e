"""What the timers of applied jobs will do, and do: the next elapse is next_after(), and jobs start on time."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from sdcron.jobfile import Context, parse_text
from sdcron.schedule import parse_schedule
from tests.machine import CHECKOUT, until
from tests.system.jobs import JOBS, apply, starts, yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Machine

MANY = 1000
ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe")
#: Zones that jobs of their own name.
OTHER_ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "America/Havana", "Europe/Dublin", "Pacific/Chatham")
EXAMPLES = CHECKOUT / "packaging/examples/jobs"

#: Seconds by which a start may be behind its instant: AccuracySec=1s, and the time it takes.
LATEST = 1.1


# Schedules of every form


def _numbers(chance: random.Random, low: int, high: int) -> str:
    first, last = sorted((chance.randint(low, high), chance.randint(low, high)))
    forms = (
        str(first),
        ",".join(str(number) for number in sorted({first, last, chance.randint(low, high)})),
        f"{first}-{last}",
        f"{first}-{last}/{chance.randint(1, 5)}",
        f"*/{chance.randint(2, high - low)}",
        "H",
        f"H({first}-{last})",
        f"H/{chance.randint(2, high - low)}",
    )
    return chance.choice(forms)


def _cron(chance: random.Random) -> str:
    days = ("*", "*", "L", _numbers(chance, 1, 28), f"{chance.randint(1, 9)},L")
    weekdays = ("*", "*", "mon-fri", "5L", "sun#1", f"{chance.randint(0, 6)}#{chance.randint(1, 4)}", "1,3,5", "H")
    months = ("*", "*", "*", _numbers(chance, 1, 12), "jan,jul", "mar-oct")
    day, weekday = chance.choice(days), chance.choice(weekdays)
    if "L" in weekday and day != "*":
        day = "*"  # the two cannot be combined with a step
    hour = chance.choice(("*", _numbers(chance, 0, 23), _numbers(chance, 0, 23)))
    return f"{_numbers(chance, 0, 59)} {hour} {day} {chance.choice(months)} {weekday}"


def _cron_with_seconds(chance: random.Random) -> str:
    # Few of them are due in any minute: what fires while it is looked at cannot be compared.
    return f"{_numbers(chance, 0, 59)} {chance.randint(0, 59)} {_numbers(chance, 0, 23)} * * *"


def _macro(chance: random.Random) -> str:
    return chance.choice(("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"))


def _every(chance: random.Random) -> str:
    return "every " + chance.choice(("10m", "15m", "90m", "2h", "8h", "12h", "1d", "3d", "1w", "2w", "10d", "1h30m"))


def _at(chance: random.Random) -> str:
    times = ", ".join(f"{chance.randint(0, 23):02}:{chance.randint(0, 59):02}" for _ in range(chance.randint(1, 3)))
    if chance.random() < 0.7:
        return f"at {times}"
    return f"at {chance.randint(2030, 2060)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02} {times[:5]}:07"


def _calendar(chance: random.Random) -> str:
    return chance.choice(
        (
            f"Mon..Fri *-*-* {chance.randint(0, 23):02}:{chance.randint(0, 59):02}",
            f"*-*-{chance.randint(1, 31):02} 12:00:{chance.randint(0, 59):02}",
            f"*-*~{chance.randint(1, 9):02} 23:45",
            f"Sat,Sun {chance.randint(0, 23)}:30",
            f"*-{chance.randint(1, 12):02}-01..07 09:00",
            "weekly",
            "quarterly",
            f"*:{chance.randint(0, 9)}/10",
            "2/4:15",
            f"Fri *-*-13 {chance.randint(0, 23):02}:13",
            f"*-*-* {chance.randint(0, 23):02}:05:00 {chance.choice(('UTC', 'Europe/Dublin', 'Asia/Tokyo'))}",
        )
    )


FORMS: tuple[Callable[[random.Random], str], ...] = (_cron, _cron, _cron_with_seconds, _macro, _every, _at, _calendar)


def job_texts(seed: int = 1) -> dict[str, str]:
    """The files of the thousand jobs, the same for the same seed. Combinations that no date fits are left out."""
    chance = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < MANY:
        job: dict[str, object] = {"command": "/bin/true"}
        schedules = [chance.choice(FORMS)(chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        job["schedule"] = schedules[0] if len(schedules) == 1 else schedules
        if chance.random() < 0.2:
            job["timezone"] = chance.choice(OTHER_ZONES)
        if chance.random() < 0.2:
            job["spread"] = chance.choice(("90s", "20m", "1h"))
        if chance.random() < 0.3:
            job["missed"] = "skip"
        path = f"{JOBS}/many-{len(texts):04}.yaml"
        if not parse_text(yaml(job), path, Context(local_timezone="UTC", machine_id="0" * 32))[1]:
            texts[path] = yaml(job)
    return texts


# What systemd makes of them


#: Reads job files as apply does, and answers each line of two times with next_after() of both for every job.
ORACLE = """
import json, pathlib, sys
from datetime import datetime
from sdcron.jobfile import Context, parse_text
from sdcron.schedule import parse_schedule
from sdcron.machine import local_timezone, machine_id
root = pathlib.Path("/")
context = Context(local_timezone=local_timezone(root), machine_id=machine_id(root))
assert context.local_timezone.removeprefix("Etc/") == sys.argv[2], context
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    jobs, problems = parse_text(path.read_text(), str(path), context)
    assert not problems, problems
    found.update({job.name: job.schedule for job in jobs if job.schedule and job.schedule.entries and job.enabled})
for line in sys.stdin:
    answers = {}
    for name, schedule in found.items():
        moments = [schedule.next_after(datetime.fromisoformat(text)) for text in line.split()]
        answers[name] = [moment and moment.isoformat() for moment in moments]
    print(json.dumps(answers))
"""


def next_after(machine: Machine, zone: str, *times: datetime) -> dict[str, list[datetime | None]]:
    """The next elapse after each time, for each job with times, from its file, with the machine's own zones."""
    asked = " ".join(time.isoformat() for time in times)
    told = machine.run(["python3", "-c", ORACLE, JOBS, zone], input=f"{asked}\n").stdout
    return {name: [text and datetime.fromisoformat(text) for text in texts] for name, texts in json.loads(told).items()}


def elapses(machine: Machine) -> dict[str, datetime | None]:
    """NextElapseUSecRealtime of every timer, asked over D-Bus in one call, by job name."""
    # TZ and not --timestamp=: 252 and 257 print these in local time whatever that says.
    command = ["systemctl", "show", "--property=Id,NextElapseUSecRealtime", "sdcron-*.timer"]
    shown = machine.run(command, env={"TZ": "UTC"}).stdout
    found: dict[str, datetime | None] = {}
    for block in shown.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if line)
        text = fields["NextElapseUSecRealtime"]
        moment = datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) if text else None
        found[fields["Id"].removeprefix("sdcron-").removesuffix(".timer")] = moment
    return found


def is_between(moment: datetime | None, first: datetime | None, last: datetime | None) -> bool:
    """Whether all are moments, in this order."""
    return moment is not None and first is not None and last is not None and first <= moment <= last


def assert_elapses(machine: Machine, zone: str) -> int:
    """Every timer's next elapse is what next_after() says; one that elapses while it is looked at is asked again.

    Of one that elapses each time, as on a busy machine one of every second, it is between what that says before and
    after. Returns how many timers there are.
    """
    left: set[str] | None = None
    for attempt in range(5):
        before = datetime.now(UTC)
        seen = elapses(machine)
        expected = next_after(machine, zone, before, datetime.now(UTC))
        assert seen.keys() >= expected.keys()
        left = {name for name in (left or expected) if expected[name] != [seen[name]] * 2}
        if attempt == 4:
            left = {name for name in left if not is_between(seen[name], *expected[name])}
        if not left:
            return len(expected)
        time.sleep(0.5)
    pytest.fail("\n".join(f"{name}: {seen[name]}, not {expected[name]}" for name in sorted(left or ())[:20]))


def assert_list_says_the_same(machine: Machine) -> None:
    """`sdcron list --json` tells the times that systemd has; one that elapses while it is looked at is asked again."""
    left: set[str] | None = None
    for _ in range(5):
        before = elapses(machine)
        rows = json.loads(machine.sdcron("list", "--json").stdout)
        told = {row["job"]: row["next_run_at"] and datetime.fromisoformat(row["next_run_at"]) for row in rows}
        after = elapses(machine)
        left = {name for name in (left or before) if told[name] not in (before[name], after[name])}
        if not left:
            return
    pytest.fail("\n".join(f"{name}: {told[name]}, not {before[name]}" for name in sorted(left or ())[:20]))


@pytest.mark.timeout(300)
def test_each_of_a_thousand_timers_elapses_when_next_after_says_in_three_zones(fresh_machine: Machine) -> None:
    texts = job_texts()
    fresh_machine.write_files(texts)
    for zone in ZONES:
        fresh_machine.set_zone(zone)
        fresh_machine.sdcron("apply", JOBS)
        assert assert_elapses(fresh_machine, zone) == MANY
    assert_list_says_the_same(fresh_machine)


def test_every_example_job_applies_and_elapses_when_sdcron_next_says(machine: Machine) -> None:
    texts = {f"{JOBS}/{path.name}": path.read_text() for path in EXAMPLES.glob("*.yaml")}
    machine.write_files(texts)
    machine.sdcron("apply", JOBS)
    assert assert_elapses(machine, "UTC") >= 10
    assert_list_says_the_same(machine)
    for name in ("database-dump", "working-hours-report", "license-reminder", "certificate-renewal"):
        for _ in range(2):
            told = json.loads(machine.sdcron("next", name, "-n", "1", "--json").stdout)
            if datetime.fromisoformat(told[0]) == elapses(machine)[name]:
                break
        else:
            pytest.fail(f"{name}: {told}, not {elapses(machine)[name]}")


# When they start


def test_jobs_start_within_a_second_and_a_tenth_of_their_instants(machine: Machine) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=6)
    berlin = soon.astimezone(ZoneInfo("Europe/Berlin"))
    schedules: dict[str, dict[str, str]] = {
        "cron": {"schedule": "*/3 * * * * *"},
        "every": {"schedule": "every 4s"},
        "calendar": {"schedule": "*:*:1/5"},
        "skip": {"schedule": "*/3 * * * * *", "missed": "skip"},
        "once": {"schedule": f"at {soon:%Y-%m-%d %H:%M:%S}"},
        "zone": {"schedule": f"at {berlin:%H:%M:%S}", "timezone": "Europe/Berlin"},
        "exact": {"schedule": "*/2 * * * * *", "accuracy": "1ms"},
    }
    jobs = {name: {**job, "command": "/bin/true"} for name, job in schedules.items()}
    since = time.time()
    apply(machine, jobs)
    applied = time.time()
    until(lambda: time.time() > soon.timestamp() + 6, 30, "the time for the runs is over")
    began = starts(machine, since)
    ended = time.time() - LATEST - 1
    for name, job in schedules.items():
        schedule = parse_schedule(job["schedule"], timezone=job.get("timezone"))
        instants = [applied]
        while (moment := schedule.next_after(datetime.fromtimestamp(instants[-1], UTC))) and moment.timestamp() < ended:
            instants.append(moment.timestamp())
        late = [min((at - instant for at in began[name] if at >= instant), default=999) for instant in instants[1:]]
        assert late, name
        assert max(late) <= LATEST, (name, late)
        assert len([at for at in began[name] if applied <= at <= instants[-1] + LATEST]) <= len(late) + 1, name
        if name == "exact":
            assert min(late) < 0.2, late
    assert (len(began["once"]), len(began["zone"])) == (1, 1)
