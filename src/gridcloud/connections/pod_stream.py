"""One exec of Kubernetes as a process: a websocket whose first byte of each message names the stream.

Protocol ``v4.channel.k8s.io``: 0 standard input, 1 output, 2 error, 3 the status at the end. It knows no end of input
and no signals: what needs those runs below `relay_commands`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp

from gridcloud.connections.container_process import Output
from gridcloud.connections.driver import Process
from gridcloud.errors import ConnectionLost, InvalidRequest

__all__ = ["PodStream"]

CHUNK = 1 << 16

GOODBYE = 2
"""Seconds that the other end has to say that it has understood."""


class PodStream(Process):
    """A command that the API server runs for us in a pod. ``name``: what it is, for messages."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self._websocket, self._name = websocket, name
        self._out, self._err = Output(), Output()
        self._pumping = asyncio.ensure_future(self._pump())
        self._pumping.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            try:
                await self._websocket.send_bytes(b"\0" + data[start : start + CHUNK])
            except (OSError, aiohttp.ClientError):
                return  # its end is told by `wait`

    async def close_input(self) -> None:
        """Hang up: the only end of input there is. The command is given a moment to end first."""
        await asyncio.wait([self._pumping], timeout=0)
        await self._hang_up()

    async def first_line(self) -> bytes:
        """Return the first line of output; empty when it ended before."""
        return await self._out.line()

    def stdout(self) -> AsyncIterator[bytes]:
        return self._out.chunks()

    def stderr(self) -> AsyncIterator[bytes]:
        return self._err.chunks()

    async def wait(self) -> int:
        return await asyncio.shield(self._pumping)

    async def signal(self, name: str) -> None:
        raise InvalidRequest(f"An exec of Kubernetes takes no signal {name!r}.")

    async def abandon(self) -> None:
        """Let go of it, whatever it does."""
        self._pumping.cancel()
        await asyncio.gather(self._pumping, return_exceptions=True)
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Close the websocket, also where the other end goes on sending for ever in place of an answer."""
        with contextlib.suppress(TimeoutError):  # the session's end closes what is left
            async with asyncio.timeout(GOODBYE):
                await self._websocket.close()

    async def _pump(self) -> int:
        code = None
        try:
            async for message in self._websocket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], message.data[1:]
                if channel == 3:
                    code = _exit_code(data)
                elif data and channel in (1, 2):
                    await (self._out if channel == 1 else self._err).put(data)
        finally:
            self._out.end()
            self._err.end()
        if code is None:
            raise ConnectionLost(f"The connection to {self._name} was cut.")
        return code


def _exit_code(data: bytes) -> int | None:
    """Return the exit code that a status tells; None for one that tells of something else."""
    try:
        status = json.loads(data)
        if status["status"] == "Success":
            return 0
        causes = status.get("details", {}).get("causes") or []
        codes = [int(one["message"]) for one in causes if one.get("reason") == "ExitCode"]
        return (
            codes[0] if codes else 126 if "executable file not found" in status.get("message", "") else None
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
