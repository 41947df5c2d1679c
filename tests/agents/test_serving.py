"""An agent's SSH server keeps the promises of a connection."""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents import file_program
from gridcloud.agents.serving import Account, Serving, serve
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address, ContainerAddress, LocalAddress, Port, SSHAddress
from gridcloud.connections.ssh import SSHConnection
from gridcloud.errors import Forbidden, PortTaken, StorageFull, Untrusted
from gridcloud.testing.connections import Connect, ConnectionContract, FileCredentials
from gridcloud.testing.sshd import SSHServer
from tests.connections.test_container import container
from tests.labs.containers import TINY_IMAGE, Engine


class Door:
    """A Unix socket behind which an agent's server answers."""

    def __init__(self, folder: Path, instance: Address, inner: FileCredentials | None = None) -> None:
        self.socket = folder / "agent.sock"
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "authority").write_bytes(self.authority.export_private_key())
        (folder / "authority").chmod(0o600)
        self.credentials = FileCredentials(folder / "none", folder / "authority")
        self._instance = instance
        self._inner = inner or self.credentials
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
            lambda: connections.open(self._instance, self._inner),
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


@pytest.mark.lab
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


@pytest.mark.lab
class TestAgentServerOfMachines(ConnectionContract):
    """Of a machine that is reached by SSH itself: one SSH within the other."""

    @pytest.fixture
    async def connect(self, tmp_path: Path) -> AsyncIterator[Connect]:
        place = Path(tempfile.mkdtemp(prefix="gci"))
        with SSHServer(tmp_path) as server:
            door = Door(tmp_path, server.address(directory=str(place)), server.credentials())
            await door.open()

            async def connect() -> Connection:
                return await connections.open(door.address(), door.credentials)

            yield connect
            await door.close()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def bare(podman_engine: Engine) -> Iterator[ContainerAddress]:
    with container(podman_engine, TINY_IMAGE, tmpfs={"/tmp": "mode=1777,size=32m"}) as made:
        yield made


@pytest.mark.needs_root
class TestFilesWithoutPython:
    """Of a container that has a shell and little else."""

    @pytest.fixture
    async def connection(self, tmp_path: Path, bare: ContainerAddress) -> AsyncIterator[Connection]:
        door = Door(tmp_path, bare)
        await door.open()
        opened = await connections.open(door.address(), door.credentials)
        yield opened
        await opened.close()
        await door.close()

    @pytest.fixture
    def here(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="gc") as folder:
            yield Path(folder)

    async def test_a_full_disk_and_a_forbidden_place_say_so(self, connection: Connection, here: Path) -> None:
        (here / "big").write_bytes(bytes(40 << 20))
        (here / "small").write_bytes(b"x")
        with pytest.raises(StorageFull):
            await connection.put(here / "big", "big")
        with pytest.raises(Forbidden):
            await connection.put(here / "small", "/etc/small")
        await connection.put(here / "small", "small")
        assert (await connections.run(connection, Command(("ls", "-A")))).stdout == b"small\n"

    test_files_travel_both_ways = ConnectionContract.test_files_travel_both_ways
    test_a_file_replaces_a_file = ConnectionContract.test_a_file_replaces_a_file
    test_folders_travel_both_ways = ConnectionContract.test_folders_travel_both_ways
    test_what_is_missing_is_not_found = ConnectionContract.test_what_is_missing_is_not_found
    test_nothing_half_made_is_left = ConnectionContract.test_nothing_half_made_is_left
    test_nothing_is_written_through_a_link = ConnectionContract.test_nothing_is_written_through_a_link


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


async def test_a_full_disk_there_says_so_by_python_too(tmp_path: Path, podman_engine: Engine) -> None:
    (tmp_path / "big").write_bytes(bytes(4 << 20))
    with container(podman_engine, tmpfs={"/tmp": "mode=1777,size=1m"}) as address:
        door = Door(tmp_path, address)
        await door.open()
        connection = await connections.open(door.address(), door.credentials)
        try:
            with pytest.raises(StorageFull):
                await connection.put(tmp_path / "big", "big")
            with pytest.raises(Forbidden):
                await connection.put(tmp_path / "big", "/etc/big")
        finally:
            await connection.close()
            await door.close()


@pytest.mark.skipif(
    shutil.which("sftp") is None or shutil.which("socat") is None, reason="needs sftp and socat"
)
async def test_openssh_copies_files(door: Door, folder: Path, tmp_path: Path) -> None:
    key, certificate = await door.credentials.user_certificate("gridcloud-i-1")
    for name, data in (("key", key.export_private_key()), ("key-cert.pub", certificate.export_certificate())):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "known").write_text(f"lab-pc {door.key.export_public_key().decode()}")
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    batch = (
        f"put {tmp_path}/big big\nchmod 640 big\nmkdir a\nrename big a/b\nln -s a/b link\nln a/b hard\nls -l a\n"
        f"get link {tmp_path}/back\ndf -h\nrm hard\n-rm nothing\n-mkdir a\n"
    )
    options = {
        "ProxyCommand": f"socat - UNIX-CONNECT:{door.socket}",
        "UserKnownHostsFile": f"{tmp_path}/known",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": f"{tmp_path}/key",
        "IdentitiesOnly": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    process = await asyncio.create_subprocess_exec(
        "sftp",
        "-F",
        "none",
        "-b",
        "-",
        *words,
        "i-1@lab-pc",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await asyncio.wait_for(process.communicate(batch.encode()), 60)
    assert process.returncode == 0, complaint.decode()
    assert b"-rw-r-----" in said
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    assert os.readlink(folder / "link") == "a/b"
    assert not (folder / "hard").exists()
    assert b"No such file" in complaint


async def test_what_is_no_request_ends_the_files_and_nothing_else(door: Door) -> None:
    connection = await connections.open(door.address(), door.credentials)
    try:
        assert isinstance(connection, SSHConnection)
        for nonsense in (
            b"\xff" * 64,
            b"\0\0\0\0",
            b"\0\0\0\x05\x03\0\0\0\x01",
            b"\0\x10\0\0\x03" + bytes(99),
        ):
            process = await connection._main.create_process(subsystem="sftp", encoding=None)
            process.stdin.write(nonsense)
            process.stdin.write_eof()
            said, _ = await asyncio.wait_for(process.communicate(), 20)
            assert said == b""
        await connection.check()
    finally:
        await connection.close()


def test_the_program_for_files_runs_by_old_pythons() -> None:
    ast.parse(Path(file_program.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
