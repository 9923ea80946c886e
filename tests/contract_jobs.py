"""Fifty jobs whose records must be equal whoever runs them, each with the outcome that it is about.

`@DIR@` in them stands for a directory that is the same for all backends of one machine; FILES are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACE = "@DIR@"


@dataclass(frozen=True)
class Made:
    """A job, how many records its start by hand makes, the outcome of the last one, and how it is ended, if it is."""

    job: Mapping[str, Any]
    outcome: str = "success"
    records: int = 1
    stopped: bool = False


def sh(text: str) -> list[str]:
    """A command that the shell runs."""
    return ["/bin/sh", "-c", text]


def says(text: str, outcome: str = "success", records: int = 1, **keys: Any) -> Made:
    """A job that runs a shell command."""
    return Made({"command": sh(text), **keys}, outcome, records)


def fails_to_start(**keys: Any) -> Made:
    """A job whose command is good, and which cannot be started."""
    return Made({"command": ["/bin/true"], **keys}, "failure")


#: Written into @DIR@ before anything is applied.
FILES: dict[str, str] = {
    "one.env": '# of a comment\nA=from the file\nB=\'quoted  twice\'\nC="with \\"quotes\\""\n\nD=a\\\n  b\n',
    "two.env": "A=from the second file\n",
    "secret": "s3cret\n",
    "venv/bin/tool": "#!/bin/sh\necho tool $VIRTUAL_ENV $1\n",
    "no-program": "text\n",
}
PROGRAMS = ("venv/bin/tool",)

_CATCHES = "trap 'echo bye; exit 0' TERM; sleep 100 & wait"
_SHOW = "env | grep '^[ABCD]=' | sort"

FIFTY: dict[str, Made] = {
    # What is printed
    "silent": says(":"),
    "both-streams": says("echo out; echo err >&2; echo out again"),
    "unicode": says("printf 'grüße\\t☃\\n'; printf 'ohne Ende' >&2"),
    "not-utf-8": says("printf 'a\\377b\\n'"),
    "control": says("printf 'bell \\007 and \\033[1mbold\\033[0m\\n'"),
    "long-line": says("seq -s ' ' 3000"),
    "cut": says("seq 1 2000; seq 5000 9000 >&2", output={"keep": "1KiB"}),
    "redacted": says(
        "echo user=me password=hunter2; echo token 12345678 >&2", output={"redact": ["hunter2", "\\d{8}"]}
    ),
    "like-a-record": says("echo '{\"schema\":1}'; echo '<3>no level'"),
    "children": says("(sleep 0.1; echo late) & echo now; wait"),
    # Its one output is what it printed before it was killed with the job.
    "left-behind": says("(echo behind; exec sleep 100) & sleep 0.3"),
    # How it ends
    "exit-1": says("echo no >&2; exit 1", "failure"),
    "exit-75": says("exit 75", "failure"),
    "exit-199": says("exit 199", "failure"),
    "exit-255": says("exit 255", "failure"),
    "fine-3": says("exit 3", success_exit=[3, 4]),
    "not-fine-5": says("exit 5", "failure", success_exit=[3, 4]),
    "kills-itself": says("echo last words; kill -KILL $$", "killed"),
    "ends-itself": says("kill -TERM $$; sleep 9", "killed"),
    "real-time-signal": says("kill -37 $$; sleep 9", "killed"),
    "timeout": says("echo begun; exec sleep 100", "timeout", timeout="500ms"),
    "timeout-politely": says(_CATCHES, "timeout", timeout="500ms"),
    "timeout-stubborn": says(
        "trap '' TERM; echo begun; while :; do sleep 1; done", "timeout", timeout="500ms", stop_timeout="500ms"
    ),
    "timeout-own-signal": says(
        "trap 'echo asked; exit 7' USR1; sleep 100 & wait", "timeout", timeout="500ms", kill_signal="SIGUSR1"
    ),
    "stopped": Made({"command": sh("echo begun; exec sleep 100")}, "killed", stopped=True),
    "stopped-politely": Made({"command": sh(_CATCHES)}, "killed", stopped=True),
    # What keeps it from its start
    "no-user": fails_to_start(user="no-such-user"),
    "no-group": fails_to_start(group="no-such-group"),
    "no-directory": fails_to_start(directory="/no/such"),
    "no-binary": fails_to_start(command=["/no/such/program"]),
    "no-program": fails_to_start(command=["@DIR@/no-program"]),
    "no-environment-file": fails_to_start(environment_file="/no/such"),
    "no-credential": fails_to_start(credentials={"key": "/no/such"}),
    "no-path": Made({"command": sh("echo no"), "when": {"path_exists": "/no/such"}}, "skipped"),
    "no-mount": Made({"command": sh("echo no"), "when": {"mounts": ["/etc"]}}, "skipped"),
    "not-now": Made({"command": sh("echo no"), "when": {"command": ["/bin/false"]}}, "skipped"),
    "now": Made({"command": sh("echo now"), "when": {"command": ["/bin/true"], "path_missing": "/no/such"}}),
    # What it finds
    "environment": says(_SHOW, environment={"A": "a b", "B": "$HOME %h \"'", "C": "\\n", "D": ""}),
    "environment-file": says(
        _SHOW, environment={"A": "of the job"}, environment_file=["@DIR@/one.env", "@DIR@/two.env", "-/no/such"]
    ),
    "credential": says(
        'cat "$CREDENTIALS_DIRECTORY/key"; ls "$CREDENTIALS_DIRECTORY"', credentials={"key": "@DIR@/secret"}
    ),
    "user": says('id; echo "$USER $LOGNAME $HOME ${SHELL-none}"; cat </dev/stdin', user="daemon"),
    "group": says("id -gn; umask", group="daemon", umask="027"),
    "directory": says("pwd; umask; ls -d no-program", directory="@DIR@"),
    "limits": says("ulimit -n; nice; ionice -p $$", limits={"open_files": 100}, priority={"nice": 5, "io": "idle"}),
    "virtual-environment": Made({"interpreter": {"venv": "@DIR@/venv"}, "command": ["tool", "word"]}),
    "script": Made({"script": "#!/bin/sh -e\necho in a script\nfalse\necho not reached\n"}, "failure"),
    # What follows
    "retried": says("echo once more; exit 1", "failure", 3, retry={"delay": "500ms", "attempts": 2}, accuracy="10ms"),
    "not-retried": says("exit 2", "failure", retry={"delay": "500ms", "on_exit": [75]}),
    "at-times": says("echo by hand", schedule=["@yearly", "30 2 29 2 *"], timezone="Europe/Berlin", spread="1h"),
    "disabled": says("exit 9", "failure", schedule="@yearly", enabled=False, retry="1s"),
}
