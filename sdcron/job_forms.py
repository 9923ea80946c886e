"""How single values of a job stand in its canonical text, and how they are read back: a form for each kind.

Reading trusts nothing: a value of another type or range than the one that is written raises ValueError or TypeError.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from signal import Signals
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sdcron.span import parse_span, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

_KEY_OF = {"otherwise": "else"}
"""Fields that the job file calls otherwise: `else` is a word of Python's."""

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def _refuse(value: object, what: str) -> ValueError:
    return ValueError(f"{str(value)[:40]!r} is not {what}")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a value stands in the text, and how it is read back. `read` raises ValueError or TypeError."""

    write: Callable[[T], object]
    read: Callable[[object], T]


def as_is(value: object) -> object:
    """What JSON can hold already."""
    return value


def read_text(value: object) -> str:
    """A text that could be an argument: without NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(value, "a text")
    return value


def read_path(value: object) -> str:
    """An absolute path."""
    if not read_text(value).startswith("/"):
        raise _refuse(value, "an absolute path")
    return read_text(value)


def read_optional_path(value: object) -> str:
    """An absolute path, or one after a `-`."""
    read_path(read_text(value).removeprefix("-"))
    return read_text(value)


def read_truth(value: object) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise _refuse(value, "true or false")
    return value


def read_number(value: object) -> float:
    """A number, not a truth."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refuse(value, "a number")
    return float(value)


def read_length(value: object) -> timedelta:
    """A length as `span` writes it, and not 0, which is what a job without one has."""
    length = parse_span(read_text(value))
    if not length or span(length) != value:
        raise _refuse(value, "a time span")
    return length


def read_signal(value: object) -> str:
    """The name of a signal of this machine."""
    if read_text(value) not in Signals.__members__:
        raise _refuse(value, "a signal")
    return read_text(value)


def read_exit(value: object) -> int | str:
    """An exit status that is a success, or the name of a signal."""
    return read_signal(value) if isinstance(value, str) else whole(1, 255).read(value)


def read_expression(value: object) -> str:
    """A regular expression that compiles; raises re.error too."""
    re.compile(read_text(value))
    return read_text(value)


def whole(lowest: int, highest: int) -> Form[int]:
    """A whole number in a range, both ends included."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise _refuse(value, f"a whole number from {lowest} to {highest}")
        return value

    return Form(as_is, read)


def matching(pattern: str) -> Form[str]:
    """A text that a regular expression matches as a whole."""
    expression = re.compile(pattern, re.ASCII)

    def read(value: object) -> str:
        if not expression.fullmatch(read_text(value)):
            raise _refuse(value, f"like {pattern}")
        return read_text(value)

    return Form(as_is, read)


def choice(kind: type[E]) -> Form[E]:
    """A word of a list."""
    return Form(lambda value: value.value, lambda value: kind(read_text(value)))


def several(read_one: Callable[[object], T]) -> Form[tuple[T, ...]]:
    """A list, also of one; a tuple in the job."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _refuse(value, "a list")
        return tuple(read_one(item) for item in value)

    return Form(list, read)


def one_or_several(read_one: Callable[[object], T]) -> Form[tuple[T, ...]]:
    """The value itself where there is one, a list where there are more: the shorter lines to compare."""
    listed = several(read_one)
    return Form(
        lambda values: values[0] if len(values) == 1 else list(values),
        lambda value: listed.read(value) if isinstance(value, list) else (read_one(value),),
    )


def read_map(value: object) -> dict[str, object]:
    """A map, whose keys are texts in JSON."""
    if not isinstance(value, dict):
        raise _refuse(value, "a map")
    return value


def default_of(field: Field[Any]) -> object:
    """What a field of a dataclass is unless it is given; MISSING, which equals nothing, for one that must be."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def record(kind: type[T], forms: Mapping[str, Form[Any]]) -> Form[T]:
    """A map of what differs from the defaults of a dataclass."""
    defaults = {field.name: default_of(field) for field in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    names = {_KEY_OF.get(name, name): name for name in forms}

    def write(value: T) -> object:
        held = {name: getattr(value, name) for name in forms}
        return {
            _KEY_OF.get(name, name): forms[name].write(held[name]) for name in forms if held[name] != defaults[name]
        }

    def read(value: object) -> T:
        return kind(**{names[key]: forms[names[key]].read(item) for key, item in read_map(value).items()})

    return Form(write, read)
