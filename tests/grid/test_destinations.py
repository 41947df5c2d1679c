"""A member names its own addresses; where we let it send us is our matter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from gridcloud.errors import Unreachable
from gridcloud.federation.records import Profile, make_record
from gridcloud.grid.destinations import Destinations
from gridcloud.settings.grid import GridSettings
from tests.grid.offices import Place, acquaint, places
from tests.proxies import connect_proxy

STRICT = GridSettings()
"""Nothing is allowed that is forbidden."""
HERE = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1", "0", "0.0.0.0")  # noqa: S104 - called, not bound
"""This computer, as a name and as numbers."""


def may_call(address: str, settings: GridSettings = STRICT) -> bool:
    try:
        Destinations(lambda: settings).check(address)
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "169.254.1.2", "224.0.0.1", "255.255.255.255",  # noqa: S104
     "100.100.100.200", "168.63.129.16", "192.0.0.192", "::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1",
     "fd00:ec2::254", "fd20:ce::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::169.254.169.254",
     "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_no_member_is_called_on_this_computer_or_its_links(address: str) -> None:
    assert not may_call(address)
    assert may_call(address, GridSettings(allowed_addresses=("0.0.0.0/0", "::/0")))


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "192.168.0.5", "172.16.0.1", "100.64.0.1", "8.8.8.8", "2001:db8::5", "fd12:3456::1"],
)
def test_members_within_a_campus_are_called_unless_that_is_forbidden(address: str) -> None:
    assert may_call(address)
    forbidden = GridSettings(forbidden_addresses=("0.0.0.0/0", "::/0"))
    assert not may_call(address, forbidden)
    assert may_call(address, forbidden.model_copy(update={"allowed_addresses": (address,)}))


def test_who_is_on_this_computer_calls_others_there() -> None:
    ours = GridSettings(listen="127.0.0.1:0", addresses=("https://127.0.0.1:0", "https://grid.example.org"))
    assert may_call("127.0.0.2", ours)
    assert not may_call("169.254.169.254", ours)
    assert not may_call("::1", ours)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "grid.example.org", "", "10.0.0.0/33"])
def test_what_is_no_network_is_said(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is a network such as 10\.0\.0\.0/8"):
        GridSettings(forbidden_addresses=(text,))


@contextlib.asynccontextmanager
async def inside() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Give the port of a service of this computer, and what it was told."""
    told: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.read(8))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], told


def lie(alpha: Place, beta: Place, *addresses: str) -> None:
    """Have alpha believe a record of beta that names these addresses."""
    held = alpha.office._circle.get("north")
    serial = held.gossip.records[beta.office.me].serial + 1
    told = Profile(name="beta", addresses=addresses)
    held.gossip.learn(
        make_record(beta.office.service_key(), beta.office.me, told, serial, timedelta(hours=1))
    )


async def test_no_member_has_us_call_services_of_this_computer(tmp_path: Path) -> None:
    async with inside() as (port, told), places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        lie(alpha, beta, *(f"https://{host}:{port}" for host in HERE))
        alpha.settings = STRICT
        with pytest.raises(Unreachable, match=r"in 127\.0\.0\.0/8, where no member is called") as refused:
            await alpha.office.caller.ask(beta.office.me, "test.say", {})
        assert (
            str(refused.value).count("no member is called") == 5
        )  # the shortened numbers are none to aiohttp
        with pytest.raises(Unreachable, match="no member is called"):
            await alpha.office.caller.open_stream(beta.office.me, "test", "x")
        assert not told
        alpha.settings = GridSettings(allowed_addresses=("127.0.0.1",))
        with pytest.raises(Unreachable):
            await alpha.office.caller.ask(beta.office.me, "test.say", {})
        assert told, "the test's service would have been called"


async def test_no_proxy_is_sent_there_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with connect_proxy() as (url, asked), places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        numbers = [host for host in HERE if host != "localhost"]
        lie(alpha, beta, *(f"https://{host}:9" for host in numbers))
        alpha.settings = STRICT
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(Unreachable) as refused:
            await alpha.office.caller.ask(beta.office.me, "test.say", {})
        assert str(refused.value).count("no member is called") == len(numbers)
        assert not asked
