"""Shares of a test's own, and the doors to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fsspec.asyn import get_loop

from gridcloud.clock import Clock, SystemClock
from gridcloud.data.shares import Shares
from gridcloud.files.filesystem import ShareFileSystem
from tests.data.parts import Gateway, SFTPAddress, open_sftp, open_shares, open_web


@pytest.fixture
def clock() -> Clock:
    return SystemClock()


@pytest.fixture
async def shares(tmp_path: Path, clock: Clock) -> AsyncIterator[Shares]:
    async with open_shares(tmp_path, clock) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder to be shared."""
    found = tmp_path / "shared"
    found.mkdir()
    return found


@pytest.fixture
async def web(shares: Shares, clock: Clock) -> AsyncIterator[str]:
    """Return the URL of the door of HTTPS and WebDAV."""
    async with open_web(shares, clock) as url:
        yield url


@pytest.fixture
async def sftp(shares: Shares, tmp_path: Path) -> AsyncIterator[SFTPAddress]:
    """Return the door of SFTP."""
    async with open_sftp(shares, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Return a gateway that a whole file of tests shares, in a thread of its own."""
    get_loop()  # fsspec's own, which lives as long as the program
    with Gateway(tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.fixture
def files(gateway: Gateway) -> Iterator[ShareFileSystem]:
    """Return the file system of shares, whose connections are closed with the test."""
    found = ShareFileSystem()
    yield found
    found.close()
