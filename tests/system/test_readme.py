"""README's tour, word for word, on machines that have the package."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.machine import CHECKOUT
from tests.packaged import installed
from tests.system.test_package import PLAIN, package_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rootfs import Release

#: There is no sudo on these machines: what README says with it, root types here, and the user `tester` all else.
SUDO = '#!/bin/sh\nexec "$@"\n'
#: Where, a directory of the user's own.
PLACE = "/home/tester/tour"
#: What does not end with 0.
STATUS = {"sdcron validate bad.yaml": 3}
#: A date, of which README has one and a machine another.
DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")


def steps() -> Iterator[tuple[str, str]]:
    """The commands of the tour, and what README says they print."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    tour = text.partition("\n## Five minutes\n")[2].partition("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", tour, re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def squeezed(text: str) -> list[str]:
    """Its lines, as they are however wide a column or a rule is."""
    return [re.sub(" +", " ", re.sub("─+", "─", line)).strip() for line in text.splitlines()]


def fits(shown: str, printed: str) -> bool:
    """Whether this is what was printed: an ellipsis stands for anything in a line, one alone for any more lines.

    A date stands for any.
    """
    lines, found = squeezed(shown), squeezed(printed)
    if lines and lines[-1] == "…":
        lines, found = lines[:-1], found[: len(lines) - 1]
    return len(lines) == len(found) and all(map(re.fullmatch, map(_pattern, lines), found))


def _pattern(line: str) -> str:
    texts = (DATE.pattern.join(map(re.escape, DATE.split(text))) for text in line.split("…"))
    return ".*".join(texts)


def test_a_date_of_readme_is_any_date_and_nothing_else() -> None:
    shown = "2026-11-24 02:30:00… (in …)\n"
    assert fits(shown, "2031-01-02 02:30:00 CET (in 3h)\n")
    assert not fits(shown, "2031-01-02 03:30:00 CET (in 3h)\n")
    assert not fits(shown, "tomorrow 02:30:00 CET (in 3h)\n")
    assert not fits("on … 02:30:00\n", "2031-01-02 02:30:00\n")


def test_readme_has_no_year_that_will_be_over() -> None:
    for command, shown in steps():
        assert re.search(r"\b20\d\d\b", DATE.sub("", shown)) is None, command


@pytest.mark.timeout(600)
def test_the_tour_is_what_a_machine_says(release: Release) -> None:
    tour = [*steps()]
    assert len(tour) > 10
    assert STATUS.keys() <= dict(tour).keys()
    with installed(release, package_of(release)) as machine:
        machine.write("/usr/local/bin/sudo", SUDO, mode=0o755)
        machine.run(["install", "-d", "--owner=tester", "--group=tester", PLACE])
        for command, shown in tour:
            if command.startswith("cat "):
                machine.write(f"{PLACE}/{command.removeprefix('cat ')}", shown, owner="tester")
            typed = ["script", "-qefc", f"stty cols 120; {command}", "/dev/null"]
            environment = {**PLAIN, "NO_COLOR": "1", "SYSTEMD_PAGER": "", "TERM": "xterm"}
            user = None if command.startswith("sudo ") else "tester"
            ended = machine.run(typed, cwd=PLACE, env=environment, user=user, status=None)
            # Without the progress that a slow machine shows, and wipes off again.
            printed = re.sub("[^\n]*\n\x1b\\[K", "", ended.stdout)
            assert fits(shown, printed), f"$ {command}\n{printed}\nbut README says:\n{shown}"
            assert ended.returncode == STATUS.get(command, 0), f"$ {command}\nended with {ended.returncode}:\n{printed}"
