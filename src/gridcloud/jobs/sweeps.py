"""Sweeps: from what a person writes after ``--over`` to the parameters of each job, in a fixed order.

    energy=1..5:0.5          a range with both ends, by exact steps: 1 where none is given, downwards too
    sample=a,b,"c,d"         values; text in quotes is text, whatever it looks like
    x=1..3 with y=a,b,c      together: the first of each, the second of each
    @table.csv               the rows of a table, by the names of its columns
    t=uniform(250,350)       drawn: also `loguniform`, whole numbers (`integers`), or one of some (`choice`)

Several axes make their product, the last one fastest. Drawn parameters are drawn anew for each job;
`Sweep.samples` says how many there are for each of the product, which is one where all are drawn. Steps are
decimals: from 0 to 0.3 by 0.1 are four values, and the last is the float 0.3.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.constraints import Constraint, Value

__all__ = ["LARGEST", "Axis", "Draw", "Row", "Sweep", "read_axis", "read_sweep", "read_table", "read_value"]

LARGEST = 100_000
"""Jobs that one sweep may have."""
MOST_CONSIDERED = 2_000_000
"""Combinations that are tried against a constraint."""

Row = dict[str, Value]
"""The parameters of one job."""

NAME = re.compile(r"[^\W\d]\w{0,99}")
RANGE = re.compile(r"(?P<first>[^.:,\s]*(?:\.\d+)?)\.\.(?P<last>[^:,\s]+)(?::(?P<step>[^:,\s]+))?")
DRAWN = re.compile(r"(uniform|loguniform|integers|choice)\((.*)\)", re.DOTALL)
WORDS: dict[str, Value] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Axis:
    """Parameters that move together: each row holds one value for each name."""

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """A parameter that is drawn at random: between ``low`` and ``high``, or one of ``values`` (kind `choice`).

    Whole numbers (kind `integers`) have both ends.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[Value, ...] = ()

    def at(self, quantile: float) -> Value:
        """Return the value at a quantile, from 0 to less than 1."""
        if self.kind == "choice":
            return self.values[int(quantile * len(self.values))]
        if self.kind == "integers":
            return int(self.low) + int(quantile * (int(self.high) - int(self.low) + 1))
        if self.kind == "loguniform":
            return math.exp(math.log(self.low) + quantile * (math.log(self.high) - math.log(self.low)))
        return self.low + quantile * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A whole sweep."""

    axes: tuple[Axis, ...] = ()
    draws: tuple[Draw, ...] = ()
    where: Constraint | None = None
    """Rows of which it is not true are left out."""
    samples: int = 1
    """Jobs for each of the product, where something is drawn."""
    seed: int = 0
    """The same seed draws the same."""
    latin: bool = False
    """Draw by Latin hypercube: of n samples, one lies in each nth of each parameter's range."""

    def rows(self) -> list[Row]:
        """Return the parameters of each job. Raises InvalidRequest when they are too many, or none, or a constraint
        cannot be told of one."""
        considered = math.prod(len(axis.rows) for axis in self.axes) * (self.samples if self.draws else 1)
        if considered > (MOST_CONSIDERED if self.where else LARGEST):
            raise InvalidRequest(
                f"The sweep has {considered:,} combinations; {LARGEST:,} jobs are the most that one may have.",
                remedy="Give fewer values, or split it into several.",
            )
        kept = [row for row in self._all() if self.where is None or self.where.holds(row)]
        if not kept:
            raise InvalidRequest(
                f"The sweep has no job: 'where' is true of none of its {considered:,} combinations."
                if self.where and considered
                else "The sweep has no job: it has no values."
            )
        if len(kept) > LARGEST:
            raise InvalidRequest(
                f"The sweep has {len(kept):,} jobs; {LARGEST:,} are the most.",
                remedy="Narrow 'where', or split it into several.",
            )
        return kept

    def _all(self) -> Iterator[Row]:
        source = random.Random(self.seed)  # noqa: S311 - draws samples, guards nothing
        for combination in itertools.product(*(axis.rows for axis in self.axes)):
            row = {
                name: value
                for axis, values in zip(self.axes, combination, strict=True)
                for name, value in zip(axis.names, values, strict=True)
            }
            if not self.draws:
                yield row
                continue
            for quantiles in self._quantiles(source):
                yield row | {
                    draw.name: draw.at(quantile) for draw, quantile in zip(self.draws, quantiles, strict=True)
                }

    def _quantiles(self, source: random.Random) -> Iterable[tuple[float, ...]]:
        """`samples` points of the unit cube, of as many dimensions as there are draws."""
        if not self.latin:
            return [tuple(source.random() for _ in self.draws) for _ in range(self.samples)]
        # McKay, Beckman, Conover 1979: one point in each stratum of each dimension, strata paired at random.
        columns = []
        for _ in self.draws:
            strata = list(range(self.samples))
            source.shuffle(strata)
            columns.append([(stratum + source.random()) / self.samples for stratum in strata])
        return list(zip(*columns, strict=True))


def read_sweep(
    over: Sequence[str],
    *,
    where: str = "",
    samples: int = 1,
    seed: int = 0,
    latin: bool = False,
    open_table: Callable[[str], str] | None = None,
) -> Sweep:
    """Return the sweep that these words describe.

    ``open_table`` returns the text of a table by its name; without it, tables are refused. Raises InvalidRequest,
    naming the words that are wrong.
    """
    axes: list[Axis] = []
    draws: list[Draw] = []
    for text in over:
        found = _drawn(text) or read_axis(text, open_table)
        (draws if isinstance(found, Draw) else axes).append(found)  # type: ignore[arg-type]
    names = [name for axis in axes for name in axis.names] + [draw.name for draw in draws]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"The sweep gives {', '.join(twice)} twice.", remedy="Name each parameter once.")
    if samples < 1 or samples > LARGEST:
        raise InvalidRequest(f"A sweep may have 1 to {LARGEST:,} samples, not {samples:,}.")
    if not draws and (samples > 1 or latin):
        raise InvalidRequest(
            "The sweep has samples, and nothing in it is drawn.", remedy="Write e.g. energy=uniform(1,5)."
        )
    constraint = Constraint(where) if where.strip() else None
    if constraint and (unknown := sorted(constraint.names - set(names))):
        raise InvalidRequest(
            f"'where' speaks of {', '.join(unknown)}, which the sweep does not have.",
            remedy=f"It has {', '.join(sorted(names)) or 'no parameter'}.",
        )
    return Sweep(tuple(axes), tuple(draws), constraint, samples, seed, latin)


def read_axis(text: str, open_table: Callable[[str], str] | None = None) -> Axis:
    """Return one axis. Raises InvalidRequest, naming what is wrong."""
    if text.startswith("@"):
        if open_table is None:
            raise InvalidRequest(f"The table {text!r} cannot be read here: give its rows themselves.")
        return read_table(open_table(text[1:]), text[1:])
    columns = [_column(part) for part in _split(text, " with ")]
    lengths = {len(values) for _, values in columns}
    if len(lengths) > 1:
        told = ", ".join(f"{name} has {len(values)}" for name, values in columns)
        raise InvalidRequest(f"In {text!r} the parameters do not go together: {told} values.")
    return Axis(
        tuple(name for name, _ in columns), tuple(zip(*(values for _, values in columns), strict=True))
    )


def read_table(text: str, name: str) -> Axis:
    """Return the rows of a table with a line of names: values apart by commas, or by tabs where it has any.

    Raises InvalidRequest, naming the line.
    """
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if "\t" in text.partition("\n")[0] else ","
    )
    try:
        names = tuple(_name(one.strip(), f"the table {name}") for one in next(lines, []))
        rows = []
        for row in lines:
            if not row:
                continue
            if len(row) != len(names):
                raise InvalidRequest(
                    f"Line {lines.line_num} of the table {name} has {len(row)} values for {len(names)} names."
                )
            rows.append(tuple(read_value(value) for value in row))
    except csv.Error as error:
        raise InvalidRequest(f"Line {lines.line_num} of the table {name} cannot be read: {error}.") from error
    if not names:
        raise InvalidRequest(
            f"The table {name} is empty.", remedy="Its first line holds the parameters' names."
        )
    return Axis(names, tuple(rows))


def read_value(text: str) -> Value:
    """Return what a text stands for: a whole number, a float, true, false; in quotes, or anything else: text."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    return _number(text) if _is_number(text) else text


def _column(text: str) -> tuple[str, tuple[Value, ...]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise InvalidRequest(
            f"{text!r} is not a parameter with its values.",
            remedy="Write e.g. energy=1..5:0.5 or sample=a,b.",
        )
    name = _name(name.strip(), repr(text))
    found: list[Value] = []
    for part in _split(values, ","):
        ranged = RANGE.fullmatch(part.strip())
        if ranged and all(_is_number(one) for one in ranged.groups() if one is not None):
            found += _steps(part.strip(), *ranged.groups())
        elif not part.strip():
            raise InvalidRequest(
                f"{text!r} has an empty value.", remedy="Write '' where an empty text is meant."
            )
        else:
            found.append(read_value(part))
    return name, tuple(found)


def _steps(text: str, first: str, last: str, step: str | None) -> list[Value]:
    """The values of a range, both ends in it where the steps meet the last."""
    begin, end = Decimal(first), Decimal(last)
    pace = abs(Decimal(step)) if step else Decimal(1)
    if not pace:
        raise InvalidRequest(f"The range {text!r} has steps of nothing.")
    count = int(abs(end - begin) / pace) + 1
    if count > LARGEST:
        raise InvalidRequest(f"The range {text!r} has {count:,} values; {LARGEST:,} are the most.")
    signed = pace if end >= begin else -pace
    return [_number(str(begin + index * signed)) for index in range(count)]


def _drawn(text: str) -> Draw | None:
    """A parameter that is drawn; None where the words are none."""
    name, _, rest = text.partition("=")
    if not (found := DRAWN.fullmatch(rest.strip())):
        return None
    name, kind = _name(name.strip(), repr(text)), found[1]
    values = tuple(read_value(one) for one in _split(found[2], ","))
    if kind == "choice":
        return Draw(name, kind, values=values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(values) or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise InvalidRequest(f"{text!r} needs two numbers, the lesser first.")
    if kind == "loguniform" and numbers[0] <= 0:
        raise InvalidRequest(f"{text!r} needs numbers above nought.")
    if kind == "integers" and not all(isinstance(one, int) for one in numbers):
        raise InvalidRequest(f"{text!r} needs whole numbers.")
    return Draw(name, kind, float(numbers[0]), float(numbers[1]))


def _name(text: str, where: str) -> str:
    if not NAME.fullmatch(text):
        raise InvalidRequest(
            f"{text[:100]!r} in {where} is not a parameter's name.",
            remedy="Names are letters, digits and underscores, and do not begin with a digit.",
        )
    return text


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite() and "_" not in text
    except InvalidOperation:
        return False


def _number(text: str) -> int | float:
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    return int(number) if "e" not in text.lower() and exponent == 0 else float(number)


def _split(text: str, at: str) -> list[str]:
    """Split a text where ``at`` stands outside quotes. Raises InvalidRequest where a quote is left open."""
    parts, quote, begin, index = [], "", 0, 0
    while index < len(text):
        if quote:
            quote = "" if text[index] == quote else quote
        elif text[index] in "'\"":
            quote = text[index]
        elif text.startswith(at, index):
            parts.append(text[begin:index])
            begin = index = index + len(at)
            continue
        index += 1
    if quote:
        raise InvalidRequest(f"A quote is left open in {text!r}.")
    return [*parts, text[begin:]]
