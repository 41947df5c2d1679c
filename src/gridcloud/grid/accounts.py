"""The accounts between us and others: claims of what was lent, sealed by both sides, kept, compared month by month.

A claim is said to its borrower until there is an answer. An entry that carries our own seal is taken back into our
books, so that a lost disk is filled up again by those who kept theirs; nobody else can make that seal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

from gridcloud.clock import Clock
from gridcloud.errors import Expired, GridcloudError, InvalidRequest, MessageRefused, NotFound, Transient
from gridcloud.federation.borrowing import Borrowed
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.favour import Weights, count_favours
from gridcloud.federation.leases import Terms
from gridcloud.federation.ledger import (
    Books,
    Claim,
    Claims,
    Difference,
    Entry,
    Standing,
    Verdicts,
    answer_entry,
    check_seal,
    claim_parts,
    compare,
    overlaps,
    seal,
    summarise,
    take_verdict,
)
from gridcloud.federation.lending import Lent
from gridcloud.grid.neighbours import Neighbours
from gridcloud.store import Record, Store

__all__ = ["Accounts"]

log = logging.getLogger(__name__)

PAUSE = 60.0
"""Seconds between two times that open claims are said."""
RECONCILE = 6 * 3600.0
"""Seconds between two comparisons of books with everybody."""
BATCH = 100
DISPUTED = 1000
"""Disputed claims of one lender that are kept: what it claims of nothing fills no books."""
ANSWER = 20.0
SUMMARIES = 1000
"""Summaries that are remembered."""

EntryId = tuple[str, str, str, int]


class Accounts:
    """Our books: entries of what we lent and of what we borrowed."""

    def __init__(
        self,
        neighbours: Neighbours,
        store: Store,
        clock: Clock,
        terms: Callable[[], Terms],
        weights: Callable[[], Weights],
        *,
        pause: float = PAUSE,
    ) -> None:
        self._neighbours = neighbours
        self._store = store
        self._clock = clock
        self._terms = terms
        self._weights = weights
        self._pause = pause
        self._find: Callable[[str], Awaitable[Borrowed | None]] = _find_none
        self._entries: dict[EntryId, Entry] = {}
        self._records: dict[EntryId, Record] = {}
        self._writing = asyncio.Lock()
        self._favours: dict[str, float] | None = None
        self._differences: dict[tuple[str, str], Difference] = {}
        self._loop: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._woken: dict[str, float] = {}
        self._summaries: dict[tuple[str, str], Books] = {}
        """By other institution and month: asked for more often than they change."""

    def look_up(self, find: Callable[[str], Awaitable[Borrowed | None]]) -> None:
        """Have claims compared with what ``find`` returns for the id of a lease that we borrowed."""
        self._find = find

    async def start(self) -> None:
        """Take up the books, and begin to say open claims."""
        for record in await self._store.find("ledger"):
            entry = Entry.of(record.body)
            self._entries[entry.claim.id] = entry
            self._records[entry.claim.id] = record
        self._loop = asyncio.create_task(self._run(), name="accounts")

    async def close(self) -> None:
        """Let go. May be called twice."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def entries(self, month: str = "") -> list[Entry]:
        """Return all entries, or those of a month such as ``2026-03``, the oldest first."""
        found = [one for one in self._entries.values() if month in ("", one.claim.month)]
        return sorted(found, key=lambda one: (one.claim.began, one.claim.id))

    def differences(self) -> dict[tuple[str, str], Difference]:
        """Return where books were found to differ, by month and other institution."""
        return dict(self._differences)

    async def favours(self) -> dict[str, float]:
        """Return the favour of each other institution, in core-hours; who is not in it has 0."""
        if self._favours is None:
            if not self._neighbours.initialised:
                return {}
            self._favours = count_favours(self._entries.values(), self._neighbours.me, self._weights())
        return self._favours

    async def claim(self, lent: Lent) -> None:
        """Claim what a lease took until now, as far as it can be claimed; claiming again changes nothing."""
        now = milliseconds(self._clock.now())
        for claim in claim_parts(lent, self._neighbours.me, now):
            async with self._writing:
                if claim.id not in self._entries:
                    await self._put(Entry(claim=claim, lender=seal(claim, self._neighbours.service_key())))
                    self._news.set()

    # Messages --------------------------------------------------------------------------------------------------

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        """Take a message of a member about the books; see `doorway.MessageHandler`."""
        if kind == Claims.kind:
            answers = []
            for entry in Claims.of(body).entries:
                try:
                    answers.append(await self._review(sender, entry))
                except Expired as error:  # sealed long ago: its lender seals it again, and says it again
                    log.info("a claim of %s: %s", sender, error)
            return _written(Verdicts(entries=tuple(answers)))
        if kind == Verdicts.kind:
            await self._take_verdicts(sender, Verdicts.of(body).entries)
            return None
        if kind == Books.kind:
            theirs = Books.of(body)
            ours = self._summary(sender, theirs.month)
            if ours.contents != theirs.contents:
                self._wake(sender)
            return _written(ours)
        raise InvalidRequest(f"{ascii(kind)[1:-1]:.60} is no message about the books")

    def _wake(self, peer: str) -> None:
        """Say open claims soon, since the books of a member are behind; once a pause, however often it says so."""
        now = self._clock.monotonic()
        if now - self._woken.get(peer, -self._pause) >= self._pause:
            self._woken = {who: when for who, when in self._woken.items() if now - when < self._pause} | {
                peer: now
            }
            self._news.set()

    async def _review(self, sender: str, entry: Entry) -> Entry:
        """Return a lender's entry with our seal or dispute, once it is stored."""
        async with self._writing:
            known = self._entries.get(entry.claim.id)
            if known is not None and known.claim == entry.claim and known.standing is Standing.AGREED:
                return known
            lease = await self._find(entry.claim.lease)
            made = answer_entry(
                entry,
                sender,
                self._neighbours.me,
                lease,
                self._terms(),
                self._neighbours.service_key(),
                self._neighbours.signers(),
                milliseconds(self._clock.now()),
            )
            if not made.dispute and overlaps(entry.claim, self._beside(entry.claim)):
                # Where a lease began at the turn of a month, two parts may both be the first.
                made = Entry(
                    claim=entry.claim, lender=entry.lender, dispute="another part claims the same time"
                )
            if made.dispute and self._is_ours(entry):
                made = entry.model_copy(update={"dispute": ""})
            if known is not None and known.standing is Standing.AGREED:
                return Entry(claim=entry.claim, lender=entry.lender, dispute="another claim of it was agreed")
            if known is not None or not made.dispute or self._disputed(sender) < DISPUTED:
                await self._put(made)
            return made

    def _disputed(self, lender: str) -> int:
        return sum(
            one.claim.lender == lender and one.standing is Standing.DISPUTED for one in self._entries.values()
        )

    def _beside(self, claim: Claim) -> list[Claim]:
        """Return the agreed claims of the parts before and after one."""
        places = [(*claim.id[:3], part) for part in (claim.part - 1, claim.part + 1)]
        found = [self._entries[place] for place in places if place in self._entries]
        return [one.claim for one in found if one.standing is Standing.AGREED]

    def _is_ours(self, entry: Entry) -> bool:
        """Whether an entry carries a true seal of ours, which a lost disk forgot."""
        if entry.borrower is None:
            return False
        now = milliseconds(self._clock.now())
        try:
            self._neighbours.signers().check(self._neighbours.me, entry.borrower.key, now)
            check_seal(entry.claim, entry.borrower)
        except MessageRefused:
            return False
        return True

    async def _take_verdicts(self, sender: str, verdicts: Iterable[Entry]) -> None:
        now = milliseconds(self._clock.now())
        for verdict in verdicts:
            async with self._writing:
                try:
                    taken = take_verdict(verdict, sender, self._entries, self._neighbours.signers(), now)
                except NotFound as error:
                    log.warning("the books with %s: %s", sender, error)
                    continue
                if taken != self._entries[taken.claim.id]:
                    await self._put(taken)

    # Time ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        compared = self._clock.monotonic() - RECONCILE + self._pause
        while True:
            self._news.clear()
            try:
                if self._neighbours.initialised:
                    await self.say_claims()
                    if self._clock.monotonic() - compared >= RECONCILE:
                        compared = self._clock.monotonic()
                        await self.reconcile()
            except GridcloudError as error:
                log.warning("accounts: %s", error)
            except Exception:  # a fault of ours with one entry must not end the accounts
                log.exception("accounts")
            if not self._neighbours.initialised:  # nobody to compare with until something is lent or borrowed
                await self._news.wait()
                continue
            sleeping = asyncio.ensure_future(self._clock.sleep(self._pause))
            waking = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()

    async def say_claims(self) -> None:
        """Say every open claim to its borrower once."""
        me = self._neighbours.me
        waiting: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries():
            if entry.claim.lender == me and entry.standing is Standing.OPEN:
                waiting[entry.claim.borrower].append(await self._sealed_now(entry))
        for borrower, entries in waiting.items():
            await self._say(borrower, entries)

    async def _sealed_now(self, entry: Entry) -> Entry:
        """Return an open claim under the seal of today: the key that sealed it may be believed no longer."""
        key = self._neighbours.service_key()
        if entry.lender.key == key.public:
            return entry
        async with self._writing:
            entry = self._entries[entry.claim.id]
            if entry.standing is Standing.OPEN:
                entry = entry.model_copy(update={"lender": seal(entry.claim, key)})
                await self._put(entry)
        return entry

    async def reconcile(self, months: Sequence[str] = ()) -> dict[tuple[str, str], Difference]:
        """Compare books with everybody that we have some with: of this month and the last, unless others are named.

        Where they differ, the lender's entries are said again, and both compared anew. Returns what still differs.
        """
        me = self._neighbours.me
        now = self._clock.now()
        months = months or (f"{now:%Y-%m}", f"{now.replace(day=1) - timedelta(days=1):%Y-%m}")
        claims = [entry.claim for entry in self._entries.values()]
        peers = {one.borrower if one.lender == me else one.lender for one in claims}
        for peer in sorted(peers & self._neighbours.members().keys()):
            for month in months:
                with contextlib.suppress(Transient):
                    await self._compare(peer, month)
        return self.differences()

    async def _compare(self, peer: str, month: str) -> None:
        me = self._neighbours.me
        if await self._agrees(peer, month):
            self._differences.pop((month, peer), None)
            return
        mine = [one for one in self.entries(month) if (one.claim.lender, one.claim.borrower) == (me, peer)]
        theirs = [await self._say(peer, mine[place : place + BATCH]) for place in range(0, len(mine), BATCH)]
        if await self._agrees(peer, month):
            self._differences.pop((month, peer), None)
        else:
            answered = [entry for entries in theirs for entry in entries]
            self._differences[month, peer] = compare(mine, answered)

    async def _agrees(self, peer: str, month: str) -> bool:
        ours = self._summary(peer, month)
        kind, body = await self._neighbours.caller.ask(peer, *_written(ours), timeout=ANSWER)
        return kind == Books.kind and Books.of(body).contents == ours.contents

    async def _say(self, borrower: str, entries: Sequence[Entry]) -> list[Entry]:
        """Say claims to a borrower, and take its verdicts; return them."""
        found: list[Entry] = []
        for place in range(0, len(entries), BATCH):
            claims = Claims(entries=tuple(entries[place : place + BATCH]))
            try:
                kind, body = await self._neighbours.caller.ask(borrower, *_written(claims), timeout=ANSWER)
                if kind == Verdicts.kind:
                    verdicts = Verdicts.of(body).entries
                    await self._take_verdicts(borrower, verdicts)
                    found += verdicts
            except Transient as error:
                log.info("claims on %s: %s", borrower, error)
                break
            except GridcloudError as error:
                log.warning("claims on %s: %s", borrower, error)
                break
        return found

    def _summary(self, peer: str, month: str) -> Books:
        known = self._summaries.get((peer, month))
        if known is None:
            known = summarise(self._entries.values(), frozenset({peer, self._neighbours.me}), month)
            if len(self._summaries) >= SUMMARIES:
                self._summaries.clear()
            self._summaries[peer, month] = known
        return known

    async def _put(self, entry: Entry) -> None:
        """Store an entry. Who is called off meanwhile has stored it all the same."""
        await asyncio.shield(self._store_entry(entry))

    async def _store_entry(self, entry: Entry) -> None:
        claim = entry.claim
        other = claim.borrower if claim.lender == self._neighbours.me else claim.lender
        known = self._records.get(claim.id)
        state = entry.standing.value
        if known is None:
            record = await self._store.insert("ledger", _name(claim), other, state, entry.document())
        else:
            record = await self._store.update(known, state=state, body=entry.document())
        self._records[claim.id] = record
        self._entries[claim.id] = entry
        self._favours = None
        self._summaries.clear()


def _name(claim: Claim) -> str:
    text = "/".join(map(str, claim.id))
    return f"e-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _written(message: Claims | Verdicts | Books) -> tuple[str, Json]:
    return message.kind, message.document()


async def _find_none(lease: str) -> Borrowed | None:
    return None
