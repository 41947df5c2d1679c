"""Watch ready instances: what is gone, what does not answer, whose time is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, Transient
from gridcloud.instances.arming import Arming
from gridcloud.instances.choice import offer_of
from gridcloud.instances.idleness import Idleness
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance, Observation, Phase, Reason, State
from gridcloud.instances.observer import Observer
from gridcloud.instances.providers import Providers
from gridcloud.instances.reboots import Reboots
from gridcloud.instances.refusals import Refusals
from gridcloud.instances.silence import Silences
from gridcloud.instances.timing import Timing
from gridcloud.store.lives import Lives

__all__ = ["Watch"]

log = logging.getLogger(__name__)

End = Callable[[str, Reason, str], Awaitable[Instance]]
"""Have the instance of an id end, for a reason, in words."""
Lose = Callable[[Instance, str], Awaitable[None]]
"""Note that the machine of an instance is lost, in words."""


class Watch:
    """Looks at all ready instances now and then."""

    def __init__(
        self,
        records: Lives[Instance],
        providers: Providers,
        links: Links,
        clock: Clock,
        timing: Callable[[], Timing],
        end: End,
        lose: Lose,
    ) -> None:
        self._records = records
        self._providers = providers
        self._clock = clock
        self._timing = timing
        self._end = end
        self._lost = lose
        self.idleness = Idleness(records, links, clock, timing, end)
        self.arming = Arming(records, providers, clock, timing)
        self._reboots = Reboots(records, links)
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._looked: dict[str, float] = {}
        self._observers: dict[str, Observer] = {}
        self._refusals = Refusals(records, clock, timing)
        self._silences = Silences(timing().silence)

    async def run(self) -> None:
        """Notice ready instances that are gone or whose time is over, until cancelled."""
        try:
            while True:
                try:
                    found = await self._records.find(states=[State.READY])
                    ready = [instance for instance in found if self._records.keeps(instance)]
                    self._forget_others({instance.id for instance in ready})
                    looks = (self._look(instance) for instance in ready)
                    for problem in await asyncio.gather(*looks, return_exceptions=True):
                        if isinstance(problem, GridcloudError):
                            log.warning("watching instances: %s", problem)
                        elif problem is not None:
                            # A fault of ours at one machine is no reason to look at none.
                            log.error("watching instances failed", exc_info=problem)
                except GridcloudError as error:
                    log.warning("watching instances: %s", error)
                await self._clock.sleep(self._timing().watch)
        finally:
            tasks = list(self._looking.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def observe(self, instance: Instance) -> Observation | None:
        """Return what the provider says of an instance; questions at the same time are one call.

        None where it refuses to say anything, which tells nothing of the machine. Raises Transient.
        """
        name = offer_of(instance).provider
        if instance.handle is None:
            return Observation(phase=Phase.GONE, detail="It was never made.")
        if name not in self._observers:
            self._observers[name] = Observer(lambda: self._providers.holder(name))
        if await self._refusals.hold(name, instance):
            return None
        try:
            seen = await self._observers[name].observe(instance.id, instance.handle)
        except Transient:
            raise
        except GridcloudError as error:
            await self._refusals.begin(name, error, instance)
            return None
        await self._refusals.end(name)
        return seen

    async def _look(self, instance: Instance) -> None:
        now = self._clock.now()
        if instance.expires is not None:
            if now >= instance.expires:
                await self._end(instance.id, Reason.EXPIRED, "Its time is over.")
                return
            instance = await self._warn_of_expiry(instance, instance.expires, now)
        try:
            seen = await self.observe(instance)
        except Transient as error:
            seen = Observation(phase=Phase.PENDING, detail=str(error))
        if seen is None:
            return
        if seen.phase in (Phase.GONE, Phase.FAILED):
            await self._lose(
                instance, f"The machine is gone: {seen.detail or 'the provider holds it no longer'}"
            )
        elif seen.phase is Phase.PENDING:
            await self._bear(instance, seen.detail)
        else:
            if self._silences.end(instance.id):
                await self._records.tell(instance, "answering", "The machine answers again.")
            self._attend(instance)

    def _attend(self, instance: Instance) -> None:
        """Look at the machine itself, apart: one that is slow to answer keeps no other waiting."""
        task = self._looking.get(instance.id)
        if task is None or task.done():
            self._looking[instance.id] = asyncio.create_task(
                self._attend_to(instance), name=f"look at {instance.id}"
            )

    async def _attend_to(self, instance: Instance) -> None:
        try:
            await self._reboots.look(instance)
            await self.arming.see_to(instance)
            pause = self.idleness.pause(instance)
            now = self._clock.monotonic()
            if pause and now - self._looked.get(instance.id, -pause) >= pause * 0.9:
                self._looked[instance.id] = now
                await self.idleness.look(instance)
        except GridcloudError as error:
            log.info("looking at %s: %s", instance.id, error)
        except Exception:  # a fault of ours at one machine is no reason to look at none
            log.exception("looking at %s failed", instance.id)

    def _forget_others(self, ready: Collection[str]) -> None:
        for instance_id in self._looking.keys() - ready:
            self._looking.pop(instance_id).cancel()
            self._looked.pop(instance_id, None)
            self.idleness.forget(instance_id)
            self._reboots.forget(instance_id)
            self.arming.forget(instance_id)

    async def _warn_of_expiry(self, instance: Instance, expires: datetime, now: datetime) -> Instance:
        left = (expires - now).total_seconds()
        if instance.warned or left > self._timing().warning:
            return instance
        with contextlib.suppress(Conflict):
            message = f"Ends in {max(1, round(left / 60))} minutes, at {expires:%H:%M:%S} UTC."
            data = {"expires": expires.isoformat()}
            return await self._records.save(instance, "expiring", message, data, warned=True)
        return instance

    async def _bear(self, instance: Instance, detail: str) -> None:
        """Wait for a machine that does not answer, and give it up when that takes too long."""
        now = self._clock.now()
        if self._silences.begin(instance.id, now):
            await self._records.tell(instance, "silent", f"The machine does not answer: {detail}")
        if since := self._silences.given_up(instance.id, now):
            text = f"The machine is lost: it has not answered since {since:%H:%M:%S} UTC. {detail}"
            await self._lose(instance, text.strip())

    async def _lose(self, instance: Instance, detail: str) -> None:
        self._silences.end(instance.id)
        await self._lost(instance, detail)
