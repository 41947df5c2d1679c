"""Drivers, found by the entry points of what is installed and imported only when asked for by name.

A driver of one kind is a class behind an entry point of the group ``gridcloud.<kind>``. Ours use the same door as
anybody's. One that cannot be loaded breaks only itself.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

from gridcloud.errors import DriverUnavailable

__all__ = ["load", "names"]


def names(kind: str) -> dict[str, str]:
    """Return the drivers of a kind that are installed: name -> distribution and version. Imports none of them."""
    return {name: _spell(found[0]) for name, found in sorted(_find(kind, tuple(sys.path)).items())}


def load(kind: str, name: str) -> type[Any]:
    """Import the class of one driver.

    Raises DriverUnavailable, which names the driver, the cause, and what to install or the nearest names.
    """
    found = _find(kind, tuple(sys.path)).get(name)
    if not found:
        raise _unknown(kind, name)
    if len(found) > 1:
        raise DriverUnavailable(
            f"The driver {name!r} ({kind}) is claimed by {' and '.join(_spell(one) for one in found)}.",
            remedy="Uninstall all but one of them.",
        )
    try:
        driver = found[0].load()
    except (
        Exception
    ) as error:  # an import runs a stranger's code: whatever it raises must break that driver only
        raise DriverUnavailable(
            f"The driver {name!r} ({kind}) of {_spell(found[0])} cannot be loaded: {type(error).__name__}: {error}.",
            remedy=_remedy(found[0], error),
        ) from error
    if not isinstance(driver, type):
        raise DriverUnavailable(
            f"The driver {name!r} ({kind}) of {_spell(found[0])} is no class: {found[0].value} is {driver!r:.80}.",
            remedy="Its author has to mend the entry point.",
        )
    return driver


@functools.cache
def _find(kind: str, _path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by name. Reading them walks all that is installed: done once per search path."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"gridcloud.{kind}"):
        found.setdefault(point.name, []).append(point)
    return {name: _prefer_ours(points) for name, points in found.items()}


def _prefer_ours(points: list[EntryPoint]) -> list[EntryPoint]:
    ours = [point for point in points if point.dist is not None and point.dist.name == "gridcloud"]
    return ours[:1] or points


def _unknown(kind: str, name: str) -> DriverUnavailable:
    installed = names(kind)
    near = difflib.get_close_matches(name, installed, n=3, cutoff=0.5)
    listed = ", ".join(installed) or "none"
    return DriverUnavailable(
        f"There is no driver {name!r} of the kind {kind}; installed are: {listed}.",
        remedy=f"Did you mean {' or '.join(repr(one) for one in near)}?"
        if near
        else "Install the package that has it.",
        details={"installed": installed, "near": near},
    )


def _remedy(point: EntryPoint, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing:
        top = missing.partition(".")[0]
        for owner in _owners(point):
            extra = _extra_of(top, owner.requires or ())
            if extra:
                return f"Run: pip install '{owner.name}[{extra}]'"
        return f"Install what provides the Python module {top!r}."
    return "Update or uninstall that package; the other drivers work."


def _owners(point: EntryPoint) -> Iterable[Distribution]:
    if point.dist is not None:
        yield point.dist
    try:
        yield distribution("gridcloud")
    except PackageNotFoundError:
        return


def _extra_of(module: str, requirements: Iterable[str]) -> str:
    """Return the extra that brings a module, by the name of the distribution that a requirement names."""
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if match and _normal(match[1]) == _normal(module) and match[2] not in ("all", "test", "dev"):
            return match[2]
    return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _spell(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
