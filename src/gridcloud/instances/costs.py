"""What machines cost: pure functions over charges, exact, for any span of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from gridcloud.instances.model import Charge

__all__ = ["close_charges", "cost", "describe_cost", "gpu_hours", "is_priced", "lasting"]

HOUR = 3_600_000_000
"""Microseconds."""

CENT = Decimal("0.01")


def cost(
    charges: Iterable[Charge], now: datetime, since: datetime | None = None, until: datetime | None = None
) -> Decimal:
    """Return what the charges come to, in the configured currency: up to ``now``, and from ``since`` to just before
    ``until`` only. What has no known price counts nothing: see `is_priced`."""
    return sum(
        (charge.price * lasting(charge, now, since, until) for charge in charges), Decimal(0)
    ) / Decimal(HOUR)


def gpu_hours(
    charges: Iterable[Charge], now: datetime, since: datetime | None = None, until: datetime | None = None
) -> Decimal:
    """Return the hours of GPUs in the charges, two GPUs for an hour being two, within the span as in `cost`."""
    return Decimal(sum(charge.gpus * lasting(charge, now, since, until) for charge in charges)) / HOUR


def is_priced(charges: Iterable[Charge]) -> bool:
    """Return whether every price is known."""
    return all(charge.priced for charge in charges)


def describe_cost(charges: Sequence[Charge], now: datetime, currency: str = "") -> str:
    """Return what the charges come to, for people: ``0.42 EUR``, ``under 0.01 EUR``; ``?`` where a price is not
    known, after what is; nothing where there is nothing to pay."""
    total = cost(charges, now)
    known = is_priced(charges)
    if not total:
        return "" if known else "?"
    amount = f"{total:.2f}" if total >= CENT else "under 0.01"
    return f"{amount} {currency}".strip() + ("" if known else " + ?")


def close_charges(charges: Sequence[Charge], now: datetime) -> tuple[Charge, ...]:
    """Return the charges with those that were open ended now: their machines are certainly gone."""
    return tuple(
        charge.model_copy(update={"until": max(now, charge.since)}) if charge.until is None else charge
        for charge in charges
    )


def lasting(charge: Charge, now: datetime, since: datetime | None, until: datetime | None) -> int:
    """Return the microseconds that a charge lasts up to ``now``, within the span as in `cost`."""
    begin = charge.since if since is None else max(charge.since, since)
    ends = [now, *(end for end in (charge.until, until) if end is not None)]
    return max(0, (min(ends) - begin) // timedelta(microseconds=1))
