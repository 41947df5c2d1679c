"""What the page tells of each provider's largest machine, without a hub."""

from __future__ import annotations

from typing import Any

import pytest

from gridcloud.instances.model import Kind, Offer, Shape
from gridcloud.spawner.form import free_now


class Client:
    """Answers as a service whose one provider offers this for the smallest request and for too large a one."""

    def __init__(self, smallest: Offer, largest: Offer) -> None:
        self._answers = [smallest, largest]

    async def offers(self, request: Any) -> Any:
        return type("Answer", (), {"offers": [self._answers[request.cpus > 1]]})


class Desk:
    """Hands out that client."""

    def __init__(self, *offers: Offer) -> None:
        self._client = Client(*offers)

    async def client(self, patience: float) -> Client:
        return self._client


def offer(cpus: float, memory: int, **more: Any) -> Offer:
    return Offer(provider="p", kind=Kind.CONTAINER, shape=Shape(cpus=cpus, memory=memory), **more)


@pytest.mark.parametrize(
    ("smallest", "largest", "cpus", "memory"),
    [
        (offer(0.001, 1 << 20), offer(1e6, 1 << 30), "?", "?"),  # it tries whatever is asked
        (offer(0.001, 1 << 20), offer(8, 1 << 34, possible=False), "8", "16GiB"),
        (offer(2, 1 << 32), offer(8, 1 << 34), "2", "4GiB"),
    ],
)
async def test_as_little_as_was_asked_for_is_not_told_as_the_largest(
    smallest: Offer, largest: Offer, cpus: str, memory: str
) -> None:
    desk: Any = Desk(smallest, largest)
    (row,) = await free_now(desk)
    assert (row["cpus"], row["memory"]) == (cpus, memory)
