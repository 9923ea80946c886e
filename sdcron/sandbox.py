"""The `sandbox:` levels: named sets of hardening directives from systemd.exec(5)."""

from __future__ import annotations

from sdcron.job import Sandbox

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


def sandbox_directives(level: Sandbox) -> tuple[str, ...]:
    """The [Service] lines of a level; `none` has none."""
    match level:
        case Sandbox.NONE:
            return ()
        case Sandbox.STANDARD:
            return _STANDARD
        case Sandbox.STRICT:
            return _STRICT
