"""Distributions that bring drivers, written to disk as an installer leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_distribution"]


def write_distribution(
    folder: Path,
    name: str,
    kind: str,
    points: Mapping[str, str],
    modules: Mapping[str, str],
    requires: str = "",
) -> Path:
    """Write a distribution with drivers of a kind and return the folder to put on ``sys.path``."""
    place = folder / name
    facts = place / f"{name}-1.2.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{requires}")
    lines = "".join(f"{point} = {value}\n" for point, value in points.items())
    (facts / "entry_points.txt").write_text(f"[gridcloud.{kind}]\n{lines}")
    for module, text in modules.items():
        (place / f"{module}.py").write_text(text)
    return place
