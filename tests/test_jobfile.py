"""jobfile: what a file means, and what is said about a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdcron.errors import Problem
from sdcron.jobfile import Context, read_file

BAD = Path(__file__).parent / "bad"
# Read before the fixtures clear the environment; to be used on purpose, and the difference to be read.
RENEW_GOLDEN = os.environ.get("SDCRON_RENEW_GOLDEN") == "1"


def told(problems: tuple[Problem, ...]) -> str:
    """Problems as a terminal shows them: place and sentence, the line with a caret, the hint."""
    lines = []
    for problem in problems:
        lines.append(str(problem))
        if problem.source_line:
            lines += [f"    {problem.source_line}", "    " + " " * (problem.column - 1) + "^"]
        if problem.hint:
            lines.append(f"  hint: {problem.hint}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_file_gets_exactly_these_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    jobs, problems = read_file(Path(f"{name}.yaml"), Context(local_timezone="UTC"))
    assert problems
    golden = BAD / f"{name}.txt"
    if RENEW_GOLDEN:
        golden.write_text(told(problems), encoding="utf-8")
    assert told(problems) == golden.read_text(encoding="utf-8")
