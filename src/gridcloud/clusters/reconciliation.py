"""Compare the clusters that each provider holds under our tag with what the store knows, and mend the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gridcloud.clusters.model import HOLDING, Cluster, ClusterHolding
from gridcloud.clusters.providers import ClusterProviders
from gridcloud.errors import GridcloudError
from gridcloud.instances.model import Holding
from gridcloud.instances.reconciliation import Difference
from gridcloud.store.lives import Lives

__all__ = ["ClusterReconciliation"]

PATIENCE = 60.0


class ClusterReconciliation:
    """Finds and removes what no live cluster accounts for."""

    def __init__(self, lives: Lives[Cluster], providers: ClusterProviders) -> None:
        self._lives = lives
        self._providers = providers

    async def examine(self) -> list[Difference]:
        """Ask every provider that ever held something; change nothing."""
        names = await self._providers.remembered()
        found = await asyncio.gather(*(self._examine(name) for name in names))
        return [difference for differences in found for difference in differences]

    async def mend(self, differences: Sequence[Difference]) -> list[Difference]:
        """Have removed what `examine` found too much; return each with what became of it."""
        return list(await asyncio.gather(*(self._mend(difference) for difference in differences)))

    async def _examine(self, name: str) -> list[Difference]:
        # What ends while the provider is being asked is no difference: only what nobody knew of before and after is.
        before = await self._known()
        try:
            driver = await self._providers.holder(name)
            async with asyncio.timeout(PATIENCE):
                holdings = await driver.holdings()
        except (GridcloudError, TimeoutError) as error:
            text = (
                f"It cannot be asked which clusters it holds: {error or f'no answer within {PATIENCE:g} s'}"
            )
            return [Difference(name, name, text, "Mend its entry under 'clusters', then run doctor again.")]
        known = before | await self._known()
        return [_difference(name, holding) for holding in holdings if holding.cluster_id not in known]

    async def _mend(self, difference: Difference) -> Difference:
        held, name = difference.holding, difference.provider
        if held is None or difference.subject in await self._known():
            return difference
        try:
            driver = await self._providers.holder(name)
            async with asyncio.timeout(2 * PATIENCE):
                gone = await driver.destroy(difference.subject, None)
        except (GridcloudError, TimeoutError) as error:
            text = f"{difference.message} Removing it failed: {error or 'no answer in time'}"
            return Difference(name, difference.subject, text, "Run it again.", held)
        done = "Removed" if gone else "Removing"
        text = f"{done} {held.what} {held.name} from {name}."
        return Difference(name, difference.subject, text, "", held, mended=True)

    async def _known(self) -> set[str]:
        """Return the ids of the clusters that may rightly be held. By whom does not matter: two entries may be of one
        account, and each then lists what the other had made."""
        return {one.id for one in await self._lives.live() if one.state in HOLDING}


def _difference(name: str, held: ClusterHolding) -> Difference:
    text = f"{name} holds {held.what} {held.name} ({held.cluster_id}), of which no live cluster is known."
    holding = Holding(instance_id=held.cluster_id, what=held.what, name=held.name, created=held.created)
    return Difference(name, held.cluster_id, text, "'gridcloud doctor --mend' removes it.", holding)
