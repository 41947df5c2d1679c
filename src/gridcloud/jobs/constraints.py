"""Constraints over parameters, such as ``energy > 2 or sample == "a"``: read as Python's syntax, told by us.

Names, numbers, text, comparisons (also chained, and `in` over values in brackets), `and`, `or`, `not` and
arithmetic are all there is: no call, no attribute, no index. So a stranger's constraint is as harmless as a number.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from gridcloud.errors import InvalidRequest

__all__ = ["Constraint", "Value"]

Value = bool | int | float | str

LONGEST = 2000
"""Characters of a constraint."""
LARGEST_POWER = 64

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, several: one in several,
    ast.NotIn: lambda one, several: one not in several,
}
OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


class Constraint:
    """A constraint. Raises InvalidRequest when it is no constraint, with the place."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LONGEST:
            raise InvalidRequest(f"A constraint may have {LONGEST:,} characters, not {len(text):,}.")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self.names = _check(self._tree, text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
            raise InvalidRequest(
                f"The constraint {text!r} is not understood: {said}.",
                remedy="""Write e.g. energy > 2 or sample == "a".""",
            ) from error

    def __repr__(self) -> str:
        return f"Constraint({self.text!r})"

    def holds(self, row: Mapping[str, Value]) -> bool:
        """Return whether it is true of these parameters. Raises InvalidRequest when it cannot be told."""
        try:
            return bool(_tell(self._tree, row))
        except KeyError as error:
            raise InvalidRequest(
                f"The constraint {self.text!r} speaks of {error}, which is not given."
            ) from error
        except (TypeError, ArithmeticError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"The constraint {self.text!r} cannot be told of {dict(row)}: {error}."
            ) from error


def _check(tree: ast.expr, text: str) -> set[str]:
    """The names in it, once all of it is of what there is."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name):
                names.add(name)
            case ast.Constant(value=bool() | int() | float() | str()):
                pass
            case ast.BinOp(op=kind) if type(kind) in OPERATIONS:
                pass
            case ast.UnaryOp(op=kind) if type(kind) in SIGNS or isinstance(kind, ast.Not):
                pass
            case ast.Compare(ops=kinds) if all(type(kind) in COMPARISONS for kind in kinds):
                pass
            case ast.BoolOp() | ast.Tuple() | ast.List() | ast.expr_context() | ast.boolop():
                pass
            case ast.operator() | ast.unaryop() | ast.cmpop():
                pass
            case _:
                part = ast.get_source_segment(text.strip(), node) or type(node).__name__
                raise InvalidRequest(
                    f"The constraint {text!r} has {part!r}, which is not for constraints.",
                    remedy="Names, numbers, text, comparisons, 'and', 'or', 'not', 'in' and arithmetic are.",
                )
    return names


def _tell(node: ast.expr, row: Mapping[str, Value]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return row[name]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_tell(part, row) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_tell(part, row) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not _tell(part, row)
        case ast.UnaryOp(op=kind, operand=part):
            return SIGNS[type(kind)](_tell(part, row))
        case ast.BinOp(left=left, op=kind, right=right):
            return _calculate(type(kind), _tell(left, row), _tell(right, row))
        case ast.Compare(left=left, ops=kinds, comparators=rights):
            before = _tell(left, row)
            for comparison, right in zip(kinds, rights, strict=True):
                after = _tell(right, row)
                if not COMPARISONS[type(comparison)](before, after):
                    return False
                before = after
            return True
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_tell(part, row) for part in parts)
    raise AssertionError(f"{type(node).__name__} was checked for")


def _calculate(kind: type[ast.operator], left: Any, right: Any) -> Any:
    """Arithmetic of numbers only: text times a million, or a power of a power, would fill the memory."""
    if not all(isinstance(one, int | float) for one in (left, right)):
        raise TypeError("arithmetic is for numbers")
    if kind is ast.Pow and abs(right) > LARGEST_POWER:
        raise ValueError(f"powers are at most {LARGEST_POWER}")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise ValueError("the numbers are too large")
    return OPERATIONS[kind](left, right)
