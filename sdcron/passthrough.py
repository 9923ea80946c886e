"""The `systemd:` key: which directives may pass into the units as they are, and which belong to a job key.

A directive that sdcron writes itself is refused with the key to use, so that no unit says two things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_READ_BY_SDCRON = "sdcron finds a run's output in the journal by it; it cannot be changed"
_FIXED = "sdcron relies on its own setting; it cannot be changed"

OWNED: Mapping[str, Mapping[str, str]] = {
    "unit": {
        "Description": "description",
        "SourcePath": _FIXED,
        "OnFailure": "retry",
        "Conflicts": "retry",
        "StartLimitIntervalSec": "retry",
        "StartLimitInterval": "retry",
        "StartLimitBurst": "retry",
        "StartLimitAction": "retry",
        "RefuseManualStart": _FIXED,
        "StopWhenUnneeded": _FIXED,
        "ConditionACPower": "when",
        "DefaultDependencies": _FIXED,
    },
    "service": {
        "Type": _FIXED,
        "ExecStart": "command",
        "RemainAfterExit": _FIXED,
        "User": "user",
        "Group": "group",
        "WorkingDirectory": "directory",
        "UMask": "umask",
        "TimeoutSec": "timeout",
        "TimeoutStartSec": "timeout",
        "RuntimeMaxSec": "timeout",
        "TimeoutStopSec": "stop_timeout",
        "KillSignal": "kill_signal",
        "KillMode": _FIXED,
        "SendSIGKILL": _FIXED,
        "Restart": "retry",
        "RestartSec": "retry",
        "Nice": "priority",
        "IOSchedulingClass": "priority",
        "IOSchedulingPriority": "priority",
        "CPUWeight": "priority",
        "MemoryMax": "limits",
        "CPUQuota": "limits",
        "TasksMax": "limits",
        "LimitNOFILE": "limits",
        "StandardOutput": _READ_BY_SDCRON,
        "StandardError": _READ_BY_SDCRON,
        "SyslogIdentifier": _READ_BY_SDCRON,
        "LogRateLimitIntervalSec": _READ_BY_SDCRON,
        "LogRateLimitBurst": _READ_BY_SDCRON,
        "LogNamespace": _READ_BY_SDCRON,
    },
    "timer": {
        "OnCalendar": "schedule",
        "OnActiveSec": "schedule",
        "OnBootSec": "schedule",
        "OnStartupSec": "schedule",
        "OnUnitActiveSec": "schedule",
        "OnUnitInactiveSec": "schedule",
        "Persistent": "missed",
        "AccuracySec": "accuracy",
        "RandomizedDelaySec": "spread",
        "RandomizedOffsetSec": "spread",
        "FixedRandomDelay": "spread",
        "Unit": _FIXED,
        "WakeSystem": "when",
        "RemainAfterElapse": _FIXED,
    },
}

# Directives sdcron adds lines to: more lines are welcome, an empty one would take sdcron's away.
ADDITIVE = frozenset(
    {
        "After", "ConditionPathExists", "ConditionPathIsMountPoint", "Environment", "EnvironmentFile", "ExecCondition",
        "ExecStartPre", "ExecStopPost", "LoadCredential", "LoadCredentialEncrypted", "LogExtraFields",
        "RequiresMountsFor", "RuntimeDirectory", "SuccessExitStatus", "Wants",
    }
)  # fmt: skip


def refusal(section: str, directive: str) -> tuple[str, str] | None:
    """Why a directive may not stand in a section (`unit`, `service`, `timer`), as the end of a sentence, and a hint."""
    owner = OWNED[section].get(directive)
    if owner is None:
        return None
    if " " in owner:
        return "is set by sdcron", owner
    return f"is what the key '{owner}' is for", f"write `{owner}:` in the job instead"
