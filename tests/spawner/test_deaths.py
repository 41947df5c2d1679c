"""What dies comes back, and what runs goes on."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from gridcloud.client import connect_async
from gridcloud.errors import Unreachable
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse


@pytest.fixture(scope="module")
def sturdy(make_house: Callable[..., UpHouse]) -> UpHouse:
    """A house of this module's own."""
    house = make_house()
    house.start()
    return house


async def back(house: UpHouse, words: str, before: int) -> None:
    """Return when a new child runs, the hub answers, and the service does."""
    deadline = time.monotonic() + 60
    async with house.api() as client:
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            try:
                new = house.child(words).pid != before
            except LookupError:
                continue
            async with client.get("/hub/api/user") as answer:
                if not new or answer.status != 200:
                    continue
            try:
                await (await connect_async(data=house.data, alone=True)).close()
            except Unreachable:
                continue
            return
    raise TimeoutError(house.logs())


@pytest.mark.keeps("the house's new process")
async def test_a_killed_hub_cuts_no_kernel_and_finds_its_sessions(sturdy: UpHouse) -> None:
    async with sturdy.api() as client:
        path = await sturdy.spawn(client, "ada")
        async with open_kernel(client, path) as kernel:
            assert await kernel.run("x = 41; print(x)") == "41\n"
            hub = sturdy.child("gridcloud.spawner.hub")
            hub.kill()
            assert await kernel.run("x += 1; print(x)") == "42\n"
            await back(sturdy, "gridcloud.spawner.hub", hub.pid)
            assert await kernel.run("print(x)") == "42\n"
            for _ in range(100):
                if (await sturdy.server(client, "ada")).get("ready"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(sturdy.logs())
            async with client.get(f"{path}api/status") as answer:
                assert (await answer.json())["kernels"] == 1
        await sturdy.stop_server(client, "ada")
        async with client.get("/hub/api/users/ada/tokens") as answer:
            notes = [token["note"] for token in (await answer.json())["api_tokens"]]
        assert "Server at /user/ada/" not in notes


@pytest.mark.keeps("the house's new process")
async def test_a_start_that_its_hub_did_not_survive_leaves_nothing(sturdy: UpHouse) -> None:
    async with sturdy.api() as client, await connect_async(data=sturdy.data, alone=True) as gridcloud:
        for pause in (0.02, 0.2):
            await sturdy.user(client, "ben")
            post = asyncio.create_task(_start(client, "ben"))
            await asyncio.sleep(pause)
            hub = sturdy.child("gridcloud.spawner.hub")
            hub.kill()
            await asyncio.gather(post, return_exceptions=True)
            await back(sturdy, "gridcloud.spawner.hub", hub.pid)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                server = await sturdy.server(client, "ben")
                if bool(server.get("ready")) == bool(
                    await gridcloud.instances(owner="ben")
                ) and not server.get("pending"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(sturdy.logs())
            if server:
                await sturdy.stop_server(client, "ben")
            for session in await gridcloud.sessions(owner="ben"):
                async for _ in gridcloud.session_events(session.id, follow=True):
                    pass
            assert await gridcloud.instances(owner="ben") == []


@pytest.mark.keeps("the house's new process")
async def test_a_killed_service_cuts_no_session_here(sturdy: UpHouse) -> None:
    async with sturdy.api() as client:
        path = await sturdy.spawn(client, "cara")
        async with open_kernel(client, path) as kernel:
            service = sturdy.child("gridcloud.service")
            service.kill()
            assert await kernel.run("print(6 * 7)") == "42\n"
            await back(sturdy, "gridcloud.service", service.pid)
            assert (await sturdy.server(client, "cara")).get("ready")
            assert await kernel.run("print('still')") == "still\n"
        await sturdy.stop_server(client, "cara")
    async with await connect_async(data=sturdy.data, alone=True) as gridcloud:
        assert await gridcloud.sessions(owner="cara") == []


@pytest.mark.keeps("the house's new process")
async def test_a_killed_proxy_comes_back_with_its_routes(sturdy: UpHouse) -> None:
    async with sturdy.api() as client:
        path = await sturdy.spawn(client, "dora")
        proxy = sturdy.child("configurable-http-proxy")
        proxy.kill()
        deadline = time.monotonic() + 30
        status = 0
        while status != 200 and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            try:
                async with client.get(f"{path}api/status") as answer:
                    status = answer.status
            except OSError:
                continue
        assert status == 200
        await sturdy.stop_server(client, "dora")


async def test_why_a_session_ended_is_said(sturdy: UpHouse) -> None:
    me = getpass.getuser()
    async with sturdy.api() as client, await connect_async(data=sturdy.data, alone=True) as gridcloud:
        await sturdy.spawn(client, me)
        [session] = await gridcloud.sessions(owner=me)
        assert session.program is not None
        os.kill(session.program.pid, signal.SIGKILL)
        for _ in range(300):
            if not await sturdy.server(client, me):
                break
            await asyncio.sleep(0.1)
    async with sturdy.browser() as browser, browser.get("/hub/home") as answer:
        assert "Your session has ended: The program ended with exit code 137." in await answer.text()


@pytest.mark.keeps("the house, anew")
async def test_everything_killed_is_taken_up_and_ctrl_c_ends_all(sturdy: UpHouse) -> None:
    async with sturdy.api() as client:
        path = await sturdy.spawn(client, "fay")
        async with open_kernel(client, path) as kernel:
            pid = int(await kernel.run("import os; print(os.getpid())"))
    assert sturdy.process is not None
    children = psutil.Process(sturdy.process.pid).children()
    sturdy.stop(signal.SIGKILL)
    gone, left = psutil.wait_procs(children, timeout=40)
    assert (len(gone), left) == (3, [])
    assert psutil.pid_exists(pid)
    sturdy.start()
    async with sturdy.api() as client:
        assert (await sturdy.server(client, "fay")).get("ready")
        async with client.get(f"{path}api/status") as answer:
            assert (await answer.json())["kernels"] == 1
    assert sturdy.stop() == 0
    assert not psutil.pid_exists(pid)
    assert "1 session stopped" in sturdy.said()
    sturdy.start()
    async with sturdy.api() as client:
        assert not await sturdy.server(client, "fay")


async def _start(client: object, name: str) -> None:
    async with client.post(f"/hub/api/users/{name}/server", json={}) as answer:  # type: ignore[attr-defined]
        await answer.read()
