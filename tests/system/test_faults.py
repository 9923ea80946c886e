"""Apply on a booted machine, killed and failing at every step."""

from __future__ import annotations

# The same names in both: apply is given one directory that changes, seen here as two states of it.
FIRST = {
    "same": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/same\n",
    "schedule": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/schedule\n",
    "command": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/command\nretry: {delay: 5m, attempts: 1}\n",
    "script": "schedule: 0 3 1 1 *\nscript: touch /root/ran/script\nmissed: skip\n",
    "gone": "schedule: 0 3 1 1 *\nscript: touch /root/ran/gone\nretry: {delay: 5m, attempts: 1}\n",
    "boot": "schedule: '@reboot'\ncommand: touch /root/ran/boot\n",
    "kind": "schedule: '@reboot'\ncommand: touch /root/ran/kind\n",
}
SECOND = {
    "same": FIRST["same"],
    "schedule": "schedule: 0 4 1 1 *\ncommand: touch /root/ran/schedule\n",
    "command": "schedule: 0 3 1 1 *\ncommand: touch /root/ran/command x\nretry: {delay: 6m, attempts: 2}\n",
    "script": "schedule: 0 3 1 1 *\nscript: touch /root/ran/script x\nmissed: skip\n",
    "boot": "schedule: ['@reboot', 0 9 1 1 *]\ncommand: touch /root/ran/boot\n",
    "kind": "schedule: 0 0 1 1 *\ncommand: touch /root/ran/kind\n",
    "new": "command: touch /root/ran/new\nenabled: false\n",
}
