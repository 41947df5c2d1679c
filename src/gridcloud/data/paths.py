"""Paths as users give them, which are never trusted: names below a folder, and nothing else.

A path is a tuple of names. It cannot say ``..``, begin anywhere but at the folder, or hold NUL; where a name leads is
found by the file system's own rules without following links (`gridcloud.data.beneath`).
"""

from __future__ import annotations

import os
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes

from gridcloud.errors import InvalidRequest

__all__ = ["LONGEST_NAME", "LONGEST_PATH", "OURS", "Names", "from_url", "parse", "resolve", "show", "to_url"]

Names: TypeAlias = tuple[str, ...]
"""The names from a folder down to a file; none: the folder itself. What is no UTF-8 is kept as surrogates (PEP 383)."""

LONGEST_PATH = 4095
"""Bytes, as Linux has it (PATH_MAX without its NUL)."""

LONGEST_NAME = 255
"""Bytes (NAME_MAX)."""

OURS = ".gridcloud-"
"""What our own names in a folder begin with: nobody sees them or may use them."""


def parse(text: str | bytes) -> Names:
    """Return the names of a path. A slash before it changes nothing, nor does ``.`` in it, nor a slash too many.

    Raises InvalidRequest for ``..``, for NUL, for what is longer than Linux allows, and for names that are ours.
    """
    raw = _bytes(text)
    if len(raw) > LONGEST_PATH:
        raise InvalidRequest(f"The path has {len(raw)} bytes; {LONGEST_PATH} are allowed.")
    if b"\0" in raw:
        raise InvalidRequest("The path holds a NUL.")
    return tuple(_check(name) for name in raw.split(b"/") if name not in (b"", b"."))


def resolve(text: str | bytes) -> Names:
    """Return the names of a path in which ``..`` means the folder above, and at the top the top itself, as SFTP has it.

    Links are followed by nobody, so that this is what the file system would say.
    """
    raw = _bytes(text)
    if len(raw) > 4 * LONGEST_PATH:  # before it is shortened; no client makes longer ones
        raise InvalidRequest(f"The path has {len(raw)} bytes; {LONGEST_PATH} are allowed.")
    found: list[bytes] = []
    for name in raw.split(b"/"):
        if name == b"..":
            del found[-1:]
        elif name not in (b"", b"."):
            found.append(name)
    return parse(b"/".join(found))


def from_url(path: str) -> Names:
    """Return the names of a URL's path as it was sent, percent-encoded. A slash within a name is refused."""
    names: list[str] = []
    for part in path.split("/"):
        found = parse(unquote_to_bytes(part))
        if len(found) > 1 or (part and not found and unquote_to_bytes(part) != b"."):
            raise InvalidRequest("A name in the URL holds a slash.")
        names += found
    return parse("/".join(names))


def to_url(names: Names) -> str:
    """Return the names percent-encoded, with slashes between them."""
    return "/".join(quote(os.fsencode(name), safe="") for name in names)


def show(names: Names) -> str:
    """Return a path for people and logs: ``/a/b``; what is no UTF-8 as ``\\xff``, and so control characters."""
    text = "/" + "/".join(names)
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _bytes(text: str | bytes) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError as error:  # surrogates that no bytes stand for
        raise InvalidRequest("The path is no text.") from error


def _check(name: bytes) -> str:
    if name == b"..":
        raise InvalidRequest("The path leads upwards with '..'.")
    if len(name) > LONGEST_NAME:
        raise InvalidRequest(f"A name in the path has {len(name)} bytes; {LONGEST_NAME} are allowed.")
    text = os.fsdecode(name)
    if text.startswith(OURS):
        raise InvalidRequest(f"Names that begin with {OURS} are gridcloud's own.")
    return text
