"""What systemd and journald say in the journal: the ids of their messages, how to read them, and whom to believe."""

from __future__ import annotations

import hashlib
import pwd
import re
from typing import TYPE_CHECKING

from sdcron.job import RESERVED_NAMES
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Get = Callable[[str], bytes | None]

# MESSAGE_ID= of systemd's own entries (sd-messages.h).
STARTING = b"7d4958e842da4a758f6c1cdc7b36dcc5"
EXITED = b"98e322203f7a4ed290d09fe03c09fe15"
SUCCEEDED = b"7ad2d189f7e94e70a38c781354912448"
FAILED = b"d9b373ed55a64feb8242e02dbe79a49c"
SKIPPED = b"0e4284a0caca4bfc81c0bb6786972673"
STARTED = b"39f53479d3a045ac8e11786248231fbf"
START_FAILED = b"be02cf6855d2428ba40df7e9d022f03d"
HAS_STOPPED = b"9d1aaa27d60140bd96365438aad20286"
RESOURCES = b"ae8f7b866b0347b9af31fe1c80b127c0"
SPAWN_FAILED = b"641257651c1b4ec9a8624d7a40a9e1e7"
DROPPED = b"a596d6fe7bfa4994828e72309e95d61e"
JOURNAL_STARTED = b"f77379a8490b408bbe5f6940505a777b"

OWN_IDENTIFIERS = frozenset(f"{PREFIX}{name}".encode() for name in RESERVED_NAMES)
ENDS = (SUCCEEDED, FAILED, SKIPPED, STARTED, START_FAILED, HAS_STOPPED)
# systemd.exec(5), "Process Exit Codes": from 200 on they are its own, with a name each; 255 is used by others too.
STEP = re.compile(r"status=2[0-4]\d/([A-Z_]{3,})")
SPAWN = re.compile(r"Failed at step (\S+) spawning .*: (.+)")
# A path may have parentheses of its own.
_CONDITION = re.compile(r"unmet condition check (\()?(.+?)(?(1)\)\.?)$", re.MULTILINE)
_NO_LOGIN = b"4294967295"
RETRY_TIMER = re.compile(r"sdcron-(.+)@retry-(\d+)\.timer")


def is_of_manager(get: Get, user: bytes | None) -> bool:
    """Whether an entry was written by the service manager itself: the machine's, or that of `user`, as _UID= has it."""
    if user is not None:
        return get("_UID") == user and get("_SYSTEMD_USER_UNIT") == b"init.scope"
    return get("_PID") == b"1"


def may_be_of_job(get: Get, unit: bytes | None, uids: Collection[bytes]) -> bool:
    """Whether a line that is not of the job's unit, by journald, can be the job's all the same.

    `uids` are whose processes run the job: they could do it themselves. A process that was gone before journald looked
    has no unit; su(1) and the like move theirs into a session, where the kernel's audit knows that nobody logged in.
    """
    if unit is not None and unit.startswith((b"user@", b"sdcron-")):
        return False
    in_session = unit is not None and unit.startswith(b"session-")
    # journald leaves the field out where it is not set: so does a container's kernel, for those who did log in, too.
    return get("_UID") in uids or (in_session and get("_AUDIT_LOGINUID") in (None, _NO_LOGIN))


def uid_of(user: str | None, default: int) -> int:
    """The id of a unit's User=, `default` for none; -1 for a user that there is not."""
    if user is None:
        return default
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return -1


def unmet_condition(message: str) -> str:
    """The condition that systemd names in its message about a start that it skipped; empty for another message."""
    found = _CONDITION.search(message)
    return found[2] if found else ""


def text_of(get: Get, field: str) -> str:
    """A field as text; empty if it is not there."""
    return (get(field) or b"").decode("utf-8", "replace")


def number_of(value: bytes | None) -> int | None:
    """A field as a number; None for what is none."""
    return int(value) if value is not None and value.isdigit() else None


def made_up_id(get: Get, when_us: int) -> str:
    """An id for what systemd gave none: the same whenever this entry is read."""
    parts = (text_of(get, "_BOOT_ID"), text_of(get, "JOB_ID"), str(when_us), text_of(get, "UNIT"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
