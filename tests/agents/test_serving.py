"""An agent's SSH server keeps the promises of a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents.serving import Account, Serving, serve
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address, ContainerAddress, LocalAddress, Port, SSHAddress
from gridcloud.errors import Forbidden, PortTaken, Untrusted
from gridcloud.testing.connections import Connect, ConnectionContract, FileCredentials
from tests.connections.test_container import container
from tests.labs.containers import Engine


class Door:
    """A Unix socket behind which an agent's server answers."""

    def __init__(self, folder: Path, instance: Address) -> None:
        self.socket = folder / "agent.sock"
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "authority").write_bytes(self.authority.export_private_key())
        (folder / "authority").chmod(0o600)
        self.credentials = FileCredentials(folder / "none", folder / "authority")
        self._instance = instance
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    def address(self, **changes: str) -> SSHAddress:
        words = {
            "host": "lab-pc",
            "socket": str(self.socket),
            "user": "i-1",
            "principal": "gridcloud-i-1",
            "directory": self._instance.directory,
        } | changes
        key = self.key.export_public_key().decode().strip()
        return SSHAddress.model_validate({**words, "host_keys": (key,)})

    def find(self, name: str) -> Account | None:
        if name != "i-1":
            return None
        return Account(
            "gridcloud-i-1",
            self._instance.directory,
            lambda: connections.open(self._instance, self.credentials),
        )

    async def open(self) -> None:
        authority = self.authority.export_public_key().decode().strip()
        serving = Serving(self.key, authority, self.find)

        async def answer(link: socket.socket) -> None:
            try:
                await serve(link, serving)
            except (asyncssh.Error, OSError):
                link.close()

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen(50)
        listener.setblocking(False)

        async def accept() -> None:
            with listener:
                while True:
                    link, _ = await asyncio.get_running_loop().sock_accept(listener)
                    task = asyncio.create_task(answer(link))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

        self._tasks.add(asyncio.create_task(accept()))

    async def close(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    return place


@pytest.fixture
async def door(tmp_path: Path, folder: Path) -> AsyncIterator[Door]:
    door = Door(tmp_path, LocalAddress(directory=str(folder)))
    await door.open()
    yield door
    await door.close()


class TestAgentServer(ConnectionContract):
    @pytest.fixture
    async def connect(self, door: Door) -> Connect:
        async def connect() -> Connection:
            return await connections.open(door.address(), door.credentials)

        return connect


@pytest.fixture(scope="module")
def address(podman_engine: Engine) -> Iterator[ContainerAddress]:
    with container(podman_engine, tmpfs={"/tmp": "mode=1777"}) as made:
        yield made


@pytest.mark.needs_root
class TestAgentServerOfContainers(ConnectionContract):
    """Of a container without a network: all goes through what its engine runs within."""

    @pytest.fixture
    async def connect(self, tmp_path: Path, address: ContainerAddress) -> AsyncIterator[Connect]:
        door = Door(tmp_path, address)
        await door.open()

        async def connect() -> Connection:
            return await connections.open(door.address(), door.credentials)

        yield connect
        await door.close()


async def test_only_the_instances_own_principal_comes_in(door: Door) -> None:
    for changes in ({"principal": "gridcloud-i-2"}, {"user": "i-2"}, {"user": "root"}):
        with pytest.raises(Forbidden):
            await connections.open(door.address(**changes), door.credentials)


async def test_another_machines_key_is_not_believed(door: Door) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(Untrusted):
        await connections.open(door.address().model_copy(update={"host_keys": (other,)}), door.credentials)


async def test_nothing_listens_for_others(door: Door) -> None:
    connection = await connections.open(door.address(), door.credentials)
    try:
        for everywhere in ("", "0.0.0.0", "::"):  # noqa: S104 - what is to be refused
            with pytest.raises(PortTaken):
                await connection.expose(Port(port=9), Port(host=everywhere))
        there = await connection.expose(Port(port=9), Port(host="127.0.0.1"))
        await there.close()
    finally:
        await connection.close()
