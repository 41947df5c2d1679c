"""Connections into containers of real engines: the contract, and what only containers do."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from gridcloud import connections
from gridcloud.connections.container import ContainerConnection
from gridcloud.connections.driver import Command
from gridcloud.connections.engine import Engine as EngineAPI
from gridcloud.connections.model import ContainerAddress, Port
from gridcloud.errors import ConnectionLost, Forbidden, InvalidSettings, Rejected, StorageFull, Unreachable
from gridcloud.testing.connections import Connect, ConnectionContract, talk
from tests.labs.containers import SESSION_IMAGE, TINY_IMAGE, Engine

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
