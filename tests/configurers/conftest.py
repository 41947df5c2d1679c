"""Machines to configure: this computer, and one of the lab by SSH."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud import connections
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import LocalAddress, SSHAddress
from gridcloud.testing.connections import FileCredentials
from tests.labs.machines import Lab, Machine


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The instance's own folder on this computer."""
    folder = tmp_path / "instance"
    folder.mkdir()
    return folder


@pytest.fixture
async def here(place: Path, tmp_path: Path) -> AsyncIterator[Connection]:
    """This computer."""
    connection = await connections.open(LocalAddress(directory=str(place)), FileCredentials(tmp_path))
    yield connection
    await connection.close()


@pytest.fixture
def there_address(ssh_machine: Machine) -> SSHAddress:
    """A machine of the lab, as an account that is not root."""
    return SSHAddress(host=ssh_machine.host, user="user", host_keys=(ssh_machine.host_key,))


@pytest.fixture
async def there(ssh_lab: Lab, there_address: SSHAddress) -> AsyncIterator[Connection]:
    """A connection to it."""
    connection = await connections.open(there_address, FileCredentials(ssh_lab.private_key))
    yield connection
    await connection.close()


@pytest.fixture
async def there_too(ssh_lab: Lab, there_address: SSHAddress) -> AsyncIterator[Connection]:
    """A second connection to it."""
    connection = await connections.open(there_address, FileCredentials(ssh_lab.private_key))
    yield connection
    await asyncio.shield(connection.close())
