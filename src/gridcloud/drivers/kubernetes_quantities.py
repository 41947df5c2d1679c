"""Quantities as Kubernetes writes them: ``1500m`` of a CPU, ``64Mi`` of memory, ``1e3``.

Grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

__all__ = ["format_cpus", "parse_amount", "parse_cpus"]

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]+)|([a-zA-Z]*))")
_UNITS = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def parse_amount(text: Any) -> int:
    """Return a quantity as a whole number (bytes, pieces), rounded up. Raises ValueError."""
    return math.ceil(_parse(text))


def parse_cpus(text: Any) -> float:
    """Return a quantity of CPU cores. Raises ValueError."""
    return float(_parse(text))


def format_cpus(cpus: float) -> str:
    """Return CPU cores as thousandths, the finest that Kubernetes gives, rounded up."""
    return f"{math.ceil(round(cpus * 1000, 6))}m"


def _parse(text: Any) -> Decimal:
    found = _QUANTITY.fullmatch(str(text).strip())
    unit = found[3] or "" if found else None
    if found is None or unit not in _UNITS:
        raise ValueError(f"{str(text)[:100]!r} is no quantity such as 500m or 64Mi")
    return Decimal(found[1] + (found[2] or "")) * _UNITS[unit]
