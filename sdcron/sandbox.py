"""The `sandbox:` levels: named sets of hardening directives from systemd.exec(5)."""

from __future__ import annotations

from sdcron.job import Sandbox
from sdcron.paths import Scope

_STANDARD = (
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectSystem=full",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
)
# ProtectSystem= stands twice: the later line wins, so strict is standard and more.
_STRICT = (
    *_STANDARD,
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectProc=invisible",
    "PrivateDevices=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "CapabilityBoundingSet=",
)


# What a user never had, and what a user's manager therefore cannot take away: the run would not start.
_SYSTEM_ONLY = frozenset({"ProtectKernelLogs=yes", "CapabilityBoundingSet="})


def sandbox_directives(level: Sandbox, scope: Scope) -> tuple[str, ...]:
    """The [Service] lines of a level; `none` has none."""
    directives: tuple[str, ...] = ()
    match level:
        case Sandbox.NONE:
            return ()
        case Sandbox.STANDARD:
            directives = _STANDARD
        case Sandbox.STRICT:
            directives = _STRICT
    if scope is Scope.SYSTEM:
        return directives
    # A user's manager may mount nothing but in a user namespace. systemd 252 does not make one by itself: it drops
    # PrivateTmp=, ProtectSystem= and the like with a word at debug level only, and fails for PrivateDevices=.
    return ("PrivateUsers=yes", *(line for line in directives if line not in _SYSTEM_ONLY))
