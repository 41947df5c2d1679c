"""What institutions gave each other: claims of lenders, sealed by both sides, added up exactly, compared.

The lender claims what a lease took, one part for each month (UTC) that it touched; the borrower compares it with what
it saw and seals or disputes it. Both keep the entry. Amounts are whole numbers: thousandths of a core, GPUs and MiB,
each times milliseconds; nothing is rounded before the last line of a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from gridcloud.errors import Misdirected, NotFound
from gridcloud.federation.borrowing import Borrowed
from gridcloud.federation.encoding import digest, milliseconds, moment
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.keys import PrivateKey, verify
from gridcloud.federation.leases import Terms
from gridcloud.federation.lending import Lent
from gridcloud.federation.model import (
    PROTOCOL,
    Count,
    Digest,
    Document,
    Identifier,
    Institution,
    Key,
    Signature,
    Time,
    Title,
    Version,
)
from gridcloud.federation.wishes import Capacity

__all__ = [
    "Amount",
    "Books",
    "Claim",
    "Claims",
    "Difference",
    "Entry",
    "Seal",
    "Standing",
    "Total",
    "Verdicts",
    "add_up",
    "answer_entry",
    "check_seal",
    "claim_parts",
    "compare",
    "overlaps",
    "review",
    "seal",
    "summarise",
    "take_verdict",
]

CONTEXT = "claim"
"""What seals are made as (see `keys`)."""


class Amount(NamedTuple):
    """Exact amounts of computing."""

    cores: int = 0
    """Thousandths of a core x milliseconds."""
    gpus: int = 0
    """GPUs x milliseconds."""
    memory: int = 0
    """MiB x milliseconds."""

    def plus(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(self.cores + other.cores, self.gpus + other.gpus, self.memory + other.memory)

    def hours(self) -> tuple[Decimal, Decimal, Decimal]:
        """Return CPU-, GPU- and GB-hours (GB: 10^9 bytes)."""
        return (
            Decimal(self.cores) / (1000 * 3_600_000),
            Decimal(self.gpus) / 3_600_000,
            Decimal(self.memory * 2**20) / (10**9 * 3_600_000),
        )


class Claim(Document):
    """What a lender says that a lease took within one month."""

    version: Version = PROTOCOL
    type: Literal["claim"] = "claim"
    lease: Identifier
    part: Count
    """0 for the month in which the lease was handed over, 1 for the next, and so on."""
    lender: Institution
    borrower: Institution
    user: Title
    capacity: Capacity
    """What the machine has that was accepted."""
    price: Title = ""
    """Per hour, with its currency, as it was accepted; empty: no money."""
    began: Time
    ended: Time

    @property
    def id(self) -> tuple[str, str, str, int]:
        """What names it: the same lease's part is claimed once."""
        return self.lender, self.borrower, self.lease, self.part

    @property
    def amount(self) -> Amount:
        """What it is about."""
        took = max(0, self.ended - self.began)
        return Amount(self.capacity.millicores * took, self.capacity.gpus * took, self.capacity.memory * took)

    @property
    def month(self) -> str:
        """Its month, as ``2026-03``."""
        return f"{moment(self.began):%Y-%m}"


class Seal(Document):
    """One side's signature under a claim."""

    key: Key
    signature: Signature


class Standing(StrEnum):
    """How an entry stands."""

    OPEN = "open"
    """The borrower did not answer yet."""
    AGREED = "agreed"
    DISPUTED = "disputed"


class Entry(Document):
    """A claim with what both sides say of it."""

    claim: Claim
    lender: Seal
    borrower: Seal | None = None
    dispute: Title = ""
    """Why the borrower does not seal it."""

    @property
    def standing(self) -> Standing:
        """How it stands; only what is agreed counts."""
        if self.borrower is not None:
            return Standing.AGREED
        return Standing.DISPUTED if self.dispute else Standing.OPEN


class Claims(Document):
    """Lender: these leases took this. Said again until they are answered."""

    kind: ClassVar[str] = "ledger.claims"
    entries: tuple[Entry, ...] = Field(max_length=100)


class Verdicts(Document):
    """Borrower: the entries, sealed or disputed."""

    kind: ClassVar[str] = "ledger.verdicts"
    entries: tuple[Entry, ...] = Field(max_length=100)


class Books(Document):
    """Either: what my books say of the two of us in a month. Where they differ, the entries themselves are sent."""

    kind: ClassVar[str] = "ledger.books"
    month: str = Field(pattern=r"^\d{4}-\d{2}$")
    agreed: Count
    """How many agreed entries there are."""
    contents: Digest
    """Of the agreed claims, in the order of their ids."""


def claim_parts(lent: Lent, lender: str, now: int) -> tuple[Claim, ...]:
    """Return what can be claimed of a lease by now: its whole months, and all of it when it has ended.

    The same parts come out whenever it is asked.
    """
    if not lent.began or lent.wish is None or lent.offer is None:
        return ()
    claims: list[Claim] = []
    start = lent.began
    end = lent.ended or now
    while start < end or not claims:
        stop = _next_month(start)
        if end < stop and not lent.ended:
            break
        claims.append(
            Claim(
                lease=lent.id,
                part=len(claims),
                lender=lender,
                borrower=lent.borrower,
                user=lent.wish.user,
                capacity=lent.offer.capacity,
                price=lent.offer.price,
                began=start,
                ended=max(start, min(stop, end)),
            )
        )
        start = stop
    return tuple(claims)


def seal(claim: Claim, key: PrivateKey) -> Seal:
    """Return one side's seal."""
    return Seal(key=key.public, signature=key.sign(CONTEXT, claim.document()))


def check_seal(claim: Claim, made: Seal) -> None:
    """Return when the seal holds; raises Forged. Whose key it is, `keys.check_service_key` says."""
    verify(made.key, made.signature, CONTEXT, claim.document())


def review(claim: Claim, lease: Borrowed | None, terms: Terms, now: int) -> str:
    """Return why the borrower disputes a claim, or an empty text. ``now`` is by this side's clock.

    A claim may differ from what the borrower saw by the time that a message or an end takes to be known: the TTL, the
    longest way of a message and the difference of clocks. ``lease`` is None where the borrower knows of none.
    """
    if lease is None or lease.lender != claim.lender:
        return "no such lease is known here"
    offer = lease.accept.offer
    if claim.capacity != offer.capacity:
        return "another capacity was accepted"
    if claim.price != offer.price:
        return "another price was accepted"
    if claim.user != lease.accept.wish.user:
        return "it was for another user"
    if not lease.began:
        return "it was never handed over"
    slack = offer.ttl + terms.flight + 2 * terms.tolerance
    if claim.began < lease.began - slack:
        return f"it was handed over {(lease.began - claim.began) // 1000} s later"
    if lease.ended and claim.ended > lease.ended + slack:
        return f"it was left {(claim.ended - lease.ended) // 1000} s before"
    if claim.ended < claim.began:
        return "it ends before it begins"
    if claim.ended > now + 2 * terms.tolerance:
        return f"it is claimed for {(claim.ended - now) // 1000} s to come"
    # Each part is its own month, or the same time could be claimed as several parts.
    first = _month_number(claim.began) - claim.part
    if not _month_number(max(0, lease.began - slack)) <= first <= _month_number(lease.began + slack):
        return f"it is not part {claim.part} of the lease"
    if claim.ended > _next_month(claim.began) or (claim.part and claim.began != _month_start(claim.began)):
        return f"part {claim.part} is not cut at the beginnings of months"
    return ""


def overlaps(claim: Claim, agreed: Iterable[Claim]) -> bool:
    """Return whether it claims time that another of the ``agreed`` parts of its lease claims."""
    return any(
        one.id[:3] == claim.id[:3]
        and one.part != claim.part
        and claim.began < one.ended
        and one.began < claim.ended
        for one in agreed
    )


def answer_entry(
    entry: Entry,
    sender: str,
    own: str,
    lease: Borrowed | None,
    terms: Terms,
    signing: PrivateKey,
    signers: Signers,
    now: int,
) -> Entry:
    """Return a lender's entry with the borrower's seal or dispute; the same entry has the same answer, however often.

    Raises Misdirected where the claim is not the sender's on us, and what `Signers.check` and `check_seal` raise.
    """
    claim = entry.claim
    if (claim.lender, claim.borrower) != (sender, own):
        raise Misdirected(f"{sender} claims what {claim.lender} lent to {claim.borrower}")
    signers.check(sender, entry.lender.key, now)
    check_seal(claim, entry.lender)
    if why := review(claim, lease, terms, now):
        return Entry(claim=claim, lender=entry.lender, dispute=why)
    return Entry(claim=claim, lender=entry.lender, borrower=seal(claim, signing))


def take_verdict(
    entry: Entry, sender: str, held: Mapping[tuple[str, str, str, int], Entry], signers: Signers, now: int
) -> Entry:
    """Return the entry that a lender keeps of a borrower's verdict on one that it ``held``.

    Raises NotFound for one that was never claimed like this, Misdirected for another's, and what `Signers.check` and
    `check_seal` raise. What was agreed stays agreed.
    """
    ours = held.get(entry.claim.id)
    if ours is None or ours.claim != entry.claim:
        raise NotFound(f"lease {entry.claim.lease}, part {entry.claim.part}, was not claimed like this")
    if entry.claim.borrower != sender:
        raise Misdirected(f"{sender} answers a claim on {entry.claim.borrower}")
    if entry.borrower is None:
        return (
            ours if ours.borrower else ours.model_copy(update={"dispute": entry.dispute or "no reason given"})
        )
    signers.check(sender, entry.borrower.key, now)
    check_seal(entry.claim, entry.borrower)
    return ours.model_copy(update={"borrower": entry.borrower, "dispute": ""})


class Difference(NamedTuple):
    """Where the books of two sides differ."""

    missing: tuple[Claim, ...]
    """Agreed there, and not here."""
    unknown: tuple[Claim, ...]
    """Agreed here, and not there."""
    changed: tuple[tuple[Claim, Claim], ...]
    """The same lease's part with other contents, here and there."""


def compare(ours: Iterable[Entry], theirs: Iterable[Entry]) -> Difference:
    """Return what differs between the agreed entries of two sides."""
    here, there = _agreed(ours), _agreed(theirs)
    return Difference(
        tuple(there[one] for one in sorted(there.keys() - here.keys())),
        tuple(here[one] for one in sorted(here.keys() - there.keys())),
        tuple(
            (here[one], there[one]) for one in sorted(here.keys() & there.keys()) if here[one] != there[one]
        ),
    )


def summarise(entries: Iterable[Entry], peers: frozenset[str], month: str) -> Books:
    """Return what the books say of two institutions (``peers``) in a month."""
    agreed = _agreed(
        one for one in entries if one.claim.month == month and {one.claim.lender, one.claim.borrower} == peers
    )
    contents = digest({"claims": [agreed[one].document() for one in sorted(agreed)]})
    return Books(month=month, agreed=len(agreed), contents=contents)


class Total(NamedTuple):
    """What was given to and taken from a peer."""

    given: Amount = Amount()
    taken: Amount = Amount()


def add_up(entries: Iterable[Entry], own: str) -> dict[tuple[str, str], Total]:
    """Return totals of what is agreed, by (month, peer)."""
    totals: dict[tuple[str, str], Total] = {}
    for claim in _agreed(entries).values():
        peer = claim.borrower if claim.lender == own else claim.lender
        total = totals.get((claim.month, peer), Total())
        if claim.lender == own:
            total = total._replace(given=total.given.plus(claim.amount))
        elif claim.borrower == own:
            total = total._replace(taken=total.taken.plus(claim.amount))
        totals[(claim.month, peer)] = total
    return totals


def _agreed(entries: Iterable[Entry]) -> dict[tuple[str, str, str, int], Claim]:
    return {one.claim.id: one.claim for one in entries if one.standing is Standing.AGREED}


def _month_number(when: int) -> int:
    then = moment(when)
    return 12 * then.year + then.month - 1


def _month_start(when: int) -> int:
    then = moment(when)
    return milliseconds(datetime(then.year, then.month, 1, tzinfo=UTC))


def _next_month(start: int) -> int:
    then = moment(start)
    year, month = then.year + then.month // 12, then.month % 12 + 1
    return milliseconds(datetime(year, month, 1, tzinfo=UTC))
