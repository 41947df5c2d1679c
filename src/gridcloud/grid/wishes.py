"""Requests and offers of this house in the words of leases, and back."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from gridcloud.errors import InvalidRequest
from gridcloud.federation import leases
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.instances.model import Kind, Offer, Request, Shape

__all__ = [
    "ASKED_FOR",
    "MEBIBYTE",
    "capacity_of",
    "describe_lent",
    "guest_of",
    "price_of",
    "read_shape",
    "request_of",
    "shape_capacity",
    "title",
    "write_shape",
]

MEBIBYTE = 1 << 20

MOST = 1_000_000_000
"""Of anything, in a document."""

ASKED_FOR = 366 * 86400
"""Seconds that are wished where a request names no time: as long as the lender gives."""


def title(text: str) -> str:
    """Return any text as the one line that documents between institutions hold."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:200]


def guest_of(user: str, institution: str) -> str:
    """Return the name under which a user of another institution is known here."""
    return f"{user or 'somebody'}@{institution}"


def capacity_of(request: Request) -> Capacity:
    """Return what a request asks for; where that is more than can be written, the most that can."""
    return Capacity(
        millicores=min(MOST, math.ceil(request.cpus * 1000)),
        memory=min(MOST, -(-request.memory // MEBIBYTE)),
        gpus=min(MOST, request.gpus),
    )


def shape_capacity(shape: Shape) -> Capacity:
    """Return what a machine has."""
    return Capacity(
        # 1.001 cores are 1000.99… thousandths to a computer.
        millicores=min(MOST, max(0, math.floor(round(shape.cpus * 1000, 6)))),
        memory=min(MOST, max(0, shape.memory // MEBIBYTE)),
        gpus=min(MOST, max(0, shape.gpus)),
    )


def request_of(wish: Wish, provider: str, seconds: int = 0) -> Request:
    """Return what is asked of one of our own providers for a wish, for so long. Raises InvalidRequest."""
    capacity = wish.capacity
    try:
        return Request(
            cpus=max(capacity.millicores, 1) / 1000,
            memory=capacity.memory * MEBIBYTE,
            gpus=capacity.gpus,
            gpu_model=wish.gpu_model if capacity.gpus else "",
            image=wish.image,
            time=seconds,
            on=provider,
        )
    except ValueError as error:
        raise InvalidRequest("The wish makes no sense.") from error


def write_shape(offer: Offer) -> str:
    """Return the kind of machine that is offered, and its shape's name where it has one: ``container small``."""
    return title(f"{offer.kind} {offer.shape.name}")


def read_shape(text: str) -> tuple[Kind, str]:
    """Return what `write_shape` wrote; what another program wrote is the name of a machine of its own kernel."""
    word, _, name = text.partition(" ")
    return (Kind(word), name) if word in set(Kind) else (Kind.VIRTUAL_MACHINE, text)


def describe_lent(offer: Offer, currency: str) -> str:
    """Return the price of an offer per hour with its currency; empty: no money."""
    return f"{offer.price.normalize():f} {currency}" if offer.price else ""


def price_of(offer: leases.Offer, currency: str) -> tuple[Decimal, bool]:
    """Return the price per hour in our currency, and whether it is known in that."""
    amount, _, theirs = offer.price.partition(" ")
    if not amount:
        return Decimal(0), True
    # Words of others: 1E+999999999 is a number, too, and no sum that anything could be reckoned with.
    if theirs != currency or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,40})?", amount):
        return Decimal(0), False
    return Decimal(amount), True
