"""Ways that messages take: through an HTTP proxy, at a second address, after a restart of the other side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gridcloud.errors import ConnectionLost, TimedOut, Unreachable
from gridcloud.federation.encoding import Json
from gridcloud.grid.model import Way
from tests.grid.offices import OPEN, Place, acquaint, places, until
from tests.proxies import connect_proxy


async def test_messages_and_streams_go_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with connect_proxy() as (url, asked), places(tmp_path, "alpha", "beta") as (alpha, beta):
        monkeypatch.setenv("HTTPS_PROXY", url)  # set after those who would be asked for it are named above
        await acquaint(alpha, beta)
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        assert asked
        ports = {str(place.office.doorway.port) for place in (alpha, beta)}
        assert {head.split()[1].rpartition(":")[2] for head in asked} == ports


async def test_second_address_is_tried(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await beta.close()
        beta.settings = OPEN.model_copy(update={"addresses": ("https://127.0.0.1:9", "https://127.0.0.1:0")})
        await beta.open()
        await acquaint(alpha, beta)
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        (link,) = alpha.office.status().links
        assert (link.way, link.address) == (Way.DIRECT, f"https://127.0.0.1:{beta.office.doorway.port}")


async def test_restart_of_the_other_side_is_not_noticed(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        port = beta.office.doorway.port
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        await beta.close()
        with pytest.raises(Unreachable):
            await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        assert alpha.office.status().links[0].last_failure
        beta.settings = OPEN.model_copy(
            update={"listen": f"127.0.0.1:{port}", "addresses": (f"https://127.0.0.1:{port}",)}
        )
        await beta.open()
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        await until(lambda: alpha.office.status().links[0].way is Way.DIRECT)


async def test_slow_and_lost_answers_are_told_apart(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        going = asyncio.Event()
        taken: list[str] = []

        async def slow(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
            taken.append(kind)
            await going.wait()
            return None

        beta.office.doorway.handle("test", slow)
        await acquaint(alpha, beta)
        with pytest.raises(TimedOut, match="within"):
            await alpha.office.caller.ask(beta.office.me, "test.slow", {}, timeout=0.3)
        asking = asyncio.create_task(alpha.office.caller.ask(beta.office.me, "test.slow", {}))
        await until(lambda: len(taken) == 2)
        for transports in beta.office.doorway._open.values():
            for transport in transports:
                transport.abort()
        with pytest.raises(ConnectionLost, match="took the message"):
            await asking
        going.set()
        assert taken == ["test.slow", "test.slow"]
        await asyncio.sleep(0.05)  # what was answered in vain ends too


async def test_six_institutions_know_each_other_soon(tmp_path: Path) -> None:
    async with places(tmp_path, *(f"site{number}" for number in range(6))) as sites:
        host, *guests = sites
        await acquaint(host, *guests)
        for place in sites:
            assert len(place.office.profiles()) == len(sites) - 1


def _greeting(place: Place) -> Json:
    (held,) = place.office._circle.held.values()
    return held.gossip.greet("").document()
