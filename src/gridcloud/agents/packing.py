"""gridcloud as one file, to carry to a machine that dials in: a zip archive that Python runs (`zipapp`).

What it imports from others is not in it, for that is compiled for one kind of machine. The extra ``agent`` names it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import gridcloud
from gridcloud.errors import DriverUnavailable, Forbidden, InvalidRequest

__all__ = ["needed", "pack"]

MAIN = "from gridcloud.cli import main\n\nmain()\n"
SHEBANG = b"#!/usr/bin/env python3\n"
LEFT_OUT = frozenset({"__pycache__", ".mypy_cache", "spawner", "testing", "migrations"})
"""Folders of the package that no machine needs: the hub's, the tests', the store's."""
DESCRIBED_BY = ("METADATA", "entry_points.txt")


def pack(target: Path) -> None:
    """Write the file, whole, for who may read it to run. Raises Forbidden, InvalidRequest, DriverUnavailable."""
    root = Path(gridcloud.__file__).parent
    if not root.is_dir():
        raise InvalidRequest("This is such a file already.", remedy="Copy it.")
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("__main__.py", MAIN)
                for path in _modules(root):
                    archive.write(path, Path("gridcloud") / path.relative_to(root))
                for name, text in _description().items():
                    archive.writestr(f"gridcloud-{gridcloud.__version__}.dist-info/{name}", text)
        partial.chmod(0o755 & ~_umask())
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Forbidden(
            f"{target} cannot be written: {error.strerror}.", remedy="Name another place."
        ) from error


def needed() -> list[str]:
    """Return what a machine is to have installed, as pip takes it."""
    found = [
        one for one in requires("gridcloud") or () if "extra ==" in one and "agent" in one.partition(";")[2]
    ]
    return sorted(one.partition(";")[0].strip() for one in found)


def _modules(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith((".py", ".sh")))


def _description() -> dict[str, str]:
    """Return what says which drivers there are."""
    try:
        known = distribution("gridcloud")
    except PackageNotFoundError as error:
        raise DriverUnavailable("gridcloud is not installed here, and knows no drivers.") from error
    return {name: text for name in DESCRIBED_BY if (text := known.read_text(name)) is not None}


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before
