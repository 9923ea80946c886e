"""What runs say of themselves by sdk.py: progress and alarms, believed of a run by what is of it alone. Pure.

Anybody may send such an entry. It is taken for the run of which journald says that its sender is; where the sender was
gone before journald looked, for the one that it names, if that is on and the sender was of its user: such a one may do
to the run what it likes in any case.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdcron.job import RESERVED_NAMES
from sdcron.messages import text_of
from sdcron.output import redact
from sdcron.overlap import slot_of
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdcron.definition import Definition
    from sdcron.messages import Get
    from sdcron.open_run import OpenRun
    from sdcron.output import Patterns

MOST_ALARMS = 20
"""Of one run; what it says beyond that is passed over."""
LONGEST_ALARM = 1000
"""Characters."""
_PROGRESS = re.compile(rb"([0-9]{1,15}(?:\.[0-9]{1,3})?)(?:/([0-9]{1,15}(?:\.[0-9]{1,3})?)?)?")


def note_progress(run: OpenRun, value: bytes, when_us: int) -> bool:
    """So much of so much is done, as sdk.py writes it; whether it is so written."""
    found = _PROGRESS.fullmatch(value)
    if found is not None:
        run.progress = (float(found[1]), float(found[2]) if found[2] else None, when_us)
    return found is not None


def note_alarm(run: OpenRun, value: bytes, patterns: Patterns, when_us: int) -> str:
    """The text, with secrets blacked out and on one line; empty if there is none, or if there are enough."""
    words = redact(value, patterns) if patterns else value
    text = " ".join(words.decode("utf-8", "backslashreplace").split())[:LONGEST_ALARM]
    if not text or len(run.alarms) >= MOST_ALARMS:
        return ""
    run.alarms.append((when_us, text))
    return text


class Reports:
    """Those of one scope, in the journal."""

    def __init__(
        self,
        runs: Mapping[str, OpenRun],
        define: Callable[[str], Definition | None],
        patterns: Callable[[str], Patterns],
        unknown_run: Callable[[str, str, int], OpenRun | None],
        *,
        user: bytes | None,
    ) -> None:
        """`runs` are the open ones by id; `unknown_run` makes one of an id that is new, None if that run is over.

        `patterns` says what is redacted of a job; `user` is whose manager it is, as _UID= has it; None for the
        machine's.
        """
        self._runs = runs
        self._define = define
        self._patterns = patterns
        self._unknown_run = unknown_run
        self._user = user
        self._unit_field = "_SYSTEMD_USER_UNIT" if user else "_SYSTEMD_UNIT"
        self.on_progress: Callable[[str], object] = lambda _: None
        """Hears the id of a run that has told of its progress, at most as often as it does."""
        self.on_alarm: Callable[[OpenRun], object] = lambda _: None

    def take(self, get: Get, received_us: int) -> None:
        """Take an entry that no stream has brought."""
        progress, alarm = get("SDCRON_PROGRESS"), get("SDCRON_ALARM")
        run = self._run_of(get) if progress is not None or alarm is not None else None
        if run is None:
            return
        if progress is not None and note_progress(run, progress, received_us):
            self.on_progress(run.run_id)
        if alarm is not None and note_alarm(run, alarm, self._patterns(run.job), received_us):
            self.on_alarm(run)

    def _run_of(self, get: Get) -> OpenRun | None:
        if self._user is not None and get("_UID") != self._user:
            return None
        unit, run_id = text_of(get, self._unit_field), text_of(get, "_SYSTEMD_INVOCATION_ID")
        if not unit:
            return self._named(get)
        if not (unit.startswith(PREFIX) and unit.endswith(".service")):
            return None
        job, slot = slot_of(unit)
        run = self._runs.get(run_id or text_of(get, "SDCRON_RUN_ID"))
        if run is None and run_id and job and job not in RESERVED_NAMES:
            run = self._unknown_run(job, run_id, slot)
        return run if run is not None and run.job == job else None

    def _named(self, get: Get) -> OpenRun | None:
        """The run that the sender named, if he was of its user."""
        run = self._runs.get(text_of(get, "SDCRON_RUN_ID"))
        definition = self._define(run.job) if run is not None else None
        uid = self._user or (str(definition.uid).encode() if definition is not None else None)
        return run if uid is not None and get("_UID") == uid else None
