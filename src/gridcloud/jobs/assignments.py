"""Assignments in Python source, found by its syntax tree and given other values, all else left to the letter.

Only assignments of a module count, those within its `if`, `for`, `while`, `with`, `try` and `match` too: what functions
and classes assign is their own. What only looks like one (keyword arguments, comparisons, text, comments, attributes,
`+=`) is none.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridcloud.errors import InvalidRequest

__all__ = ["Assignment", "find_assignments", "render_value", "replace_values"]

MAGIC = re.compile(r"(?m)^([ \t]*)([%!?].*|[\w.]+\?{1,2}|[\w., \t]+=[ \t]*[%!].*)$")
"""Lines that are IPython's own: magics, commands of the shell (also where a name gets what they print), questions."""
DEEPEST = 50
"""Levels of lists and dictionaries in one value."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One place that gives a name its value."""

    name: str
    line: int
    """From 1, in its cell."""
    plain: bool
    """Whether what it gives is a literal, and not derived from something else."""
    start: int
    end: int
    """Bytes of the source, in UTF-8, that hold the value; or, for `appended`, the end of the statement, twice."""
    appended: bool = False
    """Whether the name's value is no part of its own there (``x = y = 1``): it is given another after the statement."""


def find_assignments(source: str) -> list[Assignment]:
    """Return the assignments of a cell in their order. Raises SyntaxError when it is no Python, even without magics."""
    if source.lstrip().startswith("%%"):
        return []
    tree = _parse(source)
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: ast.expr | ast.stmt) -> tuple[int, int]:
        last, column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return starts[node.lineno - 1] + node.col_offset, starts[last - 1] + column

    found = []
    for statement in _statements(tree.body):
        for name, value in _targets(statement):
            begin, end = place(value) if value else (place(statement)[1],) * 2
            plain = _is_literal(value or statement.value)  # type: ignore[arg-type]
            found.append(Assignment(name, statement.lineno, plain, begin, end, value is None))
    return found


def replace_values(source: str, values: Sequence[tuple[Assignment, Any]]) -> str:
    """Return the source with these assignments given these values."""
    text = source.encode()
    for assignment, value in sorted(values, key=lambda pair: (pair[0].start, pair[0].end), reverse=True):
        rendered = render_value(value)
        if assignment.appended:
            rendered = f"; {assignment.name} = {rendered}"
        text = text[: assignment.start] + rendered.encode() + text[assignment.end :]
    return text.decode()


def render_value(value: Any, depth: int = 0) -> str:
    """Return the Python expression of a value that YAML or JSON can hold. Raises InvalidRequest for any other."""
    if depth > DEEPEST:
        raise InvalidRequest(f"A parameter's value has more than {DEEPEST} levels.")
    match value:
        case None | bool() | int() | str():
            return repr(value)
        case float():
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        case Mapping():
            inner = (
                f"{render_value(key, depth + 1)}: {render_value(one, depth + 1)}"
                for key, one in value.items()
            )
            return "{" + ", ".join(inner) + "}"
        case list() | tuple():
            return "[" + ", ".join(render_value(one, depth + 1) for one in value) + "]"
    raise InvalidRequest(
        f"A parameter's value is a {type(value).__name__}, which a notebook cannot be given.",
        remedy="Give numbers, text, true, false, null, or lists and dictionaries of them.",
    )


def _parse(source: str) -> ast.Module:
    """The tree; lines that are IPython's own stand for nothing in it, and every position stays what it was."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(MAGIC.sub(lambda found: found[1] + "0".ljust(len(found[2].encode())), source))


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.Assign | ast.AnnAssign]:
    """Assignments among statements and the blocks within them, in order."""
    for statement in body:
        match statement:
            case ast.Assign() | ast.AnnAssign():
                yield statement
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case ast.Match():
                for one in statement.cases:
                    yield from _statements(one.body)
            case _:
                for field in ("body", "handlers", "orelse", "finalbody"):
                    for inner in getattr(statement, field, ()):
                        yield from _statements(
                            inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                        )


def _targets(statement: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, ast.expr | None]]:
    """Each name that a statement gives a value, with that value; None where it is no expression of the name's own."""
    if isinstance(statement, ast.AnnAssign):
        if statement.value and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.value
        return
    alone = len(statement.targets) == 1
    for target in statement.targets:
        if isinstance(target, ast.Name):
            yield target.id, statement.value if alone else None
        elif isinstance(target, ast.Tuple | ast.List):
            matching = _elements(target, statement.value) if alone else None
            for index, part in enumerate(target.elts):
                named = part.value if isinstance(part, ast.Starred) else part
                for inner in ast.walk(named) if isinstance(named, ast.Tuple | ast.List) else [named]:
                    if isinstance(inner, ast.Name):
                        yield inner.id, matching[index] if matching and inner is part else None


def _elements(target: ast.Tuple | ast.List, value: ast.expr) -> list[ast.expr] | None:
    """The values of a tuple's names, one for each; None where they are not written so."""
    if not isinstance(value, ast.Tuple | ast.List) or len(value.elts) != len(target.elts):
        return None
    starred = any(isinstance(one, ast.Starred) for one in (*target.elts, *value.elts))
    return None if starred else value.elts


def _is_literal(value: ast.expr) -> bool:
    return not any(isinstance(node, ast.Name | ast.Call | ast.Await | ast.Yield) for node in ast.walk(value))
