"""Answers about runs that only the engine has: whether all that has ended is on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.engine_socket import ask
from sdcron.errors import BackendError

if TYPE_CHECKING:
    from sdcron.place import Place


def catch_up(place: Place) -> tuple[str, ...]:
    """Have the engine write down what has ended; returns what a person should know, one line each. Raises nothing."""
    try:
        answer = ask(place.paths.engine_dir, {"do": "sync"})
    except BackendError as error:
        return (f"the latest runs may be missing: {error.message}: {error.hint}",)
    if answer is None:
        return (f"no engine runs here: jobs do not run until it is started: sdcron engine{' --user' * place.user}",)
    if answer.get("done") is not True:
        return ("the latest runs may be missing: the engine cannot write its records; see what it says",)
    return ()
