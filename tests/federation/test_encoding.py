"""Documents have one text: what is written is read back, and nothing else is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcloud.errors import InvalidRequest, Malformed
from gridcloud.federation.encoding import decode, digest, encode, from_text, milliseconds, moment, to_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEY = st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.dictionaries(KEY, VALUE, max_size=5))
def test_what_is_written_is_read_back(document: dict[str, Any]) -> None:
    assert decode(encode(document)) == document
    assert encode(decode(encode(document))) == encode(document)


@settings(max_examples=60)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_what_is_read_has_one_text_or_is_refused(data: bytes) -> None:
    try:
        document = decode(data)
    except Malformed:
        return
    assert encode(document) == data


def test_the_form_is_that_of_rfc_8785() -> None:
    document = {"b": [True, None, -1], "a": 'é"\\/\x7f\x0f\n', "": {}}
    assert encode(document) == '{"":{},"a":"é\\"\\\\/\x7f\\u000f\\n","b":[true,null,-1]}'.encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a":1.0}', "not a whole number"),
        (b'{"a":1e3}', "not a whole number"),
        (b'{"a":NaN}', "not a whole number"),
        (b'{"a":9007199254740992}', "more than 53 bits"),
        (b'{"a":' + b"9" * 500_000 + b"}", "more than 53 bits"),
        (b'{"a":1,"a":1}', "stands twice"),
        (b'{"b":1,"a":1}', "canonical form"),
        (b'{"a": 1}', "canonical form"),
        (b'{"a":-0}', "canonical form"),
        (b'{"a":"\\u0041"}', "canonical form"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\xc3\xa9":1}', "not ASCII"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b'{"a":1}\n', "canonical form"),
        (b'{"a":', "not JSON"),
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "nested"),
        (b"[" * 400_000, "nested|not JSON"),
        (b" " * (1 << 20) + b"{}", "1048576 is the most"),
    ],
)
def test_anything_else_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        decode(data)


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), 2**53, b"a", {1: 2}, {"é": 1}, {1, 2}, "\ud800", object()]
)
def test_what_has_no_form_is_not_written(value: object) -> None:
    with pytest.raises(InvalidRequest):
        encode({"a": value})


def test_depth_is_bounded_on_both_sides() -> None:
    deep: Any = 1
    for _ in range(31):
        deep = [deep]
    assert decode(encode({"a": deep})) == {"a": deep}
    with pytest.raises(InvalidRequest, match="nested"):
        encode({"a": [deep]})


def test_bytes_and_times_have_one_text() -> None:
    assert from_text(to_text(bytes(range(32))), 32) == bytes(range(32))
    for wrong in ["", "A" * 42, "A" * 44, "A" * 42 + "B", "+" * 43, "é" * 43, "A" * 43 + "="]:
        with pytest.raises(Malformed):
            from_text(wrong, 32)
    when = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
    assert moment(milliseconds(when)) == when - timedelta(microseconds=456)
    with pytest.raises(Malformed):
        moment(2**53 - 1)
    assert len(digest({})) == 43
