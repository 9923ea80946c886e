"""yaml_nodes: values by YAML 1.2, places, and bounds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.yaml_nodes import Finding, decode, read_document, scalar


def value(text: str) -> object:
    """The plain value of a text without findings."""
    document = read_document(text)
    assert not document.findings
    assert document.root is not None
    return document.root.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("Yes", "Yes"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("none", "none"), ("None", "None"),
        ("0", 0), ("-0", 0), ("42", 42), ("-5", -5), ("+5", 5), ("0o17", 15), ("0x1F", 31),
        ("027", "027"), ("007", "007"), ("00", "00"), ("0b11", "0b11"), ("1_000", "1_000"),
        ("22:30", "22:30"), ("1:2:3", "1:2:3"), ("2027-01-01", "2027-01-01"),
        ("1.5", 1.5), (".5", 0.5), ("-1.", -1.0), ("1e3", 1000.0), ("1.5e-3", 0.0015), ("1e", "1e"),
        (".inf", ".inf"), (".nan", ".nan"), ("1" * 19, "1" * 19), ("1e9999", "1e9999"),
        ("*", "*"), ("=", "="), ("٣", "٣"), ("1٣", "1٣"), ("5\n", "5\n"),
    ],
)  # fmt: skip
def test_a_plain_scalar_follows_yaml_1_2(text: str, expected: object) -> None:
    result = scalar(text)
    assert result == expected
    assert type(result) is type(expected)


def test_a_quoted_scalar_is_a_text() -> None:
    assert value("['5', \"true\", '', '~', \"null\"]") == ["5", "true", "", "~", "null"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(whitelist_categories=["L", "N", "P", "S", "Zs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc 😀-_", max_size=4), inner, max_size=4),
    max_leaves=15,
)


@given(JSON)
def test_json_is_yaml_with_the_same_values(data: object) -> None:
    assert value(json.dumps(data, ensure_ascii=False)) == data


@given(st.lists(st.text("ab: -'ü🙂", max_size=8), min_size=1, max_size=6))
def test_a_place_is_where_the_text_stands(words: list[str]) -> None:
    lines = [f"  - {json.dumps(word, ensure_ascii=False)}" for word in words]
    document = read_document("\n".join(["# list", "words:", *lines]))
    for index, word in enumerate(words):
        line, column = document.locate(Finding(("words", index), ""))
        assert (line, column) == (index + 3, 5)
        assert document.source_line(line)[column - 1 :] == json.dumps(word, ensure_ascii=False)


def test_a_key_has_a_place_of_its_own() -> None:
    document = read_document("a:\n  b:   c\n")
    assert document.locate(Finding(("a", "b"), "", at_key=True)) == (2, 3)
    assert document.locate(Finding(("a", "b"), "")) == (2, 8)
    assert document.locate(Finding(("a", "missing", "deeper"), "")) == (2, 3)


@pytest.mark.parametrize(
    ("text", "column"), [("k: abcd", 6), ("k: 'abcd'", 7), ('k: "abcd"', 7), ('k: "\\x61bcd"', 4), ("k: >\n  abcd", 4)]
)
def test_a_place_inside_a_scalar_is_exact_or_its_start(text: str, column: int) -> None:
    assert read_document(text).locate(Finding(("k",), "", offset=2)) == (1, column)


def test_shared_values_are_counted_as_often_as_they_are_used() -> None:
    assert value("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    document = read_document(laughs)
    assert document.root is None
    assert "come out of the aliases" in document.findings[0].message


def test_depth_is_bounded_through_aliases_too() -> None:
    deep = "a0: &a0 " + "[" * 35 + "]" * 35 + "\n" + "a1: [[[[[[*a0]]]]]]\n"
    assert read_document(deep).root is None


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbfa: b") == ("a: b", ())


def test_the_first_bad_byte_is_named() -> None:
    (finding,) = decode("ü: x\nb: \xe9".encode("latin-1").replace(b"\xfc", b"\xc3\xbc"))[1]
    assert finding.mark == (2, 4)
    assert finding.message == "the byte 0xe9 is not valid UTF-8"
