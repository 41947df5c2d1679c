"""The books of two institutions: claims, seals, disputes, months, and what a lost disk gets back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import Forged, InvalidRequest, Misdirected
from gridcloud.federation.borrowing import Borrowed, BorrowedState
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.favour import Weights
from gridcloud.federation.leases import Accept, LentState, Offer, Terms
from gridcloud.federation.ledger import Claim, Claims, Entry, Seal, Standing, seal
from gridcloud.federation.lending import Lent
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.grid import accounts
from gridcloud.grid.accounts import Accounts
from gridcloud.store import Store, open_store
from tests.grid.towns import Town, found

TWO = Capacity(millicores=2000, memory=1024)
WISH = Wish(need="i-abc", capacity=TWO, seconds=7200, user="ada")
HOUR = 3_600_000
MONTH_END = datetime(2026, 3, 31, 23, tzinfo=UTC)


class Books:
    """One institution's accounts, and the leases that it took."""

    def __init__(self, town: Town, store: Store, clock: ManualClock) -> None:
        self.town, self.store = town, store
        self.leases: dict[str, Borrowed] = {}
        self.accounts = Accounts(town, store, clock, Terms, Weights)
        self.accounts.look_up(self._find)
        town.handle("ledger", self.accounts.answer)
        town.open = True

    async def _find(self, lease: str) -> Borrowed | None:
        return self.leases.get(lease)


@contextlib.asynccontextmanager
async def opened(folder: Path, town: Town, clock: ManualClock) -> AsyncIterator[Books]:
    folder.mkdir(exist_ok=True)
    async with await open_store(folder / "store.sqlite", clock) as store:
        books = Books(town, store, clock)
        await books.accounts.start()
        try:
            yield books
        finally:
            await books.accounts.close()


def offer(before: int) -> Offer:
    return Offer(capacity=TWO, ttl=300_000, seconds=7200, before=before)


def lent(borrower: Town, began: datetime, hours: float) -> Lent:
    start = milliseconds(began)
    return Lent(
        id="i-abc-0",
        borrower=borrower.me,
        before=start,
        wish=WISH,
        offer=offer(start),
        state=LentState.ENDED,
        began=start,
        ended=start + round(hours * HOUR),
    )


def borrowed(lender: Town, began: datetime, hours: float) -> Borrowed:
    start = milliseconds(began)
    return Borrowed(
        lender=lender.me,
        accept=Accept(lease="i-abc-0", wish=WISH, offer=offer(start)),
        state=BorrowedState.OVER,
        began=start,
        ended=start + round(hours * HOUR),
    )


async def test_a_lease_over_two_months_is_two_entries_that_both_sealed(tmp_path: Path) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    clock = ManualClock(datetime(2026, 4, 1, 2, tzinfo=UTC))
    async with opened(tmp_path / "b", bergen, clock) as ours, opened(tmp_path / "o", oslo, clock) as theirs:
        theirs.leases["i-abc-0"] = borrowed(bergen, MONTH_END, 2)
        await ours.accounts.claim(lent(oslo, MONTH_END, 2))
        await ours.accounts.claim(lent(oslo, MONTH_END, 2))
        await ours.accounts.say_claims()
        entries = ours.accounts.entries()
        assert [(one.claim.month, one.standing) for one in entries] == [
            ("2026-03", Standing.AGREED),
            ("2026-04", Standing.AGREED),
        ]
        assert theirs.accounts.entries() == entries
        assert await ours.accounts.reconcile() == await theirs.accounts.reconcile() == {}
        assert await ours.accounts.favours() == {oslo.me: 0.0}
        assert (await theirs.accounts.favours())[bergen.me] > 4.0
    async with opened(tmp_path / "b", bergen, clock) as again:
        assert again.accounts.entries() == entries


async def test_what_the_borrower_did_not_see_is_disputed_and_counts_for_nobody(tmp_path: Path) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    clock = ManualClock(datetime(2026, 3, 9, 20, tzinfo=UTC))
    began = datetime(2026, 3, 9, 12, tzinfo=UTC)
    async with opened(tmp_path / "b", bergen, clock) as ours, opened(tmp_path / "o", oslo, clock) as theirs:
        theirs.leases["i-abc-0"] = borrowed(bergen, began, 1)
        await ours.accounts.claim(lent(oslo, began, 5))
        await ours.accounts.say_claims()
        for books in (ours, theirs):
            (entry,) = books.accounts.entries()
            assert entry.standing is Standing.DISPUTED
            assert "before" in entry.dispute
            assert await books.accounts.favours() == {}
        assert await ours.accounts.reconcile() == {}, "both agree that they do not agree"


async def test_a_lost_disk_gets_its_books_back_by_its_own_seal(tmp_path: Path) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    clock = ManualClock(datetime(2026, 3, 9, 20, tzinfo=UTC))
    began = datetime(2026, 3, 9, 12, tzinfo=UTC)
    async with opened(tmp_path / "b", bergen, clock) as ours:
        async with opened(tmp_path / "o", oslo, clock) as theirs:
            theirs.leases["i-abc-0"] = borrowed(bergen, began, 1)
            await ours.accounts.claim(lent(oslo, began, 1))
            await ours.accounts.say_claims()
            kept = theirs.accounts.entries()
        async with opened(tmp_path / "new", oslo, clock) as theirs:
            assert theirs.accounts.entries() == []
            assert await ours.accounts.reconcile() == {}
            assert theirs.accounts.entries() == kept


async def test_nobody_claims_for_others_or_without_a_seal(tmp_path: Path) -> None:
    bergen, oslo, rome = found("Bergen", "Oslo", "Rome")
    clock = ManualClock(datetime.now(UTC))
    began = milliseconds(clock.now())
    async with opened(tmp_path / "o", oslo, clock) as theirs:
        theirs.leases["i-abc-0"] = borrowed(bergen, clock.now(), 1)
        claim = Claim(
            lease="i-abc-0",
            part=0,
            lender=bergen.me,
            borrower=oslo.me,
            user="ada",
            capacity=TWO,
            began=began,
            ended=began + HOUR,
        )

        def written(made: Seal) -> Json:
            return Claims(entries=(Entry(claim=claim, lender=made),)).document()

        with pytest.raises(Misdirected):
            await theirs.accounts.answer(rome.me, Claims.kind, written(seal(claim, rome.key)))
        wrong = seal(claim.model_copy(update={"user": "eve"}), bergen.key)
        with pytest.raises(Forged):
            await theirs.accounts.answer(bergen.me, Claims.kind, written(wrong))
        with pytest.raises(InvalidRequest):
            await theirs.accounts.answer(bergen.me, "ledger.wishes", {})
        assert theirs.accounts.entries() == []


async def test_what_is_claimed_of_nothing_or_twice_fills_no_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "DISPUTED", 3)  # a thousand take long to seal
    bergen, oslo = found("Bergen", "Oslo")
    clock = ManualClock(datetime(2026, 4, 3, tzinfo=UTC))
    began = datetime(2026, 4, 1, 0, 1, tzinfo=UTC)
    start = milliseconds(began)
    async with opened(tmp_path / "b", bergen, clock) as ours, opened(tmp_path / "o", oslo, clock) as theirs:
        theirs.leases["i-abc-0"] = borrowed(bergen, began, 2)
        key = bergen.service_key()
        await ours.accounts.claim(lent(oslo, began, 2))
        await ours.accounts.say_claims()
        (entry,) = theirs.accounts.entries()
        assert entry.standing is Standing.AGREED
        # It began so near the turn of a month that its second part could be this one, too.
        again = entry.claim.model_copy(update={"part": 1, "began": start - 60_000})
        made = [again, *(again.model_copy(update={"lease": f"i-none-{number}"}) for number in range(5))]
        claims = Claims(entries=tuple(Entry(claim=one, lender=seal(one, key)) for one in made))
        answer = await theirs.accounts.answer(bergen.me, Claims.kind, claims.document())
        assert answer is not None
        verdicts = Claims.of(answer[1]).entries
        assert verdicts[0].dispute == "another part claims the same time"
        assert all(one.standing is Standing.DISPUTED for one in verdicts)
        standings = [one.standing for one in theirs.accounts.entries()]
        assert standings.count(Standing.DISPUTED) == 3
        assert theirs.accounts.entries()[-1].standing is Standing.AGREED


async def test_who_says_much_that_its_books_differ_has_us_say_claims_once_a_pause(tmp_path: Path) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    clock = ManualClock(datetime(2026, 3, 9, 20, tzinfo=UTC))
    said = 0

    async def never_seal(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        nonlocal said
        said += 1
        return None

    async with opened(tmp_path / "b", bergen, clock) as ours:
        oslo.handle("ledger", never_seal)
        oslo.open = True
        await ours.accounts.claim(lent(oslo, datetime(2026, 3, 9, 12, tzinfo=UTC), 1))
        other = {"month": "2026-03", "agreed": 7, "contents": "a" * 43}
        for _ in range(200):
            answer = await ours.accounts.answer(oslo.me, "ledger.books", other)
            assert answer is not None
            assert answer[1]["agreed"] == 0
            await asyncio.sleep(0.002)
        assert 1 <= said <= 3, "by the claim itself, at the start, and by the first that differed"
