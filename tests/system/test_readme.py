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

#: There is no sudo on these machines, and whoever types this is root.
SUDO = '#!/bin/sh\nexec "$@"\n'


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
    """Whether this is what was printed: an ellipsis stands for anything in a line, one alone for any more lines."""
    lines, found = squeezed(shown), squeezed(printed)
    if lines and lines[-1] == "…":
        lines, found = lines[:-1], found[: len(lines) - 1]
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in lines]
    return len(patterns) == len(found) and all(map(re.fullmatch, patterns, found))


@pytest.mark.timeout(600)
def test_the_tour_is_what_a_machine_says(release: Release) -> None:
    tour = [*steps()]
    assert len(tour) > 10
    with installed(release, package_of(release)) as machine:
        machine.write("/usr/local/bin/sudo", SUDO, mode=0o755)
        machine.write("/root/tour/begun", "")
        for command, shown in tour:
            if command.startswith("cat "):
                machine.write(f"/root/tour/{command.removeprefix('cat ')}", shown)
            typed = ["script", "-qefc", f"stty cols 120; {command}", "/dev/null"]
            environment = {**PLAIN, "NO_COLOR": "1", "SYSTEMD_PAGER": "", "TERM": "xterm"}
            ended = machine.run(typed, cwd="/root/tour", env=environment, status=None)
            # Without the progress that a slow machine shows, and wipes off again.
            printed = re.sub("[^\n]*\n\x1b\\[K", "", ended.stdout)
            assert fits(shown, printed), f"$ {command}\n{printed}\nbut README says:\n{shown}"
