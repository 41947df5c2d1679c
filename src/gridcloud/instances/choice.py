"""Choose the offer that an instance is made from, and note those that were refused."""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import (
    DriverUnavailable,
    GridcloudError,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Rejected,
)
from gridcloud.instances.driver import Handing
from gridcloud.instances.handing import is_waiting
from gridcloud.instances.lifecycle import Event
from gridcloud.instances.matching import BUDGET, describe, describe_price, unnamed, unserved
from gridcloud.instances.model import Charge, Instance, Offer, Reason, Request, Step, format_size
from gridcloud.instances.providers import Providers
from gridcloud.store.lives import Lives
from gridcloud.store.model import Entry

__all__ = ["Choice", "Judge", "describe_request", "offer_of"]

Judge = Callable[[Instance, Offer], Awaitable[str]]
"""Returns why an instance may not be made from an offer, in words and figures; an empty text where it may."""


QUOTA_REFUSALS = 2
"""Refusals of one provider by its quota after which no more of its offers are tried: a full account says so quickly."""


class Choice:
    """Takes the best offer that is left. One instance at a time is judged, so that two cannot both pass."""

    def __init__(
        self, records: Lives[Instance], providers: Providers, clock: Clock, judge: Judge | None = None
    ) -> None:
        self.judge = judge
        self.judging = asyncio.Lock()
        """Held from a judge's question until what it allowed is stored: for a start, or for more time."""
        self._records = records
        self._providers = providers
        self._clock = clock

    async def choose(self, instance: Instance) -> None:
        """Store the chosen offer, with what it costs from now on, or that there is none."""
        offers = [_skip_dry(offer, instance.refused) for offer in await self._ask(instance)]
        left = [offer for offer in offers if offer.available and not _is_in(offer, instance.refused)]
        left = [offer for offer in left if instance.only is None or _is_like(offer, instance.only)]
        left.sort(key=lambda offer: _is_in(offer, instance.avoid))
        if self.judge is None:
            await self._take(instance, offers, left)
            return
        async with self.judging:
            await self._take(instance, offers, left)

    async def refuse(self, instance: Instance, error: GridcloudError, *, made: bool = True) -> None:
        """Note why the chosen offer came to nothing; what it may have left is removed, and the next one tried.

        ``made``: whether the provider may have made something all the same, which costs until it is gone.
        """
        offer = offer_of(instance)
        refused = offer.model_copy(
            update={
                "available": False,
                "why_not": unnamed(offer.provider, error),
                "refusal": type(error).__name__,
                "possible": not isinstance(error, Rejected),
            }
        )
        await self._records.happen(
            instance,
            Event.REFUSED,
            f"{offer.provider} refused: {unnamed(offer.provider, error)}",
            {"error": error.problem(), "provider": offer.provider},
            refused=(*instance.refused, refused),
            charges=instance.charges if made else instance.charges[:-1],
        )

    async def _ask(self, instance: Instance) -> list[Offer]:
        try:
            offers = await self._providers.offers(instance.request, instance.owner)
        except NotFound:  # the one that was asked for has left the configuration since
            return []
        return [self._for_a_seat(offer) for offer in offers] if is_waiting(instance) else offers

    def _for_a_seat(self, offer: Offer) -> Offer:
        """Return an offer as not available where what is made ahead can be handed to nobody."""
        try:
            driver = self._providers.get(offer.provider)
        except GridcloudError:
            return offer
        why = driver.handing() if isinstance(driver, Handing) else "its machines are made for one owner each"
        changes = {"available": False, "possible": False, "why_not": why}
        return offer.model_copy(update=changes) if why else offer

    async def _take(self, instance: Instance, offers: Sequence[Offer], left: list[Offer]) -> None:
        refused: list[Offer] = []
        while left:
            offer = left.pop(0)
            if self.judge is not None and (why := await self.judge(instance, offer)):
                refused.append(await self._pass_over(instance, offer, why, BUDGET))
                continue
            async with contextlib.AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._providers.remembering(offer.provider))
                except (NotFound, InvalidSettings, DriverUnavailable) as error:
                    # The entry was changed since its offers were made.
                    why = unnamed(offer.provider, error)
                    refused.append(await self._pass_over(instance, offer, why, type(error).__name__))
                    continue
                await self._store(instance, offers, offer, len(left), refused)
            return
        await self._give_up(instance, offers, refused)

    async def _pass_over(self, instance: Instance, offer: Offer, why: str, refusal: str) -> Offer:
        message = f"{describe(offer.shape)} on {offer.provider} may not be taken: {why}"
        await self._records.tell(instance, "refused", message, {"provider": offer.provider})
        return offer.model_copy(update={"available": False, "why_not": why, "refusal": refusal})

    async def _store(
        self,
        instance: Instance,
        offers: Sequence[Offer],
        offer: Offer,
        others: int,
        refused: Sequence[Offer],
    ) -> None:
        taken = await self._records.happen(
            instance,
            Event.OFFERED,
            f"Chose {describe(offer.shape)} on {offer.source}"
            + (f" at {describe_price(offer.price, self._providers.currency)}" if offer.price else "")
            + (f" ({others} more to fall back on)." if others else "."),
            {"offers": _brief(offers), "chosen": offer.model_dump(mode="json")},
            offer=offer,
            handle=None,
            address=None,
            refused=(*instance.refused, *refused),
            charges=(*instance.charges, _charge(offer, self._clock.now())),
        )
        if taken is None:
            return
        # Once is enough: what has no room now has none either when the next offer is tried, seconds later.
        entries = [] if instance.refused else [_missing(name, why) for name, why in _dry(offers).items()]
        entries += [_entry(one) for one in offer.steps]
        if entries:
            await self._records.store.append(self._records.kind, instance.id, instance.owner, entries)

    async def _give_up(self, instance: Instance, offers: Sequence[Offer], judged: Sequence[Offer]) -> None:
        refused = (*instance.refused, *judged)
        refused = (*refused, *(offer for offer in offers if not _is_in(offer, refused)))
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
    plural = "" if request.gpus == 1 else "s"
    words += [f"{request.gpus} {request.gpu_model} GPU{plural}".replace("  ", " ")] if request.gpus else []
    words += [f"kind {request.kind}"] if request.kind else []
    words += [f"image {request.image}"] if request.image else []
    words += [f"on {request.on}"] if request.on else []
    return ", ".join(words)


def _key(offer: Offer) -> tuple[str, str, str, str, bool, str]:
    choice = repr(sorted(offer.choice.items()))
    return offer.provider, offer.kind, offer.shape.name, offer.location, offer.spot, choice


def _is_in(offer: Offer, others: Sequence[Offer]) -> bool:
    return any(_key(offer) == _key(other) for other in others)


def _is_like(offer: Offer, other: Offer) -> bool:
    """Return whether an offer is of the same machine at the same price, wherever that is."""
    of = operator.attrgetter("provider", "kind", "shape", "price", "spot")
    return bool(of(offer) == of(other))


def _skip_dry(offer: Offer, refused: Sequence[Offer]) -> Offer:
    """Return an offer as not available where its provider's quota has refused enough of its like."""
    alike = [
        other
        for other in refused
        if (other.provider, other.spot) == (offer.provider, offer.spot)
        and other.refusal == QuotaExceeded.__name__
    ]
    if len(alike) < QUOTA_REFUSALS or not offer.available or _is_in(offer, refused):
        return offer
    why = f"not tried, for {len(alike)} others were refused there: {alike[-1].why_not}"
    return offer.model_copy(update={"available": False, "why_not": why})


def _charge(offer: Offer, now: datetime) -> Charge:
    return Charge(
        provider=offer.provider,
        shape=offer.shape.name or describe(offer.shape),
        price=offer.price,
        priced=offer.priced,
        gpus=offer.shape.gpus,
        since=now,
    )


def _dry(offers: Sequence[Offer]) -> dict[str, str]:
    """Return the providers that could serve the request but have nothing free, and why."""
    free = {offer.provider for offer in offers if offer.available}
    dry = [offer for offer in offers if offer.possible and offer.provider not in free]
    return {offer.provider: offer.why_not for offer in reversed(dry)}


def _missing(provider: str, why: str) -> Entry:
    return Entry(
        "unavailable", f"{provider} has nothing free: {why or 'it does not say why'}", {"provider": provider}
    )


def _entry(one: Step) -> Entry:
    return Entry("step", f"{one.step}: {one.chosen} ({one.why})", one.model_dump(mode="json"))


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
