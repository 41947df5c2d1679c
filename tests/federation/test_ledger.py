"""The ledger: what is claimed, sealed, disputed, added up and compared; and favours from it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gridcloud.errors import Forged, Misdirected, NotFound, UnknownSigner
from gridcloud.federation.borrowing import Borrowed
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.favour import Weights, count_favours, find_favour, order_by_favour
from gridcloud.federation.keys import PrivateKey, ServiceKey, institution_of, make_key_list
from gridcloud.federation.leases import Accept, LentState, Offer, Terms
from gridcloud.federation.ledger import (
    Amount,
    Claim,
    Entry,
    Standing,
    Total,
    add_up,
    answer_entry,
    check_seal,
    claim_parts,
    compare,
    overlaps,
    review,
    seal,
    summarise,
    take_verdict,
)
from gridcloud.federation.lending import Lent
from gridcloud.federation.wishes import Capacity, Wish

KEYS = {name: PrivateKey(bytes([number]) * 32) for number, name in enumerate("abc", 1)}
A, B, C = (institution_of(KEYS[name].public) for name in "abc")
HOUR = 3_600_000
CAPACITY = Capacity(millicores=2500, memory=4096, gpus=1)
WISH = Wish(need="s-1", capacity=Capacity(millicores=1), seconds=90 * 86400, user="ada")
TERMS = Terms()


def when(*parts: int) -> int:
    return milliseconds(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


def offer(before: int) -> Offer:
    """Return an offer of more than was wished, for money."""
    return Offer(capacity=CAPACITY, price="2 EUR", ttl=TERMS.ttl, seconds=90 * 86400, before=before)


def lend(began: int, ended: int = 0) -> Lent:
    state = LentState.ENDED if ended else LentState.HELD
    lent = Lent(id="x-1", borrower=B, before=began, wish=WISH, offer=offer(began), state=state)
    return lent.model_copy(update={"began": began, "ended": ended})


def borrow(began: int, ended: int = 0, lender: str = A) -> Borrowed:
    accept = Accept(lease="x-1", wish=WISH, offer=offer(began))
    return Borrowed(lender=lender, accept=accept, began=began, ended=ended)


def agree(lender: str, borrower: str, hours: int, lease: str = "x-1", began: int = when(2026, 3, 1)) -> Entry:
    claim = Claim(
        lease=lease,
        part=0,
        lender=institution_of(KEYS[lender].public),
        borrower=institution_of(KEYS[borrower].public),
        user="ada",
        capacity=Capacity(millicores=1000),
        began=began,
        ended=began + hours * HOUR,
    )
    return Entry(claim=claim, lender=seal(claim, KEYS[lender]), borrower=seal(claim, KEYS[borrower]))


def test_a_lease_within_a_month_is_one_claim() -> None:
    (claim,) = claim_parts(lend(when(2026, 3, 1), when(2026, 3, 1, 2)), A, when(2026, 5, 1))
    assert claim.amount == Amount(2500 * 2 * HOUR, 2 * HOUR, 4096 * 2 * HOUR)
    assert claim.amount.hours() == (Decimal(5), Decimal(2), Decimal(2 * 4096 * 2**20) / 10**9)
    assert claim.month == "2026-03"


def test_a_lease_over_months_is_claimed_month_by_month() -> None:
    start = when(2025, 12, 30)
    running = claim_parts(lend(start), A, when(2026, 2, 3))
    assert [one.month for one in running] == ["2025-12", "2026-01"]
    ended = claim_parts(lend(start, when(2026, 2, 3)), A, when(2026, 6, 1))
    assert ended[:2] == running
    assert [one.part for one in ended] == [0, 1, 2]
    assert sum(one.amount.gpus for one in ended) == when(2026, 2, 3) - start


@settings(max_examples=40, deadline=None)
@given(some.integers(when(2024, 1, 1), when(2027, 1, 1)), some.integers(0, 200 * 24 * HOUR))
def test_parts_are_the_whole(start: int, length: int) -> None:
    """Between institutions, promise E."""
    parts = claim_parts(lend(start, start + length), A, start + length)
    assert sum(one.amount.gpus for one in parts) == length
    assert all(one.ended == other.began for one, other in itertools.pairwise(parts))
    assert len({one.month for one in parts}) == len(parts)


def test_what_never_began_is_not_claimed() -> None:
    assert claim_parts(lend(0, when(2026, 1, 1)), A, when(2026, 1, 1)) == ()
    assert claim_parts(lend(when(2026, 1, 1)), A, when(2026, 1, 2)) == ()


def test_seals() -> None:
    claim = agree("a", "b", 1).claim
    made = seal(claim, KEYS["a"])
    check_seal(claim, made)
    with pytest.raises(Forged):
        check_seal(claim.model_copy(update={"ended": claim.ended + 1}), made)
    with pytest.raises(Forged):
        check_seal(claim, made.model_copy(update={"key": KEYS["b"].public}))


def test_review() -> None:
    start, end = when(2026, 3, 1), when(2026, 3, 2)
    (claim,) = claim_parts(lend(start, end), A, end)
    assert review(claim, borrow(start, end), TERMS, end) == ""
    assert review(claim, borrow(start + 30_000, end - 200_000), TERMS, end) == ""
    assert "left 3600 s before" in review(claim, borrow(start, end - HOUR), TERMS, end)
    assert "handed over 3600 s later" in review(claim, borrow(start + HOUR, end), TERMS, end)
    assert "never" in review(claim, borrow(0), TERMS, end)
    assert "no such lease" in review(claim, None, TERMS, end)
    assert "no such lease" in review(claim, borrow(start, end, C), TERMS, end)
    more = claim.model_copy(update={"capacity": Capacity(millicores=64_000)})
    assert "capacity" in review(more, borrow(start, end), TERMS, end)
    assert "price" in review(claim.model_copy(update={"price": "3 EUR"}), borrow(start, end), TERMS, end)
    assert "user" in review(claim.model_copy(update={"user": "eve"}), borrow(start, end), TERMS, end)


def test_time_is_claimed_once_and_not_ahead() -> None:
    start, now = when(2026, 3, 30), when(2026, 5, 2)
    running = borrow(start)
    parts = claim_parts(lend(start), A, now)
    assert [review(one, running, TERMS, now) for one in parts] == ["", ""]
    (first, second) = parts
    ahead = first.model_copy(update={"ended": when(2026, 4, 1)})
    assert "to come" in review(ahead, running, TERMS, when(2026, 3, 31))
    for part in (1, 2, 7):
        again = first.model_copy(update={"part": part})
        assert review(again, running, TERMS, now) == f"it is not part {part} of the lease"
    assert "not part" in review(second.model_copy(update={"part": 0}), running, TERMS, now)
    whole = first.model_copy(update={"ended": second.ended})
    assert "cut" in review(whole, running, TERMS, now)
    late = second.model_copy(update={"began": second.began + 1})
    assert "cut" in review(late, running, TERMS, now)
    backwards = first.model_copy(update={"began": 253_402_300_799_999, "part": 95_000})
    assert "before it begins" in review(backwards, running, TERMS, now)
    assert overlaps(again, [first])
    assert not overlaps(second, [first])
    assert not overlaps(first, [first])


def test_entries_go_there_and_back() -> None:
    start, end = when(2026, 3, 1), when(2026, 3, 2)
    (claim,) = claim_parts(lend(start, end), A, end)
    spans = {
        name: make_key_list(
            KEYS[name],
            1,
            start,
            (ServiceKey(key=KEYS[name].public, valid_from=start, valid_until=end + HOUR),),
        )
        for name in "ab"
    }
    known = Signers({A: spans["a"], B: spans["b"]})
    opened = Entry(claim=claim, lender=seal(claim, KEYS["a"]))
    agreed = answer_entry(opened, A, B, borrow(start, end), TERMS, KEYS["b"], known, end)
    held = {claim.id: opened}
    assert take_verdict(agreed, B, held, known, end) == agreed
    disputed = answer_entry(opened, A, B, None, TERMS, KEYS["b"], known, end)
    assert disputed.dispute == "no such lease is known here"
    assert take_verdict(disputed, B, held, known, end).standing is Standing.DISPUTED
    assert take_verdict(disputed, B, {claim.id: agreed}, known, end) == agreed, "what was agreed stays agreed"
    with pytest.raises(Misdirected):
        answer_entry(opened, C, B, borrow(start, end), TERMS, KEYS["b"], known, end)
    with pytest.raises(Misdirected):
        take_verdict(agreed, C, held, known, end)
    with pytest.raises(NotFound):
        take_verdict(agreed, B, {}, known, end)
    with pytest.raises(UnknownSigner):
        answer_entry(
            Entry(claim=claim, lender=seal(claim, KEYS["c"])),
            A,
            B,
            borrow(start, end),
            TERMS,
            KEYS["b"],
            known,
            end,
        )
    forged = opened.lender.model_copy(update={"signature": agreed.borrower.signature})  # type: ignore[union-attr]
    with pytest.raises(Forged):
        answer_entry(
            Entry(claim=claim, lender=forged), A, B, borrow(start, end), TERMS, KEYS["b"], known, end
        )


def test_only_what_is_agreed_counts() -> None:
    """Between institutions, promise E."""
    entry = agree("a", "b", 3)
    opened = entry.model_copy(update={"borrower": None})
    disputed = opened.model_copy(update={"dispute": "no such lease"})
    assert [one.standing for one in (entry, opened, disputed)] == [
        Standing.AGREED,
        Standing.OPEN,
        Standing.DISPUTED,
    ]
    assert add_up([opened, disputed], A) == {}
    assert add_up([entry, entry], A) == {("2026-03", B): Total(Amount(3 * HOUR * 1000), Amount())}
    assert add_up([entry], B) == {("2026-03", A): Total(Amount(), Amount(3 * HOUR * 1000))}


def test_books_of_two_sides() -> None:
    one, two = agree("a", "b", 1), agree("b", "a", 2, "x-2")
    changed = agree("a", "b", 9)
    pair = frozenset({A, B})
    assert summarise([one, two], pair, "2026-03") == summarise(
        [two, one, agree("a", "c", 1)], pair, "2026-03"
    )
    assert summarise([one], pair, "2026-03") != summarise([changed], pair, "2026-03")
    assert summarise([one], pair, "2026-04").agreed == 0
    assert compare([one, two], [two, one]) == ((), (), ())
    assert compare([one], [two]) == ((two.claim,), (one.claim,), ())
    assert compare([one], [changed]).changed == ((one.claim, changed.claim),)


def test_favour_is_never_negative() -> None:
    assert find_favour(0, 0) == 0
    assert find_favour(0, 1000) == 0
    assert find_favour(100, 40) == 70
    assert find_favour(100, 100) == 10, "a partner that took back all it gave is no stranger"


def test_favours_from_the_ledger() -> None:
    start = when(2026, 3, 1)
    entries = [
        agree("b", "a", 100, "x-1", start),
        agree("a", "b", 40, "x-2", start),
        agree("a", "c", 5, "x-3", start),
    ]
    favours = count_favours(entries, A)
    assert favours == {B: 70.0, C: 0.0}
    assert order_by_favour([C, B], favours) == [B, C]
    gpu = entries[0].claim.model_copy(update={"capacity": Capacity(gpus=2), "ended": start + HOUR})
    assert count_favours([entries[0].model_copy(update={"claim": gpu})], A, Weights(gpu=8)) == {B: 20.0}
