"""The text that `sdcron new NAME` writes: a job file to start from, which is valid as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATE = """\
# The job "{name}". Check it with `sdcron validate {name}.yaml`, see what it would
# change with `sdcron plan DIRECTORY`, install it with `sdcron apply DIRECTORY`.
# `sdcron schema` describes every key.

{description}

# When: a cron line, "@daily", "every 15m", "at 11:30, 14:00", or a systemd calendar expression.
# `sdcron next --schedule "30 2 * * *"` shows when that would be.
{schedule}
# timezone: Europe/Berlin        # without it, the machine's

# What: one program and its arguments. No shell runs it: for pipes, variables and several
# commands write `script:` instead.
{command}
# script: |
#   set -eu
#   report=$(df -h)
#   echo "$report" | mail -s "disk report" root

# Who and where. Without `user`, a job of the system runs as root.
{user}
# directory: /srv/app
# environment:
#   LANG: C.UTF-8

# When it fails: try again after five minutes, three times.
{retry}
# timeout: 1h                    # end a run that takes longer
# missed: skip                   # default `run`: once after the machine was off
"""


_LINES = {
    "description": "description: What this job is for, in one line",
    "schedule": 'schedule: "30 2 * * *"',
    "command": "command: /usr/bin/true",
    "user": "# user: www-data",
    "retry": "# retry: 5m",
}
"""What stands there unless a value is given."""


def job_template(name: str, values: Mapping[str, str] | None = None) -> str:
    """A commented job file for a job of this name, which the file's own name gives it.

    `values` are texts for some of its keys, by their names. Any text becomes a valid YAML value, if not a valid job.
    """
    lines = dict(_LINES)
    if values:
        # It may be applied as it is: nobody is to read that of it then.
        lines["description"] = f"# {_LINES['description']}"
    lines |= {key: f"{key}: {_quoted(value)}" for key, value in (values or {}).items()}
    return _TEMPLATE.format(name=name, **lines)


def _quoted(text: str) -> str:
    """A text as YAML's double-quoted scalar, of which JSON's strings are one form (YAML 1.2, section 1.3)."""
    return "".join(
        character if character.isprintable() else f"\\U{ord(character):08x}"
        for character in json.dumps(text, ensure_ascii=False)
    )
