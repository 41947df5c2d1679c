"""What connections by a relay program share: files as a tar stream, and ports in both directions.

Such a program runs beside what it serves, in a container or a pod, where its user may replace it by one that lies.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gridcloud.connections import container_files, multiplexer
from gridcloud.connections.container_ports import Relaying, listen_error, listening_at
from gridcloud.connections.driver import Connection, Forward, Progress
from gridcloud.connections.model import Endpoint, Socket
from gridcloud.errors import ConnectionLost, GridcloudError

__all__ = ["RelayedConnection"]

log = logging.getLogger(__name__)


class RelayedConnection(Connection):
    """A connection whose ports go over a relay. ``name``: what it leads to, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._forwards: list[Forward] = []

    @abstractmethod
    async def _relay(self) -> Relaying:
        """Return the relay, which is alive. Raises ConnectionLost, Rejected."""

    async def put(self, source: Path, target: str, progress: Progress | None = None) -> None:
        await container_files.put(self, source, target, progress)

    async def get(self, source: str, target: Path, progress: Progress | None = None) -> None:
        await container_files.get(self, source, target, progress)

    async def forward(self, remote: Endpoint, local: Endpoint) -> Forward:
        relaying = await self._relay()
        target = json.dumps(remote.model_dump()).encode()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await relaying.carry(target, (reader, writer))

        try:
            server, where = await multiplexer.listen_on(local.model_dump(), accept)
        except OSError as error:
            raise listen_error(error, local) from error

        async def close() -> None:
            server.close()
            await relaying.cut(target)
            if isinstance(local, Socket):
                Path(local.path).unlink(missing_ok=True)

        return self._kept(listening_at(local, where), close)

    async def expose(self, local: Endpoint, remote: Endpoint) -> Forward:
        relaying = await self._relay()
        try:
            number, where = await relaying.listen(remote, local)
        except ConnectionResetError as error:
            raise ConnectionLost(f"The relay in {self._name} has ended.") from error
        except OSError as error:
            raise listen_error(error, remote) from error

        async def close() -> None:
            await relaying.stop_listening(number)

        return self._kept(where, close)

    async def _close_forwards(self) -> None:
        for forward in list(self._forwards):
            await self._quietly(forward.close())

    def _kept(self, endpoint: Endpoint, close: Callable[[], Awaitable[None]]) -> Forward:
        async def close_once() -> None:
            if forward in self._forwards:
                self._forwards.remove(forward)
                await close()

        forward = Forward(endpoint, close_once)
        self._forwards.append(forward)
        return forward

    async def _quietly(self, work: Awaitable[Any]) -> None:
        """Do what can be done while closing; what it leads to may be gone already."""
        try:
            await work
        except (GridcloudError, TimeoutError, OSError) as error:
            log.debug("while closing a connection to %s: %s", self._name, error)
