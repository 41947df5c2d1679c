"""Offers kept so that many requests are matched with them, none by a pass over all.

What comes first is what `matching.rank` puts first, whose rules are asked here too. Offers that are alike for every
request are one *lot*. The lots stand in a tree: first by where they stand whatever is asked for, then by size. Each
branch tells the most that anything in it has, which is enough to pass it over, and the least, which is enough to know
that nothing in it comes before what was found. ::

    market = Market(offers, "EUR")
    best = next(market.free(request), None)
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gridcloud.instances.matching import limit, measure, place_of, require, standing, surplus, surplus_of
from gridcloud.instances.model import Kind, Offer, Request

__all__ = ["Market"]

TREES = 32
"""Trees that are kept, each of what serves requests for one kind, location and model of GPUs."""
MEANINGS = 1000
"""Wordings that are remembered with what they mean here."""
TWIGS = 4
"""Lots that stand alike and are looked at one by one."""
CPUS, MEMORY, GPUS = 0, 1, 3
"""Where `matching.measure` has what the surplus is counted of."""

Words = tuple[Kind, str, str]
"""Kind, place and model of GPUs."""
Numbers = tuple[float, float, float, float, float]
"""See `matching.measure`."""
Bound = tuple[int, float, float, str, int] | tuple[int]
"""Rank of the standing, surplus, provider and place in the list; or the first of it, which comes before all these."""


@dataclass(slots=True, eq=False)
class _Lot:
    """Offers that differ in nothing that a request asks for, as (provider, place in the list, offer), in order."""

    offers: list[tuple[str, int, Offer]]
    standing: tuple[Any, ...]
    words: Words
    most: Numbers
    least: Numbers
    price: Decimal
    provider: str
    rank: int = 0
    """How many standings are better."""


@dataclass(slots=True, eq=False)
class _Branch:
    """Part of a tree, and what bounds all in it."""

    parts: Sequence[_Branch | _Lot]
    rank: int
    """The best."""
    alike: bool
    """All have it."""
    most: Numbers
    least: Numbers
    price: Decimal
    """The lowest."""
    provider: str
    """The first."""


class Market:
    """Offers that stay as they are: make another when they change. ``currency`` is that of their prices."""

    def __init__(self, offers: Iterable[Offer], currency: str) -> None:
        self._currency = currency
        found: dict[object, list[tuple[str, int, Offer]]] = {}
        for place, offer in enumerate(offers):
            if offer.available:
                found.setdefault(_key(offer), []).append((offer.provider, place, offer))
        self._free = sorted(map(_lot, found.values()), key=operator.attrgetter("standing"))
        by_standing = itertools.groupby(self._free, key=operator.attrgetter("standing"))
        for rank, (_, lots) in enumerate(by_standing):
            for lot in lots:
                lot.rank = rank
        self._words = {lot.words for lot in self._free}
        self._meant: OrderedDict[tuple[Kind | None, str, str], frozenset[Words]] = OrderedDict()
        self._trees: OrderedDict[frozenset[Words], _Branch | None] = OrderedDict()

    def free(self, request: Request) -> Iterator[Offer]:
        """Yield the offers that serve a request and can be had now, in order; each is looked for when it is due."""
        tree = self._tree(request)
        if tree is None:
            return
        needed, dearest, count = require(request), request.max_price, itertools.count()
        waiting: list[tuple[Bound, int, _Branch | _Lot, int]] = [((0,), next(count), tree, 0)]
        while waiting:
            _, _, found, index = heapq.heappop(waiting)
            if isinstance(found, _Lot):
                yield found.offers[index][2]
                if index + 1 < len(found.offers):
                    bound = _bound_of(request, found, index + 1)
                    heapq.heappush(waiting, (bound, next(count), found, index + 1))
                continue
            for part in found.parts:
                if not all(map(operator.le, needed, part.most)) or (
                    dearest is not None and part.price > dearest
                ):
                    continue
                if isinstance(part, _Branch):
                    bound = _bound(request, needed, part)
                elif self._serves(request, part):
                    bound = _bound_of(request, part, 0)
                else:
                    continue
                heapq.heappush(waiting, (bound, next(count), part, 0))

    def _serves(self, request: Request, lot: _Lot) -> bool:
        offer = lot.offers[0][2]
        return limit(request, offer, self._currency) is offer

    def _tree(self, request: Request) -> _Branch | None:
        """Return the tree of the lots that have what a request asks for in words; all that mean the same share it."""
        asked = request.kind, request.location.lower(), request.gpu_model.lower() if request.gpus else ""
        words = self._meant.get(asked)
        if words is None:
            kind, place, model = asked
            words = frozenset(
                one for one in self._words if kind in (None, one[0]) and place in one[1] and model in one[2]
            )
            _keep(self._meant, asked, words, MEANINGS)
        if words not in self._trees:
            lots = [lot for lot in self._free if lot.words in words]
            _keep(self._trees, words, _grow(lots) if lots else None, TREES)
        self._trees.move_to_end(words)
        return self._trees[words]


def _keep(kept: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def _key(offer: Offer) -> object:
    """Return all of an offer that any request asks for."""
    shape = offer.shape
    numbers = shape.cpus, shape.memory, shape.disk, shape.gpus, shape.gpu_memory, shape.gpu_model
    what = offer.kind, offer.institution, offer.location, *numbers
    return offer.possible, offer.distance, offer.priced, offer.price, offer.wait, *what


def _lot(alike: list[tuple[str, int, Offer]]) -> _Lot:
    alike.sort(key=operator.itemgetter(0))
    provider, _, offer = alike[0]
    words = offer.kind, place_of(offer), offer.shape.gpu_model.lower()
    numbers = measure(offer.shape)
    return _Lot(alike, standing(offer), words, numbers, numbers, offer.price, provider)


def _grow(lots: Sequence[_Lot]) -> _Branch:
    """Return the tree of lots, which are in order of where they stand."""
    alike = lots[0].rank == lots[-1].rank
    parts: Sequence[_Branch | _Lot]
    if alike and len(lots) <= TWIGS:
        parts = lots
    else:
        parts = [_grow(half) for half in (_halve_alike(lots) if alike else _halve(lots))]
    most, least = (
        tuple(map(extreme, zip(*(getattr(part, name) for part in parts), strict=True)))
        for extreme, name in ((max, "most"), (min, "least"))
    )
    price, provider = min(part.price for part in parts), min(part.provider for part in parts)
    return _Branch(parts, lots[0].rank, alike, most, least, price, provider)


def _halve(lots: Sequence[_Lot]) -> tuple[Sequence[_Lot], Sequence[_Lot]]:
    """Part lots between two ranks, near their middle."""
    middle = lots[len(lots) // 2].rank
    at = bisect.bisect_left(lots, middle, key=operator.attrgetter("rank"))
    at = at or bisect.bisect_right(lots, middle, key=operator.attrgetter("rank"))
    return lots[:at], lots[at:]


def _halve_alike(lots: Sequence[_Lot]) -> tuple[Sequence[_Lot], Sequence[_Lot]]:
    """Part lots of one rank by the number in which they differ most, as a part of the greatest."""

    def spread(number: int) -> float:
        found = [lot.most[number] for lot in lots]
        return (max(found) - min(found)) / (max(found) or 1)

    widest = max((CPUS, MEMORY, GPUS), key=spread)
    ordered = sorted(lots, key=lambda lot: lot.most[widest])
    return ordered[: len(lots) // 2], ordered[len(lots) // 2 :]


def _bound_of(request: Request, lot: _Lot, index: int) -> Bound:
    """Return where one offer of a lot comes."""
    provider, place, offer = lot.offers[index]
    return (lot.rank, *surplus_of(request, offer.shape), provider, place)


def _bound(request: Request, needed: Numbers, branch: _Branch) -> Bound:
    """Return what nothing in a branch that serves a request comes before."""
    if not branch.alike:
        return (branch.rank,)
    cpus, memory, _, gpus, _ = map(max, needed, branch.least)
    return (branch.rank, *surplus(request, cpus, memory, gpus), branch.provider, -1)
