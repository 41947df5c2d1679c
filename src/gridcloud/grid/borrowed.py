"""The leases that we took, in the store: each with the entry of the configuration that it was borrowed through."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from gridcloud.errors import Conflict, NotFound
from gridcloud.federation.borrowing import Borrowed, BorrowedState
from gridcloud.store import Entry, Record, Store

__all__ = ["KEPT", "Borrowing", "Borrowings"]

OVER = BorrowedState.OVER
KEPT = timedelta(days=180)
"""For so long after its end a lease is remembered, so that what its lender claims of it can be compared with it."""


class Borrowing(BaseModel):
    """A lease that we took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease: Borrowed
    provider: str
    owner: str

    @property
    def need(self) -> str:
        """The instance that it is for."""
        return self.lease.accept.wish.need


class Borrowings:
    """All of them; those that are not over are kept in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[str, Record] = {}
        self._known: dict[str, Borrowing] = {}
        self.kept = asyncio.Event()
        """Set whenever one is kept; who waits for it clears it first."""

    async def load(self) -> None:
        """Take up what is stored and not over."""
        states = [state for state in BorrowedState if state is not OVER]
        for record in await self._store.find("borrowed", states=states):
            self._keep(record, Borrowing.model_validate(record.body))

    def live(self) -> list[Borrowing]:
        """Return those that are not over."""
        return list(self._known.values())

    def of(self, need: str) -> list[Borrowing]:
        """Return those for an instance that are not over."""
        return [one for one in self._known.values() if one.need == need]

    def get(self, lease: str) -> Borrowing | None:
        """Return one that is not over."""
        return self._known.get(lease)

    async def find(self, lease: str) -> Borrowing | None:
        """Return one, over or not."""
        if lease in self._known:
            return self._known[lease]
        try:
            return Borrowing.model_validate((await self._store.get("borrowed", lease)).body)
        except NotFound:
            return None

    async def former(self, need: str) -> list[Borrowing]:
        """Return all that there ever were for an instance, in order."""
        found: list[Borrowing] = []
        while (one := await self.find(f"{need}-{len(found)}")) is not None:
            found.append(one)
        return found

    async def prune(self, now: datetime) -> int:
        """Drop what was over for longer than `KEPT`, all leases of an instance at once; return how many leases.

        A lease is numbered by those before it of the same instance: while one of them is kept, all are.
        """
        over: defaultdict[str, list[Record]] = defaultdict(list)
        for record in await self._store.find("borrowed", states=[OVER]):
            over[Borrowing.model_validate(record.body).need].append(record)
        live = {one.need for one in self._known.values()}
        old = [
            records
            for need, records in over.items()
            if need not in live and all(one.updated + KEPT < now for one in records)
        ]
        for record in (one for records in old for one in reversed(records)):
            await self._store.delete(record)
        return sum(map(len, old))

    async def put(self, one: Borrowing) -> None:
        """Store one, with an event where its state changed. Who is called off meanwhile has stored it all the same."""
        await asyncio.shield(self._put(one))

    async def _put(self, one: Borrowing) -> None:
        lease = one.lease
        known = self._records.get(lease.id)
        body = one.model_dump(mode="json")
        data = {"lender": lease.lender, "instance": one.need}
        event = Entry(str(lease.state), f"{lease.reason} {lease.why}".strip(), data)
        if known is None:
            record = await self._store.insert("borrowed", lease.id, one.owner, lease.state, body, [event])
        else:
            events = [event] if known.state != lease.state else []
            try:
                record = await self._store.update(known, state=lease.state, body=body, events=events)
            except Conflict:  # what is in the store holds
                record = await self._store.get("borrowed", lease.id)
                self._keep(record, Borrowing.model_validate(record.body))
                raise
        self._keep(record, one)

    def _keep(self, record: Record, one: Borrowing) -> None:
        if one.lease.state is OVER:
            self._records.pop(one.lease.id, None)
            self._known.pop(one.lease.id, None)
        else:
            self._records[one.lease.id] = record
            self._known[one.lease.id] = one
            self.kept.set()
