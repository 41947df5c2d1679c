"""How a leased machine is handed over: an SSH server inside a stream of the borrower, in front of its own connection.

TLS proves the borrower before a stream is opened. It says first, in one line, whose user certificates open the machine:
the public key of its own authority. Whatever driver made the machine, the borrower reaches that and nothing else of us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable

import asyncssh

from gridcloud.agents.serving import Account, Serving, serve
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import InvalidRequest, Malformed, NotFound, TimedOut
from gridcloud.grid.lending import LendingDesk
from gridcloud.grid.loans import Key
from gridcloud.identity.public_keys import read_public_key
from gridcloud.instances.model import Instance
from gridcloud.store.lives import Lives

__all__ = ["STREAM", "Handover", "principal_of"]

log = logging.getLogger(__name__)

STREAM = "leases"
"""What the streams are called."""
LINE = 1000
"""Bytes of the borrower's first line at most."""
FIRST = 15.0
"""Seconds for it to come."""
STREAMS = 64
"""Streams of one lease at the same time."""


def principal_of(lease: str) -> str:
    """Return the name in a certificate that opens a leased machine."""
    return f"gridcloud-lease-{lease}"


class Handover:
    """Serves streams to leased machines while their leases are held."""

    def __init__(
        self,
        desk: LendingDesk,
        instances: Lives[Instance],
        connect: Callable[[Address], Awaitable[Connection]],
        host_key: asyncssh.SSHKey,
    ) -> None:
        """``connect`` opens a connection of its own to an instance; ``host_key`` is what `LendingDesk` tells of."""
        self._desk = desk
        self._instances = instances
        self._connect = connect
        self._host_key = host_key
        self._streams: defaultdict[Key, set[asyncio.Task[None]]] = defaultdict(set)
        desk.when_ended(self._cut)

    async def admit(self, sender: str, id: str) -> None:
        """Refuse who does not hold the lease, with a reason; see `doorway.Admission`. Raises NotFound."""
        await self._address((sender, id))
        if len(self._streams.get((sender, id), ())) >= STREAMS:
            raise NotFound(f"Lease {id} has {STREAMS} streams already.")

    async def serve(self, sender: str, id: str, link: socket.socket) -> None:
        """Serve one stream to its end; see `doorway.StreamHandler`. Raises NotFound where no such lease is held."""
        key = sender, id
        await self.admit(*key)
        address = await self._address(key)
        authority = await _read_authority(link)
        account = Account(
            principal_of(id), str(getattr(address, "directory", "")), lambda: self._connect(address)
        )
        serving = Serving(self._host_key, authority, lambda user: account if user == id else None)
        task = asyncio.create_task(serve(link, serving), name=f"lease {id}")
        self._streams[key].add(task)
        try:
            if self._desk.held(*key) is None:  # it ended while the line came
                return
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, asyncssh.Error | OSError):
                    raise error
                log.info("lease %s of %s: a stream ended: %s", id, sender, error)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._streams[key].discard(task)
            if not self._streams[key]:
                del self._streams[key]

    async def _address(self, key: Key) -> Address:
        loan = self._desk.held(*key)
        if loan is not None:
            with contextlib.suppress(NotFound):
                instance = await self._instances.get(loan.instance_id)
                if instance.address is not None:
                    return instance.address
        raise NotFound(f"No lease {key[1]:.80} is held by {key[0]}.")

    def _cut(self, key: Key) -> None:
        for task in self._streams.get(key, ()):
            task.cancel()


async def _read_authority(link: socket.socket) -> str:
    """Return the public key that stands in the first line of a stream. Raises Malformed, TimedOut."""
    loop, line = asyncio.get_running_loop(), b""
    try:
        async with asyncio.timeout(FIRST):
            while not line.endswith(b"\n") and len(line) < LINE:
                byte = await loop.sock_recv(link, 1)  # what follows belongs to SSH
                if not byte:
                    break
                line += byte
    except TimeoutError:
        raise TimedOut(f"The stream said nothing within {FIRST:g} s.") from None
    except OSError as error:
        raise Malformed(f"The stream ended before it said whose certificates it takes: {error}.") from error
    try:
        words = read_public_key(line.strip()).export_public_key().decode().split()
    except InvalidRequest as error:
        raise Malformed(
            "A stream to a lease begins with the public key of the borrower's authority."
        ) from error
    # Two words of it: what else stood there could be an option of authorized_keys.
    return " ".join(words[:2])
