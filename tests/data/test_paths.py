"""Paths of users lead to names below a folder, or are refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridcloud.data.paths import OURS, from_url, parse, resolve, show, to_url
from gridcloud.errors import InvalidRequest

PATHS = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"..", b".", b"", b"a", b"\xff", b"\0", OURS.encode() + b"x"])).map(b"/".join),
)


@given(PATHS)
@example(b"../" * 2000)
@example(b"/" * 5000)
def test_whatever_is_given_names_stay_names(raw: bytes) -> None:
    for read in (parse, resolve):
        try:
            names = read(raw)
        except InvalidRequest:
            continue
        for name in names:
            encoded = os.fsencode(name)
            assert encoded not in (b"", b".", b"..")
            assert b"/" not in encoded
            assert b"\0" not in encoded
            assert len(encoded) <= 255
            assert not name.startswith(OURS)
        assert parse("/".join(names)) == names
        assert from_url(to_url(names)) == names
        assert show(names).isprintable()


@given(st.text(max_size=200))
def test_urls_are_names_or_refused(text: str) -> None:
    try:
        names = from_url(text)
    except InvalidRequest:
        return
    assert all(name not in ("", ".", "..") and "/" not in name and "\0" not in name for name in names)


@pytest.mark.parametrize(
    "text", ["..", "a/..", "/../etc/passwd", "a\0b", "x" * 256, "/".join(["y" * 200] * 30), f"{OURS}parts/x"]
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(text)


@pytest.mark.parametrize("text", ["a%2fb", "%2e%2e/x", "a/%00", "%2e%2e%2fetc"])
def test_refused_in_urls(text: str) -> None:
    with pytest.raises(InvalidRequest):
        from_url(text)


def test_accepted() -> None:
    assert parse("/a//./b/") == ("a", "b")
    assert parse("") == parse("/") == ()
    assert resolve("/a/../../b/c/..") == ("b",)
    assert from_url("/a%20b/%FF") == ("a b", "\udcff")
    assert to_url(("a b", "\udcff")) == "a%20b/%FF"
    assert show(("a\nb", "\udcff")) == "/a\\nb/\\xff"
    assert parse("/".join(["z" * 254] * 16))
