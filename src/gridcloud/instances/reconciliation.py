"""Compare what each provider holds under our tag with what the store knows, and mend the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.instances.matching import unnamed
from gridcloud.instances.model import FINAL, SHARED, Holding, Instance, State
from gridcloud.instances.providers import Providers
from gridcloud.store.lives import Lives
from gridcloud.store.model import Record

__all__ = ["Difference", "Reconciliation"]

SETTLING = frozenset(State) - FINAL - {State.REQUESTED}
"""States in which a provider may rightly hold something of an instance."""

AT_ONCE = 16
"""Removals at the same time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that should not be: a holding without a live record, or a provider that cannot be asked."""

    provider: str
    subject: str
    message: str
    remedy: str
    holding: Holding | None = None
    """What is held; one of several where they are of one instance and go together."""
    mended: bool = False


@dataclass(frozen=True, slots=True)
class _Live:
    """What is to be known of a live instance here: whole records would be too many."""

    state: str
    provider: str

    def accounts_for(self, provider: str) -> bool:
        return self.state in SETTLING and self.provider == provider


class Reconciliation:
    """Finds and removes what no live instance accounts for."""

    def __init__(
        self,
        lives: Lives[Instance],
        providers: Providers,
        clock: Clock,
        grace: float = 0.0,
        unused: Callable[[], float] = float,
    ) -> None:
        """``grace``: seconds for which what is new is left alone. ``unused``: seconds after which what serves all
        instances of a provider is removed when it has had none."""
        self._lives = lives
        self._providers = providers
        self._clock = clock
        self._grace = timedelta(seconds=grace)
        self._unused = unused

    async def examine(self) -> list[Difference]:
        """Ask every provider that ever held something; change nothing there."""
        names = await self._providers.remembered()
        before = await self._live()
        # What ends while the provider is being asked is no difference: only what nobody knew of before and after is.
        asked = await asyncio.gather(*(self._ask(name) for name in names))
        after = await self._live() if any(asked) else {}
        found: list[Difference] = []
        for name, held in zip(names, asked, strict=True):
            if isinstance(held, Difference):
                found.append(held)
                continue
            elsewhere = {other: answer for other, answer in zip(names, asked, strict=True) if other != name}
            found += self._judge_all(name, held, before, after, elsewhere)
            if shared := held.get(SHARED):
                found += await self._judge_shared(name, shared, len(held) == 1, after)
        return found

    async def mend(self, differences: Sequence[Difference]) -> list[Difference]:
        """Remove what `examine` found too much; return each with what became of it."""
        room = asyncio.Semaphore(AT_ONCE)

        async def mend(difference: Difference) -> Difference:
            async with room:
                return await self._mend(difference)

        return list(await asyncio.gather(*(mend(difference) for difference in differences)))

    async def _live(self) -> dict[str, _Live]:
        states = [str(state) for state in State if state not in FINAL]
        return dict(await self._lives.store.scan(self._lives.kind, _sketch, states=states))

    async def _ask(self, name: str) -> Difference | dict[str, list[Holding]]:
        """Return what a provider holds by the id it is held for, or that it cannot be asked."""
        try:
            driver = await self._providers.holder(name)
            async with asyncio.timeout(60):
                holdings = await driver.holdings()
        except (GridcloudError, TimeoutError) as error:
            why = unnamed(name, error) or "no answer within 60 s."
            if name in self._providers.names():
                text = f"It cannot be asked what it holds: {why}"
                remedy = "Mend the provider's entry or its machine, then run doctor again."
            else:
                text = (
                    f"It was removed from the configuration, and cannot be asked what it still holds: {why}"
                )
                remedy = f"Add it again, or give up what may be left there: gridcloud provider forget {name}"
            return Difference(name, name, text, remedy)
        held: dict[str, list[Holding]] = {}
        for holding in holdings:
            held.setdefault(holding.instance_id, []).append(holding)
        return held

    def _judge_all(
        self,
        name: str,
        held: Mapping[str, list[Holding]],
        before: Mapping[str, _Live],
        after: Mapping[str, _Live],
        elsewhere: Mapping[str, Difference | dict[str, list[Holding]]],
    ) -> list[Difference]:
        found = []
        for instance_id, holdings in held.items():
            if instance_id == SHARED or any(self._is_new(holding) for holding in holdings):
                continue
            known = [one for one in (before.get(instance_id), after.get(instance_id)) if one is not None]
            if any(one.accounts_for(name) for one in known):
                continue
            if any(_is_same(instance_id, holdings, one, elsewhere) for one in known):
                continue
            why = (
                f"whose instance is {known[-1].state} elsewhere"
                if known
                else "of which no live instance is known"
            )
            things = ", ".join(f"{holding.what} {holding.name}" for holding in holdings[:10])
            text = f"{name} holds {things} ({instance_id}), {why}."
            remedy = "'gridcloud doctor --mend' removes it."
            handle = next((holding for holding in holdings if holding.handle is not None), holdings[0])
            found.append(Difference(name, instance_id, text, remedy, handle))
        return found

    async def _judge_shared(
        self, name: str, holdings: Sequence[Holding], alone: bool, after: Mapping[str, _Live]
    ) -> list[Difference]:
        """Return what serves all instances of a provider, once none has needed it for long enough."""
        key, now = f"unused:{name}", self._clock.now()
        used = not alone or any(one.accounts_for(name) for one in after.values())
        noted = await self._lives.store.meta(key)
        if used:
            if noted:
                await self._lives.store.set_meta(key, "")
            return []
        since = datetime.fromisoformat(noted) if noted else now
        if not noted or since > now:  # or the clock was set back
            since = now
            await self._lives.store.set_meta(key, now.isoformat())
        if now - since < timedelta(seconds=self._unused()):
            return []
        things = ", ".join(f"{holding.what} {holding.name}" for holding in holdings[:10])
        text = f"{name} holds {things} for all its instances, and has none."
        return [Difference(name, SHARED, text, "'gridcloud doctor --mend' removes it.", holdings[0])]

    def _is_new(self, holding: Holding) -> bool:
        """Whether it was made just now. By the provider's clock: what comes from a far future was not."""
        return holding.created is not None and abs(self._clock.now() - holding.created) < self._grace

    async def _is_accounted_for(self, difference: Difference) -> bool:
        if difference.subject == SHARED:
            return any(one.accounts_for(difference.provider) for one in (await self._live()).values())
        try:
            instance = await self._lives.get(difference.subject)
        except NotFound:
            return False
        where = instance.offer.provider if instance.offer else ""
        return _Live(instance.state, where).accounts_for(difference.provider)

    async def _mend(self, difference: Difference) -> Difference:
        # The wish may have been taken up between looking and mending.
        if difference.holding is None or await self._is_accounted_for(difference):
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


def _is_same(
    instance_id: str,
    holdings: Sequence[Holding],
    live: _Live,
    elsewhere: Mapping[str, Difference | dict[str, list[Holding]]],
) -> bool:
    """Whether these may be the very things of a live instance of another entry: two entries may be of one account, and
    not every provider can tell what was made through which. One that cannot be asked now may hold them, too."""
    if not live.accounts_for(live.provider) or live.provider not in elsewhere:
        return False
    theirs = elsewhere[live.provider]
    if isinstance(theirs, Difference):
        return True
    names = {(one.what, one.name) for one in theirs.get(instance_id, ())}
    return any((one.what, one.name) in names for one in holdings)


def _sketch(record: Record) -> tuple[str, _Live]:
    offer: dict[str, Any] = record.body.get("offer") or {}
    return record.id, _Live(record.state, str(offer.get("provider", "")))
