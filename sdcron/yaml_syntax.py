"""The parser's complaints about a text that is no YAML, in plain English with a hint."""

from __future__ import annotations

import re

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1 section 5.4, as libyaml counts lines

_QUOTE = "put the text in quotes"
_TAB = "'\\t'"
_OPEN_QUOTE = "a quote that was opened is not closed"
_NO_VALUE = "a value is missing here"

# libyaml's and PyYAML's words for what people really get wrong -> ours. First match wins.
_SIGNS: tuple[tuple[str, str, str], ...] = (
    (_TAB, "a tab is used where only spaces may stand", "indent with spaces"),
    (
        "mapping values are not allowed",
        "a ':' with a blank after it starts a second value on this line",
        'quote the text: key: "a: b"',
    ),
    (
        "could not find expected ':'",
        "a ':' is missing after a key here, or the text above goes on at the wrong indentation",
        "write `key: value`",
    ),
    (
        "did not find expected key",
        "this line does not fit the indentation or the quotes above it",
        "align it with the keys above, and quote texts with quotes inside",
    ),
    (
        "expected <block end>",
        "this line does not fit the indentation or the quotes above it",
        "align it with the keys above, and quote texts with quotes inside",
    ),
    (
        "did not find expected '-' indicator",
        "this line does not fit the list above it",
        "start every item with '- ' at the same indentation",
    ),
    ("did not find expected ',' or '}'", "a ',' or '}' is missing", "close the map that '{' opened"),
    ("expected ',' or '}'", "a ',' or '}' is missing", "close the map that '{' opened"),
    ("did not find expected ',' or ']'", "a ',' or ']' is missing", "close the list that '[' opened"),
    ("expected ',' or ']'", "a ',' or ']' is missing", "close the list that '[' opened"),
    (
        "block sequence entries are not allowed",
        "a list may not start here",
        "put '- ' on a line of its own below the key",
    ),
    ("unexpected end of stream", _OPEN_QUOTE, "close it, or remove it"),
    ("document separator", _OPEN_QUOTE, "close it, or remove it"),
    ("cannot start any token", "a value may not start with CHARACTER", _QUOTE),
    (
        "unknown escape",
        "this escape does not exist",
        "in \"double quotes\" write \\\\ for one backslash, or use 'single quotes'",
    ),
    (
        "hexdecimal number",
        "this escape does not exist",
        "in \"double quotes\" write \\\\ for one backslash, or use 'single quotes'",
    ),
    ("invalid Unicode character", "this escape is not a Unicode character", "remove it"),
    ("alphabetic or numeric", "a value may not start with CHARACTER", _QUOTE),
    ("alphabetic or numberic", "a value may not start with CHARACTER", _QUOTE),
    ("undefined tag handle", "a '!' here starts a tag", "quote a text that starts with '!'"),
    ("while scanning a tag", "a '!' here starts a tag", "quote a text that starts with '!'"),
    ("did not find expected node content", _NO_VALUE, "write a value, or quote the text"),
    ("expected the node content", _NO_VALUE, "write a value, or quote the text"),
    ("did not find expected <document start>", "the text goes on after the end of the value", "quote the whole text"),
    ("expected '<document start>'", "the text goes on after the end of the value", "quote the whole text"),
    (
        "expected comment or line break",
        "only a comment may follow '|' or '>' on the same line",
        "start the text on the next line",
    ),
    (
        "expected a comment or a line break",
        "only a comment may follow '|' or '>' on the same line",
        "start the text on the next line",
    ),
    ("incompatible YAML document", "only YAML 1.2 and 1.1 can be read", "remove the %YAML line"),
)


def explain(error: Exception, text: str) -> tuple[str, str, tuple[int, int]]:
    """Message, hint, and line and column (from 1) of a yaml.YAMLError; most of them know a place."""
    context, problem = getattr(error, "context", "") or "", getattr(error, "problem", "") or str(error)
    context_mark, problem_mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
    lines = LINE_BREAK.split(text)
    mark = problem_mark or context_mark
    if context_mark and ("alias" in context or "anchor" in context):
        mark = context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    rest = lines[line][column:] if line < len(lines) else ""
    message, hint = _translate(f"{context} {problem}", rest)
    if message == _OPEN_QUOTE and context_mark:
        line, column = context_mark.line, context_mark.column
    if message == _NO_VALUE and not rest:
        message, hint = "the file ends inside a '[' or '{'", "close it"
    if hint == _QUOTE and rest:
        value = rest.partition(" #")[0].rstrip()
        hint += ": " + (f"'{value}'" if '"' in value or "\\" in value else f'"{value}"')
    return message.replace("CHARACTER", repr(rest[:1])), hint, (line + 1, column + 1)


def _translate(words: str, rest: str) -> tuple[str, str]:
    """Our sentence and hint for the parser's words; `rest` is the line from the mistake on."""
    for sign, message, hint in _SIGNS:
        if sign in words or (rest.startswith("\t") and sign == _TAB):
            return message, hint
    return f"not YAML: {_first_line(words)}", ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
