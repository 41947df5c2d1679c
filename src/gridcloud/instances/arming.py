"""Let machines know when they end, so that they do whatever becomes of us; as often as it takes.

What a machine was told last is kept with its instance, so that neither an answer that was lost, nor two extensions at
once, nor a restart leaves it with another end than its user was told.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, NotFound
from gridcloud.instances.choice import offer_of
from gridcloud.instances.driver import Expiring
from gridcloud.instances.model import Instance, State
from gridcloud.instances.providers import Providers
from gridcloud.instances.timing import Timing
from gridcloud.store.lives import Lives

__all__ = ["Arming", "own_end"]

PATIENCE = 45.0
"""Seconds that a machine may take to be told: a connection to it and a command on it."""

PAUSE = 30.0
"""Seconds between two tries to tell it."""

SLACK = 30.0
"""Seconds that we take to notice that a time is over, and to begin with the command before the end."""


def own_end(instance: Instance, timing: Timing) -> datetime | None:
    """Return when a machine is to end by itself: with its expiry, or after what is saved then was saved."""
    if instance.expires is None or not instance.before_end:
        return instance.expires
    return instance.expires + timedelta(seconds=timing.before_end + SLACK)


class Arming:
    """Tells ready machines their end."""

    def __init__(
        self, records: Lives[Instance], providers: Providers, clock: Clock, timing: Callable[[], Timing]
    ) -> None:
        self._records = records
        self._providers = providers
        self._clock = clock
        self._timing = timing
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._failed: dict[str, tuple[datetime, float]] = {}
        """Of which end an instance's machine could not be told, and when that was tried."""

    def forget(self, instance_id: str) -> None:
        """Let go of what is known of an instance that is no longer ready."""
        self._failed.pop(instance_id, None)

    async def see_to(self, instance: Instance) -> None:
        """Tell a ready machine its end where it does not know it, unless that was tried just now."""
        failed = self._failed.get(instance.id)
        if self._due(instance) and (failed is None or self._clock.monotonic() - failed[1] >= PAUSE):
            await self.arm(instance.id)

    async def arm(self, instance_id: str) -> None:
        """Tell a ready machine its end where it does not know it. What keeps it from it is told, once for each end."""
        async with self._locks.setdefault(instance_id, asyncio.Lock()):
            instance = await self._records.get(instance_id)
            end = self._due(instance)
            if end is None or instance.handle is None:
                return
            try:
                driver = await self._providers.holder(offer_of(instance).provider)
                if not isinstance(driver, Expiring):
                    self._failed[instance_id] = end, math.inf  # and never will
                    return
                async with asyncio.timeout(PATIENCE):
                    await driver.arm(instance_id, instance.handle, end)
            except (GridcloudError, TimeoutError) as error:
                await self._tell_failure(instance, end, str(error) or f"no answer within {PATIENCE:g} s")
            else:
                await self._note(instance_id, end)

    def _due(self, instance: Instance) -> datetime | None:
        end = own_end(instance, self._timing())
        return end if instance.state is State.READY and end != instance.armed else None

    async def _tell_failure(self, instance: Instance, end: datetime, why: str) -> None:
        told = self._failed.get(instance.id)
        self._failed[instance.id] = end, self._clock.monotonic()
        if told is not None and told[0] == end:
            return
        before = (
            f"at {instance.armed:%Y-%m-%d %H:%M:%S} UTC" if instance.armed else "as it was told at its start"
        )
        message = f"The machine could not be told its end yet, and may end by itself {before}; it is tried again: {why}"
        await self._records.tell(instance, "warning", message)

    async def _note(self, instance_id: str, end: datetime) -> None:
        failed = self._failed.pop(instance_id, None)
        story = ("armed", "The machine knows its end now.") if failed else ("", "")
        while True:
            try:
                instance = await self._records.get(instance_id)
                if instance.state is State.READY:
                    await self._records.save(instance, *story, armed=end)
                return
            except NotFound:
                return
            except Conflict:  # somebody changed it meanwhile: what the machine knows is as true
                continue
