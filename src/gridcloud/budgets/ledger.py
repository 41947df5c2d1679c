"""The one ledger over all providers: what every machine costs, that of refused offers and ended instances included,
and what every cluster does.

It is read from the store once and kept up to date by whoever stores an instance. What has ended is added up once for
each pot and span; what runs is reckoned anew at every question. Sums are exact: prices times microseconds, divided at
the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from gridcloud.budgets.judging import expected
from gridcloud.budgets.model import KINDS, Account, Entry, Figures, Pot, Running, Usage
from gridcloud.budgets.periods import Span
from gridcloud.instances.costs import HOUR, close_charges, lasting
from gridcloud.instances.model import FINAL, Charge, Instance
from gridcloud.store import Store

__all__ = ["Ledger"]


@dataclass(slots=True)
class _Sum:
    """What was added up of ended accounts for one pot: money and GPUs, each times microseconds."""

    span: Span
    known: dict[Payer, int] = field(default_factory=dict)
    """How many of each payer's accounts are in it."""
    money: Decimal = Decimal(0)
    gpus: int = 0
    unpriced: int = 0

    def add(self, charge: Charge, now: datetime) -> None:
        took = lasting(charge, now, self.span.since, self.span.until)
        if took:
            self.money += charge.price * took if charge.priced else 0
            self.gpus += charge.gpus * took
            self.unpriced += not charge.priced


Payer = tuple[str, str]
"""An owner, and the project that is charged."""

Pays = Callable[[str, str], bool]
"""Whether a pot pays for what an owner charges to a project."""


class Ledger:
    """All accounts. Use it from one event loop."""

    def __init__(self) -> None:
        self._live: dict[str, Account] = {}
        self._ended: dict[Payer, list[Account]] = {}
        self._ids: set[str] = set()
        self._sums: dict[Pot, _Sum] = {}

    async def read(self, store: Store, now: datetime) -> None:
        """Take up every instance and cluster that the store holds."""
        for number, record in enumerate([one for kind in KINDS for one in await store.find(kind)]):
            if record.body.get("charges") or record.state not in FINAL:
                ended = record.body.get("ended_at")
                self.take(Account.read(record), datetime.fromisoformat(ended) if ended else now)
            if not number % 500:
                await asyncio.sleep(0)

    def note(self, instance: Instance, now: datetime) -> None:
        """Take up an instance as it was stored just now; one that cost nothing yet needs no account."""
        self.take(Account.of(instance), instance.ended_at or now)

    def forget_sums(self) -> None:
        """Add everything up anew at the next question: who pays for what has changed."""
        self._sums.clear()

    def live(self) -> list[Account]:
        """Return the accounts of what has not ended."""
        return list(self._live.values())

    def payers(self) -> set[Payer]:
        """Return each owner and project that anything was charged to."""
        return {(one.owner, one.project) for one in self._live.values()} | self._ended.keys()

    def usage(self, pot: Pot, span: Span, now: datetime, pays: Pays) -> Usage:
        """Return what was taken of a pot in a span up to now, and what is promised to what runs."""
        total = self._settled(pot, span, pays)
        money, gpus, unpriced = total.money, total.gpus, total.unpriced
        promised = Figures()
        running = []
        for account in self._live.values():
            if not account.charges or not pays(account.owner, account.project):
                continue
            mine = _Sum(span)
            for charge in account.charges:
                mine.add(charge, now)
            money, gpus, unpriced = money + mine.money, gpus + mine.gpus, unpriced + mine.unpriced
            charge = account.charges[-1]
            if not account.lasts or charge.until is not None:
                continue
            price = charge.price if charge.priced else Decimal(0)
            running.append(Running(account.id, Figures(price, Decimal(charge.gpus)), charge.priced))
            promised += expected(now, span, price, charge.gpus, account.time, account.expires)
        spent = Figures(money / HOUR, Decimal(gpus) / HOUR)
        return Usage(spent, promised, tuple(running), unpriced)

    def entries(
        self,
        now: datetime,
        since: datetime | None = None,
        until: datetime | None = None,
        wanted: Pays = lambda owner, project: True,
    ) -> Iterator[Entry]:
        """Yield the lines of what is wanted, as far as they lie within the span, the oldest of each payer first."""
        live: dict[Payer, list[Account]] = {}
        for account in self._live.values():
            live.setdefault((account.owner, account.project), []).append(account)
        for payer in sorted(self.payers()):
            if not wanted(*payer):
                continue
            for account in (*self._ended.get(payer, ()), *live.get(payer, ())):
                for charge in account.charges:
                    took = lasting(charge, now, since, until)
                    if took:
                        yield _entry(account, charge, took)

    def take(self, account: Account, ended: datetime) -> None:
        """Take up an account as it is now; ``ended``: when all that it still pays for was gone, if it has ended."""
        known = self._live.get(account.id)
        if account.id in self._ids or (known is not None and known.version > account.version):
            return
        if account.live:
            self._live[account.id] = account
            return
        self._live.pop(account.id, None)
        self._ids.add(account.id)  # whatever is still told of it was read before it ended
        if account.charges:
            closed = replace(account, charges=close_charges(account.charges, ended))
            self._ended.setdefault((account.owner, account.project), []).append(closed)

    def _settled(self, pot: Pot, span: Span, pays: Pays) -> _Sum:
        total = self._sums.get(pot)
        if total is None or total.span != span:
            total = self._sums[pot] = _Sum(span)
        for payer, accounts in self._ended.items():
            known = total.known.get(payer, 0)
            if known == len(accounts) or not pays(*payer):
                continue
            for account in accounts[known:]:
                for charge in account.charges:
                    if charge.until is not None:
                        total.add(charge, charge.until)
            total.known[payer] = len(accounts)
        return total


def _entry(account: Account, charge: Charge, took: int) -> Entry:
    return Entry(
        instance=account.id,
        name=account.name,
        owner=account.owner,
        project=account.project,
        provider=charge.provider,
        shape=charge.shape,
        since=charge.since,
        until=charge.until,
        hours=Decimal(took) / HOUR,
        price=charge.price if charge.priced else None,
        money=charge.price * took / HOUR if charge.priced else None,
        gpus=charge.gpus,
        gpu_hours=Decimal(charge.gpus * took) / HOUR,
    )
