"""The key `lock` of a job: its names, and what does not go with them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.errors import UsageError
from sdcron.job import NOT_RUN, Passthrough
from sdcron.job_schema import label
from sdcron.parameters import defaults_of, names_in
from sdcron.unit_locks import LOCK_NAME, MOST_LOCKS, lock_names, reads_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.job_draft import Draft
    from sdcron.yaml_nodes import Data, Path

_CLOSES = frozenset({"doas", "ssh", "sudo"})
"""Programs that close whatever they have inherited as the first thing they do, and with it the locks of their run."""


def read_locks(draft: Draft, path: Path, value: Data) -> tuple[str, ...]:
    """The names in the order in which every run takes them, each once."""
    written = value if isinstance(value, list) else [value]
    names = tuple(sorted({name for name in written if name is not None}))
    if len(names) > MOST_LOCKS:
        draft.refuse(path, f"{label(path)} has {len(names)} names", f"a job can have {MOST_LOCKS} locks at most")
    return names


def check_locks(draft: Draft, fields: Mapping[str, Data]) -> None:
    """What a job with locks cannot have."""
    if "lock_wait" in draft.values and "lock" not in draft.values:
        draft.refuse(("lock_wait",), "'lock_wait' needs the key 'lock'", "for example: lock: database", at_key=True)
    if not fields.get("lock"):
        return
    _check_parameters(draft, fields)
    read = reads_files(fields.get("environment_file", ()), fields.get("systemd", Passthrough()))
    if read and any(map(names_in, fields["lock"])):
        # Its unit for locks knows no values of a run: see unit_locks.py.
        message = "a lock with a parameter does not go with 'environment_file'"
        draft.refuse(("lock",), message, "read the file in a `script` instead: . /etc/default/app", at_key=True)
    retry = fields.get("retry")
    if retry is not None and NOT_RUN in retry.on_exit:
        draft.refuse(
            ("retry", "on_exit"),
            f"exit code {NOT_RUN} says of a job with locks that it could not get one",
            "such a run is skipped, and never retried; take another exit code",
        )
    interpreter = fields.get("interpreter")
    before = (interpreter.program,) if interpreter is not None and interpreter.program else ()
    program = (*before, *fields.get("command", ()), "")[0].rpartition("/")[2]
    if program in _CLOSES:
        draft.refuse(
            ("interpreter",) if before else ("command",),
            f"'{program}' closes what it inherits, and would lose the locks of the job",
            f"write the command as `script:`, whose shell keeps them while {program} runs",
        )


def _check_parameters(draft: Draft, fields: Mapping[str, Data]) -> None:
    """What names ask for is declared, and they are names with its defaults."""
    parameters = fields.get("parameters", ())
    declared = {each.name for each in parameters}
    written = draft.values["lock"]
    for name in fields["lock"]:
        path: Path = ("lock", written.index(name)) if isinstance(written, list) else ("lock",)
        unknown = [asked for asked in names_in(name) if asked not in declared]
        if unknown:
            hint = f"declare it: parameters: {{{unknown[0]}: value}}"
            draft.refuse(path, f"'{{{unknown[0]}}}' in 'lock' is no parameter of the job", hint)
        elif not names_in(name) and not LOCK_NAME.fullmatch(name):
            draft.refuse(path, "a lock name has at most 128 characters", "for example: lock: database")
        else:
            try:
                list(lock_names([name], defaults_of(parameters)))
            except UsageError as error:
                draft.refuse(path, error.message, error.hint)
