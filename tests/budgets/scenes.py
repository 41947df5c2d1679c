"""A house with budgets, and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from gridcloud.budgets.model import Usage
from gridcloud.clock import ManualClock
from gridcloud.instances.model import FINAL, Instance, Request
from gridcloud.service.house import House
from tests.houses import configure

__all__ = ["CLOUD", "START", "ended", "open_house", "submit", "used"]

START = datetime(2026, 9, 15, tzinfo=UTC)

CLOUD: dict[str, Any] = {
    "driver": "fake",
    "shapes": [
        {"name": "small", "cpus": 2, "memory": "4GiB", "price": 1},
        {"name": "gpu", "cpus": 8, "memory": "32GiB", "gpus": 2, "price": 3},
    ],
}


@contextlib.asynccontextmanager
async def open_house(
    folder: Path, clock: ManualClock, budgets: Any, providers: dict[str, Any] | None = None, **sections: Any
) -> AsyncIterator[House]:
    """Open a house with budgets; again over the same folder to see what outlives it."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = configure(folder, providers or {"cloud": CLOUD}, budgets=budgets, **sections)
    house = await House.open(settings, data, clock)
    try:
        yield house
    finally:
        await house.close()


async def submit(house: House, owner: str = "ada", **asked: Any) -> Instance:
    """Return an instance once it is ready; raise why it never will be."""
    request = Request(**({"cpus": 1, "memory": 1 << 30, "time": 3600} | asked))
    instance = await house.instances.submit(owner, request)
    async with asyncio.timeout(30):
        return await house.instances.wait(instance.id)


async def ended(house: House, instance_id: str) -> Instance:
    """Return the instance once nothing is left of it."""
    async with asyncio.timeout(30):
        async for instance in house.instances.records.follow(instance_id):
            if instance.state in FINAL:
                return instance
    raise AssertionError("it never ended")


async def used(house: House, name: str, user: str = "") -> Usage:
    """Return how a budget stands."""
    for standing in await house.treasury.standings():
        if (standing.pot.budget.name, standing.pot.user) == (name, user):
            return standing.usage
    return Usage()


def money(amount: float | str) -> Decimal:
    """Return an amount that is compared exactly."""
    return Decimal(str(amount))
