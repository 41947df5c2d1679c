"""How an institution comes into a community: invited once, by name of its root key, for a few days.

Two people talk: the guest reads its fingerprint (`keys.spoken`) to the host, the host reads its own to the guest. The
host writes an invitation for that fingerprint; whoever else finds it can do nothing with it. The guest checks it
against the fingerprint that it heard, and answers with a message of the kind `community.join`, accepted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field

from gridcloud.errors import (
    Expired,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Misdirected,
    Replayed,
    Revoked,
    UnknownSigner,
)
from gridcloud.federation.communities import CommunityId, Member, MemberList
from gridcloud.federation.encoding import Json, decode
from gridcloud.federation.envelopes import Envelope, Receiver, Signers, who_and_what
from gridcloud.federation.keys import (
    KeyList,
    PrivateKey,
    check_service_key,
    read_key_list,
    require_version,
    verify,
)
from gridcloud.federation.membership import Membership
from gridcloud.federation.model import (
    PROTOCOL,
    Address,
    Digest,
    Document,
    Identifier,
    Institution,
    Key,
    Signature,
    Time,
    Title,
    Version,
)

__all__ = [
    "JOIN",
    "LONGEST",
    "Invitation",
    "InvitationBook",
    "begin_membership",
    "read_invitation",
    "write_join",
]

JOIN = "community.join"
"""The kind of the message that a guest answers an invitation with."""
LONGEST = timedelta(days=30)
"""How long an invitation is valid at most."""
MAXIMUM_OPEN = 1000
"""Invitations that may be open at a time."""


class Invitation(Document):
    """What a host gives to a guest, by any way: it is no secret."""

    version: Version
    type: Literal["invitation"]
    id: Identifier
    community: CommunityId
    name: Title
    members: Digest
    """The digest of the list of members that the guest may trust to begin with."""
    host: dict[str, Any]
    """The host's key list."""
    key: Key
    """The service key of the host that signed."""
    guest: Institution
    addresses: tuple[Address, ...] = Field(max_length=8)
    """Where the host is reached."""
    issued: Time
    expires: Time
    signature: Signature

    @property
    def inviter(self) -> str:
        """The institution that invites."""
        return read_key_list(self.host).institution


class InvitationBook:
    """The invitations that this institution wrote, and what became of each. Store `state()` before it answers."""

    def __init__(self) -> None:
        self._written: dict[str, Invitation] = {}
        self._spent: dict[str, str] = {}
        self._guests: dict[str, KeyList] = {}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> InvitationBook:
        """Return what `state` wrote."""
        book = cls()
        book._written = {one["id"]: Invitation.of(one) for one in state["written"]}
        book._spent = dict(state["spent"])
        book._guests = {who: KeyList.of(one) for who, one in state["guests"].items()}
        return book

    def state(self) -> Json:
        """Return what is known, as a document to be stored."""
        return {
            "written": [one.document() for one in self._written.values()],
            "spent": dict(self._spent),
            "guests": {who: keys.document() for who, keys in self._guests.items()},
        }

    def write(
        self,
        signing: PrivateKey,
        keys: KeyList,
        current: MemberList,
        *,
        guest: str,
        id: str,
        addresses: tuple[str, ...],
        issued: int,
        lifetime: timedelta,
    ) -> Invitation:
        """Return a new invitation into the community of `current` for the root key with the fingerprint `guest`.

        `signing` is a service key on `keys`, our own list; `issued` in milliseconds. Raises InvalidRequest when the
        guest is a member or was put out, `lifetime` is longer than `LONGEST`, `id` was used, or too many are open.
        """
        if not timedelta(0) < lifetime <= LONGEST:
            raise InvalidRequest(f"an invitation is valid for up to {LONGEST.days} days")
        if guest == keys.institution:
            raise InvalidRequest(
                "this is our own fingerprint", remedy="Give the one that the guest read to you."
            )
        if guest in current.by_institution():
            named = current.by_institution()[guest].name
            raise InvalidRequest(f"{named} ({guest}) is a member of {current.name} already")
        if any(one.institution == guest for one in current.revoked):
            raise InvalidRequest(f"{guest} was put out of {current.name}, which is for good")
        if id in self._written:
            raise InvalidRequest(f"the invitation {id} was written before")
        self.forget(issued)
        if len(self._written) >= MAXIMUM_OPEN:
            raise InvalidRequest(f"{MAXIMUM_OPEN} invitations are open", remedy="Withdraw some.")
        document = {
            "version": PROTOCOL,
            "type": "invitation",
            "id": id,
            "community": current.community,
            "name": current.name,
            "members": current.digest(),
            "host": keys.document(),
            "key": signing.public,
            "guest": guest,
            "addresses": list(addresses),
            "issued": issued,
            "expires": issued + lifetime // timedelta(milliseconds=1),
        }
        try:
            written = Invitation.of(document | {"signature": signing.sign("invitation", document)})
        except Malformed as error:
            raise InvalidRequest(f"this cannot be an invitation: {error.message}") from error
        self._written[id] = written
        return written

    def withdraw(self, id: str) -> None:
        """Make an invitation worthless; one that is unknown or used already stays as it is."""
        if id in self._written:
            self._spent.setdefault(id, "it was withdrawn")

    def open_join(self, receiver: Receiver, data: bytes, now: int) -> tuple[Envelope, Member, KeyList]:
        """Return the message of a guest, whom to take in, and its keys; the invitation is used up herewith.

        The guest is a stranger until now: its message is opened with the key list that it brings, whose root key must
        have the fingerprint that was invited. Raises a subclass of MessageRefused whose details name who and what:
        Replayed for the second use, Revoked when it was withdrawn, Expired, UnknownSigner for an invitation that is not
        ours or for anybody but the guest.
        """
        found: Invitation | None = None
        document: Json = {}
        try:
            document = decode(data)
            body = _join_body(document)
            found = self._open_invitation(str(body["invitation"]), now)
            keys = read_key_list(body["keys"])
            if keys.institution != found.guest:
                raise UnknownSigner(
                    f"the invitation {found.id} is for {found.guest}, and {keys.institution} used it"
                )
            envelope = receiver.open(data, Signers({found.guest: keys}))
            member = Member.of({"root": keys.root, "name": body["name"], "joined": now})
        except MessageRefused as refusal:
            refusal.details = who_and_what(document) | refusal.details
            if found:
                refusal.details["what"] = f"{JOIN} by the invitation {found.id}"
            raise
        self._spent[found.id] = f"{found.guest} used it"
        self._guests[found.guest] = keys
        return envelope, member, keys

    def guests(self) -> dict[str, KeyList]:
        """Return the keys of guests that were accepted; they are listened to once enough members signed them in."""
        return dict(self._guests)

    def forget(self, now: int) -> None:
        """Forget invitations that are over, used or not: what is unknown is refused like what is used."""
        over = [one for one in self._written.values() if one.expires <= now]
        for one in over:
            del self._written[one.id]
            self._spent.pop(one.id, None)
            self._guests.pop(one.guest, None)

    def _open_invitation(self, id: str, now: int) -> Invitation:
        found = self._written.get(id)
        if found is None:
            raise UnknownSigner("there is no such invitation of ours, or it is long over")
        if id in self._spent:
            spent = self._spent[id]
            kind = Revoked if "withdrawn" in spent else Replayed
            raise kind(f"the invitation {id} works no more: {spent}")
        if found.expires <= now:
            raise Expired(f"the invitation {id} is over since {(now - found.expires) // 1000} s")
        return found


def read_invitation(document: Mapping[str, Any], guest: str, inviter: str, now: int) -> Invitation:
    """Return an invitation that was given to us, `guest`, by the institution whose fingerprint we heard, `inviter`.

    Raises WrongVersion, Malformed; Misdirected when it is for another guest; UnknownSigner when another host wrote it;
    Forged, Expired, Revoked.
    """
    require_version(document)
    found = Invitation.of(document)
    if found.guest != guest:
        raise Misdirected(f"the invitation is for {found.guest}, and this is {guest}")
    if inviter == guest:
        raise UnknownSigner(
            "the fingerprint is our own", remedy="Give the one that the inviting institution read to you."
        )
    keys = read_key_list(found.host)
    if keys.institution != inviter:
        raise UnknownSigner(
            f"the invitation is from {keys.institution}, and the fingerprint that was given is that of {inviter}",
            remedy="Have it read to you again; if it stays so, somebody else wrote the invitation.",
        )
    check_service_key(keys, found.key, now)
    verify(found.key, found.signature, "invitation", document)
    if found.expires <= now:
        raise Expired(f"the invitation {found.id} is over since {(now - found.expires) // 1000} s")
    if found.expires - found.issued > LONGEST // timedelta(milliseconds=1):
        raise Malformed(f"the invitation {found.id} is valid for more than {LONGEST.days} days")
    return found


def write_join(invitation: Invitation, keys: KeyList, name: str) -> Json:
    """Return the body of the message that answers an invitation; `name`: what the institution is called."""
    return {"invitation": invitation.id, "keys": keys.document(), "name": name}


def begin_membership(invitation: Invitation, start: MemberList) -> Membership:
    """Return the community as the guest knows it: it trusts the list that its invitation names.

    Lists after it are offered to what is returned. Raises UnknownSigner when `start` is another list.
    """
    if start.community != invitation.community or start.digest() != invitation.members:
        raise UnknownSigner(
            f"list {start.number} of {start.community} is not the one that the invitation names"
        )
    return Membership(start)


def _join_body(document: Json) -> dict[str, Any]:
    body = document.get("body")
    if document.get("kind") != JOIN or not isinstance(body, dict):
        raise Malformed(f"the message is not of the kind {JOIN}")
    require_version(document)
    if set(body) != {"invitation", "keys", "name"} or not isinstance(body["keys"], dict):
        raise Malformed(f"the body of {JOIN} holds invitation, keys and name")
    return body
