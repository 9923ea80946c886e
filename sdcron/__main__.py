"""The `sdcron` program, and `python -m sdcron`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the engine, which stays, without its libraries."""
    if sys.argv[1:2] == ["engine"]:
        from sdcron.engine_process import plain_options, run_engine

        options = plain_options(sys.argv[2:])
        if options is not None:
            sys.exit(run_engine(options))
    from sdcron.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
