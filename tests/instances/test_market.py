"""What a market finds first is what a pass over all offers puts first."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as some

from gridcloud.instances.market import Market
from gridcloud.instances.matching import measure, rank, require, shortfall
from gridcloud.instances.model import Kind, Offer, Request, Shape

# Few values of each, so that ties are many.
CPUS = some.sampled_from((0.5, 1, 1.1, 2, 4, 64))
MEMORY = some.sampled_from((1, 3, 7 << 30, 8 << 30, (8 << 30) + 1))
GPUS = some.sampled_from((0, 0, 1, 2, 8))
PRICES = (Decimal(0), Decimal("0.1"), Decimal("0.10"), Decimal("0.1000000000000000001"), Decimal(3))

SHAPES = some.builds(
    Shape,
    name=some.sampled_from(("", "small", "large")),
    cpus=CPUS,
    memory=MEMORY,
    disk=some.sampled_from((0, 10, 20)),
    gpus=GPUS,
    gpu_model=some.sampled_from(("", "NVIDIA A100", "a100 SXM", "H100")),
    gpu_memory=some.sampled_from((0, 40, 80)),
)
OFFERS = some.builds(
    Offer,
    provider=some.sampled_from(("alpha", "beta", "gamma")),
    kind=some.sampled_from(Kind),
    shape=SHAPES,
    location=some.sampled_from(("", "Bergen", "bergen, hall 2", "Oslo", "İzmir")),
    institution=some.sampled_from(("", "Bergen University", "NTNU")),
    price=some.sampled_from(PRICES),
    priced=some.booleans(),
    available=some.sampled_from((True, True, True, False)),
    distance=some.sampled_from((0, 0, 1)),
    wait=some.sampled_from((0, 0, 60)),
    possible=some.booleans(),
)
REQUESTS = some.builds(
    Request,
    cpus=CPUS,
    memory=MEMORY,
    disk=some.sampled_from((0, 0, 15)),
    gpus=GPUS,
    gpu_model=some.sampled_from(("", "", "a100", "A100 S", "l4")),
    gpu_memory=some.sampled_from((0, 41)),
    kind=some.sampled_from((None, None, *Kind)),
    location=some.sampled_from(("", "", "BERGEN", "hall", "university", "İ")),
    max_price=some.sampled_from((None, None, *PRICES)),
)


@settings(max_examples=100, deadline=None)
@given(offers=some.lists(OFFERS, max_size=40), requests=some.lists(REQUESTS, min_size=1, max_size=5))
def test_it_finds_what_a_pass_over_all_finds_in_the_same_order(
    offers: list[Offer], requests: list[Request]
) -> None:
    market = Market(offers, "EUR")
    for request in requests:
        expected = [one for one in rank(request, offers, "EUR") if one.available]
        # The same objects, not only alike: of those that are alike in all the first comes first.
        assert list(map(id, market.free(request))) == list(map(id, expected))


@settings(max_examples=100, deadline=None)
@given(
    numbers=some.lists(
        some.tuples(some.floats(0.01, 1e6), some.integers(0, 1 << 50), some.integers(0, 9)), max_size=80
    ),
    cpus=some.floats(0.01, 1e6),
    memory=some.integers(0, 1 << 50),
    gpus=some.integers(0, 9),
)
def test_any_numbers_of_one_price(
    numbers: list[tuple[float, int, int]], cpus: float, memory: int, gpus: int
) -> None:
    offers = [
        Offer(provider="one", kind=Kind.CONTAINER, shape=Shape(cpus=one, memory=two, gpus=three))
        for one, two, three in numbers
    ]
    request = Request(cpus=cpus, memory=memory, gpus=gpus)
    expected = [one for one in rank(request, offers, "EUR") if one.available]
    assert list(map(id, Market(offers, "EUR").free(request))) == list(map(id, expected))


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES, request=REQUESTS)
def test_numbers_say_what_words_say(shape: Shape, request: Request) -> None:
    """What lacks no number lacks a model of GPUs at most; what lacks one lacks it in words, too."""
    enough = all(need <= there for need, there in zip(require(request), measure(shape), strict=True))
    model = not request.gpus or request.gpu_model.lower() in shape.gpu_model.lower()
    assert (enough and model) == (not shortfall(request, shape))


def test_a_market_of_nothing() -> None:
    assert list(Market((), "EUR").free(Request())) == []


def test_more_wordings_than_are_kept() -> None:
    offers = [
        Offer(provider="one", kind=Kind.CONTAINER, location=f"hall {number:03}", shape=Shape(cpus=1, memory=1 << 30))
        for number in range(100)
    ]  # fmt: skip
    market = Market(offers, "EUR")
    for _ in range(2):
        for number in range(100):
            [found] = market.free(Request(location=f"hall {number:03}"))
            assert found is offers[number]
