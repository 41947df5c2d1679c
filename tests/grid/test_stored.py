"""Leases in the store: who is called off while one is stored leaves nothing between memory and store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from gridcloud.clock import ManualClock, SystemClock
from gridcloud.federation.borrowing import Borrowed, BorrowedState
from gridcloud.federation.leases import Accept, LentState, Offer
from gridcloud.federation.lending import Lent
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.grid.borrowed import Borrowing, Borrowings
from gridcloud.grid.loans import Loan, Loans
from gridcloud.store import open_store

WISH = Wish(need="i-abc", capacity=Capacity(millicores=1000), seconds=60, user="ada")
OFFER = Offer(capacity=WISH.capacity, ttl=1000, seconds=60, before=1)


async def test_who_is_called_off_has_stored_it(tmp_path: Path) -> None:
    async with await open_store(tmp_path / "store.sqlite", SystemClock()) as store:
        borrowings, loans = Borrowings(store), Loans(store)
        accept = Accept(lease="i-abc-0", wish=WISH, offer=OFFER)
        taken = Borrowing(lease=Borrowed(lender="l", accept=accept), provider="partners", owner="ada")
        loan = Loan(lent=Lent(id="i-abc-0", borrower="b", before=1, wish=WISH))
        await borrowings.put(taken)
        await loans.put(loan)
        for serial in range(1, 12):
            taken = taken.model_copy(update={"lease": taken.lease.model_copy(update={"serial": serial})})
            loan = loan.model_copy(update={"lent": loan.lent.model_copy(update={"serial": serial})})
            for work in (borrowings.put(taken), loans.put(loan)):
                task = asyncio.create_task(work)
                await asyncio.sleep(0.0002 * serial)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.1)
        held = taken.model_copy(
            update={"lease": taken.lease.model_copy(update={"state": BorrowedState.HELD})}
        )
        lent = loan.model_copy(update={"lent": loan.lent.model_copy(update={"state": LentState.HELD})})
        await borrowings.put(held)
        await loans.put(lent)
        assert (await store.get("borrowed", "i-abc-0")).state == "held"
        again, anew = Borrowings(store), Loans(store)
        await again.load()
        await anew.load()
        assert again.live() == borrowings.live() == [held]
        assert anew.all() == loans.all() == [lent]


async def test_what_ended_half_a_year_ago_is_forgotten(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with await open_store(tmp_path / "store.sqlite", clock) as store:
        borrowings = Borrowings(store)

        async def take(need: str, number: int, state: BorrowedState = BorrowedState.OVER) -> None:
            wish = WISH.model_copy(update={"need": need})
            accept = Accept(lease=f"{need}-{number}", wish=wish, offer=OFFER)
            lease = Borrowed(lender="l", accept=accept, state=state)
            await borrowings.put(Borrowing(lease=lease, provider="partners", owner="ada"))

        await take("i-old", 0)
        await take("i-old", 1)
        await take("i-busy", 0)
        await take("i-busy", 1, BorrowedState.HELD)
        await take("i-late", 0)
        await clock.advance(100 * 86400)
        await take("i-late", 1)
        assert await borrowings.prune(clock.now()) == 0
        await clock.advance(100 * 86400)
        again = Borrowings(store)
        await again.load()
        assert await again.prune(clock.now()) == 2
        assert await again.former("i-old") == []
        assert len(await again.former("i-busy")) == 2, "a lease that lives keeps its number"
        assert len(await again.former("i-late")) == 2, "as does one that ended since"
        await clock.advance(100 * 86400)
        assert await again.prune(clock.now()) == 2
        assert await again.find("i-late-1") is None
