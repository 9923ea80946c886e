"""What `when` asks of the machine: each check on a made-up machine, and the words for what does not hold.

The words and their order are those that systemd 252, 257 and 262 were seen to log for units with the same conditions.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdcron.conditions import has_network, is_mount_point, on_ac_power, unmet
from sdcron.job import Otherwise, When
from sdcron.jobfile import Context, parse_text
from sdcron.messages import unmet_condition
from sdcron.paths import Scope
from sdcron.units import compile_job

ROUTE = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
NOWHERE = "0" * 32


def write(root: Path, files: dict[str, str]) -> Path:
    """Files of a machine below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def route(destination: str, flags: str, mask: str, device: str = "eth0") -> str:
    return f"{device}\t{destination}\t010200C0\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0\n"


def route6(destination: str, prefix: str, flags: str, device: str = "eth0") -> str:
    return f"{destination} {prefix} {NOWHERE} 00 {NOWHERE} 00000400 00000001 00000000 {flags} {device:>8}\n"


def mounts(root: Path, *lines: str) -> Path:
    """A machine with these mounts, each `id parent place`."""
    text = "".join(
        "{} {} 254:0 / {} rw,relatime shared:1 - ext4 /dev/x rw\n".format(*line.split(" ")) for line in lines
    )
    return write(root, {"proc/self/mountinfo": text})


def supply(root: Path, name: str, **attributes: str) -> None:
    """A power supply, and the device it belongs to."""
    device = root / "sys/devices" / f"of-{name}"
    write(root, {f"sys/devices/of-{name}/power_supply/{name}/{key}": f"{value}\n" for key, value in attributes.items()})
    (device / "power_supply" / name / "device").symlink_to("../..")
    link = root / "sys/class/power_supply" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../devices/of-{name}/power_supply/{name}")


def port(root: Path, name: str, supply_name: str, role: str) -> None:
    """A USB-C port of the device that a supply belongs to."""
    write(root, {f"sys/devices/of-{supply_name}/typec/{name}/power_role": f"{role}\n"})
    link = root / "sys/class/typec" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../devices/of-{supply_name}/typec/{name}")


def test_a_job_that_asks_for_nothing_lacks_nothing(tmp_path: Path) -> None:
    assert unmet(When(), tmp_path) is None
    assert unmet(When(wake=True, otherwise=Otherwise.WAIT), tmp_path) is None


def test_what_is_there_is_no_obstacle(tmp_path: Path) -> None:
    machine = mounts(
        write(tmp_path, {"etc/a": "", "proc/net/route": ROUTE + route("00000000", "0003", "00000000")}), "1 0 /"
    )
    (machine / "etc/link").symlink_to("a")
    when = When(
        network=True, mounts=("/",), path_exists=("/etc/a", "/etc", "/etc/link"), path_missing=("/no",), ac_power=True
    )
    assert unmet(when, machine) is None


@pytest.mark.parametrize(
    ("when", "told"),
    [
        (When(path_exists=("/no/such",)), "ConditionPathExists=/no/such"),
        (When(path_missing=("/etc",)), "ConditionPathExists=!/etc"),
        (When(mounts=("/etc",)), "ConditionPathIsMountPoint=/etc"),
        (When(ac_power=True), "ConditionACPower=yes"),
        (When(network=True), ""),
        (When(path_exists=("/etc/dangling",)), "ConditionPathExists=/etc/dangling"),
    ],
)
def test_what_does_not_hold_is_told_as_systemd_tells_it(when: When, told: str, tmp_path: Path) -> None:
    machine = mounts(write(tmp_path, {"etc/a": "", "proc/net/route": ROUTE}), "1 0 /")
    (machine / "etc/dangling").symlink_to("nowhere")
    supply(machine, "BAT0", type="Battery", status="Discharging")
    assert unmet(when, machine) == told


def test_of_several_the_last_of_the_unit_is_told(tmp_path: Path) -> None:
    machine = mounts(write(tmp_path, {"etc/a": "", "usr/a": "", "proc/net/route": ROUTE}), "1 0 /")
    supply(machine, "BAT0", type="Battery", status="Discharging")
    order = []
    when = When(True, (), ("/etc", "/usr"), ("/no/a", "/no/b"), ("/etc", "/usr"), True)
    order.append(unmet(when, machine))
    order.append(unmet(When(True, (), when.mounts, when.path_exists, when.path_missing), machine))
    order.append(unmet(When(True, (), when.mounts, when.path_exists), machine))
    order.append(unmet(When(True, (), when.mounts), machine))
    order.append(unmet(When(True), machine))
    assert order == [
        "ConditionACPower=yes",
        "ConditionPathExists=!/usr",
        "ConditionPathExists=/no/b",
        "ConditionPathIsMountPoint=/usr",
        "",
    ]
    # Those that hold are passed over.
    assert unmet(When(path_exists=("/no/a", "/etc", "/no/b", "/usr")), machine) == "ConditionPathExists=/no/b"
    assert unmet(When(path_exists=("/no/a", "/etc")), machine) == "ConditionPathExists=/no/a"


def test_conditions_are_those_of_the_units_that_systemd_gets(tmp_path: Path) -> None:
    text = "command: x\nwhen: {mounts: [/m, /n], path_exists: [/e, /f], path_missing: [/etc, /usr], ac_power: true}\n"
    ((job,), _) = parse_text(text, "/etc/sdcron/jobs/a.yaml", Context())
    unit = compile_job(job, directory="/etc/sdcron/jobs", scope=Scope.SYSTEM, state_dir="/s").units[0].text
    listed = [line for line in unit.splitlines() if line.startswith("Condition")]
    machine = mounts(write(tmp_path, {"etc/a": "", "usr/a": ""}), "1 0 /")
    supply(machine, "BAT0", type="Battery", status="Discharging")
    when, told = job.when, []
    # Each one that is told is met in turn, so that the next one is.
    for condition in reversed(listed):
        told.append(unmet(when, machine))
        _, _, path = condition.partition("=")
        if condition == "ConditionACPower=yes":
            supply(machine, "AC", type="Mains", online="1")
        elif path.startswith("!"):
            (machine / path[2:] / "a").unlink()
            (machine / path[2:]).rmdir()
        elif condition.startswith("ConditionPathExists="):
            write(machine, {path[1:]: ""})
        else:
            number = "2" if path == "/n" else "3"
            found = (machine / "proc/self/mountinfo").read_text()
            (machine / "proc/self/mountinfo").write_text(f"{found}{number} 1 254:1 / {path} rw - ext4 /dev/y rw\n")
    assert told == listed[::-1]
    assert unmet(when, machine) is None


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("//no//a/./b/", "/no/a/b"),
        ("/no/..a/.b./...", "/no/..a/.b./..."),
        ("/no/a%b", "/no/a%b"),
        ("/no/ä ☃  x", "/no/ä ☃  x"),
        ("/no/a\x1b[1mb\tc", "/no/a\x1b[1mb\tc"),
        ("/no/a\\b", "/no/a\\b"),
        ("/no/\"a'", "/no/\"a'"),
    ],
)
def test_paths_are_told_as_systemd_writes_them(path: str, told: str, tmp_path: Path) -> None:
    assert unmet(When(path_exists=(path,)), tmp_path) == f"ConditionPathExists={told}"
    assert unmet(When(mounts=(path,)), mounts(tmp_path, "1 0 /")) == f"ConditionPathIsMountPoint={told}"


def test_the_root_itself_is_told_as_one_slash(tmp_path: Path) -> None:
    for path in ("/", "//", "/."):
        assert unmet(When(path_missing=(path,)), tmp_path) == "ConditionPathExists=!/"


@pytest.mark.parametrize("path", ["/no/such", "/no/a (b)/c", "/no/(b)", "/(b"])
def test_what_is_told_is_what_the_collector_reads_in_systemds_messages(path: str, tmp_path: Path) -> None:
    told = unmet(When(path_exists=(path,)), tmp_path)
    for message in (
        f"x.service was skipped because of an unmet condition check (ConditionPathExists={path}).",
        f"x.service skipped, unmet condition check ConditionPathExists={path}",
    ):
        assert unmet_condition(message) == told


def test_what_nobody_may_look_at_is_not_there(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").touch()
    if os.geteuid() != 0:
        closed.chmod(0)
        try:
            assert unmet(When(path_exists=(f"{closed}/file",))) == f"ConditionPathExists={closed}/file"
        finally:
            closed.chmod(0o700)
    assert unmet(When(path_missing=("/proc/1/no/such",))) is None
    assert unmet(When(path_exists=("/" + "x" * 300,))) == "ConditionPathExists=/" + "x" * 300


def test_commands_are_for_the_caller_to_run() -> None:
    assert unmet(When(command=("/bin/false", "a b"))) is None


@pytest.mark.parametrize(
    ("place", "lines", "expected"),
    [
        ("/", [], True),
        ("/", ["1 0 /"], True),
        ("/m", ["1 0 /"], False),
        ("/m", ["1 0 /", "2 1 /m"], True),
        ("/m/", ["1 0 /", "2 1 /m"], True),
        ("/m/sub", ["1 0 /", "2 1 /m"], False),
        ("/m/sub", ["1 0 /", "2 1 /m", "3 2 /m/sub"], True),
        # A mount further up that came later hides it: systemd says no too.
        ("/m/sub", ["1 0 /", "3 1 /m/sub", "2 1 /m"], False),
        ("/m/sub", ["1 0 /", "3 1 /m/sub", "2 1 /m", "4 2 /m/sub"], True),
        # Two on top of each other.
        ("/m/sub", ["1 0 /", "2 1 /m", "3 2 /m", "4 3 /m/sub"], True),
        ("/m/sub", ["1 0 /", "2 1 /m", "3 2 /m", "4 2 /m/sub"], False),
        ("/m", ["1 0 /", "5 1 /", "2 5 /m"], True),
        ("/m", ["1 0 /", "5 1 /", "2 1 /m"], False),
        # A root that is its own parent, and a chroot in which no root is listed.
        ("/m", ["1 1 /", "2 1 /m"], True),
        ("/m", ["2 1 /m"], True),
        ("/m/sub", ["2 1 /m", "3 2 /m/sub"], True),
        ("/with blank", ["1 0 /", r"2 1 /with\040blank"], True),
        ("/back\\slash", ["1 0 /", r"2 1 /back\134slash"], True),
        ("/tab\tand\nline", ["1 0 /", r"2 1 /tab\011and\012line"], True),
        ("/ä\u2028\x85", ["1 0 /", "2 1 /ä\u2028\x85"], True),
        ("/link", ["1 0 /", "2 1 /m"], True),
        ("/link/sub", ["1 0 /", "2 1 /m", "3 2 /m/sub"], True),
        ("/link", ["1 0 /", "2 1 /link"], False),
        ("/m/file", ["1 0 /", "2 1 /m/file"], True),
        ("/no/such", ["1 0 /"], False),
        ("/m", ["1 0 /", "2 2 /m", "3 4 /m", "4 3 /m"], False),
    ],
)
def test_mount_points_are_those_a_path_leads_to(place: str, lines: list[str], expected: bool, tmp_path: Path) -> None:
    write(tmp_path, {"m/sub/a": "", "m/file": ""})
    (tmp_path / "link").symlink_to("m")
    assert is_mount_point(place, mounts(tmp_path, *lines)) is expected


def test_lines_of_mounts_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    machine = mounts(tmp_path, "1 0 /", "2 1 /m")
    with (machine / "proc/self/mountinfo").open("ab") as listed:
        listed.write(b"\n3 1\n4 1 254:0 / /\xff rw - ext4 /dev/z rw\n")
    assert is_mount_point("/m", machine)
    assert not is_mount_point("/n", machine)


def test_mount_points_of_this_machine_are_known_also_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"/": True, "/proc": True, "/proc/self": False, "/etc": Path("/etc").is_mount(), "/no/such": False}
    assert {place: is_mount_point(place) for place in places} == places
    real = Path.read_text

    def denied(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "mountinfo":
            raise PermissionError(13, "denied")
        return real(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", denied)
    assert {place: is_mount_point(place) for place in places} == places


@pytest.mark.parametrize(
    ("routes", "routes6", "expected"),
    [
        (ROUTE, "", False),
        (ROUTE + route("00000000", "0003", "00000000"), "", True),
        (ROUTE + route("00000000", "0001", "00000000"), None, True),
        (ROUTE + route("000200C0", "0001", "00FFFFFF"), "", False),
        (ROUTE + route("00000000", "0001", "000000FF"), "", False),
        (ROUTE + route("00000000", "0002", "00000000"), "", False),
        (ROUTE + route("00000000", "0201", "00000000", "*"), "", False),
        (ROUTE + route("00000000", "0001", "00000000", "lo"), "", False),
        (ROUTE, route6(NOWHERE, "00", "00000003"), True),
        (None, route6(NOWHERE, "00", "00000003"), True),
        (None, route6(NOWHERE, "00", "00200200", "lo"), False),
        (ROUTE, route6("fe80" + "0" * 28, "40", "00000001"), False),
        (ROUTE, route6(NOWHERE, "01", "00000001"), False),
        (ROUTE, route6(NOWHERE, "00", "nonsense"), False),
        ("x\n\n" + ROUTE + route("0", "", "0"), "a b c\n", False),
    ],
)
def test_the_network_is_a_default_route_that_is_up(
    routes: str | None, routes6: str | None, expected: bool, tmp_path: Path
) -> None:
    files = {"proc/net/route": routes, "proc/net/ipv6_route": routes6}
    write(tmp_path, {name: text for name, text in files.items() if text is not None})
    assert has_network(tmp_path, lambda: not expected) is expected
    assert unmet(When(network=True), tmp_path) == (None if expected else "")


def test_where_routes_cannot_be_read_the_kernel_is_asked_for_one(tmp_path: Path) -> None:
    assert has_network(tmp_path, lambda: True)
    assert not has_network(tmp_path, lambda: False)
    assert has_network(tmp_path) == has_network()


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, True),
        ({"AC": {"type": "Mains", "online": "1"}}, True),
        ({"AC": {"type": "Mains", "online": "2"}}, True),
        ({"AC": {"type": "Mains", "online": "0"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        ({"BAT0": {"type": "Battery", "status": "Charging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Unknown"}}, True),
        ({"BAT0": {"type": "Battery"}}, False),
        ({"BAT0": {"type": "Battery", "present": "1", "scope": "System"}}, False),
        ({"BAT0": {"type": "Battery", "status": "Discharging", "present": "0"}}, True),
        ({"mouse": {"type": "Battery", "status": "Discharging", "scope": "Device"}}, True),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Full"}, "BAT1": {"type": "Battery", "status": "Discharging"}}, False),
        ({"A": {"type": "UPS", "online": "1"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"A": {"type": "Mains", "online": "x"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        ({"A": {"online": "1"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        ({"U": {"type": "USB", "online": "1"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"U": {"type": "USB", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, False),
    ],
)
def test_power_is_judged_by_systemds_rules(supplies: dict[str, dict[str, str]], expected: bool, tmp_path: Path) -> None:
    for name, attributes in supplies.items():
        supply(tmp_path, name, **attributes)
    assert on_ac_power(tmp_path) is expected
    assert unmet(When(ac_power=True), tmp_path) == (None if expected else "ConditionACPower=yes")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ([], True),
        (["source [sink]"], True),
        (["[source] sink"], False),
        (["[source] sink", "source [sink]"], True),
        (["nonsense"], True),
    ],
)
def test_a_usb_port_that_supplies_others_is_no_supply(roles: list[str], expected: bool, tmp_path: Path) -> None:
    supply(tmp_path, "ucsi", type="USB", online="1")
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    supply(tmp_path, "other", type="Mains", online="0")
    for number, role in enumerate(roles):
        port(tmp_path, f"port{number}", "ucsi", role)
    port(tmp_path, "port9", "other", "[source] sink")
    assert on_ac_power(tmp_path) is expected


def test_a_usb_supply_without_a_device_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/power_supply/usb/type": "USB\n", "sys/class/power_supply/usb/online": "1\n"})
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    assert not on_ac_power(tmp_path)
