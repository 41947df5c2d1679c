"""What people see of the grid, made from what is held."""

from __future__ import annotations

from datetime import datetime

from gridcloud.federation.communities import MemberList
from gridcloud.federation.encoding import moment
from gridcloud.federation.invitations import InvitationBook
from gridcloud.federation.keys import KeyList, spoken
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.model import (
    Community,
    GivenInvitation,
    Member,
    Proposal,
    ServiceKeyState,
    Standing,
)

__all__ = ["show_community", "show_invitations", "show_member", "show_proposal", "show_standing"]


def show_standing(name: str, keys: KeyList, in_use: str, *, root_here: bool) -> Standing:
    """Return who we are."""
    return Standing(
        institution=keys.institution,
        name=name,
        fingerprint=spoken(keys.institution),
        root_here=root_here,
        keys=tuple(
            ServiceKeyState(
                key=one.key,
                valid_from=moment(one.valid_from),
                valid_until=moment(one.valid_until),
                in_use=one.key == in_use,
            )
            for one in keys.keys
        ),
        revoked=len(keys.revoked),
    )


def show_community(circle: Circle, held: Held, *, joining: bool) -> Community:
    """Return a community with its members and what waits in it."""
    current = held.membership.current
    why = {one.institution: one.why for one in current.revoked}
    return Community(
        community=held.community,
        name=current.name,
        number=current.number,
        threshold=current.threshold,
        ends=_moment(current.ends),
        joining=joining,
        leaving=circle.me in {one.institution for one in held.membership.leaves},
        revoked=why.get(circle.me, ""),
        forked=held.forked,
        members=tuple(show_member(circle, held, who) for who in current.by_institution()),
        proposals=tuple(show_proposal(circle, held, draft) for draft in held.proposals.values()),
    )


def show_member(circle: Circle, held: Held, institution: str) -> Member:
    """Return one member of a community."""
    member = held.membership.current.by_institution()[institution]
    record = held.gossip.records.get(institution)
    return Member(
        institution=institution,
        name=member.name,
        joined=moment(member.joined),
        left=not held.membership.is_listed(institution),
        ourselves=institution == circle.me,
        profile=record.read_profile() if record is not None and record.expires > circle.now() else None,
    )


def show_proposal(circle: Circle, held: Held, draft: MemberList) -> Proposal:
    """Return a list that waits, as what it would change."""
    current = held.membership.current
    before, after = current.by_institution(), draft.by_institution()
    put_out = {one.institution: one.why for one in draft.revoked}
    former = {one.institution for one in current.revoked}
    ids = {one.root: who for who, one in before.items()}
    signed = tuple(ids[one.root] for one in draft.signatures if one.root in ids)
    gone = [who for who in before if who not in after]
    return Proposal(
        community=held.community,
        name=draft.name,
        number=draft.number,
        digest=draft.digest(),
        joining=(
            *(f"{after[who].name} ({who})" for who in after if who not in before),
            # Who takes another's name is to be seen by who signs that.
            *(
                f"{after[who].name} ({who}), called {before[who].name} until now"
                for who in after
                if who in before and after[who].name != before[who].name
            ),
        ),
        leaving=tuple(f"{before[who].name} ({who})" for who in gone if who not in put_out),
        revoking=tuple(
            f"{before[who].name if who in before else 'somebody'} ({who}): {why}"
            for who, why in put_out.items()
            if who not in former
        ),
        threshold=draft.threshold,
        ends=_moment(draft.ends),
        signed=signed,
        needed=current.threshold,
        signed_here=circle.me in signed,
    )


def show_invitations(book: InvitationBook) -> tuple[GivenInvitation, ...]:
    """Return the invitations that we wrote and are not over."""
    state = book.state()
    return tuple(
        GivenInvitation(
            id=one["id"],
            community=one["community"],
            guest=one["guest"],
            expires=moment(one["expires"]),
            spent=state["spent"].get(one["id"], ""),
        )
        for one in state["written"]
    )


def _moment(count: int) -> datetime | None:
    return moment(count) if count else None
