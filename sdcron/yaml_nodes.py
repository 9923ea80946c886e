"""YAML text -> plain values that remember where they stand.

Scalars follow the YAML 1.2 core schema; what can hide or blow up a job (duplicate keys, tags, several documents,
endless aliases) is a finding. Knows nothing about jobs, and never raises for any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from sdcron.yaml_syntax import LINE_BREAK, explain

Path = tuple["str | int", ...]
Data = Any
"""What YAML holds: of no type before the schema has seen it."""

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 200_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is 20 times faster, where it was built
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NUMBER_START = frozenset("+-.0123456789")
# YAML 1.2 section 10.3.2, but digits with a leading zero stay text, so that `umask: 027` means 027; as do numbers
# too long for any key, infinities and NaN.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z")
_BASED = re.compile(r"0o[0-7]{1,18}\Z|0x[0-9a-fA-F]{1,15}\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?\Z")


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake at a place in a document.

    `path` leads to the value (`at_key`: to the key in front of it); `mark`, a line and a column from 1, is for
    places no path leads to; `offset` counts characters into a scalar.
    """

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False
    mark: tuple[int, int] | None = None
    offset: int | None = None


class Node:
    """One value: `value` is plain data, `text` a scalar as it was written, `line` and `column` count from 1."""

    __slots__ = ("column", "end", "height", "line", "members", "names", "plain", "size", "text", "value")

    def __init__(self, line: int, column: int, value: Data) -> None:
        self.line = line
        self.column = column
        self.value = value
        self.text = ""
        self.plain = False
        self.end = (line, column)
        self.members: dict[Any, Node] = {}
        self.names: dict[str, Node] = {}
        self.size = 1
        self.height = 0


class Document:
    """A parsed text; `findings` lists what YAML itself has against it, `root` is None when nothing could be read."""

    def __init__(self, text: str, root: Node | None, findings: list[Finding]) -> None:
        self.text = text
        self.root = root
        self.findings = findings

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, without their ends."""
        return LINE_BREAK.split(self.text)

    def node(self, path: Path) -> Node | None:
        """The node at `path`, or the deepest that exists on the way there."""
        node = self.root
        for step in path:
            inner = node.members.get(step) if node else None
            if inner is None:
                break
            node = inner
        return node

    def locate(self, finding: Finding) -> tuple[int, int]:
        """Line and column from 1 of a finding."""
        if finding.mark:
            return finding.mark
        if finding.at_key and finding.path:
            parent = self.node(finding.path[:-1])
            name = parent.names.get(str(finding.path[-1])) if parent else None
            if name is not None:
                return name.line, name.column
        node = self.node(finding.path)
        if node is None:
            return 1, 1
        return node.line, node.column + (0 if finding.offset is None else _shift(node, finding.offset))

    def source_line(self, line: int) -> str:
        """A line counted from 1, as a terminal can show it, each character one column; empty when there is none."""
        return printable(self.lines[line - 1]) if 0 < line <= len(self.lines) else ""


def _shift(node: Node, offset: int) -> int:
    """Columns from the start of a scalar to its character `offset`; 0 where escapes or folding hide the distance."""
    quotes = 0 if node.plain else 2
    if node.end != (node.line, node.column + len(node.text) + quotes):
        return 0
    return offset + quotes // 2


def printable(text: str) -> str:
    """The text with a blank for a tab and U+FFFD for what would move or recolour a terminal."""
    if text.isprintable():
        return text
    return "".join(" " if mark == "\t" else mark if mark.isprintable() else "\ufffd" for mark in text)


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) scalar."""
    if text and text[0] in _NUMBER_START:
        if _INTEGER.match(text):
            return int(text)
        if _BASED.match(text):
            return int(text, 0)
        return float(text) if _FLOAT.match(text) else text
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    return None if text in _NULLS else text


def decode(data: bytes) -> tuple[str, tuple[Finding, ...]]:
    """The text of a file's bytes; a finding at the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff"), ()
    except UnicodeDecodeError as error:
        before = LINE_BREAK.split(data[: error.start].decode("utf-8"))
        hint = "save the file as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "the file looks like UTF-16; " + hint
        message = f"the byte 0x{data[error.start]:02x} is not valid UTF-8"
        mark = (len(before), len(before[-1]) + 1)
        return data.decode("utf-8", "replace"), (Finding((), message, hint, mark=mark),)


def read_document(text: str) -> Document:
    """Parse one YAML document; the findings are in the answer."""
    if len(text) > MAX_CHARACTERS:
        return Document(
            "", None, [Finding((), "the file is larger than 1 MiB", "split it into several files", mark=(0, 0))]
        )
    odd = _NOT_YAML.search(text)
    if odd:
        before = LINE_BREAK.split(text[: odd.start()])
        name = f"U+{ord(odd.group()):04X}"
        message = f"the character {name} may not appear in a job file"
        mark = (len(before), len(before[-1]) + 1)
        return Document(
            text, None, [Finding((), message, 'remove it, or write it as an escape in "double quotes"', mark=mark)]
        )
    composer = _Composer()
    try:
        composer.run(_LOADER(text))
    except _Stop:
        return Document(text, None, composer.findings)
    except yaml.YAMLError as error:
        message, hint, mark = explain(error, text)
        return Document(text, None, [*composer.findings, Finding((), message, hint, mark=mark)])
    return Document(text, composer.root, composer.findings)


class _Stop(Exception):
    """Reading on makes no sense; the finding is recorded."""


class _Composer:
    """Builds nodes from parser events without recursion, so that no depth of nesting can end the process."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.findings: list[Finding] = []
        self._open: list[Node] = []
        self._keys: list[Node | None] = []
        self._anchors: dict[str, Node | None] = {}
        self._anchor_of: dict[int, str] = {}
        self._documents = 0

    def run(self, parser: Data) -> None:
        """Take every event of `parser`."""
        take = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._begin,
            yaml.SequenceStartEvent: self._begin,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }
        while True:
            event = parser.get_event()
            kind = type(event)
            if kind in take:
                take[kind](event)
            elif event is None or kind is yaml.StreamEndEvent:
                return

    def _document(self, event: Data) -> None:
        self._documents += 1
        if self._documents > 1:
            hint = "one file is one document; use `jobs:` for several jobs"
            self._stop(event, "a second YAML document starts here", hint)

    def _scalar(self, event: Data) -> None:
        mark, end = event.start_mark, event.end_mark
        text = event.value
        plain = not event.style
        node = Node(mark.line + 1, mark.column + 1, scalar(text) if plain else text)
        node.text = text
        node.plain = plain
        node.end = (end.line + 1, end.column + 1)
        if event.anchor or event.tag:
            self._properties(event, node)
        self._add(node)

    def _properties(self, event: Data, node: Node, *, complete: bool = True) -> None:
        """The anchor and the tag in front of a value."""
        if event.anchor:
            self._anchors[event.anchor] = node if complete else None
            if not complete:
                self._anchor_of[id(node)] = event.anchor
        if event.tag and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._report(event, f"the tag '{tag}' is not allowed", "remove it; quotes make a text of any value")

    def _begin(self, event: Data) -> None:
        mark = event.start_mark
        node = Node(mark.line + 1, mark.column + 1, {} if isinstance(event, yaml.MappingStartEvent) else [])
        if event.anchor or event.tag:
            self._properties(event, node, complete=False)
        self._open.append(node)
        self._keys.append(None)
        if len(self._open) > MAX_DEPTH:
            self._stop(event, f"values are nested more than {MAX_DEPTH} levels deep", "job files need 5 levels at most")

    def _end(self, _event: Data) -> None:
        node = self._open.pop()
        self._keys.pop()
        anchor = self._anchor_of.pop(id(node), None)
        if anchor is not None:
            self._anchors[anchor] = node
        self._add(node)

    def _alias(self, event: Data) -> None:
        if event.anchor not in self._anchors:
            self._stop(
                event,
                f"'*{event.anchor}' refers to an anchor that does not exist",
                f"write '&{event.anchor}' at the value it should repeat, or quote a text that starts with '*'",
            )
        node = self._anchors[event.anchor]
        if node is None:
            self._stop(event, f"'*{event.anchor}' stands inside the value it refers to", "write the value out")
        else:
            self._add(node)

    def _add(self, node: Node) -> None:
        """Put a finished value where it belongs: key, value of the waiting key, item, or the document itself."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.size > MAX_VALUES or len(self._open) + node.height > MAX_DEPTH:
            mark = (parent.line, parent.column)
            self.findings.append(
                Finding(
                    (),
                    f"more than {MAX_VALUES} values or {MAX_DEPTH} levels come out of the aliases here",
                    "write the values out, or use `defaults:`",
                    mark=mark,
                )
            )
            raise _Stop
        if isinstance(parent.value, list):
            parent.members[len(parent.value)] = node
            parent.value.append(node.value)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = node
            return
        self._keys[-1] = None
        self._member(parent, key, node)

    def _member(self, parent: Node, key: Node, node: Node) -> None:
        mark = (key.line, key.column)
        if isinstance(key.value, (dict, list)):
            hint = "write a plain name, a colon and a value; quote text that starts with '{' or '['"
            self.findings.append(Finding((), "a key must be a name, not a list or a map", hint, mark=mark))
            return
        name = key.text
        if name in parent.names:
            first = parent.names[name].line
            hint = f"it is first on line {first}; keep one of the two"
            self.findings.append(Finding((), f"the key '{name}' appears twice in the same map", hint, mark=mark))
            return
        parent.names[name] = key
        parent.members[name] = node
        parent.value[name] = node.value

    def _report(self, event: Data, message: str, hint: str = "") -> None:
        mark = (event.start_mark.line + 1, event.start_mark.column + 1)
        self.findings.append(Finding((), message, hint, mark=mark))

    def _stop(self, event: Data, message: str, hint: str = "") -> None:
        self._report(event, message, hint)
        raise _Stop
