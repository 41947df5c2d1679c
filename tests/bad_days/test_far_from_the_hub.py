"""Bad days of a session far from its hub: all that leads there dies, the network is gone, the home is full.

The kernel's websocket goes through the hub's proxy and the service's SSH connection: the death of the hub cuts it
nowhere, that of the other two does, and it comes back to the same kernel.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import psutil
import pytest

from gridcloud.client import connect_async
from tests import houses
from tests.bad_days.test_under_way import SPECS
from tests.labs.machines import Machine
from tests.spawner.kernel import Kernel, open_kernel
from tests.spawner.test_deaths import back
from tests.spawner.uphouse import UpHouse

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(600)]

HUB, SERVICE, PROXY = "gridcloud.spawner.hub", "gridcloud.service", "configurable-http-proxy"

SMALL = {"cpus": 0.5, "memory": "512MiB"}


@pytest.fixture
def far(make_house: Callable[..., UpHouse], ssh_machine: Machine) -> Iterator[UpHouse]:
    """A hub whose sessions are on a machine."""
    house = make_house({"far": houses.machines(ssh_machine)}, limits={"retry_first": 0.1, "silence": 150})
    house.start()
    yield house
    house.stop()


@asynccontextmanager
async def again(client: aiohttp.ClientSession, path: str, kernel: str) -> AsyncIterator[Kernel]:
    """Open a kernel's websocket, as often as it takes: what JupyterLab does when it was cut."""
    deadline = time.monotonic() + 90
    while True:
        try:
            websocket = await client.ws_connect(f"{path}api/kernels/{kernel}/channels", max_msg_size=0)
            break
        except (aiohttp.ClientError, OSError):
            assert time.monotonic() < deadline, "it does not come back"
            await asyncio.sleep(0.2)
    try:
        yield Kernel(websocket, kernel)
    finally:
        await websocket.close()


async def test_all_that_leads_there_dies_in_turn_and_together(far: UpHouse) -> None:
    async with far.api() as client:
        path = await far.spawn(client, "ada", SMALL)
        async with open_kernel(client, path) as kernel:
            assert await kernel.run("x = 41; print(x)") == "41\n"
            await die(far, HUB)
            assert await kernel.run("x += 1; print(x)") == "42\n", "the hub's death cuts nothing"
        for victims in ((SERVICE,), (PROXY,), (HUB, SERVICE), (HUB, PROXY, SERVICE)):
            began = time.monotonic()
            await die(far, *victims)
            async with again(client, path, kernel.id) as new:
                assert await new.run("x += 1; print(x > 42)") == "True\n", victims
            print(f"{', '.join(victims)}: {time.monotonic() - began:.1f} s")
        async with again(client, path, kernel.id) as new:
            assert await new.run("print(x)") == "46\n"
        assert (await far.server(client, "ada")).get("ready")
        await far.stop_server(client, "ada")
    async with await connect_async(data=far.data, alone=True) as gridcloud:
        assert await gridcloud.instances(owner="ada") == []


async def die(house: UpHouse, *words: str) -> None:
    """Kill children at once, and return when all are back."""
    victims = {one: house.child(one) for one in words}
    for victim in victims.values():
        victim.kill()
    for one, victim in victims.items():
        for _ in range(900):
            with suppress(LookupError, psutil.Error):
                if house.child(one).pid != victim.pid:
                    break
            await asyncio.sleep(0.1)
    deadline = time.monotonic() + 90
    while True:
        try:
            await back(house, words[0], victims[words[0]].pid)
            return
        except (aiohttp.ClientError, OSError):  # the proxy is on its way
            assert time.monotonic() < deadline, house.logs()


COUNTING = "import time\nfor n in range({count}):\n    print(n, flush=True); time.sleep(0.5)"


async def test_the_network_is_gone_for_a_minute(far: UpHouse, ssh_machine: Machine) -> None:
    """The kernel goes on and its websocket comes back. What Jupyter's server sent into the cut is lost, no more."""
    async with far.api() as client:
        path = await far.spawn(client, "ada", SMALL)
        async with client.post(f"{path}api/kernels", json={}) as answer:
            made = (await answer.json())["id"]
        page = Page(client, f"{path}api/kernels/{made}/channels?session_id={uuid.uuid4().hex}")
        reading = asyncio.create_task(page.read(COUNTING.format(count=160)))
        await asyncio.sleep(5)
        ssh_machine.cut()
        began = time.monotonic()
        async with client.get("/hub/home") as answer:
            assert answer.status in (200, 403)
        await asyncio.sleep(60)
        ssh_machine.heal()
        page.heard.clear()
        before = len(page.said)
        try:
            async with asyncio.timeout(120):
                await page.heard.wait()
                print(f"heard again {time.monotonic() - began - 60:.1f} s after the network was back")
                await reading
        except TimeoutError:
            reading.cancel()
            raise AssertionError(f"{page.opened} websockets; {page.said}{far.logs()}") from None
        lost = sorted(set(range(160)) - set(map(int, page.said.split())))
        print(f"websockets: {page.opened}; lost: {lost}")
        assert (await far.server(client, "ada")).get("ready")
        async with again(client, path, made) as kernel:
            assert await kernel.run("print(n)") == "159\n"
        again_at = int(page.said[before:].split()[0])
        assert lost == list(range(lost[0], again_at)) if lost else True, "all that came after it was back"
        await far.stop_server(client, "ada")


class Page:
    """What JupyterLab does with a kernel: run one cell, and open the websocket again whenever it was cut."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self.client, self.url = client, url
        self.said, self.opened = "", 0
        self.heard = asyncio.Event()

    async def read(self, code: str) -> None:
        """Run a cell and return when it has ended."""
        request: dict[str, Any] | None = {
            "header": {
                "msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "s", "username": "u",
                "version": "5.3", "date": "",
            },
            "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
            "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
        }  # fmt: skip
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self.client.ws_connect(self.url, max_msg_size=0, heartbeat=20) as websocket:
                    self.opened += 1
                    if request is not None:
                        await websocket.send_json(request)
                        request = None
                    async for message in websocket:
                        if message.type is aiohttp.WSMsgType.TEXT and self._take(message.json()):
                            return
            await asyncio.sleep(1)

    def _take(self, message: dict[str, Any]) -> bool:
        """Keep what was printed; tell whether the cell has ended."""
        if message["msg_type"] == "stream":
            self.said += message["content"]["text"]
            self.heard.set()
        ended = message["msg_type"] == "execute_reply"
        return ended and message["parent_header"].get("msg_type") == "execute_request"


async def test_a_machine_that_was_started_anew_is_said_so_and_serves_again(
    far: UpHouse, ssh_machine: Machine
) -> None:
    async with far.api() as client:
        await far.spawn(client, "ada", SMALL)
        ssh_machine.execute("sh", "-c", "sed -i 's/ [^ ]*-[0-9]* \\([0-9]*\\)$/ earlier-1 \\1/' " + SPECS)
        for _ in range(900):
            if not await far.server(client, "ada"):
                break
            await asyncio.sleep(0.1)
        assert "started anew" in (far.data / "logs" / "hub.log").read_text() + await ended(far)
        await far.spawn(client, "ada", SMALL)
        await far.stop_server(client, "ada")


async def ended(house: UpHouse) -> str:
    """Return why sessions have ended."""
    async with await connect_async(data=house.data, alone=True) as gridcloud:
        return " ".join([one.detail for one in await gridcloud.sessions(all=True)])


SMALL_HOME = """
set -e; home=$1; owner=$(stat -c %u:%g "$home")
mount -t tmpfs -o size=4m,mode=700 none "$home"; chown "$owner" "$home"
"""

FILL = """
try:
    with open("big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    print(error.strerror)
"""


async def test_a_full_home_opens_and_says_so(far: UpHouse, ssh_machine: Machine) -> None:
    async with far.api() as client:
        path = await far.spawn(client, "ada", SMALL)
        async with open_kernel(client, path) as kernel:
            home = (await kernel.run("import os; print(os.environ['HOME'])")).strip()
        await far.stop_server(client, "ada")
        ssh_machine.execute("sh", "-c", SMALL_HOME, "sh", home)
        path = await far.spawn(client, "ada", SMALL)
        async with open_kernel(client, path) as kernel:
            assert await kernel.run(FILL) == "No space left on device\n"
            assert await kernel.run("print('it goes on')") == "it goes on\n"
        await far.stop_server(client, "ada")
        path = await far.spawn(client, "ada", SMALL)
        async with client.get(f"{path}lab") as answer:
            assert answer.status == 200
            assert "jupyter-config-data" in await answer.text()
        async with open_kernel(client, path) as kernel:
            assert await kernel.run("print(6 * 7)") == "42\n"
            assert "Error" in await kernel.run("open('more', 'w').write('x' * 100000)")
        async with await connect_async(data=far.data, alone=True) as gridcloud:
            session = (await gridcloud.sessions(owner="ada"))[-1]
            told = [
                one.message async for one in gridcloud.session_events(session.id) if one.type == "warning"
            ]
        assert any(
            "Nothing can be saved in the home folder" in words and "No space left on device" in words
            for words in told
        ), told
        async with client.delete(f"{path}api/contents/big") as answer:
            assert answer.status == 204, "what is in the way can be deleted"
        await far.stop_server(client, "ada")
