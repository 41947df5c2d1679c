"""Write the test vectors of the protocol anew, from fixed keys: `python -m tests.federation.making_vectors`.

They change only with the protocol; `test_vectors.py` makes them again, compares, and reads each as a receiver does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from gridcloud.errors import Conflict, MessageRefused
from gridcloud.federation.communities import MemberList, draft_next, leave, sign_list
from gridcloud.federation.encoding import decode, digest, encode, to_text
from gridcloud.federation.gossip import Gossip, Seek
from gridcloud.federation.invitations import JOIN, InvitationBook, write_join
from gridcloud.federation.keys import institution_of, revoke_service_key, rotate_service_key, spoken
from gridcloud.federation.membership import Membership
from gridcloud.federation.records import Price, Profile, Room, make_record
from gridcloud.federation.ring import SHARDS, Ring, shard_of
from gridcloud.federation.rounds import check_round
from gridcloud.federation.wishes import Capacity
from tests.federation.scenes import MINUTE, YEAR, Place, community, key
from tests.federation.test_attacks import ATTACKS, Scene

__all__ = ["FOLDER", "MAKERS", "refusal_of", "text_of"]

FOLDER = Path(__file__).parent / "vectors"

Json = dict[str, Any]


def encoding() -> Json:
    """Documents with their canonical text and digest, and texts that are refused."""
    documents: list[Json] = [
        {},
        {"b": [True, False, None], "a": 0, "": "empty key"},
        {"numbers": [-1, 9007199254740991, -9007199254740991]},
        {"text": 'quote " backslash \\ slash / delete \x7f tab \t feed \n unit \x1f'},
        {"text": "København, 東京, 🌍, e\u0301"},
        {"Z": 1, "a": 2, "_": 3, "10": 4, "9": 5},
        {"deep": [[[{"x": {"y": []}}]]]},
    ]
    refused = [
        '{"a":1.0}', '{"a":1e2}', '{"a":-0}', '{"a":9007199254740992}', '{"a": 1}', '{"b":1,"a":2}', '{"a":1,"a":1}',
        '{"a":"\\u0041"}', '{"a":"\\/"}', '{"a":"\\ud83c"}', '{"é":1}', "[]", "null", "", '{"a":1}\n', '{"a":NaN}',
        '{"a":"\\u001F"}', "[" * 33 + "]" * 33, '{"a":' + "[" * 32 + "]" * 32 + "}",
    ]  # fmt: skip
    return {
        "accepted": [
            {"document": one, "text": encode(one).decode(), "sha256": digest(one)} for one in documents
        ],
        "refused": refused,
    }


def keys() -> Json:
    """Keys, the institutions they make, their spoken fingerprints, and one institution's key lists."""
    places = [Place(name) for name in ("Copenhagen", "Aarhus", "Odense")]
    home = places[0]
    second = rotate_service_key(
        home.root, home.keys, key("Copenhagen service 2").public, home.now + MINUTE, YEAR, 10 * MINUTE
    )
    third = revoke_service_key(home.root, second, home.service.public, home.now + 2 * MINUTE)
    return {
        "institutions": [
            {
                "name": place.name,
                "root_secret": place.root.secret().hex(),
                "root": place.root.public,
                "service_secret": place.service.secret().hex(),
                "service": place.service.public,
                "institution": institution_of(place.root.public),
                "spoken": spoken(place.institution),
            }
            for place in places
        ],
        "key_lists": [_signed(one.document()) for one in (home.keys, second, third)],
    }


def envelopes() -> Json:
    """One message that is accepted, and every attack of the table with the error that it must end in."""
    scene = Scene()
    data = scene.home.write(
        scene.partner, {"cpus": 4, "words": "åh"}, nonce="n-vector-1", answers="n-question-1"
    )
    attacks = []
    for name, attack, expected, _ in ATTACKS:
        if name.startswith(("replayed", "nested", "of 1 MiB")):
            continue  # a matter of time and memory, or too large for a file: see the table
        tried = Scene()
        wrong = attack(tried)
        attacks.append(
            {
                "attack": name,
                "data": to_text(wrong),
                "received": tried.partner.now,
                "members": [one.document() for one in tried.signers.keys.values()],
                "former": dict(tried.signers.revoked),
                "error": expected.__name__,
            }
        )
    return {
        "receiver": scene.partner.institution,
        "accepted": {
            "secret": scene.home.service.secret().hex(),
            "keys": scene.home.keys.document(),
            "received": scene.partner.now,
            "text": data.decode(),
            "document": decode(data),
        },
        "refused": attacks,
    }


def communities() -> Json:
    """The lists of one community, each following on the one before, and a member's word that it leaves."""
    a, b, c, d = (Place(name) for name in ("Copenhagen", "Aarhus", "Odense", "Roskilde"))
    lists = [community(a, b, c)]
    steps: list[tuple[Json, tuple[Place, ...]]] = [
        ({"join": [d.member()]}, (a, b)),
        ({"revoke": {c.institution: "key stolen"}, "threshold": 1}, (a, d)),
        ({"ends": a.now + YEAR}, (b,)),
    ]
    for number, (changes, by) in enumerate(steps, 1):
        found = draft_next(lists[-1], a.now + number * MINUTE, **changes)
        for place in by:
            found = sign_list(found, place.root)
        lists.append(found)
    # Two waited and neither can pass: a further one of the next round, signed by those who signed each.
    further = draft_next(lists[-1], a.now + 9 * MINUTE, threshold=2).model_copy(update={"round": 1})
    lists.append(sign_list(sign_list(further, a.root), b.root))
    lacking = sign_list(draft_next(lists[0], a.now, threshold=1), a.root)
    stranger = sign_list(sign_list(draft_next(lists[0], a.now, threshold=1), a.root), d.root)
    return {
        "lists": [_signed(one.document()) | {"digest": one.digest()} for one in lists],
        "not_second": [
            {"document": lacking.document(), "error": "UnknownSigner"},
            {"document": stranger.document(), "error": "UnknownSigner"},
            {"document": lists[1].document() | {"name": "Another"}, "error": "Forged"},
            {"document": lists[2].document(), "error": "Malformed"},
        ],
        "leave": _signed(leave(lists[0].community, c.root, a.now + MINUTE).document()),
    }


def rounds() -> Json:
    """What six members know of the drafts of one number, and whether who signed some of them may sign a further one.

    Four must sign. An empty error: it may be signed.
    """
    places = [Place(name) for name in ("Copenhagen", "Aarhus", "Odense", "Roskilde", "Ribe", "Viborg")]
    before = community(*places, threshold=4)
    who = [place.institution for place in places]

    def draft(turn: int, signed: tuple[int, ...] = (), **changes: Any) -> MemberList:
        found = draft_next(before, before.issued + MINUTE, **changes).model_copy(update={"round": turn})
        for number in signed:
            found = sign_list(found, places[number].root)
        return found

    split = [draft(0, (0, 1, 2), ends=YEAR * 90), draft(0, (3, 4, 5), ends=YEAR * 91)]
    out: Json = {"revoke": {who[5]: "two lists"}}
    cases: list[tuple[list[MemberList], list[int], MemberList]] = [
        ([], [], draft(0)),
        (split[:1], [0], draft(1)),
        (split, [0], draft(1)),
        (split, [0], draft(0)),
        (split, [1], draft(1, **out)),
        ([draft(0, (0, 1, 2), ends=YEAR * 90), draft(0, (3, 5), ends=YEAR * 91)], [0], draft(1)),
        ([draft(0, (0, 1), ends=YEAR * 90), draft(0, (2, 3, 5), ends=YEAR * 91)], [0], draft(1, **out)),
        ([*split, draft(1, (0, 1, 2), **out)], [0, 2], draft(1)),
        ([*split, draft(1, (0, 1, 2), **out)], [2], draft(0)),
    ]
    return {
        "before": before.document(),
        "cases": [
            {
                "known": [one.document() for one in known],
                "signed": [known[place].digest() for place in signed],
                "draft": further.document(),
                "error": refusal_of(
                    partial(
                        check_round,
                        before,
                        further,
                        known,
                        {known[one].round: known[one].digest() for one in signed},
                    )
                ),
            }
            for known, signed, further in cases
        ],
    }


def invitations() -> Json:
    """An invitation and the message that answers it."""
    host, other, guest = Place("Copenhagen"), Place("Aarhus"), Place("Odense")
    invitation = InvitationBook().write(
        host.service,
        host.keys,
        community(host, other),
        guest=guest.institution,
        id="v-vector-1",
        addresses=("https://grid.example.org/peer",),
        issued=host.now,
        lifetime=timedelta(days=3),
    )
    data = guest.write(host, write_join(invitation, guest.keys, guest.name), kind=JOIN, nonce="n-join-1")
    return {
        "invitation": _signed(invitation.document()),
        "host": host.institution,
        "guest": guest.institution,
        "read": guest.now,
        "join": data.decode(),
    }


def records() -> Json:
    """A member's record."""
    home = Place("Copenhagen")
    profile = Profile(
        name="Copenhagen",
        addresses=("https://grid.example.org/peer", "https://[2001:db8::1]:8443"),
        relays=(Place("Aarhus").institution,),
        location="København",
        rooms=(
            Room(
                kind="container",
                total=Capacity(millicores=64_000, memory=262_144, gpus=2),
                free=Capacity(millicores=8_000, memory=65_536, gpus=1),
                gpu_models=("A100",),
            ),
        ),
        images=("notebook",),
        prices=(Price(unit="core", millionths=12_000, currency="EUR"),),
        policy="teaching, up to 24 hours",
    )
    record = make_record(home.service, home.institution, profile, home.now, timedelta(hours=1))
    return {"keys": home.keys.document(), "read": home.now, "record": _signed(record.document())}


def gossip() -> Json:
    """The bodies of one talk between two members, and who keeps what in a community of 120."""
    a, b = Place("Copenhagen"), Place("Aarhus")
    first = community(a, b)
    one, other = (Gossip(place.institution, Membership(first)) for place in (a, b))
    for place, side in ((a, one), (b, other)):
        profile = Profile(name=place.name)
        side.learn(
            place.keys, make_record(place.service, place.institution, profile, a.now, timedelta(hours=1))
        )
    greet = one.greet(b.institution)
    compare = other.compare(a.institution, greet)
    give = one.answer(b.institution, compare, a.now)
    assert give is not None
    back = other.receive(a.institution, give, a.now)
    assert back is not None
    seek = Seek(community=first.community, shard=str(shard_of(b.institution)), known={})
    told = other.tell(a.institution, seek)
    members = [Place(f"place {number}").institution for number in range(120)]
    ring = Ring(members)
    return {
        "at": a.now,
        "places": [a.institution, b.institution],
        "list": first.document(),
        "talk": {
            "greet": greet.document(),
            "compare": compare.document(),
            "give": give.document(),
            "back": back.document(),
        },
        "ring": {
            "members": members,
            "shards": {who: shard_of(who) for who in members[:10]},
            "keepers": {str(shard): list(ring.keepers(shard)) for shard in range(0, SHARDS, 7)},
            "guides": sorted(ring.guides),
        },
        "look-up": {"seek": seek.document(), "give": told.document()},
    }


def text_of(vectors: Json) -> str:
    """Return vectors as the text of their file."""
    return json.dumps(vectors, indent=1, ensure_ascii=True, sort_keys=True) + "\n"


def refusal_of(call: Callable[[], object]) -> str:
    """Return the name of the error that a call is refused with; empty when it is not."""
    try:
        call()
    except (MessageRefused, Conflict) as error:
        return type(error).__name__
    return ""


def _signed(document: Json) -> Json:
    return {"document": document, "text": encode(document).decode()}


MAKERS: dict[str, Callable[[], Json]] = {
    "encoding": encoding,
    "keys": keys,
    "envelopes": envelopes,
    "communities": communities,
    "rounds": rounds,
    "invitations": invitations,
    "records": records,
    "gossip": gossip,
}


if __name__ == "__main__":
    for name, make in MAKERS.items():
        (FOLDER / f"{name}.json").write_text(text_of(make()), encoding="ascii")
