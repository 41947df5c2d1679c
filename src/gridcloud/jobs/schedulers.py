"""The configured schedulers as live drivers, and which of them a job is for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import GridcloudError, NoOffer, Transient, Unavailable
from gridcloud.identity.credentials import Secret
from gridcloud.instances.entries import Entries
from gridcloud.jobs.driver import JobContext, JobDriver, JobHolding, JobOffer, Machines
from gridcloud.jobs.model import FINAL, State
from gridcloud.settings import ProviderSettings, Settings
from gridcloud.settings.request import Request
from gridcloud.store import Store

__all__ = ["Schedulers"]

PATIENCE = 15.0
"""Seconds that a scheduler may take to say what it can run."""


class Schedulers(Entries[JobDriver]):
    """Drivers by name. One that left the configuration serves the jobs that it still holds."""

    kind = "jobs"
    record = "scheduler"
    noun = "scheduler"

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        folder: Path,
        connect: Callable[[Address], Awaitable[Connection]],
        secret: Callable[[str], Awaitable[Secret]],
        machines: Callable[[str], Machines | None] = lambda name: None,
    ) -> None:
        super().__init__(store, folder)
        self._settings = settings
        self._connect = connect
        self._secret = secret
        self._machines = machines

    def entries(self) -> Mapping[str, ProviderSettings | GridcloudError]:
        """Return what stands under 'schedulers' now."""
        return self._settings().schedulers

    def make(
        self, kind: Callable[..., JobDriver], name: str, entry: ProviderSettings, folder: Path
    ) -> JobDriver:
        """Return a new driver of a class."""

        async def wanted() -> Set[str]:
            return {handle for handle, holder in (await self.known()).items() if holder == name}

        context = JobContext(
            name,
            self._store.installation,
            folder,
            self._connect,
            self._secret,
            self._machines(name),
            wanted,
        )
        return kind(entry, context)

    async def known(self) -> Mapping[str, str]:
        """Return the handles of jobs that a scheduler may have, each with its scheduler."""
        states = [state for state in State if state not in FINAL]
        found = await self._store.find("job", states=states)
        return {one.body["handle"]: one.body["scheduler"] for one in found if one.body.get("handle")}

    def subject(self, holding: JobHolding) -> str:
        """Return the handle that something was made for."""
        return holding.handle

    async def choose(self, request: Request, owner: str, on: Sequence[str] = (), within: int = 0) -> str:
        """Return the scheduler that would begin a job soonest, then cheapest, then as configured.

        ``on``: these only. ``within``: of those that begin it within so many seconds, as far as they know, the
        cheapest; none does: the soonest. Raises NotFound for one that is not configured, NoOffer where none ever runs
        it, Unavailable where those that might do not answer.
        """
        for name in on:
            self.get(name)
        names = list(on) or self.names()
        offers = await asyncio.gather(*(self._ask(name, request, owner) for name in names))
        possible = [
            (offer.wait, offer.price, number)
            for number, offer in enumerate(offers)
            if isinstance(offer, JobOffer) and offer.possible
        ]
        if in_time := [
            (price, wait, number) for wait, price, number in possible if within and wait <= within
        ]:
            return names[min(in_time)[2]]
        if possible:
            return names[min(possible)[2]]
        told = "; ".join(
            f"{name}: {offer.why_not if isinstance(offer, JobOffer) else offer}"
            for name, offer in zip(names, offers, strict=True)
        )
        if any(isinstance(offer, Transient) for offer in offers):
            raise Unavailable(f"No scheduler can take it now. {told}")
        raise NoOffer(f"No scheduler runs that. {told or 'None is configured'}.")

    async def _ask(self, name: str, request: Request, owner: str) -> JobOffer | GridcloudError:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.get(name).offer(request, owner)
        except GridcloudError as error:
            return error
        except TimeoutError:
            return Transient(f"no answer within {PATIENCE:g} s")
