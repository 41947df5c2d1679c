"""Ports and sockets of an instance within an SSH connection to it, in both directions, through its own `Connection`.

Between the two lies a Unix socket in a folder that nobody else may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.stream import SSHTCPStreamSession, SSHUNIXStreamSession

from gridcloud.connections.driver import Connection, Forward
from gridcloud.connections.model import Endpoint, Port, Socket
from gridcloud.connections.relay import Reader, Writer, carry, dial_here, relay
from gridcloud.errors import GridcloudError

__all__ = ["Ports"]

log = logging.getLogger(__name__)

KEPT = 64
"""Places there that are kept ready to be connected to; beyond, those that nobody uses are forgotten."""
PLACES = 512
"""Places there that are connected to at the same time."""
LISTENERS = 128
"""Places there that are listened on."""


@dataclass(slots=True)
class _Way:
    """How a place there is reached. ``users``: connections through it."""

    opening: asyncio.Future[Forward]
    users: int = 0


class Ports:
    """The ports of one SSH connection. ``connected`` gives the instance's connection."""

    def __init__(self, connected: Callable[[], Awaitable[Connection]]) -> None:
        self._connected = connected
        self._ways: dict[str, _Way] = {}
        self._listeners: set[_Listener] = set()
        self._numbers = itertools.count()
        self._folder: Path | None = None

    async def dial(self, remote: Endpoint) -> SSHTCPStreamSession[bytes]:
        """Return a session that is carried to what listens there; it ends at once where nothing does.

        Raises asyncssh.ChannelOpenError.
        """
        return SSHTCPStreamSession(await self._carrier(remote))

    async def dial_socket(self, remote: Socket) -> SSHUNIXStreamSession[bytes]:
        """As `dial`, to a socket there."""
        return SSHUNIXStreamSession(await self._carrier(remote))

    async def listen(self, remote: Port, ssh: asyncssh.SSHServerConnection) -> asyncssh.SSHListener | bool:
        """Listen there and have the other side of ``ssh`` take what connects; False where that cannot be."""
        name = remote.host

        async def pass_on() -> tuple[Reader, Writer]:
            return await ssh.open_connection(name, listener.get_port(), "127.0.0.1", 0)

        place = Port(host="127.0.0.1", port=remote.port) if name == "localhost" else remote
        listener = _Listener(place, pass_on)
        return await self._listen(listener)

    async def listen_socket(
        self, remote: Socket, ssh: asyncssh.SSHServerConnection
    ) -> asyncssh.SSHListener | bool:
        """As `listen`, on a socket there."""

        async def pass_on() -> tuple[Reader, Writer]:
            return await ssh.open_unix_connection(remote.path)

        return await self._listen(_Listener(remote, pass_on))

    async def close(self) -> None:
        """Cut all, and stop listening there."""
        for listener in set(self._listeners):
            listener.close()
            await listener.wait_closed()
        ways, self._ways = list(self._ways.values()), {}
        for way in ways:
            await _shut(way)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)

    # From here to there ----------------------------------------------------------------------------------------

    async def _carrier(self, remote: Endpoint) -> Callable[[Reader, Writer], Awaitable[None]]:
        way = self._way(remote)
        way.users += 1
        try:
            forward = await asyncio.shield(way.opening)
            far_reader, far_writer = await dial_here(forward.endpoint)
        except BaseException as error:
            way.users -= 1
            if isinstance(error, GridcloudError | OSError):
                log.info("no connection to %s: %s", remote, error)
                raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(error)) from error
            raise

        async def serve(reader: Reader, writer: Writer) -> None:
            try:
                await carry(reader, writer, far_reader, far_writer)
            finally:
                way.users -= 1

        return serve

    def _way(self, remote: Endpoint) -> _Way:
        key = remote.model_dump_json()
        way = self._ways.pop(key, None)
        if way is None or (way.opening.done() and (way.opening.cancelled() or way.opening.exception())):
            if len(self._ways) >= PLACES:
                raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many places")
            way = _Way(asyncio.ensure_future(self._open(remote)))
        self._ways[key] = way  # the last one now
        if len(self._ways) > KEPT:
            idle = next(
                (one for one, other in self._ways.items() if not other.users and other is not way), ""
            )
            if idle:
                shutting = asyncio.ensure_future(_shut(self._ways.pop(idle)))
                shutting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return way

    async def _open(self, remote: Endpoint) -> Forward:
        connection = await self._connected()
        return await connection.forward(remote, self._socket())

    # From there to here ----------------------------------------------------------------------------------------

    async def _listen(self, listener: _Listener) -> asyncssh.SSHListener | bool:
        for earlier in set(self._listeners):
            if earlier.closing:  # it may be the same place that is listened on anew
                await earlier.wait_closed()
        if len(self._listeners) >= LISTENERS:
            return False
        try:
            await listener.open(await self._connected(), self._socket())
        except (GridcloudError, OSError) as error:
            log.info("nothing listens on %s: %s", listener.remote, error)
            return False
        self._listeners.add(listener)
        listener.forget = self._listeners.discard
        return listener

    def _socket(self) -> Socket:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="gridcloud-"))  # mode 0700
        return Socket(path=str(self._folder / str(next(self._numbers))))


class _Listener(asyncssh.SSHListener):
    """Something that listens there."""

    def __init__(self, remote: Endpoint, pass_on: Callable[[], Awaitable[tuple[Reader, Writer]]]) -> None:
        super().__init__()
        self.remote = remote
        self.forget: Callable[[_Listener], None] = lambda _: None
        self._pass_on = pass_on
        self._port = remote.port if isinstance(remote, Port) else 0
        self._forwards: list[Forward] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def closing(self) -> bool:
        return self._closing is not None

    async def open(self, connection: Connection, local: Socket) -> None:
        """Listen. Raises what `Connection.expose` raises."""
        # Who connects is carried by the first; the second has those of there come to the first.
        self._forwards.append(await relay(local, self._dial))
        try:
            exposed = await connection.expose(local, self.remote)
        except BaseException:
            await self._forwards[0].close()
            raise
        self._forwards.insert(0, exposed)
        if isinstance(exposed.endpoint, Port):
            self._port = exposed.endpoint.port

    def get_port(self) -> int:
        return self._port

    def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())

    async def wait_closed(self) -> None:
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            for forward in self._forwards:
                with contextlib.suppress(GridcloudError, OSError):  # it was lost, and ended with that
                    await forward.close()
        finally:
            self.forget(self)

    async def _dial(self) -> tuple[Reader, Writer]:
        try:
            return await self._pass_on()
        except asyncssh.Error as error:
            raise ConnectionResetError(str(error)) from error


async def _shut(way: _Way) -> None:
    way.opening.cancel()
    with contextlib.suppress(GridcloudError, OSError, asyncio.CancelledError):
        await (await way.opening).close()
