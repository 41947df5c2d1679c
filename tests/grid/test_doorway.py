"""Who knocks much keeps nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.grid.certificates import client_context, host_name
from gridcloud.grid.doorway import GUESTS, HANDSHAKES, HANDSHAKES_EACH, _source
from tests.grid.offices import Place, places, until

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CROWD, ALONE = "127.0.0.2", "127.0.0.3"
"""Addresses of two computers that knock."""


@contextlib.asynccontextmanager
async def knocking(
    place: Place, source: str, count: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[list[Link]]:
    """Give connections from an address, with TLS where there is a context, and as a guest's."""
    name = host_name(place.office.me) if context is not None else None
    links: list[Link] = []
    try:
        for _ in range(count):
            link = await asyncio.open_connection(
                "127.0.0.1",
                place.office.doorway.port,
                ssl=context,
                server_hostname=name,
                local_addr=(source, 0),
            )
            links.append(link)
        yield links
    finally:
        for _, writer in links:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def is_open(link: Link) -> bool:
    """Say whether the other side has kept a connection on which nobody says anything."""
    try:
        async with asyncio.timeout(0.2):
            return bool(await link[0].read(1))
    except TimeoutError:
        return True
    except OSError:
        return False


async def test_half_open_connections_are_bounded_for_each_source(tmp_path: Path) -> None:
    async with (
        places(tmp_path, "alpha") as (alpha,),
        knocking(alpha, ALONE, 1) as (slow,),
        knocking(alpha, CROWD, HANDSHAKES + 20) as crowd,
    ):
        shaking = alpha.office.doorway._shaking
        await until(lambda: len(shaking) == HANDSHAKES_EACH + 1)
        assert await is_open(slow), "it came first, and others are too many"
        assert not await is_open(crowd[0])
        assert await is_open(crowd[-1]), "the newest of a source stay"


async def test_guests_are_bounded_for_each_source(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha") as (alpha,):
        context = client_context([alpha.office.service_key().public], None, tmp_path)
        async with (
            knocking(alpha, ALONE, 1, context) as (quiet,),
            knocking(alpha, CROWD, GUESTS + 2, context),
        ):
            assert await is_open(quiet)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_all_addresses_of_one_network_are_one_source(address: str, source: str) -> None:
    assert _source(address) == source
