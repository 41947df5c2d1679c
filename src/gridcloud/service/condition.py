"""Whether the service is alive and ready: the store, and what each provider said when it was last asked."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response

import gridcloud
from gridcloud.errors import GridcloudError
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.house import House
from gridcloud.service.metrics import CONTENT_TYPE
from gridcloud.service.operation_documents import Alive, Condition, ProviderCondition, Ready

__all__ = ["router"]

router = APIRouter(tags=["service"])

PATIENCE = 5.0
"""Seconds that the store may take to answer."""

FRESH = 2.0
"""Seconds for which an answer of the store holds: anybody may ask, and as often as they like."""


@router.get("/health/live")
async def live() -> Alive:
    """Answer: for whoever starts the service again when it does not. Anybody may ask."""
    return Alive()


@router.get("/health/ready")
async def ready(request: Request, response: Response) -> Ready:
    """Tell whether the service can do its work, with status 503 where not. Anybody may ask."""
    # The house of the app, not of a caller: nobody is asked who they are here.
    problem, _ = await _ask_store(request.app.state.house)
    response.status_code = 503 if problem else 200
    response.headers["Cache-Control"] = "no-store"
    return Ready(ready=not problem, store=not problem)


@router.get("/condition")
async def condition(caller: Admin, house: TheHouse) -> Condition:
    """Tell how the service does, with what providers said last; for administrators."""
    problem, seconds = await _ask_store(house)
    providers = []
    for name in house.providers.names():
        last = house.providers.answered.get(name)
        said = str(last.error) if last is not None and last.error is not None else ""
        providers.append(ProviderCondition(name=name, asked=last.when if last else None, problem=said))
    return Condition(
        ready=not problem,
        store=not problem,
        version=gridcloud.__version__,
        service=house.store.keeper,
        since=house.metrics.since,
        problem=problem,
        seconds=seconds,
        providers=providers,
        tunnels=house.links.count(),
    )


@router.get("/metrics", response_class=Response)
async def metrics(caller: Admin, house: TheHouse) -> Response:
    """Return all figures in Prometheus's text format; for administrators."""
    return Response(await house.metrics.text(), media_type=CONTENT_TYPE)


async def _ask_store(house: House) -> tuple[str, float]:
    """Return what is wrong with the store, in words, or nothing, and how many seconds it took to answer."""
    when, problem, seconds = house.asked_store
    if time.monotonic() - when < FRESH:
        return problem, seconds
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            await house.store.last_seq()
        problem = ""
    except TimeoutError:
        problem = f"It did not answer within {PATIENCE:g} s."
    except GridcloudError as error:
        problem = str(error)
    seconds = time.monotonic() - began
    house.asked_store = time.monotonic(), problem, seconds
    return problem, seconds
