"""What is remembered of every job between its runs: trigger.Memory by name, and which of them have changed. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdcron.job_memory import Memory
from sdcron.output import Capture, Patterns, compile_patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdcron.definition import Definition


class Memories:
    """All of one scope."""

    def __init__(self, define: Callable[[str], Definition | None]) -> None:
        self._define = define
        self._known: dict[str, Memory] = {}
        self._changed: set[str] = set()

    def restore(self, texts: Mapping[str, str]) -> None:
        """Take up what `changes` gave. What cannot be read, as of another version, is forgotten."""
        for job, text in texts.items():
            try:
                self._known[job] = Memory.from_json(json.loads(text))
            except (ValueError, TypeError):
                continue

    def changes(self) -> dict[str, str]:
        """Those that were asked for since the last call, as texts by job."""
        texts = {job: json.dumps(self._known[job].as_json()) for job in self._changed}
        self._changed = set()
        return texts

    @property
    def changed(self) -> bool:
        """Whether there are any."""
        return bool(self._changed)

    def of(self, job: str) -> Memory:
        """That of a job, to be changed."""
        self._changed.add(job)
        return self._known.setdefault(job, Memory())

    def forget(self, job: str) -> None:
        """The job is gone for good."""
        self._known.pop(job, None)
        self._changed.discard(job)

    def output(self, job: str) -> tuple[int, Patterns]:
        """How many bytes of a stream are kept, and what is redacted: as the job is applied, or was when it last ran.

        Of a job of which neither is known nothing is kept: there may be secrets in it.
        """
        definition = self._define(job)
        if definition is not None:
            return definition.keep, definition.patterns
        memory = self._known.get(job) or Memory()
        return memory.keep, compile_patterns(memory.redact)

    def capture(self, job: str) -> Capture:
        """What takes a stream of a run of the job."""
        return Capture(*self.output(job))
