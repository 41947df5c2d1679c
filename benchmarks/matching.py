"""Requests matched with 10,000 offers by what the broker ranks with, beside a bare pass over their numbers in one run.

    python -m benchmarks.matching [--offers 10000] [--seconds 5] [--json FILE]

The bare pass compares CPUs, memory and GPUs of tuples and takes the cheapest: less than matching has to do, and what
plain Python would do at best. Goal: 20,000 requests per second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from benchmarks.report import run
from gridcloud.instances.matching import rank
from gridcloud.instances.model import Kind, Offer, Request, Shape

GIBIBYTE = 1 << 30


def measure(offers: int, seconds: int) -> dict[str, Any]:
    """Return the requests per second of both."""
    chance = random.Random(4)
    found = [_offer(chance, number) for number in range(offers)]
    asked = [_request(chance) for _ in range(1000)]
    plain = [
        (float(one.price), one.shape.cpus, one.shape.memory, one.shape.gpus) for one in found if one.available
    ]

    def ours(request: Request) -> bool:
        return rank(request, found, "EUR")[0].available

    def bare(request: Request) -> bool:
        return (
            min(
                (
                    row
                    for row in plain
                    if row[1] >= request.cpus and row[2] >= request.memory and row[3] >= request.gpus
                ),
                default=None,
            )
            is not None
        )

    if any(ours(request) and not bare(request) for request in asked[:20]):
        raise SystemExit("what was ranked first does not fit")
    return {
        "offers": offers,
        "requests_per_second": _rate(ours, asked, seconds),
        "bare_pass_per_second": _rate(bare, asked, seconds),
        "goals": {"requests_per_second": "at least 20000"},
    }


def _rate(match: Callable[[Request], bool], asked: Sequence[Request], seconds: float) -> float:
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        match(asked[done % len(asked)])
        done += 1
    return done / (time.perf_counter() - begin)


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


def _request(chance: random.Random) -> Request:
    cpus = chance.choice((1, 2, 4, 8))
    gpus = chance.choice((0, 0, 0, 1))
    return Request(cpus=cpus, memory=cpus * GIBIBYTE, gpus=gpus, gpu_model="A100" if gpus else "")


if __name__ == "__main__":
    run(__doc__, measure, offers=10_000, seconds=5)
