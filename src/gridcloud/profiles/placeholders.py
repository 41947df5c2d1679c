"""Placeholders such as ``{JUPYTERHUB_USER}`` in the texts of a profile, filled in when a session starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["PLACEHOLDERS", "fill", "strange_placeholders"]

PLACEHOLDERS: Mapping[str, str] = {
    "JUPYTERHUB_USER": "the user's name",
    "JUPYTERHUB_SERVER_NAME": "the name of the user's server; nothing for the first one",
    "JUPYTERHUB_BASE_URL": "the path that all pages of the hub lie under",
    "JUPYTERHUB_HOST": "the hub's public address; nothing where it is not set",
    "auth_key": "a line for authorized_keys that lets the user's certificates in",
    "server_public_ip": "where the hub is reached from the session's machine: 127.0.0.1, through the tunnel",
    "server_host_key": "a line for known_hosts of the hub's computer; nothing where it has no SSH server",
}
"""What each of them stands for."""

_PLACEHOLDER = re.compile(r"(?<![{$])\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\})")
_ANY = re.compile(r"(?<![{$])\{([^{}]*)\}(?!\})")


def fill(value: Any, known: Mapping[str, str]) -> Any:
    """Return the value with placeholders in its texts, however deep, replaced by what is known.

    Names and nothing else: no attribute, index or format. What is not known stays as it is, so do Ansible's ``{{ }}``
    and the shell's ``${ }``. What is filled in is not looked through again.
    """
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: fill(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(inner, known) for inner in value)
    return value


def strange_placeholders(
    value: Any, known: Mapping[str, str] = PLACEHOLDERS, key: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield, with its key, what stands between braces in the texts of a value and is none of those known."""
    if isinstance(value, str):
        for found in _ANY.finditer(value):
            if found[1] not in known:
                yield key, found[1]
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from strange_placeholders(inner, known, (*key, str(name)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from strange_placeholders(inner, known, (*key, number))
