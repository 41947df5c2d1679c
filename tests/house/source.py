"""The project's own source, read as text and syntax trees; nothing of it is imported."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = [
    "ROOT",
    "Import",
    "Module",
    "Rules",
    "imports",
    "modules",
    "python_files",
    "read_rules",
    "tracked_files",
]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gridcloud"


@dataclass(frozen=True)
class Module:
    """One file of the package: its dotted name below `gridcloud`, empty for the front door."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    """One import, wherever it stands: `target` is a module's name below `gridcloud`, or an outside library's."""

    target: str
    inside: bool
    line: int


@dataclass(frozen=True)
class Rules:
    """What `docs/architecture.md` says."""

    layers: tuple[str, ...]
    drivers: dict[str, frozenset[str]]
    libraries: dict[str, frozenset[str]]


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the package, parsed."""
    found = []
    source = ROOT / "src" / PACKAGE
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Return every import of a module, those inside functions and for type checking included."""
    names = {known.name for known in modules()}
    return tuple(
        found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for found in _targets(node, module, names)
    )


def read_rules() -> Rules:
    """Return the layers, what drivers may import, and which outside library belongs where."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layers = _section(text, "## Layers").partition("\n###")[0]
    return Rules(
        layers=tuple(re.findall(r"^    (\w+)(?:\.py|/) +\S", layers, re.MULTILINE)),
        drivers={
            kind.removeprefix("drivers/"): frozenset(allowed)
            for kinds, allowed in _rows(_section(text, "### What a driver imports"))
            for kind in kinds
        },
        libraries={
            library: frozenset(homes)
            for libraries, homes in _rows(_section(text, "### One door for each outside library"))
            for library in libraries
        },
    )


def tracked_files() -> list[Path]:
    """Return every file that git holds or would hold, the ignored ones left out."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = (ROOT / name.decode() for name in listing.stdout.split(b"\0") if name)
    return sorted({path for path in paths if path.is_file()})


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def _targets(node: ast.Import | ast.ImportFrom, module: Module, names: set[str]) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _import(alias.name, node.lineno)
        return
    base = node.module or ""
    if node.level:
        package = module.name.split(".") if module.name else []
        if module.path.name != "__init__.py":
            package = package[:-1]
        parents = package[: len(package) - (node.level - 1)] if node.level > 1 else package
        base = ".".join([PACKAGE, *parents, *([base] if base else [])])
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        # `from package import name` asks for a module where there is one, and for the package otherwise.
        yield _import(whole if whole.removeprefix(f"{PACKAGE}.") in names else base, node.lineno)


def _import(name: str, line: int) -> Import:
    if name == PACKAGE:
        return Import("", True, line)
    if name.startswith(f"{PACKAGE}."):
        return Import(name.removeprefix(f"{PACKAGE}."), True, line)
    return Import(name.partition(".")[0], False, line)


def _section(text: str, heading: str) -> str:
    _, found, rest = text.partition(f"\n{heading}\n")
    if not found:
        raise LookupError(f"docs/architecture.md has no heading {heading!r}: the tests of the house read it")
    level = heading.count("#")
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _rows(section: str) -> Iterator[tuple[list[str], list[str]]]:
    for line in section.splitlines():
        cells = line.strip().strip("|").split("|")
        if line.startswith("|") and len(cells) == 2 and "`" in cells[0]:
            yield re.findall(r"`([^`]+)`", cells[0]), re.findall(r"`([^`]+)`", cells[1])
