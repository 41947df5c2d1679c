"""Have an instance's configurers run over its connection, each line of output told as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gridcloud.connections.driver import Connection
from gridcloud.errors import Transient
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance
from gridcloud.store.lives import Lives

__all__ = ["Configure", "configure_machine", "telling_lines"]

Configure = Callable[[Instance, Connection, Callable[[str], None]], Awaitable[None]]
"""Runs an instance's configurers over a connection, telling each line of output."""


async def configure_machine(
    records: Lives[Instance], links: Links, configure: Configure, instance: Instance
) -> None:
    """Run the configurers, once more where the line is cut. Raises what they raise."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    telling = asyncio.create_task(telling_lines(records, instance, lines))
    try:
        try:
            await _configure_once(links, configure, instance, lines.put_nowait)
        except Transient as error:
            lines.put_nowait(f"{error} Trying once more.")
            await links.drop(instance.id)
            await _configure_once(links, configure, instance, lines.put_nowait)
    finally:
        lines.put_nowait("")
        await telling


async def telling_lines(records: Lives[Instance], instance: Instance, lines: asyncio.Queue[str]) -> None:
    """Write lines into an instance's story, those that wait as one event, until an empty one comes."""
    while line := await lines.get():
        batch = [line]
        ended = False
        while not lines.empty():
            if not (more := lines.get_nowait()):
                ended = True
                break
            batch.append(more)
        await records.tell(instance, "output", "\n".join(batch))
        if ended:
            return


async def _configure_once(
    links: Links, configure: Configure, instance: Instance, report: Callable[[str], None]
) -> None:
    if instance.address is None:
        raise RuntimeError(f"instance {instance.id} is configured before it has an address")
    await configure(instance, await links.get(instance.id, instance.address), report)
