"""A member that nobody can reach from outside, reached through one who relays; direct where that is possible."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gridcloud.errors import NotFound, Unreachable, Untrusted
from gridcloud.federation.encoding import Json
from gridcloud.grid.model import Link, Way
from gridcloud.grid.office import Office
from tests.grid.offices import CLOSED, OPEN, Place, acquaint, places, until


def _serve(office: Office) -> None:
    async def answer(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        return "test.echo", {"of": sender} | body

    async def echo(sender: str, id: str, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, f"{id} for {sender}: ".encode())
        while block := await loop.sock_recv(connection, 1 << 16):
            await loop.sock_sendall(connection, block)

    async def admit(sender: str, id: str) -> None:
        if id == "secret":
            raise NotFound("There is no stream 'secret' for you.")

    office.doorway.handle("test", answer)
    office.doorway.stream("echo", echo, admit)


async def _talk(place: Place, other: Place, words: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    connection = await place.office.caller.open_stream(other.office.me, "echo", "one")
    try:
        await loop.sock_sendall(connection, words)
        expected = f"one for {place.office.me}: ".encode() + words
        found = b""
        async with asyncio.timeout(20):
            while len(found) < len(expected):
                found += await loop.sock_recv(connection, 1 << 16)
    finally:
        connection.close()
    return found.removeprefix(f"one for {place.office.me}: ".encode())


def _link(place: Place, other: Place) -> Link:
    return next(one for one in place.office.status().links if one.institution == other.office.me)


async def test_streams_carry_bytes_both_ways(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        _serve(beta.office)
        await acquaint(alpha, beta)
        block = bytes(range(256)) * 8192
        assert await _talk(alpha, beta, block) == block
        with pytest.raises(NotFound, match="secret"):
            await alpha.office.caller.open_stream(beta.office.me, "echo", "secret")
        with pytest.raises(NotFound, match="no streams"):
            await alpha.office.caller.open_stream(beta.office.me, "other", "one")


async def test_member_without_a_port_is_reached_through_a_relay(tmp_path: Path) -> None:
    """Between institutions, promise I."""
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        alpha.settings = OPEN.model_copy(update={"relays_others": True})
        await beta.close()
        beta.settings = CLOSED
        await beta.open()
        _serve(beta.office)
        _serve(gamma.office)
        alpha.office._gossiping.tell_anew()
        await acquaint(alpha, beta, gamma)
        assert beta.office.status().listening == ""
        relays = (alpha.office.me,)
        for one in (alpha, gamma):  # beta's first record went to neighbours before it had a relay
            await until(lambda one=one: one.office.profiles()[beta.office.me].relays == relays)  # type: ignore[misc]
        kind, body = await gamma.office.caller.ask(beta.office.me, "test.say", {"words": "hello"})
        assert (kind, body) == ("test.echo", {"of": gamma.office.me, "words": "hello"})
        link = _link(gamma, beta)
        assert (link.way, link.address) == (Way.RELAYED, alpha.office.me)
        block = bytes(range(256)) * 4096
        assert await _talk(gamma, beta, block) == block
        with pytest.raises(NotFound, match="secret"):
            await gamma.office.caller.open_stream(beta.office.me, "echo", "secret")
        assert await alpha.office.caller.ask(beta.office.me, "test.say", {})  # the relay's own calls
        # The other way is direct, and so is the relay's own guest.
        await beta.office.caller.ask(gamma.office.me, "test.say", {})
        assert _link(beta, gamma).way is Way.DIRECT
        held = await gamma.office.caller.open_stream(beta.office.me, "echo", "long")
        assert (
            await asyncio.get_running_loop().sock_recv(held, 100) == f"long for {gamma.office.me}: ".encode()
        )
        assert await alpha.office.revoke("north", "gamma", "it is over") is None
        await until(lambda: gamma.office.me not in beta.office.members())
        with pytest.raises((Untrusted, Unreachable)):
            await gamma.office.caller.ask(beta.office.me, "test.say", {})
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().sock_recv(held, 10) == b""
        held.close()


async def test_relay_that_goes_is_told_and_comes_again(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await alpha.close()
        port = alpha.office.doorway.port or _free_port()
        place = f"127.0.0.1:{port}"
        alpha.settings = OPEN.model_copy(
            update={"listen": place, "addresses": (f"https://{place}",), "relays_others": True}
        )
        await alpha.open()
        await beta.close()
        beta.settings = CLOSED
        await beta.open()
        _serve(beta.office)
        await acquaint(alpha, beta, gamma)
        await until(lambda: gamma.office.profiles()[beta.office.me].relays == (alpha.office.me,))
        await gamma.office.caller.ask(beta.office.me, "test.say", {})
        await alpha.close()
        with pytest.raises(Unreachable):
            await gamma.office.caller.ask(beta.office.me, "test.say", {}, timeout=10)
        assert _link(gamma, beta).way is Way.UNREACHABLE
        await until(lambda: "Nobody can reach us" in str(beta.office.status().warnings))
        await alpha.open()
        await until(lambda: alpha.office._relay.attending == (beta.office.me,))
        await until(lambda: gamma.office.profiles()[beta.office.me].relays == (alpha.office.me,))
        await gamma.office.caller.ask(beta.office.me, "test.say", {})
        assert _link(gamma, beta).way is Way.RELAYED


async def test_address_that_does_not_answer_is_not_waited_for_twice(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        alpha.settings = OPEN.model_copy(update={"relays_others": True})
        await beta.close()
        dead = f"127.0.0.1:{_free_port()}"
        beta.settings = OPEN.model_copy(
            update={"addresses": (f"https://{dead}",), "relays": (alpha.office.me,)}
        )
        await beta.open()
        _serve(beta.office)
        await acquaint(alpha, beta, gamma)
        await until(lambda: gamma.office.profiles()[beta.office.me].relays == (alpha.office.me,))
        await gamma.office.caller.ask(beta.office.me, "test.say", {})
        assert _link(gamma, beta).way is Way.RELAYED
        assert gamma.office._links.prefers_relays(beta.office.me)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
