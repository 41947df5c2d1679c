"""Choose the offer that an instance is made from, and note those that were refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError
from gridcloud.instances.lifecycle import Event
from gridcloud.instances.matching import describe, unserved
from gridcloud.instances.model import Instance, Offer, Reason, Request, format_size
from gridcloud.instances.providers import Providers
from gridcloud.store.lives import Lives

__all__ = ["Choice", "Judge", "describe_request", "offer_of"]

Judge = Callable[[Instance, Offer], Awaitable[str]]
"""Returns why an instance may not be made from an offer, in words and figures; an empty text where it may."""


class Choice:
    """Takes the best offer that is left. One instance at a time is judged, so that two cannot both pass."""

    def __init__(
        self, records: Lives[Instance], providers: Providers, clock: Clock, judge: Judge | None = None
    ) -> None:
        self.judge = judge
        self._records = records
        self._providers = providers
        self._clock = clock
        self._judging = asyncio.Lock()

    async def choose(self, instance: Instance) -> None:
        """Store the chosen offer, or that there is none."""
        offers = await self._providers.offers(instance.request)
        left = [offer for offer in offers if offer.available and not _taken(offer, instance.refused)]
        if not left:
            await self._give_up(instance, offers)
            return
        offer = left[0]
        await self._providers.remember(offer.provider)
        others = len(left) - 1
        await self._records.happen(
            instance,
            Event.OFFERED,
            f"Chose {describe(offer.shape)} on {offer.provider}"
            + (f" at {offer.price.normalize():f} per hour" if offer.price else "")
            + (f" ({others} more to fall back on)." if others else "."),
            {"offers": _brief(offers), "chosen": offer.model_dump(mode="json")},
            offer=offer,
            handle=None,
            address=None,
        )

    async def refuse(self, instance: Instance, error: GridcloudError) -> None:
        """Note why the chosen offer came to nothing; what it may have left is removed, and the next one tried."""
        offer = offer_of(instance)
        refused = offer.model_copy(update={"available": False, "why_not": str(error)})
        await self._records.happen(
            instance,
            Event.REFUSED,
            f"{offer.provider} refused: {error}",
            {"error": error.problem(), "provider": offer.provider},
            refused=(*instance.refused, refused),
        )

    async def _give_up(self, instance: Instance, offers: Sequence[Offer]) -> None:
        refused = (*instance.refused, *(offer for offer in offers if not _taken(offer, instance.refused)))
        error = unserved(instance.request, refused)
        await self._records.happen(
            instance,
            Event.NO_OFFER,
            str(error),
            {"offers": _brief(refused)},
            reason=Reason.NO_OFFER,
            detail=error.message,
            refused=refused,
            ended_at=self._clock.now(),
        )


def offer_of(instance: Instance) -> Offer:
    """Return the chosen offer, which an instance in this state must have."""
    if instance.offer is None:
        raise RuntimeError(f"instance {instance.id} is {instance.state} without an offer")
    return instance.offer


def describe_request(request: Request) -> str:
    """Return a request in a few words."""
    words = [f"{request.cpus:g} CPU{'s' if request.cpus != 1 else ''}", format_size(request.memory)]
    words += [f"{request.gpus} {request.gpu_model} GPUs".replace("  ", " ")] if request.gpus else []
    words += [f"kind {request.kind}"] if request.kind else []
    words += [f"image {request.image}"] if request.image else []
    words += [f"on {request.on}"] if request.on else []
    return ", ".join(words)


def _key(offer: Offer) -> tuple[str, str, str, str, bool, str]:
    choice = repr(sorted(offer.choice.items()))
    return offer.provider, offer.kind, offer.shape.name, offer.location, offer.spot, choice


def _taken(offer: Offer, refused: Sequence[Offer]) -> bool:
    return any(_key(offer) == _key(other) for other in refused)


def _brief(offers: Sequence[Offer]) -> list[dict[str, Any]]:
    return [
        {
            "provider": offer.provider,
            "shape": describe(offer.shape),
            "available": offer.available,
            "why_not": offer.why_not,
        }
        for offer in offers[:50]
    ]
