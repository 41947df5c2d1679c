"""The Python packages that somebody wants added to a session: read from their text, and held to what a profile lets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from gridcloud.errors import Forbidden, InvalidRequest
from gridcloud.settings.profiles import ProfileSettings

__all__ = ["LARGEST", "MOST", "read_requirements"]

LARGEST = 8 << 10
"""Characters of the text."""

MOST = 50
"""Requirements."""

_COMMENT = re.compile(r"(^|\s)#.*$")

REMEDY = "Write one package a line, as 'numpy' or 'numpy>=1.26'."


def read_requirements(given: Any, profile: ProfileSettings, title: str) -> tuple[str, ...]:
    """Return what a text, as of a ``requirements.txt``, or a list of such lines comes to: each package once, in the
    order of the alphabet, so that the same wish is the same whoever wrote it.

    Names, extras, versions and markers are taken; options, addresses, files and what pip would replace are not: nothing
    in them names another index or a file of any computer. Raises InvalidRequest, and Forbidden where the profile lets
    nobody add that package, or any.
    """
    found: dict[str, str] = {}
    for line in _lines(given):
        requirement = _requirement(line)
        name = canonicalize_name(requirement.name)
        if not profile.requirements:
            raise Forbidden(f"Packages are not for you to add in {title!r}.")
        if not any(fnmatchcase(name, _canonical(pattern)) for pattern in profile.requirements):
            may = ", ".join(profile.requirements)
            raise Forbidden(f"The package {name!r} is not for you to add in {title!r}; you may add {may}.")
        if name in found:
            raise InvalidRequest(f"The package {name!r} is named twice: {found[name]!r} and {line!r}.")
        found[name] = str(requirement)
    if len(found) > MOST:
        raise InvalidRequest(
            f"{len(found)} packages are more than the {MOST} that can be added to a session."
        )
    return tuple(found[name] for name in sorted(found))


def _lines(given: Any) -> Iterator[str]:
    lines = given.splitlines() if isinstance(given, str) else given
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise InvalidRequest("The packages to add are a text, or a list of texts.", remedy=REMEDY)
    if sum(map(len, lines)) > LARGEST:
        raise InvalidRequest(f"The packages to add are more than {LARGEST} characters.")
    for line in lines:
        if text := _COMMENT.sub("", line).strip():
            yield text


def _requirement(line: str) -> Requirement:
    if line.startswith("-"):
        raise InvalidRequest(f"{line[:80]!r} is an option of pip, which cannot be given here.", remedy=REMEDY)
    if not line.isascii() or not line.isprintable() or any(sign in line for sign in "$\\"):
        raise InvalidRequest(f"{line[:80]!r} holds signs that no requirement has.", remedy=REMEDY)
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        raise InvalidRequest(f"{line[:80]!r} is no requirement.", remedy=REMEDY) from None
    if requirement.url:
        raise InvalidRequest(f"{line[:80]!r}: packages come from the index alone.", remedy=REMEDY)
    return requirement


def _canonical(pattern: str) -> str:
    """Return a pattern in the form that names have; the signs of a pattern stay."""
    return re.sub(r"[-_.]+", "-", pattern).lower()
