"""The test vectors, both ways: made again from the same keys they are the same, and read they are what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import Malformed
from gridcloud.federation.communities import check_first, check_next, read_leave, read_list
from gridcloud.federation.encoding import decode, digest, encode, from_text
from gridcloud.federation.envelopes import CONTEXT, Receiver, ReplayCache, Signers
from gridcloud.federation.gossip import Compare, Give, Gossip, Greet, Seek
from gridcloud.federation.invitations import read_invitation
from gridcloud.federation.keys import (
    PrivateKey,
    heard,
    institution_of,
    newer_key_list,
    read_key_list,
    spoken,
    unsigned,
    verify,
)
from gridcloud.federation.membership import Membership
from gridcloud.federation.records import read_record
from gridcloud.federation.ring import Ring, shard_of
from gridcloud.federation.rounds import check_round
from tests.federation.making_vectors import FOLDER, MAKERS, refusal_of, text_of


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))


def receiver(institution: str, now: int) -> Receiver:
    clock = ManualClock(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now))
    return Receiver(institution, clock, ReplayCache())


@pytest.mark.parametrize("name", MAKERS)
def test_they_are_made_again_alike(name: str) -> None:
    """A difference is a change of the protocol: see "Versions" in docs/contracts/federation-protocol.md."""
    assert text_of(MAKERS[name]()) == (FOLDER / f"{name}.json").read_text(encoding="ascii")


def test_encoding() -> None:
    found = vectors("encoding")
    for one in found["accepted"]:
        assert decode(one["text"].encode()) == one["document"]
        assert encode(one["document"]).decode() == one["text"]
        assert digest(one["document"]) == one["sha256"]
    for text in found["refused"]:
        with pytest.raises(Malformed):
            decode(text.encode())


def test_keys() -> None:
    found = vectors("keys")
    for one in found["institutions"]:
        assert PrivateKey(bytes.fromhex(one["root_secret"])).public == one["root"]
        assert PrivateKey(bytes.fromhex(one["service_secret"])).public == one["service"]
        assert institution_of(one["root"]) == one["institution"] == heard(one["spoken"])
        assert spoken(one["institution"]) == one["spoken"]
    root = PrivateKey(bytes.fromhex(found["institutions"][0]["root_secret"]))
    held = None
    for one in found["key_lists"]:
        document = decode(one["text"].encode())
        assert document == one["document"]
        assert root.sign("keys", unsigned(document)) == document["signature"]
        held = newer_key_list(held, read_key_list(document, found["institutions"][0]["institution"]))
        assert held.document() == document


def test_a_message_is_accepted() -> None:
    found = vectors("envelopes")
    one = found["accepted"]
    signers = Signers({one["document"]["from"]: read_key_list(one["keys"])})
    envelope = receiver(found["receiver"], one["received"]).open(one["text"].encode(), signers)
    assert envelope.document() == one["document"]
    signing = PrivateKey(bytes.fromhex(one["secret"]))
    assert signing.sign(CONTEXT, unsigned(one["document"])) == one["document"]["signature"]


def test_no_attack_is_accepted() -> None:
    found = vectors("envelopes")
    assert len(found["refused"]) > 30
    for one in found["refused"]:
        members = [read_key_list(keys) for keys in one["members"]]
        signers = Signers({keys.institution: keys for keys in members}, one["former"])
        data = from_text(one["data"], len(one["data"]) * 3 // 4)
        place = receiver(found["receiver"], one["received"])
        assert refusal_of(partial(place.open, data, signers)) == one["error"], one["attack"]


def test_communities() -> None:
    found = vectors("communities")
    lists = []
    for one in found["lists"]:
        document = decode(one["text"].encode())
        assert document == one["document"]
        assert read_list(document).digest() == one["digest"]
        lists.append(read_list(document))
    check_first(lists[0])
    for before, after in pairwise(lists):
        check_next(before, after)
    for one in found["not_second"]:
        wrong = read_list(one["document"])
        assert refusal_of(partial(check_next, lists[0], wrong)) == one["error"]
    gone = read_leave(decode(found["leave"]["text"].encode()))
    assert Membership(lists[0]).offer_leave(gone)


def test_rounds() -> None:
    found = vectors("rounds")
    before = read_list(found["before"])
    for case in found["cases"]:
        known = [read_list(one) for one in case["known"]]
        for one in known:
            for signature in one.signatures:
                verify(signature.root, signature.signature, "members", one.document())
        signed = {one.round: one.digest() for one in known if one.digest() in case["signed"]}
        check = partial(check_round, before, read_list(case["draft"]), known, signed)
        assert refusal_of(check) == case["error"]


def test_invitations() -> None:
    found = vectors("invitations")
    document = decode(found["invitation"]["text"].encode())
    assert document == found["invitation"]["document"]
    invitation = read_invitation(document, found["guest"], found["host"], found["read"])
    join = decode(found["join"].encode())
    keys = read_key_list(join["body"]["keys"], found["guest"])
    opened = receiver(found["host"], found["read"]).open(
        found["join"].encode(), Signers({found["guest"]: keys})
    )
    assert opened.body["invitation"] == invitation.id


def test_records() -> None:
    found = vectors("records")
    keys = read_key_list(found["keys"])
    document = decode(found["record"]["text"].encode())
    assert document == found["record"]["document"]
    record = read_record(document, Signers({keys.institution: keys}), found["read"])
    assert record.document() == document
    assert record.read_profile().document() == document["profile"]


def test_gossip() -> None:
    found = vectors("gossip")
    talk, (a, b) = found["talk"], found["places"]
    first = read_list(found["list"])
    one, other = Gossip(a, Membership(first)), Gossip(b, Membership(first))
    other.receive(a, Give.of(talk["give"]), found["at"])
    one.receive(b, Give.of(talk["back"]), found["at"])
    assert set(other.keys) == {a}
    assert set(one.records) == {b}
    one.receive(b, Give.of(talk["give"]), found["at"])
    other.receive(a, Give.of(talk["back"]), found["at"])
    assert one.greet(b).records == other.greet(a).records
    assert Greet.of(talk["greet"]).number == Compare.of(talk["compare"]).number == 1
    seeker, shard = Gossip(a, Membership(first)), shard_of(b)
    seeker.keys = other.keys | one.keys | {b: one.keys[b]}
    seek, told = Seek.of(found["look-up"]["seek"]), Give.of(found["look-up"]["give"])
    assert seek == seeker.seek(shard)
    assert other.tell(a, seek) == told
    assert seeker.find(b, shard, told, found["at"])
    assert other.tell(a, seeker.seek(shard)).items == ()
    ring = Ring(found["ring"]["members"])
    assert sorted(ring.guides) == found["ring"]["guides"]
    assert {who: shard_of(who) for who in found["ring"]["shards"]} == found["ring"]["shards"]
    for shard, keepers in found["ring"]["keepers"].items():
        assert list(ring.keepers(int(shard))) == keepers
