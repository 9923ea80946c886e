"""The engine as a process: what `sdcron engine` is, without the libraries of the command line.

They would be a fifth of the memory of a process that runs for ever, and half the time of its start.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcron.errors import ExitCode, SdcronError, words_for_bug

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What `sdcron engine` was asked for."""

    paths: tuple[Path, ...] = ()
    folders: Path | None = None
    root: Path | None = None
    user: bool = False


def plain_options(arguments: Sequence[str]) -> EngineOptions | None:
    """What these arguments of `sdcron engine` say; None for any that the command line is to read, and to speak of."""
    paths: list[Path] = []
    values: dict[str, Path] = {}
    user = False
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument in ("--folders", "--root") and left and left[0] and argument not in values:
            values[argument] = Path(left.pop(0))
        elif argument in ("--user", "--system"):
            user = argument == "--user"
        elif argument and not argument.startswith("-"):
            paths.append(Path(argument))
        else:
            return None
    return EngineOptions(tuple(paths), values.get("--folders"), values.get("--root"), user)


def run_engine(options: EngineOptions) -> int:
    """Run jobs until told to end; returns the exit status."""
    # Until it is heard as a wish to read everything again, it ends nothing.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from sdcron.engine_service import serve, tell
    from sdcron.place import make_place

    try:
        place = make_place(user=options.user, root=options.root, backend="local")
        serve(place, options.paths, options.folders, tell)
    except SdcronError as error:
        tell(f"{error.message}\n  hint: {error.hint}" if error.hint else error.message)
        return error.exit_code
    except OSError as error:
        hint = "run it as root, with --user, or below another directory: --root DIR"
        tell(f"{error.filename or 'the engine cannot begin'}: {error.strerror or error}\n  hint: {hint}")
        return ExitCode.FAILED
    except Exception as failure:  # noqa: BLE001 - as in the command line: anything unforeseen becomes one line
        tell(words_for_bug(failure).removeprefix("sdcron: ").rstrip())
        return ExitCode.BUG
    return ExitCode.DONE
