"""`after` and `needs` as systemd units: tokens on disk, put down by one job's end and looked at by another's start.

D, which names X, owns a drop-in of X's service: X's own file stays as it is, and D may be applied apart from it. At the
end of each run of X that drop-in leaves tokens in D's directory below `graph` in the state directory:

    X.end   X has ended since D was started by its chain last: `ok`, or `bad` for any end that is no success
    X.ok    X has succeeded since D's own last success (`needs`)
    X.told  the run of X that was heard of last, or when a condition kept it from a start
    X.start when the start of X was that was looked at last
    due     the chain has asked for a start of D; in it, those whose end was bad
    lock    held while tokens change; D has tokens as long as this is there

Whoever puts the last `.end` down makes them `due` and starts D's handler, sdcron-D@after.service, which starts D. A
failure that is retried is no end: the last word then is the retry handler's, which gets a drop-in too. What ends
without ExecStopPost= (a condition that does not hold, a disk that is not there) sdcron-D@skipped.service looks for: X
wants it, and it comes after X; each X has its own. D's own ExecCondition= is the gate.

Why tokens and not times: systemd forgets what an inactive unit did. Why the handler, where D itself could be started:
PID 1 says that it starts it, and that is how a run's trigger is known to be `after`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.drop_ins import drop_in_name
from sdcron.escape import Place, escape
from sdcron.handlers import handler_text, systemctl_of_a_run
from sdcron.job import NOT_RUN, Overlap, Sandbox
from sdcron.overlap import asked_unit
from sdcron.paths import Scope
from sdcron.pauses import conditions as marks
from sdcron.retry import retry_handler_name
from sdcron.unit_conditions import has_conditions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdcron.job import Job

LOCK, DUE = "lock", "due"
_KEYS = ("After=", "Needs=")
END, OK, TOLD, START = ".end", ".ok", ".told", ".start"

# How a run ended, as $word. One that is stopped may say that it succeeded: what tells is the stop job. One that another
# takes the place of is no end.
_WORD = (
    'exec 2>/dev/null; PATH=/usr/bin:/bin; umask 022; word=bad; case "$SERVICE_RESULT $EXIT_STATUS" in',
    f'"success {NOT_RUN}") ;;',
    'success*) case "$(SYSTEMCTL list-jobs --no-legend "$unit")" in *" restart "*) exit 0;; *" stop "*) ;;',
    "*) word=ok;; esac;;",
)
# X is paused: no retry follows (retry.py). The arguments after the sixth are all that D is after.
_ENDED = (
    "unit=$1 x=$2 dir=$3 d=$4 kind=$5 paused=$6; shift 6;",
    *_WORD,
    'exec-condition*) ;; *) case "$(SYSTEMCTL list-jobs --no-legend "$unit")" in *" restart "*) exit 0;; esac;',
    'if ! [ -e "$paused/$x" ] && ! [ -e "$paused/.all" ]; then',
    'case "$(SYSTEMCTL show --value --property=OnFailure "$unit")" in *"sdcron-$x@retry.service"*) exit 0;; esac; fi;;',
    "esac;",
    '[ -e "$dir/lock" ] || exit 0; exec 9<"$dir/lock"; flock 9 || exit 1; id=$INVOCATION_ID;',
)
# The retry handler is done. A file that says so: a retry waits. A run that is on: it ends later.
_GAVE_UP = (
    "unit=$1 x=$2 dir=$3 d=$4 kind=$5 paused=$6 retry=$7; shift 7; exec 2>/dev/null; umask 022; word=bad;",
    '[ -e "$retry" ] && exit 0;',
    'case "$(SYSTEMCTL show --value --property=ActiveState "$unit")" in inactive|failed) ;; *) exit 0;; esac;',
    '[ -e "$dir/lock" ] || exit 0; exec 9<"$dir/lock"; flock 9 || exit 1; id=;',
)
# An end without its `told` is one that the handler that looks at starts tells, too.
_TELL = (
    'if [ "$word" = ok ] && [ "$kind" != after ]; then : >"$dir/$x.ok"; sync "$dir"; fi;',
    '[ "$kind" != needs ] || exit 0; echo "$word" >"$dir/$x.end"; [ -z "$id" ] || echo "$id" >"$dir/$x.told";',
    'sync "$dir/$x.end" "$dir";',
)
# All of them have ended: D is due, unless it is paused, or skips and runs. The token is there before the start is asked
# for.
_HAVE_ENDED = (
    'for y; do [ -e "$dir/$y.end" ] || exit 0; done; bad=;',
    'for y; do read -r end <"$dir/$y.end"; [ "$end" = ok ] || bad="$bad $y"; done; start=1;',
)
_SKIPS = (
    'case "$(SYSTEMCTL show --value --property=ActiveState "sdcron-$d.service")" in inactive|failed) ;;',
    "*) start=;; esac;",
)
_START = (
    'if [ -e "$paused/$d" ] || [ -e "$paused/.all" ]; then start=; fi;',
    'if [ -n "$start" ]; then echo "$bad" >"$dir/due"; sync "$dir/due" "$dir"; fi;',
    'for y; do rm -f "$dir/$y.end"; done;',
    '[ -z "$start" ] || SYSTEMCTL start --quiet --no-block "sdcron-$d@after.service"; sync "$dir"',
)
# X's start is over, whatever came of it. systemd looks at the conditions of each start: where it has not, the start
# came to nothing, for want of what it requires, or given up by somebody. A condition that does not hold leaves the unit
# inactive, and its time tells whether it was heard of. What else has not told could not: it was not set up, or its
# stop_timeout was too short. What is retried is no end, nor is what a pause has given up.
_SKIPPED = (
    "dir=$1 d=$2 paused=$3 x=$4 own=$5 retry=$6; shift 6; exec 2>/dev/null; umask 022;",
    'look() { all=";$(SYSTEMCTL show --property=ActiveState,ConditionResult,ConditionTimestampMonotonic,InvocationID',
    '--property=InactiveExitTimestampMonotonic,OnFailure "sdcron-$x.service" |',
    "tr '\\n' ';')\"; get ActiveState; };",
    'get() { is=${all#*";$1="}; is=${is%%;*}; };',
    'began() { SYSTEMCTL show --value --property=InactiveExitTimestampMonotonic "$1"; };',
    "is_over() { case $is in inactive|failed) ;; activating) exec 9<&-; sleep 1; exit AGAIN;; *) exit 0;; esac; };",
    'is_paused() { [ -e "$paused/$x" ] || [ -e "$paused/.all" ]; };',
    'is_retried() { get OnFailure; case " $is " in *" sdcron-$x@retry.service "*) ! is_paused;; *) return 1;; esac; };',
    # Its handler is about to see to it, or has done so right now.
    'is_seen_to() { [ -e "$retry" ] || [ -n "$(SYSTEMCTL list-jobs --no-legend "sdcron-$x@retry.service")" ] ||',
    '[ $(($(began "$own") - $(began "sdcron-$x@retry.service"))) -lt 10000000 ]; };',
    'while look; [ "$is" = deactivating ]; do sleep 0.1; done; is_over;',
    '[ -e "$dir/lock" ] || exit 0; exec 9<"$dir/lock"; flock 9 || exit 1; look; is_over;',
    "get ConditionTimestampMonotonic; tried=$is before= told= id= ended=;",
    # Another start of X that began meanwhile asked for this one, which was on and so does not come again by itself.
    'trap \'look; get ConditionTimestampMonotonic; [ "$is" = "$tried" ] || exit AGAIN\' EXIT;',
    'read -r before <"$dir/$x.start"; echo "$tried" >"$dir/$x.start"; read -r told <"$dir/$x.told";',
    'if [ "$tried" = 0 ] || [ "$tried" = "$before" ]; then',
    "is_paused || { is_retried && is_seen_to; } || ended=yes;",
    "else get InactiveExitTimestampMonotonic; exit=$is; get ConditionResult;",
    'if [ "$is" = no ] && [ "$tried" -gt "$exit" ]; then id=$tried;',
    "elif ! is_retried; then get InvocationID; id=$is; fi; fi;",
    'if [ -n "$id" ] && [ "$id" != "$told" ]; then ended=yes; echo "$id" >"$dir/$x.told"; fi;',
    'if [ -n "$ended" ]; then echo bad >"$dir/$x.end"; sync "$dir/$x.end" "$dir"; fi;',
)
_AGAIN = "75"
"""The exit status of a handler that is to look once more (EX_TEMPFAIL of sysexits.h(3head))."""
_LOOK_AGAIN = ('[ "$EXIT_STATUS" != AGAIN ] || exec SYSTEMCTL start --quiet --no-block "$1"',)
# A boot may ask for the same start as an end (boot_chains.py): once the gate has taken the token it is not asked again.
_ASK = (
    'dir=$1; [ ! -e "$dir/lock" ] || { exec 9<"$dir/lock"; flock 9; }; [ -e "$dir/due" ] || exit 0;',
    'exec SYSTEMCTL start --quiet --no-block "$2"',
)
# A start that was asked for some time ago may have waited, as for a network or a run for an instant. Of a job with
# conditions, which are looked at before this, it more likely came to nothing: one of them did not hold.
_GATE = (
    "dir=$1 conditions=$2; shift 2; PATH=/usr/bin:/bin; all=;",
    '[ ! -e "$dir/lock" ] || { exec 9<"$dir/lock"; flock 9; }; if [ -e "$dir/due" ]; then',
    'if [ "$conditions" = no ] || [ -n "$(find "$dir/due" -mmin -5)" ]; then read -r all <"$dir/due"; fi;',
    'rm -f "$dir/due"; fi;',
    'for x; do [ -e "$dir/$x.ok" ] || case " $all " in *" $x "*) ;; *) all="$all $x";; esac; done;',
    'text=; for x in $all; do text="$text, $x"; done; [ -z "$all" ] || { echo "<5>needs ${text#, }"; exit 1; }',
)
_SUCCEEDED = (
    "unit=$1 dir=$2; shift 2;",
    *_WORD,
    'esac; [ "$word" = ok ] && [ -e "$dir/lock" ] || exit 0;',
    'exec 9<"$dir/lock"; flock 9; for x; do rm -f "$dir/$x.ok"; done',
)


def after_handler_name(job_name: str) -> str:
    """The service that starts a job once all that it is `after` have ended."""
    return f"sdcron-{job_name}@after.service"


def skipped_handler_names(job_name: str, count: int) -> list[str]:
    """The services that look for those of them that ended without a word: one for each."""
    return [f"sdcron-{job_name}@skipped{f'-{number}' if number > 1 else ''}.service" for number in range(1, count + 1)]


def is_looking(unit: str, job_name: str) -> bool:
    """Whether a unit is one of these."""
    return unit.startswith(f"sdcron-{job_name}@skipped") and unit.endswith(".service")


def graph_dir(state_dir: str, job_name: str) -> str:
    """Where a job's tokens are."""
    return f"{state_dir}/graph/{job_name}"


def drop_ins_of(job_name: str, after: Sequence[str], needs: Sequence[str]) -> dict[str, str]:
    """The drop-ins of a job's that make its tokens, and each time the job that it is about."""
    found = {drop_in_name(f"sdcron-{name}.service", job_name): name for name in (*after, *needs)}
    return found | {drop_in_name(retry_handler_name(name), job_name): name for name in after}


def token_changes(job: str, before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What becomes of a job's tokens when its units change: text by name, None for one that goes.

    Another list of jobs to be after begins anew: an edit is no reason for a run.
    """
    old, new = (_tokens(job, texts) for texts in (before, after))
    if old == new:
        return {}
    changes: dict[str, str | None] = {} if new else {LOCK: None}
    ends_before, ends = ({name for name in names if not name.endswith(OK)} for names in (old, new))
    gone = (old | new) if not old else (old - new) | (ends_before if ends_before != ends else set())
    changes |= dict.fromkeys(sorted(gone - {LOCK}))
    return changes | ({LOCK: ""} if new and not old else {})


def _tokens(job: str, texts: Mapping[str, str]) -> set[str]:
    """All tokens that a job may have."""
    section = texts.get(f"sdcron-{job}.service", "").rpartition("\n[X-Sdcron]\n")[2].split("\n")
    after, needs = (" ".join(line[len(key) :] for line in section if line.startswith(key)).split() for key in _KEYS)
    after = after if after_handler_name(job) in texts else []
    found = {f"{name}{kind}" for name in after for kind in (END, TOLD, START)} | {f"{name}{OK}" for name in needs}
    return found | ({LOCK, DUE} if found else set())


def gate(job: Job, scope: Scope, state_dir: str) -> list[str]:
    """The [Service] lines of a job that keep it from a start without what it needs, and let it reach the tokens."""
    # A user manager ignores the + of what tells others, and of what forgets.
    inside = scope is Scope.USER and job.sandbox is Sandbox.STRICT
    writes = [f"ReadWritePaths={escape(f'-{state_dir}/graph', Place.WORD)}"] * inside
    if not job.after and not job.needs:
        return writes
    directory = graph_dir(state_dir, job.name)
    conditions = "yes" if has_conditions(job) else "no"
    lines = [f"ExecCondition=+{_shell(_GATE, scope, 'sdcron-needs', directory, conditions, *job.needs)}"]
    if job.needs:
        words = (f"sdcron-{job.name}.service", directory, *job.needs)
        lines.append(f"ExecStopPost=-+{_shell(_SUCCEEDED, scope, 'sdcron-succeeded', *words)}")
    return [*lines, *writes]


def on_record(job: Job) -> list[str]:
    """What the job's service says of it in its own section."""
    return [f"{key}={' '.join(names)}" for key, names in (("After", job.after), ("Needs", job.needs)) if names]


def chain_units(
    job: Job, scope: Scope, state_dir: str, header: Sequence[str], ownership: Sequence[str]
) -> list[tuple[str, str]]:
    """Name and text of a job's handlers, and of its drop-ins."""
    after = job.after if job.enabled else ()
    found = []
    if after:
        found.append((after_handler_name(job.name), _after_handler(job, scope, state_dir, header, ownership)))
    looking = dict(zip(after, skipped_handler_names(job.name, len(after)), strict=True))
    found += [(own, _skipped_handler(job, x, own, scope, state_dir, header, ownership)) for x, own in looking.items()]
    paused = marks(f"{state_dir}/paused", job.name)[0].rpartition("/")[0]
    for name, upstream in drop_ins_of(job.name, after, job.needs).items():
        kind = "both" if upstream in after and upstream in job.needs else "after" if upstream in after else "needs"
        words = [f"sdcron-{upstream}.service", upstream, graph_dir(state_dir, job.name), job.name, kind, paused]
        lines = []
        if name == drop_in_name(retry_handler_name(upstream), job.name):
            script = _shell((*_GAVE_UP, *_TELL, *_look(job)), scope, "sdcron-ended", *words)
            words_after = " ".join([f"%t/sdcron/retry/{upstream}", *after])
            lines += ["[Service]", f"ExecStopPost=-{script} {words_after}"]
        else:
            lines += ["[Unit]", f"Wants={looking[upstream]}", ""] if upstream in looking else []
            steps = (*_ENDED, *_TELL, *(_look(job) if upstream in after else ()))
            script = _shell(steps, scope, "sdcron-ended", *words, *(after if upstream in after else ()))
            lines += ["[Service]", f"ExecStopPost=-+{script}"]
        found.append((name, "\n".join([*lines, *ownership]) + "\n"))
    return found


def _look(job: Job) -> tuple[str, ...]:
    """What looks whether a job is to be started by its chain."""
    return (*_HAVE_ENDED, *(_SKIPS if job.overlap is Overlap.SKIP else ()), *_START)


def _shell(script: Sequence[str], scope: Scope, *words: str) -> str:
    """A command line that has the shell run a script with `words` as $0, $1 and so on."""
    text = " ".join(script).replace("SYSTEMCTL", systemctl_of_a_run(scope)).replace("AGAIN", _AGAIN)
    return " ".join(escape(word, Place.ARGUMENT) for word in ["/bin/sh", "-c", text, *words])


def _handler(job: Job, scope: Scope, what: str, unit: Sequence[str], command: str, ownership: Sequence[str]) -> str:
    service = [f"ExecStart={command}"]
    return handler_text(job.name, scope, f"{what} of sdcron job {job.name}", unit=unit, service=service, own=ownership)


def _after_handler(job: Job, scope: Scope, state_dir: str, header: Sequence[str], ownership: Sequence[str]) -> str:
    due = f"{graph_dir(state_dir, job.name)}/{DUE}"
    paths = [f"!{path}" for path in marks(f"{state_dir}/paused", job.name)]
    conditions = [f"ConditionPathExists={escape(path, Place.VALUE)}" for path in (due, *paths)]
    words = (graph_dir(state_dir, job.name), asked_unit(job))
    command = _shell(_ASK, scope, "sdcron-after", *words)
    return _handler(job, scope, "Start after others", [*header, *conditions], command, ownership)


def _skipped_handler(
    job: Job, upstream: str, own: str, scope: Scope, state_dir: str, header: Sequence[str], ownership: Sequence[str]
) -> str:
    words = (graph_dir(state_dir, job.name), job.name, f"{state_dir}/paused", upstream, own)
    names = " ".join([f"%t/sdcron/retry/{upstream}", *job.after])
    service = [
        f"ExecStart={_shell((*_SKIPPED, *_look(job)), scope, 'sdcron-skipped', *words)} {names}",
        f"SuccessExitStatus={_AGAIN}",
        # Its own start is not over before that, and another one would be the same.
        f"ExecStopPost=-{_shell(_LOOK_AGAIN, scope, 'sdcron-skipped', own)}",
    ]
    unit, what = (
        [*header, f"After=sdcron-{upstream}.service"],
        f"Look at what {upstream} came to of sdcron job {job.name}",
    )
    return handler_text(job.name, scope, what, unit=unit, service=service, own=ownership)
