"""``gridcloud offers``."""

from __future__ import annotations

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
    rows = [
        (
            offer.provider,
            offer.kind.replace("_", " ") if offer.shape.cpus else "",
            describe(offer.shape) if offer.shape.cpus else "",
            offer.location,
            _price(offer, found.currency) if offer.shape.cpus else "",
            _when(offer),
        )
        for offer in found.offers
    ]
    unavailable = [number for number, offer in enumerate(found.offers) if not offer.available]
    print_table(("PROVIDER", "KIND", "SHAPE", "LOCATION", "PER HOUR", "NOW"), rows, dim=unavailable)
    for offer in found.offers if why else ():
        if offer.steps:
            print(plain(f"\n{offer.provider}, {describe(offer.shape)}{', spot' if offer.spot else ''}"))
        for step in offer.steps:
            print(plain(f"  {step.step:10}{step.chosen}: {step.why}"))


def _price(offer: Offer, currency: str) -> str:
    if not offer.priced:
        return "?"
    price = f"{offer.price.normalize():f} {currency}" if offer.price else "0"
    return f"{price}, spot" if offer.spot else price


def _when(offer: Offer) -> str:
    if not offer.available:
        return offer.why_not or "not now"
    return f"in about {offer.wait} s" if offer.wait else "free"
