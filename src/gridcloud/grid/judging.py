"""What a lender gives: its rules asked with how things stand now, and its providers asked for room.

An answer without a refusal may be accepted. Where there is a refusal, the offers beside it say what could be had when
there is room, or the largest that there ever is: a borrower tells by them whether to wait. Nothing else of our
providers is told, neither their words nor who holds what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.federation import leases
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.leases import Offers, Terms
from gridcloud.federation.lending import ROOMY
from gridcloud.federation.limits import judge
from gridcloud.federation.policy import Question
from gridcloud.federation.wishes import NOTHING, Capacity, Wish
from gridcloud.grid.loans import Loan
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.terms import lent_providers, read_rules, room_of
from gridcloud.grid.wishes import (
    describe_lent,
    guest_of,
    request_of,
    shape_capacity,
    title,
    write_shape,
)
from gridcloud.instances.model import HOLDING, Instance, Offer
from gridcloud.instances.providers import Providers
from gridcloud.settings import Settings
from gridcloud.store.lives import Lives

__all__ = ["Bench"]

log = logging.getLogger(__name__)

MOST = 16
"""Offers told of one wish."""
NOT_LENT = "nothing is lent here now"
NO_ROOM = "there is no room now"
BOUNDLESS = Capacity(millicores=1_000_000_000, memory=1_000_000_000, gpus=1_000_000_000)


class Bench:
    """Judges wishes of others. It changes nothing."""

    def __init__(
        self,
        neighbours: Neighbours,
        providers: Providers,
        instances: Lives[Instance],
        clock: Clock,
        settings: Callable[[], Settings],
        terms: Callable[[], Terms],
        favours: Callable[[], Awaitable[dict[str, float]]],
        is_user: Callable[[str], Awaitable[bool]],
    ) -> None:
        """``is_user`` tells whether one of our own users has a name: no guest goes by it."""
        self._neighbours = neighbours
        self._providers = providers
        self._instances = instances
        self._clock = clock
        self._settings = settings
        self._terms = terms
        self._favours = favours
        self._is_user = is_user

    def lent(self, *, reclaiming: bool = False) -> tuple[str, ...]:
        """Return our providers that are lent, or may be taken back. Raises InvalidSettings."""
        settings = self._settings()
        if reclaiming and not settings.lending.reclaim:
            return ()
        return lent_providers(settings)

    async def offer(self, borrower: str, wish: Wish, loans: Sequence[Loan], drained: str) -> Offers:
        """Return what is offered for a wish, or why nothing."""
        why, shown = await self._refusal(borrower, wish, loans, drained)
        if why and not shown:
            return Offers(need=wish.need, refusal=title(why))
        found = await self._ask(wish)
        free = [one for one in found if one.available]
        if not why and not free:
            why = NO_ROOM if any(one.possible for one in found) else "nothing of that size is lent"
        told = free or [one for one in found if one.possible] or _largest(found, wish)
        offers = tuple(self._offer_of(one, wish) for one in told[:MOST] if one.shape.cpus)
        return Offers(need=wish.need, offers=offers, refusal=title(why))

    async def judge(
        self, borrower: str, wish: Wish, offer: leases.Offer, loans: Sequence[Loan], drained: str
    ) -> tuple[str, tuple[str, ...]]:
        """Return why an acceptance is refused, or nothing and the providers to make it, the best first."""
        why, _ = await self._refusal(borrower, wish, loans, drained)
        if why:
            return why, ()
        if min(wish.seconds, offer.seconds) > self._settings().lending.longest:
            return f"{self._settings().lending.longest} s is the longest that a machine is lent for", ()
        free = [one for one in await self._ask(wish) if one.available]
        free.sort(key=lambda one: write_shape(one) != offer.shape)
        return ("" if free else NO_ROOM), tuple(dict.fromkeys(one.provider for one in free))

    async def _refusal(
        self, borrower: str, wish: Wish, loans: Sequence[Loan], drained: str
    ) -> tuple[str, bool]:
        """Return why a wish is refused, and whether what there is may be told all the same."""
        settings = self._settings()
        try:
            rules, providers = read_rules(settings.lending), self.lent()
        except InvalidSettings as error:
            log.warning("nothing is lent: %s", error)
            return NOT_LENT, False
        if not providers or drained:
            return NOT_LENT, False
        if await self._is_user(guest_of(wish.user, borrower)):
            return "one of the lender's own users has that name", False
        lent = await self._lent(loans)
        capacity = room_of(settings.lending.capacity)
        taken = await self._taken(providers, loans) if capacity != NOTHING else NOTHING
        free = capacity - taken if capacity != NOTHING else BOUNDLESS
        asked = Question(
            borrower,
            wish,
            favour=(await self._favours()).get(borrower, 0.0),
            free=_part(free, capacity),
            communities=self._communities(borrower),
            when=self._clock.now().astimezone(),
        )
        why = judge(rules, asked, lent, free)
        return why, not rules.policy.refusal(asked)

    async def _lent(self, loans: Sequence[Loan]) -> list[tuple[str, Wish]]:
        """Return who has what, for limits: what a machine has, where that is more than was wished.

        Else who wishes for nearly nothing would have any number of machines, each of the smallest kind there is.
        """
        there = {one.id: one.offer for one in await self._instances.find(states=HOLDING)}
        found = []
        for loan in loans:
            if loan.lent.state not in ROOMY or (wish := loan.lent.wish) is None:
                continue
            if (offer := there.get(loan.instance_id)) is not None:
                wish = wish.model_copy(update={"capacity": _most(wish.capacity, shape_capacity(offer.shape))})
            found.append((loan.lent.borrower, wish))
        return found

    async def _taken(self, providers: Sequence[str], loans: Sequence[Loan]) -> Capacity:
        """Return what own users and leases hold of the lent providers."""
        held = await self._instances.find(states=HOLDING)
        found = [
            shape_capacity(one.offer.shape) for one in held if one.offer and one.offer.provider in providers
        ]
        there = {one.id for one in held}
        found += [
            one.lent.wish.capacity
            for one in loans
            if one.lent.state is leases.LentState.STARTING and one.lent.wish and one.instance_id not in there
        ]
        return sum(found, NOTHING)

    def _communities(self, borrower: str) -> frozenset[str]:
        ids = self._neighbours.communities_of(borrower)
        named = {one.name for one in self._neighbours.communities() if one.community in ids}
        return ids | named

    async def _ask(self, wish: Wish) -> list[Offer]:
        """Return what our lent providers offer, those of the first one first."""
        try:
            requests = [request_of(wish, name) for name in self.lent()]
        except (InvalidRequest, InvalidSettings):
            return []
        answers = await asyncio.gather(
            *(self._providers.offers(one) for one in requests), return_exceptions=True
        )
        found: list[Offer] = []
        for answer in answers:
            if isinstance(answer, list):
                found += answer
            elif not isinstance(answer, GridcloudError):
                raise answer
        return found

    def _offer_of(self, offer: Offer, wish: Wish) -> leases.Offer:
        settings, terms = self._settings(), self._terms()
        return leases.Offer(
            shape=write_shape(offer),
            capacity=shape_capacity(offer.shape),
            ttl=terms.ttl,
            seconds=min(wish.seconds, settings.lending.longest),
            price=describe_lent(offer, settings.currency),
            before=milliseconds(self._clock.now()) + terms.window,
        )


def _largest(offers: Sequence[Offer], wish: Wish) -> list[Offer]:
    def size(one: Offer) -> tuple[int, float, int]:
        return one.shape.gpus if wish.capacity.gpus else 0, one.shape.cpus, one.shape.memory

    return [max(offers, key=size)] if offers else []


def _most(one: Capacity, other: Capacity) -> Capacity:
    return Capacity(
        millicores=max(one.millicores, other.millicores),
        memory=max(one.memory, other.memory),
        gpus=max(one.gpus, other.gpus),
    )


def _part(free: Capacity, capacity: Capacity) -> float:
    """Return the part of what there is that is free, by what is scarcest; 1 where nobody says what there is."""
    parts = [
        getattr(free, name) / getattr(capacity, name)
        for name in Capacity.model_fields
        if getattr(capacity, name)
    ]
    return min(parts, default=1.0)
