"""What other institutions would lend for a request: one message to each, all at once, and what it means here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, InvalidRequest, Malformed, NoCapacity
from gridcloud.federation import leases
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.leases import Ask, Offers, read_message, write_message
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.prospects import Prospects
from gridcloud.grid.wishes import (
    ASKED_FOR,
    MEBIBYTE,
    capacity_of,
    price_of,
    read_shape,
    shape_capacity,
    title,
)
from gridcloud.instances.model import Finding, Kind, Request, Shape
from gridcloud.instances.peers import Looked, PeerOffer, Terms

__all__ = ["Enquiries", "Given"]

ANSWER = 6.0
"""Seconds for a peer to say what it offers."""
LONGEST = 86_400_000
"""Milliseconds that a lease may at most stay ours after its last renewal: so long it can be claimed after its end."""
WINDOW = 3_600_000
"""Milliseconds that an offer may at most be accepted for: so long a lender that says nothing would be waited for."""
WASTE, ROOM = 4, Capacity(millicores=64_000, memory=512 << 10, gpus=8)
"""No machine is taken that has more than so many times what is wished and this beside: we would owe it all."""
FRESH = 5000
"""Milliseconds that an offer must still be good for to be accepted without asking again."""

Groups = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the groups of a user."""


class Given(NamedTuple):
    """An offer that an institution made, and for what."""

    wish: Wish
    offer: leases.Offer


class Enquiries:
    """Asks. Offers are remembered until they end, in memory only: they hold nothing."""

    def __init__(
        self, neighbours: Neighbours, clock: Clock, groups: Groups, currency: Callable[[], str]
    ) -> None:
        self._neighbours = neighbours
        self._prospects = Prospects(neighbours)
        self._clock = clock
        self._groups = groups
        self._currency = currency
        self._given: dict[tuple[str, str, str, Capacity, str], Given] = {}

    def name_of(self, institution: str) -> str:
        """Return what an institution is called."""
        member = self._neighbours.members().get(institution)
        return (member.name if member is not None else "") or institution

    async def wish(self, terms: Terms, request: Request, owner: str, need: str) -> Wish:
        """Return a request as a wish. Raises InvalidRequest for what cannot be wished of others."""
        if request.gpu_memory:
            raise InvalidRequest(
                "memory of GPUs cannot be asked of other institutions", remedy="Ask for a model."
            )
        groups = await self._groups(owner) if owner else ()
        return Wish(
            need=need,
            capacity=capacity_of(request),
            seconds=request.time or ASKED_FOR,
            user=title(owner),
            groups=tuple(title(one) for one in groups)[:64],
            purpose=title(terms.purpose),
            image=title(request.image),
            gpu_model=title(request.gpu_model),
        )

    async def offers(self, terms: Terms, request: Request, owner: str) -> list[PeerOffer]:
        """Ask all that an entry asks; see `instances.peers.Peers.offers`."""
        wish = await self.wish(terms, request, owner, "offers")
        asked = self._prospects.choose(terms, request)
        answers = await asyncio.gather(*(self._ask_one(one, wish, request) for one in asked))
        return [offer for answer in answers for offer in answer]

    async def offer(self, wish: Wish, looked: Looked) -> leases.Offer:
        """Return the offer that was looked at, to be accepted: a recent one, or a new one of the same machine at the
        same price. Raises NoCapacity, Transient."""
        place = (
            looked.institution,
            _key(wish),
            looked.title,
            shape_capacity(looked.shape),
            looked.asked,
        )
        known = self._given.get(place)
        now = milliseconds(self._clock.now())
        if known is not None and known.offer.before > now + FRESH and known.wish.seconds >= wish.seconds:
            return known.offer
        answer = await self.ask(looked.institution, wish)
        if answer.refusal or not answer.offers:
            raise NoCapacity(answer.refusal or "nothing that fits is offered any more")
        same = [one for one in answer.offers if _place(looked.institution, wish, one) == place]
        if not same:
            raise NoCapacity(f"{self.name_of(looked.institution)} no longer offers it as it was looked at")
        return same[0]

    def forget(self, institution: str, wish: Wish, offer: leases.Offer) -> None:
        """Ask anew for what was refused when it was accepted."""
        self._given.pop(_place(institution, wish, offer), None)

    async def ask(self, institution: str, wish: Wish) -> Offers:
        """Ask one. Raises what `Caller.ask` raises, Malformed."""
        kind, body = await self._neighbours.caller.ask(
            institution, *write_message(Ask(wish=wish)), timeout=ANSWER
        )
        answer = read_message(kind, body)
        if not isinstance(answer, Offers):
            raise Malformed(f"{self.name_of(institution)} answers a question with {kind}")
        now = milliseconds(self._clock.now())
        offers = tuple(one for one in answer.offers if one.ttl <= LONGEST and one.before <= now + WINDOW)
        sane = tuple(one for one in offers if one.capacity.fits(wish.capacity.times(WASTE) + ROOM))
        wasteful = "offers only machines far larger than what is asked for" if offers and not sane else ""
        answer = answer.model_copy(update={"offers": sane, "refusal": answer.refusal or wasteful})
        self._given = {key: one for key, one in self._given.items() if one.offer.before > now}
        if not answer.refusal:
            for offer in answer.offers:
                self._given[_place(institution, wish, offer)] = Given(wish, offer)
        return answer

    async def check(self, terms: Terms) -> list[Finding]:
        """Ask each for a little."""
        subjects = self._prospects.choose(terms, Request())
        if not subjects:
            remedy = "Invite one, or join a community: gridcloud grid invite"
            return [
                Finding(
                    subject=terms.provider,
                    ok=False,
                    message="no other institution is a member",
                    remedy=remedy,
                )
            ]
        found = await asyncio.gather(*(self._check_one(terms, one) for one in subjects))
        return list(found)

    async def _check_one(self, terms: Terms, institution: str) -> Finding:
        name = self.name_of(institution)
        try:
            answer = await self.ask(institution, await self.wish(terms, Request(), "", "check"))
        except GridcloudError as error:
            remedy = error.remedy or "See: gridcloud grid status"
            return Finding(subject=name, ok=False, message=error.message, remedy=remedy)
        said = (
            f"answers, and lends nothing now: {answer.refusal}"
            if answer.refusal
            else "answers, and would lend"
        )
        return Finding(subject=name, ok=True, message=said)

    async def _ask_one(self, institution: str, wish: Wish, request: Request) -> list[PeerOffer]:
        profile = self._neighbours.profiles().get(institution)
        name = self.name_of(institution)
        where = profile.location if profile else ""

        def none(why: str, shape: Shape, *, possible: bool) -> PeerOffer:
            return PeerOffer(
                institution,
                name,
                where,
                Kind.VIRTUAL_MACHINE,
                "",
                shape,
                available=False,
                possible=possible,
                why_not=f"{name}: {why}",
            )

        try:
            answer = await self.ask(institution, wish)
        except GridcloudError as error:
            return [none(error.message, Shape(cpus=0, memory=0), possible=True)]
        fitting = [one for one in answer.offers if wish.capacity.fits(one.capacity)]
        if answer.offers and not fitting:
            largest = max(answer.offers, key=lambda one: (one.capacity.millicores, one.capacity.memory))
            return [none(answer.refusal or "nothing fits", _shape(largest, request, ""), possible=False)]
        if answer.refusal or not fitting:
            shape = _shape(fitting[0], request, "") if fitting else Shape(cpus=0, memory=0)
            return [none(answer.refusal or "offers nothing", shape, possible=True)]
        found = []
        for offer in fitting:
            kind, called = read_shape(offer.shape)
            price, priced = price_of(offer, self._currency())
            terms = f"for {offer.seconds / 3600:.3g} h at most"
            made = PeerOffer(
                institution, name, where, kind, offer.shape, _shape(offer, request, called), price, priced
            )
            found.append(replace(made, terms=terms, asked=offer.price))
        return found


def _shape(offer: leases.Offer, request: Request, called: str) -> Shape:
    return Shape(
        name=called,
        cpus=offer.capacity.millicores / 1000,
        memory=offer.capacity.memory * MEBIBYTE,
        gpus=offer.capacity.gpus,
        gpu_model=request.gpu_model if offer.capacity.gpus else "",
    )


def _place(institution: str, wish: Wish, offer: leases.Offer) -> tuple[str, str, str, Capacity, str]:
    """Return by what an offer is remembered: what was wished of whom, and what makes it the same offer."""
    return institution, _key(wish), offer.shape, offer.capacity, offer.price


def _key(wish: Wish) -> str:
    """Return what an offer depends on, the user and the time apart."""
    capacity = wish.capacity
    parts = (capacity.millicores, capacity.memory, capacity.gpus, wish.gpu_model, wish.image, wish.user)
    return "/".join(map(str, (*parts, wish.purpose)))
