"""The verbs for the grid of institutions, for plain programs: those of `grid.Grid`, which return when they are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from anyio.from_thread import BlockingPortal

from gridcloud.client.grid import Grid
from gridcloud.grid.model import Community, Proposal, Standing, Status
from gridcloud.grid.reports import Record, Report
from gridcloud.identity import Secret
from gridcloud.service.grid_documents import InvitationGiven, Lease, Leases

__all__ = ["BlockingGrid"]


class BlockingGrid:
    """One institution's part in the grid. Every method raises GridcloudError, as the service does; see `grid.Grid`."""

    def __init__(self, grid: Grid, portal: BlockingPortal) -> None:
        self._grid = grid
        self._portal = portal

    def status(self) -> Status:
        """Return all of it at this moment."""
        return self._portal.call(self._grid.status)

    def init(self, name: str) -> Standing:
        """Make our keys and begin to take part; the same name may be given again."""
        return self._portal.call(lambda: self._grid.init(name))

    def communities(self) -> list[Community]:
        """Return our communities with their members."""
        return self._portal.call(self._grid.communities)

    def community(self, name: str) -> Community:
        """Return one. Raises NotFound."""
        return self._portal.call(lambda: self._grid.community(name))

    def found(self, name: str, *, ends: datetime | None = None, root: Secret | None = None) -> Community:
        """Begin a community with ourselves as the only member."""
        return self._portal.call(lambda: self._grid.found(name, ends=ends, root=root))

    def invite(self, community: str, guest: str, *, time: int = 7 * 86400) -> InvitationGiven:
        """Invite the institution whose fingerprint was heard, for ``time`` seconds."""
        return self._portal.call(lambda: self._grid.invite(community, guest, time=time))

    def withdraw(self, invitation: str) -> None:
        """Make an invitation worthless. Raises NotFound."""
        self._portal.call(lambda: self._grid.withdraw(invitation))

    def join(self, invitation: Mapping[str, Any], inviter: str) -> Community:
        """Answer an invitation of the institution whose fingerprint was heard; may be done again."""
        return self._portal.call(lambda: self._grid.join(invitation, inviter))

    def sign(self, community: str, *, digest: str = "", root: Secret | None = None) -> Proposal | None:
        """Sign what waits, if its digest is this one; None once it is in force. Raises NotFound, Conflict."""
        return self._portal.call(lambda: self._grid.sign(community, digest=digest, root=root))

    def change(
        self,
        community: str,
        *,
        threshold: int | None = None,
        ends: datetime | None = None,
        root: Secret | None = None,
    ) -> Proposal | None:
        """Change how many sign, or when it ends; None once it is in force."""
        return self._portal.call(
            lambda: self._grid.change(community, threshold=threshold, ends=ends, root=root)
        )

    def revoke(
        self, community: str, institution: str, why: str, *, root: Secret | None = None
    ) -> Proposal | None:
        """Put a member out, for good; None once it is in force."""
        return self._portal.call(lambda: self._grid.revoke(community, institution, why, root=root))

    def branch(self, community: str) -> list[dict[str, Any]]:
        """Return the lists of members that we remember, for a member of the other branch of a fork."""
        return self._portal.call(self._grid.branch, community)

    def adopt(self, community: str, lists: Sequence[Mapping[str, Any]]) -> Community:
        """End a fork: go over to the lists of a member of the other branch or, by our own, stay."""
        return self._portal.call(lambda: self._grid.adopt(community, lists))

    def leave(self, community: str, *, root: Secret | None = None) -> bool:
        """Leave a community and forget it; False while no other member heard of it."""
        return self._portal.call(lambda: self._grid.leave(community, root=root))

    def forget(self, community: str) -> None:
        """Forget a community at once, whoever heard of it."""
        self._portal.call(lambda: self._grid.forget(community))

    def rotate(self, *, root: Secret | None = None) -> Standing:
        """Make a new service key; the one before stays good for two days."""
        return self._portal.call(lambda: self._grid.rotate(root=root))

    def revoke_key(self, key: str, *, root: Secret | None = None) -> Standing:
        """Have a service key of ours believed no longer."""
        return self._portal.call(lambda: self._grid.revoke_key(key, root=root))

    def take_root_out(self) -> Secret:
        """Return the root key in PEM; the service keeps it until `drop_root`. Raises Conflict when it has none."""
        return self._portal.call(self._grid.take_root_out)

    def drop_root(self, root: Secret) -> Standing:
        """Have the service keep the root key no more, once it is kept elsewhere; it is given to show that."""
        return self._portal.call(lambda: self._grid.drop_root(root))

    def leases(self, *, all: bool = False) -> Leases:
        """Return what is lent and borrowed, the oldest first; with ``all`` what ended and is still remembered."""
        return self._portal.call(lambda: self._grid.leases(all=all))

    def reclaim(self, institution: str, lease: str, why: str = "", *, time: int | None = None) -> Lease:
        """Ask for a lent machine back, in ``time`` seconds or the usual. Raises NotFound."""
        return self._portal.call(lambda: self._grid.reclaim(institution, lease, why, time=time))

    def drain(self, why: str = "", *, time: int | None = None) -> Leases:
        """Lend nothing new, and ask for all that is lent back; return what is lent."""
        return self._portal.call(lambda: self._grid.drain(why, time=time))

    def resume(self) -> None:
        """Lend again."""
        self._portal.call(self._grid.resume)

    def ledger(self, *, since: str = "", until: str = "", partner: str = "") -> list[Record]:
        """Return entries of the ledger of some months (``2026-03``), or with one partner; the oldest first."""
        return self._portal.call(lambda: self._grid.ledger(since=since, until=until, partner=partner))

    def report(self, *, since: str = "", until: str = "") -> Report:
        """Return what was given and taken in some months, by month and partner."""
        return self._portal.call(lambda: self._grid.report(since=since, until=until))
