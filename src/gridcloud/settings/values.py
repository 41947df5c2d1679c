"""Sizes and times as people write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

__all__ = ["Duration", "Size", "format_size", "parse_duration", "parse_size"]


def parse_size(value: Any) -> int:
    """Return bytes for ``4GiB``, ``512 MB``, ``1.5G`` (G = GiB, GB = 10^9) or a number of bytes.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or text such as 4GiB")
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)(B?)\s*", str(value))
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{value!r} is not a size; write for example 512MiB, 4GiB or 2TB")
    exponent = "KMGTP".find(match[2].upper()) + 1 if match[2] else 0
    base = 1000 if match[4] and not match[3] else 1024
    return int(Decimal(match[1]) * base**exponent)


def format_size(size: int) -> str:
    """Return ``4GiB`` for 4294967296: the largest binary unit that keeps three digits."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.3g}{unit}"
        amount /= 1024
    raise AssertionError


def parse_duration(value: Any) -> int:
    """Return seconds for ``2h``, ``90m``, ``1d12h``, ``1:30:00`` (h:m:s) or a number of seconds.

    Raises ValueError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if match := re.fullmatch(r"(\d+):(\d\d):(\d\d)", text):
        return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s?)?", text)
    if not text or not match:
        raise ValueError(f"{value!r} is not a time; write for example 90s, 30m, 2h or 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=2**60)]
Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0, le=366 * 86400)]
