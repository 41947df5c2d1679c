"""Run the command that an instance was given for its end, before it ends: to save what is on it."""

from __future__ import annotations

import asyncio
import logging

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.errors import GridcloudError, TimedOut
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance, State
from gridcloud.instances.paths import find_programs
from gridcloud.store.lives import Lives

__all__ = ["say_farewell"]

log = logging.getLogger(__name__)

SHOWN = 4000
"""Characters of the command's output that are told, the last ones."""


async def say_farewell(records: Lives[Instance], links: Links, instance: Instance, seconds: float) -> None:
    """Run ``before_end`` on an instance that was ready and is being stopped, for so many seconds at most.

    What becomes of it is told. It keeps no instance alive: whatever goes wrong, this returns.
    """
    if (
        not instance.before_end
        or instance.state is not State.STOPPING
        or instance.ready_at is None
        or instance.address is None
    ):
        return
    await records.tell(instance, "saving", f"Before its end: {' '.join(instance.before_end)[:500]}")
    try:
        async with asyncio.timeout(seconds):
            connection = await links.get(instance.id, instance.address)
            command = await find_programs(instance, connection, Command(instance.before_end))
            done = await connections.run(connection, command)
    except (GridcloudError, TimeoutError) as error:
        why = (
            f"It was not done within {seconds:.3g} s" if isinstance(error, TimedOut | TimeoutError) else error
        )
        message = f"The command before the end came to nothing: {why}"
    except Exception as error:  # whatever its owner made it be: a machine that cannot be ended costs for ever
        log.warning(
            "instance %s: the command before the end: %s: %s", instance.id, type(error).__name__, error
        )
        message = f"The command before the end came to nothing: it cannot be run ({type(error).__name__})."
    else:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if said:
            await records.tell(instance, "output", said[-SHOWN:])
        message = f"The command before the end ended with exit code {done.code}."
    await records.tell(instance, "saved", message)
