"""Two hubs, each with a service and proxy of its own, over one store and one PostgreSQL server."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from gridcloud.client import connect_async
from gridcloud.sessions.model import State
from tests.spawner.conftest import HERE
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse
from tests.unit import postgresql

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hubs(make_house: Callable[..., UpHouse]) -> Iterator[list[UpHouse]]:
    """Two hubs that are up; their providers have the same name, as their entries are meant to."""
    pytest.importorskip("psycopg", reason=postgresql.INSTALL)
    programs = postgresql.find_programs()
    if programs is None:
        pytest.skip(postgresql.INSTALL)
    with postgresql.serve(programs) as folder:
        made = []
        for name in ("shared", "hub0", "hub1"):
            subprocess.run(
                [programs / "createdb", "-h", folder, "-U", "gridcloud", name],
                check=True,
                capture_output=True,
            )
        for number in range(2):
            house = make_house({"here": HERE}, store={"url": f"postgresql://gridcloud@/shared?host={folder}"})
            house.settings["hub"]["database"] = f"postgresql://gridcloud@/hub{number}?host={folder}"
            house.write()
            house.start(timeout=500)
            made.append(house)
        yield made
        for house in made:
            house.stop()


async def back(house: UpHouse, words: str, before: int) -> None:
    """Return when a new child runs, and all parts answer."""
    async with asyncio.timeout(400), house.api() as client:
        while True:
            await asyncio.sleep(0.2)
            try:
                new = house.child(words).pid != before
                async with client.get("/hub/gridcloud/health/ready") as answer:
                    if new and answer.status == 200:
                        return
            except (LookupError, OSError):
                continue


@pytest.mark.keeps("the hubs' new processes")
async def test_neither_takes_the_others_sessions_for_lost(hubs: list[UpHouse]) -> None:
    one, two = hubs
    async with one.api() as first, two.api() as second:
        path = await one.spawn(first, "ada")
        other = await two.spawn(second, "ben")
        async with open_kernel(first, path) as kernel, open_kernel(second, other) as kernel2:
            assert await kernel.run("x = 41; print(x)") == "41\n"
            assert await kernel2.run("y = 1; print(y)") == "1\n"
            # A hub looks for lost sessions when it starts: of all from before then, at once.
            hub = one.child("gridcloud.spawner.hub")
            hub.kill()
            await back(one, "gridcloud.spawner.hub", hub.pid)
            service = two.child("gridcloud.service")
            service.kill()
            await back(two, "gridcloud.service", service.pid)
            assert await kernel.run("x += 1; print(x)") == "42\n"
            assert await kernel2.run("y += 1; print(y)") == "2\n"
        for house in hubs:
            log = (house.data / "logs" / "hub.log").read_text()
            assert "no server is it" not in log
        async with await connect_async(data=one.data, alone=True) as service_one:
            everything = {session.owner: session for session in await service_one.sessions()}
            assert set(everything) == {"ada", "ben"}
            assert everything["ada"].keeper != everything["ben"].keeper
            assert [session.owner for session in await service_one.sessions(here=True)] == ["ada"]
            # One that is its own and no server's is still found: a session that no hub knows.
            lost = await service_one.start_session(
                everything["ada"].request, everything["ada"].plan, owner="cy", name="lost"
            )
            began = datetime.now(UTC)
            hub = one.child("gridcloud.spawner.hub")
            hub.kill()
            await back(one, "gridcloud.spawner.hub", hub.pid)
            assert lost.created < began
            for _ in range(300):
                if (await service_one.session(lost.id)).state in (State.ENDING, State.ENDED, State.FAILED):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(one.logs())


async def test_the_end_of_one_hub_leaves_the_others_sessions(hubs: list[UpHouse]) -> None:
    one, two = hubs
    async with two.api() as second:
        if not (await two.server(second, "ben")).get("ready"):
            await two.spawn(second, "ben")
        assert one.stop() == 0
        async with await connect_async(data=two.data, alone=True) as service:
            assert [session.owner for session in await service.sessions()] == ["ben"]
        async with second.get("/user/ben/api/status") as answer:
            assert answer.status == 200
