"""A machine that dials a service over TLS keeps the promises of a connection, through both their doors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents.dialling import Dialler, Way, join
from gridcloud.agents.membership import MembershipFolder
from gridcloud.agents.model import Agent, Terms
from gridcloud.agents.registry import Registry
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import SSHAddress
from gridcloud.errors import (
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    TimedOut,
    Unreachable,
    Untrusted,
)
from gridcloud.testing.connections import Connect, ConnectionContract
from tests.agents.machines import Little, admit, dialling, enter, until
from tests.services import Service, open_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


def address(service: Service, folder: Path, **changes: object) -> SSHAddress:
    presence = service.house.switchboard.present()["lab-pc"]
    return SSHAddress.model_validate(
        {
            "host": "lab-pc",
            "socket": str(service.house.switchboard.socket_to("lab-pc")),
            "user": "i-1",
            "principal": "gridcloud-i-1",
            "directory": str(folder),
            "host_keys": (presence.host_key,),
        }
        | changes
    )


@pytest.fixture
async def machine(service: Service, tmp_path: Path) -> AsyncIterator[Little]:
    folder = tmp_path / "files"
    folder.mkdir()
    little = Little(folder)
    async with dialling(service, *await admit(service, tmp_path / "machine"), little):
        yield little


class TestDialledMachine(ConnectionContract):
    @pytest.fixture
    async def connect(self, service: Service, machine: Little) -> Connect:
        async def connect() -> Connection:
            return await connections.open(address(service, machine.folder), service.house.credentials)

        return connect


async def test_who_writes_http_is_told_that_tls_is_spoken(service: Service, tmp_path: Path) -> None:
    _, token = await service.house.agents.invite("lab-pc", "admin")
    place, port = MembershipFolder(tmp_path / "machine"), service.url.rpartition(":")[2]
    with pytest.raises(InvalidRequest, match=rf"speaks TLS\. Write https://127\.0\.0\.1:{port}\."):
        await join(Way(f"http://127.0.0.1:{port}"), token, place, Terms())
    assert not place.path.exists()
    assert (await enter(service, place.path, token))[1].name == "lab-pc"


async def test_who_may_not_join_keeps_no_key(service: Service, tmp_path: Path) -> None:
    way, place = Way(service.url, ca=service.certificate), MembershipFolder(tmp_path / "machine")
    nowhere = Way("https://127.0.0.1:9")
    _, token = await service.house.agents.invite("one", "admin")
    await enter(service, tmp_path / "first", token)
    with pytest.raises((Forbidden, NotAuthenticated)):
        await join(way, token, place, Terms())
    assert not place.path.exists()
    for stranger in (Way(service.url), nowhere):
        with pytest.raises((Untrusted, Unreachable)):
            await join(stranger, token, place, Terms())
        assert not place.path.exists()
    (tmp_path / "first" / "membership.json").unlink()  # as if its answer had been lost
    with pytest.raises(Unreachable):
        await join(nowhere, token, MembershipFolder(tmp_path / "first"), Terms())
    assert (await enter(service, tmp_path / "first", token))[1].name == "one", "with the key of before"


async def test_where_no_tls_is_spoken_it_is_said(service: Service, tmp_path: Path) -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r\n")
        writer.close()

    _, token = await service.house.agents.invite("lab-pc", "admin")
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as plain:
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable, match="does not speak TLS"):
            await join(Way(url), token, MembershipFolder(tmp_path / "machine"), Terms())


async def test_is_called_and_answers(service: Service, machine: Little) -> None:
    board = service.house.switchboard
    assert await board.call("lab-pc", "look", {"at": 1}) == {"call": "look", "at": 1}
    with pytest.raises(NotFound, match="Look elsewhere"):
        await board.call("lab-pc", "miss", {})
    with pytest.raises(TimedOut):
        await board.call("lab-pc", "sleep", {}, timeout=0.2)
    with pytest.raises(Unreachable, match="has not connected since"):
        await board.call("other", "look", {})
    presence = board.present()["lab-pc"]
    assert (presence.address, presence.report.version) == ("127.0.0.1", "test")


async def test_the_socket_is_for_the_service_alone(service: Service, machine: Little) -> None:
    socket = service.house.switchboard.socket_to("lab-pc")
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Forbidden):
        await connections.open(
            address(service, machine.folder, principal="gridcloud-i-2"), service.house.credentials
        )


async def test_another_key_is_no_machine_of_that_name(service: Service, tmp_path: Path) -> None:
    way, membership, _ = await admit(service, tmp_path / "machine")
    told: list[str] = []
    thief = asyncssh.generate_private_key("ssh-ed25519")
    task = asyncio.create_task(Dialler(way, membership, thief, Little(tmp_path), tell=told.append).run())
    await until(lambda: told)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "HOST KEY MISMATCH" in told[0]
    assert not service.house.switchboard.present()


async def test_a_service_with_another_authority_steers_nothing(service: Service, tmp_path: Path) -> None:
    way, membership, place = await admit(service, tmp_path / "machine")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    told: list[str] = []
    wrong = membership.model_copy(update={"authority": other})
    little = Little(tmp_path)
    task = asyncio.create_task(Dialler(way, wrong, await place.key(), little, tell=told.append).run())
    await until(lambda: told)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not service.house.switchboard.present()
    assert not little.asked


async def test_a_new_connection_takes_the_place_of_the_old(service: Service, tmp_path: Path) -> None:
    joined = await admit(service, tmp_path / "machine")
    first, second = Little(tmp_path), Little(tmp_path)
    async with dialling(service, *joined, first):
        before = service.house.switchboard.present()["lab-pc"].since
        dialler = Dialler(joined[0], joined[1], await joined[2].key(), second)
        task = asyncio.create_task(dialler.run())
        await until(
            lambda: getattr(service.house.switchboard.present().get("lab-pc"), "since", before) > before
        )
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_streams_end_with_the_control_connection(service: Service, machine: Little) -> None:
    connection = await connections.open(address(service, machine.folder), service.house.credentials)
    try:
        await service.house.switchboard.dismiss("lab-pc")
        with pytest.raises(Unreachable):
            await connection.check()
    finally:
        await connection.close()


async def test_strangers_open_nothing(service: Service, machine: Little) -> None:
    async with service.browser(await service.token("mallory")) as session:
        for path in ("nobody/control", "streams/0011223344556677", "streams/%2e%2e"):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"/v1/agents/{path}")
        for path in ("", "/lab-pc"):
            async with session.get(f"/v1/agents{path}") as response:
                assert response.status == 403
        waiting = [await session.ws_connect("/v1/agents/lab-pc/control") for _ in range(3)]
        assert await _hung_up(waiting[0]), "two from one address at a time: who came first goes"
        await waiting[1].send_bytes(b"SSH-2.0-none\r\n" + os.urandom(5000))
        assert (await waiting[2].receive()).data != 4403
        for one in waiting:
            await one.close()
    assert await service.house.switchboard.call("lab-pc", "look", {}) == {"call": "look"}


async def _hung_up(websocket: aiohttp.ClientWebSocketResponse) -> bool:
    while (message := await websocket.receive(timeout=10)).type is aiohttp.WSMsgType.BINARY:
        continue  # our greeting
    return bool(message.data == 4403)


async def test_who_only_waits_keeps_no_machine_out(service: Service, tmp_path: Path) -> None:
    joined = await admit(service, tmp_path / "machine")
    async with service.browser(await service.token("mallory")) as session:
        strangers = [await session.ws_connect("/v1/agents/lab-pc/control") for _ in range(4)]
        async with dialling(service, *joined, Little(tmp_path)):
            assert await service.house.switchboard.call("lab-pc", "look", {}) == {"call": "look"}
        for one in strangers:
            await one.close()


class Removing:
    """A registry of which a machine is removed just after the second look at it: it has logged in by then."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def get(self, name: str) -> Agent:
        found = await self._registry.get(name)
        self._looks += 1
        if self._looks == 2:
            await self._registry.remove(name, "admin")
        return found


async def test_one_that_is_removed_while_it_connects_is_told(service: Service, tmp_path: Path) -> None:
    board, little = service.house.switchboard, Little(tmp_path)
    board._registry = cast(Registry, Removing(service.house.agents))  # the moment is not to be had otherwise
    async with dialling(service, *await admit(service, tmp_path / "machine"), little) as task:
        await asyncio.wait_for(task, 20)
    assert ("remove", {}) in little.asked
    assert not board.present()


async def test_silence_is_death(tmp_path: Path, service: Service) -> None:
    board = service.house.switchboard
    board._silence = 0.6  # twelve seconds are for others
    way, membership, place = await admit(service, tmp_path / "machine")
    async with dialling(service, way, membership, place, Little(tmp_path), beat=30, silence=30) as task:
        await until(lambda: not board.present())
        assert "Nothing was heard for 0.6 s" in board.absence("lab-pc")
        assert not task.done()
