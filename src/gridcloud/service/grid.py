"""The grid of institutions over HTTP, for administrators: who we are, whom we trust, what was given and taken."""

from __future__ import annotations

import re
from datetime import timedelta

from fastapi import APIRouter, Response

from gridcloud.errors import InvalidRequest
from gridcloud.grid.model import Community, Standing, Status
from gridcloud.grid.reports import Report, find_records, make_report
from gridcloud.grid.terms import read_weights
from gridcloud.identity import Secret
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.grid_documents import (
    Branch,
    ChangeOrder,
    Communities,
    CommunityWish,
    Guest,
    InitOrder,
    InvitationGiven,
    JoinOrder,
    KeyOrder,
    LeaveOutcome,
    Outcome,
    Records,
    RevocationOrder,
    RootKey,
    RootOrder,
    SignOrder,
)
from gridcloud.service.house import House

__all__ = ["router"]

router = APIRouter(prefix="/grid", tags=["grid"])


@router.get("")
async def status(caller: Admin, house: TheHouse) -> Status:
    """Return all of the grid at this moment."""
    return house.office.status()


@router.post("/init")
async def init(order: InitOrder, caller: Admin, house: TheHouse) -> Standing:
    """Make our keys and begin to take part; the same name may be given again."""
    return await house.office.init(order.name)


# Communities ----------------------------------------------------------------------------------------------------


@router.get("/communities")
async def communities(caller: Admin, house: TheHouse) -> Communities:
    """List our communities with their members."""
    return Communities(communities=list(house.office.communities()))


@router.post("/communities", status_code=201)
async def found(wish: CommunityWish, caller: Admin, house: TheHouse) -> Community:
    """Begin a community with ourselves as the only member."""
    return await house.office.found(wish.name, ends=wish.ends, root=_root(wish))


@router.get("/communities/{name}")
async def community(name: str, caller: Admin, house: TheHouse) -> Community:
    """Return one, by its id or name."""
    return house.office.community(name)


@router.post("/communities/{name}/invitations", status_code=201)
async def invite(name: str, guest: Guest, caller: Admin, house: TheHouse) -> InvitationGiven:
    """Invite an institution whose fingerprint was heard."""
    given, document = await house.office.invite(name, guest.guest, lifetime=timedelta(seconds=guest.time))
    return InvitationGiven(invitation=given, document=document)


@router.delete("/invitations/{invitation}", status_code=204)
async def withdraw(invitation: str, caller: Admin, house: TheHouse) -> None:
    """Make an invitation worthless."""
    await house.office.withdraw(invitation)


@router.post("/join")
async def join(order: JoinOrder, caller: Admin, house: TheHouse) -> Community:
    """Answer an invitation; may be done again."""
    return await house.office.join(order.invitation, order.inviter)


@router.post("/communities/{name}/sign")
async def sign(name: str, order: SignOrder, caller: Admin, house: TheHouse) -> Outcome:
    """Sign the list of members that waits, if it is the one that was looked at."""
    return Outcome(proposal=await house.office.sign(name, digest=order.digest, root=_root(order)))


@router.post("/communities/{name}/changes")
async def change(name: str, order: ChangeOrder, caller: Admin, house: TheHouse) -> Outcome:
    """Change how many sign, or when the community ends."""
    if order.threshold is None and order.ends is None:
        raise InvalidRequest("Nothing is to be changed.", remedy="Say threshold or ends.")
    made = await house.office.change(name, threshold=order.threshold, ends=order.ends, root=_root(order))
    return Outcome(proposal=made)


@router.post("/communities/{name}/revocations")
async def revoke(name: str, order: RevocationOrder, caller: Admin, house: TheHouse) -> Outcome:
    """Put a member out, for good."""
    made = await house.office.revoke(name, order.institution, order.why, root=_root(order))
    return Outcome(proposal=made)


@router.get("/communities/{name}/branch")
async def branch(name: str, caller: Admin, house: TheHouse) -> Branch:
    """Return the lists of members that we remember, for a member of the other branch of a fork."""
    return Branch(lists=house.office.branch(name))


@router.post("/communities/{name}/adopt")
async def adopt(name: str, order: Branch, caller: Admin, house: TheHouse) -> Community:
    """End a fork: go over to the lists of a member of the other branch or, by our own, stay."""
    return await house.office.adopt(name, order.lists)


@router.post("/communities/{name}/leave")
async def leave(name: str, order: RootOrder, caller: Admin, house: TheHouse) -> LeaveOutcome:
    """Leave a community and forget it."""
    return LeaveOutcome(heard=await house.office.leave(name, root=_root(order)))


@router.post("/communities/{name}/forget", status_code=204)
async def forget(name: str, caller: Admin, house: TheHouse) -> None:
    """Forget a community at once, whoever heard of it."""
    await house.office.forget(name)


# Keys -----------------------------------------------------------------------------------------------------------


@router.post("/keys/rotate")
async def rotate(order: RootOrder, caller: Admin, house: TheHouse) -> Standing:
    """Make a new service key, in use after five days; those before stay good until they end."""
    return await house.office.rotate(root=_root(order))


@router.post("/keys/revoke")
async def revoke_key(order: KeyOrder, caller: Admin, house: TheHouse) -> Standing:
    """Have a service key of ours believed no longer."""
    return await house.office.revoke_key(order.key, root=_root(order))


@router.post("/keys/root")
async def take_root_out(caller: Admin, house: TheHouse, response: Response) -> RootKey:
    """Return the root key; it stays here until it is shown, by deleting it, that it is kept elsewhere."""
    response.headers["Cache-Control"] = "no-store"
    return RootKey(root=(await house.office.take_root_out()).reveal())


@router.delete("/keys/root")
async def drop_root(key: RootKey, caller: Admin, house: TheHouse) -> Standing:
    """Keep the root key no more; it is given, which shows that it is kept elsewhere."""
    return await house.office.drop_root(Secret(key.root))


# The ledger -----------------------------------------------------------------------------------------------------


@router.get("/ledger")
async def ledger(
    caller: Admin, house: TheHouse, since: str = "", until: str = "", partner: str = ""
) -> Records:
    """List entries of the ledger of some months (``2026-03``), or with one partner."""
    peer = _partner(house, partner) if partner else ""
    return Records(
        records=find_records(
            house.leasing.accounts.entries(),
            house.office.me,
            _names(house),
            since=since,
            until=until,
            partner=peer,
        )
    )


@router.get("/report")
async def report(caller: Admin, house: TheHouse, since: str = "", until: str = "") -> Report:
    """Sum up what was given and taken, by month and partner."""
    return make_report(
        house.leasing.accounts.entries(),
        house.office.me,
        _names(house),
        house.clock.now(),
        since=since,
        until=until,
        weights=read_weights(house.settings().lending),
    )


def _root(order: RootOrder) -> Secret | None:
    return Secret(order.root) if order.root else None


def _partner(house: House, text: str) -> str:
    """Return the id of a partner, who may be no member any more. Raises NotFound, InvalidRequest."""
    return text if re.fullmatch("[0-9a-hjkmnp-tv-z]{32}", text) else house.office.find(text)


def _names(house: House) -> dict[str, str]:
    """Return what institutions call themselves, by id."""
    return {who: one.name for who, one in house.office.members().items()} | {
        house.office.me: house.office.name
    }
