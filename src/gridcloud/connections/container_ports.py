"""Ports of a container, in both directions, over one command within it: the far end of `multiplexer`."""

from __future__ import annotations

import asyncio
import errno
import inspect
import json
import socket
from types import ModuleType
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

__all__ = ["BOOT", "Relaying", "listen_error", "listening_at"]

PATIENCE = 30
"""Seconds that a relay may take to begin, and one that failed to end."""

BOOT = """\
import os, sys, types
def take(size):
    text = b""
    while len(text) < size:
        part = os.read(0, size - len(text))
        if not part:
            sys.exit(1)
        text += part
    return text
while True:
    name, size = take(64).split()
    if not int(size):
        break
    module = sys.modules[name.decode()] = types.ModuleType(name.decode())
    exec(compile(take(int(size)), name.decode(), "exec"), module.__dict__)
module.main()
"""
"""What `python3 -c` is given: it reads the relay's modules from standard input, each after its name and length, and
runs the last one."""


class Relaying:
    """The near end of the relay program of one container: what it is called, and the modules that make the program."""

    def __init__(
        self, process: Process, container: str, modules: tuple[ModuleType, ...] = (multiplexer,)
    ) -> None:
        self._process, self._container, self._modules = process, container, modules
        self._output = process.stdout()
        self._listeners: dict[bytes, Endpoint] = {}
        self._carried: dict[bytes, set[asyncio.Task[Any]]] = {}
        self._dialled: set[asyncio.Future[None]] = set()
        self._ports = multiplexer.Multiplexer(self._receive, process.write, self._connect, near=True)
        self._complaint = asyncio.ensure_future(drain(process.stderr()))
        self._serving = asyncio.ensure_future(self._ports.run())

    @property
    def alive(self) -> bool:
        return not self._serving.done()

    async def begin(self) -> None:
        """Send the program and wait for its first word. Raises Rejected without python3, ConnectionLost."""
        for module in self._modules:
            text = inspect.getsource(module).encode()
            await self._process.write(f"{module.__name__} {len(text)}".ljust(64).encode() + text)
        await self._process.write(b"end 0".ljust(64))
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ports.ready
        except TimeoutError:
            raise ConnectionLost(f"The relay in {self._container} says nothing.") from None
        except asyncio.CancelledError:
            if not self._serving.done():
                raise
            try:
                async with asyncio.timeout(PATIENCE):
                    code = await self._process.wait()
                    complaint = await asyncio.shield(self._complaint)
            except TimeoutError:
                raise ConnectionLost(f"The relay in {self._container} speaks another language.") from None
            if code in (126, 127) or "ModuleNotFoundError" in complaint or "SyntaxError" in complaint:
                raise Rejected(
                    f"{self._container} has no whole python3, which carries its ports.",
                    remedy="Use an image with python3 (3.8 or newer) in its PATH.",
                ) from None
            raise ConnectionLost(f"The relay in {self._container} ended with {code}: {complaint}") from None

    async def wait_ended(self) -> None:
        """Return when the relay has ended."""
        await asyncio.wait([self._serving])

    async def dial(self, target: dict[str, Any]) -> multiplexer.Streams:
        """Return streams to what the far end makes of ``target``; they end at once when the relay has ended."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        streams = await asyncio.open_connection(sock=theirs)
        task = asyncio.ensure_future(self.carry(json.dumps(target).encode(), streams))
        self._dialled.add(task)
        task.add_done_callback(self._dialled.discard)
        return reader, writer

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

    async def listen(self, remote: Endpoint, local: Endpoint) -> tuple[int, Endpoint]:
        """Have the far end listen; return the listener's number and where it is. Raises OSError, of which
        ConnectionResetError says that the relay has ended; Rejected when it answers with what is no port."""
        number, where = await self._ports.ask_to_listen(remote.model_dump())
        there = listening_at(remote, where)
        self._listeners[str(number).encode()] = local
        return number, there

    async def stop_listening(self, number: int) -> None:
        self._listeners.pop(str(number).encode(), None)
        if self.alive:
            await self._ports.stop_listening(number)

    async def end(self) -> None:
        self._serving.cancel()
        await asyncio.gather(self._serving, *self._dialled, return_exceptions=True)
        await self._process.close_input()

    async def _receive(self) -> bytes:
        return await anext(self._output, b"")

    async def _connect(self, target: bytes) -> multiplexer.Streams:
        return await multiplexer.connect_to(self._listeners[target].model_dump())


def listening_at(wanted: Endpoint, where: Any) -> Endpoint:
    """Return the endpoint that was asked for, with the port that was found for it. Whoever found it may lie: nothing
    else of what they say is taken. Raises Rejected when it is no port."""
    if isinstance(wanted, Socket) or wanted.port:
        return wanted
    port = where.get("port") if isinstance(where, dict) else None
    if not isinstance(port, int) or not 0 < port < 65536:
        raise Rejected(f"The other side says that it listens on {where!r:.100}, which is no port.")
    return Port(host=wanted.host, port=port)


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
