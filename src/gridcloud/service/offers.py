"""What could be had."""

from __future__ import annotations

from fastapi import APIRouter

import gridcloud
from gridcloud.instances.matching import explain
from gridcloud.instances.model import Request
from gridcloud.service.access import Asking, TheHouse
from gridcloud.service.documents import Offers, Version

__all__ = ["router"]

router = APIRouter(tags=["offers"])


@router.get("/version")
async def version(caller: Asking, house: TheHouse) -> Version:
    """Return the service's version and who it takes the caller for."""
    return Version(
        version=gridcloud.__version__,
        installation=house.store.installation,
        user=caller.user,
        admin=caller.admin,
        currency=house.settings().currency,
    )


@router.post("/offers")
async def offers(request: Request, caller: Asking, house: TheHouse) -> Offers:
    """Ask every provider at once what it can give, and the budgets what they forbid; nothing is started."""
    request = house.complete(request)
    found = await house.treasury.judge_offers(
        caller.user, request, await house.providers.offers(request, caller.user)
    )
    problem = "" if any(offer.available for offer in found) else explain(request, found)
    return Offers(offers=found, problem=problem, currency=house.settings().currency)
