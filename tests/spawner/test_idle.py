"""A session that nobody uses ends itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gridcloud.spawner.session_spawner import idle_words
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse


def test_idle_is_asked_of_the_session() -> None:
    assert idle_words(0) == ()
    words = idle_words(3600)
    assert "--ServerApp.shutdown_no_activity_timeout=3600" in words
    assert "--MappingKernelManager.cull_interval=60" in words


@pytest.mark.lab  # Jupyter's server looks once a minute whether it is still used
@pytest.mark.timeout(300)
async def test_an_idle_session_ends_and_a_busy_one_does_not(make_house: Callable[..., UpHouse]) -> None:
    house = make_house(session={"idle": 2})
    house.start()
    try:
        async with house.api() as client:
            path = await house.spawn(client, "ada")
            async with open_kernel(client, path) as kernel:
                assert await kernel.run("import time; time.sleep(5); print('done')") == "done\n"
            for _ in range(1000):
                if not await house.server(client, "ada"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(house.logs())
    finally:
        house.stop()
