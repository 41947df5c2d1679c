"""What is saved of an instance before it ends: by who uses it, then by the command that it was given for its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.errors import GridcloudError, TimedOut
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance, State
from gridcloud.instances.paths import find_programs
from gridcloud.store.lives import Lives

__all__ = ["Parting", "Setting", "say_farewell"]

log = logging.getLogger(__name__)

SHOWN = 4000
"""Characters of the command's output that are told, the last ones."""

PARTING = 25.0
"""Seconds that all who use an instance have to save what is theirs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the command before the end is run."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """May hold secrets."""
    directory: str = ""


Parting = Callable[[Instance], Awaitable[Setting | None]]
"""Has what uses an instance saved before that ends; returns the setting that it has there, None where it has none."""


async def say_farewell(
    records: Lives[Instance],
    links: Links,
    instance: Instance,
    seconds: float,
    partings: Sequence[Parting] = (),
) -> None:
    """Have those who use an instance that was ready and is being stopped save what is theirs, then run ``before_end``
    on it, for so many seconds at most in all.

    What becomes of it is told. It keeps no instance alive: whatever goes wrong, this returns.
    """
    if instance.state is not State.STOPPING or instance.ready_at is None or instance.address is None:
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    setting = await _part(instance, min(seconds, PARTING), partings)
    if not instance.before_end:
        return
    await records.tell(instance, "saving", f"Before its end: {' '.join(instance.before_end)[:500]}")
    try:
        async with asyncio.timeout_at(deadline):
            connection = await links.get(instance.id, instance.address)
            command = Command(instance.before_end, setting.environment, setting.directory)
            done = await connections.run(connection, await find_programs(instance, connection, command))
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


async def _part(instance: Instance, seconds: float, partings: Sequence[Parting]) -> Setting:
    setting = Setting()
    try:
        async with asyncio.timeout(seconds):
            for parting in partings:
                setting = await parting(instance) or setting
    except (GridcloudError, TimeoutError) as error:
        log.info("instance %s: before its end: %s", instance.id, error)
    except Exception:  # a fault of ours costs what was not saved, and no machine for ever
        log.exception("instance %s: before its end", instance.id)
    return setting
