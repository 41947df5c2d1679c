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
from gridcloud.federation.gossip_messages import (
    MAXIMUM_ITEMS,
    Compare,
    Give,
    Greet,
    Item,
    Seek,
    Table,
    bounded,
)
from gridcloud.federation.keys import KeyList, newer_key_list, read_key_list
from gridcloud.federation.membership import Membership, signer, signers
from gridcloud.federation.records import Record, newer_record, read_record
from gridcloud.federation.ring import Ring, ring_of, shard_of

__all__ = ["FAN_OUT", "Compare", "Give", "Gossip", "Greet", "Item", "Seek", "pause"]

FRIENDS = 4
"""Members to whom news is told. Few, so that connections to them are kept; and so that each member is one of them, of
others who are near and far on a circle: news reaches everybody, which it does not where they are chosen by chance."""
FAN_OUT = 2
"""Of these are greeted in each round with news, the others in the next; one more where records are sharded."""
CALM = 2
"""Rounds without news after which a member by chance is greeted: nobody misses for long what a friend kept back."""
SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 120.0
LONGER = 3.0
"""Seconds between two rounds: short while there is news, so many times as long after each round without."""
MAXIMUM_REFUSALS = 4
"""Wrong things in one message after which the rest of it is not looked at."""
MAXIMUM_KEPT_REFUSALS = 256
MAXIMUM_SOUGHT = 1024
"""Records of shards that others keep; the oldest go first."""
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
        self.sought: dict[str, Record] = {}
        """Records that others keep and that we asked for: never passed on by gossip."""
        self.refusals: list[GridcloudError] = []
        self._replaced: dict[str, int] = {}
        self._shown: set[tuple[str, str]] = set()
        self._serials: dict[str, int] = {}
        self._tabled: tuple[Ring | None, dict[str, Table]] = (None, {})
        self._key_digests: dict[str, str] = {}
        self._digested: tuple[dict[str, Table], dict[str, str]] = ({}, {})
        self._turn = 0
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

    def signer(self, who: str, now: int) -> Signers:
        """Return what `signers` says of one institution."""
        return signer([self.membership], self.keys.get(who), who, now)

    def learn(self, *found: KeyList | Record) -> None:
        """Take what is known to be true: our own, and the keys that a guest brought."""
        for one in found:
            if isinstance(one, KeyList):
                self.keys[one.institution] = newer_key_list(self.keys.get(one.institution), one)
            else:
                self.records[one.institution] = newer_record(self.records.get(one.institution), one)

    def partners(
        self, now: int, chance: random.Random, away: Iterable[str] = (), quiet: int = 0
    ) -> list[str]:
        """Return whom to greet in this round, after so many without news: `FAN_OUT` of our friends, and later on one
        member by chance.

        In a large community all but one of them keep what we keep, those first who have yet to hear of our own record.
        """
        others = set(self.membership.members(now)) - {self.me} - set(away)
        if self.ring.whole:
            return self._pick(others, 1, chance) if quiet >= CALM else self._next_friends(others, now)
        if quiet >= CALM and not self._yet_to_hear():
            near = self.ring.neighbours(self.me) & others
            return self._pick(near if near and chance.random() < 0.75 else others, 1, chance)
        chosen = self._pick(self._yet_to_hear() & others, FAN_OUT, chance)
        near = self.ring.neighbours(self.me) & others - set(chosen)
        chosen += self._pick(near, FAN_OUT - len(chosen), chance)
        self._heard_ours |= set(chosen)
        return chosen + self._pick(others - set(chosen), FAN_OUT + 1 - len(chosen), chance)

    def greet(self, peer: str) -> Greet:
        """Return the body of a greeting to a member."""
        current = self.membership.current
        return Greet(
            community=current.community,
            number=current.number,
            members=self.membership.digest,
            left=tuple(sorted(one.institution for one in self.membership.leaves)),
            keys=self._digests_of_keys(),
            records=self._digests_of(self._record_tables(peer)),
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
            records=_differing(records, self._digests_of(records), greet.records),
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

    def seek(self, shard: int) -> Seek:
        """Return the body that asks a keeper for the records of a shard."""
        known = {**self.sought, **self.records}
        serials = {who: one.serial for who, one in known.items() if shard_of(who) == shard}
        return Seek(community=self.membership.community, shard=str(shard), known=serials)

    def tell(self, peer: str, seek: Seek) -> Give:
        """Return what we keep of a shard that a member asks for, and it does not have."""
        self._require(peer, seek.community)
        items = [
            Item(kind="record", content=one.document())
            for who, one in sorted(self.records.items())
            if shard_of(who) == int(seek.shard) and one.serial > seek.known.get(who, -1)
        ]
        return Give(community=seek.community, items=bounded(items), want_keys=(), want_records=())

    def find(self, peer: str, shard: int, given: Give, now: int) -> bool:
        """Take what a keeper answered about a shard, each record checked as if its author had sent it; say whether
        there was anything new."""
        self._require(peer, given.community)
        before = {**self.sought, **self.records}
        strange = [one for one in given.items if one.kind != "record" or not _is_of(one, shard)]
        if strange:
            refusal = Malformed(
                f"it was asked for shard {shard} and gave something else", details={"who": peer}
            )
            self.refusals = [*self.refusals, refusal][-MAXIMUM_KEPT_REFUSALS:]
        self._take(peer, [one for one in given.items if one not in strange], now, sought=True)
        while len(self.sought) > MAXIMUM_SOUGHT:
            del self.sought[min(self.sought, key=lambda who: self.sought[who].serial)]
        return {**self.sought, **self.records} != before

    def hear(self, peer: str, document: Json, now: int) -> None:
        """Take a record that came another way than by gossip, checked as what gossip brings; `peer`: which way."""
        self._take(peer, [Item(kind="record", content=document)], now, sought=True)

    def known(self) -> dict[str, Record]:
        """Return all records that are here, kept or sought."""
        return {**self.sought, **self.records} if self.sought else self.records

    def forget(self, now: int) -> None:
        """Forget records that are over, and all of who is no member and of shards that others keep now."""
        members = self.membership.members(now)
        self.keys = {who: keys for who, keys in self.keys.items() if who in members or who == self.me}
        self.records = {
            who: record
            for who, record in self.records.items()
            if record.expires > now and (who == self.me or (who in members and self.ring.keeps(self.me, who)))
        }
        self.sought = {
            who: record
            for who, record in self.sought.items()
            if record.expires > now and who in members and who not in self.records
        }
        self._replaced = {who: when for who, when in self._replaced.items() if who in self.known()}
        self._shown = {one for one in self._shown if one[0] in members}

    def _next_friends(self, others: set[str], now: int) -> list[str]:
        """Return the friends whose turn it is: members in the order of their ids, n^(i/4) places after us; who is not
        among `others` is passed over."""
        circle = sorted({self.me, *self.membership.members(now)})
        start = circle.index(self.me)
        friends: list[str] = []
        for number in range(FRIENDS):
            step = round(len(circle) ** (number / FRIENDS))
            after = (circle[(start + step + more) % len(circle)] for more in range(len(circle)))
            friends += [next((who for who in after if who in others and who not in friends), "")]
        friends = [who for who in friends if who]
        chosen = dict.fromkeys(
            friends[(self._turn + more) % len(friends)] for more in range(min(FAN_OUT, len(friends)))
        )
        self._turn += len(chosen)
        return list(chosen)

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

    def _take(self, peer: str, items: Iterable[Item], now: int, *, sought: bool = False) -> None:
        wrong = 0
        order = (
            "list",
            "leave",
            "keys",
            "record",
        )  # the keys of a member that a list brings are needed for its record
        for item in sorted(items, key=lambda item: order.index(item.kind)):
            try:
                if sought:
                    self._take_record(item.content, now, sought=True)
                else:
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
        if not self.membership.is_member(who, now):
            raise UnknownSigner(f"{who}, whose keys these are, is not a member")
        self.keys[who] = newer_key_list(self.keys.get(who), keys)
        for there in (self.records, self.sought):
            if who in there and any(one.key == there[who].key for one in self.keys[who].revoked):
                del there[who]  # whoever has the key may have written it

    def _take_record(self, document: Json, now: int, *, sought: bool = False) -> None:
        who = document.get("institution")
        held = self.known().get(who) if isinstance(who, str) else None
        if held is not None and document.get("serial") == held.serial:
            return  # known: not worth a check of its signature
        if held is not None and self._replaced.get(held.institution, -SHORTEST_LIFE) + SHORTEST_LIFE > now:
            return  # not refused, only not yet: it is offered again in the next round
        kept = self.ring.keeps(self.me, str(who)) if self.membership.is_listed(str(who)) else True
        if not (kept or sought):
            return  # who gave it has another list of members, for the moment
        found = read_record(document, self.signer(str(who), now), now)
        newest = newer_record(held, found)
        if held is None or newest != held:
            (self.records if kept else self.sought)[found.institution] = newest
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

    def _digests_of(self, tables: dict[str, Table]) -> dict[str, str]:
        """Return the digests of tables of records; the last ones are remembered."""
        if tables != self._digested[0]:
            self._digested = (tables, _digests(tables))
        return self._digested[1]

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
    """Return the seconds until the next round, after so many rounds without news: tripling, up to two minutes."""
    return min(LONGEST_PAUSE, SHORTEST_PAUSE * LONGER ** min(quiet_rounds, 10))


def _digests(tables: Mapping[str, Table]) -> dict[str, str]:
    return {shard: digest(table)[:22] for shard, table in tables.items()}


def _is_of(item: Item, shard: int) -> bool:
    who = item.content.get("institution")
    return isinstance(who, str) and shard_of(who) == shard


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
