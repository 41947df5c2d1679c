"""SSH through a stream between institutions, directly and through a relay, beside plain SSH; for `benchmarks.grid`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.grid.offices import Place, until

from benchmarks.grid_member import pump
from benchmarks.ssh_transfer import openssh
from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.connections.model import SSHAddress
from gridcloud.grid.model import Way
from gridcloud.testing.sshd import SSHServer

__all__ = ["measure_streams"]

ROUNDS, PINGS = 3, 30


def measure_streams(folder: Path, mebibytes: int) -> dict[str, Any]:
    """Return rates in megabytes per second (the best of some rounds), medians of latencies, and ratios."""
    folder.mkdir()
    source = folder / "source"
    source.write_bytes(os.urandom(mebibytes << 20))
    with SSHServer(folder) as server:
        return asyncio.run(_measure(folder, server, source))


async def _measure(folder: Path, server: SSHServer, source: Path) -> dict[str, Any]:
    size = source.stat().st_size / 1e6
    rates: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    async with _members(folder, server.port) as (alpha, ids):
        addresses = {"plain": server.address()}
        async with contextlib.AsyncExitStack() as stack:
            for name in ("direct", "relayed"):
                path = await stack.enter_async_context(_socket(folder / name, alpha, ids[name]))
                addresses[name] = server.address().model_copy(update={"socket": str(path)})
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                await asyncio.to_thread(openssh, server, "put", source, folder / "there")
                rates.setdefault("openssh", []).append(size / (time.perf_counter() - begin))
                for name, address in addresses.items():
                    rate = await _put(server, address, source, folder / "there")
                    rates.setdefault(name, []).append(size / rate)
            for name, address in addresses.items():
                found[f"{name}_command_seconds"] = await _command(server, address)
        for name in ("direct", "relayed"):
            found[f"{name}_stream_round_trip_seconds"] = await _ping(alpha, ids[name])
    best = {name: max(those) for name, those in rates.items()}
    return {
        **{f"{name}_ssh_megabytes_per_second": rate for name, rate in best.items()},
        "direct_ratio": best["direct"] / best["openssh"],
        "relayed_ratio": best["relayed"] / best["openssh"],
        "direct_to_own_client_ratio": best["direct"] / best["plain"],
        "relayed_to_own_client_ratio": best["relayed"] / best["plain"],
        **found,
        "relayed_to_direct_round_trip": found["relayed_stream_round_trip_seconds"]
        / found["direct_stream_round_trip_seconds"],
    }


async def _put(server: SSHServer, address: SSHAddress, source: Path, target: Path) -> float:
    """Return the seconds of a login and a file; OpenSSH's hold its login too."""
    target.unlink(missing_ok=True)
    begin = time.perf_counter()
    connection = await connections.open(address, server.credentials())
    try:
        await connection.put(source, str(target))
    finally:
        await connection.close()
    taken = time.perf_counter() - begin
    if target.stat().st_size != source.stat().st_size:
        raise SystemExit(f"{target.stat().st_size} bytes came of {source.stat().st_size}")
    return taken


async def _command(server: SSHServer, address: SSHAddress) -> float:
    connection = await connections.open(address, server.credentials())
    found = []
    try:
        for _ in range(PINGS):
            begin = time.perf_counter()
            await connections.run(connection, Command(("true",)))
            found.append(time.perf_counter() - begin)
    finally:
        await connection.close()
    return median(found)


async def _ping(alpha: Place, who: str) -> float:
    loop = asyncio.get_running_loop()
    stream = await alpha.office.caller.open_stream(who, "echo", "one")
    found = []
    for _ in range(10 * PINGS):
        begin = time.perf_counter()
        await loop.sock_sendall(stream, b"x")
        await loop.sock_recv(stream, 10)
        found.append(time.perf_counter() - begin)
    stream.close()
    return median(found)


@contextlib.asynccontextmanager
async def _members(folder: Path, port: int) -> AsyncIterator[tuple[Place, dict[str, str]]]:
    """Give ourselves, and the ids of who is reached directly and through a relay; each a process of its own."""
    programs: list[subprocess.Popen[str]] = []
    alpha = Place(folder, "alpha")
    await alpha.open()
    try:
        await alpha.office.init("alpha")
        await alpha.office.found("north")
        ids = {}
        for name, role in (("relay", "relay"), ("direct", "open"), ("relayed", "hidden")):
            words = [
                sys.executable,
                "-m",
                "benchmarks.grid_member",
                str(folder),
                f"m-{name}",
                role,
                str(port),
            ]
            program = _start(words)
            programs.append(program)
            assert program.stdin is not None
            assert program.stdout is not None
            ids[name] = (await asyncio.to_thread(program.stdout.readline)).strip()
            _, invitation = await alpha.office.invite("north", ids[name])
            program.stdin.write(json.dumps({"invitation": invitation, "inviter": alpha.office.me}) + "\n")
            program.stdin.flush()
        await until(lambda: ids["direct"] in alpha.office.profiles(), 120)
        await until(lambda: _relays(alpha, ids["relayed"]) == (ids["relay"],), 120)
        for name in ("direct", "relayed"):
            (await alpha.office.caller.open_stream(ids[name], "echo", "one")).close()
        ways = {one.institution: one.way for one in alpha.office.status().links}
        if (ways[ids["direct"]], ways[ids["relayed"]]) != (Way.DIRECT, Way.RELAYED):
            raise SystemExit(f"the ways are others: {ways}")
        yield alpha, ids
    finally:
        for program in programs:
            assert program.stdin is not None
            program.stdin.close()
        for program in programs:
            try:
                await asyncio.to_thread(program.wait, 20)
            except subprocess.TimeoutExpired:
                program.kill()
            assert program.stdout is not None
            program.stdout.close()
        await alpha.close()


def _start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _relays(alpha: Place, who: str) -> tuple[str, ...]:
    profile = alpha.office.profiles().get(who)
    return profile.relays if profile is not None else ()


@contextlib.asynccontextmanager
async def _socket(path: Path, alpha: Place, who: str) -> AsyncIterator[Path]:
    """Give a Unix socket whose connections become streams to a member's SSH."""
    loop = asyncio.get_running_loop()
    path = path.with_suffix(".sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    tasks: set[asyncio.Task[None]] = set()

    async def carry(here: socket.socket) -> None:
        await pump(here, await alpha.office.caller.open_stream(who, "ssh", "one"))

    async def accept() -> None:
        while True:
            here, _ = await loop.sock_accept(listener)
            here.setblocking(False)
            tasks.add(asyncio.create_task(carry(here)))

    tasks.add(asyncio.create_task(accept()))
    try:
        yield path
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
