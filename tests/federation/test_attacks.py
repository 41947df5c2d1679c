"""The attack table: messages that must not be accepted, each refused by name, each told to the log."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gridcloud.errors import (
    ClockSkew,
    Expired,
    Forged,
    Malformed,
    MessageRefused,
    Misdirected,
    Replayed,
    Revoked,
    TooLongLived,
    UnknownSigner,
    WrongVersion,
    from_problem,
)
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.envelopes import Receiver, ReplayCache, Signers
from gridcloud.federation.keys import make_key_list, revoke_service_key
from tests.federation.scenes import Place, key, signers
from tests.house.source import ROOT


class Scene:
    """A home, its partner who receives, a third member, a former member and a stranger."""

    def __init__(self) -> None:
        self.home = Place("Copenhagen")
        self.partner = Place("Aarhus")
        self.third = Place("Odense")
        self.former = Place("Roskilde")
        self.stranger = Place("Elsewhere")
        self.signers = Signers(
            {place.institution: place.keys for place in (self.home, self.partner, self.third)},
            {self.former.institution: "revoked in version 3 of the member list"},
        )

    def written(self, **changes: Any) -> bytes:
        return self.home.write(self.partner, **changes)

    def changed(self, **changes: Any) -> bytes:
        """Return a true message with fields changed by somebody on the way, who has no key."""
        return encode(decode(self.written()) | changes)

    def late(self, seconds: float, data: bytes) -> bytes:
        """Return `data`, received so much later."""
        self.partner.clock._elapsed += seconds
        return data

    def early(self, seconds: float) -> bytes:
        self.home.clock._elapsed += seconds
        return self.written()

    def replayed(self, seconds: float = 0) -> bytes:
        data = self.written(lifetime=timedelta(minutes=5))
        self.partner.receiver.open(data, self.signers)
        return self.late(seconds, data)

    def replayed_after_loss(self) -> bytes:
        data = self.written()
        self.partner.receiver.open(data, self.signers)
        cache = ReplayCache.lost(self.partner.now)
        self.partner.receiver = Receiver(self.partner.institution, self.partner.clock, cache)
        return data

    def other_signature(self) -> bytes:
        first, second = decode(self.written()), decode(self.written())
        return encode(first | {"signature": second["signature"]})

    def with_revoked_key(self) -> bytes:
        keys = revoke_service_key(self.home.root, self.home.keys, self.home.service.public, self.home.now)
        self.signers = Signers({**self.signers.keys, self.home.institution: keys})
        return self.written()

    def with_no_keys(self) -> bytes:
        keys = make_key_list(self.home.root, 2, self.home.now, ())
        self.signers = Signers({**self.signers.keys, self.home.institution: keys})
        return self.written()


Attack = tuple[str, Callable[[Scene], bytes], type[MessageRefused], str]

ATTACKS: list[Attack] = [
    ("replayed at once", lambda s: s.replayed(), Replayed, "accepted before"),
    ("replayed in its last moment", lambda s: s.replayed(359.999), Replayed, "accepted before"),
    ("replayed after its time", lambda s: s.replayed(360), Expired, "over since 60 s"),
    ("replayed after the memory was lost", lambda s: s.replayed_after_loss(), Replayed, "lost its memory"),
    ("misdirected", lambda s: s.home.write(s.third), Misdirected, "the message is for"),
    (
        "redirected",
        lambda s: encode(decode(s.home.write(s.third)) | {"to": s.partner.institution}),
        Forged,
        ".",
    ),
    ("sent back", lambda s: s.partner.write(s.partner), Misdirected, "from ourselves"),
    ("expired", lambda s: s.late(181, s.written()), Expired, "clock of .* is 181 s behind"),
    ("from a clock an hour ahead", lambda s: s.early(3600), ClockSkew, "3600 s ahead"),
    ("from a clock an hour behind", lambda s: s.late(3600, s.written()), Expired, "3600 s behind"),
    ("valid for a year", lambda s: s.written(lifetime=timedelta(days=365)), TooLongLived, "31536000 s"),
    ("valid for no time", lambda s: s.written(lifetime=timedelta(0)), Expired, "ends before"),
    ("expiry put off", lambda s: s.changed(expires=s.home.now + 240_000), Forged, "."),
    ("body changed", lambda s: s.changed(body={"words": "send money"}), Forged, "changed on the way"),
    ("kind changed", lambda s: s.changed(kind="lease.accept"), Forged, "."),
    ("nonce changed", lambda s: s.changed(nonce="n-another"), Forged, "."),
    ("put as an answer", lambda s: s.changed(answers="n-question"), Forged, "."),
    ("signature of another message", lambda s: s.other_signature(), Forged, "."),
    ("signature of zeros", lambda s: s.changed(signature="A" * 86), Forged, "."),
    (
        "forged with a key of its own",
        lambda s: s.written(signing=key("thief")),
        UnknownSigner,
        "not a key of",
    ),
    ("forged by another member", lambda s: s.written(signing=s.third.service), UnknownSigner, "not a key of"),
    ("forged key name", lambda s: s.changed(key=key("thief").public), UnknownSigner, "not a key of"),
    ("signed by the root key", lambda s: s.written(signing=s.home.root), UnknownSigner, "not a key of"),
    ("a stranger's", lambda s: s.stranger.write(s.partner), UnknownSigner, "not a member of any community"),
    (
        "a stranger as a member",
        lambda s: s.stranger.write(s.partner, sender=s.home.institution),
        UnknownSigner,
        ".",
    ),
    ("a member as a stranger", lambda s: s.changed(**{"from": s.stranger.institution}), UnknownSigner, "."),
    (
        "a former member's",
        lambda s: s.former.write(s.partner),
        Revoked,
        "no longer a member: revoked in version 3",
    ),
    ("signed with a revoked key", lambda s: s.with_revoked_key(), Revoked, "was revoked"),
    ("signed with a key taken off the list", lambda s: s.with_no_keys(), UnknownSigner, "not a key of"),
    ("of a later version", lambda s: s.changed(version=2, more="field"), WrongVersion, "version 2"),
    ("of version 0", lambda s: s.changed(version=0), WrongVersion, "version 0"),
    ("without a version", lambda s: encode({"kind": "test.hello"}), Malformed, "version"),
    ("with a field more", lambda s: s.changed(more=1), Malformed, "more"),
    ("with a time as text", lambda s: s.changed(issued="now"), Malformed, "issued"),
    ("with a line feed in the log", lambda s: s.changed(**{"from": "x\nroot accepted"}), Malformed, "from"),
    ("not in canonical form", lambda s: s.written().replace(b'"kind":', b'"kind": '), Malformed, "canonical"),
    ("with a key twice", lambda s: b'{"version":1,"version":1}', Malformed, "twice"),
    ("cut off", lambda s: s.written()[:-1], Malformed, "not JSON"),
    ("not text at all", lambda s: bytes(range(256)), Malformed, "UTF-8"),
    ("of 1 MiB and more", lambda s: b" " * (1 << 20) + s.written(), Malformed, "bytes"),
    ("nested without end", lambda s: b'{"body":' + b"[" * 100_000, Malformed, "nested|not JSON"),
]


@pytest.mark.parametrize(
    ("name", "attack", "expected", "why"), ATTACKS, ids=[attack[0] for attack in ATTACKS]
)
def test_it_is_refused_and_told(
    name: str, attack: Callable[[Scene], bytes], expected: type[MessageRefused], why: str
) -> None:
    scene = Scene()
    data = attack(scene)
    known = len(scene.partner.receiver.replays)
    with pytest.raises(MessageRefused, match=why) as refused:
        scene.partner.receiver.open(data, scene.signers)
    error = refused.value
    assert type(error) is expected
    assert error.who == "somebody unknown" or len(error.who) == 32
    assert error.what
    assert error.why
    line = f"{error.who}: {error.what}: {error.why}"
    assert line.isprintable(), "nobody writes a line of his own into the log"
    assert len(line) < 600
    assert len(scene.partner.receiver.replays) == known, "what is refused fills no memory"


def test_a_refusal_is_told_alike_across_the_wire() -> None:
    """The service answers with a problem document; who reads it has the same error, with the same words for its log."""
    for name, attack, expected, _ in ATTACKS:
        scene = Scene()
        data = attack(scene)
        with pytest.raises(expected) as refused:
            scene.partner.receiver.open(data, scene.signers)
        told = from_problem(refused.value.problem())
        assert type(told) is expected, name
        assert isinstance(told, MessageRefused)
        assert (told.who, told.what, told.why) == (refused.value.who, refused.value.what, refused.value.why)
        assert told.status in {400, 403}


def test_an_answer_to_another_question_is_refused() -> None:
    home, partner = Place("Copenhagen"), Place("Aarhus")
    data = home.write(partner, answers="q-other")
    with pytest.raises(Misdirected, match="answers q-other, not q-mine"):
        partner.receiver.open(data, signers(home), answers="q-mine")


def test_every_refusal_has_an_attack() -> None:
    """Forked is a matter of documents, not of messages: see the tests of keys and communities."""
    tried = {attack[2].__name__ for attack in ATTACKS}
    assert tried == {kind.__name__ for kind in MessageRefused.__subclasses__()} - {"Forked"}


def test_nothing_at_all_is_accepted() -> None:
    accepted = 0
    for _, attack, _, _ in ATTACKS:
        scene = Scene()
        data = attack(scene)
        try:
            scene.partner.receiver.open(data, scene.signers)
            accepted += 1
        except MessageRefused:
            pass
    assert accepted == 0


def test_the_page_lists_these_attacks() -> None:
    page = (ROOT / "docs" / "contracts" / "federation-protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \|$", page, re.MULTILINE)
    assert rows == [(name, expected.__name__) for name, _, expected, _ in ATTACKS]
