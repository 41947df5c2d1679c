"""The configured providers as live drivers: made from the settings, replaced when these change, asked all at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from gridcloud import plugins
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import GridcloudError, InvalidSettings, NotFound, TimedOut, Transient
from gridcloud.identity.credentials import Secret
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.matching import rank
from gridcloud.instances.model import SHARED, Kind, Offer, Request, Shape
from gridcloud.settings import ProviderSettings, Settings
from gridcloud.store import Store

__all__ = ["Providers"]

SNAPSHOT = "provider"


class Providers:
    """Drivers by name. A provider that left the configuration serves the instances it still holds."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        folder: Path,
        connect: Callable[[Address], Awaitable[Connection]],
        user_authority: str,
        offer_seconds: float = 10.0,
        secret: Callable[[str], Awaitable[Secret]] | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._connect = connect
        self._user_authority = user_authority
        self._offer_seconds = offer_seconds
        self._secret = {"secret": secret} if secret is not None else {}
        self._drivers: dict[str, InstanceDriver] = {}
        self._saved: set[str] = set()
        self._saving = asyncio.Lock()
        self._retired: list[InstanceDriver] = []

    def names(self) -> list[str]:
        """Return the names of the configured providers, in the order of the configuration."""
        return list(self._settings().providers)

    def get(self, name: str) -> InstanceDriver:
        """Return the driver of a configured provider.

        Raises NotFound for an unknown name, InvalidSettings or DriverUnavailable when its entry cannot be used.
        """
        entries = self._settings().providers
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise NotFound(f"No provider named {name!r} is configured (configured: {known}).")
        entry = entries[name]
        if isinstance(entry, GridcloudError):
            raise entry
        return self._driver(name, entry)

    async def holder(self, name: str) -> InstanceDriver:
        """Return the driver that holds instances of ``name``, also when it is no longer configured, or by now means
        another place: what was made is looked for where it was made."""
        with contextlib.suppress(NotFound, InvalidSettings):
            driver = self.get(name)
            return await self._former(name, driver.settings) or driver
        return await self._remembered_driver(name)

    async def _remembered_driver(self, name: str) -> InstanceDriver:
        body = dict((await self._store.get(SNAPSHOT, name)).body)
        kind = plugins.load("instances", str(body["driver"]))
        return self._driver(name, kind.Settings.model_validate(body), former=True)

    async def _former(self, name: str, entry: ProviderSettings) -> InstanceDriver | None:
        """Return the driver of the place that an entry meant when it was last used; None where it is the same."""
        try:
            body = (await self._store.get(SNAPSHOT, name)).body
        except NotFound:
            return None
        now = entry.model_dump(mode="json")
        if all(body.get(field, now[field]) == now[field] for field in ("driver", *entry.place)):
            return None
        return await self._remembered_driver(name)

    async def _check_place(self, name: str, entry: ProviderSettings) -> None:
        """Raise InvalidSettings where an entry means another place than before, and something is still held there."""
        former = await self._former(name, entry)
        if former is None:
            return
        remedy = "Give the new place a name of its own, or wait until all that is held there has ended."
        text = f"The entry {name} means another place than before, where "
        try:
            with contextlib.suppress(Transient):
                await former.destroy(SHARED, None)
            held = await former.holdings()
        except GridcloudError as error:
            raise InvalidSettings(f"{text}it cannot be seen what is held: {error}", remedy=remedy) from error
        if held:
            raise InvalidSettings(f"{text}{len(held)} things are held.", remedy=remedy)

    async def remember(self, name: str) -> None:
        """Keep a copy of the provider's entry in the store, before anything is made there."""
        settings = self.get(name).settings
        body = settings.model_dump(mode="json")
        key = f"{name}:{body}"
        if key in self._saved:
            return
        await self._check_place(name, settings)
        async with self._saving:
            if key in self._saved:
                return
            try:
                record = await self._store.get(SNAPSHOT, name)
            except NotFound:
                await self._store.insert(SNAPSHOT, name, "", "known", body)
            else:
                await self._store.update(record, body=body)
            self._saved = {one for one in self._saved if not one.startswith(f"{name}:")} | {key}

    async def remembered(self) -> list[str]:
        """Return the names of all providers that ever held something, configured ones first."""
        records = await self._store.find(SNAPSHOT)
        return [*self.names(), *(r.id for r in records if r.id not in self.names())]

    async def offers(self, request: Request) -> list[Offer]:
        """Ask every provider at once and return all offers, best first; a provider that fails says why."""
        names = [name for name in self.names() if request.on in ("", name)]
        if request.on and not names:
            self.get(request.on)
        answers = await asyncio.gather(*(self._ask(name, request) for name in names))
        return rank(request, (offer for answer in answers for offer in answer))

    async def close(self) -> None:
        """Close all drivers."""
        drivers, self._drivers = [*self._drivers.values(), *self._retired], {}
        self._retired = []
        await asyncio.gather(*(driver.close() for driver in drivers), return_exceptions=True)

    async def _ask(self, name: str, request: Request) -> Sequence[Offer]:
        try:
            driver = self.get(name)
            async with asyncio.timeout(self._offer_seconds):
                await self._check_place(name, driver.settings)
                offers = await driver.offers(request)
        except TimeoutError:
            return [_absent(name, TimedOut(f"It did not answer within {self._offer_seconds:g} s."))]
        except GridcloudError as error:
            return [_absent(name, error)]
        return [self._priced(driver.settings, offer) for offer in offers]

    @staticmethod
    def _priced(settings: ProviderSettings, offer: Offer) -> Offer:
        changes: dict[str, Any] = {}
        if not offer.price and settings.price:
            changes["price"] = settings.price
        if not offer.location and settings.location:
            changes["location"] = settings.location
        return offer.model_copy(update=changes) if changes else offer

    def _driver(self, name: str, entry: ProviderSettings, former: bool = False) -> InstanceDriver:
        key = f"{name}\0former" if former else name
        driver = self._drivers.get(key)
        if driver is not None and driver.settings == entry:
            return driver
        if driver is not None:
            self._retired.append(driver)
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        context = Context(
            name, self._store.installation, folder, self._connect, self._user_authority, **self._secret
        )
        kind: type[InstanceDriver] = plugins.load("instances", entry.driver)
        self._drivers[key] = kind(entry, context)
        return self._drivers[key]


def _absent(name: str, error: GridcloudError) -> Offer:
    shape = Shape(cpus=0, memory=0)
    waits = isinstance(error, Transient)
    return Offer(
        provider=name,
        kind=Kind.BARE_METAL,
        shape=shape,
        available=False,
        possible=waits,
        why_not=str(error),
        refusal=type(error).__name__,
    )
