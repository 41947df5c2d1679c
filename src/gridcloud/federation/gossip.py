"""How all members of a community come to hold the same member lists, key lists and records, without a centre.

Push-pull anti-entropy (Demers and others, 1987) in two calls: `greet` sends digests and is answered by `compare`, which
lists what differs; `give` sends what the other lacks and asks for the rest, which the second `give` brings. Two that
hold the same end after the first answer. Everything in here was signed by whom it is about, so that who passes it on
can lose things but not change them; and everything is bounded, so that who lies or floods wastes little but its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from gridcloud.errors import Conflict, GridcloudError, Malformed, MessageRefused, UnknownSigner
from gridcloud.federation.communities import read_leave, read_list
from gridcloud.federation.encoding import Json, digest
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.gossip_messages import MAXIMUM_ITEMS, Compare, Give, Greet, Item, Table, bounded
from gridcloud.federation.keys import KeyList, newer_key_list, read_key_list
from gridcloud.federation.membership import Membership, signers
from gridcloud.federation.records import Record, newer_record, read_record
from gridcloud.federation.ring import Ring, ring_of, shard_of

__all__ = ["FAN_OUT", "Compare", "Give", "Gossip", "Greet", "Item", "pause"]

FAN_OUT = 3
"""Members that are greeted in each round."""
SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 30.0
"""Seconds between two rounds: short while there is news, long while there is none."""
MAXIMUM_REFUSALS = 4
"""Wrong things in one message after which the rest of it is not looked at."""
MAXIMUM_KEPT_REFUSALS = 256
SHORTEST_LIFE = 2_000
"""Milliseconds before a member's record is replaced by another one: who makes more is heard less."""


class Gossip:
    """What one institution holds of one community, and its side of the talk with the others.

    `refusals` collects what was not believed; who runs it logs and clears them.
    """

    def __init__(self, me: str, membership: Membership) -> None:
        self.me = me
        self.membership = membership
        self.keys: dict[str, KeyList] = {}
        self.records: dict[str, Record] = {}
        self.refusals: list[GridcloudError] = []
        self._replaced: dict[str, int] = {}
        self._shown: set[tuple[str, str]] = set()
        self._serials: dict[str, int] = {}
        self._tabled: tuple[Ring | None, dict[str, Table]] = (None, {})
        self._key_digests: dict[str, str] = {}
        self._heard_ours: set[str] = set()
        self._serial_told = -1
        self._ring: tuple[str, Ring] = ("", ring_of(frozenset()))

    @classmethod
    def of(cls, me: str, state: Mapping[str, Any]) -> Gossip:
        """Return what `state` wrote."""
        gossip = cls(me, Membership.of(state["membership"]))
        gossip.keys = {one["root"]: KeyList.of(one) for one in state["keys"]}
        gossip.keys = {keys.institution: keys for keys in gossip.keys.values()}
        gossip.records = {one["institution"]: Record.of(one) for one in state["records"]}
        return gossip

    def state(self) -> Json:
        """Return what is held, as a document to be stored."""
        return {
            "membership": self.membership.state(),
            "keys": [keys.document() for keys in self.keys.values()],
            "records": [record.document() for record in self.records.values()],
        }

    @property
    def ring(self) -> Ring:
        """Who keeps which records, by the newest member list."""
        version = self.membership.digest
        if self._ring[0] != version:
            self._ring = (version, ring_of(frozenset(self.membership.current.by_institution())))
        return self._ring[1]

    def signers(self, now: int) -> Signers:
        """Return whose messages are accepted in this community."""
        return signers([self.membership], self.keys, now)

    def learn(self, *found: KeyList | Record) -> None:
        """Take what is known to be true: our own, and the keys that a guest brought."""
        for one in found:
            if isinstance(one, KeyList):
                self.keys[one.institution] = newer_key_list(self.keys.get(one.institution), one)
            else:
                self.records[one.institution] = newer_record(self.records.get(one.institution), one)

    def partners(self, now: int, chance: random.Random, away: Iterable[str] = ()) -> list[str]:
        """Return whom to greet in this round: `FAN_OUT` members by chance.

        In a large community all but one of them keep what we keep, those first who have yet to hear of our own record.
        """
        others = set(self.membership.members(now)) - {self.me} - set(away)
        if self.ring.whole:
            return self._pick(others, FAN_OUT, chance)
        chosen = self._pick(self._yet_to_hear() & others, FAN_OUT - 1, chance)
        near = self.ring.neighbours(self.me) & others - set(chosen)
        chosen += self._pick(near, FAN_OUT - 1 - len(chosen), chance)
        self._heard_ours |= set(chosen)
        return chosen + self._pick(others - set(chosen), FAN_OUT - len(chosen), chance)

    def greet(self, peer: str) -> Greet:
        """Return the body of a greeting to a member."""
        current = self.membership.current
        return Greet(
            community=current.community,
            number=current.number,
            members=self.membership.digest,
            left=tuple(sorted(one.institution for one in self.membership.leaves)),
            keys=self._digests_of_keys(),
            records=_digests(self._record_tables(peer)),
        )

    def compare(self, peer: str, greet: Greet) -> Compare:
        """Return the answer to a member's greeting."""
        self._require(peer, greet.community)
        records = self._record_tables(peer)
        items = [Item(kind="list", content=one.document()) for one in self._lists_for(peer, greet)]
        items += [
            Item(kind="leave", content=one.document())
            for one in self.membership.leaves
            if one.institution not in greet.left
        ]
        return Compare(
            community=greet.community,
            number=self.membership.current.number,
            left=tuple(sorted(one.institution for one in self.membership.leaves)),
            keys=_differing(self._key_tables(), self._digests_of_keys(), greet.keys),
            records=_differing(records, _digests(records), greet.records),
            items=bounded(items),
        )

    def answer(self, peer: str, found: Compare, now: int) -> Give | None:
        """Return what to say to a member's comparison: what it lacks and what we want; None when both hold the same."""
        self._require(peer, found.community)
        self._take(peer, found.items, now)
        current = self.membership.current
        items = [
            Item(kind="list", content=one.document())
            for one in self.membership.lists
            if found.number < one.number <= current.number
        ]
        items += [
            Item(kind="leave", content=one.document())
            for one in self.membership.leaves
            if one.institution not in found.left
        ]
        members = self.membership.members(now)
        lack_keys, want_keys = _sort_out(self._key_tables(), found.keys, members)
        lack_records, want_records = _sort_out(self._record_tables(peer), found.records, members)
        items += [Item(kind="keys", content=self.keys[who].document()) for who in lack_keys]
        items += [Item(kind="record", content=self.records[who].document()) for who in lack_records]
        if not (items or want_keys or want_records):
            return None
        return Give(
            community=found.community,
            items=bounded(items),
            want_keys=tuple(want_keys[:MAXIMUM_ITEMS]),
            want_records=tuple(want_records[:MAXIMUM_ITEMS]),
        )

    def receive(self, peer: str, given: Give, now: int) -> Give | None:
        """Take what a member gave; return what it asked for, None when it asked for nothing that it may have."""
        self._require(peer, given.community)
        self._take(peer, given.items, now)
        items = [
            Item(kind="keys", content=self.keys[who].document())
            for who in given.want_keys
            if who in self.keys
        ]
        items += [
            Item(kind="record", content=self.records[who].document())
            for who in dict.fromkeys(given.want_records)
            if who in self.records and self.ring.keeps(peer, who)
        ]
        if not items:
            return None
        return Give(community=given.community, items=bounded(items), want_keys=(), want_records=())

    def forget(self, now: int) -> None:
        """Forget records that are over, and all of who is no member and of shards that others keep now."""
        members = self.membership.members(now)
        self.keys = {who: keys for who, keys in self.keys.items() if who in members or who == self.me}
        self.records = {
            who: record
            for who, record in self.records.items()
            if record.expires > now and who in members and self.ring.keeps(self.me, who)
        }
        self._replaced = {who: when for who, when in self._replaced.items() if who in self.records}
        self._shown = {one for one in self._shown if one[0] in members}

    def _yet_to_hear(self) -> set[str]:
        record = self.records.get(self.me)
        serial = record.serial if record else -1
        if serial != self._serial_told:
            self._serial_told, self._heard_ours = serial, set()
        return set(self.ring.keepers(shard_of(self.me))) - self._heard_ours

    @staticmethod
    def _pick(who: Iterable[str], count: int, chance: random.Random) -> list[str]:
        sure = sorted(who)
        return chance.sample(sure, min(len(sure), count))

    def _take(self, peer: str, items: Iterable[Item], now: int) -> None:
        wrong = 0
        order = (
            "list",
            "leave",
            "keys",
            "record",
        )  # the keys of a member that a list brings are needed for its record
        for item in sorted(items, key=lambda item: order.index(item.kind)):
            try:
                self._take_one(item, now)
            except Conflict:
                continue  # lists in between are missing: they come in another round
            except MessageRefused as refusal:
                passed = {"who": peer, "what": f"a {item.kind} that it passed on"}
                refusal.details = passed | refusal.details
                self.refusals = [*self.refusals, refusal][-MAXIMUM_KEPT_REFUSALS:]
                wrong += 1
                if wrong == MAXIMUM_REFUSALS:
                    break

    def _take_one(self, item: Item, now: int) -> None:
        if item.kind == "list":
            self.membership.offer(read_list(item.content))
        elif item.kind == "leave":
            self.membership.offer_leave(read_leave(item.content))
        elif item.kind == "keys":
            self._take_keys(item.content, now)
        else:
            self._take_record(item.content, now)

    def _take_keys(self, document: Json, now: int) -> None:
        keys = read_key_list(document)
        who = keys.institution
        if who not in self.membership.members(now):
            raise UnknownSigner(f"{who}, whose keys these are, is not a member")
        self.keys[who] = newer_key_list(self.keys.get(who), keys)
        if who in self.records and any(one.key == self.records[who].key for one in self.keys[who].revoked):
            del self.records[who]  # whoever has the key may have written it

    def _take_record(self, document: Json, now: int) -> None:
        who = document.get("institution")
        held = self.records.get(who) if isinstance(who, str) else None
        if held is not None and document.get("serial") == held.serial:
            return  # known: not worth a check of its signature
        if held is not None and self._replaced.get(held.institution, -SHORTEST_LIFE) + SHORTEST_LIFE > now:
            return  # not refused, only not yet: it is offered again in the next round
        found = read_record(document, self.signers(now), now)
        if not self.ring.keeps(self.me, found.institution):
            raise Malformed(f"the record of {found.institution} is of a shard that is not kept here")
        newest = newer_record(held, found)
        if held is None or newest != held:
            self.records[found.institution] = newest
            self._replaced[found.institution] = now

    def _key_tables(self) -> dict[str, Table]:
        serials = {who: keys.serial for who, keys in self.keys.items()}
        if serials != self._serials or self.ring is not self._tabled[0]:
            self._serials = serials
            self._tabled = (self.ring, self._tables(serials))
            self._key_digests = _digests(self._tabled[1])
        return self._tabled[1]

    def _digests_of_keys(self) -> dict[str, str]:
        self._key_tables()
        return self._key_digests

    def _record_tables(self, peer: str) -> dict[str, Table]:
        ring = self.ring
        return self._tables(
            {who: record.serial for who, record in self.records.items() if ring.keeps(peer, who)}
        )

    def _tables(self, serials: Mapping[str, int]) -> dict[str, Table]:
        tables: dict[str, Table] = {}
        for who, serial in serials.items():
            # A small community is compared as one: 64 digests in every greeting would cost more than they save.
            tables.setdefault("0" if self.ring.whole else str(shard_of(who)), {})[who] = serial
        return tables

    def _lists_for(self, peer: str, greet: Greet) -> list[Any]:
        current = self.membership.current
        if greet.number == current.number and greet.members != self.membership.digest:
            if (peer, self.membership.digest) in self._shown:
                return []
            self._shown.add((peer, self.membership.digest))
            return [current]  # a fork: shown to each member once
        return [one for one in self.membership.lists if one.number > greet.number]

    def _require(self, peer: str, community: str) -> None:
        """Of a community only its members are told; who runs this may serve several."""
        if not self.membership.is_listed(peer):
            raise UnknownSigner(f"{peer} is not a member of {self.membership.community}")
        if community != self.membership.community:
            raise Malformed(f"the message is about {community}, and {self.membership.community} was expected")


def pause(quiet_rounds: int) -> float:
    """Return the seconds until the next round, after so many rounds without news: doubling, up to half a minute."""
    return min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(quiet_rounds, 10))


def _digests(tables: Mapping[str, Table]) -> dict[str, str]:
    return {shard: digest(table)[:22] for shard, table in tables.items()}


def _differing(
    tables: Mapping[str, Table], ours: Mapping[str, str], theirs: Mapping[str, str]
) -> dict[str, Table]:
    """Return our tables of the shards where the digests are not the same, or missing on either side."""
    return {
        shard: tables.get(shard, {}) for shard in {*ours, *theirs} if ours.get(shard) != theirs.get(shard)
    }


def _sort_out(
    tables: Mapping[str, Table], theirs: Mapping[str, Table], members: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return whose things the other side lacks, and whose we lack, in the shards that were compared."""
    known = set(members)
    held = {who: serial for table in tables.values() for who, serial in table.items()}
    told = {who: serial for table in theirs.values() for who, serial in table.items()}
    lack = {who for shard in theirs for who in tables.get(shard, {}) if held[who] > told.get(who, -1)}
    want = {who for who, serial in told.items() if serial > held.get(who, -1) and who in known}
    return sorted(lack), sorted(want)
