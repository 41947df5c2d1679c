"""Every driver behind an entry point of ours can be loaded and runs its contract's suite."""

from __future__ import annotations

import ast
import importlib
import tomllib
from functools import cache
from importlib.metadata import entry_points

import pytest

from tests.house.source import ROOT, python_files

GROUPS: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["entry-points"]

DRIVERS = [(group, name, target) for group, drivers in GROUPS.items() for name, target in drivers.items()]


def arrived(target: str) -> bool:
    """Say whether the driver's file is in the tree: its package is made with its first real code."""
    module = target.partition(":")[0].replace(".", "/")
    return any((ROOT / "src" / f"{module}{end}").exists() for end in (".py", "/__init__.py"))


@pytest.mark.parametrize(("group", "name", "target"), DRIVERS)
def test_driver_is_installed_and_loads(group: str, name: str, target: str) -> None:
    if not arrived(target):
        pytest.skip(f"{target} is not in the tree yet")
    assert {point.value for point in entry_points(group=group, name=name)} == {target}, "run make setup"
    module, _, attribute = target.partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), type)


@pytest.mark.parametrize(("group", "name", "target"), DRIVERS)
def test_driver_has_a_contract_class(group: str, name: str, target: str) -> None:
    if not arrived(target):
        pytest.skip(f"{target} is not in the tree yet")
    wanted = target.partition(":")[2]
    assert any(wanted in text for text in contract_tests()), (
        f"the {group} driver {name!r} has no class of tests that subclasses a contract of gridcloud.testing "
        f"and uses {wanted}"
    )


def test_every_driver_file_has_an_entry_point() -> None:
    folder = ROOT / "src" / "gridcloud" / "drivers"
    named = {target.partition(":")[0] for _, _, target in DRIVERS}
    loose = []
    for path in sorted(folder.glob("*/*.py")):
        module = f"gridcloud.drivers.{path.parent.name}.{path.stem}"
        first = f"gridcloud.drivers.{path.parent.name}.{path.stem.partition('_')[0]}"
        if path.stem != "__init__" and module not in named and first not in named:
            loose.append(str(path.relative_to(ROOT)))
    assert not loose, f"no entry point in pyproject.toml leads to {loose}"


@cache
def contract_tests() -> list[str]:
    """Return the texts of the test files that subclass a contract suite."""
    paths = [path for path in python_files() if path.is_relative_to(ROOT / "tests")]
    return [
        text
        for path in paths
        if "Contract" in (text := path.read_text(encoding="utf-8"))
        and any(
            isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).endswith("Contract") for base in node.bases)
            for node in ast.walk(ast.parse(text, str(path)))
        )
    ]
