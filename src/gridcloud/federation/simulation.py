"""The protocol among up to a thousand institutions in one program: what it serves, how fairly, at what cost.

The code under it is that of real institutions: gossip, envelopes, policies, leases, ledger and favours. Made up are the
network, the clocks and the users (`scenario`). Discovery comes first; then the institutions lend with what they know.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gridcloud.federation.records import Record
from gridcloud.federation.ring import shard_of
from gridcloud.federation.scenario import Scenario
from gridcloud.federation.simulated_discovery import Found, discover
from gridcloud.federation.simulated_lending import Lending, Member
from gridcloud.federation.simulated_network import Place, Post, Timeline

__all__ = ["Results", "Served", "find_fairness", "simulate"]

LOOKED_UP = 4
"""Shards of 64 that a member looks up to know enough peers, where it does not hold everybody's record."""


@dataclass(frozen=True)
class Served:
    """How the institutions' users fared, and what it cost."""

    sessions: int
    satisfaction: float
    """Part of the sessions that ran to their end, where they have ended or given up."""
    at_home: float
    at_peers: float
    """Parts of the sessions that began at home, and at a peer."""
    moved: int
    """Times that a running session had to go elsewhere."""
    broken: int
    """Sessions that had to, and found no place."""
    fairness: float
    """Jain's index of the institutions' satisfaction: 1 is the same for all."""
    lenders: float
    takers: float
    """Satisfaction of those who lend, and of those who only take (1 where there are none)."""
    given_hours: float
    """Core-hours that were lent, agreed by both sides."""
    balance: float
    """Jain's index of what lenders got for what they gave; takers are not in it."""
    disputed: int
    messages: float
    bytes: float
    signatures: float
    """Of one member in an hour, on average: messages and bytes sent, signatures made."""
    twice: int
    """Leases found in use by two: 0, or the protocol is wrong."""


@dataclass(frozen=True)
class Results:
    """What a simulation found."""

    discovery: Found
    lending: Served | None

    def document(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self)


def simulate(scenario: Scenario) -> Results:
    """Return what becomes of a scenario; the same one gives the same results. Takes seconds to minutes."""
    timeline = Timeline()
    chance = random.Random(scenario.seed)  # noqa: S311 - the same every time, on purpose
    post = Post(scenario, timeline, chance)
    places = [
        Place.make(number, timeline, round(1000 * chance.uniform(-scenario.skew, scenario.skew)))
        for number in range(scenario.members)
    ]
    post.places = {one.institution: one for one in places}
    rooms = {one.institution: chance.randint(*scenario.rooms) for one in places}
    discovery, records = discover(scenario, timeline, post, places, rooms)
    if not scenario.hours:
        return Results(discovery, None)
    for place in places:
        place.messages = place.sent = 0
    known = _look_up(records, chance)
    post.signed = 0
    lending = Lending(scenario, timeline, post, places, rooms, known)
    lending.begin()
    timeline.run(timeline.now + round(scenario.hours * 3_600_000))
    return Results(discovery, _sum_up(scenario, lending, post))


def _look_up(
    records: Mapping[str, Mapping[str, Record]], chance: random.Random
) -> dict[str, tuple[str, ...]]:
    """Return which peers each member knows: in a large community it asked keepers of some shards for theirs.

    Asking for them costs a message for each shard and is not counted.
    """
    everybody = sorted(records)
    by_shard: dict[int, list[str]] = {}
    for who in everybody:
        by_shard.setdefault(shard_of(who), []).append(who)
    known = {}
    for who in everybody:
        held = set(records[who])
        if len(held) < len(everybody):
            for shard in chance.sample(sorted(by_shard), LOOKED_UP):
                held |= set(by_shard[shard])
        known[who] = tuple(sorted(held - {who}))
    return known


def find_fairness(shares: Iterable[float]) -> float:
    """Return Jain's index of shares: 1 where all are the same, 1/n where one has all (Jain, Chiu, Hawe, 1984)."""
    found = list(shares)
    squares = sum(one * one for one in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 1.0


def _sum_up(scenario: Scenario, lending: Lending, post: Post) -> Served:
    members = list(lending.members.values())
    settled = sum(map(_settled, members)) or 1
    hours = scenario.hours * len(members)
    lenders = [one for one in members if one.lends]
    traded = [one for one in lenders if one.given]
    return Served(
        sessions=sum(one.wanted for one in members),
        satisfaction=_satisfy(members),
        at_home=sum(one.at_home for one in members) / settled,
        at_peers=sum(one.away for one in members) / settled,
        moved=lending.moved,
        broken=sum(one.broken for one in members),
        fairness=find_fairness(_satisfy([one]) for one in members if _settled(one)),
        lenders=_satisfy(lenders),
        takers=_satisfy([one for one in members if not one.lends]),
        given_hours=sum(sum(one.given.values()) for one in members),
        balance=find_fairness(min(2.0, sum(one.taken.values()) / sum(one.given.values())) for one in traded),
        disputed=lending.disputed,
        messages=sum(one.place.messages for one in members) / hours,
        bytes=sum(one.place.sent for one in members) / hours,
        signatures=(post.signed + lending.signed) / hours,
        twice=lending.twice,
    )


def _settled(member: Member) -> int:
    return member.at_home + member.away + member.unmet


def _satisfy(members: list[Member]) -> float:
    settled = sum(map(_settled, members))
    failed = sum(one.unmet + one.broken for one in members)
    return 1 - failed / settled if settled else 1.0
