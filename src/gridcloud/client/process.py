"""A command that runs on an instance, seen through the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp

from gridcloud.errors import ConnectionLost, GridcloudError, from_problem
from gridcloud.service.documents import WINDOW, Order

__all__ = ["RemoteProcess"]

_INPUT, _SIGNAL, _SIZE = b"\0", b"\1", b"\2"
_OUTPUT, _ERROR, _EXIT, _PROBLEM, _TAKEN = 1, 2, 3, 4, 5

_CHUNK = 256 * 1024
_KEPT = 16
"""Messages of output that are read ahead of whoever consumes them."""


class RemoteProcess:
    """Streams, signals and the exit code of one command. Leaving it unfinished ends the command."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, order: Order) -> None:
        self._websocket = websocket
        self._order = order
        self._code: int | None = None
        self._failure: GridcloudError | None = None
        self._chunks: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(_KEPT)
        self._allowed = WINDOW
        self._taken = asyncio.Event()
        self._ended = False
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tell the service what to run; to be called once, before anything else."""
        await self._send_text(self._order.model_dump_json())
        self._reading = asyncio.create_task(self._read(), name="command: read")

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield ('stdout' or 'stderr', chunk) until it has ended; to be consumed once.

        Raises what kept it from starting, ConnectionLost when its fate is unknown.
        """
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        await self.close()
        if self._failure is not None:
            raise self._failure
        if self._code is None:
            raise ConnectionLost("The service went away; what became of the command is not known.")

    @property
    def code(self) -> int:
        """Return the exit code, 128 + n after signal n; to be asked once its output has ended."""
        if self._code is None:
            raise GridcloudError("The command has not ended.")
        return self._code

    async def write(self, data: bytes) -> None:
        """Write to its standard input; waits while it does not read. Ignored once it has ended."""
        view = memoryview(data)
        while view and not self._ended:
            if self._allowed <= 0:
                self._taken.clear()
                await self._taken.wait()
                continue
            part = view[: min(self._allowed, _CHUNK)]
            self._allowed -= len(part)
            view = view[len(part) :]
            await self._send(_INPUT + part)

    async def close_input(self) -> None:
        """Tell it that no more input comes."""
        await self._send(_INPUT)

    async def signal(self, name: str) -> None:
        """Send it a signal: 'INT', 'TERM', …"""
        await self._send(_SIGNAL + name.encode())

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it the size of its terminal."""
        await self._send(_SIZE + f"{columns}x{rows}".encode())

    async def close(self) -> None:
        """Leave it; if it still runs, it is ended. May be called twice."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if self._chunks.full():
                self._chunks.get_nowait()
            self._chunks.put_nowait(None)  # whoever still waits for output learns that none comes
        await self._websocket.close()

    async def _read(self) -> None:
        """Take what the service says; it says no more than is consumed."""
        try:
            async for message in self._websocket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    break
                kind, content = message.data[0], message.data[1:]
                if kind in (_OUTPUT, _ERROR):
                    await self._chunks.put(("stdout" if kind == _OUTPUT else "stderr", content))
                elif kind == _TAKEN:
                    self._allowed += int(content)
                    self._taken.set()
                elif kind == _EXIT:
                    self._code = int(content)
                    break
                elif kind == _PROBLEM:
                    self._failure = from_problem(json.loads(content))
                    break
        finally:
            self._ended = True
            self._taken.set()
        await self._chunks.put(None)

    async def _send_text(self, text: str) -> None:
        try:
            await self._websocket.send_str(text)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise ConnectionLost("The service went away before it was told the command.") from error

    async def _send(self, message: bytes) -> None:
        if not self._websocket.closed:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await self._websocket.send_bytes(message)
