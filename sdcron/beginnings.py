"""Runs that were asked for, until they begin: what tells of that, and what they have to wait for themselves."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from sdcron.errors import BackendError
from sdcron.run_queries import NotAReaderError

if TYPE_CHECKING:
    from collections.abc import Callable

WAITS, WAITS_ALREADY, PENDING, UNSEEN = "waits", "waits already", "pending", "unseen"
"""What there is in place of a run id: one begins when the run that is on is over, and one did so before; or when what
it comes after is there, as a network; or it is over, and whoever asked may start jobs and not see their records."""
POLL_SECONDS = 0.02
SLACK = timedelta(milliseconds=50)
"""How much earlier than it was asked for a run may be on record, clocks being read by several."""
_START_SECONDS = 15.0


def id_of(job: str, find: Callable[[], str | None], is_to_come: Callable[[], bool], *, begun: bool) -> str:
    """The id that `find` gives, as soon as it does; it is not waited for any longer once nothing `is_to_come`.

    What takes long is PENDING, and what may not be seen UNSEEN, unless the run is to have `begun`. Raises BackendError
    when nothing tells of it.
    """
    asked = deadline = time.monotonic()
    while True:
        try:
            found = find()
        except NotAReaderError:
            if begun:
                raise
            if not is_to_come():
                return UNSEEN
            found = None
        if found:
            return found
        now = time.monotonic()
        if is_to_come():
            deadline = now
            if not begun and now > asked + _START_SECONDS:
                return PENDING
        elif now > deadline + _START_SECONDS:
            raise BackendError(f"{job} was started, and nothing tells of its run", f"see: sdcron status {job}")
        time.sleep(POLL_SECONDS)
