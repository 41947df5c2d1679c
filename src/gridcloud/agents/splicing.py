"""Bytes through a websocket: what one side of a stream says goes out as binary messages, and what comes is written.

Neither side runs ahead of the other: nothing more is read while what was read waits to be taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

__all__ = ["MESSAGE", "Messages", "pair", "splice"]

MESSAGE = 256 << 10
"""Bytes of a message at most."""


class Messages(Protocol):
    """A websocket, of whatever library."""

    async def receive(self) -> bytes:
        """Return the next binary message, empty once there is none any more."""

    async def send(self, data: bytes, /) -> None:
        """Send a binary message; wait while the other side does not take it. Raises OSError once it has gone."""

    async def close(self) -> None:
        """Close it. May be called twice."""


async def splice(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: Messages, *, close: bool = True
) -> None:
    """Carry both ways until either side ends; then close both, or leave the messages to be closed with a reason where
    ``close`` is not set. Cancelling cuts it."""
    ways = [
        asyncio.create_task(_out(reader, messages), name="agent: out"),
        asyncio.create_task(_in(writer, messages), name="agent: in"),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        writer.close()  # what was written to it is still read
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if close:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await messages.close()


async def pair() -> tuple[socket.socket, asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a socket, and the stream at its other end."""
    one, other = socket.socketpair()
    one.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=other, limit=MESSAGE)
    return one, reader, writer


async def _out(reader: asyncio.StreamReader, messages: Messages) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(MESSAGE):
            await messages.send(block)


async def _in(writer: asyncio.StreamWriter, messages: Messages) -> None:
    with contextlib.suppress(OSError):
        while block := await messages.receive():
            writer.write(block)
            await writer.drain()
