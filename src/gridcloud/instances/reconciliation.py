"""Compare what each provider holds under our tag with what the store knows, and mend the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError
from gridcloud.instances.model import FINAL, Holding, Instance, State
from gridcloud.instances.providers import Providers
from gridcloud.store.lives import Lives

__all__ = ["Difference", "Reconciliation"]

SETTLING = frozenset(State) - FINAL - {State.REQUESTED}
"""States in which a provider may rightly hold something of an instance."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that should not be: a holding without a live record, or a provider that cannot be asked."""

    provider: str
    subject: str
    message: str
    remedy: str
    holding: Holding | None = None
    mended: bool = False


class Reconciliation:
    """Finds and removes what no live instance accounts for."""

    def __init__(
        self, lives: Lives[Instance], providers: Providers, clock: Clock, grace: float = 0.0
    ) -> None:
        self._lives = lives
        self._providers = providers
        self._clock = clock
        self._grace = timedelta(seconds=grace)

    async def examine(self) -> list[Difference]:
        """Ask every provider that ever held something; change nothing."""
        names = await self._providers.remembered()
        found = await asyncio.gather(*(self._examine(name) for name in names))
        return [difference for differences in found for difference in differences]

    async def mend(self, differences: Sequence[Difference]) -> list[Difference]:
        """Remove what `examine` found too much; return each with what became of it."""
        return list(await asyncio.gather(*(self._mend(difference) for difference in differences)))

    async def _examine(self, name: str) -> list[Difference]:
        # What ends while the provider is being asked is no difference: only what nobody knew of before and after is.
        before = {instance.id: instance for instance in await self._lives.live()}
        try:
            driver = await self._providers.holder(name)
            async with asyncio.timeout(60):
                holdings = await driver.holdings()
        except (GridcloudError, TimeoutError) as error:
            text = f"It cannot be asked what it holds: {error or 'no answer within 60 s'}"
            return [
                Difference(
                    name, name, text, "Mend the provider's entry or its machine, then run doctor again."
                )
            ]
        after = {instance.id: instance for instance in await self._lives.live()}
        return [
            difference
            for holding in holdings
            if self._judge(name, holding, before.get(holding.instance_id))
            and (difference := self._judge(name, holding, after.get(holding.instance_id)))
        ]

    def _judge(self, name: str, holding: Holding, instance: Instance | None) -> Difference | None:
        if holding.created is not None and self._clock.now() - holding.created < self._grace:
            return None
        if (
            instance is not None
            and instance.state in SETTLING
            and instance.offer
            and instance.offer.provider == name
        ):
            return None
        why = (
            "of which no live instance is known"
            if instance is None
            else f"whose instance is {instance.state} elsewhere"
        )
        text = f"{name} holds {holding.what} {holding.name} ({holding.instance_id}), {why}."
        return Difference(name, holding.instance_id, text, "'gridcloud doctor --mend' removes it.", holding)

    async def _mend(self, difference: Difference) -> Difference:
        if difference.holding is None:
            return difference
        # The wish may have been taken up between looking and mending.
        live = {i.id: i for i in await self._lives.live()}.get(difference.subject)
        if (
            live is not None
            and live.state in SETTLING
            and live.offer
            and live.offer.provider == difference.provider
        ):
            return difference
        try:
            driver = await self._providers.holder(difference.provider)
            async with asyncio.timeout(120):
                await driver.destroy(difference.subject, difference.holding.handle)
        except (GridcloudError, TimeoutError) as error:
            text = f"{difference.message} Removing it failed: {error or 'no answer within 120 s'}"
            return Difference(
                difference.provider, difference.subject, text, "Run it again.", difference.holding
            )
        text = f"Removed {difference.holding.what} {difference.holding.name} from {difference.provider}."
        return Difference(difference.provider, difference.subject, text, "", difference.holding, mended=True)
