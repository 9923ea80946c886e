"""What systemd and journald say in the journal: the ids of their messages, and how their fields are read. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from sdcron.job import RESERVED_NAMES
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

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

OWN_IDENTIFIERS = frozenset(f"{PREFIX}{name}".encode() for name in RESERVED_NAMES)
ENDS = (SUCCEEDED, FAILED, SKIPPED, STARTED, START_FAILED, HAS_STOPPED)
# systemd.exec(5), "Process Exit Codes": from 200 on they are its own, with a name each; 255 is used by others too.
STEP = re.compile(r"status=2[0-4]\d/([A-Z_]{3,})")
SPAWN = re.compile(r"Failed at step (\S+) spawning .*: (.+)")
CONDITION = re.compile(r"unmet condition check \(?([^)\n]+)\)?")
RETRY_TIMER = re.compile(r"sdcron-(.+)@retry-(\d+)\.timer")


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
