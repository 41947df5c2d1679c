"""How institutions that know only the members of a community come to hold each other's records, by the real gossip.

What a thousand members in one program share is computed once: the digest of the list of members, the ring, and, where
signatures are counted only, whose record is true.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import PrivateAttr

from gridcloud.federation.communities import Member, MemberList, draft_first, sign_list
from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.gossip import Compare, Give, Gossip, Greet, Item, pause
from gridcloud.federation.membership import Membership
from gridcloud.federation.records import Profile, Record, Room, make_record, newer_record
from gridcloud.federation.ring import Ring
from gridcloud.federation.scenario import Scenario
from gridcloud.federation.simulated_network import Place, Post, Timeline
from gridcloud.federation.wishes import Capacity

__all__ = ["Found", "discover"]

LONGEST = 900_000
"""Milliseconds after which it is given up."""


@dataclass(frozen=True)
class Found:
    """How discovery went; amounts are of one member on average."""

    complete: bool
    seconds: float
    """Until every member held all records that it keeps."""
    messages: float
    bytes: float
    """Sent until then."""
    checks: float
    """Signatures checked until then, of messages and records."""
    quiet_messages: float
    quiet_bytes: float
    """Sent in an hour, once all is known and nothing new happens."""


def discover(
    scenario: Scenario, timeline: Timeline, post: Post, places: list[Place], rooms: Mapping[str, int]
) -> tuple[Found, dict[str, dict[str, Record]]]:
    """Return how long it took and what it cost until all was known, and the records that each member holds then."""
    town = _Town(scenario, timeline, post, places, rooms)
    start = timeline.now
    town.begin()
    timeline.run(start + LONGEST, town.is_complete)
    complete = town.is_complete()
    took, count = timeline.now - start, len(places)
    messages, sent = _sent(places)
    checks = post.checked + sum(one.checks for one in town.members.values())
    # The pauses of what was just learned grow first; what comes after that is the quiet of every other day.
    timeline.run(timeline.now + 60_000)
    before = _sent(places)
    timeline.run(timeline.now + int(scenario.quiet * 1000))
    after = _sent(places)
    timeline.clear()
    hours = scenario.quiet / 3600 or 1.0
    found = Found(
        complete,
        took / 1000,
        messages / count,
        sent / count,
        checks / count,
        (after[0] - before[0]) / count / hours,
        (after[1] - before[1]) / count / hours,
    )
    return found, {who: dict(one.records) for who, one in town.members.items()}


def _sent(places: list[Place]) -> tuple[int, int]:
    return sum(one.messages for one in places), sum(one.sent for one in places)


class _List(MemberList):
    """A member list that is asked for its digest often and never changes."""

    _digest: str = PrivateAttr(default="")
    _members: dict[str, Member] = PrivateAttr(default_factory=dict)

    def digest(self) -> str:
        self._digest = self._digest or super().digest()
        return self._digest

    def by_institution(self) -> dict[str, Member]:
        self._members = self._members or super().by_institution()
        return self._members


class _Member(Gossip):
    """The gossip of one member, with what all of them share."""

    def __init__(self, me: str, membership: Membership, ring: Ring, trusted: Signers | None) -> None:
        super().__init__(me, membership)
        self.checks = 0
        self.quiet = 0
        self._shared = ring
        self._trusted = trusted
        self.true: dict[tuple[str, int], Record] = {}
        self._tables_of_keys: dict[str, dict[str, int]] = {}

    @property
    def ring(self) -> Ring:
        return self._shared

    def signers(self, now: int) -> Signers:
        return self._trusted or super().signers(now)

    def signer(self, who: str, now: int) -> Signers:
        return self._trusted or super().signer(who, now)

    def _key_tables(self) -> dict[str, dict[str, int]]:
        self._tables_of_keys = self._tables_of_keys or super()._key_tables()
        return self._tables_of_keys

    def _take_one(self, item: Item, now: int) -> None:
        self.checks += 1
        who = str(item.content.get("institution"))
        known = self.true.get((who, int(item.content.get("serial", -1))))
        if self._trusted is None or known is None:
            super()._take_one(item, now)
        else:
            self.records[who] = newer_record(self.records.get(who), known)


class _Town:
    """All members and their talk."""

    def __init__(
        self,
        scenario: Scenario,
        timeline: Timeline,
        post: Post,
        places: list[Place],
        rooms: Mapping[str, int],
    ) -> None:
        self.timeline, self.post, self.places = timeline, post, places
        self.chance = random.Random(scenario.seed + 1)  # noqa: S311 - the same every time, on purpose
        self.real = scenario.signatures == "real"
        membership = Membership(_found_community(places, self.real))
        ring = Ring(one.institution for one in places)
        everybody = Signers({one.institution: one.keys for one in places})
        trusted = None if self.real else everybody
        self.members = {
            one.institution: _Member(one.institution, membership, ring, trusted) for one in places
        }
        keys = {one.institution: one.keys for one in places}
        true: dict[tuple[str, int], Record] = {}
        for place in places:
            member = self.members[place.institution]
            member.keys, member.true = keys, true
            record = _make_record(place, rooms[place.institution])
            member.learn(record)
            true[(record.institution, record.serial)] = record
        self.missing = sum(sum(1 for who in keys if ring.keeps(me, who)) - 1 for me in self.members)
        self.held = len(places)
        post.signers = lambda place: self.members[place.institution].signers(place.clock.milliseconds)
        post.deliver = self.deliver

    def begin(self) -> None:
        for place in self.places:
            self.timeline.after(self.chance.uniform(0, 250), lambda place=place: self.round(place))  # type: ignore[misc]

    def is_complete(self) -> bool:
        return self.missing <= 0

    def round(self, place: Place) -> None:
        member = self.members[place.institution]
        if not place.away:
            for peer in member.partners(place.clock.milliseconds, self.chance, quiet=member.quiet):
                self.post.send(place, peer, "gossip.greet", member.greet(peer).document())
        member.quiet += 1
        wait = 1000 * pause(member.quiet) * self.chance.uniform(0.9, 1.1)
        self.timeline.after(wait, lambda: self.round(place))

    def deliver(self, sender: Place, to: Place, kind: str, body: Json) -> None:
        member, peer, now = self.members[to.institution], sender.institution, to.clock.milliseconds
        before = len(member.records)
        answer: Compare | Give | None
        if kind == "gossip.greet":
            answer = member.compare(peer, Greet.of(body))
            self.post.send(to, peer, "gossip.compare", answer.document())
            return
        if kind == "gossip.compare":
            answer = member.answer(peer, Compare.of(body), now)
        else:
            answer = member.receive(peer, Give.of(body), now)
        if answer is not None:
            self.post.send(to, peer, "gossip.give", answer.document())
        if len(member.records) > before:
            self.missing -= len(member.records) - before
            member.quiet = 0


def _found_community(places: list[Place], real: bool) -> MemberList:
    members = [Member(root=one.root.public, name=f"Institution {one.number}", joined=0) for one in places]
    start = places[0].clock.milliseconds
    draft = draft_first("Simulated", members, len(places) // 2 + 1, start)
    if real:
        for place in places:
            draft = sign_list(draft, place.root)
        return _List.of(draft.document())
    # As an invitation brings a newcomer the newest list, which it takes on trust.
    return _List.of(draft.document() | {"number": 2, "previous": draft.digest()})


def _make_record(place: Place, rooms: int) -> Record:
    total = Capacity(millicores=1000 * rooms, memory=4096 * rooms)
    profile = Profile(
        name=f"Institution {place.number}",
        addresses=(),
        rooms=(Room(kind="container", total=total, free=total),),
        images=("scientific-notebook", "minimal-notebook"),
        policy="favour > 0 or free > 0.3",
    )
    return make_record(
        place.service, place.institution, profile, place.clock.milliseconds, timedelta(hours=24)
    )
