"""Transient units: every text that sdcron writes as the properties that systemd is given, or refused by name."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.apply_transient import TransientApplier
from sdcron.backends import unit_values
from sdcron.backends.transient import Property, refusals, transient_units, unit_properties
from sdcron.backends.unit_syntax import commands, expand_specifiers, settings, words
from sdcron.desired import Desired, plan_jobs
from sdcron.errors import BackendError, JobFileError, SdcronError
from sdcron.escape import Place, escape
from sdcron.installed import read_installed
from sdcron.job import Missed
from sdcron.jobset import JobPaths
from sdcron.operations import Place as Where
from sdcron.operations import make_place
from sdcron.paths import Paths, system_paths
from sdcron.plan import make_plan, removal_plan
from sdcron.record import Record
from sdcron.units import CompiledJob, Unit
from tests.compiled import DIRECTORY, compiled, install, tree
from tests.fake_backend import FakeBackend, Loaded
from tests.test_escape import NONCHARACTERS, TEXTS, VALUES
from tests.test_units import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in (".service", ".timer"))
#: A specifier passed through: systemd expands none in a property.
WITH_SPECIFIERS = {"systemd.service", "systemd.timer", "systemd.user.service", "systemd.user.timer"}
LEFT_OUT = {"Install", "X-Sdcron"}


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def properties(lines: str, section: str = "Service") -> list[Property]:
    return unit_properties(f"[{section}]\n{lines}\n")


def values(found: Sequence[Property], name: str) -> list[Any]:
    return [value for key, _, value in found if key == name]


# Every unit that sdcron writes


@pytest.mark.parametrize("name", UNITS)
def test_every_line_of_a_golden_unit_becomes_a_property(name: str) -> None:
    text = golden(name)
    if name in WITH_SPECIFIERS and "%n" in text:
        with pytest.raises(BackendError, match="the specifier %n is not known to transient units"):
            unit_properties(text)
        return
    for section, key, value in settings(text):
        # One line alone: nothing is lost among others.
        found = unit_properties(f"[{section}]\n{key}={value}\n")
        assert bool(found) == (section not in LEFT_OUT and (section, key) != ("Timer", "Unit")), f"{key}={value}"
    assert unit_properties(text)


def test_golden_units_become_exactly_these_properties() -> None:
    expected: dict[str, list[Property]] = {
        "environment.service": [
            ("Environment", "as", [b"LANG=C.UTF-8"]),
            ("Environment", "as", [b"KEEP_DAYS=14"]),
            ("Environment", "as", ["HOSTILE=%n $HOME ${X} \\ ' \" \t é😀".encode()]),
            ("Environment", "as", [b"EMPTY="]),
            ("Environment", "as", [b"BLANKS=  a  "]),
        ],
        "environment_file.service": [
            ("EnvironmentFiles", "a(sb)", [(b"/etc/default/100%", False)]),
            ("EnvironmentFiles", "a(sb)", [(b"/etc/app/env.local", True)]),
        ],
        "credentials.service": [
            ("LoadCredential", "a(ss)", [(b"db-password", b"/etc/secrets/100%/db-password")]),
            ("LoadCredentialEncrypted", "a(ss)", [(b"api-key", b"/etc/credstore.encrypted/api-key")]),
        ],
        "limits.service": [
            ("MemoryMax", "t", 512 * 1024**2),
            ("CPUQuotaPerSecUSec", "t", 1_500_000),
            ("TasksMax", "t", 64),
            ("LimitNOFILE", "t", 4096),
            ("LimitNOFILESoft", "t", 4096),
        ],
        "priority.service": [
            ("Nice", "i", 10),
            ("IOSchedulingClass", "i", 2),
            ("IOSchedulingPriority", "i", 7),
            ("CPUWeight", "t", 20),
        ],
        "success_exit.service": [("SuccessExitStatus", "(aiai)", ([1, 24], [13]))],
        "timeout.service": [
            ("TimeoutStartUSec", "t", 5_400_000_000),
            ("TimeoutStopUSec", "t", 20_000_000),
            ("KillSignal", "i", 2),
        ],
        "umask.service": [("UMask", "u", 0o27)],
        "user.service": [("User", "s", b"www-data")],
    }
    plain = unit_properties(golden("umask.service"))
    names = {key for key, _, _ in plain} - {"UMask"}
    for name, wanted in expected.items():
        found = [line for line in unit_properties(golden(name)) if line[0] not in names]
        assert found == wanted, name
    conditions = [value for [value] in values(unit_properties(golden("when-skip.service")), "Conditions")]
    assert conditions == [
        (b"ConditionPathIsMountPoint", False, False, b"/backup"),
        (b"ConditionPathIsMountPoint", False, False, b"/mnt/my disk"),
        (b"ConditionPathExists", False, False, b"/etc/app/100%"),
        (b"ConditionPathExists", False, True, b"/run/maintenance"),
        (b"ConditionPathExists", False, True, b"/run/other"),
        (b"ConditionACPower", False, False, b"yes"),
    ]
    retry = unit_properties(golden("retry.service"))
    assert values(retry, "OnFailure") == [[b"sdcron-retry@retry.service"]]
    assert values(retry, "Conflicts") == [[b"sdcron-retry@retry-%d.timer" % number for number in (1, 2, 3)]]
    [[(path, argv, flags)]] = values(retry, "ExecStopPostEx")
    assert (path, argv[:2], argv[3:]) == (
        b"/bin/sh",
        [b"/bin/sh", b"-c"],
        [b"sdcron-retry", b"sdcron-retry.service", b"/run/sdcron/retry/retry"],
    )
    assert flags == [b"ignore-failure", b"privileged"]
    strict = unit_properties(golden("sandbox-strict.service"))
    assert values(strict, "ProtectSystem") == [b"full", b"strict"]
    assert values(strict, "CapabilityBoundingSet") == [0]
    assert values(strict, "RestrictNamespaces") == [0]
    assert values(strict, "SystemCallFilter") == [(True, [b"@system-service"])]
    assert values(strict, "SystemCallErrorNumber") == [1]
    timer = unit_properties(golden("schedule-list.timer"))
    lines = [setting.value for setting in settings(golden("schedule-list.timer")) if setting.key == "OnCalendar"]
    assert len(lines) > 2
    assert values(timer, "TimersCalendar") == [[(b"OnCalendar", line.encode())] for line in lines]
    wake = unit_properties(golden("when-wake.timer"))
    assert values(wake, "WakeSystem") == [True]


def test_a_retry_timer_gets_a_service_of_its_own_name_since_systemd_lets_nobody_set_what_it_starts() -> None:
    job = compiled("x", retry=None)
    texts = [Unit("sdcron-x@retry-1.timer", "[Timer]\nOnActiveSec=90s\nUnit=sdcron-x.service\n"), *job.units]
    made = dict(transient_units(texts))
    assert list(made) == [unit.name for unit in texts] + ["sdcron-x@retry-1.service"]
    assert values(made["sdcron-x@retry-1.service"], "Wants") == [[b"sdcron-x.service"]]
    assert values(made["sdcron-x@retry-1.timer"], "TimersMonotonic") == [[(b"OnActiveSec", 90_000_000)]]


# Quoting: the inverse of escape.py


@given(st.lists(TEXTS, min_size=1, max_size=5), st.lists(TEXTS, max_size=3), VALUES)
def test_what_escape_writes_is_read_back_exactly(argv: list[str], variables: list[str], value: str) -> None:
    line = " ".join(escape(text, Place.ARGUMENT) for text in ["/bin/x", *argv])
    text = f"[Service]\nExecStart={line}\nUser={escape(value, Place.VALUE)}\nNice=7\n"
    text += "".join(f"Environment={escape(f'A={variable}', Place.WORD)}\n" for variable in variables)
    found = unit_properties(text)
    # systemd makes $ of $$ when the command starts.
    arguments = [word.replace("$", "$$").encode() for word in argv]
    assert values(found, "ExecStartEx") == [[(b"/bin/x", [b"/bin/x", *arguments], [])]]
    assert values(found, "Environment") == [[f"A={variable}".encode()] for variable in variables]
    assert values(found, "User") == [value.encode()]
    assert values(found, "Nice") == [7]


@pytest.mark.parametrize("character", NONCHARACTERS)
def test_a_noncharacter_in_an_argument_is_read_back_from_its_bytes(character: str) -> None:
    [command] = commands(f"/bin/x {escape(character, Place.ARGUMENT)}")
    assert command.words == ("/bin/x", character)


def test_words_and_commands_are_taken_apart_as_systemd_does() -> None:
    assert words(r"""a 'b c' "d\te" f\x41\101\u00e9\U0001f600 \s""") == ["a", "b c", "d\te", "fAAé😀", " "]
    assert words(r"'a\tb' c\ d", escapes=False) == ["atb", "c d"]
    assert words("a\\") == ["a\\"]
    assert words('a"b"c ""') == ["abc", ""]
    [one, two] = commands("-+/bin/a ';' \\; x ; @/bin/b name")
    assert one == ("-+", ("/bin/a", ";", ";", "x"))
    assert two == ("@", ("/bin/b", "name"))
    assert commands("") == []
    for broken in ('"', "'a", '"a\\"'):
        with pytest.raises(BackendError, match="a quote is not closed"):
            words(broken)
    with pytest.raises(BackendError, match="no program"):
        commands("-+ x")


def test_lines_are_taken_apart_as_systemd_does() -> None:
    text = "[Unit]\n# x\nA = b \n\n[Service]\nB=one \\\n  # no part of it\n  two\nC=x\\\\\nD=\u2028 \x0b y\n; x\nE=\n"
    assert list(settings(text)) == [
        ("Unit", "A", "b"),
        ("Service", "B", "one    two"),
        ("Service", "C", "x\\\\"),
        ("Service", "D", "\u2028 \x0b y"),
        ("Service", "E", ""),
    ]
    with pytest.raises(BackendError, match="not a line of a unit: x"):
        list(settings("[Unit]\nx\n"))


def test_only_the_specifiers_that_sdcron_writes_are_known() -> None:
    assert expand_specifiers("%%n %t/x %%%% 10%", "/run/user/7") == "%n /run/user/7/x %% 10%"
    for specifier in ("%n", "%h", "%é", "% "):
        with pytest.raises(BackendError, match=f"the specifier {specifier} is not known"):
            expand_specifiers(f"a{specifier}b", "/run")


def test_the_prefixes_of_a_command_become_flags_and_empty_lines_take_back() -> None:
    flags = {
        "-": [b"ignore-failure"],
        "+": [b"privileged"],
        "!": [b"no-setuid"],
        "!!": [b"ambient"],
        ":": [b"no-env-expand"],
        "-:+": [b"ignore-failure", b"privileged", b"no-env-expand"],
    }
    for prefix, wanted in flags.items():
        assert properties(f"ExecStartPre={prefix}/bin/x $a") == [
            ("ExecStartPreEx", "a(sasas)", [(b"/bin/x", [b"/bin/x", b"$a"], wanted)])
        ]
    assert properties("ExecStartPre=@/bin/x name") == [("ExecStartPreEx", "a(sasas)", [(b"/bin/x", [b"name"], [])])]
    assert properties("ExecStartPre=") == [("ExecStartPreEx", "a(sasas)", [])]


# Values


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("TimeoutAbortSec=1d 2h 3.5s", ("TimeoutAbortUSec", "t", 93_603_500_000)),
        ("WatchdogSec=infinity", ("WatchdogUSec", "t", unit_values.INFINITY)),
        ("MemoryHigh=50%", ("MemoryHighScale", "u", 2147483648)),
        ("MemorySwapMax=1.5G", ("MemorySwapMax", "t", 1610612736)),
        ("TasksMax=infinity", ("TasksMax", "t", unit_values.INFINITY)),
        ("AmbientCapabilities=CAP_NET_BIND_SERVICE cap_chown", ("AmbientCapabilities", "t", 0x401)),
        ("CapabilityBoundingSet=~CAP_CHOWN", ("CapabilityBoundingSet", "t", 2**64 - 2)),
        ("RestrictNamespaces=net user", ("RestrictNamespaces", "t", 0x50000000)),
        ("SystemCallFilter=~@mount swapon", ("SystemCallFilter", "(bas)", (False, [b"@mount", b"swapon"]))),
        ("PrivateTmp=disconnected", ("PrivateTmpEx", "s", b"disconnected")),
        ("PrivateTmp=on", ("PrivateTmp", "b", True)),
        ("KillSignal=SIGRTMIN+3", ("KillSignal", "i", 37)),
        ("LogLevelMax=notice", ("LogLevelMax", "i", 5)),
        ("CPUSchedulingPolicy=batch", ("CPUSchedulingPolicy", "i", 3)),
        ("CPUWeight=idle", ("CPUWeight", "t", 0)),
        ("DeviceAllow=char-rtc r", ("DeviceAllow", "a(ss)", [(b"char-rtc", b"r")])),
        ("BindPaths=-/a:/b:norbind", ("BindPaths", "a(ssbt)", [(b"/a", b"/b", True, 0)])),
        ("IPAddressAllow=192.0.2.1/24", ("IPAddressAllow", "a(iayu)", [(2, [192, 0, 2, 0], 24)])),
        ("SuccessExitStatus=TEMPFAIL 7 SIGKILL", ("SuccessExitStatus", "(aiai)", ([75, 7], [9]))),
    ],
)
def test_a_notation_becomes_the_number_that_systemd_wants(line: str, wanted: Property) -> None:
    assert properties(line) == [wanted]


@pytest.mark.parametrize(
    "line",
    [
        "Nice=x", "UMask=9", "TimeoutStopSec=1 fortnight", "TimeoutStopSec=", "MemoryMax=1Q", "CPUQuota=x%",
        "PrivateTmp2=yes", "NoNewPrivileges=maybe", "KillSignal=SIGX", "CapabilityBoundingSet=CAP_X",
        "RestrictNamespaces=~net", "RestrictNamespaces=no", "IPAddressDeny=nowhere", "LimitNOFILE=x", "LogLevelMax=x",
        "SystemCallErrorNumber=EX", "SystemCallFilter=none", "IOSchedulingClass=x", "NUMAPolicy=bind",
        "ExecStart=\"", "SuccessExitStatus=SIGX", "AmbientCapabilities=CAP_X",
    ],
)  # fmt: skip
def test_what_cannot_be_set_or_means_nothing_is_refused_by_name(line: str) -> None:
    with pytest.raises(BackendError) as refused:
        properties(line)
    assert line.partition("=")[0] in refused.value.message
    assert refused.value.hint


ANALYZE = pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="systemd-analyze is not installed")


def analyzed(*arguments: str) -> list[list[str]]:
    command = ["systemd-analyze", "--no-pager", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [line.split() for line in ended.stdout.splitlines()]


@ANALYZE
def test_exit_statuses_and_capabilities_are_those_that_systemd_knows() -> None:
    for name, number, _ in analyzed("exit-status")[1:]:
        # From 200 on they are systemd's own, for what goes wrong before the program starts.
        if int(number) < 200:
            assert unit_values.exit_statuses(name) == ([int(number)], []), name
    for name, number in analyzed("capability")[1:]:
        assert unit_values.capabilities([name], 0) == 1 << int(number), name


@ANALYZE
def test_time_spans_are_what_systemd_takes_them_for() -> None:
    spans = ["90", "1.5h", "1y 2M 3w 4d 5h 6min 7s 8ms 9us", "2 months", "1h30m", "0", "3week 1.25days", "55s500ms"]
    for text in spans:
        told = [line for line in analyzed("timespan", text) if line[0].endswith("s:") and len(line) == 2]
        assert [unit_values.microseconds(text)] == [int(line[1]) for line in told], text


# What is refused before anything changes


def test_jobs_that_cannot_be_transient_are_refused_with_a_hint() -> None:
    jobs = [
        compiled("at-boot", "@reboot"),
        compiled("boot-too", ("@reboot", "@daily")),
        compiled("boot-off", "@reboot", enabled=False),
        compiled("by-hand", None),
        compiled("good"),
        compiled("off", enabled=False),
    ]
    told = [(problem.path, problem.message, problem.hint) for problem in refusals(jobs)]
    boot = "@reboot: units made with --transient do not survive a boot"
    out = "take @reboot out, or apply this job without --transient"
    assert told == [
        (f"{DIRECTORY}/at-boot.yaml", boot, out),
        (f"{DIRECTORY}/boot-too.yaml", boot, out),
        (f"{DIRECTORY}/boot-off.yaml", boot, out),
        (
            f"{DIRECTORY}/by-hand.yaml",
            "job by-hand has no schedule: nothing would keep a transient unit of it",
            "add a schedule, or apply this job without --transient",
        ),
    ]


def test_chains_cannot_be_transient() -> None:
    jobs = [compiled("d", None, after=("a",), needs=("a",)), compiled("n", needs=("a",))]
    told = [(problem.key, problem.message) for problem in refusals(jobs)]
    words = "is about more than one boot, and what --transient makes is gone at the next one"
    assert told == [("after", f"'after' {words}"), ("needs", f"'needs' {words}")]


def test_below_a_root_nothing_is_transient(tmp_path: Path) -> None:
    with pytest.raises(SdcronError, match="--transient units live in a running systemd"):
        make_place(user=False, root=tmp_path, backend="auto", transient=True)


# Apply


@dataclass(slots=True)
class TransientFake(FakeBackend):
    """Units live in memory only; a timer that is stopped takes its job with it."""

    def start_transient(self, timer: Unit, others: Sequence[Unit]) -> None:
        """Refuses what is there already, as systemd does."""
        self._tell("start_transient", timer.name)
        if timer.name in self.memory or timer.name in self.refused:
            raise BackendError(f"systemd refused StartTransientUnit: {timer.name}")
        for unit in (timer, *others):
            self.memory.setdefault(unit.name, Loaded(unit.text))
        self.memory[timer.name].active = "active"


def for_now(name: str, **keys: Any) -> CompiledJob:
    """A job as a transient apply compiles it: its timer leaves no stamp."""
    return compiled(name, missed=Missed.SKIP, **keys)


def fake(root: Path) -> tuple[Paths, TransientFake]:
    paths = system_paths(root).transient()
    return paths, TransientFake(paths)


def apply(paths: Paths, backend: TransientFake, jobs: Sequence[CompiledJob]) -> None:
    backend.calls.clear()
    plan = make_plan(jobs, read_installed(paths), backend.active_timers(), directories=[DIRECTORY])
    TransientApplier(paths, backend).carry_out(plan)


def test_a_transient_apply_starts_what_is_new_and_changed_and_nothing_the_second_time(tmp_path: Path) -> None:
    paths, backend = fake(tmp_path)
    apply(paths, backend, [for_now("a"), for_now("b"), for_now("c"), for_now("off", enabled=False)])
    assert backend.mutations() == [f"start_transient sdcron-{name}.timer" for name in "abc"]
    before = tree(paths)
    assert not [path for path in before if not path.startswith("run/sdcron/")]
    apply(paths, backend, [for_now("a"), for_now("b"), for_now("c"), for_now("off", enabled=False)])
    assert (backend.mutations(), tree(paths)) == ([], before)
    # b changes, and somebody has stopped c.
    backend.stop(["sdcron-c.timer"])
    apply(paths, backend, [for_now("a"), for_now("b", command=("false",)), for_now("c")])
    assert backend.mutations() == [
        "stop sdcron-b.timer",
        "start_transient sdcron-b.timer",
        "start_transient sdcron-c.timer",
    ]
    assert backend.stale() == []
    TransientApplier(paths, backend).carry_out(removal_plan(["a", "b", "c"], read_installed(paths)))
    assert backend.memory == {}
    assert [path for path in tree(paths) if "sdcron-" in path] == []


@pytest.mark.parametrize(
    ("unit", "active", "message"),
    [
        ("sdcron-a.service", "activating", "job a runs now, and a transient job cannot change under a run"),
        ("sdcron-a@retry-1.timer", "active", "a retry of job a is waiting, and would be lost"),
    ],
)
def test_a_job_at_work_is_refused_and_nothing_changes(tmp_path: Path, unit: str, active: str, message: str) -> None:
    paths, backend = fake(tmp_path)
    apply(paths, backend, [for_now("a"), for_now("b")])
    backend.memory[unit] = Loaded("[Unit]\n", active)
    before = tree(paths)
    with pytest.raises(BackendError, match=message):
        apply(paths, backend, [for_now("a", command=("false",)), for_now("b", command=("false",))])
    assert (backend.mutations(), tree(paths)) == ([], before)


def test_a_unit_of_that_name_in_memory_that_is_nobodys_is_left_alone(tmp_path: Path) -> None:
    paths, backend = fake(tmp_path)
    backend.memory["sdcron-a.service"] = Loaded("[Unit]\n", "active")
    with pytest.raises(BackendError, match=r"sdcron-a\.service is in systemd's memory already") as refused:
        apply(paths, backend, [for_now("a")])
    assert refused.value.hint == "see what it is, and stop it: systemctl status sdcron-a.service"
    assert (backend.mutations(), tree(paths)) == ([], {})


def test_a_timer_that_does_not_start_brings_everything_back(tmp_path: Path) -> None:
    paths, backend = fake(tmp_path)
    apply(paths, backend, [for_now("a"), for_now("gone")])
    before = tree(paths)
    backend.refused = {"sdcron-b.timer"}
    with pytest.raises(BackendError, match=r"sdcron-b\.timer"):
        apply(paths, backend, [for_now("a", command=("false",)), for_now("b")])
    assert tree(paths) == before
    assert backend.active() == ["sdcron-a.timer", "sdcron-gone.timer"]
    assert backend.stale() == []


def place(paths: Paths, *, transient: bool) -> Where:
    return Where(paths.transient(), transient=True, other=paths) if transient else Where(paths, other=paths.transient())


@pytest.mark.parametrize("transient", [True, False])
def test_a_job_of_the_other_kind_is_refused_with_the_command_that_removes_it(tmp_path: Path, transient: bool) -> None:

    paths = system_paths(tmp_path)
    here = place(paths, transient=transient)
    install(place(paths, transient=not transient).paths, [for_now("a")])
    found = JobPaths({}, (DIRECTORY,), ())
    wanted = Desired((for_now("a"), for_now("b")), frozenset(), frozenset(), found, Record(""), {})
    with pytest.raises(JobFileError) as refused:
        plan_jobs(here, wanted, {}, prune=True)
    [problem] = refused.value.problems
    how = "without --transient" if transient else "with --transient"
    assert str(problem) == f"{DIRECTORY}/a.yaml: job a is there already {how}"
    assert problem.hint.endswith("sdcron remove a" if transient else "sdcron remove --transient a")
