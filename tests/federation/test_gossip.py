"""Members come to hold the same, over a bad network, and whoever lies or floods spoils little."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from gridcloud.errors import Forged, Malformed, Throttled, UnknownSigner
from gridcloud.federation import gossip as gossip_module
from gridcloud.federation.allowances import Allowance
from gridcloud.federation.communities import draft_next, leave, sign_list
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.gossip import Compare, Give, Gossip, Greet, Item, pause
from gridcloud.federation.keys import revoke_service_key
from gridcloud.federation.membership import Membership
from gridcloud.federation.records import Profile, make_record
from gridcloud.federation.ring import shard_of
from tests.federation.scenes import Place, community


class Town:
    """Members that gossip by rounds over a network that loses messages and may be cut in two."""

    def __init__(self, count: int, *, loss: float = 0.0, seed: int = 1) -> None:
        self.places = [Place(f"place {number}") for number in range(count)]
        first = community(*self.places, threshold=count // 2 + 1) if count < 30 else _unsigned(*self.places)
        self.chance = random.Random(seed)
        self.loss = loss
        self.sent = 0
        self.cut: set[str] = set()
        self.now = self.places[0].now
        self.gossips = {
            place.institution: Gossip(place.institution, Membership(first)) for place in self.places
        }
        for place in self.places:
            self.gossips[place.institution].learn(place.keys, self.record(place))

    def record(self, place: Place, later: int = 0, name: str = "x") -> Any:
        serial = self.now + later
        return make_record(place.service, place.institution, Profile(name=name), serial, timedelta(hours=1))

    def of(self, number: int) -> Gossip:
        return self.gossips[self.places[number].institution]

    def carry(self, body: Any, sender: str, receiver: str) -> Any:
        """Return what arrives: through bytes, or nothing where it was lost."""
        if body is None or self.chance.random() < self.loss or (sender in self.cut) != (receiver in self.cut):
            return None
        data = encode(body.document())
        assert len(data) < 1 << 20
        self.sent += len(data)
        return type(body).of(decode(data))

    def talk(self, one: Gossip, other: Gossip) -> None:
        greet = self.carry(one.greet(other.me), one.me, other.me)
        compare = greet and self.carry(other.compare(one.me, greet), other.me, one.me)
        give = compare and self.carry(one.answer(other.me, compare, self.now), one.me, other.me)
        back = give and self.carry(other.receive(one.me, give, self.now), other.me, one.me)
        if back:
            one.receive(other.me, back, self.now)

    def round(self) -> None:
        for gossip in self.gossips.values():
            for peer in gossip.partners(self.now, self.chance):
                try:
                    self.talk(gossip, self.gossips[peer])
                except UnknownSigner:
                    continue  # one of the two was put out or left, and the other knows it
        self.now += 30_000

    def rounds(self, done: Any, most: int = 30) -> int:
        for number in range(most):
            if done():
                return number
            self.round()
        raise AssertionError(f"not after {most} rounds")

    def knows_all(self) -> bool:
        return all(
            len(gossip.keys) == len(self.places)
            and all(gossip.ring.keeps(gossip.me, who) <= (who in gossip.records) for who in self.gossips)
            for gossip in self.gossips.values()
        )


def _unsigned(*places: Place) -> Any:
    """A second list, where all begin: a first one signed by hundreds would take the test's time."""
    first = community(places[0], threshold=1)
    return sign_list(
        draft_next(first, first.issued, join=[place.member() for place in places[1:]]), places[0].root
    )


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_twenty_members_know_each_other_after_a_few_rounds(loss: float) -> None:
    town = Town(20, loss=loss)
    assert town.rounds(town.knows_all) <= (4 if loss == 0 else 8)
    before = town.sent
    town.round()
    if loss == 0:
        assert (town.sent - before) / 20 / 2 < 1200, "two that hold the same tell each other little"
    assert all(not gossip.refusals for gossip in town.gossips.values())


def test_news_reaches_everybody_and_the_newest_wins() -> None:
    town = Town(12)
    town.rounds(town.knows_all)
    place = town.places[3]
    for later in (1, 2):
        town.of(3).learn(town.record(place, later=later, name=f"name {later}"))
    town.rounds(
        lambda: all(
            one.records[place.institution].profile["name"] == "name 2" for one in town.gossips.values()
        )
    )


def test_a_partition_heals() -> None:
    town = Town(10)
    town.cut = {place.institution for place in town.places[:5]}
    for _ in range(6):
        town.round()
    assert all(len(gossip.records) == 5 for gossip in town.gossips.values())
    second = draft_next(town.of(0).membership.current, town.now, revoke={town.places[9].institution: "gone"})
    for place in town.places[:6]:
        second = sign_list(second, place.root)
    third = draft_next(second, town.now, threshold=2)
    for place in town.places[:6]:
        third = sign_list(third, place.root)
    for found in (second, third):
        town.of(0).membership.offer(found)
    town.cut = set()
    rest = [town.of(number) for number in range(9)]
    town.rounds(lambda: all(one.membership.current.number == 3 for one in rest))
    for one in rest:
        one.forget(town.now)
        assert town.places[9].institution not in {**one.records, **one.keys}


def test_a_large_community_shares_its_records_out() -> None:
    town = Town(120)
    assert not town.of(0).ring.whole
    for gossip in town.gossips.values():  # as after a restart: what takes long is keys, which everybody holds
        for place in town.places:
            gossip.keys[place.institution] = place.keys
    town.rounds(town.knows_all, most=12)
    held = [len(gossip.records) for gossip in town.gossips.values()]
    assert sum(held) / len(held) < 30
    assert all(not gossip.refusals for gossip in town.gossips.values())


def test_who_is_kept_elsewhere_is_looked_up() -> None:
    town = Town(120)
    for gossip in town.gossips.values():
        for place in town.places:
            gossip.keys[place.institution] = place.keys
    town.rounds(town.knows_all, most=12)
    asks = town.of(7)
    wanted = next(who for who in town.gossips if who not in asks.records)
    shard = shard_of(wanted)
    guide = asks.ring.keepers(shard)[0]
    assert guide in asks.records, "everybody knows whom to ask"
    seek = town.carry(asks.seek(shard), asks.me, guide)
    given = town.carry(town.gossips[guide].tell(asks.me, seek), guide, asks.me)
    assert asks.find(guide, shard, given, town.now)
    assert wanted in asks.sought
    assert wanted not in asks.records
    assert wanted in asks.known()
    assert town.gossips[guide].tell(asks.me, asks.seek(shard)).items == (), "what is known is not told again"
    before = asks.greet(guide)
    asks.forget(town.now)
    assert asks.greet(guide) == before
    assert wanted in asks.sought
    asks.forget(town.now + 3_600_001)
    assert not asks.sought


def test_a_keeper_cannot_make_up_records_nor_tell_what_was_not_asked() -> None:
    town = Town(120)
    asks, liar = town.of(0), town.of(1)
    for place in town.places:
        asks.keys[place.institution] = place.keys
    kept_elsewhere = [place for place in town.places if not asks.ring.keeps(asks.me, place.institution)]
    true, forged = kept_elsewhere[:2]
    stranger = Place("Nobody")
    wrong = town.record(forged).document() | {"profile": Profile(name="a lie").document()}
    items = [Item(kind="record", content=one) for one in (wrong, town.record(true).document())]
    for shard, found in ((shard_of(forged.institution), False), (shard_of(true.institution), True)):
        asks.refusals.clear()
        assert asks.find(liar.me, shard, give(asks, *items), town.now) is found
        assert {refusal.details["who"] for refusal in asks.refusals} == {liar.me}
    shard = shard_of(stranger.institution)
    asks.refusals.clear()
    assert not asks.find(
        liar.me, shard, give(asks, Item(kind="record", content=town.record(stranger).document())), town.now
    )
    assert [type(one).__name__ for one in asks.refusals] == ["UnknownSigner"]
    assert set(asks.sought) == {true.institution}
    with pytest.raises(UnknownSigner):
        asks.tell(stranger.institution, asks.seek(shard))


def test_what_is_looked_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # A bound that is reached by a hundred members, in place of a thousand.
    monkeypatch.setattr(gossip_module, "MAXIMUM_SOUGHT", 5)
    town = Town(120)
    asks = town.of(0)
    for place in town.places:
        asks.keys[place.institution] = place.keys
    for place in town.places[1:40]:
        item = Item(kind="record", content=town.record(place).document())
        asks.find(town.places[1].institution, shard_of(place.institution), give(asks, item), town.now)
    assert len(asks.sought) == 5
    kept = {who for who in town.gossips if asks.ring.keeps(asks.me, who)}
    assert set(asks.records) <= kept


def test_a_leave_is_passed_on() -> None:
    town = Town(6)
    gone = town.places[5]
    word = leave(town.of(0).membership.community, gone.root, town.now)
    for number in (0, 5):
        town.of(number).membership.offer_leave(word)
    town.rounds(
        lambda: all(gone.institution not in one.membership.members(town.now) for one in town.gossips.values())
    )


def test_a_fork_is_told_to_both_sides() -> None:
    town = Town(4)
    current = town.of(0).membership.current
    for number, threshold in ((0, 1), (1, 2)):
        draft = draft_next(current, town.now, threshold=threshold)
        for place in town.places[:3]:
            draft = sign_list(draft, place.root)
        town.of(number).membership.offer(draft)
    for _ in range(3):
        town.talk(town.of(0), town.of(1))
        town.talk(town.of(1), town.of(0))
    for number in (0, 1):
        told = [type(refusal).__name__ for refusal in town.of(number).refusals]
        assert told == ["Forked"]
        assert town.places[0].institution in str(town.of(number).refusals[0])


def give(gossip: Gossip, *items: Item) -> Give:
    return Give(community=gossip.membership.community, items=items, want_keys=(), want_records=())


def test_lies_are_refused_named_and_bounded() -> None:
    town = Town(4)
    liar, victim, other = town.places[0], town.of(1), town.places[2]
    false = town.record(other, later=5).document() | {"profile": {"name": "lies"}}
    stranger = Place("Elsewhere")
    items = [Item(kind="record", content=false)] * 100
    town.of(1).learn(other.keys)
    victim.receive(liar.institution, give(victim, *items), town.now)
    assert len(victim.refusals) == 4, "after a few wrong things the rest is not looked at"
    assert isinstance(victim.refusals[0], Forged)
    assert victim.refusals[0].who == liar.institution
    assert victim.refusals[0].what == "a record that it passed on"
    victim.refusals = []
    mixed = [
        Item(kind="keys", content=stranger.keys.document()),
        Item(kind="record", content=town.record(stranger).document()),
        Item(kind="list", content=community(stranger, threshold=1).document()),
        Item(kind="record", content=town.record(other).document()),
    ]
    victim.receive(liar.institution, give(victim, *mixed), town.now)
    assert [type(one).__name__ for one in victim.refusals] == [
        "Misdirected",
        "UnknownSigner",
        "UnknownSigner",
    ]
    assert other.institution in victim.records, "what is true is taken all the same"
    assert stranger.institution not in {**victim.keys, **victim.records}


def test_a_flood_of_records_is_heard_slowly() -> None:
    town = Town(2)
    loud, victim = town.places[0], town.of(1)
    victim.learn(loud.keys)
    for later in range(1, 50):
        item = Item(kind="record", content=town.record(loud, later=later, name=str(later)).document())
        victim.receive(loud.institution, give(victim, item), town.now)
    assert victim.records[loud.institution].serial == town.now + 1
    assert not victim.refusals
    item = Item(kind="record", content=town.record(loud, later=50).document())
    victim.receive(loud.institution, give(victim, item), town.now + 2000)
    assert victim.records[loud.institution].serial == town.now + 50


def test_who_claims_to_know_more_wastes_one_question() -> None:
    town = Town(3)
    gossip = town.of(0)
    peer, stranger = town.places[1].institution, Place("Elsewhere").institution
    claim = {"0": {town.places[2].institution: 253_402_300_799_999, stranger: 5}}
    found = Compare(
        community=gossip.membership.community, number=9, left=(), keys=claim, records=claim, items=()
    )
    answer = gossip.answer(peer, found, town.now)
    assert answer is not None
    assert answer.want_keys == answer.want_records == (town.places[2].institution,)
    assert gossip.receive(peer, give(gossip), town.now) is None


def test_another_communitys_members_are_not_told() -> None:
    one, other = Town(3).of(0), Town(2).of(0)
    greet = other.greet(one.me)
    with pytest.raises(Malformed, match="was expected"):
        one.compare(other.me, greet)
    stranger = Place("Elsewhere").institution
    with pytest.raises(UnknownSigner, match="not a member"):
        one.compare(stranger, one.greet(stranger))
    with pytest.raises(UnknownSigner, match="not a member"):
        one.receive(stranger, give(one), 0)
    with pytest.raises(Malformed, match="was expected"):
        one.receive(other.me, give(other), 0)


@pytest.mark.parametrize(
    "wrong", [{"keys": {"64x": "A" * 22}}, {"keys": {"-1": "A" * 22}}, {"number": -1}, {"more": 1}]
)
def test_the_form_of_gossip_is_checked(wrong: dict[str, Any]) -> None:
    town = Town(2)
    with pytest.raises(Malformed):
        Greet.of(town.of(0).greet(town.of(1).me).document() | wrong)


def test_what_is_over_is_forgotten_and_a_restart_goes_on() -> None:
    town = Town(3)
    town.rounds(town.knows_all)
    again = Gossip.of(town.of(0).me, decode(encode(town.of(0).state())))
    assert again.state() == town.of(0).state()
    assert len(again.records) == 3
    again.forget(town.now + 3_600_000)
    assert not again.records
    assert len(again.keys) == 3


def test_records_of_a_revoked_key_go_with_it() -> None:
    town = Town(3)
    town.rounds(town.knows_all)
    place, victim = town.places[1], town.of(0)
    keys = revoke_service_key(place.root, place.keys, place.service.public, town.now)
    victim.receive(
        town.places[2].institution, give(victim, Item(kind="keys", content=keys.document())), town.now
    )
    assert place.institution not in victim.records
    item = Item(kind="record", content=town.record(place, later=9).document())
    victim.receive(town.places[2].institution, give(victim, item), town.now)
    assert type(victim.refusals[-1]).__name__ == "Revoked"
    with pytest.raises(UnknownSigner):
        victim.signers(town.now).check(Place("Elsewhere").institution, place.service.public, town.now)


def test_pauses_grow_while_nothing_is_new() -> None:
    assert [pause(quiet) for quiet in (0, 1, 2, 3)] == [0.25, 0.75, 2.25, 6.75]
    assert pause(7) == pause(10_000) == 120.0


def test_each_member_has_its_own_allowance() -> None:
    allowance = Allowance(messages=3, per_second=1, bytes_=1000, bytes_per_second=100)
    for _ in range(3):
        allowance.take("loud", 100, 0)
    with pytest.raises(Throttled, match="Wait 1") as refused:
        allowance.take("loud", 100, 0)
    assert refused.value.details["who"] == "loud"
    allowance.take("quiet", 1000, 0)
    with pytest.raises(Throttled, match="Wait 9"):
        allowance.take("quiet", 1 << 30, 1000)
    allowance.take("loud", 100, 1000)
    assert len(allowance) == 2
    allowance.forget(20_000)
    assert len(allowance) == 0
