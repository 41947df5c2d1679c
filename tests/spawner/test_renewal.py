"""Service and hub begin anew with what is installed, under a kernel's open websocket."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.mark.keeps("the house's new processes")
async def test_an_upgrade_cuts_no_websocket(make_house: Callable[..., UpHouse]) -> None:
    house = make_house(logs={"format": "json"})
    house.start(timeout=500)
    assert house.process is not None
    words = ("configurable-http-proxy", "gridcloud.service", "gridcloud.spawner.hub")
    async with house.api() as client:
        path = await house.spawn(client, "ada")
        async with open_kernel(client, path) as kernel:
            assert await kernel.run("x = 41; print(x)") == "41\n"
            before = [house.child(one).pid for one in words]
            os.kill(house.process.pid, signal.SIGUSR1)
            for _ in range(3000):
                if house.said().count("is back") == 2:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(house.said() + house.logs())
            after = [house.child(one).pid for one in words]
            assert after[0] == before[0], "the proxy stays"
            assert after[1] != before[1]
            assert after[2] != before[2]
            assert await kernel.run("x += 1; print(x)") == "42\n"
        assert (await house.server(client, "ada")).get("ready")
        async with client.get("/hub/gridcloud/health/ready") as answer:
            assert answer.status == 200
    for name in ("service", "hub"):
        for line in (house.data / "logs" / f"{name}.log").read_text().splitlines():
            assert line.startswith("{"), line
    assert house.stop() == 0
