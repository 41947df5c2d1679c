"""A session that nobody uses is ended, and one that works goes on for as long as it likes: by one setting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gridcloud.client import connect_async
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse


@pytest.mark.lab  # what was done within a minute is use
@pytest.mark.timeout(560)
async def test_an_idle_session_ends_and_a_busy_one_does_not(make_house: Callable[..., UpHouse]) -> None:
    house = make_house(session={"idle": 5})
    house.start()
    try:
        async with house.api() as client, await connect_async(data=house.data, alone=True) as service:
            path = await house.spawn(client, "ada")
            (session,) = await service.sessions()
            async with open_kernel(client, path) as kernel:
                # What a kernel does that only sleeps is seen by nothing but its being busy.
                busy = asyncio.create_task(kernel.run("import time; time.sleep(80); print('done')"))
                done, _ = await asyncio.wait({busy}, timeout=75)
                assert not done
                assert (await service.session(session.id)).ended is None
                assert await busy == "done\n"
            for _ in range(2400):
                if not await house.server(client, "ada"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(house.logs())
            last = await service.session(session.id)
            assert (last.reason, "It was not used for" in last.detail) == ("idle", True)
    finally:
        house.stop()
