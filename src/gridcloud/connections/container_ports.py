"""Ports of a container, in both directions, over one command within it: the far end of `multiplexer`."""

from __future__ import annotations

import asyncio
import errno
import inspect
from typing import Any

from gridcloud.connections import multiplexer
from gridcloud.connections.container_process import drain
from gridcloud.connections.driver import Process
from gridcloud.connections.model import Endpoint, Port, Socket
from gridcloud.errors import (
    ConnectionLost,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NotFound,
    PortTaken,
    Rejected,
)

__all__ = ["BOOT", "Relaying", "endpoint", "listen_error"]

BOOT = """\
import os
size = int(os.read(0, 8))
text = b""
while len(text) < size:
    text += os.read(0, size - len(text))
names = {"__name__": "relay"}
exec(compile(text, "relay", "exec"), names)
names["main"]()
"""
"""What `python3 -c` is given: it reads the relay's text from standard input, length first."""


class Relaying:
    """The near end of the relay program of one container."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._output = process.stdout()
        self._listeners: dict[bytes, Endpoint] = {}
        self._carried: dict[bytes, set[asyncio.Task[Any]]] = {}
        self._ports = multiplexer.Multiplexer(self._receive, process.write, self._connect, near=True)
        self._complaint = asyncio.ensure_future(drain(process.stderr()))
        self._serving = asyncio.ensure_future(self._ports.run())

    @property
    def alive(self) -> bool:
        return not self._serving.done()

    async def begin(self, container: str) -> None:
        """Send the program and wait for its first word. Raises Rejected without python3, ConnectionLost."""
        text = inspect.getsource(multiplexer).encode()
        await self._process.write(f"{len(text):08d}".encode() + text)
        try:
            async with asyncio.timeout(30):
                await self._ports.ready
        except asyncio.CancelledError:
            if not self._serving.done():
                raise
            code = await self._process.wait()
            complaint = await self._complaint
            if code in (126, 127) or "ModuleNotFoundError" in complaint:
                raise Rejected(
                    f"Container {container} has no whole python3, which carries its ports.",
                    remedy="Use an image with python3 in its PATH.",
                ) from None
            raise ConnectionLost(
                f"The relay in container {container} ended with {code}: {complaint}"
            ) from None

    async def carry(self, target: bytes, streams: multiplexer.Streams) -> None:
        """Carry one accepted connection; close it at once when the relay has ended."""
        task = asyncio.current_task()
        if not self.alive or task is None:
            streams[1].close()
            return
        carried = self._carried.setdefault(target, set())
        carried.add(task)
        try:
            await self._ports.carry(target, streams)
        finally:
            carried.discard(task)

    async def cut(self, target: bytes) -> None:
        tasks = self._carried.pop(target, set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self, remote: Endpoint, local: Endpoint) -> tuple[int, dict[str, Any]]:
        number, where = await self._ports.ask_to_listen(remote.model_dump())
        self._listeners[str(number).encode()] = local
        return number, where

    async def stop_listening(self, number: int) -> None:
        self._listeners.pop(str(number).encode(), None)
        if self.alive:
            await self._ports.stop_listening(number)

    async def end(self) -> None:
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self._process.close_input()

    async def _receive(self) -> bytes:
        return await anext(self._output, b"")

    async def _connect(self, target: bytes) -> multiplexer.Streams:
        return await multiplexer.connect_to(self._listeners[target].model_dump())


def endpoint(where: dict[str, Any]) -> Endpoint:
    """Return the endpoint that a relay tells of."""
    return Socket.model_validate(where) if "path" in where else Port.model_validate(where)


def listen_error(error: OSError, wanted: Endpoint) -> GridcloudError:
    """Return our error for one of listening."""
    name = wanted.path if isinstance(wanted, Socket) else f"{wanted.host}:{wanted.port}"
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"Somebody else listens on {name}.", remedy="Choose another, or port 0 for any free one."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(f"Listening on {name} is not allowed.")
    if error.errno == errno.ENOENT:
        return NotFound(f"There is no folder for the socket {name}.")
    return InvalidRequest(f"{name} cannot be listened on: {error.strerror or error}")
