"""Ways on loopback that are as slow as ways between institutions, and count what goes over them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

__all__ = ["Road", "free_port", "open_echo"]


class Road:
    """Leads to a port of this computer. A new connection costs a round trip, as that of TCP does."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        """`delay`: seconds that each way takes."""
        self._to = port
        self._delay = delay
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.bytes = 0
        """Bytes that were carried, both ways."""
        self.connections = 0

    async def open(self) -> None:
        """Listen at a free port."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close the road and all that is on it."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """End the connections that are open."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await asyncio.sleep(2 * self._delay)
            there, on = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, on))
                    group.create_task(self._carry(there, writer))
            finally:
                on.close()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, block = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not block:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(block)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while True:
                block = await reader.read(1 << 16)
                self.bytes += len(block)
                under_way.put_nowait((loop.time() + self._delay, block))
                if not block:
                    break


@contextlib.asynccontextmanager
async def open_echo() -> AsyncIterator[int]:
    """Give the port of a server that returns what it is sent."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while block := await reader.read(1 << 16):
                writer.write(block)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
