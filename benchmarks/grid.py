"""Institutions on loopback over mutual TLS: how soon all know all (beside pyipv8), offers, idle bytes, and streams.

    python -m benchmarks.grid [--members 20] [--processes 0] [--ipv8 1] [--quiet 60] [--asks 30] [--delay 20]
        [--mebibytes 64] [--json FILE]

The members of the first part are spread over so many ``processes`` (0: one for each core); pyipv8's are in one.
``discovery_seconds``: from the last joining until all hold the records of all. ``changed_seconds``: all
change their records at once, and all hold all the new ones; that is the harder one. Bytes at rest are counted
in the ``quiet`` seconds afterwards, on ways to each member that count. A partner's offer goes over a way that
takes ``delay`` milliseconds each way, between two whole gridclouds. Streams carry SSH between processes of
their own, to one sshd, beside OpenSSH's `sftp` straight to it.

Goals: discovery within 2, 4 and 8 s with 20, 50 and 100 members; an offer in under 3 round trips; half of direct SSH's
rate, directly and through a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import venv
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_cache_path
from tests.grid.offices import until
from tests.houses import open_house

from benchmarks.grid_crowd import open_crowds
from benchmarks.grid_streams import measure_streams
from benchmarks.report import run
from benchmarks.roads import Road, free_port, open_echo
from gridcloud.instances.model import Request

PROGRAM = Path(__file__).parent / "ipv8_discovery.py"
GOALS = ((20, 2), (50, 4), (100, 8))
"""(members, seconds) of discovery."""


def measure(
    members: int, processes: int, ipv8: int, quiet: int, asks: int, delay: int, mebibytes: int
) -> dict[str, Any]:
    """Return the figures of each part."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
    try:
        processes = processes or os.cpu_count() or 1
        found: dict[str, Any] = {"members": members, "processes": processes}
        found |= asyncio.run(_discover(folder, members, processes, quiet))
        found |= _discover_ipv8(members) if ipv8 else {"pyipv8_seconds": "peer not asked for"}
        found |= asyncio.run(_ask(folder, asks, delay / 1000))
        found |= measure_streams(folder / "streams", mebibytes)
    finally:
        shutil.rmtree(folder)
    bound = next((seconds for most, seconds in GOALS if members <= most), GOALS[-1][1])
    goals = {
        "discovery_seconds": f"under {bound}",
        "offer_round_trips": "under 3",
        "direct_ratio": "at least 0.5",
        "relayed_ratio": "at least 0.5",
    }
    return {**found, "goals": goals}


async def _discover(folder: Path, members: int, processes: int, quiet: int) -> dict[str, Any]:
    async with open_crowds(folder, members, processes) as crowds:

        async def each(name: str, *arguments: Any) -> list[Any]:
            return await asyncio.gather(*(crowd.do(name, *arguments) for crowd in crowds))

        ids = await each("ids")
        host = crowds[0]
        begin = time.perf_counter()
        await host.do("found")
        for crowd, guests in zip(crowds, ids, strict=True):
            for guest in guests:
                if guest != ids[0][0]:
                    await crowd.do("join", guest, await host.do("invite", guest), ids[0][0])
        joined = time.perf_counter()
        await each("know", members)
        found = time.perf_counter()
        await each("move")
        await asyncio.sleep(3)  # a record that is replaced within 2 s is not heard
        begin_change = time.perf_counter()
        await each("change")
        changed = time.perf_counter() - begin_change
        await asyncio.sleep(min(30, quiet))  # until the last pauses between two rounds are long ones
        already = sum(await each("carried"))
        await asyncio.sleep(quiet)
        carried = sum(await each("carried")) - already
    return {
        "joining_seconds": joined - begin,
        "discovery_seconds": found - joined,
        "changed_seconds": changed,
        "idle_bytes_sent_per_member_per_hour": carried / members * 3600 / quiet,
    }


def _discover_ipv8(members: int) -> dict[str, Any]:
    """Return what pyipv8 takes, in an interpreter with it alone; or why it was not to be had."""
    folder = user_cache_path("gridcloud") / "benchmarks" / "pyipv8"
    python = folder / "bin" / "python"
    try:
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            words = [str(python), "-m", "pip", "install", "--quiet", "pyipv8"]
            subprocess.run(words, check=True, timeout=300, capture_output=True)
            (folder / "complete").touch()
        words = [str(python), str(PROGRAM), str(members), "120"]
        done = subprocess.run(words, check=True, timeout=240, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"pyipv8_seconds": f"peer not available: {type(error).__name__}"}
    seconds, known = done.stdout.split()[-2:]
    if int(known) < members - 1:
        return {"pyipv8_seconds": f"not within {float(seconds):.0f} s; a member knew {known} others"}
    return {"pyipv8_seconds": float(seconds)}


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
    run(__doc__, measure, members=20, processes=0, ipv8=1, quiet=60, asks=30, delay=20, mebibytes=64)
