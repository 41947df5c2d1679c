"""The configured makers of clusters as live drivers: made from the settings, replaced when these change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from gridcloud.clusters.driver import ClusterContext, ClusterDriver
from gridcloud.clusters.model import HOLDING, ClusterHolding
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.identity.credentials import Secret
from gridcloud.instances.entries import Entries
from gridcloud.settings import ProviderSettings, Settings
from gridcloud.store import Store

__all__ = ["ClusterProviders"]


class ClusterProviders(Entries[ClusterDriver]):
    """Drivers by name. One that left the configuration serves the clusters it still holds."""

    kind = "clusters"
    record = "cluster-provider"
    noun = "provider of clusters"

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        folder: Path,
        secret: Callable[[str], Awaitable[Secret]],
    ) -> None:
        super().__init__(store, folder)
        self._settings = settings
        self._secret = secret

    @property
    def currency(self) -> str:
        """The currency of all prices."""
        return self._settings().currency

    def entries(self) -> Mapping[str, ProviderSettings | GridcloudError]:
        """Return what stands under 'clusters' now."""
        return self._settings().clusters

    def make(
        self, kind: Callable[..., ClusterDriver], name: str, entry: ProviderSettings, folder: Path
    ) -> ClusterDriver:
        """Return a new driver of a class."""
        return kind(entry, ClusterContext(name, self._store.installation, folder, self._secret))

    async def known(self) -> Mapping[str, str]:
        """Return the clusters that are there, or on their way, each with its provider."""
        found = await self._store.find("cluster", states=HOLDING)
        return {one.id: one.body["provider"] for one in found}

    def subject(self, holding: ClusterHolding) -> str:
        """Return the cluster that something was made for."""
        return holding.cluster_id

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
