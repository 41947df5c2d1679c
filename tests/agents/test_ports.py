"""Ports through an agent's server: many at once, few kept open, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents import ports
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import LocalAddress, Port, Socket
from gridcloud.connections.ssh import SSHConnection
from gridcloud.errors import PortTaken
from gridcloud.testing.connections import answers, echo_server, talk
from tests.agents.machines import until
from tests.agents.test_serving import Door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    (tmp_path / "files").mkdir()
    door = Door(tmp_path, LocalAddress(directory=str(tmp_path / "files")))
    await door.open()
    yield door
    await door.close()


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders for a while are made."""
    place = Path(tempfile.mkdtemp(prefix="gcp", dir="/tmp"))
    # What is made there is to be seen apart from what others make.
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
async def connection(door: Door, private: Path) -> AsyncIterator[Connection]:
    opened = await connections.open(door.address(), door.credentials)
    yield opened
    await opened.close()
    await until(lambda: not any(private.iterdir()), list(private.iterdir()))
    private.rmdir()


async def test_many_at_once_and_one_that_is_slow(connection: Connection, tmp_path: Path) -> None:
    async with echo_server(Port()) as echo:
        forward = await connection.forward(echo, Socket(path=str(tmp_path / "local")))
        slow_reader, slow_writer = await asyncio.open_unix_connection(str(tmp_path / "local"))
        slow_writer.write(bytes(1 << 20))  # and reads nothing of it yet
        data = os.urandom(1 << 18)
        said = await asyncio.gather(*(talk(forward.endpoint, data) for _ in range(24)))
        assert said == [data] * 24
        assert await slow_reader.readexactly(1 << 20) == bytes(1 << 20)
        slow_writer.close()


async def test_places_that_nobody_uses_are_forgotten(
    connection: Connection, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that few show it.
    monkeypatch.setattr(ports, "KEPT", 4)
    monkeypatch.setattr(ports, "PLACES", 8)
    assert isinstance(connection, SSHConnection)
    async with echo_server(Port()) as echo:
        assert isinstance(echo, Port)
        for number in range(10):
            forward = await connection.forward(
                Socket(path=f"nothing-{number}"), Socket(path=str(tmp_path / "local"))
            )
            assert not await answers(forward.endpoint)
            await forward.close()
        used = await connection.forward(echo, Socket(path=str(tmp_path / "used")))
        assert await answers(used.endpoint)
        assert len(list(private.glob("*/*"))) <= 5
        # Those in use are kept, up to a limit.
        held = [await connection._main.open_connection("127.0.0.1", echo.port, encoding=None)]
        for number in range(7):
            server = await asyncio.start_unix_server(lambda *_: None, str(tmp_path / f"s{number}"))
            held.append(
                await connection._main.open_unix_connection(str(tmp_path / f"s{number}"), encoding=None)
            )
            server.close()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection._main.open_unix_connection(str(tmp_path / "one-more"), encoding=None)
        for _, writer in held:
            writer.close()


async def test_listeners_are_few(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that few show it.
    monkeypatch.setattr(ports, "LISTENERS", 2)
    async with echo_server(Port()) as echo:
        exposed = [await connection.expose(echo, Socket(path=f"there-{number}")) for number in range(2)]
        with pytest.raises(PortTaken):
            await connection.expose(echo, Socket(path="there-2"))
        await exposed[0].close()
        again = await connection.expose(echo, Socket(path="there-0"))
        forward = await connection.forward(again.endpoint, Port())
        assert await answers(forward.endpoint)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "169.254.169.254", "", "127.0.0.1.example.org"])
async def test_nothing_of_the_network_around_is_reached(connection: Connection, host: str) -> None:
    assert isinstance(connection, SSHConnection)
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection._main.open_connection(host, 80, encoding=None)
