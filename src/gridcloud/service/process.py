"""The service as a process: lock, house, server, signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from gridcloud.connections.forkserver import Program
from gridcloud.errors import Conflict
from gridcloud.service.house import House
from gridcloud.service.server import serving
from gridcloud.settings import SettingsFile, socket_path
from gridcloud.store import OwnerLock

__all__ = ["lock_of", "owning", "run", "until_stopped"]

log = logging.getLogger(__name__)

QUIET = 10
"""Looks, 0.05 s apart, at which nobody is connected, before nobody is taken to come back."""


def lock_of(data: Path) -> OwnerLock:
    """Return the lock whose holder owns the data folder's store."""
    return OwnerLock(data / "store.sqlite")


@contextlib.asynccontextmanager
async def owning(
    settings_file: SettingsFile,
    data: Path,
    programs: Sequence[Program] = (),
    block: Sequence[str] = (),
    farewell: Callable[[str], None] | None = None,
) -> AsyncIterator[House]:
    """Own the store and serve it while the context is open. Raises Conflict when somebody else owns it.

    With ``farewell`` it ends only when nobody else is connected any more, whose commands would end with it;
    ``farewell`` gets a sentence when that is waited for.
    """
    path = socket_path(data)
    lock = lock_of(data)
    if not lock.try_acquire(str(path)):
        holder = lock.holder()
        raise Conflict(
            f"Another gridcloud (process {holder.pid if holder else '?'}) owns {data}.",
            remedy="Stop it, or set GRIDCLOUD_DATA to another folder.",
        )
    try:
        house = await House.open(settings_file, data, programs=programs, block=block)
        try:
            async with serving(house, path) as guests:
                yield house
                if farewell is not None:
                    await _see_off(guests, farewell)
        finally:
            await house.close()
    finally:
        lock.release()


async def _see_off(guests: Callable[[], int], farewell: Callable[[str], None]) -> None:
    """Wait until nobody is connected; whoever asks often is given time to ask again."""
    for _ in range(20):  # our own client's connection needs an instant to be gone
        if not guests():
            return
        await asyncio.sleep(0.005)
    farewell("Other commands use the gridcloud within this one; waiting for them to end.")
    quiet = 0
    while quiet < QUIET:
        await asyncio.sleep(0.05)
        quiet = 0 if guests() else quiet + 1


async def run(
    settings_file: SettingsFile, data: Path, programs: Sequence[Program] = (), block: Sequence[str] = ()
) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = until_stopped()
    async with owning(settings_file, data, programs, block):
        log.info("serving %s", data)
        await stopped.wait()


def until_stopped() -> asyncio.Event:
    """Return what is set when SIGTERM or SIGINT comes, which then end nothing by themselves."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped
