"""Institutions on loopback over mutual TLS: a partner's offer, and streams of bytes through the grid.

    python -m benchmarks.grid [--asks 30] [--delay 20] [--mebibytes 64] [--json FILE]

The offer goes over a way that takes ``delay`` milliseconds each way, between two whole gridclouds. Streams carry SSH
between processes of their own, to one sshd, beside OpenSSH's `sftp` straight to it.

Goals: an offer in under 3 round trips; half of direct SSH's rate, directly and through a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.grid.offices import until
from tests.houses import open_house

from benchmarks.grid_streams import measure_streams
from benchmarks.report import run
from benchmarks.roads import Road, free_port, open_echo
from gridcloud.instances.model import Request


def measure(asks: int, delay: int, mebibytes: int) -> dict[str, Any]:
    """Return the figures of each part."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
    try:
        found = asyncio.run(_ask(folder, asks, delay / 1000)) | measure_streams(folder / "streams", mebibytes)
    finally:
        shutil.rmtree(folder)
    goals = {
        "offer_round_trips": "under 3",
        "direct_ratio": "at least 0.5",
        "relayed_ratio": "at least 0.5",
    }
    return {**found, "goals": goals}


async def _ask(folder: Path, asks: int, delay: float) -> dict[str, Any]:
    """Return the median of a request to a partner until its offer is here, beside that of a round trip."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        echo = await stack.enter_async_context(open_echo())
        road, plain = Road(port, delay), Road(echo, delay)
        for one in (road, plain):
            await one.open()
            stack.push_async_callback(one.close)
        trip = await _round_trip(plain, asks)
        for name in ("oslo", "bergen"):
            (folder / name).mkdir()
        listening = {"listen": "127.0.0.1:0", "addresses": ["https://127.0.0.1:0"]}
        at_bergen = {"listen": f"127.0.0.1:{port}", "addresses": [f"https://127.0.0.1:{road.port}"]}
        partners = {"partners": {"driver": "peer"}}
        oslo = await stack.enter_async_context(open_house(folder / "oslo", partners, grid=listening))
        lent = {"lent": {"driver": "fake"}}
        bergen = await stack.enter_async_context(
            open_house(folder / "bergen", lent, grid=at_bergen, lending={"providers": ["lent"]})
        )
        await oslo.office.init("Oslo")
        await bergen.office.init("Bergen")
        await oslo.office.found("north")
        _, invitation = await oslo.office.invite("north", bergen.office.me)
        await bergen.office.join(invitation, oslo.office.me)
        await until(lambda: bergen.office.me in oslo.office.profiles(), 60)
        await until(lambda: oslo.office.me in bergen.office.profiles(), 60)
        provider = oslo.providers.get("partners")
        kept: list[float] = []
        anew: list[float] = []
        for number in range(asks + 1):
            if number == 1:
                kept.clear()  # the first one opened the connection
            begin = time.perf_counter()
            offers = await provider.offers(Request())
            kept.append(time.perf_counter() - begin)
            if not any(offer.available for offer in offers):
                raise SystemExit(f"Bergen offers nothing: {offers}")
        for _ in range(max(3, asks // 5)):
            await road.cut()
            await asyncio.sleep(0.2)  # the next message opens a connection
            begin = time.perf_counter()
            await provider.offers(Request())
            anew.append(time.perf_counter() - begin)
    return {
        "round_trip_seconds": trip,
        "offer_p50_seconds": median(kept),
        "offer_round_trips": median(kept) / trip,
        "offer_over_new_connection_round_trips": median(anew) / trip,
    }


async def _round_trip(road: Road, times: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        writer.write(b"x" * 500)
        await reader.readexactly(500)
        found.append(time.perf_counter() - begin)
    writer.close()
    return median(found)


if __name__ == "__main__":
    run(__doc__, measure, asks=30, delay=20, mebibytes=64)
