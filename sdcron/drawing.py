"""Pictures of graphs, by Graphviz."""

from __future__ import annotations

import subprocess

from sdcron.errors import SdcronError

_SECONDS = 300


def svg_of(dot: str) -> str:
    """The picture of a graph in Graphviz's language, as SVG. Raises SdcronError where that cannot be drawn."""
    try:
        drawn = subprocess.run(
            ["dot", "-Tsvg"], input=dot, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except FileNotFoundError as error:
        raise SdcronError("Graphviz is missing, which draws pictures", "apt install graphviz") from error
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().partition("\n")[0]
        raise SdcronError(f"Graphviz could not draw it: {said}", "try: sdcron graph --dot") from error
    return drawn.stdout
