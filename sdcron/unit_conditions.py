"""`when` -> unit directives: what the machine must offer before a run may start. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.escape import Place, escape
from sdcron.job import Otherwise
from sdcron.paths import Scope

if TYPE_CHECKING:
    from sdcron.job import Job


def when_unit(job: Job, scope: Scope) -> list[str]:
    """The [Unit] lines of what `when` asks for."""
    when = job.when
    wait = when.otherwise is Otherwise.WAIT
    lines = []
    if when.network and scope is Scope.SYSTEM:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    for unit in when.units:
        lines += [f"Wants={unit}"] * wait + [f"After={unit}"]
    if not wait:
        lines += [f"ConditionPathIsMountPoint={escape(path, Place.VALUE)}" for path in when.mounts]
        lines += [f"ConditionPathExists={escape(path, Place.VALUE)}" for path in when.path_exists]
        lines += [f"ConditionPathExists=!{escape(path, Place.VALUE)}" for path in when.path_missing]
        lines += ["ConditionACPower=yes"] * when.ac_power
    else:
        lines += [f"RequiresMountsFor={escape(path, Place.WORD)}" for path in when.mounts]
    return lines


def has_conditions(job: Job) -> bool:
    """Whether a start may come to nothing before any command runs: by a condition, or what it requires, as a mount."""
    when = job.when
    others = when.path_exists or when.path_missing or when.ac_power
    own = any(each.key.startswith(("Condition", "Assert", "Requi", "BindsTo")) for each in job.systemd.unit)
    return bool(when.mounts or own or (others and when.otherwise is Otherwise.SKIP))


def when_service(job: Job, scope: Scope) -> list[str]:
    """The [Service] lines: what no Condition...= directive knows, as ExecCondition=, or as a wait before the start."""
    when = job.when
    # With whole paths: PATH may be the job's own.
    own_manager = ["--user"] if scope is Scope.USER else []
    active = ["/usr/bin/systemctl", *own_manager, "is-active", "--quiet"]
    checks: list[list[str]] = []
    if when.network:
        checks.append(["/usr/bin/systemctl", "--system", "is-active", "--quiet", "network-online.target"])
    checks += [[*active, unit] for unit in when.units]
    if when.otherwise is Otherwise.WAIT:
        checks += [["test", "-e", path] for path in when.path_exists]
        checks += [["test", "!", "-e", path] for path in when.path_missing]
        # It is in /usr/lib/systemd up to systemd 256 or so, and then in /usr/bin.
        checks += [["/bin/sh", "-c", "PATH=/usr/bin:/usr/lib/systemd; systemd-ac-power"]] * when.ac_power
    if when.command:
        checks.append(list(when.command))
    if when.otherwise is Otherwise.SKIP:
        # Exit 255 of an ExecCondition= is a failure, all else but 0 a skip: the shell maps the one to the other.
        shell = ["/bin/sh", "-c", '"$@" || exit 1', "when"]
        directive = "ExecCondition"
    else:
        shell = ["/bin/sh", "-c", 'until "$@"; do /bin/sleep 5; done', "when"]
        directive = "ExecStartPre"
    return [f"{directive}=" + " ".join(escape(word, Place.ARGUMENT) for word in [*shell, *check]) for check in checks]
