"""Runs the function of a job whose command is `python:package.module:function`, in the job's own Python.

Started by its path: `python3 function_runner.py package.module:function NAME:KIND…`. That Python need not have sdcron,
so this file and sdk.py beside it are of the standard library alone. The module is found as `python -m` would find it.
"""

from __future__ import annotations

# All else is imported once the directory of this file is out of the search path: see sdk.py.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_VARIABLE = "SDCRON_PARAM_"


def main() -> int:
    """The exit status of a run: an int that the function returns, else 0; 1 for an exception, told on stderr."""
    here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - pathlib takes long to import
    _search_from_here_on(here)
    target, declared = sys.argv[1], sys.argv[2:]
    sys.argv = [target]
    for stream in (sys.stdout, sys.stderr):
        # What is printed is to be seen at once, also where it is kept and not shown.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _offer_sdk(here)
    try:
        found = _call(target, declared)
    except Exception:  # noqa: BLE001 - the job's own: told as Python tells it
        import traceback

        kind, error, place = sys.exc_info()
        # Without the frames of this file, which nobody has written who reads it.
        while place is not None and place.tb_frame.f_code.co_filename == __file__ and place.tb_next is not None:
            place = place.tb_next
        traceback.print_exception(kind, error, place)
        return 1
    if not isinstance(found, int) or isinstance(found, bool):
        return 0
    if not 0 <= found <= 255:
        sys.stderr.write(f"{target} returned {found}, which is no exit status\n")
        return 1
    return found


def _search_from_here_on(own: str) -> None:
    """Put the working directory in the place of this file's: neither is there with $PYTHONSAFEPATH."""
    if sys.path and os.path.realpath(sys.path[0]) == own:
        del sys.path[0]
        from contextlib import suppress

        with suppress(OSError):  # it is gone, or not to be searched
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - pathlib takes long to import


def _call(target: str, declared: Sequence[str]) -> object:
    import importlib
    import types

    module, _, path = target.partition(":")
    function: Any = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    found = function(**_arguments(declared))
    if isinstance(found, types.CoroutineType):
        import asyncio

        found = asyncio.run(found)
    return found


def _offer_sdk(directory: str) -> None:
    """Have `sdcron.sdk` imported from here where sdcron is not installed, as in the job's own environment."""
    import importlib.util
    import types

    try:
        found = importlib.util.find_spec("sdcron.sdk")
    except (ImportError, ValueError):
        found = None
    if found is None:
        package: Any = types.ModuleType("sdcron")
        package.__path__ = []  # there is nothing else of it
        spec = importlib.util.spec_from_file_location("sdcron.sdk", os.path.join(directory, "sdk.py"))  # noqa: PTH118 - as above
        if spec is not None and spec.loader is not None:
            package.sdk = importlib.util.module_from_spec(spec)
            sys.modules["sdcron"], sys.modules["sdcron.sdk"] = package, package.sdk
            spec.loader.exec_module(package.sdk)


def _arguments(declared: Sequence[str]) -> dict[str, object]:
    """The parameters of the run by name, each of the type of its default. Raises ValueError for any other value."""
    kinds: dict[str, Any] = {"whole": int, "number": float, "truth": _truth}
    found: dict[str, object] = {}
    for each in declared:
        name, _, kind = each.partition(":")
        text = os.environ.get(_VARIABLE + name.upper())
        if text is not None:
            found[name] = kinds.get(kind, str)(text)
    return found


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


if __name__ == "__main__":
    sys.exit(main())
