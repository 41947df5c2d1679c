"""A command that runs on an instance, seen through the service."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp

from gridcloud.errors import ConnectionLost, GridcloudError, from_problem
from gridcloud.service.documents import Order

__all__ = ["RemoteProcess"]

_INPUT, _SIGNAL, _SIZE = b"\0", b"\1", b"\2"
_OUTPUT, _ERROR, _EXIT, _PROBLEM = 1, 2, 3, 4


class RemoteProcess:
    """Streams, signals and the exit code of one command. Leaving it unfinished ends the command."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, order: Order) -> None:
        self._websocket = websocket
        self._order = order
        self._code: int | None = None

    async def start(self) -> None:
        """Tell the service what to run; to be called once, before anything else."""
        await self._websocket.send_str(self._order.model_dump_json())

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield ('stdout' or 'stderr', chunk) until it has ended; to be consumed once.

        Raises what kept it from starting, ConnectionLost when its fate is unknown.
        """
        async for message in self._websocket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            kind, content = message.data[0], message.data[1:]
            if kind in (_OUTPUT, _ERROR):
                yield ("stdout" if kind == _OUTPUT else "stderr", content)
            elif kind == _EXIT:
                self._code = int(content)
                break
            elif kind == _PROBLEM:
                raise from_problem(json.loads(content))
        await self._websocket.close()
        if self._code is None:
            raise ConnectionLost("The service went away; what became of the command is not known.")

    @property
    def code(self) -> int:
        """Return the exit code, 128 + n after signal n; to be asked once its output has ended."""
        if self._code is None:
            raise GridcloudError("The command has not ended.")
        return self._code

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""
        if data:
            await self._send(_INPUT + data)

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
        """Leave it; if it still runs, it is ended."""
        await self._websocket.close()

    async def _send(self, message: bytes) -> None:
        if not self._websocket.closed:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await self._websocket.send_bytes(message)
