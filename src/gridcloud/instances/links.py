"""The connections to live instances: opened when first needed, kept, re-established, dropped with the instance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address

__all__ = ["Links"]


class Links:
    """One kept connection per instance id."""

    def __init__(self, connect: Callable[[Address], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._links: dict[str, tuple[Address, Connection]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Future[None]] = set()

    async def get(self, instance_id: str, address: Address) -> Connection:
        """Return the connection to the instance, opening it if need be. Raises what opening raises."""
        async with self._locks.setdefault(instance_id, asyncio.Lock()):
            known = self._links.get(instance_id)
            if known is not None and known[0] == address:
                return known[1]
            if known is not None:
                await self._let_go(known[1])
            connection = await self._connect(address)
            self._links[instance_id] = (address, connection)
            return connection

    def count(self) -> dict[str, int]:
        """Return how many connections are ``up``, and how many are ``down`` and being opened again."""
        states = [getattr(connection, "state", "up") for _, connection in self._links.values()]
        up = states.count("up")
        return {"up": up, "down": len(states) - up}

    async def drop(self, instance_id: str) -> None:
        """Close the connection to the instance, if there is one."""
        self._locks.pop(instance_id, None)
        known = self._links.pop(instance_id, None)
        if known is not None:
            await self._let_go(known[1])

    async def close(self) -> None:
        """Close all of them."""
        links, self._links = self._links, {}
        self._locks.clear()
        await asyncio.gather(
            *(self._let_go(connection) for _, connection in links.values()), return_exceptions=True
        )
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _let_go(self, connection: Connection) -> None:
        """Close a connection to the end: whoever waits for it may be called off, and nobody else knows of it."""
        closing = asyncio.ensure_future(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)
