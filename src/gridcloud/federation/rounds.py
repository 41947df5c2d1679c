"""Rounds: how members who signed different lists of one number still come to agree on a further one.

A member signs one list of each round of a number, each of a later round than the one before, and a later one only once
no list that it signed before can pass any more: too many others have signed another list of that same round. Those
whom the later list puts out are not believed to keep to this, so they count as if they might still sign anything.

So when two lists of one number both pass, and more than half must sign each, somebody has signed two of one round:
either everybody who signed both of these, or at least one whom the later of the two does not put out. For say that a
member signed P, then Q of a later round, and kept to the rule. Then it saw that fewer than the threshold were left for
P besides members who stay under Q and had signed another of P's round; for P to pass, one of those signed P too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gridcloud.errors import Conflict
from gridcloud.federation.communities import MemberList
from gridcloud.federation.keys import institution_of

__all__ = ["can_pass", "check_round", "choose_round", "put_out", "signers_of"]


def signers_of(draft: MemberList) -> frozenset[str]:
    """Return the institutions whose signatures a list has."""
    return frozenset(institution_of(one.root) for one in draft.signatures)


def put_out(before: MemberList, draft: MemberList) -> frozenset[str]:
    """Return whom a list revokes that the one before it did not."""
    return frozenset(one.institution for one in draft.revoked) - {one.institution for one in before.revoked}


def can_pass(
    before: MemberList, turn: int, digest: str, drafts: Iterable[MemberList], gone: Collection[str]
) -> bool:
    """Say whether a list of the round `turn` may still be signed by enough of the members of `before`.

    `drafts`: what is known to have been signed of that number, each signature checked; `gone`: who may sign two.
    """
    same = [one for one in drafts if one.round == turn]
    has = {who for one in same if one.digest() == digest for who in signers_of(one)}
    bound = {who for one in same if one.digest() != digest for who in signers_of(one)} - has - set(gone)
    return len(before.by_institution().keys() - bound) >= before.threshold


def check_round(
    before: MemberList, draft: MemberList, drafts: Collection[MemberList], signed: Mapping[int, str]
) -> None:
    """Return when `draft` may be signed by who signed the lists with the digests `signed`, by round, of its number.

    Raises Conflict.
    """
    name = f"list {draft.number} of {draft.community}"
    if signed.get(draft.round, draft.digest()) != draft.digest():
        raise Conflict(f"another {name} was signed here before")
    if any(turn > draft.round for turn in signed):
        raise Conflict(f"another {name}, of a later round, was signed here before")
    gone = put_out(before, draft)
    for turn, digest in signed.items():
        if turn < draft.round and can_pass(before, turn, digest, drafts, gone):
            raise Conflict(f"another {name} was signed here before, and may still come into force")


def choose_round(
    before: MemberList, draft: MemberList, drafts: Collection[MemberList], signed: Mapping[int, str]
) -> int:
    """Return the round in which a new list is put forward, beside `drafts` and what was `signed` here, by round.

    It is the first, unless others wait that can pass no more, however those decide whom it puts out. What only these
    have signed stands in nobody's way. Raises Conflict when one that waits may still come into force.
    """
    gone = put_out(before, draft)
    waiting = {one.digest(): one.round for one in drafts} | {digest: turn for turn, digest in signed.items()}
    waiting.pop(draft.digest(), None)
    nobodys = {one.digest() for one in drafts if one.signatures and signers_of(one) <= gone}
    for digest, turn in waiting.items():
        if digest not in nobodys and can_pass(before, turn, digest, drafts, gone):
            raise Conflict(
                f"Another list {draft.number} of {draft.name} waits for signatures.",
                remedy="Have it signed first (gridcloud grid sign), then do this again.",
            )
    return 1 + max(waiting.values()) if waiting else draft.round
