"""What every test gets: hypothesis settings, and an environment in which the real machine cannot be touched."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.rootfs import RELEASES

# Whoever runs them may be anywhere; tests of other zones name them.
os.environ["TZ"] = "UTC"
time.tzset()

#: How the reason begins for which a test on a machine is skipped.
SKIPPED = "booted-systemd tests: skipped: "

# Times are bounded per test, not per example: the machine may be busy.
# In CI the examples are the same in every run of the same code: what is found by chance is found before.
settings.register_profile(
    "default",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=os.environ.get("CI") == "true",
)
# For repeated runs of the same suite: under each distribution's own Python, where versions are what is tested.
settings.register_profile("short", settings.get_profile("default"), max_examples=20)
settings.register_profile("long", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("SDCRON_TEST_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a booted machine, and run it last: the quick tests tell first."""
    system = Path(__file__).parent / "system"
    for item in items:
        if system in item.path.parents:
            item.add_marker(pytest.mark.system)
    items.sort(key=lambda item: item.get_closest_marker("system") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With several processes (-n): tests on one machine follow each other in one of them, as do those of one file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByMachine(LoadScopeScheduling):  # type: ignore[misc]  # it comes without types
        def _split_scope(self, nodeid: str) -> str:
            machine = re.search(rf"[\[-]({'|'.join(release.systemd for release in RELEASES)})[]-]", nodeid)
            return machine[1] if machine else nodeid.partition("::")[0]

    return ByMachine(config, log)


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's home, service manager and settings from the test, and the test from them."""
    home = tmp_path_factory.mktemp("home", numbered=True)
    for variable in [name for name in os.environ if name.startswith(("XDG_", "SDCRON_", "SYSTEMD_"))]:
        if not variable.startswith("SDCRON_TEST_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    # A unit test that reaches for a real bus finds none.
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={home}/no-system-bus")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={home}/no-session-bus")
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PAGER"):
        monkeypatch.delenv(variable, raising=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once, in one plain line, why the tests on machines did not run."""
    reasons = {
        report.longrepr[2].partition(SKIPPED)[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and SKIPPED in report.longrepr[2]
    }
    for reason in sorted(reasons):
        terminalreporter.write_line(f"{SKIPPED}{reason}")
