"""The collector as a process of its own: what `sdcron collect` becomes, without the libraries of the command line.

They would be a fifth of the memory of a process that runs for ever.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from sdcron.errors import ExitCode, SdcronError, words_for_bug

# mallopt(3): what a burst of output has taken goes back to the system. Left alone, glibc raises these with each burst.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


def become(*, user: bool) -> NoReturn:
    """Replace this process by the collector of the machine, or of the calling user."""
    found_alike = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *found_alike, "-m", __name__, *(["--user"] if user else [])]
    os.execve(sys.executable, command, {**_MALLOC, **os.environ})  # noqa: S606 - our own interpreter, without a shell


def main(user: bool) -> int:
    """Follow the journal until told to end; returns the exit status."""
    from sdcron.collector import serve, tell_journal
    from sdcron.operations import make_place

    try:
        serve(make_place(user=user, root=None, backend="systemd"), tell_journal)
    except SdcronError as error:
        tell_journal(str(error))
        return error.exit_code
    except Exception as failure:  # noqa: BLE001 - as in the command line: anything unforeseen becomes one line
        tell_journal(words_for_bug(failure).rstrip())
        return ExitCode.BUG
    return 0


if __name__ == "__main__":
    sys.exit(main("--user" in sys.argv[1:]))
