"""What is lent and borrowed over HTTP, for administrators: see it, ask for it back, lend no more for a while."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from gridcloud.federation.borrowing import BorrowedState
from gridcloud.federation.encoding import moment
from gridcloud.federation.leases import LentState
from gridcloud.grid.borrowed import Borrowing
from gridcloud.grid.loans import Loan
from gridcloud.grid.wishes import MEBIBYTE
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.grid_documents import Lease, Leases, ReclaimOrder
from gridcloud.service.house import House

__all__ = ["router"]

_NEVER = datetime.max.replace(tzinfo=UTC)

router = APIRouter(prefix="/grid", tags=["grid"])


@router.get("/leases")
async def leases(caller: Admin, house: TheHouse, all: bool = False) -> Leases:
    """List what is lent and borrowed; with ``all`` what ended and is still remembered."""
    return _leases(house, all=all)


@router.post("/leases/{institution}/{lease}/reclaim")
async def reclaim(institution: str, lease: str, order: ReclaimOrder, caller: Admin, house: TheHouse) -> Lease:
    """Warn a borrower that its machine is wanted back."""
    return _lent(house, await house.leasing.lending.reclaim(institution, lease, order.why, order.time))


@router.post("/drain")
async def drain(order: ReclaimOrder, caller: Admin, house: TheHouse) -> Leases:
    """Lend nothing new, and ask for all that is lent back."""
    await house.leasing.lending.drain(order.why, order.time)
    return _leases(house, all=False)


@router.post("/resume", status_code=204)
async def resume(caller: Admin, house: TheHouse) -> None:
    """Lend again."""
    await house.leasing.lending.resume()


def _leases(house: House, *, all: bool) -> Leases:
    lent = [
        _lent(house, one)
        for one in house.leasing.lending.loans()
        if all or one.lent.state is not LentState.ENDED
    ]
    borrowed = [
        _borrowed(house, one)
        for one in house.leasing.borrowing.leases()
        if all or one.lease.state is not BorrowedState.OVER
    ]
    found = sorted([*lent, *borrowed], key=lambda one: (one.began or _NEVER, one.lease))
    return Leases(leases=found, drained=house.leasing.lending.drained)


def _lent(house: House, loan: Loan) -> Lease:
    lent = loan.lent
    wish = lent.wish
    return Lease(
        lease=lent.id,
        way="lent",
        institution=lent.borrower,
        name=house.leasing.name_of(lent.borrower),
        user=wish.user if wish else "",
        purpose=wish.purpose if wish else "",
        state=lent.state,
        reason=lent.reason,
        why=lent.why,
        cpus=lent.capacity.millicores / 1000,
        memory=lent.capacity.memory * MEBIBYTE,
        gpus=lent.capacity.gpus,
        began=_moment(lent.began),
        until=_moment(lent.expires),
        deadline=_moment(lent.deadline),
        instance=loan.instance_id,
    )


def _borrowed(house: House, borrowing: Borrowing) -> Lease:
    lease = borrowing.lease
    wish, capacity = lease.accept.wish, lease.accept.offer.capacity
    return Lease(
        lease=lease.id,
        way="borrowed",
        institution=lease.lender,
        name=house.leasing.name_of(lease.lender),
        user=wish.user,
        purpose=wish.purpose,
        state=lease.state,
        reason=lease.reason,
        why=lease.why,
        cpus=capacity.millicores / 1000,
        memory=capacity.memory * MEBIBYTE,
        gpus=capacity.gpus,
        began=_moment(lease.began),
        until=_moment(lease.until),
        deadline=_moment(lease.deadline),
        instance=borrowing.need,
    )


def _moment(count: int) -> datetime | None:
    return moment(count) if count else None
