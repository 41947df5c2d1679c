"""Assignments in Python source: which are found, and what is left of all else."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.assignments import find_assignments, render_value, replace_values


def given_value(source: str, value: Any, name: str = "x") -> str:
    """The source with the first assignment of a name given another value."""
    found = [one for one in find_assignments(source) if one.name == name]
    return replace_values(source, [(found[0], value)]) if found else source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", "x = 9"),
        ("x = 1 # default=1", "x = 9 # default=1"),
        ("x: int = 1", "x: int = 9"),
        ("if True:\n    x = 1", "if True:\n    x = 9"),
        ("x = y = 1", "x = y = 1; x = 9"),
        ("x, b = 1, 2", "x, b = 9, 2"),
        ("(b, [x, *c]) = f()  # seven", "(b, [x, *c]) = f(); x = 9  # seven"),
        ("x = 1; y = 2", "x = 9; y = 2"),
        ("x = '''a\nb'''", "x = 9"),
        ("x = (1 +\n  2)  # three", "x = (9)  # three"),
        ("x = {\n 'a': 1,\n}\ny = 2", "x = 9\ny = 2"),
        ("é = 'ü'; x = 'ä'; z = 'ö'", "é = 'ü'; x = 9; z = 'ö'"),
        ("%matplotlib inline\nx = 1\n!ls\nprint?", "%matplotlib inline\nx = 9\n!ls\nprint?"),
        ("files = !ls -l\nx = 1", "files = !ls -l\nx = 9"),
        ("try:\n  pass\nexcept OSError:\n  x = 1", "try:\n  pass\nexcept OSError:\n  x = 9"),
        ("match 1:\n  case 1:\n    x = 1", "match 1:\n  case 1:\n    x = 9"),
        ("with a as b:\r\n\tx = 1\r\n", "with a as b:\r\n\tx = 9\r\n"),
        ("x = lambda x=1: x", "x = 9"),
    ],
)
def test_given(source: str, expected: str) -> None:
    assert given_value(source, 9) == expected


@pytest.mark.parametrize(
    "source",
    [
        "x += 1",
        "x == 1",
        "A.x = 1",
        "a[x] = 1",
        "dict(\n  x = 1,\n  y = 2\n)",
        "'''\nx = 1\n'''",
        "# x = 1",
        "def f():\n    x = 1",
        "class A:\n    x = 1",
        "for x in (1, 2): pass",
        "with a as x: pass",
        "(x := 1)",
        "x: int",
        "%%bash\nx = 1",
        "x = !ls",
        "import x",
    ],
)
def test_looks_like_one(source: str) -> None:
    assert given_value(source, 9) == source


def test_several_in_one_cell() -> None:
    source = "a = 1; b = 'ü'\nc = d = 2\n"
    found = find_assignments(source)
    assert [one.name for one in found] == ["a", "b", "c", "d"]
    made = replace_values(source, [(one, one.name * 2) for one in found])
    names: dict[str, Any] = {}
    exec(made, names)  # noqa: S102 - what comes out is what is tried
    assert {name: names[name] for name in "abcd"} == {"a": "aa", "b": "bb", "c": "cc", "d": "dd"}


def test_no_python() -> None:
    with pytest.raises(SyntaxError):
        find_assignments("x = ")


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_any_value_comes_back(value: Any) -> None:
    made = given_value("before = 'ü'\nx = 1\nafter = 2", value)
    tree = ast.parse(made)
    assert len(tree.body) == 3
    names: dict[str, Any] = {}
    exec(made, names)  # noqa: S102
    assert names["x"] == value
    assert names["after"] == 2


def test_values_that_are_no_literals() -> None:
    assert math.isnan(eval(render_value(math.nan)))  # noqa: S307
    assert render_value([1.5, None, True, -math.inf]) == "[1.5, None, True, float('-inf')]"


def test_values_that_cannot_be_given() -> None:
    with pytest.raises(InvalidRequest, match="is a set"):
        render_value({1})
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="50 levels"):
        render_value(deep)
