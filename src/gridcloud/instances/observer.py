"""Ask a provider about many instances in few calls: questions that come while a call is under way share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gridcloud.errors import GridcloudError, TimedOut, Transient
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Handle, Observation

__all__ = ["Observer"]


class Observer:
    """Bulk observation of one provider's instances."""

    def __init__(self, driver: Callable[[], Awaitable[InstanceDriver]], seconds: float = 30.0) -> None:
        self._driver = driver
        self._seconds = seconds
        self._waiting: dict[str, tuple[Handle, asyncio.Future[Observation]]] = {}
        self._call: asyncio.Task[None] | None = None

    async def observe(self, instance_id: str, handle: Handle) -> Observation:
        """Return what the instance is now. Raises Transient when the provider does not answer, or not of this
        one; what the driver raises when it is refused."""
        known = self._waiting.get(instance_id)
        if known is None:
            future: asyncio.Future[Observation] = asyncio.get_running_loop().create_future()
            self._waiting[instance_id] = (handle, future)
        else:
            future = known[1]
        if self._call is None or self._call.done():
            self._call = asyncio.create_task(self._drain())
        return await asyncio.shield(future)

    async def _drain(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                driver = await self._driver()
                async with asyncio.timeout(self._seconds):
                    found = await driver.observe({name: handle for name, (handle, _) in waiting.items()})
            except TimeoutError:
                self._fail(waiting, TimedOut(f"The provider did not answer within {self._seconds:g} s."))
            except GridcloudError as error:
                self._fail(waiting, error)
            except Exception as error:
                self._fail(waiting, error)
                raise
            else:
                for name, (_, future) in waiting.items():
                    if future.done():
                        continue
                    if (seen := found.get(name)) is not None:
                        future.set_result(seen)
                        continue
                    # What is gone is said to be: no word is no reason to give a machine up.
                    future.set_exception(Transient(f"The provider says nothing of {name}."))
                    future.exception()

    @staticmethod
    def _fail(waiting: dict[str, tuple[Handle, asyncio.Future[Observation]]], error: Exception) -> None:
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()
