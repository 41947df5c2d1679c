"""Texts with placeholders that are filled with what nobody vouches for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gridcloud.errors import InvalidRequest

__all__ = ["fill_safely", "placeholders"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}", re.ASCII)


def placeholders(template: str) -> list[str]:
    """Return the names between braces, in their order."""
    return _PLACEHOLDER.findall(template)


def fill_safely(template: str, known: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Return the text with each placeholder replaced by what it stands for, escaped.

    What stands beside a slash is part of a path, and may be nothing that leads out of it. What is filled in is not
    looked through again. Raises InvalidRequest for what is not known, and for such a value.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in known:
            raise InvalidRequest(
                f"Nothing is known of you that {{{name}}} could stand for.", remedy=_remedy(name)
            )
        given = known[name]
        before, after = template[found.start() - 1 : found.start()], template[found.end() : found.end() + 1]
        if "/" in (before, after) and ("/" in given or "\0" in given or given in ("", ".", "..")):
            raise InvalidRequest(f"{given!r:.60} is no name for a folder ({template}).")
        return escape(given)

    return _PLACEHOLDER.sub(value, template)


def _remedy(name: str) -> str:
    return "Your login did not bring it." if name.startswith("auth_state.") else "Mend the configuration."
