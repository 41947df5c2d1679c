"""Ways to spend more than a budget has, each of which fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import InvalidRequest, NoOffer, QuotaExceeded
from gridcloud.instances.model import Instance, Request, State
from gridcloud.service.house import House
from tests.budgets.scenes import CLOUD, START, ended, open_house, submit, used

HOUR = 3600
SMALL: dict[str, Any] = {**CLOUD, "shapes": CLOUD["shapes"][:1]}
"""One shape only, for 1 per hour."""


def ada(money: float) -> dict[str, Any]:
    """Return a budget for one user."""
    return {"ada": {"user": "ada", "money": money}}


async def end_all(house: House) -> None:
    """End whatever lives."""
    for one in await house.instances.records.live():
        await house.instances.stop(one.id)
        await ended(house, one.id)


async def test_starts_and_extensions_of_one_moment_share_what_is_left(tmp_path: Path) -> None:
    """Budgets, promise A."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": SMALL}) as house:
        running = [await submit(house) for _ in range(4)]
        later = clock.now() + timedelta(hours=2)
        extensions = [house.instances.extend(one.id, later) for one in running]
        starts = [submit(house) for _ in range(8)]
        mixed = [work for pair in zip(starts, extensions * 2, strict=True) for work in pair]
        outcomes = await asyncio.gather(*dict.fromkeys(mixed), return_exceptions=True)
        passed = [one for one in outcomes if isinstance(one, Instance)]
        assert all(isinstance(one, NoOffer | QuotaExceeded | Instance) for one in outcomes), outcomes
        assert len(passed) == 6, "four hours are promised, six are left"
        assert (await used(house, "ada")).committed.money == 10
        await end_all(house)


async def test_extensions_of_one_machine_at_one_moment_are_judged_one_after_the_other(tmp_path: Path) -> None:
    """Budgets, promise A."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(4), {"cloud": SMALL}) as house:
        one, other = await submit(house), await submit(house)
        wishes = [
            house.instances.extend(each.id, clock.now() + timedelta(hours=hours))
            for hours in (2, 3, 4, 2, 3)
            for each in (one, other)
        ]
        await asyncio.gather(*wishes, return_exceptions=True)
        assert (await used(house, "ada")).committed.money <= 4
        await end_all(house)


async def test_a_short_end_before_the_beginning_promises_nothing_less(tmp_path: Path) -> None:
    """Budgets, promise A: who extends a machine that is not ready would be promised a second, and live for hours."""
    slow = {**SMALL, "latency": 5}
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": slow}) as house:
        wish = Request(cpus=1, memory=1 << 30, time=10 * HOUR)
        first = await house.instances.submit("ada", wish)
        async for one in house.instances.records.follow(first.id):
            if one.state is State.CREATING:
                break
        with pytest.raises(InvalidRequest, match="is creating: its time begins when it is ready"):
            await house.instances.extend(first.id, clock.now() + timedelta(seconds=1))
        assert (await used(house, "ada")).committed.money == 10
        await end_all(house)


async def test_an_expiry_in_another_zone_is_told_in_utc(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": SMALL}) as house:
        one = await submit(house)
        elsewhere = (clock.now() + timedelta(hours=2)).astimezone(timezone(timedelta(hours=5)))
        extended = await house.instances.extend(one.id, elsewhere)
        assert extended.expires == datetime(2026, 9, 15, 2, tzinfo=UTC)
        messages = [event.message for event in await house.store.events(subject=one.id)]
        assert "Ends 2026-09-15 02:00:00 UTC now." in messages
        await end_all(house)
