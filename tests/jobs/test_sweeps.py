"""Sweeps: what is written, and the jobs that come of it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.sweeps import LARGEST, Row, read_axis, read_sweep, read_table


def values(text: str) -> list[Any]:
    """The values of an axis of one parameter."""
    return [value for (value,) in read_axis(text).rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=1..5", [1, 2, 3, 4, 5]),
        ("x=0..0.3:0.1", [0, 0.1, 0.2, 0.3]),
        ("x=0.0..0.3:0.1", [0.0, 0.1, 0.2, 0.3]),
        ("x=.5..1:.25", [0.5, 0.75, 1.0]),
        ("x=1..2:0.4", [1, 1.4, 1.8]),
        ("x=3..1", [3, 2, 1]),
        ("x=-2..2:2", [-2, 0, 2]),
        ("x=1e-3..3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("x=1..3,7,9..10", [1, 2, 3, 7, 9, 10]),
        ("sample=a,b", ["a", "b"]),
        ("""sample="a,b",'1',1""", ["a,b", "1", 1]),
        ("x=true,False,'true'", [True, False, "true"]),
        ("path=../data,a..b", ["../data", "a..b"]),
        ("x='a with b',2", ["a with b", 2]),
        ("x=inf,nan,1_0", ["inf", "nan", "1_0"]),
        ("x=''", [""]),
    ],
)
def test_values(text: str, expected: list[Any]) -> None:
    found = values(text)
    assert found == expected
    assert [isinstance(one, bool) for one in found] == [isinstance(one, bool) for one in expected]


@given(
    some.decimals(-1000, 1000, places=3),
    some.integers(0, 200),
    some.decimals("0.001", 10, places=3),
)
def test_steps_are_exact(first: Decimal, count: int, step: Decimal) -> None:
    last = first + count * step
    assert values(f"x={first}..{last}:{step}") == [float(first + index * step) for index in range(count + 1)]
    assert values(f"x={last}..{first}:{step}") == [float(last - index * step) for index in range(count + 1)]


def test_product_has_the_last_axis_fastest() -> None:
    rows = read_sweep(["x=1,2", "sample=a,b"]).rows()
    assert rows == [{"x": x, "sample": sample} for x in (1, 2) for sample in ("a", "b")]


def test_together() -> None:
    assert read_sweep(["x=1..3 with y=a,b,c", "z=0,1"]).rows()[2] == {"x": 2, "y": "b", "z": 0}
    with pytest.raises(InvalidRequest, match="x has 3, y has 2 values"):
        read_axis("x=1..3 with y=a,b")


def test_table() -> None:
    text = "\ufeffenergy,sample\n1.5,\"a, b\"\n\n2,'7'\n"
    rows = read_sweep(["@t.csv", "n=1,2"], open_table={"t.csv": text}.__getitem__).rows()
    assert rows[0] == {"energy": 1.5, "sample": "a, b", "n": 1}
    assert rows[-1] == {"energy": 2, "sample": "7", "n": 2}
    assert read_table("a\tb\n1\tx,y\n", "t").rows == ((1, "x,y"),)


def test_where() -> None:
    rows = read_sweep(["energy=1..3", "sample=a,b"], where='energy>2 or sample=="a"').rows()
    assert [tuple(row.values()) for row in rows] == [(1, "a"), (2, "a"), (3, "a"), (3, "b")]


@given(some.integers(1, 60), some.integers(0, 2**32))
def test_latin_hypercube_has_one_sample_in_each_stratum(samples: int, seed: int) -> None:
    sweep = read_sweep(["x=uniform(0,1)", "n=integers(1,6)"], samples=samples, seed=seed, latin=True)
    rows = sweep.rows()
    assert sorted(int(float(row["x"]) * samples) for row in rows) == list(range(samples))
    assert {row["n"] for row in rows} <= set(range(1, 7))
    assert rows == sweep.rows()


def test_drawn() -> None:
    sweep = read_sweep(
        ["a=1,2", "t=loguniform(0.001,10)", "k=choice(red,'2',3)"], samples=200, where="a == 1 or t > 1"
    )
    rows = sweep.rows()
    assert {row["k"] for row in rows} == {"red", "2", 3}
    assert all(0.001 <= float(row["t"]) < 10 for row in rows)
    below = [row for row in rows if row["a"] == 1 and float(row["t"]) < 0.1]
    assert 70 < len(below) < 130  # two of four decades


@pytest.mark.parametrize(
    ("over", "words", "message"),
    [
        (["energy"], {}, "'energy' is not a parameter with its values"),
        (["1x=2"], {}, "'1x'"),
        (["x =1", "x=2"], {}, "gives x twice"),
        (["x=1,,2"], {}, "an empty value"),
        (["x='a"], {}, "A quote is left open"),
        (["x=1..2:0"], {}, "steps of nothing"),
        (["x=1..1e9"], {}, "'1..1e9' has 1,000,000,000 values"),
        (["x=1..1000", "y=1..1000"], {}, "1,000,000 combinations"),
        (["x=uniform(2,1)"], {}, "the lesser first"),
        (["x=loguniform(0,1)"], {}, "above nought"),
        (["x=integers(0.5,2)"], {}, "whole numbers"),
        (["x=1"], {"samples": 5}, "nothing in it is drawn"),
        (["x=uniform(0,1)"], {"samples": 0}, "not 0"),
        (["x=1"], {"where": "y > 1"}, "'where' speaks of y, which the sweep does not have.*It has x"),
        (["@secret"], {}, "cannot be read here"),
    ],
)
def test_refused(over: list[str], words: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_sweep(over, **words).rows()
    assert re.search(message, f"{refused.value} {refused.value.remedy}"), refused.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n1\n", "Line 2 of the table t has 1 values"),
        ("a b\n1\n", "not a parameter's name"),
    ],
)
def test_table_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_table(text, "t")


def test_empty_after_where() -> None:
    with pytest.raises(InvalidRequest, match="true of none of its 3 combinations"):
        read_sweep(["x=1..3"], where="x > 5").rows()


def test_largest() -> None:
    rows: list[Row] = read_sweep([f"x=1..{LARGEST}"]).rows()
    assert len(rows) == LARGEST
