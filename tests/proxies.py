"""HTTP proxies that tests go through: ``python -m tests.proxies HOST PORT`` is one that says when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

__all__ = ["connect_proxy"]


@contextlib.asynccontextmanager
async def connect_proxy(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, list[str]]]:
    """Give an HTTP proxy that knows CONNECT alone, and what it was asked for."""
    asked: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head)
            place, _, number = head.split()[1].rpartition(":")
            try:
                far_reader, far_writer = await asyncio.open_connection(place, int(number))
            except OSError:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.closing(far_writer):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(serve, host, port)
    yield f"http://{host}:{server.sockets[0].getsockname()[1]}", asked
    server.close()
    pending = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await source.read(65536):
            target.write(block)
            await target.drain()
    target.close()


async def _serve(host: str, port: int) -> None:
    async with connect_proxy(host, port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
