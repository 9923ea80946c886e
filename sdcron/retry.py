"""Retries as systemd units: what follows a failed run, with no process waiting in between.

A failed service starts the retry handler (OnFailure=), which arms one timer for the n-th attempt; that timer starts the
service again. The service conflicts with its retry timers, so any start of it, also a regular one, ends a pending wait.
The handler keeps the number of the armed attempt in the runtime directory; a successful run removes it.

Why not the start limit of one timer as the counter: a daemon-reload may forget it and a success does not reset it. Why
not $TRIGGER_UNIT: systemd 252 leaves there what started the first of several runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.escape import Place, escape
from sdcron.handlers import handler_text, systemctl, systemctl_of_a_run
from sdcron.job import Overlap, Sandbox
from sdcron.paths import Scope
from sdcron.span import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.job import Job, Retry

# The handler gets MONITOR_* from systemd (systemd.exec(5)). A retry timer that was stopped before it elapsed has no
# last trigger: its wait was superseded by a regular run, whose failure starts a new series. --job-mode=fail: arming
# must not stop a run that has started in the meantime; a oneshot's start job lasts as long as its run.
_HANDLER = (
    "unit=$1 attempts=$2 codes=$3 state=$4;",
    'why="${MONITOR_SERVICE_RESULT-unknown} ${MONITOR_EXIT_STATUS-}";',
    # What PID 1 cannot set up, as without an environment file, goes from failed to failed the next time, and OnFailure=
    # is for those that become it.
    'case "$why" in resources*) SYSTEMCTL reset-failed "$unit.service";; esac;',
    'case "$codes" in -) ;; *)',
    'case "$why" in exit-code*) ;; *) why="exit-code none ($why)";; esac;',
    'case " $codes " in *" ${why#exit-code } "*) ;; *)',
    'rm -f "$state"; echo "<5>$unit: not one of the exit statuses to retry: $why"; exit 0;; esac;; esac;',
    'read -r n run 2>/dev/null <"$state" || n=0;',
    'if [ "$n" = stopped ]; then n=0; if [ "$run" = "${MONITOR_INVOCATION_ID-}" ]; then',
    'rm -f "$state"; echo "<5>$unit: was stopped, no retry"; exit 0; fi; fi;',
    '[ "$n" = 0 ] || [ -n "$(SYSTEMCTL show --value --property=LastTriggerUSec "$unit@retry-$n.timer")" ] || n=0;',
    "n=$((n+1));",
    'if [ "$n" -gt "$attempts" ]; then',
    'rm -f "$state"; echo "<3>$unit: gave up after $attempts retries"; exit 0; fi;',
    'mkdir -p "${state%/*}" && echo "$n" >"$state.new" && mv "$state.new" "$state" || exit 1;',
    'if SYSTEMCTL start --quiet --no-block --job-mode=fail "$unit@retry-$n.timer";',
    'then echo "<5>$unit: retry $n of $attempts is waiting";',
    'else rm -f "$state"; echo "<5>$unit: runs again already, no retry needed"; fi',
)
# What is said of a failure is read anew when the handler starts: by then a run may be on that has replaced the failed
# one, and nothing has failed.
_REPLACED = 'case "$why" in success*) echo "<5>$unit: was replaced, no retry"; exit 0;; esac;'
# The unit of the run that waits is ordered after this handler: the mark is there until it is over.
_QUEUED = (
    'if [ -e "$5" ] || [ -e "$5@" ]; then rm -f "$state";',
    'echo "<5>$unit: a run waits already, no retry"; exit 0; fi;',
)
# A run's last word. A successful one forgets the series. One that is being stopped says so to the handler, because
# systemd reports its death by SIGTERM like any other failure; what tells them apart is the stop job, which is gone a
# moment later. PATH may be the job's own.
_LAST_WORD = (
    "PATH=/usr/bin:/bin; case $SERVICE_RESULT in",
    'success|exec-condition) rm -f "$2";;',
    '*) case "$(SYSTEMCTL list-jobs --no-legend "$1")" in *" stop "*|*" restart "*)',
    'mkdir -p "${2%/*}" && echo "stopped $INVOCATION_ID" >"$2";; esac;; esac',
)


def retry_timer_name(job_name: str, attempt: int) -> str:
    """The timer that waits before the n-th retry, n from 1.

    An at sign cannot stand in a job name, so no job's own unit can have this name; a colon could not either, but
    `systemd-analyze verify` would take it for the end of the path.
    """
    return f"sdcron-{job_name}@retry-{attempt}.timer"


def retry_handler_name(job_name: str) -> str:
    """The service that a failed run starts."""
    return f"sdcron-{job_name}@retry.service"


def gave_up_after(job: Job, scope: Scope) -> tuple[list[str], list[str]]:
    """The [Unit] and [Service] lines of a job's service that make its failures retry."""
    retry = _retry(job)
    timers = " ".join(retry_timer_name(job.name, attempt) for attempt in range(1, retry.attempts + 1))
    script = escape(" ".join(_LAST_WORD).replace("SYSTEMCTL", systemctl_of_a_run(scope)), Place.ARGUMENT)
    words = f"sdcron-retry sdcron-{job.name}.service %t/sdcron/retry/{job.name}"
    unit = [f"OnFailure={retry_handler_name(job.name)}", f"Conflicts={timers}"]
    service = [f"ExecStopPost=-+/bin/sh -c {script} {words}"]
    if job.sandbox is not Sandbox.NONE and scope is Scope.USER:
        # A user manager ignores the +, so a sandboxed run must be able to write there, from the first one on.
        service += ["RuntimeDirectory=sdcron/retry", "RuntimeDirectoryPreserve=yes"]
    return unit, service


def retry_units(
    job: Job, scope: Scope, header: Sequence[str], ownership: Sequence[str], mark: str
) -> list[tuple[str, str]]:
    """Name and text of the handler and of one timer for each attempt; `mark` is there while a run waits already."""
    words = [mark] if job.overlap is Overlap.QUEUE else []
    units = [(retry_handler_name(job.name), _handler(job, scope, header, ownership, words))]
    retry = _retry(job)
    for attempt, delay in enumerate(retry.delays(), start=1):
        lines = [
            "[Unit]",
            f"Description=Retry {attempt} of {retry.attempts} of sdcron job {job.name}",
            *header,
            "StartLimitIntervalSec=0",
            "",
            "[Timer]",
            f"OnActiveSec={span(delay)}",
            f"AccuracySec={span(job.accuracy)}",
            f"Unit=sdcron-{job.name}.service",
            *ownership,
        ]
        units.append((retry_timer_name(job.name, attempt), "\n".join(lines) + "\n"))
    return units


def _retry(job: Job) -> Retry:
    if job.retry is None:
        raise ValueError(f"{job.name} has no retry")
    return job.retry


def _handler(job: Job, scope: Scope, header: Sequence[str], ownership: Sequence[str], more_words: list[str]) -> str:
    retry = _retry(job)
    codes = " ".join(str(code) for code in retry.on_exit) or "-"
    unit = f"sdcron-{job.name}"
    # systemd.syntax(7): a backslash at the end of a line joins the next one with a blank, inside quotes too.
    more = {Overlap.REPLACE: (_REPLACED,), Overlap.QUEUE: _QUEUED}.get(job.overlap, ())
    steps = [*_HANDLER[:2], *more, *_HANDLER[2:]]
    script = " \\\n  ".join(escape(step.replace("SYSTEMCTL", systemctl(scope)), Place.ARGUMENT)[1:-1] for step in steps)
    words = " ".join(escape(word, Place.ARGUMENT) for word in ["sdcron-retry", unit, str(retry.attempts), codes])
    more_words = [escape(word, Place.ARGUMENT) for word in more_words]
    command = " ".join([f'ExecStart=/bin/sh -c "{script}" {words} %t/sdcron/retry/{job.name}', *more_words])
    description = f"Retry of sdcron job {job.name} after a failure"
    return handler_text(job.name, scope, description, unit=header, service=[command], own=ownership)
