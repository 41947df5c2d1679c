"""Applications in a session of the hub: their cards, who gets in, and what is left when the session is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import aiohttp
import psutil
import pytest

from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

pytest.importorskip(
    "jupyter_server_proxy", reason="needs jupyter-server-proxy: pip install 'gridcloud[apps]'"
)

SERVER = "import os; print(os.getppid())"

LISTEN = """
import socket
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
listener.accept()[0].send(b"HTTP/1.0 204 x\\r\\n\\r\\n")
"""


def processes_of(name: str) -> list[psutil.Process]:
    """The processes of an application, wherever they hang."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GRIDCLOUD_APP", "").endswith(f"/{name}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def listen(account: str) -> asyncio.subprocess.Process:
    """Have an account listen on a port, which it prints, and answer once."""
    return await asyncio.create_subprocess_exec(
        *("/usr/bin/python3", "-c", LISTEN), user=account, cwd="/", stdout=asyncio.subprocess.PIPE
    )


async def text_of(client: aiohttp.ClientSession, url: str, status: int = 200) -> str:
    async with client.get(url) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return text


async def test_cards_and_who_gets_in(house: UpHouse) -> None:
    async with house.api() as client:
        path = await house.spawn(client, "ada")
        bens = await house.user(client, "ben")
        async with client.get(f"{path}server-proxy/servers-info") as answer:
            told = (await answer.json())["server_processes"]
        cards = {one["name"]: one["launcher_entry"] for one in told if one["launcher_entry"]["enabled"]}
        assert {
            name: card["title"] for name, card in cards.items() if name in ("desktop", "code", "dask")
        } == {
            "desktop": "Desktop",
            "code": "VS Code",
            "dask": "Dask dashboard",
        }
        async with client.get(cards["desktop"]["icon_url"]) as answer:
            assert answer.content_type == "image/svg+xml"
        assert "No Dask cluster runs in this session" in await text_of(client, f"{path}dask/")
        assert len(processes_of("dask")) == 1
        async with house.api(bens) as ben, house.stranger() as nobody:
            for address in ("dask/", "desktop-stream/", "proxy/1/", "server-proxy/servers-info"):
                await text_of(ben, f"{path}{address}", 403)
                async with nobody.get(f"{path}{address}", allow_redirects=False) as answer:
                    assert answer.status in (302, 403)
            for other in (ben, nobody):
                for address in ("dask/ws", "desktop-stream/", "proxy/1/ws"):
                    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                        await other.ws_connect(f"{path}{address}")
                    assert refused.value.status == 403
        await house.stop_server(client, "ada")
    assert processes_of("dask") == []


@pytest.mark.needs_root
async def test_what_others_listen_on_is_no_page_of_a_session(house: UpHouse) -> None:
    async with house.api() as client:
        path = await house.spawn(client, "ada")
        listeners = [await listen("root"), await listen("nobody")]
        try:
            ports = []
            for one in listeners:
                assert one.stdout is not None
                ports.append(int(await one.stdout.readline()))
            await text_of(client, f"{path}proxy/{ports[0]}/", 204)
            assert "is not allowed" in await text_of(client, f"{path}proxy/{ports[1]}/", 403)
        finally:
            for one in listeners:
                if one.returncode is None:
                    one.kill()
                await one.communicate()
        await house.stop_server(client, "ada")


async def test_nothing_is_left_of_a_killed_session(house: UpHouse) -> None:
    async with house.api() as client:
        path = await house.spawn(client, "ada")
        await text_of(client, f"{path}dask/")
        async with open_kernel(client, path) as kernel:
            server = int(await kernel.run(SERVER))
        folders = [os.path.dirname(one.environ()["GRIDCLOUD_APP"]) for one in processes_of("dask")]
        assert len(folders) == 1
        os.kill(server, signal.SIGKILL)
        async with asyncio.timeout(30):
            while processes_of("dask") or os.path.exists(folders[0]):  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.05)
            while await house.server(client, "ada"):  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.2)


@pytest.mark.lab
async def test_a_dashboard_of_dask(make_house: Callable[..., UpHouse]) -> None:
    pytest.importorskip("distributed", reason="needs Dask: pip install 'gridcloud[apps]'")
    house = make_house()
    house.start()
    try:
        async with house.api() as client:
            path = await house.spawn(client, "ada")
            async with open_kernel(client, path) as kernel:
                said = await kernel.run(
                    "from dask.distributed import Client\n"
                    "client = Client(n_workers=1, threads_per_worker=1, processes=False, "
                    'dashboard_address="127.0.0.1:0")\n'
                    "print(client.dashboard_link)"
                )
                link = said.split()[-1]
                assert link.startswith(f"{path}proxy/")
                assert link.endswith("/status")
                async with client.get(f"{path}dask/") as answer:
                    assert answer.status == 200
                    assert answer.url.path == link
                    assert "Dask: Status" in await answer.text()
            await house.stop_server(client, "ada")
    finally:
        house.stop()
