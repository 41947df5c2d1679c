"""The configured makers of clusters as live drivers: made from the settings, replaced when these change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from gridcloud import plugins
from gridcloud.clusters.driver import ClusterContext, ClusterDriver
from gridcloud.errors import GridcloudError, InvalidSettings, NotFound
from gridcloud.identity.credentials import Secret
from gridcloud.settings import ProviderSettings, Settings
from gridcloud.store import Store

__all__ = ["ClusterProviders"]

SNAPSHOT = "cluster-provider"


class ClusterProviders:
    """Drivers by name. One that left the configuration serves the clusters it still holds."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        folder: Path,
        secret: Callable[[str], Awaitable[Secret]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._secret = secret
        self._drivers: dict[str, ClusterDriver] = {}
        self._retired: list[ClusterDriver] = []
        self._saved: set[str] = set()
        self._saving = asyncio.Lock()

    def names(self) -> list[str]:
        """Return the names in the order of the configuration."""
        return list(self._settings().clusters)

    def choose(self, name: str) -> str:
        """Return the name asked for, or the first that is configured. Raises NotFound, InvalidSettings."""
        names = self.names()
        if not name and not names:
            raise NotFound(
                "No provider of clusters is configured.",
                remedy="Write one under 'clusters:' in the configuration.",
            )
        chosen = name or names[0]
        self.get(chosen)
        return chosen

    def get(self, name: str) -> ClusterDriver:
        """Return the driver of a configured provider.

        Raises NotFound for an unknown name, InvalidSettings or DriverUnavailable when its entry cannot be used.
        """
        entries = self._settings().clusters
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise NotFound(
                f"No provider of clusters named {name!r:.100} is configured (configured: {known})."
            )
        entry = entries[name]
        if isinstance(entry, GridcloudError):
            raise entry
        return self._driver(name, entry)

    async def holder(self, name: str) -> ClusterDriver:
        """Return the driver that holds clusters of ``name``, also when it is no longer configured."""
        with contextlib.suppress(NotFound, InvalidSettings):
            return self.get(name)
        body = dict((await self._store.get(SNAPSHOT, name)).body)
        kind = plugins.load("clusters", str(body["driver"]))
        return self._driver(name, kind.Settings.model_validate(body))

    async def remember(self, name: str) -> None:
        """Keep a copy of the provider's entry in the store, before anything is made there."""
        body = self.get(name).settings.model_dump(mode="json")
        key = f"{name}:{body}"
        async with self._saving:
            if key in self._saved:
                return
            try:
                record = await self._store.get(SNAPSHOT, name)
            except NotFound:
                await self._store.insert(SNAPSHOT, name, "", "known", body)
            else:
                await self._store.update(record, body=body)
            self._saved.add(key)

    async def remembered(self) -> list[str]:
        """Return the names of all providers that ever held something, configured ones first."""
        records = await self._store.find(SNAPSHOT)
        return [*self.names(), *(one.id for one in records if one.id not in self.names())]

    async def close(self) -> None:
        """Close all drivers."""
        drivers, self._drivers = [*self._drivers.values(), *self._retired], {}
        self._retired = []
        await asyncio.gather(*(driver.close() for driver in drivers), return_exceptions=True)

    def _driver(self, name: str, entry: ProviderSettings) -> ClusterDriver:
        driver = self._drivers.get(name)
        if driver is not None and driver.settings == entry:
            return driver
        if driver is not None:
            self._retired.append(driver)
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        context = ClusterContext(name, self._store.installation, folder, self._secret)
        kind: type[ClusterDriver] = plugins.load("clusters", entry.driver)
        self._drivers[name] = kind(entry, context)
        return self._drivers[name]
