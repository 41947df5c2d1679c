"""An invitation works once, in time, for the one institution whose fingerprint was read over the telephone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gridcloud.errors import (
    Expired,
    Forged,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Misdirected,
    Replayed,
    Revoked,
    UnknownSigner,
    WrongVersion,
)
from gridcloud.federation.communities import draft_next, sign_list
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.invitations import (
    JOIN,
    Invitation,
    InvitationBook,
    begin_membership,
    read_invitation,
    write_join,
)
from gridcloud.federation.keys import heard, revoke_service_key, spoken
from gridcloud.federation.membership import Membership, signers
from tests.federation.scenes import Place, community


class Scene:
    def __init__(self) -> None:
        self.host, self.other, self.guest, self.thief = map(
            Place, ("Copenhagen", "Aarhus", "Odense", "Elsewhere")
        )
        self.community = Membership(community(self.host, self.other))
        self.book = InvitationBook()
        self.invitation = self.invite("v-1")

    def invite(self, identifier: str, **changes: Any) -> Invitation:
        told: dict[str, Any] = {
            "guest": heard(spoken(self.guest.institution)),
            "id": identifier,
            "addresses": ("https://grid.example.org:8443/peer",),
            "issued": self.host.now,
            "lifetime": timedelta(days=3),
        } | changes
        return self.book.write(self.host.service, self.host.keys, self.community.current, **told)

    def read(self, **changes: Any) -> Invitation:
        document = decode(encode(self.invitation.document())) | changes
        return read_invitation(document, self.guest.institution, self.host.institution, self.guest.now)

    def join(self, place: Place | None = None, **changes: Any) -> bytes:
        who = place or self.guest
        body = write_join(self.invitation, who.keys, who.name) | changes
        return who.write(self.host, body, kind=JOIN)

    def open(self, data: bytes) -> Any:
        return self.book.open_join(self.host.receiver, data, self.host.now)

    async def later(self, **span: float) -> None:
        for place in (self.host, self.other, self.guest, self.thief):
            await place.clock.advance(timedelta(**span).total_seconds())


def test_a_guest_becomes_a_member() -> None:
    scene = Scene()
    invitation = scene.read()
    assert invitation.inviter == scene.host.institution
    envelope, member, keys = scene.open(scene.join())
    assert (envelope.sender, member.name, keys) == (scene.guest.institution, "Odense", scene.guest.keys)
    known = {place.institution: place.keys for place in (scene.host, scene.other)} | scene.book.guests()
    with pytest.raises(UnknownSigner):
        scene.host.receiver.open(
            scene.guest.write(scene.host), signers([scene.community], known, scene.host.now)
        )
    found = draft_next(scene.community.current, scene.host.now, join=[member])
    for place in (scene.host, scene.other):
        found = sign_list(found, place.root)
    guest = begin_membership(invitation, scene.community.current)
    for membership in (scene.community, guest):
        membership.offer(found)
    scene.host.receiver.open(scene.guest.write(scene.host), signers([scene.community], known, scene.host.now))
    scene.guest.receiver.open(scene.host.write(scene.guest), signers([guest], known, scene.guest.now))


def test_the_guest_trusts_no_other_list() -> None:
    scene = Scene()
    with pytest.raises(UnknownSigner, match="not the one"):
        begin_membership(scene.invitation, community(scene.thief, threshold=1))


def twice(scene: Scene) -> bytes:
    scene.open(scene.join())
    return scene.join()


def twice_after_restart(scene: Scene) -> bytes:
    scene.open(scene.join())
    scene.book = InvitationBook.of(decode(encode(scene.book.state())))
    return scene.join()


def withdrawn(scene: Scene) -> bytes:
    scene.book.withdraw("v-1")
    return scene.join()


def late(scene: Scene) -> bytes:
    for place in (scene.host, scene.guest):
        place.clock._elapsed += 3 * 86400
    return scene.join()


def forgotten(scene: Scene) -> bytes:
    data = late(scene)
    scene.book.forget(scene.host.now)
    return data


@pytest.mark.parametrize(
    ("attack", "expected", "why"),
    [
        (twice, Replayed, "works no more"),
        (twice_after_restart, Replayed, "used it"),
        (withdrawn, Revoked, "withdrawn"),
        (late, Expired, "over since 0 s"),
        (forgotten, UnknownSigner, "no such invitation"),
        (lambda s: s.join(s.thief), UnknownSigner, "is for"),
        (lambda s: s.join(s.thief, keys=s.guest.keys.document()), UnknownSigner, "not a member"),
        (lambda s: s.guest.write(s.host, {}, kind=JOIN), Malformed, "holds invitation"),
        (lambda s: s.join(invitation="v-2"), UnknownSigner, "no such invitation"),
        (lambda s: s.join(keys=s.guest.keys.document() | {"serial": 9}), Forged, "."),
        (lambda s: s.join(name="Odense\nroot: accepted"), Malformed, "name"),
        (lambda s: s.guest.write(s.host), Malformed, "not of the kind"),
        (
            lambda s: s.guest.write(s.other, write_join(s.invitation, s.guest.keys, "O"), kind=JOIN),
            Misdirected,
            "is for",
        ),
        (lambda s: s.join()[:-2], Malformed, "JSON"),
    ],
)
def test_it_is_refused_and_told(
    attack: Callable[[Scene], bytes], expected: type[MessageRefused], why: str
) -> None:
    scene = Scene()
    data = attack(scene)
    before = scene.book.state()
    with pytest.raises(MessageRefused, match=why) as refused:
        scene.open(data)
    assert type(refused.value) is expected
    assert f"{refused.value.who}: {refused.value.what}: {refused.value.why}".isprintable()
    assert scene.book.state() == before, "a refused message uses no invitation up"


def test_a_stolen_invitation_still_works_for_the_guest() -> None:
    scene = Scene()
    with pytest.raises(UnknownSigner) as refused:
        scene.open(scene.join(scene.thief))
    assert refused.value.who == scene.thief.institution
    assert refused.value.what == "community.join by the invitation v-1"
    scene.open(scene.join())
    scene.book.withdraw("v-1")
    with pytest.raises(Replayed):
        scene.open(scene.join())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, WrongVersion),
        ({"community": "c-" + "0" * 40}, Forged),
        ({"members": "A" * 43}, Forged),
        ({"expires": 253_402_300_799_999}, Forged),
        ({"addresses": ["https://evil.example.org"]}, Forged),
        ({"addresses": ["http://grid.example.org"]}, Malformed),
        ({"addresses": ["https://user:word@grid.example.org"]}, Malformed),
        ({"host": Place("Elsewhere").keys.document()}, UnknownSigner),
        ({"key": Place("Elsewhere").service.public}, UnknownSigner),
        ({"guest": Place("Elsewhere").institution}, Misdirected),
        ({"more": 1}, Malformed),
    ],
)
def test_the_guest_notices_every_change(change: dict[str, Any], expected: type[MessageRefused]) -> None:
    with pytest.raises(MessageRefused) as refused:
        Scene().read(**change)
    assert type(refused.value) is expected


async def test_the_guest_reads_it_in_time_and_only_from_a_good_key() -> None:
    scene = Scene()
    await scene.later(days=3)
    with pytest.raises(Expired):
        scene.read()
    scene = Scene()
    keys = revoke_service_key(scene.host.root, scene.host.keys, scene.host.service.public, scene.host.now)
    with pytest.raises(Revoked):
        scene.read(host=keys.document())


def test_whose_fingerprint_was_typed_by_mistake_is_told() -> None:
    scene = Scene()
    document = scene.invitation.document()
    with pytest.raises(UnknownSigner, match="our own"):
        read_invitation(document, scene.guest.institution, scene.guest.institution, scene.guest.now)
    with pytest.raises(
        UnknownSigner, match=f"from {scene.host.institution}.*that of {scene.other.institution}"
    ):
        read_invitation(document, scene.guest.institution, scene.other.institution, scene.guest.now)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lifetime": timedelta(days=31)}, "30 days"),
        ({"lifetime": timedelta(0)}, "30 days"),
        ({"guest": Place("Aarhus").institution}, "is a member of .* already"),
        ({"guest": Place("Copenhagen").institution}, "our own"),
        ({"guest": "nobody"}, "guest"),
        ({"id": "v-1"}, "before"),
        ({"addresses": ("ftp://x",)}, "addresses"),
    ],
)
def test_what_cannot_be_an_invitation_is_not_written(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        Scene().invite("v-2", **changes)
