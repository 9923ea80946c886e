"""Keys of one job that need or exclude one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.job import Overlap, Passthrough
from sdcron.job_locks import check_locks
from sdcron.job_parameters import check_parameters
from sdcron.job_schema import schema, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.job_draft import Draft
    from sdcron.yaml_nodes import Data


def check_together(draft: Draft, sound: Mapping[str, Data], fields: Mapping[str, Data]) -> None:
    """Keys that need or exclude one another."""
    values = draft.values
    if "command" not in values and "script" not in values:
        if not _is_misspelt(values, {"command", "script"}):
            hint = "for example: command: /usr/local/bin/backup --all"
            draft.refuse((), f"the job '{draft.name}' has neither 'command' nor 'script'", hint, at_key=True)
    elif "command" in values and "script" in values:
        draft.refuse(
            ("script",), "'command' and 'script' exclude each other", "keep the one that shall run", at_key=True
        )
    if "interpreter" in values and "script" in values:
        draft.refuse(
            ("interpreter",),
            "'interpreter' goes with 'command', not with 'script'",
            "name the interpreter in the first line of the script: #!/usr/bin/python3",
            at_key=True,
        )
    check_locks(draft, fields)
    if "schedule" not in values and fields.get("systemd", Passthrough()).timer:
        hint = "a job without a schedule has no timer; remove it, or add `schedule:`"
        draft.refuse(("systemd", "timer"), "'systemd.timer' needs the key 'schedule'", hint, at_key=True)
    check_parameters(draft, sound, fields)
    for key in ("after", "needs"):
        if key in sound and draft.name in (sound[key] if isinstance(sound[key], list) else [sound[key]]):
            draft.refuse((key,), f"'{key}' names the job itself", "name another job")
    _check_overlap(draft, fields)
    retry = fields.get("retry")
    both = set(retry.on_exit) & set(fields.get("success_exit", ())) if retry is not None else set()
    if both:
        code = min(both)
        draft.refuse(
            ("retry", "on_exit"),
            f"exit code {code} is in 'success_exit' and in 'retry.on_exit'",
            "a success is never retried; keep one of the two",
        )


def _check_overlap(draft: Draft, fields: Mapping[str, Data]) -> None:
    """What goes with parallel runs alone, and what does not go with them."""
    parallel = fields.get("overlap") is Overlap.ALLOW
    if "max_parallel" in fields and not parallel:
        hint = "add it, or remove 'max_parallel'"
        draft.refuse(("max_parallel",), "'max_parallel' needs 'overlap: allow'", hint, at_key=True)
    if fields.get("retry") is not None and parallel:
        message = "'retry' and 'overlap: allow' exclude each other: a retry belongs to one run at a time"
        draft.refuse(("retry",), message, "keep one of the two", at_key=True)
    if fields.get("resumable") and parallel:
        message = "'resumable' and 'overlap: allow' exclude each other: one run is started again, and not several"
        draft.refuse(("resumable",), message, "keep one of the two", at_key=True)


def _is_misspelt(values: Mapping[str, Data], names: set[str]) -> bool:
    """Whether an unknown key got the hint that one of these was meant: then the schema has said what is wrong."""
    known = schema()["$defs"]["job"]["properties"]
    hints = {suggestion(name, known) for name in names}
    return any(suggestion(key, known) in hints for key in values if key not in known)
