"""Requests matched with 10,000 offers by the market that is kept of them, beside ranking them all, in one run.

    python -m benchmarks.matching [--offers 10000] [--seconds 3] [--json FILE]

A match is the best offer, the one that `matching.rank` puts first (``all_ranked``: the peer, which is also what every
answer is compared with). ``requests``: of a thousand wishes as people have them, against machines in the usual sizes;
``distinct``: no wish like another, against machines of which nearly none is like another. ``tied`` is the worst there
is: the same, where all cost nothing and stand equally near, so that only what is left over decides. ``bare_pass``
compares numbers of tuples and takes the cheapest: less than matching has to do, and what plain Python would do at best
without an index. ``milliseconds_to_build`` are spent when an offer changes. Seconds are the processor's, which other
work on the machine lengthens less. Goal: 20,000 requests per second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from benchmarks.report import run
from gridcloud.instances.market import Market
from gridcloud.instances.matching import rank
from gridcloud.instances.model import Kind, Offer, Request, Shape

GIBIBYTE = 1 << 30
FEW = 20
"""Requests whose answer is compared with the peer's: ranking all is slow."""


def measure(offers: int, seconds: int) -> dict[str, Any]:
    """Return the requests per second of each."""
    chance = random.Random(4)
    usual = [_offer(chance, number) for number in range(offers)]
    several = [_vary(chance, offer) for offer in usual]
    tied = [offer.model_copy(update={"price": Decimal(0), "distance": 0}) for offer in several]
    asked = [_request(chance) for _ in range(1000)]
    distinct = [_distinct(chance) for _ in range(20_000)]
    market, of_several, of_tied = (Market(one, "EUR") for one in (usual, several, tied))
    for kept, found, wishes in (
        (market, usual, asked),
        (of_several, several, distinct),
        (of_tied, tied, distinct),
    ):
        for wish in wishes[:FEW]:
            best = rank(wish, found, "EUR")[0]
            if next(kept.free(wish), None) is not (best if best.available else None):
                raise SystemExit(f"another offer was found than ranking all finds: {wish}")
    begin = time.process_time()
    next(Market(several, "EUR").free(distinct[0]), None)
    built = time.process_time() - begin
    plain = [(float(one.price), *_numbers(one.shape)) for one in several if one.available]
    return {
        "offers": offers,
        "requests_per_second": _rate(lambda one: next(market.free(one), None), asked, seconds),
        "distinct_per_second": _rate(lambda one: next(of_several.free(one), None), distinct, seconds),
        "tied_per_second": _rate(lambda one: next(of_tied.free(one), None), distinct, seconds),
        "all_ranked_per_second": _rate(lambda one: rank(one, several, "EUR")[0], distinct, seconds),
        "bare_pass_per_second": _rate(lambda one: _cheapest(one, plain), distinct, seconds),
        "milliseconds_to_build": built * 1000,
        "goals": {"requests_per_second": "at least 20000", "distinct_per_second": "at least 20000"},
    }


def _rate(match: Callable[[Request], object], asked: Sequence[Request], seconds: float) -> float:
    begin, done = time.process_time(), 0
    while time.process_time() - begin < seconds:
        match(asked[done % len(asked)])
        done += 1
    return done / (time.process_time() - begin)


def _cheapest(request: Request, rows: Sequence[tuple[float, ...]]) -> object:
    cpus, memory, gpus = request.cpus, request.memory, request.gpus
    return min((row for row in rows if row[1] >= cpus and row[2] >= memory and row[3] >= gpus), default=None)


def _numbers(shape: Shape) -> tuple[float, ...]:
    return shape.cpus, shape.memory, shape.gpus


def _offer(chance: random.Random, number: int) -> Offer:
    cpus = chance.choice((1, 2, 4, 8, 16, 32, 64))
    gpus = chance.choice((0, 0, 0, 0, 1, 2, 4))
    shape = Shape(
        cpus=cpus,
        memory=cpus * chance.choice((1, 2, 4)) * GIBIBYTE,
        gpus=gpus,
        gpu_model="A100" if gpus else "",
        gpu_memory=40 * GIBIBYTE if gpus else 0,
    )
    return Offer(
        provider=f"provider-{number % 100:02}",
        kind=Kind.VIRTUAL_MACHINE,
        shape=shape,
        price=Decimal(cpus + 20 * gpus) / 100,
        distance=chance.choice((0, 1, 1, 2)),
        available=chance.random() < 0.8,
    )


def _vary(chance: random.Random, offer: Offer) -> Offer:
    numbers = {"cpus": chance.uniform(0.5, 64), "memory": int(chance.uniform(0.5, 256) * GIBIBYTE)}
    price = Decimal(chance.randrange(1, 50_000)) / 10_000
    return offer.model_copy(update={"shape": offer.shape.model_copy(update=numbers), "price": price})


def _request(chance: random.Random) -> Request:
    cpus = chance.choice((1, 2, 4, 8))
    gpus = chance.choice((0, 0, 0, 1))
    return Request(cpus=cpus, memory=cpus * GIBIBYTE, gpus=gpus, gpu_model="A100" if gpus else "")


def _distinct(chance: random.Random) -> Request:
    gpus = chance.choice((0, 0, 0, 1, 2))
    return Request(
        cpus=chance.uniform(0.5, 16),
        memory=int(chance.uniform(0.5, 64) * GIBIBYTE),
        gpus=gpus,
        gpu_model="a100" if gpus else "",
    )


if __name__ == "__main__":
    run(__doc__, measure, offers=10_000, seconds=3)
