"""Services beside a job's own that are over at once: what those of retries, overlap and chains have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.paths import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence


def systemctl(scope: Scope) -> str:
    """How a shell script of a unit asks the manager that the unit is of."""
    return "systemctl" if scope is Scope.SYSTEM else "systemctl --user"


def systemctl_of_a_run(scope: Scope) -> str:
    """The same for a step of the job's own service, which has the job's variables.

    They may be somebody else's than the step's, and some say whom systemctl asks (systemctl(1), "Environment"); root's
    steps do without.
    """
    return "/usr/bin/env -i /usr/bin/systemctl" if scope is Scope.SYSTEM else "/usr/bin/systemctl --user"


def home(scope: Scope) -> str:
    """The [Service] line of a unit with an at sign: what it would be in by itself, a slice of its own, stays behind."""
    return f"Slice={'system.slice' if scope is Scope.SYSTEM else 'app.slice'}"


def handler_text(
    job_name: str, scope: Scope, description: str, *, unit: Sequence[str], service: Sequence[str], own: Sequence[str]
) -> str:
    """The text of such a service: with these [Unit] and [Service] lines, and those that say whose it is."""
    lines = [
        "[Unit]",
        f"Description={description}",
        *unit,
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=oneshot",
        home(scope),
        *service,
        f"SyslogIdentifier=sdcron-{job_name}",
        f"LogExtraFields=SDCRON_JOB={job_name}",
        *own,
    ]
    return "\n".join(lines) + "\n"
