"""Sessions through the hub, on this computer."""

from __future__ import annotations

import asyncio

from gridcloud.client import connect_async
from tests.spawner.uphouse import UpHouse


async def test_a_session_starts_and_stops(house: UpHouse) -> None:
    async with house.api() as client:
        path = await house.spawn(client, "ada", {"cpus": 1, "memory": "512MiB"})
        async with client.get(f"{path}api/status") as answer:
            assert answer.status == 200
            assert (await answer.json())["kernels"] == 0
        await house.stop_server(client, "ada")
    async with await connect_async(data=house.data, alone=True) as gridcloud:
        assert await gridcloud.sessions(owner="ada") == []
        assert await gridcloud.instances(owner="ada") == []


async def test_options_are_checked_whoever_sends_them(house: UpHouse) -> None:
    async with house.api() as client:
        await house.user(client, "eve")
        for options, word in (
            ({"cpuz": 1}, "did you mean cpus"),
            ({"cpus": "many"}, "cpus"),
            ({"cpus": -1}, "cpus"),
            ({"memory": ["4GiB"]}, "memory"),
            ({"kind": "teapot"}, "kind"),
            ({"on": "../../etc"}, "no provider"),
            ({"image": "a\nb"}, "printable"),
        ):
            async with client.post("/hub/api/users/eve/server", json=options) as answer:
                assert answer.status == 400, await answer.text()
                assert word in (await answer.json())["message"]
        assert not await house.server(client, "eve")


async def test_what_cannot_be_had_is_said(house: UpHouse) -> None:
    async with house.api() as client:
        await house.user(client, "eve")
        async with client.post("/hub/api/users/eve/server", json={"gpus": 9000}) as answer:
            assert answer.status == 409
            assert "9000" in (await answer.json())["message"]


async def test_a_cancelled_start_leaves_nothing(house: UpHouse) -> None:
    async with house.api() as client, await connect_async(data=house.data, alone=True) as gridcloud:
        for pause in (0.0, 0.05, 0.2, 0.4):
            await house.user(client, "cara")
            post = asyncio.create_task(_start(client, "cara"))
            while not await house.server(client, "cara"):
                assert not post.done(), house.logs()
            await asyncio.sleep(pause)
            await house.stop_server(client, "cara")
            await post
            for session in await gridcloud.sessions(owner="cara"):
                async for _ in gridcloud.session_events(session.id, follow=True):
                    pass
            assert await gridcloud.instances(owner="cara") == []


async def _start(client: object, name: str) -> None:
    async with client.post(f"/hub/api/users/{name}/server", json={}) as answer:  # type: ignore[attr-defined]
        await answer.read()
