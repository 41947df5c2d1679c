"""The spawn page, made from the live configuration at every visit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gridcloud.errors import GridcloudError
from gridcloud.instances.model import Kind, Offer, Request, format_size
from gridcloud.service.documents import Provider
from gridcloud.settings import Settings
from gridcloud.spawner.desk import Desk
from gridcloud.spawner.options import CHOSEN, REQUIREMENTS
from gridcloud.spawner.profiles import chosen_profile, format_time, shown_profiles

__all__ = ["free_now", "render_form"]

PATIENCE = 2.0
"""Seconds that a page waits for providers; what comes later is fetched by the page."""

SMALLEST = Request(cpus=0.001, memory=1 << 20, disk=0)
TOO_MUCH = Request(cpus=1_000_000)

KINDS = {
    Kind.BARE_METAL: "a share of a machine",
    Kind.CONTAINER: "a container",
    Kind.VIRTUAL_MACHINE: "a virtual machine",
}

_pages = Environment(
    loader=PackageLoader("gridcloud.spawner", "templates"), autoescape=True, undefined=StrictUndefined
)


async def render_form(spawner: Any) -> str:
    """Return the HTML of the form for a spawner: what may be chosen, what is free now, the values of last time."""
    desk: Desk = spawner.desk
    settings = desk.settings()
    choices = spawner.choices()
    if settings.profiles and not choices:
        return _pages.get_template("gridcloud_nothing.html").render()
    providers, offers = await asyncio.gather(_providers(desk), _soon(free_now(desk)))
    told = {offer["provider"] for offer in offers or ()}
    values = _values(spawner, settings)
    asked = _asked_values(spawner)
    return _pages.get_template("gridcloud_form.html").render(
        profiles=await shown_profiles(spawner, choices, asked),
        chosen=chosen_profile(
            choices,
            [*_asked(spawner, CHOSEN), *_asked(spawner, "profile"), _kept(spawner).get("profile", "")],
        ),
        providers=[provider for provider in providers if not provider.problem],
        broken=[one for one in providers if one.problem and one.name not in told],
        kinds={str(kind): words for kind, words in KINDS.items()},
        images={provider.name: provider.images for provider in providers if provider.images},
        models=sorted({offer["gpu_model"] for offer in offers or () if offer["gpu_model"]}),
        offers=offers,
        values=values,
        defaults=_defaults(settings),
        longest=format_time(settings.limits.time),
        offers_url=f"{spawner.hub.base_url}gridcloud/offers",
    )


async def free_now(desk: Desk) -> list[dict[str, Any]]:
    """Return a row for every provider: the largest machine it has, and whether any is free now. Best first.

    Of a provider of other institutions, each has a row.
    A provider of shares offers what it is asked for: only of what is too much for it does it say what it has.
    """
    client = await desk.client(patience=PATIENCE)
    smallest, largest = await asyncio.gather(client.offers(SMALLEST), client.offers(TOO_MUCH))
    whole = {offer.provider: offer for offer in largest.offers if not offer.possible}
    return [_row(offer, whole.get(offer.provider)) for offer in _one_each(smallest.offers)]


def _row(offer: Offer, whole: Offer | None) -> dict[str, Any]:
    """A row of the table; of who does not say what would be too much for it, no size is told."""
    largest = whole or offer
    shape = largest.shape
    # It offers as little as it was asked for: that is not its largest.
    untold = whole is None and offer.possible and shape.cpus <= SMALLEST.cpus
    gpus = f"{shape.gpus} × {shape.gpu_model}".rstrip(" ×") if shape.gpus else ""
    return {
        "provider": offer.provider,
        "kind": str(offer.kind),
        "location": offer.location,
        "source": offer.source,
        "terms": offer.terms,
        "cpus": "?" if untold else f"{shape.cpus:g}",
        "memory": "?" if untold else format_size(shape.memory),
        "gpus": gpus,
        "gpu_model": shape.gpu_model,
        "price": f"{largest.price.normalize():f}" if largest.price and not untold else "",
        "free": offer.available,
        "why_not": offer.why_not,
    }


def _one_each(offers: Iterable[Offer]) -> list[Offer]:
    best: dict[str, Offer] = {}
    for offer in offers:
        best.setdefault(offer.source, offer)
    return list(best.values())


async def _providers(desk: Desk) -> Sequence[Provider]:
    """Return the providers, with their images where those are told soon."""
    try:
        client = await desk.client(patience=PATIENCE)
        try:
            async with asyncio.timeout(PATIENCE):
                return await client.providers(images=True)
        except TimeoutError:
            return await client.providers()
    except GridcloudError:
        return ()


async def _soon(offers: Any) -> list[dict[str, Any]] | None:
    try:
        async with asyncio.timeout(PATIENCE):
            rows: list[dict[str, Any]] = await offers
            return rows
    except (GridcloudError, TimeoutError):
        return None


def _values(spawner: Any, settings: Settings) -> dict[str, str]:
    """Return what the fields show: what was asked for, or defaults."""
    values = _defaults(settings) | _asked_values(spawner)
    return {name: values.get(name, "") for name in Request.model_fields}


def _asked_values(spawner: Any) -> dict[str, str]:
    """Return what was asked for: just typed, by a link, or last time."""
    kept = {
        name: str(value) for name, value in _kept(spawner).items() if isinstance(value, str | int | float)
    }
    names = (*Request.model_fields, REQUIREMENTS)
    now = {name: given[0] for name in names if (given := _asked(spawner, name))}
    return kept | now


def _kept(spawner: Any) -> Mapping[str, Any]:
    """Return the options of last time."""
    return spawner.orm_spawner.user_options or {}


def _asked(spawner: Any, name: str) -> list[str]:
    """Return what was just typed into a field, then what a link says of it."""
    found = [(spawner.typed or {}).get(name), _linked(spawner).get(f"opt-{name}"), _linked(spawner).get(name)]
    return [given[-1].strip() for given in found if given and isinstance(given[-1], str)]


def _linked(spawner: Any) -> dict[str, list[str]]:
    """Return the values in the page's own address."""
    if spawner.handler is None:
        return {}
    query = spawner.handler.request.query_arguments
    return {name: [one.decode("utf-8", "replace") for one in given] for name, given in query.items()}


def _defaults(settings: Settings) -> dict[str, str]:
    return {
        "cpus": f"{settings.defaults.cpus:g}",
        "memory": format_size(settings.defaults.memory),
        "time": format_time(settings.defaults.time or settings.limits.time),
    }
