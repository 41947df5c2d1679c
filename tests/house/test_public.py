"""What each module offers: `__all__` is there, true, sorted, documented, and pinned for the packages' verbs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.house.source import ROOT, Module, modules

PINNED = ROOT / "tests" / "house" / "public_names.txt"

# Alembic loads its scripts by path and looks for the names it knows.
EXEMPT = ("store.migrations.versions.", "store.migrations.env")


def checked() -> list[Module]:
    return [
        module
        for module in modules()
        if not module.name.startswith(EXEMPT) and module.path.name != "__main__.py" and _has_code(module)
    ]


def test_every_module_has_all() -> None:
    bare = [module.place for module in checked() if _public(module) is None]
    assert not bare, f"these have no literal __all__: {bare}"


def test_all_names_what_is_public() -> None:
    wrong = []
    for module in checked():
        public = _public(module) or []
        if len(public) != len(set(public)):
            wrong.append(f"{module.place}: __all__ names something twice")
        hidden = {
            node.name
            for node in module.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not _is_registered(node)
        } - set(public)
        if hidden:
            wrong.append(f"{module.place}: public but not in __all__: {', '.join(sorted(hidden))}")
    assert not wrong, "\n".join(wrong)


def test_all_names_what_exists() -> None:
    """In a program of its own, for what importing everything leaves behind is not the tests' to keep."""
    names = [f"gridcloud.{module.name}" for module in checked() if module.name]
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:gridcloud", "-c", _IMPORT_ALL, *names],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_public_things_are_documented() -> None:
    bare = []
    for module in checked():
        if module.layer in {"cli", "testing"}:
            continue
        if not ast.get_docstring(module.tree):
            bare.append(f"{module.place}: the module has no docstring")
        public = set(_public(module) or [])
        bare += [
            f"{module.place}:{node.lineno} {node.name} has no docstring"
            for node in module.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name in public
            and not ast.get_docstring(node)
        ]
    assert not bare, "\n".join(bare)


def test_packages_keep_their_public_names() -> None:
    """A change of what a package offers is made on purpose: `tests/house/pin-public-names` writes the list anew."""
    if not PINNED.exists():
        pytest.skip("nothing is pinned yet: run tests/house/pin-public-names")
    assert PINNED.read_text(encoding="utf-8") == pinned_text()


def pinned_text() -> str:
    """Return the public names of every package and top-level module, one a line."""
    return "".join(
        f"gridcloud{'.' if module.name else ''}{module.name}: {name}\n"
        for module in checked()
        if module.name.count(".") == 0
        for name in sorted(_public(module) or [])
    )


def _has_code(module: Module) -> bool:
    body = module.tree.body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def _is_registered(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Say whether it is reached through its decorator (a route, a command, a fixture), not by its name."""
    calls = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    registrars = {"get", "post", "put", "patch", "delete", "websocket", "command", "callback", "fixture"}
    return any(isinstance(call, ast.Attribute) and call.attr in registrars for call in calls)


def _public(module: Module) -> list[str] | None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target) == "__all__" for target in targets):
                return [str(name) for name in ast.literal_eval(node.value)]
    return None


_IMPORT_ALL = """
import importlib, sys
failed = False
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        absent = [public for public in module.__all__ if not hasattr(module, public)]
        reason = f"__all__ names what is not there: {absent}" if absent else ""
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        failed = True
        print(f"{name}: {reason}")
sys.exit(failed)
"""
