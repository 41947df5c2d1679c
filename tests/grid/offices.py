"""Real institutions in one process: each with a store, keys in a folder, and a door on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gridcloud.clock import SystemClock
from gridcloud.grid.model import Community
from gridcloud.grid.office import Capacities, Office
from gridcloud.settings.grid import GridSettings
from gridcloud.store import Store, open_store

OPEN = GridSettings(listen="127.0.0.1:0", addresses=("https://127.0.0.1:0",))
"""Reached on loopback."""
CLOSED = GridSettings(allowed_addresses=("127.0.0.0/8",))
"""Listens nowhere."""


class OffClock(SystemClock):
    """The computer's clock, off by so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)


class Place:
    """One institution, which can be closed, killed and opened again."""

    def __init__(self, folder: Path, name: str, settings: GridSettings = OPEN, seconds: float = 0.0) -> None:
        self.folder = folder / name
        self.name = name
        self.settings = settings
        self.clock = OffClock(seconds)
        self.capacities: Capacities | None = None
        self.prepare: Callable[[Office], None] = lambda office: None
        self.store: Store
        self.office: Office

    async def open(self) -> Office:
        """Open the store and the office, and begin."""
        self.folder.mkdir(exist_ok=True)
        self.store = await open_store(self.folder / "store.sqlite", self.clock)
        self.office = await Office.open(
            lambda: self.settings, self.folder / "grid", self.store, self.clock, capacities=self.capacities
        )
        self.prepare(self.office)
        await self.office.start()
        return self.office

    async def close(self) -> None:
        """Close as a service does that ends."""
        await self.office.close()
        await self.store.close()

    async def kill(self) -> None:
        """Drop everything as it is: nothing is stored any more."""
        await self.store.close()  # what comes later fails
        with contextlib.suppress(Exception):
            await self.office.close()
        await self.store.close()


@contextlib.asynccontextmanager
async def places(
    folder: Path, *names: str, settings: GridSettings = OPEN, begin: bool = True
) -> AsyncIterator[list[Place]]:
    """Give institutions that are open and initialised, strangers to each other."""
    made = [Place(folder, name, settings) for name in names]
    try:
        for place in made:
            await place.open()
            if begin:
                await place.office.init(place.name)
        yield made
    finally:
        for place in made:
            await place.close()


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Return when it holds; real sockets are at work meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another institution
            await asyncio.sleep(0.02)


async def acquaint(host: Place, *guests: Place, community: str = "north") -> Community:
    """Have a host found a community, and the guests join it; return when all know all."""
    if community not in {one.name for one in host.office.communities()}:
        await host.office.found(community)
    for guest in guests:
        _, invitation = await host.office.invite(community, guest.office.me)
        await guest.office.join(invitation, host.office.me)
    everybody = [host, *guests]
    await until(lambda: all(_knows(one, everybody, community) for one in everybody))
    return host.office.community(community)


def _knows(one: Place, everybody: list[Place], community: str) -> bool:
    ids = {other.office.me for other in everybody}
    found = one.office.community(community)
    there = {member.institution for member in found.members if member.profile is not None}
    keys = all(one.office.keys_of(who) is not None for who in ids)
    return ids <= there and keys and not found.joining
