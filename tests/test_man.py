"""Man pages say what the program and the schema say: every command, option and key is in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from sdcron import __version__
from sdcron.cli import app
from sdcron.errors import ExitCode
from sdcron.job_schema import schema
from tests.machine import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = ("sdcron.1", "sdcron-job.1", "sdcron-job.5", "sdcron-engine.8", "sdcron-collector.8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory: Path = tmp_path_factory.mktemp("man")
    command = [sys.executable, "-B", str(CHECKOUT / "packaging/man/make_man.py"), str(directory)]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def plain(text: str) -> str:
    """Without fonts and escapes."""
    return re.sub(r"\\f[BIR]", "", text).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")


def test_every_page_is_there_with_its_version_and_nothing_left_to_put_in(pages: dict[str, str]) -> None:
    assert pages.keys() == set(PAGES)
    for name, text in pages.items():
        assert re.match(rf'\.TH \S+ {name[-1]} "" "sdcron {re.escape(__version__)}" ', text), name
        assert not re.search("@[A-Z]+[@:]", text), name


def test_every_command_is_in_the_page_with_every_option(pages: dict[str, str]) -> None:
    group: Any = typer.main.get_command(app)
    shown = plain(pages["sdcron.1"])
    common = shown.partition(".SH COMMON OPTIONS")[2].partition(".SH ")[0]
    for name, command in group.commands.items():
        if command.hidden:
            assert f"\n.SS {name}\n" not in shown
            continue
        [part] = re.findall(rf"(?ms)^\.SS {name}\n(.*?)(?=^\.S[SH] )", shown)
        assert part.startswith(f"sdcron {name} ["), name
        for each in command.params:
            if each.param_type_name == "option":
                told = [line for line in (part + common).splitlines() if each.opts[-1] in re.split("[ ,]+", line)]
                assert told, (name, each.opts)


def test_every_exit_status_is_told(pages: dict[str, str]) -> None:
    told = re.findall(r"(?m)^\.B (\d+)$", pages["sdcron.1"])
    assert [int(number) for number in told] == sorted(ExitCode)


def keys_of(part: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key that a part of the schema has, each with those that it stands below, however deep."""
    for word, value in part.items():
        if word == "properties":
            for name, more in value.items():
                yield (*above, name)
                yield from keys_of(more, (*above, name))
        elif word == "$ref":
            name = value.rpartition("/")[2]
            # The jobs of a file, and what they begin with, have the keys of a job.
            yield from keys_of(schema()["$defs"][name], above) if name != "job" else ()
        elif word in ("anyOf", "oneOf", "allOf", "prefixItems"):
            for each in value:
                yield from keys_of(each, above)
        elif word == "patternProperties":
            for each in value.values():
                yield from keys_of(each, above)
        elif word in ("items", "additionalProperties", "if", "then", "else", "not") and isinstance(value, dict):
            yield from keys_of(value, above)


def documented(text: str) -> list[tuple[str, ...]]:
    """The keys of a part of the page, each with those that it stands below: these stand inside of .RS and .RE."""
    above: list[str] = []
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line == ".TP":
            found.append((*above, lines[number + 1]))
            assert re.match(r"[^.\s]", lines[number + 2]), f"{found[-1]} has no description"
        elif line == ".RS":
            above.append(found[-1][-1])
        elif line == ".RE":
            above.pop()
    return found


def test_every_key_of_a_job_file_is_in_the_page_with_those_below_it(pages: dict[str, str]) -> None:
    shown = plain(pages["sdcron-job.5"])
    definitions = schema()["$defs"]
    keys = [*keys_of(definitions["job"])]
    assert {("retry", "delay"), ("credentials", "encrypted"), ("interpreter", "venv")} <= {*keys}
    assert documented(shown.partition(".SH KEYS")[2].partition(".SH ")[0]) == [*dict.fromkeys(keys)]
    of_file = documented(shown.partition(".SH DESCRIPTION")[2].partition(".SH ")[0])
    assert of_file == [*keys_of(definitions["jobs_file"])] == [("jobs",), ("defaults",)]


def test_no_line_of_a_text_is_taken_for_a_request(pages: dict[str, str]) -> None:
    known = "TH ad nh SH SS TP PP B BI BR IB IR I RB RS RE br EX EE".split()
    for name, text in pages.items():
        strange = [
            line for line in text.splitlines() if line.startswith((".", "'")) and line[1:].split()[0] not in known
        ]
        assert strange == [], name
