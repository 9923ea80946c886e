"""What an error of D-Bus means to an administrator."""

from __future__ import annotations

import os

from sdcron.errors import BackendError


def is_unknown_unit(error: BackendError) -> bool:
    """Whether systemd knows of no such unit."""
    return "not loaded" in error.message or "not found" in error.message


def no_systemd(user: bool, error: Exception) -> BackendError:
    """What to raise where no manager could be reached."""
    number = getattr(error, "errno", None)
    # pystemd's own text goes on about its exception classes.
    reason = os.strerror(-number) if isinstance(number, int) and number < 0 else str(error).partition("\n")[0]
    if user:
        return BackendError(
            f"no systemd user manager answers: {reason}",
            "log in with a session (loginctl enable-linger keeps one running), and see that XDG_RUNTIME_DIR is set",
        )
    return BackendError(
        f"systemd does not answer on this machine: {reason}",
        "run this where systemd is PID 1 and dbus runs, or write units only: sdcron compile PATH -o DIR",
    )


def refused(method: str, error: Exception, *, user: bool) -> BackendError:
    """What to raise for a method that the manager did not carry out."""
    said = getattr(error, "err_message", b"") or str(error)
    message = said.decode() if isinstance(said, bytes) else said
    denied = getattr(error, "errno", 0) in (-1, -13) or "ccess denied" in message or "uthentication" in message
    if denied and not user:
        verb, hint = method.removesuffix("Unit").lower(), "run it as root (sudo), or manage your own jobs with --user"
        return BackendError(f"no permission to {verb} the machine's jobs: {message}", hint)
    return BackendError(f"systemd refused {method}: {message}", "see: journalctl -b -u init.scope -n 20")
