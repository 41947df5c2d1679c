"""The leases that we gave, in the store: each with the providers that are to make its machine, and its instance."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict

from gridcloud.errors import Conflict
from gridcloud.federation.lending import Lent
from gridcloud.grid.wishes import guest_of
from gridcloud.instances.model import Offer
from gridcloud.store import Entry, Record, Store

__all__ = ["Key", "Loan", "Loans"]

Key = tuple[str, str]
"""Borrower and lease: what names a lease at its lender."""


class Loan(BaseModel):
    """A lease that we gave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lent: Lent
    machines: tuple[Offer, ...] = ()
    """Offers of our providers of which its machine may be made, the first one first: each is what was accepted."""
    tried: int = 0
    """How many of them could not be had."""

    @property
    def key(self) -> Key:
        """What names it here."""
        return self.lent.borrower, self.lent.id

    @property
    def machine(self) -> Offer | None:
        """What is tried now."""
        return self.machines[self.tried] if self.tried < len(self.machines) else None

    @property
    def instance_id(self) -> str:
        """The instance that is made for it: the same one each time, so that a crash makes no second."""
        return f"l-{_digest(self.key)[:24]}-{self.tried}"

    @property
    def guest(self) -> str:
        """For whom it is, as they are known here."""
        return guest_of(self.lent.wish.user if self.lent.wish else "", self.lent.borrower)


class Loans:
    """All of them, kept in memory and stored before anybody is told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[Key, Record] = {}
        self._loans: dict[Key, Loan] = {}
        self._by_instance: dict[str, Key] = {}
        self.kept = asyncio.Event()
        """Set whenever one is kept; who waits for it clears it first."""

    async def load(self) -> None:
        """Take up what is stored."""
        for record in await self._store.find("loan"):
            self._keep(record, Loan.model_validate(record.body))

    def get(self, key: Key) -> Loan | None:
        """Return one."""
        return self._loans.get(key)

    def all(self) -> list[Loan]:
        """Return all that are remembered, those that have ended too."""
        return list(self._loans.values())

    def of_instance(self, instance_id: str) -> Key | None:
        """Return the lease that an instance was made for."""
        return self._by_instance.get(instance_id)

    async def put(self, loan: Loan) -> None:
        """Store one, with an event where its state changed. Who is called off meanwhile has stored it all the same."""
        await asyncio.shield(self._put(loan))

    async def _put(self, loan: Loan) -> None:
        known = self._records.get(loan.key)
        lent = loan.lent
        body: dict[str, Any] = loan.model_dump(mode="json")
        words = f"{lent.reason} {lent.why}".strip()
        data = {"borrower": lent.borrower, "lease": lent.id, "user": loan.guest}
        event = Entry(str(lent.state), words, data)
        if known is None:
            identifier = f"k-{_digest(loan.key)[:32]}"
            record = await self._store.insert("loan", identifier, lent.borrower, lent.state, body, [event])
        else:
            events = [event] if known.state != lent.state else []
            try:
                record = await self._store.update(known, state=lent.state, body=body, events=events)
            except Conflict:  # what is in the store holds
                record = await self._store.get("loan", known.id)
                self._keep(record, Loan.model_validate(record.body))
                raise
        self._keep(record, loan)

    async def forget(self, key: Key) -> None:
        """Drop one that can no longer begin."""
        await self._store.delete(self._records[key])
        del self._records[key]
        loan = self._loans.pop(key)
        for tried in range(loan.tried + 1):
            self._by_instance.pop(loan.model_copy(update={"tried": tried}).instance_id, None)

    def _keep(self, record: Record, loan: Loan) -> None:
        self._records[loan.key] = record
        self._loans[loan.key] = loan
        self._by_instance[loan.instance_id] = loan.key
        self.kept.set()


def _digest(key: Key) -> str:
    return hashlib.sha256(f"{key[0]}/{key[1]}".encode()).hexdigest()
