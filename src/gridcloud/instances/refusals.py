"""Providers that refuse to tell us of their machines: asked again after growing pauses, and their owners told once.

A refusal (credentials that have expired, a right that was taken away) says nothing of the machines: they stay as they
are until somebody puts it right. Many clouds shut an account after some wrong passwords, so it is not asked in a hurry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.instances.model import FINAL, Instance
from gridcloud.instances.timing import Timing
from gridcloud.store.lives import Lives

__all__ = ["Refusals"]


@dataclass(slots=True)
class _Refusal:
    error: GridcloudError
    attempts: int
    again: float
    """When it is asked again, by the monotonic clock."""
    told: set[str] = field(default_factory=set)
    """Ids of the instances that it was told to."""


class Refusals:
    """Which providers refuse us. Kept in memory: a new run asks each at once."""

    def __init__(self, records: Lives[Instance], clock: Clock, timing: Callable[[], Timing]) -> None:
        self._records = records
        self._clock = clock
        self._timing = timing
        self._refusals: dict[str, _Refusal] = {}

    async def hold(self, provider: str, instance: Instance) -> bool:
        """Return whether a provider that refused us is not to be asked yet of an instance, which is told why."""
        refusal = self._refusals.get(provider)
        if refusal is None or self._clock.monotonic() >= refusal.again:
            return False
        await self._tell(provider, refusal, instance)
        return True

    async def begin(self, provider: str, error: GridcloudError, instance: Instance) -> None:
        """Note that a provider refused to tell of an instance, which is told so once."""
        now = self._clock.monotonic()
        refusal = self._refusals.setdefault(provider, _Refusal(error, 0, now))
        refusal.error = error
        if now >= refusal.again:  # many may have heard one answer
            refusal.attempts += 1
            longest, first = self._timing().longest_pause, self._timing().first_pause
            refusal.again = now + min(longest, first * 2.0 ** min(refusal.attempts - 1, 16))
        await self._tell(provider, refusal, instance)

    async def end(self, provider: str) -> None:
        """Note that a provider answers, and tell those who heard that it did not."""
        refusal = self._refusals.pop(provider, None)
        for instance_id in sorted(refusal.told) if refusal is not None else ():
            try:
                instance = await self._records.get(instance_id)
            except NotFound:
                continue
            if instance.state not in FINAL:
                await self._records.tell(instance, "answering", f"{provider} tells of the machine again.")

    async def _tell(self, provider: str, refusal: _Refusal, instance: Instance) -> None:
        if instance.id in refusal.told:
            return
        refusal.told.add(instance.id)
        message = (
            f"The credentials of {provider} are refused, or its entry is wrong; the machine is left as it is until "
            f"that is put right: {refusal.error}"
        )
        await self._records.tell(
            instance, "shut-out", message, {"provider": provider, "error": refusal.error.problem()}
        )
