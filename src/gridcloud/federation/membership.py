"""What one institution knows of the communities it is in: the newest list of each, who left, and forks.

A small state machine: lists and leaves are offered to it in any order, any number of times, by anybody; what it holds
afterwards is what was true. Its state is a document, so that a restart goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gridcloud.errors import Conflict, Forked, Malformed, Misdirected, UnknownSigner
from gridcloud.federation.communities import (
    Leave,
    Member,
    MemberList,
    check_first,
    check_next,
    read_leave,
    read_list,
)
from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.keys import KeyList, institution_of
from gridcloud.federation.rounds import check_round

__all__ = ["Membership", "communities_of", "forget_ended", "signer", "signers"]

REMEMBERED = 256
"""Lists of one community that are kept: a member that missed more is invited again."""


class Membership:
    """One community as one institution knows it."""

    def __init__(self, first: MemberList) -> None:
        """Begin with a list that is trusted: the first (which is checked), or the one that an invitation names."""
        if first.number == 1:
            check_first(first)
        self._set_lists([first])
        self._left: dict[str, Leave] = {}
        self._signed: dict[tuple[int, int], str] = {}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Membership:
        """Return what `state` wrote."""
        membership = cls.__new__(cls)
        membership._set_lists([read_list(one) for one in state["lists"]])
        membership._left = {one.institution: one for one in map(read_leave, state["left"])}
        membership._signed = {(number, turn): text for number, turn, text in state["signed"]}
        return membership

    def state(self, *, lists: bool = True) -> Json:
        """Return what is known, as a document to be stored; without the lists where these are stored one by one."""
        listed = {"lists": [one.document() for one in self._lists]} if lists else {}
        return listed | {
            "left": [one.document() for one in self._left.values()],
            "signed": [[number, turn, text] for (number, turn), text in self._signed.items()],
        }

    @property
    def community(self) -> str:
        """The id of the community."""
        return self.current.community

    @property
    def current(self) -> MemberList:
        """The newest list."""
        return self._lists[-1]

    @property
    def digest(self) -> str:
        """The digest of the newest list, computed once."""
        return self._digest

    @property
    def lists(self) -> tuple[MemberList, ...]:
        """The lists that are remembered, oldest first: what somebody who is behind needs."""
        return tuple(self._lists)

    @property
    def leaves(self) -> tuple[Leave, ...]:
        """Who left since and is still on the list."""
        return tuple(self._left.values())

    def has_ended(self, now: int) -> bool:
        """Say whether its end date has come."""
        return bool(self.current.ends) and self.current.ends <= now

    def members(self, now: int) -> dict[str, Member]:
        """Return who is a member at `now` (milliseconds) by id: nobody once the community has ended."""
        if self.has_ended(now):
            return {}
        return {who: one for who, one in self._listed.items() if who not in self._left}

    def is_member(self, institution: str, now: int) -> bool:
        """Say whether an institution is a member at `now` (milliseconds): as `members` of it alone."""
        return self.is_listed(institution) and not self.has_ended(now)

    def is_listed(self, institution: str) -> bool:
        """Say whether an institution is on the newest list and has not left."""
        return institution in self._listed and institution not in self._left

    def offer(self, found: MemberList) -> bool:
        """Take a list that somebody sent; say whether it is new.

        Raises Conflict when lists between ours and it are missing (offer those first), Forked when both it and ours are
        true (ours stays), and what `check_next` raises. One that is older than all that is remembered changes nothing.
        """
        if found is self.current:
            return False
        if found.community != self.community:
            raise Misdirected(f"the list is of {found.community}, not of {self.community}")
        if found.number > self.current.number + 1:
            raise Conflict(
                f"list {found.number} of {self.community} came before list {self.current.number + 1}",
                details={"from": self.current.number + 1, "until": found.number},
            )
        place = found.number - self._lists[0].number
        if place < 0 or (place < len(self._lists) and self._lists[place].digest() == found.digest()):
            return False
        if place < len(self._lists):
            self._tell_fork(self._lists[place], found, self._lists[place - 1] if place else None)
        check_next(self.current, found)
        self._set_lists([*self._lists, found])
        self._left = {who: one for who, one in self._left.items() if self._is_still_listed(one)}
        return True

    def adopt(self, lists: Iterable[MemberList]) -> None:
        """Go over to the other branch of a fork, which a person decided: `lists` follow on one that both share.

        Raises what `check_next` raises, and Malformed when they do not reach beyond the fork; then nothing changed.
        """
        branch = list(lists)
        place = branch[0].number - self._lists[0].number if branch else 0
        if not 0 < place <= len(self._lists):
            raise Malformed("the other branch does not begin after a list that is held here")
        kept = self._lists[:place]
        for found in branch:
            check_next(kept[-1], found)
            kept.append(found)
        self._set_lists(kept)
        self._left = {who: one for who, one in self._left.items() if self._is_still_listed(one)}

    def offer_leave(self, found: Leave) -> bool:
        """Take a member's word that it leaves; say whether it is new. One who came back later has not left."""
        if found.community != self.community:
            raise Misdirected(f"{found.institution} leaves {found.community}, not {self.community}")
        if not self._is_still_listed(found) or found.institution in self._left:
            return False
        self._left[found.institution] = found
        return True

    @property
    def signed(self) -> Mapping[tuple[int, int], str]:
        """The digest of what was signed here, by the number and the round of the list."""
        return self._signed

    def signed_next(self) -> dict[int, str]:
        """Return the digests of lists signed here that would follow on the newest one, by round."""
        coming = self.current.number + 1
        return {turn: text for (number, turn), text in self._signed.items() if number == coming}

    def may_sign(self, draft: MemberList, drafts: Collection[MemberList] = ()) -> None:
        """Note that we sign `draft`: store the state before the signature is given away.

        `drafts`: what waits of that number, with signatures that were checked. Raises Conflict when another list of its
        number was signed here that may still come into force: who signs two makes a fork. See `rounds`.
        """
        if draft.previous != self.current.digest() or draft.number != self.current.number + 1:
            raise Conflict(f"list {draft.number} of {self.community} does not follow on the newest list here")
        check_round(self.current, draft, drafts, self.signed_next())
        self._signed[draft.number, draft.round] = draft.digest()

    def _set_lists(self, lists: list[MemberList]) -> None:
        self._lists = lists[-REMEMBERED:]
        self._digest = self.current.digest()
        self._listed = self.current.by_institution()

    def _is_still_listed(self, found: Leave) -> bool:
        member = self._listed.get(found.institution)
        return member is not None and member.joined <= found.issued

    def _tell_fork(self, ours: MemberList, theirs: MemberList, before: MemberList | None) -> None:
        if before is None:
            raise UnknownSigner(
                f"list {theirs.number} of {self.community} is another than the one we began with"
            )
        check_next(before, theirs)
        both = {one.root for one in ours.signatures} & {one.root for one in theirs.signatures}
        names = ", ".join(sorted(institution_of(root) for root in both)) or "nobody"
        raise Forked(
            f"there are two true lists {ours.number} of {self.community}; both were signed by: {names}",
            remedy="Ask these members which one is meant, then go over to it or stay.",
            details={"number": ours.number, "ours": ours.digest(), "theirs": theirs.digest(), "both": names},
        )


def signers(memberships: Iterable[Membership], keys: Mapping[str, KeyList], now: int) -> Signers:
    """Return whose messages are accepted: members of any community of ours; told apart from them, those put out.

    `keys`: the newest key list of each institution; one whose root key is not that of the member does not count.
    """
    members: dict[str, KeyList] = {}
    former: dict[str, str] = {}
    for membership in memberships:
        name = membership.current.name
        for who in membership.members(now):
            if who in keys and keys[who].institution == who:
                members[who] = keys[who]
        for one in membership.current.revoked:
            former[one.institution] = f"revoked from {name}: {one.why}"
        for gone in membership.leaves:
            former[gone.institution] = f"it left {name}"
    return Signers(members, {who: why for who, why in former.items() if who not in members})


def signer(memberships: Iterable[Membership], keys: KeyList | None, who: str, now: int) -> Signers:
    """Return what `signers` says of `who` alone, without a look at the other members; `keys`: its newest key list."""
    former: dict[str, str] = {}
    for membership in memberships:
        name = membership.current.name
        if membership.is_member(who, now) and keys is not None and keys.institution == who:
            return Signers({who: keys})
        for one in membership.current.revoked:
            if one.institution == who:
                former[who] = f"revoked from {name}: {one.why}"
        if any(gone.institution == who for gone in membership.leaves):
            former[who] = f"it left {name}"
    return Signers({}, former)


def communities_of(memberships: Iterable[Membership], institution: str, now: int) -> frozenset[str]:
    """Return the communities of ours that an institution is a member of now: what it may be told, and lent."""
    return frozenset(one.community for one in memberships if institution in one.members(now))


def forget_ended(memberships: Iterable[Membership], now: int) -> list[Membership]:
    """Return the communities that go on: of one that ended, nothing is kept."""
    return [one for one in memberships if not one.has_ended(now)]
