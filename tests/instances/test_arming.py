"""Machines that end by themselves know when, whatever is in the way of telling them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from tests.houses import end, open_house, story

from gridcloud.errors import Unreachable
from gridcloud.instances import arming
from gridcloud.instances.arming import Arming, own_end
from gridcloud.instances.model import Handle, Instance, Request
from gridcloud.instances.timing import Timing
from gridcloud.service.house import House

CLOUD: dict[str, Any] = {"cloud": {"driver": "fake"}}


class Machines:
    """Providers whose machines know their end, once they can be reached."""

    def __init__(self) -> None:
        self.reachable = True
        self.delay = 0.0
        self.known: dict[str, datetime] = {}
        self.asked = 0
        self._heard = asyncio.Event()

    async def until_asked(self, count: int) -> None:
        """Return once it was tried so often to tell a machine."""
        async with asyncio.timeout(20):
            while self.asked < count:
                self._heard.clear()
                await self._heard.wait()

    async def holder(self, name: str) -> Machines:
        """Return what `Arming` asks a driver for."""
        return self

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Note the end on the machine; what was asked first may arrive last."""
        self.asked += 1
        self._heard.set()
        delay, self.delay = self.delay, 0.0
        await asyncio.sleep(delay)
        if not self.reachable:
            raise Unreachable("No route to the machine.")
        self.known[instance_id] = at


@contextlib.asynccontextmanager
async def open_armed(folder: Path, machines: Machines) -> AsyncIterator[House]:
    """Open a house whose machines end by themselves."""
    async with open_house(folder, CLOUD) as house:
        runner = house.instances
        runner.timing = replace(runner.timing, watch=0.05)
        runner.watch.arming = Arming(
            runner.records, cast("Any", machines), house.clock, lambda: runner.timing
        )
        yield house


async def ready(house: House, **asked: Any) -> Instance:
    wish = await house.instances.submit("ada", Request(time=3600), **asked)
    return await house.instances.wait(wish.id)


async def armed(house: House, one: Instance, end: datetime) -> Instance:
    """Return the instance once its machine knows this end."""
    async with asyncio.timeout(20):
        async for now in house.instances.records.follow(one.id):
            if now.armed == end:
                return now
    raise AssertionError("it ended")


async def test_an_extension_that_does_not_reach_the_machine_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr(arming, "PAUSE", 0.1)
    machines = Machines()
    async with open_armed(tmp_path, machines) as house:
        one = await ready(house)
        assert one.expires is not None
        await armed(house, one, one.expires)
        machines.reachable = False
        later = one.expires + timedelta(hours=1)
        extended = await house.instances.extend(one.id, later)
        assert (extended.expires, extended.armed) == (later, one.expires)
        await machines.until_asked(4)
        told = await story(house, one.id)
        assert told.count("The machine could not be told its end yet") == 1
        assert f"may end by itself at {one.expires:%Y-%m-%d %H:%M:%S} UTC; it is tried again" in told
        machines.reachable = True
        await armed(house, one, later)
        assert machines.known[one.id] == later
        assert "The machine knows its end now." in await story(house, one.id)
        asked = machines.asked
        await asyncio.sleep(0.3)
        assert machines.asked == asked, "what it knows it is not told again"
        await end(house, one)


async def test_a_restart_goes_on_telling_it(tmp_path: Path) -> None:
    machines = Machines()
    machines.reachable = False
    async with open_armed(tmp_path, machines) as house:
        one = await ready(house)
        assert one.expires is not None
        await machines.until_asked(1)
    machines.reachable = True
    async with open_armed(tmp_path, machines) as house:
        await armed(house, one, one.expires)
        assert machines.known[one.id] == one.expires
        await end(house, one)


async def test_of_two_extensions_at_once_the_machine_knows_the_last(tmp_path: Path) -> None:
    machines = Machines()
    async with open_armed(tmp_path, machines) as house:
        one = await ready(house)
        assert one.expires is not None
        await armed(house, one, one.expires)
        machines.delay = 0.3
        ends = [one.expires + timedelta(hours=hours) for hours in (3, 1, 2)]
        await asyncio.gather(*(house.instances.extend(one.id, each) for each in ends))
        last = (await house.instances.records.get(one.id)).expires
        assert last in ends
        await armed(house, one, last)
        assert machines.known[one.id] == last
        await end(house, one)


async def test_a_machine_that_answers_nothing_holds_an_extension_up_for_a_while_only(
    tmp_path: Path, monkeypatch: Any
) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr(arming, "PATIENCE", 0.2)
    machines = Machines()
    async with open_armed(tmp_path, machines) as house:
        one = await ready(house)
        assert one.expires is not None
        await armed(house, one, one.expires)
        machines.delay = 600
        async with asyncio.timeout(10):
            await house.instances.extend(one.id, one.expires + timedelta(hours=1))
        assert "no answer within 0.2 s" in await story(house, one.id)
        await end(house, one)


async def test_a_machine_does_not_end_while_it_is_saved(tmp_path: Path) -> None:
    timing = Timing(before_end=60)
    async with open_house(tmp_path, CLOUD) as house:
        plain, saving = await ready(house), await ready(house, before_end=["true"])
        assert own_end(plain, timing) == plain.expires
        assert saving.expires is not None
        assert own_end(saving, timing) == saving.expires + timedelta(seconds=90)
        await end(house, plain, saving)
