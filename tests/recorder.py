"""What a job of the tests runs: writes down as JSON exactly how it was started. Standard library only.

`recorder.py FILE ARGUMENT…` replaces FILE; bytes are written as hexadecimal digits, so that nothing is lost on the way.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def recorded() -> dict[str, object]:
    """The arguments behind the first, the environment, directory, identity, umask and limits of this process."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": [os.fsencode(argument).hex() for argument in sys.argv[2:]],
        "environment": {os.fsencode(name).hex(): os.fsencode(value).hex() for name, value in os.environ.items()},
        "directory": os.fsencode(Path.cwd()).hex(),
        "user": os.getuid(),
        "group": os.getgid(),
        "groups": sorted(os.getgroups()),
        "umask": f"{umask:04o}",
        "program": sys.executable,
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.write_text(json.dumps(recorded()) + "\n")
    unfinished.replace(target)
