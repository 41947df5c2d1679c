"""Which members are asked for a request: those whose records say that they have room for it come first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from gridcloud.federation.records import Profile, Room
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.wishes import MEBIBYTE
from gridcloud.instances.market import Market
from gridcloud.instances.model import Kind, Offer, Request, Shape
from gridcloud.instances.peers import Terms

__all__ = ["MOST", "Prospects"]

MOST = 8
"""Institutions that are asked for one request."""


class Prospects:
    """Chooses. What the records say is kept as a market until one of them changes."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._told: Mapping[str, Profile] = {}
        self._market = Market((), "")

    def choose(self, terms: Terms, request: Request) -> list[str]:
        """Return whom an entry of the configuration asks: first who has room by its record, the tightest one that
        still fits before the others; then who has any room at all, for records are late; then the rest, by name.

        Raises NotFound, InvalidSettings for one that is unknown.
        """
        neighbours = self._neighbours
        if not neighbours.initialised:
            return []
        members = neighbours.members()
        allowed = {neighbours.find(terms.institution)} if terms.institution else set(members)
        if terms.community:
            common = {one.community for one in neighbours.communities() if one.name == terms.community}
            common.add(terms.community)
            allowed = {one for one in allowed if neighbours.communities_of(one) & common}
        fitting = (one for one in self._fitting(request) if one in allowed)
        others = (one for one in self._others(allowed) if one in allowed)
        return list(itertools.islice(_once(itertools.chain(fitting, others)), MOST))

    def _fitting(self, request: Request) -> Iterator[str]:
        told = self._neighbours.profiles()
        if told != self._told:
            named = sorted(told, key=lambda one: (told[one].name, one))
            rooms = [_offer(one, told[one], room) for one in named for room in told[one].rooms]
            # A copy: whoever told may go on with its own.
            self._told, self._market = dict(told), Market(rooms, "")
        # What it costs there is asked of it: records tell it in other units.
        plain = request.model_copy(update={"disk": 0, "max_price": None})
        return (offer.provider for offer in self._market.free(plain))

    def _others(self, allowed: set[str]) -> list[str]:
        told, members = self._told, self._neighbours.members()
        roomy = {who for who in allowed & told.keys() if any(one.free.millicores for one in told[who].rooms)}
        return sorted(allowed, key=lambda one: (one not in roomy, members[one].name, one))


def _once(institutions: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for one in institutions:
        if one not in seen:
            seen.add(one)
            yield one


def _offer(institution: str, profile: Profile, room: Room) -> Offer:
    shape = Shape(
        cpus=room.free.millicores / 1000,
        memory=room.free.memory * MEBIBYTE,
        gpus=room.free.gpus,
        gpu_model="\n".join(room.gpu_models),
    )
    return Offer(
        provider=institution,
        institution=profile.name,
        location=profile.location,
        kind=Kind(room.kind),
        shape=shape,
        available=bool(room.free.millicores),
    )
