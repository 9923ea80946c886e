"""The D-Bus call that makes a transient unit: its arguments as pystemd takes them, and the file that it leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sdcron.backends.transient import transient_units
from sdcron.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sdcron.backends.transient import Property
    from sdcron.units import Unit

    Flat = list[tuple[int, Any]]
    Encode = Callable[[bytes, list[Any]], Flat]


def arguments(units: Sequence[Unit], runtime_dir: str, encode: Encode) -> Flat:
    """StartTransientUnit's `ssa(sv)a(sa(sv))` in the flat form that pystemd appends to a message.

    The first unit is the one to start, the others are its auxiliary ones; `encode` makes it of simple values.
    """
    (name, properties), *auxiliary = transient_units(units, runtime_dir)
    flat = encode(b"ss", [name.encode(), b"replace"])
    flat += _property_list(properties, encode)
    flat.append((ord("a"), b"(sa(sv))"))
    for other, values in auxiliary:
        flat += [(ord("r"), b"sa(sv)"), (ord("s"), other.encode()), *_property_list(values, encode), (-1, None)]
    flat.append((-1, None))
    return flat


def _property_list(properties: Sequence[Property], encode: Encode) -> Flat:
    flat: Flat = [(ord("a"), b"(sv)")]
    for key, signature, value in properties:
        inner = encode(signature.encode(), [value])
        flat += [(ord("r"), b"sv"), (ord("s"), key.encode()), (ord("v"), signature.encode()), *inner]
        flat += [(-1, None), (-1, None)]
    flat.append((-1, None))
    return flat


def keep_text(path: Path, text: str) -> None:
    """Have systemd read `text` at the next reload, and not what it wrote there when it made the transient unit.

    What it writes does not read back as it was: 252 garbles arguments with `$` or `;` and writes unknown directives for
    commands with a prefix, 257 and 262 double every `$`, and no version takes Unit= of a timer.
    """
    status = path.stat()
    # With the old time, the file does not count as changed on disk.
    files = Files()
    staged = files.stage(path, text)
    try:
        os.utime(staged, ns=(status.st_atime_ns, status.st_mtime_ns))
        files.publish(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
