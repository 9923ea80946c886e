"""Commands that write job files: new, edit."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from sdcron.cli.options import BACKEND, ROOT, USER, YES, app, complete_job, place_of
from sdcron.errors import ExitCode

if TYPE_CHECKING:
    from sdcron.errors import JobFileError

_ASKED = {"schedule": ("When", "30 2 * * *"), "command": ("What, a program and its arguments", "/usr/bin/true")}
"""The essentials: what is asked for on a terminal, and what stands there if nothing is said."""


@app.command()
def new(
    name: str = typer.Argument(..., help="Name of the job and of its file.", metavar="NAME"),
    directory: Path = typer.Option(Path(), "--directory", "-d", help="Where the file goes.", metavar="DIR"),
    schedule: Optional[str] = typer.Option(None, "--schedule", "-s", help="When it runs.", metavar="EXPR"),
    command: Optional[str] = typer.Option(None, "--command", "-c", help="What runs.", metavar="COMMAND"),
    description: Optional[str] = typer.Option(None, "--description", help="What it is for.", metavar="TEXT"),
    run_as: Optional[str] = typer.Option(None, "--run-as", help="The user it runs as.", metavar="USER"),
    retry: Optional[str] = typer.Option(None, "--retry", help="How long after a failure it is tried again."),
) -> None:
    """Write a commented job file to start from. On a terminal it asks when and what, unless an option says so.

    Example: sdcron new backup --schedule "30 2 * * *" --command "/usr/local/bin/backup --all"
    """
    from sdcron import editing, render
    from sdcron.paths import system_paths

    editing.path_of_new(name, directory)
    options = {"schedule": schedule, "command": command, "description": description, "user": run_as, "retry": retry}
    values = {key: value for key, value in options.items() if value is not None}
    if sys.stdin.isatty() and sys.stdout.isatty():
        values |= {key: _ask(name, key) for key in _ASKED if key not in values}
    path = editing.new_job_file(name, directory, values)
    render.line(str(path))
    typed = shlex.quote(str(path))
    edit_it = "" if "command" in values else f"edit it, then: sdcron validate {typed}, "
    # Drop-in files are applied as one.
    dropped_in = str(directory.resolve()) in map(str, system_paths().drop_in_dirs)
    render.note(f"{edit_it or 'next: '}sdcron apply{'' if dropped_in else f' {typed}'}")


def _ask(name: str, key: str) -> str:
    """One value, asked for until it can be one."""
    from sdcron import editing, render

    words, otherwise = _ASKED[key]
    while True:
        value = str(typer.prompt(words, default=otherwise))
        wrong = editing.problems_of_value(name, key, value)
        if not wrong:
            return value
        for text in wrong:
            render.note(render.plain(text))


@app.command()
def edit(
    job: str = typer.Argument(..., help="An applied job.", metavar="JOB", autocompletion=complete_job),
    yes: bool = YES,
    user: bool = USER,
    root: Optional[Path] = ROOT,
    backend: str = BACKEND,
) -> None:
    """Open the file of an applied job in $VISUAL or $EDITOR, check it, show what would change, and apply it.

    What is wrong is told, and the editor opened again. The file is replaced only once all is right; what was written
    and is not saved is kept in a temporary file.

    Example: sudo sdcron edit backup
    """
    from sdcron import dropped, editing, render
    from sdcron.cli.applying import apply

    place = place_of(user, root, backend)
    path = editing.source_of(place, job)
    editing.check_rights(place, path)

    def again(error: JobFileError) -> bool:
        if not sys.stdin.isatty():
            return False
        render.problems(error.problems)
        if not typer.confirm("Edit again?", default=True):
            raise typer.Exit(ExitCode.JOB_FILE)
        return True

    draft = editing.edited(place, path, again, render.note)
    if not draft:
        draft.forget()
        render.note(f"{path} is as it was")
        return
    try:
        render.text_block(editing.difference(draft))
        if draft.plan is not None:
            render.plan(draft.plan, diffs=False)
        if not yes and sys.stdin.isatty() and not typer.confirm(f"Save {path} and apply it?", default=True):
            render.note(f"{path} is as it was")
            raise typer.Exit(ExitCode.FAILED)
        editing.save(draft)
    except BaseException:
        editing.keep(draft, render.note)
        raise
    draft.forget()
    # The drop-in files are applied as one; a mistake in another is told, and keeps nobody from this.
    every = dropped.is_dropped_in(place, str(path))
    apply(
        [] if every else [path],
        dry_run=False,
        prune=True,
        transient=False,
        lenient=every,
        yes=True,
        user=user,
        root=root,
        backend=backend,
        json=False,
    )
