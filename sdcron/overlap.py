"""`overlap` as systemd units: what becomes of a run that is due while another is on; no process waits in between.

The timers of such a job start its tick, a handler that is over at once: a timer that starts the service itself can only
have it skipped. To queue, the tick starts a unit that is ordered after the service: its start job waits in systemd
until the run is over, and all that come meanwhile are that one job. A mark on disk keeps it over a reboot (boot.py). To
replace, it restarts the service. To allow, it starts the first free one of several services that are alike.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdcron.escape import Place, escape
from sdcron.handlers import handler_text, home, systemctl
from sdcron.job import Overlap
from sdcron.retry import retry_handler_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdcron.job import Job
    from sdcron.paths import Scope

# restart: a tick that comes while the waiting unit is at work has it begin, and wait, anew; a start would be lost. The
# mark is on disk before anything waits for it.
_QUEUE = (
    'mark=$1; [ -e "$mark" ] || { mkdir -p "${mark%/*}" && : >"$mark" && sync "$mark" "${mark%/*}"; };',
    ': >"$mark"; exec SYSTEMCTL restart --quiet --no-block "$2"',
)
# Without a mark the run has begun meanwhile: a boot that starts this, and a timer, may both mean the same one. A tick
# that restarts this while it is at work has left its own mark before; it may end this before the start is asked for.
_QUEUED = (
    'if [ -e "$1" ]; then mv -f "$1" "$1@"; elif [ ! -e "$1@" ]; then exit 0; fi;',
    'SYSTEMCTL start --quiet --no-block "$2"; code=$?; rm -f "$1@"; exit $code',
)
_IS_ASKED = ('touch -c "$3";',)
_REPLACE = ('exec SYSTEMCTL restart --quiet --no-block "$1"',)
# A start that waits, as for a network, has a job and is not active. Names alone are read: a description may hold any.
_ALLOW = (
    "unit=$1 most=$2;",
    'on=" $(SYSTEMCTL list-units --full --plain --no-legend --state=activating,active,reloading,deactivating',
    '"$unit.service" "$unit@*.service" | while read -r name rest; do printf \'%s \' "$name"; done;',
    'SYSTEMCTL list-jobs --full --no-legend "$unit.service" "$unit@*.service" |',
    'while read -r id name rest; do printf \'%s \' "$name"; done)";',
    # A run for an instant, or with values of its own, is one of them: its number is when (by_hand.py).
    'own=" "; for name in $on; do case "$own" in *" $name "*) continue;; esac; own="$own$name ";',
    'case $name in "$unit.service"|"$unit"@[0-9]*.service) most=$((most-1));; esac; done;',
    'n=1 slot="$unit.service"; while [ "$most" -gt 0 ]; do case "$own" in *" $slot "*) ;;',
    '*) exec SYSTEMCTL start --quiet --no-block "$slot";; esac; n=$((n+1)); slot="$unit@$n.service"; done;',
    'echo "$unit: $2 runs are on already, this one is dropped"',
)
_IS_DROPPED = ('; rm -f "$3"',)
MOST_SLOTS = 1_000_000
"""No job may have so many runs on."""
_SERVICE = re.compile(r"sdcron-([^@]+)(?:@(\d+))?\.service")


def tick_name(job_name: str) -> str:
    """What the timers of a job start that does not skip. An at sign cannot stand in a job name."""
    return f"sdcron-{job_name}@tick.service"


def asked_unit(job: Job) -> str:
    """What is to be started by whatever asks for a run, such as a timer, so that `overlap` is heeded."""
    return slot_name(job.name, 1) if job.overlap is Overlap.SKIP else tick_name(job.name)


def queued_name(job_name: str) -> str:
    """The unit whose start waits for the end of the run that is on."""
    return f"sdcron-{job_name}@queued.service"


def queued_mark(state_dir: str, job_name: str) -> str:
    """The file that is there while a run waits."""
    return f"{state_dir}/queued/{job_name}"


def queued_marks(queued_dir: Path, job_name: str) -> tuple[Path, Path]:
    """The files that say so: that one, and one that is there while the start that has waited is asked for."""
    return queued_dir / job_name, queued_dir / f"{job_name}@"


def queued_jobs(queued_dir: Path) -> list[str]:
    """The inverse: the jobs that have any of them, sorted. Raises OSError."""
    return sorted({mark.name.removesuffix("@") for mark in queued_dir.iterdir()}) if queued_dir.is_dir() else []


def slot_name(job_name: str, number: int) -> str:
    """The service of a run beside others: the first is the job's own."""
    return f"sdcron-{job_name}@{number}.service" if number > 1 else f"sdcron-{job_name}.service"


def slot_of(unit: str) -> tuple[str, int]:
    """The inverse: job and number of a service whose runs are the job's; no job for any other unit."""
    found = _SERVICE.fullmatch(unit)
    return (found[1], int(found[2] or 1)) if found else ("", 0)


def is_by_hand(unit: str) -> bool:
    """Whether a service is for one run that somebody asked for (by_hand.py): its number is when, in microseconds."""
    return slot_of(unit)[1] > MOST_SLOTS


def overlap_units(
    job: Job, scope: Scope, state_dir: str, service: str, header: Sequence[str], ownership: Sequence[str]
) -> list[tuple[str, str]]:
    """Name and text of what a job needs beside its service, whose text is `service`; nothing for one that skips."""
    unit, mark = slot_name(job.name, 1), queued_mark(state_dir, job.name)
    # What its chain asks for is as old as the start that comes of it, and gone with one that does not (chain_units.py).
    due = [f"{state_dir}/graph/{job.name}/due"] if job.after else []

    def handler(what: str, after: Sequence[str], script: Sequence[str], *words: str) -> str:
        text = " ".join(script).replace("SYSTEMCTL", systemctl(scope))
        argv = ["/bin/sh", "-c", text, "sdcron-overlap", *words]
        lines = [
            f"ExecStart={' '.join(escape(word, Place.ARGUMENT) for word in argv)}",
            # While it is at work, however long, whatever else ticks is lost.
            "TimeoutStartSec=1min",
            # Not what a run prints, which systemd-cat writes with other levels.
            "SyslogLevel=notice",
        ]
        description = f"{what} of sdcron job {job.name}"
        return handler_text(job.name, scope, description, unit=[*header, *after], service=lines, own=ownership)

    tick, queued = tick_name(job.name), queued_name(job.name)
    # It has nothing to reload: what is referred to stays in memory as long as the timer, as a service of its own would,
    # and with it what systemd knows of the last run.
    held = [f"PropagatesReloadTo={unit}"]
    if job.overlap is Overlap.QUEUE:
        # What a failure is followed by is decided while the mark is there.
        before = f"{unit} {retry_handler_name(job.name)}" if job.retry is not None and job.enabled else unit
        return [
            (tick, handler("Due time", held, _QUEUE, mark, queued)),
            (
                queued,
                handler("The waiting run", [f"After={before}"], (*_IS_ASKED[: len(due)], *_QUEUED), mark, unit, *due),
            ),
        ]
    if job.overlap is Overlap.REPLACE:
        return [(tick, handler("Due time", held, _REPLACE, unit))]
    if job.overlap is Overlap.ALLOW:
        # One that failed leaves memory: the records tell of it.
        alike = service.replace("[Unit]\n", "[Unit]\nCollectMode=inactive-or-failed\n", 1)
        alike = alike.replace("\n[Service]\nType=oneshot\n", f"\n[Service]\nType=oneshot\n{home(scope)}\n", 1)
        # The last word of a run asks about its own service (chain_units.py).
        own = [slot_name(job.name, number) for number in range(2, job.max_parallel + 1)]
        slots = [(slot, alike.replace(f" sdcron-succeeded {unit} ", f" sdcron-succeeded {slot} ")) for slot in own]
        script, most = (*_ALLOW, *_IS_DROPPED[: len(due)]), str(job.max_parallel)
        return [(tick, handler("Due time", held, script, f"sdcron-{job.name}", most, *due)), *slots]
    return []
