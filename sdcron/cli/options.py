"""The typer application, and the options and arguments that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sdcron import __version__
from sdcron.errors import UsageError

if TYPE_CHECKING:
    from sdcron.operations import Place


class _Commands(typer.core.TyperGroup):
    """All commands, of whose arguments none may be empty: an unset variable must not mean the current directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's, or typer's own copy of it
        if not ctx.resilient_parsing and any(
            not argument or (argument.startswith("--") and argument.endswith("=")) for argument in args
        ):
            raise UsageError("an argument is empty", "is a variable unset? The current directory is written as a dot")
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


class EndedAsError(Exception):
    """The command ends as a run did. Not typer.Exit: what that does with some numbers is typer's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


app = typer.Typer(
    name="sdcron",
    cls=_Commands,
    help="Jobs for systemd machines: YAML files become timers.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def complete_job(incomplete: str) -> list[str]:
    """Names of applied jobs, of either scope, for shell completion."""
    from sdcron.operations import known_jobs, make_place

    names: set[str] = set()
    for user in (False, True):
        names.update(known_jobs(make_place(user=user, root=None, backend="auto")).jobs)
    return sorted(name for name in names if name.startswith(incomplete))


USER = typer.Option(False, "--user/--system", help="Your own service manager, or the machine's (default).")
ROOT = typer.Option(None, "--root", help="Work on the directories below DIR; no systemd is asked.", metavar="DIR")
BACKEND = typer.Option(
    "auto", "--backend", help="Who runs the jobs: systemd, local (sdcron engine), or auto.", metavar="NAME"
)
JSON = typer.Option(False, "--json", help="Print one JSON document.")
SOME_PATHS = typer.Argument(
    None, help="Job files, or directories of them; the drop-in directories (jobs.d) if none.", metavar="[PATH]..."
)
PATHS = typer.Argument(..., help="Job files (*.yaml, *.yml), or directories of them.", metavar="PATH...")
PRUNE = typer.Option(True, "--prune/--no-prune", help="Remove jobs whose file left the directory (default).")
TRANSIENT = typer.Option(False, "--transient", help="Units that live until the next boot; nothing in /etc.")
YES = typer.Option(False, "--yes", "-y", help="Do not ask.")
SOME_JOBS = typer.Argument(None, help="Applied jobs.", metavar="[JOB]...", autocompletion=complete_job)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"sdcron {__version__}\n")
        raise typer.Exit()


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Jobs for systemd machines: YAML files become timers.

    Start with `sdcron new hello`, then `sdcron apply .` and `systemctl list-timers`.
    """


def place_of(user: bool, root: Path | None, backend: str, transient: bool = False, *, checking: bool = False) -> Place:
    """The place that the options name; `checking` as in make_place. Raises UsageError for a backend nobody knows."""
    from sdcron.operations import make_place

    if backend not in ("auto", "systemd", "local"):
        raise UsageError(f"no backend is called {backend}", "auto, systemd or local")
    return make_place(user=user, root=root, backend=backend, transient=transient, checking=checking)
