"""The verbs for the grid of institutions, for administrators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from gridcloud.client.wire import Wire
from gridcloud.errors import InvalidRequest
from gridcloud.grid.model import Community, Proposal, Standing, Status
from gridcloud.grid.reports import Record, Report
from gridcloud.identity import Secret
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
    Lease,
    Leases,
    LeaveOutcome,
    Outcome,
    ReclaimOrder,
    Records,
    RevocationOrder,
    RootKey,
    RootOrder,
    SignOrder,
)

__all__ = ["Grid"]

Order = TypeVar("Order", bound=BaseModel)


class Grid:
    """One institution's part in the grid. Every method raises GridcloudError, as the service does.

    ``root`` is the root key in PEM, where it is kept elsewhere. Communities go by id or name, institutions by id, name
    or the digits of their fingerprint.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def status(self) -> Status:
        """Return all of it at this moment."""
        return await self._wire.ask("GET", "/grid", Status)

    async def init(self, name: str) -> Standing:
        """Make our keys and begin to take part; the same name may be given again."""
        return await self._wire.ask("POST", "/grid/init", Standing, _valid(InitOrder, name=name))

    async def communities(self) -> list[Community]:
        """Return our communities with their members."""
        return (await self._wire.ask("GET", "/grid/communities", Communities)).communities

    async def community(self, name: str) -> Community:
        """Return one. Raises NotFound."""
        return await self._wire.ask("GET", _path(name), Community)

    async def found(
        self, name: str, *, ends: datetime | None = None, root: Secret | None = None
    ) -> Community:
        """Begin a community with ourselves as the only member."""
        wish = _valid(CommunityWish, name=name, ends=ends, root=_reveal(root))
        return await self._wire.ask("POST", "/grid/communities", Community, wish)

    async def invite(self, community: str, guest: str, *, time: int = 7 * 86400) -> InvitationGiven:
        """Invite the institution whose fingerprint was heard, for ``time`` seconds."""
        wish = _valid(Guest, guest=guest, time=time)
        return await self._wire.ask("POST", _path(community, "invitations"), InvitationGiven, wish)

    async def withdraw(self, invitation: str) -> None:
        """Make an invitation worthless. Raises NotFound."""
        await self._wire.tell("DELETE", f"/grid/invitations/{quote(invitation, safe='')}")

    async def join(self, invitation: Mapping[str, Any], inviter: str) -> Community:
        """Answer an invitation of the institution whose fingerprint was heard; may be done again."""
        order = _valid(JoinOrder, invitation=dict(invitation), inviter=inviter)
        return await self._wire.ask("POST", "/grid/join", Community, order)

    async def sign(self, community: str, *, digest: str = "", root: Secret | None = None) -> Proposal | None:
        """Sign what waits, if its digest is this one; None once it is in force. Raises NotFound, Conflict."""
        order = _valid(SignOrder, digest=digest, root=_reveal(root))
        return (await self._wire.ask("POST", _path(community, "sign"), Outcome, order)).proposal

    async def change(
        self,
        community: str,
        *,
        threshold: int | None = None,
        ends: datetime | None = None,
        root: Secret | None = None,
    ) -> Proposal | None:
        """Change how many sign, or when it ends; None once it is in force."""
        order = _valid(ChangeOrder, threshold=threshold, ends=ends, root=_reveal(root))
        return (await self._wire.ask("POST", _path(community, "changes"), Outcome, order)).proposal

    async def revoke(
        self, community: str, institution: str, why: str, *, root: Secret | None = None
    ) -> Proposal | None:
        """Put a member out, for good; None once it is in force."""
        order = _valid(RevocationOrder, institution=institution, why=why, root=_reveal(root))
        return (await self._wire.ask("POST", _path(community, "revocations"), Outcome, order)).proposal

    async def branch(self, community: str) -> list[dict[str, Any]]:
        """Return the lists of members that we remember, for a member of the other branch of a fork."""
        return (await self._wire.ask("GET", _path(community, "branch"), Branch)).lists

    async def adopt(self, community: str, lists: Sequence[Mapping[str, Any]]) -> Community:
        """End a fork: go over to the lists of a member of the other branch or, by our own, stay."""
        order = _valid(Branch, lists=[dict(one) for one in lists])
        return await self._wire.ask("POST", _path(community, "adopt"), Community, order)

    async def leave(self, community: str, *, root: Secret | None = None) -> bool:
        """Leave a community and forget it; False while no other member heard of it."""
        order = _valid(RootOrder, root=_reveal(root))
        return (await self._wire.ask("POST", _path(community, "leave"), LeaveOutcome, order)).heard

    async def forget(self, community: str) -> None:
        """Forget a community at once, whoever heard of it."""
        await self._wire.tell("POST", _path(community, "forget"))

    async def rotate(self, *, root: Secret | None = None) -> Standing:
        """Make a new service key; the one before stays good for two days."""
        order = _valid(RootOrder, root=_reveal(root))
        return await self._wire.ask("POST", "/grid/keys/rotate", Standing, order)

    async def revoke_key(self, key: str, *, root: Secret | None = None) -> Standing:
        """Have a service key of ours believed no longer."""
        order = _valid(KeyOrder, key=key, root=_reveal(root))
        return await self._wire.ask("POST", "/grid/keys/revoke", Standing, order)

    async def take_root_out(self) -> Secret:
        """Return the root key in PEM; the service keeps it until `drop_root`. Raises Conflict when it has none."""
        return Secret((await self._wire.ask("POST", "/grid/keys/root", RootKey)).root)

    async def drop_root(self, root: Secret) -> Standing:
        """Have the service keep the root key no more, once it is kept elsewhere; it is given to show that."""
        return await self._wire.ask("DELETE", "/grid/keys/root", Standing, RootKey(root=root.reveal()))

    async def leases(self, *, all: bool = False) -> Leases:
        """Return what is lent and borrowed, the oldest first; with ``all`` what ended and is still remembered."""
        return await self._wire.ask("GET", "/grid/leases", Leases, all=all)

    async def reclaim(self, institution: str, lease: str, why: str = "", *, time: int | None = None) -> Lease:
        """Ask for a lent machine back, in ``time`` seconds or the usual. Raises NotFound."""
        path = f"/grid/leases/{quote(institution, safe='')}/{quote(lease, safe='')}/reclaim"
        return await self._wire.ask("POST", path, Lease, _valid(ReclaimOrder, why=why, time=time))

    async def drain(self, why: str = "", *, time: int | None = None) -> Leases:
        """Lend nothing new, and ask for all that is lent back; return what is lent."""
        return await self._wire.ask("POST", "/grid/drain", Leases, _valid(ReclaimOrder, why=why, time=time))

    async def resume(self) -> None:
        """Lend again."""
        await self._wire.tell("POST", "/grid/resume")

    async def ledger(self, *, since: str = "", until: str = "", partner: str = "") -> list[Record]:
        """Return entries of the ledger of some months (``2026-03``), or with one partner; the oldest first."""
        found = await self._wire.ask(
            "GET", "/grid/ledger", Records, since=since, until=until, partner=partner
        )
        return found.records

    async def report(self, *, since: str = "", until: str = "") -> Report:
        """Return what was given and taken in some months, by month and partner."""
        return await self._wire.ask("GET", "/grid/report", Report, since=since, until=until)


def _valid(kind: type[Order], **fields: Any) -> Order:
    try:
        return kind(**fields)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}." for one in error.errors()]
        raise InvalidRequest(" ".join(told)) from None


def _reveal(root: Secret | None) -> str:
    return root.reveal() if root is not None else ""


def _path(*parts: str) -> str:
    return "/grid/communities/" + "/".join(quote(part, safe="") for part in parts)
