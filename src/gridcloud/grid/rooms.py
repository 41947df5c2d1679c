"""What there is to lend, in the few numbers of our record: by what is configured, and what lent providers offer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from gridcloud.errors import GridcloudError
from gridcloud.federation.records import Room
from gridcloud.federation.wishes import NOTHING, Capacity
from gridcloud.grid.terms import lent_providers, room_of
from gridcloud.grid.wishes import shape_capacity, title
from gridcloud.instances.model import FINAL, Instance, Offer, Request, State
from gridcloud.instances.providers import Providers
from gridcloud.settings import Settings
from gridcloud.store.lives import Lives

__all__ = ["Rooms", "rooms_of"]

SMALL = Request(cpus=0.001, memory=0)
"""What every provider with any room offers something for."""
MODELS = 16


class Rooms:
    """Asks what is lent of ours for what there is now; gossip tells it to members."""

    def __init__(
        self, settings: Callable[[], Settings], providers: Providers, instances: Lives[Instance]
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._instances = instances

    async def __call__(self) -> tuple[Room, ...]:
        """Return a room for each kind of machine that is lent; nothing where nothing is. Raises InvalidSettings."""
        settings = self._settings()
        lent = lent_providers(settings)
        asked = [SMALL.model_copy(update={"on": name}) for name in lent]
        found = await asyncio.gather(*(self._providers.offers(one) for one in asked), return_exceptions=True)
        offers = [offer for answer in found if isinstance(answer, list) for offer in answer]
        for answer in found:
            if isinstance(answer, BaseException) and not isinstance(answer, GridcloudError):
                raise answer
        total = room_of(settings.lending.capacity)
        taken = await self._taken(lent) if total != NOTHING else NOTHING
        return rooms_of(offers, total, taken)

    async def _taken(self, providers: Collection[str]) -> Capacity:
        states = [state for state in State if state not in FINAL]
        held = await self._instances.find(states=states)
        return sum(
            (
                shape_capacity(one.offer.shape)
                for one in held
                if one.offer and one.offer.provider in providers
            ),
            NOTHING,
        )


def rooms_of(offers: Collection[Offer], total: Capacity, taken: Capacity) -> tuple[Room, ...]:
    """Return what is told of offers for next to nothing: the largest of each kind, or what is configured as the whole.

    `total`: what the lent providers have in all, `NOTHING` where that is not known; `taken`: what of it is in use.
    """
    kinds = list(dict.fromkeys(str(offer.kind) for offer in offers))
    rooms = []
    for kind in kinds:
        these = [offer for offer in offers if offer.kind == kind]
        shapes = [shape_capacity(offer.shape) for offer in these if offer.possible]
        free = [shape_capacity(offer.shape) for offer in these if offer.available]
        largest = max(shapes, key=_size, default=NOTHING)
        room = Room(
            kind=kind,
            total=largest,
            free=min(max(free, key=_size, default=NOTHING), largest, key=_size),
            gpu_models=tuple(
                sorted({title(one.shape.gpu_model) for one in these if one.shape.gpu_model})[:MODELS]
            ),
        )
        rooms.append(room)
    if total != NOTHING and rooms:
        # One number for all kinds: the room that is configured is theirs together.
        return (rooms[0].model_copy(update={"total": total, "free": total - taken}),)
    return tuple(rooms)


def _size(one: Capacity) -> tuple[int, int, int]:
    return one.millicores, one.memory, one.gpus
