"""From the headers of a request to what they say: pure, and strict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from gridcloud.settings.login import ParserSettings

__all__ = ["LONGEST", "NAME", "address_of", "is_trusted", "listed", "parse_header", "parse_json"]

LONGEST = 16384
"""Characters of a header that are read."""

NAME = re.compile(r"[a-z0-9_][a-z0-9_.@+-]{0,62}")
"""User names that are taken: safe in paths, addresses of pages and accounts."""

PLAIN = ParserSettings()


def parse_header(text: str | None, parser: ParserSettings = PLAIN) -> Any:
    """Return what a header's text says: a text, or any value for JSON; None where it says nothing of use.

    Several different findings of an expression are none: whose would it be?
    """
    if text is None or len(text) > LONGEST:
        return None
    text = _decoded(text).strip()
    if parser.kind == "json":
        return _field(parse_json(text), parser.field)
    if parser.kind == "match":
        found = {match[1] if match.re.groups else match[0] for match in re.finditer(parser.match, text)} - {
            None,
            "",
        }
        if len(found) != 1:
            return None
        return _replaced(found.pop(), parser.replace)
    return text or None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; None where it is none, or has numbers that JSON does not."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def listed(value: Any) -> list[str]:
    """Return the texts in a list, or in a text between commas or semicolons, without doubles."""
    if isinstance(value, str):
        value = re.split(r"[,;]", value)
    if not isinstance(value, list):
        return []
    texts = (one.strip() for one in value if isinstance(one, str))
    return list(dict.fromkeys(one for one in texts if one and len(one) <= 255 and one.isprintable()))


def address_of(forwarded: list[str]) -> IPv4Address | IPv6Address | None:
    """Return who connected to the proxy that sends these values of X-Forwarded-For: the last of all.

    What stands before it, the client has said itself.
    """
    last = forwarded[-1].rpartition(",")[2].strip() if forwarded else ""
    try:
        found = ip_address(last.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def is_trusted(address: IPv4Address | IPv6Address | None, networks: tuple[str, ...]) -> bool:
    """Tell whether an address is in one of the networks."""
    return address is not None and any(address in ip_network(one) for one in networks)


def _decoded(text: str) -> str:
    """Return the text that was meant: headers are read as Latin-1, and most who send more than ASCII mean UTF-8."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _field(value: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _replaced(text: str, replace: Mapping[str, str]) -> str:
    """Return the text with each of these replaced, in one go."""
    if not replace:
        return text
    names = sorted(replace, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda found: replace[found[0]], text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
