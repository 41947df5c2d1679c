"""A house with a course that has seats, and a clock whose hands are moved while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gridcloud.clock import SystemClock
from gridcloud.instances.handing import is_waiting
from gridcloud.instances.model import Instance, Request, State
from gridcloud.service.house import House
from gridcloud.sessions.model import Session
from tests.houses import configure
from tests.sessions.visit import PLAN

__all__ = ["COURSE", "EARLY", "SEATS", "MovedClock", "ask", "open_course", "ready", "seats_of"]

EARLY = datetime(2028, 9, 5, 6, 49, tzinfo=UTC)
"""A Tuesday, 08:49 in Oslo."""

SEATS: dict[str, Any] = {
    "days": "tuesday", "opens": "08:50", "closes": "11:00", "time_zone": "Europe/Oslo", "count": 2,
}  # fmt: skip

COURSE: dict[str, Any] = {"teachers": "ann", "profiles": "lab", "project": "physics", "seats": SEATS}


class MovedClock(SystemClock):
    """The computer's clock, set to another time."""

    def __init__(self, at: datetime = EARLY) -> None:
        super().__init__()
        self.set(at)

    def set(self, at: datetime) -> None:
        self._ahead = at - datetime.now(UTC)

    def move(self, **span: float) -> None:
        self._ahead += timedelta(**span)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead


@contextlib.asynccontextmanager
async def open_course(
    folder: Path,
    clock: MovedClock,
    provider: dict[str, Any],
    course: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[House]:
    """Open a house with the course ``physics``; again over the same folder to see what outlives it."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    sections: dict[str, Any] = {
        "profiles": {"lab": {"request": {"cpus": 0.25, "memory": "128MiB", "time": "2h"}}},
        "courses": {"physics": {**COURSE, **(course or {})}},
        **more,
    }
    house = await House.open(configure(folder, {"there": provider}, **sections), data, clock)
    try:
        yield house
    finally:
        await house.close()


async def seats_of(house: House) -> list[Instance]:
    """Return the live machines that are kept ready, or were asked for to be."""
    return [
        one
        for one in await house.instances.records.live()
        if one.seat and is_waiting(one) and one.state not in (State.STOPPING, State.FAILING)
    ]


async def ready(house: House, count: int) -> list[Instance]:
    """Look after the seats, and return them once they are ready."""
    await house.seats.look()
    seats = await seats_of(house)
    assert len(seats) == count, seats
    async with asyncio.timeout(90):
        return [await house.instances.wait(one.id) for one in seats]


async def ask(house: House, owner: str, **asked: Any) -> Session:
    """Return a session of a member once it answers."""
    request = house.complete(
        Request(**({"cpus": 0.25, "memory": 128 << 20, "time": 3600, "project": "physics"} | asked))
    )
    session = await house.sessions.submit(owner, request, PLAN, name=owner, course="physics")
    async with asyncio.timeout(90):
        return await house.sessions.wait(session.id)
