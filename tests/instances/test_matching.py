"""Ranking offers, and saying why none will do."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from gridcloud.errors import NoOffer, QuotaExceeded
from gridcloud.instances.matching import count_cpus, describe, explain, rank, shortfall, unnamed, unserved
from gridcloud.instances.model import Kind, Offer, Request, Shape

GIB = 1024**3


def offer(provider: str, **fields: Any) -> Offer:
    shape = fields.pop("shape", Shape(cpus=4, memory=8 * GIB))
    return Offer(provider=provider, kind=fields.pop("kind", Kind.VIRTUAL_MACHINE), shape=shape, **fields)


def test_free_and_cheap_comes_first() -> None:
    offers = [
        offer("dear", price=Decimal(3)),
        offer("taken", available=False, why_not="all taken"),
        offer("cheap", price=Decimal(1)),
        offer("impossible", available=False, possible=False, why_not="no GPUs"),
        offer("later", wait=60, price=Decimal(1)),
    ]
    assert [o.provider for o in rank(Request(), offers, "EUR")] == [
        "cheap",
        "later",
        "dear",
        "taken",
        "impossible",
    ]


def test_of_equal_price_the_tighter_fit_wins_and_gpus_are_not_wasted() -> None:
    offers = [
        offer("huge", shape=Shape(cpus=64, memory=256 * GIB)),
        offer("gpu", shape=Shape(cpus=2, memory=4 * GIB, gpus=1)),
        offer("fits", shape=Shape(cpus=2, memory=4 * GIB)),
    ]
    assert [o.provider for o in rank(Request(), offers, "EUR")] == ["fits", "huge", "gpu"]


def test_the_requests_limits_hold_whatever_a_driver_offers() -> None:
    request = Request(kind=Kind.CONTAINER, location="Bergen", max_price=Decimal(1), memory=16 * GIB)
    good = Shape(cpus=1, memory=16 * GIB)
    ranked = rank(
        request,
        [
            offer("kind", shape=good, location="bergen"),
            offer("place", kind=Kind.CONTAINER, shape=good, location="oslo"),
            offer("price", kind=Kind.CONTAINER, shape=good, location="bergen", price=Decimal(2)),
            offer("small", kind=Kind.CONTAINER, location="bergen"),
            offer("good", kind=Kind.CONTAINER, location="Bergen, hall 2", shape=good),
        ],
        "EUR",
    )
    assert [o.provider for o in ranked if o.available] == ["good"]
    reasons = {o.provider: o.why_not for o in ranked}
    assert "container was asked" in reasons["kind"]
    assert "bergen" in reasons["place"].lower()
    assert "costs 2 EUR per hour, 1 at most" in reasons["price"]
    assert "16GiB of memory asked, 8GiB at most" in reasons["small"]


def test_what_no_provider_can_serve_names_the_largest_there_is() -> None:
    request = Request(gpus=9000)
    offers = rank(
        request,
        [
            offer("a", possible=False, available=False, why_not="9000 GPUs asked, 0 at most"),
            offer(
                "b",
                possible=False,
                available=False,
                why_not="9000 GPUs asked, 8 at most",
                shape=Shape(cpus=96, memory=512 * GIB, gpus=8, gpu_model="H100", gpu_memory=80 * GIB),
            ),
        ],
        "EUR",
    )
    error = unserved(request, offers)
    assert isinstance(error, NoOffer)
    assert "The largest available is 96 CPUs, 512GiB, 8 H100 80GiB on b." in str(error)


def test_without_providers_it_says_so() -> None:
    assert "No provider is configured" in explain(Request(), [])
    assert "'nowhere'" in explain(Request(on="nowhere"), [])


def test_shortfalls_are_told_one_by_one() -> None:
    request = Request(cpus=8, memory=16 * GIB, gpus=1, gpu_model="h100")
    words = shortfall(request, Shape(cpus=4, memory=8 * GIB, gpus=1, gpu_model="NVIDIA A100"))
    assert "8 CPUs asked, 4 at most" in words
    assert "16GiB of memory asked, 8GiB at most" in words
    assert "GPU model h100 asked, NVIDIA A100 there" in words
    assert shortfall(request, Shape(cpus=8, memory=16 * GIB, gpus=1, gpu_model="NVIDIA H100")) == ""


def test_shapes_in_words() -> None:
    assert describe(Shape(cpus=1.5, memory=GIB)) == "1.5 CPUs, 1GiB"


@pytest.mark.parametrize("memory", ["0", "4", " 512 "])
def test_memory_written_without_its_unit_is_refused(memory: str) -> None:
    with pytest.raises(ValidationError, match="write the unit"):
        Request.model_validate({"memory": memory})


def test_memory_in_bytes_is_read_as_it_was_stored() -> None:
    assert Request.model_validate_json(Request(memory=4).model_dump_json()).memory == 4
    assert Request.model_validate({"memory": "1073741824"}).memory == GIB


def test_a_provider_is_named_once() -> None:
    assert unnamed("amazon", "amazon: there is no room") == "there is no room"
    assert unnamed("amazon", QuotaExceeded("amazonas: full", remedy="Wait.")) == "amazonas: full. Wait."


def test_one_is_no_plural() -> None:
    assert [count_cpus(number) for number in (0.5, 1, 2)] == ["0.5 CPUs", "1 CPU", "2 CPUs"]
    assert shortfall(Request(cpus=1), Shape(cpus=0.5, memory=GIB)) == "1 CPU asked, 0.5 at most"
