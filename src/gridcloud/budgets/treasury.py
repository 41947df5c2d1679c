"""The budgets as they are configured now, over the one ledger: what pays for what, how it stands, what it forbids."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from gridcloud.budgets.judging import pots_of, refusal
from gridcloud.budgets.ledger import Ledger
from gridcloud.budgets.model import Account, Ask, Budget, People, Pot, Standing, Usage, read_budgets
from gridcloud.budgets.periods import Span
from gridcloud.clock import Clock
from gridcloud.instances.matching import BUDGET
from gridcloud.instances.model import Instance, Offer, Request
from gridcloud.settings import Settings
from gridcloud.store import Store

__all__ = ["Treasury"]


class Treasury:
    """Answers for all budgets. `people` tells who is more than a name."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: Callable[[], Settings],
        people: Callable[[], Awaitable[People]],
    ) -> None:
        self.ledger = Ledger()
        self.clock = clock
        self._store = store
        self._settings = settings
        self._ask_people = people
        self._reading = asyncio.Lock()
        self._is_read = False
        self._read_from: object = None
        self._budgets: list[Budget] = []
        self._people = People()
        self._pots: dict[tuple[str, str], list[Pot]] = {}

    def note(self, instance: Instance) -> None:
        """Take up an instance as it was stored just now."""
        self.ledger.note(instance, self.clock.now())

    def take(self, account: Account, ended: datetime | None) -> None:
        """Take up the account of something else than an instance as it was stored just now, and when it ended."""
        self.ledger.take(account, ended or self.clock.now())

    @property
    def currency(self) -> str:
        """The currency of all prices."""
        return self._settings().currency

    @property
    def configured(self) -> bool:
        """Whether there is any budget."""
        return bool(self._settings().budgets)

    async def judge(self, instance: Instance, offer: Offer) -> str:
        """Return why an instance may not be made from an offer; an empty text where no budget forbids it."""
        if not self.configured:
            return ""
        await self.refresh()
        return self._refusal(_ask(instance.owner, instance.request, offer))

    async def judge_ask(self, ask: Ask) -> str:
        """Return why something else than an instance may not be had, or be more; an empty text where it may."""
        if not self.configured:
            return ""
        await self.refresh()
        return self._refusal(ask)

    async def judge_offers(self, owner: str, request: Request, offers: Sequence[Offer]) -> list[Offer]:
        """Return the offers, those last that could be had if no budget forbade an owner to take them, with why."""
        if not self.configured:
            return list(offers)
        await self.refresh()
        judged = []
        for offer in offers:
            why = self._refusal(_ask(owner, request, offer)) if offer.available else ""
            changes = {"available": False, "why_not": why, "refusal": BUDGET}
            judged.append(offer.model_copy(update=changes) if why else offer)
        return sorted(judged, key=lambda offer: not offer.available)

    async def forbids_until(self, instance: Instance, expires: datetime) -> str:
        """Return why an instance may not live longer, until a new expiry; an empty text where it may."""
        now = self.clock.now()
        before = instance.expires
        charge = instance.charges[-1] if instance.charges else None
        if not self.configured or before is None or charge is None or charge.until is not None:
            return ""
        # Its time so far is committed already; only what comes after that is asked for.
        start = max(now, before)
        seconds = int((expires - start).total_seconds())
        if seconds <= 0:
            return ""
        await self.refresh()
        ask = Ask(instance.owner, instance.request.project, charge.price, charge.priced, charge.gpus, seconds)
        return self._refusal(ask, start)

    async def standings(self, user: str | None = None) -> list[Standing]:
        """Return how all pots stand now, or those that concern a user; a part of a budget that each has is told of
        everybody who has used any of it."""
        await self.refresh()
        now = self.clock.now()
        return [
            Standing(pot, span := pot.budget.period.at(now), self.usage(pot, span)) for pot in self.pots(user)
        ]

    def pots(self, user: str | None = None) -> list[Pot]:
        """Return all pots as of the last `refresh`, or those that concern a user."""
        if user is not None:
            found = dict.fromkeys(pots_of(self._budgets, user, "", self._people))
            for budget in self._budgets:
                if budget.project and budget.has_member(user, self._people):
                    found[Pot(budget, user if budget.each else "")] = None
        else:
            found = dict.fromkeys(Pot(budget) for budget in self._budgets if not budget.each)
            payers = self.ledger.payers()
            payers |= {(user, "") for user in self._people.groups}
            payers |= {(user, budget.project) for budget in self._budgets for user in budget.users}
            for owner, project in sorted(payers):
                for pot in self.paying(owner, project):
                    found[pot] = None
            used = {pot.budget for pot in found}
            found |= dict.fromkeys(Pot(budget) for budget in self._budgets if budget not in used)
        order = {budget.name: number for number, budget in enumerate(self._budgets)}
        return sorted(found, key=lambda pot: (order[pot.budget.name], pot.user))

    def usage(self, pot: Pot, span: Span) -> Usage:
        """Return how a pot stands in a span, as of the last `refresh`."""
        return self.ledger.usage(
            pot, span, self.clock.now(), lambda owner, project: self.pays(pot, owner, project)
        )

    def pays(self, pot: Pot, owner: str, project: str) -> bool:
        """Return whether a pot pays for what an owner charges to a project."""
        return pot in self.paying(owner, project)

    def paying(self, owner: str, project: str) -> list[Pot]:
        """Return what pays for an owner's instances that are charged to a project, as of the last `refresh`."""
        key = owner, project
        if key not in self._pots:
            self._pots[key] = pots_of(self._budgets, owner, project, self._people)
        return self._pots[key]

    async def refresh(self) -> None:
        """Read the configuration and who is who, where either has changed; the ledger, where it was not read yet.

        A gridcloud without budgets that nobody asks for its ledger never reads it.
        """
        async with self._reading:
            if not self._is_read:
                await self.ledger.read(self._store, self.clock.now())
                self._is_read = True
        settings = self._settings()
        people = await self._ask_people()
        if settings is self._read_from and people == self._people:
            return
        self._budgets = read_budgets(settings.budgets)
        self._people = people
        self._read_from = settings
        self._pots.clear()
        self.ledger.forget_sums()

    def _refusal(self, ask: Ask, start: datetime | None = None) -> str:
        return refusal(self._budgets, ask, start or self.clock.now(), self._people, self.usage, self.currency)


def _ask(owner: str, request: Request, offer: Offer) -> Ask:
    return Ask(owner, request.project, offer.price, offer.priced, offer.shape.gpus, request.time)
