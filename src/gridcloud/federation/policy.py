"""What a lender lends to whom: one expression that is safe to read from a file, and limits beside it.

``institution in friends and purpose == "teaching" and hours <= 24 and favour >= 0`` is such an expression. It is parsed
by `ast`, every node is looked up in a short list, and its types are checked when it is read: one that was read never
fails when it is asked, and takes time in proportion to its length. There are ``and``, ``or``, ``not``, brackets, the
comparisons of numbers and texts, ``in``, ``not in``, and ``+`` and ``-`` of numbers. Nothing can be called.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gridcloud.errors import InvalidSettings
from gridcloud.federation.wishes import Wish

__all__ = ["NAMES", "Kind", "Policy", "Question", "read_policy"]

LONGEST = 2000
"""Characters of an expression."""
MOST = 200
"""Nodes of an expression."""
DEEPEST = 30

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Value = float | str | bool | frozenset[str]


class Kind(StrEnum):
    """What a value is."""

    NUMBER = "a number"
    TEXT = "a text"
    TRUTH = "true or false"
    TEXTS = "several texts"


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy is asked: whose wish it is, and how things stand."""

    institution: str
    wish: Wish
    favour: float = 0.0
    """Core-hours, never below 0 (see `favour`)."""
    free: float = 1.0
    """The part of the lender's capacity that is free now, 0 to 1."""
    communities: frozenset[str] = frozenset()
    """Those that both sides belong to."""
    when: datetime | None = None
    """The lender's local time."""


NAMES: Mapping[str, tuple[Kind, Callable[[Question], Value], str]] = {
    "institution": (Kind.TEXT, lambda asked: asked.institution, "who asks"),
    "communities": (Kind.TEXTS, lambda asked: asked.communities, "communities that both sides belong to"),
    "user": (Kind.TEXT, lambda asked: asked.wish.user, "for whom, as the borrower knows them"),
    "groups": (Kind.TEXTS, lambda asked: frozenset(asked.wish.groups), "groups of the user, as stated"),
    "purpose": (Kind.TEXT, lambda asked: asked.wish.purpose, "what for, as stated"),
    "image": (Kind.TEXT, lambda asked: asked.wish.image, "image that is wished"),
    "cpus": (Kind.NUMBER, lambda asked: asked.wish.capacity.millicores / 1000, "CPU cores"),
    "memory": (Kind.NUMBER, lambda asked: asked.wish.capacity.memory / 1024, "memory in GiB"),
    "gpus": (Kind.NUMBER, lambda asked: float(asked.wish.capacity.gpus), "GPUs"),
    "gpu_model": (Kind.TEXT, lambda asked: asked.wish.gpu_model, "model of GPU that is wished"),
    "hours": (Kind.NUMBER, lambda asked: asked.wish.seconds / 3600, "how long it is wished for"),
    "favour": (
        Kind.NUMBER,
        lambda asked: asked.favour,
        "core-hours they gave more than they took, at least 0",
    ),
    "free": (Kind.NUMBER, lambda asked: asked.free, "part of the lender's capacity that is free, 0 to 1"),
    "hour": (Kind.NUMBER, lambda asked: float(asked.when.hour) if asked.when else 0.0, "hour here, 0 to 23"),
    "weekday": (
        Kind.TEXT,
        lambda asked: _DAYS[asked.when.weekday()] if asked.when else "",
        "mon to sun, here",
    ),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """An expression that was read."""

    text: str
    parts: tuple[tuple[str, Callable[[Question], Value]], ...] = field(repr=False, compare=False)
    """Its outermost terms joined by ``and``, each with its own text: what says no can be named."""

    def refusal(self, asked: Question) -> str:
        """Return the first part that says no, or an empty text where all say yes."""
        return next((text for text, holds in self.parts if not holds(asked)), "")


def read_policy(text: str, named: Mapping[str, Iterable[str]] | None = None) -> Policy:
    """Return the policy that ``text`` writes; ``named`` are sets of texts by names of the lender's own (``friends``).

    Raises `InvalidSettings` that shows the place where something else than a policy begins.
    """
    if len(text) > LONGEST:
        raise InvalidSettings(f"the policy has {len(text)} characters; {LONGEST} is the most")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        column = getattr(error, "offset", None) or 1
        raise _wrong(text.strip(), column - 1, str(getattr(error, "msg", error))) from error
    reader = _Reader(text.strip(), {name: frozenset(values) for name, values in (named or {}).items()})
    if sum(1 for _ in ast.walk(tree)) > MOST:
        raise InvalidSettings(f"the policy has more than {MOST} parts; split it into named sets or limits")
    return Policy(text.strip(), tuple(reader.parts(tree.body)))


def _wrong(text: str, column: int, what: str) -> InvalidSettings:
    start = max(0, column - 30)
    shown = text[start : column + 30].replace("\n", " ")
    return InvalidSettings(
        f"the policy is wrong at column {column + 1}: {what}\n  {shown}\n  {' ' * (column - start)}^",
        remedy=f"Names that it knows: {', '.join(NAMES)}.",
        details={"column": column + 1},
    )


Read = tuple[Kind, Callable[[Question], Value]]

_ORDER: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: lambda one, other: one < other,
    ast.LtE: lambda one, other: one <= other,
    ast.Gt: lambda one, other: one > other,
    ast.GtE: lambda one, other: one >= other,
}


class _Reader:
    """Turns nodes into functions, and refuses every node that it does not know."""

    def __init__(self, text: str, named: Mapping[str, frozenset[str]]) -> None:
        self.text = text
        self.named = named

    def parts(self, node: ast.expr) -> Iterable[tuple[str, Callable[[Question], Value]]]:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for value in node.values:
                yield from self.parts(value)
        else:
            yield ast.unparse(node), self.expect(node, Kind.TRUTH, 0)

    def wrong(self, node: ast.AST, what: str) -> InvalidSettings:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        before = self.text.encode().splitlines(keepends=True)
        place = b"".join(before[: line - 1]) + before[line - 1][:column]
        return _wrong(self.text, len(place.decode(errors="replace")), what)

    def expect(self, node: ast.expr, kind: Kind, depth: int) -> Callable[[Question], Value]:
        found, function = self.read(node, depth)
        if found is not kind:
            raise self.wrong(node, f"this is {found}, and {kind} is needed here")
        return function

    def read(self, node: ast.expr, depth: int) -> Read:
        if depth > DEEPEST:
            raise self.wrong(node, f"brackets are more than {DEEPEST} deep")
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                return self.constant(node)
            case ast.Name():
                return self.name(node)
            case ast.Tuple() | ast.List() | ast.Set():
                return self.texts(node)
            case ast.BoolOp():
                return self.joined(node, depth)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.expect(node.operand, Kind.TRUTH, depth + 1)
                return Kind.TRUTH, lambda asked: not inner(asked)
            case ast.UnaryOp(op=ast.USub()) | ast.BinOp(op=ast.Add() | ast.Sub()):
                return self.sum(node, depth)
            case ast.Compare():
                return self.compared(node, depth)
        raise self.wrong(node, f"{_word(node)} has no place in a policy")

    def constant(self, node: ast.Constant) -> Read:
        value = node.value
        if isinstance(value, bool):
            return Kind.TRUTH, lambda _: value
        if isinstance(value, str):
            return Kind.TEXT, lambda _: value
        if not isinstance(value, int | float) or not -1e15 < value < 1e15:
            raise self.wrong(node, "the number is too large")
        number = float(value)
        return Kind.NUMBER, lambda _: number

    def name(self, node: ast.Name) -> Read:
        if node.id in NAMES:
            kind, function, _ = NAMES[node.id]
            return kind, function
        if node.id in self.named:
            texts = self.named[node.id]
            return Kind.TEXTS, lambda _: texts
        own = f" or {', '.join(sorted(self.named))}" if self.named else ""
        raise self.wrong(node, f"{node.id!r} is no name that a policy knows{own}")

    def texts(self, node: ast.Tuple | ast.List | ast.Set) -> Read:
        values = []
        for one in node.elts:
            if not isinstance(one, ast.Constant) or not isinstance(one.value, str):
                raise self.wrong(one, "a list holds texts only, each in quotes")
            values.append(one.value)
        found = frozenset(values)
        return Kind.TEXTS, lambda _: found

    def joined(self, node: ast.BoolOp, depth: int) -> Read:
        inner = [self.expect(value, Kind.TRUTH, depth + 1) for value in node.values]
        if isinstance(node.op, ast.And):
            return Kind.TRUTH, lambda asked: all(one(asked) for one in inner)
        return Kind.TRUTH, lambda asked: any(one(asked) for one in inner)

    def sum(self, node: ast.UnaryOp | ast.BinOp, depth: int) -> Read:
        if isinstance(node, ast.UnaryOp):
            inner = self.expect(node.operand, Kind.NUMBER, depth + 1)
            return Kind.NUMBER, lambda asked: -float(inner(asked))  # type: ignore[arg-type]
        sign = 1 if isinstance(node.op, ast.Add) else -1
        left = self.expect(node.left, Kind.NUMBER, depth + 1)
        right = self.expect(node.right, Kind.NUMBER, depth + 1)
        return Kind.NUMBER, lambda asked: float(left(asked)) + sign * float(right(asked))  # type: ignore[arg-type]

    def compared(self, node: ast.Compare, depth: int) -> Read:
        pairs = []
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            pairs.append(self.pair(operator, left, right, depth + 1))
            left = right
        return Kind.TRUTH, lambda asked: all(one(asked) for one in pairs)

    def pair(
        self, operator: ast.cmpop, left: ast.expr, right: ast.expr, depth: int
    ) -> Callable[[Question], bool]:
        kind, one = self.read(left, depth)
        if isinstance(operator, ast.In | ast.NotIn):
            if kind is not Kind.TEXT:
                raise self.wrong(left, f"this is {kind}, and only a text can be in a list")
            many = self.expect(right, Kind.TEXTS, depth)
            wanted = isinstance(operator, ast.In)
            return lambda asked: (one(asked) in many(asked)) is wanted  # type: ignore[operator]
        other = self.expect(right, kind, depth)
        if isinstance(operator, ast.Eq | ast.NotEq):
            same = isinstance(operator, ast.Eq)
            return lambda asked: (one(asked) == other(asked)) is same
        order = _ORDER.get(type(operator))
        if order is None or kind is not Kind.NUMBER:
            raise self.wrong(left, f"this is {kind}, and only numbers are compared like this")
        return lambda asked: order(one(asked), other(asked))  # type: ignore[arg-type]


def _word(node: ast.AST) -> str:
    words = {
        ast.Call: "a call",
        ast.Attribute: "an attribute",
        ast.Subscript: "an index",
        ast.Lambda: "a function",
    }
    return words.get(type(node), f"this ({type(node).__name__})")
