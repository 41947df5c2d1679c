"""What a lender gives: its rules asked with how things stand now, and its providers asked for room.

An answer without a refusal may be accepted. Where there is a refusal, the offers beside it say what could be had when
there is room, or the largest that there ever is: a borrower tells by them whether to wait. Nothing else of our
providers is told, neither their words nor who holds what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.federation import leases
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.leases import Offers, Terms
from gridcloud.federation.lending import ROOMY
from gridcloud.federation.limits import Held, judge
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

__all__ = ["Bench", "Verdict"]

log = logging.getLogger(__name__)

MOST = 16
"""Offers told of one wish."""
NOT_LENT = "nothing is lent here now"
NO_ROOM = "there is no room now"
BOUNDLESS = Capacity(millicores=1_000_000_000, memory=1_000_000_000, gpus=1_000_000_000)


class Verdict(NamedTuple):
    """On an acceptance: why it is refused, what is offered where its offer has changed, or what may be made for it."""

    why: str = ""
    instead: leases.Offer | None = None
    machines: tuple[Offer, ...] = ()
    """Offers of our providers, the first one first: each is the machine that was accepted, at its price."""


class _Standing(NamedTuple):
    """How things stand when a wish is judged: why it is refused, or by what its machines are."""

    why: str
    shown: bool = False
    """Whether what there is may be told all the same."""
    judge: Callable[[Capacity], str] = lambda _: NOT_LENT


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
        now = await self._stand(borrower, wish, loans, drained)
        why = now.why
        if why and not now.shown:
            return Offers(need=wish.need, refusal=title(why))
        found = await self._ask(wish)
        free = [one for one in found if one.available]
        reasons = [now.judge(shape_capacity(one.shape)) for one in free]
        granted = [one for one, reason in zip(free, reasons, strict=True) if not reason]
        if not why and not free:
            why = NO_ROOM if any(one.possible for one in found) else "nothing of that size is lent"
        why = why or (reasons[0] if not granted else "")
        free = granted or free
        told = free or [one for one in found if one.possible] or _largest(found, wish)
        offers = tuple(self._offer_of(one, wish) for one in told[:MOST] if one.shape.cpus)
        return Offers(need=wish.need, offers=offers, refusal=title(why))

    async def judge(
        self, borrower: str, wish: Wish, offer: leases.Offer, loans: Sequence[Loan], drained: str
    ) -> Verdict:
        """Judge an acceptance as things stand now, whatever was offered before."""
        now = await self._stand(borrower, wish, loans, drained)
        if now.why:
            return Verdict(now.why)
        if min(wish.seconds, offer.seconds) > self._settings().lending.longest:
            return Verdict(f"{self._settings().lending.longest} s is the longest that a machine is lent for")
        free = [one for one in await self._ask(wish) if one.available]
        if not free:
            return Verdict(NO_ROOM)
        same = tuple(one for one in free if self._offer_of(one, wish).same(offer))
        if same:
            why = now.judge(offer.capacity)
            return Verdict(why) if why else Verdict(machines=same)
        granted = [one for one in free if not now.judge(shape_capacity(one.shape))]
        if not granted:
            return Verdict(NO_ROOM)
        named = [one for one in granted if write_shape(one) == offer.shape]
        return Verdict(instead=self._offer_of((named or granted)[0], wish))

    async def _stand(self, borrower: str, wish: Wish, loans: Sequence[Loan], drained: str) -> _Standing:
        """Return why a wish is refused, or what its machines are to be judged by."""
        settings = self._settings()
        try:
            rules, providers = read_rules(settings.lending), self.lent()
        except InvalidSettings as error:
            log.warning("nothing is lent: %s", error)
            return _Standing(NOT_LENT)
        if not providers or drained:
            return _Standing(NOT_LENT)
        if await self._is_user(guest_of(wish.user, borrower)):
            return _Standing("one of the lender's own users has that name")
        lent = _lent(loans)
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
        shown = not rules.policy.refusal(asked)
        # No machine has less than was wished: where that is too much, our providers need not be asked.
        why = judge(rules, asked, lent, free, wish.capacity)
        return _Standing(why, shown, lambda capacity: judge(rules, asked, lent, free, capacity))

    async def _taken(self, providers: Sequence[str], loans: Sequence[Loan]) -> Capacity:
        """Return what own users and leases hold of the lent providers."""
        held = await self._instances.find(states=HOLDING)
        found = [
            shape_capacity(one.offer.shape) for one in held if one.offer and one.offer.provider in providers
        ]
        there = {one.id for one in held}
        found += [
            one.lent.capacity
            for one in loans
            if one.lent.state is leases.LentState.STARTING and one.instance_id not in there
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


def _lent(loans: Sequence[Loan]) -> list[Held]:
    """Return who has what, for limits."""
    return [
        Held(one.lent.borrower, one.lent.wish, one.lent.capacity)
        for one in loans
        if one.lent.state in ROOMY and one.lent.wish is not None
    ]


def _part(free: Capacity, capacity: Capacity) -> float:
    """Return the part of what there is that is free, by what is scarcest; 1 where nobody says what there is."""
    parts = [
        getattr(free, name) / getattr(capacity, name)
        for name in Capacity.model_fields
        if getattr(capacity, name)
    ]
    return min(parts, default=1.0)
