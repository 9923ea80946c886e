"""What sdcron's own services run: collect, and boot."""

from __future__ import annotations

import typer

from sdcron.cli.options import USER, app, place_of


@app.command()
def collect(
    once: bool = typer.Option(False, "--once", help="Read to the end of the journal and exit."),
    user: bool = USER,
) -> None:
    """Follow the journal and keep a record of every run.

    The service sdcron-collector runs this; apply starts it. Records go to a database that `status` and `history` read,
    and to job_status.log, one JSON object a line.

    Example: sudo sdcron collect --once
    """
    if not once:
        from sdcron.collect_service import become

        become(user=user)
    from sdcron import collector

    collector.bring_up_to_date(place_of(user, None, "systemd"), collector.tell_journal)


@app.command(hidden=True)
def boot(user: bool = USER) -> None:
    """Let retries that an earlier boot left wait again. The service sdcron-boot runs this once a boot."""
    from sdcron.boot import after_boot

    after_boot(place_of(user, None, "systemd"))
