"""The text that `sdcron new NAME` writes: a job file to start from, which is valid as it is."""

from __future__ import annotations

_TEMPLATE = """\
# The job "{name}". Check it with `sdcron validate {name}.yaml`, see what it would
# change with `sdcron plan DIRECTORY`, install it with `sdcron apply DIRECTORY`.
# `sdcron schema` describes every key.

description: What this job is for, in one line

# When: a cron line, "@daily", "every 15m", "at 11:30, 14:00", or a systemd calendar expression.
# `sdcron next --schedule "30 2 * * *"` shows when that would be.
schedule: "30 2 * * *"
# timezone: Europe/Berlin        # without it, the machine's

# What: one program and its arguments. No shell runs it: for pipes, variables and several
# commands write `script:` instead.
command: /usr/bin/true
# script: |
#   set -eu
#   report=$(df -h)
#   echo "$report" | mail -s "disk report" root

# Who and where. Without `user`, a job of the system runs as root.
# user: www-data
# directory: /srv/app
# environment:
#   LANG: C.UTF-8

# When it fails: try again after five minutes, three times.
# retry: 5m
# timeout: 1h                    # end a run that takes longer
# missed: skip                   # default `run`: once after the machine was off
"""


def job_template(name: str) -> str:
    """A commented job file for a job of this name, which the file's own name gives it."""
    return _TEMPLATE.format(name=name)
