"""How long a file and a function may be, and what a module may be called."""

from __future__ import annotations

import ast

from tests.house.source import ROOT, modules, python_files

FILE_LINES = 600
FUNCTION_LINES = 60
VAGUE_NAMES = frozenset(
    {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc", "stuff"}
)


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES
    ]
    assert not long, f"over {FILE_LINES} lines:\n" + "\n".join(long)


def test_functions_are_short() -> None:
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, f"over {FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_modules_have_telling_names() -> None:
    vague = [module.place for module in modules() if set(module.name.split(".")) & VAGUE_NAMES]
    assert not vague, f"name these after what is in them: {vague}"
