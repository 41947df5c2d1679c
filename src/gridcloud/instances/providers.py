"""The configured providers as live drivers: made from the settings, replaced when these change, asked all at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import GridcloudError, TimedOut, Transient
from gridcloud.identity.credentials import Secret
from gridcloud.instances.driver import Agents, Context, InstanceDriver, Personal
from gridcloud.instances.entries import Entries
from gridcloud.instances.matching import rank, unnamed
from gridcloud.instances.model import HOLDING, SHARED, Holding, Kind, Offer, Request, Shape
from gridcloud.instances.peers import Peers
from gridcloud.settings import ProviderSettings, Settings
from gridcloud.store import Store

__all__ = ["Answered", "Providers"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a provider said when it was last asked."""

    when: datetime
    error: GridcloudError | None = None
    """None: it answered."""


class Providers(Entries[InstanceDriver]):
    """Drivers by name. A provider that left the configuration serves the instances it still holds."""

    kind = "instances"
    record = "provider"
    noun = "provider"

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        folder: Path,
        connect: Callable[[Address], Awaitable[Connection]],
        user_authority: Callable[[], str],
        offer_seconds: float = 10.0,
        secret: Callable[[str], Awaitable[Secret]] | None = None,
        agents: Agents | None = None,
        peers: Peers | None = None,
    ) -> None:
        super().__init__(store, folder)
        self.answered: dict[str, Answered] = {}
        """What each provider said when it was last asked for offers."""
        self._settings = settings
        self._connect = connect
        self._user_authority = user_authority
        self._offer_seconds = offer_seconds
        given = {"secret": secret, "agents": agents, "peers": peers}
        self._given: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    @property
    def currency(self) -> str:
        """The currency of all prices."""
        return self._settings().currency

    def entries(self) -> Mapping[str, ProviderSettings | GridcloudError]:
        """Return what stands under 'providers' now."""
        return self._settings().providers

    def make(
        self, kind: Callable[..., InstanceDriver], name: str, entry: ProviderSettings, folder: Path
    ) -> InstanceDriver:
        """Return a new driver of a class."""
        context = Context(
            name, self._store.installation, folder, self._connect, self._user_authority(), **self._given
        )
        return kind(entry, context)

    async def known(self) -> Mapping[str, str]:
        """Return the instances that are there, or on their way, each with its provider."""
        found = await self._store.find("instance", states=HOLDING)
        return {one.id: (one.body.get("offer") or {}).get("provider", "") for one in found}

    def subject(self, holding: Holding) -> str:
        """Return the instance that something was made for."""
        return holding.instance_id

    async def sweep(self, driver: InstanceDriver) -> None:
        """Remove what serves all instances of a place, as far as that goes now."""
        with contextlib.suppress(Transient):
            await driver.destroy(SHARED, None)

    async def offers(self, request: Request, owner: str = "") -> list[Offer]:
        """Ask every provider at once and return all offers, best first; a provider that fails says why.

        ``owner``: whom it is for, where that is known."""
        names = [name for name in self.names() if request.on in ("", name)]
        if request.on and not names:
            self.get(request.on)
        answers = await asyncio.gather(*(self._ask(name, request, owner) for name in names))
        return rank(request, (offer for answer in answers for offer in answer), self.currency)

    async def _ask(self, name: str, request: Request, owner: str) -> Sequence[Offer]:
        try:
            driver = self.get(name)
            async with asyncio.timeout(self._offer_seconds):
                await self.check_place(name, driver.settings)
                if isinstance(driver, Personal):
                    offers = await driver.offers_for(request, owner)
                else:
                    offers = await driver.offers(request)
        except TimeoutError:
            error: GridcloudError = TimedOut(f"It did not answer within {self._offer_seconds:g} s.")
            return [self._note(name, error)]
        except GridcloudError as refused:
            return [self._note(name, refused)]
        self.answered[name] = Answered(datetime.now(UTC))
        return [self._priced(driver.settings, offer) for offer in offers]

    def _note(self, name: str, error: GridcloudError) -> Offer:
        self.answered[name] = Answered(datetime.now(UTC), error)
        return _absent(name, error)

    @staticmethod
    def _priced(settings: ProviderSettings, offer: Offer) -> Offer:
        changes: dict[str, Any] = {}
        if not offer.price and settings.price:
            changes["price"] = settings.price
        if not offer.location and settings.location:
            changes["location"] = settings.location
        return offer.model_copy(update=changes) if changes else offer


def _absent(name: str, error: GridcloudError) -> Offer:
    shape = Shape(cpus=0, memory=0)
    waits = isinstance(error, Transient)
    return Offer(
        provider=name,
        kind=Kind.BARE_METAL,
        shape=shape,
        available=False,
        possible=waits,
        why_not=unnamed(name, error),
        refusal=type(error).__name__,
    )
