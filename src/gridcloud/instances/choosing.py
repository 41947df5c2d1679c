"""Choose image, shape, location and network from what a provider has: pure, and with the reason for each choice.

Every driver of a cloud discovers these four in its provider's words and chooses with the same rules.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gridcloud.errors import InvalidRequest
from gridcloud.instances.matching import describe, shortfall, surplus_of
from gridcloud.instances.model import Request, Shape, Step

__all__ = [
    "Image",
    "Network",
    "PricedShape",
    "choose_image",
    "choose_locations",
    "choose_network",
    "choose_shapes",
    "largest",
    "shape_step",
]

OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Image:
    """An image as its provider names it."""

    id: str
    name: str = ""
    created: datetime | None = None
    choice: dict[str, Any] = field(default_factory=dict)
    """The driver's own words."""


@dataclass(frozen=True, slots=True)
class PricedShape:
    """A shape with what it costs per hour, in the configured currency; None: not known."""

    shape: Shape
    price: Decimal | None = None
    spot_price: Decimal | None = None
    """Per hour while the provider may take it back; None: it cannot be had so."""
    choice: dict[str, Any] = field(default_factory=dict)
    """The driver's own words."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network, or a part of one in one location."""

    id: str
    name: str = ""
    location: str = ""
    default: bool = False
    shared: bool = False


def choose_image(wanted: str, images: Iterable[Image], asked: bool = False) -> tuple[Image, Step]:
    """Return the image that ``wanted`` names: by id, by name, or by a pattern with ``*``, the newest of several.

    ``asked``: a user asked for it, not the configuration. Raises InvalidRequest that names the nearest there is.
    """
    there = list(images)
    by_id = [image for image in there if image.id == wanted]
    named = by_id or [image for image in there if image.name == wanted]
    fitting = named or [image for image in there if fnmatch.fnmatchcase(image.name, wanted)]
    if not fitting:
        names = sorted({image.name or image.id for image in there})
        near = difflib.get_close_matches(wanted, names, 3, 0.3) or names[:3]
        remedy = f"Near it are: {', '.join(near)}." if near else "There is no image at all."
        raise InvalidRequest(f"There is no image {wanted!r:.200}.", remedy=remedy)
    newest = max(fitting, key=lambda image: (image.created or OLDEST, image.id))
    whose = "asked for" if asked else "the provider's default"
    why = f"{whose}, by id" if by_id else whose if named else f"{whose}, {wanted}"
    if len(fitting) > 1:
        why += f": the newest of {len(fitting)}"
    name = f"{newest.name} ({newest.id})" if newest.name and newest.name != newest.id else newest.id
    return newest, Step(step="image", chosen=name, why=why)


def choose_shapes(
    request: Request, shapes: Iterable[PricedShape], allowed: Sequence[str] = ("*",), most: int = 3
) -> list[PricedShape]:
    """Return the shapes that serve a request: the cheapest first, then those with the least left over.

    ``allowed`` are patterns of names. Without GPUs asked, shapes with GPUs come last. A shape whose price is not
    known comes after all whose price is.
    """
    fitting = [
        one
        for one in shapes
        if any(fnmatch.fnmatchcase(one.shape.name, pattern) for pattern in allowed)
        and not shortfall(request, one.shape)
    ]
    return sorted(fitting, key=lambda one: _worth(request, one))[:most]


def largest(shapes: Iterable[PricedShape], allowed: Sequence[str] = ("*",), gpus: bool = False) -> Shape:
    """Return the largest of the shapes allowed, by GPUs where these matter, then CPUs and memory; a shape of
    nothing where there is none."""
    names = [
        one.shape
        for one in shapes
        if any(fnmatch.fnmatchcase(one.shape.name, pattern) for pattern in allowed)
    ]
    empty = Shape(cpus=0, memory=0)
    return max(names, key=lambda shape: (shape.gpus if gpus else 0, shape.cpus, shape.memory), default=empty)


def shape_step(chosen: PricedShape, fitting: Sequence[PricedShape], spot: bool = False) -> Step:
    """Return why this one of the fitting shapes was chosen."""
    place = next(index for index, one in enumerate(fitting) if one.shape.name == chosen.shape.name)
    price = chosen.spot_price if spot else chosen.price
    cost = "" if price is not None else ", price not known"  # else the offer tells it, with its currency
    if len(fitting) == 1:
        rank = "the only one that fits"
    elif place == 0:
        rank = f"the best of {len(fitting)} that fit, by price and then by what is left over"
    else:
        rank = f"number {place + 1} of {len(fitting)} that fit"
    kind = ", spot" if spot else ""
    return Step(step="shape", chosen=chosen.shape.name, why=f"{describe(chosen.shape)}{kind}{cost}: {rank}")


def choose_locations(request: Request, locations: Sequence[str], preferred: Sequence[str] = ()) -> list[str]:
    """Return the locations to try, in order: those that the request names, else the preferred, else all.

    Raises InvalidRequest when a location that was named is not there.
    """
    if request.location:
        wanted = request.location.lower()
        found = [one for one in locations if wanted in one.lower()]
        if not found:
            raise InvalidRequest(
                f"There is no location {request.location!r:.100} here.",
                remedy=f"There are: {', '.join(locations) or 'none'}.",
            )
        return found
    return [one for one in preferred if one in locations] or list(locations)


def choose_network(networks: Sequence[Network], wanted: str = "", location: str = "") -> tuple[Network, Step]:
    """Return the network for a location: the one that is named (id or name), else the default, else the only one,
    else the only shared one.

    Raises InvalidRequest when there is none, or no telling which of several.
    """
    here = [one for one in networks if not location or one.location in ("", location)]
    if wanted:
        named = [one for one in here if wanted in (one.id, one.name)]
        chosen, why = (named[0], "named in the configuration") if named else (None, "")
    else:
        chosen, why = _unnamed(here)
    if chosen is None:
        names = ", ".join(sorted({one.name or one.id for one in networks})) or "none"
        place = f" in {location}" if location else ""
        what = f"no network {wanted!r}{place}" if wanted else f"no telling which network to take{place}"
        raise InvalidRequest(f"There is {what}.", remedy=f"Set 'network' to one of those there are: {names}.")
    name = f"{chosen.name} ({chosen.id})" if chosen.name and chosen.name != chosen.id else chosen.id
    return chosen, Step(step="network", chosen=name, why=why)


def _unnamed(here: Sequence[Network]) -> tuple[Network | None, str]:
    reasons = (
        ([one for one in here if one.default], "the provider's default"),
        (list(here), "the only one there"),
        ([one for one in here if not one.shared], "the only one of our own"),
        ([one for one in here if one.shared], "the only shared one"),
    )
    for index, (found, why) in enumerate(reasons):
        if found and (index == 0 or len(found) == 1):
            return found[0], why
    return None, ""


def _worth(request: Request, one: PricedShape) -> tuple[bool, bool, Decimal, float, str]:
    prices = [one.price, one.spot_price if request.spot else None]
    known = [price for price in prices if price is not None]
    shape = one.shape
    _, spare = surplus_of(request, shape)
    idle_gpus = bool(shape.gpus) and not request.gpus
    return idle_gpus, not known, min(known, default=Decimal(0)), spare, shape.name
