"""The machines of a scheduler: instances as everybody has them, which carry the scheduler's name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from gridcloud.connections.driver import Connection
from gridcloud.errors import NotFound
from gridcloud.instances.model import FINAL, Instance, Offer, Reason
from gridcloud.instances.runner import Runner
from gridcloud.jobs.driver import Machines
from gridcloud.settings.request import Request

__all__ = ["SchedulerMachines", "used_by_jobs"]


class SchedulerMachines(Machines):
    """``connect``: to a ready machine; ``admitting``: within the limits of an owner; ``complete``: a request, with what
    it leaves open, within the limits."""

    def __init__(
        self,
        scheduler: str,
        instances: Runner,
        connect: Callable[[Instance], Awaitable[Connection]],
        admitting: Callable[[str], AbstractAsyncContextManager[None]],
        complete: Callable[[Request], Request],
    ) -> None:
        self._scheduler = scheduler
        self._instances = instances
        self._connect = connect
        self._admitting = admitting
        self._complete = complete

    async def offers(self, request: Request, owner: str) -> Sequence[Offer]:
        """Ask every provider at once; see `Machines`."""
        return await self._instances.providers.offers(self._complete(request), owner)

    async def ask(self, request: Request, owner: str, avoid: Sequence[Offer] = ()) -> Instance:
        """Store the wish for one; see `Machines`."""
        if request.on:
            self._instances.providers.get(request.on)
        name = f"jobs of {self._scheduler}"
        async with self._admitting(owner):
            return await self._instances.submit(
                owner, self._complete(request), name=name, scheduler=self._scheduler, avoid=avoid
            )

    async def all(self) -> Mapping[str, Instance]:
        """Return those that live and are ours to look after; see `Machines`."""
        records = self._instances.records
        found = [one for one in await records.live() if one.scheduler == self._scheduler]
        return {one.id: one for one in found if records.keeps(one) and one.state not in FINAL}

    async def find(self, instance_id: str) -> Instance | None:
        """Return one; see `Machines`."""
        try:
            return await self._instances.records.get(instance_id)
        except NotFound:
            return None

    async def connect(self, instance: Instance) -> Connection:
        """Return the kept connection; see `Machines`."""
        return await self._connect(instance)

    async def stop(self, instance_id: str, detail: str) -> None:
        """Have one end; see `Machines`."""
        await self._instances.stop(instance_id, Reason.ASKED, detail)


async def used_by_jobs(instance: Instance) -> str:
    """Return that a machine is used, while its scheduler looks after it: that ends it once no job needs it."""
    return "its scheduler looks after it" if instance.scheduler else ""
