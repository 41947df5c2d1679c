"""See that a machine was started again: its kernel says which start it is, and a new one lost what ran before."""

from __future__ import annotations

import asyncio
import contextlib

from gridcloud import connections
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import SSHAddress
from gridcloud.connections.supervisor import Supervised
from gridcloud.errors import Conflict, GridcloudError
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance
from gridcloud.store.lives import Lives

__all__ = ["Reboots"]

READ = Command(("cat", "/proc/sys/kernel/random/boot_id"))

PATIENCE = 15.0
"""Seconds that a look may take."""


class Reboots:
    """Asks a machine which start it is whenever the connection to it is a new one: no connection outlives a start."""

    def __init__(self, records: Lives[Instance], links: Links) -> None:
        self._records = records
        self._links = links
        self._connections: dict[str, Connection] = {}
        self._due: set[str] = set()

    def forget(self, instance_id: str) -> None:
        """Let go of what is known of an instance that is no longer ready."""
        self._connections.pop(instance_id, None)
        self._due.discard(instance_id)

    async def look(self, instance: Instance) -> None:
        """Tell when the machine was started again. What keeps us from looking is seen to the next time."""
        if not isinstance(instance.address, SSHAddress):
            return  # a process of this computer, or a container, has no start of its own
        with contextlib.suppress(GridcloudError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                connection = await self._links.get(instance.id, instance.address)
                self._follow(instance.id, connection)
                if instance.id in self._due and self._is_up(connection):
                    self._due.discard(instance.id)
                    await self._compare(instance, connection)

    def _follow(self, instance_id: str, connection: Connection) -> None:
        if self._connections.get(instance_id) is connection:
            return
        self._connections[instance_id] = connection
        self._due.add(instance_id)
        if isinstance(connection, Supervised):
            connection.on_change(lambda state, _: self._due.add(instance_id) if state == "up" else None)

    @staticmethod
    def _is_up(connection: Connection) -> bool:
        return not isinstance(connection, Supervised) or connection.state == "up"

    async def _compare(self, instance: Instance, connection: Connection) -> None:
        try:
            done = await connections.run(connection, READ)
            boot = done.stdout.decode(errors="replace").strip()[:100]
            if done.code or not boot:
                return
            instance = await self._records.get(instance.id)
            if instance.boot == boot:
                return
            told = (
                ("rebooted", "The machine was started again: what ran on it is lost.")
                if instance.boot
                else ("", "")
            )
            await self._records.save(instance, *told, boot=boot)
        except (GridcloudError, asyncio.CancelledError, Conflict):
            self._due.add(instance.id)
            raise
