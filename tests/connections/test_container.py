"""Connections into containers of real engines: the contract, and what only containers do."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.labs.containers import SESSION_IMAGE, TINY_IMAGE, Engine

from gridcloud import connections
from gridcloud.connections import archives
from gridcloud.connections.container import ContainerConnection
from gridcloud.connections.driver import Command
from gridcloud.connections.engine import Engine as EngineAPI
from gridcloud.connections.engine import _translate
from gridcloud.connections.model import ContainerAddress, Port
from gridcloud.errors import ConnectionLost, Forbidden, InvalidSettings, NotFound, Rejected, StorageFull
from gridcloud.testing.connections import Connect, ConnectionContract

pytestmark = pytest.mark.needs_root


@contextmanager
def container(engine: Engine, image: str = SESSION_IMAGE, **options: Any) -> Iterator[ContainerAddress]:
    client = docker.APIClient(base_url=engine.url)
    try:
        host = client.create_host_config(network_mode="none", init=True, **options)
        made = client.create_container(image, ["sleep", "600"], user="1000:1000", host_config=host)["Id"]
        try:
            client.start(made)
            yield ContainerAddress(engine=engine.url, container=made, directory="/tmp")
        finally:
            client.remove_container(made, force=True)
    finally:
        client.close()


@pytest.fixture(scope="module")
def address(container_engine: Engine) -> Iterator[ContainerAddress]:
    with container(container_engine, tmpfs={"/tmp": "mode=1777"}) as made:
        yield made


class TestContainerConnection(ConnectionContract):
    @pytest.fixture
    async def connect(self, address: ContainerAddress) -> Connect:
        return lambda: ContainerConnection.open(address)


async def test_a_full_disk_and_a_forbidden_place_say_so(container_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    with container(container_engine, TINY_IMAGE, tmpfs={"/tmp": "mode=1777,size=1m"}) as address:
        connection = await ContainerConnection.open(address)
        with pytest.raises(StorageFull):
            await connection.put(tmp_path / "big", "big")
        with pytest.raises(Forbidden):
            await connection.put(tmp_path / "big", "/etc/big")
        assert (await connections.run(connection, Command(("ls", "-A")))).stdout == b""
        await connection.close()


async def test_ports_of_an_image_without_python_are_refused(container_engine: Engine) -> None:
    with container(container_engine, TINY_IMAGE) as address:
        connection = await ContainerConnection.open(address)
        with pytest.raises(Rejected, match="python3"):
            await connection.forward(Port(port=80), Port())
        await connection.check()
        await connection.close()


async def test_a_container_that_is_not_there_is_lost(container_engine: Engine) -> None:
    with pytest.raises(ConnectionLost, match="gone"):
        await ContainerConnection.open(ContainerAddress(engine=container_engine.url, container="nothing"))


@pytest.mark.parametrize(
    "url", ["tcp://192.0.2.1:2375", "ssh://there", "unix://", "http://name.example:1", ""]
)
def test_an_engine_open_to_a_network_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="SSH"):
        EngineAPI(url)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    stream.seek(0)
    (tmp_path / "in").mkdir()
    with pytest.raises(Rejected, match="outside"):
        archives.unpack(stream, tmp_path / "in" / "it", True)
    assert not (tmp_path / "out").exists()


def test_nothing_is_unpacked_through_a_link_of_the_stream(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("./sub")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("./sub/file"))
    stream.seek(0)
    with pytest.raises(FileExistsError):
        archives.unpack(stream, tmp_path / "it", True)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_container_that_goes_while_it_is_looked_at_is_not_found() -> None:
    text = '{"cause":"no such container","message":"container f0f1 does not exist in database: no such container"}'
    assert isinstance(_translate(500, text, "unix:///engine.sock"), NotFound)
    assert not isinstance(_translate(500, '{"message":"out of space"}', "unix:///engine.sock"), NotFound)
