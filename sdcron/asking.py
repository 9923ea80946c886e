"""What people ask for with a run, as `sdcron run` says it in the journal, until the run begins. Pure.

systemd tells nobody who has asked it for a start. So `sdcron run` says it, before it asks; who says so is journald's
word (systemd.journal-fields(7), "Trusted Journal Fields"). Whoever is not the one whose manager it is speaks for
himself only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdcron.machine import login_name
from sdcron.messages import number_of, text_of
from sdcron.runs import NOT_ASKED, Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdcron.memories import Memories
    from sdcron.messages import Get

IDENTIFIER = "sdcron"
MESSAGE_ID = "5b2f0c9d5f6a4f0d9c2a7b1e8d3f6a41"
"""Of the entries that say it; made up with systemd-id128(1)."""
UNIT_FIELD, ASKED_FIELD, JOB_FIELD = "SDCRON_UNIT", "SDCRON_ASKED", "SDCRON_JOB"
_KEPT = 20
_VALID_US = 3600 * 1_000_000
"""How long a start may take, as one that waits for a network."""
_AT_ONCE_US = 2 * 1_000_000
"""Within what time a start that has nothing to wait for begins, on a busy machine."""
_VALID_OF_OTHERS_US = 10 * 1_000_000
"""The same for those whom polkit may have let start it, or not."""


class AskedFor:
    """What was asked for, by job; kept with the job's memory."""

    def __init__(self, memories: Memories, uid: bytes, is_applied: Callable[[str], bool]) -> None:
        """`uid` is whose manager it is, as _UID= has it."""
        self._is_applied = is_applied
        self._memories = memories
        self._uid = uid

    def hear(self, get: Get, when_us: int) -> None:
        """Take an entry with sdcron's own identifier; any other is nothing to it."""
        if text_of(get, "MESSAGE_ID") != MESSAGE_ID:
            return
        job, unit, uid = text_of(get, JOB_FIELD), text_of(get, UNIT_FIELD), get("_UID")
        if not self._is_applied(job):
            return
        own, number = uid == self._uid, number_of(uid)
        try:
            # Of whoever else says so nothing is looked at.
            asked = Asked.from_json(json.loads(text_of(get, ASKED_FIELD))) if own else Asked(login_name(number or 0))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return
        if not own and not number:
            return
        memory = self._memories.of(job)
        # Nor does he crowd out what the others say.
        same = [entry for entry in memory.asked if entry[3] == own]
        others = [entry for entry in memory.asked if entry[3] != own]
        memory.asked = [*others, *same[1 - _KEPT :], [unit if own else "", when_us, asked.as_json(), own]]

    def is_answered(self, job: str, when_us: int) -> bool:
        """Whether a start then was asked for right before, by whom nobody need doubt; true once."""
        memory = self._memories.of(job)
        new = [entry[1] for entry in memory.asked if entry[3] and not entry[0] and entry[1] > memory.answered_us]
        last_us = max((each for each in new if each <= when_us), default=0)
        if when_us - last_us > _AT_ONCE_US:
            return False
        memory.answered_us = last_us
        return True

    def take(self, job: str, unit: str, when_us: int) -> Asked:
        """What was asked for with the run of a unit that begins then; `unit` is empty for any of the job's services."""
        memory = self._memories.of(job)
        for entry in sorted(memory.asked, key=lambda entry: int(entry[1]), reverse=True):
            of_unit, asked_us, state, own = entry
            if of_unit == unit and 0 <= when_us - asked_us <= (_VALID_US if own else _VALID_OF_OTHERS_US):
                memory.asked = [other for other in memory.asked if other[0] != unit or other[1] > asked_us]
                return Asked.from_json(state)
        return NOT_ASKED
