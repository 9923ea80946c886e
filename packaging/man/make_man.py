#!/usr/bin/python3
"""Write sdcron's man pages: what the program says of its commands and the schema of job files, in roff.

    PYTHONPATH=. python3 packaging/man/make_man.py DIRECTORY

Words that are nowhere else are in the *.man files beside this one: man(7) with `@COMMANDS@`, `@COMMON@`, `@KEYS@`,
`@FILEKEYS@`, `@VERSION@`, `@USAGE@` or `@OPTIONS:command@` where something is put in.
"""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import typer

from sdcron import __version__
from sdcron.cli import app
from sdcron.job_schema import schema
from sdcron.sdk import main as job_command

HERE = Path(__file__).resolve().parent
_COMMON = frozenset({"--user", "--root", "--backend", "--json", "--help"})
_JOB = "#/$defs/job"
_CODE = re.compile(r"`([^`]+)`")


def roff(text: str) -> str:
    """Text as it is, for a line of roff (groff_char(7))."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    return escaped.replace("~", "\\(ti").replace("`", "\\(ga")


def paragraph(text: str) -> str:
    """A paragraph in which `words` are set bold; no line of it is taken for a request."""
    parts = _CODE.split(" ".join(text.split()))
    whole = "".join(f"\\fB{roff(part)}\\fR" if number % 2 else roff(part) for number, part in enumerate(parts))
    return f"\\&{whole}" if whole.startswith((".", "\\(aq")) else whole


def options(command: Any, *, common: bool | None = None) -> str:  # noqa: ANN401 - click's, or typer's own copy of it
    """A .TP for each argument and option of a command: all, or only those that are `common` to most, or are not."""
    lines = []
    for each in command.params:
        if getattr(each, "hidden", False) or common not in (None, not _COMMON.isdisjoint(each.opts)):
            continue
        named = each.param_type_name == "argument"
        if named:
            head = placeholder(each, optional=False)
        else:
            names = [roff(name) for name in (*each.opts, *each.secondary_opts)]
            value = "" if each.is_flag or each.count else f" \\fI{roff(each.metavar or each.name.upper())}\\fR"
            head = ", ".join(f"\\fB{name}\\fR" for name in names) + value
        lines += [".TP", head, paragraph(each.help or "")]
    return "\n".join(lines)


def placeholder(argument: Any, *, optional: bool) -> str:  # noqa: ANN401 - as above
    """What stands for an argument: in brackets where it may be left away, if that is to be told."""
    word = re.sub(r"^\[(.*?)\](\.\.\.)?$", r"\1", argument.metavar or argument.name.upper()).removesuffix("...")
    whole = f"\\fI{roff(word)}\\fR" + "..." * (argument.nargs == -1 and optional)
    return f"[{whole}]" if optional and not argument.required else whole


def synopsis(name: str, command: Any) -> str:  # noqa: ANN401 - as above
    """How a command is written."""
    words = [each for each in command.params if each.param_type_name == "argument"]
    shown = [placeholder(each, optional=True) for each in words]
    return " ".join([f"\\fBsdcron {roff(name)}\\fR", "[\\fIOPTION\\fR...]", *shown])


def commands() -> str:
    """Every command of sdcron(1), in the order of its help."""
    group: Any = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():
        if command.hidden:
            continue
        found += [f".SS {roff(name)}", synopsis(name, command)]
        for text in re.split(r"\n\s*\n", (command.help or "").strip()):
            found += [".PP", *example(text)]
        found.append(options(command, common=False))
    return "\n".join(found)


def example(text: str) -> list[str]:
    """A paragraph of a command's help; an example is set as it is typed."""
    typed = text.removeprefix("Example: ")
    if typed == text:
        return [paragraph(text)]
    lines = [f"\\&{roff(' '.join(each.split()))}" for each in typed.split(";")]
    return [".EX", *lines, ".EE"]


def resolved(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema with what it refers to."""
    reference = value.get("$ref", "").rpartition("/")[2]
    return {**(resolved(definitions[reference], definitions) if reference else {}), **value}


def written(value: object) -> str:
    """A value as a job file has it."""
    return json.dumps(value, ensure_ascii=False)


def key(name: str, value: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """A key of a job file, with those below it."""
    whole = resolved(value, definitions)
    lines = [".TP", f"\\fB{roff(name)}\\fR"]
    lines.append(paragraph(whole.get("description", "")))
    facts = []
    if "title" in whole:
        facts.append(f"Value: {whole['title']}.")
    if "default" in whole:
        facts.append(f"Default: `{written(whole['default'])}`.")
    lines += [".br", paragraph(" ".join(facts))] if facts else []
    for each in whole.get("examples", ()):
        lines += [".br", f"\\fB{roff(name)}:\\fR {roff(written(each))}"]
    # The keys of a job are told once.
    below = {} if value.get("$ref") == _JOB else members(whole)
    each_one = whole.get("additionalProperties")
    if not below and isinstance(each_one, dict) and each_one.get("$ref") != _JOB:
        below = members(resolved(each_one, definitions))
        lines += [".br", "Each of them may be a map of:"] if below else []
    if below:
        lines.append(".RS")
        for more, part in below.items():
            lines += key(more, part, definitions)
        lines.append(".RE")
    return lines


def members(whole: dict[str, Any]) -> dict[str, Any]:
    """The keys below one: of the map that it is, or may be, or of those in the list."""
    found = dict(whole.get("properties", {}))
    parts = [each for word in ("anyOf", "oneOf", "allOf") for each in whole.get(word, ())]
    for part in (*parts, whole.get("items", {})):
        found |= members(part) if part else {}
    return found


def keys(of: str) -> str:
    """Every key of sdcron-job(5), of a job or of a file, in the order of the schema."""
    definitions = schema()["$defs"]
    return "\n".join(
        line for name, value in definitions[of]["properties"].items() for line in key(name, value, definitions)
    )


def page(source: Path) -> str:
    """A man page with everything that is put into it."""
    group: Any = typer.main.get_command(app)
    text = source.read_text(encoding="utf-8")
    text = re.sub(r"^@OPTIONS:(\w+)@$", lambda found: options(group.commands[found[1]]), text, flags=re.MULTILINE)
    told = io.StringIO()
    with redirect_stdout(told):
        job_command(["--help"])
    usage = "\n".join(f"\\&{roff(line.removeprefix('usage: ').strip())}" for line in told.getvalue().splitlines())
    common = options(group.commands["list"], common=True)
    parts = {
        "@COMMANDS@": commands(),
        "@COMMON@": common,
        "@KEYS@": keys("job"),
        "@FILEKEYS@": keys("jobs_file"),
        "@VERSION@": __version__,
        "@USAGE@": usage,
    }
    for mark, put in parts.items():
        text = text.replace(mark, put)
    return text


def main(arguments: list[str]) -> int:
    """Write all pages into a directory."""
    [directory] = map(Path, arguments)
    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(HERE.glob("*.man")):
        (directory / source.stem).write_text(page(source), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
