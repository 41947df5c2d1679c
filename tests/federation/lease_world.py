"""Lenders and borrowers on a network that loses, copies, delays and reorders, whose programs die at every step.

Each party keeps only what it stored, as text, so that a restart is nothing but reading. Clocks differ by up to the
tolerance; there is no envelope here and so no replay cache: leases are to be safe without one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from gridcloud.errors import Conflict
from gridcloud.federation import borrowing, lending
from gridcloud.federation.borrowing import Borrowed, usable
from gridcloud.federation.leases import (
    Accept,
    End,
    Heard,
    LentState,
    Message,
    Offer,
    Renew,
    Status,
    Terms,
    read_message,
    write_message,
)
from gridcloud.federation.lending import Lent
from gridcloud.federation.wishes import Capacity, Wish

TERMS = Terms(ttl=120_000, tolerance=20_000, window=60_000, flight=30_000, grace=40_000)
ONE = Capacity(millicores=1000)

FATES = ("lives", "dies before storing", "dies after storing")


@dataclass
class Letter:
    sender: str
    receiver: str
    kind: str
    body: str


@dataclass
class World:
    """Lenders ``l0``, ``l1``, … with room for one lease each; borrowers ``b0``, ``b1``, … with one need each."""

    offsets: dict[str, int]
    """Seconds that each one's clock is ahead: any two differ by at most the tolerance."""
    now: int = 1_000_000
    lent: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    borrowed: dict[str, dict[str, str]] = field(default_factory=dict)
    post: list[Letter] = field(default_factory=list)
    cut: set[frozenset[str]] = field(default_factory=set)
    machines: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    dead: set[tuple[str, str, str]] = field(default_factory=set)
    """Leases whose machine died: their borrower may not know, and holds nothing."""
    charges: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    made: int = 0

    def __post_init__(self) -> None:
        for name in self.offsets:
            if name.startswith("l"):
                self.lent[name], self.machines[name] = {}, set()
            else:
                self.borrowed[name] = {}

    def clock(self, party: str) -> int:
        """Milliseconds, as the party takes it to be."""
        return 1000 * (self.now + self.offsets[party])

    def accept(self, borrower: str, lender: str, fate: str = "lives") -> None:
        """A borrower with no live lease takes an offer, which it is taken to have asked for just now."""
        others = [Borrowed.model_validate_json(one) for one in self.borrowed[borrower].values()]
        self.made += 1
        wish = Wish(need=f"{borrower}-session", capacity=ONE, seconds=400, user="ada")
        before = self.clock(lender) + TERMS.window
        offer = Offer(capacity=ONE, ttl=TERMS.ttl, seconds=400, before=before)
        message = Accept(lease=f"x-{borrower}-{self.made}", wish=wish, offer=offer)
        try:
            step = borrowing.accept(lender, message, others)
        except Conflict:
            return
        self._after_borrower(borrower, message.lease, step, fate)

    def deliver(self, place: int, *, copy: bool = False, fate: str = "lives") -> None:
        if not self.post:
            return
        place %= len(self.post)
        letter = self.post[place]
        if not copy:
            del self.post[place]
        if frozenset((letter.sender, letter.receiver)) in self.cut:
            return
        message = read_message(letter.kind, json.loads(letter.body))
        if letter.receiver in self.lent:
            self._tell_lender(letter.receiver, letter.sender, message, fate)
        else:
            self._tell_borrower(letter.receiver, letter.sender, message, fate)

    def lose(self, place: int) -> None:
        if self.post:
            del self.post[place % len(self.post)]

    def look(self, party: str, fate: str = "lives") -> None:
        """The party's clock strikes; each of its leases looks what is to be done."""
        now = self.clock(party)
        if party in self.lent:
            for place, text in list(self.lent[party].items()):
                lent = Lent.model_validate_json(text)
                self._after_lender(party, place, lending.look(lent, now, TERMS), fate)
            return
        for key, text in list(self.borrowed[party].items()):
            step = borrowing.look(Borrowed.model_validate_json(text), now, TERMS)
            self._after_borrower(party, key, step, fate)

    def happen(self, lender: str, event: lending.Event, place: int = 0, fate: str = "lives") -> None:
        keys = [
            key
            for key, text in self.lent[lender].items()
            if Lent.model_validate_json(text).state in lending.ROOMY
        ]
        if not keys:
            return
        key = keys[place % len(keys)]
        lent = Lent.model_validate_json(self.lent[lender][key])
        now = self.clock(lender)
        if event is lending.Event.STARTED and key not in self.machines[lender]:
            return
        if event is lending.Event.LOSE:
            self.machines[lender].discard(key)
            self.dead.add((lender, *key))
        step = lending.happen(lent, event, now, deadline=now + TERMS.grace, connection={"path": "/leases/x"})
        self._after_lender(lender, key, step, fate)

    def leave(self, borrower: str, fate: str = "lives") -> None:
        for key, text in list(self.borrowed[borrower].items()):
            step = borrowing.leave(Borrowed.model_validate_json(text), self.clock(borrower), TERMS)
            self._after_borrower(borrower, key, step, fate)

    def lose_disk(self, party: str) -> None:
        if party in self.borrowed:
            self.borrowed[party].clear()
            return
        # Before a lender lends again, it ends the machines that carry its tag and that it does not know.
        self.dead |= {(party, *key) for key in self.lent[party]}
        self.lent[party].clear()
        self.machines[party].clear()

    def _tell_lender(self, lender: str, borrower: str, message: Message, fate: str) -> None:
        assert isinstance(message, Accept | Renew | Heard | End)
        key = (borrower, message.lease)
        text = self.lent[lender].get(key)
        lent = Lent.model_validate_json(text) if text else None
        step = lending.answer(
            lent,
            borrower,
            message,
            self.clock(lender),
            TERMS,
            lambda _: "" if self._room(lender) else "no room",
        )
        self._after_lender(lender, key, step, fate)

    def _room(self, lender: str) -> bool:
        return not any(
            Lent.model_validate_json(one).state in lending.ROOMY for one in self.lent[lender].values()
        )

    def _after_lender(self, lender: str, key: tuple[str, str], step: lending.Step, fate: str) -> None:
        if fate == FATES[1]:
            return
        if step.lease is None:
            self.lent[lender].pop(key, None)
        else:
            self.lent[lender][key] = step.lease.model_dump_json()
        if fate == FATES[2]:
            return
        for status in step.say:
            self._send(lender, key[0], status)
        for order in step.do:
            self._obey(lender, key, order)

    def _obey(self, lender: str, key: tuple[str, str], order: lending.Order) -> None:
        if order is lending.Order.START:
            self.machines[lender].add(key)
        elif order is lending.Order.STOP:
            self.machines[lender].discard(key)
            lent = Lent.model_validate_json(self.lent[lender][key])
            self._after_lender(
                lender, key, lending.happen(lent, lending.Event.CLEAR, self.clock(lender)), FATES[0]
            )
        else:
            self.charges[(lender, *key)] = 1
            lent = Lent.model_validate_json(self.lent[lender][key])
            step = lending.happen(lent, lending.Event.CHARGE, self.clock(lender))
            self._after_lender(lender, key, step, FATES[0])

    def _tell_borrower(self, borrower: str, lender: str, message: Message, fate: str) -> None:
        assert isinstance(message, Status)
        text = self.borrowed[borrower].get(message.lease)
        lease = Borrowed.model_validate_json(text) if text else None
        step = borrowing.hear(lease, lender, message, self.clock(borrower), TERMS)
        self._after_borrower(borrower, message.lease, step, fate, lender)

    def _after_borrower(
        self, borrower: str, key: str, step: borrowing.Step, fate: str, lender: str = ""
    ) -> None:
        if fate == FATES[1]:
            return
        if step.lease is not None:
            lender = step.lease.lender
            self.borrowed[borrower][key] = step.lease.model_dump_json()
        if fate == FATES[2]:
            return
        for message in step.say:
            self._send(borrower, lender, message)

    def _send(self, sender: str, receiver: str, message: Message) -> None:
        kind, body = write_message(message)
        self.post.append(Letter(sender, receiver, kind, json.dumps(body)))

    def check(self) -> None:
        """Nobody holds what another holds, and no need is served twice."""
        holders: Counter[str] = Counter()
        for borrower, leases in self.borrowed.items():
            served = 0
            for key, text in leases.items():
                lease = Borrowed.model_validate_json(text)
                if not usable(lease, self.clock(borrower), TERMS):
                    continue
                served += 1
                if (lease.lender, borrower, key) in self.dead:
                    continue
                holders[lease.lender] += 1
                lent = Lent.model_validate_json(self.lent[lease.lender][(borrower, key)])
                assert lent.state in (LentState.HELD, LentState.WARNED), (lease, lent)
                assert (borrower, key) in self.machines[lease.lender], (lease, lent)
            assert served <= 1, f"{borrower} has {served} leases for one need"
        assert all(count <= 1 for count in holders.values()), holders
        for lender, machines in self.machines.items():
            assert len(machines) <= 1, f"{lender} made {machines}"

    def settle(self) -> None:
        """All is whole again, and nobody needs anything: time passes, and nothing is left."""
        self.cut.clear()
        for borrower in self.borrowed:
            self.leave(borrower)
        for _ in range(40):
            self.now += 20
            for party in self.offsets:
                self.look(party)
            for _ in range(300):
                if not self.post:
                    break
                self.deliver(0)
                self.check()
            assert not self.post, "they never stop talking"
        assert not any(self.machines.values()), self.machines
        assert not any(self.lent.values()), self.lent
        for leases in self.borrowed.values():
            for text in leases.values():
                assert Borrowed.model_validate_json(text).state is borrowing.BorrowedState.OVER, text
