"""Listen here and carry what connects to somewhere else, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, runtime_checkable

from gridcloud.connections.driver import Forward
from gridcloud.connections.model import Endpoint, Port, Socket
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, PortTaken

__all__ = ["Dial", "Dialing", "Reader", "Writer", "carry", "dial_here", "listen_here", "relay"]

_BLOCK = 256 << 10


class Reader(Protocol):
    """The reading half of a stream: asyncio's and asyncssh's both fit."""

    async def read(self, n: int = -1, /) -> bytes: ...


class Writer(Protocol):
    """The writing half of a stream."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...


Dial = Callable[[], Awaitable[tuple[Reader, Writer]]]
"""Open a stream to where a client is to be carried; raises OSError or an error of gridcloud when nothing listens."""


@runtime_checkable
class Dialing(Protocol):
    """A connection that opens a stream to a place there by itself: no listener of it here is between."""

    async def dial(self, remote: Endpoint) -> tuple[Reader, Writer]:
        """Open a stream to ``remote``, which ends with the connection. Raises OSError, ConnectionLost."""


async def relay(local: Endpoint, dial: Dial, bound: socket.socket | None = None) -> Forward:
    """Listen on ``local`` (or on a socket already bound to it) and carry every client to what ``dial`` opens.

    Raises PortTaken, Forbidden. A client for whom ``dial`` fails is hung up on.
    """
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            clients.add(task)
            task.add_done_callback(clients.discard)
        try:
            far_reader, far_writer = await dial()
        except (OSError, GridcloudError):
            writer.transport.abort()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            return
        await carry(reader, writer, far_reader, far_writer)

    bound = bound or listen_here(local)
    if isinstance(local, Port):
        local = Port(host=local.host, port=bound.getsockname()[1])
        server = await asyncio.start_server(serve, sock=bound, limit=_BLOCK)
    else:
        server = await asyncio.start_unix_server(serve, sock=bound, limit=_BLOCK)

    async def close() -> None:
        server.close()
        for task in list(clients):
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if isinstance(local, Socket):
            try:
                os.unlink(local.path)
            except OSError:  # already gone, or in a folder that went first
                return

    return Forward(local, close)


async def carry(reader: Reader, writer: Writer, far_reader: Reader, far_writer: Writer) -> None:
    """Copy both ways until both ends have finished or one breaks; then close both. Cancelling cuts it."""
    ways: list[asyncio.Future[None]] = []
    closings: list[asyncio.Future[None]] = []
    for source, target in ((reader, far_writer), (far_reader, writer)):
        way = asyncio.ensure_future(_copy(source, target))
        # An end that is closed takes no more; what it had said until then is still delivered.
        closing = asyncio.ensure_future(target.wait_closed())
        closing.add_done_callback(partial(_end, way))
        ways.append(way)
        closings.append(closing)
    cut = False
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        cut = True
    finally:
        for task in (*ways, *closings):
            task.cancel()
        with contextlib.suppress(
            asyncio.CancelledError
        ):  # again, while it was ending: both are closed all the same
            await asyncio.gather(*ways, *closings, return_exceptions=True)
        for end in (writer, far_writer):
            if cut and isinstance(end, asyncio.StreamWriter):
                end.transport.abort()  # closing would wait for a peer that reads no more
            else:
                end.close()


def _end(way: asyncio.Future[None], _: asyncio.Future[None]) -> None:
    way.cancel()


async def _copy(reader: Reader, writer: Writer) -> None:
    while block := await reader.read(_BLOCK):
        writer.write(block)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def listen_here(endpoint: Endpoint) -> socket.socket:
    """Return a listening socket. Raises PortTaken, Forbidden, InvalidRequest."""
    if isinstance(endpoint, Socket):
        return _listen_unix(endpoint.path)
    try:
        family = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)[0][0]
        # The protocol by name: only then asyncio has what is accepted send small messages at once.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise InvalidRequest(f"{endpoint.host!r} is no address of this computer: {error}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refuse(endpoint, error) from error
    return listener


def _refuse(endpoint: Endpoint, error: OSError) -> GridcloudError:
    """Return why nothing can listen on ``endpoint``."""
    name = f"{endpoint.host}:{endpoint.port}" if isinstance(endpoint, Port) else endpoint.path
    if error.errno == errno.EADDRINUSE:
        return PortTaken(f"Somebody else listens on {name}.", remedy="Choose another, or 0 for any free one.")
    if isinstance(error, PermissionError):
        return Forbidden(f"Listening on {name} is not permitted.", remedy="Choose another port or socket.")
    return InvalidRequest(f"Nothing can listen on {name}: {error.strerror or error}.")


def _listen_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if sys.platform == "linux":
            os.fchmod(listener.fileno(), 0o600)  # before bind: the file has this mode from its first moment
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refuse(Socket(path=path), error) from error
    return listener


def _is_stale(path: str) -> bool:
    """Tell whether a socket is left over from a process that ended: it refuses whoever connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


async def dial_here(endpoint: Endpoint) -> tuple[Reader, Writer]:
    """Connect to something that listens on this computer. Raises OSError."""
    if isinstance(endpoint, Socket):
        return await asyncio.open_unix_connection(endpoint.path, limit=_BLOCK)
    return await asyncio.open_connection(endpoint.host, endpoint.port, limit=_BLOCK)
