"""``gridcloud offers``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.cli.steps import waiting
from gridcloud.errors import NoOffer
from gridcloud.instances.matching import describe
from gridcloud.instances.model import Offer, Request
from gridcloud.service.documents import Offers

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command("offers")
@framed
async def offers(
    frame: Frame,
    request: Request,
    why: Annotated[
        bool, typer.Option("--why", help="Which image, shape, location and network each has, and why these.")
    ] = False,
) -> None:
    """Show what every provider can give for a request, the best first. Nothing is started."""
    async with await frame.connect() as client:
        with waiting(frame, "Asking every provider"):
            found = await client.offers(request)
    if frame.json:
        frame.show(found)
    elif found.offers:
        _print(found, why)
    if found.problem:
        raise NoOffer(found.problem, remedy="" if found.offers else "Add one: gridcloud provider add")
    if not frame.json and not request.model_fields_set:
        error_console().print(
            "Ask for more with --cpus, --memory, --gpus …: gridcloud offers --help", style="dim"
        )


def _print(found: Offers, why: bool) -> None:
    rows: list[tuple[str, ...]] = [
        (
            offer.source,
            offer.kind.replace("_", " ") if offer.shape.cpus else "",
            offer.shape.name,
            describe(offer.shape) if offer.shape.cpus else "",
            offer.location,
            _price(offer, found.currency) if offer.shape.cpus else "",
            _when(offer),
        )
        for offer in found.offers
    ]
    unavailable = [number for number, offer in enumerate(found.offers) if not offer.available]
    headings: tuple[str, ...] = ("PROVIDER", "KIND", "SHAPE", "SIZE", "LOCATION", "PER HOUR", "NOW")
    if not any(offer.shape.name for offer in found.offers):
        headings = tuple(one for one in headings if one != "SHAPE")
        rows = [(*row[:2], *row[3:]) for row in rows]
    print_table(headings, rows, dim=unavailable)
    for alike in _alike(found.offers) if why else ():
        for line in _explain(alike):
            print(plain(line))


def _alike(offers: Sequence[Offer]) -> list[list[Offer]]:
    """Return the offers that tell of choices, those together that are of one shape and differ in nothing but their
    place."""
    groups: dict[tuple[object, ...], list[Offer]] = {}
    for offer in offers:
        if offer.steps:
            same = tuple(step for step in offer.steps if step.step in ("image", "shape"))
            reasons = tuple((step.step, step.why) for step in offer.steps)
            key = (offer.provider, offer.shape, offer.spot, same, reasons)
            groups.setdefault(key, []).append(offer)
    return list(groups.values())


def _explain(alike: Sequence[Offer]) -> Iterator[str]:
    """Yield a heading and each choice with its reason; what differs from place to place is listed."""
    first = alike[0]
    yield ""
    name = f" {first.shape.name}" if first.shape.name else ""
    yield f"{first.provider}{name}, {describe(first.shape)}{', spot' if first.spot else ''}"
    for number, step in enumerate(first.steps):
        chosen = dict.fromkeys(offer.steps[number].chosen for offer in alike)
        yield f"  {step.step:10}{', '.join(chosen)}: {step.why}"


def _price(offer: Offer, currency: str) -> str:
    if not offer.priced:
        return "?"
    price = f"{offer.price.normalize():f} {currency}" if offer.price else "0"
    return f"{price}, spot" if offer.spot else price


def _when(offer: Offer) -> str:
    if not offer.available:
        return offer.why_not or "not now"
    when = f"in about {offer.wait} s" if offer.wait else "free"
    return f"{when}, {offer.terms}" if offer.terms else when
