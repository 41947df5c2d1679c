"""Who trusts each other: a numbered list of members, each list signed by enough members of the one before it.

A community's id is the fingerprint of its first list, which all founders sign. List n+1 names the digest of list n and
is signed with the root keys of at least `threshold` members of list n. So anybody who holds one list can check all
later ones, and two different lists with one number are proof of a fork: it is told, with those who signed both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gridcloud.errors import (
    Expired,
    Forged,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Misdirected,
    Revoked,
    UnknownSigner,
)
from gridcloud.federation.encoding import digest, encode
from gridcloud.federation.keys import PrivateKey, institution_of, require_version, unsigned, verify
from gridcloud.federation.model import (
    PROTOCOL,
    Count,
    Document,
    Institution,
    Key,
    Signature,
    Time,
    Title,
    Version,
)

__all__ = [
    "MAXIMUM_MEMBERS",
    "CommunityId",
    "FormerMember",
    "Leave",
    "ListSignature",
    "Member",
    "MemberList",
    "check_first",
    "check_next",
    "draft_first",
    "draft_next",
    "leave",
    "read_leave",
    "read_list",
    "sign_list",
]

MAXIMUM_MEMBERS = 2000
"""Members of one community: a list of as many, signed by half of them, still fits into one message."""

CommunityId = Annotated[str, StringConstraints(pattern=r"^c-[0-9a-f]{40}$")]
"""A community: 160 bits of the SHA-256 of its first list."""


class Member(Document):
    """An institution in a community."""

    root: Key
    name: Title
    joined: Time

    @property
    def institution(self) -> str:
        """The id of the institution."""
        return institution_of(self.root)


class FormerMember(Document):
    """An institution that was put out, and why: its root key never comes back."""

    institution: Institution
    since: Time
    why: Title


class ListSignature(Document):
    """The signature of one member's root key."""

    root: Key
    signature: Signature


class MemberList(Document):
    """One version of the members of a community."""

    version: Version
    type: Literal["members"]
    community: CommunityId
    name: Title
    number: Annotated[Count, Field(ge=1)]
    """1 for the first list, then one more each."""
    round: Annotated[Count, Field(le=1_000_000)]
    """0, or a later one where lists of this number were signed that cannot pass any more: see `rounds`."""
    previous: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_-]{43})?$")]
    """The digest of the list before, without its signatures; empty in the first."""
    issued: Time
    ends: Time
    """When the community ends by itself; 0: never."""
    threshold: Annotated[Count, Field(ge=1, le=MAXIMUM_MEMBERS)]
    """How many members must sign the next list."""
    members: tuple[Member, ...] = Field(min_length=1, max_length=MAXIMUM_MEMBERS)
    revoked: tuple[FormerMember, ...] = Field(max_length=MAXIMUM_MEMBERS)
    signatures: tuple[ListSignature, ...] = Field(max_length=MAXIMUM_MEMBERS)

    def digest(self) -> str:
        """Return the digest of what is signed: who has signed does not change it."""
        return digest(unsigned(self.document()))

    def by_institution(self) -> dict[str, Member]:
        """Return the members by their ids."""
        return {member.institution: member for member in self.members}


class Leave(Document):
    """A member's own word that it leaves, which nobody has to agree to."""

    version: Version
    type: Literal["leave"]
    community: CommunityId
    root: Key
    issued: Time
    signature: Signature

    @property
    def institution(self) -> str:
        """Who leaves."""
        return institution_of(self.root)


def draft_first(
    name: str, members: Iterable[Member], threshold: int, issued: int, ends: int = 0
) -> MemberList:
    """Return the first list of a new community, which every member has yet to sign. Times in milliseconds."""
    return _draft(
        {
            "version": PROTOCOL,
            "type": "members",
            "name": name,
            "number": 1,
            "round": 0,
            "previous": "",
            "issued": issued,
            "ends": ends,
            "threshold": threshold,
            "members": _sorted(members),
            "revoked": [],
        }
    )


def draft_next(
    before: MemberList,
    issued: int,
    *,
    join: Iterable[Member] = (),
    leave: Iterable[str] = (),
    revoke: Mapping[str, str] | None = None,
    threshold: int | None = None,
    ends: int | None = None,
) -> MemberList:
    """Return the list after `before`, which `before.threshold` of the members of `before` have yet to sign.

    `leave` names institutions, `revoke` institutions with the reason. Raises InvalidRequest when a member to be put out
    is none, when one to be taken in was revoked, or when the threshold would be larger than the number of members.
    """
    revoke = dict(revoke or {})
    members = before.by_institution()
    gone = {*leave, *revoke}
    if strangers := gone - set(members):
        raise InvalidRequest(f"{min(strangers)} is not a member of {before.name}")
    kept = {institution: member for institution, member in members.items() if institution not in gone}
    former = {one.institution: one.document() for one in before.revoked}
    for member in join:
        if member.institution in former or member.institution in revoke:
            raise InvalidRequest(
                f"{member.name} was revoked from {before.name}",
                remedy="It needs a new root key to come back.",
            )
        kept[member.institution] = member
    former |= {who: {"institution": who, "since": issued, "why": why} for who, why in revoke.items()}
    return _draft(
        unsigned(before.document())
        | {
            "number": before.number + 1,
            "round": 0,
            "previous": before.digest(),
            "issued": max(issued, before.issued),
            "ends": before.ends if ends is None else ends,
            "threshold": before.threshold if threshold is None else threshold,
            "members": _sorted(kept.values()),
            "revoked": [former[who] for who in sorted(former)],
        }
    )


def sign_list(draft: MemberList, root: PrivateKey) -> MemberList:
    """Return the list with the signature of one more root key; one that signed already signs nothing new.

    Sign at most one list of each round of a number: see `membership.Membership.may_sign`.
    """
    others = {one.root: one for one in draft.signatures if one.root != root.public}
    mine = ListSignature(root=root.public, signature=root.sign("members", unsigned(draft.document())))
    signatures = tuple(one for _, one in sorted((others | {root.public: mine}).items()))
    return draft.model_copy(update={"signatures": signatures})


def read_list(document: Mapping[str, Any]) -> MemberList:
    """Return the list in a document, whose form is checked here and whose signatures `check_next` checks.

    Raises WrongVersion, Malformed.
    """
    require_version(document)
    found = MemberList.of(document)
    ids = [member.institution for member in found.members]
    if ids != sorted(set(ids)):
        raise Malformed("the members of a list are in order of their ids, each once")
    former = [one.institution for one in found.revoked]
    if former != sorted(set(former)) or set(former) & set(ids):
        raise Malformed("the revoked members of a list are in order, each once, and not members")
    signers = [one.root for one in found.signatures]
    if signers != sorted(set(signers)):
        raise Malformed("the signatures of a list are in order of their keys, each once")
    if found.threshold > len(ids):
        raise Malformed(
            f"{found.threshold} members would have to sign the next list, and there are {len(ids)}"
        )
    return found


def check_first(found: MemberList) -> None:
    """Return when this is the true first list of its community: its id is its fingerprint, and all members signed.

    Raises Malformed, Forged, UnknownSigner.
    """
    if found.number != 1 or found.round or found.previous or found.revoked:
        raise Malformed(f"list {found.number} of {found.community} is not a first list")
    if found.community != _fingerprint(unsigned(found.document())):
        raise Forged(f"this is not the first list of {found.community}: the id is not its fingerprint")
    _check_signatures(found, found, len(found.members))


def check_next(before: MemberList, after: MemberList) -> None:
    """Return when `after` is a true successor of `before`.

    Raises Misdirected for another community, Malformed when it does not follow, Revoked when somebody revoked comes
    back, Expired when the community had ended, Forged for a wrong signature, UnknownSigner when too few members signed.
    """
    if after.community != before.community:
        raise Misdirected(f"the list is of {after.community}, not of {before.community}")
    if after.number != before.number + 1 or after.previous != before.digest():
        raise Malformed(
            f"list {after.number} of {after.community} does not follow on list {before.number} held here"
        )
    if after.issued < before.issued:
        raise Malformed(
            f"list {after.number} of {after.community} says that it is older than the one before it"
        )
    if before.ends and after.issued >= before.ends:
        raise Expired(f"{before.community} had ended when list {after.number} was made")
    still = {one.institution: one for one in after.revoked}
    for one in before.revoked:
        if still.get(one.institution) != one:
            raise Revoked(f"list {after.number} takes back that {one.institution} was revoked")
    _check_signatures(after, before, before.threshold)


def leave(community: str, root: PrivateKey, issued: int) -> Leave:
    """Return a member's signed word that it leaves a community."""
    document = {
        "version": PROTOCOL,
        "type": "leave",
        "community": community,
        "root": root.public,
        "issued": issued,
    }
    return Leave.of(document | {"signature": root.sign("leave", document)})


def read_leave(document: Mapping[str, Any]) -> Leave:
    """Return the word of a member that leaves, once its signature holds; raises WrongVersion, Malformed, Forged."""
    require_version(document)
    found = Leave.of(document)
    verify(found.root, found.signature, "leave", document)
    return found


def _draft(document: dict[str, Any]) -> MemberList:
    if document["number"] == 1:
        document["community"] = _fingerprint(document)
    try:
        return read_list(document | {"signatures": []})
    except MessageRefused as error:
        raise InvalidRequest(f"this cannot be a list of members: {error.message}") from error


def _sorted(members: Iterable[Member]) -> list[dict[str, Any]]:
    return [member.document() for member in sorted(members, key=lambda member: member.institution)]


def _fingerprint(document: Mapping[str, Any]) -> str:
    bare = {key: value for key, value in document.items() if key != "community"}
    return "c-" + hashlib.sha256(b"gridcloud:community:1\n" + encode(bare)).hexdigest()[:40]


def _check_signatures(found: MemberList, before: MemberList, needed: int) -> None:
    allowed = {member.root for member in before.members}
    document = unsigned(found.document())
    count = 0
    for one in found.signatures:
        if one.root not in allowed:
            raise UnknownSigner(f"{institution_of(one.root)} signed list {found.number} and is not a member")
        verify(one.root, one.signature, "members", document)
        count += 1
    if count < needed:
        raise UnknownSigner(
            f"{count} members signed list {found.number} of {found.community}, and {needed} are needed"
        )
