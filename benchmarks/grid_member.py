"""One institution as a program, for `benchmarks.grid_streams`.

    python -m benchmarks.grid_member FOLDER NAME ROLE PORT

ROLE: `open` is reached at an address, `relay` relays for others too, `hidden` is reached through relays alone. Prints
its id; reads one line of JSON, the invitation and who invites, and joins; ends at the end of its input. Its streams
`ssh` lead to PORT of this computer, and `echo` returns what comes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

from tests.grid.offices import CLOSED, OPEN, Place

__all__ = ["pump"]


async def pump(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side ends."""
    loop = asyncio.get_running_loop()

    async def carry(source: socket.socket, target: socket.socket) -> None:
        while block := await loop.sock_recv(source, 1 << 18):
            await loop.sock_sendall(target, block)

    ways = [asyncio.create_task(carry(one, other)), asyncio.create_task(carry(other, one))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    for end in (one, other):
        end.close()


async def main(folder: str, name: str, role: str, port: str) -> None:
    """Take part until the input ends."""
    settings = {"open": OPEN, "relay": OPEN.model_copy(update={"relays_others": True}), "hidden": CLOSED}
    place = Place(Path(folder), name, settings[role])

    async def ssh(sender: str, id: str, connection: socket.socket) -> None:
        there = socket.socket()
        there.setblocking(False)
        await asyncio.get_running_loop().sock_connect(there, ("127.0.0.1", int(port)))
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await pump(connection, there)

    async def echo(sender: str, id: str, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while block := await loop.sock_recv(connection, 1 << 16):
            await loop.sock_sendall(connection, block)

    office = await place.open()
    office.doorway.stream("ssh", ssh)
    office.doorway.stream("echo", echo)
    try:
        await office.init(name)
        print(office.me, flush=True)
        given = json.loads(await asyncio.to_thread(sys.stdin.readline))
        await office.join(given["invitation"], given["inviter"])
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await place.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
