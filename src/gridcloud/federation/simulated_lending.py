"""How institutions lend to each other through a day: sessions of users, and the real leases, policies and ledger."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from gridcloud.federation import borrowing, lending
from gridcloud.federation.borrowing import Borrowed
from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import MAXIMUM_LIFETIME, SKEW, Signers
from gridcloud.federation.favour import find_favour
from gridcloud.federation.leases import (
    Accept,
    Ask,
    LentState,
    Message,
    Offer,
    Offers,
    Status,
    Terms,
    read_message,
    write_message,
)
from gridcloud.federation.ledger import Claims, Entry, Seal, Verdicts, check_seal, claim_parts, review, seal
from gridcloud.federation.lending import ROOMY, Lent
from gridcloud.federation.limits import Rules, judge
from gridcloud.federation.policy import Question, read_policy
from gridcloud.federation.scenario import Scenario, draw_arrivals
from gridcloud.federation.simulated_network import Place, Post, Timeline
from gridcloud.federation.wishes import Capacity, Wish

__all__ = ["Lending", "Member", "Session"]

ONE = Capacity(millicores=1000, memory=4096)
LOOK = 30_000
"""Milliseconds between two looks at one's leases."""
HOUR = 3_600_000
UNCHECKED = Seal(key="A" * 43, signature="A" * 86)
"""Stands for a seal where signatures are counted only."""


@dataclass
class Session:
    """A user's session at its institution."""

    id: str
    member: Member
    left: float
    """Milliseconds that it still wants to run."""
    gives_up: int
    tries: int = 0
    began: int = 0
    """Since when it runs; 0: it does not."""
    started: bool = False
    moved: int = 0
    lease: str = ""
    reclaimed: bool = False
    offers: list[tuple[str, Offer]] = field(default_factory=list)
    asked: int = 0
    over: bool = False


@dataclass
class Member:
    """An institution with its users."""

    place: Place
    rooms: int
    lends: bool
    known: tuple[str, ...]
    """Members whose records it holds, and that have anything."""
    own: int = 0
    waiting: int = 0
    """Own sessions that wait for room that is being taken back."""
    lent: dict[tuple[str, str], Lent] = field(default_factory=dict)
    borrowed: dict[str, Borrowed] = field(default_factory=dict)
    done: dict[str, Borrowed] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    claims: dict[tuple[str, str, str, int], Entry] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)
    """Agreed core-hours, by peer."""
    wanted: int = 0
    at_home: int = 0
    away: int = 0
    unmet: int = 0
    broken: int = 0
    """Sessions that were ended by others and found no other place."""

    @property
    def room(self) -> int:
        """How many more sessions fit."""
        return self.rooms - self.own - sum(one.state in ROOMY for one in self.lent.values())


class Lending:
    """All institutions, their users and their talk about leases."""

    def __init__(
        self,
        scenario: Scenario,
        timeline: Timeline,
        post: Post,
        places: list[Place],
        rooms: Mapping[str, int],
        known: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.scenario, self.timeline, self.post = scenario, timeline, post
        self.chance = random.Random(scenario.seed + 2)  # noqa: S311 - the same every time, on purpose
        one = timedelta(milliseconds=1)
        self.terms = Terms(
            ttl=int(scenario.ttl * 1000),
            tolerance=SKEW // one,
            flight=(MAXIMUM_LIFETIME + SKEW) // one,
        )
        policy = read_policy(scenario.policy)
        self.members: dict[str, Member] = {}
        self.rules: dict[str, Rules] = {}
        takers = round(scenario.takers * len(places))
        for place in places:
            who = place.institution
            self.members[who] = Member(place, rooms[who], place.number >= takers, known[who])
            kept = math.ceil(scenario.reserve * rooms[who])
            self.rules[who] = Rules(policy, reserve=Capacity(millicores=1000 * kept, memory=4096 * kept))
        signers = Signers({one.institution: one.keys for one in places})
        post.signers = lambda _: signers
        post.deliver = self.deliver
        self.signed = 0
        """Seals made, and messages, which `Post` counts."""
        self._seen: dict[str, set[tuple[str, int]]] = {}
        self.disputed = 0
        self.moved = 0
        self.twice = 0
        """Times that a lease was used by one while its lender had given it away: never."""

    def begin(self) -> None:
        """Let users come, and members look, go away and come back."""
        scenario = self.scenario
        for who, member in self.members.items():
            chance = random.Random(f"{scenario.seed}-{member.place.number}")  # noqa: S311 - as above
            for number, (hour, length) in enumerate(
                draw_arrivals(scenario, member.place.number, member.rooms, chance)
            ):
                self.timeline.after(hour * HOUR, self._arrival(member, f"s-{number}", length * HOUR))
            self.timeline.after(chance.uniform(0, LOOK), lambda who=who: self._look(self.members[who]))  # type: ignore[misc]
            if scenario.churn:
                gone = chance.expovariate(scenario.churn)
                while gone < scenario.hours:
                    self.timeline.after(gone * HOUR, lambda place=member.place: self._go(place))  # type: ignore[misc]
                    gone += scenario.away + chance.expovariate(scenario.churn)
        for cut in scenario.cuts:
            self.timeline.after(cut.begins * HOUR, lambda cut=cut: self._cut(cut.part))  # type: ignore[misc]
            self.timeline.after(cut.ends * HOUR, lambda: self._cut(0.0))
        self._check()

    def _cut(self, part: float) -> None:
        self.post.cut = round(part * len(self.members))

    def _go(self, place: Place) -> None:
        place.away = True

        def back() -> None:
            place.away = False

        self.timeline.after(self.scenario.away * HOUR, back)

    def _check(self) -> None:
        for who, member in self.members.items():
            now = member.place.clock.milliseconds
            for one in member.borrowed.values():
                if borrowing.usable(one, now, self.terms):
                    lent = self.members[one.lender].lent.get((who, one.id))
                    if lent is None or lent.state not in (LentState.HELD, LentState.WARNED):
                        self.twice += 1
            if member.room < 0:
                self.twice += 1
        self.timeline.after(300_000, self._check)

    # Users

    def _arrival(self, member: Member, name: str, length: float) -> Callable[[], None]:
        def arrive() -> None:
            member.wanted += 1
            wait = int(self.scenario.patience * HOUR)
            session = Session(name, member, length, self.timeline.now + wait)
            member.sessions[name] = session
            self._place(session)

        return arrive

    def _place(self, session: Session) -> None:
        """Find room: at home, by taking some back, or at a peer; again later, until the user gives up."""
        member = session.member
        if session.over or session.began or session.lease:
            return
        if session.reclaimed:
            session.reclaimed = False
            member.waiting -= 1
        if self.timeline.now > session.gives_up:
            self._give_up(session)
            return
        session.tries += 1
        if member.place.away:
            pass
        elif member.room > 0:
            member.own += 1
            self._start(session)
            return
        elif self.scenario.reclaim and self._take_back(member):
            session.reclaimed = True
            member.waiting += 1
        elif self.scenario.asked and member.known:
            self._ask(session)
        self.timeline.after(60_000 * min(4, session.tries), lambda: self._place(session))

    def _start(self, session: Session) -> None:
        session.began = self.timeline.now
        if not session.started:
            session.started = True
            session.member.at_home += not session.lease
            session.member.away += bool(session.lease)
        lease = session.lease
        self.timeline.after(session.left, lambda: self._finish(session, lease))

    def _finish(self, session: Session, lease: str) -> None:
        if session.over or session.lease != lease or not session.began:
            return
        if self.timeline.now - session.began < session.left - 1:
            return  # it began again since, and has longer to run
        session.over = True
        member = session.member
        if lease:
            self._leave(member, lease)
        else:
            member.own -= 1
        member.sessions.pop(session.id, None)

    def _give_up(self, session: Session) -> None:
        session.over = True
        session.member.broken += session.started
        session.member.unmet += not session.started
        session.member.sessions.pop(session.id, None)

    def _take_back(self, member: Member) -> bool:
        """Warn whom most was given to, less what was received."""
        held = [key for key, one in member.lent.items() if one.state is LentState.HELD]
        if not held:
            return False
        key = min(held, key=lambda one: (self._favour(member, one[0]), one))
        now = member.place.clock.milliseconds
        step = lending.happen(member.lent[key], lending.Event.RECLAIM, now, deadline=now + self.terms.grace)
        self._lend(member, key, step)
        return True

    # Borrowing

    def _ask(self, session: Session) -> None:
        member = session.member
        peers = self.chance.sample(member.known, min(self.scenario.asked, len(member.known)))
        session.offers.clear()
        session.asked = len(peers)
        for peer in peers:
            self._say(member, peer, Ask(wish=self._wish(session)))
        tries = session.tries
        self.timeline.after(2000, lambda: self._accept(session, tries))

    def _wish(self, session: Session) -> Wish:
        return Wish(
            need=session.id,
            capacity=ONE,
            seconds=max(60, int(session.left / 1000) + 60),
            user="user",
            purpose="teaching",
        )

    def _accept(self, session: Session, tries: int = 0) -> None:
        if tries and tries != session.tries:
            return  # these offers were dealt with
        if session.over or session.began or session.lease or not session.offers:
            return
        lender, offer = session.offers.pop(0)
        member = session.member
        lease = f"x-{session.id}-{member.place.clock.new_id('l')}"
        step = borrowing.accept(
            lender, Accept(lease=lease, wish=self._wish(session), offer=offer), member.borrowed.values()
        )
        session.lease = lease
        self._borrow(member, step)

    def _borrow(self, member: Member, step: borrowing.Step) -> None:
        lease = step.lease
        if lease is None:
            return
        if lease.state is borrowing.BorrowedState.OVER:
            member.borrowed.pop(lease.id, None)
            member.done[lease.id] = lease
        else:
            member.borrowed[lease.id] = lease
        for message in step.say:
            self._say(member, lease.lender, message)
        session = member.sessions.get(lease.accept.wish.need)
        if session is None or session.lease != lease.id:
            return
        if borrowing.Order.USE in step.do and not session.began:
            self._start(session)
        elif borrowing.Order.SAVE in step.do:
            self.timeline.after(20_000, lambda: self._leave(member, lease.id))
        elif lease.state not in borrowing.LIVE:
            self._move(session)

    def _leave(self, member: Member, lease: str) -> None:
        if lease in member.borrowed:
            self._borrow(
                member, borrowing.leave(member.borrowed[lease], member.place.clock.milliseconds, self.terms)
            )

    def _move(self, session: Session) -> None:
        """A lease ended before its session: what is left of it goes elsewhere."""
        session.lease = ""
        if session.over:
            return
        if session.began:
            session.left -= self.timeline.now - session.began
            session.began = 0
            session.moved += 1
            self.moved += 1
            session.tries = 0
            session.gives_up = self.timeline.now + int(self.scenario.patience * HOUR)
            self._place(session)
        else:
            self._accept(session)

    # Lending

    def _favour(self, member: Member, peer: str) -> float:
        return find_favour(member.taken.get(peer, 0.0), member.given.get(peer, 0.0))

    def _judge(self, member: Member, peer: str, wish: Wish) -> str:
        if not member.lends or member.waiting:
            return "nothing is lent"
        room = max(0, member.room)
        question = Question(peer, wish, favour=self._favour(member, peer), free=room / member.rooms)
        free = Capacity(millicores=1000 * room, memory=4096 * room)
        return judge(self.rules[member.place.institution], question, (), free, ONE)

    def _offer(self, member: Member, peer: str, ask: Ask) -> None:
        refusal = self._judge(member, peer, ask.wish)
        before = member.place.clock.milliseconds + self.terms.window
        offer = Offer(capacity=ONE, ttl=self.terms.ttl, seconds=ask.wish.seconds, before=before)
        self._say(
            member, peer, Offers(need=ask.wish.need, offers=() if refusal else (offer,), refusal=refusal)
        )

    def _lend(self, member: Member, key: tuple[str, str], step: lending.Step) -> None:
        if step.lease is None:
            member.lent.pop(key, None)
        else:
            member.lent[key] = step.lease
        for status in step.say:
            self._say(member, key[0], status)
        for order in step.do:
            if order is lending.Order.CHARGE:
                self._claim(member, key)
                self._happen(member, key, lending.Event.CHARGE)
            elif order is lending.Order.STOP:
                self._later(5_000, member, key, lending.Event.CLEAR)
            else:
                self._later(self.chance.uniform(20_000, 60_000), member, key, lending.Event.STARTED)

    def _later(self, milliseconds: float, member: Member, key: tuple[str, str], event: lending.Event) -> None:
        self.timeline.after(milliseconds, lambda: self._happen(member, key, event))

    def _happen(self, member: Member, key: tuple[str, str], event: lending.Event) -> None:
        if key in member.lent and not member.place.away:  # otherwise `look` asks for it again
            now = member.place.clock.milliseconds
            self._lend(member, key, lending.happen(member.lent[key], event, now))

    def _claim(self, member: Member, key: tuple[str, str]) -> None:
        now = member.place.clock.milliseconds
        for claim in claim_parts(member.lent[key], member.place.institution, now):
            self.signed += 1
            made = seal(claim, member.place.service) if self.scenario.signatures == "real" else UNCHECKED
            member.claims[claim.id] = Entry(claim=claim, lender=made)

    # Messages

    def _say(self, member: Member, peer: str, message: Message | Claims | Verdicts) -> None:
        if member.place.away:
            return
        if isinstance(message, Claims | Verdicts):
            self.post.send(member.place, peer, message.kind, message.document())
        else:
            self.post.send(member.place, peer, *write_message(message))

    def deliver(self, sender: Place, to: Place, kind: str, body: Json) -> None:
        """Take a message that arrived."""
        member, peer, now = self.members[to.institution], sender.institution, to.clock.milliseconds
        if kind == Claims.kind:
            self._answer_claims(member, peer, Claims.of(body))
            return
        if kind == Verdicts.kind:
            self._take_verdicts(member, peer, Verdicts.of(body))
            return
        match read_message(kind, body):
            case Ask() as ask:
                self._offer(member, peer, ask)
            case Offers() as found:
                self._take_offers(member, peer, found)
            case Status() as status:
                lease = member.borrowed.get(status.lease) or member.done.get(status.lease)
                step = borrowing.hear(lease, peer, status, now, self.terms)
                if lease is None or lease.id in member.done:
                    for message in step.say:
                        self._say(member, peer, message)
                else:
                    self._borrow(member, step)
            case message:
                key = (peer, message.lease)
                asked = member.lent.get(key)
                step_ = lending.answer(
                    asked, peer, message, now, self.terms, lambda one: self._judge(member, peer, one.wish)
                )
                self._lend(member, key, step_)

    def _take_offers(self, member: Member, peer: str, found: Offers) -> None:
        session = member.sessions.get(found.need)
        if session is None or session.asked <= 0:
            return
        session.offers += [(peer, offer) for offer in found.offers]
        session.asked -= 1
        if not session.asked:  # all answered: nobody is waited for
            self._accept(session)

    def _answer_claims(self, member: Member, peer: str, claims: Claims) -> None:
        answers = []
        for entry in claims.entries:
            claim = entry.claim
            self.signed += 1
            if self.scenario.signatures == "real":
                check_seal(claim, entry.lender)
            lease = member.done.get(claim.lease) or member.borrowed.get(claim.lease)
            why = review(claim, lease, self.terms, member.place.clock.milliseconds)
            made = seal(claim, member.place.service) if self.scenario.signatures == "real" else UNCHECKED
            answers.append(entry.model_copy(update={"dispute": why} if why else {"borrower": made}))
            if not why and (claim.lease, claim.part) not in self._counted(member):
                self._counted(member).add((claim.lease, claim.part))
                member.taken[peer] = member.taken.get(peer, 0.0) + float(claim.amount.hours()[0])
        self._say(member, peer, Verdicts(entries=tuple(answers)))

    def _take_verdicts(self, member: Member, peer: str, verdicts: Verdicts) -> None:
        for entry in verdicts.entries:
            if member.claims.pop(entry.claim.id, None) is None:
                continue
            if entry.borrower is None:
                self.disputed += 1
            else:
                member.given[peer] = member.given.get(peer, 0.0) + float(entry.claim.amount.hours()[0])

    def _counted(self, member: Member) -> set[tuple[str, int]]:
        return self._seen.setdefault(member.place.institution, set())

    # Time

    def _look(self, member: Member) -> None:
        if not member.place.away:
            now = member.place.clock.milliseconds
            for key, lent in list(member.lent.items()):
                step = lending.look(lent, now, self.terms)
                if step != lending.Step(lent):
                    self._lend(member, key, step)
            for lease in list(member.borrowed.values()):
                self._borrow(member, borrowing.look(lease, now, self.terms))
            claims: dict[str, list[Entry]] = {}
            for entry in member.claims.values():
                claims.setdefault(entry.claim.borrower, []).append(entry)
            for peer, entries in claims.items():
                self._say(member, peer, Claims(entries=tuple(entries[:100])))
        self.timeline.after(LOOK, lambda: self._look(member))
